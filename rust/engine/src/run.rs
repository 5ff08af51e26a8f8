//! Reading and reducing with all threads, with the result of one.
//!
//! Every tensor is cut into chunks of [`CHUNK`] elements, whatever its dtype, its format or its
//! shards are. Threads take chunks in order, several small tensors at once; each reads its chunk
//! in pieces that stay in the cache and reduces them to one partial. Partials are merged per
//! tensor in the order of the chunks: one that is done before its turn waits. So memory is bounded
//! by a few pieces per thread, and no result depends on how many threads there are.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ckptdiff_kernels::{
    DType, DiffKernel, DiffOptions, DiffPartial, Level, StatsKernel, StatsOptions, StatsPartial,
};

use crate::error::{Error, TensorFault};
use crate::lock::lock;
use crate::manifest::{Manifest, Span, StoredDType, TensorView};
use crate::source::{MappedReads, Reading, Window};

/// Elements whose partials are merged in order.
const CHUNK: u64 = 1 << 20;

/// Bytes of one side that a thread copies at once: two of them stay in a second-level cache.
pub const PIECE_BYTES: u64 = 64 << 10;

/// Bytes of one side that a thread reads in place at once, if there are few threads.
pub const WINDOW_BYTES: u64 = 1 << 20;

/// Bytes of all windows that are open at once: what they take of the resident set.
const ALL_WINDOWS_BYTES: u64 = 32 << 20;

/// A window can make as much resident as the large folios that it touches, of 2 MB each: more
/// threads than this copy, unless they are told not to.
const MOST_THREADS: usize = 24;

/// What is shorter is copied: two system calls for a window take longer.
const SHORTEST_WINDOW: usize = 128 << 10;

/// Bytes of one side that each of so many threads reads in place at once.
fn window_bytes(threads: usize) -> u64 {
    let share = ALL_WINDOWS_BYTES / (2 * threads as u64);
    (share / PIECE_BYTES * PIECE_BYTES).clamp(SHORTEST_WINDOW as u64, WINDOW_BYTES)
}

/// Bytes after which a batch of small tensors is large enough.
const BATCH_BYTES: u64 = 1 << 20;

/// Tensors after which it is, too.
const BATCH_TENSORS: usize = 1024;

/// What one who waits for a run can ask of it, from another thread.
#[derive(Debug, Default)]
pub struct Control {
    cancelled: AtomicBool,
    bytes_done: AtomicU64,
}

impl Control {
    /// Stop as soon as the piece at hand is done; the run ends with [`Error::Cancelled`].
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Bytes of both sides that were reduced so far.
    pub fn bytes_done(&self) -> u64 {
        self.bytes_done.load(Ordering::Relaxed)
    }

    pub(crate) fn add_bytes(&self, bytes: u64) {
        self.bytes_done.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.cancelled.load(Ordering::Relaxed) {
            Err(Error::Cancelled)
        } else {
            Ok(())
        }
    }
}

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

/// Diff every pair; one partial each, in their order.
pub fn diff(run: &DiffRun<'_>, control: &Control) -> Result<Vec<DiffPartial>, Error> {
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
        files: Files::new(run.reading, threads),
    };
    execute(&job, threads, control)
}

/// What stats know of a tensor.
#[derive(Default)]
pub struct TensorStats {
    /// Its values, reduced.
    pub partial: StatsPartial,
    /// The hash of its bytes where that was asked for; boxed, as it mostly is not.
    pub hash: Option<Box<[u8; 32]>>,
}

/// Reduce every tensor; results are in their order.
pub fn stats(run: &StatsRun<'_>, control: &Control) -> Result<Vec<TensorStats>, Error> {
    let mut dtypes = Vec::with_capacity(run.tensors.len());
    for &index in run.tensors {
        dtypes.push(known_dtype(run.manifest, index, None)?);
    }
    let threads = threads_of(run.threads);
    let job = StatsJob {
        run,
        dtypes,
        options: Arc::new(run.options.clone()),
        files: Files::new(run.reading, threads),
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
    let fail = |fault| Error::Tensor {
        path: tensor
            .spans
            .first()
            .map(|span| manifest.sources()[span.source as usize].path().to_owned())
            .unwrap_or_default(),
        tensor: tensor.name.to_owned(),
        fault,
    };
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

/// Something that is reduced item by item, chunk by chunk.
trait Job: Sync {
    type Partial: Default + Send;
    type Worker;

    fn items(&self) -> usize;
    fn elements(&self, item: usize) -> u64;
    fn element_bits(&self, item: usize) -> u64;
    fn worker(&self) -> Self::Worker;

    fn reduce(
        &self,
        worker: &mut Self::Worker,
        item: usize,
        elements: Range<u64>,
        control: &Control,
    ) -> Result<Self::Partial, Error>;

    fn merge(&self, into: &mut Self::Partial, later: Self::Partial);
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
            control.add_bytes(bytes);
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
            control.add_bytes(bytes);
        }
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

/// Cut elements into what is read at once. Pieces are multiples of every kernel block.
pub(crate) fn pieces(
    elements: Range<u64>,
    bits: u64,
    bytes: u64,
) -> impl Iterator<Item = Range<u64>> {
    let step = (bytes * 8 / bits).next_multiple_of(ckptdiff_kernels::BLOCK as u64);
    let end = elements.end;
    elements
        .step_by(step as usize)
        .map(move |start| start..(start + step).min(end))
}

/// Pieces begin at whole bytes, since they begin at multiples of a block.
pub(crate) fn byte_range(elements: &Range<u64>, dtype: DType) -> Range<u64> {
    dtype.bytes_before(elements.start)..dtype.bytes_before(elements.end)
}

/// How files are read in this run.
pub(crate) struct Files {
    reading: Reading,
    mapped: MappedReads,
    window_bytes: u64,
}

impl Files {
    pub(crate) fn new(reading: Reading, threads: usize) -> Self {
        Self {
            reading: match reading {
                Reading::Auto if threads > MOST_THREADS => Reading::Copied,
                reading => reading,
            },
            mapped: MappedReads::new(),
            window_bytes: window_bytes(threads),
        }
    }

    /// Bytes of a side that are reduced at once.
    pub(crate) const fn piece_bytes(&self, in_place: bool) -> u64 {
        if in_place {
            self.window_bytes
        } else {
            PIECE_BYTES
        }
    }
}

/// Brings a tensor's bytes together, wherever they lie.
pub(crate) struct Reader<'a> {
    manifest: &'a Manifest,
    buffer: Vec<u8>,
    /// What is read in place, and the offset it has in its source.
    window: Option<(Window<'a>, u64)>,
    /// A span of the tensor at hand, and where it begins in the tensor: pieces come in order, and
    /// a tensor can have a million spans.
    cursor: (usize, u64),
    /// The spans that the cursor is for: where another tensor was read says nothing of this one.
    cursor_spans: &'a [Span],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(manifest: &'a Manifest) -> Self {
        Self {
            manifest,
            buffer: Vec::new(),
            window: None,
            cursor: (0, 0),
            cursor_spans: &[],
        }
    }

    /// Whether the tensor's bytes need not be copied, as far as its first span tells: it is asked
    /// for every chunk, and there can be a million spans.
    pub(crate) fn in_place(&self, files: &Files, tensor: TensorView<'_>) -> bool {
        tensor.spans.first().is_some_and(|span| {
            self.manifest.sources()[span.source as usize].reads_in_place(files.reading)
        })
    }

    /// The bytes, until [`release`](Self::release) is called.
    pub(crate) fn read(
        &mut self,
        files: &Files,
        tensor: TensorView<'a>,
        bytes: Range<u64>,
    ) -> Result<&[u8], Error> {
        let length = (bytes.end - bytes.start) as usize;
        self.seek(tensor, bytes.start);
        let (index, span_start) = self.cursor;
        if let Some(span) = tensor.spans.get(index)
            && bytes.end <= span_start + span.length
        {
            let source = &self.manifest.sources()[span.source as usize];
            let offset = span.offset + (bytes.start - span_start);
            if let Some(borrowed) = source.borrow(offset, length) {
                return Ok(borrowed);
            }
            if length >= SHORTEST_WINDOW
                && let Some(window) = source.window(offset, length, files.reading, &files.mapped)
            {
                return Ok(self.window.insert((window, offset)).0.bytes());
            }
        }
        self.copy(tensor, bytes)
    }

    /// Move the cursor to the span that has the byte at `start`.
    fn seek(&mut self, tensor: TensorView<'a>, start: u64) {
        let (mut index, mut span_start) = self.cursor;
        if start < span_start || !std::ptr::eq(self.cursor_spans, tensor.spans) {
            (index, span_start) = (0, 0);
            self.cursor_spans = tensor.spans;
        }
        while let Some(span) = tensor.spans.get(index)
            && span_start + span.length <= start
        {
            span_start += span.length;
            index += 1;
        }
        self.cursor = (index, span_start);
    }

    /// Read into the buffer, from the cursor's span on.
    fn copy(&mut self, tensor: TensorView<'_>, bytes: Range<u64>) -> Result<&[u8], Error> {
        let length = (bytes.end - bytes.start) as usize;
        if self.buffer.len() < length {
            self.buffer.resize(length, 0);
        }
        let buffer = &mut self.buffer[..length];
        let (first, mut span_start) = self.cursor;
        let mut filled = 0;
        for span in &tensor.spans[first.min(tensor.spans.len())..] {
            if filled == length {
                break;
            }
            let from = bytes.start.max(span_start);
            let to = bytes.end.min(span_start + span.length);
            if from < to {
                let part = &mut buffer[filled..filled + (to - from) as usize];
                let source = &self.manifest.sources()[span.source as usize];
                let offset = span.offset + (from - span_start);
                source
                    .read_at(offset, part)
                    .map_err(|error| read_error(source.path(), tensor.name, offset, part, error))?;
                filled += part.len();
            }
            span_start += span.length;
        }
        debug_assert_eq!(filled, length, "a manifest's spans cover the tensor");
        Ok(buffer)
    }

    /// Done with what was read: an error if some of it was lost meanwhile.
    pub(crate) fn release(&mut self, tensor: TensorView<'_>) -> Result<(), Error> {
        let Some((window, offset)) = self.window.take() else {
            return Ok(());
        };
        if window.is_whole() {
            return Ok(());
        }
        let source = tensor.spans[self.cursor.0].source as usize;
        Err(Error::Truncated {
            path: self.manifest.sources()[source].path().to_owned(),
            tensor: tensor.name.to_owned(),
            end: offset + window.bytes().len() as u64,
        })
    }
}

fn read_error(
    path: &std::path::Path,
    tensor: &str,
    offset: u64,
    part: &[u8],
    source: io::Error,
) -> Error {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::UnexpectedEof => Error::Truncated {
            path,
            tensor: tensor.to_owned(),
            end: offset + part.len() as u64,
        },
        io::ErrorKind::NotFound => Error::NotFound { path },
        // of a source that decodes, which does not know its tensor
        io::ErrorKind::InvalidData => Error::Tensor {
            path,
            tensor: tensor.to_owned(),
            fault: TensorFault::BrokenData(source.to_string()),
        },
        _ => Error::Io { path, source },
    }
}

/// Chunks of one tensor, or several small tensors.
type Batch = Vec<(usize, Range<u64>)>;

/// Hands out the work in order.
struct Planner {
    item: usize,
    element: u64,
}

impl Planner {
    fn next<J: Job>(&mut self, job: &J) -> Option<Batch> {
        let mut batch = Batch::new();
        let mut bits = 0;
        while self.item < job.items() && bits < BATCH_BYTES * 8 && batch.len() < BATCH_TENSORS {
            let elements = job.elements(self.item);
            let end = elements.min(self.element + CHUNK);
            if end > self.element {
                batch.push((self.item, self.element..end));
                bits += (end - self.element) * job.element_bits(self.item);
            }
            self.element = end;
            if end == elements {
                (self.item, self.element) = (self.item + 1, 0);
            }
        }
        (!batch.is_empty()).then_some(batch)
    }
}

/// Merges partials in the order of their chunks.
struct Merger<P> {
    finished: Vec<P>,
    /// Tensors that have several chunks and miss some.
    waiting: HashMap<usize, Waiting<P>>,
}

/// What is known of a tensor beside the merged beginning.
struct Waiting<P> {
    /// Where the next chunk begins.
    next: u64,
    /// Chunks that are done before their turn, by where they begin, with where they end.
    early: HashMap<u64, (u64, P)>,
}

impl<P> Default for Waiting<P> {
    fn default() -> Self {
        Self {
            next: 0,
            early: HashMap::new(),
        }
    }
}

impl<P> Merger<P> {
    fn add<J: Job<Partial = P>>(&mut self, job: &J, item: usize, elements: Range<u64>, partial: P) {
        let total = job.elements(item);
        if elements == (0..total) {
            self.finished[item] = partial;
            return;
        }
        let waiting = self.waiting.entry(item).or_default();
        waiting
            .early
            .insert(elements.start, (elements.end, partial));
        while let Some((end, partial)) = waiting.early.remove(&waiting.next) {
            job.merge(&mut self.finished[item], partial);
            waiting.next = end;
        }
        if waiting.next == total {
            self.waiting.remove(&item);
        }
    }
}

/// How many threads, of which 0 means one per core.
fn threads_of(threads: usize) -> usize {
    match threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    }
}

fn execute<J: Job>(job: &J, threads: usize, control: &Control) -> Result<Vec<J::Partial>, Error> {
    let planner = Mutex::new(Planner {
        item: 0,
        element: 0,
    });
    let merger = Mutex::new(Merger {
        finished: std::iter::repeat_with(J::Partial::default)
            .take(job.items())
            .collect(),
        waiting: HashMap::new(),
    });
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut worker = job.worker();
                let mut partials = Vec::new();
                loop {
                    let batch = lock(&planner).next(job);
                    let Some(batch) = batch else {
                        break;
                    };
                    for (item, elements) in batch {
                        match job.reduce(&mut worker, item, elements.clone(), control) {
                            Ok(partial) => partials.push((item, elements, partial)),
                            Err(error) => {
                                control.cancel();
                                // The first failure counts; the others only saw the cancel.
                                lock(&failure).get_or_insert(error);
                                return;
                            }
                        }
                    }
                    let mut merger = lock(&merger);
                    for (item, elements, partial) in partials.drain(..) {
                        merger.add(job, item, elements, partial);
                    }
                }
            });
        }
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(merger
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .finished),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::ManifestBuilder;
    use crate::source::testing::Bytes;

    #[test]
    fn where_one_tensor_was_read_says_nothing_of_the_next() {
        let bytes: Vec<u8> = (0..600u32).map(|index| (index % 251) as u8).collect();
        let mut builder = ManifestBuilder::default();
        let source = builder.add_source(Arc::new(Bytes(bytes.clone())));
        // Contiguous, cut at different places; one begins with a span of nothing.
        for (name, start, cuts) in [
            ("x", 0, [100, 200]),
            ("y", 200, [10, 200]),
            ("z", 400, [0, 200]),
        ] {
            let spans = [(0, cuts[0]), (cuts[0], cuts[1])].map(|(from, to)| Span {
                source,
                offset: start + from,
                length: to - from,
            });
            builder.add(name, "U8", &[200], spans);
        }
        let manifest = builder.build().expect("different names");
        let files = Files::new(Reading::Copied, 1);
        let mut reader = Reader::new(&manifest);
        for tensor in [0, 1, 2, 1, 0, 2] {
            for range in [150..160, 0..20, 150..160] {
                let start = 200 * tensor + range.start as usize;
                let found = reader
                    .read(&files, manifest.tensor(tensor), range.clone())
                    .expect("bytes in memory");
                assert_eq!(
                    found,
                    &bytes[start..start + found.len()],
                    "{tensor} {range:?}"
                );
            }
        }
    }
}
