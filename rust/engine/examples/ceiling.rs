//! The ceiling that every throughput is held against: read two checkpoints as the engine does,
//! with as many threads, buffers and reads of the same size, and only XOR what was read.
//!
//! `ceiling THREADS A [B]`, each a safetensors file or a directory of them; with A alone it is the
//! ceiling of `stats`. Prints bytes, seconds and the XOR.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ckptdiff_engine::{FileSource, Source};

/// What one thread takes at a time, and what it reads at once: the engine's chunk and piece.
const CHUNK: u64 = 2 << 20;
const PIECE: u64 = ckptdiff_engine::PIECE_BYTES;

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

fn xor(bytes: &[u8]) -> u64 {
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
    let threads: usize = arguments.next().ok_or("THREADS A [B]")?.parse()?;
    let sides: Vec<PathBuf> = arguments.map(PathBuf::from).collect();
    let mut sources: Vec<Vec<FileSource>> = Vec::new();
    let mut work = Vec::new();
    for side in &sides {
        sources.push(files(side)?.into_iter().map(FileSource::new).collect());
        work.push(chunks(side)?);
    }
    let count = work.iter().map(Vec::len).max().unwrap_or(0);
    let start = Instant::now();
    let next = AtomicU64::new(0);
    let total = AtomicU64::new(0);
    let bytes_read = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut buffers = vec![vec![0; PIECE as usize]; sources.len()];
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
                                let length = (to - from).min(PIECE) as usize;
                                let buffer = &mut buffer[..length];
                                sources[side][file]
                                    .read_at(from, buffer)
                                    .expect("the file can be read");
                                result ^= xor(buffer);
                                bytes_read.fetch_add(length as u64, Ordering::Relaxed);
                            }
                        }
                        total.fetch_xor(result, Ordering::Relaxed);
                        piece += PIECE;
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
