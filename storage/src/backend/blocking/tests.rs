use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use super::*;

const SOON: Duration = Duration::from_millis(50);
const LATE: Duration = Duration::from_secs(60);

fn request(priority: Priority, within: Duration) -> Request {
    Request::new(priority, Instant::now() + within)
}

fn on_demand(within: Duration) -> Request {
    request(Priority::OnDemand, within)
}

fn what() -> String {
    "a test".into()
}

/// Work that is stuck until the test lets it go, as in a stalled filesystem.
#[derive(Clone, Default)]
struct Stall(Arc<(Mutex<bool>, Condvar)>, Arc<AtomicUsize>);

impl Stall {
    fn work(&self) -> impl FnOnce() -> Result<()> + Send + 'static {
        let stall = self.clone();
        move || {
            stall.1.fetch_add(1, Ordering::SeqCst);
            let (over, wake) = &*stall.0;
            let _over = wake.wait_while(over.lock().unwrap(), |over| !*over).unwrap();
            Ok(())
        }
    }

    fn end(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn started(&self) -> usize {
        self.1.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn answers_and_errors_come_back() {
    let pool = Pool::new("test", Limits { threads: 2, queue: 4 });
    assert_eq!(pool.run(what, on_demand(LATE), || Ok(7)).await.unwrap(), 7);
    let err = pool.run(what, on_demand(LATE), || Err::<(), _>(Error::invalid("x", "y"))).await.unwrap_err();
    assert!(matches!(err, Error::Invalid { .. }));
}

#[tokio::test]
async fn a_panic_fails_one_request() {
    let pool = Pool::new("test", Limits { threads: 1, queue: 4 });
    let err = pool.run(what, on_demand(LATE), || -> Result<()> { panic!("on purpose") }).await.unwrap_err();
    assert!(matches!(err, Error::Unavailable { .. }), "{err}");
    assert_eq!(pool.run(what, on_demand(LATE), || Ok(7)).await.unwrap(), 7);
}

#[tokio::test]
async fn a_stall_ends_in_timeouts_and_then_service_resumes() {
    let pool = Arc::new(Pool::new("test", Limits { threads: 3, queue: 1000 }));
    let stall = Stall::default();
    let run = |patience| {
        let (pool, work) = (pool.clone(), stall.work());
        tokio::spawn(async move { pool.run(what, on_demand(patience), work).await })
    };
    let holders: Vec<_> = (0..3).map(|_| run(LATE)).collect();
    while stall.started() < 3 {
        tokio::task::yield_now().await;
    }
    let stuck: Vec<_> = (0..200).map(|_| run(SOON)).collect();
    for waiter in stuck {
        let err = waiter.await.unwrap().unwrap_err();
        let Error::TimedOut { waited, .. } = err else { panic!("{err}") };
        assert!(waited >= SOON);
    }
    assert_eq!(stall.started(), 3, "no more threads than allowed are stuck");
    assert_eq!(pool.shared.lock().threads, 3);

    stall.end();
    assert_eq!(pool.run(what, on_demand(LATE), || Ok(7)).await.unwrap(), 7);
    assert_eq!(stall.started(), 3, "work that nobody waits for is not done");
    for holder in holders {
        holder.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn what_nobody_waits_for_makes_room_in_a_full_queue() {
    let pool = Pool::new("test", Limits { threads: 1, queue: 2 });
    let stall = Stall::default();
    for _ in 0..20 {
        let err = pool.run(what, on_demand(SOON / 10), stall.work()).await.unwrap_err();
        assert!(matches!(err, Error::TimedOut { .. }), "{err}");
    }
    stall.end();
}

#[tokio::test]
async fn a_passed_deadline_is_not_even_queued() {
    let pool = Pool::new("test", Limits { threads: 1, queue: 1 });
    let err = pool.run(what, on_demand(Duration::ZERO), || Ok(())).await.unwrap_err();
    assert!(matches!(err, Error::TimedOut { .. }), "{err}");
    assert_eq!(pool.shared.lock().threads, 0);
}

/// Queues work that reports its name when it runs, and polls it once so that it is queued now.
fn enqueue(
    pool: &Arc<Pool>,
    order: &mpsc::Sender<&'static str>,
    name: &'static str,
    priority: Priority,
) -> tokio::task::JoinHandle<Result<()>> {
    let (pool, order) = (pool.clone(), order.clone());
    tokio::spawn(async move {
        let work = move || {
            order.send(name).unwrap();
            Ok(())
        };
        pool.run(what, request(priority, LATE), work).await
    })
}

#[tokio::test]
async fn on_demand_goes_first_and_sheds_prefetch() {
    let pool = Arc::new(Pool::new("test", Limits { threads: 1, queue: 3 }));
    let stall = Stall::default();
    let (order, seen) = mpsc::channel();
    let holder = {
        let (pool, work) = (pool.clone(), stall.work());
        tokio::spawn(async move { pool.run(what, on_demand(LATE), work).await })
    };
    // One thread runs this test, so that a yield lets each spawned task come to its wait.
    while stall.started() == 0 {
        tokio::task::yield_now().await;
    }
    let first = enqueue(&pool, &order, "prefetch 1", Priority::Prefetch);
    let second = enqueue(&pool, &order, "prefetch 2", Priority::Prefetch);
    let third = enqueue(&pool, &order, "reader 1", Priority::OnDemand);
    let fourth = enqueue(&pool, &order, "reader 2", Priority::OnDemand);
    let fifth = enqueue(&pool, &order, "prefetch 3", Priority::Prefetch);
    // The queue is full now: the second prefetch was shed for a reader, the third one was not let in.
    assert!(matches!(second.await.unwrap(), Err(Error::Unavailable { .. })));
    assert!(matches!(fifth.await.unwrap(), Err(Error::Unavailable { .. })));
    stall.end();
    for waiter in [holder, first, third, fourth] {
        waiter.await.unwrap().unwrap();
    }
    assert_eq!(seen.try_iter().collect::<Vec<_>>(), ["reader 1", "reader 2", "prefetch 1"]);
}

#[tokio::test]
async fn stuck_prefetch_leaves_threads_for_readers() {
    let pool = Arc::new(Pool::new("test", Limits { threads: 4, queue: 100 }));
    let stall = Stall::default();
    let stuck: Vec<_> = (0..10)
        .map(|_| {
            let (pool, work) = (pool.clone(), stall.work());
            tokio::spawn(async move { pool.run(what, request(Priority::Prefetch, LATE), work).await })
        })
        .collect();
    while stall.started() < 2 {
        tokio::task::yield_now().await;
    }
    for _ in 0..20 {
        assert_eq!(pool.run(what, on_demand(LATE), || Ok(7)).await.unwrap(), 7);
    }
    assert_eq!(stall.started(), 2, "half of the threads");
    stall.end();
    for waiter in stuck {
        waiter.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_burst_gets_a_thread_each() {
    // Two requests at once must not share one idle thread while there may be two.
    let pool = Arc::new(Pool::new("test", Limits { threads: 8, queue: 100 }));
    pool.run(what, on_demand(LATE), || Ok(())).await.unwrap();
    let barrier = Arc::new(std::sync::Barrier::new(8));
    let waiters: Vec<_> = (0..8)
        .map(|_| {
            let (pool, barrier) = (pool.clone(), barrier.clone());
            let work = move || {
                barrier.wait();
                Ok(())
            };
            tokio::spawn(async move { pool.run(what, on_demand(LATE), work).await })
        })
        .collect();
    for waiter in waiters {
        waiter.await.unwrap().unwrap();
    }
}
