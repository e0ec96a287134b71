//! `merge`: its options.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::PrefetchPolicy;

/// `nydus-image merge`.
#[derive(Args, Debug)]
#[command(after_long_help = NOTES)]
pub struct MergeArgs {
    /// Bootstraps of the layers, or blobs with one inside, the lowest layer first
    #[arg(value_name = "SOURCE", required = true)]
    pub sources: Vec<PathBuf>,
    /// Write the merged bootstrap to this file; without it, it goes to the blob directory, named by its SHA-256
    #[arg(short = 'B', long, value_name = "FILE", required_unless_present = "blob_dir")]
    pub bootstrap: Option<PathBuf>,
    /// Bootstrap of the layers below all sources
    #[arg(long, value_name = "FILE")]
    pub parent_bootstrap: Option<PathBuf>,
    /// Bootstrap of the dictionary that the sources were built with: PATH or bootstrap=PATH
    #[arg(long, value_name = "ARG")]
    pub chunk_dict: Option<OsString>,
    /// Configuration of the backend; given, blobs keep the ids that the bootstraps have
    #[arg(short = 'C', long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory for the merged bootstrap, where --bootstrap does not name it
    #[arg(short = 'D', long, value_name = "DIR")]
    pub blob_dir: Option<PathBuf>,
    /// Write the result to this file
    #[arg(short = 'J', long, value_name = "FILE")]
    pub output_json: Option<PathBuf>,
    /// fs: list the paths on standard input, one a line, as worth fetching first
    #[arg(long, value_enum, default_value = "none")]
    pub prefetch_policy: PrefetchPolicy,
    /// SHA-256 of the RAFS blobs, one a source: their ids, or where the data is an untouched layer, those of the objects
    /// beside it
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub blob_digests: Vec<String>,
    /// Ids of the objects that hold the data, one a source
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

const NOTES: &str = "Each source may have one blob that is neither the dictionary's nor the parent's. Its id becomes the \
name of the source up to the first dot, unless --original-blob-ids, --blob-digests or --config is given. Plain tars \
(tar-tarfs) keep their ids, and all of them are in the blob table, in the order of the sources, as the devices of a \
mount have to be.\n\n\
Whiteouts are those of OCI layers (.wh.NAME, .wh..wh..opq). Bootstraps that do not fit together end the command with \
status 2.";
