//! Many checkpoints in one read: stats of each, a diff of each with its parent, and the Gram matrix
//! of the updates.
//!
//! All N checkpoints go through a tensor together, a piece of each at a time, so that what is read
//! for one reduction is in the cache for the next: every byte is read once, and memory is bounded
//! by N pieces per thread. Stats and diffs are those that [`crate::stats`] and [`crate::diff`] give,
//! bit by bit, as they are made by the same kernels of the same chunks.

use std::ops::Range;
use std::sync::Arc;

use ckptdiff_kernels::{
    BLOCK, Bf16Comparison, DType, DiffKernel, DiffOptions, DiffPartial, GramKernel, GramPartial,
    Level, Precision, StatsKernel, StatsOptions, StatsPartial,
};

use crate::common::Common;
use crate::error::Error;
use crate::execute::{Control, Job, execute, threads_of};
use crate::manifest::Manifest;
use crate::reader::{Files, Readers, pieces};
use crate::run::TensorStats;
use crate::source::Reading;

/// A series to be read.
pub struct SeriesRun<'a> {
    /// The checkpoints, parents before children.
    pub manifests: &'a [Arc<Manifest>],
    /// Which of their tensors to read.
    pub common: &'a Common,
    /// The checkpoint before each along its branch; none at a root.
    pub parents: Arc<[Option<usize>]>,
    /// What the products of updates are computed in.
    pub precision: Precision,
    /// The instruction set.
    pub level: Level,
    /// How many threads; 0 for one per core.
    pub threads: usize,
    /// How files are read.
    pub reading: Reading,
}

/// What a read of N checkpoints leaves of the T tensors that they have in common.
pub struct SeriesSums {
    /// T of them.
    pub grams: Vec<GramPartial>,
    /// N times T.
    pub stats: Vec<Vec<TensorStats>>,
    /// N times T, each from the parent of the checkpoint; nothing at a root.
    pub diffs: Vec<Option<Vec<DiffPartial>>>,
    /// N times T elements that differ from the parent's once both are rounded to bf16.
    pub changed_bf16: Vec<Option<Vec<u64>>>,
}

/// Read every common tensor of all checkpoints.
pub fn series(run: &SeriesRun<'_>, control: &Control) -> Result<SeriesSums, Error> {
    let threads = threads_of(run.threads);
    let job = SeriesJob {
        run,
        options: Arc::default(),
        diff_options: Arc::default(),
        files: Files::new(run.reading, threads, run.manifests.len()),
    };
    let partials = execute(&job, threads, control)?;
    let (count, tensors) = (run.manifests.len(), partials.len());
    let of_children = |parent: &Option<usize>| parent.map(|_| Vec::with_capacity(tensors));
    let mut sums = SeriesSums {
        grams: Vec::with_capacity(tensors),
        stats: (0..count).map(|_| Vec::with_capacity(tensors)).collect(),
        diffs: run.parents.iter().map(of_children).collect(),
        changed_bf16: vec![None; count],
    };
    for (changed, parent) in sums.changed_bf16.iter_mut().zip(&*run.parents) {
        *changed = parent.map(|_| Vec::with_capacity(tensors));
    }
    for mut partial in partials {
        partial.make_room(count);
        sums.grams.push(partial.gram);
        for (index, checkpoint) in partial.checkpoints.into_iter().enumerate() {
            sums.stats[index].push(TensorStats {
                partial: checkpoint.stats,
                hash: None,
            });
            if let (Some(diffs), Some(changed)) =
                (&mut sums.diffs[index], &mut sums.changed_bf16[index])
            {
                diffs.push(checkpoint.diff);
                changed.push(checkpoint.changed_bf16);
            }
        }
    }
    Ok(sums)
}

struct SeriesJob<'a> {
    run: &'a SeriesRun<'a>,
    options: Arc<StatsOptions>,
    diff_options: Arc<DiffOptions>,
    files: Files,
}

struct SeriesWorker<'a> {
    readers: Readers<'a>,
    stats: StatsKernel,
    diff: DiffKernel,
    bf16: Bf16Comparison,
    gram: GramKernel,
}

/// What is known of a tensor, or of a chunk of it.
#[derive(Default)]
struct SeriesPartial {
    gram: GramPartial,
    /// None before anything was added.
    checkpoints: Vec<CheckpointPartial>,
}

/// What is known of it in one checkpoint.
#[derive(Clone, Default)]
struct CheckpointPartial {
    stats: StatsPartial,
    /// From its parent.
    diff: DiffPartial,
    changed_bf16: u64,
}

impl SeriesPartial {
    fn make_room(&mut self, checkpoints: usize) {
        self.checkpoints
            .resize(checkpoints, CheckpointPartial::default());
    }
}

/// Some elements of each run, of which the first begin a block.
fn cut<'a>(runs: &[(DType, &'a [u8])], start: usize, elements: usize) -> Vec<(DType, &'a [u8])> {
    let cut = |(dtype, bytes): &(DType, &'a [u8])| {
        let at = |element: usize| dtype.bytes_before(element as u64) as usize;
        (*dtype, &bytes[at(start)..at(start + elements)])
    };
    runs.iter().map(cut).collect()
}

impl<'a> Job for SeriesJob<'a> {
    type Partial = SeriesPartial;
    type Worker = SeriesWorker<'a>;

    fn items(&self) -> usize {
        self.run.common.len()
    }

    fn elements(&self, item: usize) -> u64 {
        self.run.common.elements(self.run.manifests, item)
    }

    fn element_bits(&self, item: usize) -> u64 {
        self.run.common.element_bits(self.run.manifests, item)
    }

    fn worker(&self) -> SeriesWorker<'a> {
        let level = self.run.level;
        SeriesWorker {
            readers: Readers::new(self.run.manifests.iter().map(|manifest| &**manifest)),
            stats: StatsKernel::new(level, Arc::clone(&self.options)),
            diff: DiffKernel::new(level, Arc::clone(&self.diff_options)),
            bf16: Bf16Comparison::new(level),
            gram: GramKernel::new(level, Arc::clone(&self.run.parents), self.run.precision),
        }
    }

    fn reduce(
        &self,
        worker: &mut SeriesWorker<'a>,
        item: usize,
        elements: Range<u64>,
        control: &Control,
    ) -> Result<SeriesPartial, Error> {
        let tensors = self.run.common.views(self.run.manifests, item);
        let mut partial = SeriesPartial::default();
        partial.make_room(tensors.len());
        let bits = tensors.iter().map(|(dtype, _)| dtype.bits()).max();
        let in_place = worker.readers.in_place(&self.files, &tensors);
        let piece_bytes = self.files.piece_bytes(in_place);
        for piece in pieces(elements, bits.unwrap_or(1), piece_bytes) {
            control.check()?;
            let runs = worker.readers.read(&self.files, &tensors, &piece)?;
            let count = (piece.end - piece.start) as usize;
            let bytes: u64 = runs.iter().map(|(_, bytes)| bytes.len() as u64).sum();
            // Block by block, so that each reduction finds it in the cache.
            for start in (0..count).step_by(BLOCK) {
                let elements = BLOCK.min(count - start);
                let block = cut(&runs, start, elements);
                let first = piece.start + start as u64;
                for (index, (own, parent)) in partial
                    .checkpoints
                    .iter_mut()
                    .zip(&*self.run.parents)
                    .enumerate()
                {
                    let (dtype, bytes) = block[index];
                    worker
                        .stats
                        .accumulate(dtype, bytes, elements, first, &mut own.stats);
                    let Some(parent) = parent else {
                        continue;
                    };
                    let a = block[*parent];
                    worker
                        .diff
                        .accumulate(a, block[index], elements, first, &mut own.diff);
                    // Of two BF16 tensors it is what the diff counts.
                    if [a.0, dtype] != [DType::BF16; 2] {
                        own.changed_bf16 += worker.bf16.changed(a, block[index], elements);
                    }
                }
                worker.gram.accumulate(&block, elements, &mut partial.gram);
            }
            worker.readers.release(&tensors)?;
            control.add_done(bytes);
        }
        for own in &mut partial.checkpoints {
            own.stats.settle();
        }
        for (index, parent) in self.run.parents.iter().enumerate() {
            let of = |index: usize| tensors[index].0;
            if parent.is_some_and(|parent| [of(parent), of(index)] == [DType::BF16; 2]) {
                let own = &mut partial.checkpoints[index];
                own.changed_bf16 = own.diff.finish().changed;
            }
        }
        Ok(partial)
    }

    fn merge(&self, into: &mut SeriesPartial, later: SeriesPartial) {
        into.gram.merge(&later.gram);
        into.make_room(later.checkpoints.len());
        for (own, later) in into.checkpoints.iter_mut().zip(&later.checkpoints) {
            own.stats.merge(&later.stats);
            own.diff.merge(&later.diff);
            own.changed_bf16 += later.changed_bf16;
        }
    }
}
