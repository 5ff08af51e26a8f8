//! Bytes in, partials out.
//!
//! A *kernel* takes the raw bytes of the same run of elements of one tensor (stats), two (diff) or
//! many (gram) and folds them into a *partial*: a small value that knows `merge` and from which every column
//! can be finished. Nothing here opens a file, spawns a thread or knows a tensor's name.
//!
//! How a run of bytes is reduced, in blocks of [`BLOCK`] elements that stay in the L1 cache:
//!
//! 1. `decode` turns codes into `f32` where that is exact and the significand is short (floats of
//!    8 and 16 bits, integers of 8, coarse quantised types), into `f64` otherwise; 64-bit integers that `f64` does not hold
//!    have a path of their own. Passes load the common dtypes as they are. Pairs of integers of 8
//!    and 16 bits stay integers. For stats, codes of up to 8 bits are not decoded but counted.
//! 2. One pass sums in fixed lanes. Its sums also tell whether the block was harmless: a NaN, an
//!    infinity, an overflow or an underflow shows in them, and then, and only then, the block is
//!    done again: in `f64`, and if that does not do either, element by element with scaled sums.
//! 3. Extremes and counts are exact; sums are folded in an order that the block's length alone
//!    fixes, so that every instruction set gives the same bits. A fused multiply-add rounds
//!    differently, so a pass has it at every level or at none; only products of many runs
//!    ([`GramKernel`]) have it.
//!
//! ISA levels are instantiations of the same source ([`Level`]).

mod bf16;
mod cast;
mod decode;
mod decoder;
mod diff;
mod dtype;
mod exponents;
mod gram;
mod histogram;
mod level;
mod mean;
mod number;
mod passes;
mod quantised;
mod runs;
mod scaled;
mod simd;
mod stats;
mod values;

pub use bf16::Bf16Comparison;
pub use diff::{DiffKernel, DiffOptions, DiffPartial, DiffParts, DiffSummary, LargestDifference};
pub use dtype::{DType, Granule, UnknownDType};
pub use gram::{GramKernel, GramPartial, Precision};
pub use histogram::Histogram;
pub use level::Level;
pub use mean::MeanKernel;
pub use number::{Extreme, Number};
pub use scaled::Scaled;
pub use stats::{
    Extremes, Powers, StatsKernel, StatsOptions, StatsPartial, StatsParts, StatsSummary,
};
pub use values::ValuesKernel;

/// Floats that a pass reduces at once; a multiple of every lane group, small enough for L1.
pub const BLOCK: usize = 2048;
