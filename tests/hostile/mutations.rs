//! Hostile input, deterministically: every reader of outside bytes gets thousands of damaged ones. An error is fine, and
//! so is a tree that does not contradict itself; a panic is not, nor is taking long, nor is a large allocation.
//!
//! The same functions are the targets of the fuzzer (`tests/fuzz`).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use nydus_tests::allocation::{CountingAllocator, peak_of};
use nydus_tests::fixtures::Image;
use nydus_tests::mutation::mutate;
use nydus_tests::rng::Rng;
use nydus_tests::seeds::{self, Seed};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const BOOTSTRAP_MUTATIONS: u64 = 20_000;
const LONGEST: Duration = Duration::from_secs(1);
const LARGEST_ALLOCATION: usize = 64 << 20;

/// Says which input it was when a reader panics.
struct Trying<'a>(&'a str, u64);

impl Drop for Trying<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("at mutation {} of {}", self.1, self.0);
        }
    }
}

/// Feeds `count` mutations of `seed` to `reader`.
fn try_mutations(name: &str, seed: &[u8], count: u64, reader: impl Fn(&[u8])) {
    for number in 0..count {
        let mut rng = Rng::new(number ^ (seed.len() as u64) << 32);
        let mut bytes = seed.to_vec();
        mutate(&mut rng, &mut bytes);
        let _trying = Trying(name, number);
        let measure = || {
            let start = Instant::now();
            (peak_of(|| reader(&bytes)), start.elapsed())
        };
        let (peak, mut elapsed) = measure();
        assert!(peak <= LARGEST_ALLOCATION, "{name}, mutation {number}: allocates {peak} bytes");
        // What takes long takes long each time; a machine that stood still does not.
        for _ in 0..2 {
            if elapsed > LONGEST {
                elapsed = elapsed.min(measure().1);
            }
        }
        assert!(elapsed <= LONGEST, "{name}, mutation {number}: {elapsed:?}");
    }
}

fn bootstrap_mutations(name: &str) {
    let seed = seeds::bootstrap(&Image::named(name));
    rafs::fuzzing::bootstrap(&seed);
    try_mutations(name, &seed, BOOTSTRAP_MUTATIONS, rafs::fuzzing::bootstrap);
}

macro_rules! bootstraps {
    ($($test:ident: $name:literal),+ $(,)?) => {
        $(#[test]
        fn $test() {
            bootstrap_mutations($name);
        })+
    };
}

bootstraps! {
    bootstrap_v5_lz4_sha256: "v5-lz4-sha256",
    bootstrap_v5_zstd_blake3: "v5-zstd-blake3",
    bootstrap_v5_none_prefetch: "v5-none-prefetch",
    bootstrap_v5_parent: "v5-parent",
    bootstrap_v6_zstd: "v6-zstd",
    bootstrap_v6_none: "v6-none",
    bootstrap_v6_lz4_4k_sha256: "v6-lz4-4k-sha256",
    bootstrap_v6_batch_toc: "v6-batch-toc",
    bootstrap_v6_encrypt: "v6-encrypt",
    bootstrap_v6_prefetch: "v6-prefetch",
    bootstrap_v6_zran: "v6-zran",
    bootstrap_v6_inline: "v6-inline",
    bootstrap_v6_merge: "v6-merge",
}

/// Tries every seed with this many mutations, after the seed itself.
fn try_seeds(seeds: Vec<Seed>, count: u64, reader: fn(&[u8])) {
    assert!(!seeds.is_empty());
    for seed in seeds {
        reader(&seed.bytes);
        try_mutations(&seed.name, &seed.bytes, count, reader);
    }
}

#[test]
fn chunk_tables() {
    try_seeds(seeds::chunk_tables(), 2_000, storage::fuzzing::chunk_table);
}

#[test]
fn tables_of_contents() {
    try_seeds(seeds::tocs(), 2_000, storage::fuzzing::toc);
}

#[test]
fn gzip_files() {
    try_seeds(seeds::gzip_files(), 2_000, storage::fuzzing::zran);
}

#[test]
fn words_of_servers() {
    try_seeds(seeds::server_words(), 5_000, storage::fuzzing::server_words);
}

#[test]
fn configurations() {
    try_seeds(seeds::configurations(), 10_000, nydus_config::fuzzing);
}
