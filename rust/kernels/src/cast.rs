//! Rounding to a float dtype: to nearest, ties to even, straight from the exact value.
//!
//! What exceeds the largest finite value becomes Inf, or NaN where the dtype has no Inf, as
//! ml_dtypes has it. (torch 2.15 saturates E4M3, and agrees on the others.)

use crate::BLOCK;
use crate::decode::{DecodeNarrow, DecodeWide, integer_at};
use crate::dtype::{DType, Domain, FloatFormat, Specials};
use crate::level::{Level, Pass};
use crate::scaled::scale;
use crate::simd::Simd;

/// Round `elements` elements of `from`, one block at most, to codes of `to`, which come back in
/// `out`.
pub(crate) fn cast<'a>(
    level: Level,
    from: DType,
    codes: &[u8],
    elements: usize,
    to: DType,
    out: &'a mut [u8],
) -> &'a [u8] {
    let mut values = [0.0f64; BLOCK];
    let values = &mut values[..elements];
    match from.domain() {
        Domain::Narrow => {
            let mut narrow = [0.0f32; BLOCK];
            let narrow = &mut narrow[..values.len()];
            level.run(DecodeNarrow {
                dtype: from,
                codes,
                out: narrow,
            });
            for (value, narrow) in values.iter_mut().zip(narrow) {
                *value = f64::from(*narrow);
            }
        }
        Domain::Wide => level.run(DecodeWide {
            dtype: from,
            codes,
            out: values,
        }),
        Domain::Integer => {
            for (index, value) in values.iter_mut().enumerate() {
                let integer = integer_at(from, codes, index);
                *value = if to == DType::F64 {
                    integer as f64
                } else {
                    round_to_odd(integer)
                };
            }
        }
    }
    let out = &mut out[..values.len() * (to.bits() / 8) as usize];
    level.run(Encode { to, values, out });
    out
}

/// Round values to codes.
struct Encode<'a> {
    to: DType,
    values: &'a [f64],
    out: &'a mut [u8],
}

impl Pass for Encode<'_> {
    type Output = ();
    const LEFT_TO_COMPILER: bool = true;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        macro_rules! encode {
            ($code:ty, $encode:expr) => {{
                let codes = self.out.as_chunks_mut::<{ size_of::<$code>() }>().0;
                for (code, value) in codes.iter_mut().zip(self.values) {
                    *code = ($encode(*value) as $code).to_le_bytes();
                }
            }};
        }
        match self.to {
            DType::F64 => encode!(u64, f64::to_bits),
            DType::F32 => encode!(u32, |value| (value as f32).to_bits()),
            target => {
                let Some(format) = target.float_format() else {
                    unreachable!("{target} is not a cast target")
                };
                match target.bits() {
                    16 => encode!(u16, |value| round(format, value)),
                    _ => encode!(u8, |value| round(format, value)),
                }
            }
        }
    }
}

/// The code of `format` nearest to `value`, ties to even.
fn round(format: FloatFormat, value: f64) -> u64 {
    let mantissa_bits = format.mantissa_bits;
    let magnitude_bits = format.exponent_bits + mantissa_bits;
    let sign = u64::from(value.is_sign_negative()) << magnitude_bits;
    let not_a_number = match format.specials {
        Specials::Ieee => sign | ((1 << magnitude_bits) - 1) ^ ((1 << (mantissa_bits - 1)) - 1),
        Specials::AllOnesIsNan => sign | ((1 << magnitude_bits) - 1),
        Specials::NegativeZeroIsNan => 1 << magnitude_bits,
        Specials::None => sign | format.largest_finite_code(),
    };
    if value.is_nan() {
        return not_a_number;
    }
    let overflow = match format.specials {
        Specials::Ieee => sign | (format.largest_finite_code() + 1),
        _ => not_a_number,
    };
    if value.is_infinite() {
        return overflow;
    }
    // Bring subnormals of f64 into reach of the fields; no target has values that small.
    let bits = value.to_bits() & !(1 << 63);
    let exponent = (bits >> 52) as i32 - 1023;
    if exponent == -1023 {
        return signed_zero(format, sign);
    }
    let significand = bits & ((1 << 52) - 1) | 1 << 52;
    let lowest = 1 - format.bias;
    let shift = (52 - mantissa_bits as i32) + (lowest - exponent).max(0);
    if shift > 53 {
        return signed_zero(format, sign);
    }
    let kept = significand >> shift;
    let rest = significand & ((1 << shift) - 1);
    let half = 1 << (shift - 1);
    let rounded = kept + u64::from(rest > half || rest == half && kept & 1 == 1);
    // The implicit one carries into the exponent field, as does a mantissa that rounds up.
    let code = ((exponent - lowest).max(0) as u64) << mantissa_bits;
    let code = code + rounded;
    if code > format.largest_finite_code() {
        overflow
    } else if code == 0 {
        signed_zero(format, sign)
    } else {
        sign | code
    }
}

fn signed_zero(format: FloatFormat, sign: u64) -> u64 {
    match format.specials {
        Specials::NegativeZeroIsNan => 0,
        _ => sign,
    }
}

/// A 64-bit integer as `f64`, its last bit set where it is not exact, so that rounding the result
/// to fewer bits is the same as rounding the integer. (Boldo & Melquiond, "Emulation of a FMA and
/// correctly rounded sums: proved algorithms using rounding to odd", 2008.)
fn round_to_odd(value: i128) -> f64 {
    let magnitude = value.unsigned_abs() as u64;
    let excess = (64 - magnitude.leading_zeros()).saturating_sub(53);
    let kept = magnitude >> excess;
    let lost = kept << excess != magnitude;
    let odd = scale((kept | u64::from(lost)) as f64, excess as i32);
    if value < 0 { -odd } else { odd }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(dtype: DType, value: f64) -> u64 {
        dtype
            .float_format()
            .map_or(0, |format| round(format, value))
    }

    #[test]
    fn bf16_rounds_ties_to_even_and_overflows_to_infinity() {
        assert_eq!(code(DType::BF16, 1.0), 0x3f80);
        assert_eq!(code(DType::BF16, 1.0 + 1.0 / 256.0), 0x3f80);
        assert_eq!(code(DType::BF16, 1.0 + 3.0 / 256.0), 0x3f82);
        assert_eq!(code(DType::BF16, -3.4e38), 0xff80);
        assert_eq!(code(DType::BF16, f64::NAN) & 0x7fc0, 0x7fc0);
        // Rounding twice, through f32, would give 0x3f81.
        assert_eq!(code(DType::BF16, 1.0 + 1.0 / 256.0 + 1e-12), 0x3f81);
    }

    #[test]
    fn f8_without_infinity_overflows_to_nan() {
        assert_eq!(code(DType::F8E4M3, 448.0), 0x7e);
        assert_eq!(code(DType::F8E4M3, 464.0), 0x7e);
        assert_eq!(code(DType::F8E4M3, 465.0), 0x7f);
        assert_eq!(code(DType::F8E4M3Fnuz, 1000.0), 0x80);
        assert_eq!(code(DType::F8E4M3Fnuz, -1e-9), 0);
        assert_eq!(code(DType::F8E5M2, 1e9), 0x7c);
    }

    #[test]
    fn every_code_rounds_to_itself() {
        for dtype in [
            DType::F8E4M3,
            DType::F8E5M2,
            DType::F8E4M3Fnuz,
            DType::F8E5M2Fnuz,
        ] {
            let codes: Vec<u8> = (0..=255).collect();
            let mut out = [0; 256];
            let back = cast(
                Level::best(),
                dtype,
                &codes,
                256,
                DType::F32,
                &mut [0; 1024],
            )
            .to_vec();
            let again = cast(Level::best(), DType::F32, &back, 256, dtype, &mut out);
            for (code, again) in codes.iter().zip(again) {
                let value = f32::from_le_bytes(
                    back[usize::from(*code) * 4..][..4]
                        .try_into()
                        .expect("four bytes"),
                );
                assert!(
                    code == again || value.is_nan(),
                    "{dtype} {code:#x} {again:#x}"
                );
            }
        }
    }

    #[test]
    fn integers_are_rounded_once() {
        // 2^53 + 1 lies just above a tie of f32 only through its last bit.
        let tie = (1i128 << 60) + (1 << 36);
        assert_eq!(round_to_odd(tie) as f32, tie as f32);
        assert_eq!(round_to_odd(tie + 1) as f32, (tie + 1) as f32);
        assert!((tie + 1) as f32 > tie as f32);
    }
}
