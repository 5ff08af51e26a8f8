"""Training positions as text: one in full, several as a table, and as JSON, CSV and Markdown.

The JSON schema is ``ckptdiff.where/1``, see docs/json.md.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from typing import TextIO

from ckptdiff.position import TrainingPosition
from ckptdiff.render import json
from ckptdiff.render.csv import csv_value
from ckptdiff.render.escape import escape
from ckptdiff.render.layout import Column, Strip, table_lines, widest
from ckptdiff.render.markdown import code
from ckptdiff.render.screen import Screen
from ckptdiff.render.units import human_tokens

__all__ = ["table_of_positions", "write_csv", "write_json", "write_markdown"]

# A field, and what people call it.
_FIELDS = {
    "stage": "stage",
    "phase": "phase",
    "ingredients": "ingredient",
    "index": "checkpoint",
    "step": "step",
    "steps": "average of",
    "tokens": "tokens",
    "stage_tokens": "tokens in stage",
    "learning_rate": "learning rate",
}
# In a table a column is as wide as its head; and where that is too wide, these go in this order.
_HEADS = {"stage_tokens": "in stage"}
_PRIORITIES = {"sources": 4, "phase": 3, "steps": 2, "stage_tokens": 1}
# That nobody knows a field is the first that a narrow table need not say.
_UNKNOWN_PRIORITY = 5
_ALWAYS_SHOWN = ("stage", "step", "tokens", "learning_rate")
_COUNTS = ("tokens", "stage_tokens")
_CSV_FIELDS = (
    "path", "label", "stage", "phase", "ingredient", "step", "tokens", "stage_tokens",
    "learning_rate", "index", "is_soup",
)  # fmt: skip


def write_json(positions: Sequence[TrainingPosition], stream: TextIO) -> None:
    """Write the schema ``ckptdiff.where/1``."""
    members: list[tuple[str, object]] = [
        ("schema", "ckptdiff.where/1"),
        ("checkpoints", (_json_object(position) for position in positions)),
    ]
    json.write_object(members, stream)


def write_csv(positions: Sequence[TrainingPosition], stream: TextIO) -> None:
    """Write a line for each; ``ingredient`` is empty for a soup of several."""
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_CSV_FIELDS)
    text = escape if stream.isatty() else str
    for position in positions:
        values = [getattr(position, name) for name in _CSV_FIELDS]
        writer.writerow(
            [text(value) if isinstance(value, str) else csv_value(value) for value in values]
        )


def write_markdown(positions: Sequence[TrainingPosition], stream: TextIO) -> None:
    """Write a table, and a list of what disagrees."""
    shown = _shown_fields(positions)
    stream.write(f"| checkpoint | {' | '.join(_FIELDS[name] for name in shown)} | read from |\n")
    stream.write(f"|---|{'---:|' * len(shown)}---|\n")
    for position in positions:
        cells = [code(position.path), *(_short(position, name) for name in shown)]
        cells.append(_sources(position))
        stream.write(f"| {' | '.join(cells)} |\n")
    for position in positions:
        for sentence in (*position.conflicts, *position.problems):
            stream.write(f"\n- {code(position.path)}: {code(sentence)}")
    if any(position.conflicts or position.problems for position in positions):
        stream.write("\n")


def table_of_positions(positions: Sequence[TrainingPosition], screen: Screen) -> Iterator[str]:
    """The lines that people read: a field a line for one checkpoint, a line each for several."""
    if len(positions) == 1:
        yield from _in_full(positions[0], screen)
    elif positions:
        yield from _as_rows(positions, screen)
    marked = [position for position in positions if position.conflicts or position.problems]
    if marked:
        yield ""
    for position in marked:
        of_which = f"{escape(position.path)}: " if len(positions) > 1 else ""
        for sentence in (*position.conflicts, *position.problems):
            yield screen.style(screen.text(f"! {of_which}{escape(sentence)}"), "bold red")


def _in_full(position: TrainingPosition, screen: Screen) -> Iterator[str]:
    yield screen.style(screen.text(escape(position.path)), "bold")
    if not position.is_known:
        yield "  neither its name, a trainer's state nor a config tells where training stood"
        return
    known = [name for name in _FIELDS if _is_worth_showing(position, name)]
    names = [_FIELDS[name] for name in known]
    values = [_exact(position, name) for name in known]
    name_width, value_width = widest(names), widest(values)
    for field_name, name, value in zip(known, names, values, strict=True):
        source = escape(position.sources[field_name])
        line = f"  {name:<{name_width}}  {value:<{value_width}}  "
        yield screen.text(line) + screen.style(screen.text(source), "dim")


def _as_rows(positions: Sequence[TrainingPosition], screen: Screen) -> Iterator[str]:
    shown = _shown_fields(positions)
    columns = [Column("checkpoint", flexible=True)]
    known = {name for position in positions for name in position.sources}
    columns += [
        Column(
            _HEADS.get(name, _FIELDS[name]),
            right=True,
            priority=_PRIORITIES.get(name, 0) if name in known else _UNKNOWN_PRIORITY,
        )
        for name in shown
    ]
    columns.append(Column("read from", priority=_PRIORITIES["sources"]))
    folder, paths = _in_folder([position.path for position in positions])
    if folder:
        yield screen.text(f"in {escape(folder)}")
        yield ""
    paths = [escape(path) for path in paths]
    styles = ["bold red" if position.conflicts else "" for position in positions]
    strips = [Strip(paths, styles)]
    strips += [Strip([_short(position, name) for position in positions]) for name in shown]
    strips.append(Strip([escape(_sources(position)) for position in positions], "dim"))
    yield from table_lines(columns, [strips], screen, widest_name=widest(paths))


def _in_folder(paths: Sequence[str]) -> tuple[str, list[str]]:
    """The directory that all are in, and what they are in it: what tells them apart is the end."""
    folders = {os.path.dirname(path.rstrip(os.sep)) for path in paths}
    folder = folders.pop() if len(folders) == 1 else ""
    if not folder:
        return "", list(paths)
    return folder, [os.path.basename(path.rstrip(os.sep)) for path in paths]


def _shown_fields(positions: Sequence[TrainingPosition]) -> list[str]:
    return [
        name
        for name in _FIELDS
        if name in _ALWAYS_SHOWN or any(_is_worth_showing(position, name) for position in positions)
    ]


def _is_worth_showing(position: TrainingPosition, name: str) -> bool:
    # in a first stage both counts are the same
    is_said = name == "stage_tokens" and position.stage_tokens == position.tokens
    return name in position.sources and not is_said


def _short(position: TrainingPosition, name: str) -> str:
    value = getattr(position, name)
    if name in _COUNTS and value is not None:
        return human_tokens(value)
    return _exact(position, name)


def _exact(position: TrainingPosition, name: str) -> str:
    value = getattr(position, name)
    if name in ("ingredients", "steps"):
        return "+".join(map(str, value)) or "-"
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else escape(str(value))


def _sources(position: TrainingPosition) -> str:
    """What the position was read from, and the fields that came from each: a line, not a page."""
    by_source: dict[str, list[str]] = {}
    for name in _FIELDS:
        if name in position.sources:
            source = position.sources[name]
            word = source.partition(" ")[0]
            if word in ("directory", "file"):
                word = "name"
            elif word == "step":
                # that many of the config's batches
                word = source.removeprefix("step x ").partition(" ")[0]
            by_source.setdefault(escape(word), []).append(_FIELDS[name])
    return "; ".join(f"{source}: {', '.join(names)}" for source, names in by_source.items()) or "-"


def _json_object(position: TrainingPosition) -> dict[str, object]:
    return {
        "path": position.path,
        "label": position.label,
        "stage": position.stage,
        "phase": position.phase,
        "ingredient": position.ingredient,
        "ingredients": list(position.ingredients),
        "step": position.step,
        "steps": list(position.steps),
        "tokens": position.tokens,
        "stage_tokens": position.stage_tokens,
        "learning_rate": position.learning_rate,
        "index": position.index,
        "sources": dict(position.sources),
        "conflicts": list(position.conflicts),
        "problems": list(position.problems),
    }
