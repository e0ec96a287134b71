//! Images whose blobs are in a registry.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;

use nix::sys::signal::Signal;
use nydus_tests::daemon::Scratch;
use nydus_tests::fixtures::Image;
use nydus_tests::registry::{AUTH, Registry};
use nydus_tests::require_mounts;
use serde_json::{Value, json};

/// The test configuration of `image`, its blobs in the registry at `host`.
fn config(scratch: &Scratch, image: &Image, host: &str) -> Value {
    let mut config = scratch.config(image).to_value();
    let registry = json!({ "scheme": "http", "host": host, "repo": "library/test", "auth": AUTH });
    config["backend"] = json!({ "type": "registry", "registry": registry });
    config
}

#[test]
fn images_mount_from_a_registry_that_leads_to_signed_addresses() {
    require_mounts!();
    for name in ["v5-zstd-blake3", "v6-zstd"] {
        let (image, scratch) = (Image::named(name), Scratch::new());
        let registry = Registry::new(&image.blobs());
        let text = config(&scratch, &image, &registry.host()).to_string();
        let daemon = scratch.launch_text(&image.bootstrap(), &text).option("--rlimit-nofile", "0").start();
        image.manifest().assert_tree(daemon.mountpoint(), name);
        assert!(registry.redirects() > 0);
        let stopped = daemon.stop(Signal::SIGTERM);
        assert!(stopped.status.success() && !stopped.mounted, "{name}: {}", stopped.stderr);
        assert!(
            !stopped.stderr.contains(AUTH) && !stopped.stderr.contains("signature="),
            "{}",
            stopped.stderr
        );
    }
}

#[test]
fn a_registry_that_is_down_when_the_image_is_mounted_is_waited_for_by_reads_alone() {
    require_mounts!();
    let (image, scratch) = (Image::named("v6-zstd"), Scratch::new());
    let gone = Registry::new(&image.blobs());
    let addr = gone.addr();
    drop(gone);
    let text = config(&scratch, &image, &addr.to_string()).to_string();
    let daemon = scratch.launch_text(&image.bootstrap(), &text).option("--rlimit-nofile", "0").start();
    // Mounted, and its directories can be listed.
    assert!(fs::read_dir(daemon.mountpoint()).unwrap().count() > 0);
    let _back = Registry::at(addr, &image.blobs());
    image.manifest().assert_tree(daemon.mountpoint(), "after the outage");
    daemon.stop(Signal::SIGTERM);
}
