use std::sync::Mutex;
use std::task::{Context, Waker};
use std::time::Duration;

use super::*;
use crate::backend::Priority;
use crate::backend::laws::{self, Fixture};
use crate::backend::localfs::{LocalFs, LocalFsConfig};

/// Answers each read with what the test has put here, after a while.
#[derive(Debug, Default)]
struct Script(Mutex<Vec<(Duration, Result<Bytes>)>>);

impl Backend for Script {
    fn read<'a>(&'a self, _: &'a BlobId, _: u64, _: u64, _: Request) -> BoxFuture<'a, Result<Bytes>> {
        Box::pin(async {
            let (wait, answer) = self.0.lock().unwrap().pop().expect("an answer");
            tokio::time::sleep(wait).await;
            answer
        })
    }

    fn size<'a>(&'a self, _: &'a BlobId, _: Request) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async {
            tokio::task::yield_now().await;
            Err(Error::NotFound { what: "blob".into(), place: "here".into() })
        })
    }
}

fn measured(answers: Vec<(Duration, Result<Bytes>)>) -> Measured {
    Measured::new(Arc::new(Script(Mutex::new(answers))))
}

fn blob() -> BlobId {
    BlobId::new(&"a1".repeat(32)).unwrap()
}

fn request() -> Request {
    Request::new(Priority::OnDemand, Instant::now() + Duration::from_secs(60))
}

fn counts<const N: usize>(counters: &[Counter; N]) -> [u64; N] {
    std::array::from_fn(|index| counters[index].get())
}

#[tokio::test]
async fn what_is_measured_keeps_the_laws() {
    laws::all(|objects| async move {
        let dir = tempfile::tempdir().unwrap();
        for object in objects {
            std::fs::write(dir.path().join(object.id.as_str()), &object.content).unwrap();
        }
        let config =
            LocalFsConfig { blob_file: None, dir: Some(dir.path().to_owned()), alt_dirs: Vec::new() };
        let inner = Arc::new(LocalFs::new(config).unwrap());
        Fixture { backend: Arc::new(Measured::new(inner)), keep: Box::new(dir) }
    })
    .await;
}

#[tokio::test]
async fn reads_are_counted_by_size_latency_and_ending() {
    const SLOW: Duration = Duration::from_millis(60);
    let backend = measured(vec![
        (Duration::ZERO, Err(Error::corrupt("blob", "wrong"))),
        (SLOW, Ok(Bytes::from(vec![0; 1 << 20]))),
        (Duration::ZERO, Ok(Bytes::from_static(b"abc"))),
    ]);
    let sizes = [3, 1 << 20, 4096];
    for len in sizes {
        let _ = backend.read(&blob(), 0, len, request()).await;
    }
    let _ = backend.size(&blob(), request()).await;
    let metrics = backend.metrics();
    assert_eq!((metrics.read_count(), metrics.read_errors()), (3, 1));
    assert_eq!(counts(&metrics.reads), [2, 0, 0, 1, 0, 0, 0, 0]);
    assert_eq!(counts(&metrics.sizes), [0, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(metrics.bytes.get(), 3 + (1 << 20), "only what came");
    assert_eq!(metrics.in_flight.get(), 0);
    let by_size: Vec<u64> = metrics.sizes_by_latency.iter().map(|row| counts(row).iter().sum()).collect();
    assert_eq!(by_size, [1, 0, 1, 0, 0, 0, 0, 1]);
    // 60 ms and whatever the machine adds: beyond the classes up to 50 ms, and among the others only there.
    assert_eq!(counts(&metrics.sizes_by_latency[7])[..3], [0, 0, 0]);
    assert!(metrics.millis_by_size[7].get() >= 60, "{:?}", metrics.millis_by_size);
    let latency = metrics.latency_micros.distribution();
    assert_eq!(latency.count(), 3);
    assert!(latency.sum >= 60_000, "{latency:?}");
    let lengths = metrics.lengths.distribution();
    assert_eq!(lengths.buckets[0], (4096, 2), "bounds are inclusive");
    assert_eq!((lengths.count(), lengths.sum), (3, sizes.iter().sum()));
}

#[tokio::test]
async fn a_read_that_is_given_up_is_counted_too() {
    let backend = measured(vec![(Duration::from_secs(60), Ok(Bytes::new()))]);
    let (id, mut context) = (blob(), Context::from_waker(Waker::noop()));
    let mut read = backend.read(&id, 0, 1, request());
    assert!(read.as_mut().poll(&mut context).is_pending());
    assert_eq!((backend.metrics().in_flight.get(), backend.metrics().read_count()), (1, 0));
    drop(read);
    assert_eq!(backend.metrics().in_flight.get(), 0);
    assert_eq!(counts(&backend.metrics().reads)[Ending::Abandoned as usize], 1);
    assert_eq!(backend.metrics().read_errors(), 1);
    let mut size = backend.size(&id, request());
    assert!(size.as_mut().poll(&mut context).is_pending());
    drop(size);
    assert_eq!(counts(&backend.metrics().sizes)[Ending::Abandoned as usize], 1);
}

#[test]
fn of_slow_reads_one_in_a_while_is_told_and_the_others_counted() {
    let (mut slow, now) = (Slow::default(), Instant::now());
    let told: Vec<_> = (0..25).map(|second| slow.is_told(now + Duration::from_secs(second))).collect();
    let expected = [(0, Some(0)), (10, Some(9)), (20, Some(9)), (24, None)];
    assert_eq!(expected.map(|(second, _)| (second, told[second])), expected);
    assert_eq!(told.iter().flatten().count(), 3);
}

#[test]
fn endings_are_numbered_in_order_and_named_apart() {
    for (number, ending) in Ending::ALL.into_iter().enumerate() {
        assert_eq!(ending as usize, number);
        let same = Ending::ALL.iter().filter(|other| other.name() == ending.name()).count();
        assert_eq!(same, 1, "{}", ending.name());
    }
}

#[test]
fn a_place_without_credentials_says_so() {
    let error = measured(Vec::new()).exchange_auth(Secret::new("dTpw")).unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }) && !error.to_string().contains("dTpw"), "{error}");
    assert!(measured(Vec::new()).endpoints().is_empty());
}
