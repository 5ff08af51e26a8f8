//! A partial made of plain numbers, for whoever has reduced a run of elements by other means.

use super::{Moments, StatsPartial};
use crate::histogram::Histogram;
use crate::number::{Extreme, Number};
use crate::scaled::Scaled;

/// Power sums of the finite values around a pivot, both in units of `2^exponent`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Powers {
    /// How many values are finite.
    pub count: u64,
    /// The unit's exponent.
    pub exponent: i32,
    /// Within the values' range, near their mean, so that constant values have sums of zero.
    pub pivot: f64,
    /// Σ (x − pivot)ᵏ for k = 1, 2, 3, 4
    pub sums: [f64; 4],
}

/// The extremes of the finite values.
#[derive(Clone, Copy, Debug)]
pub struct Extremes {
    /// The smallest value.
    pub min: Number,
    /// The largest.
    pub max: Number,
    /// The largest magnitude.
    pub abs_max: Number,
    /// Where that stands in the tensor, counted in floats.
    pub abs_max_index: u64,
}

/// What a [`StatsPartial`] consists of.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The names are those of the columns.
pub struct StatsParts {
    /// `None` where no value is finite.
    pub extremes: Option<Extremes>,
    pub powers: Powers,
    /// Σ |x|
    pub absolute: Scaled,
    pub zeros: u64,
    pub negatives: u64,
    pub subnormals: u64,
    pub nan: u64,
    pub pos_inf: u64,
    pub neg_inf: u64,
    pub saturated: u64,
    /// |x| per power of two, where that was asked for.
    pub histogram: Option<Histogram>,
}

impl From<StatsParts> for StatsPartial {
    fn from(parts: StatsParts) -> Self {
        let Powers {
            count,
            exponent,
            pivot,
            sums,
        } = parts.powers;
        let mut partial = Self {
            moments: Moments::from_powers(count, exponent, pivot, sums),
            absolute: parts.absolute,
            zeros: parts.zeros,
            negatives: parts.negatives,
            subnormals: parts.subnormals,
            nan: parts.nan,
            positive_infinities: parts.pos_inf,
            negative_infinities: parts.neg_inf,
            saturated: parts.saturated,
            histogram: parts.histogram.map(Box::new),
            ..Self::default()
        };
        if let Some(extremes) = parts.extremes {
            partial.min = extremes.min;
            partial.max = extremes.max;
            partial.abs_max = Extreme {
                magnitude: extremes.abs_max,
                index: extremes.abs_max_index,
            };
        }
        partial
    }
}
