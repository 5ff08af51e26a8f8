//! What can be wrong with a checkpoint, each with the file, the tensor and what was expected.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Anything that keeps a checkpoint from being read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// There is nothing at the path.
    #[error("{}: no such file or directory", shown(path))]
    NotFound {
        /// The path that was asked for.
        path: PathBuf,
    },
    /// An index names a shard that is not there.
    #[error(
        "{}: names shard {}, which does not exist",
        shown(index),
        quoted(shard)
    )]
    ShardNotFound {
        /// The index file.
        index: PathBuf,
        /// The shard as the index names it.
        shard: String,
    },
    /// The operating system refused.
    #[error("{}: {source}", shown(path))]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The path is a directory, a pipe or a device.
    #[error("{}: expected a regular file", shown(path))]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// A file ended before the bytes that its header announced.
    #[error(
        "{}: tensor {}: the file ends within its bytes, which go up to {end}; \
         it was truncated after its header was read",
        shown(path),
        quoted(tensor)
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The tensor being read.
        tensor: String,
        /// Where the bytes asked for end.
        end: u64,
    },
    /// A safetensors file breaks its format.
    #[error("{}: {fault}", shown(path))]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// How.
        fault: SafetensorsFault,
    },
    /// One tensor of a file breaks its format, or cannot be compared.
    #[error("{}: tensor {}: {fault}", shown(path), quoted(tensor))]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// How.
        fault: TensorFault,
    },
    /// A shard index breaks its format.
    #[error("{}: {fault}", shown(path))]
    Index {
        /// The index.
        path: PathBuf,
        /// How.
        fault: IndexFault,
    },
    /// The run was cancelled.
    #[error("interrupted")]
    Cancelled,
}

/// How a safetensors file breaks its format as a whole.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The messages are the documentation.
pub enum SafetensorsFault {
    #[error(
        "{size} bytes are too few for a safetensors file, which begins with a header length of 8 bytes"
    )]
    TooShort { size: u64 },
    #[error("header of {length} bytes exceeds the limit of 100000000; not a safetensors file?")]
    HeaderTooLong { length: u64 },
    #[error(
        "header of {length} bytes does not fit in the file of {size} bytes; truncated, or not a safetensors file"
    )]
    HeaderPastEnd { length: u64, size: u64 },
    #[error("header is not valid UTF-8 at byte {offset}")]
    NotUtf8 { offset: usize },
    #[error("header is not a valid safetensors header: {}", cut(.0))]
    Json(String),
    #[error("{extra} trailing bytes after the last tensor")]
    TrailingBytes { extra: u64 },
}

/// How one tensor breaks its format, or cannot be compared.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum TensorFault {
    #[error("the header has this name twice")]
    Duplicate,
    #[error("data_offsets [{begin}, {end}] end before they begin")]
    OffsetsReversed { begin: u64, end: u64 },
    #[error(
        "data_offsets [{begin}, {end}] exceed the file's {available} bytes of data; truncated?"
    )]
    OffsetsPastEnd {
        begin: u64,
        end: u64,
        available: u64,
    },
    #[error(
        "data_offsets begin at {begin}, inside tensor {}, which ends at {end}",
        quoted(other)
    )]
    Overlap { begin: u64, end: u64, other: String },
    #[error("data_offsets begin at {begin}, leaving a hole after byte {end}")]
    Hole { begin: u64, end: u64 },
    #[error("there are two tensors of this name")]
    NameTwice,
    #[error("{0}")]
    BrokenData(String),
    #[error("there is no file of that number")]
    NoSuchFile,
    #[error("{length} bytes at {offset} reach beyond the file's {size}; truncated?")]
    PastEnd { offset: u64, length: u64, size: u64 },
    #[error("elements of {dtype} cannot be told apart by these strides")]
    NoStrides { dtype: String },
    #[error(
        "its {parts} parts are not the whole of shape {}: something is missing, or there twice",
        listed(shape)
    )]
    PartsDoNotCover { parts: usize, shape: Vec<u64> },
    #[error(
        "shape {} has no {groups} groups of whole rows that can be halved",
        listed(shape)
    )]
    NoHalves { shape: Vec<u64>, groups: u64 },
    #[error("is one too many: names or shapes of the checkpoint take more than 4 GiB")]
    TooMuch,
    #[error(
        "shape {} of {dtype} takes {expected} bytes, the file has {found}",
        listed(shape)
    )]
    SpansOfWrongSize {
        shape: Vec<u64>,
        dtype: &'static str,
        expected: u64,
        found: u64,
    },
    #[error("shape {} has more elements than fit in 64 bits", listed(shape))]
    TooManyElements { shape: Vec<u64> },
    #[error("shape {} of {dtype} does not fill whole bytes", listed(shape))]
    PartialByte {
        shape: Vec<u64>,
        dtype: &'static str,
    },
    #[error(
        "shape {} of {dtype} takes {expected} bytes, data_offsets give {found}",
        listed(shape)
    )]
    WrongSize {
        shape: Vec<u64>,
        dtype: &'static str,
        expected: u64,
        found: u64,
    },
    #[error(
        "unknown dtype {} cannot be compared; leave the tensor out with --exclude",
        quoted(dtype)
    )]
    UnknownDType { dtype: String },
    #[error("complex values of {dtype} cannot be cast to {target}")]
    ComplexCast {
        dtype: &'static str,
        target: &'static str,
    },
    #[error("a mean of {parts} cannot be rounded to {dtype}")]
    NoMean {
        dtype: &'static str,
        parts: &'static str,
    },
}

/// How a shard index breaks its format.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum IndexFault {
    #[error("index is not valid: {}", cut(.0))]
    Json(String),
    #[error("index of {size} bytes exceeds the limit of 500000000")]
    TooLong { size: u64 },
    #[error("tensor {} is named twice in weight_map", quoted(tensor))]
    Duplicate { tensor: String },
    #[error("shard name {} leads out of the checkpoint's directory", quoted(shard))]
    ShardOutside { shard: String },
    #[error(
        "tensor {}: should be in shard {}, which has no such tensor",
        quoted(tensor),
        quoted(shard)
    )]
    TensorMissing { tensor: String, shard: String },
}

/// Names longer than this are cut in the middle, so that a message stays a line to read.
const LONGEST: usize = 200;

/// A text of any length, cut in the middle.
fn cut(text: &str) -> String {
    let count = text.chars().count();
    if count <= LONGEST {
        return text.to_owned();
    }
    let half = LONGEST / 2;
    let head: String = text.chars().take(half).collect();
    let tail: String = text.chars().skip(count - half).collect();
    format!("{head}…{tail}")
}

/// A name in quotes, with escapes for what would not show.
pub(crate) fn quoted(name: &str) -> String {
    format!("{:?}", cut(name))
}

/// A shape, which can have thousands of dimensions.
pub(crate) fn listed(shape: &[u64]) -> String {
    cut(&format!("{shape:?}"))
}

/// A path on one line, whatever characters are in it.
fn shown(path: &std::path::Path) -> String {
    path.to_string_lossy()
        .chars()
        .flat_map(|character| {
            let escape = character.is_control();
            escape
                .then(|| character.escape_default())
                .into_iter()
                .flatten()
                .chain((!escape).then_some(character))
        })
        .collect()
}
