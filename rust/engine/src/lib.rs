//! Spans in, columns out.
//!
//! A [`Manifest`] says which tensors a checkpoint holds and where their bytes lie; [`pair`] holds
//! two against each other; [`diff`] and [`stats`] read the bytes in bounded pieces with all
//! threads, reduce them and merge the partials in an order that shapes alone decide; a
//! [`DiffTable`] or [`StatsTable`] has the columns, and merges rows into groups exactly.

mod boxes;
mod deflated;
mod error;
mod interleaved;
mod json;
mod lock;
mod manifest;
#[cfg(target_os = "linux")]
mod mapped;
mod names;
mod order;
mod pair;
mod pickle;
mod run;
mod safetensors;
#[cfg(target_os = "linux")]
mod sigbus;
mod source;
mod spans;
mod strided;
mod table;
mod values;

pub use error::{Error, IndexFault, SafetensorsFault, TensorFault};
pub use json::json_rows;
pub use manifest::{Manifest, ManifestBuilder, Span, StoredDType, Sum, TensorView};
pub use names::Names;
pub use order::natural_cmp;
pub use pair::{DuplicateName, Pairing, pair};
pub use pickle::{PickleFault, strip_pickle};
pub use run::{Control, DiffRun, PIECE_BYTES, StatsRun, TensorStats, WINDOW_BYTES, diff, stats};
pub use safetensors::{read_safetensors, read_safetensors_index};
pub use source::{FileSource, MappedReads, Reading, Source, Window};
pub use spans::{PlacedPart, SpanManifest};
pub use table::{Cell, Column, DiffTable, StatsTable, Table};
pub use values::ValuesRun;
