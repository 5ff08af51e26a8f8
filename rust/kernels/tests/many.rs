//! The kernels of many runs against naive loops, and every level against the others.

use std::sync::Arc;

use ckptdiff_kernels::{
    BLOCK, Bf16Comparison, DType, GramKernel, GramPartial, Level, MeanKernel, Precision,
};

/// Lengths around every lane, row, piece and block; whole granules of every dtype.
const LENGTHS: [usize; 8] = [0, 256, 512, 768, 1024, BLOCK, BLOCK + 256, 2 * BLOCK + 1792];

/// A trunk, two branches from its second checkpoint, and a root of its own.
const TREE: [Option<usize>; 7] = [None, Some(0), Some(1), Some(1), Some(3), None, Some(4)];

fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    }
}

fn bytes(dtype: DType, elements: usize, seed: u64) -> Vec<u8> {
    let mut random = random(seed);
    let length = dtype.bytes(elements as u64).expect("whole granules");
    (0..length).map(|_| random() as u8).collect()
}

fn gram(
    level: Level,
    parents: &[Option<usize>],
    runs: &[(DType, &[u8])],
    elements: usize,
) -> GramPartial {
    gram_in(Precision::Single, level, parents, runs, elements)
}

fn gram_in(
    precision: Precision,
    level: Level,
    parents: &[Option<usize>],
    runs: &[(DType, &[u8])],
    elements: usize,
) -> GramPartial {
    let mut partial = GramPartial::default();
    let mut kernel = GramKernel::new(level, Arc::from(parents), precision);
    kernel.accumulate(runs, elements, &mut partial);
    partial
}

fn of(dtype: DType, runs: &[Vec<u8>]) -> Vec<(DType, &[u8])> {
    runs.iter().map(|run| (dtype, &**run)).collect()
}

fn encode(values: &[f64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn encode_f32(values: &[f64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| (*value as f32).to_le_bytes())
        .collect()
}

/// G in plain loops, of values that are all finite.
fn naive(parents: &[Option<usize>], values: &[Vec<f64>]) -> Vec<f64> {
    let update = |t: usize, k: usize| match parents[t] {
        Some(parent) => values[t][k] - values[parent][k],
        None => values[t][k],
    };
    let count = values.len();
    let mut gram = vec![0.0; count * count];
    for i in 0..count {
        for j in 0..count {
            for k in 0..values[0].len() {
                gram[i * count + j] += update(i, k) * update(j, k);
            }
        }
    }
    gram
}

fn assert_close(found: &[f64], expected: &[f64], count: usize, what: &str) {
    for i in 0..count {
        for j in 0..count {
            let norms = (expected[i * count + i] * expected[j * count + j]).sqrt();
            let (found, expected) = (found[i * count + j], expected[i * count + j]);
            assert!(
                (found - expected).abs() <= 1e-13 * norms,
                "{what} {i} {j}: {found} {expected}"
            );
        }
    }
}

#[test]
fn every_level_gives_the_same_bits_for_every_dtype() {
    for dtype in DType::ALL {
        for elements in LENGTHS {
            let mut runs: Vec<Vec<u8>> = (0..TREE.len() as u64)
                .map(|seed| bytes(dtype, elements, seed))
                .collect();
            // One that is its parent, and one that is in part.
            runs[3] = runs[1].clone();
            let half = runs[4].len() / 2;
            let parent = runs[3][..half].to_vec();
            runs[4][..half].copy_from_slice(&parent);
            let runs = of(dtype, &runs);
            let partials: Vec<GramPartial> = Level::available()
                .into_iter()
                .map(|level| gram(level, &TREE, &runs, elements))
                .collect();
            for partial in &partials {
                assert_eq!(
                    format!("{partial:?}"),
                    format!("{:?}", partials[0]),
                    "{dtype}"
                );
                let matrix = partial.matrix(TREE.len());
                assert!(matrix.iter().all(|entry| !entry.is_nan()), "{dtype}");
            }
        }
    }
}

#[test]
fn every_level_gives_the_same_bits_of_products_in_f32() {
    let elements = 3 * BLOCK + 1792;
    for count in 1..=14 {
        let parents: Vec<Option<usize>> = (0..count).map(|t: usize| t.checked_sub(1)).collect();
        for dtype in [DType::BF16, DType::F16, DType::F8E4M3, DType::F8E5M2] {
            let mut runs: Vec<Vec<u8>> = (0..count as u64)
                .map(|seed| bytes(dtype, elements, seed))
                .collect();
            // No exponent is far from that of one, and nothing but finite.
            let width = dtype.bits() as usize / 8;
            for code in runs.iter_mut().flatten().skip(width - 1).step_by(width) {
                *code = *code & 0x87 | 0x38;
            }
            let runs = of(dtype, &runs);
            let partials: Vec<GramPartial> = Level::available()
                .into_iter()
                .map(|level| gram(level, &parents, &runs, elements))
                .collect();
            let double = gram_in(Precision::Double, Level::best(), &parents, &runs, elements);
            let expected = double.matrix(count);
            for partial in &partials {
                assert_eq!(partial, &partials[0], "{dtype}");
                assert_eq!(partial.finite(), elements as u64);
                let matrix = partial.matrix(count);
                if dtype == DType::F16 && count > 1 {
                    assert_ne!(matrix, expected, "these need more bits than f32 has");
                }
                for (index, (found, expected_entry)) in matrix.iter().zip(&expected).enumerate() {
                    let (i, j) = (index / count, index % count);
                    let norms = (expected[i * count + i] * expected[j * count + j]).sqrt();
                    let error = (found - expected_entry).abs();
                    assert!(error <= 1e-7 * norms, "{dtype} {i} {j}: {error} of {norms}");
                }
            }
        }
    }
}

#[test]
fn products_are_those_of_a_naive_loop() {
    for count in 1..=14 {
        let parents: Vec<Option<usize>> = (0..count).map(|t: usize| t.checked_sub(1)).collect();
        for elements in [1, 7, 8, 9, 63, 511, 512, 513, 1500, BLOCK + 1] {
            let mut random = random(count as u64);
            let mut value = || (random() % 2001) as f64 / 1000.0 - 1.0;
            let values: Vec<Vec<f64>> = (0..count)
                .map(|_| (0..elements).map(|_| f64::from(value() as f32)).collect())
                .collect();
            let expected = naive(&parents, &values);
            let wide: Vec<Vec<u8>> = values.iter().map(|run| encode(run)).collect();
            let single: Vec<Vec<u8>> = values.iter().map(|run| encode_f32(run)).collect();
            for level in Level::available() {
                for (dtype, runs) in [(DType::F64, &wide), (DType::F32, &single)] {
                    let partial = gram(level, &parents, &of(dtype, runs), elements);
                    assert_eq!(partial.finite(), elements as u64);
                    let what = format!("{dtype} {count} {elements} {}", level.name());
                    assert_close(&partial.matrix(count), &expected, count, &what);
                }
                let mixed: Vec<(DType, &[u8])> = (0..count)
                    .map(|t| match t % 3 {
                        1 => (DType::F32, &*single[t]),
                        _ => (DType::F64, &*wide[t]),
                    })
                    .collect();
                let partial = gram(level, &parents, &mixed, elements);
                assert_close(&partial.matrix(count), &expected, count, "mixed");
            }
        }
    }
}

#[test]
fn partials_of_two_runs_merge_into_that_of_both() {
    let values: Vec<Vec<f64>> = (0..5)
        .map(|t| {
            (0..2 * BLOCK)
                .map(|k| ((k * 7 + t * 13) % 101) as f64)
                .collect()
        })
        .collect();
    let parents = [None, Some(0), Some(1), Some(1), Some(0)];
    let runs: Vec<Vec<u8>> = values.iter().map(|run| encode(run)).collect();
    let level = Level::best();
    let whole = gram(level, &parents, &of(DType::F64, &runs), 2 * BLOCK);
    let mut merged = GramPartial::default();
    for start in [0, BLOCK] {
        let part: Vec<Vec<u8>> = values
            .iter()
            .map(|run| encode(&run[start..start + BLOCK]))
            .collect();
        merged.merge(&gram(level, &parents, &of(DType::F64, &part), BLOCK));
    }
    // Of small integers sums are exact, in any order.
    assert_eq!(merged, whole);
    assert_eq!(whole.matrix(5), naive(&parents, &values));
}

#[test]
fn what_is_not_finite_in_one_run_is_left_out_of_all() {
    let elements = 1200;
    let mut values: Vec<Vec<f64>> = (0..4)
        .map(|t| {
            (0..elements)
                .map(|k| ((k + t * t) % 17) as f64 - 8.0)
                .collect()
        })
        .collect();
    for (t, k, value) in [
        (0, 3, f64::NAN),
        (3, 700, f64::INFINITY),
        (2, 3, f64::NEG_INFINITY),
    ] {
        values[t][k] = value;
    }
    let runs: Vec<Vec<u8>> = values.iter().map(|run| encode(run)).collect();
    let parents = [None, Some(0), Some(1), Some(2)];
    for run in &mut values {
        run[3] = 0.0;
        run[700] = 0.0;
    }
    let expected = naive(&parents, &values);
    for level in Level::available() {
        let partial = gram(level, &parents, &of(DType::F64, &runs), elements);
        assert_eq!(partial.finite(), elements as u64 - 2);
        assert_eq!(partial.matrix(4), expected);
    }
}

#[test]
fn squares_beyond_f64_come_back_where_the_sum_is_within() {
    // <u_0, u_1> is a hundred; neither square is a number of f64.
    let runs = [vec![1e300; 100], vec![1e-300; 100]].map(|run| encode(&run));
    for level in Level::available() {
        let partial = gram(level, &[None, None], &of(DType::F64, &runs), 100);
        let [large, product, again, small] = partial.matrix(2)[..] else {
            unreachable!("two by two");
        };
        assert!((product - 100.0).abs() < 1e-11, "{product}");
        assert_eq!((large, again, small), (f64::INFINITY, product, 0.0));
        let rescued = partial.clone();
        let mut twice = partial;
        twice.merge(&rescued);
        assert!((twice.matrix(2)[1] - 200.0).abs() < 1e-11);
    }
}

/// The nearer of the two codes around an `f32`, the even one of two that are as near.
fn nearest_bf16(value: f32) -> f64 {
    let below = value.to_bits() & 0xffff_0000;
    let decoded = |bits: u32| f64::from(f32::from_bits(bits));
    let step = decoded(below.wrapping_add(0x10000)) - decoded(below);
    let rest = f64::from(value) - decoded(below);
    let up =
        rest.abs() * 2.0 > step.abs() || rest.abs() * 2.0 == step.abs() && below & 0x10000 != 0;
    decoded(if up { below + 0x10000 } else { below })
}

#[test]
fn changes_in_bf16_are_those_of_the_nearest_codes() {
    let elements = 3 * BLOCK + 100;
    let mut random = random(9);
    let mut values: [Vec<f32>; 2] = [Vec::new(), Vec::new()];
    for _ in 0..elements {
        let bits = random() as u32 & 0x7f7f_ffff | (random() as u32 & 1) << 31;
        // The same, a step of f32 beside, a tie of bf16 and one beside that.
        let other = match random() % 5 {
            0 => bits,
            1 => bits ^ 1,
            2 => bits & 0xffff_0000 | 0x8000,
            3 => bits & 0xffff_0000 | 0x8001,
            _ => bits & 0x7fff_0000,
        };
        values[0].push(f32::from_bits(bits));
        values[1].push(f32::from_bits(other));
    }
    let expected = values[0].iter().zip(&values[1]);
    let expected = expected.filter(|(a, b)| nearest_bf16(**a) != nearest_bf16(**b));
    let expected = expected.count() as u64;
    assert!(expected > 500);
    let single = values.each_ref().map(|side| {
        let bytes = side.iter().flat_map(|value| value.to_le_bytes());
        bytes.collect::<Vec<u8>>()
    });
    let wide = values.each_ref().map(|side| {
        let bytes = side
            .iter()
            .flat_map(|value| f64::from(*value).to_le_bytes());
        bytes.collect::<Vec<u8>>()
    });
    for level in Level::available() {
        let mut comparison = Bf16Comparison::new(level);
        for (dtype_a, a) in [(DType::F32, &single[0]), (DType::F64, &wide[0])] {
            for (dtype_b, b) in [(DType::F32, &single[1]), (DType::F64, &wide[1])] {
                let changed = comparison.changed((dtype_a, a), (dtype_b, b), elements);
                assert_eq!(changed, expected, "{dtype_a} {dtype_b} {}", level.name());
            }
        }
    }
}

#[test]
fn changes_in_bf16_are_of_values() {
    let side = |values: [f32; 5]| -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    };
    let a = side([0.0, f32::NAN, f32::INFINITY, 3.4e38, 1.0]);
    let b = side([-0.0, -f32::NAN, 3.4e38, -3.4e38, 1.001]);
    for level in Level::available() {
        let mut comparison = Bf16Comparison::new(level);
        // 3.4e38 rounds to Inf, so only the signs of the fourth differ.
        assert_eq!(comparison.changed((DType::F32, &a), (DType::F32, &b), 5), 1);
        let complex = comparison.changed((DType::C64, &a[..16]), (DType::C64, &b[..16]), 2);
        assert_eq!(complex, 1);
        let real = comparison.changed((DType::F32, &a[..8]), (DType::C64, &a[..16]), 2);
        assert_eq!(real, 2);
    }
}

#[test]
fn means_are_those_of_f32_in_their_order() {
    let elements = BLOCK + 77;
    let mut random = random(5);
    let parts: Vec<Vec<f32>> = (0..3)
        .map(|_| {
            (0..elements)
                .map(|_| random() as f32 / 1e7 - 100.0)
                .collect()
        })
        .collect();
    let bytes: Vec<Vec<u8>> = parts
        .iter()
        .map(|part| part.iter().flat_map(|value| value.to_le_bytes()).collect())
        .collect();
    let mean = |k: usize| (parts[0][k] + parts[1][k] + parts[2][k]) / 3.0;
    let mut out = Vec::new();
    for level in Level::available() {
        let mut kernel = MeanKernel::new(level);
        kernel.mean(&of(DType::F32, &bytes), DType::F32, elements, &mut out);
        let expected: Vec<u8> = (0..elements).flat_map(|k| mean(k).to_le_bytes()).collect();
        assert_eq!(out, expected);
        kernel.mean(&of(DType::F32, &bytes), DType::BF16, elements, &mut out);
        for (k, code) in out.as_chunks().0.iter().enumerate() {
            let bits = u32::from(u16::from_le_bytes(*code)) << 16;
            assert_eq!(f64::from(f32::from_bits(bits)), nearest_bf16(mean(k)));
        }
        kernel.mean(&of(DType::F32, &bytes), DType::I8, elements, &mut out);
        let expected: Vec<u8> = (0..elements)
            .map(|k| mean(k).round_ties_even() as i8 as u8)
            .collect();
        assert_eq!(out, expected);
    }
}
