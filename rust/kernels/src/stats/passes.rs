//! The sums and counts over one block.
//!
//! The common floats are done in one pass over their codes, around a pivot guessed from the
//! block's beginning; the sums tell whether that was good enough, as they do for diffs. Other
//! values are surveyed first, then raised to powers around the block's mean.

use std::ops::RangeInclusive;

use crate::decode::PADDING;
use crate::level::Pass;
use crate::passes::{ShortSum, Sum, rows};
use crate::runs::{NarrowRun, Values, WideRun};
use crate::simd::{Classes, Simd};

/// What one pass over a block finds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Survey {
    pub(super) sum: f64,
    pub(super) absolute: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) zeros: u64,
    pub(super) negatives: u64,
    pub(super) subnormals: u64,
    pub(super) saturated: u64,
}

/// Sums, extremes and counts of wide values.
pub(super) struct SurveyPass<'a> {
    pub(super) values: &'a [f64],
    pub(super) smallest_normal: f64,
    pub(super) saturation: (f64, f64),
}

impl Pass for SurveyPass<'_> {
    type Output = Survey;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Survey {
        let mut sum = Sum::new(simd);
        let mut absolute = Sum::new(simd);
        let mut min = simd.splat_f64(f64::INFINITY);
        let mut max = simd.splat_f64(f64::NEG_INFINITY);
        let run = Values::new(self.values);
        let rest = &self.values[run.rows() * 8..];
        for row in 0..run.rows() {
            let x = run.load(simd, row);
            sum.add(simd, x);
            absolute.add(simd, x.map(|half| simd.abs_f64(half)));
            for half in x {
                min = simd.min_f64(half, min);
                max = simd.max_f64(half, max);
            }
        }
        let zero = simd.splat_f64(0.0);
        let smallest_normal = simd.splat_f64(self.smallest_normal);
        let lowest = simd.splat_f64(self.saturation.0);
        let highest = simd.splat_f64(self.saturation.1);
        let mut zeros = simd.no_counts64();
        let mut negatives = simd.no_counts64();
        let mut tiny = simd.no_counts64();
        let mut saturated = simd.no_counts64();
        for row in 0..run.rows() {
            for x in run.load(simd, row) {
                zeros = simd.count_equal_f64(zeros, x, zero);
                negatives = simd.count_less_f64(negatives, x, zero);
                tiny = simd.count_less_f64(tiny, simd.abs_f64(x), smallest_normal);
                saturated = simd.count_equal_f64(saturated, x, lowest);
                saturated = simd.count_equal_f64(saturated, x, highest);
            }
        }
        let mut survey = Survey {
            sum: sum.total(simd),
            absolute: absolute.total(simd),
            min: simd
                .array_f64(min)
                .into_iter()
                .fold(f64::INFINITY, f64::min),
            max: simd
                .array_f64(max)
                .into_iter()
                .fold(f64::NEG_INFINITY, f64::max),
            zeros: simd.sum_counts64(zeros),
            negatives: simd.sum_counts64(negatives),
            subnormals: simd.sum_counts64(tiny),
            saturated: simd.sum_counts64(saturated),
        };
        for x in rest {
            survey.sum += x;
            survey.absolute += x.abs();
            survey.min = if *x < survey.min { *x } else { survey.min };
            survey.max = if *x > survey.max { *x } else { survey.max };
            survey.zeros += u64::from(*x == 0.0);
            survey.negatives += u64::from(*x < 0.0);
            survey.subnormals += u64::from(x.abs() < self.smallest_normal);
            survey.saturated += u64::from(*x == self.saturation.0 || *x == self.saturation.1);
        }
        // Zeros are below the smallest normal but not subnormal.
        survey.subnormals = survey.subnormals.saturating_sub(survey.zeros);
        survey
    }
}

/// Power sums of `x - pivot`.
pub(super) struct PowersPass<'a> {
    pub(super) values: &'a [f64],
    pub(super) pivot: f64,
}

impl Pass for PowersPass<'_> {
    type Output = [f64; 4];

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> [f64; 4] {
        let run = Values::new(self.values);
        let mut powers = Powers::new(simd, self.pivot);
        for row in 0..run.rows() {
            powers.add(simd, run.load(simd, row));
        }
        let mut powers = powers.total(simd);
        for x in &self.values[run.rows() * 8..] {
            let c = x - self.pivot;
            let square = c * c;
            powers[0] += c;
            powers[1] += square;
            powers[2] += square * c;
            powers[3] += square * square;
        }
        powers
    }
}

/// Sums of narrow values and of powers of `x - pivot`.
pub(super) struct NarrowPass<R> {
    pub(super) run: R,
    pub(super) pivot: f32,
}

/// What [`NarrowPass`] or [`WidePass`] finds.
#[derive(Clone, Copy, Debug)]
pub(super) struct OnePassSums {
    pub(super) absolute: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    /// Σ (x − pivot)^k for k from 1 to 4.
    pub(super) powers: [f64; 4],
}

/// A fourth power below 2^-1074 vanishes; a thousand of them are far below 2^-900.
const FOURTH_POWERS: RangeInclusive<f64> = 1e-270..=1e300;

impl OnePassSums {
    /// Whether every value was finite, no power overflowed or vanished, and the pivot was near
    /// enough to the mean, in standard deviations, for the moments not to cancel.
    pub(super) fn harmless(&self, count: usize) -> bool {
        let [first, second, _, fourth] = self.powers;
        let constant = self.min == self.max && second == 0.0;
        let shift = first * first / count as f64;
        self.absolute.is_finite()
            && (constant || FOURTH_POWERS.contains(&fourth) && shift <= 16.0 * (second - shift))
    }
}

impl<R: NarrowRun> Pass for NarrowPass<R> {
    type Output = OnePassSums;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> OnePassSums {
        let mut absolute = Sum::new(simd);
        let mut powers = Powers::new(simd, f64::from(self.pivot));
        let mut min = simd.splat_f32(f32::INFINITY);
        let mut max = simd.splat_f32(f32::NEG_INFINITY);
        for group in 0..self.run.groups() {
            let mut short_absolute = ShortSum::new(simd);
            for quarter in 0..4 {
                let x = self.run.load(simd, group, quarter);
                min = simd.min_f32(simd.min_f32(x[0], x[1]), min);
                max = simd.max_f32(simd.max_f32(x[0], x[1]), max);
                short_absolute.add(simd, x.map(|row| simd.abs_f32(row)));
                // A power has more bits than an f32, and central moments are small differences.
                for row in x {
                    powers.add(simd, simd.widen(row));
                }
            }
            absolute.add_short(simd, short_absolute.0);
        }
        OnePassSums {
            absolute: absolute.total(simd),
            min: f64::from(
                simd.array_f32(min)
                    .into_iter()
                    .fold(f32::INFINITY, f32::min),
            ),
            max: f64::from(
                simd.array_f32(max)
                    .into_iter()
                    .fold(f32::NEG_INFINITY, f32::max),
            ),
            powers: powers.total(simd),
        }
    }
}

/// Sums of the first four powers of `x - pivot`.
struct Powers<S: Simd> {
    pivot: [S::F64; 2],
    sums: [Sum<S>; 4],
}

impl<S: Simd> Powers<S> {
    #[inline(always)]
    fn new(simd: S, pivot: f64) -> Self {
        Self {
            pivot: [simd.splat_f64(pivot); 2],
            sums: [Sum::new(simd); 4],
        }
    }

    #[inline(always)]
    fn add(&mut self, simd: S, x: [S::F64; 2]) {
        let c = rows!(simd.sub_f64(x, self.pivot));
        let square = rows!(simd.mul_f64(c, c));
        self.sums[0].add(simd, c);
        self.sums[1].add(simd, square);
        self.sums[2].add(simd, rows!(simd.mul_f64(square, c)));
        self.sums[3].add(simd, rows!(simd.mul_f64(square, square)));
    }

    #[inline(always)]
    fn total(self, simd: S) -> [f64; 4] {
        let [first, second, third, fourth] = self.sums;
        [
            first.total(simd),
            second.total(simd),
            third.total(simd),
            fourth.total(simd),
        ]
    }
}

/// Sums of wide values and of powers of `x - pivot`; the length is a multiple of eight.
pub(super) struct WidePass<R> {
    pub(super) run: R,
    pub(super) pivot: f64,
}

impl<R: WideRun> Pass for WidePass<R> {
    type Output = OnePassSums;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> OnePassSums {
        let mut absolute = Sum::new(simd);
        let mut powers = Powers::new(simd, self.pivot);
        let mut min = simd.splat_f64(f64::INFINITY);
        let mut max = simd.splat_f64(f64::NEG_INFINITY);
        for row in 0..self.run.rows() {
            let x = self.run.load(simd, row);
            min = simd.min_f64(simd.min_f64(x[0], x[1]), min);
            max = simd.max_f64(simd.max_f64(x[0], x[1]), max);
            absolute.add(simd, x.map(|half| simd.abs_f64(half)));
            powers.add(simd, x);
        }
        OnePassSums {
            absolute: absolute.total(simd),
            min: simd
                .array_f64(min)
                .into_iter()
                .fold(f64::INFINITY, f64::min),
            max: simd
                .array_f64(max)
                .into_iter()
                .fold(f64::NEG_INFINITY, f64::max),
            powers: powers.total(simd),
        }
    }
}

/// Like [`Pivot`], from the first 64 wide values.
pub(super) struct WidePivot<R>(pub(super) R);

impl<R: WideRun> Pass for WidePivot<R> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        let mut sum = Sum::new(simd);
        let mut squares = Sum::new(simd);
        for row in 0..PADDING / 8 {
            let x = self.0.load(simd, row);
            sum.add(simd, x);
            squares.add(simd, rows!(simd.mul_f64(x, x)));
        }
        let mean = sum.total(simd) / PADDING as f64;
        let mean_square = squares.total(simd) / PADDING as f64;
        if mean * mean * 2.0 > mean_square {
            mean
        } else {
            0.0
        }
    }
}

/// A value near the mean of the first group, where the mean stands out from the deviation;
/// 0 where it does not, and where it could not be told.
pub(super) struct Pivot<R>(pub(super) R);

impl<R: NarrowRun> Pass for Pivot<R> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        let mut sum = ShortSum::new(simd);
        let mut squares = ShortSum::new(simd);
        for quarter in 0..4 {
            let x = self.0.load(simd, 0, quarter);
            sum.add(simd, x);
            squares.add(simd, rows!(simd.mul_f32(x, x)));
        }
        let mean = sum.total(simd) / PADDING as f32;
        let mean_square = squares.total(simd) / PADDING as f32;
        if mean * mean * 2.0 > mean_square {
            // Few bits, so that differences from values near it are exact.
            f32::from_bits(mean.to_bits() & 0xffff_0000)
        } else {
            0.0
        }
    }
}

/// Counts among the codes of sign-magnitude floats of 8, 16 or 32 bits, all finite; their length is a
/// multiple of 32 bytes.
pub(super) struct ClassifyCodes<'a> {
    /// Bytes per code: 1, 2 or 4.
    pub(super) bytes: usize,
    pub(super) codes: &'a [u8],
    pub(super) classes: Classes,
}

/// Zeros, negatives, subnormals, saturated.
pub(super) type Counts = [u64; 4];

impl Pass for ClassifyCodes<'_> {
    type Output = Counts;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Counts {
        let Self { classes, .. } = self;
        let rows = self.codes.as_chunks().0;
        let mut counts = simd.no_classes();
        // Spelled out, as closures are not inlined into code for other instructions.
        macro_rules! classify {
            ($classify:ident, $reduce:ident) => {{
                for codes in rows {
                    simd.$classify(&mut counts, codes, classes);
                }
                let zeros = simd.$reduce(counts.zero).1;
                [
                    zeros,
                    simd.$reduce(counts.signed).1 - simd.$reduce(counts.negative_zero).1,
                    simd.$reduce(counts.tiny).1 - zeros,
                    simd.$reduce(counts.saturated).1,
                ]
            }};
        }
        match self.bytes {
            1 => classify!(classify_codes_8, reduce_8),
            2 => classify!(classify_codes_16, reduce_16),
            _ => classify!(classify_codes_32, reduce_32),
        }
    }
}
