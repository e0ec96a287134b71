//! `merge`: its options.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::PrefetchPolicy;

/// `nydus-image merge`.
#[derive(Args, Debug)]
pub struct MergeArgs {
    /// Bootstraps of the layers, the lowest first
    #[arg(value_name = "SOURCE", required = true)]
    pub sources: Vec<PathBuf>,
    /// Write the merged bootstrap to this file
    #[arg(short = 'B', long, value_name = "FILE", required = true)]
    pub bootstrap: Option<PathBuf>,
    /// Bootstrap of the layers below all sources
    #[arg(long, value_name = "FILE")]
    pub parent_bootstrap: Option<PathBuf>,
    /// Bootstrap of the dictionary that the sources were built with: PATH or bootstrap=PATH
    #[arg(long, value_name = "ARG")]
    pub chunk_dict: Option<OsString>,
    /// Configuration of the backend that holds the blobs (not supported yet)
    #[arg(short = 'C', long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory of blobs (not supported yet)
    #[arg(short = 'D', long, value_name = "DIR")]
    pub blob_dir: Option<PathBuf>,
    /// Write the result to this file
    #[arg(short = 'J', long, value_name = "FILE")]
    pub output_json: Option<PathBuf>,
    /// What to do about the paths on standard input, one a line, that are worth fetching first
    #[arg(long, value_enum, default_value = "none")]
    pub prefetch_policy: PrefetchPolicy,
    /// SHA-256 of the RAFS blobs, one a source
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub blob_digests: Vec<String>,
    /// Ids of the data blobs, one a source
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub original_blob_ids: Vec<String>,
    /// Sizes of the RAFS blobs, one a source
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub blob_sizes: Vec<u64>,
    /// SHA-256 of the blobs' tables of contents, one a source
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub blob_toc_digests: Vec<String>,
    /// Sizes of the blobs' tables of contents, one a source
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub blob_toc_sizes: Vec<u32>,
}
