"""How the weights moved: every quantity against float64 arithmetic on the tensors themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from ckptdiff.dynamics.clock import Clock
from ckptdiff.dynamics.data import ROOT, SeriesCheckpoint, SeriesData
from ckptdiff.dynamics.trajectory import (
    QUANTITIES,
    Trajectory,
    cosine_of_vectors,
    principal_components,
    squared_distances,
)
from numpy.typing import NDArray

from tests.series_oracle import (
    GROUPS,
    RealSeries,
    chain,
    cosine,
    distances_of_row,
    norm,
    quantities_of,
    series_of,
    squares_of_tensors,
    vectors,
)
from tests.training_run import DUPLICATE, ORIGINAL, PARTS, SOUP

Floats = NDArray[np.float64]

LEVELS = tuple(GROUPS)


@pytest.fixture(scope="module")
def squares(real_series: RealSeries) -> dict[str, Floats]:
    return squares_of_tensors(real_series.weights)


# the finest and the coarsest: nothing depends on what a row is
@pytest.mark.parametrize("level", ["tensor", "total"])
def test_every_quantity_is_what_the_tensors_give(real_series: RealSeries, level: str) -> None:
    weights, data = real_series
    got = Trajectory.of(data.levels[level], data.checkpoints)
    for row, name in enumerate(got.names):
        expected = quantities_of(vectors(weights, level, name), data.checkpoints, (DUPLICATE,))
        for quantity in QUANTITIES:
            np.testing.assert_allclose(
                getattr(got, quantity)[:, row],
                expected[quantity],
                rtol=1e-9,
                atol=1e-7,
                err_msg=f"{quantity} of {name}",
            )


@pytest.mark.parametrize("level", LEVELS)
def test_the_distance_of_every_pair(
    real_series: RealSeries, squares: dict[str, Floats], level: str
) -> None:
    data = real_series.data
    got = Trajectory.of(data.levels[level], data.checkpoints)
    for row, name in enumerate(got.names):
        expected = distances_of_row(squares, level, name)
        # what remains where two checkpoints are the same, after a way that is this long
        way = got.path_length[:, row].max()
        np.testing.assert_allclose(
            got.distances[row], expected, rtol=1e-10, atol=1e-7 * way, err_msg=name
        )
        assert (got.distances[row] == got.distances[row].T).all()
        assert (np.diagonal(got.distances[row]) == 0).all()


def test_a_duplicate_is_at_no_distance_and_a_soup_is_nearer_than_its_parts(
    real_series: RealSeries,
) -> None:
    data = real_series.data
    labels = [checkpoint.label for checkpoint in data.checkpoints]
    got = Trajectory.of(data.total, data.checkpoints)
    assert got.distances[0, labels.index(DUPLICATE), labels.index(ORIGINAL)] == 0
    soup = labels.index(SOUP)
    end = data.parents[soup]
    for part in PARTS:
        assert got.distances[0, soup, end] < got.distances[0, labels.index(part), end]


@pytest.mark.parametrize("level", LEVELS)
def test_the_diffusion_exponent_is_the_slope_over_all_pairs_of_a_branch(
    real_series: RealSeries, squares: dict[str, Floats], level: str
) -> None:
    data = real_series.data
    got = Trajectory.of(data.levels[level], data.checkpoints)
    assert got.clock == "steps"
    # stage 2 counts its steps anew
    end = max(one.step or 0 for one in data.checkpoints if one.stage == 1)
    position = [(one.step or 0) + end * (one.stage == 2) for one in data.checkpoints]
    for row, name in enumerate(got.names):
        distances = distances_of_row(squares, level, name)
        x, y = [], []
        for t, parent in enumerate(data.parents):
            s = parent
            while s != ROOT:
                pair = data.checkpoints[s].label, data.checkpoints[t].label
                if distances[s, t] and DUPLICATE not in pair:
                    x.append(np.log(position[t] - position[s]))
                    y.append(np.log(distances[s, t] ** 2))
                s = data.parents[s]
        assert got.diffusion_exponent[row] == pytest.approx(np.polyfit(x, y, 1)[0], rel=1e-9)


def test_principal_components_are_those_of_the_checkpoints(
    real_series: RealSeries,
) -> None:
    weights, data = real_series
    w = np.array(vectors(weights, "total", "total"))
    left, singular, _ = np.linalg.svd(w - w.mean(axis=0), full_matrices=False)
    coordinates, explained = principal_components(data.total.gram[0], data.parents, 4)
    for component in range(4):
        expected = left[:, component] * singular[component]
        expected *= np.sign(expected[np.argmax(np.abs(expected))])
        np.testing.assert_allclose(coordinates[:, component], expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(explained, (singular**2 / (singular**2).sum())[:4], rtol=1e-9)


def test_angles_between_any_two_ways(real_series: RealSeries) -> None:
    weights, data = real_series
    level = data.levels["layer"]
    # within a branch, from one branch to another, and from the origin
    for first, second in (((3, 9), (9, 12)), ((26, 30), (2, 35)), ((ROOT, 5), (ROOT, 33))):
        got = cosine_of_vectors(level.gram, data.parents, first, second)
        for row, name in enumerate(level.names):
            w = [*vectors(weights, "layer", name), np.zeros(1)]
            ways = [w[stop] - w[start] for start, stop in (first, second)]
            assert got[row] == pytest.approx(cosine(*ways), rel=1e-9, abs=1e-9)


# Trees that no training run makes.


@pytest.mark.parametrize("count", [1, 2, 3, 17])
def test_distances_in_random_forests(count: int) -> None:
    random = np.random.default_rng(count)
    for _ in range(5):
        parents = [int(random.integers(-1, t)) if t else ROOT for t in range(count)]
        w = random.standard_normal((count, 50))
        updates = np.array([w[t] - (w[p] if p != ROOT else 0) for t, p in enumerate(parents)])
        squares = squared_distances((updates @ updates.T)[None], parents)[0]
        nodes = np.vstack([np.zeros(50), w])
        expected = ((nodes[:, None] - nodes[None]) ** 2).sum(axis=2)
        np.testing.assert_allclose(squares, expected, rtol=1e-12, atol=1e-12)


def test_neighbours_far_from_the_origin_lose_nothing() -> None:
    """With norms of 1e8 and updates of 1e-3, ``|a|^2 + |b|^2 - 2 ab`` would have no digit left."""
    random = np.random.default_rng(0)
    updates = random.standard_normal((6, 40)) * 1e-3
    updates[0] = 1e8 * random.standard_normal(40)
    squares = squared_distances((updates @ updates.T)[None], range(-1, 5))[0, 1:, 1:]
    for t in range(6):
        for s in range(t):
            expected = norm(updates[s + 1 : t + 1].sum(axis=0)) ** 2
            assert squares[s, t] == pytest.approx(expected, rel=1e-13)


def two_weights(*values: Sequence[float]) -> SeriesData:
    weights = [{"a.weight": np.array(value, float)} for value in values]
    return series_of(weights, chain(len(values)))


def test_what_is_not_defined_is_nan() -> None:
    data = two_weights([0, 0], [3, 4], [3, 4], [0, 0])
    got = Trajectory.of(data.total, data.checkpoints)
    assert got.clock == "checkpoints"
    np.testing.assert_array_equal(got.norm[:, 0], [0, 5, 5, 0])
    np.testing.assert_array_equal(got.update_norm[:, 0], [np.nan, 5, 0, 5])
    np.testing.assert_array_equal(got.relative_update[:, 0], [np.nan, np.inf, 0, 1])
    # the last goes back on the last update there was
    np.testing.assert_allclose(got.cosine_of_updates[:, 0], [np.nan, np.nan, np.nan, -1])
    np.testing.assert_array_equal(got.cosine_with_last[:, 0], [np.nan] * 4)
    np.testing.assert_array_equal(got.path_length[:, 0], [0, 5, 5, 10])
    np.testing.assert_array_equal(got.displacement[:, 0], [0, 5, 5, 0])
    for quantity in ("update_per_token", "update_per_learning_rate"):
        assert np.isnan(getattr(got, quantity)).all()
    # the third is a copy and left out; of the pairs of the others those that moved have one lag
    assert np.isnan(got.diffusion_exponent[0])


def test_zero_that_stays_zero_did_not_move() -> None:
    data = two_weights([0, 0], [0, 0])
    got = Trajectory.of(data.total, data.checkpoints)
    assert got.relative_update[1, 0] == 0
    assert np.isnan(got.diffusion_exponent[0])
    coordinates, explained = principal_components(data.total.gram[0], data.parents, 3)
    assert (coordinates == 0).all()
    assert np.isnan(explained).all()


def test_elements_that_are_not_finite_somewhere_take_no_part() -> None:
    data = two_weights([1, 2, 3], [2, np.nan, 5], [4, 1, 5])
    got = Trajectory.of(data.total, data.checkpoints)
    np.testing.assert_allclose(got.norm[:, 0], np.sqrt([10, 29, 41]))
    nowhere = two_weights([np.inf, 1], [1, np.nan])
    got = Trajectory.of(nowhere.total, nowhere.checkpoints)
    for quantity in set(QUANTITIES) - {"changed_share", "sign_flips"}:
        assert np.isnan(getattr(got, quantity)).all(), quantity
    assert np.isnan(got.distances).all()
    assert np.isnan(got.diffusion_exponent).all()


def test_products_that_float64_does_not_hold_are_no_warnings_and_no_numbers() -> None:
    data = two_weights([1, 1], [2, 1], [1, 3])
    level = replace(data.total, gram=np.full((1, 3, 3), np.inf))
    got = Trajectory.of(level, data.checkpoints)
    assert not np.isfinite(got.distances[0, :2, 2]).any()
    assert np.isnan(got.cosine_of_updates).all()
    coordinates, _ = principal_components(level.gram[0], data.parents, 2)
    assert np.isnan(coordinates).all()
    assert np.isnan(cosine_of_vectors(level.gram, data.parents, (0, 1), (1, 2))).all()


def test_one_checkpoint_is_a_series() -> None:
    data = two_weights([3, 4])
    got = Trajectory.of(data.total, data.checkpoints)
    assert got.norm[0, 0] == 5
    assert got.cosine_with_last[0, 0] == 1
    assert np.isnan(got.update_norm[0, 0])
    coordinates, _ = principal_components(data.total.gram[0], data.parents, 2)
    assert coordinates.shape == (1, 2)
    with pytest.raises(ValueError, match="must be 1 or more"):
        principal_components(data.total.gram[0], data.parents, 0)


def test_more_components_than_dimensions_are_zero() -> None:
    data = two_weights([0, 0], [1, 1], [2, 2], [5, 5])
    coordinates, explained = principal_components(data.total.gram[0], data.parents, 6)
    np.testing.assert_allclose(explained, [1, 0, 0, 0, 0, 0], atol=1e-15)
    assert (coordinates[:, 1:] == 0).all()
    np.testing.assert_allclose(coordinates[:, 0], np.sqrt(2) * np.array([-2, -1, 0, 3]), atol=1e-12)


def test_a_random_walk_has_an_exponent_of_one_and_a_line_of_two() -> None:
    random = np.random.default_rng(0)
    walk = np.cumsum(random.standard_normal((40, 20_000)), axis=0)
    line = np.arange(40)[:, None] * random.standard_normal(100)
    for values, expected in ((walk, 1), (line, 2)):
        data = series_of([{"w": row} for row in values], chain(40))
        exponent = Trajectory.of(data.total, data.checkpoints).diffusion_exponent[0]
        assert exponent == pytest.approx(expected, abs=0.02)


# The clock.


def test_steps_that_begin_anew_and_steps_that_go_on() -> None:
    anew = chain(4, stage=[1, 1, 2, 2], step=[0, 100, 10, 20])
    np.testing.assert_array_equal(Clock.of(anew).position, [0, 100, 110, 120])
    # beyond the end of the stage before: one of the stage tells, or its tokens, or its interval
    wide = chain(4, stage=[1, 1, 2, 2], step=[0, 100, 150, 300])
    np.testing.assert_array_equal(Clock.of(wide).position, [0, 100, 250, 400])
    tokens = chain(3, stage=[1, 1, 2], step=[0, 100, 170], stage_tokens=[0, 4200, 7100])
    np.testing.assert_array_equal(Clock.of(tokens).position, [0, 100, 270])
    tokens = chain(3, stage=[1, 1, 2], step=[0, 100, 170], stage_tokens=[0, 4200, 2900])
    np.testing.assert_array_equal(Clock.of(tokens).position, [0, 100, 170])
    tree = [(ROOT, 1, None, 0), (0, 1, None, 100), (1, 2, 1, 60), (2, 2, 1, 120), (1, 2, 2, 120)]
    ends = [
        SeriesCheckpoint(str(at), "", "memory", parent, stage=stage, ingredient=part, step=step)
        for at, (parent, stage, part, step) in enumerate(tree)
    ]
    np.testing.assert_array_equal(Clock.of(ends).position, [0, 100, 160, 220, 220])
    on = chain(4, stage=[1, 1, 2, 2], step=[0, 100, 110, 120])
    np.testing.assert_array_equal(Clock.of(on).position, [0, 100, 110, 120])


def test_the_child_of_a_copy_began_at_the_original() -> None:
    checkpoints = chain(5, step=[0, 10, 20, 30, 40], tokens=[0, 5, 10, 15, 20])
    clock = Clock.of(checkpoints, {2, 3})
    np.testing.assert_array_equal(clock.interval, [np.nan, 10, 10, 20, 30])
    np.testing.assert_array_equal(clock.tokens, [np.nan, 5, 5, 10, 15])
    np.testing.assert_array_equal(clock.position, [0, 10, 20, 30, 40])
    # a stage that begins with a copy of the end of the one before, and counts its steps anew
    anew = chain(4, stage=[1, 1, 2, 2], step=[0, 100, 0, 150])
    np.testing.assert_array_equal(Clock.of(anew, {2}).position, [0, 100, np.nan, 250])


def test_an_interval_that_is_not_positive_is_not_known() -> None:
    clock = Clock.of(chain(4, step=[0, 20, 10, 30], tokens=[0, 5, 5, 8]))
    assert clock.unit == "steps"
    np.testing.assert_array_equal(clock.steps, [np.nan, 20, np.nan, 20])
    np.testing.assert_array_equal(clock.tokens, [np.nan, 5, np.nan, 3])


def test_tokens_where_they_tell_more() -> None:
    checkpoints = chain(3, tokens=[0, 4, 9])
    assert Clock.of(checkpoints).unit == "tokens"
    checkpoints[1] = replace(checkpoints[1], step=5)
    checkpoints[2] = replace(checkpoints[2], step=9)
    assert Clock.of(checkpoints).unit == "tokens"
    checkpoints[0] = replace(checkpoints[0], step=0)
    assert Clock.of(checkpoints).unit == "steps"
    assert Clock.of(chain(3)).unit == "checkpoints"
    assert Clock.of([]).unit == "checkpoints"


def test_checkpoints_are_frozen() -> None:
    checkpoint: SeriesCheckpoint = chain(1)[0]
    with pytest.raises(AttributeError):
        checkpoint.parent = 3  # type: ignore[misc]
