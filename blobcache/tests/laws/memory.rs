//! The laws of chunks that are held in memory, because no file keeps them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use blobcache::{CacheOptions, CacheStorage};
use storage::blob::Compressor;

use crate::support::*;

const ZSTD: Recipe = Recipe { compressor: Compressor::Zstd, ..PLAIN };

fn holding(memory_cache_bytes: u64) -> CacheOptions {
    CacheOptions { memory_cache_bytes, ..options(CacheStorage::None) }
}

#[test]
fn what_fits_into_memory_is_fetched_once_and_the_limit_holds() {
    let (runtime, blob) = (runtime(), HandMade::new(11, ZSTD));
    let bytes: u64 = blob.chunks.iter().map(|chunk| chunk.data.len() as u64).sum();
    for limit in [64 << 20, bytes / 4, 0] {
        let backend = MemoryBackend::of(&blob);
        let cache = open(holding(limit), &backend, &runtime);
        let handle = take(&cache, &blob);
        let (mut rng, mut read_bytes) = (Rng::new(limit), 0);
        runtime.block_on(async {
            for _ in 0..1000 {
                let extent = blob.any(&mut rng);
                let read = fetch(&handle, &extent, soon()).await.unwrap();
                assert_eq!(read, blob.expected(&extent));
                read_bytes += read.len() as u64;
                let used = cache.memory_cache_use();
                assert!(used.limit_bytes == limit && used.used_bytes <= limit, "{used:?}");
                assert!(handle.ready(&extent).is_none(), "there is no file");
            }
            cache.idle(soon()).await.unwrap();
        });
        let (metrics, fetched) = (cache.metrics(), backend.requests.load(Ordering::Relaxed));
        assert_eq!(metrics.bytes_from_memory.get() + metrics.bytes_from_fetch.get(), read_bytes);
        match limit {
            // The same chunk twice in a row may be of one flight.
            0 => assert!(fetched > 900 && metrics.memory_hits.get() == 0, "{fetched} of 1000 fetched"),
            limit if limit < bytes => {
                assert!((300..1000).contains(&fetched), "a quarter is here: {fetched} of 1000 fetched");
                assert!(cache.memory_cache_use().used_bytes > limit / 2, "it is used");
            }
            _ => assert_eq!(backend.served(), blob.stored.len() as u64),
        }
    }
}

#[test]
fn mounts_of_one_blob_share_what_is_in_memory_and_blobs_do_not() {
    let runtime = runtime();
    let blobs = [HandMade::new(12, ZSTD), HandMade::new(13, ZSTD)];
    let backend = MemoryBackend::with(blobs.iter().map(|blob| (blob.id().clone(), blob.stored.clone())));
    let cache = open(holding(64 << 20), &backend, &runtime);
    let handles: Vec<_> = blobs.iter().map(|blob| [take(&cache, blob), take(&cache, blob)]).collect();
    runtime.block_on(async {
        for mount in 0..2 {
            for (blob, handles) in blobs.iter().zip(&handles) {
                for index in 0..blob.len() {
                    let extent = blob.whole(index);
                    let read = fetch(&handles[mount], &extent, soon()).await.unwrap();
                    assert_eq!(read, blob.expected(&extent));
                }
            }
            cache.idle(soon()).await.unwrap();
        }
    });
    assert_eq!(backend.served(), blobs.iter().map(|blob| blob.stored.len() as u64).sum::<u64>());
}

#[test]
fn many_readers_of_more_than_fits_get_right_bytes_within_the_limit() {
    let (runtime, blob) = (runtime(), Arc::new(HandMade::new(14, Recipe { chunks: 256, ..ZSTD })));
    let backend = MemoryBackend::of(&blob);
    let cache = open(holding(100_000), &backend, &runtime);
    let handle = take(&cache, &blob);
    let readers: Vec<_> = (0..20)
        .map(|reader| {
            let (handle, blob, cache) = (Arc::clone(&handle), Arc::clone(&blob), Arc::clone(&cache));
            runtime.spawn(async move {
                let mut rng = Rng::new(reader);
                for _ in 0..500 {
                    let extent = blob.any(&mut rng);
                    assert_eq!(fetch(&handle, &extent, soon()).await.unwrap(), blob.expected(&extent));
                    assert!(cache.memory_cache_use().used_bytes <= 100_000);
                }
            })
        })
        .collect();
    readers.into_iter().for_each(|reader| runtime.block_on(reader).unwrap());
}
