//! The quantised types of ggml, block by block, to the `f32` that ggml's own arithmetic gives.
//!
//! A block is 32 or 256 elements with an F16 scale, and for some types an F16 minimum; the larger
//! blocks have smaller ones inside, whose scales are integers. Every value is a product of at most
//! three factors, less a minimum, and the order in which `f32` rounds them is part of the format:
//! here it is that of `dequantize_row_*` in ggml-quants.c and of `gguf.quants` in Python, which
//! agree. The layouts are documented nowhere but there.
//!
//! Elements of a block are spread over its bytes so that one shift and mask makes 16 or 32 of them
//! in order; the loops below are over such runs, which the compiler turns into vectors.

use crate::decode::{f4, f16};
use crate::dtype::DType;

/// Decode whole blocks into `out`, which has room for exactly their elements.
#[inline(always)]
pub(crate) fn decode<T: From<f32>>(dtype: DType, codes: &[u8], out: &mut [T]) {
    // As an argument of a function a decoder would be called, compiled for the baseline only.
    macro_rules! each_block {
        ($decoder:ident) => {
            for (values, block) in out.as_chunks_mut().0.iter_mut().zip(codes.as_chunks().0) {
                store(values, $decoder(block));
            }
        };
    }
    match dtype {
        DType::Q4_0 => each_block!(q4_0),
        DType::Q4_1 => each_block!(q4_1),
        DType::Q5_0 => each_block!(q5_0),
        DType::Q5_1 => each_block!(q5_1),
        DType::Q8_0 => each_block!(q8_0),
        DType::Q2K => each_block!(q2_k),
        DType::Q3K => each_block!(q3_k),
        DType::Q4K => each_block!(q4_k),
        DType::Q5K => each_block!(q5_k),
        DType::Q6K => each_block!(q6_k),
        DType::MXFP4 => each_block!(mxfp4),
        other => unreachable!("{other} is not quantised"),
    }
}

/// Whether every value of whole blocks is zero; not meant to be fast.
pub(crate) fn all_zero(dtype: DType, codes: &[u8]) -> bool {
    let granule = dtype.granule();
    let mut values = [0.0f32; 256];
    let values = &mut values[..granule.elements as usize];
    codes.chunks_exact(granule.bytes as usize).all(|block| {
        decode(dtype, block, values);
        values.iter().all(|value| *value == 0.0)
    })
}

#[inline(always)]
fn store<T: From<f32>, const ELEMENTS: usize>(
    values: &mut [T; ELEMENTS],
    decoded: [f32; ELEMENTS],
) {
    for (value, decoded) in values.iter_mut().zip(&decoded) {
        *value = T::from(*decoded);
    }
}

/// The F16 at a position of a block.
#[inline(always)]
fn scale_at<const BYTES: usize>(block: &[u8; BYTES], position: usize) -> f32 {
    f16(u16::from_le_bytes([block[position], block[position + 1]]))
}

/// `SIZE` bytes of a block from a position on.
#[inline(always)]
fn bytes_at<const SIZE: usize, const BYTES: usize>(
    block: &[u8; BYTES],
    position: usize,
) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    bytes.copy_from_slice(&block[position..position + SIZE]);
    bytes
}

/// `value` of each code. `array::map` is not turned into vectors, and this is.
#[inline(always)]
fn each<const ELEMENTS: usize>(
    codes: [u8; ELEMENTS],
    value: impl Fn(u8) -> f32,
) -> [f32; ELEMENTS] {
    let mut values = [0.0; ELEMENTS];
    for index in 0..ELEMENTS {
        values[index] = value(codes[index]);
    }
    values
}

/// Sixteen bytes as 32 codes of four bits: first all lower halves, then all upper ones.
#[inline(always)]
fn nibbles(bytes: [u8; 16]) -> [u8; 32] {
    let mut codes = [0; 32];
    for index in 0..16 {
        codes[index] = bytes[index] & 0x0f;
        codes[index + 16] = bytes[index] >> 4;
    }
    codes
}

/// Like [`nibbles`], with the fifth bit of element `i` being bit `i` of `fifth`.
#[inline(always)]
fn five_bits(bytes: [u8; 16], fifth: [u8; 4]) -> [u8; 32] {
    let fifth = u32::from_le_bytes(fifth);
    let mut codes = nibbles(bytes);
    for (index, code) in codes.iter_mut().enumerate() {
        *code |= ((fifth >> index & 1) << 4) as u8;
    }
    codes
}

/// Scale, 32 codes of four bits around 8.
#[inline(always)]
fn q4_0(block: &[u8; 18]) -> [f32; 32] {
    let scale = scale_at(block, 0);
    each(nibbles(bytes_at(block, 2)), |code| {
        scale * f32::from(code as i8 - 8)
    })
}

/// Scale, minimum, 32 codes of four bits.
#[inline(always)]
fn q4_1(block: &[u8; 20]) -> [f32; 32] {
    let (scale, minimum) = (scale_at(block, 0), scale_at(block, 2));
    each(nibbles(bytes_at(block, 4)), |code| {
        scale * f32::from(code) + minimum
    })
}

/// Scale, 32 fifth bits, 32 codes of four bits; around 16.
#[inline(always)]
fn q5_0(block: &[u8; 22]) -> [f32; 32] {
    let scale = scale_at(block, 0);
    each(five_bits(bytes_at(block, 6), bytes_at(block, 2)), |code| {
        scale * f32::from(code as i8 - 16)
    })
}

/// Scale, minimum, 32 fifth bits, 32 codes of four bits.
#[inline(always)]
fn q5_1(block: &[u8; 24]) -> [f32; 32] {
    let (scale, minimum) = (scale_at(block, 0), scale_at(block, 2));
    each(five_bits(bytes_at(block, 8), bytes_at(block, 4)), |code| {
        scale * f32::from(code) + minimum
    })
}

/// Scale, 32 signed bytes.
#[inline(always)]
fn q8_0(block: &[u8; 34]) -> [f32; 32] {
    let scale = scale_at(block, 0);
    each(bytes_at(block, 2), |code| f32::from(code as i8) * scale)
}

/// The two bits of each of 256 elements: each 32 bytes hold 128 of them, those of the first 32 in
/// the lowest bits of the bytes.
#[inline(always)]
fn two_bits(bytes: [u8; 64]) -> [u8; 256] {
    let mut codes = [0; 256];
    for half in 0..2 {
        for run in 0..4 {
            for index in 0..32 {
                codes[half * 128 + run * 32 + index] = bytes[half * 32 + index] >> (2 * run) & 3;
            }
        }
    }
    codes
}

/// Sixteen bytes of a scale (lower half) and a minimum (upper half) each, 256 codes of two bits,
/// the scale of the scales, the scale of the minima.
#[inline(always)]
fn q2_k(block: &[u8; 84]) -> [f32; 256] {
    let scales: [u8; 16] = bytes_at(block, 0);
    let (scale, minimum) = (scale_at(block, 80), scale_at(block, 82));
    let codes = two_bits(bytes_at(block, 16));
    let mut values = [0.0; 256];
    for (run, packed) in scales.into_iter().enumerate() {
        let run_scale = scale * f32::from(packed & 0x0f);
        let run_minimum = minimum * f32::from(packed >> 4);
        for index in run * 16..(run + 1) * 16 {
            values[index] = run_scale * f32::from(codes[index]) - run_minimum;
        }
    }
    values
}

/// 256 third bits (which are set where nothing is subtracted), 256 codes of two bits, sixteen
/// scales of six bits around 32, the scale of the scales.
#[inline(always)]
fn q3_k(block: &[u8; 110]) -> [f32; 256] {
    let third: [u8; 32] = bytes_at(block, 0);
    let codes = two_bits(bytes_at(block, 32));
    let packed: [u8; 12] = bytes_at(block, 96);
    let scale = scale_at(block, 108);
    let mut values = [0.0; 256];
    for run in 0..16 {
        // Eight bytes of two lower halves, then four bytes of four upper quarters.
        let low = packed[run % 8] >> (4 * (run / 8)) & 0x0f;
        let high = packed[8 + run % 4] >> (2 * (run / 4)) & 3;
        let run_scale = scale * f32::from((low | high << 4) as i8 - 32);
        for index in run * 16..(run + 1) * 16 {
            let set = third[index % 32] >> (index / 32) & 1;
            let code = codes[index] as i8 - ((set ^ 1) << 2) as i8;
            values[index] = run_scale * f32::from(code);
        }
    }
    values
}

/// Eight scales and eight minima of six bits in twelve bytes: the first four of each in the lower
/// bits of a byte, the others with their upper two bits in what was left of those.
#[inline(always)]
fn scales_and_minima(packed: [u8; 12]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut minima) = ([0; 8], [0; 8]);
    for index in 0..4 {
        let (scale, minimum, both) = (packed[index], packed[4 + index], packed[8 + index]);
        scales[index] = scale & 0x3f;
        minima[index] = minimum & 0x3f;
        scales[4 + index] = both & 0x0f | scale >> 2 & 0x30;
        minima[4 + index] = both >> 4 | minimum >> 2 & 0x30;
    }
    (scales, minima)
}

/// The four bits of each of 256 elements: each 32 bytes hold 64 of them, the first 32 in the lower
/// halves.
#[inline(always)]
fn four_bits(bytes: [u8; 128]) -> [u8; 256] {
    let mut codes = [0; 256];
    for quarter in 0..4 {
        for index in 0..32 {
            let byte = bytes[quarter * 32 + index];
            codes[quarter * 64 + index] = byte & 0x0f;
            codes[quarter * 64 + 32 + index] = byte >> 4;
        }
    }
    codes
}

/// Scale of the scales, scale of the minima, eight scales and minima, 256 codes of four bits.
#[inline(always)]
fn q4_k(block: &[u8; 144]) -> [f32; 256] {
    let codes = four_bits(bytes_at(block, 16));
    scale_runs_of_32(
        scale_at(block, 0),
        scale_at(block, 2),
        bytes_at(block, 4),
        codes,
    )
}

/// Like Q4_K, with 256 fifth bits before the codes.
#[inline(always)]
fn q5_k(block: &[u8; 176]) -> [f32; 256] {
    let fifth: [u8; 32] = bytes_at(block, 16);
    let mut codes = four_bits(bytes_at(block, 48));
    for run in 0..8 {
        for index in 0..32 {
            codes[run * 32 + index] |= (fifth[index] >> run & 1) << 4;
        }
    }
    scale_runs_of_32(
        scale_at(block, 0),
        scale_at(block, 2),
        bytes_at(block, 4),
        codes,
    )
}

#[inline(always)]
fn scale_runs_of_32(scale: f32, minimum: f32, packed: [u8; 12], codes: [u8; 256]) -> [f32; 256] {
    let (scales, minima) = scales_and_minima(packed);
    let mut values = [0.0; 256];
    for run in 0..8 {
        let run_scale = scale * f32::from(scales[run]);
        let run_minimum = minimum * f32::from(minima[run]);
        for index in run * 32..(run + 1) * 32 {
            values[index] = run_scale * f32::from(codes[index]) - run_minimum;
        }
    }
    values
}

/// 256 lower four bits (each 64 bytes hold 128, the first 64 in the lower halves), 256 upper two
/// bits, sixteen signed scales, the scale of the scales; around 32.
#[inline(always)]
fn q6_k(block: &[u8; 210]) -> [f32; 256] {
    let upper = two_bits(bytes_at(block, 128));
    let scales: [u8; 16] = bytes_at(block, 192);
    let scale = scale_at(block, 208);
    let mut codes = [0u8; 256];
    for half in 0..2 {
        for index in 0..64 {
            let byte = block[half * 64 + index];
            codes[half * 128 + index] = byte & 0x0f;
            codes[half * 128 + 64 + index] = byte >> 4;
        }
    }
    let mut values = [0.0; 256];
    for (run, run_scale) in scales.into_iter().enumerate() {
        let run_scale = scale * f32::from(run_scale as i8);
        for index in run * 16..(run + 1) * 16 {
            let code = (codes[index] | upper[index] << 4) as i8 - 32;
            values[index] = run_scale * f32::from(code);
        }
    }
    values
}

/// A power of two, 32 codes of OCP FP4 (E2M1), of which ggml takes the double and half the power.
#[inline(always)]
fn mxfp4(block: &[u8; 17]) -> [f32; 32] {
    let scale = half_power_of_two(block[0]);
    each(nibbles(bytes_at(block, 1)), |code| {
        // Adding 0.0 turns a −0 into 0; there are none in ggml's table.
        scale * (f4(code) * 2.0 + 0.0)
    })
}

/// `2^(code - 128)`, also where that is subnormal. ggml knows no code of NaN here.
#[inline(always)]
fn half_power_of_two(code: u8) -> f32 {
    f32::from_bits(if code < 2 {
        0x0020_0000 << code
    } else {
        u32::from(code - 1) << 23
    })
}
