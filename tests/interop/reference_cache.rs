//! Cache directories that the reference implementation left after reading everything
//! (`tests/fixtures/make-reference-cache`): they are used as they are, without one read of the backend, and a spoiled
//! one never shows a wrong byte.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};

use nydus_tests::config::Caching;
use nydus_tests::daemon::{Launch, Scratch};
use nydus_tests::fixtures::{Image, unpack};
use nydus_tests::require_mounts;

/// A cache directory of the archive, and what it was made with.
struct Left {
    name: &'static str,
    image: &'static str,
    caching: Caching,
    validate: bool,
}

const LEFT: [Left; 6] = [
    Left { name: "v5-lz4-sha256", image: "v5-lz4-sha256", caching: Caching::Plain, validate: false },
    Left {
        name: "v5-zstd-blake3.raw",
        image: "v5-zstd-blake3",
        caching: Caching::Compressed,
        validate: false,
    },
    Left { name: "v6-lz4-4k-sha256", image: "v6-lz4-4k-sha256", caching: Caching::Plain, validate: false },
    Left { name: "v6-inline.validated", image: "v6-inline", caching: Caching::Plain, validate: true },
    Left { name: "v6-merge", image: "v6-merge", caching: Caching::Plain, validate: false },
    Left { name: "v6-zstd.raw", image: "v6-zstd", caching: Caching::Compressed, validate: false },
];

impl Left {
    /// Puts the cache directory into `scratch` and answers the start of a daemon on it.
    fn take_over(&self, scratch: &Scratch) -> Launch {
        let unpacked = scratch.path("archive");
        unpack("reference-cache.tar.zst", &unpacked);
        fs::remove_dir(scratch.cache()).unwrap();
        fs::rename(unpacked.join("reference-cache").join(self.name), scratch.cache()).unwrap();
        let image = Image::named(self.image);
        let mut config = scratch.config(&image);
        config.caching = self.caching;
        config.validate = self.validate;
        scratch.launch(&image.bootstrap(), &config)
    }
}

#[test]
fn caches_of_the_reference_implementation_are_used() {
    require_mounts!();
    for left in &LEFT {
        let scratch = Scratch::new();
        let launch = left.take_over(&scratch);
        for mount in ["first", "second"] {
            let daemon = launch.start();
            let context = format!("{}, {mount} mount", left.name);
            Image::named(left.image).manifest().assert_tree(daemon.mountpoint(), &context);
            let reads = daemon.backend_reads();
            assert_eq!(reads.count, 0, "{context}: {reads:?}");
            daemon.unmount();
        }
    }
}

#[test]
fn a_spoiled_cache_of_the_reference_implementation_is_repaired() {
    require_mounts!();
    for left in &LEFT {
        let scratch = Scratch::new();
        let launch = left.take_over(&scratch);
        for file in data_files(&scratch.cache()) {
            spoil(&file);
        }
        let daemon = launch.start();
        let context = format!("{}, spoiled", left.name);
        Image::named(left.image).manifest().assert_tree(daemon.mountpoint(), &context);
        assert!(daemon.backend_reads().count > 0, "{context}: repaired from nothing");
        daemon.unmount();
    }
}

fn data_files(cache: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|file| file.extension().is_some_and(|suffix| suffix == "data" || suffix == "raw")).collect()
}

/// Changes one byte in each 64 KiB.
fn spoil(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    for byte in bytes.iter_mut().skip(1000).step_by(64 << 10) {
        *byte ^= 0x10;
    }
    fs::write(file, bytes).unwrap();
}
