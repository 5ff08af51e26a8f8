//! The values of one tensor, decoded, for what needs a whole matrix at once.

use std::ops::Range;

use ckptdiff_kernels::{Level, ValuesKernel};

use crate::error::Error;
use crate::execute::Control;
use crate::manifest::Manifest;
use crate::reader::{Files, Reader, byte_range, pieces};
use crate::run::known_dtype;
use crate::source::Reading;

/// Some elements of a tensor, checked: it exists, its dtype is known, and it has so many.
pub struct ValuesRun<'a> {
    manifest: &'a Manifest,
    index: u32,
    elements: Range<u64>,
}

impl<'a> ValuesRun<'a> {
    /// The elements of the tensor at `index` that are in `elements`, cut to those there are.
    pub fn new(manifest: &'a Manifest, index: u32, elements: Range<u64>) -> Result<Self, Error> {
        known_dtype(manifest, index, None)?;
        let total = manifest.tensor(index as usize).elements();
        let start = elements.start.min(total);
        Ok(Self {
            manifest,
            index,
            elements: start..elements.end.clamp(start, total),
        })
    }

    /// How many bytes the values take: for each element a float of `value_bytes` of its dtype, or
    /// two for a complex number.
    pub fn bytes(&self) -> Result<u64, Error> {
        let dtype = known_dtype(self.manifest, self.index, None)?;
        let width = (dtype.value_bytes() * dtype.components()) as u64;
        Ok((self.elements.end - self.elements.start).saturating_mul(width))
    }

    /// Decode them into `out`, which has as many [`bytes`](Self::bytes), as little-endian floats.
    pub fn decode(&self, out: &mut [u8], control: &Control) -> Result<(), Error> {
        let dtype = known_dtype(self.manifest, self.index, None)?;
        let tensor = self.manifest.tensor(self.index as usize);
        let width = dtype.value_bytes() * dtype.components();
        let granule = dtype.granule().elements;
        let wanted = &self.elements;
        // Granules are read whole; of the first and the last only a part may be wanted.
        let whole = wanted.start / granule * granule..wanted.end.next_multiple_of(granule);
        let files = Files::new(Reading::Auto, 1, 1);
        let mut reader = Reader::new(self.manifest);
        let mut kernel = ValuesKernel::new(Level::best());
        let mut partly = Vec::new();
        let in_place = reader.in_place(&files, tensor);
        for piece in pieces(whole, dtype.bits(), files.piece_bytes(in_place)) {
            control.check()?;
            let count = (piece.end - piece.start) as usize;
            let bytes = reader.read(&files, tensor, byte_range(&piece, dtype))?;
            let from = piece.start.max(wanted.start);
            let to = piece.end.min(wanted.end);
            let place = |element: u64| (element - wanted.start) as usize * width;
            let target = &mut out[place(from)..place(to)];
            if (from, to) == (piece.start, piece.end) {
                kernel.decode(dtype, bytes, count, target);
            } else {
                partly.resize(count * width, 0);
                kernel.decode(dtype, bytes, count, &mut partly);
                let skipped = (from - piece.start) as usize * width;
                target.copy_from_slice(&partly[skipped..skipped + target.len()]);
            }
            let read = bytes.len() as u64;
            reader.release(tensor)?;
            control.add_done(read);
        }
        Ok(())
    }
}
