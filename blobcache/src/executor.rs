//! Where the caches of a process do their work: tasks on a runtime, and on threads of its own what must not hold up the
//! tasks: decoding, digests, file I/O.
//!
//! Invariant: however many caches share an executor, no more jobs of a kind run at once than it says. A thread is started when
//! there is work for it, and ends when there has been none for a while.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::error::{Error, Result};
use crate::lock;

/// Reads, writes and syncs of cache files at once: a disk that stalls holds up so many threads.
const DISK_JOBS: usize = 4;
/// A thread that had nothing to do for so long ends.
const IDLE_LIFE: Duration = Duration::from_secs(3);

/// What runs the work of caches; one for all of a process. A clone is the same executor.
#[derive(Clone)]
pub struct Executor {
    runtime: Handle,
    /// Decoding and digests: as many jobs at once as cores.
    pub(crate) decode: Arc<Pool>,
    /// Files of the cache.
    pub(crate) disk: Arc<Pool>,
}

type Job = Box<dyn FnOnce() + Send>;

/// Threads that take jobs in order. What waits is bounded by whoever submits: a job belongs to a request that holds its
/// share of the memory budget.
///
/// Not the runtime's blocking threads: these start anew for a job that comes as another one ends, and under load there are
/// dozens, each with a decoder's memory.
pub(crate) struct Pool(Arc<Shared>);

struct Shared {
    name: &'static str,
    limit: usize,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    /// Threads that wait for a job. One that was woken counts until it runs.
    idle: usize,
    is_closed: bool,
}

impl Executor {
    /// One that works on `runtime`, which has a timer.
    pub fn new(runtime: Handle) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let pool = |name, limit| Arc::new(Pool::new(name, limit));
        Self { runtime, decode: pool("cache-decode", cores), disk: pool("cache-disk", DISK_JOBS) }
    }

    /// The runtime.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }
}

impl Pool {
    fn new(name: &'static str, limit: usize) -> Self {
        Self(Arc::new(Shared { name, limit, state: Mutex::default(), wake: Condvar::new() }))
    }

    /// Runs `job` and returns its result; [`crate::ErrorKind::Aborted`] if it panicked, or if there is no thread for it.
    /// The job runs even if nobody waits any more.
    pub(crate) async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        self.push(Box::new(move || {
            // Nobody waits any more: the job was still worth doing.
            let _ = sender.send(job());
        }));
        receiver.await.map_err(|_| Error::aborted(format!("a job of the {} pool", self.0.name)))
    }

    fn push(&self, job: Job) {
        let mut state = lock(&self.0.state);
        state.jobs.push_back(job);
        if state.jobs.len() > state.idle && state.threads < self.0.limit {
            match self.spawn() {
                Ok(()) => state.threads += 1,
                Err(error) => {
                    tracing::warn!(pool = self.0.name, %error, "cannot start a thread");
                    if state.threads == 0 {
                        // Nobody would ever take it.
                        state.jobs.clear();
                    }
                }
            }
        }
        let somebody_waits = state.idle > 0;
        drop(state);
        // A system call, which a busy pool can do without: its threads look at the queue before they wait.
        if somebody_waits {
            self.0.wake.notify_one();
        }
    }

    fn spawn(&self) -> io::Result<()> {
        let shared = Arc::clone(&self.0);
        std::thread::Builder::new().name(shared.name.into()).spawn(move || shared.serve()).map(drop)
    }
}

impl Shared {
    /// The life of a thread.
    fn serve(&self) {
        let mut state = lock(&self.state);
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                // A panic fails the job: its sender is dropped, and whoever waits hears of it.
                if catch_unwind(AssertUnwindSafe(job)).is_err() {
                    tracing::error!(pool = self.name, "a job panicked");
                }
                state = lock(&self.state);
                continue;
            }
            if state.is_closed {
                break;
            }
            state.idle += 1;
            let waited = self.wake.wait_timeout(state, IDLE_LIFE).unwrap_or_else(PoisonError::into_inner);
            state = waited.0;
            state.idle -= 1;
            if waited.1.timed_out() && state.jobs.is_empty() {
                break;
            }
        }
        state.threads -= 1;
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Idle threads end now, busy ones when their work is done.
        lock(&self.0.state).is_closed = true;
        self.0.wake.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn a_panicking_job_fails_alone() {
        let pool = Pool::new("test", 1);
        assert!(pool.run(|| panic!("on purpose")).await.is_err());
        assert_eq!(pool.run(|| 7).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn threads_come_when_they_are_needed_up_to_the_limit_and_go() {
        let executor = Executor::new(Handle::current());
        let threads = || lock(&executor.disk.0.state).threads;
        assert_eq!(threads(), 0);
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let jobs = (0..40).map(|_| {
            let (executor, running, most) = (executor.clone(), running.clone(), most.clone());
            let job = move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(5));
                running.fetch_sub(1, Ordering::SeqCst);
            };
            async move { executor.disk.run(job).await }
        });
        assert!(join_all(jobs).await.iter().all(Result::is_ok));
        assert_eq!(most.load(Ordering::SeqCst), DISK_JOBS);
        assert_eq!(threads(), DISK_JOBS);
        let deadline = Instant::now() + 5 * IDLE_LIFE;
        while threads() > 0 {
            assert!(Instant::now() < deadline, "{} threads are left", threads());
            tokio::time::sleep(IDLE_LIFE / 10).await;
        }
        assert_eq!(executor.disk.run(|| 7).await.unwrap(), 7);
    }
}
