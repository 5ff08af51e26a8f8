//! Columns out: one row per tensor, or per group of tensors, with the partial behind it.
//!
//! A table keeps the partials of a run and the manifests they are of, and nothing else per tensor:
//! a row is worked out when it is asked for, so 200,000 of them cost what their partials do. Each
//! kind of table lists its columns once, each with its name, its kind and where its value is from.

mod cells;
mod diff;
mod stats;

pub(crate) use cells::python_float;

pub use cells::Cell;
pub use diff::DiffTable;
pub use stats::StatsTable;

use std::borrow::Cow;
use std::ops::Range;

use ckptdiff_kernels::{DType, Histogram, Number};

use crate::manifest::StoredDType;

/// A whole column.
#[derive(Clone, Debug, PartialEq)]
pub enum Column<'a> {
    /// Counts.
    Counts(Vec<u64>),
    /// Floats, NaN where undefined; integers as the nearest float.
    Floats(Vec<f64>),
    /// Anything else.
    Cells(Vec<Cell<'a>>),
}

/// What the rows of both tables share.
pub trait Table: Sized {
    /// How many rows.
    fn len(&self) -> usize;

    /// Whether there is no row.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The names of the columns, in order.
    fn column_names(&self) -> impl ExactSizeIterator<Item = &str>;

    /// One row, in the order of the names.
    fn row(&self, row: usize) -> Vec<Cell<'_>>;

    /// Those rows of a column.
    ///
    /// # Panics
    ///
    /// Where there are fewer rows.
    fn column(&self, name: &str, rows: Range<usize>) -> Option<Column<'_>> {
        self.columns(&[name], rows)?.pop()
    }

    /// The same of several columns, in one walk over the rows: what they are finished from is
    /// finished once.
    ///
    /// # Panics
    ///
    /// Where there are fewer rows.
    fn columns(&self, names: &[&str], rows: Range<usize>) -> Option<Vec<Column<'_>>>;

    /// The histogram behind a row, where one was asked for.
    fn histogram(&self, row: usize) -> Option<&Histogram>;

    /// Merge rows into a row for each name: `groups[row]` is the index of a row's group, negative
    /// for none. A group of no rows has the row of a tensor without elements.
    ///
    /// # Panics
    ///
    /// Where a group's index has no name, or there are fewer indices than rows.
    fn merged(&self, groups: &[i64], names: Vec<String>) -> Self;
}

/// What a column holds.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Counts, defined in every row.
    Count,
    /// Numbers, possibly undefined.
    Number,
    /// Names, shapes and the like.
    Other,
}

impl Kind {
    /// A column of this kind, without rows so far.
    fn column<'a>(self, rows: usize) -> Column<'a> {
        match self {
            Self::Count => Column::Counts(Vec::with_capacity(rows)),
            Self::Number => Column::Floats(Vec::with_capacity(rows)),
            Self::Other => Column::Cells(Vec::with_capacity(rows)),
        }
    }
}

impl<'a> Column<'a> {
    fn push(&mut self, cell: Cell<'a>) {
        match self {
            Self::Counts(counts) => counts.push(cell.count()),
            Self::Floats(floats) => floats.push(cell.nearest_float()),
            Self::Cells(cells) => cells.push(cell),
        }
    }
}

/// One column of a table: what it is called, what it holds, and what it has of a row.
trait Definition {
    type Row<'a>;

    fn name(&self) -> &str;
    fn kind(&self) -> Kind;
    fn cell<'a>(&self, row: &Self::Row<'a>) -> Cell<'a>;
}

/// Some columns by name, of rows that are each looked at once; `None` where one has no definition.
fn columns_of<'a, D: Definition>(
    definitions: &[D],
    names: &[&str],
    rows: impl ExactSizeIterator<Item = D::Row<'a>>,
) -> Option<Vec<Column<'a>>> {
    let find = |name: &&str| definitions.iter().find(|column| column.name() == *name);
    let columns: Vec<_> = names.iter().map(find).collect::<Option<_>>()?;
    let mut filled: Vec<_> = columns
        .iter()
        .map(|column| column.kind().column(rows.len()))
        .collect();
    for row in rows {
        for (filled, column) in filled.iter_mut().zip(&columns) {
            filled.push(column.cell(&row));
        }
    }
    Some(filled)
}

/// Which tables have a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Always,
    Merged,
}

/// Quantiles that come with a histogram.
const QUANTILES: [(&str, f64); 4] = [
    ("abs_p50", 0.5),
    ("abs_p90", 0.9),
    ("abs_p99", 0.99),
    ("abs_p999", 0.999),
];

/// Estimated in its power of two, of which the largest magnitude is known exactly.
fn quantile(histogram: Option<&Histogram>, share: f64, largest: Number) -> Cell<'static> {
    Cell::Float(histogram.map_or(f64::NAN, |histogram| {
        let estimate = histogram.quantile(share);
        // The largest is NaN where nothing was counted, as is the estimate.
        if estimate > largest.to_f64() {
            largest.to_f64()
        } else {
            estimate
        }
    }))
}

/// How a dtype stands in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RowDType {
    /// No tensor was merged so far.
    Nothing,
    Single(DType),
    Mixed,
}

impl RowDType {
    fn merge(&mut self, other: Self) {
        *self = match (*self, other) {
            (Self::Nothing, dtype) | (dtype, Self::Nothing) => dtype,
            (own, other) if own == other => own,
            _ => Self::Mixed,
        };
    }

    fn cell(self) -> Cell<'static> {
        match self {
            Self::Nothing => Cell::Null,
            Self::Single(dtype) => Cell::Word(dtype.name()),
            Self::Mixed => Cell::Word("mixed"),
        }
    }

    fn is_integer(self) -> bool {
        matches!(self, Self::Single(dtype) if dtype.is_integer())
    }

    /// Whether elements have no bits of their own.
    fn is_quantised(self) -> bool {
        matches!(self, Self::Single(dtype) if dtype.is_quantised())
    }

    fn components(self) -> u8 {
        match self {
            Self::Single(dtype) => dtype.components() as u8,
            Self::Nothing | Self::Mixed => 1,
        }
    }
}

impl From<StoredDType<'_>> for RowDType {
    fn from(dtype: StoredDType<'_>) -> Self {
        match dtype {
            StoredDType::Known(dtype) => Self::Single(dtype),
            StoredDType::Unknown(_) => Self::Mixed,
        }
    }
}

/// The shape of a row that has one.
fn shape_cell(merged: bool, shape: &[u64]) -> Cell<'_> {
    if merged {
        Cell::Null
    } else {
        Cell::Tuple(Cow::Borrowed(shape))
    }
}

/// The multi-index of a flat index that counts floats, `components` to an element.
fn multi_index(mut index: u64, shape: &[u64], components: u8) -> Cell<'static> {
    let mut tuple = Vec::with_capacity(shape.len() + 1);
    if components > 1 {
        tuple.push(index % u64::from(components));
        index /= u64::from(components);
    }
    for size in shape.iter().rev() {
        tuple.push(index % size);
        index /= size;
    }
    tuple.reverse();
    Cell::Tuple(Cow::Owned(tuple))
}
