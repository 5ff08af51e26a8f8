//! The element types a checkpoint can hold, and the facts about each that the kernels need.
//!
//! Names are those of the safetensors format; `C128` is the one addition, for tensors in memory.

use std::fmt;

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
    pub const ALL: [Self; 23] = [
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

    /// The name in a safetensors header.
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
        }
    }

    /// The dtype of that safetensors name.
    pub fn from_name(name: &str) -> Result<Self, UnknownDType> {
        Self::ALL
            .into_iter()
            .find(|dtype| dtype.name() == name)
            .ok_or_else(|| UnknownDType(name.to_owned()))
    }

    /// Bits of one element; F4 and F6 are packed without padding between elements.
    pub const fn bits(self) -> u64 {
        match self {
            Self::F4 => 4,
            Self::F6E2M3 | Self::F6E3M2 => 6,
            Self::Bool
            | Self::U8
            | Self::I8
            | Self::F8E4M3
            | Self::F8E5M2
            | Self::F8E4M3Fnuz
            | Self::F8E5M2Fnuz
            | Self::F8E8M0 => 8,
            Self::U16 | Self::I16 | Self::F16 | Self::BF16 => 16,
            Self::U32 | Self::I32 | Self::F32 => 32,
            Self::U64 | Self::I64 | Self::F64 | Self::C64 => 64,
            Self::C128 => 128,
        }
    }

    /// Bytes of `elements` elements, where they fill whole bytes and the count fits.
    pub fn bytes(self, elements: u64) -> Option<u64> {
        let bits = u128::from(elements) * u128::from(self.bits());
        if bits % 8 == 0 {
            u64::try_from(bits / 8).ok()
        } else {
            None
        }
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
            dtype => dtype.float_format().map_or(1.0, |format| format.value(1)),
        };
        crate::scaled::scale(step, 24)
    }

    /// The largest finite magnitudes (lowest, highest) whose occurrence counts as saturated.
    ///
    /// `None` for booleans, for which every value would be one. 64-bit integers are compared in
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
