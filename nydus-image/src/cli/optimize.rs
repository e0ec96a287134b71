//! `optimize`: its options.

use std::path::PathBuf;

use clap::Args;

use super::BackendArgs;

/// `nydus-image optimize`.
#[derive(Args, Debug)]
pub struct OptimizeArgs {
    /// Bootstrap of the image
    #[arg(short = 'B', long, value_name = "FILE")]
    pub bootstrap: PathBuf,
    /// What to fetch first: absolute paths of files or directories, one a line; or
    /// {"version":"v1","files":[{"path":"/a","ranges":[[OFFSET,SIZE]]}]}, where without ranges all of a file is meant
    #[arg(short = 'p', long, value_name = "FILE")]
    pub prefetch_files: PathBuf,
    /// Directory of the image's blobs
    #[arg(short = 'D', long, value_name = "DIR")]
    pub blob_dir: Option<PathBuf>,
    /// The image's only blob
    #[arg(short = 'b', long, value_name = "FILE")]
    pub blob: Option<PathBuf>,
    /// Where the blobs are otherwise.
    #[command(flatten)]
    pub backend: BackendArgs,
    /// Write the new bootstrap to this file
    #[arg(short = 'O', long, value_name = "FILE", default_value = "optimized_bootstrap")]
    pub output_bootstrap: PathBuf,
    /// Write the prefetch blob to this directory [default: --blob-dir]
    #[arg(long, value_name = "DIR", required_unless_present = "blob_dir")]
    pub output_blob_dir: Option<PathBuf>,
    /// Write the result to this file
    #[arg(short = 'J', long, value_name = "FILE")]
    pub output_json: Option<PathBuf>,
}
