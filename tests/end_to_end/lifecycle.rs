//! From start to end: what the daemon answers, how it unmounts, what it warns of.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod at_rest;
mod snapshotter;

use nix::sys::signal::Signal;
use nydus_tests::config::{Form, with_key};
use nydus_tests::daemon::{Launch, Scratch};
use nydus_tests::fixtures::Image;
use nydus_tests::manifest::hex;
use nydus_tests::{require_mounts, require_tools};
use serde_json::json;
use sha2::{Digest as _, Sha256};

fn image() -> Image {
    Image::named("v6-zstd")
}

fn launch(scratch: &Scratch) -> Launch {
    scratch.launch(&image().bootstrap(), &scratch.config(&image()))
}

fn ends_by(signal: Signal) {
    let scratch = Scratch::new();
    let daemon = launch(&scratch).start();
    assert_eq!(std::fs::read(daemon.mountpoint().join("one")).unwrap().len(), 1);
    let stopped = daemon.stop(signal);
    assert_eq!(stopped.status.code(), Some(0), "{}", stopped.stderr);
    assert!(!stopped.mounted, "{}", stopped.stderr);
    assert!(!scratch.path("api.sock").exists(), "the socket is removed");
}

#[test]
fn sigterm_unmounts_and_exits_with_status_0() {
    require_mounts!();
    ends_by(Signal::SIGTERM);
}

#[test]
fn sigint_unmounts_and_exits_with_status_0() {
    require_mounts!();
    ends_by(Signal::SIGINT);
}

#[test]
fn sigterm_unmounts_under_load() {
    require_mounts!();
    let scratch = Scratch::new();
    let daemon = launch(&scratch).start();
    let root = daemon.mountpoint().to_owned();
    let busy = std::fs::File::open(root.join("exact1m")).unwrap();
    let stopped = daemon.stop(Signal::SIGTERM);
    assert_eq!(stopped.status.code(), Some(0), "an open file does not keep it: {}", stopped.stderr);
    assert!(!stopped.mounted, "{}", stopped.stderr);
    drop(busy);
}

#[test]
fn the_api_describes_the_daemon() {
    require_mounts!();
    let scratch = Scratch::new();
    let daemon = launch(&scratch).start();
    let answer = daemon.api("/api/v1/daemon");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body["state"], "RUNNING", "{}", answer.body);
    assert!(answer.body["version"]["package_ver"].is_string(), "{}", answer.body);
    let mount = &answer.body["backend_collection"]["/"];
    assert_eq!(mount["backend_type"], "Rafs", "{}", answer.body);
    let dir = image().blobs();
    assert_eq!(mount["config"]["backend"]["localfs"]["dir"], json!(dir), "{}", answer.body);
    assert_eq!(daemon.api("/api/v1/no-such-thing").status, 404);
    daemon.unmount();
}

#[test]
fn the_subcommand_and_its_options_are_accepted() {
    require_mounts!();
    let scratch = Scratch::new();
    let files = scratch.write("prefetch", "/etc\n/lib/prog\n");
    let daemon = launch(&scratch)
        .subcommand("fuse")
        .option("--thread-num", "3")
        .option("--failover-policy", "flush")
        .option("--prefetch-files", files)
        .start();
    image().manifest().assert_tree(daemon.mountpoint(), "nydusd fuse");
    daemon.unmount();
}

#[test]
fn a_cache_directory_that_is_missing_is_made_with_its_parents() {
    require_mounts!();
    for name in ["v5-zstd-blake3", "v6-zstd", "v6-inline"] {
        let scratch = Scratch::new();
        let image = Image::named(name);
        let mut config = scratch.config(&image);
        config.cache = scratch.path("some/where/else");
        let daemon = scratch.launch(&image.bootstrap(), &config).start();
        image.manifest().assert_tree(daemon.mountpoint(), name);
        daemon.unmount();
        assert!(std::fs::read_dir(&config.cache).unwrap().count() > 0, "{name}: nothing was cached");
    }
}

#[test]
fn the_right_bootstrap_digest_is_accepted_and_another_refused() {
    require_mounts!();
    let scratch = Scratch::new();
    let digest = hex(&Sha256::digest(std::fs::read(image().bootstrap()).unwrap()));
    let daemon = launch(&scratch).option("--bootstrap-digest", format!("sha256:{digest}")).start();
    daemon.unmount();
    let other = hex(&Sha256::digest(b"something else"));
    launch(&scratch).option("--bootstrap-digest", format!("sha256:{other}")).refused().assert_explained(&[
        "bootstrap",
        &digest,
        &other,
    ]);
}

#[test]
fn an_unknown_key_is_warned_of_once_with_its_path() {
    require_mounts!();
    let cases = [
        (Form::V1, "device.backend.config.colour"),
        (Form::V1, "colour"),
        (Form::V2Json, "backend.localfs.colour"),
        (Form::V2Toml, "cache.filecache.colour"),
    ];
    for (form, key) in cases {
        let scratch = Scratch::new();
        let mut config = scratch.config(&image());
        config.form = form;
        let value = with_key(&config.to_value(), key, json!("blue"));
        let text = match form {
            Form::V2Toml => toml::to_string(&value).unwrap(),
            Form::V1 | Form::V2Json => value.to_string(),
        };
        let daemon = scratch.launch_text(&image().bootstrap(), &text).start();
        assert_eq!(std::fs::read(daemon.mountpoint().join("one")).unwrap().len(), 1);
        let stopped = daemon.stop(Signal::SIGTERM);
        let warnings: Vec<&str> = stopped.stderr.lines().filter(|line| line.contains("colour")).collect();
        assert_eq!(warnings.len(), 1, "{form:?} {key}:\n{}", stopped.stderr);
        assert!(warnings[0].contains("WARN") && warnings[0].contains(key), "{form:?} {key}: {}", warnings[0]);
    }
}

#[test]
fn a_limit_that_cannot_be_raised_is_a_warning() {
    require_mounts!();
    require_tools!("prlimit", "setpriv");
    let scratch = Scratch::new();
    let daemon = launch(&scratch)
        .option("--rlimit-nofile", "65536")
        .through(["prlimit", "--nofile=1024:1024", "setpriv", "--bounding-set", "-sys_resource"])
        .start();
    image().manifest().assert_tree(daemon.mountpoint(), "with a low limit");
    let stopped = daemon.stop(Signal::SIGTERM);
    assert!(stopped.status.success(), "{}", stopped.stderr);
    let warned = stopped.stderr.lines().any(|line| line.contains("WARN") && line.contains("65536"));
    assert!(warned, "no warning of the limit:\n{}", stopped.stderr);
}

#[test]
fn logs_go_to_the_file_that_was_asked_for() {
    require_mounts!();
    let scratch = Scratch::new();
    let daemon = launch(&scratch).option("--log-file", scratch.path("no/such/directory/daemon")).start();
    let stopped = daemon.stop(Signal::SIGTERM);
    assert!(stopped.status.success(), "{}", stopped.stderr);
    let text = std::fs::read_to_string(scratch.path("no/such/directory/daemon.log"))
        .expect("the suffix is appended");
    assert!(text.contains("INFO"), "{text:?}");
    assert!(
        !stopped.stderr.contains("INFO"),
        "what goes to the file does not go to stderr: {}",
        stopped.stderr
    );
}

#[test]
fn logs_are_rotated_by_size() {
    require_mounts!();
    const LIMIT: u64 = 1 << 20;
    let scratch = Scratch::new();
    let daemon = launch(&scratch)
        .option("--log-file", scratch.path("daemon.log"))
        .option("--log-rotation-size", "1")
        .start();
    // Each request is a line, with its path.
    let path = format!("/{}", "x".repeat(2000));
    daemon.wait_for("the log is rotated twice", || {
        (0..100).for_each(|_| assert_eq!(daemon.api(&path).status, 404));
        scratch.path("daemon.log.2").exists()
    });
    daemon.unmount();
    let size = |name: &str| std::fs::metadata(scratch.path(name)).unwrap().len();
    for old in ["daemon.log.1", "daemon.log.2"] {
        assert!((LIMIT / 2..=LIMIT).contains(&size(old)), "{old}: {} bytes", size(old));
    }
    assert!(size("daemon.log") <= LIMIT);
}
