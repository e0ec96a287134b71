//! `check`: its options.

use std::path::PathBuf;

use clap::Args;

use super::BootstrapArg;

/// `nydus-image check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// What to check.
    #[command(flatten)]
    pub bootstrap: BootstrapArg,
    /// Where a bootstrap inside a blob is unpacked to, as `<name of the blob>.image.boot`
    #[arg(short = 'D', long, value_name = "DIR")]
    pub blob_dir: Option<PathBuf>,
    /// Accepted for the sake of scripts: a bootstrap, or a blob with one inside, is a file; no backend is needed
    #[arg(short = 'C', long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print every inode and chunk
    #[arg(short = 'v', long)]
    pub verbose: bool,
    /// Write the result to this file
    #[arg(short = 'J', long, value_name = "FILE")]
    pub output_json: Option<PathBuf>,
}
