//! One block of pairs on its way into the partial.
//!
//! Four paths, each the fallback of the one before: an *identical* block needs only a sum of
//! squares, a *regular* one a pass in fixed lanes (of integers, narrow or wide), one with NaN or Inf
//! is what is left without them, and everything else (extreme magnitudes, 64-bit integers that
//! `f64` does not hold) goes element by element, in code that is slow and obvious.

use super::codes::Codes;
use super::extras::{Extra, Narrowness, NearestZero};
use super::nonfinite::Zeroed;
use super::value::{Difference, Value};
use super::{DiffOptions, DiffPartial};
use crate::BLOCK;
use crate::decode::{DecodeNarrow, DecodeWide, PADDING, Widen, integer_at};
use crate::dtype::{DType, Domain};
use crate::exponents::Distances;
use crate::level::Level;
use crate::number::{Extreme, Number};
use crate::passes::{
    CodeComparison, CompareCodes, CompareIntegers, CountBytes, CountComplex, CountComplexSingle,
    CountNarrow, CountSingle, CountWide, DiffIntegers, DiffNarrow, DiffSums, DiffWide, ExactInF64,
    FiniteE4m3, GroupsWith, LargestDifference, ProductsNarrow, ProductsWide, Range, Side,
    SmallInteger, SquaresIntegers, SquaresNarrow, SquaresWide, position_of,
};
use crate::runs::{
    Bf16Rows, Decoded, F16Rows, F32Codes, F64Codes, FiniteE4m3Codes, I32Codes, I64Codes, NarrowRun,
    U32Codes, U64Codes, Values, with_codes,
};
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
    pub(super) distances: &'a mut Distances,
    /// Nothing in a block that zeros were put into.
    pub(super) zeroed: Option<&'a mut Zeroed>,
    pub(super) elements: usize,
    pub(super) components: usize,
    /// Whether every value is exact in `f64`, where 64-bit integers leave that open.
    pub(super) exact_in_f64: bool,
    /// The flat index of the first float.
    pub(super) first: u64,
    pub(super) partial: &'a mut DiffPartial,
}

/// What [`FiniteE4m3Codes`] come in.
const E4M3_UNIT: f64 = 256.0;

/// What narrow passes load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NarrowRuns {
    /// What [`Block::narrow`] has decoded.
    Decoded,
    /// Codes of the same dtype.
    Same,
    Bf16F16,
    F16Bf16,
}

/// What wide passes load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WideRuns {
    /// What [`Block::widen`] has decoded.
    Decoded,
    F32,
    F64,
    I32,
    U32,
    I64,
    U64,
    F32Bf16,
    Bf16F32,
    F32F16,
    F16F32,
}

/// `$body` with `$a` and `$b` bound to these [`NarrowRuns`].
macro_rules! with_narrow {
    ($runs:expr, $block:ident, $a:ident, $b:ident => $body:expr) => {{
        let (codes_a, codes_b) = ($block.a.bytes, $block.b.bytes);
        match $runs {
            NarrowRuns::Same => with_codes!($block.a.dtype, run => {
                let ($a, $b) = (run(codes_a), run(codes_b));
                $body
            }),
            NarrowRuns::Bf16F16 => {
                let ($a, $b) = (Bf16Rows::new(codes_a), F16Rows::new(codes_b));
                $body
            }
            NarrowRuns::F16Bf16 => {
                let ($a, $b) = (F16Rows::new(codes_a), Bf16Rows::new(codes_b));
                $body
            }
            NarrowRuns::Decoded => {
                let padded = $block.padded();
                let $a = Decoded::new(&$block.narrow_a[..padded]);
                let $b = Decoded::new(&$block.narrow_b[..padded]);
                $body
            }
        }
    }};
}

/// `$body` with `$a` and `$b` bound to these [`WideRuns`].
macro_rules! with_wide {
    ($runs:expr, $block:ident, $a:ident, $b:ident => $body:expr) => {{
        macro_rules! of_codes {
            ($run_a:ident, $run_b:ident) => {{
                let ($a, $b) = ($run_a::new($block.a.bytes), $run_b::new($block.b.bytes));
                $body
            }};
        }
        match $runs {
            WideRuns::F32 => of_codes!(F32Codes, F32Codes),
            WideRuns::F64 => of_codes!(F64Codes, F64Codes),
            WideRuns::I32 => of_codes!(I32Codes, I32Codes),
            WideRuns::U32 => of_codes!(U32Codes, U32Codes),
            WideRuns::I64 => of_codes!(I64Codes, I64Codes),
            WideRuns::U64 => of_codes!(U64Codes, U64Codes),
            WideRuns::F32Bf16 => of_codes!(F32Codes, Bf16Rows),
            WideRuns::Bf16F32 => of_codes!(Bf16Rows, F32Codes),
            WideRuns::F32F16 => of_codes!(F32Codes, F16Rows),
            WideRuns::F16F32 => of_codes!(F16Rows, F32Codes),
            WideRuns::Decoded => {
                let padded = $block.padded();
                let $a = Values::new(&$block.wide_a[..padded]);
                let $b = Values::new(&$block.wide_b[..padded]);
                $body
            }
        }
    }};
}

/// What is asked for on top, of a block with these sums.
macro_rules! extra {
    ($block:ident, $sums:ident) => {
        Extra {
            level: $block.level,
            options: $block.options,
            floats: $block.floats(),
            changed: $sums.changed,
            max_abs: $sums.max_abs,
            partial: &mut *$block.partial,
            distances: &mut *$block.distances,
        }
    };
}

impl Block<'_> {
    pub(super) fn reduce(&mut self) {
        let (a, b) = (self.a, self.b);
        let identical = a.dtype == b.dtype && a.bytes == b.bytes;
        if a.dtype == b.dtype
            && let Some(of) = SmallInteger::of(a.dtype)
        {
            if identical {
                self.reduce_identical();
            } else {
                self.reduce_small_integers(of);
            }
            return;
        }
        let domain = a.dtype.domain().max(b.dtype.domain());
        if domain == Domain::Integer {
            self.exact_in_f64 = self.components == 1
                && [a, b].into_iter().all(|side| {
                    self.level.run(ExactInF64 {
                        dtype: side.dtype,
                        codes: side.bytes,
                    })
                });
        }
        let reduced = (identical && self.reduce_identical())
            || (domain == Domain::Narrow && self.reduce_narrow())
            || (domain == Domain::Wide && self.reduce_short())
            || ((domain != Domain::Integer || self.exact_in_f64) && self.reduce_wide());
        if !reduced && domain == Domain::Integer {
            self.reduce_with_integers();
        } else if !reduced && !self.reduce_without_nonfinite() {
            self.reduce_floats_singly();
        }
    }

    fn floats(&self) -> usize {
        self.elements * self.components
    }

    fn padded(&self) -> usize {
        self.floats().next_multiple_of(PADDING)
    }

    /// Decode a side to `f32`.
    fn narrow(&mut self, side: Side) {
        let (count, padded) = (self.floats(), self.padded());
        let (codes, out) = match side {
            Side::A => (self.a, &mut *self.narrow_a),
            Side::B => (self.b, &mut *self.narrow_b),
        };
        self.level.run(DecodeNarrow {
            dtype: codes.dtype,
            codes: codes.bytes,
            out: &mut out[..count],
        });
        out[count..padded].fill(0.0);
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
                Domain::Wide | Domain::Integer => self.level.run(DecodeWide {
                    dtype: codes.dtype,
                    codes: codes.bytes,
                    out: &mut out[..own],
                }),
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
        let dtype = self.a.dtype;
        let (squares, range) = if SmallInteger::of(dtype).is_some() {
            let squares = self.level.run(SquaresIntegers {
                of: dtype,
                codes: self.a.bytes,
            });
            (squares, Range::WIDE)
        } else if dtype.domain() == Domain::Narrow {
            let runs = self.narrow_runs();
            if runs == NarrowRuns::Decoded {
                self.narrow(Side::A);
            }
            let squares = if self.finite_e4m3(runs) {
                let codes = FiniteE4m3Codes::new(self.a.bytes);
                self.level.run(SquaresNarrow(codes)) * (E4M3_UNIT * E4M3_UNIT)
            } else {
                with_narrow!(runs, self, a, _b => self.level.run(SquaresNarrow(a)))
            };
            (squares, Range::NARROW)
        } else {
            let runs = self.wide_runs();
            if runs == WideRuns::Decoded {
                self.widen();
            }
            let squares = with_wide!(runs, self, a, _b => self.level.run(SquaresWide(a)));
            (squares, Range::WIDE)
        };
        // No square of an integer vanishes.
        let all_zero = || dtype.is_integer() || self.a.all_zero();
        if !(range.has(squares) || (squares == 0.0 && all_zero())) {
            return false;
        }
        let count = self.floats() as u64;
        self.partial.finite += count;
        self.partial.squares_a.merge(squares.into());
        self.partial.squares_b.merge(squares.into());
        self.partial.dot_ab.merge(squares.into());
        if let Some(extras) = &mut self.partial.extras {
            extras.histogram.add_zeros(count);
        }
        true
    }

    /// Integers of 8 or 16 bits on both sides.
    fn reduce_small_integers(&mut self, of: SmallInteger) {
        let (dtype, a, b) = (self.a.dtype, self.a.bytes, self.b.bytes);
        let (sums, comparison) = self.level.run(DiffIntegers { of, a, b });
        self.partial.max_ulp = self.partial.max_ulp.max(comparison.max_ulp);
        self.partial.bits_changed += comparison.bits_changed;
        if exceeds(sums.max_abs, self.partial.max_abs.magnitude.to_f64())
            && let Some((position, a, b)) =
                position_of(comparison.max_ulp, dtype, a, b, self.elements)
        {
            self.record(sums.max_abs, a as f64, b as f64, position);
        }
        self.fold(&sums);
        if self.options.wants_each_difference() {
            self.widen();
            self.count_extras(WideRuns::Decoded, &sums);
        }
    }

    /// What narrow passes can load, with the same result whatever it is: codes, where blocks are of
    /// whole groups and dtypes have a run.
    fn narrow_runs(&self) -> NarrowRuns {
        let (a, b) = (self.a.dtype, self.b.dtype);
        if self.floats() != self.padded() {
            return NarrowRuns::Decoded;
        }
        let halves = self.level.loads_codes(DType::F16);
        match (a, b) {
            _ if a == b && self.level.loads_codes(a) => NarrowRuns::Same,
            (DType::BF16, DType::F16) if halves => NarrowRuns::Bf16F16,
            (DType::F16, DType::BF16) if halves => NarrowRuns::F16Bf16,
            _ => NarrowRuns::Decoded,
        }
    }

    /// What wide passes can load, with the same result whatever it is.
    fn wide_runs(&self) -> WideRuns {
        if self.floats() != self.padded() {
            return WideRuns::Decoded;
        }
        let halves = self.level.loads_codes(DType::F16);
        match (self.a.dtype, self.b.dtype) {
            (DType::F32, DType::F32) | (DType::C64, DType::C64) => WideRuns::F32,
            (DType::F64, DType::F64) | (DType::C128, DType::C128) => WideRuns::F64,
            (DType::I32, DType::I32) => WideRuns::I32,
            (DType::U32, DType::U32) => WideRuns::U32,
            (DType::I64, DType::I64) if self.exact_in_f64 => WideRuns::I64,
            (DType::U64, DType::U64) if self.exact_in_f64 => WideRuns::U64,
            (DType::F32, DType::BF16) => WideRuns::F32Bf16,
            (DType::BF16, DType::F32) => WideRuns::Bf16F32,
            (DType::F32, DType::F16) if halves => WideRuns::F32F16,
            (DType::F16, DType::F32) if halves => WideRuns::F16F32,
            _ => WideRuns::Decoded,
        }
    }

    fn reduce_narrow(&mut self) -> bool {
        let runs = self.narrow_runs();
        if runs == NarrowRuns::Decoded {
            self.narrow(Side::A);
            self.narrow(Side::B);
        }
        let mut sums = if self.finite_e4m3(runs) {
            let a = FiniteE4m3Codes::new(self.a.bytes);
            let b = FiniteE4m3Codes::new(self.b.bytes);
            self.narrow_sums(a, b).in_units(E4M3_UNIT)
        } else {
            with_narrow!(runs, self, a, b => self.narrow_sums(a, b))
        };
        if !self.is_harmless(&sums, Range::NARROW) {
            return false;
        }
        if runs == NarrowRuns::Same {
            self.compare_codes_into(&mut sums);
        } else {
            (sums.changed, sums.sign_flips) =
                with_narrow!(runs, self, a, b => self.level.run(CountNarrow { a, b }));
            self.fold_codes();
        }
        if self.may_exceed(sums.max_abs) {
            let magnitude = sums.max_abs as f32;
            let groups =
                with_narrow!(runs, self, a, b => self.level.run(GroupsWith { a, b, magnitude }));
            self.record_from(groups);
        }
        self.fold(&sums);
        if self.options.wants_each_difference() {
            self.count_narrow_extras(runs, &sums);
        }
        true
    }

    fn narrow_sums<A: NarrowRun, B: NarrowRun>(&self, a: A, b: B) -> DiffSums {
        let mut sums = self.level.run(DiffNarrow { a, b });
        if !sums.derive_products() {
            (sums.squares_b, sums.dot_ab) = self.level.run(ProductsNarrow { a, b });
        }
        sums
    }

    /// Whether these runs are of E4M3 codes, all finite, which sums can then load in their units:
    /// these powers of two neither overflow nor vanish, so that nothing is rounded otherwise.
    fn finite_e4m3(&self, runs: NarrowRuns) -> bool {
        runs == NarrowRuns::Same
            && self.a.dtype == DType::F8E4M3
            && [self.a, self.b]
                .into_iter()
                .all(|side| self.level.run(FiniteE4m3(side.bytes)))
    }

    /// A block with F32 on a side, and what `f32` holds on the other, with the arithmetic of narrow
    /// ones. A product of 24 bits is rounded, so this will not do where roundings add up, in data
    /// that repeat, nor where a cosine would show them, in sides that are far apart.
    fn reduce_short(&mut self) -> bool {
        macro_rules! reduce {
            ($a:ident, $b:ident) => {
                self.reduce_short_runs($a::new(self.a.bytes), $b::new(self.b.bytes))
            };
        }
        if self.components > 1 {
            return false;
        }
        match self.wide_runs() {
            WideRuns::F32 => reduce!(F32Codes, F32Codes),
            WideRuns::F32Bf16 => reduce!(F32Codes, Bf16Rows),
            WideRuns::Bf16F32 => reduce!(Bf16Rows, F32Codes),
            WideRuns::F32F16 => reduce!(F32Codes, F16Rows),
            WideRuns::F16F32 => reduce!(F16Rows, F32Codes),
            _ => false,
        }
    }

    fn reduce_short_runs<A: NarrowRun, B: NarrowRun>(&mut self, a: A, b: B) -> bool {
        let mut sums = self.level.run(DiffNarrow { a, b });
        if sums.repeating || !sums.derive_products() || !self.is_harmless(&sums, Range::NARROW) {
            return false;
        }
        if self.a.dtype == self.b.dtype {
            self.compare_codes_into(&mut sums);
        } else {
            (sums.changed, sums.sign_flips) = self.level.run(CountNarrow { a, b });
        }
        if self.may_exceed(sums.max_abs) {
            let magnitude = sums.max_abs as f32;
            let groups = self.level.run(GroupsWith { a, b, magnitude });
            self.record_from(groups);
        }
        self.fold(&sums);
        if self.options.wants_each_difference() {
            self.count_extras(self.wide_runs(), &sums);
        }
        true
    }

    /// Whether the largest difference in `f32` leaves open that one in `f64` beats the record.
    ///
    /// Rounding to `f32` is monotone, so the largest `f64` difference is among those whose `f32`
    /// rounding is the largest: only a block that reaches the record needs the exact look, and
    /// where differences are exact, only one that beats it.
    fn may_exceed(&self, max_abs: f64) -> bool {
        let record = self.partial.max_abs.magnitude.to_f64();
        if record.is_nan() {
            return max_abs > 0.0;
        }
        let rounded = f64::from(record as f32);
        let exact = self.exact_differences_below();
        max_abs > rounded || (max_abs == rounded && max_abs > 0.0 && max_abs >= exact)
    }

    /// Look for the largest difference in these groups, exactly, and note it if it is a record.
    fn record_from(&mut self, mut groups: u64) {
        let mut values_a = [0.0; PADDING];
        let mut values_b = [0.0; PADDING];
        while groups != 0 {
            let start = groups.trailing_zeros() as usize * PADDING;
            groups &= groups - 1;
            let count = PADDING.min(self.floats() - start);
            for (codes, values) in [(self.a, &mut values_a), (self.b, &mut values_b)] {
                let bytes = codes.of(start, count);
                if codes.dtype == DType::F32 {
                    for (value, code) in values.iter_mut().zip(bytes.as_chunks().0) {
                        *value = f32::from_le_bytes(*code);
                    }
                } else {
                    self.level.run(DecodeNarrow {
                        dtype: codes.dtype,
                        codes: bytes,
                        out: &mut values[..count],
                    });
                }
            }
            for values in [&mut values_a, &mut values_b] {
                values[count..].fill(0.0);
            }
            let largest = self.level.run(LargestDifference {
                a: &values_a,
                b: &values_b,
            });
            if !exceeds(largest, self.partial.max_abs.magnitude.to_f64()) {
                continue;
            }
            for index in 0..count {
                let (a, b) = (f64::from(values_a[index]), f64::from(values_b[index]));
                self.record((b - a).abs(), a, b, start + index);
            }
        }
    }

    /// Note a difference if it is larger than every one before.
    fn record(&mut self, magnitude: f64, a: f64, b: f64, position: usize) {
        let partial = &mut *self.partial;
        if exceeds(magnitude, partial.max_abs.magnitude.to_f64()) {
            partial.max_abs = Extreme {
                magnitude: Number::float(magnitude),
                index: self.first + position as u64,
            };
            partial.value_a = Number::float(a);
            partial.value_b = Number::float(b);
        }
    }

    fn reduce_wide(&mut self) -> bool {
        let runs = self.wide_runs();
        let of_codes = runs != WideRuns::Decoded;
        if !of_codes {
            self.widen();
        }
        let mut sums = with_wide!(runs, self, a, b => {
            let mut sums = self.level.run(DiffWide { a, b });
            if !sums.derive_products() {
                (sums.squares_b, sums.dot_ab) = self.level.run(ProductsWide { a, b });
            }
            sums
        });
        if !self.is_harmless(&sums, Range::WIDE) {
            if of_codes {
                self.widen();
            }
            return false;
        }
        self.count_wide(runs, &mut sums);
        let exceeds = exceeds(sums.max_abs, self.partial.max_abs.magnitude.to_f64());
        if exceeds {
            if of_codes {
                self.widen();
            }
            let position = (0..self.floats())
                .find(|&index| (self.wide_b[index] - self.wide_a[index]).abs() == sums.max_abs);
            if let Some(position) = position {
                let (a, b) = (self.wide_a[position], self.wide_b[position]);
                self.record(sums.max_abs, a, b, position);
            }
        }
        self.fold(&sums);
        if self.options.wants_each_difference() {
            self.count_extras(runs, &sums);
        }
        true
    }

    /// Counts of a harmless block.
    fn count_wide(&mut self, runs: WideRuns, sums: &mut DiffSums) {
        let (codes_a, codes_b) = (self.a.bytes, self.b.bytes);
        macro_rules! singles {
            ($run_a:ident, $run_b:ident) => {{
                let (a, b) = ($run_a::new(codes_a), $run_b::new(codes_b));
                (sums.changed, sums.sign_flips) = self.level.run(CountSingle { a, b });
            }};
        }
        match (runs, self.components) {
            (WideRuns::F32, 2) => {
                let (a, b) = (F32Codes::new(codes_a), F32Codes::new(codes_b));
                let changed = self.level.run(CountComplexSingle { a, b });
                return self.compare_complex_into(changed, sums);
            }
            (WideRuns::F64, 2) => {
                let (a, b) = (F64Codes::new(codes_a), F64Codes::new(codes_b));
                let changed = self.level.run(CountComplex { a, b });
                return self.compare_complex_into(changed, sums);
            }
            (WideRuns::F32 | WideRuns::F64, _) => return self.compare_codes_into(sums),
            (WideRuns::I32 | WideRuns::U32 | WideRuns::I64 | WideRuns::U64, _) => {
                let comparison = self.level.run(CompareIntegers {
                    dtype: self.a.dtype,
                    a: codes_a,
                    b: codes_b,
                });
                return self.fold_comparison(comparison, sums);
            }
            (WideRuns::F32Bf16, _) => singles!(F32Codes, Bf16Rows),
            (WideRuns::Bf16F32, _) => singles!(Bf16Rows, F32Codes),
            (WideRuns::F32F16, _) => singles!(F32Codes, F16Rows),
            (WideRuns::F16F32, _) => singles!(F16Rows, F32Codes),
            (WideRuns::Decoded, components) => {
                let padded = self.padded();
                let a = Values::new(&self.wide_a[..padded]);
                let b = Values::new(&self.wide_b[..padded]);
                (sums.changed, sums.sign_flips) = self.level.run(CountWide { a, b });
                if components == 2 {
                    sums.changed = self.level.run(CountComplex { a, b });
                }
            }
        }
        self.fold_codes();
    }

    fn is_harmless(&self, sums: &DiffSums, range: Range) -> bool {
        sums.harmless(range, |side| match side {
            Side::A => self.a.dtype.is_integer() || self.a.all_zero(),
            Side::B => self.b.dtype.is_integer() || self.b.all_zero(),
        })
    }

    /// Counts of a harmless block whose codes can be compared as sign and magnitude.
    fn compare_codes_into(&mut self, sums: &mut DiffSums) {
        let comparison = self.level.run(CompareCodes {
            bytes: self.a.code_bytes(),
            a: self.a.bytes,
            b: self.b.bytes,
        });
        self.fold_comparison(comparison, sums);
    }

    /// The same of complex numbers, the codes of whose parts are compared.
    fn compare_complex_into(&mut self, changed: u64, sums: &mut DiffSums) {
        let comparison = self.level.run(CompareCodes {
            bytes: self.a.code_bytes(),
            a: self.a.bytes,
            b: self.b.bytes,
        });
        // Codes of parts differ wherever values do; where they differ nowhere else, elements do not.
        let bits_changed = if comparison.bits_changed == comparison.changed {
            changed
        } else {
            self.differing_elements()
        };
        let comparison = CodeComparison {
            changed,
            bits_changed,
            ..comparison
        };
        self.fold_comparison(comparison, sums);
    }

    fn fold_comparison(&mut self, comparison: CodeComparison, sums: &mut DiffSums) {
        sums.changed = comparison.changed;
        sums.sign_flips = comparison.sign_flips;
        self.partial.max_ulp = self.partial.max_ulp.max(comparison.max_ulp);
        self.partial.bits_changed += comparison.bits_changed;
    }

    /// Fold the sums of a harmless block, whose extras are counted elsewhere.
    fn fold(&mut self, sums: &DiffSums) {
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
        partial.dot_ab.merge(sums.dot_ab.into());
        if !self.options.wants_each_difference() {
            partial.out_of_tolerance += sums.changed;
        }
    }

    /// What is asked for on top, of a harmless block, by what narrow passes have loaded.
    fn count_narrow_extras(&mut self, runs: NarrowRuns, sums: &DiffSums) {
        let narrowness = self.narrowness(runs, sums.max_abs);
        with_narrow!(runs, self, a, b => extra!(self, sums).count_narrow(a, b, narrowness));
    }

    /// The same by what wide passes have loaded.
    fn count_extras(&mut self, runs: WideRuns, sums: &DiffSums) {
        if self.components == 1 {
            with_wide!(runs, self, a, b => extra!(self, sums).count_wide(a, b));
        } else {
            self.widen();
            self.look_at_each_difference();
        }
    }

    fn narrowness(&self, runs: NarrowRuns, max_abs: f64) -> Narrowness {
        if self.a.dtype == DType::BF16 && runs == NarrowRuns::Same {
            // Any difference is a multiple of the step at the smallest value, which is at least
            // 2^-8 of it.
            let (a, b) = (self.a.bytes, self.b.bytes);
            let nearest = self.level.run(NearestZero { a, b });
            let smallest = f64::from(f32::from_bits((nearest / 2) << 16));
            return Narrowness {
                smallest,
                exact: max_abs <= smallest * 65536.0,
            };
        }
        let below = self.exact_differences_below();
        Narrowness {
            smallest: scale(below, -24),
            exact: max_abs < below,
        }
    }

    /// Below this, differences are exact in `f32`.
    fn exact_differences_below(&self) -> f64 {
        let (a, b) = (self.a.dtype, self.b.dtype);
        a.exact_differences_below().min(b.exact_differences_below())
    }

    /// `bits_changed` and `max_ulp` of a block whose values are all finite.
    fn fold_codes(&mut self) {
        if self.compare_quantised() {
            return;
        }
        if self.a.dtype == self.b.dtype {
            let (distance, differing) = self.code_distance();
            self.partial.max_ulp = self.partial.max_ulp.max(distance);
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

    /// The largest distance of codes, and how many elements' differ.
    fn code_distance(&self) -> (u64, u64) {
        let b = self.b.bytes;
        if self.components == 1 {
            return self.a.distance(self.level, b);
        }
        (self.a.distance(self.level, b).0, self.differing_elements())
    }

    /// How many complex numbers' codes differ.
    fn differing_elements(&self) -> u64 {
        let (a, b) = (self.a.bytes, self.b.bytes);
        if self.a.code_bytes() == 4 {
            self.level.run(CountBytes::<1> { a, b })
        } else {
            self.level.run(CountBytes::<2> { a, b })
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
            .chunks(self.components)
            .zip(self.wide_a.chunks(self.components))
            .filter(|(differences, a)| {
                let mut parts = differences.iter().zip(*a);
                parts.any(|(difference, a)| *difference > atol + rtol * a.abs())
            })
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
                element_changed |= counts.add(a_value, b_value);
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
        let (mut distance, differing) = self.code_distance();
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
        self.partial.max_ulp = self.partial.max_ulp.max(distance);
        self.partial.bits_changed += differing;
    }
}

/// Whether a block's largest difference beats the record, which is NaN before the first.
fn exceeds(max_abs: f64, record: f64) -> bool {
    max_abs > 0.0 && (record.is_nan() || max_abs > record)
}
