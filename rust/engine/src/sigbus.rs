//! What happens where a mapped file has lost a page: zeros take its place, and the window says so.
//!
//! A read of such a page raises SIGBUS in the thread that reads. While a [`Guard`] lives, a handler
//! looks up the address among the windows that are [`Watched`]; it maps a page of zeros there, marks
//! the window, and lets the read go on. Any other address is not ours: the action that stood before
//! is put back, and the read that faulted runs into it. (As the journal of systemd does, in
//! `sigbus.c`.)
//!
//! The handler only loads and stores atomics and calls `mmap` and `sigaction`, which are system
//! calls without locks of their own.

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::mapped::page_size;

/// More windows than this are not watched, and so not opened.
const SLOTS: usize = 1024;

struct Slot {
    /// Address of the first byte; 0 while the slot is free, 1 while it is being filled.
    start: AtomicUsize,
    length: AtomicUsize,
    hit: AtomicBool,
}

impl Slot {
    /// Whether it watches `address`. One that is filled anew meanwhile is none that was hit, and
    /// the start of one window must not be taken with the length of another.
    fn watches(&self, address: usize) -> bool {
        let start = self.start.load(Ordering::Acquire);
        let length = self.length.load(Ordering::Acquire);
        start > TAKEN
            && (start..start + length).contains(&address)
            && self.start.load(Ordering::Relaxed) == start
    }
}

static WINDOWS: [Slot; SLOTS] = [const {
    Slot {
        start: AtomicUsize::new(FREE),
        length: AtomicUsize::new(0),
        hit: AtomicBool::new(false),
    }
}; SLOTS];

const FREE: usize = 0;
const TAKEN: usize = 1;

/// Slots from here on were never taken.
static UNUSED: AtomicUsize = AtomicUsize::new(0);

/// The page size, where the handler can have it without asking.
static PAGE: AtomicUsize = AtomicUsize::new(4096);

/// Addresses whose loss is caught as long as this lives.
#[derive(Debug)]
pub(crate) struct Watched(usize);

impl Watched {
    /// Watch `length` bytes from `start` on, both of whole pages; nothing where too many are.
    pub(crate) fn new(start: usize, length: usize) -> Option<Self> {
        for (index, slot) in WINDOWS.iter().enumerate() {
            let free =
                slot.start
                    .compare_exchange(FREE, TAKEN, Ordering::Acquire, Ordering::Relaxed);
            if free.is_ok() {
                slot.length.store(length, Ordering::Release);
                slot.hit.store(false, Ordering::Relaxed);
                slot.start.store(start, Ordering::Release);
                UNUSED.fetch_max(index + 1, Ordering::Relaxed);
                return Some(Self(index));
            }
        }
        None
    }

    /// How far the range `lower..upper`, which has this one in it, can be cut down so that it has
    /// nothing of any other.
    pub(crate) fn alone_in(&self, mut lower: usize, mut upper: usize) -> (usize, usize) {
        let own = WINDOWS[self.0].start.load(Ordering::Relaxed);
        let own_end = own + WINDOWS[self.0].length.load(Ordering::Relaxed);
        for slot in &WINDOWS[..UNUSED.load(Ordering::Relaxed).min(SLOTS)] {
            let start = slot.start.load(Ordering::Acquire);
            let end = start + slot.length.load(Ordering::Relaxed);
            if start <= TAKEN || start == own {
                continue;
            }
            if start < own {
                lower = lower.max(end.min(own_end));
            } else {
                upper = upper.min(start.max(own));
            }
        }
        (lower, upper.max(lower))
    }

    /// Whether a page of it was lost.
    pub(crate) fn was_hit(&self) -> bool {
        WINDOWS[self.0].hit.load(Ordering::Acquire)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        WINDOWS[self.0].start.store(FREE, Ordering::Release);
    }
}

/// How many guards there are, and the action that stood before the first.
static GUARDS: Mutex<(usize, Option<libc::sigaction>)> = Mutex::new((0, None));

/// The same action for the handler, which must not lock.
static mut PREVIOUS: MaybeUninit<libc::sigaction> = MaybeUninit::uninit();

/// Keeps the handler in place while windows may be open.
#[derive(Debug)]
pub(crate) struct Guard(());

impl Guard {
    pub(crate) fn new() -> Self {
        let mut guards = GUARDS.lock().unwrap_or_else(PoisonError::into_inner);
        guards.0 += 1;
        if guards.0 == 1 {
            PAGE.store(page_size(), Ordering::Relaxed);
            let previous = current();
            // SAFETY: the handler, which reads this, is not installed; the lock is held.
            unsafe { (&raw mut PREVIOUS).write(MaybeUninit::new(previous)) };
            guards.1 = Some(previous);
            set(&ours());
        }
        Self(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut guards = GUARDS.lock().unwrap_or_else(PoisonError::into_inner);
        guards.0 -= 1;
        if guards.0 == 0
            && let Some(previous) = guards.1.take()
            // Whoever has put a handler over ours meanwhile keeps it.
            && current().sa_sigaction == ours().sa_sigaction
        {
            set(&previous);
        }
    }
}

fn ours() -> libc::sigaction {
    // SAFETY: all zeros are a value of this plain C struct: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_sigbus;
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    action
}

fn current() -> libc::sigaction {
    // SAFETY: all zeros are a value of this plain C struct.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: asks for the action, and the struct is there to be written.
    unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut action) };
    action
}

fn set(action: &libc::sigaction) {
    // SAFETY: the action is one that stood before, or ours, whose handler has that signature.
    unsafe { libc::sigaction(libc::SIGBUS, action, std::ptr::null_mut()) };
}

extern "C" fn on_sigbus(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel hands a handler with SA_SIGINFO a valid siginfo.
    let address = unsafe { (*info).si_addr() } as usize;
    for slot in &WINDOWS {
        if slot.watches(address) {
            let page = PAGE.load(Ordering::Relaxed);
            // SAFETY: the page lies inside a window of a mapping of ours, whose reader is the
            // thread that this handler interrupts: replacing it takes nothing from anybody.
            let zeros = unsafe {
                libc::mmap(
                    (address / page * page) as *mut libc::c_void,
                    page,
                    libc::PROT_READ,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                    -1,
                    0,
                )
            };
            if zeros != libc::MAP_FAILED {
                // Windows can share a page: all that have it are told.
                for slot in &WINDOWS {
                    if slot.watches(address) {
                        slot.hit.store(true, Ordering::Release);
                    }
                }
                return;
            }
        }
    }
    // SAFETY: written before this handler was installed, and not since.
    let previous = unsafe { (&raw const PREVIOUS).read().assume_init() };
    set(&previous);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_previous_action_comes_back() {
        let guard = Guard::new();
        let second = Guard::new();
        assert_eq!(current().sa_sigaction, ours().sa_sigaction);
        drop(guard);
        assert_eq!(current().sa_sigaction, ours().sa_sigaction);
        drop(second);
        // Other tests of this process may hold a guard at the same time.
        let guards = GUARDS.lock().unwrap_or_else(PoisonError::into_inner);
        if guards.0 == 0 {
            assert_ne!(current().sa_sigaction, ours().sa_sigaction);
        }
    }
}
