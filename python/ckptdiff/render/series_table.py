"""The table of a series that people read: a line for each checkpoint, then what is to be said.

Rows are checkpoints in order, quantities those of the whole model. Below are, in short sections and
only where there is something: problems and notes, events, the rows of a finer level, the picked
checkpoints, and correlations with evaluations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from ckptdiff.dynamics.aside import Aside
from ckptdiff.dynamics.data import ROOT, Floats, SeriesCheckpoint
from ckptdiff.dynamics.evals import Correlation
from ckptdiff.dynamics.events import Event
from ckptdiff.dynamics.labels import short_labels
from ckptdiff.dynamics.problems import Problem
from ckptdiff.dynamics.report import Level, SeriesReport
from ckptdiff.dynamics.trajectory import Trajectory
from ckptdiff.naming.revisions import parse_revision
from ckptdiff.render.bars import levels_line
from ckptdiff.render.escape import escape
from ckptdiff.render.layout import Cell, Column, Strip, display_width, dropped, table_lines
from ckptdiff.render.screen import Screen
from ckptdiff.render.units import (
    exponential,
    human_count,
    human_tokens,
    percent,
    plural,
    scientific,
    significant,
)

__all__ = ["lines"]

_EVENTS_AT_MOST = 20
_PROBLEMS_AT_MOST = 10
_CORRELATIONS_AT_MOST = 12
_ROWS_AT_MOST = 40
# Of a checkpoint's events and problems, and where there is not the room.
_MARKS_AT_MOST = (2, 1)
# A longer label may be cut, and does not tell then what it tells.
_LABEL_AT_MOST = 48
_TENSORS_NAMED = 2
_SPARKLINE_WIDTH = 24


# What an event or a problem is called at the end of its checkpoint's line.
_EVENT_MARKS = {
    "stage_boundary": "new stage",
    "first_nonfinite": "first NaN or Inf",
    "update_norm_jump": "update jump",
    "norm_jump": "norm jump",
    "abs_max_jump": "max |w| jump",
    "loss_of_direction": "direction lost",
    "turning_point": "turning point",
}
_PROBLEM_MARKS = {
    "duplicate": "duplicate",
    "label_mismatch": "label",
    "not_common": "tensors missing",
    "tokens_restart": "fewer tokens",
}
_EVENT_STYLES = {"stage_boundary": "cyan", "first_nonfinite": "bold red"}


def lines(
    report: SeriesReport, screen: Screen, *, by: Level = "total", pick: int = 0
) -> Iterator[str]:
    """The lines of a report; ``by`` adds a table of a level's rows, ``pick`` picks checkpoints."""
    yield from _heading(report, screen)
    yield ""
    yield from _checkpoint_table(report, screen)
    if by != "total":
        yield from _level_table(report, by, screen)
    yield from _problem_section("problems", [p for p in report.problems if not p.is_note], screen)
    yield from _problem_section("notes", [p for p in report.problems if p.is_note], screen)
    yield from _event_section(report, screen)
    if pick:
        yield from _picked_section(report, pick, screen)
    yield from _correlation_section(report, screen)


def _heading(report: SeriesReport, screen: Screen) -> Iterator[str]:
    level = report.data.total
    checkpoints = report.checkpoints
    tensors = len(report.data.levels["tensor"].names)
    text = (
        f"{plural(len(checkpoints), 'checkpoint')} of {plural(tensors, 'tensor')}, "
        f"{human_count(int(level.numel[0]))} elements"
    )
    branches = sum(index - 1 != one.parent for index, one in enumerate(checkpoints))
    if branches:
        text += f", in {branches + 1} branches"
    yield screen.style(text, "bold")
    lost = int(level.numel[0] - level.finite[0])
    if lost:
        elements = "1 element is" if lost == 1 else f"{human_count(lost)} elements are"
        text = f"{elements} not finite in every checkpoint; norms and distances are of the others"
        yield screen.style(text, "yellow")


# -- the checkpoints ------------------------------------------------------------------------------


def _checkpoint_table(report: SeriesReport, screen: Screen) -> Iterator[str]:
    """What a line is of always stands there; quantities go from the right where room is short."""
    columns = [*_identity(report), *_quantities(report)]
    for marks_at_most in _MARKS_AT_MOST:
        shown = [*columns, (Column("", priority=4), _marks(report, marks_at_most))]
        shown += _branches(report)
        heads = [column for column, _ in shown]
        strips = [Strip.of(cells) for _, cells in shown]
        hidden = dropped(heads, strips, screen)
        if not hidden:
            break
    yield from table_lines(heads, [strips], screen)
    if names := [screen.text(column.header) for column in hidden if column.header]:
        text = f"not shown in {screen.width} columns: {', '.join(names)}"
        yield from (screen.style(line, "dim") for line in _wrapped(text, 2, screen))


def _identity(report: SeriesReport) -> Iterator[tuple[Column, list[Cell]]]:
    """Label, stage, ingredient, step and tokens; a number that every label has is not repeated."""
    checkpoints = report.checkpoints
    labels = _labels(checkpoints)
    yield Column("checkpoint", flexible=True), [Cell(label) for label in labels]
    told = [parse_revision(checkpoint.label) for checkpoint in checkpoints]
    whole = max(map(display_width, labels)) <= _LABEL_AT_MOST
    for name, header in (("stage", "stage"), ("ingredient", "ingr."), ("step", "step")):
        values = [getattr(one, name) for one in checkpoints]
        if any(value is not None for value in values) and not (
            whole and values == [getattr(revision, name) for revision in told]
        ):
            yield Column(header, right=True), _counts(values)
    tokens = [_tokens(one) for one in checkpoints]
    if any(text != "-" for text in tokens):
        yield Column("tokens", right=True), [Cell(text) for text in tokens]


def _tokens(checkpoint: SeriesCheckpoint) -> str:
    """Tokens since the start of the run; where only those of the stage are known, after a ``+``."""
    if checkpoint.tokens is not None:
        return human_tokens(checkpoint.tokens)
    if checkpoint.stage_tokens is not None:
        return f"+{human_tokens(checkpoint.stage_tokens)}"
    return "-"


def _quantities(report: SeriesReport) -> Iterator[tuple[Column, list[Cell]]]:
    """In the order in which they are told, those that go first last."""
    trajectory = report.trajectory("total")
    yield Column("‖update‖", right=True), _measures(trajectory.update_norm[:, 0])
    of_each = (
        ("relative", _exponents(trajectory.relative_update[:, 0])),
        ("cos", _cosines(trajectory.cosine_of_updates[:, 0])),
        ("from first", _measures(trajectory.distance_from_first[:, 0])),
        ("to last", _measures(trajectory.distance_from_last[:, 0])),
    )
    for priority, (header, cells) in enumerate(of_each, start=5):
        yield Column(header, right=True, priority=priority), cells
    changed = report.data.total.diffs.get("changed_bf16")
    if changed is not None:
        numel = int(report.data.total.numel[0])
        cells = [
            Cell("-" if math.isnan(count) else percent(count, numel))
            for count in changed[:, 0].tolist()
        ]
        yield Column("changed", right=True, priority=9), cells


def _branches(report: SeriesReport) -> list[tuple[Column, list[Cell]]]:
    """Where a branch begins, if that is not the line above."""
    labels = _labels(report.checkpoints)
    begins = [
        "" if one.parent in (index - 1, ROOT) else labels[one.parent]
        for index, one in enumerate(report.checkpoints)
    ]
    if not any(begins):
        return []
    return [(Column("branches from", priority=10), [Cell(text) for text in begins])]


def _labels(checkpoints: Sequence[SeriesCheckpoint]) -> list[str]:
    return [escape(label) for label in short_labels([one.label for one in checkpoints])]


def _counts(values: Sequence[int | None]) -> list[Cell]:
    return [Cell("-" if value is None else f"{value:,}") for value in values]


def _measures(values: Floats) -> list[Cell]:
    return [Cell(_defined(value, significant)) for value in values.tolist()]


def _exponents(values: Floats) -> list[Cell]:
    return [Cell(_defined(value, exponential)) for value in values.tolist()]


def _cosines(values: Floats) -> list[Cell]:
    return [Cell("-" if math.isnan(value) else f"{value:.3f}") for value in values.tolist()]


def _defined(value: float, text: Callable[[float], str]) -> str:
    return "-" if math.isnan(value) else text(value)


def _marks(report: SeriesReport, at_most: int) -> list[Cell]:
    """What is to be said of each checkpoint in a word or two, the gravest first."""
    words: list[list[str]] = [[] for _ in report.checkpoints]
    styles = [""] * len(words)
    indices = {checkpoint.label: index for index, checkpoint in enumerate(report.checkpoints)}
    for event in report.events:
        words[event.checkpoint].append(_EVENT_MARKS.get(event.kind, event.kind.replace("_", " ")))
        styles[event.checkpoint] = _EVENT_STYLES.get(event.kind, "yellow")
    for problem in report.problems:
        mark = _PROBLEM_MARKS.get(problem.kind)
        for label in problem.labels if mark else ():
            if label in indices:
                index = indices[label]
                words[index].insert(0, f"! {mark}")
                styles[index] = "bold red"
    return [
        Cell(_some(of_one, at_most), style) for of_one, style in zip(words, styles, strict=True)
    ]


def _some(words: Sequence[str], at_most: int) -> str:
    """The first words, and how many more there are: the sections below have all."""
    different = list(dict.fromkeys(words))
    rest = len(different) - at_most
    return ", ".join(different[:at_most]) + (f" +{rest}" if rest > 0 else "")


# -- the rows of a level --------------------------------------------------------------------------


def _level_table(report: SeriesReport, by: Level, screen: Screen) -> Iterator[str]:
    """Each layer, module or tensor: how far it went, and how its relative updates went."""
    trajectory = report.trajectory(by)
    rows = len(trajectory.names)
    # of the last checkpoint that has a place among the others
    _, end = Aside.of(report.level(by), report.checkpoints).ends()
    order: Sequence[int] = range(rows)
    if rows > _ROWS_AT_MOST:
        # those that moved farthest for their size, in their natural order
        moved = np.nan_to_num(_relative_path(trajectory, end), nan=-1.0, posinf=math.inf)
        order = sorted(sorted(order, key=lambda row: (-moved[row], row))[:_ROWS_AT_MOST])
    columns = [
        Column(by, flexible=True),
        Column("elements", right=True, priority=4),
        Column("norm", right=True, priority=3),
        Column("path", right=True),
        Column("displaced", right=True),
        Column("diffusion", right=True, priority=2),
        Column("relative update", priority=1),
    ]
    numel = report.level(by).numel
    cells = [
        [
            Cell(escape(trajectory.names[row])),
            Cell(human_count(int(numel[row]))),
            Cell(_defined(float(trajectory.norm[end, row]), significant)),
            Cell(_defined(float(trajectory.path_length[end, row]), significant)),
            Cell(_defined(float(trajectory.displacement[end, row]), significant)),
            Cell(_defined(float(trajectory.diffusion_exponent[row]), significant)),
            Cell(_course(trajectory.relative_update[:, row]), "cyan"),
        ]
        for row in order
    ]
    yield ""
    strips = [Strip.of(column) for column in zip(*cells, strict=True)]
    yield from table_lines(columns, [strips], screen)
    if len(order) < rows:
        text = f"the {len(order)} of {rows:,} that moved farthest; --format json has all"
        yield screen.style(text, "dim")


def _course(values: Floats) -> str:
    return levels_line(values.tolist(), _SPARKLINE_WIDTH)


def _relative_path(trajectory: Trajectory, end: int) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        relative: Floats = trajectory.path_length[end] / trajectory.norm[end]
    return relative


# -- sections -------------------------------------------------------------------------------------


def _problem_section(title: str, problems: Sequence[Problem], screen: Screen) -> Iterator[str]:
    if not problems:
        return
    style = "bold red" if title == "problems" else "bold"
    yield ""
    yield f"{screen.style(title, style)} ({len(problems):,})"
    for problem in problems[:_PROBLEMS_AT_MOST]:
        yield from _wrapped(f"  {escape(problem.text)}", 4, screen)
    yield from _rest(len(problems), _PROBLEMS_AT_MOST, screen)


def _event_section(report: SeriesReport, screen: Screen) -> Iterator[str]:
    events = report.events
    if not events:
        return
    shown = events
    if len(events) > _EVENTS_AT_MOST:
        strongest = sorted(range(len(events)), key=lambda at: (-abs(events[at].score), at))
        shown = tuple(events[at] for at in sorted(strongest[:_EVENTS_AT_MOST]))
    yield ""
    yield f"{screen.style('events', 'bold yellow')} ({len(events):,})"
    labels = _labels(report.checkpoints)
    printed = dict(zip((one.label for one in report.checkpoints), labels, strict=True))
    width = max(display_width(labels[event.checkpoint]) for event in shown)
    for event in shown:
        label = labels[event.checkpoint]
        padding = " " * (width - display_width(label))
        text = _event_text(event, printed)
        yield from _wrapped(f"  {label}{padding}  {text}", width + 6, screen)
    yield from _rest(len(events), _EVENTS_AT_MOST, screen)


def _event_text(event: Event, printed: Mapping[str, str]) -> str:
    """What happened, how unusual it is, and where most: ``update jump ×26 in head (score 32)``.

    ``printed`` is how checkpoints are called in the table.
    """
    evidence = dict(event.evidence)
    text = _EVENT_MARKS.get(event.kind, event.kind.replace("_", " "))
    if event.kind == "stage_boundary":
        text += f" {evidence.pop('stage_before', '?')} → {evidence.pop('stage', '?')}"
        # the label says which
        evidence.pop("ingredient", None)
    if "last_before" in evidence:
        before = str(evidence.pop("last_before"))
        text += f", after {printed.get(before, escape(before))}"
    ratio = evidence.pop("ratio", None)
    if isinstance(ratio, (int, float)):
        text += f" ×{ratio:.3g}"
        evidence.pop("value", None)
        evidence.pop("before", None)
    elif "value" in evidence and "expected" in evidence:
        value, expected = evidence.pop("value"), evidence.pop("expected")
        text += f" {_evidence_text(value)}, expected {_evidence_text(expected)}"
    if "row" in evidence:
        text += f" in {_evidence_text(evidence.pop('row'))}"
    details = [f"score {event.score:.3g}"] if math.isfinite(event.score) else []
    if "modules" in evidence and "of_modules" in evidence:
        details.append(f"{evidence.pop('modules')} of {evidence.pop('of_modules')} modules")
    # what a later kind of event has to say is shown, too, without a sentence of its own
    details += [f"{name.replace('_', ' ')} {_evidence_text(v)}" for name, v in evidence.items()]
    if details:
        text += f" ({', '.join(details)})"
    if event.tensors:
        text += f"; most in {', '.join(map(escape, event.tensors[:_TENSORS_NAMED]))}"
    return text


def _evidence_text(value: float | str | int) -> str:
    return escape(value) if isinstance(value, str) else scientific(value)


def _picked_section(report: SeriesReport, count: int, screen: Screen) -> Iterator[str]:
    picked = report.pick(count)
    yield ""
    yield f"{screen.style('picked', 'bold')} ({len(picked)} of {len(report):,})"
    all_labels = _labels(report.checkpoints)
    labels = [all_labels[one.index] for one in picked]
    width = max(map(display_width, labels), default=0)
    for label, one in zip(labels, picked, strict=True):
        padding = " " * (width - display_width(label))
        yield from _wrapped(f"  {label}{padding}  {escape(one.reason)}", width + 6, screen)


def _correlation_section(report: SeriesReport, screen: Screen) -> Iterator[str]:
    correlations = [one for one in report.correlations if one.level == "total"]
    if not correlations:
        return
    correlations.sort(key=_strength)
    known = [one for one in correlations if not math.isnan(one.spearman)]
    shown = known[:_CORRELATIONS_AT_MOST]
    yield ""
    if not shown:
        most = max(one.n for one in correlations)
        text = f"no correlations: {plural(most, 'checkpoint')} at most with a metric that varies"
        yield from _wrapped(text, 2, screen)
        return
    yield f"{screen.style('correlations', 'bold')} of the whole model, the strongest first"
    columns = [
        Column("quantity", flexible=True),
        Column("metric"),
        Column("n", right=True),
        Column("Spearman", right=True),
        Column("Pearson", right=True),
    ]
    cells = [
        [
            Cell(one.quantity.replace("_", " ")),
            Cell(escape(one.metric)),
            Cell(str(one.n)),
            *_cosines(np.array([one.spearman, one.pearson])),
        ]
        for one in shown
    ]
    strips = [Strip.of(column) for column in zip(*cells, strict=True)]
    yield from table_lines(columns, [strips], screen)
    yield from _rest(len(report.correlations), len(shown), screen)


def _strength(correlation: Correlation) -> float:
    strength = abs(correlation.spearman)
    return 1.0 if math.isnan(strength) else -strength


def _wrapped(text: str, indent: int, screen: Screen) -> Iterator[str]:
    """A long line as several on a terminal, and as it is where it is searched or pasted."""
    text = screen.text(text)
    if screen.width is None or display_width(text) <= screen.width:
        yield text
        return
    import textwrap

    indent = min(indent, screen.width // 2)
    # a path is better cut by the terminal than by a program
    yield from textwrap.wrap(
        text,
        screen.width,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
        replace_whitespace=False,
    )


def _rest(count: int, at_most: int, screen: Screen) -> Iterator[str]:
    if count > at_most:
        text = f"  and {count - at_most:,} more, which --format json lists"
        yield screen.style(text, "dim")
