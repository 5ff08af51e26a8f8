//! What is in one run of elements.
//!
//! Central moments are accumulated around a pivot inside each block and merged by the pairwise
//! update of Pébay, "Formulas for robust, one-pass parallel computation of covariances and
//! arbitrary-order statistical moments" (Sandia report SAND2008-6212, 2008), equations 2.1 and
//! 3.1, so that a mean far from zero costs no digits.

mod codes;
mod kernel;
mod parts;
mod passes;

pub use kernel::StatsKernel;
pub use parts::{Extremes, Powers, StatsParts};

use self::codes::Occurrences;
use crate::histogram::Histogram;
use crate::number::{Extreme, Number};
use crate::scaled::{Scaled, scale};

/// What stats measures beside the default columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatsOptions {
    /// Count |x| per power of two.
    pub histogram: bool,
}

/// Count, mean and central moments of values in units of `2^exponent`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Moments {
    count: u64,
    exponent: i32,
    mean: f64,
    second: f64,
    third: f64,
    fourth: f64,
}

impl Moments {
    fn merge(&mut self, later: &Self) {
        if later.count == 0 {
            return;
        }
        if self.count == 0 {
            *self = *later;
            return;
        }
        let exponent = self.exponent.max(later.exponent);
        let (a, b) = (self.at(exponent), later.at(exponent));
        let (n_a, n_b) = (a.count as f64, b.count as f64);
        let n = n_a + n_b;
        let delta = b.mean - a.mean;
        let delta_n = delta / n;
        let cross = delta * delta_n * n_a * n_b;
        *self = Self {
            count: a.count + b.count,
            exponent,
            mean: a.mean + delta_n * n_b,
            second: a.second + b.second + cross,
            third: a.third
                + b.third
                + cross * delta_n * (n_a - n_b)
                + 3.0 * delta_n * (n_a * b.second - n_b * a.second),
            fourth: a.fourth
                + b.fourth
                + cross * delta_n * delta_n * (n_a * n_a - n_a * n_b + n_b * n_b)
                + 6.0 * delta_n * delta_n * (n_a * n_a * b.second + n_b * n_b * a.second)
                + 4.0 * delta_n * (n_a * b.third - n_b * a.third),
        };
    }

    fn at(self, exponent: i32) -> Self {
        let shift = self.exponent - exponent;
        if shift == 0 {
            return self;
        }
        Self {
            count: self.count,
            exponent,
            mean: scale(self.mean, shift),
            second: scale(self.second, 2 * shift),
            third: scale(self.third, 3 * shift),
            fourth: scale(self.fourth, 4 * shift),
        }
    }

    /// From power sums of `x - pivot`, in units of `2^exponent`.
    fn from_powers(count: u64, exponent: i32, pivot: f64, [s1, s2, s3, s4]: [f64; 4]) -> Self {
        if count == 0 {
            return Self::default();
        }
        let n = count as f64;
        let shift = s1 / n;
        Self {
            count,
            exponent,
            mean: pivot + shift,
            second: (s2 - shift * s1).max(0.0),
            third: s3 - 3.0 * shift * s2 + 2.0 * shift * shift * s1,
            fourth: (s4 - 4.0 * shift * s3 + 6.0 * shift * shift * s2
                - 3.0 * shift * shift * shift * s1)
                .max(0.0),
        }
    }

    /// Σ x²
    fn squares(&self) -> Scaled {
        Scaled::new(
            self.second + self.count as f64 * self.mean * self.mean,
            2 * self.exponent,
        )
    }
}

/// Everything stats knows of a run of elements.
#[derive(Clone, Debug, PartialEq)]
pub struct StatsPartial {
    min: Number,
    max: Number,
    abs_max: Extreme,
    moments: Moments,
    absolute: Scaled,
    zeros: u64,
    negatives: u64,
    subnormals: u64,
    nan: u64,
    positive_infinities: u64,
    negative_infinities: u64,
    saturated: u64,
    histogram: Option<Box<Histogram>>,
    /// Of codes that are in the histogram and the largest magnitude, and not yet in the rest.
    occurrences: Option<Box<Occurrences>>,
}

impl Default for StatsPartial {
    fn default() -> Self {
        Self {
            min: Number::float(f64::NAN),
            max: Number::float(f64::NAN),
            abs_max: Extreme::default(),
            moments: Moments::default(),
            absolute: Scaled::default(),
            zeros: 0,
            negatives: 0,
            subnormals: 0,
            nan: 0,
            positive_infinities: 0,
            negative_infinities: 0,
            saturated: 0,
            histogram: None,
            occurrences: None,
        }
    }
}

/// The columns that a [`StatsPartial`] gives.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The names are those of the columns.
pub struct StatsSummary {
    pub min: Number,
    pub max: Number,
    pub abs_max: Number,
    /// Counted in floats; `None` where nothing is finite.
    pub abs_max_index: Option<u64>,
    pub mean: f64,
    pub std: f64,
    pub rms: f64,
    pub l1: f64,
    pub l2: f64,
    pub skewness: f64,
    pub kurtosis: f64,
    pub zeros: u64,
    pub negatives: u64,
    pub subnormals: u64,
    pub nan: u64,
    pub pos_inf: u64,
    pub neg_inf: u64,
    pub saturated: u64,
}

impl StatsPartial {
    /// Add the partial of a later run. Not commutative: of equal extremes the earlier stays.
    pub fn merge(&mut self, later: &Self) {
        self.settle();
        if later.occurrences.is_some() {
            let mut settled = later.clone();
            settled.settle();
            return self.merge(&settled);
        }
        if !later.min.is_nan() {
            self.extend_range(later.min, later.max);
        }
        if self.abs_max_is_below(later) {
            self.abs_max = later.abs_max;
        }
        self.moments.merge(&later.moments);
        self.absolute.merge(later.absolute);
        self.zeros += later.zeros;
        self.negatives += later.negatives;
        self.subnormals += later.subnormals;
        self.nan += later.nan;
        self.positive_infinities += later.positive_infinities;
        self.negative_infinities += later.negative_infinities;
        self.saturated += later.saturated;
        if let Some(later) = &later.histogram {
            self.histogram.get_or_insert_default().merge(later);
        }
    }

    fn extend_range(&mut self, min: Number, max: Number) {
        if self.min.is_nan() || self.min.exceeds(min) {
            self.min = min;
        }
        if max.exceeds(self.max) {
            self.max = max;
        }
    }

    /// Whether merging `later` takes over its largest magnitude.
    pub fn abs_max_is_below(&self, later: &Self) -> bool {
        later.abs_max.magnitude.exceeds(self.abs_max.magnitude)
    }

    /// |x| per power of two, where that was asked for.
    pub fn histogram(&self) -> Option<&Histogram> {
        self.histogram.as_deref()
    }

    /// The columns.
    pub fn finish(&self) -> StatsSummary {
        if self.occurrences.is_some() {
            let mut settled = self.clone();
            settled.settle();
            return settled.finish();
        }
        let moments = self.moments;
        let n = moments.count as f64;
        let or_nan = |value: f64| if moments.count == 0 { f64::NAN } else { value };
        let variance = moments.second / n;
        let squares = moments.squares();
        let seen = !self.abs_max.magnitude.is_nan();
        StatsSummary {
            min: self.min,
            max: self.max,
            abs_max: self.abs_max.magnitude,
            abs_max_index: seen.then_some(self.abs_max.index),
            mean: or_nan(scale(moments.mean, moments.exponent)),
            std: or_nan(Scaled::new(variance, 2 * moments.exponent).sqrt().to_f64()),
            rms: or_nan((squares / Scaled::from(n)).sqrt().to_f64()),
            l1: self.absolute.to_f64(),
            l2: squares.sqrt().to_f64(),
            skewness: if variance > 0.0 {
                moments.third / n / (variance * variance.sqrt())
            } else {
                f64::NAN
            },
            kurtosis: if variance > 0.0 {
                moments.fourth / n / (variance * variance) - 3.0
            } else {
                f64::NAN
            },
            zeros: self.zeros,
            negatives: self.negatives,
            subnormals: self.subnormals,
            nan: self.nan,
            pos_inf: self.positive_infinities,
            neg_inf: self.negative_infinities,
            saturated: self.saturated,
        }
    }
}
