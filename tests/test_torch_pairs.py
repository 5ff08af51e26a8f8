"""The pairs of float32 that stand for float64, function by function, against exact fractions."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from ckptdiff.backends.torch import diff_single, single
from ckptdiff.backends.torch.codes import ENCODINGS, Tables
from ckptdiff.backends.torch.diff_single import SingleDiffKernel
from ckptdiff.backends.torch.stats_single import SingleStatsKernel

from tests.test_torch_single import VALUES

TABLES = Tables(torch.device("cpu"), torch.float32)


def wide(seed: int, count: int, reach: int) -> torch.Tensor:
    """Numbers of both signs whose exponents are up to ``reach`` from 0."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(1, 2, count) * rng.choice([-1, 1], count)
    exponents = rng.integers(-reach, reach, count, endpoint=True)
    return torch.tensor(np.ldexp(values, exponents).astype(np.float32))


def fractions(values: torch.Tensor) -> list[Fraction]:
    return [Fraction(value) for value in values.tolist()]


@pytest.mark.parametrize("reach", [0, 3, 30])
def test_sums_and_products_leave_nothing_out(reach: int) -> None:
    a, b = wide(1, 3000, reach), wide(2, 3000, reach)
    for found, exact in (
        (single.two_sum(a, b), lambda x, y: x + y),
        (single.two_product(a, b), lambda x, y: x * y),
    ):
        heads, tails = map(fractions, found)
        for x, y, head, tail in zip(fractions(a), fractions(b), heads, tails, strict=True):
            assert head + tail == exact(x, y)


@pytest.mark.parametrize("size", [1, 1023, 1024, 1025, 2048, 5000])
def test_trees_add_everything_once(size: int) -> None:
    pairs = [(wide(seed, size, 2), wide(seed + 9, size, 2) * 2.0**-27) for seed in (1, 2, 3)]
    totals = single.folded(single.rows_of(iter(pairs), 3, size).tolist(), 3)
    for (heads, tails), total in zip(pairs, totals, strict=True):
        terms = fractions(heads) + fractions(tails)
        assert abs(sum(terms) - Fraction(total)) <= 2.0**-45 * sum(map(abs, terms))


@pytest.mark.parametrize("name", ["F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ",
                                  "F8_E5M2FNUZ", "U8", "I8", "U16", "I16", "BOOL"])  # fmt: skip
def test_every_code_has_its_value(name: str) -> None:
    encoding = ENCODINGS[name]
    codes = torch.arange(2**encoding.bits, dtype=torch.int32).to(encoding.code_dtype)
    bits, misfit = single.bits_of(codes, encoding, TABLES)
    expected = codes.view(encoding.torch_dtype).to(torch.float32) if name != "BOOL" else (
        codes != 0).float()  # fmt: skip
    found = bits.view(torch.float32)
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.nan_to_num(), expected.nan_to_num())
    assert torch.equal(bits[~found.isnan()], expected.view(torch.int32)[~found.isnan()])
    assert not misfit


@pytest.mark.parametrize("name", ["I32", "U32", "I64", "U64"])
@pytest.mark.parametrize(
    ("value", "fits"),
    [(2**24, True), (2**24 + 1, False), (-(2**24), True), (-(2**24) - 1, False), (-1, True)],
)
def test_integers_beyond_24_bits_are_told(name: str, value: int, fits: bool) -> None:
    encoding = ENCODINGS[name]
    codes = torch.tensor([3, value, 0]).to(encoding.code_dtype)
    bits, misfit = single.bits_of(codes, encoding, TABLES)
    fits = fits and (value >= 0 or encoding.kind == "signed")
    assert bool(misfit) != fits
    assert bits.view(torch.float32).tolist() == [3.0, float(value) if fits else 0.0, 0.0]


def test_bits_are_in_the_order_of_values() -> None:
    values = torch.tensor([-3e38, -1.0, -1e-40, -0.0, 0.0, 1e-45, 1e-40, 2.0, 3e38, math.inf])
    order = single.in_order(values.view(torch.int32))
    assert order.tolist() == sorted(order.tolist())
    assert (order[3], order[4]) == (0, 0)
    assert torch.equal(single.value_in_order(order), values)
    found = single.value_in_order(order).view(torch.int32)
    assert torch.equal(found[[0, 1, 2, 5, 6]], values.view(torch.int32)[[0, 1, 2, 5, 6]])


def test_the_first_of_equals() -> None:
    assert single.first_index(torch.tensor([False, True, True, False])) == 1
    assert single.first_index(torch.tensor([False, False, True])) == 2
    assert single.first_index(torch.tensor([True])) == 0


@pytest.mark.parametrize(
    ("largest", "at_risk", "exponent"),
    [(0.0, False, 0), (1.0, False, 0), (2.0**-60, False, -60), (1.99 * 2.0**-61, True, -60),
     (1e-45, True, -60), (1.99 * 2.0**125, False, 125), (2.0**126, True, 125),
     (2.0**127, True, 125)],
)  # fmt: skip
def test_what_is_safe_to_square(largest: float, at_risk: bool, exponent: int) -> None:
    bits = torch.tensor(largest).view(torch.int32)
    assert (bool(single.is_at_risk(bits)), int(single.exponent_of(bits))) == (at_risk, exponent)


def test_a_limit_is_three_float32() -> None:
    for limit in (0.1, 1.0, 1 + 2.0**-30, 1 + 2.0**-50, 2.0**-60, 1e30):
        thirds = diff_single._thirds(limit)
        assert sum(map(Fraction, thirds)) == Fraction(limit)


def reduced(
    a: torch.Tensor, b: torch.Tensor, name: str = "F32", **options: Any
) -> tuple[Any, list[int]]:
    encoding = ENCODINGS[name]
    kernel = SingleDiffKernel(TABLES, **options)
    codes = [side.view(encoding.code_dtype) for side in (a, b)]
    chunk = kernel.reduce(codes, (name, name))
    counts = chunk.counts.tolist()
    histogram = None if chunk.histogram is None else chunk.histogram.tolist()
    return kernel.partial(counts, chunk.sums.tolist(), histogram, (name, name)), counts


@pytest.mark.parametrize("scale", [1.0, 2.0**-50, 2.0**60])
def test_each_sum_of_a_diff_is_that_of_fractions(scale: float) -> None:
    rng = np.random.default_rng(4)
    a = torch.tensor(rng.normal(0, 1, 1500).astype(np.float32)) * scale
    # differences of every size, of which most need a tail
    b = a.flip(0) * 1.7 + torch.tensor(rng.normal(0, 1e-4, 1500).astype(np.float32)) * scale
    partial, _ = reduced(a, b)
    x, y = fractions(a), fractions(b)
    d = [q - p for p, q in zip(x, y, strict=True)]
    terms = [
        d, [abs(v) for v in d], [v * v for v in d], [v * v for v in x], [v * v for v in y],
        [v * p for v, p in zip(d, x, strict=True)], [p * q for p, q in zip(x, y, strict=True)],
    ]  # fmt: skip
    for (value, exponent), exact in zip(partial.sums, terms, strict=True):
        found = Fraction(value) * Fraction(2) ** exponent
        assert abs(found - sum(exact)) <= Fraction(2.0**-42) * sum(map(abs, exact))


@pytest.mark.parametrize("scale", [1.0, 2.0**-50, 2.0**60])
@pytest.mark.parametrize("mean", [0.0, 3.0])
def test_each_sum_of_stats_is_that_of_fractions(scale: float, mean: float) -> None:
    rng = np.random.default_rng(5)
    values = torch.tensor(rng.normal(mean, 1, 1500).astype(np.float32)) * scale
    values[7], values[1200] = math.nan, -math.inf
    kernel = SingleStatsKernel(TABLES)
    chunk = kernel.reduce([values.view(torch.int32)], ("F32",))
    partial = kernel.partial(chunk.counts.tolist(), chunk.sums.tolist(), None, ("F32",))
    assert partial is not None
    unit = Fraction(2) ** partial.exponent
    x = [v / unit for v in fractions(values[values.isfinite()])]
    assert min(x) <= Fraction(partial.pivot) <= max(x)
    assert abs(Fraction(partial.pivot) - sum(x) / len(x)) < Fraction(1, 1000)
    deviations = [v - Fraction(partial.pivot) for v in x]
    for power, found in enumerate(partial.powers, 1):
        exact = [v**power for v in deviations]
        assert abs(Fraction(found) - sum(exact)) <= Fraction(2.0**-42) * sum(map(abs, exact))
    size = Fraction(partial.absolute[0]) * Fraction(2) ** (partial.absolute[1] - partial.exponent)
    assert abs(size - sum(map(abs, x))) <= Fraction(2.0**-42) * size


#: Sums of these can leave anything out, and be anywhere about a limit.
FINITE = [value for value in VALUES if math.isfinite(value) and abs(value) < 2.0**99]


@pytest.mark.parametrize("limit", [0.1, 1.0, 1 + 2.0**-25, 1 + 2.0**-50])
def test_what_exceeds_a_limit_is_told_or_known_to_be_unsure(limit: float) -> None:
    """Pair by pair, each in a chunk beside a larger difference that float32 holds."""
    for x, y in itertools.product(FINITE, FINITE):
        a = torch.tensor([x, 64.0], dtype=torch.float32)
        b = torch.tensor([y, 192.0], dtype=torch.float32)
        d = abs(b[0].double() - a[0].double()).item()
        exact = abs(Fraction(b[0].item()) - Fraction(a[0].item()))
        tiny = 0 < exact < Fraction(2.0**-72)
        head = Fraction(float(np.float32(d)))
        # float64 may round where the sides are more than 28 binary orders apart
        apart = 0 < abs(exact - head) < head * Fraction(2.0**-29)
        for options, expected in (
            ({"atol": limit}, d > limit),
            ({"thresholds": (limit,)}, d > limit),
            ({"rtol": min(limit, 1.0), "atol": 0.0}, None),
            ({"histogram": True}, None),
        )[: 4 if limit == 1.0 else 3]:
            partial, counts = reduced(a, b, **options)
            if partial is None:
                close = abs(exact - Fraction(abs(a[0].item())) * Fraction(min(limit, 1.0)))
                assert (
                    apart
                    or ("histogram" in options and tiny)
                    or (
                        "rtol" in options
                        and close <= Fraction(2.0**-38) * exact + Fraction(2.0**-98)
                    )
                ), (x, y, options, counts)
                continue
            if "atol" in options and "rtol" not in options:
                assert partial.out_of_tolerance == 1 + expected, (x, y)
            elif "thresholds" in options:
                assert list(partial.above) == [1 + expected], (x, y)
            elif "rtol" in options:
                beyond = d > abs(a[0].double().item()) * min(limit, 1.0)
                assert partial.out_of_tolerance == 1 + beyond, (x, y)
            else:
                zeros, bins = partial.histogram
                wanted = sorted([7] + ([math.frexp(d)[1] - 1] if d else []))
                assert zeros == (d == 0)
                assert sorted(e for e, n in bins for _ in range(n)) == wanted, (x, y)
