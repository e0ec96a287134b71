//! Two daemons, one cache directory: together they fetch what one of them would, and neither sees a wrong byte.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Barrier;

use nydus_tests::daemon::{Daemon, Launch, Scratch};
use nydus_tests::fixtures::{Files, Image};
use nydus_tests::layout::{Chunks, Layout};
use nydus_tests::readers::Piece;
use nydus_tests::require_mounts;
use nydus_tests::rng::Rng;
use nydus_tests::stall_fs::StallFs;

const READS: usize = 10_000;
const LONGEST_READ: usize = 64 << 10;

/// Reads random pieces through one daemon; answers the chunks that hold them.
fn read_at_random(daemon: &Daemon, files: &Files, layout: &Layout, mut rng: Rng) -> Chunks {
    let mut touched = Chunks::new();
    for _ in 0..READS {
        let piece = Piece::random(&mut rng, files, LONGEST_READ);
        piece.assert_read(daemon.mountpoint());
        touched.extend(layout.chunks(&piece.path, piece.offset, piece.content.len()));
    }
    touched
}

/// Both daemons start on an empty cache and read the same files at random, at the same time.
fn share(name: &str, seed: u64) {
    let image = Image::named(name);
    let scratch = Scratch::new();
    let second = scratch.path("mnt2");
    std::fs::create_dir(&second).unwrap();
    // Every byte that either daemon reads of a blob passes here.
    let blobs = StallFs::serve(&image.blobs());
    let mut config = scratch.config(&image);
    config.blobs = blobs.path().to_owned();
    config.amplify_io = Some(0);
    let daemons = [
        scratch.launch(&image.bootstrap(), &config).start(),
        Launch::new(&second)
            .option("--config", scratch.path("config"))
            .option("--bootstrap", image.bootstrap())
            .socket(&scratch.path("api2.sock"))
            .start(),
    ];
    let mounting = blobs.bytes_read();
    // Half of the files, so that there is something that must not be fetched.
    let layout = Layout::of(&image);
    let files: Files =
        image.files().iter().step_by(2).map(|(path, content)| (path.clone(), content.clone())).collect();
    let together = Barrier::new(daemons.len());
    let mut touched = Chunks::new();
    std::thread::scope(|scope| {
        let readers = daemons.each_ref().map(|daemon| {
            let (files, layout, together) = (&files, &layout, &together);
            let rng = Rng::new(seed ^ u64::from(daemon.pid()) << 32);
            scope.spawn(move || {
                together.wait();
                read_at_random(daemon, files, layout, rng)
            })
        });
        for reader in readers {
            touched.extend(reader.join().unwrap());
        }
    });
    let stored: u64 = touched.values().map(|chunk| u64::from(chunk.compressed_size)).sum();
    let fetched = blobs.bytes_read() - mounting;
    let counted: u64 = daemons.iter().map(|daemon| daemon.backend_reads().bytes).sum();
    println!("{name}: {} chunks, {stored} bytes stored, {fetched} fetched", touched.len());
    let limit = stored + stored / 20;
    assert!(fetched <= limit, "{name}: {fetched} bytes were fetched for {stored} bytes of chunks");
    assert!(fetched >= stored, "{name}: {fetched} bytes cannot be all of {stored}");
    assert!(counted <= limit, "{name}: the daemons count {counted} bytes, {stored} are stored");
    for daemon in daemons {
        daemon.unmount();
    }
}

#[test]
fn two_daemons_fetch_once_v5() {
    require_mounts!();
    share("v5-lz4-sha256", 0x7368_6172);
}

#[test]
fn two_daemons_fetch_once_v6_small_chunks() {
    require_mounts!();
    share("v6-lz4-4k-sha256", 0x6361_6368);
}
