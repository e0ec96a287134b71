//! `chunkdict`: its options.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::PrefetchPolicy;
use crate::chunkdict::Location;

/// `nydus-image chunkdict`.
#[derive(Args, Debug)]
pub struct ChunkdictArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ChunkdictCommand,
}

/// What can be done with dictionaries.
#[derive(Debug, Subcommand)]
pub enum ChunkdictCommand {
    /// Make a dictionary of the chunks that more than one image, or version of an image, has
    Generate(GenerateArgs),
}

/// `nydus-image chunkdict generate`.
#[derive(Args, Debug)]
pub struct GenerateArgs {
    /// Bootstraps of images, in directories that are named IMAGE:TAG
    #[arg(value_name = "SOURCE", required = true)]
    pub sources: Vec<PathBuf>,
    /// Database of the chunks: sqlite:///ABSOLUTE/PATH, which later runs add to, or sqlite://:memory:
    #[arg(long, value_name = "URL", value_parser = Location::parse, default_value = "sqlite://:memory:")]
    pub database: Location,
    /// Write the dictionary to this file
    #[arg(short = 'B', long, value_name = "FILE")]
    pub bootstrap: PathBuf,
    /// Accepted, does nothing: dictionaries follow from bootstraps alone
    #[arg(short = 'D', long, value_name = "DIR")]
    pub blob_dir: Option<PathBuf>,
    /// Accepted, does nothing: dictionaries follow from bootstraps alone
    #[arg(short = 'C', long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Accepted, does nothing: nobody prefetches a dictionary
    #[arg(long, value_enum, default_value = "none")]
    pub prefetch_policy: PrefetchPolicy,
    /// Print what was chosen: digest, bytes, blob, number in the blob, how many images have it
    #[arg(short = 'v', long)]
    pub verbose: bool,
    /// Write the result to this file
    #[arg(short = 'J', long, value_name = "FILE")]
    pub output_json: Option<PathBuf>,
}
