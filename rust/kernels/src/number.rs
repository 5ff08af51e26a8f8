//! A value as a user sees it: a float, or an integer of up to 65 bits, exactly.

use std::cmp::Ordering;

/// The nearest `f64`, and what an integer differs from it.
///
/// A 64-bit integer, or the difference of two, needs up to 65 bits; the nearest `f64` has 53 and
/// the rest fits in the residual. That keeps an exact value in 12 bytes, and comparable.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C, packed(4))]
pub struct Number {
    nearest: f64,
    residual: i32,
}

impl Number {
    /// A float, NaN where there is no value.
    pub const fn float(value: f64) -> Self {
        Self {
            nearest: value,
            residual: 0,
        }
    }

    /// An integer of at most 80 bits.
    pub fn integer(value: i128) -> Self {
        let nearest = value as f64;
        Self {
            nearest,
            residual: (value - nearest as i128) as i32,
        }
    }

    /// The nearest `f64`.
    pub const fn to_f64(self) -> f64 {
        self.nearest
    }

    /// The exact integer; only meaningful for one that was made of an integer or whole float.
    pub fn to_integer(self) -> i128 {
        self.nearest as i128 + i128::from(self.residual)
    }

    /// Whether it is a number at all.
    pub const fn is_nan(self) -> bool {
        self.nearest.is_nan()
    }

    /// By value; NaN is smaller than everything, so that it never wins.
    pub fn compare(self, other: Self) -> Ordering {
        match (self.is_nan(), other.is_nan()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            (false, false) => self
                .to_f64()
                .partial_cmp(&other.to_f64())
                .unwrap_or(Ordering::Equal)
                .then(self.residual.cmp(&other.residual)),
        }
    }

    /// Whether it is larger than `other`; a number is larger than NaN.
    pub fn exceeds(self, other: Self) -> bool {
        self.compare(other) == Ordering::Greater
    }
}

/// The largest magnitude seen, and the first position where it stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Extreme {
    /// The magnitude; NaN where no finite value was seen.
    pub magnitude: Number,
    /// Flat index, counted in floats.
    pub index: u64,
}

impl Default for Extreme {
    fn default() -> Self {
        Self {
            magnitude: Number::float(f64::NAN),
            index: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_65_bits_survive() {
        for value in [
            i128::from(u64::MAX),
            i128::from(u64::MAX) + i128::from(i64::MAX) + 1,
            i128::from(i64::MIN),
            (1 << 53) + 1,
        ] {
            assert_eq!(Number::integer(value).to_integer(), value);
            assert!(Number::integer(value + 1).exceeds(Number::integer(value)));
        }
    }

    #[test]
    fn nan_never_wins() {
        assert!(Number::float(-1.0).exceeds(Number::float(f64::NAN)));
        assert!(!Number::float(f64::NAN).exceeds(Number::float(f64::NAN)));
    }
}
