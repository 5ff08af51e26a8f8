//! What changed between two runs of elements.
//!
//! [`DiffKernel::accumulate`] folds raw bytes into a [`DiffPartial`]; partials `merge`, and
//! `finish` into a [`DiffSummary`].

mod block;
mod codes;
mod extras;
mod kernel;
mod nonfinite;
mod parts;
mod value;

pub use kernel::DiffKernel;
pub use parts::{DiffParts, LargestDifference};

use crate::dtype::DType;
use crate::histogram::Histogram;
use crate::number::{Extreme, Number};
use crate::scaled::Scaled;

/// What a diff measures beside the default columns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DiffOptions {
    /// Absolute tolerance.
    pub atol: f64,
    /// Tolerance relative to |a|.
    pub rtol: f64,
    /// Round both sides to this dtype first; one of [`DType::CAST_TARGETS`].
    pub cast: Option<DType>,
    /// Count |d| > T for each of these.
    pub thresholds: Vec<f64>,
    /// Count |d| per power of two.
    pub histogram: bool,
}

impl DiffOptions {
    /// Whether any difference at all may be tolerated.
    pub fn tolerant(&self) -> bool {
        self.atol > 0.0 || self.rtol > 0.0
    }

    /// Whether a clean block needs a look at every single difference.
    fn wants_each_difference(&self) -> bool {
        self.tolerant() || self.histogram || !self.thresholds.is_empty()
    }
}

/// What was asked for on top.
#[derive(Clone, Debug, Default, PartialEq)]
struct Extras {
    above: Vec<u64>,
    histogram: Histogram,
}

/// What is not finite.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Nonfinite {
    nan_a: u64,
    nan_b: u64,
    inf_a: u64,
    inf_b: u64,
    mismatch: u64,
}

impl Nonfinite {
    /// Count a pair of which a side is not finite; tells whether its values differ.
    fn add(&mut self, a: f64, b: f64) -> bool {
        self.nan_a += u64::from(a.is_nan());
        self.nan_b += u64::from(b.is_nan());
        self.inf_a += u64::from(a.is_infinite());
        self.inf_b += u64::from(b.is_infinite());
        let differs = !(a == b || a.is_nan() && b.is_nan());
        self.mismatch += u64::from(differs);
        differs
    }
}

/// Everything a diff knows of a run of elements; merging partials of two runs gives that of both.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DiffPartial {
    finite: u64,
    changed: u64,
    bits_changed: u64,
    /// Of a quantised dtype, whose elements have no bits of their own.
    blocks_differ: bool,
    sign_flips: u64,
    out_of_tolerance: u64,
    max_ulp: u64,
    /// Boxed, as most runs have only finite values.
    nonfinite: Option<Box<Nonfinite>>,
    difference: Scaled,
    absolute: Scaled,
    squares_d: Scaled,
    squares_a: Scaled,
    squares_b: Scaled,
    dot_da: Scaled,
    dot_ab: Scaled,
    max_abs: Extreme,
    value_a: Number,
    value_b: Number,
    extras: Option<Box<Extras>>,
}

/// The columns that a [`DiffPartial`] gives, see DESIGN for their meaning.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The names are those of the columns.
pub struct DiffSummary {
    /// Floats at which both sides are finite.
    pub finite: u64,
    pub changed: u64,
    pub bits_changed: u64,
    /// Whether there were blocks of one quantised dtype whose bytes differ.
    pub blocks_differ: bool,
    pub max_abs: Number,
    /// Counted in floats; `None` where nothing differs.
    pub max_abs_index: Option<u64>,
    pub value_a: Number,
    pub value_b: Number,
    pub mean_diff: f64,
    pub mean_abs: f64,
    pub rms: f64,
    pub l2: f64,
    pub l2_a: f64,
    pub l2_b: f64,
    pub rel_l2: f64,
    pub cosine: f64,
    pub cosine_distance: f64,
    pub sign_flips: u64,
    pub nan_a: u64,
    pub nan_b: u64,
    pub inf_a: u64,
    pub inf_b: u64,
    pub nonfinite_mismatch: u64,
    pub out_of_tolerance: u64,
    pub max_ulp: u64,
}

impl DiffPartial {
    /// Add the partial of a later run. Not commutative: of equal extremes the earlier stays.
    pub fn merge(&mut self, later: &Self) {
        self.finite += later.finite;
        self.changed += later.changed;
        self.bits_changed += later.bits_changed;
        self.blocks_differ |= later.blocks_differ;
        self.sign_flips += later.sign_flips;
        if let Some(later) = &later.nonfinite {
            let nonfinite = self.nonfinite.get_or_insert_default();
            nonfinite.nan_a += later.nan_a;
            nonfinite.nan_b += later.nan_b;
            nonfinite.inf_a += later.inf_a;
            nonfinite.inf_b += later.inf_b;
            nonfinite.mismatch += later.mismatch;
        }
        self.out_of_tolerance += later.out_of_tolerance;
        self.max_ulp = self.max_ulp.max(later.max_ulp);
        self.difference.merge(later.difference);
        self.absolute.merge(later.absolute);
        self.squares_d.merge(later.squares_d);
        self.squares_a.merge(later.squares_a);
        self.squares_b.merge(later.squares_b);
        self.dot_da.merge(later.dot_da);
        self.dot_ab.merge(later.dot_ab);
        if self.max_abs_is_below(later) {
            self.max_abs = later.max_abs;
            self.value_a = later.value_a;
            self.value_b = later.value_b;
        }
        if let Some(later) = &later.extras {
            let extras = self.extras.get_or_insert_default();
            extras.above.resize(later.above.len(), 0);
            for (count, later) in extras.above.iter_mut().zip(&later.above) {
                *count += later;
            }
            extras.histogram.merge(&later.histogram);
        }
    }

    /// Whether merging `later` takes over its largest difference.
    pub fn max_abs_is_below(&self, later: &Self) -> bool {
        later.max_abs.magnitude.exceeds(self.max_abs.magnitude)
    }

    /// How many |d| exceed each threshold, in the order of [`DiffOptions::thresholds`].
    pub fn above(&self, threshold: usize) -> u64 {
        self.extras
            .as_ref()
            .and_then(|extras| extras.above.get(threshold).copied())
            .unwrap_or(0)
    }

    /// |d| per power of two, where that was asked for.
    pub fn histogram(&self) -> Option<&Histogram> {
        self.extras.as_ref().map(|extras| &extras.histogram)
    }

    /// The columns.
    pub fn finish(&self) -> DiffSummary {
        let floats = Scaled::from(self.finite as f64);
        let (l2, l2_a, l2_b) = (
            self.squares_d.sqrt(),
            self.squares_a.sqrt(),
            self.squares_b.sqrt(),
        );
        let mean = |sum: Scaled| {
            if self.finite == 0 {
                f64::NAN
            } else {
                (sum / floats).to_f64()
            }
        };
        let cosine_distance = self.cosine_distance(l2, l2_a, l2_b);
        let differs = !self.max_abs.magnitude.is_nan();
        let nonfinite = self.nonfinite.as_deref().copied().unwrap_or_default();
        DiffSummary {
            finite: self.finite,
            changed: self.changed,
            bits_changed: self.bits_changed,
            blocks_differ: self.blocks_differ,
            max_abs: if differs {
                self.max_abs.magnitude
            } else {
                Number::float(0.0)
            },
            max_abs_index: differs.then_some(self.max_abs.index),
            value_a: if differs {
                self.value_a
            } else {
                Number::float(f64::NAN)
            },
            value_b: if differs {
                self.value_b
            } else {
                Number::float(f64::NAN)
            },
            mean_diff: mean(self.difference),
            mean_abs: mean(self.absolute),
            rms: if self.finite == 0 {
                f64::NAN
            } else {
                (self.squares_d / floats).sqrt().to_f64()
            },
            l2: l2.to_f64(),
            l2_a: l2_a.to_f64(),
            l2_b: l2_b.to_f64(),
            rel_l2: match (l2.is_zero(), l2_a.is_zero()) {
                (true, _) => 0.0,
                (false, true) => f64::INFINITY,
                (false, false) => (l2 / l2_a).to_f64(),
            },
            cosine: 1.0 - cosine_distance,
            cosine_distance,
            sign_flips: self.sign_flips,
            nan_a: nonfinite.nan_a,
            nan_b: nonfinite.nan_b,
            inf_a: nonfinite.inf_a,
            inf_b: nonfinite.inf_b,
            nonfinite_mismatch: nonfinite.mismatch,
            out_of_tolerance: self.out_of_tolerance,
            max_ulp: self.max_ulp,
        }
    }

    /// 1 − cos(a, b), in [0, 2].
    ///
    /// For close vectors from (‖d‖² − (‖a‖ − ‖b‖)²) / 2‖a‖‖b‖, where ‖b‖ − ‖a‖ is taken as
    /// (2⟨d,a⟩ + ‖d‖²) / (‖a‖ + ‖b‖), which does not cancel. For far ones that formula loses what
    /// the larger norm drowns, and 1 − ⟨a,b⟩ / ‖a‖‖b‖ is good.
    fn cosine_distance(&self, l2: Scaled, l2_a: Scaled, l2_b: Scaled) -> f64 {
        match (l2_a.is_zero(), l2_b.is_zero()) {
            (true, true) => return 0.0,
            (true, false) | (false, true) => return f64::NAN,
            (false, false) => {}
        }
        let product = l2_a * l2_b;
        let larger = if (l2_a / l2_b).to_f64() > 1.0 {
            l2_a
        } else {
            l2_b
        };
        let distance = if (l2 / larger).to_f64() <= 0.5 {
            let norm_change = (self.dot_da * Scaled::from(2.0) + self.squares_d) / (l2_a + l2_b);
            let numerator = self.squares_d - norm_change * norm_change;
            (numerator / (product * Scaled::from(2.0))).to_f64()
        } else {
            1.0 - (self.dot_ab / product).to_f64()
        };
        // Adding 0.0 turns a −0 into 0.
        distance.clamp(0.0, 2.0) + 0.0
    }
}
