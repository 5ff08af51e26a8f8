//! A partial made of plain numbers, for whoever has reduced a run of elements by other means.

use super::{DiffPartial, Extras, Nonfinite};
use crate::histogram::Histogram;
use crate::number::{Extreme, Number};
use crate::scaled::Scaled;

/// The difference of largest magnitude, which is not zero.
#[derive(Clone, Copy, Debug)]
pub struct LargestDifference {
    /// |b − a|
    pub magnitude: Number,
    /// Where it stands in the tensor, counted in floats.
    pub index: u64,
    /// What stands there in A.
    pub value_a: Number,
    /// What stands there in B.
    pub value_b: Number,
}

/// What a [`DiffPartial`] consists of; sums run over the positions where both sides are finite.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The names are those of the columns.
pub struct DiffParts {
    pub finite: u64,
    pub changed: u64,
    pub bits_changed: u64,
    pub sign_flips: u64,
    pub out_of_tolerance: u64,
    pub max_ulp: u64,
    pub nan_a: u64,
    pub nan_b: u64,
    pub inf_a: u64,
    pub inf_b: u64,
    pub nonfinite_mismatch: u64,
    /// Σ d, Σ |d|, Σ d², Σ a², Σ b², Σ d·a, Σ a·b
    pub sums: [Scaled; 7],
    /// `None` where nothing differs.
    pub largest: Option<LargestDifference>,
    /// How many |d| exceed each threshold.
    pub above: Vec<u64>,
    /// |d| per power of two, where that was asked for.
    pub histogram: Option<Histogram>,
}

impl From<DiffParts> for DiffPartial {
    fn from(parts: DiffParts) -> Self {
        let nonfinite = Nonfinite {
            nan_a: parts.nan_a,
            nan_b: parts.nan_b,
            inf_a: parts.inf_a,
            inf_b: parts.inf_b,
            mismatch: parts.nonfinite_mismatch,
        };
        let [
            difference,
            absolute,
            squares_d,
            squares_a,
            squares_b,
            dot_da,
            dot_ab,
        ] = parts.sums;
        let mut partial = Self {
            finite: parts.finite,
            changed: parts.changed,
            bits_changed: parts.bits_changed,
            blocks_differ: false,
            sign_flips: parts.sign_flips,
            out_of_tolerance: parts.out_of_tolerance,
            max_ulp: parts.max_ulp,
            nonfinite: (nonfinite != Nonfinite::default()).then(|| Box::new(nonfinite)),
            difference,
            absolute,
            squares_d,
            squares_a,
            squares_b,
            dot_da,
            dot_ab,
            max_abs: Extreme::default(),
            value_a: Number::default(),
            value_b: Number::default(),
            extras: None,
        };
        if let Some(largest) = parts.largest {
            partial.max_abs = Extreme {
                magnitude: largest.magnitude,
                index: largest.index,
            };
            partial.value_a = largest.value_a;
            partial.value_b = largest.value_b;
        }
        if !parts.above.is_empty() || parts.histogram.is_some() {
            partial.extras = Some(Box::new(Extras {
                above: parts.above,
                histogram: parts.histogram.unwrap_or_default(),
            }));
        }
        partial
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(index: u64, magnitude: f64) -> DiffParts {
        DiffParts {
            finite: 2,
            changed: 1,
            bits_changed: 1,
            sign_flips: 0,
            out_of_tolerance: 1,
            max_ulp: 3,
            nan_a: 1,
            nan_b: 0,
            inf_a: 0,
            inf_b: 0,
            nonfinite_mismatch: 1,
            sums: [Scaled::from(magnitude); 7],
            largest: Some(LargestDifference {
                magnitude: Number::float(magnitude),
                index,
                value_a: Number::float(0.0),
                value_b: Number::float(magnitude),
            }),
            above: vec![1],
            histogram: None,
        }
    }

    #[test]
    fn parts_merge_as_partials_do() {
        let mut partial = DiffPartial::from(parts(5, 2.0));
        partial.merge(&parts(9, 2.0).into());
        partial.merge(&parts(11, 3.0).into());
        let summary = partial.finish();
        assert_eq!((summary.finite, summary.changed, summary.nan_a), (6, 3, 3));
        assert_eq!(summary.max_abs_index, Some(11));
        assert_eq!(summary.mean_diff, 7.0 / 6.0);
        assert_eq!(partial.above(0), 3);
    }

    #[test]
    fn of_equal_differences_the_earlier_stays() {
        let mut partial = DiffPartial::from(parts(5, 2.0));
        partial.merge(&parts(9, 2.0).into());
        assert_eq!(partial.finish().max_abs_index, Some(5));
    }
}
