//! `Pairing`: which tensor is held against which.

use std::sync::Arc;

use ckptdiff_engine as engine;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::manifest::Manifest;
use crate::names::{NamesArgument, names_of};

#[pyclass(frozen, module = "ckptdiff._core")]
pub(crate) struct Pairing {
    pub(crate) a: Arc<engine::Manifest>,
    pub(crate) b: Arc<engine::Manifest>,
    pub(crate) names_b: engine::Names,
    pub(crate) inner: Arc<engine::Pairing>,
}

#[pymethods]
impl Pairing {
    #[new]
    #[pyo3(signature = (a, b, names_a = None, names_b = None))]
    fn new(
        a: &Manifest,
        b: &Manifest,
        names_a: Option<NamesArgument>,
        names_b: Option<NamesArgument>,
    ) -> PyResult<Self> {
        let names_a = names_of(names_a, &a.inner, "names_a")?;
        let names_b = names_of(names_b, &b.inner, "names_b")?;
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
    fn unsupported(&self) -> Vec<(u32, u32)> {
        self.inner.unsupported.clone()
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
    fn bytes_a(&self) -> u64 {
        let pairs = self.inner.pairs.iter();
        pairs.map(|(a, _)| self.a.tensor(*a as usize).bytes()).sum()
    }

    #[getter]
    fn bytes_b(&self) -> u64 {
        let pairs = self.inner.pairs.iter();
        pairs.map(|(_, b)| self.b.tensor(*b as usize).bytes()).sum()
    }
    #[getter]
    pub(crate) fn bytes_read(&self) -> u64 {
        engine::bytes_to_diff(&self.a, &self.b, &self.inner.pairs)
    }
}
