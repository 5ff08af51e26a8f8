//! GB/s of the Gram kernel on bytes that lie in the second-level cache, for some numbers of
//! checkpoints, and how many fused multiply-adds a nanosecond that is.
//!
//! `gram_throughput [DTYPE...] [LEVEL...] [COUNT...] [double]`: BF16, the fastest level and 2, 4, 16
//! and 64 checkpoints where nothing else is asked for, and `f32` where it may be.

use std::sync::Arc;
use std::time::Instant;

use ckptdiff_kernels::{BLOCK, DType, GramKernel, GramPartial, Level, Precision};

/// Checkpoints of weights of about 0.02 that drift.
fn runs(dtype: DType, count: usize) -> Vec<Vec<u8>> {
    let mut state = 1u64;
    let mut random = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let mut weights: Vec<f32> = (0..BLOCK).map(|_| random() * 0.07).collect();
    let mut runs = Vec::new();
    for _ in 0..count {
        let encode = |value: &f32| match dtype {
            DType::BF16 => ((value.to_bits() >> 16) as u16).to_le_bytes().to_vec(),
            DType::F32 => value.to_le_bytes().to_vec(),
            DType::F64 => f64::from(*value).to_le_bytes().to_vec(),
            // Whatever the bytes mean, as long as it is finite.
            other => ((value * 1000.0) as i8 as u8 & 0x77)
                .to_le_bytes()
                .repeat(other.bits().div_ceil(8) as usize),
        };
        runs.push(weights.iter().flat_map(encode).collect());
        for weight in &mut weights {
            *weight += random() * 0.002;
        }
    }
    runs
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let mut dtypes: Vec<DType> = wanted
        .iter()
        .flat_map(|name| DType::from_name(name))
        .collect();
    let mut levels: Vec<Level> = wanted
        .iter()
        .filter_map(|name| Level::named(name))
        .collect();
    let mut counts: Vec<usize> = wanted.iter().filter_map(|name| name.parse().ok()).collect();
    let precision = if wanted.iter().any(|name| name == "double") {
        Precision::Double
    } else {
        Precision::Single
    };
    if dtypes.is_empty() {
        dtypes.push(DType::BF16);
    }
    if levels.is_empty() {
        levels.push(Level::best());
    }
    if counts.is_empty() {
        counts.extend([2, 4, 16, 64]);
    }
    println!(
        "{:12} {:9} {:>5} {:>7} {:>7}",
        "dtype", "level", "runs", "GB/s", "FMA/ns"
    );
    for (dtype, level, count) in dtypes.iter().flat_map(|dtype| {
        let levels = &levels;
        let counts = &counts;
        levels
            .iter()
            .flat_map(move |level| counts.iter().map(move |count| (*dtype, *level, *count)))
    }) {
        let bytes = runs(dtype, count);
        let parents: Arc<[Option<usize>]> = (0..count).map(|run| run.checked_sub(1)).collect();
        let mut kernel = GramKernel::new(level, parents, precision);
        let mut partial = GramPartial::default();
        let slices: Vec<(DType, &[u8])> = bytes.iter().map(|run| (dtype, &**run)).collect();
        let mut best = f64::INFINITY;
        let repeats = 4000 / count.pow(2) + 3;
        for _ in 0..9 {
            let start = Instant::now();
            for _ in 0..repeats {
                kernel.accumulate(&slices, BLOCK, &mut partial);
            }
            best = best.min(start.elapsed().as_secs_f64() / repeats as f64);
        }
        let size: usize = bytes.iter().map(Vec::len).sum();
        let products = BLOCK * count * (count + 1) / 2;
        println!(
            "{:12} {:9} {count:5} {:7.2} {:7.2}",
            dtype.name(),
            level.name(),
            size as f64 / best / 1e9,
            products as f64 / best / 1e9
        );
    }
}
