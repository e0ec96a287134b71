//! A fixed number of threads for work that must not run on the runtime's workers: decoding, digests, file I/O.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, mpsc};

use tokio::sync::oneshot;

use crate::error::{Error, Result};
use crate::lock;

type Job = Box<dyn FnOnce() + Send>;

/// Threads that take jobs in order. What waits is bounded by whoever submits: a job belongs to a request that
/// holds its share of the memory budget.
pub(crate) struct Pool {
    name: &'static str,
    jobs: mpsc::Sender<Job>,
}

impl Pool {
    /// Starts `threads` threads; they end when the pool is dropped.
    pub(crate) fn new(name: &'static str, threads: usize) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads.max(1) {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new().name(name.into()).spawn(move || {
                loop {
                    let job = lock(&queue).recv();
                    let Ok(job) = job else { break };
                    // A panic fails the job: its sender is dropped, and whoever waits hears of it.
                    if catch_unwind(AssertUnwindSafe(job)).is_err() {
                        tracing::error!(pool = name, "a job panicked");
                    }
                }
            })?;
        }
        Ok(Self { name, jobs })
    }

    /// Runs `job` and returns its result; [`crate::ErrorKind::Aborted`] if it panicked. The job runs even if
    /// nobody waits any more.
    pub(crate) async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move || {
            // Nobody waits any more: the job was still worth doing.
            let _ = sender.send(job());
        });
        self.jobs.send(job).map_err(|_| Error::aborted(format!("{} pool", self.name)))?;
        receiver.await.map_err(|_| Error::aborted(format!("a job of the {} pool", self.name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panicking_job_fails_alone() {
        let pool = Pool::new("test", 1).unwrap();
        assert!(pool.run(|| panic!("on purpose")).await.is_err());
        assert_eq!(pool.run(|| 7).await.unwrap(), 7);
    }
}
