//! Every kernel against a naive loop, for every dtype and ISA level.
//!
//! The loop decodes with powers of two and sums in `f64`, element by element; it shares no code
//! with the crate.

use std::collections::BTreeMap;
use std::sync::Arc;

use ckptdiff_kernels::{
    BLOCK, DType, DiffKernel, DiffOptions, DiffPartial, Level, StatsKernel, StatsOptions,
    StatsPartial,
};
use proptest::prelude::*;

/// Lengths around every lane, group, piece of a group and block.
const LENGTHS: [usize; 15] = [
    0,
    1,
    7,
    8,
    9,
    15,
    16,
    17,
    63,
    64,
    65,
    BLOCK - 1,
    BLOCK,
    BLOCK + 1,
    3 * BLOCK + 100,
];

/// (exponent bits, mantissa bits, bias, has Inf, all ones is NaN, negative zero is NaN)
fn format(dtype: DType) -> Option<(u32, u32, i32, bool, bool, bool)> {
    Some(match dtype {
        DType::F16 => (5, 10, 15, true, false, false),
        DType::BF16 => (8, 7, 127, true, false, false),
        DType::F8E4M3 => (4, 3, 7, false, true, false),
        DType::F8E5M2 => (5, 2, 15, true, false, false),
        DType::F8E4M3Fnuz => (4, 3, 8, false, false, true),
        DType::F8E5M2Fnuz => (5, 2, 16, false, false, true),
        DType::F4 => (2, 1, 1, false, false, false),
        DType::F6E2M3 => (2, 3, 1, false, false, false),
        DType::F6E3M2 => (3, 2, 3, false, false, false),
        _ => return None,
    })
}

fn code_at(width: usize, bytes: &[u8], index: usize) -> u64 {
    (0..width).fold(0u64, |code, bit| {
        let position = index * width + bit;
        code | u64::from(bytes[position / 8] >> (position % 8) & 1) << bit
    })
}

/// What the parts of a complex number are.
fn part(dtype: DType) -> DType {
    match dtype {
        DType::C64 => DType::F32,
        DType::C128 => DType::F64,
        real => real,
    }
}

/// A part of an element, where the other side has `parts` of them.
fn decode_part(dtype: DType, parts: usize, bytes: &[u8], index: usize) -> f64 {
    if dtype.components() == parts {
        decode(part(dtype), bytes, index)
    } else if index.is_multiple_of(2) {
        decode(dtype, bytes, index / 2)
    } else {
        0.0
    }
}

/// How many representable values lie below a code's.
fn steps(dtype: DType, bytes: &[u8], index: usize) -> i128 {
    let width = part(dtype).bits() as usize;
    let code = code_at(width, bytes, index);
    match dtype {
        DType::Bool => i128::from(code != 0),
        DType::U8 | DType::U16 | DType::U32 | DType::U64 | DType::F8E8M0 => i128::from(code),
        DType::I8 => i128::from(code as i8),
        DType::I16 => i128::from(code as i16),
        DType::I32 => i128::from(code as i32),
        DType::I64 => i128::from(code as i64),
        _ => {
            let magnitude = i128::from(code & ((1 << (width - 1)) - 1));
            if code >> (width - 1) == 0 {
                magnitude
            } else {
                -magnitude
            }
        }
    }
}

fn decode(dtype: DType, bytes: &[u8], index: usize) -> f64 {
    let code = code_at(dtype.bits() as usize, bytes, index);
    match dtype {
        DType::Bool => f64::from(u8::from(code != 0)),
        DType::U8 | DType::U16 | DType::U32 => code as f64,
        DType::I8 => f64::from(code as i8),
        DType::I16 => f64::from(code as i16),
        DType::I32 => f64::from(code as i32),
        DType::F32 => f64::from(f32::from_bits(code as u32)),
        DType::F64 => f64::from_bits(code),
        DType::F8E8M0 if code == 255 => f64::NAN,
        DType::F8E8M0 => 2f64.powi(code as i32 - 127),
        other => {
            let (exponent_bits, mantissa_bits, bias, ieee, ones, fnuz) =
                format(other).expect("a small float");
            let magnitude = code & ((1 << (exponent_bits + mantissa_bits)) - 1);
            let negative = code >> (exponent_bits + mantissa_bits) & 1 == 1;
            let exponent = (magnitude >> mantissa_bits) as i32;
            let mantissa = (magnitude & ((1 << mantissa_bits) - 1)) as f64;
            let unit = 2f64.powi(-(mantissa_bits as i32));
            let value = if ieee && exponent == (1 << exponent_bits) - 1 {
                if mantissa == 0.0 {
                    f64::INFINITY
                } else {
                    f64::NAN
                }
            } else if (ones && magnitude == (1 << (exponent_bits + mantissa_bits)) - 1)
                || (fnuz && negative && magnitude == 0)
            {
                f64::NAN
            } else if exponent == 0 {
                mantissa * unit * 2f64.powi(1 - bias)
            } else {
                (1.0 + mantissa * unit) * 2f64.powi(exponent - bias)
            };
            if negative { -value } else { value }
        }
    }
}

fn close(found: f64, expected: f64, scale: f64) -> bool {
    found == expected
        || found.is_nan() && expected.is_nan()
        || (found - expected).abs() <= 1e-7 * expected.abs().max(scale)
}

/// The real dtypes that a naive `f64` loop can judge. Quantised ones, which come in whole blocks,
/// are judged in a file of their own.
fn judged() -> Vec<DType> {
    let left_out = [DType::U64, DType::I64, DType::C64, DType::C128];
    DType::ALL
        .into_iter()
        .filter(|dtype| !left_out.contains(dtype) && !dtype.is_quantised())
        .collect()
}

/// Those and the complex ones.
fn judged_with_complex() -> Vec<DType> {
    let mut dtypes = judged();
    dtypes.extend([DType::C64, DType::C128]);
    dtypes
}

fn diff(level: Level, dtypes: (DType, DType), a: &[u8], b: &[u8], count: usize) -> DiffPartial {
    diff_with(DiffOptions::default(), level, dtypes, a, b, count)
}

fn diff_with(
    options: DiffOptions,
    level: Level,
    dtypes: (DType, DType),
    a: &[u8],
    b: &[u8],
    count: usize,
) -> DiffPartial {
    let mut partial = DiffPartial::default();
    let mut kernel = DiffKernel::new(level, Arc::new(options));
    kernel.accumulate((dtypes.0, a), (dtypes.1, b), count, 0, &mut partial);
    partial
}

fn check_diff(dtypes: (DType, DType), a: &[u8], b: &[u8], count: usize) {
    let context = format!("{} against {}, {count} elements", dtypes.0, dtypes.1);
    let partial = diff(Level::best(), dtypes, a, b, count);
    for level in Level::available() {
        // NaN is not equal to itself, so compare what is printed.
        let other = diff(level, dtypes, a, b, count);
        assert_eq!(
            format!("{other:?}"),
            format!("{partial:?}"),
            "{context}, {level:?}"
        );
    }
    let summary = partial.finish();
    let parts = dtypes.0.components().max(dtypes.1.components());
    let pairs: Vec<(f64, f64)> = (0..count * parts)
        .map(|index| {
            (
                decode_part(dtypes.0, parts, a, index),
                decode_part(dtypes.1, parts, b, index),
            )
        })
        .collect();
    let elements = |condition: &dyn Fn(f64, f64) -> bool| {
        let element = |pairs: &&[(f64, f64)]| pairs.iter().any(|(a, b)| condition(*a, *b));
        pairs.chunks(parts).filter(element).count() as u64
    };
    let finite: Vec<(usize, f64, f64)> = pairs
        .iter()
        .enumerate()
        .filter(|(_, (a, b))| a.is_finite() && b.is_finite())
        .map(|(index, (a, b))| (index, *a, *b))
        .collect();
    let equal = |a: f64, b: f64| a == b || a.is_nan() && b.is_nan();
    let number = |condition: &dyn Fn(f64, f64) -> bool| {
        pairs.iter().filter(|(a, b)| condition(*a, *b)).count() as u64
    };
    assert_eq!(summary.finite, finite.len() as u64, "{context}");
    assert_eq!(summary.changed, elements(&|a, b| !equal(a, b)), "{context}");
    if dtypes.0 == dtypes.1 {
        let width = part(dtypes.0).bits() as usize;
        let same = |index: &usize| code_at(width, a, *index) == code_at(width, b, *index);
        let differing = (0..count)
            .filter(|element| !(element * parts..(element + 1) * parts).all(|index| same(&index)));
        assert_eq!(summary.bits_changed, differing.count() as u64, "{context}");
        let farthest = finite
            .iter()
            .map(|(index, ..)| steps(dtypes.0, a, *index).abs_diff(steps(dtypes.0, b, *index)))
            .max();
        let farthest = farthest.unwrap_or(0);
        assert_eq!(u128::from(summary.max_ulp), farthest, "{context}");
    }
    let (atol, rtol, threshold) = (0.25, 0.01, 3.0);
    let options = DiffOptions {
        atol,
        rtol,
        thresholds: vec![threshold],
        ..DiffOptions::default()
    };
    let tolerant = diff_with(options, Level::best(), dtypes, a, b, count);
    let both = |a: f64, b: f64| a.is_finite() && b.is_finite();
    assert_eq!(
        tolerant.finish().out_of_tolerance,
        elements(&|a, b| both(a, b) && (b - a).abs() > atol + rtol * a.abs()),
        "{context}"
    );
    assert_eq!(
        tolerant.above(0),
        number(&|a, b| both(a, b) && (b - a).abs() > threshold),
        "{context}"
    );
    assert_eq!(summary.nan_a, number(&|a, _| a.is_nan()), "{context}");
    assert_eq!(summary.nan_b, number(&|_, b| b.is_nan()), "{context}");
    assert_eq!(summary.inf_a, number(&|a, _| a.is_infinite()), "{context}");
    assert_eq!(summary.inf_b, number(&|_, b| b.is_infinite()), "{context}");
    let flips = |a: f64, b: f64| {
        a.is_finite() && b.is_finite() && a != 0.0 && b != 0.0 && (a < 0.0) != (b < 0.0)
    };
    assert_eq!(summary.sign_flips, number(&flips), "{context}");
    let largest = finite
        .iter()
        .map(|(index, a, b)| (*index, (b - a).abs()))
        .fold(
            (0, 0.0),
            |best, next| if next.1 > best.1 { next } else { best },
        );
    assert_eq!(summary.max_abs.to_f64(), largest.1, "{context}");
    if largest.1 > 0.0 {
        assert_eq!(summary.max_abs_index, Some(largest.0 as u64), "{context}");
    }
    // Norms with the largest magnitude taken out, so that the loop itself does not overflow.
    let norm = |values: &dyn Fn(f64, f64) -> f64| {
        let unit = finite
            .iter()
            .map(|(_, a, b)| values(*a, *b).abs())
            .fold(0.0, f64::max);
        let squares: f64 = finite
            .iter()
            .map(|(_, a, b)| (values(*a, *b) / unit).powi(2))
            .sum();
        if unit == 0.0 {
            0.0
        } else {
            unit * squares.sqrt()
        }
    };
    assert!(close(summary.l2_a, norm(&|a, _| a), 0.0), "{context}: l2_a");
    assert!(close(summary.l2_b, norm(&|_, b| b), 0.0), "{context}: l2_b");
    let l2 = norm(&|a, b| b - a);
    if l2.is_finite() {
        assert!(
            close(summary.l2, l2, 0.0),
            "{context}: l2 {} {l2}",
            summary.l2
        );
        let absolute: f64 = finite
            .iter()
            .map(|(_, a, b)| (b - a).abs() / count as f64)
            .sum();
        let mean_abs = absolute / finite.len() as f64 * count as f64;
        assert!(
            close(summary.mean_abs, mean_abs, 0.0),
            "{context}: mean_abs"
        );
        let difference: f64 = finite.iter().map(|(_, a, b)| (b - a) / count as f64).sum();
        let mean_diff = difference / finite.len() as f64 * count as f64;
        assert!(
            close(summary.mean_diff, mean_diff, mean_abs),
            "{context}: mean_diff"
        );
    }
}

fn check_stats(dtype: DType, bytes: &[u8], count: usize) {
    let context = format!("{dtype}, {count} elements");
    let reduce = |level| {
        let mut partial = StatsPartial::default();
        StatsKernel::new(level, Arc::new(StatsOptions::default())).accumulate(
            dtype,
            bytes,
            count,
            0,
            &mut partial,
        );
        partial
    };
    let partial = reduce(Level::best());
    let summary = partial.finish();
    for level in Level::available() {
        let other = reduce(level).finish();
        // NaN is not equal to itself, so compare what is printed.
        assert_eq!(
            format!("{other:?}"),
            format!("{summary:?}"),
            "{context}, {level:?}"
        );
    }
    let values: Vec<f64> = (0..count)
        .map(|index| decode(dtype, bytes, index))
        .collect();
    let finite: Vec<f64> = values.iter().copied().filter(|x| x.is_finite()).collect();
    let number =
        |condition: &dyn Fn(f64) -> bool| values.iter().filter(|x| condition(**x)).count() as u64;
    assert_eq!(summary.nan, number(&f64::is_nan), "{context}");
    assert_eq!(
        summary.pos_inf,
        number(&|x| x == f64::INFINITY),
        "{context}"
    );
    assert_eq!(
        summary.neg_inf,
        number(&|x| x == f64::NEG_INFINITY),
        "{context}"
    );
    assert_eq!(summary.zeros, number(&|x| x == 0.0), "{context}");
    assert_eq!(
        summary.negatives,
        number(&|x| x.is_finite() && x < 0.0),
        "{context}"
    );
    if finite.is_empty() {
        assert!(summary.min.is_nan() && summary.mean.is_nan(), "{context}");
        return;
    }
    let min = finite.iter().copied().fold(f64::INFINITY, f64::min);
    let max = finite.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    assert_eq!(summary.min.to_f64(), min, "{context}");
    assert_eq!(summary.max.to_f64(), max, "{context}");
    assert_eq!(summary.abs_max.to_f64(), max.max(-min), "{context}");
    let first = values.iter().position(|x| x.abs() == max.max(-min));
    assert_eq!(
        summary.abs_max_index,
        first.map(|index| index as u64),
        "{context}"
    );
    // Moments of values scaled to at most 1.
    let unit = if max.max(-min) == 0.0 {
        1.0
    } else {
        max.max(-min)
    };
    let n = finite.len() as f64;
    let scaled: Vec<f64> = finite.iter().map(|x| x / unit).collect();
    let mean = scaled.iter().sum::<f64>() / n;
    let moment = |power| scaled.iter().map(|x| (x - mean).powi(power)).sum::<f64>() / n;
    let (std, absolute) = (
        moment(2).sqrt(),
        scaled.iter().map(|x| x.abs()).sum::<f64>(),
    );
    assert!(
        close(summary.mean / unit, mean, absolute / n),
        "{context}: mean"
    );
    assert!(
        close(summary.l1 / unit, absolute, 0.0) || summary.l1.is_infinite(),
        "{context}: l1"
    );
    assert!(close(summary.std / unit, std, 1e-8), "{context}: std");
    if std > 1e-6 {
        let skewness = moment(3) / std.powi(3);
        assert!(
            close(summary.skewness, skewness, 1.0),
            "{context}: skewness"
        );
        let kurtosis = moment(4) / std.powi(4);
        assert!(
            close(summary.kurtosis + 3.0, kurtosis, 0.0),
            "{context}: kurtosis"
        );
    }
}

/// Bytes that are any codes at all.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    })
    .take(length)
    .collect()
}

/// Bytes whose floats are all finite and of like magnitude: the exponent is held.
fn weights(dtype: DType, seed: u64, count: usize) -> Vec<u8> {
    let mut bytes = noise(seed, count * dtype.bits() as usize / 8 + 8);
    let (top, keep) = match dtype {
        DType::F64 | DType::C128 => (0x3f, 0x80),
        DType::F32 | DType::C64 | DType::BF16 | DType::F16 => (0x3c, 0x83),
        DType::F8E4M3 | DType::F8E4M3Fnuz | DType::F8E5M2 | DType::F8E5M2Fnuz => (0x20, 0x9f),
        _ => return bytes,
    };
    let width = part(dtype).bits() as usize / 8;
    for code in bytes.chunks_exact_mut(width) {
        code[width - 1] = code[width - 1] & keep | top;
    }
    bytes
}

#[test]
fn every_pair_of_dtypes_and_every_length() {
    for dtype_a in judged_with_complex() {
        for dtype_b in judged_with_complex() {
            for count in LENGTHS {
                let (a, b) = (noise(1, 16 * count + 8), noise(2, 16 * count + 8));
                check_diff((dtype_a, dtype_b), &a, &b, count);
            }
        }
    }
}

#[test]
fn ordinary_weights_of_different_dtypes() {
    let floats = [
        DType::F16,
        DType::BF16,
        DType::F32,
        DType::F64,
        DType::C64,
        DType::F8E4M3,
    ];
    for dtype_a in floats {
        for dtype_b in floats {
            for count in LENGTHS {
                let (a, b) = (weights(dtype_a, 3, count), weights(dtype_b, 4, count));
                check_diff((dtype_a, dtype_b), &a, &b, count);
            }
        }
    }
}

/// An integer by its code, exactly.
fn integer(dtype: DType, bytes: &[u8], index: usize) -> i128 {
    steps(dtype, bytes, index)
}

fn check_integers(dtypes: (DType, DType), a: &[u8], b: &[u8], count: usize) {
    let context = format!("{} against {}, {count} elements", dtypes.0, dtypes.1);
    let partial = diff(Level::best(), dtypes, a, b, count);
    for level in Level::available() {
        let other = diff(level, dtypes, a, b, count);
        assert_eq!(
            format!("{other:?}"),
            format!("{partial:?}"),
            "{context}, {level:?}"
        );
    }
    let summary = partial.finish();
    let pairs: Vec<(i128, i128)> = (0..count)
        .map(|index| (integer(dtypes.0, a, index), integer(dtypes.1, b, index)))
        .collect();
    let changed = pairs.iter().filter(|(a, b)| a != b).count() as u64;
    let flips = pairs
        .iter()
        .filter(|(a, b)| a.signum() * b.signum() < 0)
        .count() as u64;
    assert_eq!(summary.finite, count as u64, "{context}");
    assert_eq!(summary.changed, changed, "{context}");
    assert_eq!(summary.sign_flips, flips, "{context}");
    assert_eq!(summary.out_of_tolerance, changed, "{context}");
    let farthest = pairs.iter().map(|(a, b)| (b - a).abs()).max().unwrap_or(0);
    assert_eq!(summary.max_abs.to_integer(), farthest, "{context}");
    if dtypes.0 == dtypes.1 {
        assert_eq!(summary.bits_changed, changed, "{context}");
        assert_eq!(i128::from(summary.max_ulp), farthest, "{context}");
    }
    if farthest > 0 {
        let first = pairs.iter().position(|(a, b)| (b - a).abs() == farthest);
        let first = first.expect("the largest is one of them");
        assert_eq!(summary.max_abs_index, Some(first as u64), "{context}");
        assert_eq!(summary.value_a.to_integer(), pairs[first].0, "{context}");
        assert_eq!(summary.value_b.to_integer(), pairs[first].1, "{context}");
    }
    let sum = |value: &dyn Fn(i128, i128) -> f64| -> f64 {
        pairs.iter().map(|(a, b)| value(*a, *b)).sum()
    };
    let square = |x: i128| (x as f64).powi(2);
    let l2_a = sum(&|a, _| square(a)).sqrt();
    let l2_b = sum(&|_, b| square(b)).sqrt();
    let l2 = sum(&|a, b| square(b - a)).sqrt();
    assert!(close(summary.l2_a, l2_a, 0.0), "{context}: l2_a");
    assert!(close(summary.l2_b, l2_b, 0.0), "{context}: l2_b");
    assert!(close(summary.l2, l2, 0.0), "{context}: l2");
    if count > 0 {
        let mean_abs = sum(&|a, b| (b - a).abs() as f64) / count as f64;
        let mean_diff = pairs.iter().map(|(a, b)| b - a).sum::<i128>() as f64 / count as f64;
        assert!(
            close(summary.mean_abs, mean_abs, 0.0),
            "{context}: mean_abs"
        );
        assert!(
            close(summary.mean_diff, mean_diff, mean_abs),
            "{context}: mean_diff"
        );
    }
}

#[test]
fn integers_of_every_size() {
    let dtypes = [
        DType::Bool,
        DType::I8,
        DType::U16,
        DType::I32,
        DType::U32,
        DType::I64,
        DType::U64,
    ];
    for count in LENGTHS {
        for dtype_a in dtypes {
            for dtype_b in dtypes {
                if dtype_a == DType::Bool && dtype_b == DType::Bool {
                    continue; // Two bytes for true are different codes.
                }
                let (a, b) = (noise(6, 8 * count + 8), noise(7, 8 * count + 8));
                check_integers((dtype_a, dtype_b), &a, &b, count);
                check_integers((dtype_a, dtype_b), &a, &a, count);
            }
        }
    }
}

#[test]
fn integers_at_the_ends_of_their_range() {
    for (dtype, low, high) in [
        (DType::I8, i128::from(i8::MIN), i128::from(i8::MAX)),
        (DType::U8, 0, i128::from(u8::MAX)),
        (DType::I16, i128::from(i16::MIN), i128::from(i16::MAX)),
        (DType::U16, 0, i128::from(u16::MAX)),
        (DType::I32, i128::from(i32::MIN), i128::from(i32::MAX)),
        (DType::U32, 0, i128::from(u32::MAX)),
        (DType::I64, i128::from(i64::MIN), i128::from(i64::MAX)),
        (DType::U64, 0, i128::from(u64::MAX)),
    ] {
        let width = dtype.bits() as usize / 8;
        let codes = |values: &[i128]| -> Vec<u8> {
            let values = values.iter().cycle().take(BLOCK + 100);
            values
                .flat_map(|value| value.to_le_bytes()[..width].to_vec())
                .collect()
        };
        for a in [
            vec![low],
            vec![high],
            vec![low, high],
            vec![0, low, high, 1],
        ] {
            for b in [vec![low], vec![high], vec![high, low], vec![1, 0, 0]] {
                check_integers((dtype, dtype), &codes(&a), &codes(&b), BLOCK + 100);
            }
        }
    }
}

#[test]
fn integers_of_64_bits_around_what_is_exact_in_f64() {
    let count = BLOCK + 65;
    for bits in [20, 50, 51, 52, 53, 54, 62, 63] {
        // Blocks of small integers, and one at a time that is not so small.
        for nudge in [-2i128, -1, 0, 1, 2] {
            for sign in [1i128, -1] {
                for at in [0, 63, BLOCK - 1, BLOCK, count - 1] {
                    let value = sign * (1i128 << bits) + nudge;
                    for (dtype, range) in [
                        (DType::I64, i128::from(i64::MIN)..1 << 63),
                        (DType::U64, 0..1 << 64),
                    ] {
                        if !range.contains(&value) {
                            continue;
                        }
                        let mut values: Vec<i128> =
                            (0..count).map(|index| index as i128 * 37 % 1009).collect();
                        let codes = |values: &[i128]| -> Vec<u8> {
                            let words = values.iter().map(|value| *value as u64);
                            words.flat_map(u64::to_le_bytes).collect()
                        };
                        let a = codes(&values);
                        values[at] = value;
                        values[count / 2] += 1;
                        let b = codes(&values);
                        check_integers((dtype, dtype), &a, &b, count);
                        check_integers((dtype, dtype), &b, &a, count);
                        check_integers((dtype, dtype), &b, &b, count);
                    }
                }
            }
        }
    }
}

#[test]
fn ordinary_weights_take_the_fast_paths() {
    for dtype in judged_with_complex() {
        for count in LENGTHS {
            let (a, b) = (weights(dtype, 3, count), weights(dtype, 4, count));
            check_diff((dtype, dtype), &a, &b, count);
            check_diff((dtype, dtype), &a, &a, count);
            if dtype.components() == 1 {
                check_stats(dtype, &a, count);
            }
        }
    }
}

#[test]
fn stats_of_any_codes() {
    for dtype in judged() {
        for count in LENGTHS {
            check_stats(dtype, &noise(5, 8 * count + 8), count);
        }
    }
}

proptest! {
    #[test]
    fn merged_runs_are_the_whole(
        seed: u64,
        blocks in 1usize..6,
        rest in 0usize..BLOCK,
        cut in 1usize..6,
        dtype in proptest::sample::select(judged()),
    ) {
        let count = blocks * BLOCK + rest;
        let cut = cut.min(blocks) * BLOCK;
        let bits = dtype.bits() as usize;
        let (a, b) = (weights(dtype, seed, count), weights(dtype, !seed, count));
        let whole = diff(Level::best(), (dtype, dtype), &a, &b, count).finish();
        let mut kernel = DiffKernel::new(Level::best(), Arc::new(DiffOptions::default()));
        let (mut first, mut second) = (DiffPartial::default(), DiffPartial::default());
        kernel.accumulate((dtype, &a), (dtype, &b), cut, 0, &mut first);
        let at = cut * bits / 8;
        kernel.accumulate((dtype, &a[at..]), (dtype, &b[at..]), count - cut, cut as u64, &mut second);
        first.merge(&second);
        let merged = first.finish();
        prop_assert_eq!(merged.changed, whole.changed);
        prop_assert_eq!(merged.max_abs, whole.max_abs);
        prop_assert_eq!(merged.max_abs_index, whole.max_abs_index);
        prop_assert_eq!(merged.max_ulp, whole.max_ulp);
        prop_assert_eq!(merged.bits_changed, whole.bits_changed);
        prop_assert!(close(merged.l2, whole.l2, 0.0));
        prop_assert!(close(merged.rel_l2, whole.rel_l2, 0.0));
        prop_assert!((merged.cosine_distance - whole.cosine_distance).abs() < 1e-9
            || merged.cosine_distance.is_nan());
    }

    #[test]
    fn cosine_distance_resolves_a_small_rotation(angle in 1e-9f64..1e-3) {
        // Two vectors of many elements, of equal norm, at a known angle.
        let half = 4096;
        let mut a = Vec::new();
        let mut b = Vec::new();
        for index in 0..2 * half {
            let (x, y): (f64, f64) = if index % 2 == 0 {
                (1.0, angle.cos())
            } else {
                (0.0, angle.sin())
            };
            a.extend(x.to_le_bytes());
            b.extend(y.to_le_bytes());
        }
        let summary = diff(Level::best(), (DType::F64, DType::F64), &a, &b, 2 * half).finish();
        let expected = 2.0 * (angle / 2.0).sin().powi(2);
        prop_assert!(
            (summary.cosine_distance / expected - 1.0).abs() < 1e-6,
            "{} {}", summary.cosine_distance, expected
        );
    }
}

/// What is asked for on top, of pairs that are given as values in `f64`, against the loop.
fn check_extras(dtype: DType, a: &[u8], b: &[u8], count: usize, options: &DiffOptions) {
    let context = format!("{dtype}, {count} elements, {options:?}");
    let differences: Vec<(f64, f64)> = (0..count)
        .map(|index| (decode(dtype, a, index), decode(dtype, b, index)))
        .filter(|(a, b)| a.is_finite() && b.is_finite())
        .map(|(a, b)| ((b - a).abs(), a.abs()))
        .collect();
    let number = |condition: &dyn Fn(f64, f64) -> bool| {
        let found = differences.iter().filter(|(d, a)| condition(*d, *a));
        found.count() as u64
    };
    let bins = bins_of(differences.iter().map(|(difference, _)| *difference));
    for level in Level::available() {
        let mut partial = DiffPartial::default();
        let mut kernel = DiffKernel::new(level, Arc::new(options.clone()));
        kernel.accumulate((dtype, a), (dtype, b), count, 0, &mut partial);
        for (index, threshold) in options.thresholds.iter().enumerate() {
            assert_eq!(
                partial.above(index),
                number(&|d, _| d > *threshold),
                "{context}, {level:?}: above {threshold:e}"
            );
        }
        assert_eq!(
            partial.finish().out_of_tolerance,
            number(&|d, a| d > options.atol + options.rtol * a),
            "{context}, {level:?}: out of tolerance"
        );
        if options.histogram {
            let histogram = partial.histogram().expect("asked for");
            assert_eq!(
                histogram.zeros(),
                number(&|d, _| d == 0.0),
                "{context}, {level:?}: zeros"
            );
            let found: Vec<_> = histogram.bins().collect();
            assert_eq!(
                found,
                Vec::from_iter(bins.clone()),
                "{context}, {level:?}: bins"
            );
        }
    }
}

/// Thresholds among which some of every distance between the pairs, and their neighbours.
fn thresholds_at(dtype: DType, a: &[u8], b: &[u8], count: usize) -> Vec<f64> {
    let mut thresholds = vec![0.0, 1e-8, 1e-4, 0.1, 1.0, f64::MAX];
    for index in (0..count).step_by(1 + count / 7) {
        let difference = (decode(dtype, b, index) - decode(dtype, a, index)).abs();
        if difference > 0.0 {
            // Of the rounding to `f32` as well, which is what passes may compare with.
            for nearest in [difference, f64::from(difference as f32)] {
                thresholds.extend([nearest.next_down(), nearest, nearest.next_up()]);
            }
        }
    }
    thresholds.retain(|threshold| *threshold >= 0.0);
    thresholds
}

fn check_all_extras(dtype: DType, a: &[u8], b: &[u8], count: usize) {
    let thresholds = thresholds_at(dtype, a, b, count);
    for (atol, rtol) in [
        (0.0, 0.0),
        (1e-3, 0.0),
        (0.25, 0.25),
        (1e-5, 1e-2),
        (0.0, 1e-30),
    ] {
        let options = DiffOptions {
            atol,
            rtol,
            thresholds: thresholds.clone(),
            histogram: true,
            ..DiffOptions::default()
        };
        check_extras(dtype, a, b, count, &options);
    }
    // Each difference as the tolerance, exactly.
    for threshold in thresholds {
        for (atol, rtol) in [(threshold, 0.0), (threshold / 2.0, 0.5)] {
            let options = DiffOptions {
                atol,
                rtol,
                ..DiffOptions::default()
            };
            check_extras(dtype, a, b, count, &options);
        }
    }
}

fn codes_of(dtype: DType, values: impl Iterator<Item = f64>) -> Vec<u8> {
    let code = |value: f64| match dtype {
        DType::BF16 => (((value as f32).to_bits() >> 16) as u16)
            .to_le_bytes()
            .to_vec(),
        DType::F32 => (value as f32).to_le_bytes().to_vec(),
        _ => value.to_le_bytes().to_vec(),
    };
    values.flat_map(code).collect()
}

#[test]
fn extras_of_weights_and_of_any_codes() {
    for dtype in judged() {
        for count in [1, 63, 64, BLOCK, BLOCK + 65] {
            let (a, b) = (weights(dtype, 6, count), weights(dtype, 7, count));
            check_all_extras(dtype, &a, &b, count);
            check_all_extras(dtype, &a, &a, count);
            // A few changes only, so that most differences are zero.
            let mut few = a.clone();
            let changed = (count / 5 * dtype.bits() as usize / 8).min(few.len());
            few[..changed].copy_from_slice(&b[..changed]);
            check_all_extras(dtype, &a, &few, count);
            let (a, b) = (noise(8, 8 * count + 8), noise(9, 8 * count + 8));
            check_all_extras(dtype, &a, &b, count);
        }
    }
}

/// Differences that `f32` rounds, to a power of two or to a threshold: values up to 40 binades
/// apart, in blocks that are otherwise ordinary.
#[test]
fn extras_of_differences_that_f32_rounds() {
    for dtype in [DType::BF16, DType::F32, DType::F64] {
        for apart in 8..60 {
            let tiny = 2f64.powi(-apart);
            let value = |index: usize, side: f64| {
                let large = 1.0 + (index % 4) as f64 * 0.25;
                match index % 5 {
                    0 => large * (1.0 - side),
                    1 if side == 0.0 => tiny * large,
                    1 => 1.0,
                    2 if side == 0.0 => -tiny,
                    2 => 2.0,
                    3 => 0.5 + side / 8.0,
                    _ => large,
                }
            };
            let a = codes_of(dtype, (0..BLOCK).map(|index| value(index, 0.0)));
            let b = codes_of(dtype, (0..BLOCK).map(|index| value(index, 1.0)));
            check_all_extras(dtype, &a, &b, BLOCK);
        }
    }
}

/// Subnormal differences of normal values, exponents further apart than a byte tells, and the
/// largest of `f32` rounded up to a power of two.
#[test]
fn histograms_of_far_and_subnormal_differences() {
    let smallest = f64::MIN_POSITIVE;
    for (dtype, values) in [
        (DType::F64, [1.0, smallest * 1.5, smallest, 1e-200, 5e-324]),
        (DType::F32, [1.0, 1.76e-38, 1.175_494_4e-38, 1e-30, 1e-45]),
        (DType::BF16, [1.0, 1.76e-38, 1.175_494_4e-38, 1e-30, 1e-39]),
    ] {
        for stride in [1, 2, 3] {
            let a = codes_of(dtype, (0..BLOCK).map(|index| values[index % 5]));
            let b = codes_of(
                dtype,
                (0..BLOCK).map(|index| values[(index + index / 5 * stride) % 5]),
            );
            check_all_extras(dtype, &a, &b, BLOCK);
        }
    }
}

/// How many of these magnitudes lie in [2^e, 2^(e+1)), for each e; zeros in none.
fn bins_of(magnitudes: impl Iterator<Item = f64>) -> BTreeMap<i32, u64> {
    let mut bins = BTreeMap::new();
    for magnitude in magnitudes.filter(|magnitude| *magnitude > 0.0) {
        // A logarithm, put right where it was rounded.
        let mut exponent = magnitude.log2().floor() as i32;
        while 2f64.powi(exponent) > magnitude {
            exponent -= 1;
        }
        while 2f64.powi(exponent + 1) <= magnitude {
            exponent += 1;
        }
        *bins.entry(exponent).or_insert(0) += 1;
    }
    bins
}

fn check_stats_histogram(dtype: DType, codes: &[u8], count: usize) {
    let magnitudes: Vec<f64> = (0..count)
        .map(|index| decode(dtype, codes, index).abs())
        .filter(|magnitude| magnitude.is_finite())
        .collect();
    let zeros = magnitudes.iter().filter(|magnitude| **magnitude == 0.0);
    let zeros = zeros.count() as u64;
    let bins = Vec::from_iter(bins_of(magnitudes.into_iter()));
    for level in Level::available() {
        let mut partial = StatsPartial::default();
        StatsKernel::new(level, Arc::new(StatsOptions { histogram: true })).accumulate(
            dtype,
            codes,
            count,
            0,
            &mut partial,
        );
        let histogram = partial.histogram().expect("asked for");
        assert_eq!(
            histogram.zeros(),
            zeros,
            "{dtype}, {count}, {level:?}: zeros"
        );
        let found: Vec<_> = histogram.bins().collect();
        assert_eq!(found, bins, "{dtype}, {count}, {level:?}: bins");
    }
}

#[test]
fn histograms_of_weights_and_of_any_codes() {
    for dtype in judged() {
        for count in [1, 31, 32, 64, BLOCK, 2 * BLOCK + 65] {
            check_stats_histogram(dtype, &weights(dtype, 6, count), count);
            check_stats_histogram(dtype, &noise(8, 8 * count + 8), count);
        }
    }
    // Subnormal, far apart, or zeros of both signs among them.
    for dtype in [DType::BF16, DType::F32, DType::F64] {
        for values in [
            [1.0, 1.76e-38, 1.175_494_4e-38, 1e-30, 1e-39],
            [0.0, -0.0, -1.5, 0.25, -4e-9],
            [0.0, -0.0, 0.0, 0.0, 0.0],
            [3e38, 1e-300, 1e300, -1.0, 2.0],
        ] {
            let values = (0..BLOCK).map(|index| values[index % 5]);
            check_stats_histogram(dtype, &codes_of(dtype, values), BLOCK);
        }
    }
}

/// The dtypes whose codes stats counts.
fn counted() -> Vec<DType> {
    let few = |dtype: &DType| dtype.bits() <= 8;
    judged().into_iter().filter(few).collect()
}

#[test]
fn counted_codes_of_long_runs() {
    // Around each length at which codes are counted otherwise.
    for dtype in counted() {
        for length in [1usize << 8, 1 << 13, 1 << 16, 3 << 16] {
            for count in [length - 1, length, length + 1] {
                check_stats(dtype, &noise(7, count + 8), count);
                check_stats(dtype, &weights(dtype, 7, count + 8), count);
                check_stats(dtype, &vec![0x5a; count + 8], count);
            }
        }
    }
}

/// Stats of codes in pieces of so many elements.
fn stats_in_pieces(dtype: DType, bytes: &[u8], count: usize, piece: usize) -> StatsPartial {
    let options = Arc::new(StatsOptions { histogram: true });
    let mut kernel = StatsKernel::new(Level::best(), options);
    let mut partial = StatsPartial::default();
    for start in (0..count).step_by(piece) {
        let elements = piece.min(count - start);
        let bytes = &bytes[start * dtype.bits() as usize / 8..];
        kernel.accumulate(dtype, bytes, elements, start as u64, &mut partial);
    }
    partial
}

#[test]
fn counted_codes_do_not_tell_where_runs_were_cut() {
    let count = 5 * BLOCK * 16 + 3;
    for dtype in counted() {
        let bytes = noise(11, count + 8);
        let whole = format!("{:?}", stats_in_pieces(dtype, &bytes, count, count));
        for piece in [BLOCK, 7 * BLOCK, 40 * BLOCK] {
            let parts = stats_in_pieces(dtype, &bytes, count, piece);
            assert_eq!(format!("{parts:?}"), whole, "{dtype} by {piece}");
        }
    }
}

#[test]
fn counts_merge_as_the_sums_they_become() {
    let count = 3 * BLOCK;
    for dtype in counted() {
        let (first, second) = (noise(5, count), noise(6, count));
        let mut counted = stats_in_pieces(dtype, &first, count, count);
        let later = stats_in_pieces(dtype, &second, count, count);
        let (mut settled, mut settled_later) = (counted.clone(), later.clone());
        settled.settle();
        settled_later.settle();
        assert_eq!(
            format!("{:?}", settled.finish()),
            format!("{:?}", counted.finish())
        );
        settled.merge(&settled_later);
        counted.merge(&later);
        assert_eq!(format!("{settled:?}"), format!("{counted:?}"), "{dtype}");
    }
}

#[test]
fn codes_of_another_dtype_do_not_mix_with_counts() {
    let bytes = noise(9, 2 * BLOCK);
    let mut kernel = StatsKernel::new(Level::best(), Arc::default());
    let (mut both, mut later) = (StatsPartial::default(), StatsPartial::default());
    kernel.accumulate(DType::F8E4M3, &bytes, BLOCK, 0, &mut both);
    let mut merged = both.clone();
    kernel.accumulate(DType::I8, &bytes, BLOCK, BLOCK as u64, &mut both);
    kernel.accumulate(DType::I8, &bytes, BLOCK, BLOCK as u64, &mut later);
    merged.merge(&later);
    both.settle();
    assert_eq!(format!("{both:?}"), format!("{merged:?}"));
}

#[test]
fn extremes_of_integers_count_as_saturated() {
    for (dtype, saturated) in [(DType::I32, 3), (DType::U32, 2)] {
        let values = [i32::MIN, i32::MAX, 0, -1, i32::MAX, 7, -1];
        let mut bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        bytes.extend(noise(3, 4 * BLOCK).iter().map(|byte| byte & 0x3f));
        check_stats(dtype, &bytes, BLOCK);
        check_stats(dtype, &vec![0xff; 4 * BLOCK], BLOCK);
        let mut partial = StatsPartial::default();
        let mut kernel = StatsKernel::new(Level::best(), Arc::default());
        kernel.accumulate(dtype, &bytes, BLOCK, 0, &mut partial);
        assert_eq!(partial.finish().saturated, saturated, "{dtype}");
    }
}
