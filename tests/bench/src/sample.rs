//! What was measured: samples, and what stands for many of them.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// What is measured.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Case {
    /// Building an image (RAFS v6, zstd) from the tree
    Build,
    /// `find -ls`
    Find,
    /// Reading every file, everything in the daemon's cache directory
    ReadWarm,
    /// Reading every file, the cache directory empty and the blobs on the local disk
    ReadCold,
    /// Reading every file by 8 readers of disjoint parts, the cache directory empty and the blobs behind a link
    LinkParallel,
    /// Importing NumPy and pandas in a container of the tree, the cache directory empty and the blobs behind a link
    ColdStart,
    /// The same, everything in the cache directory
    WarmStart,
}

/// Where a case is told of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Chapter {
    /// Among what one machine does alone.
    Local,
    /// Among what is done with blobs far away, and what that is compared with.
    Links,
}

impl Case {
    /// Where it is told of.
    pub fn chapter(self) -> Chapter {
        match self {
            Self::Build | Self::Find | Self::ReadWarm | Self::ReadCold => Chapter::Local,
            Self::LinkParallel | Self::ColdStart | Self::WarmStart => Chapter::Links,
        }
    }
}

/// Who does it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// The tree as it lies in the corpus directory.
    Unpacked,
    /// Our builder with one thread.
    OursOneThread,
    /// Our builder with all cores; our daemon.
    Ours,
    /// The peer.
    Peer,
    /// The kernel, with the bootstrap and our filled cache files.
    Erofs,
}

/// One measurement.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Sample {
    /// Of what.
    pub corpus: String,
    /// Doing what.
    pub case: Case,
    /// By whom.
    pub subject: Subject,
    /// Wall-clock time.
    pub seconds: f64,
    /// User and system time of the builder or daemon in it.
    pub cpu_seconds: Option<f64>,
    /// The most memory that the builder or daemon had resident, since it started.
    pub memory_kib: Option<u64>,
    /// If the blobs were behind a link.
    #[serde(default)]
    pub link: Option<OverLink>,
}

/// What went over a link, and what had to.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct OverLink {
    /// Its round-trip time.
    pub rtt_ms: u64,
    /// Its bandwidth.
    pub mbit: u64,
    /// Connections that were opened.
    pub connections: u64,
    /// Requests.
    pub requests: u64,
    /// Bytes of the answers.
    pub bytes: u64,
    /// The time that a perfect reader needs, where we know what that would be.
    pub bound_seconds: Option<f64>,
}

/// Many samples in three numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The smallest.
    pub min: f64,
    /// The middle one, or the mean of the middle two.
    pub median: f64,
    /// The largest.
    pub max: f64,
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ({:.2}–{:.2})", self.median, self.min, self.max)
    }
}

impl Spread {
    /// `None` without values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            1 => values[middle],
            _ => (values[middle - 1] + values[middle]) / 2.0,
        };
        Some(Self { min, median, max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { min: 1.0, median: 2.0, max: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]), Some(Spread { min: 1.0, median: 2.5, max: 4.0 }));
    }
}
