//! Corrupt blobs under a mounted image: EIO for what is corrupt, everything else served, and the log and the counters
//! tell which chunk it was and what was found instead.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nydus_tests::config::{Caching, Config};
use nydus_tests::daemon::{Daemon, Launch, Scratch};
use nydus_tests::fixtures::{CopiedImage, Image};
use nydus_tests::layout::Layout;
use nydus_tests::readers::{open_direct, read_at};
use nydus_tests::require_mounts;
use nydus_tests::rng::Rng;

/// A mounted private copy of an image.
struct Mounted {
    image: Image,
    copy: CopiedImage,
    layout: Layout,
    daemon: Daemon,
    scratch: Scratch,
}

impl Mounted {
    fn new(name: &str) -> Self {
        Self::caching(name, Caching::Plain)
    }

    fn caching(name: &str, caching: Caching) -> Self {
        let image = Image::named(name);
        let scratch = Scratch::new();
        let copy = image.copy_to(&scratch.path("image"));
        let mut config = Config::new(&copy.blobs, &scratch.cache());
        config.amplify_io = Some(0);
        config.caching = caching;
        let daemon = scratch.launch(&copy.bootstrap, &config).start();
        Self { layout: Layout::of(&image), image, copy, daemon, scratch }
    }

    /// Spoils the middle of one chunk in the blob; answers the files that need it.
    fn spoil(&self, blob: u32, chunk: u32) -> BTreeSet<PathBuf> {
        let mut affected = BTreeSet::new();
        let mut place = None;
        for (path, content) in self.image.files() {
            if let Some(stored) = self.layout.chunks(path, 0, content.len()).get(&(blob, chunk)) {
                place = Some(stored.compressed_offset + u64::from(stored.compressed_size) / 2);
                affected.insert(path.clone());
            }
        }
        let file = self.copy.blobs.join(self.layout.blob_id(blob));
        let mut bytes = fs::read(&file).unwrap();
        bytes[usize::try_from(place.expect("a chunk of some file")).unwrap()] ^= 0x55;
        fs::write(file, bytes).unwrap();
        affected
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(self.daemon.mountpoint().join(path))
    }
}

/// The chunk of a file's first byte.
fn first_chunk(mounted: &Mounted, path: &str) -> (u32, u32) {
    *mounted.layout.chunks(Path::new(path), 0, 1).keys().next().unwrap()
}

fn one_corrupt_chunk(name: &str, caching: Caching) {
    let mounted = Mounted::caching(name, caching);
    let (blob, chunk) = first_chunk(&mounted, "etc/services");
    let affected = mounted.spoil(blob, chunk);
    for (path, content) in mounted.image.files() {
        match mounted.read(path) {
            Ok(found) => {
                assert!(!affected.contains(path), "{name}: {} was read from a corrupt chunk", path.display());
                assert!(found[..] == content[..], "{name}: wrong bytes in {}", path.display());
            }
            Err(error) => {
                assert!(affected.contains(path), "{name}: {}: {error}", path.display());
                assert_eq!(error.raw_os_error(), Some(nix::libc::EIO), "{name}: {}: {error}", path.display());
            }
        }
    }
    assert!(mounted.daemon.counter("digest_mismatches") > 0, "{name}: counted nothing");
    assert!(mounted.daemon.counter("refetches") > 0, "{name}: did not try again");
    let id = mounted.layout.blob_id(blob);
    let tells = |line: &&str| {
        line.contains(id) && line.contains("expected") && line.contains(&format!("chunk {chunk}: digest"))
    };
    let told = || mounted.daemon.stderr().lines().find(tells).map(str::to_owned);
    mounted.daemon.wait_for("a line names blob, chunk, expected and found", || told().is_some());
    let line = told().unwrap_or_default();
    let digests = line.split(|c: char| !c.is_ascii_hexdigit()).filter(|word| word.len() == 64 && *word != id);
    assert_eq!(digests.count(), 2, "{name}: expected and found, in full: {line}");

    // What was corrupt is served once it is whole again.
    mounted.spoil(blob, chunk);
    for path in &affected {
        mounted.daemon.wait_for("it is healed", || {
            mounted.read(path).is_ok_and(|found| found[..] == mounted.image.files()[path][..])
        });
    }
    let Mounted { daemon, scratch, .. } = mounted;
    daemon.unmount();
    drop(scratch);
}

#[test]
fn one_corrupt_chunk_v5_plain() {
    require_mounts!();
    one_corrupt_chunk("v5-none-prefetch", Caching::Plain);
}

#[test]
fn one_corrupt_chunk_v6_plain() {
    require_mounts!();
    one_corrupt_chunk("v6-none", Caching::Plain);
}

#[test]
fn one_corrupt_chunk_without_a_cache_directory() {
    require_mounts!();
    one_corrupt_chunk("v5-none-prefetch", Caching::Off);
    one_corrupt_chunk("v6-none", Caching::Off);
}

/// The chunks of a file that are not corrupt are served, whatever the others do.
#[test]
fn a_corrupt_range_of_a_file_leaves_the_rest_readable() {
    require_mounts!();
    for name in ["v5-lz4-sha256", "v6-lz4-4k-sha256"] {
        let mounted = Mounted::new(name);
        let path = Path::new("exact1m1");
        let content = &mounted.image.files()[path];
        let middle = mounted.layout.chunks(path, 512 << 10, 1);
        let &(blob, chunk) = middle.keys().next().unwrap();
        mounted.spoil(blob, chunk);
        let file = open_direct(&mounted.daemon.mountpoint().join(path)).unwrap();
        let (mut right, mut wrong) = (0, 0);
        for (index, expected) in content.chunks(4096).enumerate() {
            let offset = index as u64 * 4096;
            let concerned = mounted.layout.chunks(path, offset, expected.len()).contains_key(&(blob, chunk));
            match read_at(&file, offset, expected.len()) {
                Ok(found) => {
                    assert!(found == expected && !concerned, "{name}: wrong bytes at {offset}");
                    right += 1;
                }
                Err(error) => {
                    assert!(concerned, "{name}: {error} at {offset}, which is whole");
                    assert_eq!(error.raw_os_error(), Some(nix::libc::EIO), "{name}: {error} at {offset}");
                    wrong += 1;
                }
            }
        }
        assert!(right >= 3 * wrong && wrong > 0, "{name}: {right} pieces right, {wrong} refused");
    }
}

/// Flips in the blobs of a mounted image, and in the cache of an unmounted one: the daemon's own share of what
/// `flips.rs` does in one process.
fn flips(name: &str, caching: Caching, in_cache: bool, seed: u64) {
    let image = Image::named(name);
    let scratch = Scratch::new();
    let copy = image.copy_to(&scratch.path("image"));
    let mut config = Config::new(&copy.blobs, &scratch.cache());
    config.caching = caching;
    config.validate = true;
    let launch = scratch.launch(&image.bootstrap(), &config);
    let mut rng = Rng::new(seed);
    let victims = if in_cache {
        let daemon = launch.start();
        image.manifest().assert_tree(daemon.mountpoint(), name);
        daemon.unmount();
        let files = fs::read_dir(scratch.cache()).unwrap().map(|entry| entry.unwrap().path());
        files
            .filter(|file| file.extension().is_some_and(|suffix| suffix == "data" || suffix == "raw"))
            .collect()
    } else {
        vec![copy.blobs.join(image.blob_files()[0].file_name().unwrap())]
    };
    let daemon = (!in_cache).then(|| launch.start());
    for _ in 0..10 {
        let file = rng.pick::<PathBuf>(&victims);
        let mut bytes = fs::read(file).unwrap();
        let at = rng.index(bytes.len());
        bytes[at] ^= rng.flip();
        fs::write(file, bytes).unwrap();
    }
    let daemon = daemon.unwrap_or_else(|| launch.start());
    for (path, content) in image.files() {
        match fs::read(daemon.mountpoint().join(path)) {
            Ok(found) => assert!(found[..] == content[..], "{name}: wrong bytes in {}", path.display()),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(nix::libc::EIO), "{name}: {}: {error}", path.display());
                assert!(!in_cache, "{name}: the blob is whole, so {} can be read", path.display());
            }
        }
    }
    daemon.unmount();
}

#[test]
fn flips_in_blobs_of_a_mounted_image() {
    require_mounts!();
    flips("v5-none-prefetch", Caching::Off, false, 1);
    flips("v6-zstd", Caching::Plain, false, 2);
    flips("v6-lz4-4k-sha256", Caching::Compressed, false, 3);
}

#[test]
fn flips_in_the_cache_of_an_unmounted_image() {
    require_mounts!();
    flips("v6-none", Caching::Plain, true, 4);
    flips("v5-lz4-sha256", Caching::Plain, true, 5);
    flips("v6-zstd", Caching::Compressed, true, 6);
}

/// A blob of another image lies where this image's blob should: refused, or no file can be read, but never read as
/// if it were right.
#[test]
fn the_blob_of_another_image() {
    require_mounts!();
    for (name, other) in [
        ("v5-lz4-sha256", "v5-none-prefetch"),
        ("v5-zstd-blake3", "v5-lz4-sha256"),
        ("v6-zstd", "v6-none"),
        ("v6-none", "v6-zstd"),
        ("v6-lz4-4k-sha256", "v6-batch-toc"),
        ("v6-encrypt", "v6-zstd"),
        ("v6-batch-toc", "v6-encrypt"),
    ] {
        let image = Image::named(name);
        let scratch = Scratch::new();
        let copy = image.copy_to(&scratch.path("image"));
        let blob = copy.blobs.join(image.blob_files()[0].file_name().unwrap());
        fs::copy(&Image::named(other).blob_files()[0], &blob).unwrap();
        let launch = scratch.launch(&copy.bootstrap, &Config::new(&copy.blobs, &scratch.cache()));
        assert_refused_or_unreadable(&image, &launch, blob.file_name().unwrap().to_str().unwrap());
    }
}

/// The key in the bootstrap is not the key of the blob.
#[test]
fn the_wrong_key_of_an_encrypted_image() {
    require_mounts!();
    let image = Image::named("v6-encrypt");
    let scratch = Scratch::new();
    let copy = image.copy_to(&scratch.path("image"));
    let bytes = fs::read(&copy.bootstrap).unwrap();
    let bootstrap = rafs::Bootstrap::open(&copy.bootstrap, &rafs::OpenOptions::default()).unwrap();
    let key = bootstrap.blobs()[0].cipher.expect("an encrypted blob").key;
    let mut changed = bytes.clone();
    let places: Vec<usize> =
        bytes.windows(key.len()).enumerate().filter(|(_, window)| *window == key).map(|(at, _)| at).collect();
    assert_eq!(places.len(), 1, "the key stands in the bootstrap once");
    changed[places[0]] ^= 1;
    fs::write(&copy.bootstrap, changed).unwrap();
    let id = image.blob_files()[0].file_name().unwrap().to_str().unwrap().to_owned();
    let launch = scratch.launch(&copy.bootstrap, &Config::new(&copy.blobs, &scratch.cache()));
    assert_refused_or_unreadable(&image, &launch, &id);
}

fn assert_refused_or_unreadable(image: &Image, launch: &Launch, blob: &str) {
    match launch.try_start() {
        Err(refusal) => refusal.assert_explained(&[blob]),
        Ok(daemon) => {
            let mut failed = 0;
            for (path, content) in image.files() {
                match fs::read(daemon.mountpoint().join(path)) {
                    Ok(found) => assert!(found[..] == content[..], "wrong bytes in {}", path.display()),
                    Err(_) => failed += 1,
                }
            }
            assert!(failed > 0, "{}: everything could be read from another image's blob", image.name);
            assert!(daemon.unmount().contains(blob), "{}: the log names the blob", image.name);
        }
    }
}
