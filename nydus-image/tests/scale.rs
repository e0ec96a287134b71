//! How much memory and time large sources take. The large ones are ignored:
//!
//! ```text
//! cargo test --release -p nydus-image --test scale -- --ignored --nocapture --test-threads 1
//! ```
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

/// Builds `source`. Gives the most memory that any build of this process has taken, and the time of this one.
fn build(source: &Path) -> (u64, Duration) {
    let out = tempfile::tempdir().unwrap();
    let begin = Instant::now();
    let built = Command::new(env!("CARGO_BIN_EXE_nydus-image"))
        .args(["create", "-D", out.path().to_str().unwrap(), source.to_str().unwrap()])
        .output()
        .unwrap();
    let took = begin.elapsed();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    // In units of 1024 bytes.
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    (u64::try_from(usage.max_rss()).unwrap() << 10, took)
}

fn sparse(dir: &Path, len: u64) {
    fs::create_dir(dir).unwrap();
    File::create(dir.join("sparse")).unwrap().set_len(len).unwrap();
}

fn empty_files(dir: &Path, count: usize) {
    fs::create_dir(dir).unwrap();
    for number in 0..count {
        let parent = dir.join((number / 1000).to_string());
        if number.is_multiple_of(1000) {
            fs::create_dir(&parent).unwrap();
        }
        File::create(parent.join(number.to_string())).unwrap();
    }
}

/// One test, since the memory is that of the largest build so far: smallest first.
#[test]
fn memory_follows_entries_and_not_bytes() {
    let dir = tempfile::tempdir().unwrap();
    sparse(&dir.path().join("sparse"), 2 << 30);
    let (sparse, _) = build(&dir.path().join("sparse"));
    assert!(sparse < 100 << 20, "{sparse} bytes for a hole");
    empty_files(&dir.path().join("files"), 20_000);
    let (files, _) = build(&dir.path().join("files"));
    assert!(files < (32 << 20) + 20_000 * 1024, "{files} bytes for 20,000 empty files");
}

#[test]
#[ignore = "large"]
fn a_sparse_file_of_20_gb_takes_less_than_200_mb_and_seconds() {
    let dir = tempfile::tempdir().unwrap();
    sparse(&dir.path().join("sparse"), 20_000_000_000);
    let (memory, took) = build(&dir.path().join("sparse"));
    println!("20 GB sparse: {} MiB, {took:?}", memory >> 20);
    assert!(memory < 200_000_000);
    assert!(took < Duration::from_secs(20));
}

#[test]
#[ignore = "large"]
fn two_million_empty_files_take_less_than_a_kib_each() {
    // In memory, where there are enough inodes for it.
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    empty_files(&dir.path().join("files"), 2_000_000);
    let (memory, took) = build(&dir.path().join("files"));
    println!("2,000,000 empty files: {} bytes each, {took:?}", memory / 2_000_000);
    assert!(memory < 2_000_000 * 1024);
}
