//! Reducing with all threads, with the result of one.
//!
//! Every tensor is cut into chunks of [`CHUNK`] elements, whatever its dtype, its format or its
//! shards are. Threads take chunks in order, several small tensors at once; each reads its chunk
//! in pieces that stay in the cache and reduces them to one partial. Partials are merged per
//! tensor in the order of the chunks: one that is done before its turn waits. So memory is bounded
//! by a few pieces per thread, and no result depends on how many threads there are.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::Error;
use crate::lock::lock;

/// Elements whose partials are merged in order.
const CHUNK: u64 = 1 << 20;

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

    /// Count bytes that were reduced.
    pub(crate) fn add_done(&self, bytes: u64) {
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

/// Something that is reduced item by item, chunk by chunk.
pub(crate) trait Job: Sync {
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
pub(crate) fn threads_of(threads: usize) -> usize {
    match threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    }
}

pub(crate) fn execute<J: Job>(
    job: &J,
    threads: usize,
    control: &Control,
) -> Result<Vec<J::Partial>, Error> {
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
