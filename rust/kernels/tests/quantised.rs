//! The quantised dtypes of ggml against a naive decoder, which finds the bits of one element at a
//! time, and against what the kernels say of the same values as `F32`.

use std::sync::Arc;

use ckptdiff_kernels::{
    BLOCK, DType, DiffKernel, DiffOptions, DiffPartial, DiffSummary, Level, StatsKernel,
    StatsOptions, StatsPartial, StatsSummary,
};

fn quantised() -> impl Iterator<Item = DType> {
    DType::ALL.into_iter().filter(|dtype| dtype.is_quantised())
}

/// An F16, by its definition.
fn half(block: &[u8], at: usize) -> f32 {
    let code = u16::from_le_bytes([block[at], block[at + 1]]);
    let sign = if code >> 15 == 1 { -1.0 } else { 1.0 };
    let mantissa = f32::from(code & 0x3ff) / 1024.0;
    match i32::from(code >> 10 & 0x1f) {
        0 => sign * mantissa * 2f32.powi(-14),
        31 if mantissa == 0.0 => sign * f32::INFINITY,
        31 => f32::NAN,
        exponent => sign * (1.0 + mantissa) * 2f32.powi(exponent - 15),
    }
}

/// The `width` bits from bit `shift` of a byte.
fn bits(byte: u8, shift: usize, width: usize) -> f32 {
    f32::from(byte >> shift & ((1 << width) - 1))
}

/// The scale and minimum of run `run` of 32 in Q4_K and Q5_K.
fn run_of_32(block: &[u8], run: usize) -> (f32, f32) {
    let packed = &block[4..16];
    let (scale, minimum) = if run < 4 {
        (packed[run] & 63, packed[run + 4] & 63)
    } else {
        (
            packed[run + 4] & 15 | packed[run - 4] >> 6 << 4,
            packed[run + 4] >> 4 | packed[run] >> 6 << 4,
        )
    };
    (
        half(block, 0) * f32::from(scale),
        half(block, 2) * f32::from(minimum),
    )
}

/// Element `i` of a block.
fn element(dtype: DType, block: &[u8], i: usize) -> f32 {
    // Within 32: lower halves first. Within 64: lower halves of 32 bytes first.
    let nibble = |start: usize| bits(block[start + i % 16], i / 16 * 4, 4);
    let wide_nibble = |start: usize| bits(block[start + i / 64 * 32 + i % 32], i / 32 % 2 * 4, 4);
    let pair = |start: usize| bits(block[start + i / 128 * 32 + i % 32], i / 32 % 4 * 2, 2);
    let fifth = |start: usize| 16.0 * bits(block[start + i / 8], i % 8, 1);
    match dtype {
        DType::Q4_0 => half(block, 0) * (nibble(2) - 8.0),
        DType::Q4_1 => half(block, 0) * nibble(4) + half(block, 2),
        DType::Q5_0 => half(block, 0) * (nibble(6) + fifth(2) - 16.0),
        DType::Q5_1 => half(block, 0) * (nibble(8) + fifth(4)) + half(block, 2),
        DType::Q8_0 => f32::from(block[2 + i] as i8) * half(block, 0),
        DType::Q2K => {
            let packed = block[i / 16];
            half(block, 80) * bits(packed, 0, 4) * pair(16) - half(block, 82) * bits(packed, 4, 4)
        }
        DType::Q3K => {
            let run = i / 16;
            let scale = bits(block[96 + run % 8], run / 8 * 4, 4)
                + 16.0 * bits(block[104 + run % 4], run / 4 * 2, 2);
            let third = 4.0 * (1.0 - bits(block[i % 32], i / 32, 1));
            half(block, 108) * (scale - 32.0) * (pair(32) - third)
        }
        DType::Q4K => {
            let (scale, minimum) = run_of_32(block, i / 32);
            scale * wide_nibble(16) - minimum
        }
        DType::Q5K => {
            let (scale, minimum) = run_of_32(block, i / 32);
            let fifth = 16.0 * bits(block[16 + i % 32], i / 32, 1);
            scale * (wide_nibble(48) + fifth) - minimum
        }
        DType::Q6K => {
            let low = bits(block[i / 128 * 64 + i % 64], i / 64 % 2 * 4, 4);
            let scale = half(block, 208) * f32::from(block[192 + i / 16] as i8);
            scale * (low + 16.0 * pair(128) - 32.0)
        }
        DType::MXFP4 => {
            let code = block[1 + i % 16] >> (i / 16 * 4) & 15;
            let magnitude = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][usize::from(code & 7)];
            let sign = if code & 8 == 8 && magnitude > 0.0 {
                -1.0
            } else {
                1.0
            };
            (2f64.powi(i32::from(block[0]) - 127) * (sign * magnitude)) as f32
        }
        other => unreachable!("{other}"),
    }
}

fn decode(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let granule = dtype.granule();
    bytes
        .chunks_exact(granule.bytes as usize)
        .flat_map(|block| (0..granule.elements as usize).map(|i| element(dtype, block, i)))
        .collect()
}

fn as_f32(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// Any bytes at all, of whole blocks.
fn noise(dtype: DType, seed: u64, elements: usize) -> Vec<u8> {
    let mut state = seed;
    let length = dtype.bytes(elements as u64).expect("whole blocks") as usize;
    std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    })
    .take(length)
    .collect()
}

/// Blocks of ordinary weights: scales of at most 1.
fn weights(dtype: DType, seed: u64, elements: usize) -> Vec<u8> {
    let mut bytes = noise(dtype, seed, elements);
    let scales: &[usize] = match dtype {
        DType::Q4_1 | DType::Q5_1 | DType::Q4K | DType::Q5K => &[0, 2],
        DType::Q2K => &[80, 82],
        DType::Q3K => &[108],
        DType::Q6K => &[208],
        DType::MXFP4 => &[],
        _ => &[0],
    };
    for block in bytes.chunks_exact_mut(dtype.granule().bytes as usize) {
        for scale in scales {
            block[scale + 1] = 0x20 | block[scale + 1] & 0x0f;
        }
        if dtype == DType::MXFP4 {
            block[0] = 110 + block[0] % 8;
        }
    }
    bytes
}

fn diff(level: Level, a: (DType, &[u8]), b: (DType, &[u8]), count: usize) -> DiffSummary {
    let mut partial = DiffPartial::default();
    let options = DiffOptions {
        thresholds: vec![1e-3],
        histogram: true,
        ..DiffOptions::default()
    };
    DiffKernel::new(level, Arc::new(options)).accumulate(a, b, count, 0, &mut partial);
    partial.finish()
}

fn stats(level: Level, dtype: DType, bytes: &[u8], count: usize) -> StatsSummary {
    let mut partial = StatsPartial::default();
    StatsKernel::new(level, Arc::new(StatsOptions::default())).accumulate(
        dtype,
        bytes,
        count,
        0,
        &mut partial,
    );
    partial.finish()
}

/// Counts of elements around those of a block of the kernels.
const COUNTS: [usize; 5] = [0, 256, BLOCK - 256, BLOCK, 3 * BLOCK + 512];

#[test]
fn every_value_is_that_of_the_naive_decoder() {
    for dtype in quantised() {
        for count in COUNTS {
            for bytes in [noise(dtype, 1, count), weights(dtype, 2, count)] {
                let values = decode(dtype, &bytes);
                let floats = as_f32(&values);
                for level in Level::available() {
                    let context = format!("{dtype}, {count} elements, {level:?}");
                    let found = diff(level, (DType::F32, &floats), (dtype, &bytes), count);
                    assert_eq!(found.changed, 0, "{context}");
                    assert_eq!(found.nonfinite_mismatch, 0, "{context}");
                    let nan = values.iter().filter(|x| x.is_nan()).count();
                    assert_eq!(found.nan_b, nan as u64, "{context}");
                }
            }
        }
    }
}

#[test]
fn sums_are_those_of_the_decoded_values() {
    for dtype in quantised() {
        for count in COUNTS {
            let (a, b) = (weights(dtype, 3, count), weights(dtype, 4, count));
            let (float_a, float_b) = (as_f32(&decode(dtype, &a)), as_f32(&decode(dtype, &b)));
            let expected = diff(
                Level::best(),
                (DType::F32, &float_a),
                (DType::F32, &float_b),
                count,
            );
            let close = |found: f64, expected: f64| {
                found == expected
                    || (found - expected).abs() <= 1e-7 * expected.abs()
                    || found.is_nan() && expected.is_nan()
            };
            let first = diff(Level::best(), (dtype, &a), (dtype, &b), count);
            for level in Level::available() {
                let found = diff(level, (dtype, &a), (dtype, &b), count);
                let context = format!("{dtype}, {count} elements, {level:?}");
                assert_eq!(format!("{found:?}"), format!("{first:?}"), "{context}");
                assert_eq!(found.changed, expected.changed, "{context}");
                assert_eq!(found.max_abs, expected.max_abs, "{context}");
                assert_eq!(found.max_abs_index, expected.max_abs_index, "{context}");
                assert_eq!(found.sign_flips, expected.sign_flips, "{context}");
                assert_eq!(found.blocks_differ, count > 0, "{context}");
                assert_eq!((found.bits_changed, found.max_ulp), (0, 0), "{context}");
                for (found, expected) in [
                    (found.l2, expected.l2),
                    (found.l2_a, expected.l2_a),
                    (found.l2_b, expected.l2_b),
                    (found.mean_abs, expected.mean_abs),
                    (found.cosine_distance, expected.cosine_distance),
                ] {
                    assert!(close(found, expected), "{context}: {found} {expected}");
                }
                let same = diff(level, (dtype, &a), (dtype, &a), count);
                assert!(!same.blocks_differ && same.changed == 0, "{context}");
                let (found, expected) = (
                    stats(level, dtype, &a, count),
                    stats(level, DType::F32, &float_a, count),
                );
                assert_eq!(
                    format!("{:?}", (found.min, found.max, found.abs_max_index)),
                    format!("{:?}", (expected.min, expected.max, expected.abs_max_index)),
                    "{context}"
                );
                assert_eq!(
                    (found.zeros, found.negatives),
                    (expected.zeros, expected.negatives),
                    "{context}"
                );
                assert_eq!((found.subnormals, found.saturated), (0, 0), "{context}");
                assert!(close(found.std, expected.std), "{context}");
            }
        }
    }
}

#[test]
fn a_block_of_other_bytes_and_the_same_values_differs_in_bytes_only() {
    // A scale of zero makes every code a zero.
    for dtype in [DType::Q4_0, DType::Q5_0, DType::Q8_0] {
        let (mut a, mut b) = (noise(dtype, 5, BLOCK), noise(dtype, 6, BLOCK));
        for side in [&mut a, &mut b] {
            for block in side.chunks_exact_mut(dtype.granule().bytes as usize) {
                block[..2].fill(0);
            }
        }
        for level in Level::available() {
            let found = diff(level, (dtype, &a), (dtype, &b), BLOCK);
            assert_eq!((found.changed, found.blocks_differ), (0, true), "{dtype}");
        }
    }
}

#[test]
fn sizes_are_those_of_whole_blocks() {
    assert_eq!(DType::Q4K.bytes(512), Some(288));
    assert_eq!(DType::Q4K.bytes(300), None);
    assert_eq!(DType::Q8_0.bytes_before(64), 68);
    assert_eq!(DType::F4.bytes(3), None);
    assert_eq!(DType::F6E2M3.bytes_before(3), 3);
    assert_eq!(DType::F64.bytes(u64::MAX), None);
    assert_eq!(
        DType::Q6K.bytes(u64::MAX / 256 * 256),
        Some(u64::MAX / 256 * 210)
    );
    for dtype in DType::ALL {
        let granule = dtype.granule();
        assert_eq!(BLOCK as u64 % granule.elements, 0, "{dtype}");
        assert_eq!(
            dtype.bits(),
            (8 * granule.bytes).div_ceil(granule.elements),
            "{dtype}"
        );
    }
}
