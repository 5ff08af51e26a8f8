//! Codes to values, for those who compute with them elsewhere.
//!
//! Values come as little-endian floats: `f32` where it holds every value of the dtype exactly,
//! which makes a matrix of 16-bit weights half as large, and `f64` where it does not.

use crate::BLOCK;
use crate::decode::{Aligned, DecodeNarrow, DecodeWide, unpack};
use crate::dtype::{DType, Domain};
use crate::level::Level;

/// Decodes runs of bytes. Holds scratch blocks, so make one per thread.
pub struct ValuesKernel {
    level: Level,
    narrow: Box<Aligned<f32>>,
    wide: Box<Aligned<f64>>,
    unpacked: Box<[u8; BLOCK]>,
}

impl DType {
    /// Bytes of the float that a value is given as: 4 where `f32` holds each exactly, else 8.
    ///
    /// 64-bit integers are rounded to `f64`. The values of quantised dtypes are defined in `f32`.
    pub const fn value_bytes(self) -> usize {
        match self {
            Self::F64 | Self::C128 | Self::U32 | Self::I32 | Self::U64 | Self::I64 => 8,
            _ => 4,
        }
    }
}

impl ValuesKernel {
    /// A kernel compiled for `level`.
    pub fn new(level: Level) -> Self {
        Self {
            level,
            narrow: Box::new(Aligned([0.0; BLOCK])),
            wide: Box::new(Aligned([0.0; BLOCK])),
            unpacked: Box::new([0; BLOCK]),
        }
    }

    /// Decode `elements` elements, the first of which begins a granule, into `out`: for each, one
    /// float of [`DType::value_bytes`], or two for a complex number.
    ///
    /// # Panics
    ///
    /// Where there are fewer bytes than the elements need, or `out` has another size.
    pub fn decode(&mut self, dtype: DType, bytes: &[u8], elements: usize, out: &mut [u8]) {
        let components = dtype.components();
        let width = dtype.value_bytes() * components;
        assert_eq!(out.len(), elements * width, "one float per component");
        if cfg!(target_endian = "little") && matches!(dtype, DType::F32 | DType::F64) {
            out.copy_from_slice(&bytes[..elements * width]);
            return;
        }
        let step = BLOCK / components;
        for (number, out) in out.chunks_mut(step * width).enumerate() {
            let count = out.len() / width;
            let raw = &bytes[dtype.byte_range(number * step, count)];
            self.decode_block(dtype, raw, count, out);
        }
    }

    fn decode_block(&mut self, dtype: DType, raw: &[u8], elements: usize, out: &mut [u8]) {
        let codes = if dtype.is_packed() {
            unpack(dtype, raw, &mut self.unpacked[..elements]);
            &self.unpacked[..elements]
        } else {
            raw
        };
        let floats = elements * dtype.components();
        if dtype.domain() == Domain::Narrow {
            let values = &mut self.narrow.0[..floats];
            self.level.run(DecodeNarrow {
                dtype,
                codes,
                out: values,
            });
            for (bytes, value) in out.as_chunks_mut().0.iter_mut().zip(&*values) {
                *bytes = value.to_le_bytes();
            }
            return;
        }
        let values = &mut self.wide.0[..floats];
        self.level.run(DecodeWide {
            dtype,
            codes,
            out: values,
        });
        if dtype.value_bytes() == 8 {
            for (bytes, value) in out.as_chunks_mut().0.iter_mut().zip(&*values) {
                *bytes = value.to_le_bytes();
            }
        } else {
            for (bytes, value) in out.as_chunks_mut().0.iter_mut().zip(&*values) {
                // exact: it is what this dtype's values are defined in
                *bytes = (*value as f32).to_le_bytes();
            }
        }
    }
}
