//! What a mount without a cache directory holds in memory: as much as it may, and no more.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use nydus_tests::config::{Caching, Config};
use nydus_tests::daemon::{Daemon, Scratch};
use nydus_tests::readers::{open_direct, read_at};
use nydus_tests::{program, require_mounts};

const MIB: u64 = 1 << 20;
const FILES: u64 = 24;
const FILE_BYTES: u64 = 8 * MIB;
const CHUNK_BYTES: usize = 1 << 20;
const READERS: u64 = 20;

/// The content of a chunk: a number of its own in each page, so that no two chunks are equal and all are quick to decode.
fn chunk(file: u64, number: u64) -> Vec<u8> {
    let mut bytes = vec![0; CHUNK_BYTES];
    for (page, bytes) in bytes.chunks_mut(4096).enumerate() {
        bytes[..24].copy_from_slice([file, number, page as u64].map(u64::to_be_bytes).as_flattened());
    }
    bytes
}

/// An image of 192 MiB in chunks of 1 MiB, and its configuration without a cache directory.
fn image(scratch: &Scratch) -> Config {
    let (source, blobs) = (scratch.path("source"), scratch.path("blobs"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&blobs).unwrap();
    for file in 0..FILES {
        let mut out = fs::File::create(source.join(file.to_string())).unwrap();
        (0..FILE_BYTES / CHUNK_BYTES as u64).for_each(|number| out.write_all(&chunk(file, number)).unwrap());
    }
    let bootstrap = scratch.path("bootstrap");
    let built = Command::new(program::nydus_image())
        .args(["create", "--compressor", "zstd", "--bootstrap"])
        .args([bootstrap.as_path(), Path::new("--blob-dir"), &blobs, &source])
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    fs::remove_dir_all(&source).unwrap();
    let mut config = Config::new(&blobs, &scratch.cache());
    config.caching = Caching::Off;
    config
}

fn start(scratch: &Scratch, config: &Config) -> Daemon {
    scratch.launch(&scratch.path("bootstrap"), config).start()
}

/// Reads all of a file past the page cache, `len` bytes at a time, and compares it.
fn read_file(root: &Path, file: u64, len: usize) {
    let opened = open_direct(&root.join(file.to_string())).unwrap();
    for number in 0..FILE_BYTES / CHUNK_BYTES as u64 {
        let expected = chunk(file, number);
        for start in (0..CHUNK_BYTES).step_by(len) {
            let found = read_at(&opened, number * CHUNK_BYTES as u64 + start as u64, len).unwrap();
            assert!(found == expected[start..start + len], "wrong bytes in {file}, chunk {number}");
        }
    }
}

/// Everything, by many at once, each beginning somewhere else.
fn read_all(root: &Path) {
    std::thread::scope(|scope| {
        for reader in 0..READERS {
            scope.spawn(move || {
                (0..FILES).for_each(|file| read_file(root, (reader * 7 + file) % FILES, CHUNK_BYTES));
            });
        }
    });
}

/// The most memory that the daemon ever had, its program and what it maps of files included.
fn peak_bytes(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn gauge(daemon: &Daemon, name: &str) -> u64 {
    daemon.exposition().sum(&format!("nydusd_{name}"), &[]) as u64
}

#[test]
fn memory_is_bounded_whoever_reads_whatever_at_once() {
    require_mounts!();
    let scratch = Scratch::new();
    let mut config = image(&scratch);
    let limit = 8 * MIB;
    config.memory_cache_bytes = Some(limit);
    let daemon = start(&scratch, &config);
    let idle = peak_bytes(&daemon);
    read_all(daemon.mountpoint());
    let (used, hits) = (gauge(&daemon, "memory_cache_used_bytes"), gauge(&daemon, "memory_cache_hits_total"));
    assert_eq!(gauge(&daemon, "memory_cache_limit_bytes"), limit);
    assert!(used > limit / 2 && used <= limit, "{used} of {limit} bytes held");
    let peak = peak_bytes(&daemon) - idle;
    // What is in flight has a limit of its own, and each reader an answer that is being made and one that is being sent.
    let allowed = limit + gauge(&daemon, "memory_limit_bytes") + READERS * 2 * MIB + 32 * MIB;
    println!("{} MiB above {} MiB, {} allowed; {hits} hits", peak / MIB, idle / MIB, allowed / MIB);
    assert!(peak <= allowed, "{} MiB, allowed are {} MiB", peak / MIB, allowed / MIB);
    daemon.unmount();

    // The measurement sees what is held: with room for all of it, all of it is there.
    config.memory_cache_bytes = Some(512 * MIB);
    let daemon = start(&scratch, &config);
    let idle = peak_bytes(&daemon);
    read_all(daemon.mountpoint());
    let used = gauge(&daemon, "memory_cache_used_bytes");
    assert!((FILES * FILE_BYTES..FILES * FILE_BYTES + MIB).contains(&used), "{used} bytes held");
    let peak = peak_bytes(&daemon) - idle;
    assert!(peak > FILES * FILE_BYTES, "{} MiB", peak / MIB);
    let before = daemon.backend_reads();
    read_all(daemon.mountpoint());
    assert_eq!(daemon.backend_reads(), before, "all of it is in memory");
    daemon.unmount();
}

#[test]
fn a_chunk_is_decoded_once_for_all_the_reads_that_want_a_piece_of_it() {
    require_mounts!();
    let scratch = Scratch::new();
    let mut config = image(&scratch);
    // Only what is asked for is fetched.
    config.amplify_io = Some(0);
    let daemon = start(&scratch, &config);
    read_file(daemon.mountpoint(), 3, 64 << 10);
    let chunks = FILE_BYTES / CHUNK_BYTES as u64;
    assert_eq!(gauge(&daemon, "chunks_fetched_total"), chunks);
    // The first piece of each is of the fetch, and the others of what it left.
    assert!(daemon.counter("bytes_from_memory") >= (FILE_BYTES - chunks * (64 << 10)) * 9 / 10);
    assert!(gauge(&daemon, "reads_ready_total") >= chunks * 15 * 9 / 10, "answered at once");
    daemon.unmount();
}
