//! A matrix the other way round: its columns, presented as rows.
//!
//! [`StridedSource`](crate::strided::StridedSource) presents any strides, and takes what it needs of
//! a matrix in runs of a few elements. A transposed matrix is common enough, as experts are stored
//! so, to be worth more: columns are turned into rows many at a time, so that what is read is longer
//! runs, and in tiles, so that what is written stays in the cache. Blocks that were made last are
//! kept as those of strided views are, and in the same store.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::source::Source;
use crate::strided::Blocks;

/// Bytes of columns that are turned at once; the store keeps some thirty times as many, so that
/// as many threads find what they have made.
const BLOCK_BYTES: u64 = 1 << 20;

/// Bytes of the matrix that are read before they are turned.
const READ_BYTES: u64 = 256 << 10;

/// Where the columns wanted are at least this share of a row, whole rows are read, in one call.
const WHOLE_ROWS_FROM: u64 = 8;

/// Rows and columns of a tile.
const TILE: usize = 32;

/// A matrix of `rows` rows, presented as the bytes of its columns one after the other.
pub(crate) struct TransposedSource {
    source: Arc<dyn Source>,
    blocks: Arc<Blocks>,
    /// Tells the blocks of this matrix from those of others.
    number: usize,
    offset: u64,
    rows: u64,
    columns: u64,
    width: usize,
}

impl TransposedSource {
    /// The matrix whose elements, of `width` bytes, begin at `offset`.
    ///
    /// Whoever makes one has checked that it has elements, and that their bytes are there.
    pub(crate) fn new(
        source: Arc<dyn Source>,
        blocks: Arc<Blocks>,
        number: usize,
        offset: u64,
        (rows, columns): (u64, u64),
        width: u64,
    ) -> Self {
        Self {
            source,
            blocks,
            number,
            offset,
            rows,
            columns,
            width: width as usize,
        }
    }

    /// Columns of a block.
    fn block_columns(&self) -> u64 {
        (BLOCK_BYTES / (self.rows * self.width as u64)).clamp(1, self.columns)
    }

    fn block(&self, index: u64) -> io::Result<Arc<[u8]>> {
        if let Some(bytes) = self.blocks.find(self.number, index) {
            return Ok(bytes);
        }
        let first = index * self.block_columns();
        let count = self.block_columns().min(self.columns - first);
        let bytes = match self.width {
            1 => self.turned::<1>(first, count),
            2 => self.turned::<2>(first, count),
            4 => self.turned::<4>(first, count),
            8 => self.turned::<8>(first, count),
            _ => self.turned::<16>(first, count),
        }?;
        let bytes = Arc::<[u8]>::from(bytes);
        self.blocks.keep(self.number, index, &bytes);
        Ok(bytes)
    }

    /// The bytes of `count` columns from `first` on.
    fn turned<const WIDTH: usize>(&self, first: u64, count: u64) -> io::Result<Vec<u8>> {
        let (width, rows) = (WIDTH as u64, self.rows);
        let mut turned = vec![0; (count * rows) as usize * WIDTH];
        let whole_rows = count * WHOLE_ROWS_FROM >= self.columns;
        // elements from a row that was read to the next, and where in it the first column is
        let (pitch, skipped) = if whole_rows {
            (self.columns, first)
        } else {
            (count, 0)
        };
        let at_once = (READ_BYTES / (pitch * width)).clamp(1, rows);
        let mut read = vec![0; (at_once * pitch) as usize * WIDTH];
        let mut row = 0;
        while row < rows {
            let height = at_once.min(rows - row);
            let read = &mut read[..(height * pitch) as usize * WIDTH];
            if whole_rows {
                let offset = self.offset + row * self.columns * width;
                self.source.read_at(offset, read)?;
            } else {
                for (line, run) in read.chunks_exact_mut(count as usize * WIDTH).enumerate() {
                    let element = (row + line as u64) * self.columns + first;
                    self.source.read_at(self.offset + element * width, run)?;
                }
            }
            turn::<WIDTH>(
                &read[skipped as usize * WIDTH..],
                pitch as usize,
                (height as usize, count as usize),
                &mut turned[row as usize * WIDTH..],
                rows as usize,
            );
            row += height;
        }
        Ok(turned)
    }
}

/// Put the element of row r and column c of `from` to row c and column r of `to`.
fn turn<const WIDTH: usize>(
    from: &[u8],
    from_pitch: usize,
    (rows, columns): (usize, usize),
    to: &mut [u8],
    to_pitch: usize,
) {
    for top in (0..rows).step_by(TILE) {
        let bottom = (top + TILE).min(rows);
        for left in (0..columns).step_by(TILE) {
            for column in left..(left + TILE).min(columns) {
                let start = (column * to_pitch + top) * WIDTH;
                let line = &mut to[start..start + (bottom - top) * WIDTH];
                for (row, element) in (top..bottom).zip(line.chunks_exact_mut(WIDTH)) {
                    let at = (row * from_pitch + column) * WIDTH;
                    element.copy_from_slice(&from[at..at + WIDTH]);
                }
            }
        }
    }
}

impl Source for TransposedSource {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let block_bytes = self.block_columns() * self.rows * self.width as u64;
        let length = self.rows * self.columns * self.width as u64;
        let mut at = offset;
        let mut filled = 0;
        while filled < buffer.len() {
            if at >= length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let block = self.block(at / block_bytes)?;
            let from = (at % block_bytes) as usize;
            let count = (block.len() - from).min(buffer.len() - filled);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::testing::Bytes;

    /// (rows, columns): around tiles, one line each way, and some that take several blocks, with
    /// whole rows read and with runs of them.
    const SHAPES: [(u64, u64); 9] = [
        (1, 1),
        (1, 50),
        (50, 1),
        (31, 33),
        (32, 32),
        (65, 64),
        (3000, 700),
        (20_000, 40),
        (70_000, 17),
    ];

    #[test]
    fn columns_are_rows() {
        for width in [1u64, 2, 4, 8, 16] {
            for (rows, columns) in SHAPES {
                let count = (rows * columns * width) as usize;
                if count > 20_000_000 {
                    continue;
                }
                let matrix: Vec<u8> = (0..count)
                    .map(|at| (at % 251) as u8 ^ (at >> 9) as u8)
                    .collect();
                let mut file = vec![9; 3];
                file.extend_from_slice(&matrix);
                let source = TransposedSource::new(
                    Arc::new(Bytes(file)),
                    Arc::default(),
                    0,
                    3,
                    (rows, columns),
                    width,
                );
                let mut expected = Vec::with_capacity(count);
                for column in 0..columns {
                    for row in 0..rows {
                        let at = ((row * columns + column) * width) as usize;
                        expected.extend_from_slice(&matrix[at..at + width as usize]);
                    }
                }
                let mut read = vec![0; count];
                for (number, piece) in read.chunks_mut(99_991).enumerate() {
                    source
                        .read_at(number as u64 * 99_991, piece)
                        .expect("it is there");
                }
                assert!(read == expected, "{rows} {columns} {width}");
                assert!(source.read_at(count as u64, &mut [0]).is_err());
            }
        }
    }
}
