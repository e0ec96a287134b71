//! Freed memory goes back to the system.
//!
//! What a burst of misses needs for a second would else be kept for as long as the container runs: glibc gives only the
//! end of a heap back by itself, and has a heap for each of many threads. So there are few heaps here ([`configure`]),
//! and when no reader has waited for a while, the pages of all that is free in them are given back
//! ([`trim_when_idle`]).
//!
//! The only module of the crate that may call the allocator. With other C libraries it does nothing.

use std::time::Duration;

/// How often it is looked whether there is something to do. Longer than idle threads live: what they free is trimmed too.
const INTERVAL: Duration = Duration::from_secs(4);

/// Heaps of glibc, of all threads together. Threads that meet at one wait for each other, but nothing that is answered
/// from the cache allocates.
#[cfg(target_env = "gnu")]
const ARENAS: nix::libc::c_int = 2;
/// From so many bytes on, what is allocated is a mapping of its own, and back with the system as soon as it is freed.
#[cfg(target_env = "gnu")]
const MAPPED: nix::libc::c_int = 128 << 10;

/// Makes the allocator keep little. To be called before there is a second thread.
pub fn configure() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets parameters of the allocator, under its lock. It does not fail for numbers that are in range, and
    // would leave things as they are.
    unsafe {
        nix::libc::mallopt(nix::libc::M_ARENA_MAX, ARENAS);
        nix::libc::mallopt(nix::libc::M_MMAP_THRESHOLD, MAPPED);
    }
}

/// Trims once after the start, and whenever nothing has changed for some seconds in what `activity` answers, a number
/// that changes with all work that needs much memory.
pub async fn trim_when_idle(activity: impl Fn() -> u64) {
    let (mut seen, mut trimmed) = (activity(), None);
    loop {
        tokio::time::sleep(INTERVAL).await;
        let now = activity();
        if now == seen && trimmed != Some(now) {
            // It takes milliseconds, or longer where other threads free much at the same time.
            let _ = tokio::task::spawn_blocking(trim).await;
            trimmed = Some(now);
        }
        seen = now;
    }
}

fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: has no preconditions; it takes the locks of the allocator itself.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
