//! The threads that serve one session, as many as its load asks for.
//!
//! Two at first. A worker that takes a request and leaves nobody waiting for the next one starts another, up to the limit;
//! one that has had nothing to do for [`IDLE_LIFE`] gives its buffers back to the system, and ends if there are more than
//! two.
//!
//! Invariant: once started, at least two workers live as long as the session, if the limit allows: while one waits for
//! the kernel to take what it sends ahead, another one answers.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use fuse_backend_rs::api::server::Server;
use memmap2::MmapMut;
use tokio::sync::oneshot;
use tracing::{error, warn};

use super::adapter::Adapter;
use super::read::Reads;
use super::requests::{Queue, Taken, take};
use super::worker::Worker;
use crate::telemetry::metrics::Tally;

/// How long a worker waits in vain before it ends, or gives its buffers back.
const IDLE_LIFE: Duration = Duration::from_secs(5);
/// Workers that do not end.
const RESERVE: usize = 2;

/// See the module. Every worker holds it; it is dropped with the last one.
pub(super) struct Workers {
    pub(super) server: Arc<Server<Adapter>>,
    pub(super) reads: Arc<Reads>,
    /// Told when the kernel's INIT has been answered.
    pub(super) initialised: mpsc::Sender<()>,
    /// Dropped when the last worker has stopped.
    pub(super) _end: oneshot::Sender<()>,
    limits: Limits,
    /// Workers that wait for a request.
    waiting: AtomicUsize,
    /// Workers that live. Changed under the lock.
    count: AtomicUsize,
    threads: Mutex<Threads>,
}

/// What a session's workers may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Threads.
    pub(super) threads: usize,
    /// Bytes of a request, and of an answer.
    pub(super) buffer_bytes: usize,
}

#[derive(Default)]
struct Threads {
    /// Counters of workers that have ended, for the next ones.
    tallies: Vec<Arc<Tally>>,
    is_refused: bool,
}

/// Room for a request and for its answer. Pages of its own, which go back to the system with it.
struct Buffers {
    request: MmapMut,
    answer: MmapMut,
}

impl Workers {
    /// Starts the first workers.
    pub(super) fn start(
        server: Arc<Server<Adapter>>,
        reads: Arc<Reads>,
        limits: Limits,
        initialised: mpsc::Sender<()>,
        end: oneshot::Sender<()>,
    ) -> io::Result<()> {
        let (waiting, count, threads) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::default());
        let workers =
            Arc::new(Self { server, reads, initialised, _end: end, limits, waiting, count, threads });
        (0..limits.threads.clamp(1, RESERVE)).try_for_each(|_| workers.spawn(&mut workers.lock()))
    }

    fn lock(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(self: &Arc<Self>, threads: &mut Threads) -> io::Result<()> {
        let tally = threads.tallies.pop().unwrap_or_else(|| self.reads.operations.tally());
        let (server, reads, initialised) =
            (self.server.clone(), self.reads.clone(), self.initialised.clone());
        let worker = Worker { server, reads, tally: tally.clone(), initialised };
        let workers = self.clone();
        let spawned = thread::Builder::new().name("fuse".to_owned()).spawn(move || {
            if let Err(e) = workers.work(&worker) {
                error!("a FUSE worker gave up: {e}");
                workers.count.fetch_sub(1, Ordering::Relaxed);
            }
            workers.lock().tallies.push(worker.tally);
        });
        match &spawned {
            Ok(_) => _ = self.count.fetch_add(1, Ordering::Relaxed),
            Err(_) => threads.tallies.push(tally),
        }
        spawned.map(drop)
    }

    /// One more worker, if there may be one.
    fn grow(self: &Arc<Self>) {
        if self.count.load(Ordering::Relaxed) >= self.limits.threads {
            return;
        }
        let mut threads = self.lock();
        if self.count.load(Ordering::Relaxed) >= self.limits.threads {
            return;
        }
        match self.spawn(&mut threads) {
            Ok(()) => threads.is_refused = false,
            Err(_) if threads.is_refused => {}
            Err(e) => {
                threads.is_refused = true;
                warn!("cannot start another FUSE worker, the others go on: {e}");
            }
        }
    }

    /// True if the worker that asks is to end; it is no longer counted then.
    fn shrink(&self) -> bool {
        let _threads = self.lock();
        let is_dispensable = self.count.load(Ordering::Relaxed) > RESERVE;
        self.count.fetch_sub(usize::from(is_dispensable), Ordering::Relaxed);
        is_dispensable
    }

    /// The life of a worker.
    fn work(self: &Arc<Self>, worker: &Worker) -> io::Result<()> {
        let device = &worker.reads.device;
        let queue = Queue::new(device)?;
        let mut kept: Option<Buffers> = None;
        loop {
            // Who has no buffers has nothing to give back, and nothing to wake up for.
            let patience = kept.is_some().then_some(IDLE_LIFE);
            self.waiting.fetch_add(1, Ordering::Relaxed);
            let waited = queue.wait(patience);
            let others = self.waiting.fetch_sub(1, Ordering::Relaxed) - 1;
            if !waited? {
                kept = None;
                if self.shrink() {
                    break;
                }
                continue;
            }
            let buffers = match &mut kept {
                Some(buffers) => buffers,
                none => none.insert(Buffers::new(self.limits.buffer_bytes)?),
            };
            match take(device, &mut buffers.request)? {
                Taken::Request(len) => {
                    if others == 0 {
                        self.grow();
                    }
                    worker.serve(&mut buffers.request[..len], &mut buffers.answer);
                }
                Taken::Nothing => {}
                Taken::Unmounted => return Ok(()),
            }
        }
        // The kernel may have woken this worker, and nobody else, for a request that came as its time was up.
        drop(queue);
        let mut buffers = Buffers::new(self.limits.buffer_bytes)?;
        if let Taken::Request(len) = take(device, &mut buffers.request)? {
            worker.serve(&mut buffers.request[..len], &mut buffers.answer);
        }
        Ok(())
    }
}

impl Buffers {
    fn new(len: usize) -> io::Result<Self> {
        Ok(Self { request: MmapMut::map_anon(len)?, answer: MmapMut::map_anon(len)? })
    }
}
