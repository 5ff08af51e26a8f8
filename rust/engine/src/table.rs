//! Columns out: one row per tensor, or per group of tensors, with the partial behind it.

use std::borrow::Cow;
use std::sync::Arc;

use ckptdiff_kernels::{DType, DiffOptions, DiffPartial, Histogram, Number, StatsPartial};

use crate::manifest::Manifest;
use crate::run::TensorStats;

/// One value of a row, exact.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Undefined here.
    Null,
    /// A count.
    Count(u64),
    /// An integer value.
    Integer(i128),
    /// A float, possibly not finite.
    Float(f64),
    /// A name, a dtype, a verdict, a hash.
    Text(Cow<'static, str>),
    /// A shape or an index.
    Tuple(Vec<u64>),
}

/// A whole column.
#[derive(Clone, Debug, PartialEq)]
pub enum Column {
    /// Counts.
    Counts(Vec<u64>),
    /// Floats, NaN where undefined; integers as the nearest float.
    Floats(Vec<f64>),
    /// Anything else.
    Cells(Vec<Cell>),
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
    fn column_names(&self) -> Vec<String>;

    /// One row, in the order of the names.
    fn row(&self, row: usize) -> Vec<Cell>;

    /// The histogram behind a row, where one was asked for.
    fn histogram(&self, row: usize) -> Option<&Histogram>;

    /// Merge rows into groups: `groups[row]` is the group's index, negative for none.
    ///
    /// # Panics
    ///
    /// Where a group's index has no name, or there are fewer indices than rows.
    fn merged(&self, groups: &[i64], names: &[String]) -> Self;

    /// A column by name.
    fn column(&self, name: &str) -> Option<Column> {
        let position = self.column_names().iter().position(|own| own == name)?;
        let cells: Vec<Cell> = (0..self.len())
            .map(|row| self.row(row).swap_remove(position))
            .collect();
        Some(match kind(name) {
            Kind::Count => Column::Counts(
                cells
                    .iter()
                    .map(|cell| match cell {
                        Cell::Count(count) => *count,
                        _ => 0,
                    })
                    .collect(),
            ),
            Kind::Float => Column::Floats(
                cells
                    .iter()
                    .map(|cell| match cell {
                        Cell::Float(value) => *value,
                        Cell::Integer(value) => *value as f64,
                        Cell::Count(value) => *value as f64,
                        _ => f64::NAN,
                    })
                    .collect(),
            ),
            Kind::Other => Column::Cells(cells),
        })
    }
}

enum Kind {
    Count,
    Float,
    Other,
}

fn kind(name: &str) -> Kind {
    match name {
        "name" | "dtype" | "dtype_a" | "dtype_b" | "shape" | "verdict" | "max_abs_index"
        | "max_abs_tensor" | "abs_max_index" | "abs_max_tensor" | "hash" => Kind::Other,
        "tensors" | "numel" | "bytes" | "changed" | "sign_flips" | "nan_a" | "nan_b" | "inf_a"
        | "inf_b" | "nonfinite_mismatch" | "out_of_tolerance" | "zeros" | "negatives"
        | "subnormals" | "nan" | "pos_inf" | "neg_inf" | "saturated" => Kind::Count,
        above if above.starts_with("above_") => Kind::Count,
        _ => Kind::Float,
    }
}

/// Quantiles that come with a histogram.
const QUANTILES: [(&str, f64); 4] = [
    ("abs_p50", 0.5),
    ("abs_p90", 0.9),
    ("abs_p99", 0.99),
    ("abs_p999", 0.999),
];

/// What a tensor is called and what shape it has, kept apart from the manifest.
#[derive(Clone, Debug)]
struct Label {
    name: Box<str>,
    shape: Box<[u64]>,
}

/// How a dtype stands in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RowDType {
    Single(DType),
    Mixed,
}

impl RowDType {
    fn merge(&mut self, other: Self) {
        if *self != other {
            *self = Self::Mixed;
        }
    }

    fn cell(self) -> Cell {
        text(match self {
            Self::Single(dtype) => dtype.name(),
            Self::Mixed => "mixed",
        })
    }

    fn is_integer(self) -> bool {
        matches!(self, Self::Single(dtype) if dtype.is_integer())
    }

    fn components(self) -> usize {
        match self {
            Self::Single(dtype) => dtype.components(),
            Self::Mixed => 1,
        }
    }
}

fn text(text: &'static str) -> Cell {
    Cell::Text(Cow::Borrowed(text))
}

fn owned(text: &str) -> Cell {
    Cell::Text(Cow::Owned(text.to_owned()))
}

/// A value of a tensor: exact where it is an integer.
fn value(number: Number, integer: bool) -> Cell {
    if number.is_nan() {
        Cell::Float(f64::NAN)
    } else if integer {
        Cell::Integer(number.to_integer())
    } else {
        Cell::Float(number.to_f64())
    }
}

/// The multi-index of a flat index that counts floats.
fn multi_index(mut index: u64, shape: &[u64], components: usize) -> Cell {
    let mut tuple = Vec::with_capacity(shape.len() + 1);
    if components > 1 {
        tuple.push(index % components as u64);
        index /= components as u64;
    }
    for size in shape.iter().rev() {
        tuple.push(index % size);
        index /= size;
    }
    tuple.reverse();
    Cell::Tuple(tuple)
}

/// The four words, from the best to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    BitIdentical,
    Equal,
    WithinTolerance,
    Different,
}

impl Verdict {
    const fn name(self) -> &'static str {
        match self {
            Self::BitIdentical => "bit_identical",
            Self::Equal => "equal",
            Self::WithinTolerance => "within_tolerance",
            Self::Different => "different",
        }
    }
}

/// A diff's rows.
#[derive(Clone)]
pub struct DiffTable {
    labels: Arc<[Label]>,
    rows: Vec<DiffRow>,
    /// One per row, apart from it so that what a run returns is not copied.
    partials: Vec<DiffPartial>,
    options: Arc<DiffOptions>,
    merged: bool,
}

#[derive(Clone)]
struct DiffRow {
    numel: u64,
    tensors: u64,
    /// Which label stands in the row; of a merged row, where the largest difference is.
    label: u32,
    dtype_a: RowDType,
    dtype_b: RowDType,
    verdict: Verdict,
    /// Whether codes were compared at all.
    coded: bool,
    /// Whether the value in A at the largest difference is an integer.
    integer_a: bool,
    /// Whether that in B is.
    integer_b: bool,
    /// Floats per element at the largest difference.
    components: u8,
    /// The group's name.
    name: Option<Box<str>>,
}

impl DiffTable {
    /// The table of partials, one for each pair. Rows bear the names in `names`, in B where there
    /// is none.
    pub fn new(
        a: &Manifest,
        b: &Manifest,
        pairs: &[(u32, u32)],
        names: Option<&[Option<String>]>,
        partials: Vec<DiffPartial>,
        options: DiffOptions,
    ) -> Self {
        let mut labels = Vec::with_capacity(pairs.len());
        let mut rows = Vec::with_capacity(pairs.len());
        for (&(index_a, index_b), partial) in pairs.iter().zip(&partials) {
            let tensor_a = a.tensor(index_a as usize);
            let tensor_b = b.tensor(index_b as usize);
            let name = names
                .and_then(|names| names[index_b as usize].as_deref())
                .unwrap_or(tensor_b.name);
            let (dtype_a, dtype_b) = (known(tensor_a.dtype), known(tensor_b.dtype));
            let coded = dtype_a == dtype_b || options.cast.is_some();
            let numel = tensor_a.elements();
            let summary = partial.finish();
            let verdict = if coded && summary.bits_changed == 0 {
                Verdict::BitIdentical
            } else if summary.changed == 0 {
                Verdict::Equal
            } else if options.tolerant()
                && summary.out_of_tolerance == 0
                && summary.nonfinite_mismatch == 0
            {
                Verdict::WithinTolerance
            } else {
                Verdict::Different
            };
            rows.push(DiffRow {
                numel,
                tensors: 1,
                label: labels.len() as u32,
                integer_a: dtype_a.is_integer() && options.cast.is_none(),
                integer_b: dtype_b.is_integer() && options.cast.is_none(),
                components: dtype_a.components().max(dtype_b.components()) as u8,
                dtype_a,
                dtype_b,
                verdict,
                coded,
                name: None,
            });
            labels.push(Label {
                name: name.into(),
                shape: tensor_a.shape.into(),
            });
        }
        Self {
            labels: labels.into(),
            rows,
            partials,
            options: Arc::new(options),
            merged: false,
        }
    }

    /// The columns that every diff has.
    pub fn default_column_names() -> Vec<String> {
        diff_columns(false, &DiffOptions::default())
    }
}

fn known(dtype: crate::manifest::StoredDType<'_>) -> RowDType {
    match dtype {
        crate::manifest::StoredDType::Known(dtype) => RowDType::Single(dtype),
        crate::manifest::StoredDType::Unknown(_) => RowDType::Mixed,
    }
}

fn diff_columns(merged: bool, options: &DiffOptions) -> Vec<String> {
    let mut names = vec!["name"];
    names.extend(merged.then_some("tensors"));
    names.extend([
        "dtype_a",
        "dtype_b",
        "shape",
        "numel",
        "verdict",
        "changed",
        "bits_changed",
        "max_abs",
        "max_abs_index",
    ]);
    names.extend(merged.then_some("max_abs_tensor"));
    names.extend([
        "value_a",
        "value_b",
        "mean_diff",
        "mean_abs",
        "rms",
        "l2",
        "l2_a",
        "l2_b",
        "rel_l2",
        "cosine",
        "cosine_distance",
        "sign_flips",
        "nan_a",
        "nan_b",
        "inf_a",
        "inf_b",
        "nonfinite_mismatch",
        "out_of_tolerance",
        "max_ulp",
    ]);
    let mut names: Vec<String> = names.into_iter().map(str::to_owned).collect();
    names.extend(
        options
            .thresholds
            .iter()
            .map(|threshold| format!("above_{}", python_float(*threshold))),
    );
    if options.histogram {
        names.extend(QUANTILES.map(|(name, _)| name.to_owned()));
    }
    names
}

/// A float as Python's `repr` writes it, so that column names are what a user typed.
fn python_float(value: f64) -> String {
    let plain = value == 0.0 || (1e-4..1e16).contains(&value.abs());
    if plain {
        return format!("{value:?}");
    }
    let scientific = format!("{value:e}");
    match scientific.split_once('e') {
        Some((mantissa, exponent)) => {
            let (sign, digits) = match exponent.strip_prefix('-') {
                Some(digits) => ('-', digits),
                None => ('+', exponent),
            };
            format!("{mantissa}e{sign}{digits:0>2}")
        }
        None => scientific,
    }
}

impl Table for DiffTable {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn column_names(&self) -> Vec<String> {
        diff_columns(self.merged, &self.options)
    }

    fn row(&self, row: usize) -> Vec<Cell> {
        let (row, partial) = (&self.rows[row], &self.partials[row]);
        let label = &self.labels[row.label as usize];
        let summary = partial.finish();
        let differs = summary.max_abs_index.is_some();
        let mut cells = Vec::with_capacity(40);
        cells.push(owned(row.name.as_deref().unwrap_or(&label.name)));
        if self.merged {
            cells.push(Cell::Count(row.tensors));
        }
        cells.extend([
            row.dtype_a.cell(),
            row.dtype_b.cell(),
            if self.merged {
                Cell::Null
            } else {
                Cell::Tuple(label.shape.to_vec())
            },
            Cell::Count(row.numel),
            text(row.verdict.name()),
            Cell::Count(summary.changed),
            if row.coded {
                Cell::Count(summary.bits_changed)
            } else {
                Cell::Null
            },
            value(summary.max_abs, row.integer_a && row.integer_b),
            summary.max_abs_index.map_or(Cell::Null, |index| {
                multi_index(index, &label.shape, usize::from(row.components))
            }),
        ]);
        if self.merged {
            cells.push(if differs {
                owned(&label.name)
            } else {
                Cell::Null
            });
        }
        let standing = |number, integer| {
            if differs {
                value(number, integer)
            } else {
                Cell::Null
            }
        };
        cells.extend([
            standing(summary.value_a, row.integer_a),
            standing(summary.value_b, row.integer_b),
            Cell::Float(summary.mean_diff),
            Cell::Float(summary.mean_abs),
            Cell::Float(summary.rms),
            Cell::Float(summary.l2),
            Cell::Float(summary.l2_a),
            Cell::Float(summary.l2_b),
            Cell::Float(summary.rel_l2),
            Cell::Float(summary.cosine),
            Cell::Float(summary.cosine_distance),
            Cell::Count(summary.sign_flips),
            Cell::Count(summary.nan_a),
            Cell::Count(summary.nan_b),
            Cell::Count(summary.inf_a),
            Cell::Count(summary.inf_b),
            Cell::Count(summary.nonfinite_mismatch),
            Cell::Count(summary.out_of_tolerance),
            if row.coded {
                Cell::Count(summary.max_ulp)
            } else {
                Cell::Null
            },
        ]);
        for threshold in 0..self.options.thresholds.len() {
            cells.push(Cell::Count(partial.above(threshold)));
        }
        if self.options.histogram {
            cells.extend(quantiles(partial.histogram()));
        }
        cells
    }

    fn histogram(&self, row: usize) -> Option<&Histogram> {
        self.options
            .histogram
            .then(|| self.partials[row].histogram())
            .flatten()
    }

    fn merged(&self, groups: &[i64], names: &[String]) -> Self {
        let mut merged: Vec<Option<(DiffRow, DiffPartial)>> = names.iter().map(|_| None).collect();
        for ((row, partial), group) in self.rows.iter().zip(&self.partials).zip(groups) {
            let Ok(group) = usize::try_from(*group) else {
                continue;
            };
            match &mut merged[group] {
                Some((into, merged)) => {
                    if merged.max_abs_is_below(partial) {
                        into.label = row.label;
                        into.integer_a = row.integer_a;
                        into.integer_b = row.integer_b;
                        into.components = row.components;
                    }
                    merged.merge(partial);
                    into.numel += row.numel;
                    into.tensors += row.tensors;
                    into.dtype_a.merge(row.dtype_a);
                    into.dtype_b.merge(row.dtype_b);
                    into.verdict = into.verdict.max(row.verdict);
                    into.coded |= row.coded;
                }
                empty => {
                    let row = DiffRow {
                        name: Some(names[group].as_str().into()),
                        ..row.clone()
                    };
                    *empty = Some((row, partial.clone()));
                }
            }
        }
        let (rows, partials) = merged.into_iter().flatten().unzip();
        Self {
            labels: Arc::clone(&self.labels),
            rows,
            partials,
            options: Arc::clone(&self.options),
            merged: true,
        }
    }
}

fn quantiles(histogram: Option<&Histogram>) -> impl Iterator<Item = Cell> + '_ {
    QUANTILES.into_iter().map(move |(_, share)| {
        Cell::Float(histogram.map_or(f64::NAN, |histogram| histogram.quantile(share)))
    })
}

/// The rows of stats.
#[derive(Clone)]
pub struct StatsTable {
    labels: Arc<[Label]>,
    rows: Vec<StatsRow>,
    histogram: bool,
    content_hash: bool,
    merged: bool,
}

#[derive(Clone)]
struct StatsRow {
    partial: StatsPartial,
    hash: Option<Box<[u8; 32]>>,
    numel: u64,
    bytes: u64,
    tensors: u64,
    /// Which label stands in the row; of a merged row, where the largest magnitude is.
    label: u32,
    dtype: RowDType,
    /// Whether all values are integers.
    integer: bool,
    /// Floats per element at the largest magnitude.
    components: u8,
    name: Option<Box<str>>,
}

impl StatsTable {
    /// The table of partials, one for each tensor, which bear the names in `names` or their own.
    pub fn new(
        manifest: &Manifest,
        tensors: &[u32],
        names: Option<&[Option<String>]>,
        partials: Vec<TensorStats>,
        histogram: bool,
        content_hash: bool,
    ) -> Self {
        let mut labels = Vec::with_capacity(tensors.len());
        let mut rows = Vec::with_capacity(tensors.len());
        for (&index, (partial, hash)) in tensors.iter().zip(partials) {
            let tensor = manifest.tensor(index as usize);
            let name = names
                .and_then(|names| names[index as usize].as_deref())
                .unwrap_or(tensor.name);
            let dtype = known(tensor.dtype);
            rows.push(StatsRow {
                partial,
                hash: hash.map(Box::new),
                numel: tensor.elements(),
                bytes: tensor.bytes(),
                tensors: 1,
                label: labels.len() as u32,
                integer: dtype.is_integer(),
                components: dtype.components() as u8,
                dtype,
                name: None,
            });
            labels.push(Label {
                name: name.into(),
                shape: tensor.shape.into(),
            });
        }
        Self {
            labels: labels.into(),
            rows,
            histogram,
            content_hash,
            merged: false,
        }
    }

    /// The columns that every stats has.
    pub fn default_column_names() -> Vec<String> {
        stats_columns(false, false, false)
    }
}

fn stats_columns(merged: bool, histogram: bool, content_hash: bool) -> Vec<String> {
    let mut names = vec!["name"];
    names.extend(merged.then_some("tensors"));
    names.extend([
        "dtype",
        "shape",
        "numel",
        "bytes",
        "min",
        "max",
        "abs_max",
        "abs_max_index",
    ]);
    names.extend(merged.then_some("abs_max_tensor"));
    names.extend([
        "mean",
        "std",
        "rms",
        "l1",
        "l2",
        "skewness",
        "kurtosis",
        "zeros",
        "negatives",
        "subnormals",
        "nan",
        "pos_inf",
        "neg_inf",
        "saturated",
    ]);
    if histogram {
        names.extend(QUANTILES.map(|(name, _)| name));
    }
    names.extend((content_hash && !merged).then_some("hash"));
    names.into_iter().map(str::to_owned).collect()
}

impl Table for StatsTable {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn column_names(&self) -> Vec<String> {
        stats_columns(self.merged, self.histogram, self.content_hash)
    }

    fn row(&self, row: usize) -> Vec<Cell> {
        let row = &self.rows[row];
        let label = &self.labels[row.label as usize];
        let summary = row.partial.finish();
        let mut cells = Vec::with_capacity(32);
        cells.push(owned(row.name.as_deref().unwrap_or(&label.name)));
        if self.merged {
            cells.push(Cell::Count(row.tensors));
        }
        cells.extend([
            row.dtype.cell(),
            if self.merged {
                Cell::Null
            } else {
                Cell::Tuple(label.shape.to_vec())
            },
            Cell::Count(row.numel),
            Cell::Count(row.bytes),
            value(summary.min, row.integer),
            value(summary.max, row.integer),
            value(summary.abs_max, row.integer),
            summary.abs_max_index.map_or(Cell::Null, |index| {
                multi_index(index, &label.shape, usize::from(row.components))
            }),
        ]);
        if self.merged {
            cells.push(match summary.abs_max_index {
                Some(_) => owned(&label.name),
                None => Cell::Null,
            });
        }
        cells.extend([
            Cell::Float(summary.mean),
            Cell::Float(summary.std),
            Cell::Float(summary.rms),
            Cell::Float(summary.l1),
            Cell::Float(summary.l2),
            Cell::Float(summary.skewness),
            Cell::Float(summary.kurtosis),
            Cell::Count(summary.zeros),
            Cell::Count(summary.negatives),
            Cell::Count(summary.subnormals),
            Cell::Count(summary.nan),
            Cell::Count(summary.pos_inf),
            Cell::Count(summary.neg_inf),
            Cell::Count(summary.saturated),
        ]);
        if self.histogram {
            cells.extend(quantiles(row.partial.histogram()));
        }
        if self.content_hash && !self.merged {
            cells.push(row.hash.as_ref().map_or(Cell::Null, |hash| {
                let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
                Cell::Text(Cow::Owned(hex))
            }));
        }
        cells
    }

    fn histogram(&self, row: usize) -> Option<&Histogram> {
        self.histogram
            .then(|| self.rows[row].partial.histogram())
            .flatten()
    }

    fn merged(&self, groups: &[i64], names: &[String]) -> Self {
        let mut merged: Vec<Option<StatsRow>> = names.iter().map(|_| None).collect();
        for (row, group) in self.rows.iter().zip(groups) {
            let Ok(group) = usize::try_from(*group) else {
                continue;
            };
            match &mut merged[group] {
                Some(into) => {
                    if into.partial.abs_max_is_below(&row.partial) {
                        into.label = row.label;
                        into.components = row.components;
                    }
                    into.partial.merge(&row.partial);
                    into.numel += row.numel;
                    into.bytes += row.bytes;
                    into.tensors += row.tensors;
                    into.dtype.merge(row.dtype);
                    into.integer &= row.integer;
                }
                empty => {
                    *empty = Some(StatsRow {
                        name: Some(names[group].as_str().into()),
                        ..row.clone()
                    });
                }
            }
        }
        Self {
            labels: Arc::clone(&self.labels),
            rows: merged.into_iter().flatten().collect(),
            histogram: self.histogram,
            content_hash: self.content_hash,
            merged: true,
        }
    }
}
