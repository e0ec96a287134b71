//! `unpack`: its options.

use std::path::PathBuf;

use clap::Args;

use super::{BackendArgs, BootstrapArg};

/// `nydus-image unpack`.
#[derive(Args, Debug)]
#[command(after_help = "\
The tar is in POSIX (PAX) format, owners are numeric. GNU tar restores all of it as root with
  tar --xattrs --xattrs-include='*' --numeric-owner -xpf FILE
Names are relative to the root of the image, which is the entry ./; so are the targets of hard links.
Sockets cannot be in a tar and are left out, with a warning. Holes are written as zeros.")]
pub struct UnpackArgs {
    /// What to unpack.
    #[command(flatten)]
    pub bootstrap: BootstrapArg,
    /// The blob, if the image has only one
    #[arg(short = 'b', long, value_name = "FILE", conflicts_with_all = ["blob_dir", "backend_type", "config"])]
    pub blob: Option<PathBuf>,
    /// Directory of blobs
    #[arg(short = 'D', long, value_name = "DIR", conflicts_with_all = ["backend_type", "config"])]
    pub blob_dir: Option<PathBuf>,
    /// Another place of the blobs.
    #[command(flatten)]
    pub backend: BackendArgs,
    /// Write the tar to this file, which may be a FIFO; - is standard output
    #[arg(long, value_name = "FILE", required = true)]
    pub output: PathBuf,
    /// Threads that decode; 0: one a core
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,
}
