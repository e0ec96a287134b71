//! READ: answered at once if every chunk is ready, else parked as a task and answered later.
//!
//! Invariant: the thread that takes a READ from the kernel never waits for data. A parked READ holds no thread,
//! ends by the mount's read deadline, and ends at once when the kernel says that its reader was interrupted.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fuse_backend_rs::abi::fuse_abi::ReadIn;
use nix::errno::Errno;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::ahead::Ahead;
use super::errno::errno;
use super::failed::FailedRanges;
use super::nodeid::NodeIds;
use super::reply::{self, Reply};
use crate::filesystem::Filesystem;
use crate::telemetry::metrics::Tally;

/// How long a reader's answer is held back by what is sent ahead.
const AHEAD_LIMIT: Duration = Duration::from_micros(500);

/// Everything a READ needs.
pub(super) struct Reads {
    pub(super) filesystem: Arc<Filesystem>,
    pub(super) nodeids: NodeIds,
    pub(super) device: Arc<File>,
    pub(super) runtime: Handle,
    pub(super) failed: FailedRanges,
    pub(super) parked: Parked,
    pub(super) ahead: Option<Arc<Ahead>>,
}

impl Reads {
    /// Serves one READ. `buffer` and `ready`, which counts READs that are answered at once, are the worker's own.
    pub(super) fn serve(
        self: &Arc<Self>,
        unique: u64,
        nodeid: u64,
        wanted: &ReadIn,
        buffer: &mut [u8],
        ready: &Tally,
    ) {
        let reply = Reply::new(self.device.clone(), unique);
        let Some((out, rest)) = buffer.split_at_mut_checked(wanted.size as usize) else {
            return reply.error(Errno::EINVAL);
        };
        match self.filesystem.read_ready(self.nodeids.ino(nodeid), wanted.offset, out) {
            Ok(Some(len)) => {
                if wanted.offset == 0 {
                    self.send_ahead(nodeid, rest);
                }
                ready.bump();
                reply.data(&out[..len]);
            }
            Ok(None) => self.park(unique, nodeid, wanted, reply),
            Err(error) => reply.error(errno(&error)),
        }
    }

    /// Sends the files behind the one whose start is being read, as far as they are ready and time allows.
    ///
    /// Before the answer: a reader that is awake already can ask for the same files, which are then copied twice.
    fn send_ahead(&self, nodeid: u64, buffer: &mut [u8]) {
        let Some(burst) = self.ahead.as_ref().and_then(|ahead| ahead.read(nodeid)) else { return };
        let started = Instant::now();
        for &(nodeid, size) in &burst.files {
            let Some(out) = buffer.get_mut(..size as usize) else { continue };
            let ready = self.filesystem.read_ready(self.nodeids.ino(nodeid), 0, out);
            let whole = matches!(ready, Ok(Some(len)) if len == out.len());
            if whole && !reply::store(&self.device, nodeid, out) || started.elapsed() > AHEAD_LIMIT {
                return;
            }
        }
    }

    fn park(self: &Arc<Self>, unique: u64, nodeid: u64, wanted: &ReadIn, reply: Reply) {
        let (offset, size) = (wanted.offset, wanted.size);
        let range = offset..offset.saturating_add(u64::from(size));
        if self.failed.contains(nodeid, &range, Instant::now) {
            return reply.error(Errno::ETIMEDOUT);
        }
        let interrupted = self.parked.enter(unique);
        let reads = self.clone();
        self.runtime.spawn(async move {
            let left = Leave { parked: &reads.parked, unique };
            let answer = tokio::select! {
                answer = reads.filesystem.read(reads.nodeids.ino(nodeid), offset, size) => Some(answer),
                _ = interrupted => None,
            };
            drop(left);
            match answer {
                Some(Ok(data)) => reply.data(&data),
                Some(Err(error)) => {
                    let errno = errno(&error);
                    if errno == Errno::ETIMEDOUT {
                        reads.failed.insert(nodeid, range, Instant::now());
                    }
                    reply.error(errno);
                }
                None => reply.error(Errno::EINTR),
            }
        });
    }
}

/// The READs that wait for data, by the number the kernel gave them.
#[derive(Default)]
pub(super) struct Parked(Mutex<HashMap<u64, oneshot::Sender<()>>>);

impl Parked {
    fn enter(&self, unique: u64) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.0.lock().unwrap_or_else(|e| e.into_inner()).insert(unique, sender);
        receiver
    }

    /// Ends a parked READ with EINTR. False if it is not parked: it is answered, or another worker has just taken it.
    pub(super) fn interrupt(&self, unique: u64) -> bool {
        let parked = self.0.lock().unwrap_or_else(|e| e.into_inner()).remove(&unique);
        parked.is_some_and(|sender| sender.send(()).is_ok())
    }
}

/// Takes a READ off the list, however its task ends. Before the answer: the number is the kernel's to use again
/// once it is answered.
struct Leave<'a> {
    parked: &'a Parked,
    unique: u64,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.parked.0.lock().unwrap_or_else(|e| e.into_inner()).remove(&self.unique);
    }
}
