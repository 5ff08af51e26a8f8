//! Tensors of a file that do not lie in one piece: transposed and sliced views of a storage.
//!
//! The engine asks for bytes in row-major order of the elements, in small pieces and nearly in
//! order. For a transposed matrix each element of a piece is far from the next, and reading them
//! one by one would take a system call for every element. So a block of elements is gathered at
//! once: a range of row-major order is cut into boxes, each box is walked along the axis on which
//! elements lie closest in the file, a run there is read with one call, and its elements are put
//! where they belong. Blocks that were gathered last are kept, since the next pieces are in them;
//! all the tensors of a manifest share one such store, so that memory is bounded whatever their
//! number and size.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::source::Source;

/// Elements that are gathered at once: of a square matrix of a million elements, runs of 128.
const BLOCK: u64 = 1 << 17;

/// Bytes of blocks that are kept; a block of the widest dtype has 2 MiB.
const KEPT_BYTES: usize = 32 << 20;

/// Bytes that are read at once to pick elements from.
const RUN_BYTES: u64 = 256 << 10;

/// Where in a run elements lie further apart than this, each is read by itself.
const SPARSE_BYTES: u64 = 4096;

/// The blocks that were gathered last, of any tensor.
#[derive(Default)]
pub(crate) struct Blocks {
    kept: Mutex<Vec<Kept>>,
}

struct Kept {
    tensor: usize,
    index: u64,
    bytes: Arc<[u8]>,
}

impl Blocks {
    pub(crate) fn find(&self, tensor: usize, index: u64) -> Option<Arc<[u8]>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let position = kept
            .iter()
            .position(|block| block.tensor == tensor && block.index == index)?;
        // the one used last stands last
        let block = kept.remove(position);
        let bytes = Arc::clone(&block.bytes);
        kept.push(block);
        Some(bytes)
    }

    pub(crate) fn keep(&self, tensor: usize, index: u64, bytes: &Arc<[u8]>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut total = bytes.len();
        let mut first = kept.len();
        while first > 0 && total + kept[first - 1].bytes.len() <= KEPT_BYTES {
            first -= 1;
            total += kept[first].bytes.len();
        }
        kept.drain(..first);
        kept.push(Kept {
            tensor,
            index,
            bytes: Arc::clone(bytes),
        });
    }
}

/// One dimension: how many elements, how far apart in the file, how far apart in the result.
#[derive(Clone, Copy, Debug)]
struct Axis {
    size: u64,
    stride: u64,
    placed: u64,
}

/// A strided view of a file, presented as the bytes of its elements in row-major order.
pub(crate) struct StridedSource {
    source: Arc<dyn Source>,
    blocks: Arc<Blocks>,
    /// Tells the blocks of this tensor from those of others.
    number: usize,
    offset: u64,
    axes: Vec<Axis>,
    width: usize,
    elements: u64,
}

impl StridedSource {
    /// A view of elements of `width` bytes; `strides` are in bytes.
    ///
    /// Whoever makes one has checked that the product of `shape` fits in 64 bits.
    pub(crate) fn new(
        source: Arc<dyn Source>,
        blocks: Arc<Blocks>,
        number: usize,
        offset: u64,
        shape: &[u64],
        strides: &[u64],
        width: u64,
    ) -> Self {
        Self {
            source,
            blocks,
            number,
            offset,
            axes: axes(shape, strides),
            width: width as usize,
            elements: shape.iter().product(),
        }
    }

    fn block(&self, index: u64) -> io::Result<Arc<[u8]>> {
        if let Some(bytes) = self.blocks.find(self.number, index) {
            return Ok(bytes);
        }
        let start = index * BLOCK;
        let end = (start + BLOCK).min(self.elements);
        let mut bytes = vec![0; (end - start) as usize * self.width];
        let mut gathering = Gathering {
            view: self,
            into: &mut bytes,
            run: Vec::new(),
        };
        gathering.range(0, self.offset, start..end, 0)?;
        let bytes = Arc::<[u8]>::from(bytes);
        self.blocks.keep(self.number, index, &bytes);
        Ok(bytes)
    }
}

impl Source for StridedSource {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let block_bytes = BLOCK * self.width as u64;
        let mut at = offset;
        let mut filled = 0;
        while filled < buffer.len() {
            let block = self.block(at / block_bytes)?;
            let from = (at % block_bytes) as usize;
            let count = (block.len().saturating_sub(from)).min(buffer.len() - filled);
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buffer[filled..filled + count].copy_from_slice(&block[from..from + count]);
            filled += count;
            at += count as u64;
        }
        Ok(())
    }

    fn has_file_offsets(&self) -> bool {
        false
    }

    fn path(&self) -> &Path {
        self.source.path()
    }
}

/// The axes of more than one element, outermost first; those that one stride describes are one.
fn axes(shape: &[u64], strides: &[u64]) -> Vec<Axis> {
    let mut axes: Vec<Axis> = Vec::with_capacity(shape.len());
    for (size, stride) in shape.iter().zip(strides) {
        if *size == 1 {
            continue;
        }
        match axes.last_mut() {
            Some(outer) if Some(outer.stride) == stride.checked_mul(*size) => {
                outer.size *= size;
                outer.stride = *stride;
            }
            _ => axes.push(Axis {
                size: *size,
                stride: *stride,
                placed: 0,
            }),
        }
    }
    let mut placed = 1;
    for axis in axes.iter_mut().rev() {
        axis.placed = placed;
        placed *= axis.size;
    }
    axes
}

/// One block being gathered.
struct Gathering<'a> {
    view: &'a StridedSource,
    into: &'a mut [u8],
    run: Vec<u8>,
}

impl Gathering<'_> {
    /// Gather a range of the elements of the axes from `depth` on, to `placed` in the block.
    ///
    /// `offset` is where in the file the first of these axes' elements lies.
    fn range(
        &mut self,
        depth: usize,
        offset: u64,
        range: std::ops::Range<u64>,
        placed: u64,
    ) -> io::Result<()> {
        let Some(axis) = self.view.axes.get(depth).copied() else {
            return self.boxed(offset, &mut [], placed);
        };
        // the elements of one step along this axis
        let inner = axis.placed;
        let (first, last) = (range.start / inner, range.end / inner);
        let (before, behind) = (range.start % inner, range.end % inner);
        if first == last {
            return self.range(
                depth + 1,
                offset + first * axis.stride,
                before..behind,
                placed,
            );
        }
        let mut whole = first;
        let mut at = placed;
        if before > 0 {
            self.range(depth + 1, offset + first * axis.stride, before..inner, at)?;
            at += inner - before;
            whole += 1;
        }
        if whole < last {
            let mut axes = self.view.axes[depth..].to_vec();
            axes[0].size = last - whole;
            self.boxed(offset + whole * axis.stride, &mut axes, at)?;
            at += (last - whole) * inner;
        }
        if behind > 0 {
            self.range(depth + 1, offset + last * axis.stride, 0..behind, at)?;
        }
        Ok(())
    }

    /// Gather all elements of a box; the order of `axes` does not matter.
    fn boxed(&mut self, offset: u64, axes: &mut [Axis], placed: u64) -> io::Result<()> {
        // The closest elements innermost. An axis of stride 0 repeats what the others read, so
        // it is walked for each run that was read: behind all others.
        axes.sort_unstable_by_key(|axis| std::cmp::Reverse(axis.stride));
        let repeated = axes.iter().position(|axis| axis.stride == 0);
        let (moving, repeated) = axes.split_at(repeated.unwrap_or(axes.len()));
        let repeated = repeated.to_vec();
        match moving.split_last() {
            None => {
                let one = Axis {
                    size: 1,
                    stride: self.view.width as u64,
                    placed: 0,
                };
                self.runs(offset, one, &repeated, placed)
            }
            Some((innermost, outer)) => self.walk(offset, outer, *innermost, &repeated, placed),
        }
    }

    fn walk(
        &mut self,
        offset: u64,
        outer: &[Axis],
        innermost: Axis,
        repeated: &[Axis],
        placed: u64,
    ) -> io::Result<()> {
        let Some((axis, rest)) = outer.split_first() else {
            return self.runs(offset, innermost, repeated, placed);
        };
        for step in 0..axis.size {
            let at = offset + step * axis.stride;
            self.walk(at, rest, innermost, repeated, placed + step * axis.placed)?;
        }
        Ok(())
    }

    /// Read along one axis, as much at once as is sensible.
    fn runs(&mut self, offset: u64, axis: Axis, repeated: &[Axis], placed: u64) -> io::Result<()> {
        let width = self.view.width as u64;
        let at_once = if axis.stride > SPARSE_BYTES {
            1
        } else {
            (RUN_BYTES / axis.stride).max(1)
        };
        let mut done = 0;
        while done < axis.size {
            let count = at_once.min(axis.size - done);
            let length = ((count - 1) * axis.stride + width) as usize;
            if self.run.len() < length {
                self.run.resize(length, 0);
            }
            let from = offset + done * axis.stride;
            self.view.source.read_at(from, &mut self.run[..length])?;
            self.scatter(count, axis, repeated, placed + done * axis.placed);
            done += count;
        }
        Ok(())
    }

    fn scatter(&mut self, count: u64, axis: Axis, repeated: &[Axis], placed: u64) {
        if let Some((outermost, rest)) = repeated.split_first() {
            for step in 0..outermost.size {
                self.scatter(count, axis, rest, placed + step * outermost.placed);
            }
            return;
        }
        match self.view.width {
            1 => self.pick::<1>(count, axis, placed),
            2 => self.pick::<2>(count, axis, placed),
            4 => self.pick::<4>(count, axis, placed),
            8 => self.pick::<8>(count, axis, placed),
            _ => self.pick::<16>(count, axis, placed),
        }
    }

    /// Put every element of the run where it belongs; the width is a constant, to be quick.
    fn pick<const WIDTH: usize>(&mut self, count: u64, axis: Axis, placed: u64) {
        debug_assert_eq!(self.view.width, WIDTH);
        let (stride, step) = (axis.stride as usize, axis.placed as usize * WIDTH);
        let mut to = placed as usize * WIDTH;
        let mut from = 0;
        for _ in 0..count {
            self.into[to..to + WIDTH].copy_from_slice(&self.run[from..from + WIDTH]);
            from += stride;
            to += step;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::testing::Bytes;
    use proptest::prelude::*;

    /// Element by element, in row-major order.
    fn naive(bytes: &[u8], offset: u64, shape: &[u64], strides: &[u64], width: u64) -> Vec<u8> {
        let mut gathered = Vec::new();
        for element in 0..shape.iter().product::<u64>() {
            let mut rest = element;
            let mut at = offset;
            for (size, stride) in shape.iter().zip(strides).rev() {
                at += rest % size * stride;
                rest /= size;
            }
            gathered.extend_from_slice(&bytes[at as usize..(at + width) as usize]);
        }
        gathered
    }

    fn gathered(bytes: &[u8], offset: u64, shape: &[u64], strides: &[u64], width: u64) -> Vec<u8> {
        let view = StridedSource::new(
            Arc::new(Bytes(bytes.to_vec())),
            Arc::default(),
            0,
            offset,
            shape,
            strides,
            width,
        );
        let total = (shape.iter().product::<u64>() * width) as usize;
        let mut buffer = vec![0; total];
        // pieces of a prime number of elements: every boundary is in the middle of something
        for start in (0..total).step_by(9973 * width as usize) {
            let end = (start + 9973 * width as usize).min(total);
            view.read_at(start as u64, &mut buffer[start..end]).unwrap();
        }
        buffer
    }

    fn prime_cycle(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at % 251) as u8).collect()
    }

    #[test]
    fn a_transposed_matrix_of_several_blocks() {
        let bytes = prime_cycle(4 * 700 * 601 + 12);
        let (shape, strides) = ([601, 700], [4, 4 * 601]);
        let expected = naive(&bytes, 12, &shape, &strides, 4);
        assert!(gathered(&bytes, 12, &shape, &strides, 4) == expected);
    }

    #[test]
    fn elements_far_apart_and_repeated() {
        let bytes = prime_cycle(2 * 5000 * 40);
        let (shape, strides) = ([3, 40, 7000], [0, 2 * 5000, 0]);
        let expected = naive(&bytes, 2, &shape, &strides, 2);
        assert!(gathered(&bytes, 2, &shape, &strides, 2) == expected);
    }

    #[test]
    fn the_end_of_the_file_is_an_error() {
        let view = StridedSource::new(
            Arc::new(Bytes(prime_cycle(31))),
            Arc::default(),
            0,
            0,
            &[2, 4],
            &[4, 8],
            4,
        );
        let error = view.read_at(0, &mut [0; 32]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    proptest! {
        #[test]
        fn any_view_is_what_a_loop_finds(
            dimensions in prop::collection::vec((1u64..9, 0u64..40), 0..5),
            width in prop::sample::select(vec![1u64, 2, 4, 8, 16]),
            offset in 0u64..20,
        ) {
            let shape: Vec<u64> = dimensions.iter().map(|(size, _)| *size).collect();
            let strides: Vec<u64> = dimensions.iter().map(|(_, step)| step * width).collect();
            let reach: u64 = dimensions.iter().map(|(size, step)| (size - 1) * step * width).sum();
            let bytes = prime_cycle((offset + reach + width) as usize);
            let expected = naive(&bytes, offset, &shape, &strides, width);
            prop_assert_eq!(gathered(&bytes, offset, &shape, &strides, width), expected);
        }
    }
}
