//! The page cache, dropped.

use std::fs;

use anyhow::{Context, Result};

/// Writes everything to disk and forgets all clean pages, directory entries and inodes of the whole machine.
pub fn drop_all() -> Result<()> {
    const FILE: &str = "/proc/sys/vm/drop_caches";
    nix::unistd::sync();
    fs::write(FILE, "3").with_context(|| format!("cannot drop the page cache: {FILE}"))
}
