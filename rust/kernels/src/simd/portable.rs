//! Lanes as arrays, for the compiler to make of them what the target has.

use super::Simd;

/// Needs nothing.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

macro_rules! lanes {
    ($x:ident, $y:ident => $value:expr) => {{
        let mut lanes = $x;
        for (lane, other) in lanes.iter_mut().zip($y) {
            let ($x, $y) = (*lane, other);
            *lane = $value;
        }
        lanes
    }};
    ($counts:ident, $x:ident, $y:ident => $condition:expr) => {{
        let mut counts = $counts;
        for lane in 0..counts.len() {
            let ($x, $y) = ($x[lane], $y[lane]);
            counts[lane] += if $condition { 1 } else { 0 };
        }
        counts
    }};
}

impl Simd for Portable {
    type F32 = [f32; 8];
    type F64 = [f64; 4];
    type Counts32 = [u32; 8];
    type Counts64 = [u64; 4];

    #[inline(always)]
    fn load_f32(self, values: &[f32; 8]) -> [f32; 8] {
        *values
    }

    #[inline(always)]
    fn splat_f32(self, value: f32) -> [f32; 8] {
        [value; 8]
    }

    #[inline(always)]
    fn array_f32(self, x: [f32; 8]) -> [f32; 8] {
        x
    }

    #[inline(always)]
    fn add_f32(self, x: [f32; 8], y: [f32; 8]) -> [f32; 8] {
        lanes!(x, y => x + y)
    }

    #[inline(always)]
    fn sub_f32(self, x: [f32; 8], y: [f32; 8]) -> [f32; 8] {
        lanes!(x, y => x - y)
    }

    #[inline(always)]
    fn mul_f32(self, x: [f32; 8], y: [f32; 8]) -> [f32; 8] {
        lanes!(x, y => x * y)
    }

    #[inline(always)]
    fn abs_f32(self, mut x: [f32; 8]) -> [f32; 8] {
        for lane in &mut x {
            *lane = lane.abs();
        }
        x
    }

    #[inline(always)]
    fn max_f32(self, x: [f32; 8], y: [f32; 8]) -> [f32; 8] {
        lanes!(x, y => if x > y { x } else { y })
    }

    #[inline(always)]
    fn widen(self, x: [f32; 8]) -> [[f64; 4]; 2] {
        let mut wide = [[0.0; 4]; 2];
        for lane in 0..4 {
            wide[0][lane] = f64::from(x[lane]);
            wide[1][lane] = f64::from(x[4 + lane]);
        }
        wide
    }

    #[inline(always)]
    fn load_f64(self, values: &[f64; 4]) -> [f64; 4] {
        *values
    }

    #[inline(always)]
    fn splat_f64(self, value: f64) -> [f64; 4] {
        [value; 4]
    }

    #[inline(always)]
    fn array_f64(self, x: [f64; 4]) -> [f64; 4] {
        x
    }

    #[inline(always)]
    fn add_f64(self, x: [f64; 4], y: [f64; 4]) -> [f64; 4] {
        lanes!(x, y => x + y)
    }

    #[inline(always)]
    fn sub_f64(self, x: [f64; 4], y: [f64; 4]) -> [f64; 4] {
        lanes!(x, y => x - y)
    }

    #[inline(always)]
    fn mul_f64(self, x: [f64; 4], y: [f64; 4]) -> [f64; 4] {
        lanes!(x, y => x * y)
    }

    #[inline(always)]
    fn abs_f64(self, mut x: [f64; 4]) -> [f64; 4] {
        for lane in &mut x {
            *lane = lane.abs();
        }
        x
    }

    #[inline(always)]
    fn max_f64(self, x: [f64; 4], y: [f64; 4]) -> [f64; 4] {
        lanes!(x, y => if x > y { x } else { y })
    }

    #[inline(always)]
    fn min_f64(self, x: [f64; 4], y: [f64; 4]) -> [f64; 4] {
        lanes!(x, y => if x < y { x } else { y })
    }

    #[inline(always)]
    fn no_counts32(self) -> [u32; 8] {
        [0; 8]
    }

    #[inline(always)]
    fn count_less_f32(self, counts: [u32; 8], x: [f32; 8], y: [f32; 8]) -> [u32; 8] {
        lanes!(counts, x, y => x < y)
    }

    #[inline(always)]
    fn count_equal_f32(self, counts: [u32; 8], x: [f32; 8], y: [f32; 8]) -> [u32; 8] {
        lanes!(counts, x, y => x == y)
    }

    #[inline(always)]
    fn sum_counts32(self, counts: [u32; 8]) -> u64 {
        counts.into_iter().map(u64::from).sum()
    }

    #[inline(always)]
    fn no_counts64(self) -> [u64; 4] {
        [0; 4]
    }

    #[inline(always)]
    fn count_less_f64(self, counts: [u64; 4], x: [f64; 4], y: [f64; 4]) -> [u64; 4] {
        lanes!(counts, x, y => x < y)
    }

    #[inline(always)]
    fn count_equal_f64(self, counts: [u64; 4], x: [f64; 4], y: [f64; 4]) -> [u64; 4] {
        lanes!(counts, x, y => x == y)
    }

    #[inline(always)]
    fn sum_counts64(self, counts: [u64; 4]) -> u64 {
        counts.into_iter().sum()
    }
}
