//! Passes over integers, whose sums are exact.
//!
//! Those of 8 and 16 bits are summed as integers: products of two fit a 32-bit lane, two or four at
//! a time, and an instruction makes them so. Unsigned ones have their upper bit flipped first, which
//! takes half the range from each, and the sums are put right at the end. A difference of two of 16
//! bits has 17, so Σ d² is taken as Σ a² + Σ b² − 2 Σ a·b; nothing is lost, as nothing was rounded.
//!
//! Those of 32 bits, and of 64 where they are small enough, are exact in `f64`, and so are their
//! differences.

use super::{CodeComparison, DiffSums};
use crate::decode::integer_at;
use crate::dtype::DType;
use crate::level::Pass;
use crate::simd::{IntegerSums, Simd};

/// How the codes of an integer dtype of 8 or 16 bits are read as two's complement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SmallInteger {
    bytes: usize,
    /// What any larger code counts as.
    clip: u8,
    /// Bits to flip; what they are worth is taken from every value.
    flip: u16,
}

impl SmallInteger {
    pub(crate) const fn of(dtype: DType) -> Option<Self> {
        let (bytes, clip, flip) = match dtype {
            // Any byte but 0 is true.
            DType::Bool => (1, 1, 0),
            DType::U8 => (1, u8::MAX, 1 << 7),
            DType::I8 => (1, u8::MAX, 0),
            DType::U16 => (2, u8::MAX, 1 << 15),
            DType::I16 => (2, u8::MAX, 0),
            _ => return None,
        };
        Some(Self { bytes, clip, flip })
    }
}

/// Everything about pairs of integers of 8 or 16 bits; both sides are of the same length.
pub(crate) struct DiffIntegers<'a> {
    pub(crate) of: SmallInteger,
    pub(crate) a: &'a [u8],
    pub(crate) b: &'a [u8],
}

impl Pass for DiffIntegers<'_> {
    type Output = (DiffSums, CodeComparison);

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> (DiffSums, CodeComparison) {
        let SmallInteger { bytes, flip, .. } = self.of;
        let (rows_a, rest_a) = self.a.as_chunks::<32>();
        let (rows_b, rest_b) = self.b.as_chunks::<32>();
        let mut sums = sums_of_rows(simd, self.of, rows_a, rows_b);
        let mut codes = rows_a.len() * (32 / bytes);
        if !rest_a.is_empty() {
            // Codes of zero bits are those of 0.
            let (mut row_a, mut row_b) = ([0; 32], [0; 32]);
            row_a[..rest_a.len()].copy_from_slice(rest_a);
            row_b[..rest_b.len()].copy_from_slice(rest_b);
            let rest = sums_of_rows(simd, self.of, &[row_a], &[row_b]);
            codes += 32 / bytes;
            sums = IntegerSums {
                sum_a: sums.sum_a + rest.sum_a,
                sum_b: sums.sum_b + rest.sum_b,
                absolute: sums.absolute + rest.absolute,
                squares_a: sums.squares_a + rest.squares_a,
                squares_b: sums.squares_b + rest.squares_b,
                dot_ab: sums.dot_ab + rest.dot_ab,
                farthest: sums.farthest.max(rest.farthest),
                same_code: sums.same_code + rest.same_code,
                same_value: sums.same_value + rest.same_value,
                flipped: sums.flipped + rest.flipped,
            };
        }
        // Σ (a + offset)² and so on.
        let (count, offset) = (codes as i64, i64::from(flip));
        let constant = count * offset * offset;
        let squares_a = sums.squares_a + 2 * offset * sums.sum_a + constant;
        let squares_b = sums.squares_b + 2 * offset * sums.sum_b + constant;
        let dot_ab = sums.dot_ab + offset * (sums.sum_a + sums.sum_b) + constant;
        let comparison = CodeComparison {
            max_ulp: sums.farthest,
            bits_changed: codes as u64 - sums.same_code,
            changed: codes as u64 - sums.same_value,
            // Without a sign there are none.
            sign_flips: if flip == 0 { sums.flipped } else { 0 },
        };
        let sums = DiffSums {
            difference: (sums.sum_b - sums.sum_a) as f64,
            absolute: sums.absolute as f64,
            squares_d: (squares_a + squares_b - 2 * dot_ab) as f64,
            squares_a: squares_a as f64,
            squares_b: squares_b as f64,
            dot_da: (dot_ab - squares_a) as f64,
            dot_ab: dot_ab as f64,
            max_abs: sums.farthest as f64,
            repeating: false,
            changed: comparison.changed,
            sign_flips: comparison.sign_flips,
        };
        (sums, comparison)
    }
}

#[inline(always)]
fn sums_of_rows<S: Simd>(
    simd: S,
    SmallInteger { bytes, clip, flip }: SmallInteger,
    a: &[[u8; 32]],
    b: &[[u8; 32]],
) -> IntegerSums {
    // Counters of 8 bits hold a block's worth.
    const { assert!(crate::BLOCK / 32 <= 255) };
    if bytes == 1 {
        simd.diff_integers_8(a, b, clip, flip as u8)
    } else {
        simd.diff_integers_16(a, b, flip)
    }
}

/// Σ x² of integers of 8 or 16 bits.
pub(crate) struct SquaresIntegers<'a> {
    pub(crate) of: DType,
    pub(crate) codes: &'a [u8],
}

impl Pass for SquaresIntegers<'_> {
    type Output = f64;
    const LEFT_TO_COMPILER: bool = true;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> f64 {
        // A sum of 64 squares of 8 bits, or of one of 16, fits 32 bits.
        macro_rules! of_bytes {
            ($code:ident => $value:expr) => {{
                let mut sum = 0u64;
                for codes in self.codes.chunks(1024) {
                    let mut part = 0i32;
                    for code in codes {
                        let $code = *code;
                        let value = i32::from($value);
                        part += value * value;
                    }
                    sum += u64::from(part as u32);
                }
                sum
            }};
        }
        macro_rules! of_words {
            ($code:ident => $value:expr) => {{
                let mut sum = 0u64;
                for code in self.codes.as_chunks().0 {
                    let $code = u16::from_le_bytes(*code);
                    let value = u32::from($value);
                    sum += u64::from(value * value);
                }
                sum
            }};
        }
        (match self.of {
            DType::Bool => of_bytes!(code => i16::from(code != 0)),
            DType::U8 => of_bytes!(code => i16::from(code)),
            DType::I8 => of_bytes!(code => i16::from(code as i8)),
            DType::U16 => of_words!(code => code),
            _ => of_words!(code => (code as i16).unsigned_abs()),
        }) as f64
    }
}

/// Whether all of some 64-bit integers, and with them every difference, are exact in `f64`, and
/// in reach of the instructions that convert them: of [-2^51, 2^51), or below 2^52 if unsigned.
pub(crate) struct ExactInF64<'a> {
    pub(crate) dtype: DType,
    pub(crate) codes: &'a [u8],
}

impl Pass for ExactInF64<'_> {
    type Output = bool;
    const LEFT_TO_COMPILER: bool = true;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> bool {
        let codes = self.codes.as_chunks().0;
        let mut bits = 0;
        match self.dtype {
            DType::U64 => {
                for code in codes {
                    bits |= u64::from_le_bytes(*code);
                }
                bits < 1 << 52
            }
            DType::I64 => {
                for code in codes {
                    let code = i64::from_le_bytes(*code);
                    bits |= (code ^ (code >> 63)) as u64;
                }
                bits < 1 << 51
            }
            smaller => smaller.is_integer(),
        }
    }
}

/// Compare codes of integers of 32 or 64 bits; both sides are a multiple of 32 bytes long.
pub(crate) struct CompareIntegers<'a> {
    pub(crate) dtype: DType,
    pub(crate) a: &'a [u8],
    pub(crate) b: &'a [u8],
}

impl Pass for CompareIntegers<'_> {
    type Output = CodeComparison;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> CodeComparison {
        let (rows_a, rows_b) = (self.a.as_chunks().0, self.b.as_chunks().0);
        let rows = rows_a.len().min(rows_b.len());
        let mut counts = simd.no_codes();
        macro_rules! compare {
            ($compare:ident, $reduce:ident, $width:literal, $flip:expr) => {{
                for row in 0..rows {
                    simd.$compare(&mut counts, &rows_a[row], &rows_b[row], $flip);
                }
                let differing = (rows * 32 / $width) as u64 - simd.$reduce(counts.same_code).1;
                CodeComparison {
                    max_ulp: simd.$reduce(counts.farthest).0,
                    bits_changed: differing,
                    changed: differing,
                    sign_flips: if $flip == 0 {
                        simd.$reduce(counts.flipped).1
                    } else {
                        0
                    },
                }
            }};
        }
        match self.dtype {
            DType::I32 => compare!(compare_integers_32, reduce_32, 4, 0u32),
            DType::U32 => compare!(compare_integers_32, reduce_32, 4, 1u32 << 31),
            DType::I64 => compare!(compare_integers_64, reduce_64, 8, 0u64),
            _ => compare!(compare_integers_64, reduce_64, 8, 1u64 << 63),
        }
    }
}

/// The first position where |b − a| is `magnitude`; rarely asked for, and not fast.
pub(crate) fn position_of(
    magnitude: u64,
    dtype: DType,
    a: &[u8],
    b: &[u8],
    elements: usize,
) -> Option<(usize, i128, i128)> {
    for position in 0..elements {
        let (a, b) = (
            integer_at(dtype, a, position),
            integer_at(dtype, b, position),
        );
        if (b - a).unsigned_abs() == u128::from(magnitude) {
            return Some((position, a, b));
        }
    }
    None
}
