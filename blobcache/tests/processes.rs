//! Several caches on one directory: as processes are to each other, two caches have their own open file descriptions.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use storage::blob::Compressor;
use support::*;

#[test]
fn two_caches_fetch_what_they_touch_once() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime();
    let recipe =
        Recipe { chunks: 3000, max_size: 20_000, compressor: Compressor::Zstd, aligned: true, ..PLAIN };
    let blob = Arc::new(HandMade::new(21, recipe));
    let backend = MemoryBackend::of(&blob);
    backend.feel(Mood::Slow(1));
    let readers: Vec<_> = (0..2u64)
        .map(|process| {
            let cache = open(options(directory(dir.path())), &backend, &runtime);
            let (handle, blob) = (take(&cache, &blob), Arc::clone(&blob));
            let runtime = runtime.handle().clone();
            std::thread::spawn(move || {
                // The same places, now in the same order and now in another one.
                let mut rng = Rng::new(process / 2);
                let mut own = Rng::new(process + 7);
                let mut touched = vec![false; blob.chunks.len()];
                for batch in 0..625 {
                    let rng = if batch % 4 == 0 { &mut own } else { &mut rng };
                    let extents: Vec<_> = (0..16).map(|_| blob.any(rng)).collect();
                    runtime.block_on(async {
                        let reads = extents.iter().map(|extent| fetch(&handle, extent, soon()));
                        for (extent, read) in extents.iter().zip(futures_util::future::join_all(reads).await)
                        {
                            assert!(read.unwrap() == blob.expected(extent));
                            let storage::blob::Extent::Chunk { chunk_index, .. } = extent else { panic!() };
                            touched[*chunk_index as usize] = true;
                        }
                    });
                }
                (touched, cache.metrics().foreign_waits.get())
            })
        })
        .collect();
    let done: Vec<_> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
    let stored: u64 = (blob.chunks.iter().enumerate())
        .filter(|(index, _)| done.iter().any(|(touched, _)| touched[*index]))
        .map(|(_, chunk)| u64::from(chunk.stored.compressed_size))
        .sum();
    let fetched = backend.served();
    assert!(fetched >= stored && fetched * 100 <= stored * 105, "{fetched} fetched, {stored} stored");
    assert!(done.iter().any(|(_, waits)| *waits > 0), "they never met");
}

#[test]
fn a_process_that_is_stuck_is_not_waited_for_long() {
    let dir = tempfile::tempdir().unwrap();
    let (runtime, blob) = (runtime(), HandMade::new(22, PLAIN));
    let (stuck, backend) = (MemoryBackend::of(&blob), MemoryBackend::of(&blob));
    stuck.feel(Mood::Stall);
    let caches = [&stuck, &backend].map(|backend| open(options(directory(dir.path())), backend, &runtime));
    let handles = [take(&caches[0], &blob), take(&caches[1], &blob)];
    let extent = blob.whole(5);
    runtime.block_on(async {
        let first = fetch(&handles[0], &extent, Instant::now() + Duration::from_secs(8));
        let second = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let started = Instant::now();
            let read = fetch(&handles[1], &extent, started + Duration::from_secs(6)).await.unwrap();
            assert_eq!(read, blob.expected(&extent));
            assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
            settled(&caches[1]).await;
        };
        let (first, ()) = tokio::join!(first, second);
        assert!(first.is_err());
        // And what the other one has put there is found.
        assert_eq!(fetch(&handles[0], &extent, soon()).await.unwrap(), blob.expected(&extent));
    });
    assert_eq!(stuck.requests.load(Ordering::Relaxed), 0);
    assert_eq!(caches[1].metrics().foreign_waits.get(), 1);
}

#[test]
fn a_process_that_dies_leaves_no_claim() {
    let dir = tempfile::tempdir().unwrap();
    let blob = HandMade::new(23, PLAIN);
    let (stuck, backend) = (MemoryBackend::of(&blob), MemoryBackend::of(&blob));
    stuck.feel(Mood::Stall);
    let extent = blob.whole(5);
    let dying = runtime();
    let cache = open(options(directory(dir.path())), &stuck, &dying);
    let handle = take(&cache, &blob);
    let _ = dying.block_on(fetch(&handle, &extent, Instant::now() + Duration::from_millis(50)));
    // Its tasks are cancelled, its descriptors closed.
    dying.shutdown_timeout(Duration::from_secs(5));
    drop((handle, cache));
    let runtime = runtime();
    let cache = open(options(directory(dir.path())), &backend, &runtime);
    let handle = take(&cache, &blob);
    assert_eq!(runtime.block_on(fetch(&handle, &extent, soon())).unwrap(), blob.expected(&extent));
    assert_eq!(cache.metrics().foreign_waits.get(), 0);
}
