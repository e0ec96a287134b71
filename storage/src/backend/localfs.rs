//! Blobs that are files in a directory (spec/config.md §4).
//!
//! Every system call runs on a thread of a bounded pool, so that a stalled filesystem costs deadlines and not the runtime.
//! A blob's file stays open, which makes a read one `pread`. Which file that is gets asked again after an error,
//! and after a second: a file that is replaced or appears later is found.

use std::collections::HashMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::fcntl::OFlag;

use super::blocking::{Limits, Pool};
use super::span::{Span, failed};
use super::{Backend, BoxFuture, Request};
use crate::blob::BlobId;
use crate::lock;
use crate::{Error, Result};

/// Threads that may be stuck in a stalled filesystem, and requests that wait for one.
const LIMITS: Limits = Limits { threads: 16, queue: 4096 };
/// Open files: an image has at most 256 blobs.
const MAX_OPEN: usize = 256;
/// An open file is trusted for so long to be the one its path names.
const TRUST: Duration = Duration::from_secs(1);

/// Where the files are. `blob_file` or `dir` is needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalFsConfig {
    /// This file is every blob; the directories are not looked at then.
    pub blob_file: Option<PathBuf>,
    /// Blobs are files of this directory, named by their ids.
    pub dir: Option<PathBuf>,
    /// Where to look, in this order, for a blob whose file in `dir` is missing or empty.
    pub alt_dirs: Vec<PathBuf>,
}

/// Blobs in local files.
#[derive(Debug)]
pub struct LocalFs {
    files: Arc<Files>,
    pool: Pool,
}

impl LocalFs {
    /// Takes the configuration; looks at no file yet. [`Error::Invalid`] if it names neither file nor directory.
    pub fn new(config: LocalFsConfig) -> Result<Self> {
        if config.blob_file.is_none() && config.dir.is_none() {
            return Err(Error::invalid("localfs", "needs blob_file or dir"));
        }
        let files = Arc::new(Files { config, open: Mutex::default() });
        Ok(Self { files, pool: Pool::new("localfs", LIMITS) })
    }

    fn run<'a, T: Send + 'static>(
        &'a self,
        blob: &'a BlobId,
        request: Request,
        work: impl Fn(&OpenFile, &BlobId) -> Result<T> + Send + 'static,
    ) -> BoxFuture<'a, Result<T>> {
        let (files, id) = (self.files.clone(), blob.clone());
        Box::pin(self.pool.run(
            move || format!("localfs: blob {blob}"),
            request,
            move || files.with(&id, |file| work(file, &id)),
        ))
    }
}

impl Backend for LocalFs {
    fn read<'a>(
        &'a self,
        blob: &'a BlobId,
        offset: u64,
        len: u64,
        request: Request,
    ) -> BoxFuture<'a, Result<Bytes>> {
        self.run(blob, request, move |file, id| file.read(id, offset, len))
    }

    fn size<'a>(&'a self, blob: &'a BlobId, request: Request) -> BoxFuture<'a, Result<u64>> {
        self.run(blob, request, |file, id| file.size_now(id))
    }
}

/// The open files. The lock is never held across a system call.
#[derive(Debug)]
struct Files {
    config: LocalFsConfig,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    files: HashMap<BlobId, Kept>,
    /// Counts uses, so that the least recent one can be told.
    clock: u64,
}

#[derive(Debug)]
struct Kept {
    file: Arc<OpenFile>,
    /// When its path was last seen to name it.
    checked: Instant,
    used: u64,
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
    /// Bytes when it was opened. A file that grows is opened anew by the read that fails for it.
    size: u64,
}

impl Files {
    /// Does `work` on the blob's file. What fails on a file that was open before is tried again on the one that
    /// is there now.
    fn with<T>(&self, blob: &BlobId, work: impl Fn(&OpenFile) -> Result<T>) -> Result<T> {
        if let Some(file) = self.kept(blob) {
            match work(&file) {
                Ok(done) => return Ok(done),
                Err(err) => tracing::debug!(%blob, %err, "opening the file anew"),
            }
            self.lock().files.remove(blob);
        }
        let file = Arc::new(self.find(blob)?);
        let done = work(&file)?;
        self.keep(blob, file);
        Ok(done)
    }

    /// The blob's open file, if it is still the one that its path names.
    fn kept(&self, blob: &BlobId) -> Option<Arc<OpenFile>> {
        let (file, checked) = {
            let mut open = self.lock();
            open.clock += 1;
            let clock = open.clock;
            let kept = open.files.get_mut(blob)?;
            kept.used = clock;
            (kept.file.clone(), kept.checked)
        };
        if checked.elapsed() < TRUST {
            return Some(file);
        }
        if std::fs::metadata(&file.path).is_ok_and(|now| identity(&now) == file.identity) {
            self.keep(blob, file.clone());
            return Some(file);
        }
        None
    }

    fn keep(&self, blob: &BlobId, file: Arc<OpenFile>) {
        let mut open = self.lock();
        open.clock += 1;
        let kept = Kept { file, checked: Instant::now(), used: open.clock };
        let replaced = open.files.insert(blob.clone(), kept);
        let evicted = if open.files.len() > MAX_OPEN {
            let oldest = open.files.iter().min_by_key(|(_, kept)| kept.used).map(|(id, _)| id.clone());
            oldest.and_then(|id| open.files.remove(&id))
        } else {
            None
        };
        // Closing is a system call too.
        drop(open);
        drop((replaced, evicted));
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // What a panic may leave behind is at worst a stale use count.
        lock(&self.open)
    }

    /// Opens the blob's file: `blob_file`, or the first one in `dir` and `alt_dirs` that is there and not empty.
    fn find(&self, blob: &BlobId) -> Result<OpenFile> {
        if let Some(path) = &self.config.blob_file {
            return open(blob, path)?.ok_or_else(|| not_found(blob, vec![path.display().to_string()]));
        }
        let mut searched = Vec::new();
        for dir in self.config.dir.iter().chain(&self.config.alt_dirs) {
            let path = dir.join(blob.as_str());
            match open(blob, &path)? {
                Some(file) if file.size > 0 => return Ok(file),
                Some(_) => searched.push(format!("{} (empty)", path.display())),
                None => searched.push(path.display().to_string()),
            }
        }
        Err(not_found(blob, searched))
    }
}

fn not_found(blob: &BlobId, searched: Vec<String>) -> Error {
    Error::NotFound { what: format!("localfs: blob {blob}"), place: searched.join(", ") }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Opens a regular file; `None` if there is none. What is there but cannot be opened is an error, not a reason to
/// look elsewhere.
fn open(blob: &BlobId, path: &Path) -> Result<Option<OpenFile>> {
    let what = || format!("localfs: blob {blob} in {}", path.display());
    // Without the flag the open of a FIFO waits for a writer, perhaps for ever.
    let opened = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(failed(what(), err)),
    };
    let metadata = file.metadata().map_err(|err| failed(what(), err))?;
    if !metadata.is_file() {
        return Err(Error::invalid(what(), "it is not a regular file"));
    }
    Ok(Some(OpenFile { file, path: path.to_owned(), identity: identity(&metadata), size: metadata.len() }))
}

impl OpenFile {
    fn size_now(&self, blob: &BlobId) -> Result<u64> {
        self.file.metadata().map(|metadata| metadata.len()).map_err(|err| failed(self.what(blob), err))
    }

    fn read(&self, blob: &BlobId, offset: u64, len: u64) -> Result<Bytes> {
        let span = Span { offset: 0, len: self.size };
        span.read(&self.file, || self.what(blob), offset, len)
    }

    fn what(&self, blob: &BlobId) -> String {
        format!("localfs: blob {blob} in {}", self.path.display())
    }
}

#[cfg(test)]
mod tests;
