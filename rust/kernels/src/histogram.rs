//! Counts per power of two, and quantiles estimated from them.

use crate::scaled::{exponent_of, scale};

/// How many finite magnitudes lie in [2^e, 2^(e+1)), for each e, and how many are zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    zeros: u64,
    /// The exponent of `counts[0]`.
    lowest: i32,
    /// Without gaps at either end, so that equal contents are equal values.
    counts: Vec<u64>,
}

impl Histogram {
    /// Count magnitudes of zero.
    pub(crate) fn add_zeros(&mut self, count: u64) {
        self.zeros += count;
    }

    /// Take back zeros that stood for something else.
    pub(crate) fn remove_zeros(&mut self, count: u64) {
        self.zeros -= count;
    }

    /// Count a finite magnitude.
    pub(crate) fn add(&mut self, magnitude: f64) {
        if magnitude == 0.0 {
            self.zeros += 1;
        } else {
            self.add_many(exponent_of(magnitude), 1);
        }
    }

    /// Count a magnitude of an integer domain.
    pub(crate) fn add_integer(&mut self, magnitude: u128) {
        match magnitude.checked_ilog2() {
            None => self.zeros += 1,
            Some(exponent) => self.add_many(exponent as i32, 1),
        }
    }

    /// Count magnitudes in [2^e, 2^(e+1)), at least one.
    pub(crate) fn add_many(&mut self, exponent: i32, count: u64) {
        if self.counts.is_empty() {
            self.lowest = exponent;
        }
        if exponent < self.lowest {
            let gap = (self.lowest - exponent) as usize;
            self.counts.splice(0..0, std::iter::repeat_n(0, gap));
            self.lowest = exponent;
        }
        let bin = (exponent - self.lowest) as usize;
        if bin >= self.counts.len() {
            self.counts.resize(bin + 1, 0);
        }
        self.counts[bin] += count;
    }

    /// That of so many zeros and of these bins, (e, count) each.
    pub fn from_bins(zeros: u64, bins: impl IntoIterator<Item = (i32, u64)>) -> Self {
        let mut histogram = Self {
            zeros,
            ..Self::default()
        };
        for (exponent, count) in bins {
            if count > 0 {
                histogram.add_many(exponent, count);
            }
        }
        histogram
    }

    /// Add all that `other` has counted.
    pub fn merge(&mut self, other: &Self) {
        self.zeros += other.zeros;
        for (exponent, count) in other.bins() {
            self.add_many(exponent, count);
        }
    }

    /// How many magnitudes were zero.
    pub const fn zeros(&self) -> u64 {
        self.zeros
    }

    /// (e, count) of every bin that is not empty, in ascending order.
    pub fn bins(&self) -> impl Iterator<Item = (i32, u64)> + '_ {
        (self.lowest..)
            .zip(&self.counts)
            .filter(|(_, count)| **count > 0)
            .map(|(exponent, count)| (exponent, *count))
    }

    /// The magnitude below which a share `quantile` lies, NaN where nothing was counted.
    ///
    /// Zeros come first. Inside a bin magnitudes are taken as spread evenly in their logarithm,
    /// so the estimate lies in the right power of two.
    pub fn quantile(&self, quantile: f64) -> f64 {
        let total = self.zeros + self.counts.iter().sum::<u64>();
        if total == 0 {
            return f64::NAN;
        }
        let rank = quantile * total as f64;
        let mut below = self.zeros as f64;
        if rank <= below {
            return 0.0;
        }
        let mut last = f64::NAN;
        for (exponent, count) in self.bins() {
            let share = (rank - below) / count as f64;
            if share <= 1.0 {
                return scale(share.exp2(), exponent);
            }
            below += count as f64;
            last = scale(2.0, exponent);
        }
        last
    }
}
