//! The result of a command as JSON (spec/cli.md §2).

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use rafs::Version;
use serde::Serialize;
use serde_json::{Value, json};
use storage::blob::Compressor;

use crate::error::{Error, Result};
use crate::target::Target;
use crate::version;

/// What a command has made or found.
#[derive(Debug, Serialize)]
pub struct Output {
    /// The version of this program.
    version: &'static str,
    /// The bootstrap; empty if it is in the blob.
    pub bootstrap: String,
    /// The ids of all blobs of the image.
    pub blobs: Vec<String>,
    /// A bootstrap of external files; empty, there are none.
    external_bootstrap: String,
    /// Ids of the blobs of external files.
    external_blobs: Vec<String>,
    /// What took how long, and what was counted.
    pub trace: Trace,
    /// The version of the format.
    pub fs_version: String,
    /// How chunks are compressed.
    pub compressor: String,
}

impl Output {
    /// Of a bootstrap and its blobs.
    pub fn new(
        bootstrap: String,
        blobs: Vec<String>,
        trace: Trace,
        fs_version: &str,
        compressor: &str,
    ) -> Self {
        Self {
            version: version::RESULT,
            bootstrap,
            blobs,
            external_bootstrap: String::new(),
            external_blobs: Vec::new(),
            trace,
            fs_version: fs_version.into(),
            compressor: compressor.into(),
        }
    }

    /// Of a bootstrap that was written or read.
    pub fn of_image(
        bootstrap: String,
        blobs: Vec<String>,
        trace: Trace,
        version: Version,
        compressor: Compressor,
    ) -> Self {
        let version = match version {
            Version::V5 => "5",
            Version::V6 => "6",
        };
        let compressor = match compressor {
            Compressor::None => "none",
            Compressor::Lz4Block => "lz4_block",
            Compressor::Gzip => "gzip",
            Compressor::Zstd => "zstd",
        };
        Self::new(bootstrap, blobs, trace, version, compressor)
    }

    /// Writes it to a file; `pretty` on many lines.
    pub fn write(&self, path: &Path, pretty: bool) -> Result<()> {
        let text = if pretty { serde_json::to_vec_pretty(self) } else { serde_json::to_vec(self) };
        let text = text.map_err(|error| Error::io("write", path)(error.into()))?;
        Target::write(path, &text)
    }
}

/// What took how long, and what was counted.
#[derive(Debug, Default, Serialize)]
pub struct Trace {
    /// Seconds.
    consumed_time: BTreeMap<&'static str, f64>,
    /// Numbers, and numbers as text where the reference has it so.
    registered_events: BTreeMap<&'static str, Value>,
}

impl Trace {
    /// Notes how long something took.
    pub fn time(&mut self, what: &'static str, took: Duration) {
        self.consumed_time.insert(what, took.as_secs_f64());
    }

    /// Does something, and notes how long it took.
    pub fn timed<T>(&mut self, what: &'static str, work: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let done = work();
        self.time(what, begin.elapsed());
        done
    }

    /// Notes a number.
    pub fn event(&mut self, what: &'static str, number: u64) {
        self.registered_events.insert(what, json!(number));
    }

    /// Notes a number as text.
    pub fn text_event(&mut self, what: &'static str, number: u32) {
        self.registered_events.insert(what, json!(number.to_string()));
    }
}
