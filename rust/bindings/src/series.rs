//! `series` and `rounded_mean`: many checkpoints in one read.

use std::sync::Arc;

use ckptdiff_engine::{
    self as engine, Common, DiffTable, MeanRun, Names, Pairing, SeriesRun as Run, StatsTable,
};
use ckptdiff_kernels::{DiffOptions, GramPartial, Precision};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::manifest::Manifest;
use crate::names::{NamesArgument, names_of};
use crate::run::{level, reading, watch};
use crate::table::{Rows, Table};

#[pyclass(frozen, module = "ckptdiff._core")]
pub(crate) struct SeriesRun {
    names: Vec<String>,
    numel: Vec<u64>,
    finite: Vec<u64>,
    gram: Py<PyBytes>,
    stats: Vec<Py<Table>>,
    diffs: Vec<Option<Py<Table>>>,
    changed_bf16: Vec<Option<Py<PyBytes>>>,
    bytes_read: u64,
    not_common: Vec<(String, Vec<usize>)>,
}

#[pymethods]
impl SeriesRun {
    #[getter]
    fn names(&self) -> Vec<&str> {
        self.names.iter().map(String::as_str).collect()
    }

    #[getter]
    fn numel(&self) -> Vec<u64> {
        self.numel.clone()
    }

    #[getter]
    fn finite(&self) -> Vec<u64> {
        self.finite.clone()
    }

    #[getter]
    fn gram(&self, python: Python<'_>) -> Py<PyBytes> {
        self.gram.clone_ref(python)
    }

    #[getter]
    fn stats(&self, python: Python<'_>) -> Vec<Py<Table>> {
        self.stats
            .iter()
            .map(|table| table.clone_ref(python))
            .collect()
    }

    #[getter]
    fn diffs(&self, python: Python<'_>) -> Vec<Option<Py<Table>>> {
        let clone = |table: &Py<Table>| table.clone_ref(python);
        self.diffs
            .iter()
            .map(|table| table.as_ref().map(clone))
            .collect()
    }

    #[getter]
    fn changed_bf16(&self, python: Python<'_>) -> Vec<Option<Py<PyBytes>>> {
        let clone = |counts: &Py<PyBytes>| counts.clone_ref(python);
        let counts = self.changed_bf16.iter();
        counts.map(|counts| counts.as_ref().map(clone)).collect()
    }

    #[getter]
    fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    #[getter]
    fn not_common(&self) -> Vec<(&str, Vec<usize>)> {
        let names = self.not_common.iter();
        names
            .map(|(name, checkpoints)| (name.as_str(), checkpoints.clone()))
            .collect()
    }
}

#[pyfunction]
#[pyo3(signature = (
    manifests, names, parents, *, precision = "single", threads = 0, isa = None, io = "auto",
    on_progress = None
))]
#[allow(clippy::too_many_arguments)] // Keyword arguments.
pub(crate) fn series(
    python: Python<'_>,
    manifests: Vec<PyRef<'_, Manifest>>,
    names: Vec<Option<NamesArgument>>,
    parents: Vec<i64>,
    precision: &str,
    threads: usize,
    isa: Option<&str>,
    io: &str,
    on_progress: Option<Py<PyAny>>,
) -> PyResult<SeriesRun> {
    let count = manifests.len();
    if count == 0 || names.len() != count || parents.len() != count {
        return Err(PyValueError::new_err(format!(
            "{count} manifests, {} names and {} parents, expected as many of each, and one at least",
            names.len(),
            parents.len()
        )));
    }
    let parents = parents
        .into_iter()
        .enumerate()
        .map(|(child, parent)| match usize::try_from(parent) {
            Ok(parent) if parent < child => Ok(Some(parent)),
            Err(_) if parent == -1 => Ok(None),
            _ => Err(PyValueError::new_err(format!(
                "the parent of checkpoint {child} is {parent}, expected -1 or one before it"
            ))),
        })
        .collect::<PyResult<Arc<[Option<usize>]>>>()?;
    let (manifests, names) = sides(manifests, names)?;
    let common = common(python, &manifests, &names)?;
    let bytes_read = bytes(&manifests, &common);
    let run = Run {
        manifests: &manifests,
        common: &common,
        parents: Arc::clone(&parents),
        precision: match precision {
            "single" => Precision::Single,
            "double" => Precision::Double,
            other => {
                return Err(PyValueError::new_err(format!(
                    "precision is {other:?}, expected \"single\" or \"double\""
                )));
            }
        },
        level: level(isa)?,
        threads,
        reading: reading(io)?,
    };
    let sums = watch(python, bytes_read, on_progress, |control| {
        engine::series(&run, control)
    })?;
    let rows = common.tensors[0].iter();
    let numel = rows
        .clone()
        .map(|index| manifests[0].tensor(*index as usize).elements());
    let row_names = rows.map(|index| names[0].name(&manifests[0], *index as usize).to_owned());
    let numel: Vec<u64> = numel.collect();
    let row_names: Vec<String> = row_names.collect();
    let mut stats = Vec::with_capacity(count);
    for (index, partials) in sums.stats.into_iter().enumerate() {
        let table = StatsTable::new(
            Arc::clone(&manifests[index]),
            common.tensors[index].clone(),
            names[index].clone(),
            partials,
            false,
            false,
        );
        stats.push(Py::new(python, Table(Rows::Stats(table)))?);
    }
    let mut diffs = Vec::with_capacity(count);
    for (index, partials) in sums.diffs.into_iter().enumerate() {
        let Some((parent, partials)) = parents[index].zip(partials) else {
            diffs.push(None);
            continue;
        };
        let pairs = common.tensors[parent].iter().zip(&common.tensors[index]);
        let pairing = Pairing {
            pairs: pairs.map(|(a, b)| (*a, *b)).collect(),
            ..Pairing::default()
        };
        let table = DiffTable::new(
            Arc::clone(&manifests[parent]),
            Arc::clone(&manifests[index]),
            Arc::new(pairing),
            names[index].clone(),
            partials,
            DiffOptions::default(),
        );
        diffs.push(Some(Py::new(python, Table(Rows::Diff(table)))?));
    }
    let entries = sums.grams.iter().flat_map(|gram| gram.matrix(count));
    let length = sums.grams.len() * count * count * size_of::<f64>();
    let gram = PyBytes::new_with(python, length, |bytes| {
        for (slot, entry) in bytes.as_chunks_mut().0.iter_mut().zip(entries) {
            *slot = entry.to_le_bytes();
        }
        Ok(())
    })?;
    let counts = |counts: Vec<u64>| {
        let bytes: Vec<u8> = counts
            .iter()
            .flat_map(|count| count.to_le_bytes())
            .collect();
        PyBytes::new(python, &bytes).unbind()
    };
    Ok(SeriesRun {
        names: row_names,
        numel,
        finite: sums.grams.iter().map(GramPartial::finite).collect(),
        gram: gram.unbind(),
        stats,
        diffs,
        changed_bf16: sums
            .changed_bf16
            .into_iter()
            .map(|changed| changed.map(counts))
            .collect(),
        bytes_read,
        not_common: common.not_common,
    })
}

/// (name, numel, mismatches, max_ulp)
type MeanRow = (String, u64, u64, u64);

#[pyfunction]
#[pyo3(signature = (
    target, parts, names_target = None, names_parts = None, *, threads = 0, isa = None,
    io = "auto", on_progress = None
))]
#[allow(clippy::too_many_arguments)] // Keyword arguments.
pub(crate) fn rounded_mean(
    python: Python<'_>,
    target: PyRef<'_, Manifest>,
    parts: Vec<PyRef<'_, Manifest>>,
    names_target: Option<NamesArgument>,
    names_parts: Option<Vec<Option<NamesArgument>>>,
    threads: usize,
    isa: Option<&str>,
    io: &str,
    on_progress: Option<Py<PyAny>>,
) -> PyResult<Vec<MeanRow>> {
    let names_parts = names_parts.unwrap_or_else(|| parts.iter().map(|_| None).collect());
    if parts.is_empty() || names_parts.len() != parts.len() {
        return Err(PyValueError::new_err(format!(
            "{} parts and {} names of parts, expected as many of each, and one at least",
            parts.len(),
            names_parts.len()
        )));
    }
    let manifests = std::iter::once(target).chain(parts).collect();
    let names = std::iter::once(names_target).chain(names_parts).collect();
    let (manifests, names) = sides(manifests, names)?;
    let common = common(python, &manifests, &names)?;
    let run = MeanRun {
        manifests: &manifests,
        common: &common,
        level: level(isa)?,
        threads,
        reading: reading(io)?,
    };
    let total = bytes(&manifests, &common);
    let comparisons = watch(python, total, on_progress, |control| {
        engine::rounded_mean(&run, control)
    })?;
    let rows = common.tensors[0].iter().zip(comparisons);
    Ok(rows
        .map(|(index, comparison)| {
            let index = *index as usize;
            let name = names[0].name(&manifests[0], index).to_owned();
            let numel = manifests[0].tensor(index).elements();
            (name, numel, comparison.mismatches, comparison.max_ulp)
        })
        .collect())
}

/// The engine's manifests, and the names that Python gave them.
fn sides(
    manifests: Vec<PyRef<'_, Manifest>>,
    names: Vec<Option<NamesArgument>>,
) -> PyResult<(Vec<Arc<engine::Manifest>>, Vec<Names>)> {
    let manifests: Vec<_> = manifests
        .iter()
        .map(|manifest| Arc::clone(&manifest.inner))
        .collect();
    let names = names
        .into_iter()
        .zip(&manifests)
        .enumerate()
        .map(|(index, (names, manifest))| names_of(names, manifest, &format!("names[{index}]")))
        .collect::<PyResult<Vec<_>>>()?;
    Ok((manifests, names))
}

fn common(
    python: Python<'_>,
    manifests: &[Arc<engine::Manifest>],
    names: &[Names],
) -> PyResult<Common> {
    python
        .detach(|| engine::common(manifests, names))
        .map_err(|error| PyValueError::new_err(error.to_string()))
}

/// Bytes of the common tensors of all checkpoints.
fn bytes(manifests: &[Arc<engine::Manifest>], common: &Common) -> u64 {
    let sides = manifests.iter().zip(&common.tensors);
    sides
        .flat_map(|(manifest, tensors)| {
            tensors
                .iter()
                .map(|index| manifest.tensor(*index as usize).bytes())
        })
        .sum()
}
