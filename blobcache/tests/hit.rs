//! A hit allocates nothing, be it in a file or in memory.

#![allow(clippy::unwrap_used)]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use support::*;

/// Counts allocations while it is told to.
struct Counting;

static COUNTS: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is left to the system's allocator.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTS.load(Ordering::Relaxed) {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on; `pointer` came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_hit_allocates_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (runtime, blob) = (runtime(), HandMade::new(1, PLAIN));
    let backend = MemoryBackend::of(&blob);
    for validate in [false, true] {
        let options = blobcache::CacheOptions { validate, ..options(directory(dir.path())) };
        let cache = open(options, &backend, &runtime);
        let handle = take(&cache, &blob);
        runtime.block_on(async {
            for index in 0..blob.len() {
                fetch(&handle, &blob.whole(index), soon()).await.unwrap();
            }
            settled(&cache).await;
        });
        // Let the pools and the runtime fall asleep: the counter sees every thread.
        std::thread::sleep(Duration::from_millis(200));
        let mut out = vec![0; 9000];
        let extents: Vec<_> = (0..blob.len()).map(|index| (index, blob.whole(index))).collect();
        COUNTS.store(true, Ordering::SeqCst);
        for (index, extent) in &extents {
            let offset = handle.ready(extent).unwrap();
            let len = blob.chunks[*index as usize].data.len();
            handle.pread(offset, &mut out[..len]).unwrap();
            assert!(out[..len] == blob.chunks[*index as usize].data);
        }
        COUNTS.store(false, Ordering::SeqCst);
        assert_eq!(ALLOCATIONS.load(Ordering::SeqCst), 0);
    }
    let cache = open(options(blobcache::CacheStorage::None), &backend, &runtime);
    let handle = take(&cache, &blob);
    let mut out = vec![0; 9000];
    runtime.block_on(async {
        for index in 0..blob.len() {
            fetch(&handle, &blob.whole(index), soon()).await.unwrap();
        }
        cache.idle(soon()).await.unwrap();
        // Once for each, since the first clone of bytes counts its owners.
        for index in 0..blob.len() {
            fetch(&handle, &blob.whole(index), soon()).await.unwrap();
        }
    });
    std::thread::sleep(Duration::from_millis(200));
    COUNTS.store(true, Ordering::SeqCst);
    for (index, extent) in (0..blob.len()).map(|index| (index as usize, blob.whole(index))) {
        let len = blob.chunks[index].data.len();
        assert!(handle.read_held(&extent, &mut out[..len]) && out[..len] == blob.chunks[index].data);
    }
    COUNTS.store(false, Ordering::SeqCst);
    assert_eq!(ALLOCATIONS.load(Ordering::SeqCst), 0);
}
