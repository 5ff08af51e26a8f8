//! `Manifest.derived`: tensors made of those of a manifest.

use ckptdiff_engine::{Derivation, DerivedFault, Manifest, Taken};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;

/// (index, first element, shape, axes)
type Part = (usize, u64, Vec<u64>, Option<Vec<usize>>);

/// A tensor as it is, under a name, or one of this shape put together of parts.
#[derive(FromPyObject)]
enum Item {
    Whole(PyBackedStr, usize),
    Parts(PyBackedStr, Vec<u64>, Vec<Part>),
}

/// A manifest of these tensors, made of those of another.
pub(crate) fn manifest(of: &Manifest, items: &Bound<'_, PyAny>) -> PyResult<Manifest> {
    let mut derivation = Derivation::new(of);
    for item in items.try_iter()? {
        match item?.extract::<Item>()? {
            Item::Whole(name, index) => derivation.add_whole(&name, index),
            Item::Parts(name, shape, parts) => {
                let parts: Vec<Taken> = parts
                    .into_iter()
                    .map(|(tensor, first, shape, axes)| Taken {
                        tensor,
                        first,
                        shape,
                        axes,
                    })
                    .collect();
                derivation.add_parts(&name, &shape, &parts)
            }
        }
        .map_err(refused)?;
    }
    derivation.build().map_err(refused)
}

fn refused(fault: DerivedFault) -> PyErr {
    PyValueError::new_err(fault.to_string())
}
