//! Tensors that lie in this process's memory, read where they are.
//!
//! A contiguous tensor is lent to the kernels as it is. Any other is gathered piece by piece into
//! the reader's buffer, in row-major order, so that a transposed view costs no copy of its whole.

use std::io;
use std::path::Path;
use std::sync::Arc;

use ckptdiff_engine::{Manifest, ManifestBuilder, Reading, Source, Span};
use ckptdiff_kernels::DType;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// (name, dtype, shape, byte strides, address, which is None on a device that has its own memory)
pub(crate) type MemoryTensor = (String, String, Vec<u64>, Vec<i64>, Option<usize>);

/// One tensor's memory.
struct MemorySource {
    address: usize,
    shape: Vec<u64>,
    strides: Vec<i64>,
    element_bytes: usize,
    bytes: u64,
    contiguous: bool,
    /// Keeps the memory alive.
    _owner: Arc<Py<PyAny>>,
}

impl MemorySource {
    fn element(&self, mut index: u64) -> *const u8 {
        let mut offset = 0i64;
        for (size, stride) in self.shape.iter().zip(&self.strides).rev() {
            offset += (index % size) as i64 * stride;
            index /= size;
        }
        (self.address as *const u8).wrapping_offset(offset as isize)
    }
}

impl Source for MemorySource {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if offset + buffer.len() as u64 > self.bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(bytes) = self.borrow(offset, buffer.len()) {
            buffer.copy_from_slice(bytes);
            return Ok(());
        }
        // Elements of the last dimension lie at one distance from each other: walk along it.
        let width = self.element_bytes;
        let row = self.shape.last().copied().unwrap_or(1);
        let stride = self.strides.last().copied().unwrap_or(0) as isize;
        let mut index = offset / width as u64;
        let mut filled = 0;
        while filled < buffer.len() {
            let left_in_row = (row - index % row) as usize;
            let count = left_in_row.min((buffer.len() - filled) / width);
            let start = self.element(index);
            for step in 0..count {
                let from = start.wrapping_offset(stride * step as isize);
                let to = &mut buffer[filled..filled + width];
                // SAFETY: the index lies inside the shape, and whoever made this source vouched
                // that address, shape and strides describe readable memory of the owner, which
                // this source keeps alive.
                unsafe { std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), width) };
                filled += width;
            }
            index += count as u64;
        }
        Ok(())
    }

    fn borrow(&self, offset: u64, length: usize) -> Option<&[u8]> {
        if !self.contiguous || offset + length as u64 > self.bytes {
            return None;
        }
        if length == 0 {
            return Some(&[]);
        }
        let start = (self.address + offset as usize) as *const u8;
        // SAFETY: the range lies inside the tensor, which is contiguous, and the memory is the
        // owner's, which this source keeps alive; see `Manifest.from_memory` for the promise that
        // nobody writes to it.
        Some(unsafe { std::slice::from_raw_parts(start, length) })
    }

    fn reads_in_place(&self, _: Reading) -> bool {
        self.contiguous
    }

    fn path(&self) -> &Path {
        Path::new("")
    }
}

/// Stands for the bytes of a tensor that another backend has to read.
struct ElsewhereSource;

impl Source for ElsewhereSource {
    fn read_at(&self, _offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if buffer.is_empty() {
            return Ok(());
        }
        let message = "lies on a device or in other processes, where it cannot be read from here; \
                       move it first (tensor.cpu())";
        Err(io::Error::new(io::ErrorKind::InvalidData, message))
    }

    fn has_file_offsets(&self) -> bool {
        false
    }

    fn path(&self) -> &Path {
        Path::new("")
    }
}

/// Let `read` fill a buffer that is writable and contiguous, without the GIL.
pub(crate) fn fill<T: Send>(
    python: Python<'_>,
    buffer: &PyBuffer<u8>,
    read: impl Send + FnOnce(&mut [u8]) -> T,
) -> T {
    let length = buffer.len_bytes();
    if length == 0 {
        return read(&mut []);
    }
    // SAFETY: the exporter keeps the memory where it is while `buffer` lives, which has this
    // length and is writable; see `Manifest.read_into` for the promise that nobody else touches
    // it meanwhile.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.buf_ptr().cast::<u8>(), length) };
    python.detach(|| read(bytes))
}

/// A manifest of tensors in memory.
pub(crate) fn manifest(tensors: Vec<MemoryTensor>, owner: Py<PyAny>) -> PyResult<Manifest> {
    let owner = Arc::new(owner);
    let mut builder = ManifestBuilder::default();
    for (name, dtype, shape, strides, address) in tensors {
        let known = DType::from_name(&dtype)
            .map_err(|error| PyValueError::new_err(format!("tensor {name:?}: {error}")))?;
        let elements = shape.iter().try_fold(1u64, |product, size| {
            if product == 0 {
                Some(0)
            } else {
                product.checked_mul(*size)
            }
        });
        let bytes = elements.and_then(|elements| known.bytes(elements));
        let Some(bytes) = bytes.filter(|_| strides.len() == shape.len()) else {
            return Err(PyValueError::new_err(format!(
                "tensor {name:?}: shape {shape:?} and strides {strides:?} are not those of {dtype}"
            )));
        };
        let span = |source| Span {
            source,
            offset: 0,
            length: bytes,
        };
        let Some(address) = address else {
            let source = builder.add_source(Arc::new(ElsewhereSource));
            builder.add(&name, &dtype, &shape, [span(source)]);
            continue;
        };
        let contiguous = is_contiguous(&shape, &strides, known);
        if known.granule().elements > 1 && !contiguous {
            return Err(PyValueError::new_err(format!(
                "tensor {name:?}: packed {dtype} must be contiguous"
            )));
        }
        let source = builder.add_source(Arc::new(MemorySource {
            address,
            contiguous,
            element_bytes: (known.bits() / 8) as usize,
            bytes,
            shape: shape.clone(),
            strides,
            _owner: Arc::clone(&owner),
        }));
        builder.add(&name, &dtype, &shape, [span(source)]);
    }
    builder
        .build()
        .map_err(|name| PyValueError::new_err(format!("tensor {name:?} is there twice")))
}

/// Whether row-major order of the elements is their order in memory.
fn is_contiguous(shape: &[u64], strides: &[i64], dtype: DType) -> bool {
    if shape.contains(&0) || dtype.granule().elements > 1 {
        // A packed dtype's strides are counted in whole bytes and say nothing of the last axis.
        return true;
    }
    let mut expected = dtype.bits() / 8;
    for (size, stride) in shape.iter().zip(strides).rev() {
        if *size != 1 && i64::try_from(expected) != Ok(*stride) {
            return false;
        }
        expected *= size;
    }
    true
}
