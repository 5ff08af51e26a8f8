//! `strip_pickle`: a pickle without the memo entries that nobody reads.

use ckptdiff_engine::PickleFault;
use pyo3::exceptions::{PyEOFError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

#[pyfunction]
#[pyo3(signature = (data, start = 0))]
pub(crate) fn strip_pickle<'py>(
    python: Python<'py>,
    data: &[u8],
    start: usize,
) -> PyResult<(Bound<'py, PyBytes>, usize)> {
    let rest = data.get(start..).unwrap_or_default();
    match ckptdiff_engine::strip_pickle(rest) {
        Ok((stripped, end)) => Ok((PyBytes::new(python, &stripped), start + end)),
        Err(PickleFault::CutOff) => Err(PyEOFError::new_err("the pickle is cut off")),
        Err(PickleFault::Opcode(opcode)) => Err(PyValueError::new_err(format!(
            "opcode {opcode:#04x} is not allowed"
        ))),
        Err(PickleFault::Argument) => {
            Err(PyValueError::new_err("an opcode's argument makes no sense"))
        }
        Err(PickleFault::Memo) => Err(PyValueError::new_err(
            "its memo is numbered in two ways, as no pickler does",
        )),
    }
}

#[pyfunction]
pub(crate) fn give_back_freed_memory(python: Python<'_>) {
    python.detach(ckptdiff_engine::give_back_freed_memory);
}
