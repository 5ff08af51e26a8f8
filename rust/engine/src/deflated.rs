//! Tensors that a zip archive has compressed, as `numpy.savez_compressed` does.
//!
//! A deflate stream can only be read from its start, and the engine asks for pieces nearly in order
//! from several threads, each in a chunk of its own. So a stream is inflated block by block, by
//! whichever thread first needs a block that is not there, while others that want the same tensor
//! wait. Blocks that were inflated last are kept, and behind them the states that the inflater had
//! between blocks, a thirtieth of the size: where a block has gone before it was asked for, inflating
//! goes on from the state before it and not from the start. Both stores are shared by all tensors
//! of a manifest, so that memory is bounded whatever their number and size.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};

use crate::lock::lock;
use crate::source::Source;

/// How far back deflate can refer; the inflater writes around in a window of this size.
const WINDOW: usize = 32 << 10;

/// Bytes inflated at once: whole windows, so that a block ends where the window begins again.
const BLOCK: u64 = 1 << 20;

/// Inflated blocks that are kept, and states between blocks, of about 45 KiB each.
const BLOCKS_KEPT: usize = 32;
const STATES_KEPT: usize = 256;

/// Compressed bytes that are read at once.
const INPUT_BYTES: u64 = 64 << 10;

/// What was inflated last, of any tensor.
#[derive(Default)]
pub(crate) struct Inflated {
    blocks: Mutex<Recent<Arc<[u8]>>>,
    states: Mutex<Recent<Arc<Inflater>>>,
}

/// Values by stream and block, the one used last standing last.
struct Recent<T> {
    kept: Vec<(usize, u64, T)>,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self { kept: Vec::new() }
    }
}

impl<T: Clone> Recent<T> {
    fn find(&mut self, stream: usize, index: u64) -> Option<T> {
        let position = self
            .kept
            .iter()
            .position(|(of, at, _)| (*of, *at) == (stream, index))?;
        let found = self.kept.remove(position);
        let value = found.2.clone();
        self.kept.push(found);
        Some(value)
    }

    /// The last value of a stream at or before a block.
    fn nearest(&self, stream: usize, index: u64) -> Option<T> {
        let before = self
            .kept
            .iter()
            .filter(|(of, at, _)| *of == stream && *at <= index);
        before
            .max_by_key(|(_, at, _)| *at)
            .map(|(_, _, value)| value.clone())
    }

    fn keep(&mut self, stream: usize, index: u64, value: T, at_most: usize) {
        self.kept
            .retain(|(of, at, _)| (*of, *at) != (stream, index));
        if self.kept.len() >= at_most {
            self.kept.remove(0);
        }
        self.kept.push((stream, index, value));
    }
}

/// A deflate stream, stopped between two blocks.
#[derive(Clone)]
struct Inflater {
    machine: Box<DecompressorOxide>,
    window: Box<[u8]>,
    /// Where in the window the next byte goes.
    window_at: usize,
    /// How many compressed bytes have been used.
    consumed: u64,
    finished: bool,
    /// How many blocks it has given.
    blocks: u64,
    /// The CRC of these: states are between blocks, so that one is known at the end on every way
    /// there.
    crc: u32,
}

impl Inflater {
    fn new() -> Self {
        Self {
            machine: Box::default(),
            window: vec![0; WINDOW].into(),
            window_at: 0,
            consumed: 0,
            finished: false,
            blocks: 0,
            crc: 0,
        }
    }
}

/// A compressed record of a file, presented as the bytes it inflates to.
pub(crate) struct DeflatedSource {
    source: Arc<dyn Source>,
    inflated: Arc<Inflated>,
    /// Tells the blocks of this stream from those of others.
    number: usize,
    offset: u64,
    stored_length: u64,
    length: u64,
    crc: u32,
    /// Held while inflating, so that no two threads inflate the same.
    inflating: Mutex<()>,
}

impl DeflatedSource {
    /// The `stored_length` bytes at `offset`, which inflate to `length` bytes of that CRC.
    pub(crate) fn new(
        source: Arc<dyn Source>,
        inflated: Arc<Inflated>,
        number: usize,
        (offset, stored_length): (u64, u64),
        (length, crc): (u64, u32),
    ) -> Self {
        Self {
            source,
            inflated,
            number,
            offset,
            stored_length,
            length,
            crc,
            inflating: Mutex::new(()),
        }
    }

    fn block(&self, index: u64) -> io::Result<Arc<[u8]>> {
        let find = || lock(&self.inflated.blocks).find(self.number, index);
        if let Some(block) = find() {
            return Ok(block);
        }
        let _inflating = lock(&self.inflating);
        // another thread may just have finished it
        if let Some(block) = find() {
            return Ok(block);
        }
        let nearest = lock(&self.inflated.states).nearest(self.number, index);
        let mut inflater =
            nearest.map_or_else(Inflater::new, |state| Inflater::clone(state.as_ref()));
        loop {
            let at = inflater.blocks;
            let block = Arc::<[u8]>::from(self.inflate(&mut inflater)?);
            lock(&self.inflated.blocks).keep(self.number, at, Arc::clone(&block), BLOCKS_KEPT);
            if inflater.blocks * BLOCK < self.length {
                let state = Arc::new(inflater.clone());
                lock(&self.inflated.states).keep(self.number, at + 1, state, STATES_KEPT);
            }
            if at == index {
                return Ok(block);
            }
        }
    }

    /// The next block.
    fn inflate(&self, inflater: &mut Inflater) -> io::Result<Vec<u8>> {
        let start = inflater.blocks * BLOCK;
        let wanted = BLOCK.min(self.length - start) as usize;
        let mut block = Vec::with_capacity(wanted);
        let mut input = Input::default();
        while block.len() < wanted {
            let window_at = inflater.window_at;
            let written = self.step(inflater, &mut input)?;
            block.extend_from_slice(&inflater.window[window_at..window_at + written]);
            if block.len() > wanted {
                return Err(self.broken("inflates to more bytes than it should", start));
            }
            if inflater.finished && block.len() < wanted {
                let end = start + block.len() as u64;
                return Err(self.broken("is cut off", end));
            }
        }
        inflater.blocks += 1;
        let mut crc = crc32fast::Hasher::new_with_initial(inflater.crc);
        crc.update(&block);
        inflater.crc = crc.finalize();
        if start + wanted as u64 == self.length {
            // The end of a stream can be a code of its own, behind all bytes.
            while !inflater.finished {
                if self.step(inflater, &mut input)? > 0 {
                    return Err(self.broken("inflates to more bytes than it should", self.length));
                }
            }
            if inflater.crc != self.crc {
                let how = format!(
                    "has CRC {:08x} where the archive says {:08x}",
                    inflater.crc, self.crc
                );
                return Err(self.broken(&how, self.length));
            }
        }
        Ok(block)
    }

    /// Inflate until the window or the input ends; returns how much went into the window.
    fn step(&self, inflater: &mut Inflater, input: &mut Input) -> io::Result<usize> {
        if input.used == input.bytes.len() {
            let length = INPUT_BYTES.min(self.stored_length - inflater.consumed) as usize;
            input.bytes.resize(length, 0);
            input.used = 0;
            let offset = self.offset + inflater.consumed;
            self.source.read_at(offset, &mut input.bytes)?;
        }
        let given = &input.bytes[input.used..];
        let more = inflater.consumed + (given.len() as u64) < self.stored_length;
        let flags = if more {
            inflate_flags::TINFL_FLAG_HAS_MORE_INPUT
        } else {
            0
        };
        let (status, used, written) = decompress(
            &mut inflater.machine,
            given,
            &mut inflater.window,
            inflater.window_at,
            flags,
        );
        input.used += used;
        inflater.consumed += used as u64;
        inflater.window_at = (inflater.window_at + written) % WINDOW;
        match status {
            TINFLStatus::Done => inflater.finished = true,
            TINFLStatus::NeedsMoreInput | TINFLStatus::HasMoreOutput => {}
            _ => {
                let at = inflater.blocks * BLOCK;
                return Err(self.broken("is broken", at));
            }
        }
        Ok(written)
    }

    fn broken(&self, how: &str, at: u64) -> io::Error {
        let (offset, length) = (self.offset, self.length);
        let message =
            format!("the compressed record at byte {offset} {how}, after {at} of {length} bytes");
        io::Error::new(io::ErrorKind::InvalidData, message)
    }
}

/// Compressed bytes, and how many of them have been used.
#[derive(Default)]
struct Input {
    bytes: Vec<u8>,
    used: usize,
}

impl Source for DeflatedSource {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut at = offset;
        let mut filled = 0;
        while filled < buffer.len() {
            if at >= self.length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let block = self.block(at / BLOCK)?;
            let from = (at % BLOCK) as usize;
            let count = (block.len() - from).min(buffer.len() - filled);
            buffer[filled..filled + count].copy_from_slice(&block[from..from + count]);
            filled += count;
            at += count as u64;
        }
        Ok(())
    }

    fn has_file_offsets(&self) -> bool {
        false
    }

    fn path(&self) -> &Path {
        self.source.path()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::testing::Bytes;
    use miniz_oxide::deflate::compress_to_vec;

    /// Bytes that deflate a little: a prime cycle with steps.
    fn sample(length: usize) -> Vec<u8> {
        (0..length)
            .map(|at| ((at % 251) ^ (at >> 12)) as u8)
            .collect()
    }

    fn deflated(content: &[u8], length: u64) -> DeflatedSource {
        let mut file = vec![7; 13];
        file.extend(compress_to_vec(content, 6));
        let stored = file.len() as u64 - 13;
        DeflatedSource::new(
            Arc::new(Bytes(file)),
            Arc::default(),
            0,
            (13, stored),
            (length, crc32fast::hash(content)),
        )
    }

    #[test]
    fn the_bytes_whatever_the_order_of_asking() {
        for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 12345] {
            let content = sample(length as usize);
            let source = deflated(&content, length);
            let mut read = vec![0; length as usize];
            let mut pieces: Vec<_> = read.chunks_mut(99_991).enumerate().collect();
            // every second one from the end, then the others
            pieces.sort_by_key(|(number, _)| (number % 2, std::cmp::Reverse(*number)));
            for (number, piece) in pieces {
                source.read_at(number as u64 * 99_991, piece).unwrap();
            }
            assert!(read == content, "{length}");
            assert!(source.read_at(length, &mut [0]).is_err());
        }
    }

    #[test]
    fn blocks_that_were_dropped_are_inflated_again_from_the_state_before() {
        let length = (BLOCKS_KEPT as u64 + 8) * BLOCK;
        let content = sample(length as usize);
        let source = deflated(&content, length);
        let mut last = vec![0; 100];
        source.read_at(length - 100, &mut last).unwrap();
        assert!(last == content[content.len() - 100..]);
        assert!(lock(&source.inflated.blocks).kept.len() == BLOCKS_KEPT);
        assert!(lock(&source.inflated.blocks).find(0, 0).is_none());
        let mut second = vec![0; 100];
        source.read_at(BLOCK, &mut second).unwrap();
        assert!(second == content[BLOCK as usize..BLOCK as usize + 100]);
    }

    #[test]
    fn threads_in_chunks_of_their_own() {
        let content = sample(9 * BLOCK as usize + 5);
        let source = deflated(&content, content.len() as u64);
        std::thread::scope(|scope| {
            for (number, part) in content.chunks(2_000_003).enumerate() {
                let source = &source;
                scope.spawn(move || {
                    let mut read = vec![0; part.len()];
                    let start = number as u64 * 2_000_003;
                    source.read_at(start, &mut read).unwrap();
                    assert!(read == part);
                });
            }
        });
    }

    #[test]
    fn a_stream_of_another_length_or_of_noise_is_an_error() {
        let content = sample(BLOCK as usize);
        for length in [0, 1, 1000, BLOCK - 1, BLOCK + 1, 5 * BLOCK] {
            let source = deflated(&content, length);
            let mut read = vec![0; length as usize];
            let outcome = source.read_at(0, &mut read);
            assert!(outcome.is_err() || length == 0, "{length}");
        }
        let noise = DeflatedSource::new(
            Arc::new(Bytes(vec![0xff; 4096])),
            Arc::default(),
            0,
            (0, 4096),
            (10_000, 0),
        );
        let error = noise.read_at(0, &mut [0; 10_000]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let mut cut = compress_to_vec(&content, 6);
        cut.truncate(cut.len() / 2);
        let stored = cut.len() as u64;
        let whole = (BLOCK, crc32fast::hash(&content));
        let source =
            DeflatedSource::new(Arc::new(Bytes(cut)), Arc::default(), 0, (0, stored), whole);
        assert!(source.read_at(0, &mut vec![0; BLOCK as usize]).is_err());
    }

    #[test]
    fn another_crc_is_an_error_whatever_the_order_of_asking() {
        let content = sample(3 * BLOCK as usize + 5);
        let mut source = deflated(&content, content.len() as u64);
        source.crc ^= 1;
        let mut first = vec![0; 100];
        source.read_at(0, &mut first).unwrap();
        assert!(first == content[..100]);
        source.read_at(2 * BLOCK, &mut first).unwrap();
        let error = source.read_at(3 * BLOCK, &mut [0; 5]).unwrap_err();
        assert!(error.to_string().contains("CRC"), "{error}");
    }
}
