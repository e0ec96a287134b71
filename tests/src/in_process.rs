//! An image opened in the test's own process, as the daemon opens it and reads it, without the kernel in between: for
//! tests that open thousands.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use blobcache::Executor;
use nydusd::filesystem::Filesystem;
use nydusd::mounts::Image;
use rafs::Ino;
use tokio::runtime::Runtime;

use crate::config::Config;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
});

static EXECUTOR: LazyLock<Executor> = LazyLock::new(|| Executor::new(RUNTIME.handle().clone()));

/// Bytes of one read, as the kernel's readahead asks for them.
const READ_BYTES: u32 = 128 << 10;

/// An opened image.
pub struct Opened(Image);

impl Opened {
    /// Opens it, or says why that is refused.
    pub fn open(bootstrap: &Path, config: &Config) -> anyhow::Result<Self> {
        let config = nydus_config::Config::parse(config.to_text().as_bytes(), "test")?.config;
        Ok(Self(Image::open(&config, bootstrap, None, &EXECUTOR)?))
    }

    /// Reads a whole file.
    pub fn read(&self, path: &Path) -> anyhow::Result<Vec<u8>> {
        let filesystem = &*self.0.filesystem;
        let ino = find(filesystem, path)?;
        let size = filesystem.attributes(ino)?.size;
        let mut content = Vec::new();
        while (content.len() as u64) < size {
            let piece = read(filesystem, ino, content.len() as u64)?;
            anyhow::ensure!(!piece.is_empty(), "the file ends at {} of {size} bytes", content.len());
            content.extend(piece);
        }
        Ok(content)
    }

    /// Its tree, as the transports call it.
    pub fn filesystem(&self) -> &Filesystem {
        &self.0.filesystem
    }

    /// The inode of a file.
    pub fn find(&self, path: &Path) -> anyhow::Result<Ino> {
        find(&self.0.filesystem, path)
    }

    /// What its cache counted.
    pub fn metrics(&self) -> &blobcache::Metrics {
        self.0.cache.metrics()
    }

    /// Ends as an unmount does: what was fetched is written, and durable.
    pub fn close(self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        RUNTIME.block_on(self.0.cache.shutdown(deadline)).expect("the cache can be written");
    }

    /// Ends as a daemon that is killed, after all that was fetched had become durable.
    pub fn kill(self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        let durable = async {
            self.0.cache.idle(deadline).await?;
            self.0.cache.flush(deadline).await
        };
        RUNTIME.block_on(durable).expect("the cache can be written");
    }
}

fn find(filesystem: &Filesystem, path: &Path) -> anyhow::Result<Ino> {
    path.components().try_fold(filesystem.root(), |directory, name| {
        let found = filesystem.lookup(directory, name.as_os_str().as_bytes())?;
        found.ok_or_else(|| anyhow::anyhow!("{}: no such entry", path.display()))
    })
}

/// As the transport reads: at once if all is there, else waiting.
fn read(filesystem: &Filesystem, ino: Ino, offset: u64) -> anyhow::Result<Vec<u8>> {
    let mut bytes = vec![0; READ_BYTES as usize];
    if let Some(count) = filesystem.read_ready(ino, offset, &mut bytes)? {
        bytes.truncate(count);
        return Ok(bytes);
    }
    Ok(RUNTIME.block_on(filesystem.read(ino, offset, READ_BYTES))?)
}
