//! The sums over one block, in fixed lanes.
//!
//! Narrow values (`f32`, at most 16 significant bits) are multiplied in `f32`, summed by eights and
//! folded into `f64`: so short a sum has few roundings, and none at all where its terms repeat and
//! have at most 22 bits, so that a constant tensor is exact. Wide values are summed in `f64`.
//!
//! A block is harmless when its sums say so, see [`DiffSums::harmless`]: NaN and Inf poison a sum
//! of magnitudes, overflow makes it infinite, and underflow can only matter where a sum of
//! squares is tiny. That saves a separate scan for all of these.

use crate::decode::PADDING;
use crate::level::Pass;
use crate::runs::{NarrowRun, WideRun};
use crate::simd::Simd;

/// Sums of one block of pairs: `d = b - a`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DiffSums {
    pub(crate) difference: f64,
    pub(crate) absolute: f64,
    pub(crate) squares_d: f64,
    pub(crate) squares_a: f64,
    pub(crate) squares_b: f64,
    /// Σ d·a
    pub(crate) dot_da: f64,
    /// The largest |d|, in the arithmetic of the pass.
    pub(crate) max_abs: f64,
    pub(crate) changed: u64,
    pub(crate) sign_flips: u64,
}

/// Bounds outside of which a sum of squares may have lost something to overflow or underflow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range(f64, f64);

impl Range {
    /// Products below 2^-149 vanish; with the sum above 2^-80 all 1024 of them together are below
    /// 2^-59 of it.
    pub(crate) const NARROW: Self = Self(8.271_806_125_530_277e-25, 1e37);

    /// The same for 2^-1074 and 2^-900.
    pub(crate) const WIDE: Self = Self(1.183_052_186_166_774_8e-271, 1e270);

    pub(crate) fn has(self, squares: f64) -> bool {
        squares >= self.0 && squares <= self.1
    }
}

impl DiffSums {
    /// Whether every value was finite and every sum is good. `all_zero` tells whether the whole of
    /// a side is zero; it is only asked where a sum of squares is zero, and may have vanished.
    pub(crate) fn harmless(&self, range: Range, all_zero: impl Fn(Side) -> bool) -> bool {
        (range.has(self.squares_a) || (self.squares_a == 0.0 && all_zero(Side::A)))
            && (range.has(self.squares_b) || (self.squares_b == 0.0 && all_zero(Side::B)))
            && (range.has(self.squares_d) || (self.squares_d == 0.0 && self.absolute == 0.0))
    }
}

/// One of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    A,
    B,
}

/// Eight accumulators in `f64`.
#[derive(Clone, Copy)]
pub(crate) struct Sum<S: Simd>([S::F64; 2]);

impl<S: Simd> Sum<S> {
    #[inline(always)]
    pub(crate) fn new(simd: S) -> Self {
        Self([simd.splat_f64(0.0); 2])
    }

    /// Add eight values.
    #[inline(always)]
    pub(crate) fn add(&mut self, simd: S, values: [S::F64; 2]) {
        self.0 = [
            simd.add_f64(self.0[0], values[0]),
            simd.add_f64(self.0[1], values[1]),
        ];
    }

    /// Add the eight values of a short sum.
    #[inline(always)]
    pub(crate) fn add_short(&mut self, simd: S, sum: ShortSum<S>) {
        self.add(simd, simd.widen(sum.0));
    }

    #[inline(always)]
    pub(crate) fn total(self, simd: S) -> f64 {
        let [a, b, c, d] = simd.array_f64(self.0[0]);
        let [e, f, g, h] = simd.array_f64(self.0[1]);
        total([a, b, c, d, e, f, g, h])
    }
}

/// A sum of eight terms a lane in `f32`, by twos: of equal terms it passes 2, 4, 6 and 8 of them,
/// which takes two bits more than one has.
#[derive(Clone, Copy)]
pub(crate) struct ShortSum<S: Simd>(S::F32);

impl<S: Simd> ShortSum<S> {
    #[inline(always)]
    pub(crate) fn new(simd: S) -> Self {
        Self(simd.splat_f32(0.0))
    }

    #[inline(always)]
    pub(crate) fn add(&mut self, simd: S, [x, y]: [S::F32; 2]) {
        self.0 = simd.add_f32(self.0, simd.add_f32(x, y));
    }

    /// The lanes' total, pairwise.
    #[inline(always)]
    pub(crate) fn total(self, simd: S) -> f32 {
        let [a, b, c, d, e, f, g, h] = simd.array_f32(self.0);
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }
}

/// Vector by vector, `operation` of two rows.
macro_rules! rows {
    ($simd:ident.$operation:ident($x:expr, $y:expr)) => {{
        let mut result = $x;
        for (x, y) in result.iter_mut().zip($y) {
            *x = $simd.$operation(*x, y);
        }
        result
    }};
}
pub(crate) use rows;

/// Sums over narrow pairs; both runs are of the same length. Counts are left to [`CompareCodes`]
/// or [`CountNarrow`].
pub(crate) struct DiffNarrow<R> {
    pub(crate) a: R,
    pub(crate) b: R,
}

impl<R: NarrowRun> Pass for DiffNarrow<R> {
    type Output = DiffSums;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> DiffSums {
        let Self { a, b } = self;
        let mut difference = Sum::new(simd);
        let mut absolute = Sum::new(simd);
        let mut squares_d = Sum::new(simd);
        let mut squares_a = Sum::new(simd);
        let mut squares_b = Sum::new(simd);
        let mut dot_da = Sum::new(simd);
        let mut max_abs = simd.splat_f32(0.0);
        for group in 0..a.groups().min(b.groups()) {
            let mut short_difference = ShortSum::new(simd);
            let mut short_absolute = ShortSum::new(simd);
            let mut short_squares_d = ShortSum::new(simd);
            let mut short_squares_a = ShortSum::new(simd);
            let mut short_squares_b = ShortSum::new(simd);
            let mut short_dot_da = ShortSum::new(simd);
            for quarter in 0..4 {
                let a = a.load(simd, group, quarter);
                let b = b.load(simd, group, quarter);
                let d = rows!(simd.sub_f32(b, a));
                short_squares_a.add(simd, rows!(simd.mul_f32(a, a)));
                short_squares_b.add(simd, rows!(simd.mul_f32(b, b)));
                short_dot_da.add(simd, rows!(simd.mul_f32(d, a)));
                short_squares_d.add(simd, rows!(simd.mul_f32(d, d)));
                short_difference.add(simd, d);
                let magnitude = d.map(|row| simd.abs_f32(row));
                short_absolute.add(simd, magnitude);
                max_abs = simd.max_f32(simd.max_f32(magnitude[0], magnitude[1]), max_abs);
            }
            difference.add_short(simd, short_difference);
            absolute.add_short(simd, short_absolute);
            squares_d.add_short(simd, short_squares_d);
            squares_a.add_short(simd, short_squares_a);
            squares_b.add_short(simd, short_squares_b);
            dot_da.add_short(simd, short_dot_da);
        }
        DiffSums {
            difference: difference.total(simd),
            absolute: absolute.total(simd),
            squares_d: squares_d.total(simd),
            squares_a: squares_a.total(simd),
            squares_b: squares_b.total(simd),
            dot_da: dot_da.total(simd),
            max_abs: f64::from(simd.array_f32(max_abs).into_iter().fold(0.0, f32::max)),
            changed: 0,
            sign_flips: 0,
        }
    }
}

/// How many narrow pairs differ in value, and how many in sign.
pub(crate) struct CountNarrow<R> {
    pub(crate) a: R,
    pub(crate) b: R,
}

/// Products of scaled factors cannot underflow to zero, and overflow keeps the sign.
const SIGN_SCALE_F32: f32 = (1u128 << 100) as f32;

impl<R: NarrowRun> Pass for CountNarrow<R> {
    type Output = (u64, u64);

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> (u64, u64) {
        let Self { a, b } = self;
        let groups = a.groups().min(b.groups());
        let zero = simd.splat_f32(0.0);
        let scale = simd.splat_f32(SIGN_SCALE_F32);
        let mut unchanged = simd.no_counts32();
        let mut sign_flips = simd.no_counts32();
        for group in 0..groups {
            for quarter in 0..4 {
                let a = a.load(simd, group, quarter);
                let b = b.load(simd, group, quarter);
                for (a, b) in a.into_iter().zip(b) {
                    unchanged = simd.count_equal_f32(unchanged, a, b);
                    let product = simd.mul_f32(simd.mul_f32(a, scale), simd.mul_f32(b, scale));
                    sign_flips = simd.count_less_f32(sign_flips, product, zero);
                }
            }
        }
        let changed = (groups * PADDING) as u64 - simd.sum_counts32(unchanged);
        (changed, simd.sum_counts32(sign_flips))
    }
}

/// What comparing the codes of a block tells; all of its values are finite.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CodeComparison {
    /// The largest distance in representable steps.
    pub(crate) max_ulp: u64,
    pub(crate) bits_changed: u64,
    pub(crate) changed: u64,
    pub(crate) sign_flips: u64,
}

/// Compare sign-magnitude codes of 8, 16 or 32 bits; both sides are a multiple of 32 bytes long.
pub(crate) struct CompareCodes<'a> {
    /// Bytes per code: 1, 2 or 4.
    pub(crate) bytes: usize,
    pub(crate) a: &'a [u8],
    pub(crate) b: &'a [u8],
}

impl Pass for CompareCodes<'_> {
    type Output = CodeComparison;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> CodeComparison {
        let pairs = self.a.as_chunks().0.iter().zip(self.b.as_chunks().0);
        let mut counts = simd.no_codes();
        match self.bytes {
            1 => pairs.for_each(|(a, b)| simd.compare_codes_8(&mut counts, a, b)),
            2 => pairs.for_each(|(a, b)| simd.compare_codes_16(&mut counts, a, b)),
            _ => pairs.for_each(|(a, b)| simd.compare_codes_32(&mut counts, a, b)),
        }
        let reduce = |lanes| match self.bytes {
            1 => simd.reduce_8(lanes),
            2 => simd.reduce_16(lanes),
            _ => simd.reduce_32(lanes),
        };
        let codes = (self.a.len().min(self.b.len()) / self.bytes) as u64;
        CodeComparison {
            max_ulp: reduce(counts.farthest).0,
            bits_changed: codes - reduce(counts.same_code).1,
            changed: codes - reduce(counts.same_value).1,
            sign_flips: reduce(counts.flipped).1,
        }
    }
}

/// Sums over wide pairs; both runs are of the same length. Counts are left to [`CompareCodes`] or
/// [`CountWide`].
pub(crate) struct DiffWide<R> {
    pub(crate) a: R,
    pub(crate) b: R,
}

impl<R: WideRun> Pass for DiffWide<R> {
    type Output = DiffSums;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> DiffSums {
        let Self { a, b } = self;
        let rows = a.rows().min(b.rows());
        let mut difference = Sum::new(simd);
        let mut absolute = Sum::new(simd);
        let mut squares_d = Sum::new(simd);
        let mut squares_a = Sum::new(simd);
        let mut squares_b = Sum::new(simd);
        let mut dot_da = Sum::new(simd);
        let mut max_abs = simd.splat_f64(0.0);
        for row in 0..rows {
            let (a, b) = (a.load(simd, row), b.load(simd, row));
            let d = rows!(simd.sub_f64(b, a));
            squares_a.add(simd, rows!(simd.mul_f64(a, a)));
            squares_b.add(simd, rows!(simd.mul_f64(b, b)));
            dot_da.add(simd, rows!(simd.mul_f64(d, a)));
            squares_d.add(simd, rows!(simd.mul_f64(d, d)));
            difference.add(simd, d);
            let magnitude = d.map(|half| simd.abs_f64(half));
            absolute.add(simd, magnitude);
            max_abs = simd.max_f64(simd.max_f64(magnitude[0], magnitude[1]), max_abs);
        }
        DiffSums {
            difference: difference.total(simd),
            absolute: absolute.total(simd),
            squares_d: squares_d.total(simd),
            squares_a: squares_a.total(simd),
            squares_b: squares_b.total(simd),
            dot_da: dot_da.total(simd),
            max_abs: simd.array_f64(max_abs).into_iter().fold(0.0, f64::max),
            changed: 0,
            sign_flips: 0,
        }
    }
}

/// How many wide pairs differ in value, and how many in sign.
pub(crate) struct CountWide<R> {
    pub(crate) a: R,
    pub(crate) b: R,
}

/// Like [`SIGN_SCALE_F32`]: 2^540.
const SIGN_SCALE_F64: f64 = f64::from_bits((1023 + 540) << 52);

impl<R: WideRun> Pass for CountWide<R> {
    type Output = (u64, u64);

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> (u64, u64) {
        let Self { a, b } = self;
        let rows = a.rows().min(b.rows());
        let zero = simd.splat_f64(0.0);
        let scale = simd.splat_f64(SIGN_SCALE_F64);
        let mut unchanged = simd.no_counts64();
        let mut sign_flips = simd.no_counts64();
        for row in 0..rows {
            let (a, b) = (a.load(simd, row), b.load(simd, row));
            for (a, b) in a.into_iter().zip(b) {
                unchanged = simd.count_equal_f64(unchanged, a, b);
                let product = simd.mul_f64(simd.mul_f64(a, scale), simd.mul_f64(b, scale));
                sign_flips = simd.count_less_f64(sign_flips, product, zero);
            }
        }
        let changed = (rows * 8) as u64 - simd.sum_counts64(unchanged);
        (changed, simd.sum_counts64(sign_flips))
    }
}

/// The largest |b − a| of wide pairs.
pub(crate) struct MaxAbs<R> {
    pub(crate) a: R,
    pub(crate) b: R,
}

impl<R: WideRun> Pass for MaxAbs<R> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        let Self { a, b } = self;
        let mut max_abs = simd.splat_f64(0.0);
        for row in 0..a.rows().min(b.rows()) {
            let (a, b) = (a.load(simd, row), b.load(simd, row));
            for d in rows!(simd.sub_f64(b, a)) {
                max_abs = simd.max_f64(simd.abs_f64(d), max_abs);
            }
        }
        simd.array_f64(max_abs).into_iter().fold(0.0, f64::max)
    }
}

/// Σ a·b of wide pairs.
pub(crate) struct Dot<R> {
    pub(crate) a: R,
    pub(crate) b: R,
}

impl<R: WideRun> Pass for Dot<R> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        let Self { a, b } = self;
        let mut sum = Sum::new(simd);
        for row in 0..a.rows().min(b.rows()) {
            let (a, b) = (a.load(simd, row), b.load(simd, row));
            sum.add(simd, rows!(simd.mul_f64(a, b)));
        }
        sum.total(simd)
    }
}

/// Σ x² of narrow values.
pub(crate) struct SquaresNarrow<R>(pub(crate) R);

impl<R: NarrowRun> Pass for SquaresNarrow<R> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        let mut sum = Sum::new(simd);
        for group in 0..self.0.groups() {
            let mut short = ShortSum::new(simd);
            for quarter in 0..4 {
                let x = self.0.load(simd, group, quarter);
                short.add(simd, rows!(simd.mul_f32(x, x)));
            }
            sum.add_short(simd, short);
        }
        sum.total(simd)
    }
}

/// Σ x² of wide values.
pub(crate) struct SquaresWide<R>(pub(crate) R);

impl<R: WideRun> Pass for SquaresWide<R> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        let mut sum = Sum::new(simd);
        for row in 0..self.0.rows() {
            let x = self.0.load(simd, row);
            sum.add(simd, rows!(simd.mul_f64(x, x)));
        }
        sum.total(simd)
    }
}

/// What codes of one width can be compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CodeOrder {
    /// The code itself: unsigned integers, booleans, E8M0.
    Unsigned,
    /// Two's complement.
    Signed,
    /// Sign and magnitude in `width` bits: floats.
    SignMagnitude,
}

/// The largest distance in representable steps, and how many codes differ.
pub(crate) struct CodeDistance<'a> {
    /// Bytes per code: 1, 2, 4 or 8.
    pub(crate) bytes: usize,
    /// Bits of a code in use, from the least significant.
    pub(crate) width: u32,
    pub(crate) order: CodeOrder,
    pub(crate) a: &'a [u8],
    pub(crate) b: &'a [u8],
}

impl Pass for CodeDistance<'_> {
    type Output = (u64, u64);

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> (u64, u64) {
        macro_rules! distance {
            ($code:ty) => {{
                const BYTES: usize = size_of::<$code>();
                let unused = <$code>::BITS - self.width;
                let a = self.a.as_chunks::<BYTES>().0;
                let b = self.b.as_chunks::<BYTES>().0;
                match self.order {
                    CodeOrder::Unsigned => code_distance!($code, a, b, |code: $code| code),
                    CodeOrder::Signed => {
                        code_distance!($code, a, b, |code: $code| code
                            ^ <$code>::MAX.wrapping_shr(1).wrapping_add(1))
                    }
                    CodeOrder::SignMagnitude if unused == 0 => {
                        code_distance!($code, a, b, |code: $code| {
                            const SIGN: $code = 1 << (<$code>::BITS - 1);
                            let magnitude = code & !SIGN;
                            if code & SIGN == 0 {
                                SIGN + magnitude
                            } else {
                                SIGN - magnitude
                            }
                        })
                    }
                    CodeOrder::SignMagnitude => {
                        let sign: $code = 1 << (self.width - 1);
                        code_distance!($code, a, b, |code: $code| {
                            let magnitude = code & (sign - 1);
                            if code & sign == 0 {
                                sign + magnitude
                            } else {
                                sign - magnitude
                            }
                        })
                    }
                }
            }};
        }
        macro_rules! code_distance {
            ($code:ty, $a:expr, $b:expr, $key:expr) => {{
                let key = $key;
                let mut largest: $code = 0;
                let mut differing = 0u64;
                // A counter as wide as the code overflows after 255 of the smallest.
                for (a, b) in $a.chunks(128).zip($b.chunks(128)) {
                    let mut count: $code = 0;
                    for (a, b) in a.iter().zip(b) {
                        let a = <$code>::from_le_bytes(*a);
                        let b = <$code>::from_le_bytes(*b);
                        count += <$code>::from(u8::from(a != b));
                        largest = largest.max(key(a).abs_diff(key(b)));
                    }
                    differing += u64::from(count);
                }
                (u64::from(largest), differing)
            }};
        }
        match self.bytes {
            1 => distance!(u8),
            2 => distance!(u16),
            4 => distance!(u32),
            _ => distance!(u64),
        }
    }
}

/// The lanes' total, pairwise.
#[inline(always)]
pub(crate) fn total(lanes: [f64; 8]) -> f64 {
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}
