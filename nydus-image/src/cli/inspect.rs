//! `inspect`: its options.

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
    /// Configuration of the backend (not supported yet)
    #[arg(short = 'C', long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to ask: stats, blobs or prefetch; others, and asking interactively, are not supported yet
    #[arg(short = 'R', long, value_name = "CMD")]
    pub request: Option<String>,
}
