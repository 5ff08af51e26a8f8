//! Which tensors a checkpoint holds and where their bytes lie.
//!
//! A checkpoint can have a million tensors, so names, shapes and spans lie in arenas: a manifest
//! takes about a hundred bytes a tensor, with the name, in a handful of allocations.

use std::collections::BTreeMap;
use std::sync::Arc;

use ckptdiff_kernels::DType;

use crate::order::natural_cmp;
use crate::source::Source;

/// Bytes of a tensor that lie in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// Which of the manifest's sources.
    pub source: u32,
    /// Where in it.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
}

/// A dtype as a file names it, which need not be one that we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredDType<'a> {
    /// One that can be compared.
    Known(DType),
    /// One that can only be listed.
    Unknown(&'a str),
}

impl<'a> StoredDType<'a> {
    /// The name in the file.
    pub const fn name(self) -> &'a str {
        match self {
            Self::Known(dtype) => dtype.name(),
            Self::Unknown(name) => name,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    name_start: u32,
    name_length: u32,
    shape_start: u32,
    span_start: u32,
    span_count: u32,
    rank: u16,
    /// Index in [`DType::ALL`], or beyond it in the unknown names.
    dtype: u16,
}

/// The tensors of a checkpoint, in natural order of their names.
#[derive(Clone, Default)]
pub struct Manifest {
    names: String,
    shapes: Vec<u64>,
    spans: Vec<Span>,
    entries: Vec<Entry>,
    unknown_dtypes: Vec<String>,
    sources: Vec<Arc<dyn Source>>,
    metadata: BTreeMap<String, String>,
    /// Whether the format has it that no two tensors have bytes in common.
    disjoint: bool,
}

/// One tensor of a manifest.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its dtype.
    pub dtype: StoredDType<'a>,
    /// Its shape; empty for a scalar.
    pub shape: &'a [u64],
    /// Its bytes, in row-major order of the elements.
    pub spans: &'a [Span],
}

impl TensorView<'_> {
    /// How many elements the shape has; a builder accepts no shape with more than 64 bits of them.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// How many bytes the spans have.
    pub fn bytes(&self) -> u64 {
        self.spans.iter().map(|span| span.length).sum()
    }
}

/// How much there is of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Number of tensors.
    pub tensors: u64,
    /// Number of elements.
    pub elements: u128,
    /// Number of bytes.
    pub bytes: u128,
}

impl Manifest {
    /// How many tensors there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The tensor at `index`, in natural order of names.
    pub fn tensor(&self, index: usize) -> TensorView<'_> {
        let entry = self.entries[index];
        let shape = entry.shape_start as usize;
        let spans = entry.span_start as usize;
        TensorView {
            name: self.name(entry),
            dtype: match DType::ALL.get(usize::from(entry.dtype)) {
                Some(dtype) => StoredDType::Known(*dtype),
                None => StoredDType::Unknown(
                    &self.unknown_dtypes[usize::from(entry.dtype) - DType::ALL.len()],
                ),
            },
            shape: &self.shapes[shape..shape + usize::from(entry.rank)],
            spans: &self.spans[spans..spans + entry.span_count as usize],
        }
    }

    fn name(&self, entry: Entry) -> &str {
        let start = entry.name_start as usize;
        &self.names[start..start + entry.name_length as usize]
    }

    /// Every tensor, in natural order of names.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = TensorView<'_>> {
        (0..self.len()).map(|index| self.tensor(index))
    }

    /// How much there is of each dtype among the tensors at these indices.
    pub fn sums(&self, indices: impl IntoIterator<Item = usize>) -> BTreeMap<&str, Sum> {
        let mut sums = BTreeMap::<_, Sum>::new();
        for index in indices {
            let tensor = self.tensor(index);
            let sum = sums.entry(tensor.dtype.name()).or_default();
            sum.tensors += 1;
            sum.elements += u128::from(tensor.elements());
            sum.bytes += u128::from(tensor.bytes());
        }
        sums
    }

    /// The indices of tensors whose dtype no kernel knows.
    pub fn unsupported(&self) -> impl Iterator<Item = usize> {
        let known = DType::ALL.len();
        let entries = self.entries.iter().enumerate();
        entries
            .filter(move |(_, entry)| usize::from(entry.dtype) >= known)
            .map(|(index, _)| index)
    }

    /// The index of the tensor of that name.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.entries
            .binary_search_by(|entry| natural_cmp(self.name(*entry), name))
            .ok()
    }

    /// The tensors of several manifests, each with its prefix before the names.
    ///
    /// Metadata is joined, too, under the same prefixes. A name that two would have comes back as
    /// the error.
    pub fn joined(parts: &[(&Self, &str)]) -> Result<Self, String> {
        let mut builder = ManifestBuilder::default();
        let mut metadata = BTreeMap::new();
        for (part, prefix) in parts {
            let first = builder.manifest.sources.len() as u32;
            for source in &part.sources {
                builder.add_source(Arc::clone(source));
            }
            for tensor in part.tensors() {
                let name = format!("{prefix}{}", tensor.name);
                let spans = tensor.spans.iter().map(|span| Span {
                    source: first + span.source,
                    ..*span
                });
                builder.add(&name, tensor.dtype.name(), tensor.shape, spans);
            }
            for (key, value) in &part.metadata {
                metadata
                    .entry(format!("{prefix}{key}"))
                    .or_insert_with(|| value.clone());
            }
        }
        builder.set_metadata(metadata);
        builder.build()
    }

    /// Whether it is known, without a look at the spans, that no two tensors share bytes.
    pub(crate) const fn is_disjoint(&self) -> bool {
        self.disjoint
    }

    /// Where spans read from.
    pub fn sources(&self) -> &[Arc<dyn Source>] {
        &self.sources
    }

    /// Text that the files carry beside the tensors.
    pub const fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }
}

/// Collects tensors into a [`Manifest`].
#[derive(Default)]
pub struct ManifestBuilder {
    manifest: Manifest,
}

impl ManifestBuilder {
    /// Add a source and return the number that spans name it by.
    pub fn add_source(&mut self, source: Arc<dyn Source>) -> u32 {
        self.manifest.sources.push(source);
        (self.manifest.sources.len() - 1) as u32
    }

    /// Promise that no two tensors will have bytes in common.
    pub(crate) const fn promise_disjoint(&mut self) {
        self.manifest.disjoint = true;
    }

    /// Keep metadata; the first that is given stays.
    pub fn set_metadata(&mut self, metadata: BTreeMap<String, String>) {
        if self.manifest.metadata.is_empty() {
            self.manifest.metadata = metadata;
        }
    }

    /// Add a tensor.
    ///
    /// # Panics
    ///
    /// Where names, shapes or spans together exceed 2³² bytes or entries.
    pub fn add(
        &mut self,
        name: &str,
        dtype: &str,
        shape: &[u64],
        spans: impl IntoIterator<Item = Span>,
    ) {
        let manifest = &mut self.manifest;
        let known = DType::ALL.iter().position(|known| known.name() == dtype);
        let dtype = known.unwrap_or_else(|| {
            let unknown = &mut manifest.unknown_dtypes;
            let position = unknown.iter().position(|name| name == dtype);
            let position = position.unwrap_or_else(|| {
                unknown.push(dtype.to_owned());
                unknown.len() - 1
            });
            DType::ALL.len() + position
        });
        let narrow = |length: usize| u32::try_from(length).expect("a manifest of under 4 GiB");
        let span_start = manifest.spans.len();
        manifest.spans.extend(spans);
        manifest.entries.push(Entry {
            name_start: narrow(manifest.names.len()),
            name_length: narrow(name.len()),
            shape_start: narrow(manifest.shapes.len()),
            span_start: narrow(span_start),
            span_count: narrow(manifest.spans.len() - span_start),
            rank: u16::try_from(shape.len()).expect("a rank below 65536"),
            dtype: u16::try_from(dtype).expect("fewer than 65000 dtypes"),
        });
        manifest.names.push_str(name);
        manifest.shapes.extend_from_slice(shape);
    }

    /// Put the tensors in natural order. A name that was added twice comes back as the error.
    pub fn build(self) -> Result<Manifest, String> {
        let mut manifest = self.manifest;
        let mut entries = std::mem::take(&mut manifest.entries);
        entries.sort_unstable_by(|a, b| natural_cmp(manifest.name(*a), manifest.name(*b)));
        let twice = entries
            .windows(2)
            .find(|pair| manifest.name(pair[0]) == manifest.name(pair[1]));
        if let Some(pair) = twice {
            return Err(manifest.name(pair[0]).to_owned());
        }
        entries.shrink_to_fit();
        manifest.names.shrink_to_fit();
        manifest.shapes.shrink_to_fit();
        manifest.spans.shrink_to_fit();
        manifest.entries = entries;
        Ok(manifest)
    }
}
