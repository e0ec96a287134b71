//! READ: answered at once if every chunk is ready, else parked as a task and answered later.
//!
//! Invariant: the thread that takes a READ from the kernel never waits for data. A parked READ holds no thread,
//! ends by the mount's read deadline, and ends at once when the kernel says that its reader was interrupted.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fuse_backend_rs::abi::fuse_abi::{Opcode, ReadIn};
use nix::errno::Errno;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::ahead::Ahead;
use super::errno::errno;
use super::failed::FailedRanges;
use super::nodeid::NodeIds;
use super::reply::{self, Reply};
use crate::filesystem::Filesystem;
use crate::telemetry::metrics::{Inflight, Operation, Operations, Tally};

/// How long a reader's answer is held back by what is sent ahead.
const AHEAD_LIMIT: Duration = Duration::from_micros(500);

/// Everything a READ needs.
pub(super) struct Reads {
    pub(super) filesystem: Arc<Filesystem>,
    pub(super) operations: Arc<Operations>,
    pub(super) nodeids: NodeIds,
    pub(super) device: Arc<File>,
    pub(super) runtime: Handle,
    pub(super) failed: FailedRanges,
    pub(super) parked: Parked,
    pub(super) ahead: Option<Arc<Ahead>>,
}

impl Reads {
    /// Serves one READ. `buffer` and `tally`, which counts READs that are answered at once, are the worker's own.
    pub(super) fn serve(
        self: &Arc<Self>,
        unique: u64,
        nodeid: u64,
        wanted: &ReadIn,
        buffer: &mut [u8],
        tally: &Tally,
    ) {
        let began = tally.begin_read();
        let reply = Reply::new(self.device.clone(), unique);
        let Some((out, rest)) = buffer.split_at_mut_checked(wanted.size as usize) else {
            return reply.error(Errno::EINVAL);
        };
        match self.filesystem.read_ready(self.nodeids.ino(nodeid), wanted.offset, out) {
            Ok(Some(len)) => {
                if wanted.offset == 0 {
                    self.send_ahead(nodeid, rest);
                }
                reply.data(&out[..len]);
                tally.read_ready(wanted.size, len, began);
                self.note(nodeid, wanted.size, Some(len));
            }
            Ok(None) => self.park(unique, nodeid, wanted, reply),
            Err(error) => {
                reply.error(errno(&error));
                tally.answered(Operation::Read, true, began.map(|began| began.elapsed()).unwrap_or_default());
                self.note(nodeid, wanted.size, None);
            }
        }
    }

    /// Notes a READ in the records of files, if there are any. `len`: what it was answered with, `None` for an error.
    fn note(&self, nodeid: u64, size: u32, len: Option<usize>) {
        let Some(files) = self.operations.files() else { return };
        let ino = self.nodeids.ino(nodeid).0;
        match len {
            Some(len) => files.read(ino, size, len),
            None => files.answered(ino, Operation::Read, true),
        }
    }

    /// Requests that are being served, the oldest first, by the inode numbers of the image.
    pub(super) fn inflight(&self) -> Vec<Inflight> {
        let mut requests = self.operations.inflight();
        requests.extend(self.parked.list());
        requests.iter_mut().for_each(|request| request.nodeid = self.nodeids.ino(request.nodeid).0);
        requests.sort_by_key(|request| (request.since_secs, request.unique));
        requests
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
        let began = Instant::now();
        if self.failed.contains(nodeid, &range, || began) {
            self.operations.failed(Duration::ZERO);
            self.note(nodeid, size, None);
            return reply.error(Errno::ETIMEDOUT);
        }
        let interrupted = self.parked.enter(unique, nodeid);
        let reads = self.clone();
        self.runtime.spawn(async move {
            let left = Leave { parked: &reads.parked, unique };
            let answer = tokio::select! {
                answer = reads.filesystem.read(reads.nodeids.ino(nodeid), offset, size) => Some(answer),
                _ = interrupted => None,
            };
            drop(left);
            let len = answer.as_ref().and_then(|answer| answer.as_ref().ok()).map(Vec::len);
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
            match len {
                Some(len) => reads.operations.waited(size, len, began.elapsed()),
                None => reads.operations.failed(began.elapsed()),
            }
            reads.note(nodeid, size, len);
        });
    }
}

/// The READs that wait for data, by the number the kernel gave them.
#[derive(Default)]
pub(super) struct Parked(Mutex<HashMap<u64, ParkedRead>>);

/// A READ that waits for data.
struct ParkedRead {
    nodeid: u64,
    since: SystemTime,
    interrupt: oneshot::Sender<()>,
}

impl Parked {
    fn enter(&self, unique: u64, nodeid: u64) -> oneshot::Receiver<()> {
        let (interrupt, interrupted) = oneshot::channel();
        let read = ParkedRead { nodeid, since: SystemTime::now(), interrupt };
        self.0.lock().unwrap_or_else(|e| e.into_inner()).insert(unique, read);
        interrupted
    }

    fn list(&self) -> Vec<Inflight> {
        let parked = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let request = |(unique, read): (&u64, &ParkedRead)| Inflight {
            unique: *unique,
            opcode: Opcode::Read as u32,
            nodeid: read.nodeid,
            since_secs: read.since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        };
        parked.iter().map(request).collect()
    }

    /// Ends a parked READ with EINTR. False if it is not parked: it is answered, or another worker has just taken it.
    pub(super) fn interrupt(&self, unique: u64) -> bool {
        let parked = self.0.lock().unwrap_or_else(|e| e.into_inner()).remove(&unique);
        parked.is_some_and(|read| read.interrupt.send(()).is_ok())
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
