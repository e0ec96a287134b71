//! Chunks held in memory, for blobs that no file keeps: those that were used last.
//!
//! Invariants: a chunk gets here as it would get into a file, found right or with nothing to check it by (`fetch`); what is
//! held, with what it costs to keep account of it, is never above the limit. The lock is held for a look-up or a change of
//! the list, not while bytes are copied or freed.

use std::sync::Mutex;

use bytes::Bytes;
use lru::LruCache;

use crate::lock;
use crate::shelf::Place;

/// What a chunk costs beside its bytes, rounded up: its entry in list and table, and two headers of allocations. Without it
/// a blob of tiny files would take many times the limit.
const ENTRY_BYTES: u64 = 192;

/// Which chunk: the number of its blob's [`crate::shelf::Shelf`], and where it lies.
pub(crate) type MemoryKey = (u64, Place);

/// See the module.
pub(crate) struct MemoryCache {
    limit_bytes: u64,
    held: Mutex<Held>,
}

struct Held {
    /// The one used last first.
    chunks: LruCache<MemoryKey, Bytes>,
    /// The cost of all of them.
    bytes: u64,
}

impl MemoryCache {
    /// Holds nothing yet, and never more than `limit_bytes`; 0: never anything.
    pub(crate) fn new(limit_bytes: u64) -> Self {
        Self { limit_bytes, held: Mutex::new(Held { chunks: LruCache::unbounded(), bytes: 0 }) }
    }

    pub(crate) fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// What is held now.
    pub(crate) fn used_bytes(&self) -> u64 {
        lock(&self.held).bytes
    }

    /// The bytes of a chunk, which count as used now.
    pub(crate) fn get(&self, key: &MemoryKey) -> Option<Bytes> {
        lock(&self.held).chunks.get(key).cloned()
    }

    pub(crate) fn contains(&self, key: &MemoryKey) -> bool {
        lock(&self.held).chunks.contains(key)
    }

    /// Holds a chunk, and lets go of those that were not used for longest. `bytes` must be all of its allocation.
    pub(crate) fn insert(&self, key: MemoryKey, bytes: Bytes) {
        let cost = cost(&bytes);
        if cost > self.limit_bytes {
            return;
        }
        let mut freed = Vec::new();
        let mut held = lock(&self.held);
        freed.extend(held.pop(&key));
        while held.bytes + cost > self.limit_bytes {
            let Some((oldest, _)) = held.chunks.peek_lru() else { break };
            let oldest = *oldest;
            freed.extend(held.pop(&oldest));
        }
        held.bytes += cost;
        held.chunks.put(key, bytes);
        drop(held);
        drop(freed);
    }
}

impl Held {
    fn pop(&mut self, key: &MemoryKey) -> Option<Bytes> {
        let bytes = self.chunks.pop(key)?;
        self.bytes -= cost(&bytes);
        Some(bytes)
    }
}

fn cost(bytes: &Bytes) -> u64 {
    bytes.len() as u64 + ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(index: u32) -> MemoryKey {
        (1, Place { index, offset: u64::from(index) << 12, size: 1000 })
    }

    #[test]
    fn the_chunks_used_last_stay_and_the_limit_holds() {
        let memory = MemoryCache::new(3 * (1000 + ENTRY_BYTES));
        let chunk = |index: u32| Bytes::from(vec![index as u8; 1000]);
        (0..3).for_each(|index| memory.insert(key(index), chunk(index)));
        assert_eq!(memory.used_bytes(), memory.limit_bytes());
        assert_eq!(memory.get(&key(0)), Some(chunk(0)));
        memory.insert(key(3), chunk(3));
        assert_eq!([0, 1, 2, 3].map(|index| memory.contains(&key(index))), [true, false, true, true]);
        assert_eq!(memory.used_bytes(), memory.limit_bytes());
        // The same again is held once; a looked-for chunk was not used.
        memory.insert(key(2), chunk(2));
        memory.insert(key(4), chunk(4));
        assert_eq!([0, 2, 3, 4].map(|index| memory.contains(&key(index))), [false, true, true, true]);
        memory.insert(key(5), vec![0; 3 * 1000].into());
        assert_eq!([2, 3, 4, 5].map(|index| memory.contains(&key(index))), [false, false, false, true]);
        assert_eq!(memory.used_bytes(), 3000 + ENTRY_BYTES);
        memory.insert(key(6), vec![0; 4 * 1000].into());
        assert!(memory.contains(&key(5)) && !memory.contains(&key(6)), "too large to be held");
    }

    #[test]
    fn tiny_chunks_count_with_what_they_cost() {
        let memory = MemoryCache::new(64 << 10);
        (0..10_000).for_each(|index| memory.insert(key(index), Bytes::from_static(b"x")));
        assert!(memory.used_bytes() <= 64 << 10);
        assert!(lock(&memory.held).chunks.len() < 400);
        let none = MemoryCache::new(0);
        none.insert(key(0), Bytes::new());
        assert!(!none.contains(&key(0)));
    }
}
