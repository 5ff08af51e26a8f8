//! Tables of what other backends have reduced: their partials, as attributes of Python objects.

use std::sync::Arc;

use ckptdiff_engine::{
    DiffRun, DiffTable, Reading, StatsRun, StatsTable, TensorStats, diff, stats,
};
use ckptdiff_kernels::{
    DiffOptions, DiffPartial, DiffParts, Extremes, Histogram, LargestDifference, Level, Number,
    Powers, Scaled, StatsOptions, StatsPartial, StatsParts,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::manifest::Manifest;
use crate::names::{NamesArgument, names_of};
use crate::pairing::Pairing;
use crate::run::{cast_target, watch};
use crate::table::{Rows, Table};

/// A number as Python has it.
#[derive(FromPyObject)]
enum AnyNumber {
    Integer(i128),
    Float(f64),
}

impl AnyNumber {
    fn number(&self) -> PyResult<Number> {
        match *self {
            Self::Integer(value) if value.unsigned_abs() < 1 << 80 => Ok(Number::integer(value)),
            Self::Integer(value) => {
                let message = format!("no integer of a tensor is {value}");
                Err(PyValueError::new_err(message))
            }
            Self::Float(value) => Ok(Number::float(value)),
        }
    }
}

/// (zeros, [(e, n), ...])
type HistogramArgument = (u64, Vec<(i32, u64)>);

fn histogram_of((zeros, bins): HistogramArgument) -> PyResult<Histogram> {
    if bins.iter().any(|(exponent, _)| exponent.abs() > 1100) {
        return Err(PyValueError::new_err(
            "no float has an exponent beyond 1100",
        ));
    }
    Ok(Histogram::from_bins(zeros, bins))
}

/// See `ckptdiff.backends.partials.DiffPartial`.
#[derive(FromPyObject)]
pub(crate) struct DiffArgument {
    finite: u64,
    changed: u64,
    bits_changed: u64,
    sign_flips: u64,
    out_of_tolerance: u64,
    max_ulp: u64,
    nan_a: u64,
    nan_b: u64,
    inf_a: u64,
    inf_b: u64,
    nonfinite_mismatch: u64,
    sums: [(f64, i32); 7],
    largest: Option<(AnyNumber, u64, AnyNumber, AnyNumber)>,
    above: Vec<u64>,
    histogram: Option<HistogramArgument>,
}

impl DiffArgument {
    fn partial(self) -> PyResult<DiffPartial> {
        let largest = match self.largest {
            None => None,
            Some((magnitude, index, value_a, value_b)) => Some(LargestDifference {
                magnitude: magnitude.number()?,
                index,
                value_a: value_a.number()?,
                value_b: value_b.number()?,
            }),
        };
        Ok(DiffPartial::from(DiffParts {
            finite: self.finite,
            changed: self.changed,
            bits_changed: self.bits_changed,
            sign_flips: self.sign_flips,
            out_of_tolerance: self.out_of_tolerance,
            max_ulp: self.max_ulp,
            nan_a: self.nan_a,
            nan_b: self.nan_b,
            inf_a: self.inf_a,
            inf_b: self.inf_b,
            nonfinite_mismatch: self.nonfinite_mismatch,
            sums: self
                .sums
                .map(|(value, exponent)| Scaled::new(value, exponent)),
            largest,
            above: self.above,
            histogram: self.histogram.map(histogram_of).transpose()?,
        }))
    }
}

/// See `ckptdiff.backends.partials.StatsPartial`.
#[derive(FromPyObject)]
pub(crate) struct StatsArgument {
    finite: u64,
    extremes: Option<(AnyNumber, AnyNumber, AnyNumber, u64)>,
    exponent: i32,
    pivot: f64,
    powers: [f64; 4],
    absolute: (f64, i32),
    zeros: u64,
    negatives: u64,
    subnormals: u64,
    nan: u64,
    pos_inf: u64,
    neg_inf: u64,
    saturated: u64,
    histogram: Option<HistogramArgument>,
}

impl StatsArgument {
    fn partial(self) -> PyResult<StatsPartial> {
        let extremes = match self.extremes {
            None => None,
            Some((min, max, abs_max, abs_max_index)) => Some(Extremes {
                min: min.number()?,
                max: max.number()?,
                abs_max: abs_max.number()?,
                abs_max_index,
            }),
        };
        Ok(StatsPartial::from(StatsParts {
            extremes,
            powers: Powers {
                count: self.finite,
                exponent: self.exponent,
                pivot: self.pivot,
                sums: self.powers,
            },
            absolute: Scaled::new(self.absolute.0, self.absolute.1),
            zeros: self.zeros,
            negatives: self.negatives,
            subnormals: self.subnormals,
            nan: self.nan,
            pos_inf: self.pos_inf,
            neg_inf: self.neg_inf,
            saturated: self.saturated,
            histogram: self.histogram.map(histogram_of).transpose()?,
        }))
    }
}

/// For each row its partials in order, or `None` where the engine is to reduce it.
type RowsOf<T> = Vec<Option<Vec<T>>>;

fn check_rows(given: usize, wanted: usize) -> PyResult<()> {
    if given == wanted {
        Ok(())
    } else {
        Err(PyValueError::new_err(format!(
            "partials of {given} rows for {wanted}"
        )))
    }
}

#[pyfunction]
#[pyo3(signature = (
    pairing, partials, *, atol = 0.0, rtol = 0.0, cast = None, thresholds = None,
    histogram = false, threads = 0
))]
#[allow(clippy::too_many_arguments)] // Keyword arguments.
pub(crate) fn diff_of_partials(
    python: Python<'_>,
    pairing: &Pairing,
    partials: RowsOf<DiffArgument>,
    atol: f64,
    rtol: f64,
    cast: Option<&str>,
    thresholds: Option<Vec<f64>>,
    histogram: bool,
    threads: usize,
) -> PyResult<Table> {
    let pairs = &pairing.inner.pairs;
    check_rows(partials.len(), pairs.len())?;
    let options = DiffOptions {
        atol,
        rtol,
        cast: cast.map(cast_target).transpose()?,
        thresholds: thresholds.unwrap_or_default(),
        histogram,
    };
    let own_pairs: Vec<_> = partials
        .iter()
        .zip(pairs)
        .filter_map(|(row, pair)| row.is_none().then_some(*pair))
        .collect();
    let run = DiffRun {
        a: &pairing.a,
        b: &pairing.b,
        pairs: &own_pairs,
        options: options.clone(),
        level: Level::best(),
        threads,
        reading: Reading::Auto,
    };
    let mut own = watch(python, 0, None, |control| diff(&run, control))?.into_iter();
    let mut rows = Vec::with_capacity(partials.len());
    for row in partials {
        rows.push(match row {
            None => own.next().unwrap_or_default(),
            Some(chunks) => {
                let mut merged = DiffPartial::default();
                for chunk in chunks {
                    merged.merge(&chunk.partial()?);
                }
                merged
            }
        });
    }
    let table = DiffTable::new(
        Arc::clone(&pairing.a),
        Arc::clone(&pairing.b),
        Arc::clone(&pairing.inner),
        pairing.names_b.clone(),
        rows,
        options,
    );
    Ok(Table(Rows::Diff(table)))
}

#[pyfunction]
#[pyo3(signature = (manifest, partials, *, names = None, histogram = false, threads = 0))]
pub(crate) fn stats_of_partials(
    python: Python<'_>,
    manifest: &Manifest,
    partials: RowsOf<StatsArgument>,
    names: Option<NamesArgument>,
    histogram: bool,
    threads: usize,
) -> PyResult<Table> {
    let names = names_of(names, &manifest.inner, "names")?;
    let tensors: Vec<u32> = (0..manifest.inner.len())
        .filter(|index| names.keeps(*index))
        .map(|index| index as u32)
        .collect();
    check_rows(partials.len(), tensors.len())?;
    let own_tensors: Vec<_> = partials
        .iter()
        .zip(&tensors)
        .filter_map(|(row, tensor)| row.is_none().then_some(*tensor))
        .collect();
    let run = StatsRun {
        manifest: &manifest.inner,
        tensors: &own_tensors,
        options: StatsOptions { histogram },
        content_hash: false,
        level: Level::best(),
        threads,
        reading: Reading::Auto,
    };
    let mut own = watch(python, 0, None, |control| stats(&run, control))?.into_iter();
    let mut rows = Vec::with_capacity(partials.len());
    for row in partials {
        rows.push(match row {
            None => own.next().unwrap_or_default(),
            Some(chunks) => {
                let mut merged = StatsPartial::default();
                for chunk in chunks {
                    merged.merge(&chunk.partial()?);
                }
                TensorStats {
                    partial: merged,
                    hash: None,
                }
            }
        });
    }
    let manifest = Arc::clone(&manifest.inner);
    let table = StatsTable::new(manifest, tensors, names, rows, histogram, false);
    Ok(Table(Rows::Stats(table)))
}
