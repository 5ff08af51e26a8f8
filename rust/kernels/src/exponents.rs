//! Histograms by exponents: how many magnitudes have each, in a few passes over bytes.
//!
//! Exponents become bytes, namely how far below the largest they are, and every distance is counted
//! by comparing the bytes with it, the nearest first, until all values are accounted for; values
//! spread over few binades.

use crate::BLOCK;
use crate::histogram::Histogram;
use crate::level::{Level, Pass};
use crate::runs::NarrowRun;
use crate::simd::Simd;

/// Bytes of a block, one for each float.
pub(crate) type Distances = [[u8; 32]; BLOCK / 32];

/// How many magnitudes have each exponent, from the largest down.
pub(crate) struct Counts {
    counts: [u16; 256],
    used: usize,
}

impl Counts {
    /// Add them to a histogram; `largest` is the largest exponent.
    pub(crate) fn add_to(&self, histogram: &mut Histogram, largest: i32) {
        let Self { counts, used } = self;
        for (exponent, count) in (i32::MIN..=largest).rev().zip(&counts[..*used]) {
            if *count > 0 {
                histogram.add_many(exponent, u64::from(*count));
            }
        }
    }
}

/// Count each distance from the largest exponent, until all are counted. The last
/// distances stand for zeros, subnormals and whatever is too far.
#[inline(always)]
pub(crate) fn count_distances<S: Simd>(
    simd: S,
    distances: &[[u8; 32]],
    largest: u16,
    nonzero: u64,
) -> Option<Counts> {
    let mut counts = [0; 256];
    let mut counted = 0;
    let normal = usize::from(largest.min(255));
    let mut used = 0;
    while counted < nonzero && used < normal {
        let none = simd.no_codes().same_code;
        let (mut c0, mut c1, mut c2, mut c3) = (none, none, none, none);
        let nearest = used as u8;
        for row in distances {
            c0 = simd.count_byte(c0, row, nearest);
            c1 = simd.count_byte(c1, row, nearest.wrapping_add(1));
            c2 = simd.count_byte(c2, row, nearest.wrapping_add(2));
            c3 = simd.count_byte(c3, row, nearest.wrapping_add(3));
        }
        for lanes in [c0, c1, c2, c3] {
            if used < normal {
                let count = simd.reduce_8(lanes).1;
                counts[used] = count as u16;
                counted += count;
                used += 1;
            }
        }
    }
    (counted == nonzero).then_some(Counts { counts, used })
}

/// Add the magnitudes of a run, of which the largest is given and so many are not zero; false, and
/// nothing added, where some are subnormal or too far apart.
pub(crate) fn add_narrow<R: NarrowRun>(
    level: Level,
    run: R,
    largest: f64,
    nonzero: u64,
    histogram: &mut Histogram,
) -> bool {
    let largest = ((largest as f32).to_bits() >> 23) as u16;
    let counts = level.run(NarrowExponents {
        run,
        largest,
        nonzero,
    });
    if let Some(counts) = &counts {
        counts.add_to(histogram, i32::from(largest) - 127);
    }
    counts.is_some()
}

struct NarrowExponents<R> {
    run: R,
    largest: u16,
    nonzero: u64,
}

impl<R: NarrowRun> Pass for NarrowExponents<R> {
    type Output = Option<Counts>;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Option<Counts> {
        let Self {
            run,
            largest,
            nonzero,
        } = self;
        let mut distances = [[0; 32]; BLOCK / 32];
        let halves = run.halves();
        for (half, distances) in distances[..halves].iter_mut().enumerate() {
            let [w, x] = run.load(simd, half, 0);
            let [y, z] = run.load(simd, half, 1);
            *distances = simd.exponents_f32([w, x, y, z], largest as u8);
        }
        count_distances(simd, &distances[..halves], largest, nonzero)
    }
}

/// Add the magnitudes of finite values, of which the largest is given and so many are not zero.
pub(crate) fn add_wide(
    level: Level,
    values: &[f64],
    largest: f64,
    nonzero: u64,
    histogram: &mut Histogram,
) {
    let exponent = (largest.to_bits() >> 52) as u16;
    let whole = values.len().is_multiple_of(32);
    let counts = if whole {
        level.run(WideExponents {
            values,
            largest: exponent,
            nonzero,
        })
    } else {
        None
    };
    if let Some(counts) = counts {
        counts.add_to(histogram, i32::from(exponent) - 1023);
        return;
    }
    for value in values.iter().filter(|value| **value != 0.0) {
        histogram.add(value.abs());
    }
}

struct WideExponents<'a> {
    values: &'a [f64],
    largest: u16,
    nonzero: u64,
}

impl Pass for WideExponents<'_> {
    type Output = Option<Counts>;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Option<Counts> {
        let Self {
            values,
            largest,
            nonzero,
        } = self;
        let rows = values.as_chunks::<32>().0;
        let mut distances = [[0; 32]; BLOCK / 32];
        for (row, distances) in rows.iter().zip(&mut distances) {
            let mut loaded = [simd.splat_f64(0.0); 8];
            for (loaded, values) in loaded.iter_mut().zip(row.as_chunks::<4>().0) {
                *loaded = simd.load_f64(values);
            }
            *distances = simd.exponents_f64(loaded, largest);
        }
        count_distances(simd, &distances[..rows.len()], largest, nonzero)
    }
}
