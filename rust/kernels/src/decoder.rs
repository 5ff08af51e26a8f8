//! A run of any dtype as `f64` values, for kernels that hold many runs against each other.
//!
//! Exact, but for 64-bit integers beyond 2^53, which become the nearest `f64`.

use crate::BLOCK;
use crate::decode::{Aligned, DecodeNarrow, DecodeWide, Widen, unpack};
use crate::dtype::{DType, Domain};
use crate::level::Level;

/// Decodes runs of at most a block. Holds scratch, so make one per thread.
pub(crate) struct Decoder {
    level: Level,
    narrow: Box<Aligned<f32>>,
    unpacked: Box<[u8; BLOCK]>,
}

impl Decoder {
    pub(crate) fn new(level: Level) -> Self {
        Self {
            level,
            narrow: Box::new(Aligned([0.0; BLOCK])),
            unpacked: Box::new([0; BLOCK]),
        }
    }

    /// Decode values of a narrow dtype, all of which `f32` holds.
    pub(crate) fn decode_narrow(
        &mut self,
        dtype: DType,
        raw: &[u8],
        elements: usize,
        out: &mut [f32],
    ) {
        let codes = if dtype.is_packed() {
            let unpacked = &mut self.unpacked[..elements];
            unpack(dtype, raw, unpacked);
            &*unpacked
        } else {
            raw
        };
        self.level.run(DecodeNarrow {
            dtype,
            codes,
            out: &mut out[..elements],
        });
    }

    /// Decode into `out`, which has room for `components` floats of each element. A real element
    /// is followed by zeros where that is more than it has.
    pub(crate) fn decode(
        &mut self,
        dtype: DType,
        raw: &[u8],
        elements: usize,
        components: usize,
        out: &mut [f64],
    ) {
        let own = elements * dtype.components();
        let codes = if dtype.is_packed() {
            let unpacked = &mut self.unpacked[..elements];
            unpack(dtype, raw, unpacked);
            &*unpacked
        } else {
            raw
        };
        match dtype.domain() {
            Domain::Narrow => {
                let narrow = &mut self.narrow.0[..own];
                self.level.run(DecodeNarrow {
                    dtype,
                    codes,
                    out: &mut *narrow,
                });
                self.level.run(Widen {
                    narrow,
                    out: &mut out[..own],
                });
            }
            Domain::Wide | Domain::Integer => self.level.run(DecodeWide {
                dtype,
                codes,
                out: &mut out[..own],
            }),
        }
        if dtype.components() < components {
            for index in (0..elements).rev() {
                let value = out[index];
                let element = &mut out[index * components..(index + 1) * components];
                element.fill(0.0);
                element[0] = value;
            }
        }
    }
}
