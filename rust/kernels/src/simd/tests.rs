//! Every operation of every level against portable lanes, bit for bit.
//!
//! A pass runs them all over the same bytes and records what comes out; the kernels' own tests
//! see only what passes make of it, and of an odd lane little may be left there.

use std::collections::BTreeMap;

use super::{Classes, CodeClasses, CodeCounts, CodeExtremes, CodeRange, IntegerSums, Short, Simd};
use crate::Level;
use crate::level::Pass;

/// What came out, by the name of the operation.
type Record = BTreeMap<&'static str, Vec<u64>>;

/// Rows of two sides.
struct Everything<'a> {
    a: &'a [[u8; 32]],
    b: &'a [[u8; 32]],
}

struct Recorder<S> {
    simd: S,
    record: Record,
}

/// A NaN that is loaded keeps its sign, which casts can tell; the rest of it nobody asks for.
fn loaded_f32(x: f32) -> u64 {
    u64::from(if x.is_nan() { f32::NAN.copysign(x) } else { x }.to_bits())
}

fn loaded_f64(x: f64) -> u64 {
    if x.is_nan() { f64::NAN.copysign(x) } else { x }.to_bits()
}

/// All NaN are one, as those that are computed have a sign that depends on the processor.
fn code_f32(x: f32) -> u64 {
    u64::from(if x.is_nan() { f32::NAN } else { x }.to_bits())
}

fn code_f64(x: f64) -> u64 {
    if x.is_nan() { f64::NAN } else { x }.to_bits()
}

/// These codes, but for NaN, which are the largest finite ones.
fn finite_e4m3(codes: &[u8; 16]) -> [u8; 16] {
    codes.map(|code| if code & 0x7f == 0x7f { code - 1 } else { code })
}

impl<S: Simd> Recorder<S> {
    fn put(&mut self, name: &'static str, codes: impl IntoIterator<Item = u64>) {
        self.record.entry(name).or_default().extend(codes);
    }

    fn f32(&mut self, name: &'static str, x: S::F32) {
        let code = if name.contains("load") {
            loaded_f32
        } else {
            code_f32
        };
        let lanes = self.simd.array_f32(x);
        self.put(name, lanes.map(code));
    }

    fn f64(&mut self, name: &'static str, x: S::F64) {
        let code = if name.contains("load") {
            loaded_f64
        } else {
            code_f64
        };
        let lanes = self.simd.array_f64(x);
        self.put(name, lanes.map(code));
    }

    fn f32s(&mut self, name: &'static str, rows: [S::F32; 2]) {
        self.f32(name, rows[0]);
        self.f32(name, rows[1]);
    }

    fn f64s(&mut self, name: &'static str, rows: [S::F64; 2]) {
        self.f64(name, rows[0]);
        self.f64(name, rows[1]);
    }

    fn sums(&mut self, name: &'static str, sums: IntegerSums) {
        self.put(
            name,
            [
                sums.sum_a as u64,
                sums.sum_b as u64,
                sums.absolute as u64,
                sums.squares_a as u64,
                sums.squares_b as u64,
                sums.dot_ab as u64,
                sums.farthest,
                sums.same_code,
                sums.same_value,
                sums.flipped,
            ],
        );
    }

    fn extremes(&mut self, name: &'static str, extremes: CodeExtremes) {
        self.put(
            name,
            [
                extremes.lowest as u64,
                extremes.highest as u64,
                u64::from(extremes.smallest),
                extremes.signed,
            ],
        );
    }

    fn reduce(&mut self, bytes: usize, codes: S::Codes) -> (u64, u64) {
        match bytes {
            1 => self.simd.reduce_8(codes),
            2 => self.simd.reduce_16(codes),
            4 => self.simd.reduce_32(codes),
            _ => self.simd.reduce_64(codes),
        }
    }

    fn counts(&mut self, name: &'static str, bytes: usize, counts: &CodeCounts<S>) {
        let reduced = [
            self.reduce(bytes, counts.farthest).0,
            self.reduce(bytes, counts.same_code).1,
            self.reduce(bytes, counts.same_value).1,
            self.reduce(bytes, counts.flipped).1,
            self.reduce(bytes, counts.flipped).0,
        ];
        self.put(name, reduced);
    }

    fn classes(&mut self, name: &'static str, bytes: usize, classes: &CodeClasses<S>) {
        let reduced = [
            self.reduce(bytes, classes.zero).1,
            self.reduce(bytes, classes.signed).1,
            self.reduce(bytes, classes.negative_zero).1,
            self.reduce(bytes, classes.tiny).1,
            self.reduce(bytes, classes.saturated).1,
        ];
        self.put(name, reduced);
    }

    /// Operations on values; `x`, `y` and `z` are any 32 bytes.
    fn values(&mut self, [x, y, z]: [&[u8; 32]; 3]) {
        let simd = self.simd;
        let lanes_f32 = |row: &[u8; 32]| {
            let mut lanes = [0.0; 8];
            for (lane, bytes) in lanes.iter_mut().zip(row.as_chunks().0) {
                *lane = f32::from_le_bytes(*bytes);
            }
            lanes
        };
        let lanes_f64 = |row: &[u8; 32]| {
            let mut lanes = [0.0; 4];
            for (lane, bytes) in lanes.iter_mut().zip(row.as_chunks().0) {
                *lane = f64::from_le_bytes(*bytes);
            }
            lanes
        };
        let (p, q) = (simd.load_f32(&lanes_f32(x)), simd.load_f32(&lanes_f32(y)));
        self.f32("load_f32", p);
        self.f32("array_f32", q);
        self.f32("splat_f32", simd.splat_f32(lanes_f32(x)[5]));
        self.f32("add_f32", simd.add_f32(p, q));
        self.f32("sub_f32", simd.sub_f32(p, q));
        self.f32("mul_f32", simd.mul_f32(p, q));
        let r = simd.load_f32(&lanes_f32(z));
        self.f32("fma_f32", simd.fma_f32(p, q, r));
        self.f32("abs_f32", simd.abs_f32(p));
        self.f32("max_f32", simd.max_f32(p, q));
        self.f64s("widen", simd.widen(p));
        // Equal, but for one lane at most.
        for lane in 0..9 {
            let (mut left, mut right) = ([1.0; 8], [1.0; 8]);
            if lane < 8 {
                left[lane] = lanes_f32(x)[lane];
                right[lane] = lanes_f32(y)[lane];
            }
            let (left, right) = (simd.load_f32(&left), simd.load_f32(&right));
            let equal = simd.all_equal_f32(left, right);
            self.put("all_equal_f32", [u64::from(equal)]);
            let mut counts = simd.no_counts32();
            self.put("no_counts32", [simd.sum_counts32(counts)]);
            self.put("any_counts32", [u64::from(simd.any_counts32(counts))]);
            counts = simd.count_less_f32(counts, left, right);
            self.put("any_counts32", [u64::from(simd.any_counts32(counts))]);
        }
        let mut counts = simd.no_counts32();
        for _ in 0..3 {
            counts = simd.count_less_f32(counts, p, q);
            self.put("count_less_f32", [simd.sum_counts32(counts)]);
            counts = simd.count_equal_f32(counts, p, q);
            self.put("count_equal_f32", [simd.sum_counts32(counts)]);
        }
        self.put("sum_counts32", [simd.sum_counts32(counts)]);

        let (s, t, u) = (
            simd.load_f64(&lanes_f64(x)),
            simd.load_f64(&lanes_f64(y)),
            simd.load_f64(&lanes_f64(z)),
        );
        self.f64("load_f64", s);
        self.f64("array_f64", t);
        self.f64("splat_f64", simd.splat_f64(lanes_f64(x)[3]));
        self.f64("add_f64", simd.add_f64(s, t));
        self.f64("sub_f64", simd.sub_f64(s, t));
        self.f64("mul_f64", simd.mul_f64(s, t));
        self.f64("fma_f64", simd.fma_f64(s, t, u));
        self.f64("abs_f64", simd.abs_f64(s));
        self.f64("max_f64", simd.max_f64(s, t));
        self.f64("min_f64", simd.min_f64(s, t));
        let mut counts = simd.no_counts64();
        self.put("no_counts64", [simd.sum_counts64(counts)]);
        for _ in 0..3 {
            counts = simd.count_less_f64(counts, s, t);
            self.put("count_less_f64", [simd.sum_counts64(counts)]);
            counts = simd.count_equal_f64(counts, s, t);
            self.put("count_equal_f64", [simd.sum_counts64(counts)]);
            counts = simd.count_equal_pairs_f64(counts, s, t);
            self.put("count_equal_pairs_f64", [simd.sum_counts64(counts)]);
            counts = simd.count_equal_pairs_f32(counts, p, q);
            self.put("count_equal_pairs_f32", [simd.sum_counts64(counts)]);
        }
        self.put("sum_counts64", [simd.sum_counts64(counts)]);
    }

    /// Two places at once, or one after the other.
    fn short(&mut self, low: &[u8; 32], high: &[u8; 32], other: &[u8; 32]) {
        let short = self.simd.short();
        // Operations have a side that is the same in both places, and one that is not.
        let simd = short.simd();
        let both = |low: &[u8; 32], high: &[u8; 32]| {
            short.join(simd.load_f32_bytes(low), simd.load_f32_bytes(high))
        };
        let y = both(other, high);
        let swapped = both(high, other);
        let (x, x_swapped) = (both(low, high), both(high, low));
        let mut put = |name, found: [<S::Short as Short>::Floats; 2]| {
            let [first, second] = short.places(found[0]);
            self.f32(name, first);
            // Of one place, that of the swapped sides.
            let second = if S::Short::PLACES == 2 {
                second
            } else {
                short.places(found[1])[0]
            };
            self.f32(name, second);
        };
        put("short: join", [x, x_swapped]);
        put("short: splat", [short.splat(1.5); 2]);
        put(
            "short: add",
            [short.add(x, y), short.add(x_swapped, swapped)],
        );
        put(
            "short: sub",
            [short.sub(x, y), short.sub(x_swapped, swapped)],
        );
        put(
            "short: mul",
            [short.mul(x, y), short.mul(x_swapped, swapped)],
        );
        put(
            "short: max",
            [short.max(x, y), short.max(x_swapped, swapped)],
        );
        put("short: abs", [short.abs(x), short.abs(x_swapped)]);
        macro_rules! load {
            ($load:ident, $low:expr, $high:expr) => {{
                let found = short.$load($low, $high);
                let swapped = short.$load($high, $low);
                put(
                    concat!("short: ", stringify!($load)),
                    [found[0], swapped[0]],
                );
                put(
                    concat!("short: ", stringify!($load)),
                    [found[1], swapped[1]],
                );
            }};
        }
        load!(load_bf16, low, high);
        load!(load_f16, low, high);
        for (low, high) in low.as_chunks().0.iter().zip(high.as_chunks().0) {
            load!(load_f8_e4m3, low, high);
            load!(load_f8_e5m2, low, high);
            load!(load_finite_f8_e4m3, &finite_e4m3(low), &finite_e4m3(high));
        }
        self.put("short", [0]);
    }

    /// Codes to values.
    fn loads(&mut self, codes: &[u8; 32]) {
        let simd = self.simd;
        self.f32("load_f32_bytes", simd.load_f32_bytes(codes));
        self.f64("load_f64_bytes", simd.load_f64_bytes(codes));
        self.f64s("load_f32_codes", simd.load_f32_codes(codes));
        self.f64s("load_i32", simd.load_i32(codes));
        self.f64s("load_u32", simd.load_u32(codes));
        let (mut signed, mut unsigned) = (*codes, *codes);
        let words = signed.as_chunks_mut().0.iter_mut();
        for (word, other) in words.zip(unsigned.as_chunks_mut().0) {
            *word = (i64::from_le_bytes(*word) << 12 >> 12).to_le_bytes();
            *other = (u64::from_le_bytes(*other) << 12 >> 12).to_le_bytes();
        }
        self.f64("load_i64", simd.load_i64(&signed));
        self.f64("load_u64", simd.load_u64(&unsigned));
        self.f32s("load_bf16", simd.load_bf16(codes));
        self.f32s("load_f16", simd.load_f16(codes));
        for half in codes.as_chunks().0 {
            self.f32("load_bf16_row", simd.load_bf16_row(half));
            self.f32("load_f16_row", simd.load_f16_row(half));
            self.f32s("load_f8_e4m3", simd.load_f8_e4m3(half));
            let finite = finite_e4m3(half);
            self.f32s("load_finite_f8_e4m3", simd.load_finite_f8_e4m3(&finite));
            self.f32s("load_f8_e5m2", simd.load_f8_e5m2(half));
        }
    }

    /// Operations that count over rows, 255 of them at most.
    fn codes(&mut self, a: &[[u8; 32]], b: &[[u8; 32]]) {
        let simd = self.simd;
        macro_rules! compare {
            ($name:ident, $bytes:literal $(, $flip:expr)?) => {{
                let mut counts = simd.no_codes();
                for (a, b) in a.iter().zip(b) {
                    simd.$name(&mut counts, a, b $(, $flip)?);
                }
                self.counts(stringify!($name), $bytes, &counts);
                self.counts("no_codes", $bytes, &simd.no_codes());
            }};
        }
        compare!(compare_codes_8, 1);
        compare!(compare_codes_16, 2);
        compare!(compare_codes_32, 4);
        compare!(compare_codes_64, 8);
        macro_rules! compare_rows {
            ($name:ident, $bytes:literal) => {{
                let mut counts = simd.no_codes();
                for rows in [0, 1, 2, 3, 4, 64] {
                    let rows = rows.min(a.len());
                    // Counts are added to.
                    simd.$name(&mut counts, &a[..rows], &b[..rows]);
                    self.counts(stringify!($name), $bytes, &counts);
                }
            }};
        }
        compare_rows!(compare_rows_8, 1);
        compare_rows!(compare_rows_16, 2);
        compare_rows!(compare_rows_32, 4);
        compare_rows!(compare_rows_64, 8);
        for flip in [0, i32::MIN as u32] {
            compare!(compare_integers_32, 4, flip);
        }
        for flip in [0, i64::MIN as u64] {
            compare!(compare_integers_64, 8, flip);
        }
        macro_rules! classify {
            ($name:ident, $bytes:literal, $smallest_normal:expr, $largest_finite:expr) => {{
                let mut classes = simd.no_classes();
                self.classes("no_classes", $bytes, &classes);
                let (smallest_normal, largest_finite) = ($smallest_normal, $largest_finite);
                for codes in a {
                    simd.$name(
                        &mut classes,
                        codes,
                        Classes {
                            smallest_normal,
                            largest_finite,
                        },
                    );
                }
                self.classes(stringify!($name), $bytes, &classes);
            }};
        }
        classify!(classify_codes_16, 2, 0x0080, 0x7f7f);
        classify!(classify_codes_16, 2, 0x0400, 0x7bff);
        classify!(classify_codes_32, 4, 0x0080_0000, 0x7f7f_ffff);
        macro_rules! survey {
            ($survey:ident, $extremes:ident, $bytes:literal) => {{
                let mut range: CodeRange<S> = simd.no_range($bytes);
                // Of no code only that the lowest is above the highest.
                let empty = simd.$extremes(range);
                self.put("no_range", [u64::from(empty.lowest > empty.highest)]);
                for codes in a {
                    simd.$survey(&mut range, codes);
                }
                self.extremes(stringify!($survey), simd.$extremes(range));
                self.extremes(stringify!($extremes), simd.$extremes(range));
            }};
        }
        survey!(survey_codes_16, extremes_16, 2);
        survey!(survey_codes_32, extremes_32, 4);
        let zero = simd.no_codes().farthest;
        let (mut nearest, mut found) = (zero, zero);
        for codes in a {
            nearest = simd.nearest_zero_16(nearest, codes);
            found = simd.count_byte(found, codes, b[0][0]);
            self.put("nearest_zero_16", [simd.reduce_16(nearest).0]);
            self.put("nearest_zero_16", [simd.reduce_16(nearest).1]);
        }
        let (largest, sum) = simd.reduce_8(found);
        self.put("count_byte", [largest, sum]);
    }

    /// Whole blocks of integers.
    fn blocks(&mut self, a: &[[u8; 32]], b: &[[u8; 32]]) {
        let simd = self.simd;
        for (clip, flip) in [(u8::MAX, 0), (u8::MAX, 0x80), (1, 0)] {
            for rows in [0, 1, 2, 3, 63, 64] {
                let (a, b) = (&a[..rows.min(a.len())], &b[..rows.min(b.len())]);
                self.sums("diff_integers_8", simd.diff_integers_8(a, b, clip, flip));
            }
        }
        for flip in [0, 0x8000] {
            for rows in [0, 1, 2, 3, 127, 128] {
                let (a, b) = (&a[..rows.min(a.len())], &b[..rows.min(b.len())]);
                self.sums("diff_integers_16", simd.diff_integers_16(a, b, flip));
            }
        }
    }

    fn exponents(&mut self, rows: &[[u8; 32]; 8]) {
        let simd = self.simd;
        let [s, t, u, v, ..] = rows.map(|row| simd.load_f32_bytes(&row));
        for largest in [0, 1, 127, 255] {
            let mut distances = simd.exponents_f32([s, t, u, v], largest);
            distances.sort_unstable();
            self.put("exponents_f32", distances.map(u64::from));
        }
        for largest in [0, 1, 1023, 2047] {
            let values = rows.map(|row| simd.load_f64_bytes(&row));
            let mut distances = simd.exponents_f64(values, largest);
            distances.sort_unstable();
            self.put("exponents_f64", distances.map(u64::from));
        }
    }

    /// The largest lane, and the sum, of lanes that are all zero but for one.
    fn reductions(&mut self) {
        let simd = self.simd;
        for lane in 0..32 {
            let (mut a, mut b) = ([0; 32], [0; 32]);
            a[lane] = 0x5a;
            b[lane] = 1 + lane as u8;
            let mut counts = simd.no_codes();
            simd.compare_codes_8(&mut counts, &a, &b);
            let (largest, sum) = simd.reduce_8(counts.farthest);
            self.put("reduce_8", [largest, sum]);
            let mut counts = simd.no_codes();
            simd.compare_codes_16(&mut counts, &a, &b);
            let (largest, sum) = simd.reduce_16(counts.farthest);
            self.put("reduce_16", [largest, sum]);
            let mut counts = simd.no_codes();
            simd.compare_codes_32(&mut counts, &a, &b);
            let (largest, sum) = simd.reduce_32(counts.farthest);
            self.put("reduce_32", [largest, sum]);
            let mut counts = simd.no_codes();
            simd.compare_codes_64(&mut counts, &a, &b);
            let (largest, sum) = simd.reduce_64(counts.farthest);
            self.put("reduce_64", [largest, sum]);
        }
    }
}

impl Pass for Everything<'_> {
    type Output = Record;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Record {
        let Self { a, b } = self;
        let mut recorder = Recorder {
            simd,
            record: Record::new(),
        };
        for (a, rest) in a.iter().zip(b.windows(2)) {
            recorder.values([a, &rest[0], &rest[1]]);
            recorder.loads(a);
            recorder.short(a, &rest[0], &rest[1]);
        }
        // The rows one by one, too, so that no lane hides behind another.
        for (a, b) in a.iter().zip(b).take(64) {
            recorder.codes(std::slice::from_ref(a), std::slice::from_ref(b));
            recorder.blocks(std::slice::from_ref(a), std::slice::from_ref(b));
        }
        recorder.codes(a, b);
        recorder.blocks(a, b);
        for rows in a.as_chunks().0 {
            recorder.exponents(rows);
        }
        recorder.reductions();
        recorder.record
    }
}

/// Codes at which something changes: in 64 bits, and so in every width below.
const CODES: [u64; 40] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0x81,
    0xff,
    0x7bff,
    0x7c00,
    0x7c01,
    0x7f7f,
    0x7f80,
    0x7fff,
    0x8000,
    0x8001,
    0xfbff,
    0xff80,
    0xffff,
    0x0080_0000,
    0x007f_ffff,
    0x3f80_0000,
    0x7f7f_ffff,
    0x7f80_0000,
    0x7f80_0001,
    0x7fff_ffff,
    0x8000_0000,
    0x8000_0001,
    0xff80_0000,
    0xffff_ffff,
    0x000f_ffff_ffff_ffff,
    0x0010_0000_0000_0000,
    0x3ff0_0000_0000_0000,
    0x7fef_ffff_ffff_ffff,
    0x7ff0_0000_0000_0000,
    0x7ff0_0000_0000_0001,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0x8000_0000_0000_0001,
    0xfff0_0000_0000_0000,
    u64::MAX,
];

/// Rows of 64-bit words.
fn rows(mut word: impl FnMut(usize) -> u64) -> Vec<[u8; 32]> {
    (0..240)
        .map(|row| {
            let mut bytes = [0; 32];
            for (index, chunk) in bytes.as_chunks_mut().0.iter_mut().enumerate() {
                *chunk = word(4 * row + index).to_le_bytes();
            }
            bytes
        })
        .collect()
}

fn scramble(seed: u64) -> u64 {
    let mixed = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ mixed >> 27
}

/// A code of each of these widths: the word itself, or its lower bits over and over.
fn repeated(code: u64, width: u64) -> u64 {
    match width % 4 {
        0 => code,
        1 => (code & 0xffff_ffff) * 0x1_0000_0001,
        2 => (code & 0xffff) * 0x0001_0001_0001_0001,
        _ => (code & 0xff) * 0x0101_0101_0101_0101,
    }
}

/// Two sides: noise, codes at which something changes, mixed with it, near to each other or the
/// same.
fn sides() -> Vec<[Vec<[u8; 32]>; 2]> {
    let special = |seed: usize| {
        let random = scramble(seed as u64);
        repeated(CODES[(random % 40) as usize], random >> 32)
    };
    let noise = |seed: usize| scramble(seed as u64 + 1000);
    let mixed = |seed: usize| {
        // Byte by byte.
        let mask = scramble(seed as u64 + 77) & 0x0101_0101_0101_0101;
        special(seed) & (mask * 0xff) | noise(seed) & !(mask * 0xff)
    };
    let near = |word: u64, seed: usize| word ^ 1 << (scramble(seed as u64 + 5) % 64);
    vec![
        [rows(noise), rows(|index| noise(index + 5000))],
        [rows(special), rows(|index| special(index + 5000))],
        [rows(mixed), rows(|index| mixed(index + 5000))],
        [rows(special), rows(mixed)],
        [rows(noise), rows(|index| near(noise(index), index))],
        [rows(special), rows(|index| near(special(index), index))],
        [rows(special), rows(special)],
        [rows(|_| 0), rows(|_| 1 << 63)],
        // The largest sums.
        [
            rows(|_| 0x8080_8080_8080_8080),
            rows(|_| 0x7f7f_7f7f_7f7f_7f7f),
        ],
        [
            rows(|_| 0x8000_8000_8000_8000),
            rows(|_| 0x7fff_7fff_7fff_7fff),
        ],
        [
            rows(|_| 0x8080_8080_8080_8080),
            rows(|_| 0x8080_8080_8080_8080),
        ],
        [
            rows(|_| 0x8000_8000_8000_8000),
            rows(|_| 0x8000_8000_8000_8000),
        ],
        [rows(|_| u64::MAX), rows(|_| u64::MAX)],
        [rows(|_| 0x7fff_ffff_7fff_ffff), rows(|_| u64::MAX)],
        [rows(|_| u64::MAX >> 1), rows(|_| u64::MAX)],
    ]
}

#[test]
fn levels_agree() {
    for (number, [a, b]) in sides().iter().enumerate() {
        let run = |level: Level| level.run(Everything { a, b });
        let levels = Level::available();
        let expected = run(levels[0]);
        for level in &levels[1..] {
            let found = run(*level);
            for (name, codes) in &expected {
                let differing = codes
                    .iter()
                    .zip(&found[name])
                    .position(|(expected, found)| expected != found);
                if let Some(index) = differing {
                    panic!(
                        "{name}, {}: output {index} of data {number} is {:#x}, not {:#x}",
                        level.name(),
                        found[name][index],
                        codes[index],
                    );
                }
                assert_eq!(codes.len(), found[name].len(), "{name}, {level:?}");
            }
        }
    }
}

/// An operation that is added is to be added above.
#[test]
fn every_operation_is_run() {
    let [a, b] = &sides()[0];
    let record = Level::available()[0].run(Everything { a, b });
    let source = include_str!("../simd.rs");
    let operations = source
        .split("pub(crate) trait ")
        .find(|text| text.starts_with("Simd"));
    let operations = operations.unwrap_or_default().split("\n    fn ").skip(1);
    let mut missing = Vec::new();
    for operation in operations {
        let name = operation.split('(').next().unwrap_or_default();
        if !record.contains_key(name) {
            missing.push(name);
        }
    }
    assert!(
        missing.is_empty(),
        "not compared between levels: {missing:?}"
    );
}
