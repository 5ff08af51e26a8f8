//! How many elements differ once both sides are rounded to bfloat16: what a run that trains in f32
//! and computes in bf16 sees of an update.

use crate::BLOCK;
use crate::cast::cast;
use crate::decode::{DecodeNarrow, unpack};
use crate::dtype::{DType, Domain};
use crate::level::{Level, Pass};
use crate::simd::Simd;

/// Rounds and compares runs of bytes. Holds scratch blocks, so make one per thread.
pub struct Bf16Comparison {
    level: Level,
    a: Box<Side>,
    b: Box<Side>,
}

/// One side of a block.
struct Side {
    unpacked: [u8; BLOCK],
    singles: [f32; BLOCK],
    bytes: [u8; 2 * BLOCK],
    codes: [u16; BLOCK],
}

impl Side {
    const fn new() -> Self {
        Self {
            unpacked: [0; BLOCK],
            singles: [0.0; BLOCK],
            bytes: [0; 2 * BLOCK],
            codes: [0; BLOCK],
        }
    }
}

impl Bf16Comparison {
    /// A comparison, compiled for `level`.
    pub fn new(level: Level) -> Self {
        Self {
            level,
            a: Box::new(Side::new()),
            b: Box::new(Side::new()),
        }
    }

    /// How many of `elements` elements, given as raw bytes, differ in value once both are rounded,
    /// to nearest, ties to even. Two NaN are equal, as are 0 and −0; a complex number differs where
    /// either part does.
    ///
    /// # Panics
    ///
    /// Where a side has fewer bytes than the elements need.
    pub fn changed(
        &mut self,
        (dtype_a, a): (DType, &[u8]),
        (dtype_b, b): (DType, &[u8]),
        elements: usize,
    ) -> u64 {
        let components = dtype_a.components().max(dtype_b.components());
        let step = BLOCK / components;
        let mut changed = 0;
        let mut start = 0;
        while start < elements {
            let count = step.min(elements - start);
            let raw_a = &a[dtype_a.byte_range(start, count)];
            let raw_b = &b[dtype_b.byte_range(start, count)];
            start += count;
            if dtype_a == dtype_b && raw_a == raw_b {
                continue;
            }
            let a = self.a.round(self.level, dtype_a, raw_a, count, components);
            let b = self.b.round(self.level, dtype_b, raw_b, count, components);
            changed += self.level.run(CountChanged { a, b, components });
        }
        changed
    }
}

impl Side {
    /// The codes of a block, rounded; all NaN are one code, and so are both zeros.
    fn round(
        &mut self,
        level: Level,
        dtype: DType,
        raw: &[u8],
        elements: usize,
        components: usize,
    ) -> &[u16] {
        let own = elements * dtype.components();
        let codes = if dtype.is_packed() {
            let unpacked = &mut self.unpacked[..elements];
            unpack(dtype, raw, unpacked);
            &*unpacked
        } else {
            raw
        };
        let out = &mut self.codes[..own];
        let singles = &mut self.singles[..own];
        match (dtype, dtype.domain()) {
            (DType::F32 | DType::C64, _) => {
                for (single, code) in singles.iter_mut().zip(codes.as_chunks().0) {
                    *single = f32::from_le_bytes(*code);
                }
                level.run(RoundSingles { singles, out });
            }
            (_, Domain::Narrow) => {
                level.run(DecodeNarrow {
                    dtype,
                    codes,
                    out: &mut *singles,
                });
                level.run(RoundSingles { singles, out });
            }
            // Rounded from the exact value: through f32 it would be rounded twice.
            (_, Domain::Wide | Domain::Integer) => {
                let bytes = cast(level, dtype, codes, own, DType::BF16, &mut self.bytes);
                for (code, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                    *code = canonical(u16::from_le_bytes(*bytes));
                }
            }
        }
        if dtype.components() < components {
            for index in (0..elements).rev() {
                let code = self.codes[index];
                let element = &mut self.codes[index * components..(index + 1) * components];
                element.fill(0);
                element[0] = code;
            }
        }
        &self.codes[..elements * components]
    }
}

/// One code for all NaN, and one for both zeros.
#[inline(always)]
fn canonical(code: u16) -> u16 {
    if code & 0x7fff > 0x7f80 {
        0x7fc0
    } else if code == 0x8000 {
        0
    } else {
        code
    }
}

struct RoundSingles<'a> {
    singles: &'a [f32],
    out: &'a mut [u16],
}

impl Pass for RoundSingles<'_> {
    type Output = ();
    const LEFT_TO_COMPILER: bool = true;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (out, single) in self.out.iter_mut().zip(self.singles) {
            let bits = single.to_bits();
            // Half of what is cut off, less one where the last bit that stays is even.
            let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
            let code = if bits & 0x7fff_ffff > 0x7f80_0000 {
                0x7fc0
            } else {
                rounded
            };
            *out = if code == 0x8000 { 0 } else { code as u16 };
        }
    }
}

struct CountChanged<'a> {
    a: &'a [u16],
    b: &'a [u16],
    components: usize,
}

impl Pass for CountChanged<'_> {
    type Output = u64;
    const LEFT_TO_COMPILER: bool = true;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> u64 {
        let Self { a, b, components } = self;
        let mut changed = 0u32;
        if components == 1 {
            for (a, b) in a.iter().zip(b) {
                changed += u32::from(a != b);
            }
        } else {
            for (a, b) in a.as_chunks::<2>().0.iter().zip(b.as_chunks::<2>().0) {
                changed += u32::from(a != b);
            }
        }
        u64::from(changed)
    }
}
