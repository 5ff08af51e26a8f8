//! A block with NaN or Inf in it, which no pass can sum.
//!
//! What is not finite is counted here and left out of both sides, where zeros take its place: they
//! are no difference, and add nothing to any sum. So the rest goes through the passes as ever, and
//! a checkpoint that diverged takes a few times as long as one that did not, not hundreds of times.

use super::block::Block;
use super::codes::Codes;
use crate::BLOCK;
use crate::dtype::DType;

/// Room for the codes of both sides of a block.
pub(super) struct Zeroed {
    a: [u8; BLOCK * 8],
    b: [u8; BLOCK * 8],
}

impl Zeroed {
    pub(super) const fn new() -> Self {
        Self {
            a: [0; BLOCK * 8],
            b: [0; BLOCK * 8],
        }
    }
}

impl Block<'_> {
    /// Reduce a block without what is not finite in it. Its values are in the wide ones; does
    /// nothing where they are all finite, or a code of zeros is no zero.
    pub(super) fn reduce_without_nonfinite(&mut self) -> bool {
        let (a, b) = (self.a, self.b);
        let suits = |codes: Codes<'_>| {
            codes.dtype.float_format().is_some()
                && codes.dtype.components() == 1
                && codes.dtype != DType::F8E8M0
        };
        let first = self.next_nonfinite(0);
        if first == self.elements || !suits(a) || !suits(b) {
            return false;
        }
        let Some(zeroed) = self.zeroed.take() else {
            return false;
        };
        let (zeroed_a, zeroed_b) = (
            &mut zeroed.a[..a.bytes.len()],
            &mut zeroed.b[..b.bytes.len()],
        );
        zeroed_a.copy_from_slice(a.bytes);
        zeroed_b.copy_from_slice(b.bytes);
        let (width_a, width_b) = (a.code_bytes(), b.code_bytes());
        let counts = self.partial.nonfinite.get_or_insert_default();
        let (mut left_out, mut mismatches, mut bits_changed) = (0, 0, 0);
        for index in first..self.elements {
            let (value_a, value_b) = (self.wide_a[index], self.wide_b[index]);
            if value_a.is_finite() && value_b.is_finite() {
                continue;
            }
            let code_a = index * width_a..(index + 1) * width_a;
            let code_b = index * width_b..(index + 1) * width_b;
            left_out += 1;
            counts.nan_a += u64::from(value_a.is_nan());
            counts.nan_b += u64::from(value_b.is_nan());
            counts.inf_a += u64::from(value_a.is_infinite());
            counts.inf_b += u64::from(value_b.is_infinite());
            let same = value_a == value_b || value_a.is_nan() && value_b.is_nan();
            mismatches += u64::from(!same);
            bits_changed += u64::from(a.bytes[code_a.clone()] != b.bytes[code_b.clone()]);
            zeroed_a[code_a].fill(0);
            zeroed_b[code_b].fill(0);
        }
        counts.mismatch += mismatches;
        Block {
            level: self.level,
            options: self.options,
            a: Codes {
                dtype: a.dtype,
                bytes: zeroed_a,
            },
            b: Codes {
                dtype: b.dtype,
                bytes: zeroed_b,
            },
            narrow_a: &mut *self.narrow_a,
            narrow_b: &mut *self.narrow_b,
            wide_a: &mut *self.wide_a,
            wide_b: &mut *self.wide_b,
            difference: &mut *self.difference,
            distances: &mut *self.distances,
            zeroed: None,
            elements: self.elements,
            components: self.components,
            exact_in_f64: self.exact_in_f64,
            first: self.first,
            partial: &mut *self.partial,
        }
        .reduce();
        let partial = &mut *self.partial;
        partial.finite -= left_out;
        partial.changed += mismatches;
        if a.dtype == b.dtype {
            partial.bits_changed += bits_changed;
        }
        if self.options.histogram
            && let Some(extras) = &mut partial.extras
        {
            extras.histogram.remove_zeros(left_out);
        }
        true
    }

    /// The first element from `start` on that is not finite on both sides.
    fn next_nonfinite(&self, start: usize) -> usize {
        (start..self.elements)
            .find(|&index| !(self.wide_a[index].is_finite() && self.wide_b[index].is_finite()))
            .unwrap_or(self.elements)
    }
}
