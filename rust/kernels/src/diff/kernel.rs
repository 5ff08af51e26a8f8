//! Cuts runs of bytes into blocks, each reduced on its own.

use std::sync::Arc;

use super::block::Block;
use super::codes::Codes;
use super::nonfinite::Zeroed;
use super::{DiffOptions, DiffPartial};
use crate::BLOCK;
use crate::decode::Aligned;
use crate::dtype::DType;
use crate::exponents::Distances;
use crate::level::Level;

/// Reduces pairs of runs of bytes. Holds scratch blocks, so make one per thread.
pub struct DiffKernel {
    level: Level,
    options: Arc<DiffOptions>,
    scratch: Box<Scratch>,
}

struct Scratch {
    a: Side,
    b: Side,
    difference: Aligned<f64>,
    distances: Distances,
    zeroed: Zeroed,
}

/// One side of a block.
struct Side {
    narrow: Aligned<f32>,
    wide: Aligned<f64>,
    /// Codes that are not those of the file: cast or unpacked ones.
    codes: [u8; BLOCK * 8],
    unpacked: [u8; BLOCK],
}

impl Side {
    const fn new() -> Self {
        Self {
            narrow: Aligned([0.0; BLOCK]),
            wide: Aligned([0.0; BLOCK]),
            codes: [0; BLOCK * 8],
            unpacked: [0; BLOCK],
        }
    }
}

impl DiffKernel {
    /// A kernel for `options`, compiled for `level`.
    pub fn new(level: Level, options: Arc<DiffOptions>) -> Self {
        Self {
            level,
            options,
            scratch: Box::new(Scratch {
                a: Side::new(),
                b: Side::new(),
                difference: Aligned([0.0; BLOCK]),
                distances: [[0; 32]; BLOCK / 32],
                zeroed: Zeroed::new(),
            }),
        }
    }

    /// Fold `elements` elements of A and of B, given as raw bytes, into `partial`.
    ///
    /// `first` is the flat index of the first element in its tensor. Results depend on where runs
    /// begin and end only through the blocks, so runs should be cut at multiples of [`BLOCK`].
    ///
    /// # Panics
    ///
    /// Where a side has fewer bytes than the elements need.
    pub fn accumulate(
        &mut self,
        (dtype_a, a): (DType, &[u8]),
        (dtype_b, b): (DType, &[u8]),
        elements: usize,
        first: u64,
        partial: &mut DiffPartial,
    ) {
        let components = dtype_a.components().max(dtype_b.components());
        let step = BLOCK / components;
        let options = Arc::clone(&self.options);
        if options.wants_each_difference() {
            let extras = partial.extras.get_or_insert_default();
            extras.above.resize(options.thresholds.len(), 0);
        }
        let mut start = 0;
        while start < elements {
            let count = step.min(elements - start);
            let raw_a = &a[dtype_a.byte_range(start, count)];
            let raw_b = &b[dtype_b.byte_range(start, count)];
            let Scratch {
                a: side_a,
                b: side_b,
                difference,
                distances,
                zeroed,
            } = &mut *self.scratch;
            let codes_a = Codes::prepare(
                self.level,
                dtype_a,
                raw_a,
                count,
                options.cast,
                &mut side_a.unpacked,
                &mut side_a.codes,
            );
            let codes_b = Codes::prepare(
                self.level,
                dtype_b,
                raw_b,
                count,
                options.cast,
                &mut side_b.unpacked,
                &mut side_b.codes,
            );
            let mut block = Block {
                level: self.level,
                options: &options,
                a: codes_a,
                b: codes_b,
                narrow_a: &mut side_a.narrow.0,
                narrow_b: &mut side_b.narrow.0,
                wide_a: &mut side_a.wide.0,
                wide_b: &mut side_b.wide.0,
                difference: &mut difference.0,
                distances,
                zeroed: Some(zeroed),
                elements: count,
                components: codes_a.dtype.components().max(codes_b.dtype.components()),
                exact_in_f64: false,
                first: (first + start as u64) * components as u64,
                partial,
            };
            block.reduce();
            start += count;
        }
    }
}
