//! The Gram matrix of the updates of many checkpoints, in one pass over all of them.
//!
//! With `u_t = w_t - w_parent(t)`, and `u_t = w_t` where t has no parent, `G[i][j] = <u_i, u_j>`.
//! Updates are what is small and what is asked for, and they are formed element by element before
//! anything is multiplied: a distance between two checkpoints is then a sum of entries of G, and no
//! difference of large norms.
//!
//! N runs are N(N+1)/2 products an element, so this kernel is bound by arithmetic where the others
//! are bound by reading, and is the one that fuses multiplications with additions. It decodes a
//! *piece* of every run into rows of `f64` (which hold the difference of any two 16-bit floats
//! exactly), and multiplies rows by rows in tiles that stay in registers. Rows that are the parent's
//! byte for byte are zero, and left out. Of values with few bits, unless asked for `f64`, updates
//! and products are in `f32`, in a quarter of the cache and twice as many at once; what has no place
//! in its range, and what repeats, comes back to `f64`.
//!
//! As everywhere the sums tell whether a piece was harmless: a NaN or an infinity shows on the
//! diagonal, and so does what overflows or vanishes there. Then, and only then, the piece is done
//! again. What is not finite in one run is left out of all, so that G is of one set of elements;
//! rows whose squares `f64` does not hold are scaled by powers of two.

mod passes;

use std::sync::Arc;

use passes::{
    Factors, Load, LoadShort, PIECE, Products, Row, SHORT_PIECE, ShortRow, Subtract, SubtractShort,
};

use crate::decoder::Decoder;
use crate::dtype::{DType, Domain};
use crate::level::Level;
use crate::passes::Range;
use crate::runs::{Bf16Rows, F16Rows, F32Codes, F64Codes};
use crate::scaled::{Scaled, exponent_of, scale};

/// The products of the updates of a run of elements; merging partials of two runs gives that of
/// both.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GramPartial {
    /// Elements at which every checkpoint is finite.
    finite: u64,
    /// Of i ≤ j, row by row; none where nothing was added yet.
    sums: Vec<f64>,
    /// What came from pieces that had to be scaled; boxed, as there mostly are none.
    scaled: Option<Box<[Scaled]>>,
}

impl GramPartial {
    /// Add the partial of a later run.
    pub fn merge(&mut self, later: &Self) {
        self.finite += later.finite;
        if self.sums.is_empty() {
            self.sums.clone_from(&later.sums);
        } else {
            for (sum, later) in self.sums.iter_mut().zip(&later.sums) {
                *sum += later;
            }
        }
        if let Some(later) = &later.scaled {
            let scaled = self.scaled.get_or_insert_with(|| no_sums(later.len()));
            for (sum, later) in scaled.iter_mut().zip(later) {
                sum.merge(*later);
            }
        }
    }

    /// Elements at which every checkpoint is finite: those the products are of. A complex number is
    /// one, and finite where both of its parts are.
    pub const fn finite(&self) -> u64 {
        self.finite
    }

    /// The matrix of `count` checkpoints, row by row: each entry the nearest `f64` of its sum, which
    /// is infinite, or zero, where that is too large or too small.
    pub fn matrix(&self, count: usize) -> Vec<f64> {
        let mut matrix = vec![0.0; count * count];
        let mut pair = 0;
        for i in 0..count {
            for j in i..count {
                let mut sum = Scaled::from(self.sums.get(pair).copied().unwrap_or(0.0));
                if let Some(scaled) = &self.scaled {
                    sum.merge(scaled[pair]);
                }
                matrix[i * count + j] = sum.to_f64();
                matrix[j * count + i] = sum.to_f64();
                pair += 1;
            }
        }
        matrix
    }
}

fn no_sums(pairs: usize) -> Box<[Scaled]> {
    vec![Scaled::default(); pairs].into_boxed_slice()
}

/// In what updates are multiplied, of checkpoints whose values have 11 significant bits at most.
/// Others always are in `f64`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// In `f32`, in short sums that are folded into `f64`: within 1e-7 of the product of the two
    /// norms, and about 1e-9 of it. Twice as fast.
    #[default]
    Single,
    /// In `f64`: within 1e-12, as a difference of sums needs in which hardly anything is left.
    Double,
}

/// Multiplies updates. Holds a row for each checkpoint, so make one per thread.
pub struct GramKernel {
    level: Level,
    /// Each below the index of its child; none at a root.
    parents: Arc<[Option<usize>]>,
    decoder: Decoder,
    precision: Precision,
    /// Updates of the checkpoints that `active` names.
    rows: Vec<Row>,
    active: Vec<usize>,
    /// A row where updates are formed of runs that are not common.
    parent: Box<Row>,
    /// The same in `f32`.
    short_rows: Vec<ShortRow>,
    short_parent: Box<ShortRow>,
    /// Row by row of the active ones.
    products: Vec<f64>,
}

impl GramKernel {
    /// A kernel for as many checkpoints as there are parents.
    ///
    /// # Panics
    ///
    /// Where a parent does not come before its child.
    pub fn new(level: Level, parents: Arc<[Option<usize>]>, precision: Precision) -> Self {
        let count = parents.len();
        let before = |(child, parent): (usize, &Option<usize>)| parent.is_none_or(|p| p < child);
        assert!(parents.iter().enumerate().all(before), "parents come first");
        Self {
            level,
            parents,
            decoder: Decoder::new(level),
            precision,
            rows: vec![Row::ZERO; count],
            active: Vec::with_capacity(count),
            parent: Box::new(Row::ZERO),
            short_rows: vec![ShortRow::ZERO; count],
            short_parent: Box::new(ShortRow::ZERO),
            products: vec![0.0; count * count],
        }
    }

    /// Fold `elements` elements of each checkpoint, given as raw bytes, into `partial`.
    ///
    /// Runs should be cut at multiples of [`BLOCK`](crate::BLOCK).
    ///
    /// # Panics
    ///
    /// Where there are not as many runs as parents, or one has fewer bytes than the elements need.
    pub fn accumulate(
        &mut self,
        runs: &[(DType, &[u8])],
        elements: usize,
        partial: &mut GramPartial,
    ) {
        let count = self.parents.len();
        assert_eq!(runs.len(), count, "a run for each checkpoint");
        partial.sums.resize(count * (count + 1) / 2, 0.0);
        let components = runs.iter().map(|(dtype, _)| dtype.components()).max();
        let whole = Piece {
            runs,
            start: 0,
            elements,
            components: components.unwrap_or(1),
        };
        let step = PIECE / whole.components;
        let mut start = 0;
        while start < elements {
            let short = whole.part(start, SHORT_PIECE);
            if self.is_short(short) && self.reduce_short(short, partial) {
                start += SHORT_PIECE;
                continue;
            }
            let end = start + short.elements;
            for start in (start..end).step_by(step) {
                self.reduce(whole.part(start, step), partial);
            }
            start = end;
        }
    }

    /// Whether updates may be multiplied in `f32`. Not of a piece that is not whole: in few
    /// products roundings do not average out.
    fn is_short(&self, piece: Piece<'_>) -> bool {
        self.precision == Precision::Single
            && piece.elements == SHORT_PIECE
            && piece
                .runs
                .iter()
                .all(|(dtype, _)| dtype.domain() == Domain::Narrow)
    }

    /// Add products in `f32`, unless they are not good.
    fn reduce_short(&mut self, piece: Piece<'_>, partial: &mut GramPartial) -> bool {
        self.active.clear();
        for child in 0..self.parents.len() {
            if !self.is_parent(piece, child) {
                self.update_short(piece, child);
                self.active.push(child);
            }
        }
        let count = self.active.len();
        let repeating = self.level.run(Products {
            rows: &self.short_rows[..count],
            length: ShortRow::LENGTH,
            out: &mut self.products[..count * count],
        });
        let rows = &self.short_rows[..count];
        let harmless = rows.iter().enumerate().all(|(index, row)| {
            let squares = self.products[index * count + index];
            Range::NARROW.has(squares)
                || (squares == 0.0 && row.values.iter().all(|value| *value == 0.0))
        });
        let good = harmless && !repeating;
        if good {
            partial.finite += piece.elements as u64;
            self.fold(partial);
        }
        good
    }

    /// Form the update of a checkpoint in the next free row, in `f32`.
    fn update_short(&mut self, piece: Piece<'_>, child: usize) {
        let out = &mut self.short_rows[self.active.len()].values;
        let dtype = piece.runs[child].0;
        let codes = piece.raw(child);
        let parent = self.parents[child];
        let common = parent.is_none_or(|parent| piece.runs[parent].0 == dtype);
        macro_rules! of_codes {
            ($run:ident) => {{
                let run = $run::new(codes);
                match parent {
                    None => self.level.run(LoadShort { run, out }),
                    Some(parent) => self.level.run(SubtractShort {
                        child: run,
                        parent: $run::new(piece.raw(parent)),
                        out,
                    }),
                }
            }};
        }
        match dtype {
            DType::BF16 if common => of_codes!(Bf16Rows),
            DType::F16 if common => of_codes!(F16Rows),
            _ => {
                let decoder = &mut self.decoder;
                decoder.decode_narrow(dtype, codes, piece.elements, out);
                if let Some(parent) = parent {
                    let values = &mut self.short_parent.values;
                    let dtype = piece.runs[parent].0;
                    decoder.decode_narrow(dtype, piece.raw(parent), piece.elements, values);
                    for (value, parent) in out.iter_mut().zip(values) {
                        *value -= *parent;
                    }
                }
            }
        }
    }

    fn reduce(&mut self, piece: Piece<'_>, partial: &mut GramPartial) {
        self.active.clear();
        for child in 0..self.parents.len() {
            if !self.is_parent(piece, child) {
                self.update(piece, child);
                self.active.push(child);
            }
        }
        self.multiply(piece);
        if self.are_harmless(piece) {
            partial.finite += piece.elements as u64;
            self.fold(partial);
        } else {
            self.reduce_with_care(piece, partial);
        }
    }

    /// Whether a checkpoint's bytes are its parent's: the update is zero, or its parent shows what
    /// is not finite.
    fn is_parent(&self, piece: Piece<'_>, child: usize) -> bool {
        self.parents[child].is_some_and(|parent| {
            piece.runs[parent].0 == piece.runs[child].0 && piece.raw(parent) == piece.raw(child)
        })
    }

    /// Form the update of a checkpoint in the next free row.
    fn update(&mut self, piece: Piece<'_>, child: usize) {
        let (floats, padded) = (piece.floats(), piece.padded());
        let out = &mut self.rows[self.active.len()].values[..padded];
        let dtype = piece.runs[child].0;
        let codes = piece.raw(child);
        let parent = self.parents[child];
        let common = parent.is_none_or(|parent| piece.runs[parent].0 == dtype)
            && floats == padded
            && dtype.components() == piece.components;
        macro_rules! of_codes {
            ($run:ident) => {{
                let run = $run::new(codes);
                match parent {
                    None => self.level.run(Load { run, out }),
                    Some(parent) => self.level.run(Subtract {
                        child: run,
                        parent: $run::new(piece.raw(parent)),
                        out,
                    }),
                }
            }};
        }
        match dtype {
            DType::BF16 if common => of_codes!(Bf16Rows),
            DType::F16 if common => of_codes!(F16Rows),
            DType::F32 | DType::C64 if common => of_codes!(F32Codes),
            DType::F64 | DType::C128 if common => of_codes!(F64Codes),
            _ => {
                piece.decode(&mut self.decoder, child, out);
                if let Some(parent) = parent {
                    let parent_values = &mut self.parent.values[..padded];
                    piece.decode(&mut self.decoder, parent, parent_values);
                    subtract(out, parent_values);
                }
            }
        }
    }

    fn multiply(&mut self, piece: Piece<'_>) {
        let count = self.active.len();
        self.level.run(Products {
            rows: &self.rows[..count],
            length: piece.padded() / 4,
            out: &mut self.products[..count * count],
        });
    }

    /// Whether every value of the active rows was finite, and no product lost anything.
    fn are_harmless(&self, piece: Piece<'_>) -> bool {
        let count = self.active.len();
        self.rows[..count].iter().enumerate().all(|(index, row)| {
            let squares = self.products[index * count + index];
            let values = &row.values[..piece.padded()];
            Range::WIDE.has(squares) || (squares == 0.0 && values.iter().all(|value| *value == 0.0))
        })
    }

    /// Add the products of the active rows.
    fn fold(&self, partial: &mut GramPartial) {
        self.each_product(|pair, _, product| partial.sums[pair] += product);
    }

    /// `add(pair, (i, j), product)` for each i ≤ j of the active rows; `pair` counts those of all.
    fn each_product(&self, mut add: impl FnMut(usize, (usize, usize), f64)) {
        let (count, active) = (self.parents.len(), self.active.len());
        for (i, first) in self.active.iter().enumerate() {
            // Those of earlier rows, and of this one before the diagonal, which are not there.
            let start = first * (2 * count - first - 1) / 2;
            for (j, second) in self.active.iter().enumerate().skip(i) {
                add(start + second, (i, j), self.products[i * active + j]);
            }
        }
    }

    /// A piece with values that are not finite, or whose squares `f64` does not hold.
    fn reduce_with_care(&mut self, piece: Piece<'_>, partial: &mut GramPartial) {
        let count = self.parents.len();
        let (floats, components) = (piece.floats(), piece.components);
        let mut values = vec![vec![0.0; piece.padded()]; count];
        let mut finite = vec![true; piece.elements];
        for (run, values) in values.iter_mut().enumerate() {
            piece.decode(&mut self.decoder, run, values);
            for (float, value) in values[..floats].iter().enumerate() {
                finite[float / components] &= value.is_finite();
            }
        }
        partial.finite += finite.iter().filter(|finite| **finite).count() as u64;
        // A zero in every checkpoint adds nothing to any product.
        for values in &mut values {
            for (float, value) in values[..floats].iter_mut().enumerate() {
                if !finite[float / components] {
                    *value = 0.0;
                }
            }
        }
        self.active.clear();
        let mut exponents = vec![0; count];
        for child in 0..count {
            let row = &mut self.rows[child].values[..piece.padded()];
            row.copy_from_slice(&values[child]);
            if let Some(parent) = self.parents[child] {
                subtract(row, &values[parent]);
                if row.iter().any(|value| value.is_infinite()) {
                    // Halves are exact next to numbers that large.
                    let halves = |x: &f64| x * 0.5;
                    let parent: Vec<f64> = values[parent].iter().map(halves).collect();
                    row.copy_from_slice(&values[child]);
                    row.iter_mut().for_each(|value| *value *= 0.5);
                    subtract(row, &parent);
                    exponents[child] = 1;
                }
            }
            self.active.push(child);
        }
        self.multiply(piece);
        if exponents.iter().all(|exponent| *exponent == 0) && self.are_harmless(piece) {
            self.fold(partial);
            return;
        }
        for (child, exponent) in exponents.iter_mut().enumerate() {
            let row = &mut self.rows[child].values[..piece.padded()];
            let largest = row
                .iter()
                .fold(0.0, |largest, value| value.abs().max(largest));
            let shift = exponent_of(largest);
            row.iter_mut()
                .for_each(|value| *value = scale(*value, -shift));
            *exponent += shift;
        }
        self.multiply(piece);
        let scaled = partial
            .scaled
            .get_or_insert_with(|| no_sums(partial.sums.len()));
        self.each_product(|pair, (i, j), product| {
            scaled[pair].merge(Scaled::new(product, exponents[i] + exponents[j]));
        });
    }
}

/// Some of the elements of every run.
#[derive(Clone, Copy)]
struct Piece<'a> {
    runs: &'a [(DType, &'a [u8])],
    start: usize,
    elements: usize,
    components: usize,
}

impl<'a> Piece<'a> {
    /// At most so many of its elements.
    fn part(self, start: usize, elements: usize) -> Self {
        Self {
            start: self.start + start,
            elements: elements.min(self.elements - start),
            ..self
        }
    }

    const fn floats(self) -> usize {
        self.elements * self.components
    }

    /// Floats of whole rows of eight.
    const fn padded(self) -> usize {
        self.floats().next_multiple_of(8)
    }

    fn raw(self, run: usize) -> &'a [u8] {
        let (dtype, bytes) = self.runs[run];
        &bytes[dtype.byte_range(self.start, self.elements)]
    }

    /// The values of a run, and zeros up to the end of `out`.
    fn decode(self, decoder: &mut Decoder, run: usize, out: &mut [f64]) {
        let floats = self.floats();
        let dtype = self.runs[run].0;
        decoder.decode(
            dtype,
            self.raw(run),
            self.elements,
            self.components,
            &mut out[..floats],
        );
        out[floats..].fill(0.0);
    }
}

fn subtract(values: &mut [f64], others: &[f64]) {
    for (value, other) in values.iter_mut().zip(others) {
        *value -= other;
    }
}
