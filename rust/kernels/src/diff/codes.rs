//! The codes of a block: as stored, unpacked to one a byte, or cast.

use crate::cast::cast;
use crate::decode::unpack;
use crate::dtype::DType;
use crate::level::Level;
use crate::passes::{CodeDistance, CodeOrder};
use crate::quantised;

/// The codes of one side of a block, and what they are codes of.
#[derive(Clone, Copy)]
pub(super) struct Codes<'a> {
    pub(super) dtype: DType,
    pub(super) bytes: &'a [u8],
}

impl<'a> Codes<'a> {
    /// The codes to compare: those of `raw`, unpacked and cast where necessary.
    pub(super) fn prepare(
        level: Level,
        dtype: DType,
        raw: &'a [u8],
        elements: usize,
        cast_to: Option<DType>,
        unpacked: &'a mut [u8],
        converted: &'a mut [u8],
    ) -> Self {
        let bytes = if dtype.is_packed() {
            unpack(dtype, raw, &mut unpacked[..elements]);
            &unpacked[..elements]
        } else {
            raw
        };
        match cast_to {
            Some(target) if target != dtype => {
                let bytes = cast(level, dtype, bytes, elements, target, converted);
                Self {
                    dtype: target,
                    bytes,
                }
            }
            _ => Self { dtype, bytes },
        }
    }

    /// Those of `count` elements from `start` on, which a block of a quantised dtype begins at.
    pub(super) fn of(self, start: usize, count: usize) -> &'a [u8] {
        if self.dtype.is_packed() {
            &self.bytes[start..start + count]
        } else {
            &self.bytes[self.dtype.byte_range(start, count)]
        }
    }

    pub(super) fn is_float(self) -> bool {
        !self.dtype.is_integer()
    }

    pub(super) fn code_bytes(self) -> usize {
        if self.dtype.is_packed() {
            1
        } else {
            self.dtype.granule().bytes as usize / self.dtype.components()
        }
    }

    /// Whether every value is zero, whatever its sign; not meant to be fast.
    pub(super) fn all_zero(self) -> bool {
        if self.dtype.is_quantised() {
            return quantised::all_zero(self.dtype, self.bytes);
        }
        let width = self.code_bytes();
        let zero = |code: &[u8]| {
            code.iter().rev().enumerate().all(|(position, byte)| {
                let sign = if position == 0 { self.sign_bit() } else { 0 };
                byte & !sign == 0
            })
        };
        // No look at each code where all are the most common of zeros.
        let no_bits = || self.bytes.iter().fold(0, |bits, byte| bits | byte) == 0;
        // 2^-127 is the code of zero bits, and there is no zero; see `power_of_two`.
        self.dtype != DType::F8E8M0 && (no_bits() || self.bytes.chunks_exact(width).all(zero))
    }

    /// The sign in a code's most significant byte, for types that have a negative zero.
    fn sign_bit(self) -> u8 {
        match self.dtype {
            DType::F4 => 0x08,
            DType::F6E2M3 | DType::F6E3M2 => 0x20,
            // Their code of a lone sign is NaN, which no sum of squares of 0 can come from.
            float if float.float_format().is_some() => 0x80,
            _ => 0,
        }
    }

    /// How far apart the codes are at most, and how many differ.
    pub(super) fn distance(self, level: Level, other: &[u8]) -> (u64, u64) {
        let (order, width) = match self.dtype {
            DType::Bool | DType::U8 | DType::U16 | DType::U32 | DType::U64 | DType::F8E8M0 => {
                (CodeOrder::Unsigned, 0)
            }
            DType::I8 | DType::I16 | DType::I32 | DType::I64 => (CodeOrder::Signed, 0),
            float => {
                let width = float
                    .float_format()
                    .map_or(0, |format| 1 + format.exponent_bits + format.mantissa_bits);
                (CodeOrder::SignMagnitude, width)
            }
        };
        level.run(CodeDistance {
            bytes: self.code_bytes(),
            width: if width == 0 {
                8 * self.code_bytes() as u32
            } else {
                width
            },
            order,
            a: self.bytes,
            b: other,
        })
    }
}
