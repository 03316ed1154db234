//! glibc's allocator, told to keep few arenas: an idle daemon stays small.

#![allow(unsafe_code)]

/// Arenas at most: with one per thread, freed memory of each stays with the process.
const ARENAS: libc::c_int = 2;

/// To be called before threads are started.
pub fn configure() {
    // SAFETY: mallopt only sets parameters of the allocator; no other thread runs yet.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 256 * 1024);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 256 * 1024);
    }
}

/// Gives freed memory back to the kernel: after work that needed much.
pub fn trim() {
    // SAFETY: malloc_trim takes the allocator's own locks and may be called by any thread.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
