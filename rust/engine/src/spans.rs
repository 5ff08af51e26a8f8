//! Manifests from spans that somebody else has found: every format that is not parsed here.
//!
//! A reader names files, tensors and where their bytes lie. Whether the bytes are there, and are as
//! many as dtype and shape take, is checked here once for all formats, so that the engine can rely
//! on it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ckptdiff_kernels::DType;

use crate::boxes::{BOXES_AT_MOST, BoxedSource, Part, cover};
use crate::deflated::{DeflatedSource, Inflated};
use crate::error::{Error, TensorFault};
use crate::interleaved::InterleavedSource;
use crate::manifest::{Manifest, ManifestBuilder, Span};
use crate::source::{FileSource, Source};
use crate::strided::{Blocks, StridedSource};

/// Distinct dtypes that nobody knows; each is a name to keep.
const UNKNOWN_DTYPES_AT_MOST: usize = 1000;

/// Strided views that are remembered, to tell that a later one is the same.
const VIEWS_AT_MOST: usize = 4096;

/// A manifest keeps positions of names and sizes in 32 bits.
const ARENA: u64 = u32::MAX as u64;

struct File {
    source: Arc<dyn Source>,
    path: PathBuf,
    size: u64,
}

/// A part of a tensor that lies in a file by itself.
pub struct PlacedPart {
    /// The file.
    pub source: u32,
    /// Where its first element is.
    pub offset: u64,
    /// Where in the tensor it begins, by dimension.
    pub origin: Vec<u64>,
    /// How large it is, by dimension.
    pub sizes: Vec<u64>,
    /// Bytes from one of its elements to the next, by dimension; None where they lie in order.
    pub strides: Option<Vec<u64>>,
}

/// Elements that lie apart: of which file, from where on, how wide, in which shape and strides.
type View = (u32, u64, u64, Vec<u64>, Vec<u64>);

/// Collects tensors of files into a [`Manifest`], and checks them.
pub struct SpanManifest {
    builder: ManifestBuilder,
    files: Vec<File>,
    blocks: Arc<Blocks>,
    inflated: Arc<Inflated>,
    strided: usize,
    views: HashMap<View, Span>,
    unknown: HashSet<String>,
    names: u64,
    places: u64,
}

impl SpanManifest {
    /// No tensors yet, of these files, which spans call by their positions.
    pub fn new(paths: Vec<PathBuf>) -> Result<Self, Error> {
        let mut builder = ManifestBuilder::default();
        let mut files = Vec::with_capacity(paths.len());
        for path in paths {
            let metadata = fs::metadata(&path).map_err(|source| {
                if source.kind() == io::ErrorKind::NotFound {
                    Error::NotFound { path: path.clone() }
                } else {
                    Error::Io {
                        path: path.clone(),
                        source,
                    }
                }
            })?;
            if !metadata.is_file() {
                return Err(Error::NotAFile { path });
            }
            let source: Arc<dyn Source> = Arc::new(FileSource::new(path.clone()));
            builder.add_source(Arc::clone(&source));
            files.push(File {
                source,
                path,
                size: metadata.len(),
            });
        }
        Ok(Self {
            builder,
            files,
            blocks: Arc::default(),
            inflated: Arc::default(),
            strided: 0,
            views: HashMap::new(),
            unknown: HashSet::new(),
            names: 0,
            places: 0,
        })
    }

    /// Add a deflated part of a file, which inflates to a length and a CRC, as a source of its own, which spans call by the next number.
    ///
    /// All of these come before the first tensor, whose strides may make further sources.
    pub fn add_deflated(
        &mut self,
        source: u32,
        offset: u64,
        stored_length: u64,
        (length, crc): (u64, u32),
    ) -> Result<(), Error> {
        let number = self.files.len();
        let fail = |files: &[File], fault| Error::Tensor {
            path: file_path(files, source),
            tensor: format!("in compressed record {number}"),
            fault,
        };
        let Some(file) = self.files.get(source as usize) else {
            return Err(fail(&self.files, TensorFault::NoSuchFile));
        };
        let end = offset.checked_add(stored_length);
        if end.is_none_or(|end| end > file.size) {
            let fault = TensorFault::PastEnd {
                offset,
                length: stored_length,
                size: file.size,
            };
            return Err(fail(&self.files, fault));
        }
        let path = file.path.clone();
        let source: Arc<dyn Source> = Arc::new(DeflatedSource::new(
            Arc::clone(&file.source),
            Arc::clone(&self.inflated),
            number,
            (offset, stored_length),
            (length, crc),
        ));
        self.builder.add_source(Arc::clone(&source));
        self.files.push(File {
            source,
            path,
            size: length,
        });
        Ok(())
    }

    /// Add a tensor whose bytes are these spans, in row-major order of its elements.
    ///
    /// Of a dtype that nobody knows only the place of the spans is checked, not their length.
    pub fn add(
        &mut self,
        name: &str,
        dtype: &str,
        shape: &[u64],
        spans: &[Span],
    ) -> Result<(), Error> {
        let first = spans.first().map_or(0, |span| span.source);
        let fail = |files: &[File], source: u32, fault| Error::Tensor {
            path: file_path(files, source),
            tensor: name.to_owned(),
            fault,
        };
        let mut total = 0u64;
        for span in spans {
            let Some(file) = self.files.get(span.source as usize) else {
                return Err(fail(&self.files, first, TensorFault::NoSuchFile));
            };
            let end = span.offset.checked_add(span.length);
            if end.is_none_or(|end| end > file.size) {
                return Err(fail(
                    &self.files,
                    span.source,
                    TensorFault::PastEnd {
                        offset: span.offset,
                        length: span.length,
                        size: file.size,
                    },
                ));
            }
            total = total.saturating_add(span.length);
        }
        self.check_layout(dtype, shape, (!spans.is_empty()).then_some(total))
            .map_err(|fault| fail(&self.files, first, fault))?;
        self.make_room(name, dtype, shape.len(), spans.len())
            .map_err(|fault| fail(&self.files, first, fault))?;
        self.builder.add(name, dtype, shape, spans.iter().copied());
        Ok(())
    }

    /// Add a tensor whose elements lie apart, by strides in bytes; a stride of 0 repeats elements.
    pub fn add_strided(
        &mut self,
        name: &str,
        dtype: &str,
        shape: &[u64],
        (source, offset): (u32, u64),
        strides: &[u64],
    ) -> Result<(), Error> {
        let fail = |files: &[File], fault| Error::Tensor {
            path: file_path(files, source),
            tensor: name.to_owned(),
            fault,
        };
        let (view, length) = self
            .strided_view(dtype, shape, (source, offset), strides)
            .map_err(|fault| fail(&self.files, fault))?;
        self.make_room(name, dtype, shape.len(), 1)
            .map_err(|fault| fail(&self.files, fault))?;
        // Tensors that are tied have one place, which is how a run knows that they are the same.
        let width = DType::from_name(dtype).map_or(0, DType::bits);
        let place = (source, offset, width, shape.to_owned(), strides.to_owned());
        let span = match self.views.get(&place) {
            Some(span) => *span,
            None => Span {
                source: self.builder.add_source(view),
                offset: 0,
                length,
            },
        };
        if self.views.len() < VIEWS_AT_MOST {
            self.views.insert(place, span);
        }
        self.builder.add(name, dtype, shape, [span]);
        Ok(())
    }

    /// Add a tensor in parts that may be cut along any dimensions; none of them is empty.
    pub fn add_parts(
        &mut self,
        name: &str,
        dtype: &str,
        shape: &[u64],
        parts: &[PlacedPart],
    ) -> Result<(), Error> {
        let first = parts.first().map_or(0, |part| part.source);
        let fail = |files: &[File], source: u32, fault| Error::Tensor {
            path: file_path(files, source),
            tensor: name.to_owned(),
            fault,
        };
        let boxes: Vec<Part> = parts
            .iter()
            .map(|part| Part {
                origin: part.origin.clone(),
                sizes: part.sizes.clone(),
            })
            .collect();
        let width = DType::from_name(dtype)
            .ok()
            .filter(|known| known.granule().elements == 1)
            .map(|known| known.bits() / 8);
        let length = width.and_then(|width| product(shape)?.checked_mul(width));
        let (Some(width), Some(length)) = (width, length) else {
            let dtype = dtype.to_owned();
            return Err(fail(&self.files, first, TensorFault::NoStrides { dtype }));
        };
        if boxes.len() > BOXES_AT_MOST || !cover(shape, &boxes) {
            let fault = TensorFault::PartsDoNotCover {
                parts: boxes.len(),
                shape: shape.to_owned(),
            };
            return Err(fail(&self.files, first, fault));
        }
        let mut placed = Vec::with_capacity(parts.len());
        for (part, sizes) in parts.iter().zip(boxes) {
            let in_order = in_order(&part.sizes, width);
            let strides = part.strides.as_ref().unwrap_or(&in_order);
            let (view, _) = self
                .strided_view(dtype, &part.sizes, (part.source, part.offset), strides)
                .map_err(|fault| fail(&self.files, part.source, fault))?;
            placed.push(if *strides == in_order {
                let file = &self.files[part.source as usize];
                (Arc::clone(&file.source), part.offset, sizes)
            } else {
                (view, 0, sizes)
            });
        }
        self.make_room(name, dtype, shape.len(), 1)
            .map_err(|fault| fail(&self.files, first, fault))?;
        let source = BoxedSource::new(placed, shape, width);
        let span = Span {
            source: self.builder.add_source(Arc::new(source)),
            offset: 0,
            length,
        };
        self.builder.add(name, dtype, shape, [span]);
        Ok(())
    }

    /// Add a tensor that lies in one piece, but for its rows: `groups` groups of them, each with
    /// the rows of its two halves by turns.
    pub fn add_interleaved(
        &mut self,
        name: &str,
        dtype: &str,
        shape: &[u64],
        (source, offset): (u32, u64),
        groups: u64,
    ) -> Result<(), Error> {
        let fail = |files: &[File], fault| Error::Tensor {
            path: file_path(files, source),
            tensor: name.to_owned(),
            fault,
        };
        let Some(file) = self.files.get(source as usize) else {
            return Err(fail(&self.files, TensorFault::NoSuchFile));
        };
        let rows = shape.first().copied().unwrap_or(0);
        let length = product(shape)
            .zip(DType::from_name(dtype).ok())
            .and_then(|(elements, known)| known.bytes(elements))
            .filter(|length| {
                let halves = groups.checked_mul(2).unwrap_or(0);
                *length > 0
                    && halves > 0
                    && rows.is_multiple_of(halves)
                    && length.is_multiple_of(rows)
            });
        let Some(length) = length else {
            let shape = shape.to_owned();
            return Err(fail(&self.files, TensorFault::NoHalves { shape, groups }));
        };
        if offset.checked_add(length).is_none_or(|end| end > file.size) {
            let size = file.size;
            let fault = TensorFault::PastEnd {
                offset,
                length,
                size,
            };
            return Err(fail(&self.files, fault));
        }
        let ordered = InterleavedSource::new(
            Arc::clone(&file.source) as Arc<dyn Source>,
            offset,
            length / rows,
            rows / groups,
            length,
        );
        self.make_room(name, dtype, shape.len(), 1)
            .map_err(|fault| fail(&self.files, fault))?;
        let source = self.builder.add_source(Arc::new(ordered));
        let span = Span {
            source,
            offset: 0,
            length,
        };
        self.builder.add(name, dtype, shape, [span]);
        Ok(())
    }

    /// The manifest. Two tensors of one name are an error.
    pub fn build(mut self, metadata: BTreeMap<String, String>) -> Result<Manifest, Error> {
        self.builder.set_metadata(metadata);
        let path = file_path(&self.files, 0);
        self.builder.build().map_err(|tensor| Error::Tensor {
            path,
            tensor,
            fault: TensorFault::NameTwice,
        })
    }

    /// A strided view of a file, checked, and how many bytes it gives.
    fn strided_view(
        &mut self,
        dtype: &str,
        shape: &[u64],
        (source, offset): (u32, u64),
        strides: &[u64],
    ) -> Result<(Arc<dyn Source>, u64), TensorFault> {
        let Some(file) = self.files.get(source as usize) else {
            return Err(TensorFault::NoSuchFile);
        };
        let known = DType::from_name(dtype)
            .ok()
            .filter(|known| known.granule().elements == 1);
        let Some(known) = known.filter(|_| strides.len() == shape.len()) else {
            return Err(TensorFault::NoStrides {
                dtype: dtype.to_owned(),
            });
        };
        let width = known.bits() / 8;
        let length = product(shape)
            .and_then(|elements| known.bytes(elements))
            .ok_or_else(|| {
                let shape = shape.to_owned();
                TensorFault::TooManyElements { shape }
            })?;
        let reach = if length == 0 {
            Some(offset)
        } else {
            shape
                .iter()
                .zip(strides)
                .try_fold(offset.saturating_add(width), |reach, (size, stride)| {
                    reach.checked_add((size - 1).checked_mul(*stride)?)
                })
        };
        if reach.is_none_or(|reach| reach > file.size) {
            return Err(TensorFault::PastEnd {
                offset,
                length: reach.map_or(u64::MAX, |reach| reach.saturating_sub(offset)),
                size: file.size,
            });
        }
        let view = StridedSource::new(
            Arc::clone(&file.source),
            Arc::clone(&self.blocks),
            self.strided,
            offset,
            shape,
            strides,
            width,
        );
        self.strided += 1;
        Ok((Arc::new(view), length))
    }

    fn check_layout(
        &self,
        dtype: &str,
        shape: &[u64],
        found: Option<u64>,
    ) -> Result<(), TensorFault> {
        let Some(elements) = product(shape) else {
            let shape = shape.to_owned();
            return Err(TensorFault::TooManyElements { shape });
        };
        let Ok(known) = DType::from_name(dtype) else {
            return Ok(());
        };
        let Some(expected) = known.bytes(elements) else {
            return Err(TensorFault::PartialByte {
                shape: shape.to_owned(),
                dtype: known.name(),
            });
        };
        match found.unwrap_or(0) {
            found if found == expected => Ok(()),
            found => Err(TensorFault::SpansOfWrongSize {
                shape: shape.to_owned(),
                dtype: known.name(),
                expected,
                found,
            }),
        }
    }

    /// Count what the manifest's arenas must hold.
    fn make_room(
        &mut self,
        name: &str,
        dtype: &str,
        rank: usize,
        spans: usize,
    ) -> Result<(), TensorFault> {
        self.names += name.len() as u64;
        self.places += (rank + spans) as u64;
        if self.names > ARENA || self.places > ARENA || rank > usize::from(u16::MAX) {
            return Err(TensorFault::TooMuch);
        }
        if DType::from_name(dtype).is_err() && !self.unknown.contains(dtype) {
            if self.unknown.len() == UNKNOWN_DTYPES_AT_MOST {
                return Err(TensorFault::TooMuch);
            }
            self.unknown.insert(dtype.to_owned());
        }
        Ok(())
    }
}

fn file_path(files: &[File], source: u32) -> PathBuf {
    files
        .get(source as usize)
        .or(files.first())
        .map_or_else(|| Path::new("").to_owned(), |file| file.path.clone())
}

/// Byte strides of elements in row-major order.
fn in_order(sizes: &[u64], width: u64) -> Vec<u64> {
    let mut strides = vec![width; sizes.len()];
    for at in (0..sizes.len().saturating_sub(1)).rev() {
        strides[at] = strides[at + 1].saturating_mul(sizes[at + 1]);
    }
    strides
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
