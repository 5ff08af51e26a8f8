//! The bytes of a run of elements, for readers that reduce them elsewhere.

use crate::error::{Error, TensorFault};
use crate::manifest::Manifest;
use crate::reader::read_error;
use crate::run::{known_dtype, tensor_error};

/// Read elements `start..stop` of a tensor, as they are stored, into `buffer`.
///
/// Elements of a packed or quantised dtype are had in whole granules. An error names the file and
/// the tensor where the run is not one of the tensor, the buffer does not have its length, or the
/// bytes cannot be read.
pub fn read_elements(
    manifest: &Manifest,
    index: usize,
    start: u64,
    stop: u64,
    buffer: &mut [u8],
) -> Result<(), Error> {
    let tensor = manifest.tensor(index);
    let dtype = known_dtype(manifest, index as u32, None)?;
    let fail = |fault| tensor_error(manifest, tensor, fault);
    let elements = tensor.elements();
    let granule = dtype.granule().elements;
    let whole = start.is_multiple_of(granule) && (stop.is_multiple_of(granule) || stop == elements);
    if start > stop || stop > elements || !whole {
        return Err(fail(TensorFault::NoSuchRun {
            start,
            stop,
            elements,
        }));
    }
    let bytes = dtype.bytes_before(start)..dtype.bytes_before(stop);
    let expected = bytes.end - bytes.start;
    if buffer.len() as u64 != expected {
        let found = buffer.len() as u64;
        return Err(fail(TensorFault::WrongBuffer { expected, found }));
    }
    let mut rest = buffer;
    let mut span_start = 0;
    for span in tensor.spans {
        if rest.is_empty() {
            break;
        }
        let from = bytes.start.max(span_start);
        let to = bytes.end.min(span_start + span.length);
        if from < to {
            let (part, left) = rest.split_at_mut((to - from) as usize);
            rest = left;
            let source = &manifest.sources()[span.source as usize];
            let offset = span.offset + (from - span_start);
            source
                .read_at(offset, part)
                .map_err(|error| read_error(source.path(), tensor.name, offset, part, error))?;
        }
        span_start += span.length;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::manifest::{ManifestBuilder, Span};
    use crate::source::testing::Bytes;

    /// Eight U16 in two spans, the later half of the file first.
    fn manifest() -> Manifest {
        let mut builder = ManifestBuilder::default();
        let source = builder.add_source(Arc::new(Bytes((0..16).collect())));
        let span = |offset| Span {
            source,
            offset,
            length: 8,
        };
        builder.add("w", "U16", &[2, 4], [span(8), span(0)]);
        builder.build().expect("one name")
    }

    #[test]
    fn runs_cross_spans() {
        let mut buffer = [0; 6];
        read_elements(&manifest(), 0, 3, 6, &mut buffer).expect("in the tensor");
        assert_eq!(buffer, [14, 15, 0, 1, 2, 3]);
    }

    #[test]
    fn what_is_not_in_the_tensor_is_an_error() {
        let message = |start, stop, length| {
            let mut buffer = vec![0; length];
            let error = read_elements(&manifest(), 0, start, stop, &mut buffer);
            error.expect_err("no run").to_string()
        };
        assert!(message(6, 9, 6).contains("elements 6 to 9 are not in its 8"));
        assert!(message(6, 8, 6).contains("expected a buffer of 4 bytes, found 6"));
    }
}
