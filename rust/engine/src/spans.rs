//! Manifests from spans that somebody else has found: every format that is not parsed here.
//!
//! A reader names files, tensors and where their bytes lie. Whether the bytes are there, and are as
//! many as dtype and shape take, is checked here once for all formats, so that the engine can rely
//! on it.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ckptdiff_kernels::DType;

use crate::error::{Error, TensorFault};
use crate::interleaved::InterleavedSource;
use crate::manifest::{Manifest, ManifestBuilder, Span};
use crate::source::{FileSource, Source};
use crate::strided::{Blocks, StridedSource};

/// Distinct dtypes that nobody knows; each is a name to keep.
const UNKNOWN_DTYPES_AT_MOST: usize = 1000;

/// A manifest keeps positions of names and sizes in 32 bits.
const ARENA: u64 = u32::MAX as u64;

struct File {
    source: Arc<FileSource>,
    path: PathBuf,
    size: u64,
}

/// Collects tensors of files into a [`Manifest`], and checks them.
pub struct SpanManifest {
    builder: ManifestBuilder,
    files: Vec<File>,
    blocks: Arc<Blocks>,
    strided: usize,
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
            let source = Arc::new(FileSource::new(path.clone()));
            builder.add_source(Arc::clone(&source) as Arc<dyn Source>);
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
            strided: 0,
            unknown: HashSet::new(),
            names: 0,
            places: 0,
        })
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
        let Some(file) = self.files.get(source as usize) else {
            return Err(fail(&self.files, TensorFault::NoSuchFile));
        };
        let known = DType::from_name(dtype)
            .ok()
            .filter(|known| known.granule().elements == 1);
        let Some(known) = known.filter(|_| strides.len() == shape.len()) else {
            let fault = TensorFault::NoStrides {
                dtype: dtype.to_owned(),
            };
            return Err(fail(&self.files, fault));
        };
        let width = known.bits() / 8;
        let length = product(shape)
            .and_then(|elements| known.bytes(elements))
            .ok_or_else(|| {
                let shape = shape.to_owned();
                fail(&self.files, TensorFault::TooManyElements { shape })
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
            let fault = TensorFault::PastEnd {
                offset,
                length: reach.map_or(u64::MAX, |reach| reach.saturating_sub(offset)),
                size: file.size,
            };
            return Err(fail(&self.files, fault));
        }
        let view = StridedSource::new(
            Arc::clone(&file.source) as Arc<dyn Source>,
            Arc::clone(&self.blocks),
            self.strided,
            offset,
            shape,
            strides,
            width,
        );
        self.make_room(name, dtype, shape.len(), 1)
            .map_err(|fault| fail(&self.files, fault))?;
        self.strided += 1;
        let source = self.builder.add_source(Arc::new(view));
        let span = Span {
            source,
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

/// The product of a shape, also where a 0 follows sizes that would overflow.
fn product(shape: &[u64]) -> Option<u64> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape
        .iter()
        .try_fold(1u64, |product, size| product.checked_mul(*size))
}
