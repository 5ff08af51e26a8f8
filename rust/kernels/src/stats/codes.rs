//! Stats of a dtype with at most 256 codes, from how often each of them occurs.
//!
//! A byte costs one addition to a counter, a cycle or so, and all else is known of the counts: every
//! column but the position of the largest magnitude, and without a rounding that depends on how runs
//! were cut. Counts become sums in [`StatsPartial::settle`].
//!
//! A counter that is added to twice in a row waits for its own last value, so neighbours have
//! tables of their own.

use std::sync::OnceLock;

use super::{Moments, StatsPartial};
use crate::decode::DecodeNarrow;
use crate::dtype::DType;
use crate::histogram::Histogram;
use crate::level::{Level, Pass};
use crate::number::{Extreme, Number};
use crate::scaled::exponent_of;
use crate::simd::Simd;
use crate::simd::portable::Portable;

/// How many codes there can be.
const CODES: usize = 256;

/// How many tables are added to in turn.
const TABLES: usize = 8;

/// Bytes after which tables are added up: few enough to be found in the cache once more, and for
/// 32 bits.
const RUN: usize = 1 << 16;

/// From so many bytes on all tables are worth adding up and clearing.
const LONG: usize = 1 << 13;

/// Below so many bytes not even some are.
const SHORT: usize = 1 << 8;

/// What the codes of a dtype stand for.
struct Meanings {
    values: [f64; CODES],
    /// Of the finite magnitudes that there are the how-manieth a code has, from 1; 0 where it has none.
    ranks: [u32; CODES],
}

impl Meanings {
    /// Those of a dtype that [has few codes](DType::has_few_codes).
    fn of(dtype: DType) -> &'static Self {
        static MEANINGS: [OnceLock<Meanings>; DType::ALL.len()] =
            [const { OnceLock::new() }; DType::ALL.len()];
        MEANINGS[dtype as usize].get_or_init(|| Self::decode(dtype))
    }

    fn decode(dtype: DType) -> Self {
        let bits = if dtype.is_packed() { dtype.bits() } else { 8 };
        let mut codes = [0; CODES];
        for (code, index) in codes.iter_mut().zip(0..=u8::MAX) {
            *code = index;
        }
        let count = 1 << bits;
        let mut narrow = [f32::NAN; CODES];
        let pass = DecodeNarrow {
            dtype,
            codes: &codes[..count],
            out: &mut narrow[..count],
        };
        pass.run(Portable);
        let values = narrow.map(f64::from);
        let mut magnitudes: Vec<f64> = values
            .into_iter()
            .filter(|value| value.is_finite())
            .map(f64::abs)
            .collect();
        magnitudes.sort_by(f64::total_cmp);
        magnitudes.dedup();
        let ranks = values.map(|value| {
            let below = magnitudes.partition_point(|magnitude| *magnitude < value.abs());
            if value.is_finite() {
                1 + below as u32
            } else {
                0
            }
        });
        Self { values, ranks }
    }
}

/// How often each code of a dtype occurs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Occurrences {
    dtype: DType,
    counts: [u64; CODES],
}

impl Occurrences {
    fn none(dtype: DType) -> Self {
        Self {
            dtype,
            counts: [0; CODES],
        }
    }
}

/// Counts the codes of runs. Its tables are all zero between them.
pub(super) struct CodeCounter {
    level: Level,
    tables: [[u32; CODES]; TABLES],
}

impl CodeCounter {
    pub(super) const fn new(level: Level) -> Self {
        Self {
            level,
            tables: [[0; CODES]; TABLES],
        }
    }

    /// Fold codes, one a byte, into `partial`; `first` is the index of the first in its tensor.
    pub(super) fn accumulate(
        &mut self,
        dtype: DType,
        codes: &[u8],
        first: u64,
        partial: &mut StatsPartial,
    ) {
        if let Some(occurrences) = &partial.occurrences
            && occurrences.dtype != dtype
        {
            partial.settle();
        }
        let meanings = Meanings::of(dtype);
        for (run, first) in codes.chunks(RUN).zip((first..).step_by(RUN)) {
            let mut counts = [0; CODES];
            self.count(run, &mut counts);
            partial.note_largest(meanings, run, &counts, first);
            if let Some(histogram) = &mut partial.histogram {
                add_magnitudes(meanings, &counts, histogram);
            }
            let occurrences = partial
                .occurrences
                .get_or_insert_with(|| Box::new(Occurrences::none(dtype)));
            for (sum, count) in occurrences.counts.iter_mut().zip(counts) {
                *sum += u64::from(count);
            }
        }
    }

    fn count(&mut self, codes: &[u8], counts: &mut [u32; CODES]) {
        if codes.len() < SHORT {
            for code in codes {
                counts[usize::from(*code)] += 1;
            }
        } else if codes.len() < LONG {
            let tables = self.tables.as_chunks_mut::<4>().0;
            self.level.run(CountCodes {
                codes,
                tables: &mut tables[0],
                counts,
            });
        } else {
            self.level.run(CountCodes {
                codes,
                tables: &mut self.tables,
                counts,
            });
        }
    }
}

/// Count codes in several tables, and clear these.
struct CountCodes<'a, const N: usize> {
    codes: &'a [u8],
    tables: &'a mut [[u32; CODES]; N],
    counts: &'a mut [u32; CODES],
}

impl<const N: usize> Pass for CountCodes<'_, N> {
    type Output = ();
    const LEFT_TO_COMPILER: bool = true;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Self {
            codes,
            tables,
            counts,
        } = self;
        let (words, rest) = codes.as_chunks::<8>();
        for word in words {
            // One load for eight bytes, as counters need all others.
            let word = u64::from_le_bytes(*word);
            for byte in 0..8 {
                tables[byte % N][usize::from((word >> (8 * byte)) as u8)] += 1;
            }
        }
        for code in rest {
            counts[usize::from(*code)] += 1;
        }
        for table in tables {
            for (count, part) in counts.iter_mut().zip(table) {
                *count += std::mem::take(part);
            }
        }
    }
}

/// Add the finite magnitudes of codes to a histogram.
fn add_magnitudes(meanings: &Meanings, counts: &[u32; CODES], histogram: &mut Histogram) {
    for (value, count) in meanings.values.into_iter().zip(counts) {
        if *count == 0 || !value.is_finite() {
            continue;
        }
        if value == 0.0 {
            histogram.add_zeros(u64::from(*count));
        } else {
            histogram.add_many(exponent_of(value), u64::from(*count));
        }
    }
}

/// The first position of a code that is marked.
fn position_of(marked: &[bool; CODES], codes: &[u8]) -> Option<usize> {
    codes.iter().position(|code| marked[usize::from(*code)])
}

impl StatsPartial {
    /// Note where the largest magnitude of a run stands, if it is larger than every one before.
    fn note_largest(&mut self, meanings: &Meanings, run: &[u8], counts: &[u32; CODES], first: u64) {
        let mut largest = 0;
        for (count, rank) in counts.iter().zip(&meanings.ranks) {
            largest = largest.max(if *count == 0 { 0 } else { *rank });
        }
        let Some(code) = meanings.ranks.iter().position(|rank| *rank == largest) else {
            return;
        };
        let magnitude = Number::float(meanings.values[code].abs());
        if largest == 0 || !magnitude.exceeds(self.abs_max.magnitude) {
            return;
        }
        let marked = meanings.ranks.map(|rank| rank == largest);
        if let Some(position) = position_of(&marked, run) {
            self.abs_max = Extreme {
                magnitude,
                index: first + position as u64,
            };
        }
    }

    /// Turn the counts of codes, if there are any, into sums, which take less memory.
    ///
    /// Every other method does so where it must; results are the same where it is done after the
    /// same runs.
    pub fn settle(&mut self) {
        let Some(occurrences) = self.occurrences.take() else {
            return;
        };
        let Occurrences { dtype, counts } = *occurrences;
        let meanings = Meanings::of(dtype);
        let occurring = || {
            let all = meanings.values.into_iter().zip(counts);
            all.filter(|(_, count)| *count > 0)
        };
        let (lowest, highest) = dtype.saturation().unwrap_or((f64::NAN, f64::NAN));
        let smallest_normal = dtype.smallest_normal();
        let (mut min, mut max) = (f64::INFINITY, f64::NEG_INFINITY);
        let (mut finite, mut sum, mut absolute) = (0, 0.0, 0.0);
        for (value, count) in occurring() {
            if value.is_nan() {
                self.nan += count;
            } else if value == f64::INFINITY {
                self.positive_infinities += count;
            } else if value == f64::NEG_INFINITY {
                self.negative_infinities += count;
            } else {
                finite += count;
                sum += count as f64 * value;
                absolute += count as f64 * value.abs();
                (min, max) = (min.min(value), max.max(value));
                if value == 0.0 {
                    self.zeros += count;
                } else if value.abs() < smallest_normal {
                    self.subnormals += count;
                }
                if value < 0.0 {
                    self.negatives += count;
                }
                if value == lowest || value == highest {
                    self.saturated += count;
                }
            }
        }
        if finite == 0 {
            return;
        }
        // Adding 0.0 turns a −0 into 0, so that it does not matter which of them there are.
        self.extend_range(Number::float(min + 0.0), Number::float(max + 0.0));
        let pivot = (sum / finite as f64).clamp(min, max);
        let mut powers = [0.0; 4];
        for (value, count) in occurring().filter(|(value, _)| value.is_finite()) {
            let (c, n) = (value - pivot, count as f64);
            let square = c * c;
            powers[0] += n * c;
            powers[1] += n * square;
            powers[2] += n * (square * c);
            powers[3] += n * (square * square);
        }
        let moments = Moments::from_powers(finite, 0, pivot, powers);
        self.moments.merge(&moments);
        self.absolute.merge(absolute.into());
    }
}
