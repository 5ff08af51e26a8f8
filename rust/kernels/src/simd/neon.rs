//! Lanes as pairs of 128-bit registers, of what every 64-bit Arm has.
//!
//! NEON is in the baseline, so portable code is compiled to it, too. That does well by arithmetic, and badly by codes of 8 and 16 bits, whose lanes and
//! counters it widens, and by halves, for which there is an instruction.

use std::arch::aarch64::*;
use std::arch::asm;

use super::{
    Classes, CodeClasses, CodeCounts, CodeExtremes, CodeRange, IntegerSums, OnePlace, Simd,
};

/// Needs nothing that the target does not guarantee.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

/// Intrinsics.
macro_rules! neon {
    ($body:expr) => {
        // SAFETY: NEON is in the baseline, and pointers come from references to arrays of just the
        // size that is loaded or stored, at any alignment.
        unsafe { $body }
    };
}

/// 16 codes of 8 bits, or fewer that are wider.
type Register = uint8x16_t;

#[inline(always)]
fn load_one(codes: &[u8; 16]) -> Register {
    // SAFETY: the array is as large as the register, and may lie anywhere.
    unsafe { vld1q_u8(codes.as_ptr()) }
}

#[inline(always)]
fn load(codes: &[u8; 32]) -> [Register; 2] {
    // SAFETY: the array is as large as two registers, and may lie anywhere.
    unsafe { [vld1q_u8(codes.as_ptr()), vld1q_u8(codes.as_ptr().add(16))] }
}

#[inline(always)]
fn store(codes: &mut [u8; 32], [low, high]: [Register; 2]) {
    // SAFETY: the array is as large as two registers, and may lie anywhere.
    unsafe {
        vst1q_u8(codes.as_mut_ptr(), low);
        vst1q_u8(codes.as_mut_ptr().add(16), high);
    }
}

/// Four halves as floats; one that signals becomes quiet, as at every level.
#[inline(always)]
fn from_halves(halves: uint16x4_t) -> float32x4_t {
    let floats;
    // SAFETY: an instruction of the baseline, which only reads and writes registers. Its intrinsic
    // wants a type that older compilers do not have.
    unsafe {
        asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) floats, in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags));
    }
    floats
}

/// The upper four of eight.
#[inline(always)]
fn from_upper_halves(halves: uint16x8_t) -> float32x4_t {
    let floats;
    // SAFETY: as above.
    unsafe {
        asm!("fcvtl2 {0:v}.4s, {1:v}.8h", out(vreg) floats, in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags));
    }
    floats
}

#[inline(always)]
fn from_eight_halves(halves: uint16x8_t) -> [float32x4_t; 2] {
    neon!([from_halves(vget_low_u16(halves)), from_upper_halves(halves)])
}

/// Halves of finite codes, in units of 2^8: their exponent has a bias of 15, not 7.
#[inline(always)]
fn e4m3_as_halves(codes: Register) -> [uint16x8_t; 2] {
    neon!({
        // With the sign once more in front, one copy of which is masked out.
        let codes = vreinterpretq_s8_u8(codes);
        let keep = vdupq_n_u16(0xbf80);
        let low = vreinterpretq_u16_s16(vshll_n_s8::<7>(vget_low_s8(codes)));
        let high = vreinterpretq_u16_s16(vshll_high_n_s8::<7>(codes));
        [vandq_u16(low, keep), vandq_u16(high, keep)]
    })
}

/// Upper bytes of halves whose lower bytes are zero.
#[inline(always)]
fn from_upper_bytes(bytes: Register) -> [[float32x4_t; 2]; 2] {
    neon!({
        let zero = vdupq_n_u8(0);
        [
            from_eight_halves(vreinterpretq_u16_u8(vzip1q_u8(zero, bytes))),
            from_eight_halves(vreinterpretq_u16_u8(vzip2q_u8(zero, bytes))),
        ]
    })
}

/// In both registers.
macro_rules! both {
    ($operation:path; $($vectors:expr),+) => {
        [$operation($($vectors[0]),+), $operation($($vectors[1]),+)]
    };
}

/// Lanes of 8 bits.
mod bits8 {
    use super::*;
    pub(super) use std::arch::aarch64::{
        vabdq_u8 as apart, vaddq_u8 as add, vandq_u8 as and, vbslq_u8 as select, vceqq_u8 as equal,
        vceqzq_u8 as is_zero, vcgtq_u8 as above, vdupq_n_u8 as splat, veorq_u8 as xor,
        vmaxq_u8 as max, vminq_u8 as min, vsubq_u8 as sub,
    };

    pub(super) type Code = u8;
    pub(super) type Lanes = uint8x16_t;
    pub(super) const SIGN: Code = 1 << (Code::BITS - 1);

    #[inline(always)]
    pub(super) fn of(register: Register) -> Lanes {
        register
    }

    #[inline(always)]
    pub(super) fn register(lanes: Lanes) -> Register {
        lanes
    }

    /// All ones where the sign is set.
    #[inline(always)]
    pub(super) fn is_signed(x: Lanes) -> Lanes {
        neon!(vcltzq_s8(vreinterpretq_s8_u8(x)))
    }

    /// |x - y| of signed numbers.
    #[inline(always)]
    pub(super) fn signed_apart(x: Lanes, y: Lanes) -> Lanes {
        neon!({
            let (x, y) = (vreinterpretq_s8_u8(x), vreinterpretq_s8_u8(y));
            vreinterpretq_u8_s8(vabdq_s8(x, y))
        })
    }

    /// |x| of signed numbers.
    #[inline(always)]
    pub(super) fn magnitude(x: Lanes) -> Lanes {
        neon!(vreinterpretq_u8_s8(vabsq_s8(vreinterpretq_s8_u8(x))))
    }

    #[inline(always)]
    pub(super) fn largest(lanes: Register) -> u64 {
        neon!(u64::from(vmaxvq_u8(of(lanes))))
    }

    #[inline(always)]
    pub(super) fn sum(lanes: Register) -> u64 {
        neon!(u64::from(vaddlvq_u8(of(lanes))))
    }
}

/// Lanes of 16 bits.
mod bits16 {
    use super::*;
    pub(super) use std::arch::aarch64::{
        vabdq_u16 as apart, vaddq_u16 as add, vandq_u16 as and, vbslq_u16 as select,
        vceqq_u16 as equal, vceqzq_u16 as is_zero, vcgtq_u16 as above, vdupq_n_u16 as splat,
        veorq_u16 as xor, vmaxq_u16 as max, vminq_u16 as min, vsubq_u16 as sub,
    };

    pub(super) type Code = u16;
    pub(super) type Lanes = uint16x8_t;
    pub(super) const SIGN: Code = 1 << (Code::BITS - 1);

    #[inline(always)]
    pub(super) fn of(register: Register) -> Lanes {
        neon!(vreinterpretq_u16_u8(register))
    }

    #[inline(always)]
    pub(super) fn register(lanes: Lanes) -> Register {
        neon!(vreinterpretq_u8_u16(lanes))
    }

    /// All ones where the sign is set.
    #[inline(always)]
    pub(super) fn is_signed(x: Lanes) -> Lanes {
        neon!(vcltzq_s16(vreinterpretq_s16_u16(x)))
    }

    /// Count where the sign is set.
    #[inline(always)]
    pub(super) fn add_sign(counts: Lanes, x: Lanes) -> Lanes {
        neon!(vsraq_n_u16::<{ Code::BITS as i32 - 1 }>(counts, x))
    }

    #[inline(always)]
    pub(super) fn signed_min(x: Lanes, y: Lanes) -> Lanes {
        neon!({
            let (x, y) = (vreinterpretq_s16_u16(x), vreinterpretq_s16_u16(y));
            vreinterpretq_u16_s16(vminq_s16(x, y))
        })
    }

    #[inline(always)]
    pub(super) fn signed_max(x: Lanes, y: Lanes) -> Lanes {
        neon!({
            let (x, y) = (vreinterpretq_s16_u16(x), vreinterpretq_s16_u16(y));
            vreinterpretq_u16_s16(vmaxq_s16(x, y))
        })
    }

    /// |x - y| of signed numbers.
    #[inline(always)]
    pub(super) fn signed_apart(x: Lanes, y: Lanes) -> Lanes {
        neon!({
            let (x, y) = (vreinterpretq_s16_u16(x), vreinterpretq_s16_u16(y));
            vreinterpretq_u16_s16(vabdq_s16(x, y))
        })
    }

    /// |x| of signed numbers.
    #[inline(always)]
    pub(super) fn magnitude(x: Lanes) -> Lanes {
        neon!(vreinterpretq_u16_s16(vabsq_s16(vreinterpretq_s16_u16(x))))
    }

    #[inline(always)]
    pub(super) fn lowest(lanes: Register) -> i32 {
        neon!(i32::from(vminvq_s16(vreinterpretq_s16_u16(of(lanes)))))
    }

    #[inline(always)]
    pub(super) fn highest(lanes: Register) -> i32 {
        neon!(i32::from(vmaxvq_s16(vreinterpretq_s16_u16(of(lanes)))))
    }

    #[inline(always)]
    pub(super) fn smallest(lanes: Register) -> u32 {
        neon!(u32::from(vminvq_u16(of(lanes))))
    }

    #[inline(always)]
    pub(super) fn largest(lanes: Register) -> u64 {
        neon!(u64::from(vmaxvq_u16(of(lanes))))
    }

    #[inline(always)]
    pub(super) fn sum(lanes: Register) -> u64 {
        neon!(u64::from(vaddlvq_u16(of(lanes))))
    }
}

/// Lanes of 32 bits.
mod bits32 {
    use super::*;
    pub(super) use std::arch::aarch64::{
        vabdq_u32 as apart, vaddq_u32 as add, vandq_u32 as and, vbslq_u32 as select,
        vceqq_u32 as equal, vceqzq_u32 as is_zero, vcgtq_u32 as above, vdupq_n_u32 as splat,
        veorq_u32 as xor, vmaxq_u32 as max, vminq_u32 as min, vsubq_u32 as sub,
    };

    pub(super) type Code = u32;
    pub(super) type Lanes = uint32x4_t;
    pub(super) const SIGN: Code = 1 << (Code::BITS - 1);

    #[inline(always)]
    pub(super) fn of(register: Register) -> Lanes {
        neon!(vreinterpretq_u32_u8(register))
    }

    #[inline(always)]
    pub(super) fn register(lanes: Lanes) -> Register {
        neon!(vreinterpretq_u8_u32(lanes))
    }

    /// All ones where the sign is set.
    #[inline(always)]
    pub(super) fn is_signed(x: Lanes) -> Lanes {
        neon!(vcltzq_s32(vreinterpretq_s32_u32(x)))
    }

    /// Count where the sign is set.
    #[inline(always)]
    pub(super) fn add_sign(counts: Lanes, x: Lanes) -> Lanes {
        neon!(vsraq_n_u32::<{ Code::BITS as i32 - 1 }>(counts, x))
    }

    #[inline(always)]
    pub(super) fn signed_min(x: Lanes, y: Lanes) -> Lanes {
        neon!({
            let (x, y) = (vreinterpretq_s32_u32(x), vreinterpretq_s32_u32(y));
            vreinterpretq_u32_s32(vminq_s32(x, y))
        })
    }

    #[inline(always)]
    pub(super) fn signed_max(x: Lanes, y: Lanes) -> Lanes {
        neon!({
            let (x, y) = (vreinterpretq_s32_u32(x), vreinterpretq_s32_u32(y));
            vreinterpretq_u32_s32(vmaxq_s32(x, y))
        })
    }

    /// |x - y| of signed numbers.
    #[inline(always)]
    pub(super) fn signed_apart(x: Lanes, y: Lanes) -> Lanes {
        neon!({
            let (x, y) = (vreinterpretq_s32_u32(x), vreinterpretq_s32_u32(y));
            vreinterpretq_u32_s32(vabdq_s32(x, y))
        })
    }

    /// |x| of signed numbers.
    #[inline(always)]
    pub(super) fn magnitude(x: Lanes) -> Lanes {
        neon!(vreinterpretq_u32_s32(vabsq_s32(vreinterpretq_s32_u32(x))))
    }

    #[inline(always)]
    pub(super) fn lowest(lanes: Register) -> i32 {
        neon!(vminvq_s32(vreinterpretq_s32_u32(of(lanes))))
    }

    #[inline(always)]
    pub(super) fn highest(lanes: Register) -> i32 {
        neon!(vmaxvq_s32(vreinterpretq_s32_u32(of(lanes))))
    }

    #[inline(always)]
    pub(super) fn smallest(lanes: Register) -> u32 {
        neon!(vminvq_u32(of(lanes)))
    }

    #[inline(always)]
    pub(super) fn largest(lanes: Register) -> u64 {
        neon!(u64::from(vmaxvq_u32(of(lanes))))
    }

    #[inline(always)]
    pub(super) fn sum(lanes: Register) -> u64 {
        neon!(vaddlvq_u32(of(lanes)))
    }
}

/// Add one to those counters whose lane of a mask is all ones.
macro_rules! count {
    ($width:ident: $counts:expr, $mask:expr) => {
        $counts = $width::register($width::sub($width::of($counts), $mask))
    };
}

macro_rules! compare_codes {
    ($name:ident, $width:ident) => {
        #[inline(always)]
        fn $name(self, counts: &mut CodeCounts<Self>, a: &[u8; 32], b: &[u8; 32]) {
            neon!({
                use $width::*;
                let (a, b) = (load(a), load(b));
                for half in 0..2 {
                    let (a, b) = (of(a[half]), of(b[half]));
                    let magnitudes = splat(!SIGN);
                    let (magnitude_a, magnitude_b) = (and(a, magnitudes), and(b, magnitudes));
                    let apart = apart(magnitude_a, magnitude_b);
                    let opposite = is_signed(xor(a, b));
                    let distance = select(opposite, add(magnitude_a, magnitude_b), apart);
                    // Only of two that are not zero is the sum more than the difference.
                    let flipped = above(distance, apart);
                    counts.farthest[half] = register(max(of(counts.farthest[half]), distance));
                    count!($width: counts.same_code[half], equal(a, b));
                    count!($width: counts.same_value[half], is_zero(distance));
                    count!($width: counts.flipped[half], flipped);
                }
            });
        }
    };
}

macro_rules! classify_codes {
    ($name:ident, $width:ident) => {
        #[inline(always)]
        fn $name(self, counts: &mut CodeClasses<Self>, codes: &[u8; 32], of_float: Classes) {
            neon!({
                use $width::*;
                let codes = load(codes);
                for half in 0..2 {
                    let code = of(codes[half]);
                    let magnitude = and(code, splat(!SIGN));
                    let tiny = above(splat(of_float.smallest_normal as Code), magnitude);
                    let saturated = equal(magnitude, splat(of_float.largest_finite as Code));
                    count!($width: counts.zero[half], is_zero(magnitude));
                    counts.signed[half] = register(add_sign(of(counts.signed[half]), code));
                    count!($width: counts.negative_zero[half], equal(code, splat(SIGN)));
                    count!($width: counts.tiny[half], tiny);
                    count!($width: counts.saturated[half], saturated);
                }
            });
        }
    };
}

macro_rules! survey_codes {
    ($name:ident, $width:ident) => {
        #[inline(always)]
        fn $name(self, range: &mut CodeRange<Self>, codes: &[u8; 32]) {
            neon!({
                use $width::*;
                let codes = load(codes);
                for half in 0..2 {
                    let code = of(codes[half]);
                    let magnitude = and(code, splat(!SIGN));
                    // A code with the sign is the sign and the magnitude: from the sign, less that.
                    let key = select(is_signed(code), sub(splat(SIGN), code), code);
                    range.lowest[half] = register(signed_min(of(range.lowest[half]), key));
                    range.highest[half] = register(signed_max(of(range.highest[half]), key));
                    range.smallest[half] = register(min(of(range.smallest[half]), magnitude));
                    range.signed[half] = register(add_sign(of(range.signed[half]), code));
                }
            });
        }
    };
}

macro_rules! extremes {
    ($name:ident, $width:ident) => {
        #[inline(always)]
        fn $name(self, range: CodeRange<Self>) -> CodeExtremes {
            use $width::*;
            let CodeRange {
                lowest: [low_a, low_b],
                highest: [high_a, high_b],
                smallest: [small_a, small_b],
                signed: [signed_a, signed_b],
            } = range;
            CodeExtremes {
                lowest: lowest(low_a).min(lowest(low_b)),
                highest: highest(high_a).max(highest(high_b)),
                smallest: smallest(small_a).min(smallest(small_b)),
                signed: sum(signed_a) + sum(signed_b),
            }
        }
    };
}

macro_rules! reduce {
    ($name:ident, $width:ident) => {
        #[inline(always)]
        fn $name(self, [low, high]: [Register; 2]) -> (u64, u64) {
            use $width::*;
            (largest(low).max(largest(high)), sum(low) + sum(high))
        }
    };
}

impl Simd for Neon {
    type F32 = [float32x4_t; 2];
    type F64 = [float64x2_t; 2];
    type Counts32 = [uint32x4_t; 2];
    type Counts64 = [uint64x2_t; 2];
    type Codes = [Register; 2];
    type Short = OnePlace<Self>;

    #[inline(always)]
    fn short(self) -> OnePlace<Self> {
        OnePlace(self)
    }

    #[inline(always)]
    fn load_f32(self, values: &[f32; 8]) -> [float32x4_t; 2] {
        // SAFETY: the array is as large as two registers, and may lie anywhere.
        unsafe {
            [
                vld1q_f32(values.as_ptr()),
                vld1q_f32(values.as_ptr().add(4)),
            ]
        }
    }

    #[inline(always)]
    fn splat_f32(self, value: f32) -> [float32x4_t; 2] {
        neon!([vdupq_n_f32(value); 2])
    }

    #[inline(always)]
    fn array_f32(self, [low, high]: [float32x4_t; 2]) -> [f32; 8] {
        neon!({
            let mut array = [0.0; 8];
            vst1q_f32(array.as_mut_ptr(), low);
            vst1q_f32(array.as_mut_ptr().add(4), high);
            array
        })
    }

    #[inline(always)]
    fn add_f32(self, x: [float32x4_t; 2], y: [float32x4_t; 2]) -> [float32x4_t; 2] {
        neon!(both!(vaddq_f32; x, y))
    }

    #[inline(always)]
    fn sub_f32(self, x: [float32x4_t; 2], y: [float32x4_t; 2]) -> [float32x4_t; 2] {
        neon!(both!(vsubq_f32; x, y))
    }

    #[inline(always)]
    fn mul_f32(self, x: [float32x4_t; 2], y: [float32x4_t; 2]) -> [float32x4_t; 2] {
        neon!(both!(vmulq_f32; x, y))
    }

    #[inline(always)]
    fn fma_f32(
        self,
        x: [float32x4_t; 2],
        y: [float32x4_t; 2],
        z: [float32x4_t; 2],
    ) -> [float32x4_t; 2] {
        neon!(both!(vfmaq_f32; z, x, y))
    }

    #[inline(always)]
    fn abs_f32(self, x: [float32x4_t; 2]) -> [float32x4_t; 2] {
        neon!(both!(vabsq_f32; x))
    }

    #[inline(always)]
    fn max_f32(self, x: [float32x4_t; 2], y: [float32x4_t; 2]) -> [float32x4_t; 2] {
        neon!({
            // Not the instruction that is called so: of a NaN it makes something else.
            let chosen = both!(vcgtq_f32; x, y);
            both!(vbslq_f32; chosen, x, y)
        })
    }

    #[inline(always)]
    fn all_equal_f32(self, x: [float32x4_t; 2], y: [float32x4_t; 2]) -> bool {
        neon!({
            let equal = both!(vceqq_f32; x, y);
            vminvq_u32(vandq_u32(equal[0], equal[1])) != 0
        })
    }

    #[inline(always)]
    fn widen(self, [low, high]: [float32x4_t; 2]) -> [[float64x2_t; 2]; 2] {
        neon!({
            [
                [vcvt_f64_f32(vget_low_f32(low)), vcvt_high_f64_f32(low)],
                [vcvt_f64_f32(vget_low_f32(high)), vcvt_high_f64_f32(high)],
            ]
        })
    }

    #[inline(always)]
    fn no_counts32(self) -> [uint32x4_t; 2] {
        neon!([vdupq_n_u32(0); 2])
    }

    #[inline(always)]
    fn count_less_f32(
        self,
        counts: [uint32x4_t; 2],
        x: [float32x4_t; 2],
        y: [float32x4_t; 2],
    ) -> [uint32x4_t; 2] {
        neon!({
            let mask = both!(vcltq_f32; x, y);
            both!(vsubq_u32; counts, mask)
        })
    }

    #[inline(always)]
    fn count_equal_f32(
        self,
        counts: [uint32x4_t; 2],
        x: [float32x4_t; 2],
        y: [float32x4_t; 2],
    ) -> [uint32x4_t; 2] {
        neon!({
            let mask = both!(vceqq_f32; x, y);
            both!(vsubq_u32; counts, mask)
        })
    }

    #[inline(always)]
    fn sum_counts32(self, [low, high]: [uint32x4_t; 2]) -> u64 {
        neon!(vaddlvq_u32(low) + vaddlvq_u32(high))
    }

    #[inline(always)]
    fn any_counts32(self, [low, high]: [uint32x4_t; 2]) -> bool {
        neon!(vmaxvq_u32(vorrq_u32(low, high)) != 0)
    }

    #[inline(always)]
    fn load_f64(self, values: &[f64; 4]) -> [float64x2_t; 2] {
        // SAFETY: the array is as large as two registers, and may lie anywhere.
        unsafe {
            [
                vld1q_f64(values.as_ptr()),
                vld1q_f64(values.as_ptr().add(2)),
            ]
        }
    }

    #[inline(always)]
    fn splat_f64(self, value: f64) -> [float64x2_t; 2] {
        neon!([vdupq_n_f64(value); 2])
    }

    #[inline(always)]
    fn array_f64(self, [low, high]: [float64x2_t; 2]) -> [f64; 4] {
        neon!({
            let mut array = [0.0; 4];
            vst1q_f64(array.as_mut_ptr(), low);
            vst1q_f64(array.as_mut_ptr().add(2), high);
            array
        })
    }

    #[inline(always)]
    fn add_f64(self, x: [float64x2_t; 2], y: [float64x2_t; 2]) -> [float64x2_t; 2] {
        neon!(both!(vaddq_f64; x, y))
    }

    #[inline(always)]
    fn sub_f64(self, x: [float64x2_t; 2], y: [float64x2_t; 2]) -> [float64x2_t; 2] {
        neon!(both!(vsubq_f64; x, y))
    }

    #[inline(always)]
    fn mul_f64(self, x: [float64x2_t; 2], y: [float64x2_t; 2]) -> [float64x2_t; 2] {
        neon!(both!(vmulq_f64; x, y))
    }

    #[inline(always)]
    fn fma_f64(
        self,
        x: [float64x2_t; 2],
        y: [float64x2_t; 2],
        z: [float64x2_t; 2],
    ) -> [float64x2_t; 2] {
        neon!(both!(vfmaq_f64; z, x, y))
    }

    #[inline(always)]
    fn abs_f64(self, x: [float64x2_t; 2]) -> [float64x2_t; 2] {
        neon!(both!(vabsq_f64; x))
    }

    #[inline(always)]
    fn max_f64(self, x: [float64x2_t; 2], y: [float64x2_t; 2]) -> [float64x2_t; 2] {
        neon!({
            // Not the instruction that is called so: of a NaN it makes something else.
            let chosen = both!(vcgtq_f64; x, y);
            both!(vbslq_f64; chosen, x, y)
        })
    }

    #[inline(always)]
    fn min_f64(self, x: [float64x2_t; 2], y: [float64x2_t; 2]) -> [float64x2_t; 2] {
        neon!({
            let chosen = both!(vcltq_f64; x, y);
            both!(vbslq_f64; chosen, x, y)
        })
    }

    #[inline(always)]
    fn no_counts64(self) -> [uint64x2_t; 2] {
        neon!([vdupq_n_u64(0); 2])
    }

    #[inline(always)]
    fn count_less_f64(
        self,
        counts: [uint64x2_t; 2],
        x: [float64x2_t; 2],
        y: [float64x2_t; 2],
    ) -> [uint64x2_t; 2] {
        neon!({
            let mask = both!(vcltq_f64; x, y);
            both!(vsubq_u64; counts, mask)
        })
    }

    #[inline(always)]
    fn count_equal_f64(
        self,
        counts: [uint64x2_t; 2],
        x: [float64x2_t; 2],
        y: [float64x2_t; 2],
    ) -> [uint64x2_t; 2] {
        neon!({
            let mask = both!(vceqq_f64; x, y);
            both!(vsubq_u64; counts, mask)
        })
    }

    #[inline(always)]
    fn count_equal_pairs_f64(
        self,
        counts: [uint64x2_t; 2],
        x: [float64x2_t; 2],
        y: [float64x2_t; 2],
    ) -> [uint64x2_t; 2] {
        neon!({
            let mask = both!(vceqq_f64; x, y);
            let other = both!(vextq_u64::<1>; mask, mask);
            let mask = both!(vandq_u64; mask, other);
            both!(vsubq_u64; counts, mask)
        })
    }

    #[inline(always)]
    fn count_equal_pairs_f32(
        self,
        counts: [uint64x2_t; 2],
        x: [float32x4_t; 2],
        y: [float32x4_t; 2],
    ) -> [uint64x2_t; 2] {
        neon!({
            let mask = both!(vceqq_f32; x, y);
            let mask = both!(vreinterpretq_u64_u32; mask);
            let ones = vdupq_n_u64(u64::MAX);
            [
                vsubq_u64(counts[0], vceqq_u64(mask[0], ones)),
                vsubq_u64(counts[1], vceqq_u64(mask[1], ones)),
            ]
        })
    }

    #[inline(always)]
    fn sum_counts64(self, [low, high]: [uint64x2_t; 2]) -> u64 {
        neon!(vaddvq_u64(vaddq_u64(low, high)))
    }

    #[inline(always)]
    fn load_f32_bytes(self, codes: &[u8; 32]) -> [float32x4_t; 2] {
        neon!(both!(vreinterpretq_f32_u8; load(codes)))
    }

    #[inline(always)]
    fn load_f64_bytes(self, codes: &[u8; 32]) -> [float64x2_t; 2] {
        neon!(both!(vreinterpretq_f64_u8; load(codes)))
    }

    #[inline(always)]
    fn load_f32_codes(self, codes: &[u8; 32]) -> [[float64x2_t; 2]; 2] {
        self.widen(self.load_f32_bytes(codes))
    }

    #[inline(always)]
    fn load_bf16_row(self, codes: &[u8; 16]) -> [float32x4_t; 2] {
        neon!({
            let (zero, codes) = (vdupq_n_u16(0), vreinterpretq_u16_u8(load_one(codes)));
            [
                vreinterpretq_f32_u16(vzip1q_u16(zero, codes)),
                vreinterpretq_f32_u16(vzip2q_u16(zero, codes)),
            ]
        })
    }

    #[inline(always)]
    fn load_f16_row(self, codes: &[u8; 16]) -> [float32x4_t; 2] {
        neon!(from_eight_halves(vreinterpretq_u16_u8(load_one(codes))))
    }

    #[inline(always)]
    fn load_i32(self, codes: &[u8; 32]) -> [[float64x2_t; 2]; 2] {
        neon!({
            let codes = both!(vreinterpretq_s32_u8; load(codes));
            let widen = |codes| {
                [
                    vcvtq_f64_s64(vmovl_s32(vget_low_s32(codes))),
                    vcvtq_f64_s64(vmovl_high_s32(codes)),
                ]
            };
            [widen(codes[0]), widen(codes[1])]
        })
    }

    #[inline(always)]
    fn load_u32(self, codes: &[u8; 32]) -> [[float64x2_t; 2]; 2] {
        neon!({
            let codes = both!(vreinterpretq_u32_u8; load(codes));
            let widen = |codes| {
                [
                    vcvtq_f64_u64(vmovl_u32(vget_low_u32(codes))),
                    vcvtq_f64_u64(vmovl_high_u32(codes)),
                ]
            };
            [widen(codes[0]), widen(codes[1])]
        })
    }

    #[inline(always)]
    fn load_i64(self, codes: &[u8; 32]) -> [float64x2_t; 2] {
        neon!({
            let codes = both!(vreinterpretq_s64_u8; load(codes));
            both!(vcvtq_f64_s64; codes)
        })
    }

    #[inline(always)]
    fn load_u64(self, codes: &[u8; 32]) -> [float64x2_t; 2] {
        neon!({
            let codes = both!(vreinterpretq_u64_u8; load(codes));
            both!(vcvtq_f64_u64; codes)
        })
    }

    #[inline(always)]
    fn load_bf16(self, codes: &[u8; 32]) -> [[float32x4_t; 2]; 2] {
        neon!({
            let codes = both!(vreinterpretq_u32_u8; load(codes));
            let even = both!(vshlq_n_u32::<16>; codes);
            let upper = vdupq_n_u32(0xffff_0000);
            let odd = [vandq_u32(codes[0], upper), vandq_u32(codes[1], upper)];
            [
                both!(vreinterpretq_f32_u32; even),
                both!(vreinterpretq_f32_u32; odd),
            ]
        })
    }

    #[inline(always)]
    fn load_f16(self, codes: &[u8; 32]) -> [[float32x4_t; 2]; 2] {
        neon!({
            let codes = both!(vreinterpretq_u16_u8; load(codes));
            both!(from_eight_halves; codes)
        })
    }

    #[inline(always)]
    fn load_f8_e4m3(self, codes: &[u8; 16]) -> [[float32x4_t; 2]; 2] {
        neon!({
            let values = |half| {
                let ones = vdupq_n_u16(0x7f << 7);
                let nan = vceqq_u16(vandq_u16(half, ones), ones);
                // All bits but the sign, which a NaN keeps.
                let half = vorrq_u16(half, vshrq_n_u16::<1>(nan));
                let [low, high] = from_eight_halves(half);
                [vmulq_n_f32(low, 256.0), vmulq_n_f32(high, 256.0)]
            };
            let [low, high] = e4m3_as_halves(load_one(codes));
            [values(low), values(high)]
        })
    }

    #[inline(always)]
    fn load_finite_f8_e4m3(self, codes: &[u8; 16]) -> [[float32x4_t; 2]; 2] {
        let [low, high] = e4m3_as_halves(load_one(codes));
        [from_eight_halves(low), from_eight_halves(high)]
    }

    #[inline(always)]
    fn load_f8_e5m2(self, codes: &[u8; 16]) -> [[float32x4_t; 2]; 2] {
        from_upper_bytes(load_one(codes))
    }

    #[inline(always)]
    fn no_codes(self) -> CodeCounts<Self> {
        neon!({
            let zero = [vdupq_n_u8(0); 2];
            CodeCounts {
                farthest: zero,
                same_code: zero,
                same_value: zero,
                flipped: zero,
            }
        })
    }

    compare_codes!(compare_codes_8, bits8);
    compare_codes!(compare_codes_16, bits16);
    compare_codes!(compare_codes_32, bits32);

    #[inline(always)]
    fn compare_codes_64(self, counts: &mut CodeCounts<Self>, a: &[u8; 32], b: &[u8; 32]) {
        neon!({
            let a = both!(vreinterpretq_u64_u8; load(a));
            let b = both!(vreinterpretq_u64_u8; load(b));
            for half in 0..2 {
                let (a, b) = (a[half], b[half]);
                let magnitudes = vdupq_n_u64(u64::MAX >> 1);
                let (magnitude_a, magnitude_b) =
                    (vandq_u64(a, magnitudes), vandq_u64(b, magnitudes));
                let apart = apart_64(
                    magnitude_a,
                    magnitude_b,
                    vcgtq_u64(magnitude_a, magnitude_b),
                );
                let opposite = vcltzq_s64(vreinterpretq_s64_u64(veorq_u64(a, b)));
                let distance = vbslq_u64(opposite, vaddq_u64(magnitude_a, magnitude_b), apart);
                count_64(
                    counts,
                    half,
                    distance,
                    vceqq_u64(a, b),
                    vcgtq_u64(distance, apart),
                );
                let same = vreinterpretq_u64_u8(counts.same_value[half]);
                counts.same_value[half] =
                    vreinterpretq_u8_u64(vsubq_u64(same, vceqzq_u64(distance)));
            }
        });
    }

    #[inline(always)]
    fn compare_integers_32(
        self,
        counts: &mut CodeCounts<Self>,
        a: &[u8; 32],
        b: &[u8; 32],
        flip: u32,
    ) {
        neon!({
            use bits32::*;
            let (a, b, flip) = (load(a), load(b), splat(flip));
            for half in 0..2 {
                let (a, b) = (xor(of(a[half]), flip), xor(of(b[half]), flip));
                let distance = signed_apart(a, b);
                // Magnitudes are as far apart, unless the signs are opposite and neither is zero.
                let flipped = above(distance, apart(magnitude(a), magnitude(b)));
                counts.farthest[half] = register(max(of(counts.farthest[half]), distance));
                count!(bits32: counts.same_code[half], is_zero(distance));
                count!(bits32: counts.flipped[half], flipped);
            }
        });
    }

    #[inline(always)]
    fn compare_integers_64(
        self,
        counts: &mut CodeCounts<Self>,
        a: &[u8; 32],
        b: &[u8; 32],
        flip: u64,
    ) {
        neon!({
            let a = both!(vreinterpretq_u64_u8; load(a));
            let b = both!(vreinterpretq_u64_u8; load(b));
            let flip = vdupq_n_u64(flip);
            for half in 0..2 {
                let (a, b) = (veorq_u64(a[half], flip), veorq_u64(b[half], flip));
                let (signed_a, signed_b) = (vreinterpretq_s64_u64(a), vreinterpretq_s64_u64(b));
                let distance = apart_64(a, b, vcgtq_s64(signed_a, signed_b));
                let flipped = vorrq_u64(
                    vandq_u64(vcltzq_s64(signed_a), vcgtzq_s64(signed_b)),
                    vandq_u64(vcgtzq_s64(signed_a), vcltzq_s64(signed_b)),
                );
                count_64(counts, half, distance, vceqq_u64(a, b), flipped);
            }
        });
    }

    #[inline(always)]
    fn diff_integers_8(
        self,
        rows_a: &[[u8; 32]],
        rows_b: &[[u8; 32]],
        clip: u8,
        flip: u8,
    ) -> IntegerSums {
        neon!({
            use bits8::*;
            let (clip, flip) = (splat(clip), splat(flip));
            let mut counts = self.no_codes();
            // Of a block a lane of 16 bits sums 256 integers, between -2^15 and 2^15 - 256.
            let (mut sum_a, mut sum_b, mut absolute) =
                (vdupq_n_s16(0), vdupq_n_s16(0), vdupq_n_u16(0));
            let zero = vdupq_n_s32(0);
            let (mut squares_a, mut squares_b, mut dot_ab) = (zero, zero, zero);
            for (a, b) in rows_a.iter().zip(rows_b) {
                let (a, b) = (load(a), load(b));
                for half in 0..2 {
                    let (code_a, code_b) = (a[half], b[half]);
                    let a = xor(min(code_a, clip), flip);
                    let b = xor(min(code_b, clip), flip);
                    let distance = signed_apart(a, b);
                    let flipped = above(distance, apart(magnitude(a), magnitude(b)));
                    counts.farthest[half] = max(counts.farthest[half], distance);
                    count!(bits8: counts.same_code[half], equal(code_a, code_b));
                    count!(bits8: counts.same_value[half], is_zero(distance));
                    count!(bits8: counts.flipped[half], flipped);
                    let (a, b) = (vreinterpretq_s8_u8(a), vreinterpretq_s8_u8(b));
                    sum_a = vpadalq_s8(sum_a, a);
                    sum_b = vpadalq_s8(sum_b, b);
                    absolute = vpadalq_u8(absolute, distance);
                    let add_products = |sum, x, y| {
                        let sum = vpadalq_s16(sum, vmull_s8(vget_low_s8(x), vget_low_s8(y)));
                        vpadalq_s16(sum, vmull_high_s8(x, y))
                    };
                    squares_a = add_products(squares_a, a, a);
                    squares_b = add_products(squares_b, b, b);
                    dot_ab = add_products(dot_ab, a, b);
                }
            }
            IntegerSums {
                sum_a: i64::from(vaddlvq_s16(sum_a)),
                sum_b: i64::from(vaddlvq_s16(sum_b)),
                absolute: i64::from(vaddlvq_u16(absolute)),
                squares_a: vaddlvq_s32(squares_a),
                squares_b: vaddlvq_s32(squares_b),
                dot_ab: vaddlvq_s32(dot_ab),
                farthest: self.reduce_8(counts.farthest).0,
                same_code: self.reduce_8(counts.same_code).1,
                same_value: self.reduce_8(counts.same_value).1,
                flipped: self.reduce_8(counts.flipped).1,
            }
        })
    }

    #[inline(always)]
    fn diff_integers_16(self, rows_a: &[[u8; 32]], rows_b: &[[u8; 32]], flip: u16) -> IntegerSums {
        neon!({
            use bits16::*;
            let flip = splat(flip);
            let mut counts = self.no_codes();
            let zero = vdupq_n_s32(0);
            let (mut sum_a, mut sum_b, mut absolute) = (zero, zero, vdupq_n_u32(0));
            let zero = vdupq_n_s64(0);
            let (mut squares_a, mut squares_b, mut dot_ab) = (zero, zero, zero);
            for (a, b) in rows_a.iter().zip(rows_b) {
                let (a, b) = (load(a), load(b));
                for half in 0..2 {
                    let (a, b) = (xor(of(a[half]), flip), xor(of(b[half]), flip));
                    let distance = signed_apart(a, b);
                    let flipped = above(distance, apart(magnitude(a), magnitude(b)));
                    counts.farthest[half] = register(max(of(counts.farthest[half]), distance));
                    count!(bits16: counts.same_code[half], is_zero(distance));
                    count!(bits16: counts.flipped[half], flipped);
                    let (a, b) = (vreinterpretq_s16_u16(a), vreinterpretq_s16_u16(b));
                    sum_a = vpadalq_s16(sum_a, a);
                    sum_b = vpadalq_s16(sum_b, b);
                    absolute = vpadalq_u16(absolute, distance);
                    let add_products = |sum, x, y| {
                        let sum = vpadalq_s32(sum, vmull_s16(vget_low_s16(x), vget_low_s16(y)));
                        vpadalq_s32(sum, vmull_high_s16(x, y))
                    };
                    squares_a = add_products(squares_a, a, a);
                    squares_b = add_products(squares_b, b, b);
                    dot_ab = add_products(dot_ab, a, b);
                }
            }
            let same = self.reduce_16(counts.same_code).1;
            IntegerSums {
                sum_a: vaddlvq_s32(sum_a),
                sum_b: vaddlvq_s32(sum_b),
                absolute: vaddlvq_u32(absolute) as i64,
                squares_a: vaddvq_s64(squares_a),
                squares_b: vaddvq_s64(squares_b),
                dot_ab: vaddvq_s64(dot_ab),
                farthest: self.reduce_16(counts.farthest).0,
                same_code: same,
                same_value: same,
                flipped: self.reduce_16(counts.flipped).1,
            }
        })
    }

    classify_codes!(classify_codes_16, bits16);
    classify_codes!(classify_codes_32, bits32);

    #[inline(always)]
    fn no_classes(self) -> CodeClasses<Self> {
        neon!({
            let zero = [vdupq_n_u8(0); 2];
            CodeClasses {
                zero,
                signed: zero,
                negative_zero: zero,
                tiny: zero,
                saturated: zero,
            }
        })
    }

    #[inline(always)]
    fn nearest_zero_16(self, nearest: [Register; 2], codes: &[u8; 32]) -> [Register; 2] {
        neon!({
            use bits16::*;
            let codes = load(codes);
            let farther = |nearest, code| {
                let twice = add(of(code), of(code));
                register(max(of(nearest), sub(splat(0), twice)))
            };
            [farther(nearest[0], codes[0]), farther(nearest[1], codes[1])]
        })
    }

    #[inline(always)]
    fn count_byte(self, mut counts: [Register; 2], bytes: &[u8; 32], byte: u8) -> [Register; 2] {
        neon!({
            let bytes = load(bytes);
            for half in 0..2 {
                count!(bits8: counts[half], vceqq_u8(bytes[half], vdupq_n_u8(byte)));
            }
            counts
        })
    }

    #[inline(always)]
    fn exponents_f32(self, [w, x, y, z]: [[float32x4_t; 2]; 4], largest: u8) -> [u8; 32] {
        neon!({
            let largest = vdupq_n_u8(largest);
            let distance = |x, y| {
                let exponents =
                    vshrn_high_n_u16::<7>(vshrn_n_u16::<7>(upper_halves(x)), upper_halves(y));
                vsubq_u8(largest, exponents)
            };
            let mut distances = [0; 32];
            store(&mut distances, [distance(w, x), distance(y, z)]);
            distances
        })
    }

    #[inline(always)]
    fn exponents_f64(self, values: [[float64x2_t; 2]; 8], largest: u16) -> [u8; 32] {
        neon!({
            let [s, t, u, v, w, x, y, z] = values;
            let largest = vdupq_n_u16(largest);
            let distance = |x: [float64x2_t; 2], y: [float64x2_t; 2]| {
                let upper = |[x, y]: [float64x2_t; 2]| {
                    vreinterpretq_f32_u32(vuzp2q_u32(
                        vreinterpretq_u32_f64(x),
                        vreinterpretq_u32_f64(y),
                    ))
                };
                let upper = upper_halves([upper(x), upper(y)]);
                let exponents = vshrq_n_u16::<5>(vaddq_u16(upper, upper));
                vqsubq_u16(largest, exponents)
            };
            let narrow = |x, y| vqmovn_high_u16(vqmovn_u16(x), y);
            let mut distances = [0; 32];
            store(
                &mut distances,
                [
                    narrow(distance(s, t), distance(u, v)),
                    narrow(distance(w, x), distance(y, z)),
                ],
            );
            distances
        })
    }

    #[inline(always)]
    fn no_range(self, bytes: usize) -> CodeRange<Self> {
        neon!({
            let highest = match bytes {
                2 => bits16::register(bits16::splat(bits16::SIGN)),
                _ => bits32::register(bits32::splat(bits32::SIGN)),
            };
            CodeRange {
                lowest: [vmvnq_u8(highest); 2],
                highest: [highest; 2],
                smallest: [vdupq_n_u8(u8::MAX); 2],
                signed: [vdupq_n_u8(0); 2],
            }
        })
    }

    survey_codes!(survey_codes_16, bits16);
    survey_codes!(survey_codes_32, bits32);

    extremes!(extremes_16, bits16);
    extremes!(extremes_32, bits32);

    #[inline(always)]
    fn reduce_64(self, lanes: [Register; 2]) -> (u64, u64) {
        neon!({
            let [low, high] = both!(vreinterpretq_u64_u8; lanes);
            let larger = vbslq_u64(vcgtq_u64(low, high), low, high);
            let largest = vgetq_lane_u64::<0>(larger).max(vgetq_lane_u64::<1>(larger));
            // The sum of distances is not asked for, and may wrap.
            (largest, vaddvq_u64(vaddq_u64(low, high)))
        })
    }

    reduce!(reduce_32, bits32);
    reduce!(reduce_16, bits16);
    reduce!(reduce_8, bits8);
}

/// |x - y|, where `above` is the mask of x > y.
#[inline(always)]
fn apart_64(x: uint64x2_t, y: uint64x2_t, above: uint64x2_t) -> uint64x2_t {
    neon!(vbslq_u64(above, vsubq_u64(x, y), vsubq_u64(y, x)))
}

#[inline(always)]
fn count_64(
    counts: &mut CodeCounts<Neon>,
    half: usize,
    distance: uint64x2_t,
    same_code: uint64x2_t,
    flipped: uint64x2_t,
) {
    neon!({
        let count =
            |counts, mask| vreinterpretq_u8_u64(vsubq_u64(vreinterpretq_u64_u8(counts), mask));
        let farthest = vreinterpretq_u64_u8(counts.farthest[half]);
        let farthest = vbslq_u64(vcgtq_u64(distance, farthest), distance, farthest);
        counts.farthest[half] = vreinterpretq_u8_u64(farthest);
        counts.same_code[half] = count(counts.same_code[half], same_code);
        counts.flipped[half] = count(counts.flipped[half], flipped);
    });
}

/// The upper 16 bits of eight lanes of 32.
#[inline(always)]
fn upper_halves([low, high]: [float32x4_t; 2]) -> uint16x8_t {
    neon!(vuzp2q_u16(
        vreinterpretq_u16_f32(low),
        vreinterpretq_u16_f32(high)
    ))
}
