//! Codes to values, exactly.
//!
//! Decoding is branch-free so that the compiler vectorises it: a float of 16 bits or fewer is
//! moved into the fields of an `f32`, its subnormals by subtracting the implicit one that the
//! move supplied.

use crate::BLOCK;
use crate::dtype::DType;
use crate::level::Pass;
use crate::quantised;
use crate::simd::Simd;

/// Widths of the group that a narrow pass reduces at once; blocks are padded with zeros to it.
pub(crate) const PADDING: usize = 64;

/// Floats of a block in memory that is aligned for any vector.
#[repr(align(64))]
#[derive(Clone)]
pub(crate) struct Aligned<T>(pub(crate) [T; BLOCK]);

/// Decode the codes of a narrow dtype into `out`, which is exactly as long.
pub(crate) struct DecodeNarrow<'a> {
    pub(crate) dtype: DType,
    pub(crate) codes: &'a [u8],
    pub(crate) out: &'a mut [f32],
}

impl Pass for DecodeNarrow<'_> {
    type Output = ();
    const LEFT_TO_COMPILER: bool = true;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { dtype, codes, out } = self;
        // Sixteen at a time by the instructions that a level has for it.
        macro_rules! decode_rows {
            ($load:ident, $code_bytes:literal, $decode:expr) => {{
                let rows = codes.as_chunks::<{ 16 * $code_bytes }>().0;
                let (out_rows, out_rest) = out.as_chunks_mut::<16>();
                for (row, out) in rows.iter().zip(out_rows) {
                    let [low, high] = simd.$load(row);
                    let halves = out.as_chunks_mut().0;
                    halves[0] = simd.array_f32(low);
                    halves[1] = simd.array_f32(high);
                }
                let decoded = codes.len() / (16 * $code_bytes) * (16 * $code_bytes);
                $decode(&codes[decoded..], out_rest);
            }};
        }
        match dtype {
            DType::Bool => decode_8(codes, out, |code| f32::from(u8::from(code != 0))),
            DType::U8 => decode_8(codes, out, f32::from),
            DType::I8 => decode_8(codes, out, |code| f32::from(code as i8)),
            DType::BF16 => decode_16(codes, out, |code| f32::from_bits(u32::from(code) << 16)),
            DType::F16 => decode_rows!(load_f16, 2, |codes, out| decode_16(codes, out, f16)),
            DType::F8E4M3 => {
                decode_rows!(load_f8_e4m3, 1, |codes, out| decode_8(codes, out, f8_e4m3));
            }
            DType::F8E5M2 => {
                decode_rows!(load_f8_e5m2, 1, |codes, out| decode_8(codes, out, f8_e5m2));
            }
            DType::F8E4M3Fnuz => decode_8(codes, out, |code| {
                minifloat::<4, 3, 8, NEGATIVE_ZERO_IS_NAN>(u32::from(code))
            }),
            DType::F8E5M2Fnuz => decode_8(codes, out, |code| {
                minifloat::<5, 2, 16, NEGATIVE_ZERO_IS_NAN>(u32::from(code))
            }),
            DType::F8E8M0 => decode_8(codes, out, power_of_two),
            DType::F4 => decode_8(codes, out, f4),
            DType::F6E2M3 => decode_8(codes, out, |code| {
                minifloat::<2, 3, 1, FINITE>(u32::from(code))
            }),
            DType::F6E3M2 => decode_8(codes, out, |code| {
                minifloat::<3, 2, 3, FINITE>(u32::from(code))
            }),
            DType::Q4_0 | DType::Q5_0 | DType::MXFP4 => quantised::decode(dtype, codes, out),
            wide => unreachable!("{wide} is not narrow"),
        }
    }
}

/// Decode the codes of a wide dtype into `out`; a complex number gives two floats.
pub(crate) struct DecodeWide<'a> {
    pub(crate) dtype: DType,
    pub(crate) codes: &'a [u8],
    pub(crate) out: &'a mut [f64],
}

impl Pass for DecodeWide<'_> {
    type Output = ();
    const LEFT_TO_COMPILER: bool = true;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Self { dtype, codes, out } = self;
        match dtype {
            DType::F32 | DType::C64 => {
                for (value, code) in out.iter_mut().zip(codes.as_chunks().0) {
                    *value = f64::from(f32::from_le_bytes(*code));
                }
            }
            DType::F64 | DType::C128 => {
                for (value, code) in out.iter_mut().zip(codes.as_chunks().0) {
                    *value = f64::from_le_bytes(*code);
                }
            }
            DType::U16 => {
                for (value, code) in out.iter_mut().zip(codes.as_chunks().0) {
                    *value = f64::from(u16::from_le_bytes(*code));
                }
            }
            DType::I16 => {
                for (value, code) in out.iter_mut().zip(codes.as_chunks().0) {
                    *value = f64::from(i16::from_le_bytes(*code));
                }
            }
            DType::U32 => {
                for (value, code) in out.iter_mut().zip(codes.as_chunks().0) {
                    *value = f64::from(u32::from_le_bytes(*code));
                }
            }
            DType::I32 => {
                for (value, code) in out.iter_mut().zip(codes.as_chunks().0) {
                    *value = f64::from(i32::from_le_bytes(*code));
                }
            }
            // Rounded, where it does not fit.
            DType::U64 => {
                for (value, code) in out.iter_mut().zip(codes.as_chunks().0) {
                    *value = u64::from_le_bytes(*code) as f64;
                }
            }
            DType::I64 => {
                for (value, code) in out.iter_mut().zip(codes.as_chunks().0) {
                    *value = i64::from_le_bytes(*code) as f64;
                }
            }
            blocks if blocks.is_quantised() => quantised::decode(blocks, codes, out),
            other => unreachable!("{other} is not wide"),
        }
    }
}

/// Widen decoded floats.
pub(crate) struct Widen<'a> {
    pub(crate) narrow: &'a [f32],
    pub(crate) out: &'a mut [f64],
}

impl Pass for Widen<'_> {
    type Output = ();
    const LEFT_TO_COMPILER: bool = true;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (wide, narrow) in self.out.iter_mut().zip(self.narrow) {
            *wide = f64::from(*narrow);
        }
    }
}

/// Decode one code of a 64-bit integer dtype, or of any smaller integer dtype.
#[inline(always)]
pub(crate) fn integer_at(dtype: DType, codes: &[u8], index: usize) -> i128 {
    macro_rules! at {
        ($integer:ty) => {{
            const WIDTH: usize = size_of::<$integer>();
            let mut code = [0; WIDTH];
            code.copy_from_slice(&codes[index * WIDTH..][..WIDTH]);
            i128::from(<$integer>::from_le_bytes(code))
        }};
    }
    match dtype {
        DType::Bool => i128::from(codes[index] != 0),
        DType::U8 => at!(u8),
        DType::I8 => at!(i8),
        DType::U16 => at!(u16),
        DType::I16 => at!(i16),
        DType::U32 => at!(u32),
        DType::I32 => at!(i32),
        DType::U64 => at!(u64),
        DType::I64 => at!(i64),
        float => unreachable!("{float} is not an integer dtype"),
    }
}

/// Spread packed F4 or F6 codes to one a byte: element `i` lies at bits `[i·width, (i+1)·width)`,
/// counted from the least significant bit of the first byte.
pub(crate) fn unpack(dtype: DType, packed: &[u8], out: &mut [u8]) {
    if dtype == DType::F4 {
        let (pairs, last) = out.as_chunks_mut::<2>();
        for ([low, high], byte) in pairs.iter_mut().zip(packed) {
            (*low, *high) = (byte & 0xf, byte >> 4);
        }
        if let ([code], Some(byte)) = (last, packed.last()) {
            *code = byte & 0xf;
        }
        return;
    }
    let (groups, rest) = out.as_chunks_mut::<8>();
    for (codes, bytes) in groups.iter_mut().zip(packed.as_chunks::<6>().0) {
        let [a, b, c, d, e, f] = *bytes;
        *codes = spread(u64::from_le_bytes([a, b, c, d, e, f, 0, 0])).to_le_bytes();
    }
    let mut bytes = [0; 8];
    let tail = &packed[groups.len() * 6..];
    let length = tail.len().min(6);
    bytes[..length].copy_from_slice(&tail[..length]);
    let codes = spread(u64::from_le_bytes(bytes)).to_le_bytes();
    let length = rest.len();
    rest.copy_from_slice(&codes[..length]);
}

/// Eight codes of 6 bits to one a byte.
#[inline(always)]
fn spread(packed: u64) -> u64 {
    let halves = packed & 0xff_ffff | (packed & 0xffff_ff00_0000) << 8;
    let quarters = halves & 0xfff_0000_0fff | (halves & 0x00ff_f000_00ff_f000) << 4;
    quarters & 0x003f_003f_003f_003f | (quarters & 0x0fc0_0fc0_0fc0_0fc0) << 2
}

#[inline(always)]
fn decode_8(codes: &[u8], out: &mut [f32], decode: impl Fn(u8) -> f32) {
    for (value, code) in out.iter_mut().zip(codes) {
        *value = decode(*code);
    }
}

#[inline(always)]
fn decode_16(codes: &[u8], out: &mut [f32], decode: impl Fn(u16) -> f32) {
    for (value, code) in out.iter_mut().zip(codes.as_chunks().0) {
        *value = decode(u16::from_le_bytes(*code));
    }
}

/// IEEE half precision.
#[inline(always)]
pub(crate) fn f16(code: u16) -> f32 {
    minifloat::<5, 10, 15, IEEE>(u32::from(code))
}

/// OCP 4-bit float.
#[inline(always)]
pub(crate) fn f4(code: u8) -> f32 {
    minifloat::<2, 1, 1, FINITE>(u32::from(code))
}

/// OCP 8-bit float with 4 bits of exponent.
#[inline(always)]
pub(crate) fn f8_e4m3(code: u8) -> f32 {
    minifloat::<4, 3, 7, ALL_ONES_IS_NAN>(u32::from(code))
}

/// OCP 8-bit float with 5 bits of exponent.
#[inline(always)]
pub(crate) fn f8_e5m2(code: u8) -> f32 {
    minifloat::<5, 2, 15, IEEE>(u32::from(code))
}

// `Specials` as constants, since enums cannot be const generic arguments yet.
const IEEE: u8 = 0;
const ALL_ONES_IS_NAN: u8 = 1;
const NEGATIVE_ZERO_IS_NAN: u8 = 2;
const FINITE: u8 = 3;

/// The value of a sign-magnitude float code of `1 + EXPONENT + MANTISSA` bits.
#[inline(always)]
fn minifloat<const EXPONENT: u32, const MANTISSA: u32, const BIAS: u32, const SPECIALS: u8>(
    code: u32,
) -> f32 {
    let sign = (code >> (EXPONENT + MANTISSA)) << 31;
    let magnitude = code & ((1 << (EXPONENT + MANTISSA)) - 1);
    let moved = magnitude << (23 - MANTISSA);
    let normal = moved + ((127 - BIAS) << 23);
    // With one more in the exponent a subnormal reads 2^(1-BIAS) · (1 + mantissa); exact.
    let one = (128 - BIAS) << 23;
    let subnormal = (f32::from_bits(moved + one) - f32::from_bits(one)).to_bits();
    let finite = if magnitude < 1 << MANTISSA {
        subnormal
    } else {
        normal
    };
    let value = match SPECIALS {
        IEEE if magnitude >= ((1 << EXPONENT) - 1) << MANTISSA => {
            0x7f80_0000 | (moved & 0x007f_ffff)
        }
        ALL_ONES_IS_NAN if magnitude == (1 << (EXPONENT + MANTISSA)) - 1 => 0x7fc0_0000,
        NEGATIVE_ZERO_IS_NAN if code == 1 << (EXPONENT + MANTISSA) => 0x7fc0_0000,
        _ => finite,
    };
    f32::from_bits(value | sign)
}

/// E8M0: `2^(code - 127)`, code 255 being NaN. Code 0 is a subnormal `f32`.
#[inline(always)]
fn power_of_two(code: u8) -> f32 {
    f32::from_bits(match code {
        0 => 0x0040_0000,
        255 => 0x7fc0_0000,
        code => u32::from(code) << 23,
    })
}
