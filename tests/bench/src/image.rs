//! An image, and what building it costs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::process::{self, Usage};

/// Where an image lies.
#[derive(Clone, Debug)]
pub struct Image {
    /// A directory for it alone.
    pub directory: PathBuf,
}

impl Image {
    /// The bootstrap.
    pub fn bootstrap(&self) -> PathBuf {
        self.directory.join("bootstrap")
    }

    /// The directory of its blobs.
    pub fn blobs(&self) -> PathBuf {
        self.directory.join("blobs")
    }

    /// Ids of the blobs, in the order of the bootstrap: there is one or none, since one layer is built.
    pub fn blob_ids(&self) -> Result<Vec<String>> {
        let names =
            fs::read_dir(self.blobs())?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect()
    }

    /// Builds it from `tree` with `program`, with `threads` where the program can be told: RAFS v6, zstd, chunks of
    /// 1 MiB. What was there before is replaced.
    pub fn build(&self, program: &Path, tree: &Path, threads: Option<u32>) -> Result<(Duration, Usage)> {
        if self.directory.exists() {
            fs::remove_dir_all(&self.directory)?;
        }
        fs::create_dir_all(self.blobs())?;
        let log = self.directory.join("log");
        let mut command = Command::new(program);
        command.args(["create", "--type", "directory", "--fs-version", "6", "--compressor", "zstd"]);
        command.args(["--chunk-size", "0x100000", "--log-level", "warn"]);
        if let Some(threads) = threads {
            command.arg("--threads").arg(threads.to_string());
        }
        command.arg("--bootstrap").arg(self.bootstrap()).arg("--blob-dir").arg(self.blobs()).arg(tree);
        command
            .stdin(Stdio::null())
            .stdout(File::create(&log)?)
            .stderr(File::options().append(true).open(&log)?);
        let start = Instant::now();
        let child = command.spawn().with_context(|| program.display().to_string())?;
        let (status, usage) = process::wait(child)?;
        let elapsed = start.elapsed();
        ensure!(status.success(), "{command:?}: {status}\n{}", fs::read_to_string(&log)?);
        Ok((elapsed, usage))
    }
}
