"""The truth: every column of diff and stats in obvious numpy, sharing no code with the package.

Extremes and counts are exact: float64 for every dtype that float64 holds, Python integers for the
64-bit ones, fractions where a 64-bit integer meets a float. Sums are taken in ``longdouble``
(at least 64 bits of mantissa and 15 of exponent where the suite runs), so that neither rounding
nor range of float64 stands between the oracle and the true value.

An expectation carries, beside each column, the scale that an error is measured against: the value
itself, except where terms cancel (a mean of signed values is held against the mean of absolute
values).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import copysign, prod

import numpy as np
from numpy.typing import NDArray

from tests.dtypes import (
    DTYPES,
    Dtype,
    codes,
    largest_finite,
    pack,
    scalars,
    smallest_normal,
)
from tests.writers import Tensor

Wide = np.longdouble
Array = NDArray[np.generic]

DIFF_COLUMNS = (
    "name", "dtype_a", "dtype_b", "shape", "numel", "verdict", "changed", "bits_changed",
    "max_abs", "max_abs_index", "value_a", "value_b", "mean_diff", "mean_abs", "rms", "l2",
    "l2_a", "l2_b", "rel_l2", "cosine", "cosine_distance", "sign_flips", "nan_a", "nan_b",
    "inf_a", "inf_b", "nonfinite_mismatch", "out_of_tolerance", "max_ulp",
)  # fmt: skip
STATS_COLUMNS = (
    "name", "dtype", "shape", "numel", "bytes", "min", "max", "abs_max", "abs_max_index", "mean",
    "std", "rms", "l1", "l2", "skewness", "kurtosis", "zeros", "negatives", "subnormals", "nan",
    "pos_inf", "neg_inf", "saturated",
)  # fmt: skip

#: Columns that are sums or norms, within 1e-7 of the truth; all others are exact.
DIFF_SUMS = (
    "mean_diff", "mean_abs", "rms", "l2", "l2_a", "l2_b", "rel_l2", "cosine", "cosine_distance",
)  # fmt: skip
STATS_SUMS = ("mean", "std", "rms", "l1", "l2", "skewness", "kurtosis")

TOLERANCE = 1e-7


@dataclass
class Expected:
    """Columns of one row; ``scales`` has an entry only where it is not the value itself."""

    columns: dict[str, object]
    scales: dict[str, float] = field(default_factory=dict)


@np.errstate(all="ignore")
def exact(tensor: Tensor) -> Array:
    """Every component exactly: float64, or Python integers for the 64-bit integer dtypes."""
    dtype = DTYPES[tensor.dtype]
    native = scalars(tensor.data, dtype)
    if dtype.is_integer and dtype.bits == 64:
        return native.astype(object)
    return native.astype(np.float64)


def as_integers(array: Array) -> Array:
    """Python integers of an integer-valued array."""
    return array if array.dtype == object else array.astype(np.int64).astype(object)


def wide(array: Array) -> NDArray[np.longdouble]:
    return array.astype(Wide)


def is_finite(array: Array) -> NDArray[np.bool_]:
    if array.dtype == object:
        return np.ones(array.shape, bool)
    return np.isfinite(array)


def differences(a: Array, b: Array, both_integers: bool) -> Array:
    """b - a of finite values: an exact integer, or the exact difference rounded once to float64.

    Where a 64-bit integer meets a float that is a whole number, the difference is an exact integer
    too, up to 2**100: the integer is no more than a rounding error of a float beyond.
    """
    if both_integers:
        return as_integers(b) - as_integers(a)
    if object not in (a.dtype, b.dtype):
        return b - a
    exact_differences = [
        Fraction(y) - Fraction(x) for x, y in zip(a.tolist(), b.tolist(), strict=True)
    ]
    whole = [is_whole(x) and is_whole(y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    d = np.empty(len(whole), object)
    d[:] = [
        int(difference) if exactly else float(difference)
        for difference, exactly in zip(exact_differences, whole, strict=True)
    ]
    return d


def is_whole(value: int | float) -> bool:
    return isinstance(value, int) or (value.is_integer() and abs(value) < 2.0**100)


def ordered_codes(tensor: Tensor) -> Array:
    """Bit patterns of floats as integers in the order of the values; +0 and -0 are both 0."""
    dtype = DTYPES[tensor.dtype]
    patterns = codes(tensor.data, dtype).astype(object if dtype.component_bits == 64 else np.int64)
    if dtype.name == "F8_E8M0":  # has no sign bit
        return patterns
    sign = 1 << (dtype.component_bits - 1)
    return np.where(patterns >= sign, sign - patterns, patterns)


def to_float(value: object) -> float:
    return float(value)  # type: ignore[arg-type]


def mean(values: NDArray[np.longdouble]) -> np.longdouble:
    return values.sum() / values.size if values.size else Wide("nan")


def norm(values: NDArray[np.longdouble]) -> np.longdouble:
    return np.sqrt((values * values).sum())


def as_number(value: object, integer: bool) -> int | float:
    return int(value) if integer else float(value)  # type: ignore[call-overload, arg-type]


def multi_index(component: int, shape: Sequence[int], components: int) -> tuple[int, ...]:
    """The multi-index of a component; a complex tensor has one more last entry, 0 or 1."""
    element, part = divmod(component, components)
    index = tuple(int(i) for i in np.unravel_index(element, shape)) if shape else ()
    return (*index, part) if components == 2 else index


def beside_zeros(array: Array) -> Array:
    """Real numbers as components of complex ones: each is followed by an imaginary part of 0."""
    pairs = np.zeros(2 * array.size, array.dtype)
    pairs[::2] = array
    return pairs


@np.errstate(all="ignore")
def diff_oracle(
    a: Tensor,
    b: Tensor,
    *,
    name: str = "",
    atol: float = 0.0,
    rtol: float = 0.0,
    cast: str | None = None,
    thresholds: Sequence[float] = (),
) -> Expected:
    """Every column of a diff of two tensors of one shape."""
    stored = a.dtype, b.dtype
    if cast is not None:
        a, b = cast_oracle(a, cast), cast_oracle(b, cast)
    dtype_a, dtype_b = DTYPES[a.dtype], DTYPES[b.dtype]
    same_dtype = a.dtype == b.dtype
    both_integers = dtype_a.is_integer and dtype_b.is_integer
    components = max(dtype_a.components, dtype_b.components)
    numel = prod(a.shape)

    values_a, values_b = exact(a), exact(b)
    if dtype_a.components < components:
        values_a = beside_zeros(values_a)
    if dtype_b.components < components:
        values_b = beside_zeros(values_b)

    def elements(mask: NDArray[np.bool_]) -> int:
        return int(mask.reshape(numel, components).any(axis=1).sum())

    nan_a, nan_b = (is_nan(v) for v in (values_a, values_b))
    finite_a, finite_b = is_finite(values_a), is_finite(values_b)
    finite = finite_a & finite_b
    differ = (values_a != values_b).astype(bool) & ~(nan_a & nan_b)
    mismatch = differ & ~finite

    x, y = values_a[finite], values_b[finite]
    d = differences(x, y, both_integers)
    magnitude = np.abs(d)
    far = np.zeros(finite.shape, bool)
    far[finite] = magnitude > atol + rtol * np.abs(x).astype(np.float64)

    columns: dict[str, object] = {
        "name": name,
        "dtype_a": stored[0],
        "dtype_b": stored[1],
        "shape": tuple(a.shape),
        "numel": numel,
        "changed": elements(differ),
        "bits_changed": None,
        "max_abs": as_number(0, both_integers),
        "max_abs_index": None,
        "value_a": None,
        "value_b": None,
        "sign_flips": int((((x < 0) & (y > 0)) | ((x > 0) & (y < 0))).sum()),
        "nan_a": int(nan_a.sum()),
        "nan_b": int(nan_b.sum()),
        "inf_a": int((~finite_a & ~nan_a).sum()),
        "inf_b": int((~finite_b & ~nan_b).sum()),
        "nonfinite_mismatch": int(mismatch.sum()),
        "out_of_tolerance": elements(far),
        "max_ulp": None,
    }
    if magnitude.size and magnitude.max() > 0:
        at = int(np.flatnonzero(finite)[np.argmax(magnitude)])  # the first on ties
        columns["max_abs"] = as_number(magnitude.max(), both_integers)
        columns["max_abs_index"] = multi_index(at, a.shape, components)
        columns["value_a"] = as_number(values_a[at], dtype_a.is_integer)
        columns["value_b"] = as_number(values_b[at], dtype_b.is_integer)
    if same_dtype:
        columns["bits_changed"] = elements(codes(a.data, dtype_a) != codes(b.data, dtype_b))
        steps = d
        if dtype_a.kind in ("float", "complex"):
            steps = ordered_codes(b)[finite] - ordered_codes(a)[finite]
        columns["max_ulp"] = int(np.abs(steps).max()) if steps.size else 0
    for threshold in thresholds:
        columns[f"above_{threshold!r}"] = int((magnitude > threshold).sum())
    columns["verdict"] = verdict(columns, atol, rtol)

    wide_a, wide_b = wide(x), wide(y)
    wide_d = wide_b - wide_a
    norm_a, norm_b, norm_d = norm(wide_a), norm(wide_b), norm(wide_d)
    columns["mean_diff"] = to_float(mean(wide_d))
    columns["mean_abs"] = to_float(mean(np.abs(wide_d)))
    columns["rms"] = to_float(np.sqrt(mean(wide_d * wide_d)))
    columns["l2"], columns["l2_a"], columns["l2_b"] = map(to_float, (norm_d, norm_a, norm_b))
    distance, distance_scale = cosine_distance(wide_a, wide_b)
    columns["cosine_distance"] = to_float(distance)
    columns["cosine"] = to_float(1 - distance)
    if norm_a > 0:
        columns["rel_l2"] = to_float(norm_d / norm_a)
    else:
        columns["rel_l2"] = float("inf") if norm_d > 0 else 0.0
    scales = {
        "mean_diff": columns["mean_abs"],
        "cosine": max(distance_scale, 1e-9),
        "cosine_distance": distance_scale,
    }
    return Expected({c: columns[c] for c in ordered(columns)}, scales)  # type: ignore[arg-type]


def ordered(columns: Mapping[str, object]) -> list[str]:
    return [*DIFF_COLUMNS, *(c for c in columns if c not in DIFF_COLUMNS)]


def is_nan(array: Array) -> NDArray[np.bool_]:
    return ~is_finite(array) if array.dtype == object else np.isnan(array)


def verdict(columns: Mapping[str, object], atol: float, rtol: float) -> str:
    if columns["bits_changed"] == 0:
        return "bit_identical"
    if columns["changed"] == 0:
        return "equal"
    tolerated = columns["out_of_tolerance"] == 0 and columns["nonfinite_mismatch"] == 0
    return "within_tolerance" if (atol > 0 or rtol > 0) and tolerated else "different"


def cosine_distance(
    a: NDArray[np.longdouble], b: NDArray[np.longdouble]
) -> tuple[np.longdouble, float]:
    """1 - a.b / (|a| |b|) and the size of the terms that DESIGN.md's formula subtracts."""
    norm_a, norm_b, norm_d = norm(a), norm(b), norm(b - a)
    if norm_a == 0 and norm_b == 0:
        return Wide(0), 0.0
    if norm_a == 0 or norm_b == 0:
        return Wide("nan"), 0.0
    # Half the squared distance of the unit vectors: 1 - a.b/(|a||b|) without its cancellation.
    distance = norm(b / norm_b - a / norm_a) ** 2 / 2
    terms = (norm_d**2 + 2 * abs(norm_a - norm_b) * (norm_a + norm_b)) / (2 * norm_a * norm_b)
    # Where the sides are far apart, a cosine is the quotient of three numbers that are right to the
    # tolerance, and its own size is what errs; the square of an error is left to a small distance.
    if norm_d > max(norm_a, norm_b) / 2:
        terms = max(terms, Wide(1))
    return distance, min(to_float(terms), 3.0) + TOLERANCE


@np.errstate(all="ignore")
def stats_oracle(tensor: Tensor, *, name: str = "") -> Expected:
    """Every column of the stats of one tensor."""
    dtype = DTYPES[tensor.dtype]
    values = exact(tensor)
    finite = is_finite(values)
    x = values[finite]
    magnitude = np.abs(x)
    nan = is_nan(values)
    columns: dict[str, object] = {
        "name": name,
        "dtype": tensor.dtype,
        "shape": tuple(tensor.shape),
        "numel": prod(tensor.shape),
        "bytes": len(tensor.data),
        "min": None,
        "max": None,
        "abs_max": None,
        "abs_max_index": None,
        "zeros": int((x == 0).sum()),
        "negatives": int((x < 0).sum()),
        "subnormals": 0,
        "nan": int(nan.sum()),
        "pos_inf": int((~finite & ~nan & (values > 0)).sum()),
        "neg_inf": int((~finite & ~nan & (values < 0)).sum()),
        "saturated": saturated(x, dtype),
    }
    if x.size:
        at = int(np.flatnonzero(finite)[np.argmax(magnitude)])
        columns["min"] = as_number(x.min(), dtype.is_integer)
        columns["max"] = as_number(x.max(), dtype.is_integer)
        columns["abs_max"] = as_number(magnitude.max(), dtype.is_integer)
        columns["abs_max_index"] = multi_index(at, tensor.shape, dtype.components)
    if dtype.kind in ("float", "complex") and dtype.name != "F8_E8M0":  # which has no subnormals
        columns["subnormals"] = int(((magnitude > 0) & (magnitude < smallest_normal(dtype))).sum())

    w = wide(x)
    center = mean(w)
    z = w - center
    variance = mean(z * z)
    std = np.sqrt(variance)
    columns["mean"] = to_float(center)
    columns["std"] = to_float(std)
    columns["rms"] = to_float(np.sqrt(mean(w * w)))
    columns["l1"] = to_float(np.abs(w).sum())
    columns["l2"] = to_float(norm(w))
    # A constant's mean is rounded in any arithmetic: its deviations are zero by definition.
    scales = {"mean": to_float(mean(np.abs(w)))}
    if x.size == 0 or (x == x[0]).all():
        columns["std"] = 0.0 if x.size else float("nan")
        columns["skewness"] = columns["kurtosis"] = float("nan")
    else:
        u = z / std
        columns["skewness"] = to_float(mean(u * u * u))
        columns["kurtosis"] = to_float(mean(u * u * u * u) - 3)
        scales["skewness"] = to_float(mean(np.abs(u * u * u)))
        scales["kurtosis"] = to_float(mean(u * u * u * u))
    return Expected({c: columns[c] for c in STATS_COLUMNS}, scales)


def saturated(x: Array, dtype: Dtype) -> int:
    """Finite values at the dtype's largest finite magnitude, or an integer's end of the range.

    None for booleans: every true would be one.
    """
    if dtype.kind == "bool":
        return 0
    if dtype.kind == "signed":
        limits = np.iinfo(dtype.scalar)
        return int(((x == int(limits.max)) | (x == int(limits.min))).sum())
    return int((np.abs(x) == largest_finite(dtype)).sum())


def log2_histogram(magnitudes: Array) -> tuple[int, list[tuple[int, int]]]:
    """(zeros, [(e, n)]): n values with 2**e <= |value| < 2**(e + 1), for finite values."""
    zeros = int((magnitudes == 0).sum())
    exponents: dict[int, int] = {}
    for value in magnitudes[magnitudes != 0].tolist():
        exponent = value.bit_length() - 1 if isinstance(value, int) else int(np.frexp(value)[1]) - 1
        exponents[exponent] = exponents.get(exponent, 0) + 1
    return zeros, sorted(exponents.items())


# Casting: the nearest representable value, ties to the even bit pattern.


def magnitudes_of(target: Dtype) -> NDArray[np.float64]:
    """The finite magnitudes of a small float dtype, by code, and the step that would follow."""
    patterns = np.arange(1 << (target.bits - 1), dtype=target.code_type)
    values = patterns.view(target.scalar).astype(np.float64)
    finite = values[np.isfinite(values)]
    return np.append(finite, 2 * finite[-1] - finite[-2])


def nearest_code(value: float | int, magnitudes: Sequence[float]) -> int:
    """The code of the nearest magnitude, compared in exact arithmetic; ties go to the even code."""
    lower = bisect_right(magnitudes, value) - 1
    if lower == len(magnitudes) - 1:
        return lower
    doubled, middle = 2 * Fraction(value), Fraction(magnitudes[lower] + magnitudes[lower + 1])
    return lower + (doubled > middle or (doubled == middle and lower % 2 == 1))


@np.errstate(all="ignore")
def cast_oracle(tensor: Tensor, name: str) -> Tensor:
    """The tensor rounded to dtype ``name``: to the nearest value, ties to the even bit pattern.

    What rounds beyond the largest finite value becomes Inf, or NaN in a dtype without Inf. The
    FNUZ kinds have one zero, whose negative is their NaN.
    """
    target, source = DTYPES[name], DTYPES[tensor.dtype]
    if target == source:
        return tensor
    native = scalars(tensor.data, source)
    if target.bits >= 32:
        return Tensor(name, tensor.shape, native.astype(target.scalar).tobytes())
    magnitudes = magnitudes_of(target).tolist()
    largest, sign = len(magnitudes) - 2, 1 << (target.bits - 1)
    fnuz = name.endswith("FNUZ")
    not_a_number = sign if fnuz else sign - 1
    infinity = largest + 1 if name in ("F16", "BF16", "F8_E5M2") else not_a_number
    rounded = []
    for value in exact(tensor).tolist():
        negative = sign if copysign(1.0, value) < 0 else 0
        if value != value:
            code = canonical_nan(target)
        else:
            code = infinity
            if abs(value) != float("inf"):
                nearest = nearest_code(abs(value), magnitudes)
                code = nearest if nearest <= largest else infinity
            if not (fnuz and code in (0, not_a_number)):
                code |= negative
        rounded.append(code)
    return Tensor(name, tensor.shape, pack(np.array(rounded, np.uint64), target))


def canonical_nan(target: Dtype) -> int:
    """The quiet NaN that numpy's NaN becomes."""
    return int(np.array([np.nan]).astype(target.scalar).view(target.code_type)[0])
