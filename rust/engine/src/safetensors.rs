//! The safetensors format: <https://huggingface.co/docs/safetensors/index#format>.
//!
//! A little-endian u64 with the header's length, the header (JSON), and the tensors' bytes, which
//! must cover the rest of the file without hole or overlap. The header is parsed here and not by
//! the safetensors crate, because that one keeps only the last of two tensors of one name and
//! gives up on a dtype it does not know.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use ckptdiff_kernels::DType;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};

use crate::error::{Error, IndexFault, SafetensorsFault, TensorFault, quoted};
use crate::manifest::{Manifest, ManifestBuilder, Span};
use crate::source::FileSource;

/// The limit that the safetensors library sets, too.
const MAX_HEADER: u64 = 100_000_000;

const MAX_INDEX: u64 = 500_000_000;

/// An allocation of this size goes back to the system when it is freed, with every allocator that
/// we know of, while a smaller one may stay as a hole. What is not written to takes no memory.
const RETURNED_BYTES: usize = 33 << 20;

/// The tensors of one file.
pub fn read_safetensors(path: &Path) -> Result<Manifest, Error> {
    let header = Header::read(path)?;
    let (data_start, data_size) = (header.data_start, header.data_size);
    let manifest = header
        .parse(path)?
        .build()
        .map_err(|tensor| tensor_error(path, &tensor, TensorFault::Duplicate))?;
    check_layout(path, &manifest, data_start, data_size)?;
    Ok(manifest)
}

/// The tensors that a `*.safetensors.index.json` names, from the shards it says they are in.
///
/// Whatever else lies in the shards, or beside them, does not count.
pub fn read_safetensors_index(path: &Path) -> Result<Manifest, Error> {
    let index = read_index(path)?;
    let directory = path.parent().unwrap_or(Path::new(""));
    let mut builder = ManifestBuilder::default();
    builder.promise_disjoint();
    for (shard, ranges) in &index.shards {
        let file = shard_path(path, directory, shard)?;
        let held = read_safetensors(&file).map_err(|error| match error {
            Error::NotFound { .. } => Error::ShardNotFound {
                index: path.to_owned(),
                shard: shard.clone(),
            },
            other => other,
        })?;
        let source = builder.add_source(Arc::new(FileSource::new(file)));
        builder.set_metadata(held.metadata().clone());
        for range in ranges {
            let name = index.name(range);
            let Some(position) = held.find(name) else {
                return Err(index_error(
                    path,
                    IndexFault::TensorMissing {
                        tensor: name.to_owned(),
                        shard: shard.clone(),
                    },
                ));
            };
            let tensor = held.tensor(position);
            let spans = tensor.spans.iter().map(|span| Span { source, ..*span });
            builder.add(name, tensor.dtype.name(), tensor.shape, spans);
        }
    }
    builder
        .build()
        .map_err(|tensor| index_error(path, IndexFault::Duplicate { tensor }))
}

fn shard_path(index: &Path, directory: &Path, shard: &str) -> Result<PathBuf, Error> {
    let relative = Path::new(shard);
    let inside = !shard.is_empty()
        && !shard.contains(['\0', '\\'])
        && relative
            .components()
            .all(|component| matches!(component, Component::Normal(_)));
    if inside {
        Ok(directory.join(relative))
    } else {
        Err(index_error(
            index,
            IndexFault::ShardOutside {
                shard: shard.to_owned(),
            },
        ))
    }
}

fn tensor_error(path: &Path, tensor: &str, fault: TensorFault) -> Error {
    Error::Tensor {
        path: path.to_owned(),
        tensor: tensor.to_owned(),
        fault,
    }
}

fn index_error(path: &Path, fault: IndexFault) -> Error {
    Error::Index {
        path: path.to_owned(),
        fault,
    }
}

fn io_error(path: &Path, source: io::Error) -> Error {
    if source.kind() == io::ErrorKind::NotFound {
        Error::NotFound {
            path: path.to_owned(),
        }
    } else {
        Error::Io {
            path: path.to_owned(),
            source,
        }
    }
}

/// Open a regular file; opening a pipe would wait for a writer.
fn open(path: &Path) -> Result<(File, u64), Error> {
    let metadata = std::fs::metadata(path).map_err(|error| io_error(path, error))?;
    if !metadata.is_file() {
        return Err(Error::NotAFile {
            path: path.to_owned(),
        });
    }
    let file = File::open(path).map_err(|error| io_error(path, error))?;
    Ok((file, metadata.len()))
}

/// The next `length` bytes of a file.
fn read_text(file: &mut File, length: u64) -> io::Result<Vec<u8>> {
    let mut text = Vec::with_capacity((length as usize).max(RETURNED_BYTES));
    file.take(length).read_to_end(&mut text)?;
    if text.len() as u64 == length {
        Ok(text)
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// A header's text, and where it ends.
struct Header {
    text: String,
    data_start: u64,
    data_size: u64,
}

/// Whether the offsets of a tensor fit its shape and the file.
fn check_tensor(
    dtype: &str,
    shape: &[u64],
    (begin, end): (u64, u64),
    available: u64,
) -> Result<(), TensorFault> {
    if end < begin {
        return Err(TensorFault::OffsetsReversed { begin, end });
    }
    if end > available {
        return Err(TensorFault::OffsetsPastEnd {
            begin,
            end,
            available,
        });
    }
    let Some(elements) = product(shape) else {
        return Err(TensorFault::TooManyElements {
            shape: shape.to_owned(),
        });
    };
    let Ok(dtype) = DType::from_name(dtype) else {
        return Ok(());
    };
    let Some(expected) = dtype.bytes(elements) else {
        return Err(TensorFault::PartialByte {
            shape: shape.to_owned(),
            dtype: dtype.name(),
        });
    };
    if expected == end - begin {
        Ok(())
    } else {
        Err(TensorFault::WrongSize {
            shape: shape.to_owned(),
            dtype: dtype.name(),
            expected,
            found: end - begin,
        })
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

impl Header {
    fn read(path: &Path) -> Result<Self, Error> {
        let fail = |fault| Error::Safetensors {
            path: path.to_owned(),
            fault,
        };
        let (mut file, size) = open(path)?;
        if size < 8 {
            return Err(fail(SafetensorsFault::TooShort { size }));
        }
        let mut length = [0; 8];
        file.read_exact(&mut length)
            .map_err(|error| io_error(path, error))?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER {
            return Err(fail(SafetensorsFault::HeaderTooLong { length }));
        }
        if length > size - 8 {
            return Err(fail(SafetensorsFault::HeaderPastEnd { length, size }));
        }
        let bytes = read_text(&mut file, length).map_err(|error| io_error(path, error))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            fail(SafetensorsFault::NotUtf8 {
                offset: error.utf8_error().valid_up_to(),
            })
        })?;
        Ok(Self {
            text,
            data_start: 8 + length,
            data_size: size - 8 - length,
        })
    }

    /// The tensors as the header has them; each is checked, but not yet against the others.
    ///
    /// This uses the text up: it is as large as the manifest, and both are in memory only here.
    fn parse(self, path: &Path) -> Result<ManifestBuilder, Error> {
        let mut builder = ManifestBuilder::default();
        // Holes and overlaps are errors, which is checked when all is there.
        builder.promise_disjoint();
        builder.add_source(Arc::new(FileSource::new(path.to_owned())));
        let mut seed = HeaderSeed {
            builder,
            data_start: self.data_start,
            data_size: self.data_size,
            fault: None,
        };
        let mut deserializer = serde_json::Deserializer::from_str(&self.text);
        let outcome = (&mut seed)
            .deserialize(&mut deserializer)
            .and_then(|()| deserializer.end());
        match (seed.fault, outcome) {
            (Some((tensor, fault)), _) => Err(tensor_error(path, &tensor, fault)),
            (None, Err(error)) => Err(Error::Safetensors {
                path: path.to_owned(),
                fault: SafetensorsFault::Json(error.to_string()),
            }),
            (None, Ok(())) => Ok(seed.builder),
        }
    }
}

/// Every tensor's bytes are its own, and every byte is some tensor's.
fn check_layout(
    path: &Path,
    manifest: &Manifest,
    data_start: u64,
    data_size: u64,
) -> Result<(), Error> {
    // Where a tensor's bytes are, counted from the start of the data as the header counts.
    let range = |index: u32| {
        let spans = manifest.tensor(index as usize).spans;
        let begin = spans[0].offset - data_start;
        (begin, begin + spans[0].length)
    };
    let name = |index: u32| manifest.tensor(index as usize).name;
    let mut order: Vec<u32> = (0..manifest.len() as u32).collect();
    order.sort_unstable_by_key(|index| (range(*index), *index));
    let mut covered = 0;
    let mut previous = None;
    for index in order {
        let (begin, end) = range(index);
        let fault = match previous {
            Some(other) if begin < covered => TensorFault::Overlap {
                begin,
                end: covered,
                other: name(other).to_owned(),
            },
            _ if begin > covered => TensorFault::Hole {
                begin,
                end: covered,
            },
            _ => {
                (covered, previous) = (end, Some(index));
                continue;
            }
        };
        return Err(tensor_error(path, name(index), fault));
    }
    if covered < data_size {
        return Err(Error::Safetensors {
            path: path.to_owned(),
            fault: SafetensorsFault::TrailingBytes {
                extra: data_size - covered,
            },
        });
    }
    Ok(())
}

/// Puts the tensors that it reads into the builder.
struct HeaderSeed {
    builder: ManifestBuilder,
    data_start: u64,
    data_size: u64,
    /// The tensor that ended the reading, which an error of the parser cannot carry.
    fault: Option<(String, TensorFault)>,
}

impl<'de> DeserializeSeed<'de> for &mut HeaderSeed {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut HeaderSeed {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object of tensors")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(Text(name)) = map.next_key()? {
            if name == "__metadata__" {
                let metadata = map.next_value().map_err(|error| {
                    M::Error::custom(format_args!("__metadata__ must map text to text: {error}"))
                })?;
                self.builder.set_metadata(metadata);
                continue;
            }
            let fail = |reason: std::fmt::Arguments<'_>| {
                M::Error::custom(format_args!("tensor {}: {reason}", quoted(&name)))
            };
            let info: TensorInfo<'de> = map
                .next_value()
                .map_err(|error| fail(format_args!("{error}")))?;
            if info.shape.len() > usize::from(u16::MAX) {
                return Err(fail(format_args!("{} dimensions", info.shape.len())));
            }
            let (begin, end) = info.data_offsets;
            let fits = check_tensor(&info.dtype.0, &info.shape, (begin, end), self.data_size);
            if let Err(fault) = fits {
                self.fault = Some((name.into_owned(), fault));
                return Err(M::Error::custom("a tensor does not fit"));
            }
            let span = Span {
                source: 0,
                offset: self.data_start + begin,
                length: end - begin,
            };
            self.builder.add(&name, &info.dtype.0, &info.shape, [span]);
        }
        Ok(())
    }
}

/// What the header says of a tensor, as an object: serde would take an array for one, too.
struct TensorInfo<'a> {
    dtype: Text<'a>,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl<'de: 'a, 'a> Deserialize<'de> for TensorInfo<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = TensorInfo<'de>;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an object with dtype, shape and data_offsets")
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<TensorInfo<'de>, M::Error> {
                #[derive(Deserialize)]
                struct Derived<'a> {
                    #[serde(borrow)]
                    dtype: Text<'a>,
                    shape: Vec<u64>,
                    data_offsets: (u64, u64),
                }

                let deserializer = serde::de::value::MapAccessDeserializer::new(map);
                let Derived {
                    dtype,
                    shape,
                    data_offsets,
                } = Derived::deserialize(deserializer)?;
                Ok(TensorInfo {
                    dtype,
                    shape,
                    data_offsets,
                })
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// A text that borrows from the header unless it has escapes; `Cow` alone would always copy.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Which shard each tensor is in.
struct Index {
    /// All names, one after the other: an index can have a million.
    names: String,
    /// Where in `names` those of a shard's tensors are. An index is far shorter than 2³² bytes.
    shards: BTreeMap<String, Vec<Range<u32>>>,
}

impl Index {
    fn name(&self, range: &Range<u32>) -> &str {
        &self.names[range.start as usize..range.end as usize]
    }
}

fn read_index(path: &Path) -> Result<Index, Error> {
    let (mut file, size) = open(path)?;
    if size > MAX_INDEX {
        return Err(index_error(path, IndexFault::TooLong { size }));
    }
    let text = read_text(&mut file, size).map_err(|error| io_error(path, error))?;
    let IndexFile {
        weight_map: WeightMap(index),
    } = serde_json::from_slice(&text)
        .map_err(|error| index_error(path, IndexFault::Json(error.to_string())))?;
    let mut seen = HashSet::new();
    for range in index.shards.values().flatten() {
        if !seen.insert(index.name(range)) {
            let tensor = index.name(range).to_owned();
            return Err(index_error(path, IndexFault::Duplicate { tensor }));
        }
    }
    drop(seen);
    Ok(index)
}

#[derive(Deserialize)]
struct IndexFile {
    weight_map: WeightMap,
}

/// Every entry of a map, duplicates too.
struct WeightMap(Index);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = WeightMap;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a map of tensor names to shard names")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<WeightMap, M::Error> {
                let mut names = String::new();
                let mut shards = BTreeMap::<String, Vec<Range<u32>>>::new();
                while let Some((Text(tensor), Text(shard))) = map.next_entry()? {
                    let start = names.len() as u32;
                    names.push_str(&tensor);
                    let range = start..names.len() as u32;
                    match shards.get_mut(&*shard) {
                        Some(ranges) => ranges.push(range),
                        None => {
                            shards.insert(shard.into_owned(), vec![range]);
                        }
                    }
                }
                Ok(WeightMap(Index { names, shards }))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}
