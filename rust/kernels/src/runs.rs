//! Runs of values, as passes load them: narrow ones 32 at a time, wide ones a row of eight.
//!
//! The common types are decoded on the way from the codes into registers; for any other the block
//! is decoded first, and [`Decoded`] loads the result.

use crate::decode::PADDING;
use crate::simd::Simd;

/// Values that are loaded by one iteration of a pass, in two steps.
const HALF: usize = PADDING / 2;

/// A run of narrow values whose length is a multiple of [`PADDING`].
pub(crate) trait NarrowRun: Copy {
    /// How many times 32 values there are; an even number.
    fn halves(self) -> usize;

    /// Sixteen values, one half or the other of these 32, in an order that is the same at every
    /// level.
    fn load<S: Simd>(self, simd: S, half: usize, quarter: usize) -> [S::F32; 2];
}

/// Values that were decoded into memory.
#[derive(Clone, Copy)]
pub(crate) struct Decoded<'a>(&'a [[f32; HALF]]);

impl<'a> Decoded<'a> {
    pub(crate) fn new(values: &'a [f32]) -> Self {
        Self(values.as_chunks().0)
    }
}

impl NarrowRun for Decoded<'_> {
    #[inline(always)]
    fn halves(self) -> usize {
        self.0.len()
    }

    #[inline(always)]
    fn load<S: Simd>(self, simd: S, half: usize, quarter: usize) -> [S::F32; 2] {
        let rows = self.0[half].as_chunks::<8>().0;
        [
            simd.load_f32(&rows[2 * quarter]),
            simd.load_f32(&rows[2 * quarter + 1]),
        ]
    }
}

macro_rules! codes {
    ($name:ident, $bytes:literal, $load:ident, $what:literal) => {
        #[doc = $what]
        #[derive(Clone, Copy)]
        pub(crate) struct $name<'a>(&'a [[u8; HALF * $bytes]]);

        impl<'a> $name<'a> {
            pub(crate) fn new(codes: &'a [u8]) -> Self {
                Self(codes.as_chunks().0)
            }
        }

        impl NarrowRun for $name<'_> {
            #[inline(always)]
            fn halves(self) -> usize {
                self.0.len()
            }

            #[inline(always)]
            fn load<S: Simd>(self, simd: S, half: usize, quarter: usize) -> [S::F32; 2] {
                simd.$load(&self.0[half].as_chunks().0[quarter])
            }
        }
    };
}

codes!(Bf16Codes, 2, load_bf16, "Codes of bfloat16.");
codes!(F16Codes, 2, load_f16, "Codes of IEEE half precision.");
codes!(
    E4m3Codes,
    1,
    load_f8_e4m3,
    "Codes of the 8-bit float with 4 bits of exponent."
);
codes!(
    E5m2Codes,
    1,
    load_f8_e5m2,
    "Codes of the 8-bit float with 5 bits of exponent."
);

impl NarrowRun for F32Codes<'_> {
    #[inline(always)]
    fn halves(self) -> usize {
        self.0.len() * 8 / HALF
    }

    #[inline(always)]
    fn load<S: Simd>(self, simd: S, half: usize, quarter: usize) -> [S::F32; 2] {
        let rows = &self.0.as_chunks::<4>().0[half].as_chunks::<2>().0;
        let [first, second] = &rows[quarter];
        [simd.load_f32_bytes(first), simd.load_f32_bytes(second)]
    }
}

/// `$body` with `$new` bound to what makes a run of the codes of `$dtype`, which is one of those
/// that [`Level::loads_codes`](crate::Level).
macro_rules! with_codes {
    ($dtype:expr, $new:ident => $body:expr) => {
        match $dtype {
            DType::BF16 => {
                let $new = $crate::runs::Bf16Codes::new;
                $body
            }
            DType::F16 => {
                let $new = $crate::runs::F16Codes::new;
                $body
            }
            DType::F8E4M3 => {
                let $new = $crate::runs::E4m3Codes::new;
                $body
            }
            _ => {
                let $new = $crate::runs::E5m2Codes::new;
                $body
            }
        }
    };
}
pub(crate) use with_codes;

/// A run of wide values whose length is a multiple of eight.
pub(crate) trait WideRun: Copy {
    /// How many rows of eight there are.
    fn rows(self) -> usize;

    /// Eight values.
    fn load<S: Simd>(self, simd: S, row: usize) -> [S::F64; 2];
}

/// Values that were decoded into memory.
#[derive(Clone, Copy)]
pub(crate) struct Values<'a>(&'a [[f64; 8]]);

impl<'a> Values<'a> {
    pub(crate) fn new(values: &'a [f64]) -> Self {
        Self(values.as_chunks().0)
    }
}

impl WideRun for Values<'_> {
    #[inline(always)]
    fn rows(self) -> usize {
        self.0.len()
    }

    #[inline(always)]
    fn load<S: Simd>(self, simd: S, row: usize) -> [S::F64; 2] {
        let halves = self.0[row].as_chunks::<4>().0;
        [simd.load_f64(&halves[0]), simd.load_f64(&halves[1])]
    }
}

/// Codes of `f32`.
#[derive(Clone, Copy)]
pub(crate) struct F32Codes<'a>(&'a [[u8; 32]]);

impl<'a> F32Codes<'a> {
    pub(crate) fn new(codes: &'a [u8]) -> Self {
        Self(codes.as_chunks().0)
    }
}

impl WideRun for F32Codes<'_> {
    #[inline(always)]
    fn rows(self) -> usize {
        self.0.len()
    }

    #[inline(always)]
    fn load<S: Simd>(self, simd: S, row: usize) -> [S::F64; 2] {
        simd.load_f32_codes(&self.0[row])
    }
}

/// Codes of `f64`.
#[derive(Clone, Copy)]
pub(crate) struct F64Codes<'a>(&'a [[u8; 64]]);

impl<'a> F64Codes<'a> {
    pub(crate) fn new(codes: &'a [u8]) -> Self {
        Self(codes.as_chunks().0)
    }
}

impl WideRun for F64Codes<'_> {
    #[inline(always)]
    fn rows(self) -> usize {
        self.0.len()
    }

    #[inline(always)]
    fn load<S: Simd>(self, simd: S, row: usize) -> [S::F64; 2] {
        let halves = self.0[row].as_chunks::<32>().0;
        [
            simd.load_f64_bytes(&halves[0]),
            simd.load_f64_bytes(&halves[1]),
        ]
    }
}
