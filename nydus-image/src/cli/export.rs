//! `export`: its options.

use std::path::PathBuf;

use clap::Args;

use super::{BackendArgs, BootstrapArg};

/// `nydus-image export`.
#[derive(Args, Debug)]
#[command(after_help = "\
The result can be mounted where it lies:  mount -t erofs -o loop FILE DIR
With --verity a hash tree follows the data, and a line tells how to open it:
  veritysetup open FILE NAME FILE <options of that line>")]
pub struct ExportArgs {
    /// What to export; RAFS v6.
    #[command(flatten)]
    pub bootstrap: BootstrapArg,
    /// Make the content of a block device; there is nothing else to make
    #[arg(long, required = true)]
    pub block: bool,
    /// Directory of blobs
    #[arg(short = 'D', long, visible_alias = "localfs-dir", value_name = "DIR", conflicts_with_all = ["backend_type", "config"])]
    pub blob_dir: Option<PathBuf>,
    /// Another place of the blobs.
    #[command(flatten)]
    pub backend: BackendArgs,
    /// Write to this file; by default the path of the bootstrap with .disk behind it
    #[arg(short = 'O', long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Append a dm-verity hash tree, and print how to use it
    #[arg(long)]
    pub verity: bool,
    /// Threads that decode; 0: one a core
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub threads: usize,
}
