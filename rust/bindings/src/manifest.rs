//! `Manifest`: what a checkpoint holds.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use ckptdiff_engine as engine;
use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use crate::derived;
use crate::errors::exception;
use crate::memory::{self, MemoryTensor};
use crate::names::{NamesArgument, names_of};
use crate::spans;

#[pyclass(frozen, module = "ckptdiff._core")]
pub(crate) struct Manifest {
    pub(crate) inner: Arc<engine::Manifest>,
}

type Spans = Vec<(String, u64, u64)>;

/// (name, dtype, shape, elements, bytes, files)
type Listed<'py> = (
    Bound<'py, PyString>,
    Bound<'py, PyString>,
    Bound<'py, PyTuple>,
    u64,
    u64,
    Bound<'py, PyTuple>,
);

/// (dtype, tensors, elements, bytes)
type DTypeSum = (String, u64, u128, u128);

#[pymethods]
impl Manifest {
    #[staticmethod]
    fn from_safetensors(python: Python<'_>, path: PathBuf) -> PyResult<Self> {
        Self::read(python, || engine::read_safetensors(&path))
    }

    #[staticmethod]
    fn from_safetensors_index(python: Python<'_>, path: PathBuf) -> PyResult<Self> {
        Self::read(python, || engine::read_safetensors_index(&path))
    }

    #[staticmethod]
    #[pyo3(signature = (
        sources, tensors, metadata = None, strided = None, deflated = None, parted = None,
        interleaved = None
    ))]
    #[allow(clippy::too_many_arguments)] // Kinds of places that tensors lie at.
    fn from_spans(
        sources: Vec<PathBuf>,
        tensors: &Bound<'_, PyAny>,
        metadata: Option<&Bound<'_, PyAny>>,
        strided: Option<&Bound<'_, PyAny>>,
        deflated: Option<Vec<spans::Deflated>>,
        parted: Option<&Bound<'_, PyAny>>,
        interleaved: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let inner = spans::manifest(
            sources,
            tensors,
            metadata,
            strided,
            deflated,
            parted,
            interleaved,
        )?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    #[staticmethod]
    fn from_memory(tensors: Vec<MemoryTensor>, owner: Py<PyAny>) -> PyResult<Self> {
        Ok(Self {
            inner: Arc::new(memory::manifest(tensors, owner)?),
        })
    }

    fn derived(&self, items: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(Self {
            inner: Arc::new(derived::manifest(&self.inner, items)?),
        })
    }

    #[staticmethod]
    fn joined(parts: Vec<(PyRef<'_, Self>, String)>) -> PyResult<Self> {
        let parts: Vec<_> = parts
            .iter()
            .map(|(part, prefix)| (&*part.inner, prefix.as_str()))
            .collect();
        let inner = engine::Manifest::joined(&parts).map_err(|name| {
            PyValueError::new_err(format!("two tensors would be named {name:?}"))
        })?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    #[pyo3(signature = (names = None))]
    fn bytes_read(&self, names: Option<NamesArgument>) -> PyResult<u64> {
        let names = names_of(names, &self.inner, "names")?;
        let tensors: Vec<u32> = (0..self.inner.len() as u32)
            .filter(|index| names.keeps(*index as usize))
            .collect();
        Ok(engine::bytes_to_describe(&self.inner, &tensors))
    }

    #[getter]
    fn elements(&self) -> u128 {
        self.inner
            .tensors()
            .map(|tensor| u128::from(tensor.elements()))
            .sum()
    }

    #[getter]
    fn bytes(&self) -> u64 {
        self.inner.tensors().map(|tensor| tensor.bytes()).sum()
    }

    #[getter]
    fn files(&self) -> Vec<String> {
        let sources = self.inner.sources().iter();
        sources
            .filter(|source| source.has_file_offsets())
            .map(|source| source.path().to_string_lossy().into_owned())
            .filter(|path| !path.is_empty())
            .collect()
    }

    #[getter]
    fn metadata(&self) -> BTreeMap<String, String> {
        self.inner.metadata().clone()
    }

    fn __len__(&self) -> usize {
        self.inner.len()
    }

    fn names(&self) -> Vec<&str> {
        self.inner.tensors().map(|tensor| tensor.name).collect()
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.inner.find(name)
    }

    fn tensors<'py>(&self, python: Python<'py>, indices: Vec<usize>) -> PyResult<Vec<Listed<'py>>> {
        let mut rows = Vec::with_capacity(indices.len());
        for index in indices {
            let tensor = self.at(index)?;
            let mut files: Vec<Cow<'_, str>> = Vec::new();
            for span in tensor.spans {
                let path = self.inner.sources()[span.source as usize].path();
                let path = path.to_string_lossy();
                if !path.is_empty() && !files.contains(&path) {
                    files.push(path);
                }
            }
            rows.push((
                PyString::new(python, tensor.name),
                PyString::intern(python, tensor.dtype.name()),
                PyTuple::new(python, tensor.shape)?,
                tensor.elements(),
                tensor.bytes(),
                PyTuple::new(python, files)?,
            ));
        }
        Ok(rows)
    }

    fn unsupported(&self) -> Vec<usize> {
        self.inner.unsupported().collect()
    }

    #[pyo3(signature = (indices = None))]
    fn sums(&self, indices: Option<Vec<usize>>) -> PyResult<Vec<DTypeSum>> {
        if let Some(indices) = &indices {
            for index in indices {
                self.at(*index)?;
            }
        }
        let sums = match indices {
            None => self.inner.sums(0..self.inner.len()),
            Some(indices) => self.inner.sums(indices),
        };
        Ok(sums
            .into_iter()
            .map(|(dtype, sum)| (dtype.to_owned(), sum.tensors, sum.elements, sum.bytes))
            .collect())
    }

    fn tensor<'py>(
        &self,
        python: Python<'py>,
        index: usize,
    ) -> PyResult<(String, String, Bound<'py, PyTuple>, u64, Spans)> {
        let tensor = self.at(index)?;
        let spans = tensor
            .spans
            .iter()
            .filter(|span| self.inner.sources()[span.source as usize].has_file_offsets())
            .map(|span| {
                let source = &self.inner.sources()[span.source as usize];
                let path = source.path().to_string_lossy().into_owned();
                (path, span.offset, span.length)
            })
            .collect();
        Ok((
            tensor.name.to_owned(),
            tensor.dtype.name().to_owned(),
            PyTuple::new(python, tensor.shape)?,
            tensor.bytes(),
            spans,
        ))
    }
}

impl Manifest {
    fn at(&self, index: usize) -> PyResult<engine::TensorView<'_>> {
        if index < self.inner.len() {
            Ok(self.inner.tensor(index))
        } else {
            Err(PyIndexError::new_err("no tensor of that index"))
        }
    }

    fn read(
        python: Python<'_>,
        read: impl Send + FnOnce() -> Result<engine::Manifest, engine::Error>,
    ) -> PyResult<Self> {
        let inner = python.detach(read).map_err(exception)?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }
}
