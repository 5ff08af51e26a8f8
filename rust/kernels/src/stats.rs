//! What is in one run of elements.
//!
//! Central moments are accumulated around a pivot inside each block and merged by the pairwise
//! update of Pébay, "Formulas for robust, one-pass parallel computation of covariances and
//! arbitrary-order statistical moments" (Sandia report SAND2008-6212, 2008), equations 2.1 and
//! 3.1, so that a mean far from zero costs no digits.

use std::sync::Arc;

use crate::BLOCK;
use crate::decode::{Aligned, DecodeNarrow, DecodeWide, Widen, integer_at, unpack};
use crate::dtype::{DType, Domain};
use crate::histogram::Histogram;
use crate::level::{Level, Pass};
use crate::number::{Extreme, Number};
use crate::passes::{Sum, load_row};
use crate::scaled::{Scaled, exponent_of, scale};
use crate::simd::Simd;

/// What stats measures beside the default columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatsOptions {
    /// Count |x| per power of two.
    pub histogram: bool,
}

/// Count, mean and central moments of values in units of `2^exponent`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Moments {
    count: u64,
    exponent: i32,
    mean: f64,
    second: f64,
    third: f64,
    fourth: f64,
}

impl Moments {
    fn merge(&mut self, later: &Self) {
        if later.count == 0 {
            return;
        }
        if self.count == 0 {
            *self = *later;
            return;
        }
        let exponent = self.exponent.max(later.exponent);
        let (a, b) = (self.at(exponent), later.at(exponent));
        let (n_a, n_b) = (a.count as f64, b.count as f64);
        let n = n_a + n_b;
        let delta = b.mean - a.mean;
        let delta_n = delta / n;
        let cross = delta * delta_n * n_a * n_b;
        *self = Self {
            count: a.count + b.count,
            exponent,
            mean: a.mean + delta_n * n_b,
            second: a.second + b.second + cross,
            third: a.third
                + b.third
                + cross * delta_n * (n_a - n_b)
                + 3.0 * delta_n * (n_a * b.second - n_b * a.second),
            fourth: a.fourth
                + b.fourth
                + cross * delta_n * delta_n * (n_a * n_a - n_a * n_b + n_b * n_b)
                + 6.0 * delta_n * delta_n * (n_a * n_a * b.second + n_b * n_b * a.second)
                + 4.0 * delta_n * (n_a * b.third - n_b * a.third),
        };
    }

    fn at(self, exponent: i32) -> Self {
        let shift = self.exponent - exponent;
        if shift == 0 {
            return self;
        }
        Self {
            count: self.count,
            exponent,
            mean: scale(self.mean, shift),
            second: scale(self.second, 2 * shift),
            third: scale(self.third, 3 * shift),
            fourth: scale(self.fourth, 4 * shift),
        }
    }

    /// From power sums of `x - pivot`, in units of `2^exponent`.
    fn from_powers(count: u64, exponent: i32, pivot: f64, [s1, s2, s3, s4]: [f64; 4]) -> Self {
        if count == 0 {
            return Self::default();
        }
        let n = count as f64;
        let shift = s1 / n;
        Self {
            count,
            exponent,
            mean: pivot + shift,
            second: (s2 - shift * s1).max(0.0),
            third: s3 - 3.0 * shift * s2 + 2.0 * shift * shift * s1,
            fourth: (s4 - 4.0 * shift * s3 + 6.0 * shift * shift * s2
                - 3.0 * shift * shift * shift * s1)
                .max(0.0),
        }
    }

    /// Σ x²
    fn squares(&self) -> Scaled {
        Scaled::new(
            self.second + self.count as f64 * self.mean * self.mean,
            2 * self.exponent,
        )
    }
}

/// Everything stats knows of a run of elements.
#[derive(Clone, Debug, PartialEq)]
pub struct StatsPartial {
    min: Number,
    max: Number,
    abs_max: Extreme,
    moments: Moments,
    absolute: Scaled,
    zeros: u64,
    negatives: u64,
    subnormals: u64,
    nan: u64,
    positive_infinities: u64,
    negative_infinities: u64,
    saturated: u64,
    histogram: Option<Box<Histogram>>,
}

impl Default for StatsPartial {
    fn default() -> Self {
        Self {
            min: Number::float(f64::NAN),
            max: Number::float(f64::NAN),
            abs_max: Extreme::default(),
            moments: Moments::default(),
            absolute: Scaled::default(),
            zeros: 0,
            negatives: 0,
            subnormals: 0,
            nan: 0,
            positive_infinities: 0,
            negative_infinities: 0,
            saturated: 0,
            histogram: None,
        }
    }
}

/// The columns that a [`StatsPartial`] gives.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The names are those of the columns.
pub struct StatsSummary {
    pub min: Number,
    pub max: Number,
    pub abs_max: Number,
    /// Counted in floats; `None` where nothing is finite.
    pub abs_max_index: Option<u64>,
    pub mean: f64,
    pub std: f64,
    pub rms: f64,
    pub l1: f64,
    pub l2: f64,
    pub skewness: f64,
    pub kurtosis: f64,
    pub zeros: u64,
    pub negatives: u64,
    pub subnormals: u64,
    pub nan: u64,
    pub pos_inf: u64,
    pub neg_inf: u64,
    pub saturated: u64,
}

impl StatsPartial {
    /// Add the partial of a later run. Not commutative: of equal extremes the earlier stays.
    pub fn merge(&mut self, later: &Self) {
        if !later.min.is_nan() && (self.min.is_nan() || self.min.exceeds(later.min)) {
            self.min = later.min;
        }
        if later.max.exceeds(self.max) {
            self.max = later.max;
        }
        if self.abs_max_is_below(later) {
            self.abs_max = later.abs_max;
        }
        self.moments.merge(&later.moments);
        self.absolute.merge(later.absolute);
        self.zeros += later.zeros;
        self.negatives += later.negatives;
        self.subnormals += later.subnormals;
        self.nan += later.nan;
        self.positive_infinities += later.positive_infinities;
        self.negative_infinities += later.negative_infinities;
        self.saturated += later.saturated;
        if let Some(later) = &later.histogram {
            self.histogram.get_or_insert_default().merge(later);
        }
    }

    /// Whether merging `later` takes over its largest magnitude.
    pub fn abs_max_is_below(&self, later: &Self) -> bool {
        later.abs_max.magnitude.exceeds(self.abs_max.magnitude)
    }

    /// |x| per power of two, where that was asked for.
    pub fn histogram(&self) -> Option<&Histogram> {
        self.histogram.as_deref()
    }

    /// The columns.
    pub fn finish(&self) -> StatsSummary {
        let moments = self.moments;
        let n = moments.count as f64;
        let or_nan = |value: f64| if moments.count == 0 { f64::NAN } else { value };
        let variance = moments.second / n;
        let squares = moments.squares();
        let seen = !self.abs_max.magnitude.is_nan();
        StatsSummary {
            min: self.min,
            max: self.max,
            abs_max: self.abs_max.magnitude,
            abs_max_index: seen.then_some(self.abs_max.index),
            mean: or_nan(scale(moments.mean, moments.exponent)),
            std: or_nan(Scaled::new(variance, 2 * moments.exponent).sqrt().to_f64()),
            rms: or_nan((squares / Scaled::from(n)).sqrt().to_f64()),
            l1: self.absolute.to_f64(),
            l2: squares.sqrt().to_f64(),
            skewness: if variance > 0.0 {
                moments.third / n / (variance * variance.sqrt())
            } else {
                f64::NAN
            },
            kurtosis: if variance > 0.0 {
                moments.fourth / n / (variance * variance) - 3.0
            } else {
                f64::NAN
            },
            zeros: self.zeros,
            negatives: self.negatives,
            subnormals: self.subnormals,
            nan: self.nan,
            pos_inf: self.positive_infinities,
            neg_inf: self.negative_infinities,
            saturated: self.saturated,
        }
    }
}

/// Reduces runs of bytes. Holds scratch blocks, so make one per thread.
pub struct StatsKernel {
    level: Level,
    options: Arc<StatsOptions>,
    scratch: Box<Scratch>,
}

struct Scratch {
    narrow: Aligned<f32>,
    wide: Aligned<f64>,
    unpacked: [u8; BLOCK],
}

/// What one pass over a block finds.
#[derive(Clone, Copy, Debug, Default)]
struct Survey {
    sum: f64,
    absolute: f64,
    min: f64,
    max: f64,
    zeros: u64,
    negatives: u64,
    subnormals: u64,
    saturated: u64,
}

/// Sums, extremes and counts of wide values.
struct SurveyPass<'a> {
    values: &'a [f64],
    smallest_normal: f64,
    saturation: (f64, f64),
}

impl Pass for SurveyPass<'_> {
    type Output = Survey;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Survey {
        let mut sum = Sum::new(simd);
        let mut absolute = Sum::new(simd);
        let mut min = simd.splat_f64(f64::INFINITY);
        let mut max = simd.splat_f64(f64::NEG_INFINITY);
        let (rows, rest) = self.values.as_chunks::<8>();
        for row in rows {
            let x = load_row(simd, row);
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
        for row in rows {
            for x in load_row(simd, row) {
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
struct PowersPass<'a> {
    values: &'a [f64],
    pivot: f64,
}

impl Pass for PowersPass<'_> {
    type Output = [f64; 4];

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> [f64; 4] {
        let pivot = simd.splat_f64(self.pivot);
        let mut sums = [Sum::new(simd); 4];
        let (rows, rest) = self.values.as_chunks::<8>();
        for row in rows {
            let c = load_row(simd, row).map(|half| simd.sub_f64(half, pivot));
            let square = c.map(|half| simd.mul_f64(half, half));
            sums[0].add(simd, c);
            sums[1].add(simd, square);
            sums[2].add(
                simd,
                [simd.mul_f64(square[0], c[0]), simd.mul_f64(square[1], c[1])],
            );
            sums[3].add(simd, square.map(|half| simd.mul_f64(half, half)));
        }
        let mut powers = sums.map(|sum| sum.total(simd));
        for x in rest {
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

/// Between these magnitudes fourth powers are safe in `f64`.
const SAFE: (f64, f64) = (1e-70, 1e70);

impl StatsKernel {
    /// A kernel for `options`, compiled for `level`.
    pub fn new(level: Level, options: Arc<StatsOptions>) -> Self {
        Self {
            level,
            options,
            scratch: Box::new(Scratch {
                narrow: Aligned([0.0; BLOCK]),
                wide: Aligned([0.0; BLOCK]),
                unpacked: [0; BLOCK],
            }),
        }
    }

    /// Fold `elements` elements, given as raw bytes, into `partial`.
    ///
    /// `first` is the flat index of the first element in its tensor. Runs should be cut at
    /// multiples of [`BLOCK`].
    ///
    /// # Panics
    ///
    /// Where there are fewer bytes than the elements need.
    pub fn accumulate(
        &mut self,
        dtype: DType,
        bytes: &[u8],
        elements: usize,
        first: u64,
        partial: &mut StatsPartial,
    ) {
        let components = dtype.components();
        let step = BLOCK / components;
        let bits = dtype.bits() as usize;
        if self.options.histogram {
            partial.histogram.get_or_insert_default();
        }
        let mut start = 0;
        while start < elements {
            let count = step.min(elements - start);
            let raw = &bytes[start * bits / 8..((start + count) * bits).div_ceil(8)];
            self.reduce(
                dtype,
                raw,
                count,
                (first + start as u64) * components as u64,
                partial,
            );
            start += count;
        }
    }

    fn reduce(
        &mut self,
        dtype: DType,
        raw: &[u8],
        elements: usize,
        first: u64,
        partial: &mut StatsPartial,
    ) {
        let level = self.level;
        let floats = elements * dtype.components();
        let Scratch {
            narrow,
            wide,
            unpacked,
        } = &mut *self.scratch;
        let values = &mut wide.0[..floats];
        let codes = if dtype.bits() < 8 {
            unpack(dtype, raw, &mut unpacked[..elements]);
            &unpacked[..elements]
        } else {
            raw
        };
        match dtype.domain() {
            Domain::Narrow => {
                let narrow = &mut narrow.0[..floats];
                level.run(DecodeNarrow {
                    dtype,
                    codes,
                    out: &mut *narrow,
                });
                level.run(Widen {
                    narrow,
                    out: &mut *values,
                });
            }
            Domain::Wide => level.run(DecodeWide {
                dtype,
                codes,
                out: &mut *values,
            }),
            Domain::Integer => {
                for (index, value) in values.iter_mut().enumerate() {
                    *value = integer_at(dtype, codes, index) as f64;
                }
            }
        }
        let mut block = Block {
            level,
            dtype,
            codes,
            values,
            first,
            partial,
        };
        let survey = block.survey();
        if dtype.domain() == Domain::Integer {
            block.reduce_integers(&survey);
        } else if survey.absolute.is_finite() {
            block.reduce_finite(&survey, None);
        } else {
            block.reduce_with_nonfinite();
        }
    }
}

struct Block<'a> {
    level: Level,
    dtype: DType,
    codes: &'a [u8],
    values: &'a mut [f64],
    /// The flat index of the first float.
    first: u64,
    partial: &'a mut StatsPartial,
}

impl Block<'_> {
    fn survey(&self) -> Survey {
        self.level.run(SurveyPass {
            values: self.values,
            smallest_normal: self.dtype.smallest_normal(),
            saturation: self.dtype.saturation().unwrap_or((f64::NAN, f64::NAN)),
        })
    }

    /// All values finite; `positions` gives the index in the block of each value where some of
    /// the block's were left out.
    fn reduce_finite(&mut self, survey: &Survey, positions: Option<&[u64]>) {
        self.count(survey);
        let largest = survey.max.max(-survey.min);
        if self.values.is_empty() {
            return;
        }
        // Adding 0.0 turns a −0 into 0, so that it does not matter which of them came first.
        self.extend_range(
            Number::float(survey.min + 0.0),
            Number::float(survey.max + 0.0),
        );
        if Number::float(largest).exceeds(self.partial.abs_max.magnitude) {
            let position = self.values.iter().position(|x| x.abs() == largest);
            if let Some(position) = position {
                let position = positions.map_or(position as u64, |positions| positions[position]);
                self.partial.abs_max = Extreme {
                    magnitude: Number::float(largest),
                    index: self.first + position,
                };
            }
        }
        self.add_moments(survey, largest);
        if let Some(histogram) = &mut self.partial.histogram {
            for value in &*self.values {
                histogram.add(value.abs());
            }
        }
    }

    fn count(&mut self, survey: &Survey) {
        self.partial.zeros += survey.zeros;
        self.partial.negatives += survey.negatives;
        self.partial.subnormals += survey.subnormals;
        self.partial.saturated += survey.saturated;
    }

    fn extend_range(&mut self, min: Number, max: Number) {
        let partial = &mut *self.partial;
        if partial.min.is_nan() || partial.min.exceeds(min) {
            partial.min = min;
        }
        if max.exceeds(partial.max) {
            partial.max = max;
        }
    }

    fn add_moments(&mut self, survey: &Survey, largest: f64) {
        let count = self.values.len() as u64;
        let safe = largest == 0.0 || (SAFE.0..=SAFE.1).contains(&largest);
        let (exponent, sum, absolute, min, max) = if safe {
            (0, survey.sum, survey.absolute, survey.min, survey.max)
        } else {
            let exponent = exponent_of(largest);
            for value in &mut *self.values {
                *value = scale(*value, -exponent);
            }
            let scaled = self.survey();
            (
                exponent,
                scaled.sum,
                scaled.absolute,
                scaled.min,
                scaled.max,
            )
        };
        // The mean as rounded lies within the range only if it is put there; in a constant block
        // the deviations are then exactly zero.
        let pivot = (sum / count as f64).clamp(min, max);
        let powers = self.level.run(PowersPass {
            values: self.values,
            pivot,
        });
        let moments = Moments::from_powers(count, exponent, pivot, powers);
        self.partial.moments.merge(&moments);
        self.partial.absolute.merge(Scaled::new(absolute, exponent));
        if exponent != 0 {
            for value in &mut *self.values {
                *value = scale(*value, exponent);
            }
        }
    }

    /// Count what is not finite, then reduce the rest, which keeps its order.
    fn reduce_with_nonfinite(&mut self) {
        let mut positions = [0u64; BLOCK];
        let mut kept = 0;
        let mut all_finite = true;
        for index in 0..self.values.len() {
            let value = self.values[index];
            if value.is_finite() {
                self.values[kept] = value;
                positions[kept] = index as u64;
                kept += 1;
                continue;
            }
            all_finite = false;
            if value.is_nan() {
                self.partial.nan += 1;
            } else if value > 0.0 {
                self.partial.positive_infinities += 1;
            } else {
                self.partial.negative_infinities += 1;
            }
        }
        let mut rest = Block {
            level: self.level,
            dtype: self.dtype,
            codes: self.codes,
            values: &mut self.values[..kept],
            first: self.first,
            partial: &mut *self.partial,
        };
        let survey = rest.survey();
        // A sum of finite values can still overflow; the moments scale it down again.
        rest.reduce_finite(&survey, (!all_finite).then_some(&positions[..kept]));
    }

    /// 64-bit integers: sums from the nearest floats, extremes and counts from the integers.
    fn reduce_integers(&mut self, survey: &Survey) {
        let (lowest, highest) = match self.dtype {
            DType::I64 => (i128::from(i64::MIN), i128::from(i64::MAX)),
            _ => (-1, i128::from(u64::MAX)),
        };
        self.partial.zeros += survey.zeros;
        self.partial.negatives += survey.negatives;
        let count = self.values.len();
        for index in 0..count {
            let value = integer_at(self.dtype, self.codes, index);
            self.partial.saturated += u64::from(value == lowest || value == highest);
            let number = Number::integer(value);
            self.extend_range(number, number);
            let magnitude = Number::integer(value.abs());
            if magnitude.exceeds(self.partial.abs_max.magnitude) {
                self.partial.abs_max = Extreme {
                    magnitude,
                    index: self.first + index as u64,
                };
            }
            if let Some(histogram) = &mut self.partial.histogram {
                histogram.add_integer(value.unsigned_abs());
            }
        }
        self.add_moments(survey, survey.max.max(-survey.min));
    }
}
