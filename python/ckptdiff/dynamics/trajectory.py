"""How the weights moved: every quantity of a series that follows from its Gram matrices.

With ``u_t = w_t - w_parent(t)`` and ``u_t = w_t`` at a root, a checkpoint is the sum of the updates
on its way from the root, and the difference of two checkpoints is a signed sum of the updates on
the way from one to the other. Where the two ways share their beginning, those updates drop out
before any number is added, so the distance of two neighbours late in training does not come from
the difference of two large norms: ``||w_t - w_s||^2`` is a sum of entries of ``G[i, j] = <u_i,
u_j>``.

The origin takes part as the parent of every root. It has the weights zero, so a norm is the
distance from it, and needs no formula of its own.

What a distance cannot resolve is the rounding of those sums: about 1e-8 times the length of the way
between the two, where training came back to the very weights it had been at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import numpy.typing as npt

from ckptdiff.dynamics.aside import Aside
from ckptdiff.dynamics.clock import Clock
from ckptdiff.dynamics.data import ROOT, Floats, SeriesCheckpoint, SeriesLevel

__all__ = [
    "QUANTITIES",
    "Components",
    "Trajectory",
    "components_of_distances",
    "cosine_of_vectors",
    "principal_components",
    "squared_distances",
]


@dataclass(frozen=True, slots=True, eq=False)
class Trajectory:
    """The movement of each of R rows over N checkpoints: arrays of the shape (N, R).

    Everything is of the elements at which all N checkpoints are finite; a row without any is NaN
    throughout. A quantity is NaN where it is not defined: of an update at a root, of a second
    update at the child of a root, per token where tokens are not known, an angle where a side is
    zero, and all of a checkpoint that diverged. The child of a copy has its update from the
    original, and a copy takes no part in the diffusion exponent.
    """

    names: tuple[str, ...]
    #: What the lags of the diffusion exponent are counted in.
    clock: Literal["steps", "tokens", "checkpoints"]

    #: ``||w_t||``
    norm: Floats
    #: ``||u_t||``
    update_norm: Floats
    #: ``||u_t|| / ||w_parent||``; infinite where only the parent is zero, 0 where both are.
    relative_update: Floats
    #: ``||u_t||`` by the tokens between parent and t.
    update_per_token: Floats
    #: ``||u_t||`` by the sum of the learning rate over the steps between parent and t, taken as
    #: their number times the mean of the two learning rates.
    update_per_learning_rate: Floats
    #: The cosine of ``u_t`` and ``u_parent(t)``, or the last update before that if it was none.
    cosine_of_updates: Floats
    #: ``||w_t - w_0||``, from the first checkpoint of the series that did not diverge.
    distance_from_first: Floats
    #: ``||w_t - w_{N-1}||``, from the last checkpoint of the series that did not diverge.
    distance_from_last: Floats
    #: The cosine of ``w_t`` and ``w_{N-1}``, from their distance, so that it resolves 1 - 1e-15.
    cosine_with_last: Floats
    #: The sum of ``||u||`` along the branch, 0 at its root.
    path_length: Floats
    #: ``||w_t - w_root||``, from the root of the branch.
    displacement: Floats
    #: The share of elements that differ from the parent when both are rounded to bf16.
    changed_share: Floats
    #: How many elements changed their sign since the parent.
    sign_flips: Floats

    #: ``||w_s - w_t||`` of every pair, of the shape (R, N, N).
    distances: Floats
    #: The slope of ``log ||w_t - w_s||^2`` over ``log |t - s|``, of the shape (R,): 1 for a random
    #: walk, 2 for a straight line. By least squares over all pairs of one branch that differ.
    diffusion_exponent: Floats

    @classmethod
    def of(cls, level: SeriesLevel, checkpoints: Sequence[SeriesCheckpoint]) -> Trajectory:
        """The trajectory of every row of a level."""
        parents = [checkpoint.parent for checkpoint in checkpoints]
        aside = Aside.of(level, checkpoints)
        first, last = aside.ends()
        clock = Clock.of(checkpoints, aside.copies)
        squares = squared_distances(level.gram, parents)
        squares[level.finite == 0] = np.nan
        to_all = np.sqrt(squares, out=squares)
        # of the origin, which is node 0
        norm = to_all[:, 0, 1:].T
        distances = to_all[:, 1:, 1:]
        update_norm = _update_norms(distances, parents)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return cls(
                names=level.names,
                clock=clock.unit,
                norm=norm,
                update_norm=update_norm,
                relative_update=_ratio(update_norm, _of_parents(norm, parents)),
                update_per_token=update_norm / clock.tokens[:, None],
                update_per_learning_rate=update_norm / clock.learning_rate[:, None],
                cosine_of_updates=_cosines_of_updates(level, aside.parents),
                distance_from_first=distances[:, first, :].T,
                distance_from_last=distances[:, last, :].T,
                cosine_with_last=_cosine(norm, norm[last], distances[:, last, :].T),
                path_length=_path_length(update_norm, parents, level.finite == 0),
                displacement=_displacement(distances, parents),
                changed_share=_column(level, "changed_bf16", parents) / level.numel,
                sign_flips=_column(level, "sign_flips", parents),
                distances=distances,
                diffusion_exponent=_diffusion_exponent(distances, aside, clock),
            )


#: The names of the quantities of a :class:`Trajectory` that have the shape (N, R), in their order.
QUANTITIES = tuple(
    field.name
    for field in fields(Trajectory)
    if field.name not in ("names", "clock", "distances", "diffusion_exponent")
)


@dataclass(frozen=True, slots=True, eq=False)
class Components:
    """The trajectory of each of R rows over N checkpoints in its first K principal components.

    ``coordinates`` (R, N, K) are in the units of the weights and centred at the mean of the
    checkpoints, ``explained`` (R, K) is the share of the variance of each component. See
    :func:`components_of_distances` for what is NaN, and for which way a component points.
    """

    names: tuple[str, ...]
    coordinates: Floats
    explained: Floats

    @classmethod
    def of(cls, level: SeriesLevel, parents: Sequence[int], count: int) -> Components:
        """The components of every row of a level. Raises ValueError for a count below 1."""
        squares = squared_distances(level.gram, parents)[:, 1:, 1:]
        squares[level.finite == 0] = np.nan
        of_rows = [components_of_distances(of_row, count) for of_row in squares]
        shape = (len(of_rows), len(parents), count)
        return cls(
            names=level.names,
            coordinates=np.array([coordinates for coordinates, _ in of_rows]).reshape(shape),
            explained=np.array([explained for _, explained in of_rows]).reshape(-1, count),
        )


def squared_distances(gram: Floats, parents: Sequence[int]) -> Floats:
    """``||w_a - w_b||^2`` of every pair of the origin and N checkpoints: (R, N + 1, N + 1).

    Node 0 is the origin and node t + 1 is checkpoint t; ``gram`` has the shape (R, N, N), and a
    parent has a smaller index than its children. Additions run in one order, element by element, so
    no library's threads have a say in the result. A negative square, which only rounding makes, is
    0.

    For s before t, with p the parent of t, ``w_t - w_s = (w_p - w_s) + u_t`` and therefore ``||w_t
    - w_s||^2 = ||w_p - w_s||^2 + 2 <u_t, w_p - w_s> + G[t, t]``. The inner products are sums of
    ``G[t, i]`` over the way from s to p.
    """
    rows, count, _ = gram.shape
    # rows last: each step below is one operation on all of them
    by_pair = np.ascontiguousarray(np.moveaxis(gram, 0, -1))
    squares = np.zeros((count + 1, count + 1, rows))
    for checkpoint in range(count):
        node = checkpoint + 1
        parent = parents[checkpoint] + 1
        products = by_pair[checkpoint]
        # a product that float64 does not hold is infinite, and what it takes part in not defined
        with np.errstate(invalid="ignore", over="ignore"):
            with_way = _products_with_ways(products, parent, node, parents)
            row = squares[parent, :node] + 2 * with_way + products[checkpoint]
        squares[node, :node] = row
        squares[:node, node] = row
        # of itself it is 0, or NaN if it has no place among the others
        squares[node, node] = np.where(np.isnan(products[checkpoint]), np.nan, 0.0)
    np.maximum(squares, 0, out=squares)
    return np.ascontiguousarray(np.moveaxis(squares, -1, 0))


def _products_with_ways(products: Floats, start: int, count: int, parents: Sequence[int]) -> Floats:
    """``<u_t, w_start - w_s>`` for the first ``count`` nodes s, from ``<u_t, u_i>``."""
    sums = np.zeros((count, products.shape[1]))
    on_way_up = {start}
    node = start
    while node:
        above = parents[node - 1] + 1
        sums[above] = sums[node] + products[node - 1]
        on_way_up.add(above)
        node = above
    for node in range(1, count):
        if node not in on_way_up:
            sums[node] = sums[parents[node - 1] + 1] - products[node - 1]
    return sums


def principal_components(gram: Floats, parents: Sequence[int], count: int) -> tuple[Floats, Floats]:
    """The trajectory of one row in its first ``count`` principal components.

    ``gram`` has the shape (N, N). As :func:`components_of_distances`, whose coordinates are in the
    units of the weights here.
    """
    return components_of_distances(squared_distances(gram[None], parents)[0, 1:, 1:], count)


def components_of_distances(squares: Floats, count: int) -> tuple[Floats, Floats]:
    """The first ``count`` principal components of points of which the squared distances are given.

    ``squares`` has the shape (N, N). Returns the coordinates (N, count), centred at the mean of the
    points, and the share of the variance that each component explains (count,). They are from the
    eigenvectors of the double-centred squares (classical scaling, Torgerson 1952), and those that
    the points' covariance gives. Of the two directions of a component that is taken in which the
    coordinate of largest magnitude is positive. Beyond the number of dimensions there are,
    coordinates are 0. A point whose distance to itself is NaN has no place and NaN coordinates.
    Where all points are one the shares are NaN, and where a square of the others is not finite all
    is. Raises ValueError for a count below 1.
    """
    if count < 1:
        raise ValueError(f"the number of components must be 1 or more, not {count}")
    there = np.isfinite(np.diagonal(squares))
    if there.any() and not there.all():
        coordinates = np.full((len(squares), count), np.nan)
        coordinates[there], explained = components_of_distances(
            squares[np.ix_(there, there)], count
        )
        return coordinates, explained
    size = len(squares)
    coordinates = np.zeros((size, count))
    explained = np.full(count, np.nan)
    if not np.isfinite(squares).all():
        return np.full((size, count), np.nan), explained
    means = squares.mean(axis=0)
    centred = -0.5 * (squares - means[:, None] - means[None, :] + means.mean())
    variances, directions = np.linalg.eigh((centred + centred.T) / 2)
    variances = np.maximum(variances[::-1], 0)
    directions = directions[:, ::-1]
    kept = min(count, size)
    # what rounding leaves of dimensions that are not there
    variances[variances < size * np.finfo(np.float64).eps * variances[0]] = 0
    coordinates[:, :kept] = directions[:, :kept] * np.sqrt(variances[:kept])
    farthest = np.argmax(np.abs(coordinates), axis=0)
    coordinates *= np.where(coordinates[farthest, np.arange(count)] < 0, -1.0, 1.0)
    total = variances.sum()
    if total > 0:
        explained[:] = 0
        explained[:kept] = variances[:kept] / total
    return coordinates, explained


def cosine_of_vectors(
    gram: Floats, parents: Sequence[int], first: tuple[int, int], second: tuple[int, int]
) -> Floats:
    """The cosine of ``w_b - w_a`` and ``w_d - w_c``, for (a, b) and (c, d), of each row: (R,).

    ``gram`` has the shape (R, N, N); NaN where a side is zero. :data:`ROOT` stands for the origin.
    """
    left = _signs_of_way(parents, *first)
    right = _signs_of_way(parents, *second)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        norms = np.sqrt(_form(gram, left, left)) * np.sqrt(_form(gram, right, right))
        return np.asarray(np.clip(_form(gram, left, right) / norms, -1, 1))


def _signs_of_way(parents: Sequence[int], start: int, stop: int) -> dict[int, int]:
    """Which updates add up to ``w_stop - w_start``, each with its sign."""
    signs: dict[int, int] = {}
    for node, sign in ((stop, 1), (start, -1)):
        while node != ROOT:
            signs[node] = signs.get(node, 0) + sign
            node = parents[node]
    return {node: sign for node, sign in sorted(signs.items()) if sign}


def _form(gram: Floats, left: dict[int, int], right: dict[int, int]) -> Floats:
    """The sum of ``sign_i sign_j G[i, j]`` over both ways, of each row."""
    total = np.zeros(gram.shape[0])
    for i, sign_i in left.items():
        for j, sign_j in right.items():
            total += sign_i * sign_j * gram[:, i, j]
    return total


def _of_parents(values: Floats, parents: Sequence[int]) -> Floats:
    """The (N, R) values of each checkpoint's parent, NaN at a root."""
    result = np.full(values.shape, np.nan)
    for checkpoint, parent in enumerate(parents):
        if parent != ROOT:
            result[checkpoint] = values[parent]
    return result


def _update_norms(distances: Floats, parents: Sequence[int]) -> Floats:
    result = np.full((len(parents), len(distances)), np.nan)
    for checkpoint, parent in enumerate(parents):
        if parent != ROOT:
            result[checkpoint] = distances[:, parent, checkpoint]
    return result


def _displacement(distances: Floats, parents: Sequence[int]) -> Floats:
    roots: list[int] = []
    for checkpoint, parent in enumerate(parents):
        roots.append(checkpoint if parent == ROOT else roots[parent])
    return distances[:, roots, range(len(roots))].T


def _path_length(
    update_norm: Floats, parents: Sequence[int], undefined: npt.NDArray[np.bool_]
) -> Floats:
    result = np.where(undefined, np.nan, np.zeros(update_norm.shape))
    for checkpoint, parent in enumerate(parents):
        if parent != ROOT:
            result[checkpoint] = result[parent] + update_norm[checkpoint]
    return result


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """0 by 0 is 0 here, as in the column rel_l2 of a diff."""
    return np.where((numerator == 0) & (denominator == 0), 0.0, numerator / denominator)


def _cosine(norm_a: Floats, norm_b: Floats, distance: Floats) -> Floats:
    """From the distance: ``1 - (d^2 - (a - b)^2) / (2 a b)``, NaN where a norm is zero."""
    from_angle = (distance - (norm_a - norm_b)) * (distance + (norm_a - norm_b))
    return np.clip(1 - np.maximum(from_angle, 0) / (2 * norm_a * norm_b), -1, 1)


def _cosines_of_updates(level: SeriesLevel, parents: Sequence[int]) -> Floats:
    gram = level.gram
    result = np.full((len(parents), len(level.names)), np.nan)
    for checkpoint, parent in enumerate(parents):
        if parent != ROOT and parents[parent] != ROOT:
            norms = np.sqrt(gram[:, checkpoint, checkpoint]) * np.sqrt(gram[:, parent, parent])
            result[checkpoint] = np.clip(gram[:, checkpoint, parent] / norms, -1, 1)
    result[:, level.finite == 0] = np.nan
    return result


def _column(level: SeriesLevel, name: str, parents: Sequence[int]) -> Floats:
    """A column of the diffs, NaN at a root and where the series has no such column."""
    missing = np.full((len(parents), len(level.names)), np.nan)
    return np.asarray(level.diffs.get(name, missing), dtype=np.float64)


def _diffusion_exponent(distances: Floats, aside: Aside, clock: Clock) -> Floats:
    """The slope of log squared distance over log lag, over the pairs of one branch."""
    earlier: list[int] = []
    later: list[int] = []
    for checkpoint, parent in enumerate(aside.parents):
        ancestor = ROOT if checkpoint in aside else parent
        while ancestor != ROOT:
            earlier.append(ancestor)
            later.append(checkpoint)
            ancestor = aside.parents[ancestor]
    lags = clock.position[later] - clock.position[earlier]
    usable = np.flatnonzero(lags > 0)
    log_lags = np.log(lags[usable])
    ends = np.array(earlier, int)[usable], np.array(later, int)[usable]
    log_squares = 2 * np.log(distances[:, *ends])
    # a row may be at a standstill between some of the pairs: they have no logarithm
    moved = np.isfinite(log_squares)
    counts = moved.sum(axis=1)
    x = np.where(moved, log_lags, 0)
    y = np.where(moved, log_squares, 0)
    x = np.where(moved, x - (x.sum(axis=1) / counts)[:, None], 0)
    y = np.where(moved, y - (y.sum(axis=1) / counts)[:, None], 0)
    spread = (x * x).sum(axis=1)
    # equal lags but for rounding have no slope
    flat = spread <= 1e-12 * np.maximum(counts, 1)
    slope = (x * y).sum(axis=1) / np.where(flat, np.nan, spread)
    return np.asarray(np.where(counts >= 2, slope, np.nan))
