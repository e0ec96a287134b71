//! Mutated chunk tables and tables of contents: whatever the bytes, no panic and no allocation out of proportion.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helper functions too")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};

use storage::blob::{BlobFeatures, ChunkTable, CiLocation};
use storage::fuzzing;

/// Counts the bytes that are allocated, and how many there were at most.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on as it came; counting beside it touches nothing of the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let now = ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`, and the pointer came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// What one input may cost beyond what is there already.
const LIMIT: usize = 64 << 20;

struct Random(u64);

impl Random {
    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// A few changed bytes, words of values that break things, or a cut.
    fn mutate(&mut self, seed: &[u8]) -> Vec<u8> {
        let mut input = seed.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(input.len());
            match self.below(8) {
                0 => input.truncate(at.max(1)),
                1 => {
                    let values = [0, 1, 0xff, 0x7fff_ffff, 0xffff_ffff, 1 << 24, 1 << 40, u64::MAX];
                    let value = values[self.below(values.len())].to_le_bytes();
                    let len = value.len().min(input.len() - at);
                    input[at..at + len].copy_from_slice(&value[..len]);
                }
                _ => input[at] ^= 1 << self.below(8),
            }
        }
        input
    }
}

/// Files of the fixture images, by the names they have there.
fn fixtures(wanted: impl Fn(&str) -> bool) -> Vec<(String, Vec<u8>)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/images.tar.zst");
    let mut decoder = zstd::stream::read::Decoder::new(File::open(path).unwrap()).unwrap();
    decoder.window_log_max(27).unwrap();
    let mut files = Vec::new();
    for entry in tar::Archive::new(decoder).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        if entry.header().entry_type().is_file() && wanted(&name) {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            files.push((name, content));
        }
    }
    files
}

/// Inputs of [`fuzzing::chunk_table`]: a whole table of each kind. Its bytes also stand for the data.
fn chunk_table_seeds() -> Vec<Vec<u8>> {
    let bootstraps = fixtures(|name| name.starts_with("images/v6-") && name.ends_with("/bootstrap"));
    let blobs = fixtures(|name| name.contains("/blobs/"));
    let mut seeds = Vec::new();
    for (name, bytes) in bootstraps {
        let bootstrap = rafs::Bootstrap::from_bytes(bytes, &name, &rafs::OpenOptions::default()).unwrap();
        let blob = &bootstrap.blobs()[0];
        if blob.features.contains(BlobFeatures::ENCRYPTED) {
            continue;
        }
        let (_, content) =
            blobs.iter().find(|(name, _)| name.ends_with(blob.meta_object().as_str())).unwrap();
        let CiLocation { compressor, offset, compressed_size, uncompressed_size } = blob.ci.unwrap();
        let (start, end) = (offset as usize, (offset + compressed_size) as usize);
        let array =
            storage::codec::decompress(compressor, &content[start..end], uncompressed_size as usize).unwrap();
        let header = &content[end..end + 4096];
        ChunkTable::parse(blob, array.clone().into(), header).unwrap();
        // Features, compressor, and sizes that are not known.
        let mut seed = blob.features.bits().to_le_bytes().to_vec();
        seed.extend([blob.compressor as u8, 255, 0, 0]);
        seed.extend(header);
        seed.extend(array);
        seeds.push(seed);
    }
    seeds
}

/// Runs `target` on a seed and its mutations, and gives the most that one of them allocated.
fn run(target: fn(&[u8]), seed: &[u8], mutations: usize, random: &mut Random) -> usize {
    let mut most = 0;
    for number in 0..=mutations {
        let input = if number == 0 { seed.to_vec() } else { random.mutate(seed) };
        let before = ALLOCATED.load(Ordering::Relaxed);
        PEAK.store(before, Ordering::Relaxed);
        target(&input);
        most = most.max(PEAK.load(Ordering::Relaxed) - before);
    }
    most
}

// One test, since what is counted is counted for the whole process.
#[test]
fn mutations_neither_panic_nor_allocate() {
    let mut random = Random(42);
    let seeds = chunk_table_seeds();
    assert_eq!(seeds.len(), 7, "zstd, none, lz4, batch, prefetch, zran, merge");
    for seed in &seeds {
        let most = run(fuzzing::chunk_table, seed, 2000, &mut random);
        assert!(most > 4096, "the seed is looked at");
        assert!(most < LIMIT, "{most} bytes");
    }

    let seeds = fixtures(|name| {
        name.starts_with("images/v6-batch-toc/blobs/") || name.starts_with("images/v6-inline/blobs/")
    });
    assert_eq!(seeds.len(), 2);
    for (_, content) in seeds {
        // The table is at the end; mutations of a megabyte would hardly ever meet it.
        let tail = &content[content.len() - 4096..];
        let mut seed = [0; 8].to_vec();
        seed.extend(tail);
        let most = run(fuzzing::toc, &seed, 20_000, &mut random);
        assert!(most > 1024, "the seed is looked at");
        assert!(most < LIMIT, "{most} bytes");
    }
    for input in [&[][..], &[0; 7], &[0; 8], &[0; 4103], &[0; 4104], &[0xff; 5000]] {
        fuzzing::chunk_table(input);
        fuzzing::toc(input);
    }
}
