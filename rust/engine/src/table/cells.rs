//! One value of a row.

use std::borrow::Cow;

use ckptdiff_kernels::Number;

/// One value of a row, exact.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell<'a> {
    /// Undefined here.
    Null,
    /// A count.
    Count(u64),
    /// An integer value.
    Integer(i128),
    /// A float, possibly not finite.
    Float(f64),
    /// One of a few words: a dtype, a verdict.
    Word(&'static str),
    /// A name or a hash.
    Text(Cow<'a, str>),
    /// A shape or an index.
    Tuple(Cow<'a, [u64]>),
}

impl<'a> Cell<'a> {
    /// A value of a tensor: exact where it is an integer.
    pub(super) fn value(number: Number, integer: bool) -> Self {
        if number.is_nan() {
            Self::Float(f64::NAN)
        } else if integer {
            Self::Integer(number.to_integer())
        } else {
            Self::Float(number.to_f64())
        }
    }

    /// A count where `defined`.
    pub(super) fn count_if(defined: bool, count: u64) -> Self {
        if defined {
            Self::Count(count)
        } else {
            Self::Null
        }
    }

    /// A text that is borrowed.
    pub(super) const fn text(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }

    pub(super) const fn count(&self) -> u64 {
        match self {
            Self::Count(count) => *count,
            _ => 0,
        }
    }

    pub(super) const fn nearest_float(&self) -> f64 {
        match self {
            Self::Float(value) => *value,
            Self::Integer(value) => *value as f64,
            Self::Count(value) => *value as f64,
            _ => f64::NAN,
        }
    }
}

/// Append a finite float as Python's `repr` writes it: the shortest digits that read back the same,
/// of two equally near the even one (where Rust's own formatting takes the odd).
pub(crate) fn python_float(out: &mut String, value: f64) {
    let mut buffer = zmij::Buffer::new();
    let text = buffer.format_finite(value);
    let magnitude = text.trim_start_matches('-');
    out.push_str(&text[..text.len() - magnitude.len()]);
    if let Some((mantissa, exponent)) = magnitude.split_once('e') {
        let digits = exponent.trim_start_matches(['-', '+']);
        out.push_str(mantissa);
        out.push_str(if exponent.starts_with('-') {
            "e-"
        } else {
            "e+"
        });
        out.push_str(if digits.len() < 2 { "0" } else { "" });
        out.push_str(digits);
    } else if let Some(digits) = magnitude.strip_prefix("0.0000") {
        // Python goes over to exponents one power of ten earlier.
        let (first, rest) = digits.split_at(1);
        out.push_str(first);
        out.push_str(if rest.is_empty() { "" } else { "." });
        out.push_str(rest);
        out.push_str("e-05");
    } else {
        out.push_str(magnitude);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_python_does() {
        for (value, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.0001, "0.0001"),
            (-0.00001234, "-1.234e-05"),
            (1e-10, "1e-10"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (-1.5e300, "-1.5e+300"),
            (5e-324, "5e-324"),
            (9.99e-5, "9.99e-05"),
            (1e-5, "1e-05"),
            (f64::MAX, "1.7976931348623157e+308"),
            (0.1 + 0.2, "0.30000000000000004"),
            (0.000_139_713_287_353_515_62, "0.00013971328735351562"),
        ] {
            let mut out = String::from("e");
            python_float(&mut out, value);
            assert_eq!(out[1..], *text);
        }
    }
}
