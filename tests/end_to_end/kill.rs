//! `kill -9` while 50 readers fill a cold cache, again and again: what the dead daemon left is a cache like any other.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use nydus_tests::config::Caching;
use nydus_tests::daemon::Scratch;
use nydus_tests::fixtures::Image;
use nydus_tests::readers::read_all;
use nydus_tests::rng::Rng;
use nydus_tests::{program, require_mounts};

const READERS: usize = 50;

/// Kills one daemon after its readers got about `kill_after` bytes, then mounts again and compares everything.
/// Answers how many readers had not finished.
fn kill_and_remount(image: &Image, caching: Caching, kill_after: u64, rng: &mut Rng) -> usize {
    let scratch = Scratch::new();
    let mut config = scratch.config(image);
    config.caching = caching;
    let launch = scratch.launch(&image.bootstrap(), &config);
    let context = format!("{}, {caching:?}, killed after {kill_after} bytes", image.name);

    let daemon = launch.start();
    let (progress, unfinished) = (AtomicU64::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..READERS {
            let mut order: Vec<_> = image.files().iter().collect();
            rng.shuffle(&mut order);
            let (root, progress, unfinished) = (daemon.mountpoint(), &progress, &unfinished);
            scope.spawn(move || {
                if read_all(root, order, progress).is_err() {
                    unfinished.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        while progress.load(Ordering::Relaxed) < kill_after {
            assert!(daemon.exited().is_none(), "{context}: it ended by itself:\n{}", daemon.stderr());
            std::thread::yield_now();
        }
        daemon.kill();
    });
    drop(daemon);

    let daemon = launch.start();
    image.manifest().assert_tree(daemon.mountpoint(), &context);
    daemon.unmount();
    unfinished.into_inner()
}

#[test]
fn twenty_kills_in_the_middle_of_fifty_readers() {
    require_mounts!();
    let images = ["v6-zstd", "v5-lz4-sha256", "v6-lz4-4k-sha256", "v6-batch-toc", "v6-zran", "v6-none"];
    let images = images.map(Image::named).into_iter().filter(program::knows).collect::<Vec<_>>();
    let mut rng = Rng::new(0x6b69_6c6c);
    let mut unfinished = 0;
    for round in 0..20 {
        let image = &images[round % images.len()];
        let caching = match round % 5 {
            4 if !program::is_reference() => Caching::Compressed,
            _ => Caching::Plain,
        };
        // A tree is cached as a whole when one reader could have had all of it, so most kills come before that.
        let tree: usize = image.files().values().map(|content| content.len()).sum();
        let limit = if round % 4 == 3 { tree * READERS * 9 / 10 } else { tree };
        let kill_after = 1 + rng.below(limit as u64);
        unfinished += kill_and_remount(image, caching, kill_after, &mut rng);
    }
    assert!(
        unfinished >= 20 * READERS / 2,
        "only {unfinished} readers were interrupted: the kills came too late"
    );
}
