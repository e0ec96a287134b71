//! `stat`: its options.

use std::path::PathBuf;

use clap::Args;

use super::DigesterArg;

/// `nydus-image stat`.
#[derive(Args, Debug)]
pub struct StatArgs {
    /// Count what this image holds
    #[arg(
        short = 'B',
        long,
        value_name = "FILE",
        conflicts_with = "blob_dir",
        required_unless_present = "blob_dir"
    )]
    pub bootstrap: Option<PathBuf>,
    /// Count what all images in this directory hold: every file whose name has no extension
    #[arg(short = 'D', long, value_name = "DIR")]
    pub blob_dir: Option<PathBuf>,
    /// Compare this image with those, as if they were its dictionary
    #[arg(short = 'T', long, value_name = "FILE")]
    pub target: Option<PathBuf>,
    /// Accepted for the sake of scripts: bootstraps are files, no backend is needed
    #[arg(short = 'C', long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Digester that the images must have been built with; by default any, as long as it is the same one
    #[arg(long, value_enum)]
    pub digester: Option<DigesterArg>,
    /// Write the result to this file, as JSON
    #[arg(short = 'J', long, value_name = "FILE")]
    pub output_json: Option<PathBuf>,
}
