//! What is asked for on top of the default columns, of blocks that the fast paths have summed:
//! counts over thresholds and tolerances, and the histogram of |d|.
//!
//! All of it is decided by |d| as `f64` has it, in wide passes.
//!
//! For the histogram, exponents become bytes, namely how far below the largest they are, and
//! every distance is counted by comparing the bytes with it, the nearest first, until all
//! differences are accounted for; values spread over few binades.

use super::{DiffOptions, DiffPartial};
use crate::BLOCK;
use crate::histogram::Histogram;
use crate::level::{Level, Pass};
use crate::passes::rows;
use crate::runs::WideRun;
use crate::simd::Simd;

/// Bytes of a block, one for each float.
pub(super) type Distances = [[u8; 32]; BLOCK / 32];

/// What is known of a harmless block, and what its counts are added to.
pub(super) struct Extra<'a> {
    pub(super) level: Level,
    pub(super) options: &'a DiffOptions,
    pub(super) floats: usize,
    pub(super) changed: u64,
    /// The largest |d|, in the arithmetic of the pass that summed.
    pub(super) max_abs: f64,
    pub(super) partial: &'a mut DiffPartial,
    pub(super) distances: &'a mut Distances,
}

impl Extra<'_> {
    pub(super) fn count_wide<R: WideRun>(mut self, a: R, b: R) {
        self.count_tolerance(a, b);
        // Rounded to `f32`, the largest difference may have gone below its neighbour.
        self.max_abs *= 1.0 + f64::from(f32::EPSILON);
        self.count_above(|level, limits, used| match used {
            1 => first(level.run(AboveWide::<R, 1>::new(a, b, &limits))),
            2 | 3 => first(level.run(AboveWide::<R, 3>::new(a, b, &limits))),
            _ => level.run(AboveWide::<R, CHUNK>::new(a, b, &limits)),
        });
        if self.options.histogram && !self.count_no_differences() {
            // At most one more than that of any difference.
            let largest = self.max_abs.to_bits() >> 52;
            let counts = self.level.run(ExponentsWide {
                a,
                b,
                largest: largest as u16,
                changed: self.changed,
                distances: &mut *self.distances,
            });
            self.add_exponents(counts.as_ref(), largest as i32 - 1023, a, b);
        }
    }

    fn count_tolerance<R: WideRun>(&mut self, a: R, b: R) {
        let DiffOptions { atol, rtol, .. } = *self.options;
        if !self.options.tolerant() {
            self.partial.out_of_tolerance += self.changed;
            return;
        }
        let out = self.level.run(ToleranceWide { a, b, atol, rtol });
        self.partial.out_of_tolerance += out;
    }

    /// Count what is above each threshold; `count` does so for up to [`CHUNK`] of them.
    fn count_above(&mut self, count: impl Fn(Level, [f64; CHUNK], usize) -> [u64; CHUNK]) {
        let Some(extras) = &mut self.partial.extras else {
            return;
        };
        let above = &mut extras.above;
        let mut open = [0; CHUNK];
        let mut limits = [0.0; CHUNK];
        let mut used = 0;
        let last = self.options.thresholds.len();
        for (index, threshold) in self.options.thresholds.iter().enumerate() {
            if *threshold < 0.0 {
                above[index] += self.floats as u64;
            } else if *threshold == 0.0 {
                above[index] += self.changed;
            } else if *threshold < self.max_abs {
                open[used] = index;
                limits[used] = *threshold;
                used += 1;
            }
            if used == CHUNK || (used > 0 && index + 1 == last) {
                let counts = count(self.level, limits, used);
                for (index, count) in open[..used].iter().zip(counts) {
                    above[*index] += count;
                }
                used = 0;
            }
        }
    }

    /// Count the zeros of the histogram; true where there is nothing else.
    fn count_no_differences(&mut self) -> bool {
        if let Some(extras) = &mut self.partial.extras {
            extras
                .histogram
                .add_zeros(self.floats as u64 - self.changed);
        }
        self.changed == 0
    }

    /// Add the counts of exponents from `largest` down, or the differences one by one where
    /// there are none: they are subnormal, or more than 254 binades apart.
    fn add_exponents<R: WideRun>(&mut self, counts: Option<&Counts>, largest: i32, a: R, b: R) {
        let Some(extras) = &mut self.partial.extras else {
            return;
        };
        let histogram = &mut extras.histogram;
        match counts {
            Some(Counts { counts, used }) => {
                for (exponent, count) in (i32::MIN..=largest).rev().zip(&counts[..*used]) {
                    if *count > 0 {
                        histogram.add_many(exponent, u64::from(*count));
                    }
                }
            }
            None => self.level.run(AddSingly { a, b, histogram }),
        }
    }
}

/// Thresholds that a pass compares with at once.
const CHUNK: usize = 5;

fn first<const N: usize>(counts: [u64; N]) -> [u64; CHUNK] {
    let mut all = [0; CHUNK];
    all[..N].copy_from_slice(&counts);
    all
}

/// How many wide |d| exceed each limit.
struct AboveWide<R, const N: usize> {
    a: R,
    b: R,
    limits: [f64; N],
}

impl<R: WideRun, const N: usize> AboveWide<R, N> {
    fn new(a: R, b: R, all: &[f64; CHUNK]) -> Self {
        let mut limits = [0.0; N];
        limits.copy_from_slice(&all[..N]);
        Self { a, b, limits }
    }
}

impl<R: WideRun, const N: usize> Pass for AboveWide<R, N> {
    type Output = [u64; N];

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> [u64; N] {
        let Self { a, b, .. } = self;
        let mut counts = [simd.no_counts64(); N];
        let mut limits = [simd.splat_f64(0.0); N];
        for (splat, limit) in limits.iter_mut().zip(self.limits) {
            *splat = simd.splat_f64(limit);
        }
        for row in 0..a.rows().min(b.rows()) {
            let d = rows!(simd.sub_f64(b.load(simd, row), a.load(simd, row)));
            let m = [simd.abs_f64(d[0]), simd.abs_f64(d[1])];
            for index in 0..N {
                counts[index] = simd.count_less_f64(counts[index], limits[index], m[0]);
                counts[index] = simd.count_less_f64(counts[index], limits[index], m[1]);
            }
        }
        let mut totals = [0; N];
        for (total, counts) in totals.iter_mut().zip(counts) {
            *total = simd.sum_counts64(counts);
        }
        totals
    }
}

/// How many wide |d| exceed a tolerance.
struct ToleranceWide<R> {
    a: R,
    b: R,
    atol: f64,
    rtol: f64,
}

impl<R: WideRun> Pass for ToleranceWide<R> {
    type Output = u64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> u64 {
        let Self { a, b, atol, rtol } = self;
        let (atol, rtol) = (simd.splat_f64(atol), simd.splat_f64(rtol));
        let mut out = simd.no_counts64();
        for row in 0..a.rows().min(b.rows()) {
            let (a, b) = (a.load(simd, row), b.load(simd, row));
            for half in 0..2 {
                let m = simd.abs_f64(simd.sub_f64(b[half], a[half]));
                let limit = simd.add_f64(atol, simd.mul_f64(rtol, simd.abs_f64(a[half])));
                out = simd.count_less_f64(out, limit, m);
            }
        }
        simd.sum_counts64(out)
    }
}

/// How many differences have each exponent, from the largest down.
struct Counts {
    counts: [u16; 256],
    used: usize,
}

/// The exponents of wide |d|, of which none has a larger biased one than is given.
struct ExponentsWide<'a, R> {
    a: R,
    b: R,
    largest: u16,
    changed: u64,
    distances: &'a mut Distances,
}

impl<R: WideRun> Pass for ExponentsWide<'_, R> {
    type Output = Option<Counts>;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Option<Counts> {
        let Self {
            a,
            b,
            largest,
            changed,
            distances,
        } = self;
        let quarters = a.rows().min(b.rows()) / 4;
        for (row, distances) in distances[..quarters].iter_mut().enumerate() {
            let d0 = rows!(simd.sub_f64(b.load(simd, 4 * row), a.load(simd, 4 * row)));
            let d1 = rows!(simd.sub_f64(b.load(simd, 4 * row + 1), a.load(simd, 4 * row + 1)));
            let d2 = rows!(simd.sub_f64(b.load(simd, 4 * row + 2), a.load(simd, 4 * row + 2)));
            let d3 = rows!(simd.sub_f64(b.load(simd, 4 * row + 3), a.load(simd, 4 * row + 3)));
            let d = [d0[0], d0[1], d1[0], d1[1], d2[0], d2[1], d3[0], d3[1]];
            *distances = simd.exponents_f64(d, largest);
        }
        count_distances(simd, &distances[..quarters], largest, changed)
    }
}

/// Count each distance from the largest exponent, until all that changed are counted. The last
/// distances stand for zeros, subnormals and whatever is too far.
#[inline(always)]
fn count_distances<S: Simd>(
    simd: S,
    distances: &[[u8; 32]],
    largest: u16,
    changed: u64,
) -> Option<Counts> {
    let mut counts = [0; 256];
    let mut counted = 0;
    let normal = usize::from(largest.min(255));
    let mut used = 0;
    while counted < changed && used < normal {
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
    (counted == changed).then_some(Counts { counts, used })
}

/// Add every |d| but zeros to a histogram.
struct AddSingly<'a, R> {
    a: R,
    b: R,
    histogram: &'a mut Histogram,
}

impl<R: WideRun> Pass for AddSingly<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { a, b, histogram } = self;
        for row in 0..a.rows().min(b.rows()) {
            for half in rows!(simd.sub_f64(b.load(simd, row), a.load(simd, row))) {
                for difference in simd.array_f64(half) {
                    if difference != 0.0 {
                        histogram.add(difference.abs());
                    }
                }
            }
        }
    }
}
