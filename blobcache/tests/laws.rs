//! The laws of hit, miss and single flight, on hand-made blobs.

#![allow(clippy::unwrap_used)]

#[path = "laws/at_rest.rs"]
mod at_rest;
#[path = "laws/memory.rs"]
mod memory;
mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use blobcache::{Blob, CacheStorage, Encryption, Error, ErrorKind, Want};
use futures_util::future::join_all;
use storage::blob::{BlobDescription, BlobFeatures, BlobId, Compressor, Extent};
use support::*;

/// Every way to keep a blob for which the laws hold.
fn storages(dir: &std::path::Path) -> Vec<(&'static str, CacheStorage, Recipe)> {
    let directory = |name: &str, compressed, encryption, indexed_map| CacheStorage::Directory {
        work_dir: dir.join(name),
        compressed,
        encryption,
        indexed_map,
    };
    let mut key = [3; 32];
    key[0] = 4;
    let zstd = Recipe { compressor: Compressor::Zstd, ..PLAIN };
    let aligned = Recipe { aligned: true, ..zstd };
    vec![
        ("plain", directory("plain", false, None, true), PLAIN),
        ("zstd", directory("zstd", false, None, true), zstd),
        ("raw", directory("raw", true, None, true), zstd),
        ("memory map", directory("memory", false, None, false), zstd),
        ("encrypted", directory("enc", false, Some(Encryption { key, convergent: false }), true), aligned),
        ("convergent", directory("conv", false, Some(Encryption { key, convergent: true }), true), aligned),
    ]
}

#[test]
fn what_is_read_is_right_and_fetched_once_whatever_the_storage() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime();
    for (name, storage, recipe) in storages(dir.path()) {
        let blob = HandMade::new(1, recipe);
        let backend = MemoryBackend::of(&blob);
        for round in 0..3 {
            let cache = open(options(storage.clone()), &backend, &runtime);
            let handle = take(&cache, &blob);
            runtime.block_on(async {
                let mut rng = Rng::new(round);
                for _ in 0..300 {
                    let extent = blob.any(&mut rng);
                    let read = fetch(&handle, &extent, soon()).await.unwrap();
                    assert_eq!(read, blob.expected(&extent), "{name}");
                }
                for index in 0..blob.len() {
                    let extent = blob.whole(index);
                    assert_eq!(
                        fetch(&handle, &extent, soon()).await.unwrap(),
                        blob.expected(&extent),
                        "{name}"
                    );
                }
                settled(&cache).await;
            });
            assert_eq!(backend.served(), blob.stored.len() as u64, "{name}, round {round}");
            let in_place =
                (0..blob.len()).filter(|index| handle.ready(&blob.whole(*index)).is_some()).count();
            let plain = matches!(name, "plain" | "zstd" | "memory map");
            assert_eq!(in_place, if plain { blob.chunks.len() } else { 0 }, "{name}");
        }
    }
}

#[test]
fn one_read_of_many_chunks_is_one_request() {
    let dir = tempfile::tempdir().unwrap();
    let (runtime, blob) = (runtime(), HandMade::new(2, PLAIN));
    let backend = MemoryBackend::of(&blob);
    let cache = open(options(directory(dir.path())), &backend, &runtime);
    let handle = take(&cache, &blob);
    let extents: Vec<_> = (10..20).map(|index| blob.whole(index)).collect();
    let mut outs: Vec<_> = extents.iter().map(|extent| vec![0; blob.expected(extent).len()]).collect();
    let mut hole = [9; 5];
    let mut wants: Vec<_> =
        extents.iter().zip(&mut outs).map(|(extent, out)| Want { extent: *extent, out }).collect();
    wants.push(Want { extent: Extent::Hole { len: 5 }, out: &mut hole });
    runtime.block_on(handle.read(&mut wants, soon())).unwrap();
    drop(wants);
    assert_eq!(hole, [0; 5]);
    for (extent, out) in extents.iter().zip(&outs) {
        assert_eq!(out, blob.expected(extent));
    }
    assert_eq!(backend.requests.load(Ordering::Relaxed), 1);
}

/// Reads these chunks with one read. The first result is the read's.
async fn read_many(handle: &Blob, blob: &HandMade, chunks: std::ops::Range<u32>) -> Result<(), Error> {
    let extents: Vec<_> = chunks.map(|index| blob.whole(index)).collect();
    let mut outs: Vec<_> = extents.iter().map(|extent| vec![0; blob.expected(extent).len()]).collect();
    let mut wants: Vec<_> =
        extents.iter().zip(&mut outs).map(|(extent, out)| Want { extent: *extent, out }).collect();
    handle.read(&mut wants, soon()).await?;
    drop(wants);
    for (extent, out) in extents.iter().zip(&outs) {
        assert_eq!(out, blob.expected(extent));
    }
    Ok(())
}

#[test]
fn the_first_chunks_of_a_request_are_served_before_the_last_have_come() {
    let dir = tempfile::tempdir().unwrap();
    let (runtime, blob) = (runtime(), HandMade::new(22, PLAIN));
    let backend = MemoryBackend::of(&blob);
    let cache = open(options(directory(dir.path())), &backend, &runtime);
    let handle = take(&cache, &blob);
    let told: u64 = (0..4).map(|index| blob.chunks[index].data.len() as u64).sum();
    backend.feel(Mood::TellAndStall(told));
    runtime.block_on(async {
        let all = read_many(&handle, &blob, 0..8);
        let first = async {
            while handle.ready(&blob.whole(3)).is_none() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            for index in 0..4 {
                let extent = blob.whole(index);
                assert_eq!(fetch(&handle, &extent, soon()).await.unwrap(), blob.expected(&extent));
            }
        };
        tokio::select! {
            result = all => panic!("{result:?}"),
            () = first => {}
        }
        assert!((4..8).all(|index| handle.ready(&blob.whole(index)).is_none()));
    });
    assert_eq!(backend.requests.load(Ordering::Relaxed), 1);
}

#[test]
fn what_came_before_a_request_failed_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (runtime, blob) = (runtime(), HandMade::new(23, PLAIN));
    let backend = MemoryBackend::of(&blob);
    let cache = open(options(directory(dir.path())), &backend, &runtime);
    let handle = take(&cache, &blob);
    let told: u64 = (0..4).map(|index| blob.chunks[index].data.len() as u64).sum();
    backend.feel(Mood::TellAndFail(told + 1));
    runtime.block_on(read_many(&handle, &blob, 0..8)).unwrap();
    let ranges = backend.ranges.lock().unwrap().clone();
    // Only those that had not come, one by one.
    let rest: Vec<_> = (4..8).map(|index| blob.chunks[index].stored.compressed_offset).collect();
    let mut again: Vec<_> = ranges[1..].iter().map(|range| range.0).collect();
    again.sort_unstable();
    assert_eq!(again, rest);
}

#[test]
fn wrong_bytes_on_their_way_are_not_served() {
    let dir = tempfile::tempdir().unwrap();
    let (runtime, blob) = (runtime(), HandMade::new(24, PLAIN));
    let backend = MemoryBackend::of(&blob);
    let cache = open(options(directory(dir.path())), &backend, &runtime);
    let handle = take(&cache, &blob);
    backend.feel(Mood::TellWrong);
    runtime.block_on(read_many(&handle, &blob, 0..8)).unwrap();
    assert_eq!((cache.metrics().digest_mismatches.get(), cache.metrics().refetches.get()), (1, 1));
}

#[test]
fn a_chunk_beyond_the_end_of_the_blob_does_not_fail_its_neighbours() {
    let dir = tempfile::tempdir().unwrap();
    let (runtime, blob) = (runtime(), HandMade::new(21, PLAIN));
    let short = blob.stored.slice(..blob.stored.len() - 1);
    let backend = MemoryBackend::with([(blob.id().clone(), short)]);
    let cache = open(options(directory(dir.path())), &backend, &runtime);
    let handle = take(&cache, &blob);
    let last = blob.len() - 1;
    let extents = [last - 1, last].map(|index| blob.whole(index));
    let mut outs = extents.map(|extent| vec![0; blob.expected(&extent).len()]);
    let mut wants: Vec<_> =
        extents.iter().zip(&mut outs).map(|(extent, out)| Want { extent: *extent, out }).collect();
    let error = runtime.block_on(handle.read(&mut wants, soon())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    runtime.block_on(settled(&cache));
    assert!(handle.ready(&extents[0]).is_some(), "the neighbour came with a request of its own");
    assert!(handle.ready(&extents[1]).is_none());
}

#[test]
fn threads_that_want_the_same_cause_one_fetch() {
    let dir = tempfile::tempdir().unwrap();
    let (runtime, blob) = (runtime(), Arc::new(HandMade::new(3, PLAIN)));
    for storage in [directory(dir.path()), CacheStorage::None] {
        let backend = MemoryBackend::of(&blob);
        // Slow enough for all of them to come while the first is at it.
        backend.feel(Mood::Slow(2000));
        let cache = open(options(storage), &backend, &runtime);
        // Two mounts of one image.
        let handles = [take(&cache, &blob), take(&cache, &blob)];
        let barrier = Arc::new(std::sync::Barrier::new(64));
        let threads: Vec<_> = (0..64)
            .map(|thread| {
                let (blob, handle) = (Arc::clone(&blob), Arc::clone(&handles[thread % 2]));
                let (runtime, barrier) = (runtime.handle().clone(), Arc::clone(&barrier));
                std::thread::spawn(move || {
                    barrier.wait();
                    runtime.block_on(async {
                        let reads = (0..blob.len()).map(|index| {
                            let extent = blob.whole(index);
                            let handle = &handle;
                            async move { (extent, fetch(handle, &extent, soon()).await.unwrap()) }
                        });
                        for (extent, read) in join_all(reads).await {
                            assert_eq!(read, blob.expected(&extent));
                        }
                    });
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(backend.served(), blob.stored.len() as u64);
        let metrics = cache.metrics();
        let kept = metrics.bytes_from_cache.get() + metrics.bytes_from_memory.get();
        let out = kept + metrics.bytes_from_fetch.get();
        assert_eq!(out, 64 * blob.stored.len() as u64);
        assert_eq!(metrics.backend_bytes.get(), backend.served());
    }
}

#[test]
fn a_leader_that_panics_fails_its_readers_and_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let (runtime, blob) = (runtime(), HandMade::new(4, PLAIN));
    let backend = MemoryBackend::of(&blob);
    let cache = open(options(directory(dir.path())), &backend, &runtime);
    let handle = take(&cache, &blob);
    backend.feel(Mood::Panic);
    let started = Instant::now();
    let extent = blob.whole(0);
    runtime.block_on(async {
        let reads = (0..8).map(|_| fetch(&handle, &extent, soon()));
        for read in join_all(reads).await {
            assert_eq!(read.unwrap_err().kind(), ErrorKind::Aborted);
        }
    });
    assert!(started.elapsed() < Duration::from_secs(5));
    backend.feel(Mood::Serve);
    assert_eq!(runtime.block_on(fetch(&handle, &extent, soon())).unwrap(), blob.expected(&extent));
}

#[test]
fn a_follower_outlives_its_leaders_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let (runtime, blob) = (runtime(), HandMade::new(5, PLAIN));
    let backend = MemoryBackend::of(&blob);
    let cache = open(options(directory(dir.path())), &backend, &runtime);
    let handle = take(&cache, &blob);
    backend.feel(Mood::Stall);
    let extent = blob.whole(7);
    runtime.block_on(async {
        let leader = fetch(&handle, &extent, Instant::now() + Duration::from_millis(200));
        let follower = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            // Joins, then leads itself when the first leader's time is up.
            fetch(&handle, &extent, soon()).await
        };
        let recovery = async {
            tokio::time::sleep(Duration::from_millis(150)).await;
            backend.feel(Mood::Serve);
        };
        let (leader, follower, ()) = tokio::join!(leader, follower, recovery);
        assert_eq!(leader.unwrap_err().kind(), ErrorKind::TimedOut);
        assert_eq!(follower.unwrap(), blob.expected(&extent));
    });
}

#[test]
fn a_stalled_backend_times_out_misses_and_leaves_hits_alone() {
    let dir = tempfile::tempdir().unwrap();
    stalled(directory(dir.path()));
    stalled(CacheStorage::None);
}

fn stalled(storage: CacheStorage) {
    let (runtime, blob) = (runtime(), Arc::new(HandMade::new(6, PLAIN)));
    let backend = MemoryBackend::of(&blob);
    // A small budget, which the stuck reads use up.
    let cache =
        open(blobcache::CacheOptions { memory_bytes: 64 << 10, ..options(storage) }, &backend, &runtime);
    let handle = take(&cache, &blob);
    runtime.block_on(async {
        for index in 0..32 {
            fetch(&handle, &blob.whole(index), soon()).await.unwrap();
        }
        settled(&cache).await;
    });
    backend.feel(Mood::Stall);
    let deadline = Duration::from_millis(1000);
    let stuck: Vec<_> = (0..200)
        .map(|n| {
            let (handle, blob) = (Arc::clone(&handle), Arc::clone(&blob));
            runtime.spawn(async move {
                let started = Instant::now();
                let read = fetch(&handle, &blob.whole(32 + n % 32), started + deadline).await;
                assert_eq!(read.unwrap_err().kind(), ErrorKind::TimedOut);
                started.elapsed()
            })
        })
        .collect();
    let mut slow = 0;
    for n in 0..1000u32 {
        let extent = blob.whole(n % 32);
        let started = Instant::now();
        assert_eq!(runtime.block_on(fetch(&handle, &extent, soon())).unwrap(), blob.expected(&extent));
        slow += u32::from(started.elapsed() >= Duration::from_millis(500));
    }
    // A machine that stands still delays some.
    assert!(slow <= 5, "{slow} hits took long");
    for read in stuck {
        let took = runtime.block_on(read).unwrap();
        assert!(took >= deadline && took < deadline + Duration::from_secs(5), "{took:?}");
    }
    backend.feel(Mood::Serve);
    let extent = blob.whole(40);
    assert_eq!(runtime.block_on(fetch(&handle, &extent, soon())).unwrap(), blob.expected(&extent));
    assert_eq!(cache.metrics().timeouts.get(), 200);
}

#[test]
fn wrong_bytes_are_fetched_again_then_refused_and_never_kept() {
    let dir = tempfile::tempdir().unwrap();
    wrong(directory(dir.path()));
    wrong(CacheStorage::None);
}

fn wrong(storage: CacheStorage) {
    let (runtime, blob) = (runtime(), HandMade::new(7, PLAIN));
    let backend = MemoryBackend::of(&blob);
    let cache = open(options(storage), &backend, &runtime);
    let handle = take(&cache, &blob);
    let extent = blob.whole(1);
    runtime.block_on(async {
        backend.feel(Mood::Corrupt(1));
        assert_eq!(fetch(&handle, &extent, soon()).await.unwrap(), blob.expected(&extent));
        assert_eq!((cache.metrics().digest_mismatches.get(), cache.metrics().refetches.get()), (1, 1));

        backend.feel(Mood::Corrupt(1000));
        let bad = blob.whole(2);
        let error = fetch(&handle, &bad, soon()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(&blob.chunks[2].digest.to_string()), "{error}");
        settled(&cache).await;
        assert!(!is_here(&handle, &bad));

        // One of four merged chunks is wrong, twice: the others are served and kept.
        backend.feel(Mood::Serve);
        let before = backend.requests.load(Ordering::Relaxed);
        let reads = (20..24).map(|index| (index, blob.whole(index)));
        backend.feel(Mood::Corrupt(2));
        let mut outs: Vec<_> = (20..24).map(|index| vec![0; blob.chunks[index].data.len()]).collect();
        let mut wants: Vec<_> =
            reads.clone().zip(&mut outs).map(|((_, extent), out)| Want { extent, out }).collect();
        assert_eq!(handle.read(&mut wants, soon()).await.unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(backend.requests.load(Ordering::Relaxed) - before, 2);
        settled(&cache).await;
        assert_eq!(reads.filter(|(_, extent)| is_here(&handle, extent)).count(), 3);
        backend.feel(Mood::Fail);
        assert_eq!(fetch(&handle, &bad, soon()).await.unwrap_err().kind(), ErrorKind::Unavailable);
    });
}

#[test]
fn a_killed_process_leaves_what_it_cached() {
    let dir = tempfile::tempdir().unwrap();
    let (runtime, blob) = (runtime(), HandMade::new(8, Recipe { no_digest: 4, ..PLAIN }));
    let backend = MemoryBackend::of(&blob);
    let cache = open(options(directory(dir.path())), &backend, &runtime);
    let handle = take(&cache, &blob);
    runtime.block_on(async {
        for index in 0..blob.len() {
            fetch(&handle, &blob.whole(index), soon()).await.unwrap();
        }
        while (0..blob.len()).any(|index| handle.ready(&blob.whole(index)).is_none()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    drop((handle, cache));
    backend.feel(Mood::Fail);
    let cache = open(options(directory(dir.path())), &backend, &runtime);
    let handle = take(&cache, &blob);
    for index in 0..blob.len() {
        let extent = blob.whole(index);
        assert_eq!(runtime.block_on(fetch(&handle, &extent, soon())).unwrap(), blob.expected(&extent));
    }
    assert_eq!(backend.served(), blob.stored.len() as u64);
}

#[test]
fn chunks_without_a_digest_are_kept_but_not_believed_from_others() {
    let dir = tempfile::tempdir().unwrap();
    let (runtime, blob) = (runtime(), HandMade::new(9, Recipe { no_digest: 2, checksum: 3, ..PLAIN }));
    let backend = MemoryBackend::of(&blob);
    let read_all = |validate: bool| {
        let options = blobcache::CacheOptions { validate, ..options(directory(dir.path())) };
        let cache = open(options, &backend, &runtime);
        let handle = take(&cache, &blob);
        let before = backend.served();
        runtime.block_on(async {
            for _ in 0..2 {
                for index in 0..blob.len() {
                    let extent = blob.whole(index);
                    assert_eq!(fetch(&handle, &extent, soon()).await.unwrap(), blob.expected(&extent));
                }
            }
            settled(&cache).await;
        });
        backend.served() - before
    };
    let uncheckable: usize = (blob.chunks.iter())
        .filter(|chunk| chunk.digest.is_zero() && chunk.stored.crc32c.is_none())
        .map(|chunk| chunk.data.len())
        .sum();
    assert!(uncheckable > 0);
    assert_eq!(read_all(false), blob.stored.len() as u64);
    assert_eq!(read_all(false), 0);
    assert_eq!(read_all(true), uncheckable as u64);
    // As if the reference implementation had left the directory.
    let name = |suffix: &str| dir.path().join(format!("{}{suffix}", blob.id()));
    let trust = dir.path().join("nydusd").join(format!("{}.blob.data.trust", blob.id()));
    std::fs::remove_file(&trust).unwrap();
    assert_eq!(read_all(false), uncheckable as u64);
    assert_eq!(read_all(false), 0);
    // The map under the name that an older release gave it.
    std::fs::remove_file(&trust).unwrap();
    std::fs::rename(name(".blob.data.chunk_map"), name(".chunk_map")).unwrap();
    let older = std::fs::read(name(".chunk_map")).unwrap();
    assert_eq!(read_all(false), uncheckable as u64);
    assert_eq!(std::fs::read(name(".chunk_map")).unwrap(), older);
    // As an older release has left it: moved, and believed.
    let beside = name(".blob.data.trust");
    std::fs::rename(&trust, &beside).unwrap();
    assert_eq!(read_all(false), 0);
    assert!(trust.exists() && !beside.exists());
}

#[test]
fn files_of_another_blob_are_refused_and_a_missing_or_short_one_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let (runtime, blob) = (runtime(), HandMade::new(10, PLAIN));
    let backend = MemoryBackend::of(&blob);
    let data = dir.path().join(format!("{}.blob.data", blob.id()));
    let map = dir.path().join(format!("{}.blob.data.chunk_map", blob.id()));
    let expected = blob.description.uncompressed_size;
    let try_open = || {
        let cache = open(options(directory(dir.path())), &backend, &runtime);
        cache.blob(Arc::clone(&blob.description), Arc::new(NoDigests))
    };
    std::fs::write(&data, vec![1; expected as usize + 1]).unwrap();
    let error = try_open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("blob data file size doesn't match"), "{error}");
    std::fs::write(&data, [1; 10]).unwrap();
    std::fs::write(&map, [0; 4096]).unwrap();
    assert_eq!(try_open().unwrap_err().kind(), ErrorKind::Invalid);
    std::fs::remove_file(&map).unwrap();
    let handle = try_open().unwrap();
    assert_eq!(std::fs::metadata(&data).unwrap().len(), expected);
    assert_eq!(std::fs::metadata(&map).unwrap().len(), 4096 + 8);
    // Nothing is believed of it, and nothing is read from holes.
    let extent = blob.whole(0);
    assert!(handle.ready(&extent).is_none());
    use std::os::unix::fs::PermissionsExt;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let metadata = entry.unwrap().metadata().unwrap();
        let allowed = if metadata.is_dir() { 0o755 } else { 0o644 };
        assert_eq!(metadata.permissions().mode() & 0o7777 & !allowed, 0);
    }
}

#[test]
fn one_directory_is_not_written_in_two_forms_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (runtime, blob) = (runtime(), HandMade::new(11, Recipe { aligned: true, ..PLAIN }));
    let backend = MemoryBackend::of(&blob);
    let encrypted = |key| CacheStorage::Directory {
        work_dir: dir.path().to_owned(),
        compressed: false,
        encryption: Some(Encryption { key: std::array::from_fn(|n| n as u8 ^ key), convergent: false }),
        indexed_map: true,
    };
    let read_all = |handle: &blobcache::Blob| {
        for index in 0..blob.len() {
            let extent = blob.whole(index);
            assert_eq!(runtime.block_on(fetch(handle, &extent, soon())).unwrap(), blob.expected(&extent));
        }
    };
    let storages = [directory(dir.path()), encrypted(0), encrypted(1), directory(dir.path())];
    // Side by side: the later ones serve without the directory.
    let caches: Vec<_> = storages.iter().map(|s| open(options(s.clone()), &backend, &runtime)).collect();
    let handles: Vec<_> = caches.iter().map(|cache| take(cache, &blob)).collect();
    for _ in 0..2 {
        handles.iter().for_each(|handle| read_all(handle));
    }
    caches.iter().for_each(|cache| runtime.block_on(settled(cache)));
    drop((handles, caches));
    // One after the other: nothing that another form left is taken for data.
    for storage in storages {
        let cache = open(options(storage), &backend, &runtime);
        let handle = take(&cache, &blob);
        read_all(&handle);
        read_all(&handle);
        runtime.block_on(settled(&cache));
    }
}

#[test]
fn a_tar_is_read_in_place_or_from_the_backend() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime();
    let tar = bytes::Bytes::from(Rng::new(12).bytes(50_000));
    let id = BlobId::new("tar").unwrap();
    let description = Arc::new(BlobDescription {
        id: id.clone(),
        features: BlobFeatures::TARFS | BlobFeatures::CAP_TAR_TOC,
        ..(*HandMade::new(12, PLAIN).description).clone()
    });
    let backend = MemoryBackend::with([(id, tar.clone())]);
    let extent = Extent::Chunk {
        blob_index: 0,
        chunk_index: 900,
        uncompressed_offset: 1536,
        uncompressed_size: 5000,
        offset: 7,
        len: 4000,
        record: None,
    };
    let read = || {
        let cache = open(options(directory(dir.path())), &backend, &runtime);
        let handle = cache.blob(Arc::clone(&description), Arc::new(NoDigests)).unwrap();
        (handle.ready(&extent), runtime.block_on(fetch(&handle, &extent, soon())).unwrap())
    };
    assert_eq!(read(), (None, tar[1543..5543].to_vec()));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    std::fs::write(dir.path().join("tar"), &tar).unwrap();
    assert_eq!(read(), (Some(1543), tar[1543..5543].to_vec()));
    assert_eq!(backend.served(), 4000);
    std::fs::write(dir.path().join("tar"), &tar[..3000]).unwrap();
    assert_eq!(read(), (None, tar[1543..5543].to_vec()));
}

#[test]
fn what_cannot_be_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (runtime, blob) = (runtime(), HandMade::new(13, PLAIN));
    let backend = MemoryBackend::of(&blob);
    let cache = open(options(directory(dir.path())), &backend, &runtime);
    let handle = take(&cache, &blob);
    let Extent::Chunk { record, .. } = blob.whole(0) else { panic!() };
    let extent = |chunk_index, uncompressed_offset, uncompressed_size, offset, len| Extent::Chunk {
        blob_index: 0,
        chunk_index,
        uncompressed_offset,
        uncompressed_size,
        offset,
        len,
        record,
    };
    for bad in [
        extent(64, 0, 10, 0, 10),
        extent(0, u64::MAX, 10, 0, 10),
        extent(0, 0, 10, 1, 10),
        extent(0, 0, 10, u32::MAX, 10),
        extent(0, 0, u32::MAX, 0, 10),
        extent(0, blob.description.uncompressed_size, 5000, 0, 10),
        Extent::Hole { len: 9 },
    ] {
        let mut out = [0; 10];
        let read = runtime.block_on(handle.read(&mut [Want { extent: bad, out: &mut out }], soon()));
        assert!(matches!(read.unwrap_err().kind(), ErrorKind::Invalid | ErrorKind::Corrupt), "{bad:?}");
    }
    let other = BlobDescription { chunk_count: 63, ..(*blob.description).clone() };
    assert_eq!(cache.blob(Arc::new(other), Arc::new(NoDigests)).unwrap_err().kind(), ErrorKind::Invalid);
    let huge = BlobDescription { chunk_count: u32::MAX, ..(*blob.description).clone() };
    drop(handle);
    assert_eq!(cache.blob(Arc::new(huge), Arc::new(NoDigests)).unwrap_err().kind(), ErrorKind::Invalid);
}
