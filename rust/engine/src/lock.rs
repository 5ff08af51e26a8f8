//! Locks of threads that end together.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Lock, whoever panicked before: a panic in a worker ends the scope of all of them with a panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
