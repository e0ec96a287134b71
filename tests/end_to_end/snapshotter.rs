//! What nydus-snapshotter does with a daemon of its own for each pod: its command line, its configuration, its requests, its
//! garbage collection, and what it does when the daemon dies.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;
use nydus_tests::daemon::{Daemon, Launch, Scratch};
use nydus_tests::fixtures::Image;
use nydus_tests::mounts;
use nydus_tests::registry::{AUTH, Registry};
use nydus_tests::require_mounts;
use serde_json::{Value, json};

const DAEMON: &str = "d3vtmfa9c3k8r4g2lqf0";
const SNAPSHOT: &str = "12";

/// The snapshotter's directories.
struct Snapshotter {
    root: Scratch,
}

impl Snapshotter {
    fn new() -> Self {
        let root = Scratch::new();
        for name in ["config", "socket", "snapshots/12/fs/image", "snapshots/12/mnt"] {
            fs::create_dir_all(root.path(name)).unwrap();
        }
        for name in ["config", "socket"] {
            fs::create_dir(root.path(name).join(DAEMON)).unwrap();
        }
        // The directory of the daemon in here is left to the daemon.
        fs::create_dir(root.path("logs")).unwrap();
        Self { root }
    }

    fn mountpoint(&self) -> PathBuf {
        self.root.path("snapshots").join(SNAPSHOT).join("mnt")
    }

    fn socket(&self) -> PathBuf {
        self.root.path("socket").join(DAEMON).join("api.sock")
    }

    fn log(&self) -> PathBuf {
        self.root.path("logs").join(DAEMON).join("nydusd.log")
    }

    /// The configuration: one line of JSON with everything that its structure has.
    fn configure(&self, kind: &str, keys: &Value) -> PathBuf {
        let mut backend = json!({ "readahead": false, "proxy": { "fallback": false }, "timeout": 5, "connect_timeout": 5,
            "retry_limit": 2 });
        backend.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        let config = json!({
            "device": {
                "backend": { "type": kind, "config": backend },
                "cache": { "type": "blobcache", "config": { "work_dir": self.root.cache(), "disable_indexed_map": false } },
                "id": format!("/{SNAPSHOT}"),
            },
            "mode": "direct", "digest_validate": false, "iostats_files": false, "enable_xattr": true,
            "access_pattern": false, "latest_read_files": false, "amplify_io": 1_048_576, "warmup": 0,
            "fs_prefetch": { "enable": false, "prefetch_all": false, "threads_count": 8, "merging_size": 1_048_576,
                "bandwidth_rate": 0, "stream_prefetch": false },
        });
        let path = self.root.path("config").join(DAEMON).join("config.json");
        fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// The command line for an image whose blobs `keys` lead to.
    fn launch(&self, image: &Image, kind: &str, keys: &Value) -> Launch {
        let config = self.configure(kind, keys);
        let bootstrap = self.root.path("snapshots").join(SNAPSHOT).join("fs/image/image.boot");
        fs::copy(image.bootstrap(), &bootstrap).unwrap();
        let (mountpoint, socket, log) = (self.mountpoint(), self.socket(), self.log());
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let arguments = [
            ["--thread-num".to_owned(), "4".to_owned()],
            ["--config".to_owned(), text(&config)],
            ["--bootstrap".to_owned(), text(&bootstrap)],
            ["--mountpoint".to_owned(), text(&mountpoint)],
            ["--apisock".to_owned(), text(&socket)],
            ["--log-level".to_owned(), "info".to_owned()],
            ["--log-rotation-size".to_owned(), "100".to_owned()],
            ["--log-file".to_owned(), text(&log)],
            ["--failover-policy".to_owned(), "resend".to_owned()],
        ];
        Launch::exactly(
            &mountpoint,
            &socket,
            ["fuse".to_owned()].into_iter().chain(arguments.into_iter().flatten()),
        )
    }

    /// As [`Self::launch`], with the blobs in their directory.
    fn launch_local(&self, image: &Image) -> Launch {
        self.launch(image, "localfs", &json!({ "dir": image.blobs() }))
    }

    /// The connection that tells by its end that the daemon has ended. Nothing is ever sent.
    fn liveness(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    }

    /// Removes the files of these blobs by the names that it knows.
    fn collect(&self, image: &Image) {
        for blob in blob_ids(image) {
            for suffix in [
                ".chunk_map",
                ".blob.data.chunk_map",
                "",
                ".blob.data",
                ".blob.meta",
                ".image.disk",
                ".layer.disk",
            ] {
                match fs::remove_file(self.root.cache().join(format!("{blob}{suffix}"))) {
                    Err(error) if error.kind() != ErrorKind::NotFound => panic!("{blob}{suffix}: {error}"),
                    _ => {}
                }
            }
        }
    }

    /// What is in the cache directory: the names of its files, and of its sub-directories.
    fn cached(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let entries = fs::read_dir(self.root.cache()).unwrap().map(Result::unwrap);
        let (directories, files): (Vec<_>, Vec<_>) =
            entries.partition(|entry| entry.file_type().unwrap().is_dir());
        let names = |entries: Vec<fs::DirEntry>| {
            entries.iter().map(|entry| entry.file_name().into_string().unwrap()).collect()
        };
        (names(files), names(directories))
    }

    /// What it does when the daemon has died and is to be started again: unmounts only what `stat` shows to be a mount.
    fn clear_vestiges(&self) {
        let (mountpoint, above) =
            (self.mountpoint(), self.mountpoint().parent().unwrap().metadata().unwrap().dev());
        if fs::metadata(&mountpoint).is_ok_and(|metadata| metadata.dev() != above) {
            umount2(&mountpoint, MntFlags::empty()).unwrap();
        }
        fs::remove_file(self.socket()).unwrap();
    }

    /// The lines of the log that are warnings or worse; the limit on open files is a matter of this machine.
    fn warnings(&self) -> Vec<String> {
        let log = fs::read_to_string(self.log()).expect("the daemon makes its log's directory");
        let mut lines = nydus_tests::daemon::complaints(&log);
        lines.retain(|line| !line.contains("rlimit-nofile"));
        lines
    }
}

impl Drop for Snapshotter {
    fn drop(&mut self) {
        mounts::detach(&self.mountpoint());
    }
}

fn blob_ids(image: &Image) -> Vec<String> {
    let names =
        image.blob_files().into_iter().map(|blob| blob.file_name().unwrap().to_str().unwrap().to_owned());
    names.collect()
}

fn is_open(mut liveness: &UnixStream) -> bool {
    match liveness.read(&mut [0]) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => true,
        Ok(0) => false,
        // The daemon has not even accepted it.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
        other => panic!("{other:?} on a connection that nothing was sent on"),
    }
}

/// The requests that it makes each minute, and what it wants of the answers.
fn ask_for_metrics(daemon: &Daemon, image: &Image) {
    for id in ["", "?id=%2F", "?id=/"] {
        let metrics = daemon.api(&format!("/api/v1/metrics{id}"));
        assert_eq!(metrics.status, 200, "{}", metrics.body);
        for (list, length) in
            [("block_count_read", 8), ("read_latency_dist", 8), ("fop_hits", 15), ("fop_errors", 15)]
        {
            assert_eq!(metrics.body[list].as_array().map(Vec::len), Some(length), "{list}: {}", metrics.body);
        }
        assert!(metrics.body["data_read"].as_u64().unwrap() > 0, "{}", metrics.body);
    }
    for id in ["", "?id=%2F12"] {
        let cache = daemon.api(&format!("/api/v1/metrics/blobcache{id}"));
        assert_eq!(cache.status, 200, "{}", cache.body);
        let first = cache.body["underlying_files"].as_array().unwrap();
        let told: BTreeSet<_> = first.iter().map(|name| name.as_str().unwrap().to_owned()).collect();
        let used: BTreeSet<_> = blob_ids(image).into_iter().map(|id| format!("{id}.blob.data")).collect();
        assert_eq!(told, used, "what is in use");
        for key in [
            "partial_hits",
            "whole_hits",
            "total",
            "entries_count",
            "prefetch_data_amount",
            "prefetch_requests_count",
            "prefetch_workers",
            "prefetch_unmerged_chunks",
            "prefetch_cumulative_time_millis",
            "prefetch_begin_time_secs",
            "prefetch_begin_time_millis",
            "prefetch_end_time_secs",
            "prefetch_end_time_millis",
            "buffered_backend_size",
        ] {
            assert!(cache.body[key].is_u64(), "{key}: {}", cache.body);
        }
        assert_eq!(cache.body["data_all_ready"], json!(false));
        assert!(cache.body["total"].as_u64().unwrap() > 0, "{}", cache.body);
    }
    let inflight = daemon.api("/api/v1/metrics/inflight");
    assert_eq!((inflight.status, inflight.body), (204, Value::Null), "nobody reads");
}

#[test]
fn a_pod_from_its_start_to_the_collection_of_its_cache() {
    require_mounts!();
    let (node, image) = (Snapshotter::new(), Image::named("v6-zstd"));
    let registry = Registry::new(&image.blobs());
    let keys = json!({ "scheme": "http", "host": registry.host(), "repo": "library/test", "auth": AUTH });
    let launch = node.launch(&image, "registry", &keys);
    let daemon = launch.start();
    let liveness = node.liveness();
    assert_eq!(mounts::find(&node.mountpoint()).unwrap().fs_type, "fuse");
    let told = daemon.api("/api/v1/daemon").body;
    for key in ["package_ver", "git_commit", "build_time", "profile", "rustc"] {
        assert!(told["version"][key].is_string(), "{key}: {told}");
    }
    image.manifest().assert_tree(daemon.mountpoint(), "a pod");
    ask_for_metrics(&daemon, &image);
    assert!(daemon.counter("entries_count") > 0);
    let renewed = daemon.put("/api/v1/config?id=%2F", &json!({ "registry_auth": AUTH }));
    assert_eq!(renewed.status, 204, "{}", renewed.body);
    assert!(is_open(&liveness));

    let stopped = daemon.stop(Signal::SIGTERM);
    assert!(stopped.status.success() && !stopped.mounted, "{}", stopped.stderr);
    assert!(!is_open(&liveness), "the end of the daemon is the end of the connection");
    assert!(!node.socket().exists());
    assert_eq!(node.warnings(), Vec::<String>::new());

    // The daemon has tidied up: what the collector knows is all there is.
    assert_eq!(node.cached().1, BTreeSet::new());
    assert!(!node.cached().0.is_empty());
    // And it has lost nothing by it.
    let daemon = launch.start();
    image.manifest().assert_tree(daemon.mountpoint(), "from the cache");
    let counters = (daemon.backend_reads().bytes, daemon.counter("cache_chunks_accepted"));
    assert_eq!(counters, (0, 0), "nothing is fetched, nothing is checked again");
    // A killed one has not: what is left is ours, in a directory of its own, and harms nobody.
    daemon.kill();
    node.clear_vestiges();
    node.collect(&image);
    assert_eq!(node.cached(), (BTreeSet::new(), BTreeSet::from(["nydusd".to_owned()])));
    let daemon = launch.start();
    image.manifest().assert_tree(daemon.mountpoint(), "after the collection");
    assert_eq!(daemon.counter("cache_chunks_rejected"), 0);
    assert!(daemon.backend_reads().bytes > 0);
    daemon.kill();
    node.clear_vestiges();
    // It goes when the next image is mounted.
    node.collect(&image);
    node.launch_local(&Image::named("v5-lz4-sha256")).start().unmount();
    assert_eq!(node.cached().1, BTreeSet::new());
}

/// Under the releases of the snapshotter that collect what a running daemon uses.
#[test]
fn a_cache_that_is_collected_under_its_daemon_harms_nobody() {
    require_mounts!();
    let (node, image) = (Snapshotter::new(), Image::named("v6-zstd"));
    let daemon = node.launch_local(&image).start();
    image.manifest().assert_tree(daemon.mountpoint(), "before");
    node.collect(&image);
    image.manifest().assert_tree(daemon.mountpoint(), "after");
    daemon.unmount();
    assert_eq!(node.cached(), (BTreeSet::new(), BTreeSet::new()), "gone with the files");
}

/// `kill -9` and the policy `restart`.
fn is_restarted(looked_at: bool) {
    let (node, image) = (Snapshotter::new(), Image::named("v6-zstd"));
    let launch = node.launch_local(&image);
    let daemon = launch.start();
    let liveness = node.liveness();
    if looked_at {
        image.manifest().assert_tree(daemon.mountpoint(), "before");
    }
    daemon.kill();
    assert!(!is_open(&liveness));
    node.clear_vestiges();
    assert!(mounts::find(&node.mountpoint()).is_none(), "stat shows the mount of a daemon that is gone");
    let again = launch.start();
    image.manifest().assert_tree(again.mountpoint(), "after");
    ask_for_metrics(&again, &image);
    again.unmount();
    drop(daemon);
}

#[test]
fn a_killed_daemon_is_restarted() {
    require_mounts!();
    is_restarted(true);
}

#[test]
fn a_killed_daemon_is_restarted_though_nobody_had_looked_at_its_mount() {
    require_mounts!();
    is_restarted(false);
}

/// Whoever simply runs the same command line again.
#[test]
fn the_same_command_line_replaces_its_dead_mount() {
    require_mounts!();
    let (node, image) = (Snapshotter::new(), Image::named("v6-zstd"));
    let launch = node.launch_local(&image);
    let dead = launch.start();
    dead.kill();
    let _kept = keep(&node.mountpoint());
    assert!(mounts::find(&node.mountpoint()).is_some() && node.socket().exists());
    let daemon = launch.start();
    image.manifest().assert_tree(daemon.mountpoint(), "again");
    let mounted = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let point = node.mountpoint();
    assert_eq!(
        mounted.lines().filter(|line| line.contains(point.to_str().unwrap())).count(),
        1,
        "not one upon the other"
    );
    daemon.unmount();
    drop(dead);
}

/// Keeps the numbers of a mount from being used again, so that the next one can be told from it. Asks its daemon nothing.
fn keep(mountpoint: &Path) -> fs::File {
    fs::File::options().read(true).custom_flags(nix::libc::O_PATH).open(mountpoint).unwrap()
}

/// A descriptor of `/dev/fuse` that a process has open, taken from it.
fn taken_device(pid: u32) -> std::os::fd::OwnedFd {
    use std::os::fd::{FromRawFd as _, OwnedFd};
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(|entry| entry.unwrap().path());
    let device =
        descriptors.into_iter().find(|path| fs::read_link(path).is_ok_and(|to| to == Path::new("/dev/fuse")));
    let number: i32 = device.unwrap().file_name().unwrap().to_str().unwrap().parse().unwrap();
    // SAFETY: two system calls with integers; each answers a new descriptor or an error, and nobody else owns it.
    unsafe {
        let process = nix::libc::syscall(nix::libc::SYS_pidfd_open, pid, 0);
        let process = OwnedFd::from_raw_fd(Errno::result(process).unwrap() as i32);
        let taken = nix::libc::syscall(
            nix::libc::SYS_pidfd_getfd,
            std::os::fd::AsRawFd::as_raw_fd(&process),
            number,
            0,
        );
        OwnedFd::from_raw_fd(Errno::result(taken).unwrap() as i32)
    }
}

/// Whoever touches such a mount waits: `stat` is answered all the same, and a new daemon says why it does not mount.
#[test]
fn a_dead_mount_that_somebody_holds_stops_nobody() {
    require_mounts!();
    let (node, image) = (Snapshotter::new(), Image::named("v6-zstd"));
    let launch = node.launch_local(&image);
    let dead = launch.start();
    let held = taken_device(dead.pid());
    dead.kill();
    let _kept = keep(&node.mountpoint());
    // With the birth time, as Rust asks.
    let (answer, answered) = std::sync::mpsc::channel();
    let mountpoint = node.mountpoint();
    std::thread::spawn(move || answer.send(fs::metadata(mountpoint).map(|metadata| metadata.is_dir())));
    let answered = answered.recv_timeout(Duration::from_secs(10)).expect("stat does not wait");
    assert!(answered.unwrap());
    let began = Instant::now();
    let refusal = launch.refused();
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    assert_eq!(refusal.status.code(), Some(1), "{}", refusal.stderr);
    let log = fs::read_to_string(node.log()).unwrap();
    assert!(log.contains("nobody serves and somebody keeps open"), "{log}");
    assert!(node.socket().exists(), "what shows whose mount it is stays");
    drop(held);
    let daemon = launch.start();
    image.manifest().assert_tree(daemon.mountpoint(), "when nobody holds it any more");
    daemon.unmount();
    drop(dead);
}

/// As long as somebody who opens a connection and never sends a byte may be waiting for the daemon's end.
#[test]
fn connections_without_a_request_stay_open() {
    require_mounts!();
    const LONG: Duration = Duration::from_secs(45);
    let (node, image) = (Snapshotter::new(), Image::named("v6-zstd"));
    let daemon = node.launch_local(&image).start();
    let connections: Vec<_> = (0..50).map(|_| node.liveness()).collect();
    let half_sent = node.liveness();
    std::io::Write::write_all(&mut &half_sent, b"GET /api/v1/daemon HTTP/1.1\r\nHost:").unwrap();
    let began = Instant::now();
    while began.elapsed() < LONG {
        assert_eq!(daemon.api("/api/v1/daemon").status, 200);
        assert!(connections.iter().chain([&half_sent]).all(is_open), "closed after {:?}", began.elapsed());
        std::thread::sleep(Duration::from_millis(200));
    }
    daemon.unmount();
    assert!(!connections.iter().chain([&half_sent]).any(is_open), "they end with the daemon");
}
