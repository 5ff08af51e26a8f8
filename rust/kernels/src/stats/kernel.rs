//! Cuts runs of bytes into blocks and reduces each: in one narrow pass where that will do, in wide
//! passes where not, without what is not finite.

use std::sync::Arc;

use super::codes::CodeCounter;
use super::passes::{
    ClassifyCodes, NarrowPass, Pivot, PowerSums, PowersPass, ShortPowersPass, Survey, SurveyCodes,
    SurveyIntegers, SurveyPass, WidePass, WidePivot,
};
use super::{Moments, StatsOptions, StatsPartial};
use crate::BLOCK;
use crate::decode::{Aligned, DecodeNarrow, DecodeWide, Widen, integer_at, unpack};
use crate::dtype::{DType, Domain};
use crate::exponents::{add_narrow, add_wide};
use crate::level::Level;
use crate::number::{Extreme, Number};
use crate::runs::{F32Codes, I32Codes, U32Codes, WideRun, with_codes};
use crate::scaled::{Scaled, exponent_of, scale};
use crate::simd::Classes;

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
    codes: CodeCounter,
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
                codes: CodeCounter::new(level),
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
        if self.options.histogram {
            partial.histogram.get_or_insert_default();
        }
        if dtype.has_few_codes() && !dtype.is_packed() {
            let counter = &mut self.scratch.codes;
            return counter.accumulate(dtype, &bytes[..elements], first, partial);
        }
        let mut start = 0;
        while start < elements {
            let count = step.min(elements - start);
            let raw = &bytes[dtype.byte_range(start, count)];
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
        let floats = elements * dtype.components();
        let Scratch {
            narrow,
            wide,
            unpacked,
            codes,
        } = &mut *self.scratch;
        if dtype.is_packed() {
            let unpacked = &mut unpacked[..elements];
            unpack(dtype, raw, unpacked);
            return codes.accumulate(dtype, unpacked, first, partial);
        }
        let mut block = Block {
            level: self.level,
            dtype,
            codes: raw,
            narrow: &mut narrow.0[..floats],
            values: &mut wide.0[..floats],
            first,
            partial,
        };
        if block.reduce_codes() || block.reduce_integer_codes() {
            return;
        }
        block.decode();
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
    narrow: &'a mut [f32],
    values: &'a mut [f64],
    /// The flat index of the first float.
    first: u64,
    partial: &'a mut StatsPartial,
}

impl Block<'_> {
    /// Decode the codes into the values.
    fn decode(&mut self) {
        let dtype = self.dtype;
        match dtype.domain() {
            Domain::Narrow => {
                self.level.run(DecodeNarrow {
                    dtype,
                    codes: self.codes,
                    out: &mut *self.narrow,
                });
                self.level.run(Widen {
                    narrow: &*self.narrow,
                    out: &mut *self.values,
                });
            }
            Domain::Wide => self.level.run(DecodeWide {
                dtype,
                codes: self.codes,
                out: &mut *self.values,
            }),
            Domain::Integer => {
                for (index, value) in self.values.iter_mut().enumerate() {
                    *value = integer_at(dtype, self.codes, index) as f64;
                }
            }
        }
    }

    /// Reduce a whole block of common floats from its codes, if it is harmless. Only a
    /// tensor's last block can be shorter, which is not worth code of its own.
    fn reduce_codes(&mut self) -> bool {
        let count = self.values.len();
        let (Some(format), true) = (self.dtype.float_format(), count == BLOCK) else {
            return false;
        };
        let bytes = (self.dtype.bits() / 8) as usize;
        let extremes = match self.dtype {
            DType::F32 | DType::BF16 | DType::F16 => self.level.run(SurveyCodes {
                bytes,
                codes: self.codes,
            }),
            _ => return false,
        };
        let constant = extremes.lowest == extremes.highest;
        let Some((pivot, sums)) = self.sums_of_codes(constant) else {
            return false;
        };
        let largest = extremes.highest.max(-extremes.lowest);
        let [zeros, negatives, subnormals, saturated] = if extremes.smallest
            < 1 << format.mantissa_bits
            || largest as u64 >= format.largest_finite_code()
        {
            self.level.run(ClassifyCodes {
                bytes,
                codes: self.codes,
                classes: Classes {
                    smallest_normal: 1 << format.mantissa_bits,
                    largest_finite: format.largest_finite_code() as u32,
                },
            })
        } else {
            [0, extremes.signed, 0, 0]
        };
        self.partial.zeros += zeros;
        self.partial.negatives += negatives;
        self.partial.subnormals += subnormals;
        self.partial.saturated += saturated;
        let value = |key: i32| {
            let value = format.value(u64::from(key.unsigned_abs()));
            if key < 0 { -value } else { value }
        };
        let largest = value(largest);
        self.add_exponents_of_codes(largest, zeros);
        if Number::float(largest).exceeds(self.partial.abs_max.magnitude) {
            self.decode();
            self.record(largest, None);
        }
        self.partial.extend_range(
            Number::float(value(extremes.lowest)),
            Number::float(value(extremes.highest)),
        );
        let moments = Moments::from_powers(count as u64, 0, pivot, sums.powers);
        self.partial.moments.merge(&moments);
        self.partial.absolute.merge(sums.absolute.into());
        true
    }

    /// Reduce a whole block of integers of 32 bits from their codes, if it is harmless.
    fn reduce_integer_codes(&mut self) -> bool {
        let signed = match self.dtype {
            DType::I32 => true,
            DType::U32 => false,
            _ => return false,
        };
        if self.values.len() != BLOCK {
            return false;
        }
        let found = self.level.run(SurveyIntegers {
            codes: self.codes,
            signed,
        });
        let constant = found.min == found.max;
        let sums = if signed {
            self.wide_sums(I32Codes::new(self.codes), constant)
        } else {
            self.wide_sums(U32Codes::new(self.codes), constant)
        };
        let Some((pivot, sums)) = sums else {
            return false;
        };
        self.partial.zeros += found.zeros;
        self.partial.negatives += found.negatives;
        self.partial.saturated += found.saturated;
        let largest = found.max.max(-found.min);
        let exceeds = Number::float(largest).exceeds(self.partial.abs_max.magnitude);
        if exceeds || self.partial.histogram.is_some() {
            self.decode();
        }
        if exceeds {
            self.record(largest, None);
        }
        if let Some(histogram) = &mut self.partial.histogram {
            histogram.add_zeros(found.zeros);
            let nonzero = BLOCK as u64 - found.zeros;
            add_wide(self.level, self.values, largest, nonzero, histogram);
        }
        self.partial
            .extend_range(Number::float(found.min), Number::float(found.max));
        let moments = Moments::from_powers(BLOCK as u64, 0, pivot, sums.powers);
        self.partial.moments.merge(&moments);
        self.partial.absolute.merge(sums.absolute.into());
        true
    }

    /// The pivot and the sums of powers around it, where those of a whole block are good.
    fn wide_sums<R: WideRun>(&self, run: R, constant: bool) -> Option<(f64, PowerSums)> {
        let pivot = self.level.run(WidePivot(run));
        let sums = self.level.run(WidePass { run, pivot });
        sums.harmless(BLOCK, constant).then_some((pivot, sums))
    }

    /// Add the magnitudes of a block to the histogram, if there is one.
    fn add_exponents_of_codes(&mut self, largest: f64, zeros: u64) {
        let nonzero = self.values.len() as u64 - zeros;
        let level = self.level;
        let Some(histogram) = &mut self.partial.histogram else {
            return;
        };
        histogram.add_zeros(zeros);
        let added = if self.dtype == DType::F32 {
            add_narrow(
                level,
                F32Codes::new(self.codes),
                largest,
                nonzero,
                histogram,
            )
        } else {
            with_codes!(self.dtype, run => {
                add_narrow(level, run(self.codes), largest, nonzero, histogram)
            })
        };
        if !added {
            self.decode();
            if let Some(histogram) = &mut self.partial.histogram {
                add_wide(level, self.values, largest, nonzero, histogram);
            }
        }
    }

    /// The pivot and the sums of powers around it, where those of the codes are good.
    fn sums_of_codes(&self, constant: bool) -> Option<(f64, PowerSums)> {
        let count = self.values.len();
        if self.dtype == DType::F32 {
            return self.wide_sums(F32Codes::new(self.codes), constant);
        }
        with_codes!(self.dtype, run => {
            let run = run(self.codes);
            let short = self.level.run(ShortPowersPass(run));
            if let Some(sums) = short.filter(|sums| sums.harmless_in_f32(count)) {
                return Some((0.0, sums));
            }
            let pivot = self.level.run(Pivot(run));
            let sums = self.level.run(NarrowPass { run, pivot });
            sums.harmless(count, constant).then_some((f64::from(pivot), sums))
        })
    }

    /// Note where the largest magnitude stands. `positions` gives the index in the block of each
    /// value where some of the block's were left out.
    fn record(&mut self, largest: f64, positions: Option<&[u64]>) {
        let position = self.values.iter().position(|x| x.abs() == largest);
        if let Some(position) = position {
            let position = positions.map_or(position as u64, |positions| positions[position]);
            self.partial.abs_max = Extreme {
                magnitude: Number::float(largest),
                index: self.first + position,
            };
        }
    }

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
        // Adding 0.0 turns a −0 into 0.
        let largest = survey.max.max(-survey.min) + 0.0;
        if self.values.is_empty() {
            return;
        }
        // Adding 0.0 turns a −0 into 0, so that it does not matter which of them came first.
        self.partial.extend_range(
            Number::float(survey.min + 0.0),
            Number::float(survey.max + 0.0),
        );
        if Number::float(largest).exceeds(self.partial.abs_max.magnitude) {
            self.record(largest, positions);
        }
        if let Some(histogram) = &mut self.partial.histogram {
            histogram.add_zeros(survey.zeros);
            let nonzero = self.values.len() as u64 - survey.zeros;
            add_wide(self.level, self.values, largest, nonzero, histogram);
        }
        self.add_moments(survey, largest);
    }

    fn count(&mut self, survey: &Survey) {
        self.partial.zeros += survey.zeros;
        self.partial.negatives += survey.negatives;
        self.partial.subnormals += survey.subnormals;
        self.partial.saturated += survey.saturated;
    }

    /// Fold the moments and the sum of magnitudes. Leaves the values scaled.
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
            narrow: &mut *self.narrow,
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
            self.partial.extend_range(number, number);
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
