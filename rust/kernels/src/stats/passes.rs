//! The sums and counts over one block.
//!
//! The common floats are done in one pass over their codes, around a pivot guessed from the
//! block's beginning; the sums tell whether that was good enough, as they do for diffs. Other
//! values are surveyed first, then raised to powers around the block's mean.

use std::ops::RangeInclusive;

use crate::decode::PADDING;
use crate::level::Pass;
use crate::passes::{ShortTerms, Sum, add_two, pair, rows, sum_lanes, sum_short};
use crate::runs::{NarrowRun, Values, WideRun};
use crate::simd::{Classes, CodeExtremes, OnePlace, Short, Simd};

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

/// Extremes of integers of 32 bits, and counts among them; their length is a multiple of 32 bytes.
pub(super) struct SurveyIntegers<'a> {
    pub(super) codes: &'a [u8],
    pub(super) signed: bool,
}

/// What [`SurveyIntegers`] finds.
pub(super) struct FoundIntegers {
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) zeros: u64,
    pub(super) negatives: u64,
    pub(super) saturated: u64,
}

impl Pass for SurveyIntegers<'_> {
    type Output = FoundIntegers;
    const LEFT_TO_COMPILER: bool = true;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> FoundIntegers {
        const LANES: usize = 8;
        // With the upper bit flipped unsigned integers are in the order of signed ones.
        let flip = if self.signed { 0 } else { i32::MIN };
        let rows = self.codes.as_chunks::<4>().0.as_chunks::<LANES>().0;
        let (mut lowest, mut highest) = ([i32::MAX; LANES], [i32::MIN; LANES]);
        let (mut zeros, mut negatives) = ([0u32; LANES], [0u32; LANES]);
        for row in rows {
            for lane in 0..LANES {
                let code = i32::from_le_bytes(row[lane]);
                lowest[lane] = lowest[lane].min(code ^ flip);
                highest[lane] = highest[lane].max(code ^ flip);
                zeros[lane] += u32::from(code == 0);
                negatives[lane] += code as u32 >> 31;
            }
        }
        let lowest = lowest.into_iter().fold(i32::MAX, i32::min);
        let highest = highest.into_iter().fold(i32::MIN, i32::max);
        let total = |counts: [u32; LANES]| u64::from(counts.iter().sum::<u32>());
        // Rare, and not worth a count of every row. The lowest unsigned integer is zero.
        let saturated = |code: &[u8; 4]| {
            let order = i32::from_le_bytes(*code) ^ flip;
            order == i32::MAX || self.signed && order == i32::MIN
        };
        let value = |order: i32| {
            if self.signed {
                f64::from(order)
            } else {
                f64::from((order ^ flip) as u32)
            }
        };
        FoundIntegers {
            min: value(lowest),
            max: value(highest),
            zeros: total(zeros),
            negatives: if self.signed { total(negatives) } else { 0 },
            saturated: if highest == i32::MAX || self.signed && lowest == i32::MIN {
                let codes = rows.as_flattened();
                codes.iter().filter(|code| saturated(code)).count() as u64
            } else {
                0
            },
        }
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

/// What one pass of sums finds.
#[derive(Clone, Copy, Debug)]
pub(super) struct PowerSums {
    pub(super) absolute: f64,
    /// Σ (x − pivot)^k for k from 1 to 4.
    pub(super) powers: [f64; 4],
}

impl PowerSums {
    /// Whether sums in `f32` around zero will do: every value was finite, no power overflowed or
    /// vanished, and the mean is within a quarter of a standard deviation, so that the moments
    /// around it keep what the sums have.
    pub(super) fn harmless_in_f32(&self, count: usize) -> bool {
        let [first, second, _, fourth] = self.powers;
        let shift = first * first / count as f64;
        SHORT_FOURTH_POWERS.contains(&fourth) && shift <= (second - shift) / 16.0
    }

    /// The same in `f64` around a pivot, which may be as far as four standard deviations from the
    /// mean. The powers of a constant block's deviations are all zero.
    pub(super) fn harmless(&self, count: usize, constant: bool) -> bool {
        let [first, second, _, fourth] = self.powers;
        let shift = first * first / count as f64;
        self.absolute.is_finite()
            && (constant && second == 0.0
                || FOURTH_POWERS.contains(&fourth) && shift <= 16.0 * (second - shift))
    }
}

/// A fourth power below 2^-1074 vanishes; two thousand of them are far below 2^-900.
const FOURTH_POWERS: RangeInclusive<f64> = 1e-270..=1e300;

/// A fourth power below 2^-149 vanishes; two thousand of them are below 2^-58 of 2^-80.
const SHORT_FOURTH_POWERS: RangeInclusive<f64> = 8.271_806_125_530_277e-25..=1e37;

impl<R: NarrowRun> Pass for NarrowPass<R> {
    type Output = PowerSums;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> PowerSums {
        let mut absolute = simd.splat_f64(0.0);
        let mut powers = Powers::new(simd, f64::from(self.pivot));
        for half in 0..self.run.halves() {
            for quarter in 0..2 {
                for row in self.run.load(simd, half, quarter) {
                    // A power has more bits than an f32, and central moments are small differences.
                    powers.add(simd, simd.widen(row));
                    add_two(simd, &mut absolute, simd.widen(simd.abs_f32(row)));
                }
            }
        }
        PowerSums {
            absolute: sum_lanes(simd, absolute),
            powers: powers.total(simd),
        }
    }
}

/// Sums of narrow values and of their powers, in `f32` by twos up to 32 terms a lane.
///
/// The square of a narrow value is exact, its third and fourth powers are rounded once.
pub(super) struct ShortPowersPass<R>(pub(super) R);

impl<R: NarrowRun> Pass for ShortPowersPass<R> {
    /// Nothing where the values repeat.
    type Output = Option<PowerSums>;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Option<PowerSums> {
        let sums = sum_short(simd, self.0.halves(), &PowerTerms(self.0));
        let [absolute, first, second, third, fourth] = sums.totals;
        let powers = PowerSums {
            absolute,
            powers: [first, second, third, fourth],
        };
        (!sums.repeating).then_some(powers)
    }
}

/// |x|, x, x², x³ and x⁴.
struct PowerTerms<R>(R);

impl<R: NarrowRun> ShortTerms<5> for PowerTerms<R> {
    #[inline(always)]
    fn of_quarter<V: Short>(
        &self,
        short: V,
        half: usize,
        quarter: usize,
        _largest: &mut V::Floats,
    ) -> [V::Floats; 5] {
        let x = self.0.load_short(short, half, quarter);
        let square = rows!(short.mul(x, x));
        [
            pair(short, [short.abs(x[0]), short.abs(x[1])]),
            pair(short, x),
            pair(short, square),
            pair(short, rows!(short.mul(square, x))),
            pair(short, rows!(short.mul(square, square))),
        ]
    }
}

/// Sums of the first four powers of `x - pivot`.
struct Powers<S: Simd> {
    pivot: [S::F64; 2],
    sums: [S::F64; 4],
}

impl<S: Simd> Powers<S> {
    #[inline(always)]
    fn new(simd: S, pivot: f64) -> Self {
        Self {
            pivot: [simd.splat_f64(pivot); 2],
            sums: [simd.splat_f64(0.0); 4],
        }
    }

    #[inline(always)]
    fn add(&mut self, simd: S, x: [S::F64; 2]) {
        let c = rows!(simd.sub_f64(x, self.pivot));
        let square = rows!(simd.mul_f64(c, c));
        add_two(simd, &mut self.sums[0], c);
        add_two(simd, &mut self.sums[1], square);
        add_two(simd, &mut self.sums[2], rows!(simd.mul_f64(square, c)));
        add_two(simd, &mut self.sums[3], rows!(simd.mul_f64(square, square)));
    }

    #[inline(always)]
    fn total(self, simd: S) -> [f64; 4] {
        [
            sum_lanes(simd, self.sums[0]),
            sum_lanes(simd, self.sums[1]),
            sum_lanes(simd, self.sums[2]),
            sum_lanes(simd, self.sums[3]),
        ]
    }
}

/// Sums of wide values and of powers of `x - pivot`; the length is a multiple of eight.
pub(super) struct WidePass<R> {
    pub(super) run: R,
    pub(super) pivot: f64,
}

impl<R: WideRun> Pass for WidePass<R> {
    type Output = PowerSums;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> PowerSums {
        let mut absolute = simd.splat_f64(0.0);
        let mut powers = Powers::new(simd, self.pivot);
        for row in 0..self.run.rows() {
            let x = self.run.load(simd, row);
            add_two(
                simd,
                &mut absolute,
                [simd.abs_f64(x[0]), simd.abs_f64(x[1])],
            );
            powers.add(simd, x);
        }
        PowerSums {
            absolute: sum_lanes(simd, absolute),
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
        let zero = simd.splat_f32(0.0);
        let (mut sum, mut squares) = (zero, zero);
        for (half, quarter) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let x = self.0.load(simd, half, quarter);
            sum = simd.add_f32(sum, pair(OnePlace(simd), x));
            squares = simd.add_f32(squares, pair(OnePlace(simd), rows!(simd.mul_f32(x, x))));
        }
        let (mut mean, mut mean_square) = (0.0, 0.0);
        for (sum, square) in simd.array_f32(sum).into_iter().zip(simd.array_f32(squares)) {
            mean += sum / PADDING as f32;
            mean_square += square / PADDING as f32;
        }
        if mean * mean * 2.0 > mean_square {
            // Few bits, so that differences from values near it are exact.
            f32::from_bits(mean.to_bits() & 0xffff_0000)
        } else {
            0.0
        }
    }
}

/// Counts among the codes of sign-magnitude floats of 16 or 32 bits, all finite; their length is a
/// multiple of 32 bytes.
pub(super) struct ClassifyCodes<'a> {
    /// Bytes per code: 2 or 4.
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
            2 => classify!(classify_codes_16, reduce_16),
            _ => classify!(classify_codes_32, reduce_32),
        }
    }
}

/// Where the codes of sign-magnitude floats of 16 or 32 bits lie, all finite; their length is a
/// multiple of 32 bytes.
pub(super) struct SurveyCodes<'a> {
    /// Bytes per code: 2 or 4.
    pub(super) bytes: usize,
    pub(super) codes: &'a [u8],
}

impl Pass for SurveyCodes<'_> {
    type Output = CodeExtremes;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> CodeExtremes {
        let rows = self.codes.as_chunks().0;
        let mut range = simd.no_range(self.bytes);
        macro_rules! survey {
            ($survey:ident, $extremes:ident) => {{
                for codes in rows {
                    simd.$survey(&mut range, codes);
                }
                simd.$extremes(range)
            }};
        }
        match self.bytes {
            2 => survey!(survey_codes_16, extremes_16),
            _ => survey!(survey_codes_32, extremes_32),
        }
    }
}
