//! What changed between two runs of elements.
//!
//! [`DiffKernel::accumulate`] folds raw bytes into a [`DiffPartial`]; partials `merge`, and
//! `finish` into a [`DiffSummary`]. Three paths, each the fallback of the one before:
//! *identical* blocks need only a sum of squares, *regular* ones a pass in fixed lanes, and
//! everything else (NaN, Inf, extreme magnitudes, complex numbers, 64-bit integers) goes
//! element by element, in code that is slow and obvious.

use std::sync::Arc;

use crate::BLOCK;
use crate::cast::cast;
use crate::decode::{Aligned, DecodeNarrow, DecodeWide, PADDING, Widen, integer_at, unpack};
use crate::dtype::{DType, Domain};
use crate::histogram::Histogram;
use crate::level::Level;
use crate::number::{Extreme, Number};
use crate::passes::{
    CodeDistance, CodeOrder, DiffNarrow, DiffSums, DiffWide, Dot, MaxAbsNarrow, SquaresNarrow,
    SquaresWide, harmless_squares,
};
use crate::scaled::{Scaled, exponent_of, scale};

/// What a diff measures beside the default columns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DiffOptions {
    /// Absolute tolerance.
    pub atol: f64,
    /// Tolerance relative to |a|.
    pub rtol: f64,
    /// Round both sides to this dtype first; one of [`DType::CAST_TARGETS`].
    pub cast: Option<DType>,
    /// Count |d| > T for each of these.
    pub thresholds: Vec<f64>,
    /// Count |d| per power of two.
    pub histogram: bool,
}

impl DiffOptions {
    /// Whether any difference at all may be tolerated.
    pub fn tolerant(&self) -> bool {
        self.atol > 0.0 || self.rtol > 0.0
    }

    /// Whether a clean block needs a look at every single difference.
    fn wants_each_difference(&self) -> bool {
        self.tolerant() || self.histogram || !self.thresholds.is_empty()
    }
}

/// What was asked for on top.
#[derive(Clone, Debug, Default, PartialEq)]
struct Extras {
    above: Vec<u64>,
    histogram: Histogram,
}

/// Everything a diff knows of a run of elements; merging partials of two runs gives that of both.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DiffPartial {
    finite: u64,
    changed: u64,
    bits_changed: u64,
    sign_flips: u64,
    nan_a: u64,
    nan_b: u64,
    inf_a: u64,
    inf_b: u64,
    nonfinite_mismatch: u64,
    out_of_tolerance: u64,
    max_ulp: u64,
    difference: Scaled,
    absolute: Scaled,
    squares_d: Scaled,
    squares_a: Scaled,
    squares_b: Scaled,
    dot_da: Scaled,
    dot_ab: Scaled,
    max_abs: Extreme,
    value_a: Number,
    value_b: Number,
    extras: Option<Box<Extras>>,
}

/// The columns that a [`DiffPartial`] gives, see DESIGN for their meaning.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The names are those of the columns.
pub struct DiffSummary {
    /// Floats at which both sides are finite.
    pub finite: u64,
    pub changed: u64,
    pub bits_changed: u64,
    pub max_abs: Number,
    /// Counted in floats; `None` where nothing differs.
    pub max_abs_index: Option<u64>,
    pub value_a: Number,
    pub value_b: Number,
    pub mean_diff: f64,
    pub mean_abs: f64,
    pub rms: f64,
    pub l2: f64,
    pub l2_a: f64,
    pub l2_b: f64,
    pub rel_l2: f64,
    pub cosine: f64,
    pub cosine_distance: f64,
    pub sign_flips: u64,
    pub nan_a: u64,
    pub nan_b: u64,
    pub inf_a: u64,
    pub inf_b: u64,
    pub nonfinite_mismatch: u64,
    pub out_of_tolerance: u64,
    pub max_ulp: u64,
}

impl DiffPartial {
    /// Add the partial of a later run. Not commutative: of equal extremes the earlier stays.
    pub fn merge(&mut self, later: &Self) {
        self.finite += later.finite;
        self.changed += later.changed;
        self.bits_changed += later.bits_changed;
        self.sign_flips += later.sign_flips;
        self.nan_a += later.nan_a;
        self.nan_b += later.nan_b;
        self.inf_a += later.inf_a;
        self.inf_b += later.inf_b;
        self.nonfinite_mismatch += later.nonfinite_mismatch;
        self.out_of_tolerance += later.out_of_tolerance;
        self.max_ulp = self.max_ulp.max(later.max_ulp);
        self.difference.merge(later.difference);
        self.absolute.merge(later.absolute);
        self.squares_d.merge(later.squares_d);
        self.squares_a.merge(later.squares_a);
        self.squares_b.merge(later.squares_b);
        self.dot_da.merge(later.dot_da);
        self.dot_ab.merge(later.dot_ab);
        if self.max_abs_is_below(later) {
            self.max_abs = later.max_abs;
            self.value_a = later.value_a;
            self.value_b = later.value_b;
        }
        if let Some(later) = &later.extras {
            let extras = self.extras.get_or_insert_default();
            extras.above.resize(later.above.len(), 0);
            for (count, later) in extras.above.iter_mut().zip(&later.above) {
                *count += later;
            }
            extras.histogram.merge(&later.histogram);
        }
    }

    /// Whether merging `later` takes over its largest difference.
    pub fn max_abs_is_below(&self, later: &Self) -> bool {
        later.max_abs.magnitude.exceeds(self.max_abs.magnitude)
    }

    /// How many |d| exceed each threshold, in the order of [`DiffOptions::thresholds`].
    pub fn above(&self, threshold: usize) -> u64 {
        self.extras
            .as_ref()
            .and_then(|extras| extras.above.get(threshold).copied())
            .unwrap_or(0)
    }

    /// |d| per power of two, where that was asked for.
    pub fn histogram(&self) -> Option<&Histogram> {
        self.extras.as_ref().map(|extras| &extras.histogram)
    }

    /// The columns.
    pub fn finish(&self) -> DiffSummary {
        let floats = Scaled::from(self.finite as f64);
        let (l2, l2_a, l2_b) = (
            self.squares_d.sqrt(),
            self.squares_a.sqrt(),
            self.squares_b.sqrt(),
        );
        let mean = |sum: Scaled| {
            if self.finite == 0 {
                f64::NAN
            } else {
                (sum / floats).to_f64()
            }
        };
        let cosine_distance = self.cosine_distance(l2, l2_a, l2_b);
        let differs = !self.max_abs.magnitude.is_nan();
        DiffSummary {
            finite: self.finite,
            changed: self.changed,
            bits_changed: self.bits_changed,
            max_abs: if differs {
                self.max_abs.magnitude
            } else {
                Number::float(0.0)
            },
            max_abs_index: differs.then_some(self.max_abs.index),
            value_a: if differs {
                self.value_a
            } else {
                Number::float(f64::NAN)
            },
            value_b: if differs {
                self.value_b
            } else {
                Number::float(f64::NAN)
            },
            mean_diff: mean(self.difference),
            mean_abs: mean(self.absolute),
            rms: if self.finite == 0 {
                f64::NAN
            } else {
                (self.squares_d / floats).sqrt().to_f64()
            },
            l2: l2.to_f64(),
            l2_a: l2_a.to_f64(),
            l2_b: l2_b.to_f64(),
            rel_l2: match (l2.is_zero(), l2_a.is_zero()) {
                (true, _) => 0.0,
                (false, true) => f64::INFINITY,
                (false, false) => (l2 / l2_a).to_f64(),
            },
            cosine: 1.0 - cosine_distance,
            cosine_distance,
            sign_flips: self.sign_flips,
            nan_a: self.nan_a,
            nan_b: self.nan_b,
            inf_a: self.inf_a,
            inf_b: self.inf_b,
            nonfinite_mismatch: self.nonfinite_mismatch,
            out_of_tolerance: self.out_of_tolerance,
            max_ulp: self.max_ulp,
        }
    }

    /// 1 − cos(a, b), in [0, 2].
    ///
    /// For close vectors from (‖d‖² − (‖a‖ − ‖b‖)²) / 2‖a‖‖b‖, where ‖b‖ − ‖a‖ is taken as
    /// (2⟨d,a⟩ + ‖d‖²) / (‖a‖ + ‖b‖), which does not cancel. For far ones that formula loses what
    /// the larger norm drowns, and 1 − ⟨a,b⟩ / ‖a‖‖b‖ is good.
    fn cosine_distance(&self, l2: Scaled, l2_a: Scaled, l2_b: Scaled) -> f64 {
        match (l2_a.is_zero(), l2_b.is_zero()) {
            (true, true) => return 0.0,
            (true, false) | (false, true) => return f64::NAN,
            (false, false) => {}
        }
        let product = l2_a * l2_b;
        let larger = if (l2_a / l2_b).to_f64() > 1.0 {
            l2_a
        } else {
            l2_b
        };
        let distance = if (l2 / larger).to_f64() <= 0.5 {
            let norm_change = (self.dot_da * Scaled::from(2.0) + self.squares_d) / (l2_a + l2_b);
            let numerator = self.squares_d - norm_change * norm_change;
            (numerator / (product * Scaled::from(2.0))).to_f64()
        } else {
            1.0 - (self.dot_ab / product).to_f64()
        };
        distance.clamp(0.0, 2.0)
    }
}

/// One value, in whatever holds it exactly.
#[derive(Clone, Copy)]
enum Value {
    Float(f64),
    Integer(i128),
}

impl Value {
    #[inline(always)]
    fn to_f64(self) -> f64 {
        match self {
            Self::Float(value) => value,
            Self::Integer(value) => value as f64,
        }
    }

    fn number(self) -> Number {
        match self {
            Self::Float(value) => Number::float(value),
            Self::Integer(value) => Number::integer(value),
        }
    }
}

/// An exact or correctly rounded difference of two finite values.
#[derive(Clone, Copy)]
enum Difference {
    Float(f64),
    Integer(i128),
}

impl Difference {
    /// b − a.
    #[inline(always)]
    fn between(a: Value, b: Value) -> Self {
        match (a, b) {
            (Value::Float(a), Value::Float(b)) => Self::Float(b - a),
            (Value::Integer(a), Value::Integer(b)) => Self::Integer(b - a),
            (Value::Integer(a), Value::Float(b)) => Self::float_minus_integer(b, a),
            (Value::Float(a), Value::Integer(b)) => match Self::float_minus_integer(a, b) {
                Self::Float(difference) => Self::Float(-difference),
                Self::Integer(difference) => Self::Integer(-difference),
            },
        }
    }

    fn float_minus_integer(float: f64, integer: i128) -> Self {
        const EXACT: f64 = (1u128 << 100) as f64;
        if float.fract() == 0.0 && float.abs() < EXACT {
            return Self::Integer(float as i128 - integer);
        }
        // Rounded once: below 2^53 by the addition, above, where the fraction only decides which
        // side of the whole number the difference is on, with half of it standing for any.
        let whole = float.floor() as i128 - integer;
        if whole.unsigned_abs() < 1 << 53 {
            return Self::Float(whole as f64 + (float - float.floor()));
        }
        Self::Float((2 * whole + 1) as f64 / 2.0)
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        match self {
            Self::Float(value) => value,
            Self::Integer(value) => value as f64,
        }
    }

    #[inline(always)]
    fn is_zero(self) -> bool {
        match self {
            Self::Float(value) => value == 0.0,
            Self::Integer(value) => value == 0,
        }
    }

    fn magnitude(self) -> Number {
        match self {
            Self::Float(value) => Number::float(value.abs()),
            Self::Integer(value) => Number::integer(value.abs()),
        }
    }

    /// Whether |d| > `limit`, exactly.
    fn exceeds(self, limit: f64) -> bool {
        match self {
            Self::Float(value) => value.abs() > limit,
            Self::Integer(value) if limit < 1e30 => value.abs() > limit.floor() as i128,
            Self::Integer(_) => false,
        }
    }
}

/// Reduces pairs of runs of bytes. Holds scratch blocks, so make one per thread.
pub struct DiffKernel {
    level: Level,
    options: Arc<DiffOptions>,
    scratch: Box<Scratch>,
}

struct Scratch {
    a: Side,
    b: Side,
    difference: Aligned<f64>,
}

/// One side of a block.
struct Side {
    narrow: Aligned<f32>,
    wide: Aligned<f64>,
    /// Codes that are not those of the file: cast or unpacked ones.
    codes: [u8; BLOCK * 8],
    unpacked: [u8; BLOCK],
}

impl Side {
    const fn new() -> Self {
        Self {
            narrow: Aligned([0.0; BLOCK]),
            wide: Aligned([0.0; BLOCK]),
            codes: [0; BLOCK * 8],
            unpacked: [0; BLOCK],
        }
    }
}

/// The codes of one side of a block, and what they are codes of.
#[derive(Clone, Copy)]
struct Codes<'a> {
    dtype: DType,
    bytes: &'a [u8],
}

impl<'a> Codes<'a> {
    /// The codes to compare: those of `raw`, unpacked and cast where necessary.
    fn prepare(
        level: Level,
        dtype: DType,
        raw: &'a [u8],
        elements: usize,
        cast_to: Option<DType>,
        unpacked: &'a mut [u8],
        converted: &'a mut [u8],
    ) -> Self {
        let bytes = match dtype {
            DType::F4 | DType::F6E2M3 | DType::F6E3M2 => {
                unpack(dtype, raw, &mut unpacked[..elements]);
                &unpacked[..elements]
            }
            _ => raw,
        };
        match cast_to {
            Some(target) if target != dtype => {
                let bytes = cast(level, dtype, bytes, target, converted);
                Self {
                    dtype: target,
                    bytes,
                }
            }
            _ => Self { dtype, bytes },
        }
    }

    fn is_float(self) -> bool {
        !self.dtype.is_integer()
    }

    fn code_bytes(self) -> usize {
        match self.dtype {
            DType::F4 | DType::F6E2M3 | DType::F6E3M2 => 1,
            dtype => (dtype.bits() / 8) as usize / dtype.components(),
        }
    }

    /// How far apart the codes are at most, and how many differ.
    fn distance(self, level: Level, other: &[u8]) -> (u64, u64) {
        let (order, width) = match self.dtype {
            DType::Bool | DType::U8 | DType::U16 | DType::U32 | DType::U64 | DType::F8E8M0 => {
                (CodeOrder::Unsigned, 0)
            }
            DType::I8 | DType::I16 | DType::I32 | DType::I64 => (CodeOrder::Signed, 0),
            float => {
                let width = float
                    .float_format()
                    .map_or(0, |format| 1 + format.exponent_bits + format.mantissa_bits);
                (CodeOrder::SignMagnitude, width)
            }
        };
        level.run(CodeDistance {
            bytes: self.code_bytes(),
            width: if width == 0 {
                8 * self.code_bytes() as u32
            } else {
                width
            },
            order,
            a: self.bytes,
            b: other,
        })
    }
}

impl DiffKernel {
    /// A kernel for `options`, compiled for `level`.
    pub fn new(level: Level, options: Arc<DiffOptions>) -> Self {
        Self {
            level,
            options,
            scratch: Box::new(Scratch {
                a: Side::new(),
                b: Side::new(),
                difference: Aligned([0.0; BLOCK]),
            }),
        }
    }

    /// Fold `elements` elements of A and of B, given as raw bytes, into `partial`.
    ///
    /// `first` is the flat index of the first element in its tensor. Results depend on where runs
    /// begin and end only through the blocks, so runs should be cut at multiples of [`BLOCK`].
    ///
    /// # Panics
    ///
    /// Where a side has fewer bytes than the elements need.
    pub fn accumulate(
        &mut self,
        (dtype_a, a): (DType, &[u8]),
        (dtype_b, b): (DType, &[u8]),
        elements: usize,
        first: u64,
        partial: &mut DiffPartial,
    ) {
        let components = dtype_a.components().max(dtype_b.components());
        let step = BLOCK / components;
        let bits_a = dtype_a.bits() as usize;
        let bits_b = dtype_b.bits() as usize;
        let options = Arc::clone(&self.options);
        if options.wants_each_difference() {
            let extras = partial.extras.get_or_insert_default();
            extras.above.resize(options.thresholds.len(), 0);
        }
        let mut start = 0;
        while start < elements {
            let count = step.min(elements - start);
            let raw_a = &a[start * bits_a / 8..((start + count) * bits_a).div_ceil(8)];
            let raw_b = &b[start * bits_b / 8..((start + count) * bits_b).div_ceil(8)];
            let Scratch {
                a: side_a,
                b: side_b,
                difference,
            } = &mut *self.scratch;
            let codes_a = Codes::prepare(
                self.level,
                dtype_a,
                raw_a,
                count,
                options.cast,
                &mut side_a.unpacked,
                &mut side_a.codes,
            );
            let codes_b = Codes::prepare(
                self.level,
                dtype_b,
                raw_b,
                count,
                options.cast,
                &mut side_b.unpacked,
                &mut side_b.codes,
            );
            let mut block = Block {
                level: self.level,
                options: &options,
                a: codes_a,
                b: codes_b,
                narrow_a: &mut side_a.narrow.0,
                narrow_b: &mut side_b.narrow.0,
                wide_a: &mut side_a.wide.0,
                wide_b: &mut side_b.wide.0,
                difference: &mut difference.0,
                elements: count,
                components: codes_a.dtype.components().max(codes_b.dtype.components()),
                first: (first + start as u64) * components as u64,
                partial,
            };
            block.reduce();
            start += count;
        }
    }
}

/// One block of pairs on its way into the partial.
struct Block<'a> {
    level: Level,
    options: &'a DiffOptions,
    a: Codes<'a>,
    b: Codes<'a>,
    narrow_a: &'a mut [f32; BLOCK],
    narrow_b: &'a mut [f32; BLOCK],
    wide_a: &'a mut [f64; BLOCK],
    wide_b: &'a mut [f64; BLOCK],
    difference: &'a mut [f64; BLOCK],
    elements: usize,
    components: usize,
    /// The flat index of the first float.
    first: u64,
    partial: &'a mut DiffPartial,
}

impl Block<'_> {
    fn reduce(&mut self) {
        let (a, b) = (self.a, self.b);
        let domain = a.dtype.domain().max(b.dtype.domain());
        if self.components > 1 {
            self.widen();
            self.reduce_floats_singly();
        } else if domain == Domain::Integer {
            self.reduce_with_integers();
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
        let squares = if self.a.dtype.domain() == Domain::Narrow {
            let values = &mut self.narrow_a[..padded];
            self.level.run(DecodeNarrow {
                dtype: self.a.dtype,
                codes: self.a.bytes,
                out: &mut values[..count],
            });
            values[count..].fill(0.0);
            let squares = self.level.run(SquaresNarrow(values));
            harmless_squares(squares, values).then_some(squares)
        } else {
            let values = &mut self.wide_a[..padded];
            self.level.run(DecodeWide {
                dtype: self.a.dtype,
                codes: self.a.bytes,
                out: &mut values[..count],
            });
            values[count..].fill(0.0);
            let squares = self.level.run(SquaresWide(values));
            harmless_squares(squares, values).then_some(squares)
        };
        let Some(squares) = squares else {
            return false;
        };
        self.partial.finite += count as u64;
        self.partial.squares_a.merge(squares.into());
        self.partial.squares_b.merge(squares.into());
        self.partial.dot_ab.merge(squares.into());
        if let Some(extras) = &mut self.partial.extras {
            for _ in 0..count {
                extras.histogram.add(0.0);
            }
        }
        true
    }

    fn reduce_narrow(&mut self) -> bool {
        self.narrow();
        let padded = self.padded();
        let (a, b) = (&self.narrow_a[..padded], &self.narrow_b[..padded]);
        let sums = self.level.run(DiffNarrow { a, b });
        if !sums.harmless(a, b) {
            return false;
        }
        // Rounding to f32 is monotone, so the largest f64 difference is among those whose f32
        // rounding is the largest: only a block that reaches the record needs the exact look.
        let record = self.partial.max_abs.magnitude.to_f64();
        let may_exceed =
            sums.max_abs > 0.0 && (record.is_nan() || sums.max_abs >= f64::from(record as f32));
        let max_abs = if may_exceed {
            self.level.run(MaxAbsNarrow { a, b })
        } else {
            0.0
        };
        if self.options.wants_each_difference() || needs_dot(&sums) || exceeds(max_abs, record) {
            for (narrow, out) in [
                (&*self.narrow_a, &mut *self.wide_a),
                (&*self.narrow_b, &mut *self.wide_b),
            ] {
                self.level.run(Widen {
                    narrow: &narrow[..padded],
                    out: &mut out[..padded],
                });
            }
        }
        self.fold(&sums, max_abs);
        true
    }

    fn reduce_wide(&mut self) -> bool {
        self.widen();
        let padded = self.padded();
        let (a, b) = (&self.wide_a[..padded], &self.wide_b[..padded]);
        let sums = self.level.run(DiffWide { a, b });
        if !sums.harmless(a, b) {
            return false;
        }
        self.fold(&sums, sums.max_abs);
        true
    }

    /// Fold the sums of a harmless block. The wide values must be there where they are needed.
    fn fold(&mut self, sums: &DiffSums, max_abs: f64) {
        let padded = self.padded();
        let dot_ab = if needs_dot(sums) {
            self.level.run(Dot {
                a: &self.wide_a[..padded],
                b: &self.wide_b[..padded],
            })
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
        if self.a.dtype == self.b.dtype {
            let (distance, differing) = self.a.distance(self.level, self.b.bytes);
            self.partial.max_ulp = self.partial.max_ulp.max(self.steps(distance));
            self.partial.bits_changed += differing;
        }
        if self.options.wants_each_difference() {
            self.look_at_each_difference();
        } else {
            self.partial.out_of_tolerance += sums.changed;
        }
    }

    /// Booleans are one step apart, whatever byte stands for true.
    fn steps(&self, distance: u64) -> u64 {
        if self.a.dtype == DType::Bool {
            distance.min(1)
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
        match (a.is_float(), b.is_float()) {
            (false, false) => self.reduce_singly(
                |index| Value::Integer(integer_at(a.dtype, a.bytes, index)),
                |index| Value::Integer(integer_at(b.dtype, b.bytes, index)),
            ),
            (false, true) => self.reduce_singly(
                |index| Value::Integer(integer_at(a.dtype, a.bytes, index)),
                |index| Value::Float(wide_b[index]),
            ),
            _ => self.reduce_singly(
                |index| Value::Float(wide_a[index]),
                |index| Value::Integer(integer_at(b.dtype, b.bytes, index)),
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
                partial.nan_a += u64::from(a_value.is_nan());
                partial.nan_b += u64::from(b_value.is_nan());
                partial.inf_a += u64::from(a_value.is_infinite());
                partial.inf_b += u64::from(b_value.is_infinite());
                let same = a_value == b_value || a_value.is_nan() && b_value.is_nan();
                partial.nonfinite_mismatch += u64::from(!same);
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
        if self.a.dtype == self.b.dtype {
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
        self.partial.max_ulp = self.partial.max_ulp.max(self.steps(distance));
        self.partial.bits_changed += differing;
    }
}

/// Whether Σ a·b must be summed itself, ‖a‖² + Σ d·a being too coarse for it.
fn needs_dot(sums: &DiffSums) -> bool {
    let ratio = sums.squares_a / sums.squares_b;
    !(1e-3..=1e3).contains(&ratio) && sums.squares_a > 0.0 && sums.squares_b > 0.0
}

/// Whether a block's largest difference beats the record, which is NaN before the first.
fn exceeds(max_abs: f64, record: f64) -> bool {
    max_abs > 0.0 && (record.is_nan() || max_abs > record)
}
