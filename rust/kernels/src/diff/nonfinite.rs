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
        if !suits(a) || !suits(b) {
            return false;
        }
        let mut positions = [0; BLOCK];
        let positions = self.nonfinite_positions(&mut positions);
        if positions.is_empty() {
            return false;
        }
        let Some(zeroed) = self.zeroed.take() else {
            return false;
        };
        let zeroed_a = zeros_at(positions, a, &mut zeroed.a);
        let zeroed_b = zeros_at(positions, b, &mut zeroed.b);
        let mismatches = self.count_nonfinite(positions);
        if a.dtype == b.dtype {
            self.partial.bits_changed += differing_at(positions, a, b);
        }
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
        let left_out = positions.len() as u64;
        let partial = &mut *self.partial;
        partial.finite -= left_out;
        partial.changed += mismatches;
        if self.options.histogram
            && let Some(extras) = &mut partial.extras
        {
            extras.histogram.remove_zeros(left_out);
        }
        true
    }

    /// Where a side is not finite.
    fn nonfinite_positions<'p>(&self, positions: &'p mut [u16; BLOCK]) -> &'p [u16] {
        let mut found = 0;
        let values = self.wide_a.iter().zip(self.wide_b.iter());
        for (index, (a, b)) in values.take(self.elements).enumerate() {
            positions[found] = index as u16;
            found += usize::from(!(a.is_finite() && b.is_finite()));
        }
        &positions[..found]
    }

    /// Count what stands at these positions; gives how many differ.
    fn count_nonfinite(&mut self, positions: &[u16]) -> u64 {
        let counts = self.partial.nonfinite.get_or_insert_default();
        let differs = |position: &&u16| {
            let index = usize::from(**position);
            counts.add(self.wide_a[index], self.wide_b[index])
        };
        positions.iter().filter(differs).count() as u64
    }
}

/// `$body` with the width of these codes as a constant.
macro_rules! with_width {
    ($codes:expr, $width:ident => $body:expr) => {
        match $codes.code_bytes() {
            1 => {
                const $width: usize = 1;
                $body
            }
            2 => {
                const $width: usize = 2;
                $body
            }
            4 => {
                const $width: usize = 4;
                $body
            }
            _ => {
                const $width: usize = 8;
                $body
            }
        }
    };
}

/// The codes with zeros at these positions.
fn zeros_at<'r>(positions: &[u16], codes: Codes<'_>, room: &'r mut [u8; BLOCK * 8]) -> &'r [u8] {
    let room = &mut room[..codes.bytes.len()];
    room.copy_from_slice(codes.bytes);
    with_width!(codes, WIDTH => {
        let (elements, _) = room.as_chunks_mut::<WIDTH>();
        for position in positions {
            elements[usize::from(*position)] = [0; WIDTH];
        }
    });
    room
}

/// How many codes of one dtype differ at these positions.
fn differing_at(positions: &[u16], a: Codes<'_>, b: Codes<'_>) -> u64 {
    with_width!(a, WIDTH => {
        let (a, b) = (a.bytes.as_chunks::<WIDTH>().0, b.bytes.as_chunks::<WIDTH>().0);
        let differs = |position: &&u16| a[usize::from(**position)] != b[usize::from(**position)];
        positions.iter().filter(differs).count() as u64
    })
}
