//! Threads for calls that block: `open`, `stat` and `pread` on filesystems that may stall.
//!
//! A stalled filesystem holds a thread in uninterruptible sleep, and nothing gets it out. So the threads are few,
//! the queue before them is bounded, and nobody waits for a thread, only for an answer until a deadline. Work
//! whose waiter has gone is dropped when its turn comes; when the stall ends, the threads go on with what is
//! still wanted. On-demand work goes before prefetch, and prefetch never holds more than half of the threads.
//!
//! The waiting side needs a tokio runtime with time; the threads are the operating system's.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{Priority, Request};
use crate::lock;
use crate::{Error, Result};

/// A thread that had nothing to do for so long ends.
const IDLE_LIFE: Duration = Duration::from_secs(3);

/// How much a pool may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Threads; at least one is used.
    pub threads: usize,
    /// Requests that wait for a thread.
    pub queue: usize,
}

/// A bounded pool of threads.
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    name: &'static str,
    limits: Limits,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    on_demand: VecDeque<Box<dyn Work>>,
    prefetch: VecDeque<Box<dyn Work>>,
    threads: usize,
    idle: usize,
    /// Threads that run prefetch work.
    prefetching: usize,
    closed: bool,
}

/// A queued request, its types erased.
trait Work: Send {
    /// Somebody still waits, and may still be answered in time.
    fn is_wanted(&self) -> bool;
    fn run(self: Box<Self>);
    fn shed(self: Box<Self>);
}

/// What a waiter is told.
enum Answer<T> {
    Done(Result<T>),
    Shed,
    Panicked,
}

struct Task<T, F> {
    reply: oneshot::Sender<Answer<T>>,
    deadline: Instant,
    work: F,
}

impl<T: Send, F: FnOnce() -> Result<T> + Send> Work for Task<T, F> {
    fn is_wanted(&self) -> bool {
        !self.reply.is_closed() && Instant::now() < self.deadline
    }

    fn run(self: Box<Self>) {
        let Self { reply, work, .. } = *self;
        // What the work holds is dropped with it or owned by its maker, so nothing half-done is seen afterwards.
        let answer = catch_unwind(AssertUnwindSafe(work)).map_or(Answer::Panicked, Answer::Done);
        // A waiter that has gone needs no answer.
        let _ = reply.send(answer);
    }

    fn shed(self: Box<Self>) {
        let _ = self.reply.send(Answer::Shed);
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("name", &self.shared.name).field("limits", &self.shared.limits).finish()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Idle threads end now, busy ones when their work is done; stuck ones cannot be waited for.
        self.shared.lock().closed = true;
        self.shared.wake.notify_all();
    }
}

impl Pool {
    /// A pool whose threads, made on demand, are called `name`.
    pub(crate) fn new(name: &'static str, limits: Limits) -> Self {
        let limits = Limits { threads: limits.threads.max(1), ..limits };
        Self { shared: Arc::new(Shared { name, limits, state: Mutex::default(), wake: Condvar::new() }) }
    }

    /// Runs `work` on a thread of the pool and waits for its result until the deadline; then, or if the deadline
    /// has passed already, [`Error::TimedOut`]. [`Error::Unavailable`] if the queue is full, or if `work` panics.
    /// `what` names the request in these errors.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        what: impl Fn() -> String,
        request: Request,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let start = Instant::now();
        let timed_out = || Error::TimedOut { what: what(), waited: start.elapsed() };
        let unavailable =
            |detail: &str| Error::Unavailable { what: what(), source: io::Error::other(detail.to_owned()) };
        if request.deadline <= start {
            return Err(timed_out());
        }
        let (reply, answer) = oneshot::channel();
        let task = Box::new(Task { reply, deadline: request.deadline, work });
        self.push(task, request.priority).map_err(|source| Error::Unavailable { what: what(), source })?;
        match tokio::time::timeout_at(request.deadline.into(), answer).await {
            Ok(Ok(Answer::Done(result))) => result,
            Ok(Ok(Answer::Shed)) => {
                Err(unavailable("given up in favour of a waiting reader, the queue is full"))
            }
            Ok(Ok(Answer::Panicked)) => Err(unavailable("the request panicked")),
            // Dropped unanswered: its deadline had passed when its turn came.
            Ok(Err(_)) | Err(_) => Err(timed_out()),
        }
    }

    fn push(&self, work: Box<dyn Work>, priority: Priority) -> io::Result<()> {
        let mut state = self.shared.lock();
        if state.on_demand.len() + state.prefetch.len() >= self.shared.limits.queue {
            state.on_demand.retain(|work| work.is_wanted());
            state.prefetch.retain(|work| work.is_wanted());
        }
        if state.on_demand.len() + state.prefetch.len() >= self.shared.limits.queue {
            // The newest prefetch makes room for a reader; nothing makes room for prefetch.
            match (priority, state.prefetch.pop_back()) {
                (Priority::OnDemand, Some(newest)) => newest.shed(),
                (_, kept) => {
                    state.prefetch.extend(kept);
                    return Err(io::Error::other("too many requests wait already"));
                }
            }
        }
        match priority {
            Priority::OnDemand => state.on_demand.push_back(work),
            Priority::Prefetch => state.prefetch.push_back(work),
        }
        // A thread that was woken counts as idle until it runs, and its work as queued.
        if state.runnable(self.shared.limits) > state.idle && state.threads < self.shared.limits.threads {
            let shared = self.shared.clone();
            let spawned =
                thread::Builder::new().name(self.shared.name.to_owned()).spawn(move || shared.serve());
            match spawned {
                Ok(_) => state.threads += 1,
                Err(err) if state.threads == 0 => {
                    // Nobody would ever take it.
                    state.on_demand.clear();
                    state.prefetch.clear();
                    return Err(err);
                }
                // The threads that there are will come to it.
                Err(err) => tracing::warn!(%err, pool = self.shared.name, "cannot start another thread"),
            }
        }
        drop(state);
        self.shared.wake.notify_one();
        Ok(())
    }
}

impl State {
    /// How many of the queued requests could run now, given a thread each.
    fn runnable(&self, limits: Limits) -> usize {
        let allowed = max_prefetching(limits).saturating_sub(self.prefetching);
        self.on_demand.len() + self.prefetch.len().min(allowed)
    }

    fn next(&mut self, limits: Limits) -> Option<(Box<dyn Work>, Priority)> {
        if let Some(work) = self.on_demand.pop_front() {
            return Some((work, Priority::OnDemand));
        }
        if self.prefetching >= max_prefetching(limits) {
            return None;
        }
        self.prefetch.pop_front().map(|work| (work, Priority::Prefetch))
    }
}

/// Stuck prefetch leaves threads for readers.
fn max_prefetching(limits: Limits) -> usize {
    (limits.threads / 2).max(1)
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is one field at a time, so a panic leaves nothing inconsistent.
        lock(&self.state)
    }

    /// The life of a thread.
    fn serve(&self) {
        let mut state = self.lock();
        loop {
            if let Some((work, priority)) = state.next(self.limits) {
                if !work.is_wanted() {
                    continue;
                }
                let prefetch = usize::from(priority == Priority::Prefetch);
                state.prefetching += prefetch;
                drop(state);
                work.run();
                state = self.lock();
                state.prefetching -= prefetch;
                continue;
            }
            if state.closed {
                break;
            }
            state.idle += 1;
            let (guard, timeout) =
                self.wake.wait_timeout(state, IDLE_LIFE).unwrap_or_else(PoisonError::into_inner);
            state = guard;
            state.idle -= 1;
            if timeout.timed_out() && state.runnable(self.limits) == 0 {
                break;
            }
        }
        state.threads -= 1;
    }
}

#[cfg(test)]
mod tests;
