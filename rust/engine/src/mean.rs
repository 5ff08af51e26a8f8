//! Whether a checkpoint is the mean of others, as averaging in float32 makes it.

use std::ops::Range;
use std::sync::Arc;

use ckptdiff_kernels::{DiffKernel, DiffOptions, DiffPartial, Level, MeanKernel};

use crate::common::Common;
use crate::error::{Error, TensorFault};
use crate::execute::{Control, Job, execute, threads_of};
use crate::manifest::Manifest;
use crate::reader::{Files, Readers, pieces};
use crate::run::tensor_error;
use crate::source::Reading;

/// A comparison with a mean to be run.
pub struct MeanRun<'a> {
    /// The target, then its parts in the order in which they are summed; there is one at least.
    pub manifests: &'a [Arc<Manifest>],
    /// Which of their tensors to read.
    pub common: &'a Common,
    /// The instruction set.
    pub level: Level,
    /// How many threads; 0 for one per core.
    pub threads: usize,
    /// How files are read.
    pub reading: Reading,
}

/// How far a tensor is from the mean of its parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MeanComparison {
    /// Elements whose value is not that of the mean.
    pub mismatches: u64,
    /// The largest distance in representable steps, where both are finite.
    pub max_ulp: u64,
}

/// Hold each common tensor of the target against the mean of the parts, rounded to its dtype.
pub fn rounded_mean(run: &MeanRun<'_>, control: &Control) -> Result<Vec<MeanComparison>, Error> {
    let threads = threads_of(run.threads);
    let job = MeanJob {
        run,
        options: Arc::default(),
        files: Files::new(run.reading, threads, run.manifests.len()),
    };
    for item in 0..job.items() {
        job.check(item)?;
    }
    let partials = execute(&job, threads, control)?;
    let comparisons = partials.iter().map(|partial| {
        let summary = partial.finish();
        MeanComparison {
            mismatches: summary.changed,
            max_ulp: summary.max_ulp,
        }
    });
    Ok(comparisons.collect())
}

struct MeanJob<'a> {
    run: &'a MeanRun<'a>,
    options: Arc<DiffOptions>,
    files: Files,
}

struct MeanWorker<'a> {
    readers: Readers<'a>,
    mean: MeanKernel,
    rounded: Vec<u8>,
    diff: DiffKernel,
}

impl MeanJob<'_> {
    /// Whether there is a mean of the parts in the target's dtype.
    fn check(&self, item: usize) -> Result<(), Error> {
        let tensors = self.run.common.views(self.run.manifests, item);
        let (target, tensor) = tensors[0];
        let complex = tensors
            .iter()
            .find(|(part, _)| part.components() > target.components());
        if MeanKernel::rounds_to(target) && complex.is_none() {
            return Ok(());
        }
        let fault = TensorFault::NoMean {
            dtype: target.name(),
            parts: complex.unwrap_or(&tensors[1]).0.name(),
        };
        Err(tensor_error(&self.run.manifests[0], tensor, fault))
    }
}

impl<'a> Job for MeanJob<'a> {
    type Partial = DiffPartial;
    type Worker = MeanWorker<'a>;

    fn items(&self) -> usize {
        self.run.common.len()
    }

    fn elements(&self, item: usize) -> u64 {
        self.run.common.elements(self.run.manifests, item)
    }

    fn element_bits(&self, item: usize) -> u64 {
        self.run.common.element_bits(self.run.manifests, item)
    }

    fn worker(&self) -> MeanWorker<'a> {
        let level = self.run.level;
        MeanWorker {
            readers: Readers::new(self.run.manifests.iter().map(|manifest| &**manifest)),
            mean: MeanKernel::new(level),
            rounded: Vec::new(),
            diff: DiffKernel::new(level, Arc::clone(&self.options)),
        }
    }

    fn reduce(
        &self,
        worker: &mut MeanWorker<'a>,
        item: usize,
        elements: Range<u64>,
        control: &Control,
    ) -> Result<DiffPartial, Error> {
        let tensors = self.run.common.views(self.run.manifests, item);
        let mut partial = DiffPartial::default();
        let bits = tensors.iter().map(|(dtype, _)| dtype.bits()).max();
        let in_place = worker.readers.in_place(&self.files, &tensors);
        let piece_bytes = self.files.piece_bytes(in_place);
        for piece in pieces(elements, bits.unwrap_or(1), piece_bytes) {
            control.check()?;
            let runs = worker.readers.read(&self.files, &tensors, &piece)?;
            let count = (piece.end - piece.start) as usize;
            let bytes: u64 = runs.iter().map(|(_, bytes)| bytes.len() as u64).sum();
            let (target, parts) = (runs[0], &runs[1..]);
            let rounded = &mut worker.rounded;
            worker.mean.mean(parts, target.0, count, rounded);
            let mean = (target.0, &**rounded);
            worker
                .diff
                .accumulate(mean, target, count, piece.start, &mut partial);
            worker.readers.release(&tensors)?;
            control.add_done(bytes);
        }
        Ok(partial)
    }

    fn merge(&self, into: &mut DiffPartial, later: DiffPartial) {
        into.merge(&later);
    }
}
