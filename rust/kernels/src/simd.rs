//! Vectors of fixed widths, whatever the machine's are.
//!
//! A pass is written once over [`Simd`], whose vectors have eight `f32` or four `f64` lanes at
//! every level, so that lanes, and with them every rounding, are the same everywhere. The value
//! that implements it is the proof that its instructions may be used: passes get it from
//! [`Level::run`](crate::Level), nobody else can make one.
//!
//! Written out because compilers get it wrong: with a dozen accumulators in arrays of lanes the
//! AVX2 code of a diff pass shuffled between them instead, and ran at a quarter of the speed.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
pub(crate) mod neon;
pub(crate) mod portable;
#[cfg(test)]
mod tests;

/// A provided method that compares rows of codes one by one.
macro_rules! compare_rows {
    ($name:ident, $row:ident) => {
        /// Compare rows of codes, one by one or as many at once as a register holds.
        #[inline(always)]
        fn $name(self, counts: &mut CodeCounts<Self>, a: &[[u8; 32]], b: &[[u8; 32]]) {
            for (a, b) in a.iter().zip(b) {
                self.$row(counts, a, b);
            }
        }
    };
}

/// The operations that passes are made of. Comparisons with NaN are false.
pub(crate) trait Simd: Copy {
    /// Eight `f32`.
    type F32: Copy;
    /// Four `f64`.
    type F64: Copy;
    /// Eight 32-bit counters.
    type Counts32: Copy;
    /// Four 64-bit counters.
    type Counts64: Copy;
    /// 32 codes or counters of 8 bits, 16 of 16, 8 of 32, or 4 of 64.
    type Codes: Copy;
    /// What short sums of narrow values are made of.
    type Short: Short<Simd = Self>;

    fn short(self) -> Self::Short;

    fn load_f32(self, values: &[f32; 8]) -> Self::F32;
    fn splat_f32(self, value: f32) -> Self::F32;
    fn array_f32(self, x: Self::F32) -> [f32; 8];
    fn add_f32(self, x: Self::F32, y: Self::F32) -> Self::F32;
    fn sub_f32(self, x: Self::F32, y: Self::F32) -> Self::F32;
    fn mul_f32(self, x: Self::F32, y: Self::F32) -> Self::F32;
    /// `x · y + z`, rounded once, at every level, as [`fma_f64`](Self::fma_f64).
    fn fma_f32(self, x: Self::F32, y: Self::F32, z: Self::F32) -> Self::F32;
    fn abs_f32(self, x: Self::F32) -> Self::F32;
    /// `x` where `x > y`, else `y`.
    fn max_f32(self, x: Self::F32, y: Self::F32) -> Self::F32;
    /// Whether `x == y` in every lane.
    fn all_equal_f32(self, x: Self::F32, y: Self::F32) -> bool;
    /// The lower and the upper four lanes.
    fn widen(self, x: Self::F32) -> [Self::F64; 2];

    fn load_f64(self, values: &[f64; 4]) -> Self::F64;
    fn splat_f64(self, value: f64) -> Self::F64;
    fn array_f64(self, x: Self::F64) -> [f64; 4];
    fn add_f64(self, x: Self::F64, y: Self::F64) -> Self::F64;
    fn sub_f64(self, x: Self::F64, y: Self::F64) -> Self::F64;
    fn mul_f64(self, x: Self::F64, y: Self::F64) -> Self::F64;
    /// `x · y + z`, rounded once, at every level: without an instruction for it, by a function.
    fn fma_f64(self, x: Self::F64, y: Self::F64, z: Self::F64) -> Self::F64;
    fn abs_f64(self, x: Self::F64) -> Self::F64;
    /// `x` where `x > y`, else `y`.
    fn max_f64(self, x: Self::F64, y: Self::F64) -> Self::F64;
    /// `x` where `x < y`, else `y`.
    fn min_f64(self, x: Self::F64, y: Self::F64) -> Self::F64;

    fn no_counts32(self) -> Self::Counts32;
    /// Count the lanes where `x < y`.
    fn count_less_f32(self, counts: Self::Counts32, x: Self::F32, y: Self::F32) -> Self::Counts32;
    /// Count the lanes where `x == y`.
    fn count_equal_f32(self, counts: Self::Counts32, x: Self::F32, y: Self::F32) -> Self::Counts32;
    fn sum_counts32(self, counts: Self::Counts32) -> u64;
    /// Whether any lane counted anything.
    fn any_counts32(self, counts: Self::Counts32) -> bool;

    fn no_counts64(self) -> Self::Counts64;
    /// Count the lanes where `x < y`.
    fn count_less_f64(self, counts: Self::Counts64, x: Self::F64, y: Self::F64) -> Self::Counts64;
    /// Count the lanes where `x == y`.
    fn count_equal_f64(self, counts: Self::Counts64, x: Self::F64, y: Self::F64) -> Self::Counts64;
    /// Count the lanes where `x == y`, and in the other lane of its pair, too.
    fn count_equal_pairs_f64(
        self,
        counts: Self::Counts64,
        x: Self::F64,
        y: Self::F64,
    ) -> Self::Counts64;
    /// Count the pairs of neighbouring lanes where `x == y` in both.
    fn count_equal_pairs_f32(
        self,
        counts: Self::Counts64,
        x: Self::F32,
        y: Self::F32,
    ) -> Self::Counts64;
    fn sum_counts64(self, counts: Self::Counts64) -> u64;

    /// Eight `f32` codes.
    fn load_f32_bytes(self, codes: &[u8; 32]) -> Self::F32;
    /// Four `f64` codes.
    fn load_f64_bytes(self, codes: &[u8; 32]) -> Self::F64;

    /// Eight `f32` codes, as `f64`.
    fn load_f32_codes(self, codes: &[u8; 32]) -> [Self::F64; 2];

    fn load_bf16_row(self, codes: &[u8; 16]) -> Self::F32;
    fn load_f16_row(self, codes: &[u8; 16]) -> Self::F32;

    /// Eight 32-bit integers.
    fn load_i32(self, codes: &[u8; 32]) -> [Self::F64; 2];
    fn load_u32(self, codes: &[u8; 32]) -> [Self::F64; 2];
    /// Four 64-bit integers of [-2^51, 2^51).
    fn load_i64(self, codes: &[u8; 32]) -> Self::F64;
    /// Four 64-bit integers below 2^52.
    fn load_u64(self, codes: &[u8; 32]) -> Self::F64;

    // Sixteen narrow floats, in an order that is the same at every level.

    /// The even elements, then the odd ones.
    fn load_bf16(self, codes: &[u8; 32]) -> [Self::F32; 2];
    fn load_f16(self, codes: &[u8; 32]) -> [Self::F32; 2];
    fn load_f8_e4m3(self, codes: &[u8; 16]) -> [Self::F32; 2];
    /// Those of finite values, in units of 2^8.
    #[inline(always)]
    fn load_finite_f8_e4m3(self, codes: &[u8; 16]) -> [Self::F32; 2] {
        let unit = self.splat_f32(1.0 / 256.0);
        let [x, y] = self.load_f8_e4m3(codes);
        [self.mul_f32(x, unit), self.mul_f32(y, unit)]
    }
    fn load_f8_e5m2(self, codes: &[u8; 16]) -> [Self::F32; 2];

    fn no_codes(self) -> CodeCounts<Self>;
    /// Compare 16 pairs of 16-bit sign-magnitude codes; 65535 times at most.
    fn compare_codes_16(self, counts: &mut CodeCounts<Self>, a: &[u8; 32], b: &[u8; 32]);
    /// Compare 32 pairs of 8-bit sign-magnitude codes; 255 times at most.
    fn compare_codes_8(self, counts: &mut CodeCounts<Self>, a: &[u8; 32], b: &[u8; 32]);
    /// Compare 8 pairs of 32-bit sign-magnitude codes.
    fn compare_codes_32(self, counts: &mut CodeCounts<Self>, a: &[u8; 32], b: &[u8; 32]);
    /// Compare 4 pairs of 64-bit sign-magnitude codes.
    fn compare_codes_64(self, counts: &mut CodeCounts<Self>, a: &[u8; 32], b: &[u8; 32]);
    compare_rows!(compare_rows_16, compare_codes_16);
    compare_rows!(compare_rows_8, compare_codes_8);
    compare_rows!(compare_rows_32, compare_codes_32);
    compare_rows!(compare_rows_64, compare_codes_64);
    /// Compare 8 pairs of 32-bit integers in two's complement, once `flip` is flipped in them.
    fn compare_integers_32(
        self,
        counts: &mut CodeCounts<Self>,
        a: &[u8; 32],
        b: &[u8; 32],
        flip: u32,
    );
    /// Compare 4 pairs of 64-bit integers.
    fn compare_integers_64(
        self,
        counts: &mut CodeCounts<Self>,
        a: &[u8; 32],
        b: &[u8; 32],
        flip: u64,
    );
    /// Sums over pairs of 8-bit integers in two's complement, which the codes are once they are no
    /// larger than `clip` and have `flip` flipped; a block at most.
    fn diff_integers_8(self, a: &[[u8; 32]], b: &[[u8; 32]], clip: u8, flip: u8) -> IntegerSums;
    /// The same of 16-bit integers.
    fn diff_integers_16(self, a: &[[u8; 32]], b: &[[u8; 32]], flip: u16) -> IntegerSums;

    /// Count among 16 codes of 16 bits; 65535 times at most.
    fn classify_codes_16(self, counts: &mut CodeClasses<Self>, codes: &[u8; 32], of: Classes);
    /// Count among 8 codes of 32 bits.
    fn classify_codes_32(self, counts: &mut CodeClasses<Self>, codes: &[u8; 32], of: Classes);
    fn no_classes(self) -> CodeClasses<Self>;

    /// The larger of each lane and −2·code modulo 2^16, of 16 codes of 16 bits: the code nearest
    /// to zero, but for zeros, without its sign.
    fn nearest_zero_16(self, nearest: Self::Codes, codes: &[u8; 32]) -> Self::Codes;
    /// Count the bytes that are `byte`; 255 times at most.
    fn count_byte(self, counts: Self::Codes, bytes: &[u8; 32], byte: u8) -> Self::Codes;
    /// How far the biased exponents lie below `largest`, in any order.
    fn exponents_f32(self, values: [Self::F32; 4], largest: u8) -> [u8; 32];
    /// The same; 255 where that is too far for a byte.
    fn exponents_f64(self, values: [Self::F64; 8], largest: u16) -> [u8; 32];

    /// The range of no codes, of so many bytes each.
    fn no_range(self, bytes: usize) -> CodeRange<Self>;
    /// Where 16 codes of 16 bits lie; 65535 times at most.
    fn survey_codes_16(self, range: &mut CodeRange<Self>, codes: &[u8; 32]);
    /// Where 8 codes of 32 bits lie.
    fn survey_codes_32(self, range: &mut CodeRange<Self>, codes: &[u8; 32]);
    fn extremes_16(self, range: CodeRange<Self>) -> CodeExtremes;
    fn extremes_32(self, range: CodeRange<Self>) -> CodeExtremes;

    /// The largest of 64-bit lanes, and their sum.
    fn reduce_64(self, lanes: Self::Codes) -> (u64, u64);
    /// The largest of 32-bit lanes, and their sum.
    fn reduce_32(self, lanes: Self::Codes) -> (u64, u64);
    /// The largest of 16-bit lanes, and their sum.
    fn reduce_16(self, lanes: Self::Codes) -> (u64, u64);
    /// The largest of 8-bit lanes, and their sum.
    fn reduce_8(self, lanes: Self::Codes) -> (u64, u64);
}

/// Vectors for short sums of narrow values: of one place in a run, or of the same place in two
/// parts of it whose sums are kept apart, where a register holds both.
pub(crate) trait Short: Copy {
    type Simd: Simd;
    /// Eight lanes of each place.
    type Floats: Copy;
    /// One or two.
    const PLACES: usize;

    fn simd(self) -> Self::Simd;
    fn splat(self, value: f32) -> Self::Floats;
    fn add(self, x: Self::Floats, y: Self::Floats) -> Self::Floats;
    fn sub(self, x: Self::Floats, y: Self::Floats) -> Self::Floats;
    fn mul(self, x: Self::Floats, y: Self::Floats) -> Self::Floats;
    fn abs(self, x: Self::Floats) -> Self::Floats;
    /// `x` where `x > y`, else `y`.
    fn max(self, x: Self::Floats, y: Self::Floats) -> Self::Floats;

    /// One place beside the other; the lower is all there is of one.
    fn join(self, low: <Self::Simd as Simd>::F32, high: <Self::Simd as Simd>::F32) -> Self::Floats;
    /// Each place; of one, twice the same.
    fn places(self, x: Self::Floats) -> [<Self::Simd as Simd>::F32; 2];

    // The loads of the same names, of each place.

    fn load_bf16(self, low: &[u8; 32], high: &[u8; 32]) -> [Self::Floats; 2];
    fn load_f16(self, low: &[u8; 32], high: &[u8; 32]) -> [Self::Floats; 2];
    fn load_f8_e4m3(self, low: &[u8; 16], high: &[u8; 16]) -> [Self::Floats; 2];
    fn load_finite_f8_e4m3(self, low: &[u8; 16], high: &[u8; 16]) -> [Self::Floats; 2];
    fn load_f8_e5m2(self, low: &[u8; 16], high: &[u8; 16]) -> [Self::Floats; 2];
}

/// One place at a time.
#[derive(Clone, Copy)]
pub(crate) struct OnePlace<S>(pub(crate) S);

impl<S: Simd> Short for OnePlace<S> {
    type Simd = S;
    type Floats = S::F32;
    const PLACES: usize = 1;

    #[inline(always)]
    fn simd(self) -> S {
        self.0
    }

    #[inline(always)]
    fn splat(self, value: f32) -> S::F32 {
        self.0.splat_f32(value)
    }

    #[inline(always)]
    fn add(self, x: S::F32, y: S::F32) -> S::F32 {
        self.0.add_f32(x, y)
    }

    #[inline(always)]
    fn sub(self, x: S::F32, y: S::F32) -> S::F32 {
        self.0.sub_f32(x, y)
    }

    #[inline(always)]
    fn mul(self, x: S::F32, y: S::F32) -> S::F32 {
        self.0.mul_f32(x, y)
    }

    #[inline(always)]
    fn abs(self, x: S::F32) -> S::F32 {
        self.0.abs_f32(x)
    }

    #[inline(always)]
    fn max(self, x: S::F32, y: S::F32) -> S::F32 {
        self.0.max_f32(x, y)
    }

    #[inline(always)]
    fn join(self, low: S::F32, _high: S::F32) -> S::F32 {
        low
    }

    #[inline(always)]
    fn places(self, x: S::F32) -> [S::F32; 2] {
        [x, x]
    }

    #[inline(always)]
    fn load_bf16(self, low: &[u8; 32], _high: &[u8; 32]) -> [S::F32; 2] {
        self.0.load_bf16(low)
    }

    #[inline(always)]
    fn load_f16(self, low: &[u8; 32], _high: &[u8; 32]) -> [S::F32; 2] {
        self.0.load_f16(low)
    }

    #[inline(always)]
    fn load_f8_e4m3(self, low: &[u8; 16], _high: &[u8; 16]) -> [S::F32; 2] {
        self.0.load_f8_e4m3(low)
    }

    #[inline(always)]
    fn load_finite_f8_e4m3(self, low: &[u8; 16], _high: &[u8; 16]) -> [S::F32; 2] {
        self.0.load_finite_f8_e4m3(low)
    }

    #[inline(always)]
    fn load_f8_e5m2(self, low: &[u8; 16], _high: &[u8; 16]) -> [S::F32; 2] {
        self.0.load_f8_e5m2(low)
    }
}

/// What comparing codes finds.
#[derive(Clone, Copy)]
pub(crate) struct CodeCounts<S: Simd> {
    /// The largest distance in representable steps.
    pub(crate) farthest: S::Codes,
    /// Pairs with the same code.
    pub(crate) same_code: S::Codes,
    /// Pairs with the same value: the same code, or two zeros.
    pub(crate) same_value: S::Codes,
    /// Pairs of opposite signs, neither being zero.
    pub(crate) flipped: S::Codes,
}

/// Sums over pairs of small integers, all of them exact.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct IntegerSums {
    pub(crate) sum_a: i64,
    pub(crate) sum_b: i64,
    /// Σ|b − a|
    pub(crate) absolute: i64,
    pub(crate) squares_a: i64,
    pub(crate) squares_b: i64,
    pub(crate) dot_ab: i64,
    /// The largest |b − a|.
    pub(crate) farthest: u64,
    pub(crate) same_code: u64,
    pub(crate) same_value: u64,
    /// Pairs of opposite signs, neither being zero.
    pub(crate) flipped: u64,
}

/// Codes without sign that part sign-magnitude floats into classes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Classes {
    /// The smallest normal one.
    pub(crate) smallest_normal: u32,
    /// The largest finite one.
    pub(crate) largest_finite: u32,
}

/// What classifying codes finds.
#[derive(Clone, Copy)]
pub(crate) struct CodeClasses<S: Simd> {
    pub(crate) zero: S::Codes,
    /// Sign set, zeros too.
    pub(crate) signed: S::Codes,
    /// Sign set, and nothing else.
    pub(crate) negative_zero: S::Codes,
    /// Below the smallest normal, zeros too.
    pub(crate) tiny: S::Codes,
    pub(crate) saturated: S::Codes,
}

/// Where sign-magnitude codes lie. A key is the magnitude with the code's sign, in two's complement.
#[derive(Clone, Copy)]
pub(crate) struct CodeRange<S: Simd> {
    /// The lowest key.
    pub(crate) lowest: S::Codes,
    /// The highest key.
    pub(crate) highest: S::Codes,
    /// The smallest magnitude.
    pub(crate) smallest: S::Codes,
    /// How many have the sign set, zeros too.
    pub(crate) signed: S::Codes,
}

/// [`CodeRange`] over all lanes. One that saw no code is empty: its lowest key is above the highest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CodeExtremes {
    pub(crate) lowest: i32,
    pub(crate) highest: i32,
    pub(crate) smallest: u32,
    pub(crate) signed: u64,
}
