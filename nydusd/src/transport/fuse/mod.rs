//! FUSE: requests from `/dev/fuse`, answered from a [`Filesystem`].
//!
//! READ and INIT are ours ([`read`], [`init`]), everything else goes through the FUSE crate's server ([`adapter`]).
//! Types of that crate stay in this module.

mod adapter;
mod ahead;
mod dead;
mod errno;
mod failed;
mod init;
mod mount;
mod mountinfo;
mod nodeid;
mod read;
mod reply;
mod requests;
mod worker;
mod workers;

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Context, Result};
use fuse_backend_rs::api::server::Server;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tracing::info;

use crate::filesystem::Filesystem;
use crate::telemetry::metrics::Inflight;
use adapter::Adapter;
use ahead::Ahead;
use failed::FailedRanges;
use mount::Mount;
use nodeid::NodeIds;
use read::{Parked, Reads};
use workers::{Limits, Workers};

/// How long the kernel may take to begin a session; it takes microseconds.
const INIT_LIMIT: Duration = Duration::from_secs(30);

/// How to mount.
#[derive(Clone, Debug)]
pub struct FuseOptions {
    /// Threads that take requests from the kernel, at most. They never wait for data, and are started as they are needed.
    pub threads: usize,
    /// Whether other users than the one who mounts may see the filesystem.
    pub allow_other: bool,
}

/// Detaches dead mounts at `mountpoint`, which are known to be those of a daemon before us. What else may be there is for
/// [`FuseMount::start`] to tell of.
pub fn clear_dead_mounts(mountpoint: &Path) -> Result<()> {
    dead::clear(mountpoint, true)
}

/// A filesystem served through FUSE. Dropped, it is unmounted.
pub struct FuseMount {
    mount: Mount,
    reads: Arc<Reads>,
    ended: Option<oneshot::Receiver<()>>,
}

impl FuseMount {
    /// Mounts `filesystem` on the directory `mountpoint` and starts to serve it. Reads that wait are tasks of
    /// `runtime`.
    pub fn start(
        mountpoint: &Path,
        filesystem: Arc<Filesystem>,
        options: &FuseOptions,
        runtime: Handle,
    ) -> Result<Self> {
        let mount = Mount::new(mountpoint, options.allow_other)?;
        let device = Arc::new(mount.device()?);
        let nodeids = NodeIds::new(filesystem.root());
        let operations = filesystem.operations();
        // One worker sends ahead while another answers. What is sent ahead is read without a READ: records of files would
        // miss it.
        let sends_ahead = options.threads > 1 && operations.files().is_none();
        let ahead = sends_ahead.then(|| Arc::new(Ahead::default()));
        let server = Arc::new(Server::new(Adapter::new(filesystem.clone(), nodeids, ahead.clone())));
        let reads = Arc::new(Reads {
            filesystem,
            operations,
            nodeids,
            device,
            runtime,
            failed: FailedRanges::default(),
            parked: Parked::default(),
            ahead,
        });
        let (end, ended) = oneshot::channel();
        let (initialised, is_initialised) = mpsc::channel();
        let limits = Limits { threads: options.threads.max(1), buffer_bytes: mount.buffer_bytes() };
        Workers::start(server, reads.clone(), limits, initialised, end)
            .context("cannot start a FUSE worker")?;
        info!("start fuse servers with up to {} worker threads", limits.threads);
        is_initialised.recv_timeout(INIT_LIMIT).context("the kernel did not start the FUSE session")?;
        // Only now: with the answer to INIT the kernel sets it anew.
        mount.raise_read_ahead();
        mount.make_root_known();
        Ok(Self { mount, reads, ended: Some(ended) })
    }

    /// A way to see the requests that are being served, by the inode numbers of the image.
    pub fn inflight(&self) -> impl Fn() -> Vec<Inflight> + Send + Sync + 'static {
        let reads = Arc::downgrade(&self.reads);
        move || reads.upgrade().map(|reads| reads.inflight()).unwrap_or_default()
    }

    /// Resolves when the filesystem was unmounted from outside and the last worker has stopped.
    pub async fn ended(&mut self) {
        match &mut self.ended {
            Some(ended) => {
                let _ = ended.await;
                self.ended = None;
            }
            None => std::future::pending().await,
        }
    }

    /// Unmounts. Files that are still open end with ENOTCONN once the process is gone.
    pub fn unmount(self) -> Result<()> {
        self.mount.unmount()
    }
}
