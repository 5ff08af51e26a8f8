//! Registers of 512 bits where two rows or two places of a run fill them, and AVX2 in the rest.
//!
//! Lanes are the same eight or four as at every level, so most operations are those of AVX2, which
//! the compiler encodes anew: with 32 registers nothing is spilled, and three bitwise operations
//! are one. Sums of narrow values and comparisons of codes go over twice as many values at once.
//! A comparison leaves a mask, by which counters are changed or values chosen.

use std::arch::x86_64::*;

use super::avx2::Avx2;
use super::{Classes, CodeClasses, CodeCounts, CodeExtremes, CodeRange, IntegerSums, Short, Simd};

/// Proof that this machine has AVX-512 F, BW, DQ and VL, and all of [`Avx2`].
#[derive(Clone, Copy)]
pub(crate) struct Avx512(Avx2);

impl Avx512 {
    /// # Safety
    ///
    /// The machine must have AVX-512 F, BW, DQ and VL, AVX2, F16C and FMA.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { Avx2::new() })
    }
}

/// One intrinsic, or a few.
macro_rules! avx512 {
    ($body:expr) => {
        // SAFETY: `self` was made where these sets were detected, and pointers come from references
        // to arrays of just the size that is loaded or stored, at any alignment.
        unsafe { $body }
    };
}

/// Operations that are those of [`Avx2`].
macro_rules! by_avx2 {
    ($(fn $name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?;)*) => {$(
        #[inline(always)]
        fn $name(self, $($argument: $type),*) $(-> $result)? {
            self.0.$name($($argument),*)
        }
    )*};
}

/// Operations of [`Avx2`] on what has a type for each level.
macro_rules! by_avx2_in_place {
    ($state:ident: $($name:ident($($argument:ident: $type:ty),*);)*) => {$(
        #[inline(always)]
        fn $name(self, state: &mut $state<Self>, $($argument: $type),*) {
            let mut same = $state::<Avx2>::from(*state);
            self.0.$name(&mut same, $($argument),*);
            *state = same.into();
        }
    )*};
}

/// What has a type for each level, but the same vectors.
macro_rules! same_vectors {
    ($state:ident { $($field:ident),* }) => {
        impl From<$state<Avx2>> for $state<Avx512> {
            #[inline(always)]
            fn from($state { $($field),* }: $state<Avx2>) -> Self {
                Self { $($field),* }
            }
        }

        impl From<$state<Avx512>> for $state<Avx2> {
            #[inline(always)]
            fn from($state { $($field),* }: $state<Avx512>) -> Self {
                Self { $($field),* }
            }
        }
    };
}

same_vectors!(CodeCounts {
    farthest,
    same_code,
    same_value,
    flipped
});
same_vectors!(CodeClasses {
    zero,
    signed,
    negative_zero,
    tiny,
    saturated
});
same_vectors!(CodeRange {
    lowest,
    highest,
    smallest,
    signed
});

/// What comparing two vectors of sign-magnitude codes adds to the counts.
macro_rules! compare {
    ($counts:expr, $a:expr, $b:expr, $sign:expr, $ones:expr, [$andnot:ident, $xor:ident,
        $sign_mask:ident, $max:ident, $min:ident, $sub:ident, $add_where:ident, $sub_where:ident,
        $equal:ident, $none:ident, $above:ident]) => {{
        let (a, b, sign, ones) = ($a, $b, $sign, $ones);
        let (magnitude_a, magnitude_b) = ($andnot(sign, a), $andnot(sign, b));
        let apart = $sub(
            $max(magnitude_a, magnitude_b),
            $min(magnitude_a, magnitude_b),
        );
        let opposite = $sign_mask($xor(a, b));
        let distance = $add_where(apart, opposite, magnitude_a, magnitude_b);
        // Only of two that are not zero is the sum more than the difference.
        let flipped = $above(distance, apart);
        let counts = $counts;
        counts.farthest = $max(counts.farthest, distance);
        counts.same_code = $sub_where(counts.same_code, $equal(a, b), counts.same_code, ones);
        let same_value = $none(distance, distance);
        counts.same_value = $sub_where(counts.same_value, same_value, counts.same_value, ones);
        counts.flipped = $sub_where(counts.flipped, flipped, counts.flipped, ones);
    }};
}

/// Comparisons of codes of one width: of a row, and of many, two at a time.
macro_rules! compare_codes {
    ($row:ident, $rows:ident, $sign:expr, $splat:ident, $splat_512:ident, $add:ident, $max:ident,
        $operations:tt, $operations_512:tt) => {
        #[inline(always)]
        fn $row(self, counts: &mut CodeCounts<Self>, a: &[u8; 32], b: &[u8; 32]) {
            avx512!({
                let a = _mm256_loadu_si256(a.as_ptr().cast());
                let b = _mm256_loadu_si256(b.as_ptr().cast());
                let ones = _mm256_set1_epi8(-1);
                compare!(counts, a, b, $splat($sign), ones, $operations);
            });
        }

        #[inline(always)]
        fn $rows(self, counts: &mut CodeCounts<Self>, a: &[[u8; 32]], b: &[[u8; 32]]) {
            let ((twos_a, rest_a), (twos_b, rest_b)) = (a.as_chunks::<2>(), b.as_chunks::<2>());
            avx512!({
                let zero = _mm512_setzero_si512();
                let ones = _mm512_set1_epi8(-1);
                let mut twice = Counts512 {
                    farthest: zero,
                    same_code: zero,
                    same_value: zero,
                    flipped: zero,
                };
                for (a, b) in twos_a.iter().zip(twos_b) {
                    let a = _mm512_loadu_si512(a.as_ptr().cast());
                    let b = _mm512_loadu_si512(b.as_ptr().cast());
                    compare!(&mut twice, a, b, $splat_512($sign), ones, $operations_512);
                }
                macro_rules! add {
                    ($field:ident, $add_field:ident) => {
                        let low = _mm512_castsi512_si256(twice.$field);
                        let high = _mm512_extracti64x4_epi64::<1>(twice.$field);
                        counts.$field = $add_field(counts.$field, $add_field(low, high));
                    };
                }
                add!(farthest, $max);
                add!(same_code, $add);
                add!(same_value, $add);
                add!(flipped, $add);
            });
            for (a, b) in rest_a.iter().zip(rest_b) {
                self.$row(counts, a, b);
            }
        }
    };
}

/// Counts of two rows.
struct Counts512 {
    farthest: __m512i,
    same_code: __m512i,
    same_value: __m512i,
    flipped: __m512i,
}

impl Simd for Avx512 {
    type F32 = __m256;
    type F64 = __m256d;
    type Counts32 = __m256i;
    type Counts64 = __m256i;
    type Codes = __m256i;
    type Short = Short512;

    #[inline(always)]
    fn short(self) -> Short512 {
        Short512(self)
    }

    by_avx2! {
        fn load_f32(values: &[f32; 8]) -> __m256;
        fn splat_f32(value: f32) -> __m256;
        fn array_f32(x: __m256) -> [f32; 8];
        fn add_f32(x: __m256, y: __m256) -> __m256;
        fn sub_f32(x: __m256, y: __m256) -> __m256;
        fn mul_f32(x: __m256, y: __m256) -> __m256;
        fn fma_f32(x: __m256, y: __m256, z: __m256) -> __m256;
        fn abs_f32(x: __m256) -> __m256;
        fn max_f32(x: __m256, y: __m256) -> __m256;
        fn all_equal_f32(x: __m256, y: __m256) -> bool;
        fn widen(x: __m256) -> [__m256d; 2];
        fn load_f64(values: &[f64; 4]) -> __m256d;
        fn splat_f64(value: f64) -> __m256d;
        fn array_f64(x: __m256d) -> [f64; 4];
        fn add_f64(x: __m256d, y: __m256d) -> __m256d;
        fn sub_f64(x: __m256d, y: __m256d) -> __m256d;
        fn mul_f64(x: __m256d, y: __m256d) -> __m256d;
        fn fma_f64(x: __m256d, y: __m256d, z: __m256d) -> __m256d;
        fn abs_f64(x: __m256d) -> __m256d;
        fn max_f64(x: __m256d, y: __m256d) -> __m256d;
        fn min_f64(x: __m256d, y: __m256d) -> __m256d;
        fn no_counts32() -> __m256i;
        fn count_less_f32(counts: __m256i, x: __m256, y: __m256) -> __m256i;
        fn count_equal_f32(counts: __m256i, x: __m256, y: __m256) -> __m256i;
        fn sum_counts32(counts: __m256i) -> u64;
        fn any_counts32(counts: __m256i) -> bool;
        fn no_counts64() -> __m256i;
        fn count_less_f64(counts: __m256i, x: __m256d, y: __m256d) -> __m256i;
        fn count_equal_f64(counts: __m256i, x: __m256d, y: __m256d) -> __m256i;
        fn count_equal_pairs_f64(counts: __m256i, x: __m256d, y: __m256d) -> __m256i;
        fn count_equal_pairs_f32(counts: __m256i, x: __m256, y: __m256) -> __m256i;
        fn sum_counts64(counts: __m256i) -> u64;
        fn load_f32_bytes(codes: &[u8; 32]) -> __m256;
        fn load_f64_bytes(codes: &[u8; 32]) -> __m256d;
        fn load_f32_codes(codes: &[u8; 32]) -> [__m256d; 2];
        fn load_bf16_row(codes: &[u8; 16]) -> __m256;
        fn load_f16_row(codes: &[u8; 16]) -> __m256;
        fn load_i32(codes: &[u8; 32]) -> [__m256d; 2];
        fn load_u32(codes: &[u8; 32]) -> [__m256d; 2];
        fn load_i64(codes: &[u8; 32]) -> __m256d;
        fn load_u64(codes: &[u8; 32]) -> __m256d;
        fn load_bf16(codes: &[u8; 32]) -> [__m256; 2];
        fn load_f16(codes: &[u8; 32]) -> [__m256; 2];
        fn load_f8_e4m3(codes: &[u8; 16]) -> [__m256; 2];
        fn load_finite_f8_e4m3(codes: &[u8; 16]) -> [__m256; 2];
        fn load_f8_e5m2(codes: &[u8; 16]) -> [__m256; 2];
        fn diff_integers_8(a: &[[u8; 32]], b: &[[u8; 32]], clip: u8, flip: u8) -> IntegerSums;
        fn diff_integers_16(a: &[[u8; 32]], b: &[[u8; 32]], flip: u16) -> IntegerSums;
        fn nearest_zero_16(nearest: __m256i, codes: &[u8; 32]) -> __m256i;
        fn count_byte(counts: __m256i, bytes: &[u8; 32], byte: u8) -> __m256i;
        fn exponents_f32(values: [__m256; 4], largest: u8) -> [u8; 32];
        fn exponents_f64(values: [__m256d; 8], largest: u16) -> [u8; 32];
        fn reduce_64(lanes: __m256i) -> (u64, u64);
        fn reduce_32(lanes: __m256i) -> (u64, u64);
        fn reduce_16(lanes: __m256i) -> (u64, u64);
        fn reduce_8(lanes: __m256i) -> (u64, u64);
    }

    compare_codes!(
        compare_codes_8,
        compare_rows_8,
        i8::MIN,
        _mm256_set1_epi8,
        _mm512_set1_epi8,
        _mm256_add_epi8,
        _mm256_max_epu8,
        [
            _mm256_andnot_si256,
            _mm256_xor_si256,
            _mm256_movepi8_mask,
            _mm256_max_epu8,
            _mm256_min_epu8,
            _mm256_sub_epi8,
            _mm256_mask_add_epi8,
            _mm256_mask_sub_epi8,
            _mm256_cmpeq_epi8_mask,
            _mm256_testn_epi8_mask,
            _mm256_cmpgt_epu8_mask
        ],
        [
            _mm512_andnot_si512,
            _mm512_xor_si512,
            _mm512_movepi8_mask,
            _mm512_max_epu8,
            _mm512_min_epu8,
            _mm512_sub_epi8,
            _mm512_mask_add_epi8,
            _mm512_mask_sub_epi8,
            _mm512_cmpeq_epi8_mask,
            _mm512_testn_epi8_mask,
            _mm512_cmpgt_epu8_mask
        ]
    );
    compare_codes!(
        compare_codes_16,
        compare_rows_16,
        i16::MIN,
        _mm256_set1_epi16,
        _mm512_set1_epi16,
        _mm256_add_epi16,
        _mm256_max_epu16,
        [
            _mm256_andnot_si256,
            _mm256_xor_si256,
            _mm256_movepi16_mask,
            _mm256_max_epu16,
            _mm256_min_epu16,
            _mm256_sub_epi16,
            _mm256_mask_add_epi16,
            _mm256_mask_sub_epi16,
            _mm256_cmpeq_epi16_mask,
            _mm256_testn_epi16_mask,
            _mm256_cmpgt_epu16_mask
        ],
        [
            _mm512_andnot_si512,
            _mm512_xor_si512,
            _mm512_movepi16_mask,
            _mm512_max_epu16,
            _mm512_min_epu16,
            _mm512_sub_epi16,
            _mm512_mask_add_epi16,
            _mm512_mask_sub_epi16,
            _mm512_cmpeq_epi16_mask,
            _mm512_testn_epi16_mask,
            _mm512_cmpgt_epu16_mask
        ]
    );
    compare_codes!(
        compare_codes_32,
        compare_rows_32,
        i32::MIN,
        _mm256_set1_epi32,
        _mm512_set1_epi32,
        _mm256_add_epi32,
        _mm256_max_epu32,
        [
            _mm256_andnot_si256,
            _mm256_xor_si256,
            _mm256_movepi32_mask,
            _mm256_max_epu32,
            _mm256_min_epu32,
            _mm256_sub_epi32,
            _mm256_mask_add_epi32,
            _mm256_mask_sub_epi32,
            _mm256_cmpeq_epi32_mask,
            _mm256_testn_epi32_mask,
            _mm256_cmpgt_epu32_mask
        ],
        [
            _mm512_andnot_si512,
            _mm512_xor_si512,
            _mm512_movepi32_mask,
            _mm512_max_epu32,
            _mm512_min_epu32,
            _mm512_sub_epi32,
            _mm512_mask_add_epi32,
            _mm512_mask_sub_epi32,
            _mm512_cmpeq_epi32_mask,
            _mm512_testn_epi32_mask,
            _mm512_cmpgt_epu32_mask
        ]
    );
    compare_codes!(
        compare_codes_64,
        compare_rows_64,
        i64::MIN,
        _mm256_set1_epi64x,
        _mm512_set1_epi64,
        _mm256_add_epi64,
        _mm256_max_epu64,
        [
            _mm256_andnot_si256,
            _mm256_xor_si256,
            _mm256_movepi64_mask,
            _mm256_max_epu64,
            _mm256_min_epu64,
            _mm256_sub_epi64,
            _mm256_mask_add_epi64,
            _mm256_mask_sub_epi64,
            _mm256_cmpeq_epi64_mask,
            _mm256_testn_epi64_mask,
            _mm256_cmpgt_epu64_mask
        ],
        [
            _mm512_andnot_si512,
            _mm512_xor_si512,
            _mm512_movepi64_mask,
            _mm512_max_epu64,
            _mm512_min_epu64,
            _mm512_sub_epi64,
            _mm512_mask_add_epi64,
            _mm512_mask_sub_epi64,
            _mm512_cmpeq_epi64_mask,
            _mm512_testn_epi64_mask,
            _mm512_cmpgt_epu64_mask
        ]
    );

    by_avx2_in_place! {
        CodeCounts:
        compare_integers_32(a: &[u8; 32], b: &[u8; 32], flip: u32);
        compare_integers_64(a: &[u8; 32], b: &[u8; 32], flip: u64);
    }

    by_avx2_in_place! {
        CodeClasses:
        classify_codes_16(codes: &[u8; 32], of: Classes);
        classify_codes_32(codes: &[u8; 32], of: Classes);
    }

    by_avx2_in_place! {
        CodeRange:
        survey_codes_16(codes: &[u8; 32]);
        survey_codes_32(codes: &[u8; 32]);
    }

    #[inline(always)]
    fn no_codes(self) -> CodeCounts<Self> {
        self.0.no_codes().into()
    }

    #[inline(always)]
    fn no_classes(self) -> CodeClasses<Self> {
        self.0.no_classes().into()
    }

    #[inline(always)]
    fn no_range(self, bytes: usize) -> CodeRange<Self> {
        self.0.no_range(bytes).into()
    }

    #[inline(always)]
    fn extremes_16(self, range: CodeRange<Self>) -> CodeExtremes {
        self.0.extremes_16(range.into())
    }

    #[inline(always)]
    fn extremes_32(self, range: CodeRange<Self>) -> CodeExtremes {
        self.0.extremes_32(range.into())
    }
}

/// Two places of a run in one register.
#[derive(Clone, Copy)]
pub(crate) struct Short512(Avx512);

impl Short512 {
    /// 32 codes of 8 bits, the first eight of both places before the others.
    ///
    /// # Safety
    ///
    /// The machine must have AVX2.
    #[inline(always)]
    unsafe fn load_bytes(low: &[u8; 16], high: &[u8; 16]) -> __m256i {
        // SAFETY: the caller's promise; and arrays are as large as what is loaded.
        unsafe {
            let low = _mm_loadu_si128(low.as_ptr().cast());
            let high = _mm_loadu_si128(high.as_ptr().cast());
            _mm256_set_m128i(_mm_unpackhi_epi64(low, high), _mm_unpacklo_epi64(low, high))
        }
    }

    /// Halves of finite codes, in units of 2^8: their exponent has a bias of 15, not 7.
    ///
    /// # Safety
    ///
    /// The machine must have AVX-512 F and BW.
    #[inline(always)]
    unsafe fn e4m3_as_half(codes: __m256i) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe {
            let shifted = _mm512_slli_epi16::<7>(_mm512_cvtepi8_epi16(codes));
            _mm512_and_si512(shifted, _mm512_set1_epi16(0xbf80_u16 as i16))
        }
    }

    /// Halves as floats, the lower sixteen and the upper.
    ///
    /// # Safety
    ///
    /// The machine must have AVX-512 F.
    #[inline(always)]
    unsafe fn from_halves(halves: __m512i) -> [__m512; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            [
                _mm512_cvtph_ps(_mm512_castsi512_si256(halves)),
                _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(halves)),
            ]
        }
    }
}

impl Short for Short512 {
    type Simd = Avx512;
    type Floats = __m512;
    const PLACES: usize = 2;

    #[inline(always)]
    fn simd(self) -> Avx512 {
        self.0
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        avx512!(_mm512_set1_ps(value))
    }

    #[inline(always)]
    fn add(self, x: __m512, y: __m512) -> __m512 {
        avx512!(_mm512_add_ps(x, y))
    }

    #[inline(always)]
    fn sub(self, x: __m512, y: __m512) -> __m512 {
        avx512!(_mm512_sub_ps(x, y))
    }

    #[inline(always)]
    fn mul(self, x: __m512, y: __m512) -> __m512 {
        avx512!(_mm512_mul_ps(x, y))
    }

    #[inline(always)]
    fn abs(self, x: __m512) -> __m512 {
        avx512!(_mm512_and_ps(
            x,
            _mm512_set1_ps(f32::from_bits(0x7fff_ffff))
        ))
    }

    #[inline(always)]
    fn max(self, x: __m512, y: __m512) -> __m512 {
        avx512!(_mm512_max_ps(x, y))
    }

    #[inline(always)]
    fn join(self, low: __m256, high: __m256) -> __m512 {
        avx512!(_mm512_insertf32x8::<1>(_mm512_castps256_ps512(low), high))
    }

    #[inline(always)]
    fn places(self, x: __m512) -> [__m256; 2] {
        avx512!([_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x)])
    }

    #[inline(always)]
    fn load_bf16(self, low: &[u8; 32], high: &[u8; 32]) -> [__m512; 2] {
        avx512!({
            let low = _mm256_loadu_si256(low.as_ptr().cast());
            let high = _mm256_loadu_si256(high.as_ptr().cast());
            let codes = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
            let odd = _mm512_and_si512(codes, _mm512_set1_epi32(0xffff_0000_u32 as i32));
            [
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(codes)),
                _mm512_castsi512_ps(odd),
            ]
        })
    }

    #[inline(always)]
    fn load_f16(self, low: &[u8; 32], high: &[u8; 32]) -> [__m512; 2] {
        avx512!({
            let (low, high) = (low.as_ptr(), high.as_ptr());
            let first = _mm256_loadu2_m128i(high.cast(), low.cast());
            let second = _mm256_loadu2_m128i(high.add(16).cast(), low.add(16).cast());
            [_mm512_cvtph_ps(first), _mm512_cvtph_ps(second)]
        })
    }

    #[inline(always)]
    fn load_f8_e4m3(self, low: &[u8; 16], high: &[u8; 16]) -> [__m512; 2] {
        avx512!({
            // As Avx2 does it.
            let codes = Self::load_bytes(low, high);
            let magnitude = _mm256_and_si256(codes, _mm256_set1_epi8(0x7f));
            let nan = _mm256_cmpeq_epi8_mask(magnitude, _mm256_set1_epi8(0x7f));
            // All bits but the sign, which a NaN keeps.
            let ones = _mm512_maskz_set1_epi16(nan, i16::MAX);
            let half = _mm512_or_si512(Self::e4m3_as_half(codes), ones);
            let [first, second] = Self::from_halves(half);
            let scale = _mm512_set1_ps(256.0);
            [_mm512_mul_ps(first, scale), _mm512_mul_ps(second, scale)]
        })
    }

    #[inline(always)]
    fn load_finite_f8_e4m3(self, low: &[u8; 16], high: &[u8; 16]) -> [__m512; 2] {
        avx512!(Self::from_halves(Self::e4m3_as_half(Self::load_bytes(
            low, high
        ))))
    }

    #[inline(always)]
    fn load_f8_e5m2(self, low: &[u8; 16], high: &[u8; 16]) -> [__m512; 2] {
        avx512!({
            let codes = _mm512_cvtepu8_epi16(Self::load_bytes(low, high));
            Self::from_halves(_mm512_slli_epi16::<8>(codes))
        })
    }
}
