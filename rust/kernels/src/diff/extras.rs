//! What is asked for on top of the default columns, of blocks that the fast paths have summed:
//! counts over thresholds and tolerances, and the histogram of |d|.
//!
//! All of it is decided by |d| as `f64` has it, which wide passes compute. For narrow values `f32`
//! will do in nearly every block: where all differences are exact in it, they compare with a
//! threshold as `f64` does; and a tolerance leaves a count open only where |d| is within 2^-20 of
//! it. A block that stays open is widened on the way into a wide pass.
//!
//! For the histogram, exponents are counted, see [`crate::exponents`].

use super::{DiffOptions, DiffPartial};
use crate::exponents::{Counts, Distances, count_distances};
use crate::histogram::Histogram;
use crate::level::{Level, Pass};
use crate::passes::rows;
use crate::runs::{NarrowRun, WideRun, Widened};
use crate::simd::Simd;

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

/// What narrow passes may rely on.
#[derive(Clone, Copy)]
pub(super) struct Narrowness {
    /// No value is nearer to zero than this, but for zero.
    pub(super) smallest: f64,
    /// Whether every difference is exact in `f32`.
    pub(super) exact: bool,
}

impl Extra<'_> {
    pub(super) fn count_narrow<A: NarrowRun, B: NarrowRun>(
        mut self,
        a: A,
        b: B,
        narrowness: Narrowness,
    ) {
        if !narrowness.exact {
            let tolerated = self.count_tolerance_narrow(a, b, narrowness.smallest);
            return self.count_wide_beside(Widened(a), Widened(b), tolerated);
        }
        if !self.count_tolerance_narrow(a, b, narrowness.smallest) {
            self.count_tolerance_wide(Widened(a), Widened(b));
        }
        self.count_above(|level, limits, used| {
            let limits = limits.map(toward_zero);
            match used {
                1 => first(level.run(AboveNarrow::<A, B, 1>::new(a, b, &limits))),
                2 | 3 => first(level.run(AboveNarrow::<A, B, 3>::new(a, b, &limits))),
                _ => level.run(AboveNarrow::<A, B, CHUNK>::new(a, b, &limits)),
            }
        });
        if self.options.histogram && !self.count_no_differences() {
            let largest = (self.max_abs as f32).to_bits() >> 23;
            let counts = self.level.run(ExponentsNarrow {
                a,
                b,
                largest: largest as u16,
                changed: self.changed,
                distances: &mut *self.distances,
            });
            self.add_exponents(
                counts.as_ref(),
                largest as i32 - 127,
                Widened(a),
                Widened(b),
            );
        }
    }

    pub(super) fn count_wide<A: WideRun, B: WideRun>(self, a: A, b: B) {
        self.count_wide_beside(a, b, false);
    }

    /// `tolerated` tells whether the tolerance was counted already. The largest |d| may be that of
    /// a narrow pass.
    fn count_wide_beside<A: WideRun, B: WideRun>(mut self, a: A, b: B, tolerated: bool) {
        if !tolerated {
            self.count_tolerance_wide(a, b);
        }
        // Rounded to `f32`, the largest difference may have gone below its neighbour.
        self.max_abs *= 1.0 + f64::from(f32::EPSILON);
        self.count_above(|level, limits, used| match used {
            1 => first(level.run(AboveWide::<A, B, 1>::new(a, b, &limits))),
            2 | 3 => first(level.run(AboveWide::<A, B, 3>::new(a, b, &limits))),
            _ => level.run(AboveWide::<A, B, CHUNK>::new(a, b, &limits)),
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

    /// Count a tolerance, unless a wide pass has to.
    fn count_tolerance_narrow<A: NarrowRun, B: NarrowRun>(
        &mut self,
        a: A,
        b: B,
        smallest: f64,
    ) -> bool {
        /// Where roundings of `f32` are relative ones.
        const NORMAL: std::ops::Range<f64> = 1e-30..1e30;
        /// Takes in several roundings.
        const MARGIN: f64 = 1.0 / (1 << 20) as f64;
        let DiffOptions { atol, rtol, .. } = *self.options;
        if !self.options.tolerant() {
            self.partial.out_of_tolerance += self.changed;
            return true;
        }
        let safe = (atol == 0.0 || NORMAL.contains(&atol))
            && (rtol == 0.0 || NORMAL.contains(&rtol) && rtol * smallest >= NORMAL.start);
        if !safe {
            return false;
        }
        let scaled = |factor: f64| [(atol * factor) as f32, (rtol * factor) as f32];
        let [surely, maybe] = self.level.run(ToleranceNarrow {
            a,
            b,
            upper: scaled(1.0 + MARGIN),
            lower: scaled(1.0 - MARGIN),
        });
        if surely == maybe {
            self.partial.out_of_tolerance += surely;
        }
        surely == maybe
    }

    fn count_tolerance_wide<A: WideRun, B: WideRun>(&mut self, a: A, b: B) {
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
    fn add_exponents<A: WideRun, B: WideRun>(
        &mut self,
        counts: Option<&Counts>,
        largest: i32,
        a: A,
        b: B,
    ) {
        let Some(extras) = &mut self.partial.extras else {
            return;
        };
        let histogram = &mut extras.histogram;
        match counts {
            Some(counts) => counts.add_to(histogram, largest),
            None => self.level.run(AddSingly { a, b, histogram }),
        }
    }
}

/// The largest `f32` that is not larger, of a positive value.
fn toward_zero(value: f64) -> f32 {
    let nearest = value as f32;
    if f64::from(nearest) > value {
        f32::from_bits(nearest.to_bits() - 1)
    } else {
        nearest
    }
}

/// Thresholds that a pass compares with at once.
const CHUNK: usize = 5;

fn first<const N: usize>(counts: [u64; N]) -> [u64; CHUNK] {
    let mut all = [0; CHUNK];
    all[..N].copy_from_slice(&counts);
    all
}

macro_rules! above {
    ($name:ident, $run:ident, $value:ty, $what:literal) => {
        #[doc = $what]
        struct $name<A, B, const N: usize> {
            a: A,
            b: B,
            limits: [$value; N],
        }

        impl<A: $run, B: $run, const N: usize> $name<A, B, N> {
            fn new(a: A, b: B, all: &[$value; CHUNK]) -> Self {
                let mut limits = [0.0; N];
                limits.copy_from_slice(&all[..N]);
                Self { a, b, limits }
            }
        }
    };
}

above!(
    AboveNarrow,
    NarrowRun,
    f32,
    "How many narrow |d| exceed each limit."
);
above!(
    AboveWide,
    WideRun,
    f64,
    "How many wide |d| exceed each limit."
);

impl<A: NarrowRun, B: NarrowRun, const N: usize> Pass for AboveNarrow<A, B, N> {
    type Output = [u64; N];

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> [u64; N] {
        let Self { a, b, .. } = self;
        let mut counts = [simd.no_counts32(); N];
        let mut limits = [simd.splat_f32(0.0); N];
        for (splat, limit) in limits.iter_mut().zip(self.limits) {
            *splat = simd.splat_f32(limit);
        }
        for half in 0..a.halves().min(b.halves()) {
            for quarter in 0..2 {
                let a = a.load(simd, half, quarter);
                let b = b.load(simd, half, quarter);
                let d = rows!(simd.sub_f32(b, a));
                let m = [simd.abs_f32(d[0]), simd.abs_f32(d[1])];
                for index in 0..N {
                    counts[index] = simd.count_less_f32(counts[index], limits[index], m[0]);
                    counts[index] = simd.count_less_f32(counts[index], limits[index], m[1]);
                }
            }
        }
        let mut totals = [0; N];
        for (total, counts) in totals.iter_mut().zip(counts) {
            *total = simd.sum_counts32(counts);
        }
        totals
    }
}

impl<A: WideRun, B: WideRun, const N: usize> Pass for AboveWide<A, B, N> {
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

/// How many narrow |d| exceed two tolerances, each given as [atol, rtol].
struct ToleranceNarrow<A, B> {
    a: A,
    b: B,
    upper: [f32; 2],
    lower: [f32; 2],
}

impl<A: NarrowRun, B: NarrowRun> Pass for ToleranceNarrow<A, B> {
    type Output = [u64; 2];

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> [u64; 2] {
        let Self { a, b, upper, lower } = self;
        let upper = [simd.splat_f32(upper[0]), simd.splat_f32(upper[1])];
        let lower = [simd.splat_f32(lower[0]), simd.splat_f32(lower[1])];
        let (mut surely, mut maybe) = (simd.no_counts32(), simd.no_counts32());
        for half in 0..a.halves().min(b.halves()) {
            for quarter in 0..2 {
                let a = a.load(simd, half, quarter);
                let b = b.load(simd, half, quarter);
                for row in 0..2 {
                    let m = simd.abs_f32(simd.sub_f32(b[row], a[row]));
                    let a = simd.abs_f32(a[row]);
                    let limit = simd.add_f32(upper[0], simd.mul_f32(upper[1], a));
                    surely = simd.count_less_f32(surely, limit, m);
                    let limit = simd.add_f32(lower[0], simd.mul_f32(lower[1], a));
                    maybe = simd.count_less_f32(maybe, limit, m);
                }
            }
        }
        [simd.sum_counts32(surely), simd.sum_counts32(maybe)]
    }
}

/// How many wide |d| exceed a tolerance.
struct ToleranceWide<A, B> {
    a: A,
    b: B,
    atol: f64,
    rtol: f64,
}

impl<A: WideRun, B: WideRun> Pass for ToleranceWide<A, B> {
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

/// The exponents of narrow |d|, whose largest biased one is given.
struct ExponentsNarrow<'a, A, B> {
    a: A,
    b: B,
    largest: u16,
    changed: u64,
    distances: &'a mut Distances,
}

impl<A: NarrowRun, B: NarrowRun> Pass for ExponentsNarrow<'_, A, B> {
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
        let halves = a.halves().min(b.halves());
        for (half, distances) in distances[..halves].iter_mut().enumerate() {
            let [a0, a1] = a.load(simd, half, 0);
            let [b0, b1] = b.load(simd, half, 0);
            let [a2, a3] = a.load(simd, half, 1);
            let [b2, b3] = b.load(simd, half, 1);
            let d = [
                simd.sub_f32(b0, a0),
                simd.sub_f32(b1, a1),
                simd.sub_f32(b2, a2),
                simd.sub_f32(b3, a3),
            ];
            *distances = simd.exponents_f32(d, largest as u8);
        }
        count_distances(simd, &distances[..halves], largest, changed)
    }
}

/// The exponents of wide |d|, of which none has a larger biased one than is given.
struct ExponentsWide<'a, A, B> {
    a: A,
    b: B,
    largest: u16,
    changed: u64,
    distances: &'a mut Distances,
}

impl<A: WideRun, B: WideRun> Pass for ExponentsWide<'_, A, B> {
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

/// Add every |d| but zeros to a histogram.
struct AddSingly<'a, A, B> {
    a: A,
    b: B,
    histogram: &'a mut Histogram,
}

impl<A: WideRun, B: WideRun> Pass for AddSingly<'_, A, B> {
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

/// The code of 16 bits nearest to zero that is not zero, as twice its magnitude; 65536 where
/// there are only zeros.
pub(super) struct NearestZero<'a> {
    pub(super) a: &'a [u8],
    pub(super) b: &'a [u8],
}

impl Pass for NearestZero<'_> {
    type Output = u32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> u32 {
        let mut nearest_a = simd.no_codes().farthest;
        let mut nearest_b = nearest_a;
        let (rows_a, rows_b) = (self.a.as_chunks().0, self.b.as_chunks().0);
        for row in 0..rows_a.len().min(rows_b.len()) {
            nearest_a = simd.nearest_zero_16(nearest_a, &rows_a[row]);
            nearest_b = simd.nearest_zero_16(nearest_b, &rows_b[row]);
        }
        let nearest = simd.reduce_16(nearest_a).0.max(simd.reduce_16(nearest_b).0);
        (1 << 16) - nearest as u32
    }
}
