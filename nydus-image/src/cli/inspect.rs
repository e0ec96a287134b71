//! `inspect`: its options.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::BootstrapArg;

/// `nydus-image inspect`.
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// What to look into.
    #[command(flatten)]
    pub bootstrap: BootstrapArg,
    /// Where a bootstrap inside a blob is unpacked to, as `<name of the blob>.image.boot`
    #[arg(short = 'D', long, value_name = "DIR")]
    pub blob_dir: Option<PathBuf>,
    /// Accepted for the sake of scripts: a bootstrap is a file, no backend is needed
    #[arg(short = 'C', long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Answer this and end: stats, ls, cd DIR, stat FILE, blobs, prefetch, chunk OFFSET, icheck INODE or help
    #[arg(short = 'R', long, value_name = "CMD")]
    pub request: Option<OsString>,
}
