//! One block of pairs on its way into the partial.
//!
//! Three paths, each the fallback of the one before: an *identical* block needs only a sum of
//! squares, a *regular* one a pass in fixed lanes (narrow, then wide), and everything else (NaN,
//! Inf, extreme magnitudes, complex numbers, 64-bit integers) goes element by element, in code
//! that is slow and obvious.

use super::codes::Codes;
use super::value::{Difference, Value};
use super::{DiffOptions, DiffPartial};
use crate::BLOCK;
use crate::decode::{DecodeNarrow, DecodeWide, PADDING, Widen, integer_at};
use crate::dtype::{DType, Domain};
use crate::level::Level;
use crate::number::{Extreme, Number};
use crate::passes::{
    CompareCodes, CountNarrow, CountWide, DiffNarrow, DiffSums, DiffWide, Dot, MaxAbs, Range, Side,
    SquaresNarrow, SquaresWide,
};
use crate::runs::{Decoded, F32Codes, Values, with_codes};
use crate::scaled::{Scaled, exponent_of, scale};

/// The codes of both sides, scratch for their values, and where they stand in the tensor.
pub(super) struct Block<'a> {
    pub(super) level: Level,
    pub(super) options: &'a DiffOptions,
    pub(super) a: Codes<'a>,
    pub(super) b: Codes<'a>,
    pub(super) narrow_a: &'a mut [f32; BLOCK],
    pub(super) narrow_b: &'a mut [f32; BLOCK],
    pub(super) wide_a: &'a mut [f64; BLOCK],
    pub(super) wide_b: &'a mut [f64; BLOCK],
    pub(super) difference: &'a mut [f64; BLOCK],
    pub(super) elements: usize,
    pub(super) components: usize,
    /// The flat index of the first float.
    pub(super) first: u64,
    pub(super) partial: &'a mut DiffPartial,
}

impl Block<'_> {
    pub(super) fn reduce(&mut self) {
        let (a, b) = (self.a, self.b);
        let domain = a.dtype.domain().max(b.dtype.domain());
        if domain == Domain::Integer {
            self.reduce_with_integers();
        } else if self.components > 1 {
            self.widen();
            self.reduce_floats_singly();
        } else {
            let reduced = (a.dtype == b.dtype && a.bytes == b.bytes && self.reduce_identical())
                || (domain == Domain::Narrow && self.reduce_narrow())
                || self.reduce_wide();
            if !reduced {
                self.reduce_floats_singly();
            }
        }
    }

    fn floats(&self) -> usize {
        self.elements * self.components
    }

    fn padded(&self) -> usize {
        self.floats().next_multiple_of(PADDING)
    }

    /// Decode both sides to `f32`.
    fn narrow(&mut self) {
        let (count, padded) = (self.floats(), self.padded());
        for (codes, out) in [(self.a, &mut *self.narrow_a), (self.b, &mut *self.narrow_b)] {
            self.level.run(DecodeNarrow {
                dtype: codes.dtype,
                codes: codes.bytes,
                out: &mut out[..count],
            });
            out[count..padded].fill(0.0);
        }
    }

    /// Decode both sides to `f64`; a real side gets imaginary parts of 0 beside a complex one.
    fn widen(&mut self) {
        let (elements, count, padded) = (self.elements, self.floats(), self.padded());
        for (codes, narrow, out) in [
            (self.a, &mut *self.narrow_a, &mut *self.wide_a),
            (self.b, &mut *self.narrow_b, &mut *self.wide_b),
        ] {
            let own = elements * codes.dtype.components();
            match codes.dtype.domain() {
                Domain::Narrow => {
                    let narrow = &mut narrow[..own];
                    self.level.run(DecodeNarrow {
                        dtype: codes.dtype,
                        codes: codes.bytes,
                        out: &mut *narrow,
                    });
                    self.level.run(Widen {
                        narrow,
                        out: &mut out[..own],
                    });
                }
                Domain::Wide => self.level.run(DecodeWide {
                    dtype: codes.dtype,
                    codes: codes.bytes,
                    out: &mut out[..own],
                }),
                Domain::Integer => {
                    for (index, value) in out[..own].iter_mut().enumerate() {
                        *value = integer_at(codes.dtype, codes.bytes, index) as f64;
                    }
                }
            }
            if own < count {
                for index in (0..own).rev() {
                    out[2 * index] = out[index];
                    out[2 * index + 1] = 0.0;
                }
            }
            out[count..padded].fill(0.0);
        }
    }

    /// A block whose bytes are the same on both sides.
    fn reduce_identical(&mut self) -> bool {
        let (count, padded) = (self.floats(), self.padded());
        let dtype = self.a.dtype;
        let (squares, range) = if self.level.loads_codes(dtype) && count == padded {
            let squares = with_codes!(dtype, run => {
                self.level.run(SquaresNarrow(run(self.a.bytes)))
            });
            (squares, Range::NARROW)
        } else if dtype.domain() == Domain::Narrow {
            self.narrow();
            let values = Decoded::new(&self.narrow_a[..padded]);
            (self.level.run(SquaresNarrow(values)), Range::NARROW)
        } else if dtype == DType::F32 && count == padded {
            let values = F32Codes::new(self.a.bytes);
            (self.level.run(SquaresWide(values)), Range::WIDE)
        } else {
            let values = &mut self.wide_a[..padded];
            self.level.run(DecodeWide {
                dtype,
                codes: self.a.bytes,
                out: &mut values[..count],
            });
            values[count..].fill(0.0);
            (
                self.level.run(SquaresWide(Values::new(values))),
                Range::WIDE,
            )
        };
        if !(range.has(squares) || (squares == 0.0 && self.a.all_zero())) {
            return false;
        }
        self.partial.finite += count as u64;
        self.partial.squares_a.merge(squares.into());
        self.partial.squares_b.merge(squares.into());
        self.partial.dot_ab.merge(squares.into());
        if let Some(extras) = &mut self.partial.extras {
            extras.histogram.add_zeros(count as u64);
        }
        true
    }

    fn reduce_narrow(&mut self) -> bool {
        let padded = self.padded();
        let (a, b) = (self.a, self.b);
        let from_codes =
            a.dtype == b.dtype && self.level.loads_codes(a.dtype) && self.floats() == padded;
        let mut sums = if from_codes {
            with_codes!(a.dtype, run => {
                self.level.run(DiffNarrow { a: run(a.bytes), b: run(b.bytes) })
            })
        } else {
            self.narrow();
            let (a, b) = self.decoded();
            self.level.run(DiffNarrow { a, b })
        };
        if !self.is_harmless(&sums, Range::NARROW) {
            return false;
        }
        if from_codes {
            self.compare_codes_into(&mut sums);
        } else {
            let (a, b) = self.decoded();
            (sums.changed, sums.sign_flips) = self.level.run(CountNarrow { a, b });
            self.fold_codes(sums.changed);
        }
        let record = self.partial.max_abs.magnitude.to_f64();
        let may_exceed = self.may_exceed(sums.max_abs, record);
        let mut max_abs = 0.0;
        if may_exceed || self.options.wants_each_difference() || needs_dot(&sums) {
            self.widen();
            let (a, b) = self.values();
            max_abs = self.level.run(MaxAbs { a, b });
        }
        self.fold(&sums, max_abs);
        true
    }

    /// Whether the largest difference in `f32` leaves open that one in `f64` beats the record.
    ///
    /// Rounding to `f32` is monotone, so the largest `f64` difference is among those whose `f32`
    /// rounding is the largest: only a block that reaches the record needs the exact look, and
    /// where differences are exact, only one that beats it.
    fn may_exceed(&self, max_abs: f64, record: f64) -> bool {
        if record.is_nan() {
            return max_abs > 0.0;
        }
        let rounded = f64::from(record as f32);
        let exact = self
            .a
            .dtype
            .exact_differences_below()
            .min(self.b.dtype.exact_differences_below());
        max_abs > rounded || (max_abs == rounded && max_abs > 0.0 && max_abs >= exact)
    }

    /// Both sides as decoded to `f32`.
    fn decoded(&self) -> (Decoded<'_>, Decoded<'_>) {
        let padded = self.padded();
        (
            Decoded::new(&self.narrow_a[..padded]),
            Decoded::new(&self.narrow_b[..padded]),
        )
    }

    fn reduce_wide(&mut self) -> bool {
        let padded = self.padded();
        let (a, b) = (self.a, self.b);
        let from_codes = a.dtype == DType::F32 && b.dtype == DType::F32 && self.floats() == padded;
        let mut sums = if from_codes {
            let (a, b) = (F32Codes::new(a.bytes), F32Codes::new(b.bytes));
            self.level.run(DiffWide { a, b })
        } else {
            self.widen();
            let (a, b) = self.values();
            self.level.run(DiffWide { a, b })
        };
        if !self.is_harmless(&sums, Range::WIDE) {
            if from_codes {
                self.widen();
            }
            return false;
        }
        if from_codes {
            self.compare_codes_into(&mut sums);
            let record = self.partial.max_abs.magnitude.to_f64();
            if exceeds(sums.max_abs, record)
                || self.options.wants_each_difference()
                || needs_dot(&sums)
            {
                self.widen();
            }
        } else {
            let (a, b) = self.values();
            (sums.changed, sums.sign_flips) = self.level.run(CountWide { a, b });
            self.fold_codes(sums.changed);
        }
        self.fold(&sums, sums.max_abs);
        true
    }

    fn is_harmless(&self, sums: &DiffSums, range: Range) -> bool {
        sums.harmless(range, |side| match side {
            Side::A => self.a.all_zero(),
            Side::B => self.b.all_zero(),
        })
    }

    /// Counts of a harmless block whose codes can be compared as sign and magnitude.
    fn compare_codes_into(&mut self, sums: &mut DiffSums) {
        let comparison = self.level.run(CompareCodes {
            bytes: self.a.code_bytes(),
            a: self.a.bytes,
            b: self.b.bytes,
        });
        sums.changed = comparison.changed;
        sums.sign_flips = comparison.sign_flips;
        self.partial.max_ulp = self.partial.max_ulp.max(comparison.max_ulp);
        self.partial.bits_changed += comparison.bits_changed;
    }

    /// Both sides as decoded to `f64`.
    fn values(&self) -> (Values<'_>, Values<'_>) {
        let padded = self.padded();
        (
            Values::new(&self.wide_a[..padded]),
            Values::new(&self.wide_b[..padded]),
        )
    }

    /// Fold the sums of a harmless block. The wide values must be there where they are needed.
    fn fold(&mut self, sums: &DiffSums, max_abs: f64) {
        let padded = self.padded();
        let dot_ab = if needs_dot(sums) {
            let (a, b) = self.values();
            self.level.run(Dot { a, b })
        } else {
            sums.squares_a + sums.dot_da
        };
        let record = self.partial.max_abs.magnitude.to_f64();
        let partial = &mut *self.partial;
        partial.finite += (self.elements * self.components) as u64;
        partial.changed += sums.changed;
        partial.sign_flips += sums.sign_flips;
        partial.difference.merge(sums.difference.into());
        partial.absolute.merge(sums.absolute.into());
        partial.squares_d.merge(sums.squares_d.into());
        partial.squares_a.merge(sums.squares_a.into());
        partial.squares_b.merge(sums.squares_b.into());
        partial.dot_da.merge(sums.dot_da.into());
        partial.dot_ab.merge(dot_ab.into());
        if exceeds(max_abs, record) {
            let position = (0..padded)
                .find(|&index| (self.wide_b[index] - self.wide_a[index]).abs() == max_abs);
            if let Some(position) = position {
                partial.max_abs = Extreme {
                    magnitude: Number::float(max_abs),
                    index: self.first + position as u64,
                };
                let (a, b) = (self.wide_a[position], self.wide_b[position]);
                self.partial.value_a = Number::float(a);
                self.partial.value_b = Number::float(b);
            }
        }
        if self.options.wants_each_difference() {
            self.look_at_each_difference();
        } else {
            self.partial.out_of_tolerance += sums.changed;
        }
    }

    /// `bits_changed` and `max_ulp` of a block whose values are all finite.
    fn fold_codes(&mut self, changed: u64) {
        if self.compare_quantised() {
            return;
        }
        if self.a.dtype == self.b.dtype {
            let (distance, differing) = self.a.distance(self.level, self.b.bytes);
            self.partial.max_ulp = self.partial.max_ulp.max(self.steps(distance, changed));
            self.partial.bits_changed += differing;
        }
    }

    /// Of quantised dtypes all that can be told from the bytes, and whether it is one.
    fn compare_quantised(&mut self) -> bool {
        let (a, b) = (self.a, self.b);
        let quantised = a.dtype.is_quantised();
        self.partial.blocks_differ |= quantised && a.dtype == b.dtype && a.bytes != b.bytes;
        quantised
    }

    /// A distance of codes in steps of values: any byte but 0 is true.
    fn steps(&self, distance: u64, changed: u64) -> u64 {
        if self.a.dtype == DType::Bool {
            changed.min(1)
        } else {
            distance
        }
    }

    fn look_at_each_difference(&mut self) {
        let DiffOptions { atol, rtol, .. } = *self.options;
        let count = self.floats();
        for index in 0..count {
            self.difference[index] = (self.wide_b[index] - self.wide_a[index]).abs();
        }
        let differences = &self.difference[..count];
        let out_of_tolerance = differences
            .iter()
            .zip(&*self.wide_a)
            .filter(|(difference, a)| **difference > atol + rtol * a.abs())
            .count();
        self.partial.out_of_tolerance += out_of_tolerance as u64;
        if let Some(extras) = &mut self.partial.extras {
            for (threshold, above) in self.options.thresholds.iter().zip(&mut extras.above) {
                *above += differences.iter().filter(|d| **d > *threshold).count() as u64;
            }
            if self.options.histogram {
                for difference in differences {
                    extras.histogram.add(*difference);
                }
            }
        }
    }

    /// A block with a 64-bit integer on a side.
    fn reduce_with_integers(&mut self) {
        let (a, b) = (self.a, self.b);
        if a.is_float() || b.is_float() {
            self.widen();
        }
        let wide_a = *self.wide_a;
        let wide_b = *self.wide_b;
        let components = self.components;
        // Beside a complex number an integer has an imaginary part of 0.
        let integer = |codes: Codes<'_>, index: usize| {
            if index.is_multiple_of(components) {
                Value::Integer(integer_at(codes.dtype, codes.bytes, index / components))
            } else {
                Value::Integer(0)
            }
        };
        match (a.is_float(), b.is_float()) {
            (false, false) => {
                self.reduce_singly(|index| integer(a, index), |index| integer(b, index));
            }
            (false, true) => {
                self.reduce_singly(
                    |index| integer(a, index),
                    |index| Value::Float(wide_b[index]),
                );
            }
            _ => self.reduce_singly(
                |index| Value::Float(wide_a[index]),
                |index| integer(b, index),
            ),
        }
    }

    /// A block of floats that no pass could take; they are in the wide values.
    fn reduce_floats_singly(&mut self) {
        let wide_a = *self.wide_a;
        let wide_b = *self.wide_b;
        self.reduce_singly(
            |index| Value::Float(wide_a[index]),
            |index| Value::Float(wide_b[index]),
        );
    }

    /// The obvious loop that every other path must agree with.
    fn reduce_singly(&mut self, a_at: impl Fn(usize) -> Value, b_at: impl Fn(usize) -> Value) {
        let DiffOptions { atol, rtol, .. } = *self.options;
        let components = self.components;
        let count = self.floats();
        let partial = &mut *self.partial;
        let mut nonfinite = false;
        let (mut element_changed, mut element_out) = (false, false);
        for index in 0..count {
            let (a, b) = (a_at(index), b_at(index));
            let (a_value, b_value) = (a.to_f64(), b.to_f64());
            if a_value.is_finite() && b_value.is_finite() {
                let difference = Difference::between(a, b);
                let value = difference.to_f64();
                let changed = !difference.is_zero();
                partial.finite += 1;
                element_changed |= changed;
                element_out |= difference.exceeds(atol + rtol * a_value.abs());
                partial.sign_flips +=
                    u64::from(a_value < 0.0 && b_value > 0.0 || a_value > 0.0 && b_value < 0.0);
                let magnitude = difference.magnitude();
                if changed && magnitude.exceeds(partial.max_abs.magnitude) {
                    partial.max_abs = Extreme {
                        magnitude,
                        index: self.first + index as u64,
                    };
                    partial.value_a = a.number();
                    partial.value_b = b.number();
                }
                if let Some(extras) = &mut partial.extras {
                    for (threshold, above) in self.options.thresholds.iter().zip(&mut extras.above)
                    {
                        *above += u64::from(difference.exceeds(*threshold));
                    }
                    if self.options.histogram {
                        match difference {
                            Difference::Float(value) => extras.histogram.add(value.abs()),
                            Difference::Integer(value) => {
                                extras.histogram.add_integer(value.unsigned_abs());
                            }
                        }
                    }
                }
                self.wide_a[index] = a_value;
                self.wide_b[index] = b_value;
                self.difference[index] = value;
            } else {
                nonfinite = true;
                let counts = partial.nonfinite.get_or_insert_default();
                counts.nan_a += u64::from(a_value.is_nan());
                counts.nan_b += u64::from(b_value.is_nan());
                counts.inf_a += u64::from(a_value.is_infinite());
                counts.inf_b += u64::from(b_value.is_infinite());
                let same = a_value == b_value || a_value.is_nan() && b_value.is_nan();
                counts.mismatch += u64::from(!same);
                element_changed |= !same;
                self.wide_a[index] = 0.0;
                self.wide_b[index] = 0.0;
                self.difference[index] = 0.0;
            }
            if (index + 1) % components == 0 {
                partial.changed += u64::from(element_changed);
                partial.out_of_tolerance += u64::from(element_out);
                (element_changed, element_out) = (false, false);
            }
        }
        self.fold_scaled_sums();
        if self.a.dtype == self.b.dtype && !self.compare_quantised() {
            self.compare_codes(nonfinite, a_at, b_at);
        }
    }

    /// Sums of the wide values and differences, each scaled by its largest magnitude.
    fn fold_scaled_sums(&mut self) {
        let count = self.floats();
        let largest = |values: &[f64]| {
            values
                .iter()
                .fold(0.0f64, |max, value| max.max(value.abs()))
        };
        let exponent_a = exponent_of(largest(&self.wide_a[..count]));
        let exponent_b = exponent_of(largest(&self.wide_b[..count]));
        let largest_difference = largest(&self.difference[..count]);
        let exponent_d = if largest_difference.is_infinite() {
            // Two finite numbers can be further apart than f64 reaches; their scaled sum is not.
            let exponent = exponent_a.max(exponent_b) + 1;
            for index in 0..count {
                self.difference[index] =
                    scale(self.wide_b[index], -exponent) - scale(self.wide_a[index], -exponent);
            }
            exponent
        } else {
            let exponent = exponent_of(largest_difference);
            for value in &mut self.difference[..count] {
                *value = scale(*value, -exponent);
            }
            exponent
        };
        let mut difference = 0.0;
        let mut absolute = 0.0;
        let (mut squares_d, mut squares_a, mut squares_b) = (0.0, 0.0, 0.0);
        let (mut dot_da, mut dot_ab) = (0.0, 0.0);
        for index in 0..count {
            let a = scale(self.wide_a[index], -exponent_a);
            let b = scale(self.wide_b[index], -exponent_b);
            let d = self.difference[index];
            difference += d;
            absolute += d.abs();
            squares_d += d * d;
            squares_a += a * a;
            squares_b += b * b;
            dot_da += d * a;
            dot_ab += a * b;
        }
        let partial = &mut *self.partial;
        for (sum, value, exponent) in [
            (&mut partial.difference, difference, exponent_d),
            (&mut partial.absolute, absolute, exponent_d),
            (&mut partial.squares_d, squares_d, 2 * exponent_d),
            (&mut partial.squares_a, squares_a, 2 * exponent_a),
            (&mut partial.squares_b, squares_b, 2 * exponent_b),
            (&mut partial.dot_da, dot_da, exponent_d + exponent_a),
            (&mut partial.dot_ab, dot_ab, exponent_a + exponent_b),
        ] {
            sum.merge(Scaled::new(value, exponent));
        }
    }

    /// `bits_changed` and `max_ulp` of a block, the latter where both sides are finite.
    fn compare_codes(
        &mut self,
        nonfinite: bool,
        a_at: impl Fn(usize) -> Value,
        b_at: impl Fn(usize) -> Value,
    ) {
        let (a, b) = (self.a, self.b);
        let (mut distance, mut differing) = a.distance(self.level, b.bytes);
        if self.components > 1 {
            let bytes = a.code_bytes() * self.components;
            differing = a
                .bytes
                .chunks_exact(bytes)
                .zip(b.bytes.chunks_exact(bytes))
                .filter(|(a, b)| a != b)
                .count() as u64;
        }
        if nonfinite {
            let bytes = a.code_bytes();
            distance = (0..self.floats())
                .filter(|&index| {
                    a_at(index).to_f64().is_finite() && b_at(index).to_f64().is_finite()
                })
                .map(|index| {
                    let code = index * bytes..(index + 1) * bytes;
                    let single = Codes {
                        dtype: a.dtype,
                        bytes: &a.bytes[code.clone()],
                    };
                    single.distance(self.level, &b.bytes[code]).0
                })
                .max()
                .unwrap_or(0);
        }
        let steps = self.steps(distance, self.partial.changed);
        self.partial.max_ulp = self.partial.max_ulp.max(steps);
        self.partial.bits_changed += differing;
    }
}

/// Whether Σ a·b must be summed itself: ‖a‖² + Σ d·a has their errors, which a cosine multiplies
/// by how far the norms are apart.
fn needs_dot(sums: &DiffSums) -> bool {
    let ratio = sums.squares_a / sums.squares_b;
    !(0.25..=4.0).contains(&ratio) && sums.squares_a > 0.0 && sums.squares_b > 0.0
}

/// Whether a block's largest difference beats the record, which is NaN before the first.
fn exceeds(max_abs: f64, record: f64) -> bool {
    max_abs > 0.0 && (record.is_nan() || max_abs > record)
}
