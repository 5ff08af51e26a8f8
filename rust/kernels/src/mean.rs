//! The mean of several runs as averaging checkpoints in float32 makes it, rounded to a dtype.

use crate::BLOCK;
use crate::cast::cast;
use crate::dtype::DType;
use crate::level::Level;
use crate::values::Decoder;

/// Averages runs of bytes. Holds a block of scratch, so make one per thread.
pub struct MeanKernel {
    level: Level,
    decoder: Decoder,
    values: Box<[f64; BLOCK]>,
    sums: Box<[f32; BLOCK]>,
    singles: Vec<u8>,
    codes: Box<[u8; 8 * BLOCK]>,
}

impl MeanKernel {
    /// A kernel, compiled for `level`.
    pub fn new(level: Level) -> Self {
        Self {
            level,
            decoder: Decoder::new(level),
            values: Box::new([0.0; BLOCK]),
            sums: Box::new([0.0; BLOCK]),
            singles: Vec::with_capacity(4 * BLOCK),
            codes: Box::new([0; 8 * BLOCK]),
        }
    }

    /// Whether a mean can be rounded to this dtype.
    pub fn rounds_to(dtype: DType) -> bool {
        dtype.is_integer() || DType::CAST_TARGETS.contains(&part_of(dtype))
    }

    /// Write the mean of `parts`, runs of `elements` elements, to `out`, as bytes of `target`.
    ///
    /// Each part is rounded to float32, these are summed in their order and divided by their
    /// number, all in float32; the mean is rounded to nearest, ties to even, and to the ends of an
    /// integer's range.
    ///
    /// # Panics
    ///
    /// Where a part has fewer bytes than the elements need, there is no part, or no mean can be
    /// [rounded to](Self::rounds_to) `target`.
    pub fn mean(
        &mut self,
        parts: &[(DType, &[u8])],
        target: DType,
        elements: usize,
        out: &mut Vec<u8>,
    ) {
        assert!(Self::rounds_to(target), "{target} cannot be rounded to");
        assert!(!parts.is_empty(), "a mean of something");
        out.clear();
        let own = parts.iter().map(|(dtype, _)| dtype.components()).max();
        let components = own.unwrap_or(1).max(target.components());
        let step = BLOCK / components;
        let mut start = 0;
        while start < elements {
            let count = step.min(elements - start);
            let floats = count * components;
            for (index, (dtype, bytes)) in parts.iter().enumerate() {
                let raw = &bytes[dtype.byte_range(start, count)];
                let values = &mut self.values[..floats];
                self.decoder.decode(*dtype, raw, count, components, values);
                for (sum, value) in self.sums.iter_mut().zip(&*values) {
                    let single = *value as f32;
                    *sum = if index == 0 { single } else { *sum + single };
                }
            }
            for sum in &mut self.sums[..floats] {
                *sum /= parts.len() as f32;
            }
            self.encode(target, components, floats, out);
            start += count;
        }
    }

    /// Append the sums, which are means by now, as codes of `target`.
    fn encode(&mut self, target: DType, components: usize, floats: usize, out: &mut Vec<u8>) {
        // Of a real target the imaginary parts are of no use.
        let stride = components / target.components();
        let means = self.sums[..floats].iter().step_by(stride);
        macro_rules! integers {
            ($integer:ty) => {
                // `as` saturates.
                means
                    .flat_map(|mean| (mean.round_ties_even() as $integer).to_le_bytes())
                    .for_each(|byte| out.push(byte))
            };
        }
        match target {
            DType::Bool => out.extend(means.map(|mean| u8::from(mean.round_ties_even() != 0.0))),
            DType::U8 => integers!(u8),
            DType::I8 => integers!(i8),
            DType::U16 => integers!(u16),
            DType::I16 => integers!(i16),
            DType::U32 => integers!(u32),
            DType::I32 => integers!(i32),
            DType::U64 => integers!(u64),
            DType::I64 => integers!(i64),
            float => {
                self.singles.clear();
                self.singles
                    .extend(means.flat_map(|mean| mean.to_le_bytes()));
                let codes = cast(
                    self.level,
                    DType::F32,
                    &self.singles,
                    floats / stride,
                    part_of(float),
                    &mut *self.codes,
                );
                out.extend_from_slice(codes);
            }
        }
    }
}

/// What the parts of a complex number are, or the dtype itself.
const fn part_of(dtype: DType) -> DType {
    match dtype {
        DType::C64 => DType::F32,
        DType::C128 => DType::F64,
        real => real,
    }
}
