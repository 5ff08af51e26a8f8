//! Lanes as 256-bit registers.

use std::arch::x86_64::{
    __m256, __m256d, __m256i, _CMP_EQ_OQ, _CMP_LT_OQ, _mm256_add_pd, _mm256_add_ps, _mm256_and_pd,
    _mm256_and_ps, _mm256_castpd_si256, _mm256_castps_si256, _mm256_castps256_ps128, _mm256_cmp_pd,
    _mm256_cmp_ps, _mm256_cvtps_pd, _mm256_extractf128_ps, _mm256_loadu_pd, _mm256_loadu_ps,
    _mm256_max_pd, _mm256_max_ps, _mm256_min_pd, _mm256_mul_pd, _mm256_mul_ps, _mm256_set1_pd,
    _mm256_set1_ps, _mm256_setzero_si256, _mm256_storeu_pd, _mm256_storeu_ps, _mm256_storeu_si256,
    _mm256_sub_epi32, _mm256_sub_epi64, _mm256_sub_pd, _mm256_sub_ps,
};

use super::Simd;

/// Proof that this machine has AVX2.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// # Safety
    ///
    /// The machine must have AVX2.
    pub(crate) const unsafe fn new() -> Self {
        Self(())
    }
}

/// One intrinsic, or a few.
macro_rules! avx2 {
    ($body:expr) => {
        // SAFETY: `self` was made where AVX2 was detected, and pointers come from references to
        // arrays of just the size that is loaded or stored, at any alignment.
        unsafe { $body }
    };
}

impl Simd for Avx2 {
    type F32 = __m256;
    type F64 = __m256d;
    type Counts32 = __m256i;
    type Counts64 = __m256i;

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
    fn sum_counts64(self, counts: __m256i) -> u64 {
        let mut lanes = [0u64; 4];
        avx2!(_mm256_storeu_si256(lanes.as_mut_ptr().cast(), counts));
        lanes.into_iter().sum()
    }
}
