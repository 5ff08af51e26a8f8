//! Files read in place: mapped whole, populated and dropped a window at a time.
//!
//! A `read` copies, and a core that copies does not reduce; a populated mapping costs a third of
//! that where the cache holds single pages, and next to nothing where it holds large folios. What
//! a mapping costs is certainty: bytes that the file has lost meanwhile are a SIGBUS, not an error.
//! So a window is populated first, which is refused with an error code beyond the end of the file;
//! for what happens after that [`super::sigbus`] stands by, and a window that was hit says so.
//!
//! Dropping a window gives its pages back, so that the resident set is bounded by the windows that
//! are open at once.

use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::sigbus::Watched;

/// A whole file, mapped for reading.
#[derive(Debug)]
pub(crate) struct Mapping {
    address: usize,
    length: usize,
    /// The file, which its owner keeps open: another descriptor for every shard could be too many.
    descriptor: RawFd,
    /// Whether the file system is one whose pages stay what they are.
    trusted: bool,
    /// Whether some of it was lost, and replaced by zeros.
    broken: AtomicBool,
    /// How far the kernel was told to read ahead, in bytes from the beginning.
    told: AtomicUsize,
}

/// Bytes of a file that can be read in place, until this is dropped.
#[derive(Debug)]
pub struct Window<'a> {
    mapping: &'a Mapping,
    /// Where the populated pages begin.
    start: usize,
    /// Bytes of whole pages.
    length: usize,
    /// Where the bytes asked for begin, and how many there are.
    bytes: (usize, usize),
    watched: Watched,
}

/// Whether this kernel populates mappings (Linux 5.14); found out by the first who tries.
static CAN_POPULATE: AtomicBool = AtomicBool::new(true);

/// Bytes beyond a window that came from the disk which the kernel is told to fetch meanwhile. What
/// it fetches by itself is set for each disk, 128 KB by default, which keeps none busy.
const AHEAD: usize = 8 << 20;

/// A kernel takes no more of one hint than the disk takes of one request.
const HINT: usize = 512 << 10;

/// Populating takes 0.03 ns a byte from single pages of the cache, and 0.1 from the fastest disks.
const FROM_CACHE: Duration = Duration::from_nanos(64);
const FROM_CACHE_BYTES: usize = 1 << 10;

impl Mapping {
    /// Map `file`, if it is a regular one that can be mapped.
    pub(crate) fn new(file: &File) -> Option<Self> {
        let metadata = file.metadata().ok()?;
        let length = usize::try_from(metadata.len()).ok()?;
        if !metadata.is_file() || length == 0 {
            return None;
        }
        // SAFETY: a new mapping, of a descriptor that is open, at an address the kernel chooses.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        (address != libc::MAP_FAILED).then(|| Self {
            address: address as usize,
            length,
            descriptor: file.as_raw_fd(),
            trusted: is_local(file),
            broken: AtomicBool::new(false),
            told: AtomicUsize::new(0),
        })
    }

    /// Whether to map without having been asked to.
    pub(crate) const fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// How long the file is now.
    fn file_size(&self) -> Option<u64> {
        // SAFETY: all zeros are a value of this plain C struct.
        let mut status: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: the struct is there to be written; a descriptor that is not open is an error.
        let found = unsafe { libc::fstat(self.descriptor, &raw mut status) } == 0;
        found.then(|| u64::try_from(status.st_size).unwrap_or(0))
    }

    /// The bytes from `offset` on, populated; nothing where they cannot be had, for which reading
    /// them will give the reason.
    pub(crate) fn window(&self, offset: u64, length: usize) -> Option<Window<'_>> {
        let offset = usize::try_from(offset).ok()?;
        let end = offset.checked_add(length)?;
        if end > self.length
            || length == 0
            || self.broken.load(Ordering::Relaxed)
            || !CAN_POPULATE.load(Ordering::Relaxed)
        {
            return None;
        }
        let page = page_size();
        let start = self.address + offset / page * page;
        let pages = (self.address + end).next_multiple_of(page) - start;
        let watched = Watched::new(start, pages)?;
        let begun = Instant::now();
        // SAFETY: the range lies inside the mapping, which lives as long as `self`; populating it
        // for reading changes nothing that anybody could see.
        let populated =
            unsafe { libc::madvise(start as *mut libc::c_void, pages, libc::MADV_POPULATE_READ) };
        if populated != 0 {
            let error = std::io::Error::last_os_error();
            if error.raw_os_error() == Some(libc::EINVAL) {
                CAN_POPULATE.store(false, Ordering::Relaxed);
            }
            return None;
        }
        if begun.elapsed() > FROM_CACHE * (pages / FROM_CACHE_BYTES) as u32 {
            self.read_ahead(end);
        }
        Some(Window {
            mapping: self,
            start,
            length: pages,
            bytes: (self.address + offset, length),
            watched,
        })
    }

    /// Tell the kernel to fetch what comes after `end`, which it does while others reduce.
    #[cold]
    fn read_ahead(&self, end: usize) {
        let told = self.told.load(Ordering::Relaxed);
        let ahead = not_yet_told(end, told, self.length);
        if ahead.is_empty() {
            return;
        }
        // Who comes second tells the same again, which does no harm.
        self.told.store(ahead.end, Ordering::Relaxed);
        let page = page_size();
        for start in (ahead.start / page * page..ahead.end).step_by(HINT) {
            let length = HINT.min(ahead.end - start);
            let address = (self.address + start) as *mut libc::c_void;
            // SAFETY: the range lies inside the mapping; a hint changes nothing in it. One that
            // is not taken is no loss.
            unsafe { libc::madvise(address, length, libc::MADV_WILLNEED) };
        }
    }
}

/// Of a file of so many bytes what to tell after a window that ends at `end`, where the kernel was
/// told as far as `told`: little by little as windows follow each other, all where they jumped.
fn not_yet_told(end: usize, told: usize, length: usize) -> Range<usize> {
    let until = (end + AHEAD).min(length);
    let start = if (end..=end + 2 * AHEAD).contains(&told) {
        told
    } else {
        end
    };
    if until < start + HINT && until < length {
        return end..end;
    }
    start..until.max(start)
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's own, and windows borrow it, so none is left.
        unsafe { libc::munmap(self.address as *mut libc::c_void, self.length) };
    }
}

impl Window<'_> {
    /// The bytes. They are the file's only if the window [`is_whole`](Self::is_whole) afterwards.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the range lies inside the mapping, which `self` borrows, and pages that the file
        // loses are replaced by zeros (see `sigbus`). Others may write to the file meanwhile, as
        // they may while it is read: the kernels make no decision on a byte that they read twice.
        unsafe { std::slice::from_raw_parts(self.bytes.0 as *const u8, self.bytes.1) }
    }

    /// Whether none of the window has been lost so far. A file that ends within a page raises no
    /// signal: the rest of that page reads as zeros, so its size is looked at, too.
    pub fn is_whole(&self) -> bool {
        let end = (self.bytes.0 - self.mapping.address + self.bytes.1) as u64;
        let size = self.mapping.file_size();
        !self.note_hit() && size.is_some_and(|size| end <= size)
    }

    /// Whether a page was replaced by zeros; the mapping then opens no more windows.
    fn note_hit(&self) -> bool {
        let hit = self.watched.was_hit();
        if hit {
            self.mapping.broken.store(true, Ordering::Relaxed);
        }
        hit
    }
}

impl Drop for Window<'_> {
    fn drop(&mut self) {
        // Also note a hit that nobody has asked about: the mapping has zeros now.
        self.note_hit();
        // A fault maps the pages around it, too: the whole of a large folio, across both ends.
        const FOLIO: usize = 2 << 20;
        let mapped = self.mapping.address..self.mapping.address + self.mapping.length;
        let start = (self.start / FOLIO * FOLIO).max(mapped.start);
        let end = (self.start + self.length)
            .next_multiple_of(FOLIO)
            .min(mapped.end.next_multiple_of(page_size()));
        let (start, end) = self.watched.alone_in(start, end);
        // SAFETY: the pages lie inside the mapping; whoever else reads them gets them again from
        // the file, as the mapping is shared and read-only.
        unsafe {
            libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED);
        }
    }
}

pub(crate) fn page_size() -> usize {
    // SAFETY: asks for a constant.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// File systems on a disk or in the memory of this machine. On others (NFS, FUSE, Lustre, 9p)
/// pages come and go with a server, and `read` is what they are made for.
fn is_local(file: &File) -> bool {
    const LOCAL: [u32; 9] = [
        0x0000_ef53, // ext2, ext3, ext4
        0x5846_5342, // XFS
        0x9123_683e, // Btrfs
        0x2fc1_2fc1, // ZFS
        0xf2f5_2010, // F2FS
        0xca45_1a4e, // bcachefs
        0x0102_1994, // tmpfs
        0x8584_58f6, // ramfs
        0x794c_7630, // overlayfs, of containers
    ];
    // SAFETY: all zeros are a value of this plain C struct.
    let mut status: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, and the struct is there to be written.
    let found = unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut status) } == 0;
    found && LOCAL.contains(&(status.f_type as u32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sigbus::Guard;

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("a temporary file");
        std::io::Write::write_all(&mut file, bytes).expect("room for it");
        file
    }

    #[test]
    fn a_window_has_the_bytes_of_the_file_at_any_offset() {
        let bytes: Vec<u8> = (0..100_000u32).map(|index| (index % 251) as u8).collect();
        let file = file_of(&bytes);
        let _guard = Guard::new();
        let mapping = Mapping::new(&file).expect("it can be mapped");
        for (offset, length) in [(0, 1), (1, 4096), (4095, 2), (8192, 4096), (99_000, 1000)] {
            let window = mapping.window(offset, length).expect("inside the file");
            let start = offset as usize;
            assert_eq!(window.bytes(), &bytes[start..start + length]);
            assert!(window.is_whole());
        }
        assert!(mapping.window(99_001, 1000).is_none());
        assert!(mapping.window(u64::MAX, 1000).is_none());
    }

    #[test]
    fn the_kernel_is_told_every_byte_once() {
        const FILE: usize = 100 << 20;
        const WINDOW: usize = 1 << 20;
        let mut told = 0;
        let mut hints = Vec::new();
        for end in (WINDOW..=FILE).step_by(WINDOW) {
            let ahead = not_yet_told(end, told, FILE);
            assert!(ahead.end <= FILE && ahead.end <= end + AHEAD, "{ahead:?}");
            if !ahead.is_empty() {
                told = ahead.end;
                hints.push(ahead);
            }
        }
        assert_eq!(hints[0].start, WINDOW, "what was read needs no hint");
        assert!(hints.windows(2).all(|pair| pair[0].end == pair[1].start));
        assert_eq!(told, FILE);
        // back at the beginning, and far ahead
        assert_eq!(not_yet_told(WINDOW, FILE, FILE), WINDOW..WINDOW + AHEAD);
        let far = 50 << 20;
        assert_eq!(not_yet_told(far, WINDOW + AHEAD, FILE), far..far + AHEAD);
        assert!(not_yet_told(FILE, far, FILE).is_empty());
    }

    #[test]
    fn bytes_that_were_lost_before_are_no_window() {
        let file = file_of(&[1; 100_000]);
        let _guard = Guard::new();
        let mapping = Mapping::new(&file).expect("it can be mapped");
        file.set_len(10_000).expect("it can be cut");
        assert!(mapping.window(50_000, 1000).is_none());
        assert!(mapping.window(0, 1000).is_some());
    }

    #[test]
    fn bytes_that_are_lost_meanwhile_are_told() {
        for _ in 0..20 {
            let file = file_of(&[1; 100_000]);
            let _guard = Guard::new();
            let mapping = Mapping::new(&file).expect("it can be mapped");
            let other = mapping.window(0, 4096).expect("inside the file");
            let window = mapping.window(50_000, 40_000).expect("inside the file");
            file.set_len(60_000).expect("it can be cut");
            let sum: u64 = window.bytes().iter().map(|byte| u64::from(*byte)).sum();
            assert!((9_000..40_000).contains(&sum), "{sum}");
            assert!(!window.is_whole());
            assert!(other.is_whole());
            drop(window);
            assert!(mapping.window(0, 4096).is_none(), "it has zeros now");
        }
    }

    #[test]
    fn a_file_that_ends_within_a_page_that_it_keeps_is_told() {
        // There is no fault: the rest of the last page reads as zeros.
        let file = file_of(&[1; 100_000]);
        let _guard = Guard::new();
        let mapping = Mapping::new(&file).expect("it can be mapped");
        let before = mapping.window(99_000, 1000).expect("inside the file");
        let other = mapping.window(98_000, 1000).expect("inside the file");
        file.set_len(99_990).expect("it can be cut");
        assert!(!before.is_whole());
        assert!(other.is_whole());
        let after = mapping.window(99_000, 1000);
        assert!(after.is_none_or(|window| !window.is_whole()));
    }
}
