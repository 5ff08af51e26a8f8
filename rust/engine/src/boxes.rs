//! Tensors in boxes: what a training run has sharded over other dimensions than the first.
//!
//! Each box lies in one piece in its file, row after row of its own, and a row of the box is a run of
//! a longer row of the tensor. Listed one by one, runs would be millions of spans. So a tensor is
//! presented as one source: of what is asked for, each box has some consecutive rows, which are one
//! read, and go to where they belong.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::source::Source;

/// Boxes of one tensor; each is compared with all others.
pub(crate) const BOXES_AT_MOST: usize = 4096;

/// Bytes that are read of a box at once.
const READ_BYTES: u64 = 1 << 20;

/// A part of a tensor: where it begins in each dimension, and how far it goes.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) origin: Vec<u64>,
    pub(crate) sizes: Vec<u64>,
}

impl Part {
    /// How many elements it has.
    pub(crate) fn elements(&self) -> u64 {
        self.sizes.iter().product()
    }

    fn intersects(&self, other: &Self) -> bool {
        let one = self.origin.iter().zip(&self.sizes);
        let two = other.origin.iter().zip(&other.sizes);
        one.zip(two)
            .all(|((a, a_size), (b, b_size))| *a < b + b_size && *b < a + a_size)
    }
}

/// Whether these parts are the tensor, and none of them empty: nothing twice and nothing left out.
pub(crate) fn cover(shape: &[u64], parts: &[Part]) -> bool {
    let inside = |part: &Part| {
        part.origin.len() == shape.len()
            && part.sizes.len() == shape.len()
            && !part.sizes.contains(&0)
            && (part.origin.iter().zip(&part.sizes).zip(shape)).all(|((origin, size), whole)| {
                origin.checked_add(*size).is_some_and(|end| end <= *whole)
            })
    };
    if !parts.iter().all(inside) {
        return false;
    }
    let total: u128 = parts.iter().map(|part| u128::from(part.elements())).sum();
    let whole: u64 = shape.iter().product();
    total == u128::from(whole)
        && parts.iter().enumerate().all(|(index, part)| {
            parts[index + 1..]
                .iter()
                .all(|other| !part.intersects(other))
        })
}

/// A box and where its bytes are.
struct Placed {
    source: Arc<dyn Source>,
    offset: u64,
    /// Sizes of the dimensions that are walked, outermost first, and how far a step is.
    walked: Vec<(u64, u64)>,
    /// The tensor's byte at which the box begins.
    start: u64,
    /// Bytes of a run, and number of runs.
    run: u64,
    runs: u64,
}

impl Placed {
    fn new(source: Arc<dyn Source>, offset: u64, part: &Part, shape: &[u64], width: u64) -> Self {
        // Dimensions of which the box has all are a part of its runs, and so is the one before.
        let rank = shape.len();
        let whole = (0..rank)
            .rev()
            .take_while(|&at| part.sizes[at] == shape[at])
            .count();
        let first_whole = rank - whole;
        let mut steps = vec![width; rank];
        for at in (0..rank.saturating_sub(1)).rev() {
            steps[at] = steps[at + 1] * shape[at + 1];
        }
        let in_run = first_whole.saturating_sub(1);
        let start = part.origin.iter().zip(&steps).map(|(at, step)| at * step);
        let runs: u64 = part.sizes[..in_run].iter().product();
        let walked = part.sizes[..in_run].iter().copied();
        Self {
            source,
            offset,
            walked: walked.zip(steps.iter().copied()).collect(),
            start: start.sum(),
            run: part.elements() * width / runs,
            runs,
        }
    }

    /// Where in the tensor a run begins.
    fn run_start(&self, run: u64) -> u64 {
        let mut rest = run;
        let mut at = self.start;
        for (size, step) in self.walked.iter().rev() {
            at += rest % size * step;
            rest /= size;
        }
        at
    }

    /// The first run that begins at `byte` of the tensor or behind it.
    fn first_run_at(&self, byte: u64) -> u64 {
        let (mut low, mut high) = (0, self.runs);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.run_start(middle) < byte {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Put what the box has of the tensor's bytes from `offset` on where it belongs in `buffer`.
    fn fill(&self, offset: u64, buffer: &mut [u8], read: &mut Vec<u8>) -> io::Result<()> {
        let end = offset + buffer.len() as u64;
        let last = self.first_run_at(end);
        let mut run = self.first_run_at(offset + 1).saturating_sub(1);
        while run < last {
            let count = (READ_BYTES / self.run).clamp(1, last - run);
            // of a first and a last run, only what is asked for
            let skipped = offset.saturating_sub(self.run_start(run)).min(self.run);
            let left = (end - self.run_start(run + count - 1)).min(self.run);
            let from = run * self.run + skipped;
            let to = ((run + count - 1) * self.run + left).max(from);
            read.resize((to - from) as usize, 0);
            self.source.read_at(self.offset + from, read)?;
            let mut rest = &read[..];
            for one in run..run + count {
                let start = self.run_start(one).max(offset);
                let stop = (self.run_start(one) + self.run).min(end);
                if stop > start {
                    let (piece, behind) = rest.split_at((stop - start) as usize);
                    buffer[(start - offset) as usize..(stop - offset) as usize]
                        .copy_from_slice(piece);
                    rest = behind;
                }
            }
            run += count;
        }
        Ok(())
    }
}

/// A tensor in boxes, presented as its bytes in row-major order.
pub(crate) struct BoxedSource {
    boxes: Vec<Placed>,
    length: u64,
}

impl BoxedSource {
    /// Whoever makes one has made sure that the parts [`cover`] the shape.
    pub(crate) fn new(
        parts: impl IntoIterator<Item = (Arc<dyn Source>, u64, Part)>,
        shape: &[u64],
        width: u64,
    ) -> Self {
        Self {
            boxes: parts
                .into_iter()
                .map(|(source, offset, part)| Placed::new(source, offset, &part, shape, width))
                .collect(),
            length: shape.iter().product::<u64>() * width,
        }
    }
}

impl Source for BoxedSource {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = offset + buffer.len() as u64;
        if end > self.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut read = Vec::new();
        for placed in &self.boxes {
            let stop = placed.run_start(placed.runs - 1) + placed.run;
            if placed.start < end && offset < stop {
                placed.fill(offset, buffer, &mut read)?;
            }
        }
        Ok(())
    }

    fn has_file_offsets(&self) -> bool {
        false
    }

    fn path(&self) -> &Path {
        self.boxes
            .first()
            .map_or(Path::new(""), |placed| placed.source.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::testing::Bytes;
    use proptest::prelude::*;

    /// The parts that cuts of each dimension make.
    fn grid(shape: &[u64], cuts: &[u64]) -> Vec<Part> {
        let mut parts = vec![Part {
            origin: Vec::new(),
            sizes: Vec::new(),
        }];
        for (size, cut) in shape.iter().zip(cuts) {
            let pieces = [(0, *cut), (*cut, size - cut)];
            parts = parts
                .into_iter()
                .flat_map(|part| {
                    pieces
                        .iter()
                        .filter(|(_, size)| *size > 0)
                        .map(move |(at, size)| Part {
                            origin: [&part.origin[..], &[*at]].concat(),
                            sizes: [&part.sizes[..], &[*size]].concat(),
                        })
                })
                .collect();
        }
        parts
    }

    /// The bytes of a part, element by element.
    fn cut_out(whole: &[u8], shape: &[u64], part: &Part, width: u64) -> Vec<u8> {
        let mut bytes = vec![9; 3];
        for element in 0..part.elements() {
            let (mut rest, mut at, mut step) = (element, 0, 1);
            for axis in (0..shape.len()).rev() {
                at += (part.origin[axis] + rest % part.sizes[axis]) * step;
                rest /= part.sizes[axis];
                step *= shape[axis];
            }
            bytes.extend_from_slice(&whole[(at * width) as usize..((at + 1) * width) as usize]);
        }
        bytes
    }

    proptest! {
        #[test]
        fn boxes_put_together_are_the_tensor(
            dimensions in prop::collection::vec((1u64..12, 0u64..12), 0..4),
            width in prop::sample::select(vec![1u64, 2, 8]),
            piece in 1usize..200,
        ) {
            let shape: Vec<u64> = dimensions.iter().map(|(size, _)| *size).collect();
            let cuts: Vec<u64> = dimensions.iter().map(|(size, cut)| cut % (size + 1)).collect();
            let total = (shape.iter().product::<u64>() * width) as usize;
            let whole: Vec<u8> = (0..total).map(|at| (at % 251) as u8).collect();
            let parts = grid(&shape, &cuts);
            prop_assert!(cover(&shape, &parts));
            if parts.len() > 1 {
                prop_assert!(!cover(&shape, &parts[1..]));
                let doubled = [&parts[..], &parts[..1]].concat();
                prop_assert!(!cover(&shape, &doubled));
                let mut moved = parts.clone();
                moved[1] = moved[0].clone();
                prop_assert!(!cover(&shape, &moved));
            }
            let source = BoxedSource::new(
                parts.iter().map(|part| {
                    let bytes = cut_out(&whole, &shape, part, width);
                    (Arc::new(Bytes(bytes)) as Arc<dyn Source>, 3, part.clone())
                }),
                &shape,
                width,
            );
            let mut read = vec![0; total];
            for (number, buffer) in read.chunks_mut(piece).enumerate() {
                source.read_at((number * piece) as u64, buffer).unwrap();
            }
            prop_assert_eq!(read, whole);
        }
    }
}
