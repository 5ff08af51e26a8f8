//! Spans in, columns out.
//!
//! A [`Manifest`] says which tensors a checkpoint holds and where their bytes lie; [`pair`] holds
//! two against each other, [`common`] any number; [`diff`], [`stats`] and [`series`] read the bytes
//! in bounded pieces with all threads, reduce them and merge the partials in an order that shapes
//! alone decide; a [`DiffTable`] or [`StatsTable`] has the columns, and merges rows into groups
//! exactly.

mod boxes;
mod common;
mod deflated;
mod derived;
mod distinct;
mod elements;
mod error;
mod execute;
mod freed;
mod interleaved;
mod json;
mod lock;
mod manifest;
#[cfg(target_os = "linux")]
mod mapped;
mod mean;
mod names;
mod order;
mod pair;
mod pickle;
mod reader;
mod run;
mod safetensors;
mod series;
#[cfg(target_os = "linux")]
mod sigbus;
mod source;
mod spans;
mod strided;
mod table;
mod transposed;
mod values;

pub use common::{Common, common};
pub use derived::{Derivation, DerivedFault, Taken};
pub use elements::read_elements;
pub use error::{Error, IndexFault, SafetensorsFault, TensorFault};
pub use execute::Control;
pub use freed::give_back_freed_memory;
pub use json::json_rows;
pub use manifest::{Manifest, ManifestBuilder, Span, StoredDType, Sum, TensorView};
pub use mean::{MeanComparison, MeanRun, rounded_mean};
pub use names::Names;
pub use order::natural_cmp;
pub use pair::{DuplicateName, Pairing, pair};
pub use pickle::{PickleFault, strip_pickle};
pub use reader::{PIECE_BYTES, WINDOW_BYTES};
pub use run::{DiffRun, StatsRun, TensorStats, bytes_to_describe, bytes_to_diff, diff, stats};
pub use safetensors::{read_safetensors, read_safetensors_index};
pub use series::{SeriesRun, SeriesSums, series};
pub use source::{FileSource, MappedReads, Reading, Source, Window};
pub use spans::{PlacedPart, SpanManifest};
pub use table::{Cell, Column, DiffTable, StatsTable, Table};
pub use values::ValuesRun;
