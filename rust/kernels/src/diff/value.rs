//! One value, and the difference of two, in whatever holds them exactly.

use crate::number::Number;

/// One value, in whatever holds it exactly.
#[derive(Clone, Copy)]
pub(super) enum Value {
    Float(f64),
    Integer(i128),
}

impl Value {
    #[inline(always)]
    pub(super) fn to_f64(self) -> f64 {
        match self {
            Self::Float(value) => value,
            Self::Integer(value) => value as f64,
        }
    }

    pub(super) fn number(self) -> Number {
        match self {
            Self::Float(value) => Number::float(value),
            Self::Integer(value) => Number::integer(value),
        }
    }
}

/// An exact or correctly rounded difference of two finite values.
#[derive(Clone, Copy)]
pub(super) enum Difference {
    Float(f64),
    Integer(i128),
}

impl Difference {
    /// b − a.
    #[inline(always)]
    pub(super) fn between(a: Value, b: Value) -> Self {
        match (a, b) {
            (Value::Float(a), Value::Float(b)) => Self::Float(b - a),
            (Value::Integer(a), Value::Integer(b)) => Self::Integer(b - a),
            (Value::Integer(a), Value::Float(b)) => Self::float_minus_integer(b, a),
            (Value::Float(a), Value::Integer(b)) => match Self::float_minus_integer(a, b) {
                Self::Float(difference) => Self::Float(-difference),
                Self::Integer(difference) => Self::Integer(-difference),
            },
        }
    }

    fn float_minus_integer(float: f64, integer: i128) -> Self {
        /// From here on the last bit of a float is worth more than any integer.
        const BEYOND: f64 = (1u128 << 120) as f64;
        /// What a [`Number`] holds exactly.
        const EXACT: u128 = 1 << 80;
        if float.abs() >= BEYOND {
            return Self::Float(float);
        }
        let whole = float.trunc() as i128 - integer;
        let fraction = float - float.trunc();
        if fraction == 0.0 && whole.unsigned_abs() < EXACT {
            Self::Integer(whole)
        } else if fraction == 0.0 {
            Self::Float(whole as f64)
        } else if whole.unsigned_abs() < 1 << 53 {
            // Rounded once, by the addition.
            Self::Float(whole as f64 + fraction)
        } else {
            // Here the fraction only decides on which side of the whole number the difference is,
            // and a half stands for any.
            let half = if fraction > 0.0 { 1 } else { -1 };
            Self::Float((2 * whole + half) as f64 / 2.0)
        }
    }

    #[inline(always)]
    pub(super) fn to_f64(self) -> f64 {
        match self {
            Self::Float(value) => value,
            Self::Integer(value) => value as f64,
        }
    }

    #[inline(always)]
    pub(super) fn is_zero(self) -> bool {
        match self {
            Self::Float(value) => value == 0.0,
            Self::Integer(value) => value == 0,
        }
    }

    pub(super) fn magnitude(self) -> Number {
        match self {
            Self::Float(value) => Number::float(value.abs()),
            Self::Integer(value) => Number::integer(value.abs()),
        }
    }

    /// Whether |d| > `limit`, exactly.
    pub(super) fn exceeds(self, limit: f64) -> bool {
        match self {
            Self::Float(value) => value.abs() > limit,
            Self::Integer(value) if limit < 1e30 => value.abs() > limit.floor() as i128,
            Self::Integer(_) => false,
        }
    }
}
