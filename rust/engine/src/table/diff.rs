//! The rows of a diff.

use std::ops::Range;
use std::sync::Arc;

use ckptdiff_kernels::{DiffOptions, DiffPartial, DiffSummary, Histogram};

use super::{
    Cell, Column, Definition, Kind, QUANTILES, RowDType, Table, When, columns_of, multi_index,
    python_float, quantile, shape_cell,
};
use crate::manifest::Manifest;
use crate::names::Names;
use crate::pair::Pairing;

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
pub struct DiffTable {
    run: Arc<Run>,
    /// One per row.
    partials: Vec<DiffPartial>,
    /// What a merged row is of, and its name; where there are none, a row is of one pair.
    groups: Option<Vec<(String, Facts)>>,
    columns: Vec<DiffColumn>,
}

/// What was compared, and how.
struct Run {
    a: Arc<Manifest>,
    b: Arc<Manifest>,
    pairing: Arc<Pairing>,
    names: Names,
    options: DiffOptions,
    /// That of a row without elements, where histograms were asked for.
    no_histogram: Option<Histogram>,
}

/// What there is to say of a row beside its partial.
#[derive(Clone, Copy)]
struct Facts {
    numel: u64,
    tensors: u64,
    /// Which pair the row is of; of a merged row, which has the largest difference.
    pair: u32,
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
}

impl Facts {
    /// Those of no pair, which any others can be merged into.
    const NOTHING: Self = Self {
        numel: 0,
        tensors: 0,
        pair: 0,
        dtype_a: RowDType::Nothing,
        dtype_b: RowDType::Nothing,
        verdict: Verdict::BitIdentical,
        coded: false,
        integer_a: false,
        integer_b: false,
        components: 1,
    };

    fn merge(&mut self, later: Self, has_largest: bool) {
        if has_largest || self.tensors == 0 {
            self.pair = later.pair;
            self.integer_a = later.integer_a;
            self.integer_b = later.integer_b;
            self.components = later.components;
        }
        self.numel += later.numel;
        self.tensors += later.tensors;
        self.dtype_a.merge(later.dtype_a);
        self.dtype_b.merge(later.dtype_b);
        self.verdict = self.verdict.max(later.verdict);
        self.coded |= later.coded;
    }
}

/// A row, as its columns see it.
struct Row<'a> {
    name: &'a str,
    merged: bool,
    /// Name and shape of the tensor that the row is of, or that has the largest difference.
    tensor: &'a str,
    shape: &'a [u64],
    facts: Facts,
    summary: DiffSummary,
    partial: &'a DiffPartial,
}

impl Row<'_> {
    fn differs(&self) -> bool {
        self.summary.max_abs_index.is_some()
    }

    /// Whether counts of codes mean something; of nothing, they are 0.
    const fn coded(&self) -> bool {
        self.facts.coded || self.facts.tensors == 0
    }
}

type CellOf = for<'a> fn(&Row<'a>) -> Cell<'a>;

/// The columns that every diff has, in order.
const COLUMNS: &[(When, &str, Kind, CellOf)] = &[
    (When::Always, "name", Kind::Other, |row| {
        Cell::text(row.name)
    }),
    (When::Merged, "tensors", Kind::Count, |row| {
        Cell::Count(row.facts.tensors)
    }),
    (When::Always, "dtype_a", Kind::Other, |row| {
        row.facts.dtype_a.cell()
    }),
    (When::Always, "dtype_b", Kind::Other, |row| {
        row.facts.dtype_b.cell()
    }),
    (When::Always, "shape", Kind::Other, |row| {
        shape_cell(row.merged, row.shape)
    }),
    (When::Always, "numel", Kind::Count, |row| {
        Cell::Count(row.facts.numel)
    }),
    (When::Always, "verdict", Kind::Other, |row| {
        Cell::Word(row.facts.verdict.name())
    }),
    (When::Always, "changed", Kind::Count, |row| {
        Cell::Count(row.summary.changed)
    }),
    (When::Always, "bits_changed", Kind::Number, |row| {
        Cell::count_if(row.coded(), row.summary.bits_changed)
    }),
    (When::Always, "max_abs", Kind::Number, |row| {
        let integer = row.facts.integer_a && row.facts.integer_b;
        Cell::value(row.summary.max_abs, integer)
    }),
    (When::Always, "max_abs_index", Kind::Other, |row| {
        let index = row.summary.max_abs_index;
        index.map_or(Cell::Null, |index| {
            multi_index(index, row.shape, row.facts.components)
        })
    }),
    (When::Merged, "max_abs_tensor", Kind::Other, |row| {
        if row.differs() {
            Cell::text(row.tensor)
        } else {
            Cell::Null
        }
    }),
    (When::Always, "value_a", Kind::Number, |row| {
        if row.differs() {
            Cell::value(row.summary.value_a, row.facts.integer_a)
        } else {
            Cell::Null
        }
    }),
    (When::Always, "value_b", Kind::Number, |row| {
        if row.differs() {
            Cell::value(row.summary.value_b, row.facts.integer_b)
        } else {
            Cell::Null
        }
    }),
    (When::Always, "mean_diff", Kind::Number, |row| {
        Cell::Float(row.summary.mean_diff)
    }),
    (When::Always, "mean_abs", Kind::Number, |row| {
        Cell::Float(row.summary.mean_abs)
    }),
    (When::Always, "rms", Kind::Number, |row| {
        Cell::Float(row.summary.rms)
    }),
    (When::Always, "l2", Kind::Number, |row| {
        Cell::Float(row.summary.l2)
    }),
    (When::Always, "l2_a", Kind::Number, |row| {
        Cell::Float(row.summary.l2_a)
    }),
    (When::Always, "l2_b", Kind::Number, |row| {
        Cell::Float(row.summary.l2_b)
    }),
    (When::Always, "rel_l2", Kind::Number, |row| {
        Cell::Float(row.summary.rel_l2)
    }),
    (When::Always, "cosine", Kind::Number, |row| {
        Cell::Float(row.summary.cosine)
    }),
    (When::Always, "cosine_distance", Kind::Number, |row| {
        Cell::Float(row.summary.cosine_distance)
    }),
    (When::Always, "sign_flips", Kind::Count, |row| {
        Cell::Count(row.summary.sign_flips)
    }),
    (When::Always, "nan_a", Kind::Count, |row| {
        Cell::Count(row.summary.nan_a)
    }),
    (When::Always, "nan_b", Kind::Count, |row| {
        Cell::Count(row.summary.nan_b)
    }),
    (When::Always, "inf_a", Kind::Count, |row| {
        Cell::Count(row.summary.inf_a)
    }),
    (When::Always, "inf_b", Kind::Count, |row| {
        Cell::Count(row.summary.inf_b)
    }),
    (When::Always, "nonfinite_mismatch", Kind::Count, |row| {
        Cell::Count(row.summary.nonfinite_mismatch)
    }),
    (When::Always, "out_of_tolerance", Kind::Count, |row| {
        Cell::Count(row.summary.out_of_tolerance)
    }),
    (When::Always, "max_ulp", Kind::Number, |row| {
        Cell::count_if(row.coded(), row.summary.max_ulp)
    }),
];

struct DiffColumn {
    name: String,
    kind: Kind,
    source: Source,
}

/// Where the values of a column are from.
enum Source {
    Summary(CellOf),
    /// How many differences exceed the threshold of that position.
    Above(usize),
    /// The magnitude below which that share of the differences lies.
    Quantile(f64),
}

impl DiffColumn {
    fn all(merged: bool, options: &DiffOptions) -> Vec<Self> {
        let fixed = COLUMNS
            .iter()
            .filter(|(when, ..)| merged || *when == When::Always)
            .map(|&(_, name, kind, cell)| Self {
                name: name.to_owned(),
                kind,
                source: Source::Summary(cell),
            });
        let above = options.thresholds.iter().enumerate();
        let above = above.map(|(position, threshold)| {
            let mut name = String::from("above_");
            python_float(&mut name, *threshold);
            Self {
                name,
                kind: Kind::Count,
                source: Source::Above(position),
            }
        });
        let quantiles = QUANTILES.iter().filter(|_| options.histogram);
        let quantiles = quantiles.map(|&(name, share)| Self {
            name: name.to_owned(),
            kind: Kind::Number,
            source: Source::Quantile(share),
        });
        fixed.chain(above).chain(quantiles).collect()
    }
}

impl Definition for DiffColumn {
    type Row<'a> = Row<'a>;

    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> Kind {
        self.kind
    }

    fn cell<'a>(&self, row: &Self::Row<'a>) -> Cell<'a> {
        match self.source {
            Source::Summary(cell) => cell(row),
            Source::Above(position) => Cell::Count(row.partial.above(position)),
            Source::Quantile(share) => {
                quantile(row.partial.histogram(), share, row.summary.max_abs)
            }
        }
    }
}

impl DiffTable {
    /// The table of partials, one for each pair. Rows bear the names in `names`, in B where there
    /// is none.
    pub fn new(
        a: Arc<Manifest>,
        b: Arc<Manifest>,
        pairing: Arc<Pairing>,
        names: Names,
        partials: Vec<DiffPartial>,
        options: DiffOptions,
    ) -> Self {
        Self {
            columns: DiffColumn::all(false, &options),
            run: Arc::new(Run {
                a,
                b,
                pairing,
                names,
                no_histogram: options.histogram.then(Histogram::default),
                options,
            }),
            partials,
            groups: None,
        }
    }

    /// The columns that every diff has.
    pub fn default_column_names() -> Vec<String> {
        let columns = DiffColumn::all(false, &DiffOptions::default());
        columns.into_iter().map(|column| column.name).collect()
    }

    fn view(&self, row: usize) -> Row<'_> {
        let partial = &self.partials[row];
        let summary = partial.finish();
        let (name, facts) = match &self.groups {
            Some(groups) => (Some(groups[row].0.as_str()), groups[row].1),
            None => (None, self.run.facts(row, &summary)),
        };
        let (tensor, shape) = self.run.tensor(facts);
        Row {
            name: name.unwrap_or(tensor),
            merged: name.is_some(),
            tensor,
            shape,
            facts,
            summary,
            partial,
        }
    }

    fn facts(&self, row: usize) -> Facts {
        match &self.groups {
            Some(groups) => groups[row].1,
            None => self.run.facts(row, &self.partials[row].finish()),
        }
    }
}

impl Run {
    /// Those of a pair whose partial has that summary.
    fn facts(&self, pair: usize, summary: &DiffSummary) -> Facts {
        let (index_a, index_b) = self.pairing.pairs[pair];
        let tensor_a = self.a.tensor(index_a as usize);
        let dtype_a = RowDType::from(tensor_a.dtype);
        let dtype_b = RowDType::from(self.b.tensor(index_b as usize).dtype);
        let same_codes = dtype_a == dtype_b || self.options.cast.is_some();
        let coded = same_codes && (self.options.cast.is_some() || !dtype_a.is_quantised());
        let verdict = if same_codes && summary.bits_changed == 0 && !summary.blocks_differ {
            Verdict::BitIdentical
        } else if summary.changed == 0 {
            Verdict::Equal
        } else if self.options.tolerant()
            && summary.out_of_tolerance == 0
            && summary.nonfinite_mismatch == 0
        {
            Verdict::WithinTolerance
        } else {
            Verdict::Different
        };
        Facts {
            numel: tensor_a.elements(),
            tensors: 1,
            pair: pair as u32,
            dtype_a,
            dtype_b,
            verdict,
            coded,
            integer_a: dtype_a.is_integer() && self.options.cast.is_none(),
            integer_b: dtype_b.is_integer() && self.options.cast.is_none(),
            components: dtype_a.components().max(dtype_b.components()),
        }
    }

    /// The name and shape of the tensor that a row is of.
    fn tensor(&self, facts: Facts) -> (&str, &[u64]) {
        if facts.tensors == 0 {
            return ("", &[]);
        }
        let (index_a, index_b) = self.pairing.pairs[facts.pair as usize];
        (
            self.names.name(&self.b, index_b as usize),
            self.a.tensor(index_a as usize).shape,
        )
    }
}

impl Table for DiffTable {
    fn len(&self) -> usize {
        self.partials.len()
    }

    fn column_names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.columns.iter().map(|column| column.name.as_str())
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
        Some(self.partials[row].histogram().unwrap_or(empty))
    }

    fn merged(&self, groups: &[i64], names: Vec<String>) -> Self {
        let mut partials = vec![DiffPartial::default(); names.len()];
        let mut merged: Vec<_> = names
            .into_iter()
            .map(|name| (name, Facts::NOTHING))
            .collect();
        for (row, group) in groups.iter().enumerate().take(self.len()) {
            // Negative: in no group.
            let Ok(group) = usize::try_from(*group) else {
                continue;
            };
            let later = &self.partials[row];
            let has_largest = partials[group].max_abs_is_below(later);
            merged[group].1.merge(self.facts(row), has_largest);
            partials[group].merge(later);
        }
        Self {
            run: Arc::clone(&self.run),
            partials,
            groups: Some(merged),
            columns: DiffColumn::all(true, &self.run.options),
        }
    }
}
