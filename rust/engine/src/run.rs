//! `diff` and `stats`: what is read for each tensor, and which kernel reduces it.

use std::ops::Range;
use std::sync::Arc;

use ckptdiff_kernels::{
    DType, DiffKernel, DiffOptions, DiffPartial, Level, StatsKernel, StatsOptions, StatsPartial,
};

use crate::distinct::{Distinct, by_place};
use crate::error::{Error, TensorFault};
use crate::execute::{Control, Job, execute, threads_of};
use crate::manifest::{Manifest, StoredDType, TensorView};
use crate::reader::{Files, Reader, byte_range, pieces};
use crate::source::Reading;

/// A diff to be run.
pub struct DiffRun<'a> {
    /// The baseline.
    pub a: &'a Manifest,
    /// The other.
    pub b: &'a Manifest,
    /// Indices of tensors with the same shape.
    pub pairs: &'a [(u32, u32)],
    /// What to measure.
    pub options: DiffOptions,
    /// The instruction set.
    pub level: Level,
    /// How many threads; 0 for one per core.
    pub threads: usize,
    /// How files are read.
    pub reading: Reading,
}

/// A stats to be run.
pub struct StatsRun<'a> {
    /// The checkpoint.
    pub manifest: &'a Manifest,
    /// Indices of tensors.
    pub tensors: &'a [u32],
    /// What to measure.
    pub options: StatsOptions,
    /// Also hash the bytes of every tensor.
    pub content_hash: bool,
    /// The instruction set.
    pub level: Level,
    /// How many threads; 0 for one per core.
    pub threads: usize,
    /// How files are read.
    pub reading: Reading,
}

/// Diff every pair; one partial each, in their order. Pairs of the very same bytes are read once.
pub fn diff(run: &DiffRun<'_>, control: &Control) -> Result<Vec<DiffPartial>, Error> {
    let Some(distinct) = distinct_pairs(run.a, run.b, run.pairs) else {
        return diff_each(run, control);
    };
    let pick = |item: &u32| run.pairs[*item as usize];
    let pairs: Vec<_> = distinct.firsts.iter().map(pick).collect();
    let run = DiffRun {
        pairs: &pairs,
        options: run.options.clone(),
        ..*run
    };
    Ok(distinct.spread(&diff_each(&run, control)?))
}

/// Bytes of both sides that a diff of these pairs reads.
pub fn bytes_to_diff(a: &Manifest, b: &Manifest, pairs: &[(u32, u32)]) -> u64 {
    let bytes =
        |pair: &(u32, u32)| a.tensor(pair.0 as usize).bytes() + b.tensor(pair.1 as usize).bytes();
    match distinct_pairs(a, b, pairs) {
        None => pairs.iter().map(bytes).sum(),
        Some(distinct) => {
            let firsts = distinct.firsts.iter();
            firsts.map(|item| bytes(&pairs[*item as usize])).sum()
        }
    }
}

/// Bytes that stats of these tensors read.
pub fn bytes_to_describe(manifest: &Manifest, tensors: &[u32]) -> u64 {
    let bytes = |index: &u32| manifest.tensor(*index as usize).bytes();
    match distinct_tensors(manifest, tensors) {
        None => tensors.iter().map(bytes).sum(),
        Some(distinct) => {
            let firsts = distinct.firsts.iter();
            firsts.map(|item| bytes(&tensors[*item as usize])).sum()
        }
    }
}

fn distinct_pairs(a: &Manifest, b: &Manifest, pairs: &[(u32, u32)]) -> Option<Distinct> {
    if a.is_disjoint() || b.is_disjoint() {
        return None;
    }
    Distinct::of(pairs.len(), |one, other| {
        let (one, other) = (pairs[one as usize], pairs[other as usize]);
        by_place(a.tensor(one.0 as usize), a.tensor(other.0 as usize))
            .then_with(|| by_place(b.tensor(one.1 as usize), b.tensor(other.1 as usize)))
    })
}

fn distinct_tensors(manifest: &Manifest, tensors: &[u32]) -> Option<Distinct> {
    if manifest.is_disjoint() {
        return None;
    }
    Distinct::of(tensors.len(), |one, other| {
        let (one, other) = (tensors[one as usize], tensors[other as usize]);
        by_place(
            manifest.tensor(one as usize),
            manifest.tensor(other as usize),
        )
    })
}

fn diff_each(run: &DiffRun<'_>, control: &Control) -> Result<Vec<DiffPartial>, Error> {
    let mut dtypes = Vec::with_capacity(run.pairs.len());
    for &(a, b) in run.pairs {
        let dtype_a = known_dtype(run.a, a, run.options.cast)?;
        let dtype_b = known_dtype(run.b, b, run.options.cast)?;
        dtypes.push((dtype_a, dtype_b));
    }
    let threads = threads_of(run.threads);
    let job = DiffJob {
        run,
        dtypes,
        options: Arc::new(run.options.clone()),
        files: Files::new(run.reading, threads, 2),
    };
    execute(&job, threads, control)
}

/// What stats know of a tensor.
#[derive(Clone, Default)]
pub struct TensorStats {
    /// Its values, reduced.
    pub partial: StatsPartial,
    /// The hash of its bytes where that was asked for; boxed, as it mostly is not.
    pub hash: Option<Box<[u8; 32]>>,
}

/// Reduce every tensor; results are in their order. Tensors of the very same bytes are read once.
pub fn stats(run: &StatsRun<'_>, control: &Control) -> Result<Vec<TensorStats>, Error> {
    let Some(distinct) = distinct_tensors(run.manifest, run.tensors) else {
        return stats_each(run, control);
    };
    let pick = |item: &u32| run.tensors[*item as usize];
    let tensors: Vec<_> = distinct.firsts.iter().map(pick).collect();
    let run = StatsRun {
        tensors: &tensors,
        options: run.options.clone(),
        ..*run
    };
    Ok(distinct.spread(&stats_each(&run, control)?))
}

fn stats_each(run: &StatsRun<'_>, control: &Control) -> Result<Vec<TensorStats>, Error> {
    let mut dtypes = Vec::with_capacity(run.tensors.len());
    for &index in run.tensors {
        dtypes.push(known_dtype(run.manifest, index, None)?);
    }
    let threads = threads_of(run.threads);
    let job = StatsJob {
        run,
        dtypes,
        options: Arc::new(run.options.clone()),
        files: Files::new(run.reading, threads, 1),
    };
    let partials = execute(&job, threads, control)?;
    Ok(partials
        .into_iter()
        .map(|partial| TensorStats {
            hash: run.content_hash.then(|| Box::new(partial.hash())),
            partial: partial.stats,
        })
        .collect())
}

pub(crate) fn known_dtype(
    manifest: &Manifest,
    index: u32,
    cast: Option<DType>,
) -> Result<DType, Error> {
    let tensor = manifest.tensor(index as usize);
    let fail = |fault| tensor_error(manifest, tensor, fault);
    match (tensor.dtype, cast) {
        (StoredDType::Unknown(dtype), _) => Err(fail(TensorFault::UnknownDType {
            dtype: dtype.to_owned(),
        })),
        (StoredDType::Known(dtype), Some(target)) if dtype.components() > 1 => {
            Err(fail(TensorFault::ComplexCast {
                dtype: dtype.name(),
                target: target.name(),
            }))
        }
        (StoredDType::Known(dtype), _) => Ok(dtype),
    }
}

/// What is wrong with a tensor, and in which file it begins.
pub(crate) fn tensor_error(
    manifest: &Manifest,
    tensor: TensorView<'_>,
    fault: TensorFault,
) -> Error {
    let source = tensor.spans.first().map(|span| span.source as usize);
    Error::Tensor {
        path: source
            .map(|source| manifest.sources()[source].path().to_owned())
            .unwrap_or_default(),
        tensor: tensor.name.to_owned(),
        fault,
    }
}

struct DiffJob<'a> {
    run: &'a DiffRun<'a>,
    dtypes: Vec<(DType, DType)>,
    options: Arc<DiffOptions>,
    files: Files,
}

struct DiffWorker<'a> {
    kernel: DiffKernel,
    reader_a: Reader<'a>,
    reader_b: Reader<'a>,
}

impl<'a> Job for DiffJob<'a> {
    type Partial = DiffPartial;
    type Worker = DiffWorker<'a>;

    fn items(&self) -> usize {
        self.run.pairs.len()
    }

    fn elements(&self, item: usize) -> u64 {
        self.run
            .a
            .tensor(self.run.pairs[item].0 as usize)
            .elements()
    }

    fn element_bits(&self, item: usize) -> u64 {
        let (a, b) = self.dtypes[item];
        a.bits() + b.bits()
    }

    fn worker(&self) -> DiffWorker<'a> {
        DiffWorker {
            kernel: DiffKernel::new(self.run.level, Arc::clone(&self.options)),
            reader_a: Reader::new(self.run.a),
            reader_b: Reader::new(self.run.b),
        }
    }

    fn reduce(
        &self,
        worker: &mut DiffWorker<'a>,
        item: usize,
        elements: Range<u64>,
        control: &Control,
    ) -> Result<DiffPartial, Error> {
        let (index_a, index_b) = self.run.pairs[item];
        let (dtype_a, dtype_b) = self.dtypes[item];
        let tensor_a = self.run.a.tensor(index_a as usize);
        let tensor_b = self.run.b.tensor(index_b as usize);
        let bits = dtype_a.bits().max(dtype_b.bits());
        let mut partial = DiffPartial::default();
        let in_place = worker.reader_a.in_place(&self.files, tensor_a)
            && worker.reader_b.in_place(&self.files, tensor_b);
        for piece in pieces(elements, bits, self.files.piece_bytes(in_place)) {
            control.check()?;
            let count = (piece.end - piece.start) as usize;
            let a = byte_range(&piece, dtype_a);
            let a = worker.reader_a.read(&self.files, tensor_a, a)?;
            let b = byte_range(&piece, dtype_b);
            let b = worker.reader_b.read(&self.files, tensor_b, b)?;
            worker
                .kernel
                .accumulate((dtype_a, a), (dtype_b, b), count, piece.start, &mut partial);
            let bytes = (a.len() + b.len()) as u64;
            worker.reader_a.release(tensor_a)?;
            worker.reader_b.release(tensor_b)?;
            control.add_done(bytes);
        }
        Ok(partial)
    }

    fn merge(&self, into: &mut DiffPartial, later: DiffPartial) {
        into.merge(&later);
    }
}

struct StatsJob<'a> {
    run: &'a StatsRun<'a>,
    dtypes: Vec<DType>,
    options: Arc<StatsOptions>,
    files: Files,
}

struct StatsWorker<'a> {
    kernel: StatsKernel,
    reader: Reader<'a>,
}

/// Stats and the digests of the chunks they are of.
#[derive(Default)]
struct HashedPartial {
    stats: StatsPartial,
    digests: Vec<[u8; 32]>,
}

impl HashedPartial {
    /// BLAKE3 of the bytes; of the chunks' digests where there are several chunks.
    fn hash(&self) -> [u8; 32] {
        match &*self.digests {
            [] => *blake3::hash(&[]).as_bytes(),
            [digest] => *digest,
            digests => *blake3::hash(digests.as_flattened()).as_bytes(),
        }
    }
}

impl<'a> Job for StatsJob<'a> {
    type Partial = HashedPartial;
    type Worker = StatsWorker<'a>;

    fn items(&self) -> usize {
        self.run.tensors.len()
    }

    fn elements(&self, item: usize) -> u64 {
        let index = self.run.tensors[item] as usize;
        self.run.manifest.tensor(index).elements()
    }

    fn element_bits(&self, item: usize) -> u64 {
        self.dtypes[item].bits()
    }

    fn worker(&self) -> StatsWorker<'a> {
        StatsWorker {
            kernel: StatsKernel::new(self.run.level, Arc::clone(&self.options)),
            reader: Reader::new(self.run.manifest),
        }
    }

    fn reduce(
        &self,
        worker: &mut StatsWorker<'a>,
        item: usize,
        elements: Range<u64>,
        control: &Control,
    ) -> Result<HashedPartial, Error> {
        let dtype = self.dtypes[item];
        let tensor = self.run.manifest.tensor(self.run.tensors[item] as usize);
        let mut partial = HashedPartial::default();
        let mut hasher = self.run.content_hash.then(blake3::Hasher::new);
        let in_place = worker.reader.in_place(&self.files, tensor);
        for piece in pieces(elements, dtype.bits(), self.files.piece_bytes(in_place)) {
            control.check()?;
            let count = (piece.end - piece.start) as usize;
            let bytes = byte_range(&piece, dtype);
            let bytes = worker.reader.read(&self.files, tensor, bytes)?;
            worker
                .kernel
                .accumulate(dtype, bytes, count, piece.start, &mut partial.stats);
            if let Some(hasher) = &mut hasher {
                hasher.update(bytes);
            }
            let bytes = bytes.len() as u64;
            worker.reader.release(tensor)?;
            control.add_done(bytes);
        }
        partial.stats.settle();
        partial
            .digests
            .extend(hasher.map(|hasher| *hasher.finalize().as_bytes()));
        Ok(partial)
    }

    fn merge(&self, into: &mut HashedPartial, later: HashedPartial) {
        into.stats.merge(&later.stats);
        into.digests.extend(later.digests);
    }
}
