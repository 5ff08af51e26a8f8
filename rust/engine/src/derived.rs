//! A manifest of other tensors in the same bytes: renamed, cut out, put together, transposed.
//!
//! Two checkpoints can hold the same weights under other names and in other tensors: q, k and v in
//! one, the experts of a layer in one, a matrix the other way round. What one side has is described
//! here in the tensors of the other, and everything behind it works on that as on any manifest. A
//! run of elements is a part of its tensor's spans; a transposed one is a strided view of those.
//! Nothing is copied or read, whatever the sources are.

use std::io;
use std::path::Path;
use std::sync::Arc;

use ckptdiff_kernels::DType;
use thiserror::Error;

use crate::error::{listed, quoted};
use crate::manifest::{Manifest, ManifestBuilder, Span, StoredDType};
use crate::source::Source;
use crate::strided::{Blocks, StridedSource};
use crate::transposed::TransposedSource;

/// A manifest keeps positions of names and sizes in 32 bits.
const ARENA: u64 = u32::MAX as u64;

/// A run of a tensor's elements, in row-major order, as a tensor of its own.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Index of the tensor.
    pub tensor: usize,
    /// Its first element.
    pub first: u64,
    /// The sizes of what is taken; their product is the number of elements.
    pub shape: Vec<u64>,
    /// Which dimension of that each dimension of the result is; None where they stay.
    pub axes: Option<Vec<usize>>,
}

/// Why a tensor cannot be made of others.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The messages are the documentation.
pub enum DerivedFault {
    #[error("tensor {}: it is made of tensor {index} of {tensors}", quoted(name))]
    NoSuchTensor {
        name: String,
        index: usize,
        tensors: usize,
    },
    #[error(
        "tensor {}: shape {} from element {first} on reaches beyond the {elements} elements of {}",
        quoted(name),
        listed(shape),
        quoted(of)
    )]
    PastEnd {
        name: String,
        of: String,
        first: u64,
        shape: Vec<u64>,
        elements: u64,
    },
    #[error(
        "tensor {}: its parts have {found} elements, its shape {} takes {}",
        quoted(name),
        listed(shape),
        .expected.map_or_else(|| "too many".to_owned(), |count| count.to_string())
    )]
    OtherSize {
        name: String,
        shape: Vec<u64>,
        expected: Option<u64>,
        found: u64,
    },
    #[error(
        "tensor {}: {} is {found}, and the part before it is {expected}",
        quoted(name),
        quoted(of)
    )]
    OtherDType {
        name: String,
        of: String,
        found: String,
        expected: String,
    },
    #[error(
        "tensor {}: {} of {dtype} can only be taken whole",
        quoted(name),
        quoted(of)
    )]
    Unknown {
        name: String,
        of: String,
        dtype: String,
    },
    #[error(
        "tensor {}: {} of packed {dtype} cannot be cut at element {element}, or transposed",
        quoted(name),
        quoted(of)
    )]
    Packed {
        name: String,
        of: String,
        dtype: &'static str,
        element: u64,
    },
    #[error(
        "tensor {}: axes {axes:?} do not permute shape {}",
        quoted(name),
        listed(shape)
    )]
    BadAxes {
        name: String,
        axes: Vec<usize>,
        shape: Vec<u64>,
    },
    #[error("there are two tensors {}", quoted(.0))]
    NameTwice(String),
    #[error("names or parts take more than 4 GiB")]
    TooMuch,
}

/// Collects tensors made of those of a manifest.
pub struct Derivation<'a> {
    manifest: &'a Manifest,
    builder: ManifestBuilder,
    blocks: Arc<Blocks>,
    views: usize,
    names: u64,
    places: u64,
}

impl<'a> Derivation<'a> {
    /// No tensors yet, and all sources of `manifest`.
    pub fn new(manifest: &'a Manifest) -> Self {
        let mut builder = ManifestBuilder::default();
        for source in manifest.sources() {
            builder.add_source(Arc::clone(source));
        }
        builder.set_metadata(manifest.metadata().clone());
        Self {
            manifest,
            builder,
            blocks: Arc::default(),
            views: 0,
            names: 0,
            places: 0,
        }
    }

    /// Add a tensor as it is, under a name.
    pub fn add_whole(&mut self, name: &str, index: usize) -> Result<(), DerivedFault> {
        self.check_index(name, index)?;
        let tensor = self.manifest.tensor(index);
        self.make_room(name, tensor.shape.len() + tensor.spans.len())?;
        self.builder.add(
            name,
            tensor.dtype.name(),
            tensor.shape,
            tensor.spans.iter().copied(),
        );
        Ok(())
    }

    /// Add a tensor whose elements are those of the parts, one after the other in row-major order.
    pub fn add_parts(
        &mut self,
        name: &str,
        shape: &[u64],
        parts: &[Taken],
    ) -> Result<(), DerivedFault> {
        let mut spans = Vec::new();
        let mut dtype: Option<DType> = None;
        let mut found = 0u64;
        for part in parts {
            let taken = self.check(name, part)?;
            if let Some(expected) = dtype.filter(|dtype| *dtype != taken.dtype) {
                return Err(DerivedFault::OtherDType {
                    name: name.to_owned(),
                    of: self.manifest.tensor(part.tensor).name.to_owned(),
                    found: taken.dtype.name().to_owned(),
                    expected: expected.name().to_owned(),
                });
            }
            dtype = Some(taken.dtype);
            found = found.saturating_add(taken.elements);
            self.take(part, &taken, &mut spans);
            if spans.len() as u64 > ARENA {
                return Err(DerivedFault::TooMuch);
            }
        }
        let expected = product(shape);
        let Some(dtype) = dtype.filter(|_| expected == Some(found)) else {
            return Err(DerivedFault::OtherSize {
                name: name.to_owned(),
                shape: shape.to_owned(),
                expected,
                found,
            });
        };
        self.make_room(name, shape.len() + spans.len())?;
        self.builder.add(name, dtype.name(), shape, spans);
        Ok(())
    }

    /// The manifest.
    pub fn build(self) -> Result<Manifest, DerivedFault> {
        self.builder.build().map_err(DerivedFault::NameTwice)
    }

    fn check_index(&self, name: &str, index: usize) -> Result<(), DerivedFault> {
        let tensors = self.manifest.len();
        if index < tensors {
            return Ok(());
        }
        let name = name.to_owned();
        Err(DerivedFault::NoSuchTensor {
            name,
            index,
            tensors,
        })
    }

    /// That a part lies in its tensor, and what its dtype allows can be done with it.
    fn check(&self, name: &str, part: &Taken) -> Result<Checked, DerivedFault> {
        self.check_index(name, part.tensor)?;
        let tensor = self.manifest.tensor(part.tensor);
        let (name, of) = (name.to_owned(), tensor.name.to_owned());
        let StoredDType::Known(dtype) = tensor.dtype else {
            let dtype = tensor.dtype.name().to_owned();
            return Err(DerivedFault::Unknown { name, of, dtype });
        };
        let elements = product(&part.shape);
        let end = elements.and_then(|elements| part.first.checked_add(elements));
        let (Some(elements), Some(end)) = (elements, end.filter(|end| *end <= tensor.elements()))
        else {
            return Err(DerivedFault::PastEnd {
                name,
                of,
                first: part.first,
                shape: part.shape.clone(),
                elements: tensor.elements(),
            });
        };
        let granule = dtype.granule().elements;
        let uneven = [part.first, end]
            .into_iter()
            .find(|element| !element.is_multiple_of(granule));
        let transposed = part.axes.as_ref().filter(|_| granule > 1);
        if let Some(element) = uneven.or(transposed.map(|_| part.first)) {
            return Err(DerivedFault::Packed {
                name,
                of,
                dtype: dtype.name(),
                element,
            });
        }
        if let Some(axes) = &part.axes {
            let mut sorted = axes.clone();
            sorted.sort_unstable();
            if !sorted.iter().copied().eq(0..part.shape.len()) {
                return Err(DerivedFault::BadAxes {
                    name,
                    axes: axes.clone(),
                    shape: part.shape.clone(),
                });
            }
        }
        Ok(Checked {
            dtype,
            elements,
            bytes: dtype.bytes_before(part.first)..dtype.bytes_before(end),
        })
    }

    /// Append where the bytes of a part are, in the order of its elements.
    fn take(&mut self, part: &Taken, taken: &Checked, into: &mut Vec<Span>) {
        let spans = cut(self.manifest.tensor(part.tensor).spans, &taken.bytes);
        let Some(axes) = part.axes.as_ref().filter(|_| taken.elements > 0) else {
            for span in spans {
                append(into, span);
            }
            return;
        };
        let sources = self.manifest.sources();
        let (source, offset): (Arc<dyn Source>, u64) = match spans[..] {
            [span] => (Arc::clone(&sources[span.source as usize]), span.offset),
            _ => (Arc::new(JoinedSource::new(&spans, sources)), 0),
        };
        let width = taken.dtype.bits() / 8;
        let number = self.views;
        let blocks = Arc::clone(&self.blocks);
        let view: Arc<dyn Source> = if let ([rows, columns], [1, 0]) = (&part.shape[..], &axes[..])
        {
            let size = (*rows, *columns);
            Arc::new(TransposedSource::new(
                source, blocks, number, offset, size, width,
            ))
        } else {
            let mut strides = vec![width; part.shape.len()];
            for at in (0..strides.len().saturating_sub(1)).rev() {
                strides[at] = strides[at + 1] * part.shape[at + 1];
            }
            let shape: Vec<u64> = axes.iter().map(|axis| part.shape[*axis]).collect();
            let strides: Vec<u64> = axes.iter().map(|axis| strides[*axis]).collect();
            Arc::new(StridedSource::new(
                source, blocks, number, offset, &shape, &strides, width,
            ))
        };
        self.views += 1;
        into.push(Span {
            source: self.builder.add_source(view),
            offset: 0,
            length: taken.bytes.end - taken.bytes.start,
        });
    }

    /// Count what the manifest's arenas must hold.
    fn make_room(&mut self, name: &str, places: usize) -> Result<(), DerivedFault> {
        self.names += name.len() as u64;
        self.places += places as u64;
        if self.names > ARENA || self.places > ARENA {
            return Err(DerivedFault::TooMuch);
        }
        Ok(())
    }
}

/// What is known of a part that can be taken.
struct Checked {
    dtype: DType,
    elements: u64,
    /// Of the tensor's bytes.
    bytes: std::ops::Range<u64>,
}

/// The spans of a range of a tensor's bytes.
fn cut(spans: &[Span], bytes: &std::ops::Range<u64>) -> Vec<Span> {
    let mut start = 0;
    let mut within = Vec::new();
    for span in spans {
        let end = start + span.length;
        let (from, to) = (start.max(bytes.start), end.min(bytes.end));
        if from < to {
            within.push(Span {
                source: span.source,
                offset: span.offset + (from - start),
                length: to - from,
            });
        }
        if end >= bytes.end {
            break;
        }
        start = end;
    }
    within
}

/// Append a span, as a part of the last one where it continues it.
fn append(spans: &mut Vec<Span>, span: Span) {
    match spans.last_mut() {
        Some(last) if last.source == span.source && last.offset + last.length == span.offset => {
            last.length += span.length;
        }
        _ => spans.push(span),
    }
}

/// Spans presented as one run of bytes.
struct JoinedSource {
    /// Where each begins, the source it is in, and its offset and length there.
    parts: Vec<(u64, Arc<dyn Source>, u64, u64)>,
}

impl JoinedSource {
    fn new(spans: &[Span], sources: &[Arc<dyn Source>]) -> Self {
        let mut start = 0;
        let mut parts = Vec::with_capacity(spans.len());
        for span in spans {
            let source = Arc::clone(&sources[span.source as usize]);
            parts.push((start, source, span.offset, span.length));
            start += span.length;
        }
        Self { parts }
    }
}

impl Source for JoinedSource {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut index = self.parts.partition_point(|part| part.0 + part.3 <= offset);
        let mut at = offset;
        let mut left = buffer;
        while !left.is_empty() {
            let Some((start, source, from, length)) = self.parts.get(index) else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            let skipped = at - start;
            let count = (length - skipped).min(left.len() as u64) as usize;
            let (filled, rest) = left.split_at_mut(count);
            source.read_at(from + skipped, filled)?;
            at += count as u64;
            left = rest;
            index += 1;
        }
        Ok(())
    }

    fn has_file_offsets(&self) -> bool {
        false
    }

    fn path(&self) -> &Path {
        self.parts
            .first()
            .map_or(Path::new(""), |part| part.1.path())
    }
}

/// The product of a shape, also where a 0 follows sizes that would overflow.
fn product(shape: &[u64]) -> Option<u64> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape
        .iter()
        .try_fold(1u64, |product, size| product.checked_mul(*size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::testing::Bytes;
    use proptest::prelude::*;

    /// A manifest of one tensor of U16 numbers 0, 1, 2 …, its bytes cut at these places.
    fn counting(shape: &[u64], cuts: &[u64]) -> Manifest {
        let elements: u64 = shape.iter().product();
        let bytes: Vec<u8> = (0..elements as u16).flat_map(u16::to_le_bytes).collect();
        let mut places: Vec<u64> = cuts.iter().map(|cut| cut % (elements * 2 + 1)).collect();
        places.extend([0, elements * 2]);
        places.sort_unstable();
        let mut builder = ManifestBuilder::default();
        let mut spans = Vec::new();
        for pair in places.windows(2) {
            let mut file = vec![0xEE; 3];
            file.extend_from_slice(&bytes[pair[0] as usize..pair[1] as usize]);
            spans.push(Span {
                source: builder.add_source(Arc::new(Bytes(file))),
                offset: 3,
                length: pair[1] - pair[0],
            });
        }
        builder.add("x", "U16", shape, spans);
        builder.build().expect("one name")
    }

    fn numbers(manifest: &Manifest, index: usize) -> Vec<u16> {
        let mut bytes = Vec::new();
        for span in manifest.tensor(index).spans {
            let mut part = vec![0; span.length as usize];
            manifest.sources()[span.source as usize]
                .read_at(span.offset, &mut part)
                .expect("it is there");
            bytes.extend(part);
        }
        let pairs = bytes.chunks_exact(2);
        pairs
            .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
            .collect()
    }

    proptest! {
        #[test]
        fn parts_are_the_elements_taken(
            rows in 1u64..30,
            columns in 1u64..30,
            cuts in prop::collection::vec(0u64..2000, 0..4),
            from in 0u64..30,
        ) {
            let manifest = counting(&[rows, columns], &cuts);
            let from = from % rows;
            let kept = rows - from;
            let lower = Taken {
                tensor: 0, first: from * columns, shape: vec![kept, columns], axes: Some(vec![1, 0]),
            };
            let upper = Taken {
                tensor: 0, first: 0, shape: vec![from, columns], axes: None,
            };
            let mut derivation = Derivation::new(&manifest);
            derivation.add_parts("y", &[columns * kept + from * columns], &[lower, upper]).unwrap();
            derivation.add_whole("z", 0).unwrap();
            let derived = derivation.build().unwrap();
            let mut expected = Vec::new();
            for column in 0..columns {
                for row in from..rows {
                    expected.push((row * columns + column) as u16);
                }
            }
            expected.extend(0..(from * columns) as u16);
            prop_assert_eq!(numbers(&derived, 0), expected);
            let all: Vec<u16> = (0..(rows * columns) as u16).collect();
            prop_assert_eq!(numbers(&derived, 1), all);
        }
    }

    #[test]
    fn only_what_continues_a_span_becomes_a_part_of_it() {
        let manifest = counting(&[10], &[]);
        let part = |first, length| Taken {
            tensor: 0,
            first,
            shape: vec![length],
            axes: None,
        };
        let mut derivation = Derivation::new(&manifest);
        let parts = [part(0, 2), part(2, 1), part(7, 2), part(1, 1)];
        derivation.add_parts("y", &[6], &parts).expect("it fits");
        let derived = derivation.build().expect("one name");
        assert_eq!(numbers(&derived, 0), [0, 1, 2, 7, 8, 1]);
        assert_eq!(derived.tensor(0).spans.len(), 3);
    }

    #[test]
    fn three_axes_in_any_order() {
        let manifest = counting(&[2, 3, 4], &[7]);
        for axes in [[0, 2, 1], [2, 1, 0], [1, 0, 2], [2, 0, 1]] {
            let sizes = [2, 3, 4];
            let part = Taken {
                tensor: 0,
                first: 0,
                shape: sizes.to_vec(),
                axes: Some(axes.to_vec()),
            };
            let shape = axes.map(|axis| sizes[axis]);
            let mut derivation = Derivation::new(&manifest);
            derivation.add_parts("y", &shape, &[part]).expect("it fits");
            let derived = derivation.build().expect("one name");
            let mut expected = Vec::new();
            for i in 0..shape[0] {
                for j in 0..shape[1] {
                    for k in 0..shape[2] {
                        let mut place = [0; 3];
                        for (axis, at) in axes.iter().zip([i, j, k]) {
                            place[*axis] = at;
                        }
                        expected.push((place[0] * 12 + place[1] * 4 + place[2]) as u16);
                    }
                }
            }
            assert_eq!(numbers(&derived, 0), expected, "{axes:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let manifest = counting(&[4, 6], &[]);
        let part = |first, shape: &[u64], axes: Option<&[usize]>| Taken {
            tensor: 0,
            first,
            shape: shape.to_vec(),
            axes: axes.map(<[usize]>::to_vec),
        };
        let mut derivation = Derivation::new(&manifest);
        assert!(matches!(
            derivation.add_parts("y", &[24], &[part(1, &[24], None)]),
            Err(DerivedFault::PastEnd { first: 1, .. })
        ));
        assert!(matches!(
            derivation.add_parts("y", &[u64::MAX, 2], &[part(0, &[u64::MAX, 2], None)]),
            Err(DerivedFault::PastEnd { .. })
        ));
        assert!(matches!(
            derivation.add_parts("y", &[5], &[part(0, &[4], None)]),
            Err(DerivedFault::OtherSize { found: 4, .. })
        ));
        assert!(matches!(
            derivation.add_parts("y", &[4], &[part(0, &[2, 2], Some(&[0, 0]))]),
            Err(DerivedFault::BadAxes { .. })
        ));
        assert!(matches!(
            derivation.add_whole("y", 1),
            Err(DerivedFault::NoSuchTensor { index: 1, .. })
        ));
        derivation.add_whole("y", 0).expect("it is there");
        derivation.add_whole("y", 0).expect("found out later");
        assert!(matches!(
            derivation.build(),
            Err(DerivedFault::NameTwice(name)) if name == "y"
        ));
    }
}
