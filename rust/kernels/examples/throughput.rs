//! GB/s of the kernels on bytes that lie in the second-level cache, for each dtype and ISA level.
//!
//! `throughput [DTYPE...] [DTYPE:DTYPE...] [LEVEL...] [diff] [identical] [stats]`: where to look before
//! and after touching a pass. Pairs of different dtypes are only diffed.

use std::sync::Arc;
use std::time::Instant;

use ckptdiff_kernels::{
    DType, DiffKernel, DiffOptions, DiffPartial, Level, StatsKernel, StatsOptions, StatsPartial,
};

/// What is measured.
const WORK: [&str; 3] = ["diff", "identical", "stats"];

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

fn gigabytes_per_second(bytes: usize, wanted: bool, mut work: impl FnMut()) -> f64 {
    if !wanted {
        return f64::NAN;
    }
    let mut best = f64::INFINITY;
    for _ in 0..7 {
        let start = Instant::now();
        for _ in 0..100 {
            work();
        }
        best = best.min(start.elapsed().as_secs_f64() / 100.0);
    }
    bytes as f64 / best / 1e9
}

/// Whether `name` is among the wanted names of its kind, or none of that kind is wanted.
fn selects(wanted: &[String], name: &str, is_of_kind: impl Fn(&str) -> bool) -> bool {
    let mut of_kind = wanted.iter().filter(|wanted| is_of_kind(wanted)).peekable();
    of_kind.peek().is_none() || of_kind.any(|wanted| wanted == name)
}

/// The wanted levels of this machine.
fn levels(wanted: &[String]) -> impl Iterator<Item = Level> {
    let is_level = |name: &str| Level::named(name).is_some();
    Level::available()
        .into_iter()
        .filter(move |level| selects(wanted, level.name(), is_level))
}

/// The dtypes of `A:B`.
fn pair_of(name: &str) -> Option<(DType, DType)> {
    let (a, b) = name.split_once(':')?;
    Some((DType::from_name(a).ok()?, DType::from_name(b).ok()?))
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    println!(
        "{:12} {:9} {:>7} {:>10} {:>7}",
        "dtype", "level", "diff", "identical", "stats"
    );
    let pairs: Vec<(DType, DType)> = wanted.iter().filter_map(|name| pair_of(name)).collect();
    for (dtype_a, dtype_b) in &pairs {
        let (a, b) = (sides(*dtype_a).0, sides(*dtype_b).1);
        let elements = BYTES / dtype_a.bits().max(dtype_b.bits()) as usize * 8;
        let bytes = elements * (dtype_a.bits() + dtype_b.bits()) as usize / 8;
        for level in levels(&wanted) {
            let mut diff = DiffKernel::new(level, Arc::new(DiffOptions::default()));
            let mut partial = DiffPartial::default();
            let rate = gigabytes_per_second(bytes, true, || {
                diff.accumulate((*dtype_a, &a), (*dtype_b, &b), elements, 0, &mut partial);
            });
            let names = format!("{dtype_a}:{dtype_b}");
            println!("{names:12} {:9} {rate:7.2}", level.name());
        }
    }
    let is_dtype = |name: &str| DType::from_name(name).is_ok();
    for dtype in DType::ALL {
        let only_pairs = !pairs.is_empty() && !wanted.iter().any(|name| is_dtype(name));
        if only_pairs || !selects(&wanted, dtype.name(), is_dtype) {
            continue;
        }
        let (a, b) = sides(dtype);
        let elements = BYTES * 8 / dtype.bits() as usize / 1024 * 1024;
        for level in levels(&wanted) {
            let mut diff = DiffKernel::new(level, Arc::new(DiffOptions::default()));
            let mut stats = StatsKernel::new(level, Arc::new(StatsOptions::default()));
            let wants = |what: &str| selects(&wanted, what, |name| WORK.contains(&name));
            let mut partial = DiffPartial::default();
            let diff_rate = gigabytes_per_second(2 * BYTES, wants("diff"), || {
                diff.accumulate((dtype, &a), (dtype, &b), elements, 0, &mut partial);
            });
            let identical_rate = gigabytes_per_second(2 * BYTES, wants("identical"), || {
                diff.accumulate((dtype, &a), (dtype, &a), elements, 0, &mut partial);
            });
            let mut partial = StatsPartial::default();
            let stats_rate = gigabytes_per_second(BYTES, wants("stats"), || {
                stats.accumulate(dtype, &a, elements, 0, &mut partial);
            });
            println!(
                "{:12} {:9} {diff_rate:7.2} {identical_rate:10.2} {stats_rate:7.2}",
                dtype.name(),
                level.name()
            );
        }
    }
}
