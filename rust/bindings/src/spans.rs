//! `Manifest.from_spans`: what readers in Python have found.
//!
//! The sequences are walked and not copied: a checkpoint of 200,000 tensors is in memory once.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ckptdiff_engine::{Manifest, PlacedPart, Span, SpanManifest};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;

use crate::errors::exception;

/// (name, dtype, shape, spans), a span being (source, offset, length)
type Plain = (PyBackedStr, PyBackedStr, Vec<u64>, Vec<(u32, u64, u64)>);

/// (name, dtype, shape, source, byte offset, byte strides)
type Strided = (PyBackedStr, PyBackedStr, Vec<u64>, u32, u64, Vec<u64>);

/// (name, dtype, shape, parts), a part being (source, byte offset, origin, sizes, byte strides)
type Parted = (
    PyBackedStr,
    PyBackedStr,
    Vec<u64>,
    Vec<(u32, u64, Vec<u64>, Vec<u64>, Option<Vec<u64>>)>,
);

/// (source, byte offset, stored length, inflated length)
pub(crate) type Deflated = (u32, u64, u64, u64, u32);

/// (name, dtype, shape, source, byte offset, groups of rows)
type Interleaved = (PyBackedStr, PyBackedStr, Vec<u64>, u32, u64, u64);

/// A manifest of tensors of files.
pub(crate) fn manifest(
    sources: Vec<PathBuf>,
    tensors: &Bound<'_, PyAny>,
    metadata: Option<&Bound<'_, PyAny>>,
    strided: Option<&Bound<'_, PyAny>>,
    deflated: Option<Vec<Deflated>>,
    parted: Option<&Bound<'_, PyAny>>,
    interleaved: Option<&Bound<'_, PyAny>>,
) -> PyResult<Manifest> {
    let mut collected = SpanManifest::new(sources).map_err(exception)?;
    for (source, offset, stored_length, length, crc) in deflated.unwrap_or_default() {
        collected
            .add_deflated(source, offset, stored_length, (length, crc))
            .map_err(exception)?;
    }
    for tensor in tensors.try_iter()? {
        let (name, dtype, shape, spans) = tensor?.extract::<Plain>()?;
        let spans: Vec<Span> = spans
            .into_iter()
            .map(|(source, offset, length)| Span {
                source,
                offset,
                length,
            })
            .collect();
        collected
            .add(&name, &dtype, &shape, &spans)
            .map_err(exception)?;
    }
    if let Some(strided) = strided {
        for tensor in strided.try_iter()? {
            let (name, dtype, shape, source, offset, strides) = tensor?.extract::<Strided>()?;
            collected
                .add_strided(&name, &dtype, &shape, (source, offset), &strides)
                .map_err(exception)?;
        }
    }
    if let Some(parted) = parted {
        for tensor in parted.try_iter()? {
            let (name, dtype, shape, parts) = tensor?.extract::<Parted>()?;
            let parts: Vec<PlacedPart> = parts
                .into_iter()
                .map(|(source, offset, origin, sizes, strides)| PlacedPart {
                    source,
                    offset,
                    origin,
                    sizes,
                    strides,
                })
                .collect();
            collected
                .add_parts(&name, &dtype, &shape, &parts)
                .map_err(exception)?;
        }
    }
    if let Some(interleaved) = interleaved {
        for tensor in interleaved.try_iter()? {
            let (name, dtype, shape, source, offset, groups) = tensor?.extract::<Interleaved>()?;
            collected
                .add_interleaved(&name, &dtype, &shape, (source, offset), groups)
                .map_err(exception)?;
        }
    }
    // Only now: a reader may find it on its way through the tensors.
    let metadata = match metadata {
        None => BTreeMap::new(),
        Some(metadata) => metadata.extract()?,
    };
    collected.build(metadata).map_err(exception)
}
