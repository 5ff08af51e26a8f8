//! Lanes as arrays, for the compiler to make of them what the target has.

use super::{
    Classes, CodeClasses, CodeCounts, CodeExtremes, CodeRange, IntegerSums, OnePlace, Simd,
};
use crate::decode::{f8_e4m3, f8_e5m2, f16};

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
    type Codes = [u32; 32];
    type Short = OnePlace<Self>;

    #[inline(always)]
    fn short(self) -> OnePlace<Self> {
        OnePlace(self)
    }

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
    fn fma_f32(self, x: [f32; 8], y: [f32; 8], z: [f32; 8]) -> [f32; 8] {
        let mut result = z;
        for lane in 0..8 {
            result[lane] = x[lane].mul_add(y[lane], z[lane]);
        }
        result
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
    fn all_equal_f32(self, x: [f32; 8], y: [f32; 8]) -> bool {
        x == y
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
    fn fma_f64(self, x: [f64; 4], y: [f64; 4], z: [f64; 4]) -> [f64; 4] {
        let mut result = z;
        for lane in 0..4 {
            result[lane] = x[lane].mul_add(y[lane], z[lane]);
        }
        result
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
    fn any_counts32(self, counts: [u32; 8]) -> bool {
        counts != [0; 8]
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
    fn count_equal_pairs_f64(self, counts: [u64; 4], x: [f64; 4], y: [f64; 4]) -> [u64; 4] {
        let mut counts = counts;
        for lane in 0..4 {
            let both = (x[lane] == y[lane]) & (x[lane ^ 1] == y[lane ^ 1]);
            counts[lane] += u64::from(both);
        }
        counts
    }

    #[inline(always)]
    fn count_equal_pairs_f32(self, counts: [u64; 4], x: [f32; 8], y: [f32; 8]) -> [u64; 4] {
        let mut counts = counts;
        for (lane, count) in counts.iter_mut().enumerate() {
            let both = (x[2 * lane] == y[2 * lane]) & (x[2 * lane + 1] == y[2 * lane + 1]);
            *count += u64::from(both);
        }
        counts
    }

    #[inline(always)]
    fn sum_counts64(self, counts: [u64; 4]) -> u64 {
        counts.into_iter().sum()
    }

    #[inline(always)]
    fn load_f64_bytes(self, codes: &[u8; 32]) -> [f64; 4] {
        let mut values = [0.0; 4];
        for (value, bytes) in values.iter_mut().zip(codes.as_chunks().0) {
            *value = f64::from_le_bytes(*bytes);
        }
        values
    }

    #[inline(always)]
    fn load_f32_bytes(self, codes: &[u8; 32]) -> [f32; 8] {
        let mut values = [0.0; 8];
        for (value, bytes) in values.iter_mut().zip(codes.as_chunks().0) {
            *value = f32::from_le_bytes(*bytes);
        }
        values
    }

    #[inline(always)]
    fn load_f32_codes(self, codes: &[u8; 32]) -> [[f64; 4]; 2] {
        self.widen(self.load_f32_bytes(codes))
    }

    #[inline(always)]
    fn load_bf16_row(self, codes: &[u8; 16]) -> [f32; 8] {
        let mut values = [0.0; 8];
        for (value, bytes) in values.iter_mut().zip(codes.as_chunks().0) {
            *value = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
        }
        values
    }

    #[inline(always)]
    fn load_f16_row(self, codes: &[u8; 16]) -> [f32; 8] {
        let mut values = [0.0; 8];
        for (value, bytes) in values.iter_mut().zip(codes.as_chunks().0) {
            *value = f16(u16::from_le_bytes(*bytes));
        }
        values
    }

    #[inline(always)]
    fn load_i32(self, codes: &[u8; 32]) -> [[f64; 4]; 2] {
        let mut values = [[0.0; 4]; 2];
        for (value, bytes) in values
            .as_flattened_mut()
            .iter_mut()
            .zip(codes.as_chunks().0)
        {
            *value = f64::from(i32::from_le_bytes(*bytes));
        }
        values
    }

    #[inline(always)]
    fn load_u32(self, codes: &[u8; 32]) -> [[f64; 4]; 2] {
        let mut values = [[0.0; 4]; 2];
        for (value, bytes) in values
            .as_flattened_mut()
            .iter_mut()
            .zip(codes.as_chunks().0)
        {
            *value = f64::from(u32::from_le_bytes(*bytes));
        }
        values
    }

    #[inline(always)]
    fn load_i64(self, codes: &[u8; 32]) -> [f64; 4] {
        let mut values = [0.0; 4];
        for (value, bytes) in values.iter_mut().zip(codes.as_chunks().0) {
            *value = i64::from_le_bytes(*bytes) as f64;
        }
        values
    }

    #[inline(always)]
    fn load_u64(self, codes: &[u8; 32]) -> [f64; 4] {
        let mut values = [0.0; 4];
        for (value, bytes) in values.iter_mut().zip(codes.as_chunks().0) {
            *value = u64::from_le_bytes(*bytes) as f64;
        }
        values
    }

    #[inline(always)]
    fn load_bf16(self, codes: &[u8; 32]) -> [[f32; 8]; 2] {
        let mut words = [0u32; 8];
        for (word, bytes) in words.iter_mut().zip(codes.as_chunks().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        let (mut even, mut odd) = ([0.0; 8], [0.0; 8]);
        for lane in 0..8 {
            even[lane] = f32::from_bits(words[lane] << 16);
            odd[lane] = f32::from_bits(words[lane] & 0xffff_0000);
        }
        [even, odd]
    }

    #[inline(always)]
    fn load_f16(self, codes: &[u8; 32]) -> [[f32; 8]; 2] {
        let mut halves = [0u16; 16];
        for (half, bytes) in halves.iter_mut().zip(codes.as_chunks().0) {
            *half = u16::from_le_bytes(*bytes);
        }
        let (mut low, mut high) = ([0.0; 8], [0.0; 8]);
        for lane in 0..8 {
            low[lane] = f16(halves[lane]);
            high[lane] = f16(halves[8 + lane]);
        }
        [low, high]
    }

    #[inline(always)]
    fn load_f8_e4m3(self, codes: &[u8; 16]) -> [[f32; 8]; 2] {
        let (mut low, mut high) = ([0.0; 8], [0.0; 8]);
        for lane in 0..8 {
            low[lane] = f8_e4m3(codes[lane]);
            high[lane] = f8_e4m3(codes[8 + lane]);
        }
        [low, high]
    }

    #[inline(always)]
    fn load_f8_e5m2(self, codes: &[u8; 16]) -> [[f32; 8]; 2] {
        let (mut low, mut high) = ([0.0; 8], [0.0; 8]);
        for lane in 0..8 {
            low[lane] = f8_e5m2(codes[lane]);
            high[lane] = f8_e5m2(codes[8 + lane]);
        }
        [low, high]
    }

    #[inline(always)]
    fn no_codes(self) -> CodeCounts<Self> {
        CodeCounts {
            farthest: [0; 32],
            same_code: [0; 32],
            same_value: [0; 32],
            flipped: [0; 32],
        }
    }

    #[inline(always)]
    fn compare_codes_16(self, counts: &mut CodeCounts<Self>, a: &[u8; 32], b: &[u8; 32]) {
        let pairs = a.as_chunks().0.iter().zip(b.as_chunks().0);
        for (lane, (a, b)) in pairs.enumerate() {
            compare(
                counts,
                lane,
                i32::from(i16::from_le_bytes(*a)),
                i32::from(i16::from_le_bytes(*b)),
                i32::from(i16::MAX),
            );
        }
    }

    #[inline(always)]
    fn compare_codes_8(self, counts: &mut CodeCounts<Self>, a: &[u8; 32], b: &[u8; 32]) {
        for (lane, (a, b)) in a.iter().zip(b).enumerate() {
            compare(counts, lane, i32::from(*a as i8), i32::from(*b as i8), 0x7f);
        }
    }

    #[inline(always)]
    fn compare_codes_32(self, counts: &mut CodeCounts<Self>, a: &[u8; 32], b: &[u8; 32]) {
        let pairs = a.as_chunks().0.iter().zip(b.as_chunks().0);
        for (lane, (a, b)) in pairs.enumerate() {
            let (a, b) = (i32::from_le_bytes(*a), i32::from_le_bytes(*b));
            compare(counts, lane, a, b, i32::MAX);
        }
    }

    #[inline(always)]
    fn compare_codes_64(self, counts: &mut CodeCounts<Self>, a: &[u8; 32], b: &[u8; 32]) {
        let key = |code: i64| {
            let key = code & i64::MAX;
            if code < 0 { -key } else { key }
        };
        let pairs = a.as_chunks().0.iter().zip(b.as_chunks().0);
        for (lane, (a, b)) in pairs.enumerate() {
            let (a, b) = (i64::from_le_bytes(*a), i64::from_le_bytes(*b));
            let (key_a, key_b) = (key(a), key(b));
            let farthest = wide_lane(&counts.farthest, lane).max(key_a.abs_diff(key_b));
            counts.farthest[lane] = farthest as u32;
            counts.farthest[lane + UPPER] = (farthest >> 32) as u32;
            counts.same_code[lane] += u32::from(a == b);
            counts.same_value[lane] += u32::from(key_a == key_b);
            counts.flipped[lane] +=
                u32::from((key_a < 0) & (key_b > 0) | (key_a > 0) & (key_b < 0));
        }
    }

    #[inline(always)]
    fn compare_integers_32(
        self,
        counts: &mut CodeCounts<Self>,
        a: &[u8; 32],
        b: &[u8; 32],
        flip: u32,
    ) {
        let pairs = a.as_chunks().0.iter().zip(b.as_chunks().0);
        for (lane, (a, b)) in pairs.enumerate() {
            let a = (u32::from_le_bytes(*a) ^ flip) as i32;
            let b = (u32::from_le_bytes(*b) ^ flip) as i32;
            counts.farthest[lane] = counts.farthest[lane].max(a.abs_diff(b));
            counts.same_code[lane] += u32::from(a == b);
            counts.flipped[lane] += u32::from((a.min(b) < 0) & (a.max(b) > 0));
        }
    }

    #[inline(always)]
    fn compare_integers_64(
        self,
        counts: &mut CodeCounts<Self>,
        a: &[u8; 32],
        b: &[u8; 32],
        flip: u64,
    ) {
        let pairs = a.as_chunks().0.iter().zip(b.as_chunks().0);
        for (lane, (a, b)) in pairs.enumerate() {
            let a = (u64::from_le_bytes(*a) ^ flip) as i64;
            let b = (u64::from_le_bytes(*b) ^ flip) as i64;
            let farthest = wide_lane(&counts.farthest, lane).max(a.abs_diff(b));
            counts.farthest[lane] = farthest as u32;
            counts.farthest[lane + UPPER] = (farthest >> 32) as u32;
            counts.same_code[lane] += u32::from(a == b);
            counts.flipped[lane] += u32::from((a.min(b) < 0) & (a.max(b) > 0));
        }
    }

    #[inline(always)]
    fn diff_integers_8(
        self,
        rows_a: &[[u8; 32]],
        rows_b: &[[u8; 32]],
        clip: u8,
        flip: u8,
    ) -> IntegerSums {
        let mut sums = IntegerSums::default();
        for (row_a, row_b) in rows_a.iter().zip(rows_b) {
            let mut row = SmallSums::default();
            for (code_a, code_b) in row_a.iter().zip(row_b) {
                let a = (code_a.min(&clip) ^ flip) as i8;
                let b = (code_b.min(&clip) ^ flip) as i8;
                row.add(i32::from(a), i32::from(b), code_a == code_b);
            }
            row.add_to(&mut sums);
        }
        sums
    }

    #[inline(always)]
    fn diff_integers_16(self, rows_a: &[[u8; 32]], rows_b: &[[u8; 32]], flip: u16) -> IntegerSums {
        let mut sums = IntegerSums::default();
        for (row_a, row_b) in rows_a.iter().zip(rows_b) {
            for (a, b) in row_a.as_chunks().0.iter().zip(row_b.as_chunks().0) {
                let mut pair = SmallSums::default();
                let a = (u16::from_le_bytes(*a) ^ flip) as i16;
                let b = (u16::from_le_bytes(*b) ^ flip) as i16;
                pair.add(i32::from(a), i32::from(b), a == b);
                pair.add_to(&mut sums);
            }
        }
        sums
    }

    #[inline(always)]
    fn classify_codes_16(self, counts: &mut CodeClasses<Self>, codes: &[u8; 32], of: Classes) {
        for (lane, code) in codes.as_chunks().0.iter().enumerate() {
            let code = i32::from(i16::from_le_bytes(*code));
            classify(counts, lane, code, i32::from(i16::MAX), of);
        }
    }

    #[inline(always)]
    fn classify_codes_32(self, counts: &mut CodeClasses<Self>, codes: &[u8; 32], of: Classes) {
        for (lane, code) in codes.as_chunks().0.iter().enumerate() {
            classify(counts, lane, i32::from_le_bytes(*code), i32::MAX, of);
        }
    }

    #[inline(always)]
    fn no_classes(self) -> CodeClasses<Self> {
        CodeClasses {
            zero: [0; 32],
            signed: [0; 32],
            negative_zero: [0; 32],
            tiny: [0; 32],
            saturated: [0; 32],
        }
    }

    #[inline(always)]
    fn nearest_zero_16(self, mut nearest: [u32; 32], codes: &[u8; 32]) -> [u32; 32] {
        for (lane, code) in codes.as_chunks().0.iter().enumerate() {
            let twice = u16::from_le_bytes(*code) << 1;
            nearest[lane] = nearest[lane].max(u32::from(twice.wrapping_neg()));
        }
        nearest
    }

    #[inline(always)]
    fn exponents_f32(self, values: [[f32; 8]; 4], largest: u8) -> [u8; 32] {
        let mut distances = [0; 32];
        for (distance, value) in distances.iter_mut().zip(values.as_flattened()) {
            *distance = largest.wrapping_sub((value.to_bits() >> 23) as u8);
        }
        distances
    }

    #[inline(always)]
    fn count_byte(self, mut counts: [u32; 32], bytes: &[u8; 32], byte: u8) -> [u32; 32] {
        for (count, found) in counts.iter_mut().zip(bytes) {
            *count += u32::from(*found == byte);
        }
        counts
    }

    #[inline(always)]
    fn exponents_f64(self, values: [[f64; 4]; 8], largest: u16) -> [u8; 32] {
        let mut distances = [0; 32];
        for (distance, value) in distances.iter_mut().zip(values.as_flattened()) {
            let exponent = (value.to_bits() >> 52) as u16 & 0x7ff;
            *distance = largest.saturating_sub(exponent).min(255) as u8;
        }
        distances
    }

    #[inline(always)]
    fn no_range(self, _bytes: usize) -> CodeRange<Self> {
        CodeRange {
            lowest: [i32::MAX as u32; 32],
            highest: [i32::MIN as u32; 32],
            smallest: [u32::MAX; 32],
            signed: [0; 32],
        }
    }

    #[inline(always)]
    fn survey_codes_16(self, range: &mut CodeRange<Self>, codes: &[u8; 32]) {
        for (lane, code) in codes.as_chunks().0.iter().enumerate() {
            let code = i32::from(i16::from_le_bytes(*code));
            survey(range, lane, code, i32::from(i16::MAX));
        }
    }

    #[inline(always)]
    fn survey_codes_32(self, range: &mut CodeRange<Self>, codes: &[u8; 32]) {
        for (lane, code) in codes.as_chunks().0.iter().enumerate() {
            survey(range, lane, i32::from_le_bytes(*code), i32::MAX);
        }
    }

    #[inline(always)]
    fn extremes_16(self, range: CodeRange<Self>) -> CodeExtremes {
        extremes::<16>(&range)
    }

    #[inline(always)]
    fn extremes_32(self, range: CodeRange<Self>) -> CodeExtremes {
        extremes::<8>(&range)
    }

    #[inline(always)]
    fn reduce_64(self, lanes: [u32; 32]) -> (u64, u64) {
        let (mut largest, mut sum) = (0, 0u64);
        for lane in 0..4 {
            let lane = wide_lane(&lanes, lane);
            largest = lane.max(largest);
            sum = sum.wrapping_add(lane);
        }
        (largest, sum)
    }

    #[inline(always)]
    fn reduce_32(self, lanes: [u32; 32]) -> (u64, u64) {
        self.reduce_16(lanes)
    }

    #[inline(always)]
    fn reduce_16(self, lanes: [u32; 32]) -> (u64, u64) {
        let largest = lanes.into_iter().max().unwrap_or(0);
        (u64::from(largest), lanes.into_iter().map(u64::from).sum())
    }

    #[inline(always)]
    fn reduce_8(self, lanes: [u32; 32]) -> (u64, u64) {
        self.reduce_16(lanes)
    }
}

/// Where the upper halves of 64-bit lanes lie.
const UPPER: usize = 16;

#[inline(always)]
fn wide_lane(lanes: &[u32; 32], lane: usize) -> u64 {
    u64::from(lanes[lane]) | u64::from(lanes[lane + UPPER]) << 32
}

/// [`IntegerSums`] of 32 integers of 8 bits, or of one of 16.
#[derive(Clone, Copy, Default)]
struct SmallSums {
    sum_a: i32,
    sum_b: i32,
    absolute: u32,
    squares_a: i32,
    squares_b: i32,
    dot_ab: i32,
    farthest: u32,
    same_code: u32,
    same_value: u32,
    flipped: u32,
}

impl SmallSums {
    #[inline(always)]
    fn add(&mut self, a: i32, b: i32, same_code: bool) {
        self.sum_a += a;
        self.sum_b += b;
        self.absolute += a.abs_diff(b);
        self.squares_a += a * a;
        self.squares_b += b * b;
        self.dot_ab += a * b;
        self.farthest = self.farthest.max(a.abs_diff(b));
        self.same_code += u32::from(same_code);
        self.same_value += u32::from(a == b);
        self.flipped += u32::from((a.min(b) < 0) & (a.max(b) > 0));
    }

    #[inline(always)]
    fn add_to(self, sums: &mut IntegerSums) {
        sums.sum_a += i64::from(self.sum_a);
        sums.sum_b += i64::from(self.sum_b);
        sums.absolute += i64::from(self.absolute);
        sums.squares_a += i64::from(self.squares_a);
        sums.squares_b += i64::from(self.squares_b);
        sums.dot_ab += i64::from(self.dot_ab);
        sums.farthest = sums.farthest.max(u64::from(self.farthest));
        sums.same_code += u64::from(self.same_code);
        sums.same_value += u64::from(self.same_value);
        sums.flipped += u64::from(self.flipped);
    }
}

/// Codes with their sign extended; `magnitude` masks the sign out.
#[inline(always)]
fn compare(counts: &mut CodeCounts<Portable>, lane: usize, a: i32, b: i32, magnitude: i32) {
    let key = |code: i32| {
        let key = code & magnitude;
        if code < 0 { -key } else { key }
    };
    let (key_a, key_b) = (key(a), key(b));
    counts.farthest[lane] = counts.farthest[lane].max(key_a.abs_diff(key_b));
    counts.same_code[lane] += u32::from(a == b);
    counts.same_value[lane] += u32::from(key_a == key_b);
    counts.flipped[lane] += u32::from((key_a < 0) & (key_b > 0) | (key_a > 0) & (key_b < 0));
}

#[inline(always)]
fn classify(
    counts: &mut CodeClasses<Portable>,
    lane: usize,
    code: i32,
    magnitude: i32,
    of: Classes,
) {
    let key = (code & magnitude) as u32;
    counts.zero[lane] += u32::from(key == 0);
    counts.signed[lane] += u32::from(code < 0);
    counts.negative_zero[lane] += u32::from((code < 0) & (key == 0));
    counts.tiny[lane] += u32::from(key < of.smallest_normal);
    counts.saturated[lane] += u32::from(key == of.largest_finite);
}

#[inline(always)]
fn survey(range: &mut CodeRange<Portable>, lane: usize, code: i32, magnitude: i32) {
    let magnitude = code & magnitude;
    let key = if code < 0 { -magnitude } else { magnitude };
    range.lowest[lane] = key.min(range.lowest[lane] as i32) as u32;
    range.highest[lane] = key.max(range.highest[lane] as i32) as u32;
    range.smallest[lane] = range.smallest[lane].min(magnitude as u32);
    range.signed[lane] += u32::from(code < 0);
}

#[inline(always)]
fn extremes<const LANES: usize>(range: &CodeRange<Portable>) -> CodeExtremes {
    let mut extremes = CodeExtremes {
        lowest: i32::MAX,
        highest: i32::MIN,
        smallest: u32::MAX,
        signed: 0,
    };
    for lane in 0..LANES {
        extremes.lowest = extremes.lowest.min(range.lowest[lane] as i32);
        extremes.highest = extremes.highest.max(range.highest[lane] as i32);
        extremes.smallest = extremes.smallest.min(range.smallest[lane]);
        extremes.signed += u64::from(range.signed[lane]);
    }
    extremes
}
