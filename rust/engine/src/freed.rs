//! Memory that was freed and that the allocator has not given back.

/// Give freed memory back to the system, where the allocator keeps it.
///
/// glibc takes large blocks from the heap once the first of them was freed, and keeps what is freed
/// there. What Python allocates next it maps, so that the two add up: 25 MB for each checkpoint of
/// 200,000 tensors in a pickle.
pub fn give_back_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim takes no pointer, and any thread may call it at any time (MT-Safe).
    unsafe {
        libc::malloc_trim(0);
    }
}
