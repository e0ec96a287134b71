//! The page cache, dropped; and the memory that it will take, claimed.

use std::fs;

use anyhow::{Context, Result};

/// Writes everything to disk and forgets all clean pages, directory entries and inodes of the whole machine.
pub fn drop_all() -> Result<()> {
    const FILE: &str = "/proc/sys/vm/drop_caches";
    nix::unistd::sync();
    fs::write(FILE, "3").with_context(|| format!("cannot drop the page cache: {FILE}"))
}

/// The most memory that is claimed: a tree twice, once as the daemon's file and once as its readers', and room for inodes.
const CLAIM: usize = 4 << 30;

/// Touches free memory, and frees it again.
///
/// The host of a virtual machine takes back what has been free for some seconds, and giving it again costs more than
/// all that is measured here: 2 GiB took 0.6 s of system time, and 2.3 s half a minute later. Without this, who
/// comes after a long pass pays for it.
pub fn claim_memory() {
    let available = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()
    });
    let claim = CLAIM.min(available.unwrap_or(0).saturating_mul(1024) / 2);
    std::hint::black_box(vec![1u8; claim]);
}
