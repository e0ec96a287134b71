//! The socket: made with care for whoever used its name before, and taken away at the end.

use std::future::{Future, IntoFuture as _};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::sys::stat::{Mode, fchmod};
use tokio::net::{UnixListener, UnixStream};

use super::daemon::Daemon;
use super::routes;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;
/// The longest wait to learn whether somebody answers on an old socket.
const PROBE_LIMIT: Duration = Duration::from_secs(1);
/// The longest time for one request, its body included.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);
/// The longest wait at the end for requests under way.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody listens there.
    #[error("{path}: another daemon answers on this API socket; stop it, or use another path")]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something else has the name, and is left alone.
    #[error("{path}: exists and is not a socket; it is left alone")]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("{path}: cannot {action} the API socket: {source}")]
    System {
        /// The socket.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// A bound socket of mode 0600. Its file goes away with it.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    file: SocketFile,
}

impl Listener {
    /// Binds `path`. A socket that nobody answers on, left by a daemon that died, is replaced. Needs a tokio
    /// runtime.
    pub async fn bind(path: &Path) -> Result<Self, BindError> {
        let failed = |action| move |source| BindError::System { path: path.to_owned(), action, source };
        remove_stale(path).await?;
        let descriptor = create(path).map_err(failed("create"))?;
        let file = SocketFile::of(path).map_err(failed("look at"))?;
        let listener = UnixListener::from_std(descriptor.into()).map_err(failed("listen on"))?;
        Ok(Self { listener, file })
    }

    /// The path of the socket.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Answers requests until `stop` is done, and then those under way, for two seconds at most.
    pub async fn serve(
        self,
        daemon: Arc<dyn Daemon>,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        self.serve_within(daemon, REQUEST_LIMIT, stop).await
    }

    pub(super) async fn serve_within(
        self,
        daemon: Arc<dyn Daemon>,
        request_limit: Duration,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let Self { listener, file } = self;
        let (stopping, is_stopping) = tokio::sync::oneshot::channel();
        let graceful = async move {
            stop.await;
            // The name goes first: nobody new shall wait for a daemon that is going.
            drop(file);
            let _: Result<(), ()> = stopping.send(());
        };
        let limit = async move {
            let _ = is_stopping.await;
            tokio::time::sleep(STOP_LIMIT).await;
        };
        let router = routes::router(daemon, request_limit);
        tokio::select! {
            result = axum::serve(listener, router).with_graceful_shutdown(graceful).into_future() => result,
            () = limit => Ok(()),
        }
    }
}

/// Whether there is a socket at `path` that nobody answers on: a daemon with the same socket was here, and did not end by
/// itself. An error if the name is in use otherwise.
pub async fn is_stale(path: &Path) -> Result<bool, BindError> {
    let failed = |action, source| BindError::System { path: path.to_owned(), action, source };
    let in_use = || BindError::InUse { path: path.to_owned() };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed("look at", error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(BindError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => (),
    }
    match tokio::time::timeout(PROBE_LIMIT, UnixStream::connect(path)).await {
        // An answer, or a queue so full that there is none: somebody is there.
        Ok(Ok(_)) | Err(_) => Err(in_use()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => Err(in_use()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(true),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Ok(Err(error)) => Err(failed("probe", error)),
    }
}

/// Removes a socket at `path` that nobody answers on.
async fn remove_stale(path: &Path) -> Result<(), BindError> {
    if !is_stale(path).await? {
        return Ok(());
    }
    tracing::warn!("{}: removing the API socket of a daemon that is gone", path.display());
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(BindError::System { path: path.to_owned(), action: "remove the stale file of", source })
        }
        _ => Ok(()),
    }
}

/// A listening socket at `path`. Its mode is set before it has a name, so that there is no moment in which
/// others could connect.
fn create(path: &Path) -> io::Result<OwnedFd> {
    let address = UnixAddr::new(path)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let descriptor = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    fchmod(&descriptor, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(descriptor.as_raw_fd(), &address)?;
    listen(&descriptor, Backlog::new(BACKLOG)?)?;
    Ok(descriptor)
}

/// The name of the socket; removed at the end, if it still is ours.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(path)? })
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = identity(&self.path).is_ok_and(|now| now == self.identity);
        if is_ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!("{}: cannot remove the API socket: {error}", self.path.display());
        }
    }
}
