//! Brings the bytes of tensors together, in pieces that stay in the cache.
//!
//! Bytes are read in place where the system can, through windows that bound what is resident, and
//! copied into buffers where not; several checkpoints at once share the same bounds.

use std::io;
use std::ops::Range;

use ckptdiff_kernels::DType;

use crate::error::{Error, TensorFault};
use crate::manifest::{Manifest, Span, TensorView};
use crate::source::{MappedReads, Reading, Window};

/// Bytes of one side that a thread copies at once, if there are few sides.
pub const PIECE_BYTES: u64 = 64 << 10;

/// Bytes of all sides that a thread copies at once. Of 64 sides in a fourth of it, which stays in a
/// second-level cache, system calls took 7 % of the time of a series.
const ALL_PIECES_BYTES: u64 = 2 << 20;

/// Bytes of one side that a thread reads in place at once, if there are few of both.
pub const WINDOW_BYTES: u64 = 1 << 20;

/// Bytes of all windows that are open at once: what they take of the resident set.
const ALL_WINDOWS_BYTES: u64 = 32 << 20;

/// A window can make as much resident as the large folios that it touches, of 2 MB each: where
/// there would be more of them bytes are copied, unless mapping was asked for.
const MOST_WINDOWS: usize = 32;

/// More sides than this are copied, too, unless mapping was asked for: beside the arithmetic that
/// many checkpoints take a copy costs little (2 % of the processor's time at 16 of them and at 64, for
/// a fifth and a tenth of the memory).
const MOST_SIDES: usize = 8;

/// What is shorter is copied: two system calls for a window take longer.
const SHORTEST_WINDOW: usize = 128 << 10;

/// Bytes of one side that are read in place at once, of so many sides and threads.
fn window_bytes(windows: usize) -> u64 {
    let share = ALL_WINDOWS_BYTES / windows as u64;
    (share / PIECE_BYTES * PIECE_BYTES).clamp(SHORTEST_WINDOW as u64, WINDOW_BYTES)
}

/// Cut elements into what is read at once. Pieces are multiples of every kernel block.
pub(crate) fn pieces(
    elements: Range<u64>,
    bits: u64,
    bytes: u64,
) -> impl Iterator<Item = Range<u64>> {
    let step = (bytes * 8 / bits).next_multiple_of(ckptdiff_kernels::BLOCK as u64);
    let end = elements.end;
    elements
        .step_by(step as usize)
        .map(move |start| start..(start + step).min(end))
}

/// Pieces begin at whole bytes, since they begin at multiples of a block.
pub(crate) fn byte_range(elements: &Range<u64>, dtype: DType) -> Range<u64> {
    dtype.bytes_before(elements.start)..dtype.bytes_before(elements.end)
}

/// How files are read in this run.
pub(crate) struct Files {
    reading: Reading,
    mapped: MappedReads,
    window_bytes: u64,
    copied_bytes: u64,
}

impl Files {
    /// For so many threads, each of which reads so many sides at once.
    pub(crate) fn new(reading: Reading, threads: usize, sides: usize) -> Self {
        let together = threads * sides.max(1);
        Self {
            reading: match reading {
                Reading::Auto if together > MOST_WINDOWS || sides > MOST_SIDES => Reading::Copied,
                reading => reading,
            },
            mapped: MappedReads::new(),
            window_bytes: window_bytes(together),
            copied_bytes: (ALL_PIECES_BYTES / sides.max(1) as u64).min(PIECE_BYTES),
        }
    }

    /// Bytes of a side that are reduced at once.
    pub(crate) const fn piece_bytes(&self, in_place: bool) -> u64 {
        if in_place {
            self.window_bytes
        } else {
            self.copied_bytes
        }
    }
}

/// Brings a tensor's bytes together, wherever they lie.
pub(crate) struct Reader<'a> {
    manifest: &'a Manifest,
    buffer: Vec<u8>,
    /// What is read in place, and the offset it has in its source.
    window: Option<(Window<'a>, u64)>,
    /// A span of the tensor at hand, and where it begins in the tensor: pieces come in order, and
    /// a tensor can have a million spans.
    cursor: (usize, u64),
    /// The spans that the cursor is for: where another tensor was read says nothing of this one.
    cursor_spans: &'a [Span],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(manifest: &'a Manifest) -> Self {
        Self {
            manifest,
            buffer: Vec::new(),
            window: None,
            cursor: (0, 0),
            cursor_spans: &[],
        }
    }

    /// Whether the tensor's bytes need not be copied, as far as its first span tells: it is asked
    /// for every chunk, and there can be a million spans.
    pub(crate) fn in_place(&self, files: &Files, tensor: TensorView<'_>) -> bool {
        tensor.spans.first().is_some_and(|span| {
            self.manifest.sources()[span.source as usize].reads_in_place(files.reading)
        })
    }

    /// The bytes, until [`release`](Self::release) is called.
    pub(crate) fn read(
        &mut self,
        files: &Files,
        tensor: TensorView<'a>,
        bytes: Range<u64>,
    ) -> Result<&[u8], Error> {
        let length = (bytes.end - bytes.start) as usize;
        self.seek(tensor, bytes.start);
        let (index, span_start) = self.cursor;
        if let Some(span) = tensor.spans.get(index)
            && bytes.end <= span_start + span.length
        {
            let source = &self.manifest.sources()[span.source as usize];
            let offset = span.offset + (bytes.start - span_start);
            if let Some(borrowed) = source.borrow(offset, length) {
                return Ok(borrowed);
            }
            if length >= SHORTEST_WINDOW
                && let Some(window) = source.window(offset, length, files.reading, &files.mapped)
            {
                return Ok(self.window.insert((window, offset)).0.bytes());
            }
        }
        self.copy(tensor, bytes)
    }

    /// Move the cursor to the span that has the byte at `start`.
    fn seek(&mut self, tensor: TensorView<'a>, start: u64) {
        let (mut index, mut span_start) = self.cursor;
        if start < span_start || !std::ptr::eq(self.cursor_spans, tensor.spans) {
            (index, span_start) = (0, 0);
            self.cursor_spans = tensor.spans;
        }
        while let Some(span) = tensor.spans.get(index)
            && span_start + span.length <= start
        {
            span_start += span.length;
            index += 1;
        }
        self.cursor = (index, span_start);
    }

    /// Read into the buffer, from the cursor's span on.
    fn copy(&mut self, tensor: TensorView<'_>, bytes: Range<u64>) -> Result<&[u8], Error> {
        let length = (bytes.end - bytes.start) as usize;
        if self.buffer.len() < length {
            self.buffer.resize(length, 0);
        }
        let buffer = &mut self.buffer[..length];
        let (first, mut span_start) = self.cursor;
        let mut filled = 0;
        for span in &tensor.spans[first.min(tensor.spans.len())..] {
            if filled == length {
                break;
            }
            let from = bytes.start.max(span_start);
            let to = bytes.end.min(span_start + span.length);
            if from < to {
                let part = &mut buffer[filled..filled + (to - from) as usize];
                let source = &self.manifest.sources()[span.source as usize];
                let offset = span.offset + (from - span_start);
                source
                    .read_at(offset, part)
                    .map_err(|error| read_error(source.path(), tensor.name, offset, part, error))?;
                filled += part.len();
            }
            span_start += span.length;
        }
        debug_assert_eq!(filled, length, "a manifest's spans cover the tensor");
        Ok(buffer)
    }

    /// Done with what was read: an error if some of it was lost meanwhile.
    pub(crate) fn release(&mut self, tensor: TensorView<'_>) -> Result<(), Error> {
        let Some((window, offset)) = self.window.take() else {
            return Ok(());
        };
        if window.is_whole() {
            return Ok(());
        }
        let source = tensor.spans[self.cursor.0].source as usize;
        Err(Error::Truncated {
            path: self.manifest.sources()[source].path().to_owned(),
            tensor: tensor.name.to_owned(),
            end: offset + window.bytes().len() as u64,
        })
    }
}

/// A reader for each of several checkpoints, which go through one tensor together.
pub(crate) struct Readers<'a>(Vec<Reader<'a>>);

impl<'a> Readers<'a> {
    pub(crate) fn new(manifests: impl Iterator<Item = &'a Manifest>) -> Self {
        Self(manifests.map(Reader::new).collect())
    }

    /// Whether no checkpoint's bytes of its tensor need be copied.
    pub(crate) fn in_place(&self, files: &Files, tensors: &[(DType, TensorView<'_>)]) -> bool {
        let mut sides = self.0.iter().zip(tensors);
        sides.all(|(reader, (_, tensor))| reader.in_place(files, *tensor))
    }

    /// The bytes of each, until [`release`](Self::release) is called.
    pub(crate) fn read(
        &mut self,
        files: &Files,
        tensors: &[(DType, TensorView<'a>)],
        elements: &Range<u64>,
    ) -> Result<Vec<(DType, &[u8])>, Error> {
        let sides = self.0.iter_mut().zip(tensors);
        sides
            .map(|(reader, (dtype, tensor))| {
                let bytes = reader.read(files, *tensor, byte_range(elements, *dtype))?;
                Ok((*dtype, bytes))
            })
            .collect()
    }

    /// Done with what was read: an error if some of it was lost meanwhile.
    pub(crate) fn release(&mut self, tensors: &[(DType, TensorView<'_>)]) -> Result<(), Error> {
        for (reader, (_, tensor)) in self.0.iter_mut().zip(tensors) {
            reader.release(*tensor)?;
        }
        Ok(())
    }
}

pub(crate) fn read_error(
    path: &std::path::Path,
    tensor: &str,
    offset: u64,
    part: &[u8],
    source: io::Error,
) -> Error {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::UnexpectedEof => Error::Truncated {
            path,
            tensor: tensor.to_owned(),
            end: offset + part.len() as u64,
        },
        io::ErrorKind::NotFound => Error::NotFound { path },
        // of a source that decodes, which does not know its tensor
        io::ErrorKind::InvalidData => Error::Tensor {
            path,
            tensor: tensor.to_owned(),
            fault: TensorFault::BrokenData(source.to_string()),
        },
        _ => Error::Io { path, source },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::manifest::ManifestBuilder;
    use crate::source::testing::Bytes;

    #[test]
    fn where_one_tensor_was_read_says_nothing_of_the_next() {
        let bytes: Vec<u8> = (0..600u32).map(|index| (index % 251) as u8).collect();
        let mut builder = ManifestBuilder::default();
        let source = builder.add_source(Arc::new(Bytes(bytes.clone())));
        // Contiguous, cut at different places; one begins with a span of nothing.
        for (name, start, cuts) in [
            ("x", 0, [100, 200]),
            ("y", 200, [10, 200]),
            ("z", 400, [0, 200]),
        ] {
            let spans = [(0, cuts[0]), (cuts[0], cuts[1])].map(|(from, to)| Span {
                source,
                offset: start + from,
                length: to - from,
            });
            builder.add(name, "U8", &[200], spans);
        }
        let manifest = builder.build().expect("different names");
        let files = Files::new(Reading::Copied, 1, 1);
        let mut reader = Reader::new(&manifest);
        for tensor in [0, 1, 2, 1, 0, 2] {
            for range in [150..160, 0..20, 150..160] {
                let start = 200 * tensor + range.start as usize;
                let found = reader
                    .read(&files, manifest.tensor(tensor), range.clone())
                    .expect("bytes in memory");
                assert_eq!(
                    found,
                    &bytes[start..start + found.len()],
                    "{tensor} {range:?}"
                );
            }
        }
    }
}
