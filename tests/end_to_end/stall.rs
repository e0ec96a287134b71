//! A backend that hangs: blobs lie on a file system whose reads the test holds back. Whatever is cached is served as if
//! nothing were wrong, those who wait for data are told in time, and when the backend comes back so does the service.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nydus_tests::config::Caching;
use nydus_tests::daemon::{Daemon, Scratch};
use nydus_tests::fixtures::Image;
use nydus_tests::latency::Latencies;
use nydus_tests::mounts;
use nydus_tests::readers::{Piece, open_direct, read_at};
use nydus_tests::require_mounts;
use nydus_tests::rng::Rng;
use nydus_tests::stall_fs::StallFs;

const WORKERS: usize = 4;
const DEADLINE: Duration = Duration::from_secs(3);
/// How late the answer may be, as the reader measures it.
const LATEST: Duration = Duration::from_millis(3600);
/// How long those who need nothing of the backend may take: nearly all of them, and all.
const PROMPT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));
/// How often a stall is tried: a machine that stands still for a moment makes everybody late.
const TRIES: usize = 3;
/// Threads that may be stuck in the kernel, and threads at all: neither grows with the number of readers.
const STUCK_THREADS: usize = 80;
const ALL_THREADS: usize = 160;
const CHUNK: usize = 4096;

/// Somebody who needs bytes that are not in the cache.
struct Reader {
    piece: Piece,
    /// Past the page cache, or through it; then the kernel asks a second time when the first answer is an error.
    direct: bool,
}

impl Reader {
    fn read(&self, root: &Path) -> io::Result<Vec<u8>> {
        let path = root.join(&self.piece.path);
        let file = if self.direct { open_direct(&path) } else { File::open(&path) }?;
        read_at(&file, self.piece.offset, self.piece.content.len())
    }
}

/// The files that are read before the stall, and readers of chunks that are not: half of them read pieces of one
/// large file directly, half of them small files through the page cache.
fn cached_and_uncached(image: &Image) -> (Vec<Piece>, Vec<Reader>) {
    let whole = |path: &str| {
        let content = image.files()[Path::new(path)].to_vec();
        Piece { path: path.into(), offset: 0, content }
    };
    let mut cached =
        vec![whole("exact1m"), whole("etc/services"), whole("etc/openssl.cnf"), whole("lib/prog")];
    cached.extend((1..=350).map(|number| whole(&format!("many/{number}"))));
    let large = image.files()[Path::new("exact1m1")].clone();
    let direct = large.chunks_exact(CHUNK).enumerate().map(|(index, content)| Reader {
        piece: Piece { path: "exact1m1".into(), offset: (index * CHUNK) as u64, content: content.to_vec() },
        direct: true,
    });
    let small = (351..=700).map(|number| Reader { piece: whole(&format!("many/{number}")), direct: false });
    let uncached = direct.zip(small).flat_map(|(direct, small)| [direct, small]).collect();
    (cached, uncached)
}

/// Lists a directory as `ls -l` does.
fn list(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let sizes: Vec<u64> = entries.map(|path| std::fs::symlink_metadata(path).unwrap().size()).collect();
    sizes.len()
}

/// Threads of the daemon, and how many of them cannot be interrupted just now.
fn threads(daemon: &Daemon) -> (usize, usize) {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let states = tasks.filter_map(|task| {
        let stat = std::fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    });
    let states: Vec<char> = states.collect();
    (states.len(), states.iter().filter(|state| **state == 'D').count())
}

/// Lets `readers` run into the stall and serves others meanwhile. Answers what took too long.
fn serve_through_stall(
    daemon: &Daemon,
    blobs: &StallFs,
    cached: &[Piece],
    readers: &[Reader],
    rng: &mut Rng,
) -> Vec<String> {
    let root = daemon.mountpoint();
    let (mut latencies, mut late) = (Latencies::default(), Vec::new());
    let stall = blobs.stall();
    std::thread::scope(|scope| {
        let stuck: Vec<_> = readers
            .iter()
            .map(|reader| {
                scope.spawn(move || {
                    let start = Instant::now();
                    (reader.read(root).map(|_| ()), start.elapsed())
                })
            })
            .collect();
        daemon.wait_for("the backend is asked", || stall.held() > 0);
        let hits = || daemon.counter("bytes_from_cache") + daemon.counter("bytes_from_memory");
        let (before, mut served) = (hits(), 0);
        for round in 0..1000 {
            let piece = rng.pick(cached);
            let len = 1 + rng.index(piece.content.len());
            let offset = rng.index(piece.content.len() - len + 1);
            let start = Instant::now();
            let file = open_direct(&root.join(&piece.path)).unwrap();
            let found = read_at(&file, offset as u64, len).unwrap();
            latencies.add(start.elapsed());
            served += found.len() as u64;
            assert!(found == piece.content[offset..offset + len], "wrong bytes in {}", piece.path.display());
            if round % 20 == 0 {
                let dir = *rng.pick(&["many", "usr/share/zoneinfo", "etc", "lib", "."]);
                let start = Instant::now();
                assert!(list(&root.join(dir)) > 0);
                latencies.add(start.elapsed());
            }
            if round % 100 == 0 {
                let (all, stuck) = threads(daemon);
                assert!(all <= ALL_THREADS && stuck <= STUCK_THREADS, "{all} threads, {stuck} of them stuck");
            }
        }
        let counted = hits() - before;
        assert!(
            counted >= served,
            "the daemon served {counted} of {served} bytes: the page cache did the rest"
        );
        let unanswered = stuck.iter().filter(|reader| !reader.is_finished()).count();
        if unanswered * 2 <= readers.len() {
            late.push(format!("only {unanswered} readers were stuck all the while"));
        }
        for (reader, stuck) in readers.iter().zip(stuck) {
            let (result, waited) = stuck.join().unwrap();
            let what = format!("{} at {}", reader.piece.path.display(), reader.piece.offset);
            let error = result.expect_err("nothing can have come from a backend that hangs");
            assert_eq!(error.raw_os_error(), Some(nix::libc::ETIMEDOUT), "{what}: {error} after {waited:?}");
            if waited > LATEST {
                late.push(format!("{what}: ETIMEDOUT after {waited:?}, the deadline is {DEADLINE:?}"));
            }
        }
    });
    drop(stall);
    println!("{} stuck readers; others: {latencies}", readers.len());
    if latencies.percentile(99) >= PROMPT.0 || latencies.max() >= PROMPT.1 {
        late.push(latencies.to_string());
    }
    late
}

#[test]
fn a_hanging_backend_delays_only_those_who_need_it() {
    require_mounts!();
    a_hanging_backend(Caching::Plain);
}

#[test]
fn a_hanging_backend_delays_only_those_who_need_it_without_a_cache_directory_too() {
    require_mounts!();
    a_hanging_backend(Caching::Off);
}

fn a_hanging_backend(caching: Caching) {
    let scratch = Scratch::new();
    let image = Image::named("v6-lz4-4k-sha256");
    let blobs = StallFs::serve(&image.blobs());
    let mut config = scratch.config(&image);
    config.blobs = blobs.path().to_owned();
    config.caching = caching;
    // Only what is asked for is cached.
    config.amplify_io = Some(0);
    config.read_deadline_ms = Some(u64::try_from(DEADLINE.as_millis()).unwrap());
    let launch = scratch.launch(&image.bootstrap(), &config);
    let daemon = launch.option("--fuse-threads", WORKERS.to_string()).start();
    let root = daemon.mountpoint();

    let mut rng = Rng::new(0x7374_616c);
    let (cached, uncached) = cached_and_uncached(&image);
    cached.iter().for_each(|piece| piece.assert_read(root));
    // Each try needs readers of its own: afterwards what they read is cached.
    let (few, many) = uncached.split_at(TRIES * 2 * WORKERS);
    for (group, count) in [(few, 2 * WORKERS), (many, 150)] {
        let mut tries = group.chunks_exact(count).take(TRIES);
        loop {
            let readers = tries.next().expect("somebody is late each time");
            let late = serve_through_stall(&daemon, &blobs, &cached, readers, &mut rng);
            // A range that failed may stay failed for a moment.
            for reader in readers {
                daemon.wait_for("reads succeed again", || reader.read(root).is_ok());
                assert!(reader.read(root).unwrap() == reader.piece.content, "wrong bytes after the stall");
            }
            if late.is_empty() {
                break;
            }
            println!("late: {late:#?}");
        }
    }
    image.manifest().assert_tree(root, "after the stalls");
    daemon.unmount();
}

/// An image whose blobs hang, and a file of it that is not cached.
fn hanging(scratch: &Scratch) -> (StallFs, Daemon, &'static str) {
    let image = Image::named("v6-lz4-4k-sha256");
    let blobs = StallFs::serve(&image.blobs());
    let mut config = scratch.config(&image);
    config.blobs = blobs.path().to_owned();
    let daemon = scratch.launch(&image.bootstrap(), &config).start();
    (blobs, daemon, "exact1m")
}

/// Somebody in a process of its own who reads past the page cache, and so waits where only an answer wakes him.
fn stuck_reader(path: &Path) -> Child {
    let mut input = std::ffi::OsString::from("if=");
    input.push(path);
    let options = ["of=/dev/null", "bs=64K", "iflag=direct", "status=none"];
    Command::new("dd").arg(input).args(options).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn a_reader_that_is_killed_does_not_wait_for_the_deadline() {
    require_mounts!();
    let scratch = Scratch::new();
    let (blobs, daemon, file) = hanging(&scratch);
    let stall = blobs.stall();
    let mut reader = stuck_reader(&daemon.mountpoint().join(file));
    daemon.wait_for("the backend is asked", || stall.held() > 0);
    assert!(reader.try_wait().unwrap().is_none(), "it waits");
    let start = Instant::now();
    reader.kill().unwrap();
    reader.wait().unwrap();
    // The deadline is a minute.
    assert!(start.elapsed() < Duration::from_secs(20), "gone after {:?}", start.elapsed());
    drop(stall);
    daemon.wait_for("others read on", || std::fs::read(daemon.mountpoint().join(file)).is_ok());
    daemon.unmount();
}

#[test]
fn a_hanging_backend_does_not_keep_the_daemon_from_unmounting() {
    require_mounts!();
    let scratch = Scratch::new();
    let (blobs, daemon, file) = hanging(&scratch);
    let stall = blobs.stall();
    let mut reader = stuck_reader(&daemon.mountpoint().join(file));
    daemon.wait_for("the backend is asked", || stall.held() > 0);
    let start = Instant::now();
    daemon.signal(Signal::SIGTERM);
    while mounts::find(daemon.mountpoint()).is_some() {
        assert!(start.elapsed() < Duration::from_secs(15), "still mounted after {:?}", start.elapsed());
        std::thread::sleep(Duration::from_millis(5));
    }
    // The process itself ends when the kernel gives its thread back.
    drop(stall);
    reader.wait().unwrap();
    daemon.unmount();
}
