//! `compact`: its options.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::BackendArgs;

/// `nydus-image compact`.
#[derive(Args, Debug)]
pub struct CompactArgs {
    /// Bootstrap of the image to compact
    #[arg(short = 'B', long, value_name = "FILE")]
    pub bootstrap: PathBuf,
    /// Directory for new blobs; the others are read from here too, unless a backend is given
    #[arg(short = 'D', long, value_name = "DIR")]
    pub blob_dir: PathBuf,
    /// Where the blobs are.
    #[command(flatten)]
    pub backend: BackendArgs,
    /// Rewrite blobs of whose data fewer than so many hundredths are used
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=99), default_value_t = 0)]
    pub min_used_ratio: u8,
    /// Merge blobs of whose data fewer than so many bytes are used
    #[arg(long, value_name = "BYTES", value_parser = super::parse_number, default_value = "10485760")]
    pub compact_blob_size: u64,
    /// Merge them up to so many bytes
    #[arg(long, value_name = "BYTES", value_parser = super::parse_number, default_value = "104857600")]
    pub max_compact_size: u64,
    /// Do nothing with an image of fewer blobs; 0: whatever their number
    #[arg(long, value_name = "N", value_parser = super::parse_number, default_value = "32")]
    pub layers_to_compact: u64,
    /// Bootstrap of a chunk dictionary, whose blobs stay as they are: PATH or bootstrap=PATH
    #[arg(long, value_name = "ARG")]
    pub chunk_dict: Option<OsString>,
    /// Write the new bootstrap to this file [default: --bootstrap with the extension bootstrap.compact]
    #[arg(short = 'O', long, value_name = "FILE")]
    pub output_bootstrap: Option<PathBuf>,
    /// Write the result to this file, if anything was compacted
    #[arg(short = 'J', long, value_name = "FILE")]
    pub output_json: Option<PathBuf>,
}

impl CompactArgs {
    /// Where the new bootstrap goes.
    pub fn output(&self) -> PathBuf {
        let default = || self.bootstrap.with_extension("bootstrap.compact");
        self.output_bootstrap.clone().unwrap_or_else(default)
    }
}
