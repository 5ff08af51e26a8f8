//! The sums over one block, in fixed lanes.
//!
//! Narrow values (`f32`, at most 11 significant bits) are multiplied in `f32`, summed by twos up to
//! 32 terms a lane, and folded into `f64`: a product has at most 22 bits, sums of equal terms are
//! exact, and so few roundings average out. Wide values are summed in `f64`.
//!
//! A block is harmless when its sums say so, see [`DiffSums::harmless`]: NaN and Inf poison a sum
//! of magnitudes, overflow makes it infinite, and underflow can only matter where a sum of
//! squares is tiny. That saves a separate scan for all of these.

mod integers;

pub(crate) use integers::{
    CompareIntegers, DiffIntegers, ExactInF64, SmallInteger, SquaresIntegers, position_of,
};

use crate::decode::PADDING;
use crate::level::Pass;
use crate::runs::{APART, NarrowRun, SingleRun, WideRun};
use crate::simd::{OnePlace, Short, Simd};

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
    /// Σ a·b
    pub(crate) dot_ab: f64,
    /// The largest |d|, in the arithmetic of the pass.
    pub(crate) max_abs: f64,
    /// Whether the terms of sums in `f32` repeat.
    pub(crate) repeating: bool,
    pub(crate) changed: u64,
    pub(crate) sign_flips: u64,
}

/// Bounds outside of which a sum of squares may have lost something to overflow or underflow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range(f64, f64);

impl Range {
    /// Products below 2^-149 vanish; with the sum above 2^-80 all 2048 of them together are below
    /// 2^-58 of it.
    pub(crate) const NARROW: Self = Self(8.271_806_125_530_277e-25, 1e37);

    /// The same for 2^-1074 and 2^-900.
    pub(crate) const WIDE: Self = Self(1.183_052_186_166_774_8e-271, 1e270);

    pub(crate) fn has(self, squares: f64) -> bool {
        squares >= self.0 && squares <= self.1
    }
}

impl DiffSums {
    /// The same of values `unit` times as large, which is a power of two.
    pub(crate) fn in_units(self, unit: f64) -> Self {
        let square = unit * unit;
        Self {
            difference: self.difference * unit,
            absolute: self.absolute * unit,
            squares_d: self.squares_d * square,
            squares_a: self.squares_a * square,
            squares_b: self.squares_b * square,
            dot_da: self.dot_da * square,
            dot_ab: self.dot_ab * square,
            max_abs: self.max_abs * unit,
            ..self
        }
    }

    /// Σ a·b and Σ b² of sides that are close, from the other sums; false where they are not.
    pub(crate) fn derive_products(&mut self) -> bool {
        /// Up to this share of ‖a‖², ‖d‖² is so small that ⟨a,b⟩ = ‖a‖² + ⟨d,a⟩ and ‖b‖² = ‖a‖² +
        /// 2⟨d,a⟩ + ‖d‖² keep more than half of what is added.
        const CLOSE: f64 = 1.0 / 16.0;
        let close = self.squares_d <= CLOSE * self.squares_a;
        if close {
            self.dot_ab = self.squares_a + self.dot_da;
            self.squares_b = self.dot_ab + self.dot_da + self.squares_d;
        }
        close
    }

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

    #[inline(always)]
    pub(crate) fn total(self, simd: S) -> f64 {
        let [a, b, c, d] = simd.array_f64(self.0[0]);
        let [e, f, g, h] = simd.array_f64(self.0[1]);
        total([a, b, c, d, e, f, g, h])
    }
}

/// Terms of `N` sums over narrow values.
pub(crate) trait ShortTerms<const N: usize> {
    /// The terms of sixteen values of each place, of which each lane has two, already added. A pass
    /// that wants a maximum keeps it in `largest`.
    fn of_quarter<V: Short>(
        &self,
        short: V,
        half: usize,
        quarter: usize,
        largest: &mut V::Floats,
    ) -> [V::Floats; N];
}

/// Halves whose sums are folded at once: those of two places.
const HALVES: usize = 2 * APART;

/// Sums of the terms of that many times 32 values: in `f32` up to 32 terms a lane, then in `f64`.
///
/// Terms are added by twos and fours, and of these four times two, in which order sums of equal
/// terms are exact but for one of 12, which takes two bits more than a term has. The loops stay
/// loops: unrolled, LLVM sums all the quarters' first term first, and spills the rest. The two times
/// four are summed one after the other or side by side, as registers go.
///
/// Data that repeat round the same way every time, and errors that would average out add up. Such
/// data show in the last sum: short sums that follow each other are the same.
#[inline(always)]
pub(crate) fn sum_short<S: Simd, T: ShortTerms<N>, const N: usize>(
    simd: S,
    halves: usize,
    terms: &T,
) -> ShortSums<N> {
    let mut sums = [Sum::new(simd); N];
    let mut last = simd.splat_f32(f32::NAN);
    let mut repeating = false;
    let mut largest = simd.splat_f32(0.0);
    let mut largest_of_places = simd.short().splat(0.0);
    let mut start = 0;
    while start < halves {
        let short = if S::Short::PLACES == 2 && start + HALVES <= halves {
            let places = sum_places(
                simd.short(),
                terms,
                start..start + APART,
                &mut largest_of_places,
            );
            let mut short = [simd.splat_f32(0.0); N];
            for index in 0..N {
                let [first, second] = simd.short().places(places[index]);
                short[index] = simd.add_f32(first, second);
            }
            short
        } else {
            let mut short = [simd.splat_f32(0.0); N];
            for start in [start, start + APART] {
                let range = start.min(halves)..halves.min(start + APART);
                let place = sum_places(OnePlace(simd), terms, range, &mut largest);
                short = rows!(simd.add_f32(short, place));
            }
            short
        };
        for index in 0..N {
            sums[index].add(simd, simd.widen(short[index]));
        }
        repeating |= simd.all_equal_f32(short[N - 1], last);
        last = short[N - 1];
        start += HALVES;
    }
    let mut totals = [0.0; N];
    for index in 0..N {
        totals[index] = sums[index].total(simd);
    }
    let [first, second] = simd.short().places(largest_of_places);
    let mut largest_of_all = 0.0;
    for lanes in [largest, first, second] {
        for lane in simd.array_f32(lanes) {
            largest_of_all = lane.max(largest_of_all);
        }
    }
    ShortSums {
        totals,
        repeating,
        largest: largest_of_all,
    }
}

/// The terms of these halves, and of those [`APART`] where there are two places.
#[inline(always)]
fn sum_places<V: Short, T: ShortTerms<N>, const N: usize>(
    short: V,
    terms: &T,
    halves: std::ops::Range<usize>,
    largest: &mut V::Floats,
) -> [V::Floats; N] {
    let mut sums = [short.splat(0.0); N];
    for half in halves {
        let first = terms.of_quarter(short, half, 0, largest);
        let second = terms.of_quarter(short, half, 1, largest);
        sums = rows!(short.add(sums, rows!(short.add(first, second))));
    }
    sums
}

/// What [`sum_short`] finds.
pub(crate) struct ShortSums<const N: usize> {
    pub(crate) totals: [f64; N],
    /// Whether the last of the terms repeat.
    pub(crate) repeating: bool,
    pub(crate) largest: f32,
}

#[inline(always)]
pub(crate) fn pair<V: Short>(short: V, [x, y]: [V::Floats; 2]) -> V::Floats {
    short.add(x, y)
}

/// Sums over narrow pairs; both runs are of the same length. Counts are left to [`CompareCodes`]
/// or [`CountNarrow`].
pub(crate) struct DiffNarrow<A, B> {
    pub(crate) a: A,
    pub(crate) b: B,
}

impl<A: NarrowRun, B: NarrowRun> Pass for DiffNarrow<A, B> {
    type Output = DiffSums;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> DiffSums {
        let Self { a, b } = self;
        let halves = a.halves().min(b.halves());
        let sums = sum_short(simd, halves, &DiffTerms { a, b });
        let [difference, absolute, squares_d, dot_da, squares_a] = sums.totals;
        DiffSums {
            difference,
            absolute,
            squares_d,
            squares_a,
            // These are derived, or summed by another pass.
            squares_b: f64::NAN,
            dot_ab: f64::NAN,
            dot_da,
            max_abs: f64::from(sums.largest),
            repeating: sums.repeating,
            changed: 0,
            sign_flips: 0,
        }
    }
}

/// d, |d|, d², d·a and a² of narrow pairs; the largest |d| on the way.
struct DiffTerms<A, B> {
    a: A,
    b: B,
}

impl<A: NarrowRun, B: NarrowRun> ShortTerms<5> for DiffTerms<A, B> {
    #[inline(always)]
    fn of_quarter<V: Short>(
        &self,
        short: V,
        half: usize,
        quarter: usize,
        largest: &mut V::Floats,
    ) -> [V::Floats; 5] {
        let a = self.a.load_short(short, half, quarter);
        let b = self.b.load_short(short, half, quarter);
        let d = rows!(short.sub(b, a));
        let m = [short.abs(d[0]), short.abs(d[1])];
        *largest = short.max(short.max(m[0], m[1]), *largest);
        [
            pair(short, d),
            pair(short, m),
            pair(short, rows!(short.mul(d, d))),
            pair(short, rows!(short.mul(d, a))),
            // The last: these tell whether the data repeat, as differences may all be zero.
            pair(short, rows!(short.mul(a, a))),
        ]
    }
}

/// How many narrow pairs differ in value, and how many in sign.
pub(crate) struct CountNarrow<A, B> {
    pub(crate) a: A,
    pub(crate) b: B,
}

/// Products of scaled factors cannot underflow to zero, and overflow keeps the sign.
const SIGN_SCALE_F32: f32 = (1u128 << 100) as f32;

impl<A: NarrowRun, B: NarrowRun> Pass for CountNarrow<A, B> {
    type Output = (u64, u64);

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> (u64, u64) {
        let Self { a, b } = self;
        let halves = a.halves().min(b.halves());
        let zero = simd.splat_f32(0.0);
        let scale = simd.splat_f32(SIGN_SCALE_F32);
        let mut unchanged = simd.no_counts32();
        let mut sign_flips = simd.no_counts32();
        for half in 0..halves {
            for quarter in 0..2 {
                let a = a.load(simd, half, quarter);
                let b = b.load(simd, half, quarter);
                for (a, b) in a.into_iter().zip(b) {
                    unchanged = simd.count_equal_f32(unchanged, a, b);
                    let product = simd.mul_f32(simd.mul_f32(a, scale), simd.mul_f32(b, scale));
                    sign_flips = simd.count_less_f32(sign_flips, product, zero);
                }
            }
        }
        let changed = (halves * PADDING / 2) as u64 - simd.sum_counts32(unchanged);
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

/// Compare sign-magnitude codes of 8 to 64 bits; both sides are a multiple of 32 bytes long.
pub(crate) struct CompareCodes<'a> {
    /// Bytes per code: 1, 2, 4 or 8.
    pub(crate) bytes: usize,
    pub(crate) a: &'a [u8],
    pub(crate) b: &'a [u8],
}

impl Pass for CompareCodes<'_> {
    type Output = CodeComparison;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> CodeComparison {
        let (rows_a, rows_b) = (self.a.as_chunks().0, self.b.as_chunks().0);
        let rows = rows_a.len().min(rows_b.len());
        let codes = (rows * 32 / self.bytes) as u64;
        let mut counts = simd.no_codes();
        // Spelled out, as closures are not inlined into code for other instructions.
        macro_rules! compare {
            ($compare:ident, $reduce:ident) => {{
                simd.$compare(&mut counts, &rows_a[..rows], &rows_b[..rows]);
                CodeComparison {
                    max_ulp: simd.$reduce(counts.farthest).0,
                    bits_changed: codes - simd.$reduce(counts.same_code).1,
                    changed: codes - simd.$reduce(counts.same_value).1,
                    sign_flips: simd.$reduce(counts.flipped).1,
                }
            }};
        }
        match self.bytes {
            1 => compare!(compare_rows_8, reduce_8),
            2 => compare!(compare_rows_16, reduce_16),
            4 => compare!(compare_rows_32, reduce_32),
            _ => compare!(compare_rows_64, reduce_64),
        }
    }
}

/// Sums over wide pairs; both runs are of the same length. Counts are left to [`CompareCodes`] or
/// [`CountWide`].
pub(crate) struct DiffWide<A, B> {
    pub(crate) a: A,
    pub(crate) b: B,
}

impl<A: WideRun, B: WideRun> Pass for DiffWide<A, B> {
    type Output = DiffSums;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> DiffSums {
        let Self { a, b } = self;
        let zero = simd.splat_f64(0.0);
        let (mut difference, mut absolute) = (zero, zero);
        let (mut squares_d, mut squares_a, mut dot_da) = (zero, zero, zero);
        let mut max_abs = zero;
        for row in 0..a.rows().min(b.rows()) {
            let (a, b) = (a.load(simd, row), b.load(simd, row));
            let d = rows!(simd.sub_f64(b, a));
            let m = [simd.abs_f64(d[0]), simd.abs_f64(d[1])];
            max_abs = simd.max_f64(simd.max_f64(m[0], m[1]), max_abs);
            add_two(simd, &mut difference, d);
            add_two(simd, &mut absolute, m);
            add_two(simd, &mut squares_d, rows!(simd.mul_f64(d, d)));
            add_two(simd, &mut squares_a, rows!(simd.mul_f64(a, a)));
            add_two(simd, &mut dot_da, rows!(simd.mul_f64(d, a)));
        }
        DiffSums {
            difference: sum_lanes(simd, difference),
            absolute: sum_lanes(simd, absolute),
            squares_d: sum_lanes(simd, squares_d),
            squares_a: sum_lanes(simd, squares_a),
            // These are derived, or summed by another pass.
            squares_b: f64::NAN,
            dot_ab: f64::NAN,
            dot_da: sum_lanes(simd, dot_da),
            max_abs: simd.array_f64(max_abs).into_iter().fold(0.0, f64::max),
            repeating: false,
            changed: 0,
            sign_flips: 0,
        }
    }
}

/// One accumulator for two vectors: two of each sum would not fit the registers.
#[inline(always)]
pub(crate) fn add_two<S: Simd>(simd: S, sum: &mut S::F64, [x, y]: [S::F64; 2]) {
    *sum = simd.add_f64(*sum, simd.add_f64(x, y));
}

#[inline(always)]
pub(crate) fn sum_lanes<S: Simd>(simd: S, lanes: S::F64) -> f64 {
    let [a, b, c, d] = simd.array_f64(lanes);
    (a + c) + (b + d)
}

/// Σ b² and Σ a·b of wide pairs.
pub(crate) struct ProductsWide<A, B> {
    pub(crate) a: A,
    pub(crate) b: B,
}

impl<A: WideRun, B: WideRun> Pass for ProductsWide<A, B> {
    type Output = (f64, f64);

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> (f64, f64) {
        let Self { a, b } = self;
        let mut squares_b = Sum::new(simd);
        let mut dot_ab = Sum::new(simd);
        for row in 0..a.rows().min(b.rows()) {
            let (a, b) = (a.load(simd, row), b.load(simd, row));
            squares_b.add(simd, rows!(simd.mul_f64(b, b)));
            dot_ab.add(simd, rows!(simd.mul_f64(a, b)));
        }
        (squares_b.total(simd), dot_ab.total(simd))
    }
}

/// How many wide pairs differ in value, and how many in sign.
pub(crate) struct CountWide<A, B> {
    pub(crate) a: A,
    pub(crate) b: B,
}

/// Like [`SIGN_SCALE_F32`]: 2^540.
const SIGN_SCALE_F64: f64 = f64::from_bits((1023 + 540) << 52);

impl<A: WideRun, B: WideRun> Pass for CountWide<A, B> {
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

/// The same of wide pairs that are exact in `f32`.
pub(crate) struct CountSingle<A, B> {
    pub(crate) a: A,
    pub(crate) b: B,
}

impl<A: SingleRun, B: SingleRun> Pass for CountSingle<A, B> {
    type Output = (u64, u64);

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> (u64, u64) {
        let Self { a, b } = self;
        let rows = a.rows().min(b.rows());
        let zero = simd.splat_f32(0.0);
        let scale = simd.splat_f32(SIGN_SCALE_F32);
        let mut unchanged = simd.no_counts32();
        let mut sign_flips = simd.no_counts32();
        for row in 0..rows {
            let (a, b) = (a.load_single(simd, row), b.load_single(simd, row));
            unchanged = simd.count_equal_f32(unchanged, a, b);
            let product = simd.mul_f32(simd.mul_f32(a, scale), simd.mul_f32(b, scale));
            sign_flips = simd.count_less_f32(sign_flips, product, zero);
        }
        let changed = (rows * 8) as u64 - simd.sum_counts32(unchanged);
        (changed, simd.sum_counts32(sign_flips))
    }
}

/// How many pairs of complex numbers differ in value.
pub(crate) struct CountComplex<A, B> {
    pub(crate) a: A,
    pub(crate) b: B,
}

impl<A: WideRun, B: WideRun> Pass for CountComplex<A, B> {
    type Output = u64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> u64 {
        let Self { a, b } = self;
        let rows = a.rows().min(b.rows());
        let mut unchanged = simd.no_counts64();
        for row in 0..rows {
            let (a, b) = (a.load(simd, row), b.load(simd, row));
            unchanged = simd.count_equal_pairs_f64(unchanged, a[0], b[0]);
            unchanged = simd.count_equal_pairs_f64(unchanged, a[1], b[1]);
        }
        rows as u64 * 4 - simd.sum_counts64(unchanged) / 2
    }
}

/// The same, of floats that are exact in `f32`.
pub(crate) struct CountComplexSingle<A, B> {
    pub(crate) a: A,
    pub(crate) b: B,
}

impl<A: SingleRun, B: SingleRun> Pass for CountComplexSingle<A, B> {
    type Output = u64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> u64 {
        let Self { a, b } = self;
        let rows = a.rows().min(b.rows());
        let mut unchanged = simd.no_counts64();
        for row in 0..rows {
            let (a, b) = (a.load_single(simd, row), b.load_single(simd, row));
            unchanged = simd.count_equal_pairs_f32(unchanged, a, b);
        }
        rows as u64 * 4 - simd.sum_counts64(unchanged)
    }
}

/// How many pairs of `WORDS · 8` bytes differ.
pub(crate) struct CountBytes<'a, const WORDS: usize> {
    pub(crate) a: &'a [u8],
    pub(crate) b: &'a [u8],
}

impl<const WORDS: usize> Pass for CountBytes<'_, WORDS> {
    type Output = u64;
    const LEFT_TO_COMPILER: bool = true;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> u64 {
        let a = self.a.as_chunks::<8>().0.as_chunks::<WORDS>().0;
        let b = self.b.as_chunks::<8>().0.as_chunks::<WORDS>().0;
        let mut differing = 0;
        for (a, b) in a.iter().zip(b) {
            let mut difference = 0;
            for word in 0..WORDS {
                difference |= u64::from_le_bytes(a[word]) ^ u64::from_le_bytes(b[word]);
            }
            differing += u64::from(difference != 0);
        }
        differing
    }
}

/// Which groups have a pair whose |b − a|, in `f32`, is `magnitude`; bit `i` for group `i`.
pub(crate) struct GroupsWith<A, B> {
    pub(crate) a: A,
    pub(crate) b: B,
    pub(crate) magnitude: f32,
}

impl<A: NarrowRun, B: NarrowRun> Pass for GroupsWith<A, B> {
    type Output = u64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> u64 {
        const { assert!(crate::BLOCK / PADDING <= 64) };
        let Self { a, b, magnitude } = self;
        let magnitude = simd.splat_f32(magnitude);
        let mut groups = 0;
        for half in 0..a.halves().min(b.halves()) {
            let mut found = simd.no_counts32();
            for quarter in 0..2 {
                let a = a.load(simd, half, quarter);
                let b = b.load(simd, half, quarter);
                let d = rows!(simd.sub_f32(b, a));
                found = simd.count_equal_f32(found, simd.abs_f32(d[0]), magnitude);
                found = simd.count_equal_f32(found, simd.abs_f32(d[1]), magnitude);
            }
            groups |= u64::from(simd.any_counts32(found)) << (half / 2);
        }
        groups
    }
}

/// The largest |b − a| of narrow values, in `f64`.
pub(crate) struct LargestDifference<'a> {
    pub(crate) a: &'a [f32; PADDING],
    pub(crate) b: &'a [f32; PADDING],
}

impl Pass for LargestDifference<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        let mut largest = simd.splat_f64(0.0);
        for (a, b) in self.a.as_chunks().0.iter().zip(self.b.as_chunks().0) {
            let a = simd.widen(simd.load_f32(a));
            let b = simd.widen(simd.load_f32(b));
            let d = rows!(simd.sub_f64(b, a));
            largest = simd.max_f64(simd.abs_f64(d[0]), largest);
            largest = simd.max_f64(simd.abs_f64(d[1]), largest);
        }
        simd.array_f64(largest).into_iter().fold(0.0, f64::max)
    }
}

/// Whether none of the codes of a block is the NaN of E4M3; their length is a multiple of 32 bytes.
pub(crate) struct FiniteE4m3<'a>(pub(crate) &'a [u8]);

impl Pass for FiniteE4m3<'_> {
    type Output = bool;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> bool {
        const { assert!(crate::BLOCK / 32 <= 255) };
        let none = simd.no_codes().same_code;
        let (mut positive, mut negative) = (none, none);
        for row in self.0.as_chunks().0 {
            positive = simd.count_byte(positive, row, 0x7f);
            negative = simd.count_byte(negative, row, 0xff);
        }
        simd.reduce_8(positive).0.max(simd.reduce_8(negative).0) == 0
    }
}

/// Σ x² of narrow values.
pub(crate) struct SquaresNarrow<R>(pub(crate) R);

impl<R: NarrowRun> Pass for SquaresNarrow<R> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        let [squares] = sum_short(simd, self.0.halves(), &SquareTerms(self.0)).totals;
        squares
    }
}

struct SquareTerms<R>(R);

impl<R: NarrowRun> ShortTerms<1> for SquareTerms<R> {
    #[inline(always)]
    fn of_quarter<V: Short>(
        &self,
        short: V,
        half: usize,
        quarter: usize,
        _largest: &mut V::Floats,
    ) -> [V::Floats; 1] {
        let x = self.0.load_short(short, half, quarter);
        [pair(short, rows!(short.mul(x, x)))]
    }
}

/// Σ b² and Σ a·b of narrow pairs.
pub(crate) struct ProductsNarrow<A, B> {
    pub(crate) a: A,
    pub(crate) b: B,
}

impl<A: NarrowRun, B: NarrowRun> Pass for ProductsNarrow<A, B> {
    type Output = (f64, f64);

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> (f64, f64) {
        let Self { a, b } = self;
        let halves = a.halves().min(b.halves());
        let [squares_b, dot_ab] = sum_short(simd, halves, &ProductTerms { a, b }).totals;
        (squares_b, dot_ab)
    }
}

struct ProductTerms<A, B> {
    a: A,
    b: B,
}

impl<A: NarrowRun, B: NarrowRun> ShortTerms<2> for ProductTerms<A, B> {
    #[inline(always)]
    fn of_quarter<V: Short>(
        &self,
        short: V,
        half: usize,
        quarter: usize,
        _largest: &mut V::Floats,
    ) -> [V::Floats; 2] {
        let a = self.a.load_short(short, half, quarter);
        let b = self.b.load_short(short, half, quarter);
        [
            pair(short, rows!(short.mul(b, b))),
            pair(short, rows!(short.mul(a, b))),
        ]
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
    const LEFT_TO_COMPILER: bool = true;

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
