//! The safetensors format: <https://huggingface.co/docs/safetensors/index#format>.
//!
//! A little-endian u64 with the header's length, the header (JSON), and the tensors' bytes, which
//! must cover the rest of the file without hole or overlap. The header is parsed here and not by
//! the safetensors crate, because that one keeps only the last of two tensors of one name and
//! gives up on a dtype it does not know.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use ckptdiff_kernels::DType;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};

use crate::error::{Error, IndexFault, SafetensorsFault, TensorFault};
use crate::manifest::{Manifest, ManifestBuilder, Span};
use crate::order::natural_cmp;
use crate::source::FileSource;

/// The limit that the safetensors library sets, too.
const MAX_HEADER: u64 = 100_000_000;

const MAX_INDEX: u64 = 500_000_000;

/// The tensors of one file.
pub fn read_safetensors(path: &Path) -> Result<Manifest, Error> {
    let mut builder = ManifestBuilder::default();
    let header = Header::read(path)?;
    let tensors = header.parse(path)?;
    let source = builder.add_source(Arc::new(FileSource::new(path.to_owned())));
    builder.set_metadata(tensors.metadata);
    builder.reserve(tensors.tensors.len());
    for tensor in &tensors.tensors {
        builder.add(
            &tensor.name,
            &tensor.dtype,
            &tensor.shape,
            &[tensor.span(source, header.data_start)],
        );
    }
    // Duplicates were found when the header was parsed.
    builder
        .build()
        .map_err(|tensor| tensor_error(path, &tensor, TensorFault::Duplicate))
}

/// The tensors that a `*.safetensors.index.json` names, from the shards it says they are in.
///
/// Whatever else lies in the shards, or beside them, does not count.
pub fn read_safetensors_index(path: &Path) -> Result<Manifest, Error> {
    let index = read_index(path)?;
    let directory = path.parent().unwrap_or(Path::new(""));
    let mut by_shard: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (tensor, shard) in &index {
        by_shard.entry(shard).or_default().push(tensor);
    }
    let mut builder = ManifestBuilder::default();
    builder.reserve(index.len());
    for (shard, names) in by_shard {
        let file = shard_path(path, directory, shard)?;
        let header = Header::read(&file).map_err(|error| match error {
            Error::NotFound { .. } => Error::ShardNotFound {
                index: path.to_owned(),
                shard: shard.to_owned(),
            },
            other => other,
        })?;
        let tensors = header.parse(&file)?;
        let source = builder.add_source(Arc::new(FileSource::new(file)));
        builder.set_metadata(tensors.metadata);
        for name in names {
            let found = tensors
                .tensors
                .binary_search_by(|tensor| natural_cmp(&tensor.name, name));
            let Ok(position) = found else {
                return Err(index_error(
                    path,
                    IndexFault::TensorMissing {
                        tensor: name.to_owned(),
                        shard: shard.to_owned(),
                    },
                ));
            };
            let tensor = &tensors.tensors[position];
            builder.add(
                &tensor.name,
                &tensor.dtype,
                &tensor.shape,
                &[tensor.span(source, header.data_start)],
            );
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

/// A header's text, and where it ends.
struct Header {
    text: String,
    data_start: u64,
    data_size: u64,
}

#[derive(Debug)]
struct Tensor<'a> {
    name: Cow<'a, str>,
    dtype: Cow<'a, str>,
    shape: Vec<u64>,
    begin: u64,
    end: u64,
}

impl Tensor<'_> {
    const fn span(&self, source: u32, data_start: u64) -> Span {
        Span {
            source,
            offset: data_start + self.begin,
            length: self.end - self.begin,
        }
    }

    /// Whether the offsets fit the shape.
    fn check(&self, available: u64) -> Result<(), TensorFault> {
        let (begin, end) = (self.begin, self.end);
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
        let shape = self.shape.clone();
        let Some(elements) = product(&shape) else {
            return Err(TensorFault::TooManyElements { shape });
        };
        let Ok(dtype) = DType::from_name(&self.dtype) else {
            return Ok(());
        };
        let Some(expected) = dtype.bytes(elements) else {
            return Err(TensorFault::PartialByte {
                shape,
                dtype: dtype.name(),
            });
        };
        if expected == end - begin {
            Ok(())
        } else {
            Err(TensorFault::WrongSize {
                shape,
                dtype: dtype.name(),
                expected,
                found: end - begin,
            })
        }
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

#[derive(Default)]
struct Tensors<'a> {
    /// In natural order of names.
    tensors: Vec<Tensor<'a>>,
    metadata: BTreeMap<String, String>,
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
        let mut bytes = vec![0; length as usize];
        file.read_exact(&mut bytes)
            .map_err(|error| io_error(path, error))?;
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

    fn parse(&self, path: &Path) -> Result<Tensors<'_>, Error> {
        let fail = |fault| Error::Safetensors {
            path: path.to_owned(),
            fault,
        };
        let mut tensors = Tensors::default();
        let mut deserializer = serde_json::Deserializer::from_str(&self.text);
        HeaderSeed(&mut tensors)
            .deserialize(&mut deserializer)
            .and_then(|()| deserializer.end())
            .map_err(|error| fail(SafetensorsFault::Json(error.to_string())))?;
        self.check_layout(path, &mut tensors.tensors)?;
        tensors
            .tensors
            .sort_unstable_by(|a, b| natural_cmp(&a.name, &b.name));
        for pair in tensors.tensors.windows(2) {
            if pair[0].name == pair[1].name {
                return Err(tensor_error(path, &pair[0].name, TensorFault::Duplicate));
            }
        }
        Ok(tensors)
    }

    /// Every tensor's bytes are its own, and every byte is some tensor's.
    fn check_layout(&self, path: &Path, tensors: &mut [Tensor<'_>]) -> Result<(), Error> {
        tensors.sort_unstable_by(|a, b| (a.begin, a.end, &a.name).cmp(&(b.begin, b.end, &b.name)));
        let mut covered = 0;
        let mut previous: Option<&Tensor<'_>> = None;
        for tensor in &*tensors {
            if let Some(previous) = previous {
                if tensor.name == previous.name {
                    return Err(tensor_error(path, &tensor.name, TensorFault::Duplicate));
                }
                if tensor.begin < covered {
                    let fault = TensorFault::Overlap {
                        begin: tensor.begin,
                        end: covered,
                        other: previous.name.clone().into_owned(),
                    };
                    return Err(tensor_error(path, &tensor.name, fault));
                }
            }
            tensor
                .check(self.data_size)
                .map_err(|fault| tensor_error(path, &tensor.name, fault))?;
            if tensor.begin > covered {
                let fault = TensorFault::Hole {
                    begin: tensor.begin,
                    end: covered,
                };
                return Err(tensor_error(path, &tensor.name, fault));
            }
            covered = tensor.end;
            previous = Some(tensor);
        }
        if covered < self.data_size {
            return Err(Error::Safetensors {
                path: path.to_owned(),
                fault: SafetensorsFault::TrailingBytes {
                    extra: self.data_size - covered,
                },
            });
        }
        Ok(())
    }
}

struct HeaderSeed<'a, 'de>(&'a mut Tensors<'de>);

impl<'de> DeserializeSeed<'de> for HeaderSeed<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeaderSeed<'_, 'de> {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object of tensors")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(Text(name)) = map.next_key()? {
            if name == "__metadata__" {
                // Some writers put null or numbers there; only texts are of use.
                let metadata: Option<BTreeMap<String, serde_json::Value>> = map.next_value()?;
                self.0.metadata.extend(
                    metadata
                        .unwrap_or_default()
                        .into_iter()
                        .filter_map(|(key, value)| Some((key, value.as_str()?.to_owned()))),
                );
                continue;
            }
            let info: TensorInfo<'de> = map
                .next_value()
                .map_err(|error| M::Error::custom(format_args!("tensor {name:?}: {error}")))?;
            if info.shape.len() > usize::from(u16::MAX) {
                return Err(M::Error::custom(format_args!(
                    "tensor {name:?}: {} dimensions",
                    info.shape.len()
                )));
            }
            self.0.tensors.push(Tensor {
                name,
                dtype: info.dtype.0,
                shape: info.shape,
                begin: info.data_offsets.0,
                end: info.data_offsets.1,
            });
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct TensorInfo<'a> {
    #[serde(borrow)]
    dtype: Text<'a>,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// A text that borrows from the header unless it has escapes; `Cow` alone would always copy.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

fn read_index(path: &Path) -> Result<Vec<(String, String)>, Error> {
    let (mut file, size) = open(path)?;
    if size > MAX_INDEX {
        return Err(index_error(path, IndexFault::TooLong { size }));
    }
    let mut text = Vec::with_capacity(size as usize);
    file.read_to_end(&mut text)
        .map_err(|error| io_error(path, error))?;
    let index: Index = serde_json::from_slice(&text)
        .map_err(|error| index_error(path, IndexFault::Json(error.to_string())))?;
    let mut weights = index.weight_map.0;
    weights.sort_unstable();
    for pair in weights.windows(2) {
        if pair[0].0 == pair[1].0 {
            let tensor = pair[0].0.clone();
            return Err(index_error(path, IndexFault::Duplicate { tensor }));
        }
    }
    Ok(weights)
}

#[derive(Deserialize)]
struct Index {
    weight_map: WeightMap,
}

/// Every entry of a map, duplicates too.
struct WeightMap(Vec<(String, String)>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = WeightMap;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a map of tensor names to shard names")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<WeightMap, M::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(WeightMap(entries))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}
