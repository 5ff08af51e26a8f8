//! The sums over one block, in fixed lanes.
//!
//! Narrow values (`f32`, at most 16 significant bits) are multiplied in `f32`, summed in trees of
//! eight and folded into `f64`: a tree that short loses at most three roundings, and none at all
//! where the eight values repeat, so a constant tensor is exact. Wide values are summed in `f64`.
//!
//! A block is harmless when its sums say so, see [`DiffSums::harmless`]: NaN and Inf poison a sum
//! of magnitudes, overflow makes it infinite, and underflow can only matter where a sum of
//! squares is tiny. That saves a separate scan for all of these.

use crate::decode::PADDING;
use crate::level::Pass;

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

/// Outside of these bounds a sum of squares may have lost something to overflow or underflow.
///
/// Narrow: products below 2^-149 vanish; with the sum above 2^-80 all 1024 of them together are
/// below 2^-59 of it. Wide: the same for 2^-1074 and 2^-900.
const NARROW_RANGE: (f64, f64) = (8.271_806_125_530_277e-25, 1e37);
const WIDE_RANGE: (f64, f64) = (1.183_052_186_166_774_8e-271, 1e270);

impl DiffSums {
    /// Whether every value was finite and every sum is good; `all_zero` tells whether a whole
    /// side is zero, and is only asked when a sum of squares is suspiciously small.
    pub(crate) fn harmless<T: Zero>(&self, a: &[T], b: &[T]) -> bool {
        let (lowest, highest) = T::RANGE;
        let good = |sum: f64| sum >= lowest && sum <= highest;
        (good(self.squares_a) || (self.squares_a == 0.0 && all_zero(a)))
            && (good(self.squares_b) || (self.squares_b == 0.0 && all_zero(b)))
            && (good(self.squares_d) || (self.squares_d == 0.0 && self.absolute == 0.0))
    }
}

/// What the passes need to know of `f32` and `f64`.
pub(crate) trait Zero: Copy {
    const RANGE: (f64, f64);

    fn is_zero(self) -> bool;
}

impl Zero for f32 {
    const RANGE: (f64, f64) = NARROW_RANGE;

    #[inline(always)]
    fn is_zero(self) -> bool {
        self == 0.0
    }
}

impl Zero for f64 {
    const RANGE: (f64, f64) = WIDE_RANGE;

    #[inline(always)]
    fn is_zero(self) -> bool {
        self == 0.0
    }
}

fn all_zero<T: Zero>(values: &[T]) -> bool {
    values.iter().all(|value| value.is_zero())
}

/// Whether a sum of squares of `T` has lost nothing to overflow or underflow.
pub(crate) fn harmless_squares<T: Zero>(squares: f64, values: &[T]) -> bool {
    let (lowest, highest) = T::RANGE;
    (squares >= lowest && squares <= highest) || (squares == 0.0 && all_zero(values))
}

/// Lanes of `f64` accumulators.
const WIDE_LANES: usize = 8;

/// Sums over narrow pairs; lengths are equal and multiples of [`PADDING`].
pub(crate) struct DiffNarrow<'a> {
    pub(crate) a: &'a [f32],
    pub(crate) b: &'a [f32],
}

impl Pass for DiffNarrow<'_> {
    type Output = DiffSums;

    #[inline(always)]
    fn run(self) -> DiffSums {
        let mut sum_difference = [0.0f64; 8];
        let mut sum_absolute = [0.0f64; 8];
        let mut sum_squares_d = [0.0f64; 8];
        let mut sum_squares_a = [0.0f64; 8];
        let mut sum_squares_b = [0.0f64; 8];
        let mut sum_dot_da = [0.0f64; 8];
        let mut max_abs = [0.0f32; 8];
        let mut changed = [0u32; 8];
        let mut sign_flips = [0u32; 8];
        let groups_a = self.a.as_chunks::<PADDING>().0;
        let groups_b = self.b.as_chunks::<PADDING>().0;
        for (a, b) in groups_a.iter().zip(groups_b) {
            let d: [f32; PADDING] = std::array::from_fn(|index| b[index] - a[index]);
            fold(&mut sum_difference, tree(|index| d[index]));
            fold(&mut sum_absolute, tree(|index| d[index].abs()));
            fold(&mut sum_squares_d, tree(|index| d[index] * d[index]));
            fold(&mut sum_dot_da, tree(|index| d[index] * a[index]));
            for row in d.as_chunks::<8>().0 {
                for lane in 0..8 {
                    let magnitude = row[lane].abs();
                    max_abs[lane] = if magnitude > max_abs[lane] {
                        magnitude
                    } else {
                        max_abs[lane]
                    };
                    changed[lane] += u32::from(row[lane] != 0.0);
                }
            }
            fold(&mut sum_squares_a, tree(|index| a[index] * a[index]));
            fold(&mut sum_squares_b, tree(|index| b[index] * b[index]));
            let rows = a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0);
            for (a, b) in rows {
                for lane in 0..8 {
                    sign_flips[lane] += u32::from(opposite_f32(a[lane], b[lane]));
                }
            }
        }
        DiffSums {
            difference: total(sum_difference),
            absolute: total(sum_absolute),
            squares_d: total(sum_squares_d),
            squares_a: total(sum_squares_a),
            squares_b: total(sum_squares_b),
            dot_da: total(sum_dot_da),
            max_abs: f64::from(max_abs.into_iter().fold(0.0, f32::max)),
            changed: changed.into_iter().map(u64::from).sum(),
            sign_flips: sign_flips.into_iter().map(u64::from).sum(),
        }
    }
}

/// Sums over wide pairs; lengths are equal and multiples of [`PADDING`].
pub(crate) struct DiffWide<'a> {
    pub(crate) a: &'a [f64],
    pub(crate) b: &'a [f64],
}

impl Pass for DiffWide<'_> {
    type Output = DiffSums;

    #[inline(always)]
    fn run(self) -> DiffSums {
        const LANES: usize = WIDE_LANES;
        let mut sum_difference = [0.0f64; LANES];
        let mut sum_absolute = [0.0f64; LANES];
        let mut sum_squares_d = [0.0f64; LANES];
        let mut max_abs = [0.0f64; LANES];
        let mut changed = [0u64; LANES];
        let rows_a = self.a.as_chunks::<LANES>().0;
        let rows_b = self.b.as_chunks::<LANES>().0;
        for (a, b) in rows_a.iter().zip(rows_b) {
            for lane in 0..LANES {
                let d = b[lane] - a[lane];
                let magnitude = d.abs();
                sum_difference[lane] += d;
                sum_absolute[lane] += magnitude;
                sum_squares_d[lane] += d * d;
                max_abs[lane] = if magnitude > max_abs[lane] {
                    magnitude
                } else {
                    max_abs[lane]
                };
                changed[lane] += u64::from(d != 0.0);
            }
        }
        let mut sum_squares_a = [0.0f64; LANES];
        let mut sum_squares_b = [0.0f64; LANES];
        let mut sum_dot_da = [0.0f64; LANES];
        let mut sign_flips = [0u64; LANES];
        for (a, b) in rows_a.iter().zip(rows_b) {
            for lane in 0..LANES {
                let (a, b) = (a[lane], b[lane]);
                sum_squares_a[lane] += a * a;
                sum_squares_b[lane] += b * b;
                sum_dot_da[lane] += (b - a) * a;
                sign_flips[lane] += u64::from(opposite_f64(a, b));
            }
        }
        DiffSums {
            difference: total(sum_difference),
            absolute: total(sum_absolute),
            squares_d: total(sum_squares_d),
            squares_a: total(sum_squares_a),
            squares_b: total(sum_squares_b),
            dot_da: total(sum_dot_da),
            max_abs: max_abs.into_iter().fold(0.0, f64::max),
            changed: changed.into_iter().sum(),
            sign_flips: sign_flips.into_iter().sum(),
        }
    }
}

/// The largest |b − a| of narrow pairs, in `f64`, where it is exact (or correctly rounded).
pub(crate) struct MaxAbsNarrow<'a> {
    pub(crate) a: &'a [f32],
    pub(crate) b: &'a [f32],
}

impl Pass for MaxAbsNarrow<'_> {
    type Output = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        let mut max_abs = [0.0f64; WIDE_LANES];
        let rows_a = self.a.as_chunks::<WIDE_LANES>().0;
        let rows_b = self.b.as_chunks::<WIDE_LANES>().0;
        for (a, b) in rows_a.iter().zip(rows_b) {
            for lane in 0..WIDE_LANES {
                let magnitude = (f64::from(b[lane]) - f64::from(a[lane])).abs();
                max_abs[lane] = if magnitude > max_abs[lane] {
                    magnitude
                } else {
                    max_abs[lane]
                };
            }
        }
        max_abs.into_iter().fold(0.0, f64::max)
    }
}

/// Σ a·b of wide pairs.
pub(crate) struct Dot<'a> {
    pub(crate) a: &'a [f64],
    pub(crate) b: &'a [f64],
}

impl Pass for Dot<'_> {
    type Output = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        let mut sum = [0.0f64; WIDE_LANES];
        let rows_a = self.a.as_chunks::<WIDE_LANES>().0;
        let rows_b = self.b.as_chunks::<WIDE_LANES>().0;
        for (a, b) in rows_a.iter().zip(rows_b) {
            for lane in 0..WIDE_LANES {
                sum[lane] += a[lane] * b[lane];
            }
        }
        total(sum)
    }
}

/// Σ x² of narrow values.
pub(crate) struct SquaresNarrow<'a>(pub(crate) &'a [f32]);

impl Pass for SquaresNarrow<'_> {
    type Output = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        let mut sum = [0.0f64; 8];
        for x in self.0.as_chunks::<PADDING>().0 {
            fold(&mut sum, tree(|index| x[index] * x[index]));
        }
        total(sum)
    }
}

/// Σ x² of wide values.
pub(crate) struct SquaresWide<'a>(pub(crate) &'a [f64]);

impl Pass for SquaresWide<'_> {
    type Output = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        let mut sum = [0.0f64; WIDE_LANES];
        for row in self.0.as_chunks::<WIDE_LANES>().0 {
            for lane in 0..WIDE_LANES {
                sum[lane] += row[lane] * row[lane];
            }
        }
        total(sum)
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
    fn run(self) -> (u64, u64) {
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
                    differing += count as u64;
                }
                (largest as u64, differing)
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

/// One `f32` per lane: the sum of eight rows, pairwise.
#[inline(always)]
fn tree(value: impl Fn(usize) -> f32) -> [f32; 8] {
    std::array::from_fn(|lane| {
        let pair = |row: usize| value(row * 8 + lane) + value((row + 1) * 8 + lane);
        (pair(0) + pair(2)) + (pair(4) + pair(6))
    })
}

#[inline(always)]
fn fold(sum: &mut [f64; 8], values: [f32; 8]) {
    for lane in 0..8 {
        sum[lane] += f64::from(values[lane]);
    }
}

/// The lanes' total, pairwise.
#[inline(always)]
pub(crate) fn total(lanes: [f64; 8]) -> f64 {
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// Whether the signs are opposite and neither is zero; the product could underflow.
#[inline(always)]
fn opposite_f32(a: f32, b: f32) -> bool {
    let smaller = if a.abs() < b.abs() { a.abs() } else { b.abs() };
    ((a.to_bits() ^ b.to_bits()) as i32) < 0 && smaller > 0.0
}

/// Like [`opposite_f32`].
#[inline(always)]
fn opposite_f64(a: f64, b: f64) -> bool {
    let smaller = if a.abs() < b.abs() { a.abs() } else { b.abs() };
    ((a.to_bits() ^ b.to_bits()) as i64) < 0 && smaller > 0.0
}
