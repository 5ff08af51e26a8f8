//! `Pairing`: which tensor is held against which.

use std::sync::Arc;

use ckptdiff_engine::{self as engine, Names};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::manifest::Manifest;

#[pyclass(frozen, module = "ckptdiff._core")]
pub(crate) struct Pairing {
    pub(crate) a: Arc<engine::Manifest>,
    pub(crate) b: Arc<engine::Manifest>,
    pub(crate) names_b: Names,
    pub(crate) inner: Arc<engine::Pairing>,
}

#[pymethods]
impl Pairing {
    #[new]
    #[pyo3(signature = (a, b, names_a = None, names_b = None))]
    fn new(
        a: &Manifest,
        b: &Manifest,
        names_a: Option<Vec<Option<String>>>,
        names_b: Option<Vec<Option<String>>>,
    ) -> PyResult<Self> {
        for (names, manifest, side) in [(&names_a, a, "a"), (&names_b, b, "b")] {
            if let Some(names) = names
                && names.len() != manifest.inner.len()
            {
                return Err(PyValueError::new_err(format!(
                    "names_{side} has {} names for {} tensors",
                    names.len(),
                    manifest.inner.len()
                )));
            }
        }
        let (names_a, names_b) = (names_a.map(Arc::from), names_b.map(Arc::from));
        let inner = engine::pair(&a.inner, &b.inner, &names_a, &names_b)
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(Self {
            a: Arc::clone(&a.inner),
            b: Arc::clone(&b.inner),
            names_b,
            inner: Arc::new(inner),
        })
    }

    fn __len__(&self) -> usize {
        self.inner.pairs.len()
    }

    #[getter]
    fn pairs(&self) -> Vec<(u32, u32)> {
        self.inner.pairs.clone()
    }

    #[getter]
    fn only_in_a(&self) -> Vec<u32> {
        self.inner.only_in_a.clone()
    }

    #[getter]
    fn only_in_b(&self) -> Vec<u32> {
        self.inner.only_in_b.clone()
    }

    #[getter]
    fn shape_mismatch(&self) -> Vec<(u32, u32)> {
        self.inner.shape_mismatch.clone()
    }

    #[getter]
    fn excluded_a(&self) -> Vec<u32> {
        self.inner.excluded_a.clone()
    }

    #[getter]
    fn excluded_b(&self) -> Vec<u32> {
        self.inner.excluded_b.clone()
    }

    #[getter]
    fn elements(&self) -> u128 {
        let pairs = self.inner.pairs.iter();
        pairs
            .map(|(a, _)| u128::from(self.a.tensor(*a as usize).elements()))
            .sum()
    }

    #[getter]
    pub(crate) fn bytes_a(&self) -> u64 {
        let pairs = self.inner.pairs.iter();
        pairs.map(|(a, _)| self.a.tensor(*a as usize).bytes()).sum()
    }

    #[getter]
    pub(crate) fn bytes_b(&self) -> u64 {
        let pairs = self.inner.pairs.iter();
        pairs.map(|(_, b)| self.b.tensor(*b as usize).bytes()).sum()
    }
}
