//! Runs of values, as passes load them: narrow ones 32 at a time, wide ones a row of eight.
//!
//! The common types are decoded on the way from the codes into registers; for any other the block
//! is decoded first, and [`Decoded`] loads the result.

use crate::decode::PADDING;
use crate::simd::{Short, Simd};

/// Values that are loaded by one iteration of a pass, in two steps.
const HALF: usize = PADDING / 2;

/// A run of narrow values whose length is a multiple of [`PADDING`].
pub(crate) trait NarrowRun: Copy {
    /// How many times 32 values there are; an even number.
    fn halves(self) -> usize;

    /// Sixteen values, one half or the other of these 32, in an order that is the same at every
    /// level.
    fn load<S: Simd>(self, simd: S, half: usize, quarter: usize) -> [S::F32; 2];

    /// The same, and where a register holds two places, of this and of the one [`APART`] from it.
    #[inline(always)]
    fn load_short<V: Short>(self, short: V, half: usize, quarter: usize) -> [V::Floats; 2] {
        let [a, b] = self.load(short.simd(), half, quarter);
        let [c, d] = self.load(short.simd(), other_place::<V>(half), quarter);
        [short.join(a, c), short.join(b, d)]
    }
}

/// How many times 32 values two places lie apart that are loaded at once.
pub(crate) const APART: usize = 4;

#[inline(always)]
fn other_place<V: Short>(half: usize) -> usize {
    half + (V::PLACES - 1) * APART
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

            #[inline(always)]
            fn load_short<V: Short>(self, short: V, half: usize, quarter: usize) -> [V::Floats; 2] {
                let other = other_place::<V>(half);
                let place = &self.0[half].as_chunks().0[quarter];
                short.$load(place, &self.0[other].as_chunks().0[quarter])
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
    FiniteE4m3Codes,
    1,
    load_finite_f8_e4m3,
    "The same where all are finite, in units of 2^8."
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

/// A run of which each row of eight values is exact in `f32`.
pub(crate) trait SingleRun: WideRun {
    /// The eight values of a row, in their order.
    fn load_single<S: Simd>(self, simd: S, row: usize) -> S::F32;
}

impl SingleRun for F32Codes<'_> {
    #[inline(always)]
    fn load_single<S: Simd>(self, simd: S, row: usize) -> S::F32 {
        simd.load_f32_bytes(&self.0[row])
    }
}

macro_rules! rows {
    ($name:ident, $load:ident, $what:literal) => {
        #[doc = $what]
        #[derive(Clone, Copy)]
        pub(crate) struct $name<'a>(&'a [[u8; 16]]);

        impl<'a> $name<'a> {
            pub(crate) fn new(codes: &'a [u8]) -> Self {
                Self(codes.as_chunks().0)
            }
        }

        impl SingleRun for $name<'_> {
            #[inline(always)]
            fn load_single<S: Simd>(self, simd: S, row: usize) -> S::F32 {
                simd.$load(&self.0[row])
            }
        }

        impl WideRun for $name<'_> {
            #[inline(always)]
            fn rows(self) -> usize {
                self.0.len()
            }

            #[inline(always)]
            fn load<S: Simd>(self, simd: S, row: usize) -> [S::F64; 2] {
                simd.widen(self.load_single(simd, row))
            }
        }

        impl NarrowRun for $name<'_> {
            #[inline(always)]
            fn halves(self) -> usize {
                self.0.len() * 8 / HALF
            }

            #[inline(always)]
            fn load<S: Simd>(self, simd: S, half: usize, quarter: usize) -> [S::F32; 2] {
                let row = half * (HALF / 8) + 2 * quarter;
                [self.load_single(simd, row), self.load_single(simd, row + 1)]
            }
        }
    };
}

rows!(
    Bf16Rows,
    load_bf16_row,
    "Codes of bfloat16 in their order, which those of other dtypes have."
);
rows!(
    F16Rows,
    load_f16_row,
    "Codes of IEEE half precision in their order."
);

/// Codes of signed integers of 32 bits.
#[derive(Clone, Copy)]
pub(crate) struct I32Codes<'a>(&'a [[u8; 32]]);

/// Codes of unsigned integers of 32 bits.
#[derive(Clone, Copy)]
pub(crate) struct U32Codes<'a>(&'a [[u8; 32]]);

/// Codes of signed integers of 64 bits, all of [-2^51, 2^51).
#[derive(Clone, Copy)]
pub(crate) struct I64Codes<'a>(&'a [[u8; 64]]);

/// Codes of unsigned integers of 64 bits, all below 2^52.
#[derive(Clone, Copy)]
pub(crate) struct U64Codes<'a>(&'a [[u8; 64]]);

/// Codes of `f64`.
#[derive(Clone, Copy)]
pub(crate) struct F64Codes<'a>(&'a [[u8; 64]]);

/// A row is loaded at once, or in two halves.
macro_rules! wide_codes {
    ($name:ident, $simd:ident, $row:ident => $load:expr) => {
        impl<'a> $name<'a> {
            pub(crate) fn new(codes: &'a [u8]) -> Self {
                Self(codes.as_chunks().0)
            }
        }

        impl WideRun for $name<'_> {
            #[inline(always)]
            fn rows(self) -> usize {
                self.0.len()
            }

            #[inline(always)]
            fn load<S: Simd>(self, $simd: S, row: usize) -> [S::F64; 2] {
                let $row = &self.0[row];
                $load
            }
        }
    };
    ($name:ident, $load:ident, halves) => {
        wide_codes!($name, simd, row => {
            let halves = row.as_chunks::<32>().0;
            [simd.$load(&halves[0]), simd.$load(&halves[1])]
        });
    };
}

wide_codes!(F32Codes, simd, row => simd.load_f32_codes(row));
wide_codes!(I32Codes, simd, row => simd.load_i32(row));
wide_codes!(U32Codes, simd, row => simd.load_u32(row));
wide_codes!(F64Codes, load_f64_bytes, halves);
wide_codes!(I64Codes, load_i64, halves);
wide_codes!(U64Codes, load_u64, halves);

/// Narrow values, widened on the way into registers.
#[derive(Clone, Copy)]
pub(crate) struct Widened<R>(pub(crate) R);

impl<R: NarrowRun> WideRun for Widened<R> {
    #[inline(always)]
    fn rows(self) -> usize {
        self.0.halves() * (HALF / 8)
    }

    #[inline(always)]
    fn load<S: Simd>(self, simd: S, row: usize) -> [S::F64; 2] {
        let rows = self.0.load(simd, row / 4, row / 2 % 2);
        simd.widen(rows[row % 2])
    }
}
