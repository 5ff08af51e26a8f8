//! The kernels on bytes that lie in the second-level cache, for each dtype and ISA level: where to
//! look before and after touching a pass.
//!
//! `cargo bench -p ckptdiff-kernels -- 'diff/BF16/avx2'` measures what matches. Throughput is of all
//! bytes read, of both sides for what compares.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use ckptdiff_kernels::{
    DType, DiffKernel, DiffOptions, DiffPartial, Level, StatsKernel, StatsOptions, StatsPartial,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Bytes a side.
const BYTES: usize = 64 << 10;

/// Weights of about 0.02 and their update of about 0.0005, or integers of a hundred times that many
/// of their smallest step.
fn sides(dtype: DType) -> (Vec<u8>, Vec<u8>) {
    let mut state = 1u64;
    let mut random = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let (mut a, mut b) = (Vec::new(), Vec::new());
    while a.len() < BYTES {
        let x = random() * 0.07;
        let y = x + random() * 0.002;
        for (value, side) in [(x, &mut a), (y, &mut b)] {
            match dtype {
                DType::BF16 => side.extend(((value.to_bits() >> 16) as u16).to_le_bytes()),
                DType::F16 => side.extend(half(value).to_le_bytes()),
                DType::F8E5M2 => side.push((half(value) >> 8) as u8),
                DType::F8E4M3 => {
                    // Eight times as large, so that few of them are subnormal.
                    let magnitude = ((half(value * 8.0) & 0x7fff) >> 7).saturating_sub(64) as u8;
                    side.push(magnitude & 0x7f | (half(value) >> 8) as u8 & 0x80);
                }
                DType::F32 | DType::C64 => side.extend(value.to_le_bytes()),
                DType::F64 | DType::C128 => side.extend(f64::from(value).to_le_bytes()),
                DType::I16 => side.extend(((value * 1e5) as i16).to_le_bytes()),
                DType::U16 => side.extend(((value.abs() * 1e5) as u16).to_le_bytes()),
                DType::I32 => side.extend(((value * 1e9) as i32).to_le_bytes()),
                DType::U32 => side.extend(((value.abs() * 1e9) as u32).to_le_bytes()),
                DType::I64 => side.extend(((value * 1e9) as i64).to_le_bytes()),
                DType::U64 => side.extend(((value.abs() * 1e9) as u64).to_le_bytes()),
                // Bytes of which, taken as an F16 scale, every pair is finite.
                _ => side.push((value * 1000.0) as i8 as u8 & 0x77),
            }
        }
    }
    (a, b)
}

/// The half below a small value.
fn half(value: f32) -> u16 {
    let bits = value.to_bits();
    let magnitude = ((bits & 0x7fff_ffff) >> 13).saturating_sub(112 << 10) as u16;
    magnitude | ((bits >> 16) & 0x8000) as u16
}

/// What is asked for on top of the default columns, by the name of its group.
fn diff_options() -> [(&'static str, DiffOptions); 5] {
    let none = DiffOptions::default;
    [
        ("diff", none()),
        (
            "diff_histogram",
            DiffOptions {
                histogram: true,
                ..none()
            },
        ),
        (
            "diff_threshold",
            DiffOptions {
                thresholds: vec![1e-4],
                ..none()
            },
        ),
        (
            "diff_thresholds",
            DiffOptions {
                thresholds: vec![0.0, 1e-8, 1e-6, 1e-5, 1e-4],
                ..none()
            },
        ),
        (
            "diff_tolerance",
            DiffOptions {
                atol: 1e-4,
                rtol: 1e-3,
                ..none()
            },
        ),
    ]
}

/// Diff `a` with `b` at every level, as `group/NAME/level`.
fn diff_at_levels(
    criterion: &mut Criterion,
    group: &str,
    name: &str,
    options: &DiffOptions,
    a: (DType, &[u8]),
    b: (DType, &[u8]),
) {
    let elements = BYTES * 8 / a.0.bits().max(b.0.bits()) as usize / 1024 * 1024;
    let bits = elements as u64 * (a.0.bits() + b.0.bits());
    let mut group = criterion.benchmark_group(group);
    group.throughput(Throughput::Bytes(bits / 8));
    for level in Level::available() {
        let mut kernel = DiffKernel::new(level, Arc::new(options.clone()));
        let mut partial = DiffPartial::default();
        group.bench_function(format!("{name}/{}", level.name()), |bencher| {
            bencher
                .iter(|| kernel.accumulate(black_box(a), black_box(b), elements, 0, &mut partial));
        });
    }
}

fn stats_at_levels(
    criterion: &mut Criterion,
    group: &str,
    dtype: DType,
    options: &StatsOptions,
    codes: &[u8],
) {
    let elements = BYTES * 8 / dtype.bits() as usize / 1024 * 1024;
    let mut group = criterion.benchmark_group(group);
    group.throughput(Throughput::Bytes(elements as u64 * dtype.bits() / 8));
    for level in Level::available() {
        let mut kernel = StatsKernel::new(level, Arc::new(options.clone()));
        let mut partial = StatsPartial::default();
        group.bench_function(format!("{}/{}", dtype.name(), level.name()), |bencher| {
            bencher.iter(|| kernel.accumulate(dtype, black_box(codes), elements, 0, &mut partial));
        });
    }
}

fn same_dtype(criterion: &mut Criterion) {
    for dtype in DType::ALL {
        let (a, b) = sides(dtype);
        for (group, options) in &diff_options() {
            diff_at_levels(
                criterion,
                group,
                dtype.name(),
                options,
                (dtype, &a),
                (dtype, &b),
            );
        }
        let (plain, sides) = (DiffOptions::default(), ((dtype, &*a), (dtype, &*a)));
        diff_at_levels(
            criterion,
            "identical",
            dtype.name(),
            &plain,
            sides.0,
            sides.1,
        );
        stats_at_levels(criterion, "stats", dtype, &StatsOptions::default(), &a);
        let histogram = StatsOptions { histogram: true };
        stats_at_levels(criterion, "stats_histogram", dtype, &histogram, &a);
    }
}

fn mixed_dtypes(criterion: &mut Criterion) {
    for (dtype_a, dtype_b) in [
        (DType::F32, DType::BF16),
        (DType::BF16, DType::F16),
        (DType::F32, DType::F16),
        (DType::BF16, DType::F8E4M3),
    ] {
        let (a, b) = (sides(dtype_a).0, sides(dtype_b).1);
        let name = format!("{dtype_a}:{dtype_b}");
        let plain = DiffOptions::default();
        diff_at_levels(
            criterion,
            "diff",
            &name,
            &plain,
            (dtype_a, &a),
            (dtype_b, &b),
        );
    }
}

/// A kernel's time varies little: short runs will do.
fn settings() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(300))
}

criterion_group! {
    name = kernels;
    config = settings();
    targets = same_dtype, mixed_dtypes
}
criterion_main!(kernels);
