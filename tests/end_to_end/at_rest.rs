//! What a daemon holds when nobody reads any more: threads, and memory that is not a file's.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Parser as _;
use nydus_image::cli::{Cli, Command};
use nydus_tests::config::Config;
use nydus_tests::daemon::{Daemon, Scratch};
use nydus_tests::require_mounts;

/// What may be left, in the terms: of threads, and of anonymous memory after a full read and for a walk, in KiB.
const THREADS: u64 = 8;
const AFTER_READ: u64 = 8 << 10;
const WALK: u64 = 2 << 10;
/// When it has to be given back.
const SOON: Duration = Duration::from_secs(20);

fn status(daemon: &Daemon, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.and_then(|line| line.split_whitespace().next()).unwrap().parse().unwrap()
}

/// Waits until the daemon has no more than that.
fn rests(daemon: &Daemon, anonymous_kib: u64) {
    let deadline = Instant::now() + SOON;
    loop {
        let (threads, anonymous) = (status(daemon, "Threads"), status(daemon, "RssAnon"));
        if threads <= THREADS && anonymous < anonymous_kib {
            break;
        }
        let late = Instant::now() >= deadline;
        assert!(
            !late,
            "{threads} threads and {anonymous} KiB after {SOON:?}, expected {THREADS}, {anonymous_kib}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// An image of what is in `tree`.
fn build(scratch: &Scratch, tree: &Path) -> (PathBuf, Config) {
    let (blobs, bootstrap) = (scratch.path("blobs"), scratch.path("bootstrap"));
    fs::create_dir(&blobs).unwrap();
    let args = ["nydus-image", "create", "--fs-version", "6", "-D", blobs.to_str().unwrap(), "-B"];
    let args = args.into_iter().chain([bootstrap.to_str().unwrap(), tree.to_str().unwrap()]);
    match Cli::try_parse_from(args).unwrap() {
        Cli { command: Some(Command::Create(args)), global, .. } => {
            nydus_image::command::create::run(&args, &global).unwrap();
        }
        other => panic!("{other:?}"),
    }
    (bootstrap, Config::new(&blobs, &scratch.cache()))
}

/// Reads all files of a directory, from the one with this number on every fourth.
fn read(directory: &Path, first: usize) -> usize {
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    paths.skip(first).step_by(4).map(|path| fs::read(path).unwrap().len()).sum()
}

#[test]
fn after_a_full_read_threads_and_memory_are_given_back() {
    require_mounts!();
    let scratch = Scratch::new();
    let tree = scratch.path("tree");
    fs::create_dir(&tree).unwrap();
    // Text, more or less: chunks of all sizes, which shrink to a third.
    let mut total = 0;
    for file in 0..3000_u32 {
        let words =
            (0..20 + file * 7 % 9000).map(|word| format!("{:x} ", word.wrapping_mul(2_654_435_761 ^ file)));
        let text = words.collect::<String>();
        total += text.len();
        fs::write(tree.join(format!("file-{file}")), text).unwrap();
    }
    let (bootstrap, config) = build(&scratch, &tree);
    let daemon = scratch.launch(&bootstrap, &config).option("--thread-num", "4").start();
    rests(&daemon, AFTER_READ);
    let root = daemon.mountpoint();
    let read: usize = std::thread::scope(|scope| {
        let readers = [0, 1, 2, 3].map(|first| scope.spawn(move || read(root, first)));
        readers.into_iter().map(|reader| reader.join().unwrap()).sum()
    });
    assert_eq!(read, total);
    rests(&daemon, AFTER_READ);
    daemon.unmount();
}

#[test]
fn a_walk_of_many_files_leaves_little() {
    require_mounts!();
    let scratch = Scratch::new();
    let tree = scratch.path("tree");
    for directory in 0..40 {
        let directory = tree.join(directory.to_string());
        fs::create_dir_all(&directory).unwrap();
        for file in 0..1500 {
            fs::write(directory.join(format!("file-{file}")), "x").unwrap();
        }
    }
    let (bootstrap, config) = build(&scratch, &tree);
    let daemon = scratch.launch(&bootstrap, &config).start();
    rests(&daemon, AFTER_READ);
    let before = status(&daemon, "RssAnon");
    let mut files = 0;
    for directory in fs::read_dir(daemon.mountpoint()).unwrap() {
        files += fs::read_dir(directory.unwrap().path())
            .unwrap()
            .filter(|f| f.as_ref().unwrap().metadata().is_ok())
            .count();
    }
    assert_eq!(files, 40 * 1500);
    rests(&daemon, before + WALK);
    daemon.unmount();
}
