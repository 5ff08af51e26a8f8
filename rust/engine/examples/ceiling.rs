//! The ceilings that every throughput is held against: read checkpoints as the engine does, all of
//! them together, with as many threads, buffers and reads of the same size, and only XOR what was
//! read.
//!
//! `ceiling mapped|read THREADS CHECKPOINT...`, each a safetensors file or a directory of them: one
//! gives the ceiling of `stats`, two that of `diff`, more that of a series. `mapped` reads in place,
//! `read` into buffers. Prints bytes, seconds and the XOR.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ckptdiff_engine::{FileSource, MappedReads, PIECE_BYTES, Reading, Source, WINDOW_BYTES};

/// What one thread takes at a time: the engine's chunk.
const CHUNK: u64 = 2 << 20;

fn files(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files: Vec<_> = std::fs::read_dir(path)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|file| {
        file.extension()
            .is_some_and(|ending| ending == "safetensors")
    });
    files.sort();
    Ok(files)
}

/// Every chunk of every file.
fn chunks(path: &Path) -> std::io::Result<Vec<(usize, u64, u64)>> {
    let mut chunks = Vec::new();
    for (number, file) in files(path)?.iter().enumerate() {
        let size = file.metadata()?.len();
        let mut start = 0;
        while start < size {
            let end = size.min(start + CHUNK);
            chunks.push((number, start, end));
            start = end;
        }
    }
    Ok(chunks)
}

/// XOR of all words, as fast as the machine can.
fn xor(bytes: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: AVX2 was just detected.
        return unsafe { xor_avx2(bytes) };
    }
    xor_lanes(bytes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn xor_avx2(bytes: &[u8]) -> u64 {
    xor_lanes(bytes)
}

#[inline(always)]
fn xor_lanes(bytes: &[u8]) -> u64 {
    let mut lanes = [0u64; 16];
    for row in bytes.as_chunks::<128>().0 {
        for (lane, word) in lanes.iter_mut().zip(row.as_chunks().0) {
            *lane ^= u64::from_le_bytes(*word);
        }
    }
    lanes.into_iter().fold(0, |all, lane| all ^ lane)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "ceiling mapped|read THREADS CHECKPOINT...";
    let reading = match &*arguments.next().ok_or(usage)? {
        "mapped" => Reading::Mapped,
        "read" => Reading::Copied,
        _ => return Err(usage.into()),
    };
    let threads: usize = arguments.next().ok_or(usage)?.parse()?;
    let sides: Vec<PathBuf> = arguments.map(PathBuf::from).collect();
    let mut sources: Vec<Vec<FileSource>> = Vec::new();
    let mut work = Vec::new();
    for side in &sides {
        sources.push(files(side)?.into_iter().map(FileSource::new).collect());
        work.push(chunks(side)?);
    }
    let count = work.iter().map(Vec::len).max().unwrap_or(0);
    let mapped = MappedReads::new();
    let read = |source: &FileSource, from: u64, buffer: &mut [u8]| {
        if let Some(window) = source.window(from, buffer.len(), reading, &mapped) {
            return xor(window.bytes());
        }
        source.read_at(from, buffer).expect("the file can be read");
        xor(buffer)
    };
    let piece_bytes = match reading {
        Reading::Copied => PIECE_BYTES,
        _ => WINDOW_BYTES,
    };
    let start = Instant::now();
    let next = AtomicU64::new(0);
    let total = AtomicU64::new(0);
    let bytes_read = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut buffers = vec![vec![0; piece_bytes as usize]; sources.len()];
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed) as usize;
                    if number >= count {
                        break;
                    }
                    let mut piece = 0;
                    while piece < CHUNK {
                        let mut result = 0;
                        for (side, buffer) in buffers.iter_mut().enumerate() {
                            let Some(&(file, from, to)) = work[side].get(number) else {
                                continue;
                            };
                            let from = from + piece;
                            if from < to {
                                let length = (to - from).min(piece_bytes) as usize;
                                result ^= read(&sources[side][file], from, &mut buffer[..length]);
                                bytes_read.fetch_add(length as u64, Ordering::Relaxed);
                            }
                        }
                        total.fetch_xor(result, Ordering::Relaxed);
                        piece += piece_bytes;
                    }
                }
            });
        }
    });
    let seconds = start.elapsed().as_secs_f64();
    let bytes = bytes_read.into_inner();
    println!("{bytes} {seconds:.6} {:016x}", total.into_inner());
    Ok(())
}
