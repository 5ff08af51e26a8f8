//! Lanes as 256-bit registers, F16C to decode halves, and FMA where every level fuses.

use std::arch::asm;
use std::arch::x86_64::*;

use super::{
    Classes, CodeClasses, CodeCounts, CodeExtremes, CodeRange, IntegerSums, OnePlace, Simd,
};

/// Proof that this machine has AVX2, F16C and FMA.
#[derive(Clone, Copy)]
pub(crate) struct Avx2 {
    /// The upper half of every 32 bits. LLVM does not know that it is a constant, or it would
    /// blend with zero instead, on the ports that shifts and additions want.
    upper: __m256i,
}

impl Avx2 {
    /// # Safety
    ///
    /// The machine must have AVX2, F16C and FMA.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        let mut upper = 0xffff_0000_u32;
        // SAFETY: no instruction at all, and a register that is said to change.
        unsafe {
            asm!("/* {0:e} */", inout(reg) upper, options(pure, nomem, nostack, preserves_flags));
        }
        Self {
            // SAFETY: the caller's promise.
            upper: unsafe { _mm256_set1_epi32(upper as i32) },
        }
    }
}

/// One intrinsic, or a few.
macro_rules! avx2 {
    ($body:expr) => {
        // SAFETY: `self` was made where AVX2 and FMA were detected, and pointers come from references to
        // arrays of just the size that is loaded or stored, at any alignment.
        unsafe { $body }
    };
}

impl Simd for Avx2 {
    type F32 = __m256;
    type F64 = __m256d;
    type Counts32 = __m256i;
    type Counts64 = __m256i;
    type Codes = __m256i;
    type Short = OnePlace<Self>;

    #[inline(always)]
    fn short(self) -> OnePlace<Self> {
        OnePlace(self)
    }

    #[inline(always)]
    fn load_f32(self, values: &[f32; 8]) -> __m256 {
        avx2!(_mm256_loadu_ps(values.as_ptr()))
    }

    #[inline(always)]
    fn splat_f32(self, value: f32) -> __m256 {
        avx2!(_mm256_set1_ps(value))
    }

    #[inline(always)]
    fn array_f32(self, x: __m256) -> [f32; 8] {
        let mut array = [0.0; 8];
        avx2!(_mm256_storeu_ps(array.as_mut_ptr(), x));
        array
    }

    #[inline(always)]
    fn add_f32(self, x: __m256, y: __m256) -> __m256 {
        avx2!(_mm256_add_ps(x, y))
    }

    #[inline(always)]
    fn sub_f32(self, x: __m256, y: __m256) -> __m256 {
        avx2!(_mm256_sub_ps(x, y))
    }

    #[inline(always)]
    fn mul_f32(self, x: __m256, y: __m256) -> __m256 {
        avx2!(_mm256_mul_ps(x, y))
    }

    #[inline(always)]
    fn fma_f32(self, x: __m256, y: __m256, z: __m256) -> __m256 {
        avx2!(_mm256_fmadd_ps(x, y, z))
    }

    #[inline(always)]
    fn abs_f32(self, x: __m256) -> __m256 {
        avx2!(_mm256_and_ps(
            x,
            _mm256_set1_ps(f32::from_bits(0x7fff_ffff))
        ))
    }

    #[inline(always)]
    fn max_f32(self, x: __m256, y: __m256) -> __m256 {
        avx2!(_mm256_max_ps(x, y))
    }

    #[inline(always)]
    fn all_equal_f32(self, x: __m256, y: __m256) -> bool {
        avx2!(_mm256_movemask_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(x, y)) == 0xff)
    }

    #[inline(always)]
    fn widen(self, x: __m256) -> [__m256d; 2] {
        avx2!([
            _mm256_cvtps_pd(_mm256_castps256_ps128(x)),
            _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(x)),
        ])
    }

    #[inline(always)]
    fn load_f64(self, values: &[f64; 4]) -> __m256d {
        avx2!(_mm256_loadu_pd(values.as_ptr()))
    }

    #[inline(always)]
    fn splat_f64(self, value: f64) -> __m256d {
        avx2!(_mm256_set1_pd(value))
    }

    #[inline(always)]
    fn array_f64(self, x: __m256d) -> [f64; 4] {
        let mut array = [0.0; 4];
        avx2!(_mm256_storeu_pd(array.as_mut_ptr(), x));
        array
    }

    #[inline(always)]
    fn add_f64(self, x: __m256d, y: __m256d) -> __m256d {
        avx2!(_mm256_add_pd(x, y))
    }

    #[inline(always)]
    fn sub_f64(self, x: __m256d, y: __m256d) -> __m256d {
        avx2!(_mm256_sub_pd(x, y))
    }

    #[inline(always)]
    fn mul_f64(self, x: __m256d, y: __m256d) -> __m256d {
        avx2!(_mm256_mul_pd(x, y))
    }

    #[inline(always)]
    fn fma_f64(self, x: __m256d, y: __m256d, z: __m256d) -> __m256d {
        avx2!(_mm256_fmadd_pd(x, y, z))
    }

    #[inline(always)]
    fn abs_f64(self, x: __m256d) -> __m256d {
        avx2!(_mm256_and_pd(
            x,
            _mm256_set1_pd(f64::from_bits(u64::MAX >> 1))
        ))
    }

    #[inline(always)]
    fn max_f64(self, x: __m256d, y: __m256d) -> __m256d {
        avx2!(_mm256_max_pd(x, y))
    }

    #[inline(always)]
    fn min_f64(self, x: __m256d, y: __m256d) -> __m256d {
        avx2!(_mm256_min_pd(x, y))
    }

    #[inline(always)]
    fn no_counts32(self) -> __m256i {
        avx2!(_mm256_setzero_si256())
    }

    #[inline(always)]
    fn count_less_f32(self, counts: __m256i, x: __m256, y: __m256) -> __m256i {
        avx2!({
            let mask = _mm256_cmp_ps::<_CMP_LT_OQ>(x, y);
            _mm256_sub_epi32(counts, _mm256_castps_si256(mask))
        })
    }

    #[inline(always)]
    fn count_equal_f32(self, counts: __m256i, x: __m256, y: __m256) -> __m256i {
        avx2!({
            let mask = _mm256_cmp_ps::<_CMP_EQ_OQ>(x, y);
            _mm256_sub_epi32(counts, _mm256_castps_si256(mask))
        })
    }

    #[inline(always)]
    fn sum_counts32(self, counts: __m256i) -> u64 {
        let mut lanes = [0u32; 8];
        avx2!(_mm256_storeu_si256(lanes.as_mut_ptr().cast(), counts));
        lanes.into_iter().map(u64::from).sum()
    }

    #[inline(always)]
    fn any_counts32(self, counts: __m256i) -> bool {
        avx2!(_mm256_testz_si256(counts, counts) == 0)
    }

    #[inline(always)]
    fn no_counts64(self) -> __m256i {
        avx2!(_mm256_setzero_si256())
    }

    #[inline(always)]
    fn count_less_f64(self, counts: __m256i, x: __m256d, y: __m256d) -> __m256i {
        avx2!({
            let mask = _mm256_cmp_pd::<_CMP_LT_OQ>(x, y);
            _mm256_sub_epi64(counts, _mm256_castpd_si256(mask))
        })
    }

    #[inline(always)]
    fn count_equal_f64(self, counts: __m256i, x: __m256d, y: __m256d) -> __m256i {
        avx2!({
            let mask = _mm256_cmp_pd::<_CMP_EQ_OQ>(x, y);
            _mm256_sub_epi64(counts, _mm256_castpd_si256(mask))
        })
    }

    #[inline(always)]
    fn count_equal_pairs_f64(self, counts: __m256i, x: __m256d, y: __m256d) -> __m256i {
        avx2!({
            let mask = _mm256_cmp_pd::<_CMP_EQ_OQ>(x, y);
            let other = _mm256_permute_pd::<0b0101>(mask);
            let both = _mm256_castpd_si256(_mm256_and_pd(mask, other));
            _mm256_sub_epi64(counts, both)
        })
    }

    #[inline(always)]
    fn count_equal_pairs_f32(self, counts: __m256i, x: __m256, y: __m256) -> __m256i {
        avx2!({
            let mask = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_EQ_OQ>(x, y));
            let both = _mm256_cmpeq_epi64(mask, _mm256_set1_epi64x(-1));
            _mm256_sub_epi64(counts, both)
        })
    }

    #[inline(always)]
    fn sum_counts64(self, counts: __m256i) -> u64 {
        let mut lanes = [0u64; 4];
        avx2!(_mm256_storeu_si256(lanes.as_mut_ptr().cast(), counts));
        lanes.into_iter().sum()
    }

    #[inline(always)]
    fn load_f32_bytes(self, codes: &[u8; 32]) -> __m256 {
        avx2!(_mm256_loadu_ps(codes.as_ptr().cast()))
    }

    #[inline(always)]
    fn load_f64_bytes(self, codes: &[u8; 32]) -> __m256d {
        avx2!(_mm256_loadu_pd(codes.as_ptr().cast()))
    }

    #[inline(always)]
    fn load_f32_codes(self, codes: &[u8; 32]) -> [__m256d; 2] {
        avx2!([
            _mm256_cvtps_pd(_mm_loadu_ps(codes.as_ptr().cast())),
            _mm256_cvtps_pd(_mm_loadu_ps(codes.as_ptr().add(16).cast())),
        ])
    }

    #[inline(always)]
    fn load_bf16_row(self, codes: &[u8; 16]) -> __m256 {
        avx2!({
            let codes = _mm256_cvtepu16_epi32(_mm_loadu_si128(codes.as_ptr().cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(codes))
        })
    }

    #[inline(always)]
    fn load_f16_row(self, codes: &[u8; 16]) -> __m256 {
        avx2!(_mm256_cvtph_ps(_mm_loadu_si128(codes.as_ptr().cast())))
    }

    #[inline(always)]
    fn load_i32(self, codes: &[u8; 32]) -> [__m256d; 2] {
        avx2!([
            _mm256_cvtepi32_pd(_mm_loadu_si128(codes.as_ptr().cast())),
            _mm256_cvtepi32_pd(_mm_loadu_si128(codes.as_ptr().add(16).cast())),
        ])
    }

    #[inline(always)]
    fn load_u32(self, codes: &[u8; 32]) -> [__m256d; 2] {
        avx2!({
            // With the exponent of 2^52 in front a code is the fraction of 2^52 + x.
            let offset = _mm256_set1_pd((1u64 << 52) as f64);
            let low = _mm256_cvtepu32_epi64(_mm_loadu_si128(codes.as_ptr().cast()));
            let high = _mm256_cvtepu32_epi64(_mm_loadu_si128(codes.as_ptr().add(16).cast()));
            [
                _mm256_sub_pd(_mm256_or_pd(_mm256_castsi256_pd(low), offset), offset),
                _mm256_sub_pd(_mm256_or_pd(_mm256_castsi256_pd(high), offset), offset),
            ]
        })
    }

    #[inline(always)]
    fn load_i64(self, codes: &[u8; 32]) -> __m256d {
        avx2!({
            // Added to the code of 3·2^51 an integer changes only the fraction.
            let offset = _mm256_set1_pd((3u64 << 51) as f64);
            let codes = _mm256_loadu_si256(codes.as_ptr().cast());
            let moved = _mm256_add_epi64(codes, _mm256_castpd_si256(offset));
            _mm256_sub_pd(_mm256_castsi256_pd(moved), offset)
        })
    }

    #[inline(always)]
    fn load_u64(self, codes: &[u8; 32]) -> __m256d {
        avx2!({
            let offset = _mm256_set1_pd((1u64 << 52) as f64);
            let codes = _mm256_loadu_pd(codes.as_ptr().cast());
            _mm256_sub_pd(_mm256_or_pd(codes, offset), offset)
        })
    }

    #[inline(always)]
    fn load_bf16(self, codes: &[u8; 32]) -> [__m256; 2] {
        avx2!({
            let codes = _mm256_loadu_si256(codes.as_ptr().cast());
            let even = _mm256_slli_epi32::<16>(codes);
            let odd = _mm256_and_si256(codes, self.upper);
            [_mm256_castsi256_ps(even), _mm256_castsi256_ps(odd)]
        })
    }

    #[inline(always)]
    fn load_f16(self, codes: &[u8; 32]) -> [__m256; 2] {
        avx2!([
            _mm256_cvtph_ps(_mm_loadu_si128(codes.as_ptr().cast())),
            _mm256_cvtph_ps(_mm_loadu_si128(codes.as_ptr().add(16).cast())),
        ])
    }

    #[inline(always)]
    fn load_f8_e4m3(self, codes: &[u8; 16]) -> [__m256; 2] {
        avx2!({
            let codes = _mm256_cvtepi8_epi16(_mm_loadu_si128(codes.as_ptr().cast()));
            // All ones beside the sign.
            let magnitude = _mm256_or_si256(codes, _mm256_set1_epi16(!0x7f));
            let nan = _mm256_cmpeq_epi16(magnitude, _mm256_set1_epi16(-1));
            // All bits but the sign, which a NaN keeps.
            let half = _mm256_or_si256(e4m3_as_half(codes), _mm256_srli_epi16::<1>(nan));
            let scale = _mm256_set1_ps(256.0);
            [
                _mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(half)), scale),
                _mm256_mul_ps(_mm256_cvtph_ps(_mm256_extracti128_si256::<1>(half)), scale),
            ]
        })
    }

    #[inline(always)]
    fn load_finite_f8_e4m3(self, codes: &[u8; 16]) -> [__m256; 2] {
        avx2!({
            let codes = _mm256_cvtepi8_epi16(_mm_loadu_si128(codes.as_ptr().cast()));
            let half = e4m3_as_half(codes);
            [
                _mm256_cvtph_ps(_mm256_castsi256_si128(half)),
                _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(half)),
            ]
        })
    }

    #[inline(always)]
    fn load_f8_e5m2(self, codes: &[u8; 16]) -> [__m256; 2] {
        avx2!({
            // The upper byte of a half.
            let zero = _mm_setzero_si128();
            let codes = _mm_loadu_si128(codes.as_ptr().cast());
            [
                _mm256_cvtph_ps(_mm_unpacklo_epi8(zero, codes)),
                _mm256_cvtph_ps(_mm_unpackhi_epi8(zero, codes)),
            ]
        })
    }

    #[inline(always)]
    fn no_codes(self) -> CodeCounts<Self> {
        let zero = avx2!(_mm256_setzero_si256());
        CodeCounts {
            farthest: zero,
            same_code: zero,
            same_value: zero,
            flipped: zero,
        }
    }

    #[inline(always)]
    fn compare_codes_16(self, counts: &mut CodeCounts<Self>, a: &[u8; 32], b: &[u8; 32]) {
        avx2!({
            let magnitude = _mm256_set1_epi16(i16::MAX);
            let a = _mm256_loadu_si256(a.as_ptr().cast());
            let b = _mm256_loadu_si256(b.as_ptr().cast());
            // The magnitude with the code's sign, in two's complement; 0 for both zeros.
            let key_a = _mm256_sign_epi16(_mm256_and_si256(a, magnitude), a);
            let key_b = _mm256_sign_epi16(_mm256_and_si256(b, magnitude), b);
            let opposite = _mm256_srli_epi16::<15>(_mm256_sign_epi16(key_a, key_b));
            let distance = _mm256_sub_epi16(
                _mm256_max_epi16(key_a, key_b),
                _mm256_min_epi16(key_a, key_b),
            );
            counts.farthest = _mm256_max_epu16(counts.farthest, distance);
            counts.same_code = _mm256_sub_epi16(counts.same_code, _mm256_cmpeq_epi16(a, b));
            counts.same_value =
                _mm256_sub_epi16(counts.same_value, _mm256_cmpeq_epi16(key_a, key_b));
            counts.flipped = _mm256_add_epi16(counts.flipped, opposite);
        });
    }

    #[inline(always)]
    fn compare_codes_8(self, counts: &mut CodeCounts<Self>, a: &[u8; 32], b: &[u8; 32]) {
        avx2!({
            let zero = _mm256_setzero_si256();
            let magnitude = _mm256_set1_epi8(i8::MAX);
            let bias = _mm256_set1_epi8(i8::MIN);
            let a = _mm256_loadu_si256(a.as_ptr().cast());
            let b = _mm256_loadu_si256(b.as_ptr().cast());
            let key_a = _mm256_sign_epi8(_mm256_and_si256(a, magnitude), a);
            let key_b = _mm256_sign_epi8(_mm256_and_si256(b, magnitude), b);
            let opposite = _mm256_cmpgt_epi8(zero, _mm256_sign_epi8(key_a, key_b));
            let order_a = _mm256_xor_si256(key_a, bias);
            let order_b = _mm256_xor_si256(key_b, bias);
            let distance = _mm256_or_si256(
                _mm256_subs_epu8(order_a, order_b),
                _mm256_subs_epu8(order_b, order_a),
            );
            counts.farthest = _mm256_max_epu8(counts.farthest, distance);
            counts.same_code = _mm256_sub_epi8(counts.same_code, _mm256_cmpeq_epi8(a, b));
            counts.same_value = _mm256_sub_epi8(counts.same_value, _mm256_cmpeq_epi8(key_a, key_b));
            counts.flipped = _mm256_sub_epi8(counts.flipped, opposite);
        });
    }

    #[inline(always)]
    fn compare_codes_32(self, counts: &mut CodeCounts<Self>, a: &[u8; 32], b: &[u8; 32]) {
        avx2!({
            let zero = _mm256_setzero_si256();
            let magnitude = _mm256_set1_epi32(i32::MAX);
            let bias = _mm256_set1_epi32(i32::MIN);
            let a = _mm256_loadu_si256(a.as_ptr().cast());
            let b = _mm256_loadu_si256(b.as_ptr().cast());
            let key_a = _mm256_sign_epi32(_mm256_and_si256(a, magnitude), a);
            let key_b = _mm256_sign_epi32(_mm256_and_si256(b, magnitude), b);
            let opposite = _mm256_cmpgt_epi32(zero, _mm256_sign_epi32(key_a, key_b));
            let order_a = _mm256_xor_si256(key_a, bias);
            let order_b = _mm256_xor_si256(key_b, bias);
            let distance = _mm256_sub_epi32(
                _mm256_max_epu32(order_a, order_b),
                _mm256_min_epu32(order_a, order_b),
            );
            counts.farthest = _mm256_max_epu32(counts.farthest, distance);
            counts.same_code = _mm256_sub_epi32(counts.same_code, _mm256_cmpeq_epi32(a, b));
            counts.same_value =
                _mm256_sub_epi32(counts.same_value, _mm256_cmpeq_epi32(key_a, key_b));
            counts.flipped = _mm256_sub_epi32(counts.flipped, opposite);
        });
    }

    #[inline(always)]
    fn compare_codes_64(self, counts: &mut CodeCounts<Self>, a: &[u8; 32], b: &[u8; 32]) {
        avx2!({
            let zero = _mm256_setzero_si256();
            let magnitude = _mm256_set1_epi64x(i64::MAX);
            let bias = _mm256_set1_epi64x(i64::MIN);
            let a = _mm256_loadu_si256(a.as_ptr().cast());
            let b = _mm256_loadu_si256(b.as_ptr().cast());
            let sign_a = _mm256_cmpgt_epi64(zero, a);
            let sign_b = _mm256_cmpgt_epi64(zero, b);
            let key_a = _mm256_and_si256(a, magnitude);
            let key_a = _mm256_sub_epi64(_mm256_xor_si256(key_a, sign_a), sign_a);
            let key_b = _mm256_and_si256(b, magnitude);
            let key_b = _mm256_sub_epi64(_mm256_xor_si256(key_b, sign_b), sign_b);
            // A key is 0 for both zeros, so the signs of the keys are those that count.
            let below = _mm256_cmpgt_epi64(key_b, key_a);
            let distance = _mm256_sub_epi64(key_a, key_b);
            let distance = _mm256_sub_epi64(_mm256_xor_si256(distance, below), below);
            let larger = _mm256_cmpgt_epi64(
                _mm256_xor_si256(distance, bias),
                _mm256_xor_si256(counts.farthest, bias),
            );
            counts.farthest = _mm256_blendv_epi8(counts.farthest, distance, larger);
            counts.same_code = _mm256_sub_epi64(counts.same_code, _mm256_cmpeq_epi64(a, b));
            counts.same_value =
                _mm256_sub_epi64(counts.same_value, _mm256_cmpeq_epi64(key_a, key_b));
            // Opposite signs, and neither key zero: where one is, the smaller is not negative or
            // the larger not positive.
            let negative = _mm256_blendv_epi8(key_b, key_a, below);
            let positive = _mm256_blendv_epi8(key_a, key_b, below);
            let flipped = _mm256_and_si256(
                _mm256_cmpgt_epi64(zero, negative),
                _mm256_cmpgt_epi64(positive, zero),
            );
            counts.flipped = _mm256_sub_epi64(counts.flipped, flipped);
        });
    }

    #[inline(always)]
    fn compare_integers_32(
        self,
        counts: &mut CodeCounts<Self>,
        a: &[u8; 32],
        b: &[u8; 32],
        flip: u32,
    ) {
        avx2!({
            let zero = _mm256_setzero_si256();
            let flip = _mm256_set1_epi32(flip as i32);
            let a = _mm256_xor_si256(_mm256_loadu_si256(a.as_ptr().cast()), flip);
            let b = _mm256_xor_si256(_mm256_loadu_si256(b.as_ptr().cast()), flip);
            let smaller = _mm256_min_epi32(a, b);
            let larger = _mm256_max_epi32(a, b);
            let distance = _mm256_sub_epi32(larger, smaller);
            let opposite = _mm256_and_si256(
                _mm256_cmpgt_epi32(zero, smaller),
                _mm256_cmpgt_epi32(larger, zero),
            );
            counts.farthest = _mm256_max_epu32(counts.farthest, distance);
            counts.same_code = _mm256_sub_epi32(counts.same_code, _mm256_cmpeq_epi32(a, b));
            counts.flipped = _mm256_sub_epi32(counts.flipped, opposite);
        });
    }

    #[inline(always)]
    fn compare_integers_64(
        self,
        counts: &mut CodeCounts<Self>,
        a: &[u8; 32],
        b: &[u8; 32],
        flip: u64,
    ) {
        avx2!({
            let zero = _mm256_setzero_si256();
            let bias = _mm256_set1_epi64x(i64::MIN);
            let flip = _mm256_set1_epi64x(flip as i64);
            let a = _mm256_xor_si256(_mm256_loadu_si256(a.as_ptr().cast()), flip);
            let b = _mm256_xor_si256(_mm256_loadu_si256(b.as_ptr().cast()), flip);
            let below = _mm256_cmpgt_epi64(b, a);
            let smaller = _mm256_blendv_epi8(b, a, below);
            let larger = _mm256_blendv_epi8(a, b, below);
            let distance = _mm256_sub_epi64(larger, smaller);
            let farther = _mm256_cmpgt_epi64(
                _mm256_xor_si256(distance, bias),
                _mm256_xor_si256(counts.farthest, bias),
            );
            let opposite = _mm256_and_si256(
                _mm256_cmpgt_epi64(zero, smaller),
                _mm256_cmpgt_epi64(larger, zero),
            );
            counts.farthest = _mm256_blendv_epi8(counts.farthest, distance, farther);
            counts.same_code = _mm256_sub_epi64(counts.same_code, _mm256_cmpeq_epi64(a, b));
            counts.flipped = _mm256_sub_epi64(counts.flipped, opposite);
        });
    }

    #[inline(always)]
    fn diff_integers_8(
        self,
        rows_a: &[[u8; 32]],
        rows_b: &[[u8; 32]],
        clip: u8,
        flip: u8,
    ) -> IntegerSums {
        avx2!({
            let zero = _mm256_setzero_si256();
            let bias = _mm256_set1_epi8(i8::MIN);
            let clip = _mm256_set1_epi8(clip as i8);
            let flip = _mm256_set1_epi8(flip as i8);
            let mut counts = self.no_codes();
            // Sums of bytes, 64 bits a lane.
            let (mut sum_a, mut sum_b, mut absolute) = (zero, zero, zero);
            // Sums of four products of 14 bits a row, 32 bits a lane.
            let (mut squares_a, mut squares_b, mut dot_ab) = (zero, zero, zero);
            for (a, b) in rows_a.iter().zip(rows_b) {
                let a = _mm256_loadu_si256(a.as_ptr().cast());
                let b = _mm256_loadu_si256(b.as_ptr().cast());
                counts.same_code = _mm256_sub_epi8(counts.same_code, _mm256_cmpeq_epi8(a, b));
                let a = _mm256_xor_si256(_mm256_min_epu8(a, clip), flip);
                let b = _mm256_xor_si256(_mm256_min_epu8(b, clip), flip);
                counts.same_value = _mm256_sub_epi8(counts.same_value, _mm256_cmpeq_epi8(a, b));
                let smaller = _mm256_min_epi8(a, b);
                let larger = _mm256_max_epi8(a, b);
                let distance = _mm256_sub_epi8(larger, smaller);
                let opposite = _mm256_and_si256(
                    _mm256_cmpgt_epi8(zero, smaller),
                    _mm256_cmpgt_epi8(larger, zero),
                );
                counts.flipped = _mm256_sub_epi8(counts.flipped, opposite);
                counts.farthest = _mm256_max_epu8(counts.farthest, distance);
                absolute = _mm256_add_epi64(absolute, _mm256_sad_epu8(distance, zero));
                let order_a = _mm256_sad_epu8(_mm256_xor_si256(a, bias), zero);
                let order_b = _mm256_sad_epu8(_mm256_xor_si256(b, bias), zero);
                sum_a = _mm256_add_epi64(sum_a, order_a);
                sum_b = _mm256_add_epi64(sum_b, order_b);
                let even_a = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(a));
                let even_b = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(b));
                let (odd_a, odd_b) = (_mm256_srai_epi16::<8>(a), _mm256_srai_epi16::<8>(b));
                macro_rules! add_products {
                    ($sum:ident, $even_x:ident, $even_y:ident, $odd_x:ident, $odd_y:ident) => {{
                        let even = _mm256_madd_epi16($even_x, $even_y);
                        let odd = _mm256_madd_epi16($odd_x, $odd_y);
                        $sum = _mm256_add_epi32($sum, _mm256_add_epi32(even, odd));
                    }};
                }
                add_products!(squares_a, even_a, even_a, odd_a, odd_a);
                add_products!(squares_b, even_b, even_b, odd_b, odd_b);
                add_products!(dot_ab, even_a, even_b, odd_a, odd_b);
            }
            let bias = (rows_a.len() * 32 * 128) as i64;
            IntegerSums {
                sum_a: self.sum_counts64(sum_a) as i64 - bias,
                sum_b: self.sum_counts64(sum_b) as i64 - bias,
                absolute: self.sum_counts64(absolute) as i64,
                squares_a: sum_signed_32(squares_a),
                squares_b: sum_signed_32(squares_b),
                dot_ab: sum_signed_32(dot_ab),
                farthest: self.reduce_8(counts.farthest).0,
                same_code: self.reduce_8(counts.same_code).1,
                same_value: self.reduce_8(counts.same_value).1,
                flipped: self.reduce_8(counts.flipped).1,
            }
        })
    }

    #[inline(always)]
    fn diff_integers_16(self, rows_a: &[[u8; 32]], rows_b: &[[u8; 32]], flip: u16) -> IntegerSums {
        avx2!({
            /// What makes a sum of two products of 16-bit integers an unsigned one: the least of
            /// them is −2·2^15·(2^15 − 1), and the largest, 2^31, has the code of −2^31.
            const OFFSET: i32 = 0x7fff_0000;
            let zero = _mm256_setzero_si256();
            let one = _mm256_set1_epi16(1);
            let bias = _mm256_set1_epi16(i16::MIN);
            let flip = _mm256_set1_epi16(flip as i16);
            let offset = _mm256_set1_epi32(OFFSET);
            let lower = _mm256_set1_epi64x(0xffff_ffff);
            let mut counts = self.no_codes();
            // Sums of two of 16 bits a row, 32 bits a lane.
            let (mut sum_a, mut sum_b, mut absolute) = (zero, zero, zero);
            // Sums of products, 64 bits a lane.
            let (mut squares_a, mut squares_b, mut dot_ab) = (zero, zero, zero);
            for (a, b) in rows_a.iter().zip(rows_b) {
                let a = _mm256_xor_si256(_mm256_loadu_si256(a.as_ptr().cast()), flip);
                let b = _mm256_xor_si256(_mm256_loadu_si256(b.as_ptr().cast()), flip);
                let smaller = _mm256_min_epi16(a, b);
                let larger = _mm256_max_epi16(a, b);
                let distance = _mm256_sub_epi16(larger, smaller);
                let opposite = _mm256_and_si256(
                    _mm256_cmpgt_epi16(zero, smaller),
                    _mm256_cmpgt_epi16(larger, zero),
                );
                counts.same_code = _mm256_sub_epi16(counts.same_code, _mm256_cmpeq_epi16(a, b));
                counts.flipped = _mm256_sub_epi16(counts.flipped, opposite);
                counts.farthest = _mm256_max_epu16(counts.farthest, distance);
                let distance = _mm256_xor_si256(distance, bias);
                absolute = _mm256_add_epi32(absolute, _mm256_madd_epi16(distance, one));
                sum_a = _mm256_add_epi32(sum_a, _mm256_madd_epi16(a, one));
                sum_b = _mm256_add_epi32(sum_b, _mm256_madd_epi16(b, one));
                macro_rules! add_products {
                    ($sum:ident, $products:expr) => {{
                        let products = $products;
                        let even = _mm256_and_si256(products, lower);
                        let odd = _mm256_srli_epi64::<32>(products);
                        $sum = _mm256_add_epi64($sum, _mm256_add_epi64(even, odd));
                    }};
                }
                add_products!(squares_a, _mm256_madd_epi16(a, a));
                add_products!(squares_b, _mm256_madd_epi16(b, b));
                add_products!(dot_ab, _mm256_add_epi32(_mm256_madd_epi16(a, b), offset));
            }
            let codes = rows_a.len() as i64 * 16;
            let same = self.reduce_16(counts.same_code).1;
            IntegerSums {
                sum_a: sum_signed_32(sum_a),
                sum_b: sum_signed_32(sum_b),
                absolute: sum_signed_32(absolute) + codes * (1 << 15),
                squares_a: self.sum_counts64(squares_a) as i64,
                squares_b: self.sum_counts64(squares_b) as i64,
                dot_ab: self.sum_counts64(dot_ab) as i64 - codes / 2 * i64::from(OFFSET),
                farthest: self.reduce_16(counts.farthest).0,
                same_code: same,
                same_value: same,
                flipped: self.reduce_16(counts.flipped).1,
            }
        })
    }

    #[inline(always)]
    fn classify_codes_16(self, counts: &mut CodeClasses<Self>, codes: &[u8; 32], of: Classes) {
        avx2!({
            let zero = _mm256_setzero_si256();
            let codes = _mm256_loadu_si256(codes.as_ptr().cast());
            let key = _mm256_and_si256(codes, _mm256_set1_epi16(i16::MAX));
            let negative_zero = _mm256_cmpeq_epi16(codes, _mm256_set1_epi16(i16::MIN));
            let smallest_normal = _mm256_set1_epi16(of.smallest_normal as i16);
            let largest_finite = _mm256_set1_epi16(of.largest_finite as i16);
            let tiny = _mm256_cmpgt_epi16(smallest_normal, key);
            let saturated = _mm256_cmpeq_epi16(key, largest_finite);
            counts.zero = _mm256_sub_epi16(counts.zero, _mm256_cmpeq_epi16(key, zero));
            counts.signed = _mm256_sub_epi16(counts.signed, _mm256_cmpgt_epi16(zero, codes));
            counts.negative_zero = _mm256_sub_epi16(counts.negative_zero, negative_zero);
            counts.tiny = _mm256_sub_epi16(counts.tiny, tiny);
            counts.saturated = _mm256_sub_epi16(counts.saturated, saturated);
        });
    }

    #[inline(always)]
    fn classify_codes_32(self, counts: &mut CodeClasses<Self>, codes: &[u8; 32], of: Classes) {
        avx2!({
            let zero = _mm256_setzero_si256();
            let codes = _mm256_loadu_si256(codes.as_ptr().cast());
            let key = _mm256_and_si256(codes, _mm256_set1_epi32(i32::MAX));
            let negative_zero = _mm256_cmpeq_epi32(codes, _mm256_set1_epi32(i32::MIN));
            let smallest_normal = _mm256_set1_epi32(of.smallest_normal as i32);
            let largest_finite = _mm256_set1_epi32(of.largest_finite as i32);
            let tiny = _mm256_cmpgt_epi32(smallest_normal, key);
            let saturated = _mm256_cmpeq_epi32(key, largest_finite);
            counts.zero = _mm256_sub_epi32(counts.zero, _mm256_cmpeq_epi32(key, zero));
            counts.signed = _mm256_sub_epi32(counts.signed, _mm256_cmpgt_epi32(zero, codes));
            counts.negative_zero = _mm256_sub_epi32(counts.negative_zero, negative_zero);
            counts.tiny = _mm256_sub_epi32(counts.tiny, tiny);
            counts.saturated = _mm256_sub_epi32(counts.saturated, saturated);
        });
    }

    #[inline(always)]
    fn no_classes(self) -> CodeClasses<Self> {
        let zero = avx2!(_mm256_setzero_si256());
        CodeClasses {
            zero,
            signed: zero,
            negative_zero: zero,
            tiny: zero,
            saturated: zero,
        }
    }

    #[inline(always)]
    fn nearest_zero_16(self, nearest: __m256i, codes: &[u8; 32]) -> __m256i {
        avx2!({
            let codes = _mm256_loadu_si256(codes.as_ptr().cast());
            let twice = _mm256_add_epi16(codes, codes);
            _mm256_max_epu16(nearest, _mm256_sub_epi16(_mm256_setzero_si256(), twice))
        })
    }

    #[inline(always)]
    fn exponents_f32(self, [w, x, y, z]: [__m256; 4], largest: u8) -> [u8; 32] {
        let mut distances = [0; 32];
        avx2!({
            let exponents = _mm256_packus_epi16(
                exponents_16::<8>(_mm256_castps_si256(w), _mm256_castps_si256(x)),
                exponents_16::<8>(_mm256_castps_si256(y), _mm256_castps_si256(z)),
            );
            let distance = _mm256_sub_epi8(_mm256_set1_epi8(largest as i8), exponents);
            _mm256_storeu_si256(distances.as_mut_ptr().cast(), distance);
        });
        distances
    }

    #[inline(always)]
    fn count_byte(self, counts: __m256i, bytes: &[u8; 32], byte: u8) -> __m256i {
        avx2!({
            let bytes = _mm256_loadu_si256(bytes.as_ptr().cast());
            let found = _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(byte as i8));
            _mm256_sub_epi8(counts, found)
        })
    }

    #[inline(always)]
    fn exponents_f64(self, values: [__m256d; 8], largest: u16) -> [u8; 32] {
        let [s, t, u, v, w, x, y, z] = values;
        let mut distances = [0; 32];
        avx2!({
            let largest = _mm256_set1_epi16(largest as i16);
            let first = exponents_16::<5>(upper_halves(s, t), upper_halves(u, v));
            let second = exponents_16::<5>(upper_halves(w, x), upper_halves(y, z));
            let distance = _mm256_packus_epi16(
                _mm256_sub_epi16(largest, first),
                _mm256_sub_epi16(largest, second),
            );
            _mm256_storeu_si256(distances.as_mut_ptr().cast(), distance);
        });
        distances
    }

    #[inline(always)]
    fn no_range(self, bytes: usize) -> CodeRange<Self> {
        avx2!({
            let ones = _mm256_set1_epi8(-1);
            let highest = match bytes {
                2 => _mm256_set1_epi16(i16::MIN),
                _ => _mm256_set1_epi32(i32::MIN),
            };
            CodeRange {
                lowest: _mm256_xor_si256(highest, ones),
                highest,
                smallest: ones,
                signed: _mm256_setzero_si256(),
            }
        })
    }

    #[inline(always)]
    fn survey_codes_16(self, range: &mut CodeRange<Self>, codes: &[u8; 32]) {
        avx2!({
            let codes = _mm256_loadu_si256(codes.as_ptr().cast());
            let magnitude = _mm256_and_si256(codes, _mm256_set1_epi16(i16::MAX));
            let key = _mm256_sign_epi16(magnitude, codes);
            range.lowest = _mm256_min_epi16(range.lowest, key);
            range.highest = _mm256_max_epi16(range.highest, key);
            range.smallest = _mm256_min_epu16(range.smallest, magnitude);
            range.signed = _mm256_add_epi16(range.signed, _mm256_srli_epi16::<15>(codes));
        });
    }

    #[inline(always)]
    fn survey_codes_32(self, range: &mut CodeRange<Self>, codes: &[u8; 32]) {
        avx2!({
            let codes = _mm256_loadu_si256(codes.as_ptr().cast());
            let magnitude = _mm256_and_si256(codes, _mm256_set1_epi32(i32::MAX));
            let key = _mm256_sign_epi32(magnitude, codes);
            range.lowest = _mm256_min_epi32(range.lowest, key);
            range.highest = _mm256_max_epi32(range.highest, key);
            range.smallest = _mm256_min_epu32(range.smallest, magnitude);
            range.signed = _mm256_add_epi32(range.signed, _mm256_srli_epi32::<31>(codes));
        });
    }

    #[inline(always)]
    fn extremes_16(self, range: CodeRange<Self>) -> CodeExtremes {
        avx2!({
            // As unsigned numbers, of which the largest can be had: those above and below.
            let bias = _mm256_set1_epi16(i16::MIN);
            let ones = _mm256_set1_epi8(-1);
            let highest = self.reduce_16(_mm256_xor_si256(range.highest, bias)).0;
            let lowest = self
                .reduce_16(_mm256_xor_si256(range.lowest, _mm256_xor_si256(bias, ones)))
                .0;
            let smallest = self.reduce_16(_mm256_xor_si256(range.smallest, ones)).0;
            CodeExtremes {
                lowest: i32::from((!(lowest as u16) ^ 0x8000) as i16),
                highest: i32::from((highest as u16 ^ 0x8000) as i16),
                smallest: u32::from(!(smallest as u16)),
                signed: self.reduce_16(range.signed).1,
            }
        })
    }

    #[inline(always)]
    fn extremes_32(self, range: CodeRange<Self>) -> CodeExtremes {
        avx2!({
            // As unsigned numbers, of which the largest can be had: those above and below.
            let bias = _mm256_set1_epi32(i32::MIN);
            let ones = _mm256_set1_epi8(-1);
            let highest = self.reduce_32(_mm256_xor_si256(range.highest, bias)).0;
            let lowest = self
                .reduce_32(_mm256_xor_si256(range.lowest, _mm256_xor_si256(bias, ones)))
                .0;
            let smallest = self.reduce_32(_mm256_xor_si256(range.smallest, ones)).0;
            CodeExtremes {
                lowest: (!(lowest as u32) ^ 0x8000_0000) as i32,
                highest: (highest as u32 ^ 0x8000_0000) as i32,
                smallest: !(smallest as u32),
                signed: self.reduce_32(range.signed).1,
            }
        })
    }

    #[inline(always)]
    fn reduce_64(self, lanes: __m256i) -> (u64, u64) {
        let mut array = [0u64; 4];
        avx2!(_mm256_storeu_si256(array.as_mut_ptr().cast(), lanes));
        let (mut largest, mut sum) = (0, 0u64);
        for lane in array {
            largest = lane.max(largest);
            // The sum of distances is not asked for, and may wrap.
            sum = sum.wrapping_add(lane);
        }
        (largest, sum)
    }

    #[inline(always)]
    fn reduce_32(self, lanes: __m256i) -> (u64, u64) {
        let mut array = [0u32; 8];
        avx2!(_mm256_storeu_si256(array.as_mut_ptr().cast(), lanes));
        let (mut largest, mut sum) = (0, 0);
        for lane in array {
            largest = lane.max(largest);
            sum += u64::from(lane);
        }
        (u64::from(largest), sum)
    }

    #[inline(always)]
    fn reduce_16(self, lanes: __m256i) -> (u64, u64) {
        avx2!({
            // The smallest of eight is one instruction; the largest is the smallest complement.
            let low = _mm256_castsi256_si128(lanes);
            let high = _mm256_extracti128_si256::<1>(lanes);
            let complement = _mm_xor_si128(_mm_max_epu16(low, high), _mm_set1_epi8(-1));
            let largest = !(_mm_cvtsi128_si32(_mm_minpos_epu16(complement)) as u16);
            // Unsigned lanes as 32 bits, and these by pairs.
            let even = _mm256_and_si256(lanes, _mm256_set1_epi32(0xffff));
            let sums = _mm256_add_epi32(even, _mm256_srli_epi32::<16>(lanes));
            (u64::from(largest), self.reduce_32(sums).1)
        })
    }

    #[inline(always)]
    fn reduce_8(self, lanes: __m256i) -> (u64, u64) {
        avx2!({
            let shifted = _mm256_max_epu8(lanes, _mm256_srli_epi16::<8>(lanes));
            let largest = self
                .reduce_16(_mm256_and_si256(shifted, _mm256_set1_epi16(0xff)))
                .0;
            let sums = _mm256_sad_epu8(lanes, _mm256_setzero_si256());
            (largest, self.sum_counts64(sums))
        })
    }
}

/// Halves of 2^-8 of what finite codes with 4 bits of exponent stand for, of which each is the
/// lower byte of a word and has its sign in all of the upper one. The exponent of a half has a bias
/// of 15, not 7; subnormals come out right, too.
///
/// # Safety
///
/// The machine must have AVX2.
#[inline(always)]
unsafe fn e4m3_as_half(codes: __m256i) -> __m256i {
    // SAFETY: the caller's.
    unsafe {
        // Of the signs that the shift leaves in front one stays.
        let shifted = _mm256_slli_epi16::<7>(codes);
        _mm256_and_si256(shifted, _mm256_set1_epi16(0xbf80_u16 as i16))
    }
}

/// The sum of signed 32-bit lanes.
#[inline(always)]
fn sum_signed_32(lanes: __m256i) -> i64 {
    let mut array = [0i32; 8];
    // SAFETY: only called where AVX2 was detected, and the array is as large as the vector.
    unsafe { _mm256_storeu_si256(array.as_mut_ptr().cast(), lanes) };
    let mut sum = 0;
    for lane in array {
        sum += i64::from(lane);
    }
    sum
}

/// The exponents of floats whose upper 32 bits these are, which begin with a sign; `SHIFT` is how
/// many bits of a mantissa stand in the upper 16, and one.
///
/// # Safety
///
/// The machine must have AVX2.
#[inline(always)]
unsafe fn exponents_16<const SHIFT: i32>(x: __m256i, y: __m256i) -> __m256i {
    // SAFETY: the caller's.
    unsafe {
        let upper = _mm256_blend_epi16::<0xaa>(_mm256_srli_epi32::<16>(x), y);
        _mm256_srli_epi16::<SHIFT>(_mm256_add_epi16(upper, upper))
    }
}

/// The upper 32 bits of eight floats of 64.
///
/// # Safety
///
/// The machine must have AVX2.
#[inline(always)]
unsafe fn upper_halves(x: __m256d, y: __m256d) -> __m256i {
    // SAFETY: the caller's.
    unsafe {
        _mm256_castps_si256(_mm256_shuffle_ps::<0xdd>(
            _mm256_castpd_ps(x),
            _mm256_castpd_ps(y),
        ))
    }
}
