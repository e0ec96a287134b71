//! The laws of [`Backend`], as a suite that every implementation is put through.
//!
//! Public behind the feature `testing`, because wrappers in other crates (caches, fault injection) are backends too,
//! and have to keep the same laws. Breaking one panics with a message that says which.

use std::any::Any;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::{Backend, MAX_READ, Priority, Request};
use crate::Error;
use crate::blob::BlobId;

/// What a backend is asked to hold.
#[derive(Clone, Debug)]
pub struct Object {
    /// 64 hexadecimal digits.
    pub id: BlobId,
    /// A multiple of 4096 bytes, never empty: every kind of place can hold exactly so many.
    pub content: Vec<u8>,
}

/// A backend that holds the objects it was asked to hold, and nothing else.
pub struct Fixture {
    /// The backend.
    pub backend: Arc<dyn Backend>,
    /// What must live as long as the backend: a directory, a server.
    pub keep: Box<dyn Any + Send>,
}

/// Puts the backends that `make` makes through all laws.
pub async fn all<F: Future<Output = Fixture>>(make: impl Fn(Vec<Object>) -> F) {
    let objects = objects();
    let fixture = make(objects.clone()).await;
    let backend = &*fixture.backend;
    ranges_are_exact(backend, &objects).await;
    sizes_are_exact(backend, &objects).await;
    nothing_is_read_beyond_the_end(backend, &objects).await;
    what_is_not_there_is_not_found(backend).await;
    absurd_lengths_are_refused(backend, &objects).await;
    passed_deadlines_time_out(backend, &objects).await;
    requests_do_not_disturb_one_another(&fixture.backend, &objects).await;
    abandoned_requests_do_no_harm(backend, &objects).await;
}

fn objects() -> Vec<Object> {
    let mut random = Random(0x5eed);
    let sizes = [4096, 3 * 4096, 1 << 20];
    sizes
        .iter()
        .map(|size| {
            let id: String = (0..8).map(|_| format!("{:08x}", random.next() as u32)).collect();
            Object { id: blob_id(&id), content: (0..*size).map(|_| random.next() as u8).collect() }
        })
        .collect()
}

fn blob_id(id: &str) -> BlobId {
    BlobId::new(id).unwrap_or_else(|err| panic!("{err}"))
}

/// Numbers that look random and are the same in every run (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// Long enough that only a hang meets it.
fn request(priority: Priority) -> Request {
    Request::new(priority, Instant::now() + Duration::from_secs(60))
}

fn on_demand() -> Request {
    request(Priority::OnDemand)
}

/// Law: a range is exactly its bytes; an empty one is empty.
async fn ranges_are_exact(backend: &dyn Backend, objects: &[Object]) {
    let mut random = Random(1);
    for object in objects {
        let size = object.content.len() as u64;
        let mut ranges =
            vec![(0, size), (0, 1), (size - 1, 1), (size - 100, 100), (0, 0), (size / 2, 0), (size, 0)];
        for _ in 0..30 {
            let offset = random.below(size);
            ranges.push((offset, random.below(size - offset + 1)));
        }
        for (offset, len) in ranges {
            let read = backend.read(&object.id, offset, len, on_demand()).await;
            let data = read.unwrap_or_else(|err| panic!("range {offset}+{len} of {size} bytes: {err}"));
            let expected = &object.content[offset as usize..][..len as usize];
            assert!(data == expected, "range {offset}+{len} of {size} bytes is not what was stored");
        }
    }
}

/// Law: the size is the object's.
async fn sizes_are_exact(backend: &dyn Backend, objects: &[Object]) {
    for object in objects {
        let size = backend.size(&object.id, on_demand()).await.unwrap_or_else(|err| panic!("size: {err}"));
        assert_eq!(size, object.content.len() as u64, "size of an object");
    }
}

/// Law: a range beyond the end is corrupt, never a short read, and the error names the object.
async fn nothing_is_read_beyond_the_end(backend: &dyn Backend, objects: &[Object]) {
    for object in objects {
        let size = object.content.len() as u64;
        for (offset, len) in [
            (0, size + 1),
            (size, 1),
            (size - 1, 2),
            (size + 10_000, 1),
            (1 << 63, 1),
            (u64::MAX, 1),
            (u64::MAX, 2),
        ] {
            match backend.read(&object.id, offset, len, on_demand()).await {
                Err(err @ Error::Corrupt { .. }) => assert!(
                    err.to_string().contains(object.id.as_str()),
                    "the error of range {offset}+{len} does not name the blob: {err}"
                ),
                other => panic!("range {offset}+{len} of {size} bytes: {other:?}, expected Corrupt"),
            }
        }
    }
}

/// Law: an object that does not exist is not found, by name.
async fn what_is_not_there_is_not_found(backend: &dyn Backend) {
    let id = blob_id(&"0123456789abcdef".repeat(4));
    let errors = [
        backend.read(&id, 0, 1, on_demand()).await.map(|data| data.len() as u64),
        backend.size(&id, on_demand()).await,
    ];
    for error in errors {
        match error {
            Err(err @ Error::NotFound { .. }) => {
                assert!(err.to_string().contains(id.as_str()), "the error does not name the blob: {err}");
            }
            other => panic!("an object that does not exist: {other:?}, expected NotFound"),
        }
    }
}

/// Law: more than [`MAX_READ`] is refused before anything is allocated.
async fn absurd_lengths_are_refused(backend: &dyn Backend, objects: &[Object]) {
    for len in [MAX_READ + 1, u64::MAX] {
        match backend.read(&objects[0].id, 0, len, on_demand()).await {
            Err(Error::Invalid { .. }) => {}
            other => panic!("a read of {len} bytes: {other:?}, expected Invalid"),
        }
    }
}

/// Law: a deadline that has passed is a timeout, at once.
async fn passed_deadlines_time_out(backend: &dyn Backend, objects: &[Object]) {
    let id = &objects[0].id;
    let request = Request { deadline: Instant::now(), ..on_demand() };
    let errors = [
        backend.read(id, 0, 1, request.clone()).await.map(|data| data.len() as u64),
        backend.size(id, request).await,
    ];
    for error in errors {
        assert!(
            matches!(error, Err(Error::TimedOut { .. })),
            "a passed deadline: {error:?}, expected TimedOut"
        );
    }
}

/// Law: many requests at once, of both priorities, get each its own bytes.
async fn requests_do_not_disturb_one_another(backend: &Arc<dyn Backend>, objects: &[Object]) {
    let mut random = Random(2);
    let tasks: Vec<_> = (0..64)
        .map(|number| {
            let object = objects[number % objects.len()].clone();
            let offset = random.below(object.content.len() as u64);
            let len = 1 + random.below(object.content.len() as u64 - offset);
            let priority = if number % 3 == 0 { Priority::Prefetch } else { Priority::OnDemand };
            let backend = backend.clone();
            tokio::spawn(async move {
                let read = backend.read(&object.id, offset, len, request(priority)).await;
                let data = read.unwrap_or_else(|err| panic!("one of many requests: {err}"));
                let expected = &object.content[offset as usize..][..len as usize];
                assert!(data == expected, "one of many requests got other bytes");
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap_or_else(|err| panic!("one of many requests: {err}"));
    }
}

/// Law: a request may be dropped at any time, and what follows is served.
async fn abandoned_requests_do_no_harm(backend: &dyn Backend, objects: &[Object]) {
    let Some(object) = objects.last() else { return };
    for _ in 0..200 {
        let mut read = pin!(backend.read(&object.id, 0, object.content.len() as u64, on_demand()));
        // Started, and given up before its answer.
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(Err(err)) = read.as_mut().poll(&mut context) {
            panic!("a request that is given up: {err}");
        }
    }
    let read = backend.read(&object.id, 0, object.content.len() as u64, on_demand()).await;
    let data = read.unwrap_or_else(|err| panic!("after abandoned requests: {err}"));
    assert!(data == object.content, "other bytes after abandoned requests");
}
