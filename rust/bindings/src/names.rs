//! What Python gives for the names under which tensors are compared.

use std::sync::Arc;

use ckptdiff_engine::{Manifest, Names};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;

/// A byte for each tensor, 0 where it is kept, or a name for each, None where it is not.
#[derive(FromPyObject)]
pub(crate) enum NamesArgument {
    Choices(PyBackedBytes),
    Names(Vec<Option<String>>),
}

/// The names that an argument called `what` gives to the tensors of `manifest`.
pub(crate) fn names_of(
    argument: Option<NamesArgument>,
    manifest: &Manifest,
    what: &str,
) -> PyResult<Names> {
    let names = match argument {
        None => Names::Own,
        Some(NamesArgument::Choices(choices)) => {
            Names::Kept(choices.iter().map(|choice| *choice == 0).collect())
        }
        Some(NamesArgument::Names(names)) => Names::Given(Arc::from(names)),
    };
    match names.count() {
        Some(length) if length != manifest.len() => Err(PyValueError::new_err(format!(
            "{what} has {length} entries for {} tensors",
            manifest.len()
        ))),
        _ => Ok(names),
    }
}
