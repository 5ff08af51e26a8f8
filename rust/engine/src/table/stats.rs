//! The rows of stats.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use ckptdiff_kernels::{Histogram, StatsPartial, StatsSummary};

use super::{
    Cell, Column, Definition, Kind, QUANTILES, RowDType, Table, When, columns_of, multi_index,
    quantile, shape_cell,
};
use crate::manifest::Manifest;
use crate::names::Names;
use crate::run::TensorStats;

/// The rows of stats.
pub struct StatsTable {
    run: Arc<Run>,
    /// One per row.
    partials: Vec<TensorStats>,
    /// What a merged row is of, and its name; where there are none, a row is of one tensor.
    groups: Option<Vec<(String, Facts)>>,
    columns: Vec<StatsColumn>,
}

/// What was looked at, and how.
struct Run {
    manifest: Arc<Manifest>,
    tensors: Vec<u32>,
    names: Names,
    /// That of a row without elements, where histograms were asked for.
    no_histogram: Option<Histogram>,
}

/// What there is to say of a row beside its partial.
#[derive(Clone, Copy)]
struct Facts {
    numel: u64,
    bytes: u64,
    tensors: u64,
    /// Which tensor the row is of; of a merged row, which has the largest magnitude.
    tensor: u32,
    dtype: RowDType,
    /// Whether all values are integers.
    integer: bool,
    /// Floats per element at the largest magnitude.
    components: u8,
}

impl Facts {
    /// Those of no tensor, which any others can be merged into.
    const NOTHING: Self = Self {
        numel: 0,
        bytes: 0,
        tensors: 0,
        tensor: 0,
        dtype: RowDType::Nothing,
        integer: true,
        components: 1,
    };

    fn merge(&mut self, later: Self, has_largest: bool) {
        if has_largest || self.tensors == 0 {
            self.tensor = later.tensor;
            self.components = later.components;
        }
        self.numel += later.numel;
        self.bytes += later.bytes;
        self.tensors += later.tensors;
        self.dtype.merge(later.dtype);
        self.integer &= later.integer;
    }
}

/// A row, as its columns see it.
struct Row<'a> {
    name: &'a str,
    merged: bool,
    /// Name and shape of the tensor that the row is of, or that has the largest magnitude.
    tensor: &'a str,
    shape: &'a [u64],
    facts: Facts,
    summary: StatsSummary,
    partial: &'a StatsPartial,
    hash: Option<&'a [u8; 32]>,
}

type CellOf = for<'a> fn(&Row<'a>) -> Cell<'a>;

/// The columns that every stats has, in order.
const COLUMNS: &[(When, &str, Kind, CellOf)] = &[
    (When::Always, "name", Kind::Other, |row| {
        Cell::text(row.name)
    }),
    (When::Merged, "tensors", Kind::Count, |row| {
        Cell::Count(row.facts.tensors)
    }),
    (When::Always, "dtype", Kind::Other, |row| {
        row.facts.dtype.cell()
    }),
    (When::Always, "shape", Kind::Other, |row| {
        shape_cell(row.merged, row.shape)
    }),
    (When::Always, "numel", Kind::Count, |row| {
        Cell::Count(row.facts.numel)
    }),
    (When::Always, "bytes", Kind::Count, |row| {
        Cell::Count(row.facts.bytes)
    }),
    (When::Always, "min", Kind::Number, |row| {
        Cell::value(row.summary.min, row.facts.integer)
    }),
    (When::Always, "max", Kind::Number, |row| {
        Cell::value(row.summary.max, row.facts.integer)
    }),
    (When::Always, "abs_max", Kind::Number, |row| {
        Cell::value(row.summary.abs_max, row.facts.integer)
    }),
    (When::Always, "abs_max_index", Kind::Other, |row| {
        let index = row.summary.abs_max_index;
        index.map_or(Cell::Null, |index| {
            multi_index(index, row.shape, row.facts.components)
        })
    }),
    (
        When::Merged,
        "abs_max_tensor",
        Kind::Other,
        |row| match row.summary.abs_max_index {
            Some(_) => Cell::text(row.tensor),
            None => Cell::Null,
        },
    ),
    (When::Always, "mean", Kind::Number, |row| {
        Cell::Float(row.summary.mean)
    }),
    (When::Always, "std", Kind::Number, |row| {
        Cell::Float(row.summary.std)
    }),
    (When::Always, "rms", Kind::Number, |row| {
        Cell::Float(row.summary.rms)
    }),
    (When::Always, "l1", Kind::Number, |row| {
        Cell::Float(row.summary.l1)
    }),
    (When::Always, "l2", Kind::Number, |row| {
        Cell::Float(row.summary.l2)
    }),
    (When::Always, "skewness", Kind::Number, |row| {
        Cell::Float(row.summary.skewness)
    }),
    (When::Always, "kurtosis", Kind::Number, |row| {
        Cell::Float(row.summary.kurtosis)
    }),
    (When::Always, "zeros", Kind::Count, |row| {
        Cell::Count(row.summary.zeros)
    }),
    (When::Always, "negatives", Kind::Count, |row| {
        Cell::Count(row.summary.negatives)
    }),
    (When::Always, "subnormals", Kind::Count, |row| {
        Cell::Count(row.summary.subnormals)
    }),
    (When::Always, "nan", Kind::Count, |row| {
        Cell::Count(row.summary.nan)
    }),
    (When::Always, "pos_inf", Kind::Count, |row| {
        Cell::Count(row.summary.pos_inf)
    }),
    (When::Always, "neg_inf", Kind::Count, |row| {
        Cell::Count(row.summary.neg_inf)
    }),
    (When::Always, "saturated", Kind::Count, |row| {
        Cell::Count(row.summary.saturated)
    }),
];

struct StatsColumn {
    name: &'static str,
    kind: Kind,
    source: Source,
}

/// Where the values of a column are from.
enum Source {
    Summary(CellOf),
    /// The magnitude below which that share of the magnitudes lies.
    Quantile(f64),
    Hash,
}

impl StatsColumn {
    fn all(merged: bool, histogram: bool, content_hash: bool) -> Vec<Self> {
        let fixed = COLUMNS
            .iter()
            .filter(|(when, ..)| merged || *when == When::Always)
            .map(|&(_, name, kind, cell)| Self {
                name,
                kind,
                source: Source::Summary(cell),
            });
        let quantiles = QUANTILES.iter().filter(|_| histogram);
        let quantiles = quantiles.map(|&(name, share)| Self {
            name,
            kind: Kind::Number,
            source: Source::Quantile(share),
        });
        // Hashes cannot be merged.
        let hash = (content_hash && !merged).then_some(Self {
            name: "hash",
            kind: Kind::Other,
            source: Source::Hash,
        });
        fixed.chain(quantiles).chain(hash).collect()
    }
}

impl Definition for StatsColumn {
    type Row<'a> = Row<'a>;

    fn name(&self) -> &str {
        self.name
    }

    fn kind(&self) -> Kind {
        self.kind
    }

    fn cell<'a>(&self, row: &Self::Row<'a>) -> Cell<'a> {
        match self.source {
            Source::Summary(cell) => cell(row),
            Source::Quantile(share) => {
                quantile(row.partial.histogram(), share, row.summary.abs_max)
            }
            Source::Hash => row.hash.map_or(Cell::Null, |hash| {
                let hex = blake3::Hash::from_bytes(*hash).to_hex();
                Cell::Text(Cow::Owned(hex.to_string()))
            }),
        }
    }
}

impl StatsTable {
    /// The table of partials, one for each tensor, which bear the names in `names` or their own.
    pub fn new(
        manifest: Arc<Manifest>,
        tensors: Vec<u32>,
        names: Names,
        partials: Vec<TensorStats>,
        histogram: bool,
        content_hash: bool,
    ) -> Self {
        Self {
            run: Arc::new(Run {
                manifest,
                tensors,
                names,
                no_histogram: histogram.then(Histogram::default),
            }),
            partials,
            groups: None,
            columns: StatsColumn::all(false, histogram, content_hash),
        }
    }

    /// The columns that every stats has.
    pub fn default_column_names() -> Vec<String> {
        let columns = StatsColumn::all(false, false, false);
        columns
            .iter()
            .map(|column| column.name.to_owned())
            .collect()
    }

    fn view(&self, row: usize) -> Row<'_> {
        let TensorStats { partial, hash } = &self.partials[row];
        let facts = self.facts(row);
        let (tensor, shape) = self.run.tensor(facts);
        let group = self.groups.as_ref().map(|groups| groups[row].0.as_str());
        Row {
            name: group.unwrap_or(tensor),
            merged: group.is_some(),
            tensor,
            shape,
            facts,
            summary: partial.finish(),
            partial,
            hash: hash.as_deref(),
        }
    }

    fn facts(&self, row: usize) -> Facts {
        match &self.groups {
            Some(groups) => groups[row].1,
            None => self.run.facts(row),
        }
    }
}

impl Run {
    fn facts(&self, row: usize) -> Facts {
        let tensor = self.manifest.tensor(self.tensors[row] as usize);
        let dtype = RowDType::from(tensor.dtype);
        Facts {
            numel: tensor.elements(),
            bytes: tensor.bytes(),
            tensors: 1,
            tensor: self.tensors[row],
            dtype,
            integer: dtype.is_integer(),
            components: dtype.components(),
        }
    }

    /// The name and shape of the tensor that a row is of.
    fn tensor(&self, facts: Facts) -> (&str, &[u64]) {
        if facts.tensors == 0 {
            return ("", &[]);
        }
        let index = facts.tensor as usize;
        (
            self.names.name(&self.manifest, index),
            self.manifest.tensor(index).shape,
        )
    }
}

impl Table for StatsTable {
    fn len(&self) -> usize {
        self.partials.len()
    }

    fn column_names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.columns.iter().map(|column| column.name)
    }

    fn row(&self, row: usize) -> Vec<Cell<'_>> {
        let row = self.view(row);
        self.columns
            .iter()
            .map(|column| column.cell(&row))
            .collect()
    }

    fn columns(&self, names: &[&str], rows: Range<usize>) -> Option<Vec<Column<'_>>> {
        columns_of(&self.columns, names, rows.map(|row| self.view(row)))
    }

    fn histogram(&self, row: usize) -> Option<&Histogram> {
        let empty = self.run.no_histogram.as_ref()?;
        Some(self.partials[row].partial.histogram().unwrap_or(empty))
    }

    fn merged(&self, groups: &[i64], names: Vec<String>) -> Self {
        let mut partials: Vec<_> = names.iter().map(|_| TensorStats::default()).collect();
        let mut merged: Vec<_> = names
            .into_iter()
            .map(|name| (name, Facts::NOTHING))
            .collect();
        for (row, group) in groups.iter().enumerate().take(self.len()) {
            // Negative: in no group.
            let Ok(group) = usize::try_from(*group) else {
                continue;
            };
            let (into, later) = (&mut partials[group].partial, &self.partials[row].partial);
            let has_largest = into.abs_max_is_below(later);
            merged[group].1.merge(self.facts(row), has_largest);
            into.merge(later);
        }
        Self {
            run: Arc::clone(&self.run),
            partials,
            groups: Some(merged),
            columns: StatsColumn::all(true, self.run.no_histogram.is_some(), false),
        }
    }
}
