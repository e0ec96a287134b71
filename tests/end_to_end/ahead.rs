//! Files that are read in the order of their listing are in the kernel before they are asked for.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;

use nydus_tests::daemon::Scratch;
use nydus_tests::fixtures::Image;
use nydus_tests::require_mounts;

/// Files that are read before others are sent, and how many are sent then at most.
const READ: usize = 7;
const SENT: usize = 32;

fn are_sent_ahead(name: &str) {
    let image = Image::named(name);
    let scratch = Scratch::new();
    let launch = scratch.launch(&image.bootstrap(), &scratch.config(&image));
    let daemon = launch.start();
    image.manifest().assert_tree(daemon.mountpoint(), "filling the cache");
    daemon.unmount();

    let daemon = launch.start();
    let directory = daemon.mountpoint().join("many");
    let listed = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let content = |path: &std::path::Path| {
        let path = path.strip_prefix(daemon.mountpoint()).unwrap();
        &image.files()[path][..]
    };
    for path in &listed[..READ] {
        assert_eq!(fs::read(path).unwrap(), content(path), "{}", path.display());
    }
    // The last answer came after what was sent. Nobody answers any more, so this is what the kernel has.
    daemon.kill();
    let sent = &listed[READ];
    assert_eq!(fs::read(sent).unwrap(), content(sent), "{}", sent.display());
    let far = &listed[READ + 2 * SENT];
    assert!(fs::read(far).is_err(), "{} was sent though nobody read as far", far.display());
}

#[test]
fn files_of_v6_are_sent_ahead() {
    require_mounts!();
    are_sent_ahead("v6-zstd");
}

#[test]
fn files_of_v5_are_sent_ahead() {
    require_mounts!();
    are_sent_ahead("v5-lz4-sha256");
}
