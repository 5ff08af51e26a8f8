//! The element types a checkpoint can hold, and the facts about each that the kernels need.
//!
//! Names are those of the safetensors format, with two additions: `C128`, for tensors in memory, and
//! the quantised types of ggml, which GGUF files hold, as ggml spells them.

use std::fmt;
use std::ops::Range;

/// How a float format spends its codes on what is not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Specials {
    /// The top exponent is Inf (mantissa 0) and NaN, as in IEEE 754.
    Ieee,
    /// No Inf; the code with all bits set is NaN (OCP `E4M3`).
    AllOnesIsNan,
    /// No Inf and no −0; the code of −0 is NaN (`FNUZ`).
    NegativeZeroIsNan,
    /// Every code is finite (OCP `F4`, `F6`).
    None,
}

/// A sign-magnitude float format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FloatFormat {
    pub(crate) exponent_bits: u32,
    pub(crate) mantissa_bits: u32,
    pub(crate) bias: i32,
    pub(crate) specials: Specials,
}

impl FloatFormat {
    const fn new(exponent_bits: u32, mantissa_bits: u32, bias: i32, specials: Specials) -> Self {
        Self {
            exponent_bits,
            mantissa_bits,
            bias,
            specials,
        }
    }

    /// The largest code, without sign, that stands for a finite value.
    pub(crate) const fn largest_finite_code(self) -> u64 {
        let all = (1u64 << (self.exponent_bits + self.mantissa_bits)) - 1;
        match self.specials {
            Specials::Ieee => all - (1 << self.mantissa_bits),
            Specials::AllOnesIsNan => all - 1,
            Specials::NegativeZeroIsNan | Specials::None => all,
        }
    }

    /// The value of a code without sign that is finite.
    pub(crate) fn value(self, code: u64) -> f64 {
        let mantissa = code & ((1 << self.mantissa_bits) - 1);
        let exponent = (code >> self.mantissa_bits) as i32;
        let significand = if exponent == 0 {
            mantissa
        } else {
            mantissa | (1 << self.mantissa_bits)
        };
        let power = exponent.max(1) - self.bias - self.mantissa_bits as i32;
        crate::scaled::scale(significand as f64, power)
    }
}

/// Elements that fill whole bytes together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granule {
    /// How many elements.
    pub elements: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
#[allow(missing_docs)] // The names are the documentation.
pub enum DType {
    Bool,
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F16,
    BF16,
    F32,
    F64,
    C64,
    C128,
    F8E4M3,
    F8E5M2,
    F8E4M3Fnuz,
    F8E5M2Fnuz,
    F8E8M0,
    F4,
    F6E2M3,
    F6E3M2,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    MXFP4,
}

/// A dtype name that no kernel knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownDType(pub String);

impl fmt::Display for UnknownDType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "unknown dtype {:?}", self.0)
    }
}

impl std::error::Error for UnknownDType {}

/// What arithmetic holds a dtype's values, and its differences, well enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Domain {
    /// Exact in `f32`, with a significand of at most 11 bits, so that squares are exact, too.
    Narrow,
    /// Exact in `f64`.
    Wide,
    /// 64-bit integers: exact in `i128`.
    Integer,
}

impl DType {
    /// Every dtype.
    pub const ALL: [Self; 34] = [
        Self::Bool,
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::U64,
        Self::I64,
        Self::F16,
        Self::BF16,
        Self::F32,
        Self::F64,
        Self::C64,
        Self::C128,
        Self::F8E4M3,
        Self::F8E5M2,
        Self::F8E4M3Fnuz,
        Self::F8E5M2Fnuz,
        Self::F8E8M0,
        Self::F4,
        Self::F6E2M3,
        Self::F6E3M2,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::MXFP4,
    ];

    /// The dtypes that values can be rounded to.
    pub const CAST_TARGETS: [Self; 8] = [
        Self::F64,
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::F8E4M3,
        Self::F8E5M2,
        Self::F8E4M3Fnuz,
        Self::F8E5M2Fnuz,
    ];

    /// The name in a safetensors header, or ggml's.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::U8 => "U8",
            Self::I8 => "I8",
            Self::U16 => "U16",
            Self::I16 => "I16",
            Self::U32 => "U32",
            Self::I32 => "I32",
            Self::U64 => "U64",
            Self::I64 => "I64",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::F32 => "F32",
            Self::F64 => "F64",
            Self::C64 => "C64",
            Self::C128 => "C128",
            Self::F8E4M3 => "F8_E4M3",
            Self::F8E5M2 => "F8_E5M2",
            Self::F8E4M3Fnuz => "F8_E4M3FNUZ",
            Self::F8E5M2Fnuz => "F8_E5M2FNUZ",
            Self::F8E8M0 => "F8_E8M0",
            Self::F4 => "F4",
            Self::F6E2M3 => "F6_E2M3",
            Self::F6E3M2 => "F6_E3M2",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::MXFP4 => "MXFP4",
        }
    }

    /// The dtype of that name.
    pub fn from_name(name: &str) -> Result<Self, UnknownDType> {
        Self::ALL
            .into_iter()
            .find(|dtype| dtype.name() == name)
            .ok_or_else(|| UnknownDType(name.to_owned()))
    }

    /// The smallest run of elements that fills whole bytes: several elements that are packed
    /// without padding, or the block that shares a scale. [`BLOCK`](crate::BLOCK) is a multiple of
    /// every one.
    pub const fn granule(self) -> Granule {
        let (elements, bytes) = match self {
            Self::F4 => (2, 1),
            Self::F6E2M3 | Self::F6E3M2 => (4, 3),
            Self::Bool
            | Self::U8
            | Self::I8
            | Self::F8E4M3
            | Self::F8E5M2
            | Self::F8E4M3Fnuz
            | Self::F8E5M2Fnuz
            | Self::F8E8M0 => (1, 1),
            Self::U16 | Self::I16 | Self::F16 | Self::BF16 => (1, 2),
            Self::U32 | Self::I32 | Self::F32 => (1, 4),
            Self::U64 | Self::I64 | Self::F64 | Self::C64 => (1, 8),
            Self::C128 => (1, 16),
            // Scales and minima are F16, of a block or of a block of blocks.
            Self::Q4_0 => (32, 2 + 16),
            Self::Q4_1 => (32, 2 + 2 + 16),
            Self::Q5_0 => (32, 2 + 4 + 16),
            Self::Q5_1 => (32, 2 + 2 + 4 + 16),
            Self::Q8_0 => (32, 2 + 32),
            Self::MXFP4 => (32, 1 + 16),
            Self::Q2K => (256, 16 + 64 + 2 + 2),
            Self::Q3K => (256, 32 + 64 + 12 + 2),
            Self::Q4K => (256, 2 + 2 + 12 + 128),
            Self::Q5K => (256, 2 + 2 + 12 + 32 + 128),
            Self::Q6K => (256, 128 + 64 + 16 + 2),
        };
        Granule { elements, bytes }
    }

    /// Bits of one element, without those of a block's scales.
    ///
    /// For a quantised dtype this is rounded up with them, and only good to plan by; sizes are told
    /// by [`bytes`](Self::bytes) and [`bytes_before`](Self::bytes_before).
    pub const fn bits(self) -> u64 {
        let Granule { elements, bytes } = self.granule();
        (bytes * 8).div_ceil(elements)
    }

    /// Bytes of `elements` elements, where they fill whole granules and the count fits.
    pub fn bytes(self, elements: u64) -> Option<u64> {
        let granule = self.granule();
        if elements.is_multiple_of(granule.elements) {
            (elements / granule.elements).checked_mul(granule.bytes)
        } else {
            None
        }
    }

    /// Bytes that hold the first `elements` elements: where the next one begins, if a granule does.
    pub const fn bytes_before(self, elements: u64) -> u64 {
        let granule = self.granule();
        if granule.elements == 1 {
            // Asked for every block of every checkpoint, and most often by these dtypes.
            return elements.wrapping_mul(granule.bytes);
        }
        (elements as u128 * granule.bytes as u128).div_ceil(granule.elements as u128) as u64
    }

    /// Where the bytes of `count` elements lie, of which the first begins a granule.
    pub(crate) fn byte_range(self, first: usize, count: usize) -> Range<usize> {
        let at = |element: usize| self.bytes_before(element as u64) as usize;
        at(first)..at(first + count)
    }

    /// Whether elements have no codes of their own, but share a block's scale (and minimum), so
    /// that neither the bits of one nor a step from one value to the next mean anything.
    pub const fn is_quantised(self) -> bool {
        matches!(
            self,
            Self::Q4_0
                | Self::Q4_1
                | Self::Q5_0
                | Self::Q5_1
                | Self::Q8_0
                | Self::Q2K
                | Self::Q3K
                | Self::Q4K
                | Self::Q5K
                | Self::Q6K
                | Self::MXFP4
        )
    }

    /// Whether a byte holds codes of several elements, or parts of them.
    pub(crate) const fn is_packed(self) -> bool {
        matches!(self, Self::F4 | Self::F6E2M3 | Self::F6E3M2)
    }

    /// Whether elements have codes of their own, of at most 8 bits.
    pub(crate) const fn has_few_codes(self) -> bool {
        self.bits() <= 8 && !self.is_quantised()
    }

    /// Floats per element: two for complex numbers, which are reduced as real and imaginary parts.
    pub const fn components(self) -> usize {
        match self {
            Self::C64 | Self::C128 => 2,
            _ => 1,
        }
    }

    /// Whether values are integers (or booleans, counted as 0 and 1).
    pub const fn is_integer(self) -> bool {
        matches!(
            self,
            Self::Bool
                | Self::U8
                | Self::I8
                | Self::U16
                | Self::I16
                | Self::U32
                | Self::I32
                | Self::U64
                | Self::I64
        )
    }

    pub(crate) const fn domain(self) -> Domain {
        match self {
            Self::U64 | Self::I64 => Domain::Integer,
            Self::U16
            | Self::I16
            | Self::U32
            | Self::I32
            | Self::F32
            | Self::F64
            | Self::C64
            | Self::C128 => Domain::Wide,
            // A scale has 11 bits, a code of these 3, 4 or 2: no product has more than 15.
            Self::Q4_0 | Self::Q5_0 | Self::MXFP4 => Domain::Narrow,
            quantised if quantised.is_quantised() => Domain::Wide,
            _ => Domain::Narrow,
        }
    }

    /// The format of a float's (or a complex number's component's) code.
    pub(crate) const fn float_format(self) -> Option<FloatFormat> {
        Some(match self {
            Self::F16 => FloatFormat::new(5, 10, 15, Specials::Ieee),
            Self::BF16 => FloatFormat::new(8, 7, 127, Specials::Ieee),
            Self::F32 | Self::C64 => FloatFormat::new(8, 23, 127, Specials::Ieee),
            Self::F64 | Self::C128 => FloatFormat::new(11, 52, 1023, Specials::Ieee),
            Self::F8E4M3 => FloatFormat::new(4, 3, 7, Specials::AllOnesIsNan),
            Self::F8E5M2 => FloatFormat::new(5, 2, 15, Specials::Ieee),
            Self::F8E4M3Fnuz => FloatFormat::new(4, 3, 8, Specials::NegativeZeroIsNan),
            Self::F8E5M2Fnuz => FloatFormat::new(5, 2, 16, Specials::NegativeZeroIsNan),
            Self::F4 => FloatFormat::new(2, 1, 1, Specials::None),
            Self::F6E2M3 => FloatFormat::new(2, 3, 1, Specials::None),
            Self::F6E3M2 => FloatFormat::new(3, 2, 3, Specials::None),
            _ => return None,
        })
    }

    /// The smallest positive normal value; 0 where there are no subnormals.
    pub(crate) fn smallest_normal(self) -> f64 {
        self.float_format()
            .map_or(0.0, |format| format.value(1 << format.mantissa_bits))
    }

    /// Below this, differences of narrow values of this dtype are exact in `f32`: they are
    /// multiples of the smallest step, 2^24 of which have 24 bits.
    pub(crate) fn exact_differences_below(self) -> f64 {
        let step = match self {
            Self::F8E8M0 => crate::scaled::scale(1.0, -127),
            // Whole multiples of the smallest scale.
            Self::Q4_0 | Self::Q5_0 => crate::scaled::scale(1.0, -24),
            Self::MXFP4 => crate::scaled::scale(1.0, -128),
            dtype => dtype.float_format().map_or(1.0, |format| format.value(1)),
        };
        crate::scaled::scale(step, 24)
    }

    /// The largest finite magnitudes (lowest, highest) whose occurrence counts as saturated.
    ///
    /// `None` for booleans, for which every value would be one, and for quantised dtypes, whose
    /// largest value depends on the block. 64-bit integers are compared in
    /// their own domain, so rounding here does not matter to them.
    pub(crate) fn saturation(self) -> Option<(f64, f64)> {
        Some(match self {
            Self::Bool => return None,
            Self::U8 => (f64::INFINITY, 255.0),
            Self::I8 => (-128.0, 127.0),
            Self::U16 => (f64::INFINITY, 65535.0),
            Self::I16 => (-32768.0, 32767.0),
            Self::U32 => (f64::INFINITY, f64::from(u32::MAX)),
            Self::I32 => (f64::from(i32::MIN), f64::from(i32::MAX)),
            Self::U64 => (f64::INFINITY, u64::MAX as f64),
            Self::I64 => (i64::MIN as f64, i64::MAX as f64),
            Self::F8E8M0 => (f64::INFINITY, crate::scaled::scale(1.0, 127)),
            float => {
                let format = float.float_format()?;
                let largest = format.value(format.largest_finite_code());
                (-largest, largest)
            }
        })
    }
}

impl fmt::Display for DType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
