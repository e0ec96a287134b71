//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::link::Shape;
use crate::sample::Case;

/// Builds images with nydus-image, mounts them, and compares: builds with one thread and with all, listing and reading
/// beside the unpacked tree (ext4, or whatever holds the corpus directory), kernel EROFS and a peer's daemon.
///
/// Every figure of a run is a median of rounds in which all subjects take turns, each on a fresh mount with a dropped
/// page cache; ratios compare medians of one run. Needs root.
#[derive(Debug, Parser)]
#[command(name = "nydus-bench")]
pub struct Args {
    /// Where corpora are made, once, and images and caches lie while they are measured; its file system is the one that
    /// is compared with
    #[arg(long, value_name = "DIR")]
    pub corpus_dir: PathBuf,
    /// linux (the kernel's source, from Debian's package), python (NumPy and its friends), python-image (a minimal
    /// Debian with these), big (one file of 2 GB), small (for trying this program), or the path of any directory
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', default_value = "linux,python,big")]
    pub corpus: Vec<String>,
    /// What is measured
    #[arg(
        long,
        value_enum,
        value_name = "CASE,…",
        value_delimiter = ',',
        default_value = "build,find,read-warm,read-cold"
    )]
    pub cases: Vec<Case>,
    /// How often
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub rounds: u32,
    /// The bandwidth of links in Mbit/s; without it 50 for link-parallel, 200 for cold-start
    #[arg(long, value_name = "N")]
    pub mbit: Option<u64>,
    /// The round-trip times of links in ms; without it 20 for link-parallel, 0,5,20 for cold-start
    #[arg(long, value_name = "MS,…", value_delimiter = ',')]
    pub rtt: Vec<u64>,
    /// Our daemon; without it the workspace's is built, in the profile of this program
    #[arg(long, value_name = "FILE", requires = "nydus_image")]
    pub nydusd: Option<PathBuf>,
    /// Our builder; without it the workspace's is built
    #[arg(long, value_name = "FILE", requires = "nydusd")]
    pub nydus_image: Option<PathBuf>,
    /// Another implementation's daemon, to compare with
    #[arg(long, value_name = "FILE")]
    pub peer_nydusd: Option<PathBuf>,
    /// Another implementation's builder, to compare with
    #[arg(long, value_name = "FILE")]
    pub peer_nydus_image: Option<PathBuf>,
    /// Leave images and filled caches in the corpus directory, and use those that an earlier run has left
    #[arg(long)]
    pub keep: bool,
    /// Do not drop the page cache: a quick look, whose figures mean little
    #[arg(long)]
    pub keep_page_cache: bool,
    /// Write all samples to this file; what it holds of other corpora and cases stays
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Replace the tables between the markers in this file by the results, those of --json included
    #[arg(long, value_name = "FILE", requires = "json")]
    pub update_docs: Option<PathBuf>,
}

impl Args {
    /// The links of a case.
    pub fn shapes(&self, case: Case) -> Vec<Shape> {
        let (mbit, rtts): (u64, &[u64]) = match case {
            Case::LinkParallel => (50, &[20]),
            _ => (200, &[0, 5, 20]),
        };
        let rtts = if self.rtt.is_empty() { rtts } else { &self.rtt };
        let shape = |rtt: &u64| Shape {
            rtt: Duration::from_millis(*rtt),
            bits_per_second: self.mbit.unwrap_or(mbit) * 1_000_000,
        };
        rtts.iter().map(shape).collect()
    }
}
