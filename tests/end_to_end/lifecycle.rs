//! From start to end: what the daemon answers, how it unmounts, what it warns of.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use nix::sys::signal::Signal;
use nydus_tests::daemon::Scratch;
use nydus_tests::fixtures::Image;
use nydus_tests::require_mounts;

fn ends_by(signal: Signal) {
    let scratch = Scratch::new();
    let image = Image::named("v6-zstd");
    let daemon = scratch.launch(&image.bootstrap(), &scratch.config(&image)).start();
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
