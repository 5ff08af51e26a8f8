//! Updates of a piece, and the products of all pairs of them.

use crate::level::Pass;
use crate::passes::sum_lanes;
use crate::runs::WideRun;
use crate::simd::Simd;

/// Floats of a piece: rows of it stay in the second-level cache, and a fold of lanes costs little.
/// A granule of every dtype fits, also beside a complex number.
pub(super) const PIECE: usize = 512;

const VECTORS: usize = PIECE / 4;

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
    fn vectors(&self) -> &[[f64; 4]; VECTORS] {
        let vectors = self.values.as_chunks().0;
        // A piece is whole vectors.
        vectors
            .first_chunk()
            .unwrap_or(const { &[[0.0; 4]; VECTORS] })
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

/// `out[i · rows + j] = Σ rows[i] · rows[j]` for i ≤ j, over the first `vectors` times four floats.
///
/// In tiles of four rows by three, whose twelve sums hide the latency of the multiply-add and leave
/// registers for what is loaded: seven loads for twelve of them. Of the four by four on the
/// diagonal only the upper ten are summed.
pub(super) struct Products<'a> {
    pub(super) rows: &'a [Row],
    pub(super) vectors: usize,
    pub(super) out: &'a mut [f64],
}

impl Pass for Products<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let count = self.rows.len();
        let (vectors, rows, out) = (self.vectors.min(VECTORS), self.rows, self.out);
        // Spelled out, as closures are not inlined into code for other instructions.
        macro_rules! diagonal {
            ($first:ident, $size:literal) => {{
                let mut tile = [&[[0.0; 4]; VECTORS]; $size];
                for index in 0..$size {
                    tile[index] = rows[$first + index].vectors();
                }
                let sums = diagonal::<S, $size>(simd, tile, vectors);
                for i in 0..$size {
                    for j in i..$size {
                        out[($first + i) * count + $first + j] = sum_lanes(simd, sums[i][j]);
                    }
                }
            }};
        }
        macro_rules! rectangle {
            ($first:ident, $left:ident, $column:ident, $width:literal) => {{
                let mut right = [&[[0.0; 4]; VECTORS]; $width];
                for index in 0..$width {
                    right[index] = rows[$column + index].vectors();
                }
                let sums = rectangle::<S, $width>(simd, $left, right, vectors);
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
                        rows[first].vectors(),
                        rows[first + 1].vectors(),
                        rows[first + 2].vectors(),
                        rows[first + 3].vectors(),
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
    }
}

type Vectors<'a> = &'a [[f64; 4]; VECTORS];

#[inline(always)]
fn rectangle<S: Simd, const WIDTH: usize>(
    simd: S,
    left: [Vectors<'_>; 4],
    right: [Vectors<'_>; WIDTH],
    vectors: usize,
) -> [[S::F64; WIDTH]; 4] {
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

/// The products of these rows among each other; only those of i ≤ j are summed.
#[inline(always)]
fn diagonal<S: Simd, const SIZE: usize>(
    simd: S,
    rows: [Vectors<'_>; SIZE],
    vectors: usize,
) -> [[S::F64; SIZE]; SIZE] {
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
    sums
}
