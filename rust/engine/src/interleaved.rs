//! Tensors whose rows a converter has interleaved: the two halves of each group of rows by turns.
//!
//! That is how llama.cpp keeps q and k of models with rotary embeddings, a group being a head. As
//! spans it would be one for each row, of which a large model has millions; here it is a rule of a
//! few numbers. Rows are whole bytes, whatever the dtype, so quantised rows are put in order like
//! any others.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::source::Source;

/// Rows of fewer bytes are read with those between them, which is less work than a call for each.
const SHORT_ROW_BYTES: u64 = 4096;

/// Bytes that are read at once to pick short rows from.
const RUN_BYTES: u64 = 64 << 10;

/// Interleaved rows, presented in order: first all of one half, then all of the other.
pub(crate) struct InterleavedSource {
    source: Arc<dyn Source>,
    offset: u64,
    row_bytes: u64,
    group_rows: u64,
    bytes: u64,
}

impl InterleavedSource {
    /// Rows of `row_bytes` bytes, `group_rows` of them to a group; `bytes` in all.
    ///
    /// Whoever makes one has checked that groups have an even number of rows and are whole, and
    /// that there is no row of no bytes.
    pub(crate) fn new(
        source: Arc<dyn Source>,
        offset: u64,
        row_bytes: u64,
        group_rows: u64,
        bytes: u64,
    ) -> Self {
        Self {
            source,
            offset,
            row_bytes,
            group_rows,
            bytes,
        }
    }

    /// The row in the file that is row `row` in order, and how many of the following ones come
    /// after it in steps of two.
    fn place(&self, row: u64) -> (u64, u64) {
        let half_rows = self.group_rows / 2;
        let (group, within) = (row / self.group_rows, row % self.group_rows);
        let (half, position) = (within / half_rows, within % half_rows);
        (
            group * self.group_rows + 2 * position + half,
            half_rows - position,
        )
    }
}

impl Source for InterleavedSource {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if offset
            .checked_add(buffer.len() as u64)
            .is_none_or(|end| end > self.bytes)
        {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let row_bytes = self.row_bytes;
        let mut run = Vec::new();
        let mut at = offset;
        let mut left = buffer;
        while !left.is_empty() {
            let (row, skipped) = (at / row_bytes, at % row_bytes);
            let (place, following) = self.place(row);
            let wanted = (skipped + left.len() as u64).div_ceil(row_bytes);
            let rows = if row_bytes < SHORT_ROW_BYTES {
                following.min(wanted).min(RUN_BYTES / (2 * row_bytes))
            } else {
                1
            };
            let count = (rows * row_bytes - skipped).min(left.len() as u64) as usize;
            let (filled, rest) = left.split_at_mut(count);
            let from = self.offset + place * row_bytes;
            if rows == 1 {
                self.source.read_at(from + skipped, filled)?;
            } else {
                run.resize(((2 * rows - 1) * row_bytes) as usize, 0);
                self.source.read_at(from, &mut run)?;
                let picked = run.chunks(row_bytes as usize).step_by(2).flatten();
                for (to, byte) in filled.iter_mut().zip(picked.skip(skipped as usize)) {
                    *to = *byte;
                }
            }
            at += count as u64;
            left = rest;
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

    /// (groups, rows of a group, bytes of a row)
    const SHAPES: [(u64, u64, u64); 6] = [
        (1, 2, 1),
        (3, 8, 5),
        (2, 6, 34),
        (1, 2000, 18),
        (2, 4, 4096),
        (2, 6, 5000),
    ];

    #[test]
    fn any_piece_is_that_of_the_rows_in_order() {
        const BEFORE: usize = 7;
        for (groups, group_rows, row_bytes) in SHAPES {
            let bytes = groups * group_rows * row_bytes;
            let file: Vec<u8> = (0..bytes as usize + BEFORE)
                .map(|index| (index * 31 % 251) as u8)
                .collect();
            let stored: Vec<&[u8]> = file[BEFORE..].chunks(row_bytes as usize).collect();
            let ordered: Vec<u8> = stored
                .chunks(group_rows as usize)
                .flat_map(|group| [0, 1].map(|half| group.iter().skip(half).step_by(2)))
                .flatten()
                .flat_map(|row| row.iter().copied())
                .collect();
            let source = InterleavedSource::new(
                Arc::new(Bytes(file.clone())),
                BEFORE as u64,
                row_bytes,
                group_rows,
                bytes,
            );
            for length in [1, 3, row_bytes, 2 * row_bytes + 1, 1000, bytes] {
                let length = length.min(bytes);
                for start in (0..=bytes - length).step_by((bytes as usize / 17).max(1)) {
                    let mut piece = vec![0; length as usize];
                    source.read_at(start, &mut piece).expect("it is there");
                    let range = start as usize..(start + length) as usize;
                    assert_eq!(piece, ordered[range], "{group_rows} {row_bytes} {start}");
                }
            }
            let beyond = source.read_at(bytes - 1, &mut [0; 2]);
            assert_eq!(
                beyond.map_err(|error| error.kind()),
                Err(io::ErrorKind::UnexpectedEof)
            );
        }
    }
}
