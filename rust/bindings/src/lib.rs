//! `ckptdiff._core`: registers what the other files define.

// pyo3 hands arguments over by value.
#![allow(clippy::needless_pass_by_value)]

mod derived;
mod errors;
mod manifest;
mod memory;
mod names;
mod pairing;
mod pickle;
mod run;
mod series;
mod spans;
mod table;

use ckptdiff_engine::{DiffTable, Reading, StatsTable};
use ckptdiff_kernels::{DType, Level};
use pyo3::prelude::*;

#[pyfunction]
fn dtype_names() -> Vec<&'static str> {
    DType::ALL.map(DType::name).to_vec()
}

#[pyfunction]
fn cast_dtype_names() -> Vec<&'static str> {
    DType::CAST_TARGETS.map(DType::name).to_vec()
}

#[pyfunction]
fn io_names() -> Vec<&'static str> {
    Reading::ALL.map(|(name, _)| name).to_vec()
}

#[pyfunction]
fn isa_levels() -> Vec<&'static str> {
    Level::available().into_iter().map(Level::name).collect()
}

#[pyfunction]
fn diff_column_names() -> Vec<String> {
    DiffTable::default_column_names()
}

#[pyfunction]
fn stats_column_names() -> Vec<String> {
    StatsTable::default_column_names()
}

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let python = module.py();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add(
        "CheckpointNotFoundError",
        python.get_type::<errors::CheckpointNotFoundError>(),
    )?;
    module.add(
        "InvalidCheckpointError",
        python.get_type::<errors::InvalidCheckpointError>(),
    )?;
    module.add(
        "CheckpointReadError",
        python.get_type::<errors::CheckpointReadError>(),
    )?;
    module.add_class::<manifest::Manifest>()?;
    module.add_class::<pairing::Pairing>()?;
    module.add_class::<series::SeriesRun>()?;
    module.add_class::<table::Table>()?;
    module.add_function(wrap_pyfunction!(dtype_names, module)?)?;
    module.add_function(wrap_pyfunction!(cast_dtype_names, module)?)?;
    module.add_function(wrap_pyfunction!(io_names, module)?)?;
    module.add_function(wrap_pyfunction!(isa_levels, module)?)?;
    module.add_function(wrap_pyfunction!(diff_column_names, module)?)?;
    module.add_function(wrap_pyfunction!(stats_column_names, module)?)?;
    module.add_function(wrap_pyfunction!(pickle::strip_pickle, module)?)?;
    module.add_function(wrap_pyfunction!(pickle::give_back_freed_memory, module)?)?;
    module.add_function(wrap_pyfunction!(run::diff, module)?)?;
    module.add_function(wrap_pyfunction!(run::stats, module)?)?;
    module.add_function(wrap_pyfunction!(series::series, module)?)?;
    module.add_function(wrap_pyfunction!(series::rounded_mean, module)?)?;
    Ok(())
}
