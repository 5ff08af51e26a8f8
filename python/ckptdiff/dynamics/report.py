"""The result of reading a series: its arrays, and what follows from them.

What is read is in :attr:`SeriesReport.data`; everything else is computed from that when it is asked
for, so a report that was saved and loaded says the same as the one that was read.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike, fspath
from typing import TYPE_CHECKING, Literal, get_args, overload

from ckptdiff.dynamics.data import SeriesCheckpoint, SeriesData, SeriesLevel
from ckptdiff.dynamics.events import Event, find_events
from ckptdiff.dynamics.pick import Picked, pick
from ckptdiff.dynamics.problems import Problem, is_sound
from ckptdiff.dynamics.trajectory import Components, Trajectory
from ckptdiff.suggest import unknown

if TYPE_CHECKING:
    from ckptdiff.dynamics.evals import Correlation, EvalRow, Evals

__all__ = ["Level", "SeriesOptions", "SeriesReport"]

Level = Literal["tensor", "layer", "module", "total"]


@dataclass(frozen=True, slots=True)
class SeriesOptions:
    """How a series was read. Nothing here depends on the machine it was read on."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    order: str = "position"
    map: str = "auto"


class SeriesReport:
    """A series of checkpoints, and how its weights moved. Made by :func:`ckptdiff.series`."""

    def __init__(
        self,
        data: SeriesData,
        *,
        problems: Sequence[Problem] = (),
        options: SeriesOptions | None = None,
        bytes_read: int = 0,
        seconds: float = 0.0,
    ) -> None:
        self._data = data
        self._problems = tuple(problems)
        self._options = options or SeriesOptions()
        self._bytes_read = bytes_read
        self._seconds = seconds
        self._evals: Evals | None = None

    # -- what was read ----------------------------------------------------------------------------

    @property
    def data(self) -> SeriesData:
        """Checkpoints, Gram matrices, stats and diffs, as arrays."""
        return self._data

    @property
    def checkpoints(self) -> tuple[SeriesCheckpoint, ...]:
        """The checkpoints in order, parents before children."""
        return self._data.checkpoints

    @property
    def options(self) -> SeriesOptions:
        """What was asked for."""
        return self._options

    @property
    def bytes_read(self) -> int:
        """Bytes of tensors read; 0 of a report that was loaded."""
        return self._bytes_read

    @property
    def seconds(self) -> float:
        """How long reading took. In no output file: two runs would differ in it."""
        return self._seconds

    def __len__(self) -> int:
        return len(self.checkpoints)

    def index(self, label: str) -> int:
        """The index of a checkpoint by its label. Raises KeyError."""
        return self._index_of_label[label]

    @cached_property
    def _index_of_label(self) -> dict[str, int]:
        return {checkpoint.label: index for index, checkpoint in enumerate(self.checkpoints)}

    # -- what follows -----------------------------------------------------------------------------

    def level(self, level: Level = "total") -> SeriesLevel:
        """The rows of one level. Raises ValueError, with the nearest name, for an unknown one."""
        if level not in self._data.levels:
            raise ValueError(unknown("level", level, get_args(Level)))
        return self._data.levels[level]

    def trajectory(self, level: Level = "total") -> Trajectory:
        """How the rows of a level moved: update norms, distances, cosines …, (N, R) arrays."""
        if level not in self._trajectories:
            self._trajectories[level] = Trajectory.of(self.level(level), self.checkpoints)
        return self._trajectories[level]

    def principal_components(self, level: Level = "total", *, count: int = 3) -> Components:
        """The way of each row of a level in its principal components: (R, N, count) coordinates.

        Raises ValueError for an unknown level, and for a count below 1.
        """
        return Components.of(self.level(level), self._data.parents, count)

    @cached_property
    def _trajectories(self) -> dict[str, Trajectory]:
        return {}

    @cached_property
    def events(self) -> tuple[Event, ...]:
        """Where training was unstable or turned, and the boundaries of its stages."""
        return find_events(self._data)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is wrong with the series, and notes on it."""
        return self._problems

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong with the series; notes and events do not count."""
        return is_sound(self._problems)

    @property
    def exit_status(self) -> int:
        """0 where the series is sound, 1 where it is not."""
        return 0 if self.is_sound else 1

    def pick(self, count: int) -> tuple[Picked, ...]:
        """Up to ``count`` checkpoints that represent the series, the most important first."""
        return pick(self._data, count, self.events)

    @property
    def evals(self) -> Evals | None:
        """The evaluations that were joined by :meth:`with_evals`."""
        return self._evals

    def with_evals(self, evals: str | PathLike[str] | Evals) -> SeriesReport:
        """The same report with the evaluations of a CSV file.

        The file has a column ``step``, or ``revision``, and where needed ``stage`` and
        ``ingredient`` (``1+2`` is a soup); every other column of numbers is a metric. Raises
        ValueError where it fits no checkpoint, or more than one.
        """
        from ckptdiff.dynamics.evals import Evals, join, read_evals

        table = evals if isinstance(evals, Evals) else read_evals(fspath(evals))
        _, left = join(self.checkpoints, table)
        if len(left) == len(table.rows):
            some = f", the first is of {left[0].describe()}" if left else ""
            raise ValueError(
                f"{table.path}: none of {len(left):,} lines is of a checkpoint of the series{some}"
            )
        report = copy.copy(self)
        report.__dict__.pop("correlations", None)
        report._evals = table
        return report

    @property
    def unmatched_evals(self) -> tuple[EvalRow, ...]:
        """The lines of the evaluations that are of no checkpoint of the series."""
        if self._evals is None:
            return ()
        from ckptdiff.dynamics.evals import join

        return join(self.checkpoints, self._evals)[1]

    @cached_property
    def correlations(self) -> tuple[Correlation, ...]:
        """How every quantity goes with every metric; none without :meth:`with_evals`."""
        if self._evals is None:
            return ()
        from ckptdiff.dynamics.evals import correlate

        return correlate(self._data, self._evals)

    # -- as text and files ------------------------------------------------------------------------

    @overload
    def to_json(self, path: None = None, *, by: Level = "total", pick: int = 0) -> str: ...
    @overload
    def to_json(self, path: str | PathLike[str], *, by: Level = "total", pick: int = 0) -> None: ...
    def to_json(
        self, path: str | PathLike[str] | None = None, *, by: Level = "total", pick: int = 0
    ) -> str | None:
        """Write the report as JSON, ``ckptdiff.series/1``, or return it as a string.

        It has the total and the rows of level ``by``, and the checkpoints that :meth:`pick` picks.
        """
        from ckptdiff.render import series_json
        from ckptdiff.report import to_text

        return to_text(path, lambda stream: series_json.write(self, stream, by=by, pick=pick))

    def to_csv(
        self, folder: str | PathLike[str], *, by: Level = "total", pick: int = 0
    ) -> list[str]:
        """Write tidy CSV files into a folder, which is made where it is missing; their paths."""
        from ckptdiff.render import series_csv

        return series_csv.write(self, fspath(folder), by=by, pick=pick)

    def write_plots(self, folder: str | PathLike[str]) -> list[str]:
        """Write plots as PNG and SVG into a folder; their paths. Needs matplotlib."""
        from ckptdiff.render.plots import write_plots

        return write_plots(self._data, self.events, fspath(folder), self._evals)

    def save(self, path: str | PathLike[str]) -> None:
        """Store what was read in one file, to be shown again by :meth:`load` without the weights.

        The file is complete or not there, and the same for the same series.
        """
        from ckptdiff.dynamics.stored import save

        save(self, fspath(path))

    @classmethod
    def load(cls, path: str | PathLike[str]) -> SeriesReport:
        """The report that :meth:`save` stored.

        Raises CheckpointNotFoundError where there is no such file, and InvalidCheckpointError where
        it is none of this version, or not what was saved.
        """
        from ckptdiff.dynamics.stored import load

        return load(fspath(path))

    def __repr__(self) -> str:
        from ckptdiff.render import series_table
        from ckptdiff.render.screen import Screen

        return "\n".join(series_table.lines(self, Screen.for_repr())).rstrip()
