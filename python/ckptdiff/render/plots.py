"""Plots of a series, as PNG and SVG, with matplotlib where it is installed.

Figures are made without pyplot, so that nothing global is touched and no display is needed, and
with matplotlib's own defaults, whatever the user's settings are. The same series gives the same
bytes from the same version of matplotlib: no date, and identifiers in the SVG from a fixed salt.
Colours are of Okabe and Ito's palette and of cividis, which colour-blind people can tell apart; a
stage or an ingredient also has a marker of its own.

Time runs along the checkpoints' positions (tokens where all are known, else the series' clock) or,
in heatmaps, along the checkpoints themselves. Events stand in a strip of their own above a curve, a
line for each kind, and above a heatmap as marks of what stands below. A soup was not trained, so no
line leads to it; a copy is where its original is, and lines pass it by.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptdiff.dynamics.aside import Aside
from ckptdiff.dynamics.clock import Clock
from ckptdiff.dynamics.data import ROOT, Floats, SeriesCheckpoint, SeriesData
from ckptdiff.dynamics.evals import Evals, join, pearson, spearman
from ckptdiff.dynamics.events import KINDS, Event
from ckptdiff.dynamics.trajectory import QUANTITIES, Trajectory, components_of_distances
from ckptdiff.naming.revisions import parse_revision
from ckptdiff.render.escape import escape
from ckptdiff.render.units import human_tokens

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

__all__ = ["write_plots"]

# Okabe and Ito, "Color Universal Design", without the yellow, which is pale on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
# One more than the colours: 42 groups differ in one or the other.
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_SOUP_COLOUR = "#000000"
_SOUP_MARKER = "*"
_EVENT_COLOUR = "#D55E00"

_SETTINGS = {
    "svg.hashsalt": "ckptdiff",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "legend.fontsize": 8,
    "legend.frameon": False,
}
_DOTS_PER_INCH = 150
# Each with the metadata that would say when and by what version it was written.
_FORMATS = {"png": {"Software": None}, "svg": {"Date": None}}
_TICKS_AT_MOST = 24
_TICKS_ARE = "checkpoint (stage.ingredient:step)"
_NAME_AT_MOST = 40

_RHO = "\N{GREEK SMALL LETTER RHO}"

_NAMES = {
    "norm": "norm ‖w‖",
    "update_norm": "update norm ‖u‖",
    "relative_update": "relative update ‖u‖ / ‖w‖",
    "update_per_token": "update norm ‖u‖ / token",
    "update_per_learning_rate": "update norm ‖u‖ / Σ learning rate",
    "cosine_of_updates": "cosine of successive updates",
    "distance_from_first": "distance from the first",
    "distance_from_last": "distance from the last",
    "cosine_with_last": "cosine with the last",
    "path_length": "path length",
    "displacement": "displacement from the root",
    "changed_share": "share changed in bf16",
    "sign_flips": "sign flips (elements)",
}


def write_plots(
    data: SeriesData, events: Sequence[Event], folder: str, evals: Evals | None = None
) -> list[str]:
    """Write every plot that the series has data for into ``folder``, and return the files' paths.

    ``update_norm``, ``relative_update`` (in total over time, and a heatmap by layer),
    ``cosine_of_updates``, ``distances``, ``trajectory``, and ``metric_NAME`` for each metric of
    ``evals``, each as ``.png`` and ``.svg``. A series of one checkpoint has no plots.

    The folder is made where it is missing. Raises ValueError, a line with the command that installs
    it, where matplotlib is missing, and as :func:`ckptdiff.dynamics.evals.join`; OSError where a
    file cannot be written.
    """
    try:
        import matplotlib
    except ImportError:
        raise ValueError(
            "plots need matplotlib, which is not installed: pip install 'ckptdiff[plots]'"
        ) from None
    if len(data.checkpoints) < 2:
        return []
    written: list[str] = []
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        for name, figure in _figures(_Scene.of(data, events), evals):
            os.makedirs(folder, exist_ok=True)
            written += _save(figure, os.path.join(folder, name))
    return written


def _save(figure: Figure, stem: str) -> list[str]:
    _settle(figure)
    paths = []
    for suffix, metadata in _FORMATS.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, dpi=_DOTS_PER_INCH, metadata=metadata)
        path = f"{stem}.{suffix}"
        with open(path, "wb") as file:
            file.write(buffer.getvalue())
        paths.append(path)
    return paths


def _settle(figure: Figure) -> None:
    """Lay the figure out once, in positions that are the same every time.

    The solver of the layout visits its variables in the order of their addresses, so the last bits
    of its solution differ from run to run, and the identifiers in an SVG with them.
    """
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        corners = axes.get_position(original=True).get_points()
        axes.set_position(Bbox(np.round(corners, 6)))


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """Checkpoints that are drawn alike: those of one stage, or of one ingredient of it."""

    name: str
    colour: str
    marker: str
    members: tuple[int, ...]
    is_soup: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Scene:
    """What all plots of a series share."""

    data: SeriesData
    events: Sequence[Event]
    total: Trajectory
    layers: Trajectory
    groups: Sequence[_Group]
    #: The checkpoint that each was trained from: where its parent is a copy, the original.
    parents: Sequence[int]
    #: Where each checkpoint stands in time, and in what unit.
    position: Floats
    unit: str

    @classmethod
    def of(cls, data: SeriesData, events: Sequence[Event]) -> _Scene:
        aside = Aside.of(data.total, data.checkpoints)
        tokens = [checkpoint.tokens for checkpoint in data.checkpoints]
        known = [count for count in tokens if count is not None]
        if len(known) == len(tokens):
            position, unit = np.array(known, float), "tokens"
        else:
            clock = Clock.of(data.checkpoints, aside.copies)
            position, unit = clock.position, clock.unit
        return cls(
            data=data,
            events=events,
            total=Trajectory.of(data.total, data.checkpoints),
            layers=Trajectory.of(data.levels["layer"], data.checkpoints),
            groups=_groups(data.checkpoints),
            parents=aside.parents,
            position=position,
            unit=unit,
        )

    @property
    def kinds(self) -> list[str]:
        """The kinds of events there are, in their order."""
        there = {event.kind for event in self.events}
        return [kind for kind in KINDS if kind in there]

    def group_of(self, checkpoint: int) -> _Group:
        """The group that a checkpoint is in."""
        return next(group for group in self.groups if checkpoint in group.members)


def _groups(checkpoints: Sequence[SeriesCheckpoint]) -> list[_Group]:
    members: dict[tuple[str, bool], list[int]] = {}
    soups = _soups(checkpoints)
    for index, checkpoint in enumerate(checkpoints):
        parts = []
        if checkpoint.stage is not None:
            parts.append(f"stage {checkpoint.stage}")
        if index in soups:
            parts.append("soup")
        elif checkpoint.ingredient is not None:
            parts.append(f"ingredient {checkpoint.ingredient}")
        name = ", ".join(parts) or "checkpoints"
        members.setdefault((name, index in soups), []).append(index)
    return [
        _Group(
            name=name,
            colour=_SOUP_COLOUR if is_soup else _COLOURS[number % len(_COLOURS)],
            marker=_SOUP_MARKER if is_soup else _MARKERS[number % len(_MARKERS)],
            members=tuple(of_group),
            is_soup=is_soup,
        )
        for number, ((name, is_soup), of_group) in enumerate(members.items())
    ]


def _soups(checkpoints: Sequence[SeriesCheckpoint]) -> frozenset[int]:
    """Averages: as the label says, or as it is of no ingredient where others are of some."""
    with_ingredients = {one.stage for one in checkpoints if one.ingredient is not None}
    return frozenset(
        index
        for index, one in enumerate(checkpoints)
        if parse_revision(one.label).is_soup
        or (one.stage in with_ingredients and one.ingredient is None)
    )


def _figures(scene: _Scene, evals: Evals | None) -> Iterator[tuple[str, Figure]]:
    for quantity in ("update_norm", "relative_update", "cosine_of_updates"):
        yield quantity, _over_time(scene, quantity)
    yield "distances", _distances(scene)
    yield "trajectory", _components(scene)
    if evals is not None:
        values, _ = join(scene.data.checkpoints, evals)
        taken: set[str] = set()
        for position, metric in enumerate(evals.metrics):
            name = f"metric_{re.sub(r'[^A-Za-z0-9_.-]+', '_', metric)[:100]}"
            while name in taken:
                name += "_"
            taken.add(name)
            yield name, _against_metric(scene, metric, values[:, position])


# -- over time ------------------------------------------------------------------------------------


def _over_time(scene: _Scene, quantity: str) -> Figure:
    """One quantity: the events, the whole model over time, and every layer at every checkpoint."""
    names = [_shortened(name) for name in scene.layers.names]
    strip = 0.22 * len(scene.kinds)
    height = min(max(0.2 * len(names), 1.2), 9.0)
    figure = _figure(9, 3.6 + strip + height)
    heights = [strip, 2.2, height] if scene.kinds else [2.2, height]
    axes = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    line, heat = axes[-2], axes[-1]
    _curves(line, scene, getattr(scene.total, quantity)[:, 0], quantity)
    _heatmap(figure, heat, scene, getattr(scene.layers, quantity).T, names, quantity)
    if scene.kinds:
        # what is aligned with the axes below must have their limits
        _events(axes[0], scene, line.get_xlim())
    axes[0].set_title(f"{_NAMES[quantity]}: the whole model", loc="left")
    _legend(figure, line)
    return figure


def _curves(axes: Axes, scene: _Scene, values: Floats, quantity: str) -> None:
    """A line for each group along its branch, from the checkpoint that it began at."""
    _points(axes, scene, scene.position, values)
    positive = values[np.isfinite(values) & (values > 0)]
    if quantity.startswith("cosine"):
        axes.axhline(0, color="#888888", linewidth=0.8)
    elif positive.size and positive.max() > 30 * positive.min():
        # a checkpoint that did not move has no place there
        axes.set_yscale("log", nonpositive="mask")
    axes.set_xlabel(f"training ({scene.unit})")
    axes.set_ylabel(_NAMES[quantity])
    axes.xaxis.set_major_formatter(_tokens if scene.unit == "tokens" else _thousands)


def _points(axes: Axes, scene: _Scene, x: Floats, y: Floats) -> None:
    """The checkpoints of each group, and the ways that training took between them."""
    for group in scene.groups:
        ways = [] if group.is_soup else _ways(group, scene.parents)
        for way in ways:
            axes.plot(x[way], y[way], color=group.colour)
        _markers(axes, group, x, y, linestyle="-" if any(len(way) > 1 for way in ways) else "none")


def _markers(
    axes: Axes,
    group: _Group,
    x: Floats,
    y: Floats,
    members: Sequence[int] | None = None,
    linestyle: str = "none",
) -> None:
    """The markers of a group; ``linestyle`` is only what the legend shows beside them."""
    shown = list(group.members if members is None else members)
    style: dict[str, Any] = {
        "marker": group.marker,
        "color": group.colour,
        "markersize": 10 if group.is_soup else 4,
        # a soup lies among what it was made of
        "markeredgecolor": "white" if group.is_soup else group.colour,
    }
    axes.plot(x[shown], y[shown], linestyle="none", zorder=4 if group.is_soup else 3, **style)
    axes.plot([], [], linestyle=linestyle, label=group.name, **style)


def _ways(group: _Group, parents: Sequence[int]) -> list[list[int]]:
    """The runs of a group in which each checkpoint is the parent of the next."""
    ways: list[list[int]] = []
    for member in group.members:
        parent = parents[member]
        for way in ways:
            if way[-1] == parent:
                way.append(member)
                break
        else:
            ways.append([member] if parent == ROOT else [parent, member])
    return ways


def _heatmap(
    figure: Figure,
    axes: Axes,
    scene: _Scene,
    values: Floats,
    names: Sequence[str],
    quantity: str,
) -> None:
    from matplotlib.colors import LogNorm, Normalize

    norm: Normalize
    positive = values[np.isfinite(values) & (values > 0)]
    if quantity.startswith("cosine"):
        colours, norm = "RdBu", Normalize(-1, 1)
    else:
        colours = "cividis"
        lowest, highest = (positive.min(), positive.max()) if positive.size else (0.1, 1.0)
        norm = LogNorm(lowest, highest if highest > lowest else lowest * 10)
        values = np.where((values > 0) & np.isfinite(values), values, np.nan)
    image = axes.imshow(values, aspect="auto", interpolation="nearest", cmap=colours, norm=norm)
    axes.set_facecolor("#cccccc")
    axes.grid(visible=False)
    axes.set_yticks(range(len(names)), names, fontsize=min(8, 400 / max(len(names), 1)))
    _checkpoint_ticks(axes, scene)
    axes.set_title(f"{_NAMES[quantity]}: by layer", loc="left", pad=12)
    eventful = {event.checkpoint for event in scene.events if event.kind != "stage_boundary"}
    axes.plot(
        sorted(eventful),
        # just above the upper edge
        [1.0] * len(eventful),
        transform=axes.get_xaxis_transform(),
        linestyle="none",
        marker="v",
        markersize=6,
        color=_EVENT_COLOUR,
        clip_on=False,
    )
    axes.set_xlim(-0.5, values.shape[1] - 0.5)
    figure.colorbar(image, ax=axes, pad=0.01)


def _checkpoint_ticks(axes: Axes, scene: _Scene) -> None:
    """Labels for as many checkpoints as there is room for, and lines between the groups."""
    count = len(scene.data.checkpoints)
    step = -(-count // _TICKS_AT_MOST)
    shown = range(0, count, step)
    labels = [_tick(checkpoint) for checkpoint in scene.data.checkpoints]
    axes.set_xticks(list(shown), [labels[index] for index in shown], rotation=90, fontsize=7)
    _colour_ticks(axes.get_xticklabels(), shown, scene)
    axes.set_xlabel(_TICKS_ARE)
    _lines_between_groups(axes.axvline, scene)


def _colour_ticks(labels: Sequence[Text], shown: Sequence[int], scene: _Scene) -> None:
    for label, index in zip(labels, shown, strict=True):
        label.set_color(scene.group_of(index).colour)


def _lines_between_groups(draw: Callable[..., object], scene: _Scene) -> None:
    for index in range(1, len(scene.data.checkpoints)):
        if scene.group_of(index) is not scene.group_of(index - 1):
            draw(index - 0.5, color="white", linewidth=1.6)


def _tick(checkpoint: SeriesCheckpoint) -> str:
    if checkpoint.step is None:
        return _shortened(checkpoint.label, 16)
    stage = "" if checkpoint.stage is None else f"{checkpoint.stage}"
    ingredient = "" if checkpoint.ingredient is None else f".{checkpoint.ingredient}"
    # every digit: it is what the checkpoint is found by
    return f"{stage}{ingredient}{':' if stage else ''}{checkpoint.step:,}"


def _events(axes: Axes, scene: _Scene, limits: tuple[float, float]) -> None:
    """A strip with a line for each kind of event."""
    rows = {kind: row for row, kind in enumerate(scene.kinds)}
    for event in scene.events:
        axes.plot(
            scene.position[event.checkpoint],
            rows[event.kind],
            marker="|" if event.kind == "stage_boundary" else "v",
            color="black" if event.kind == "stage_boundary" else _EVENT_COLOUR,
            markersize=6,
        )
    axes.set_yticks(range(len(rows)), [kind.replace("_", " ") for kind in rows], fontsize=7)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(limits)
    axes.tick_params(axis="x", labelbottom=False, length=0)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)


# -- between checkpoints --------------------------------------------------------------------------


def _distances(scene: _Scene) -> Figure:
    figure = _figure(7.4, 6.4)
    axes = figure.subplots()
    distances = scene.total.distances[0]
    distances = np.where(np.isfinite(distances), distances, np.nan)
    image = axes.imshow(distances, interpolation="nearest", cmap="cividis")
    axes.grid(visible=False)
    _checkpoint_ticks(axes, scene)
    ticks = axes.get_xticks()
    axes.set_yticks(ticks, [text.get_text() for text in axes.get_xticklabels()])
    _colour_ticks(axes.get_yticklabels(), [int(tick) for tick in ticks], scene)
    axes.tick_params(axis="y", labelsize=7)
    _lines_between_groups(axes.axhline, scene)
    axes.set_ylabel(_TICKS_ARE)
    axes.set_title("distance of every two checkpoints", loc="left")
    figure.colorbar(image, ax=axes, label="distance ‖w - v‖", pad=0.02)
    return figure


def _components(scene: _Scene) -> Figure:
    """The whole trajectory, and beside it the last stage alone, which is small beside the first."""
    everything = list(range(len(scene.data.checkpoints)))
    last = _last_stage(scene.data.checkpoints)
    figure = _figure(12 if last else 7.4, 5.6)
    panels = figure.subplots(1, 2 if last else 1, squeeze=False)[0]
    _plane(panels[0], scene, everything, "the trajectory of the whole model")
    if last:
        stage = scene.data.checkpoints[last[-1]].stage
        _plane(panels[1], scene, last, f"stage {stage} alone, from where it began")
    _legend(figure, panels[0])
    return figure


def _last_stage(checkpoints: Sequence[SeriesCheckpoint]) -> list[int]:
    """The checkpoints of the last stage and those that it began from; none where it is the only."""
    stages = {checkpoint.stage for checkpoint in checkpoints if checkpoint.stage is not None}
    if len(stages) < 2:
        return []
    of_last = {i for i, checkpoint in enumerate(checkpoints) if checkpoint.stage == max(stages)}
    began_from = {checkpoints[index].parent for index in of_last} - {ROOT}
    return sorted(of_last | began_from)


def _plane(axes: Axes, scene: _Scene, shown: Sequence[int], title: str) -> None:
    """Some checkpoints in the plane of their first two principal components."""
    distances = scene.total.distances[0][np.ix_(shown, shown)]
    coordinates, explained = components_of_distances(distances**2, 2)
    x, y = np.full((2, len(scene.data.checkpoints)), np.nan)
    x[list(shown)], y[list(shown)] = coordinates.T
    _points(axes, scene, x, y)
    unusual = sorted({event.checkpoint for event in scene.events if event.kind != "stage_boundary"})
    if unusual:
        axes.plot(
            x[unusual],
            y[unusual],
            linestyle="none",
            marker="o",
            markersize=11,
            markerfacecolor="none",
            markeredgecolor=_EVENT_COLOUR,
            label="event",
        )
    axes.set_xlabel(f"first principal component ({_share(explained[0])} of the variance)")
    axes.set_ylabel(f"second ({_share(explained[1])})")
    axes.set_title(title, loc="left")
    axes.margins(0.1)
    # the ends first, and of the others those that there is room for
    wanted = dict.fromkeys((shown[0], shown[-1], *unusual))
    _labels(axes, scene, x, y, [index for index in wanted if np.isfinite(x[index])])


def _labels(axes: Axes, scene: _Scene, x: Floats, y: Floats, wanted: Sequence[int]) -> None:
    """Labels beside their points, where they cover neither a point nor one another.

    Sizes are estimates, as the layout is not known yet: a box too large leaves out a label more.
    """
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    there = np.isfinite(x)
    # in points from the lower left corner
    across = (x - left) / (right - left) * _PLANE_POINTS[0]
    up = (y - bottom) / (top - bottom) * _PLANE_POINTS[1]
    taken = [
        (px - 3, py - 3, px + 3, py + 3) for px, py in zip(across[there], up[there], strict=True)
    ]
    for index in wanted:
        text = _tick(scene.data.checkpoints[index])
        width, height = 4.6 * len(text), 8.0
        for dx, dy in ((7, 4), (-7 - width, 4), (7, -12), (-7 - width, -12), (9, 16), (9, -24)):
            at = across[index] + dx, up[index] + dy
            box = (at[0], at[1], at[0] + width, at[1] + height)
            inside = min(at) >= 0 and box[2] <= _PLANE_POINTS[0] and box[3] <= _PLANE_POINTS[1]
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                axes.annotate(
                    text,
                    (x[index], y[index]),
                    xytext=(dx, dy),
                    textcoords="offset points",
                    fontsize=7,
                )
                break


# About how large the axes of a plane are.
_PLANE_POINTS = (380.0, 330.0)

_Box = tuple[float, float, float, float]


def _overlap(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _share(explained: float) -> str:
    return "-" if np.isnan(explained) else f"{100 * explained:.1f} %"


# -- against evaluation ---------------------------------------------------------------------------


def _against_metric(scene: _Scene, metric: str, values: Floats) -> Figure:
    """The metric over every quantity of the whole model that is known, with the coefficients."""
    known = [
        quantity
        for quantity in QUANTITIES
        if (np.isfinite(getattr(scene.total, quantity)[:, 0]) & np.isfinite(values)).any()
    ]
    # where nothing is, that is what the plot says
    known = known or list(QUANTITIES[:1])
    columns = min(4, len(known))
    rows = -(-len(known) // columns)
    figure = _figure(2.75 * columns, 2.5 * rows)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes in grid.flat[len(known) :]:
        axes.set_visible(False)
    for axes, quantity in zip(grid.flat, known, strict=False):
        x = getattr(scene.total, quantity)[:, 0]
        both = np.isfinite(x) & np.isfinite(values)
        for group in scene.groups:
            _markers(axes, group, x, values, [index for index in group.members if both[index]])
        n = int(both.sum())
        words = f"n = {n}"
        if n >= 3:
            r, rho = pearson(x[both], values[both]), spearman(x[both], values[both])
            coefficients = f"r = {_coefficient(r)}   {_RHO} = {_coefficient(rho)}"
            words = f"{coefficients}   {words}"
        axes.set_title(words, fontsize=8)
        axes.set_xlabel(_NAMES[quantity])
    for axes in grid[:, 0]:
        axes.set_ylabel(_shortened(metric, 24))
    figure.suptitle(f"{_shortened(metric, 25 * columns)} over quantities of the whole model")
    _legend(figure, grid[0, 0])
    return figure


def _coefficient(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2f}"


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _legend(figure: Figure, axes: Axes) -> None:
    """What the colours and markers of some axes are, below everything."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        columns = max(int(figure.get_figwidth() / 1.75), 1)
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), columns))


def _tokens(value: float, position: Any) -> str:
    """``50 B`` where the axis's own digits are few, not ``50.0 B``."""
    del position
    number, _, unit = human_tokens(value).partition(" ")
    return f"{float(number.replace(',', '')):,g} {unit}".rstrip()


def _thousands(value: float, position: Any) -> str:
    del position
    return f"{value:,g}" if abs(value) < 1e6 else human_tokens(value)


def _shortened(name: str, length: int = _NAME_AT_MOST) -> str:
    """The name with its middle cut out where it is long, in characters that the font has.

    It is safe from matplotlib's mathematics.
    """
    if len(name) > length:
        head = (length - 1) // 2
        name = f"{name[:head]}…{name[-(length - 1 - head) :]}"
    name = escape(name)
    drawn = _drawable()
    escaped = (
        character
        if ord(character) in drawn
        else character.encode("ascii", "backslashreplace").decode("ascii")
        for character in name
    )
    return "".join(escaped).replace("$", r"\$")


@lru_cache(maxsize=1)
def _drawable() -> frozenset[int]:
    """The characters of matplotlib's own font; of others it draws boxes, and warns."""
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())
