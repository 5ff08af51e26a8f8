//! Updates of a piece, and the products of all pairs of them: in `f64`, or in `f32` that is folded
//! into `f64`.
//!
//! A sum in `f32` is of [`SHORT`] products a lane, each added with one rounding. The roundings of
//! ordinary data average out. Those of data that repeat are the same every time, and do not: such
//! data show on the diagonal, where a sum is the same as the one before or as the first of its piece,
//! which it is with every period up to eight.

use crate::level::Pass;
use crate::passes::sum_lanes;
use crate::runs::{SingleRun, WideRun};
use crate::simd::Simd;

/// Floats of a piece: rows of it stay in the second-level cache, and a fold of lanes costs little.
/// A granule of every dtype fits, also beside a complex number.
pub(super) const PIECE: usize = 512;

/// Floats of a piece in `f32`: as many bytes.
pub(super) const SHORT_PIECE: usize = 2 * PIECE;

/// Vectors of eight whose products are summed in `f32`.
const SHORT: usize = 16;

/// Such sums of a piece.
const SHORTS: usize = SHORT_PIECE / (8 * SHORT);

/// What one checkpoint has of a piece. A line longer than the piece, so that rows which are read
/// side by side do not compete for the same sets of the cache.
#[repr(C, align(64))]
#[derive(Clone)]
pub(super) struct Row {
    pub(super) values: [f64; PIECE],
    gap: [f64; 8],
}

impl Row {
    pub(super) const ZERO: Self = Self {
        values: [0.0; PIECE],
        gap: [0.0; 8],
    };

    #[inline(always)]
    fn vectors(&self) -> &[[f64; 4]] {
        self.values.as_chunks().0
    }
}

/// The same in `f32`.
#[repr(C, align(64))]
#[derive(Clone)]
pub(super) struct ShortRow {
    pub(super) values: [f32; SHORT_PIECE],
    gap: [f32; 16],
}

impl ShortRow {
    pub(super) const ZERO: Self = Self {
        values: [0.0; SHORT_PIECE],
        gap: [0.0; 16],
    };

    /// Vectors whose products are summed together.
    #[inline(always)]
    fn shorts(&self) -> &[[[f32; 8]; SHORT]] {
        self.values.as_chunks().0.as_chunks().0
    }
}

/// `child - parent`, of whole rows of eight.
pub(super) struct Subtract<'a, A, B> {
    pub(super) child: A,
    pub(super) parent: B,
    pub(super) out: &'a mut [f64],
}

impl<A: WideRun, B: WideRun> Pass for Subtract<'_, A, B> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { child, parent, out } = self;
        let out = out.as_chunks_mut::<8>().0;
        for (row, out) in out.iter_mut().enumerate() {
            let (child, parent) = (child.load(simd, row), parent.load(simd, row));
            let halves = out.as_chunks_mut().0;
            halves[0] = simd.array_f64(simd.sub_f64(child[0], parent[0]));
            halves[1] = simd.array_f64(simd.sub_f64(child[1], parent[1]));
        }
    }
}

/// The same in `f32`: exact but for values so far apart that `f32` does not hold the difference.
pub(super) struct SubtractShort<'a, A, B> {
    pub(super) child: A,
    pub(super) parent: B,
    pub(super) out: &'a mut [f32],
}

impl<A: SingleRun, B: SingleRun> Pass for SubtractShort<'_, A, B> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { child, parent, out } = self;
        let out = out.as_chunks_mut::<8>().0;
        for (row, out) in out.iter_mut().enumerate() {
            let (child, parent) = (child.load_single(simd, row), parent.load_single(simd, row));
            *out = simd.array_f32(simd.sub_f32(child, parent));
        }
    }
}

/// Values as they are, of whole rows of eight.
pub(super) struct Load<'a, A> {
    pub(super) run: A,
    pub(super) out: &'a mut [f64],
}

impl<A: WideRun> Pass for Load<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let out = self.out.as_chunks_mut::<8>().0;
        for (row, out) in out.iter_mut().enumerate() {
            let values = self.run.load(simd, row);
            let halves = out.as_chunks_mut().0;
            halves[0] = simd.array_f64(values[0]);
            halves[1] = simd.array_f64(values[1]);
        }
    }
}

/// Values as they are in `f32`.
pub(super) struct LoadShort<'a, A> {
    pub(super) run: A,
    pub(super) out: &'a mut [f32],
}

impl<A: SingleRun> Pass for LoadShort<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let out = self.out.as_chunks_mut::<8>().0;
        for (row, out) in out.iter_mut().enumerate() {
            *out = simd.array_f32(self.run.load_single(simd, row));
        }
    }
}

/// Rows whose products are summed.
pub(super) trait Factors: Sized {
    /// How many vectors there are, or sums of some.
    const LENGTH: usize;

    /// The lanes of the products of four rows by a few.
    fn rectangle<S: Simd, const WIDTH: usize>(
        simd: S,
        left: [&Self; 4],
        right: [&Self; WIDTH],
        length: usize,
    ) -> [[S::F64; WIDTH]; 4];

    /// Those of rows among each other, of which only i ≤ j are summed; and whether the products of
    /// a row with itself repeat, where that makes a sum less exact.
    fn diagonal<S: Simd, const SIZE: usize>(
        simd: S,
        rows: [&Self; SIZE],
        length: usize,
    ) -> ([[S::F64; SIZE]; SIZE], bool);
}

/// `out[i · rows + j] = Σ rows[i] · rows[j]` for i ≤ j, over the first `length` of what rows consist
/// of; tells whether some row repeats.
///
/// In tiles of four rows by three, whose twelve sums hide the latency of the multiply-add and leave
/// registers for what is loaded: seven loads for twelve of them. Of the four by four on the
/// diagonal only the upper ten are summed.
pub(super) struct Products<'a, R> {
    pub(super) rows: &'a [R],
    pub(super) length: usize,
    pub(super) out: &'a mut [f64],
}

impl<R: Factors> Pass for Products<'_, R> {
    type Output = bool;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> bool {
        let count = self.rows.len();
        let (length, rows, out) = (self.length.min(R::LENGTH), self.rows, self.out);
        let mut repeating = false;
        // Spelled out, as closures are not inlined into code for other instructions.
        macro_rules! diagonal {
            ($first:ident, $size:literal) => {{
                let mut tile = [&rows[$first]; $size];
                for index in 0..$size {
                    tile[index] = &rows[$first + index];
                }
                let (sums, repeats) = R::diagonal::<S, $size>(simd, tile, length);
                repeating |= repeats;
                for i in 0..$size {
                    for j in i..$size {
                        out[($first + i) * count + $first + j] = sum_lanes(simd, sums[i][j]);
                    }
                }
            }};
        }
        macro_rules! rectangle {
            ($first:ident, $left:ident, $column:ident, $width:literal) => {{
                let mut right = [&rows[$column]; $width];
                for index in 0..$width {
                    right[index] = &rows[$column + index];
                }
                let sums = R::rectangle::<S, $width>(simd, $left, right, length);
                for i in 0..4 {
                    for j in 0..$width {
                        out[($first + i) * count + $column + j] = sum_lanes(simd, sums[i][j]);
                    }
                }
                $column += $width;
            }};
        }
        let mut first = 0;
        while first < count {
            match count - first {
                1 => diagonal!(first, 1),
                2 => diagonal!(first, 2),
                3 => diagonal!(first, 3),
                _ => {
                    diagonal!(first, 4);
                    let left = [
                        &rows[first],
                        &rows[first + 1],
                        &rows[first + 2],
                        &rows[first + 3],
                    ];
                    let mut column = first + 4;
                    while column < count {
                        match count - column {
                            1 => rectangle!(first, left, column, 1),
                            // Twice two are faster than three and one.
                            2 | 4 => rectangle!(first, left, column, 2),
                            _ => rectangle!(first, left, column, 3),
                        }
                    }
                }
            }
            first += 4;
        }
        repeating
    }
}

impl Factors for Row {
    const LENGTH: usize = PIECE / 4;

    #[inline(always)]
    fn rectangle<S: Simd, const WIDTH: usize>(
        simd: S,
        left: [&Self; 4],
        right: [&Self; WIDTH],
        vectors: usize,
    ) -> [[S::F64; WIDTH]; 4] {
        let (left, right) = (left.map(Row::vectors), right.map(Row::vectors));
        let zero = simd.splat_f64(0.0);
        let mut sums = [[zero; WIDTH]; 4];
        for vector in 0..vectors {
            let mut columns = [zero; WIDTH];
            for column in 0..WIDTH {
                columns[column] = simd.load_f64(&right[column][vector]);
            }
            for row in 0..4 {
                let x = simd.load_f64(&left[row][vector]);
                for column in 0..WIDTH {
                    sums[row][column] = simd.fma_f64(x, columns[column], sums[row][column]);
                }
            }
        }
        sums
    }

    #[inline(always)]
    fn diagonal<S: Simd, const SIZE: usize>(
        simd: S,
        rows: [&Self; SIZE],
        vectors: usize,
    ) -> ([[S::F64; SIZE]; SIZE], bool) {
        let rows = rows.map(Row::vectors);
        let zero = simd.splat_f64(0.0);
        let mut sums = [[zero; SIZE]; SIZE];
        for vector in 0..vectors {
            let mut values = [zero; SIZE];
            for (value, row) in values.iter_mut().zip(rows) {
                *value = simd.load_f64(&row[vector]);
            }
            for i in 0..SIZE {
                for j in i..SIZE {
                    sums[i][j] = simd.fma_f64(values[i], values[j], sums[i][j]);
                }
            }
        }
        (sums, false)
    }
}

impl Factors for ShortRow {
    const LENGTH: usize = SHORTS;

    #[inline(always)]
    fn rectangle<S: Simd, const WIDTH: usize>(
        simd: S,
        left: [&Self; 4],
        right: [&Self; WIDTH],
        length: usize,
    ) -> [[S::F64; WIDTH]; 4] {
        let (left, right) = (left.map(ShortRow::shorts), right.map(ShortRow::shorts));
        let zero = simd.splat_f32(0.0);
        let mut totals = [[simd.splat_f64(0.0); WIDTH]; 4];
        for short in 0..length {
            let mut sums = [[zero; WIDTH]; 4];
            for vector in 0..SHORT {
                let mut columns = [zero; WIDTH];
                for column in 0..WIDTH {
                    columns[column] = simd.load_f32(&right[column][short][vector]);
                }
                for row in 0..4 {
                    let x = simd.load_f32(&left[row][short][vector]);
                    for column in 0..WIDTH {
                        sums[row][column] = simd.fma_f32(x, columns[column], sums[row][column]);
                    }
                }
            }
            for row in 0..4 {
                for column in 0..WIDTH {
                    totals[row][column] = add_short(simd, totals[row][column], sums[row][column]);
                }
            }
        }
        totals
    }

    #[inline(always)]
    fn diagonal<S: Simd, const SIZE: usize>(
        simd: S,
        rows: [&Self; SIZE],
        length: usize,
    ) -> ([[S::F64; SIZE]; SIZE], bool) {
        let rows = rows.map(ShortRow::shorts);
        let zero = simd.splat_f32(0.0);
        let mut totals = [[simd.splat_f64(0.0); SIZE]; SIZE];
        let (mut first, mut last) = ([zero; SIZE], [zero; SIZE]);
        let mut repeating = false;
        for short in 0..length {
            let mut sums = [[zero; SIZE]; SIZE];
            for vector in 0..SHORT {
                let mut values = [zero; SIZE];
                for (value, row) in values.iter_mut().zip(rows) {
                    *value = simd.load_f32(&row[short][vector]);
                }
                for i in 0..SIZE {
                    for j in i..SIZE {
                        sums[i][j] = simd.fma_f32(values[i], values[j], sums[i][j]);
                    }
                }
            }
            for i in 0..SIZE {
                for j in i..SIZE {
                    totals[i][j] = add_short(simd, totals[i][j], sums[i][j]);
                }
                let squares = sums[i][i];
                let repeats =
                    simd.all_equal_f32(squares, last[i]) || simd.all_equal_f32(squares, first[i]);
                // Sums of nothing are exact.
                repeating |= repeats && !simd.all_equal_f32(squares, zero);
                if short == 0 {
                    first[i] = squares;
                }
                last[i] = squares;
            }
        }
        (totals, repeating)
    }
}

/// A total with the eight lanes of a short sum on top.
#[inline(always)]
fn add_short<S: Simd>(simd: S, total: S::F64, sum: S::F32) -> S::F64 {
    let [low, high] = simd.widen(sum);
    simd.add_f64(total, simd.add_f64(low, high))
}
