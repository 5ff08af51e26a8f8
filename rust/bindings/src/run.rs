//! `diff` and `stats`: run the engine without the GIL, while this thread looks after signals.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use ckptdiff_engine::{self as engine, Control, DiffRun, DiffTable, Reading, StatsRun, StatsTable};
use ckptdiff_kernels::{DType, DiffOptions, Level, StatsOptions};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::errors::exception;
use crate::manifest::Manifest;
use crate::names::{NamesArgument, names_of};
use crate::pairing::Pairing;
use crate::table::{Rows, Table};

/// How often signals are looked after and progress is told.
const POLL: Duration = Duration::from_millis(40);

#[pyfunction]
#[pyo3(signature = (
    pairing, *, atol = 0.0, rtol = 0.0, cast = None, thresholds = None, histogram = false,
    threads = 0, isa = None, io = "auto", on_progress = None
))]
#[allow(clippy::too_many_arguments)] // Keyword arguments.
pub(crate) fn diff(
    python: Python<'_>,
    pairing: &Pairing,
    atol: f64,
    rtol: f64,
    cast: Option<&str>,
    thresholds: Option<Vec<f64>>,
    histogram: bool,
    threads: usize,
    isa: Option<&str>,
    io: &str,
    on_progress: Option<Py<PyAny>>,
) -> PyResult<Table> {
    let cast = cast.map(cast_target).transpose()?;
    let options = DiffOptions {
        atol,
        rtol,
        cast,
        thresholds: thresholds.unwrap_or_default(),
        histogram,
    };
    let run = DiffRun {
        a: &pairing.a,
        b: &pairing.b,
        pairs: &pairing.inner.pairs,
        options: options.clone(),
        level: level(isa)?,
        threads,
        reading: reading(io)?,
    };
    let total = pairing.bytes_read();
    let partials = watch(python, total, on_progress, |control| {
        engine::diff(&run, control)
    })?;
    let table = DiffTable::new(
        Arc::clone(&pairing.a),
        Arc::clone(&pairing.b),
        Arc::clone(&pairing.inner),
        pairing.names_b.clone(),
        partials,
        options,
    );
    Ok(Table(Rows::Diff(table)))
}

#[pyfunction]
#[pyo3(signature = (
    manifest, *, names = None, histogram = false, content_hash = false, threads = 0, isa = None,
    io = "auto", on_progress = None
))]
#[allow(clippy::too_many_arguments)] // Keyword arguments.
pub(crate) fn stats(
    python: Python<'_>,
    manifest: &Manifest,
    names: Option<NamesArgument>,
    histogram: bool,
    content_hash: bool,
    threads: usize,
    isa: Option<&str>,
    io: &str,
    on_progress: Option<Py<PyAny>>,
) -> PyResult<Table> {
    let names = names_of(names, &manifest.inner, "names")?;
    let tensors: Vec<u32> = (0..manifest.inner.len())
        .filter(|index| names.keeps(*index))
        .map(|index| index as u32)
        .collect();
    let total = engine::bytes_to_describe(&manifest.inner, &tensors);
    let run = StatsRun {
        manifest: &manifest.inner,
        tensors: &tensors,
        options: StatsOptions { histogram },
        content_hash,
        level: level(isa)?,
        threads,
        reading: reading(io)?,
    };
    let partials = watch(python, total, on_progress, |control| {
        engine::stats(&run, control)
    })?;
    let table = StatsTable::new(
        Arc::clone(&manifest.inner),
        tensors,
        names,
        partials,
        histogram,
        content_hash,
    );
    Ok(Table(Rows::Stats(table)))
}

fn cast_target(name: &str) -> PyResult<DType> {
    DType::CAST_TARGETS
        .into_iter()
        .find(|dtype| dtype.name() == name)
        .ok_or_else(|| {
            let known = DType::CAST_TARGETS.map(DType::name).join(", ");
            PyValueError::new_err(format!("cannot cast to {name:?}, only to {known}"))
        })
}

pub(crate) fn level(isa: Option<&str>) -> PyResult<Level> {
    match isa {
        None => Ok(Level::best()),
        Some(name) => Level::named(name).ok_or_else(|| {
            let levels: Vec<_> = Level::available().into_iter().map(Level::name).collect();
            PyValueError::new_err(format!(
                "this machine has no instruction-set level {name:?}, only {}",
                levels.join(", ")
            ))
        }),
    }
}

pub(crate) fn reading(name: &str) -> PyResult<Reading> {
    Reading::ALL
        .into_iter()
        .find_map(|(known, reading)| (known == name).then_some(reading))
        .ok_or_else(|| {
            let known = Reading::ALL.map(|(known, _)| known).join(", ");
            PyValueError::new_err(format!("no way to read is named {name:?}, only {known}"))
        })
}

/// Run `work` on a thread of its own; meanwhile deliver signals, which may cancel it, and progress.
pub(crate) fn watch<T: Send>(
    python: Python<'_>,
    total: u64,
    on_progress: Option<Py<PyAny>>,
    work: impl Send + FnOnce(&Control) -> Result<T, engine::Error>,
) -> PyResult<T> {
    let control = Control::default();
    std::thread::scope(|scope| {
        let (done, finished) = sync_channel::<()>(1);
        let control = &control;
        let worker = scope.spawn(move || {
            // Dropping the sender, also in a panic, is what wakes the other side.
            let _done = done;
            work(control)
        });
        let mut outcome = Ok(());
        let mut finished = finished;
        loop {
            let (back, wait) = python.detach(move || {
                let wait = finished.recv_timeout(POLL);
                (finished, wait)
            });
            finished = back;
            if outcome.is_ok() {
                outcome = python.check_signals().and_then(|()| match &on_progress {
                    Some(callback) => callback
                        .call1(python, (control.bytes_done(), total))
                        .map(drop),
                    None => Ok(()),
                });
                if outcome.is_err() {
                    control.cancel();
                }
            }
            if !matches!(wait, Err(RecvTimeoutError::Timeout)) {
                break;
            }
        }
        let result = match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        outcome?;
        result.map_err(exception)
    })
}
