//! A sum with its own binary exponent, so that squares of 1e±200 neither overflow nor vanish.
//!
//! Blocks whose values lie in the ordinary range, which is practically all, have exponent 0 and
//! cost nothing more than an `f64`.

/// `value · 2^exponent`.
///
/// Packed, as a partial has seven of them, and a checkpoint hundreds of thousands of partials.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C, packed(4))]
pub struct Scaled {
    value: f64,
    exponent: i32,
}

impl Scaled {
    /// `value · 2^exponent`.
    pub const fn new(value: f64, exponent: i32) -> Self {
        Self { value, exponent }
    }

    /// Add `other`. The smaller exponent is brought to the larger one, which is exact except
    /// where what is lost lies below 2^-1000 of the sum.
    pub fn merge(&mut self, other: Self) {
        if self.exponent == other.exponent {
            self.value += other.value;
        } else if self.value == 0.0 {
            *self = other;
        } else if other.value != 0.0 {
            let exponent = self.exponent.max(other.exponent);
            self.value = self.at(exponent) + other.at(exponent);
            self.exponent = exponent;
        }
    }

    fn at(self, exponent: i32) -> f64 {
        scale(self.value, self.exponent - exponent)
    }

    /// The nearest `f64`.
    pub fn to_f64(self) -> f64 {
        scale(self.value, self.exponent)
    }

    /// Whether it is zero.
    pub fn is_zero(self) -> bool {
        self.value == 0.0
    }

    /// With the value in [1, 2) and all magnitude in the exponent.
    fn normalized(self) -> Self {
        let shift = exponent_of(self.value);
        Self::new(scale(self.value, -shift), self.exponent + shift)
    }

    /// The square root of a sum that is not negative.
    pub fn sqrt(self) -> Self {
        let Self { value, exponent } = self.normalized();
        if exponent % 2 == 0 {
            Self::new(value.sqrt(), exponent / 2)
        } else {
            Self::new((value * 2.0).sqrt(), (exponent - 1) / 2)
        }
    }
}

impl std::ops::Add for Scaled {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self.merge(other);
        self
    }
}

impl std::ops::Neg for Scaled {
    type Output = Self;

    fn neg(self) -> Self {
        Self::new(-self.value, self.exponent)
    }
}

impl std::ops::Sub for Scaled {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

impl std::ops::Mul for Scaled {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        let (left, right) = (self.normalized(), other.normalized());
        Self::new(left.value * right.value, left.exponent + right.exponent)
    }
}

impl std::ops::Div for Scaled {
    type Output = Self;

    fn div(self, other: Self) -> Self {
        let (left, right) = (self.normalized(), other.normalized());
        Self::new(left.value / right.value, left.exponent - right.exponent)
    }
}

impl From<f64> for Scaled {
    fn from(value: f64) -> Self {
        Self::new(value, 0)
    }
}

/// `value · 2^exponent`, rounded once except in the subnormal range.
pub(crate) fn scale(mut value: f64, mut exponent: i32) -> f64 {
    const STEP: i32 = 1000;
    let power = |exponent: i32| f64::from_bits(((exponent + 1023) as u64) << 52);
    while exponent > STEP {
        value *= power(STEP);
        exponent -= STEP;
        if value == 0.0 || value.is_infinite() {
            return value;
        }
    }
    while exponent < -STEP {
        value *= power(-STEP);
        exponent += STEP;
        if value == 0.0 || value.is_infinite() {
            return value;
        }
    }
    value * power(exponent)
}

/// `floor(log2 |value|)` of a finite value; 0 for 0 and for what is not finite.
pub(crate) fn exponent_of(value: f64) -> i32 {
    let biased = ((value.to_bits() >> 52) & 0x7ff) as i32;
    match biased {
        0 if value == 0.0 => 0,
        // A subnormal: bring it into the normal range first.
        0 => exponent_of(value * 18_014_398_509_481_984.0) - 54,
        0x7ff => 0,
        _ => biased - 1023,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_squares_far_outside_f64_come_back() {
        let huge = Scaled::new(1.0, 1400) * Scaled::from(4.0);
        assert_eq!(huge.sqrt().to_f64(), scale(2.0, 700));
        let tiny = Scaled::new(1.0, -1401) * Scaled::from(2.0);
        assert_eq!(tiny.sqrt().to_f64(), scale(1.0, -700));
    }

    #[test]
    fn merging_keeps_the_smaller_where_it_matters() {
        let mut sum = Scaled::new(1.0, -10);
        sum.merge(Scaled::new(1.0, 0));
        assert_eq!(sum.to_f64(), 1.0 + 1.0 / 1024.0);
        let mut zero = Scaled::default();
        zero.merge(Scaled::new(3.0, -2000));
        assert_eq!((zero / Scaled::new(1.0, -2000)).to_f64(), 3.0);
    }

    #[test]
    fn exponents_are_floors_of_log2() {
        for (value, exponent) in [(1.0, 0), (1.99, 0), (2.0, 1), (0.75, -1), (5e-324, -1074)] {
            assert_eq!(exponent_of(value), exponent, "{value}");
        }
    }
}
