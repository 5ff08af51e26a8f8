//! The engine's errors as Python exceptions, each a subclass of the nearest builtin.

use ckptdiff_engine::Error;
use pyo3::create_exception;
use pyo3::exceptions::{PyFileNotFoundError, PyKeyboardInterrupt, PyOSError, PyValueError};
use pyo3::prelude::*;

create_exception!(
    ckptdiff,
    CheckpointNotFoundError,
    PyFileNotFoundError,
    "There is no checkpoint, shard or file at the path that was given."
);
create_exception!(
    ckptdiff,
    InvalidCheckpointError,
    PyValueError,
    "A file breaks its format, or a tensor cannot be read as what it claims to be."
);
create_exception!(
    ckptdiff,
    CheckpointReadError,
    PyOSError,
    "The operating system refused to read a file, or the file shrank meanwhile."
);

/// The exception for an error of the engine.
pub(crate) fn exception(error: Error) -> PyErr {
    let message = error.to_string();
    match error {
        Error::NotFound { .. } | Error::ShardNotFound { .. } => {
            CheckpointNotFoundError::new_err(message)
        }
        Error::Io { .. } | Error::Truncated { .. } => CheckpointReadError::new_err(message),
        Error::Cancelled => PyKeyboardInterrupt::new_err(()),
        _ => InvalidCheckpointError::new_err(message),
    }
}
