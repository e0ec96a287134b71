//! A clock that costs a few nanoseconds and is some milliseconds behind.

use nix::libc;

/// Seconds since 1970.
#[allow(unsafe_code)]
pub(super) fn coarse_seconds() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a place for one timespec, which is all that the call writes. If it fails, it writes nothing.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME_COARSE, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0)
}
