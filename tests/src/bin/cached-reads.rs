//! Reads one file over and over, in process, as a transport reads what is in the cache: for tests that count what such a
//! read costs.
//!
//! `cached-reads BOOTSTRAP BLOBS CACHE FILE COUNT [COLLECTOR]`: with the address of a collector, traces are collected.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::hint::black_box;
use std::path::Path;

use nydus_tests::config::Config;
use nydus_tests::in_process::Opened;
use nydus_tests::telemetry::Telemetry;
use nydusd::filesystem::Filesystem;
use rafs::Ino;

/// Bytes of one READ, as the kernel's readahead asks for them.
const READ_BYTES: u64 = 128 << 10;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [bootstrap, blobs, cache, file, count, collector @ ..] = &arguments[..] else {
        panic!("expected BOOTSTRAP BLOBS CACHE FILE COUNT [COLLECTOR]");
    };
    let _telemetry = Telemetry::start(collector.first().map(String::as_str));
    let image = Opened::open(Path::new(bootstrap), &Config::new(Path::new(blobs), Path::new(cache))).unwrap();
    image.read(Path::new(file)).unwrap();
    let ino = image.find(Path::new(file)).unwrap();
    let size = image.filesystem().attributes(ino).unwrap().size;
    let mut buffer = vec![0; READ_BYTES as usize];
    measured_reads(image.filesystem(), ino, size, count.parse().unwrap(), &mut buffer);
    image.close();
}

/// The part that is counted; its name is what the counter looks for.
#[inline(never)]
fn measured_reads(filesystem: &Filesystem, ino: Ino, size: u64, count: u64, buffer: &mut [u8]) {
    for number in 0..count {
        let offset = number * READ_BYTES % size;
        let read = filesystem.read_ready(black_box(ino), offset, buffer).unwrap();
        assert!(black_box(read).is_some_and(|len| len > 0), "offset {offset} is not in the cache");
    }
}
