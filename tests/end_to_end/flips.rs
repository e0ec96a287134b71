//! Bytes that change on disk, thousands of them: of blobs, and of the cache of an unmounted image. Reading then brings
//! the right bytes, or an error, or the image is refused; never a wrong byte, and nothing wrong is kept.
//!
//! These run in one process, on what the daemon itself calls; `corruption.rs` does the same to daemons.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};

use nydus_tests::config::{Caching, Config, Form};
use nydus_tests::fixtures::{CopiedImage, Files, Image};
use nydus_tests::in_process::Opened;
use nydus_tests::layout::Layout;
use nydus_tests::rng::Rng;

/// Images whose content the tests have a model of, and how many rounds of damage each gets.
const IMAGES: [&str; 10] = [
    "v5-lz4-sha256",
    "v5-zstd-blake3",
    "v5-none-prefetch",
    "v6-zstd",
    "v6-none",
    "v6-lz4-4k-sha256",
    "v6-batch-toc",
    "v6-encrypt",
    "v6-zran",
    "v6-inline",
];

/// What came of reading all files.
#[derive(Debug, Default)]
struct Outcome {
    right: usize,
    failed: Vec<PathBuf>,
}

/// Reads every file and compares it. Wrong bytes fail the test.
fn read_all(image: &Opened, files: &Files, context: &str) -> Outcome {
    let mut outcome = Outcome::default();
    for (path, content) in files {
        match image.read(path) {
            Ok(found) => {
                assert!(found[..] == content[..], "{context}: wrong bytes in {}", path.display());
                outcome.right += 1;
            }
            Err(_) => outcome.failed.push(path.clone()),
        }
    }
    outcome
}

/// A byte that was changed.
#[derive(Clone, Debug)]
struct Flip {
    file: PathBuf,
    offset: usize,
    mask: u8,
}

impl Flip {
    /// A byte of `file` in `range`.
    fn random(rng: &mut Rng, file: &Path, range: std::ops::Range<usize>) -> Self {
        let offset = range.start + rng.index(range.len());
        Self { file: file.to_owned(), offset, mask: rng.flip() }
    }

    /// Changes the byte, or changes it back.
    fn apply(&self) {
        let mut bytes = fs::read(&self.file).unwrap();
        bytes[self.offset] ^= self.mask;
        fs::write(&self.file, bytes).unwrap();
    }
}

/// One image under damage: a private copy of it, and a configuration with a cache of its own.
struct Patient {
    image: Image,
    copy: CopiedImage,
    config: Config,
    dir: tempfile::TempDir,
}

impl Patient {
    fn new(image: Image) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let copy = image.copy_to(dir.path());
        let config = Config::new(&copy.blobs, &dir.path().join("cache"));
        // Where the blob is the bootstrap too, that is not what is damaged here.
        let copy = CopiedImage { bootstrap: image.bootstrap(), ..copy };
        Self { image, copy, config, dir }
    }

    fn blob_files(&self) -> Vec<PathBuf> {
        let names = self.image.blob_files();
        names.iter().map(|file| self.copy.blobs.join(file.file_name().unwrap())).collect()
    }

    fn open(&self) -> anyhow::Result<Opened> {
        Opened::open(&self.copy.bootstrap, &self.config)
    }

    fn empty_cache(&self) {
        let cache = self.dir.path().join("cache");
        let _ = fs::remove_dir_all(&cache);
        fs::create_dir(cache).unwrap();
    }

    /// Applies `flips` to blobs, reads everything with an empty cache and once more, undoes them, and reads on from what
    /// the cache then holds. Answers what came of the first reading; `None` if the image was refused.
    fn read_damaged(&self, flips: &[Flip]) -> Option<Outcome> {
        let context = format!("{} with {flips:?}", self.image.name);
        self.empty_cache();
        flips.iter().for_each(Flip::apply);
        let outcome = self.open().ok().map(|opened| {
            let first = read_all(&opened, self.image.files(), &context);
            read_all(&opened, self.image.files(), &format!("{context}, again"));
            opened.close();
            first
        });
        flips.iter().for_each(Flip::apply);
        let healed = self.open().unwrap_or_else(|error| panic!("{context}, undone: {error:#}"));
        let context = format!("{context}, undone");
        let after = read_all(&healed, self.image.files(), &context);
        assert!(after.failed.is_empty(), "{context}: {:?}", after.failed);
        healed.close();
        outcome
    }
}

/// 160 flips of one image's blobs in batches, anywhere, and 40 one by one where the chunk tables lie.
fn flip_blobs(name: &str) -> (usize, usize) {
    let patient = Patient::new(Image::named(name));
    let mut rng = Rng::new(u64::from_le_bytes(*b"the blob") ^ name.len() as u64);
    let layout = name.starts_with("v5").then(|| Layout::of(&patient.image));
    let (mut flips, mut noticed) = (0, 0);
    let mut apply = |batch: Vec<Flip>| {
        flips += batch.len();
        let outcome = patient.read_damaged(&batch);
        noticed += usize::from(outcome.as_ref().is_none_or(|outcome| !outcome.failed.is_empty()));
        if let (Some(outcome), Some(layout)) = (outcome, &layout) {
            assert_only_touched(&patient, layout, &batch, &outcome);
        }
    };
    let files = patient.blob_files();
    for _ in 0..16 {
        apply((0..10).map(|_| random_flip(&mut rng, &files)).collect());
    }
    for _ in 0..40 {
        let file = rng.pick(&files).clone();
        let len = usize::try_from(file.metadata().unwrap().len()).unwrap();
        apply(vec![Flip::random(&mut rng, &file, len.saturating_sub(16 << 10)..len)]);
    }
    (flips, noticed)
}

fn random_flip(rng: &mut Rng, files: &[PathBuf]) -> Flip {
    let file = rng.pick(files).clone();
    let len = usize::try_from(file.metadata().unwrap().len()).unwrap();
    Flip::random(rng, &file, 0..len)
}

/// Fails the test if a file could not be read though none of its chunks was touched.
fn assert_only_touched(patient: &Patient, layout: &Layout, flips: &[Flip], outcome: &Outcome) {
    for path in &outcome.failed {
        let content = &patient.image.files()[path];
        let touched = layout.chunks(path, 0, content.len()).into_iter().any(|((blob, _), stored)| {
            let range =
                stored.compressed_offset..stored.compressed_offset + u64::from(stored.compressed_size);
            let hit = |flip: &Flip| {
                flip.file.ends_with(layout.blob_id(blob)) && range.contains(&(flip.offset as u64))
            };
            flips.iter().any(hit)
        });
        assert!(touched, "{}: {} fails, but {flips:?} is elsewhere", patient.image.name, path.display());
    }
}

#[test]
fn two_thousand_flips_of_blobs() {
    let (mut flips, mut noticed) = (0, 0);
    std::thread::scope(|scope| {
        let halves = IMAGES
            .chunks(IMAGES.len() / 2)
            .map(|names| scope.spawn(|| names.iter().map(|name| flip_blobs(name)).collect::<Vec<_>>()));
        for half in halves.collect::<Vec<_>>() {
            for (count, bad) in half.join().unwrap() {
                flips += count;
                noticed += bad;
            }
        }
    });
    println!("{flips} flips, {noticed} rounds noticed");
    assert!(flips >= 2000);
    assert!(noticed > 150, "the flips were felt in {noticed} rounds only");
}

/// The cache of one image with all its chunks, as a killed daemon leaves it; then flips in it, ten a round. Answers how
/// many flips there were, and how many cached chunks were thrown away.
fn flip_cache(name: &str, caching: Caching, rounds: usize) -> (usize, u64) {
    let image = Image::named(name);
    let dir = tempfile::tempdir().unwrap();
    let (whole, cache) = (dir.path().join("whole"), dir.path().join("cache"));
    let mut config = Config::new(&image.blobs(), &cache);
    config.form = Form::V1;
    config.caching = caching;
    config.validate = true;
    let opened = Opened::open(&image.bootstrap(), &config).unwrap();
    assert!(read_all(&opened, image.files(), name).failed.is_empty());
    opened.kill();
    copy_files(&cache, &whole);

    let mut rng = Rng::new(u64::from_le_bytes(*b"the cach") ^ name.len() as u64);
    let mut rejected = 0;
    for round in 0..rounds {
        // Into the same files: they stay those that the cache trusts, and only validation can notice.
        copy_files(&whole, &cache);
        let files = |dir: &Path| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let own = cache.join("nydusd");
        let all: Vec<PathBuf> = files(&cache).filter(|file| file.is_file()).chain(files(&own)).collect();
        let data: Vec<PathBuf> = all.iter().filter(|file| is_data(file)).cloned().collect();
        // Every fifth round hits what describes the data: maps, tables, our own records.
        let only_data = round % 5 != 4;
        let flips: Vec<Flip> =
            (0..10).map(|_| random_flip(&mut rng, if only_data { &data } else { &all })).collect();
        flips.iter().for_each(Flip::apply);
        let context = format!("{name}, {caching:?}, cache with {flips:?}");
        match Opened::open(&image.bootstrap(), &config) {
            Ok(opened) => {
                let outcome = read_all(&opened, image.files(), &context);
                assert!(outcome.failed.is_empty(), "{context}: not healed: {:?}", outcome.failed);
                rejected += opened.metrics().cache_chunks_rejected.get();
                opened.kill();
            }
            Err(error) => assert!(!only_data, "{context}: refused: {error:#}"),
        }
    }
    (rounds * 10, rejected)
}

fn is_data(file: &Path) -> bool {
    file.extension().is_some_and(|suffix| suffix == "data" || suffix == "raw")
}

fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy_files(&entry.path(), &to.join(entry.file_name()));
            continue;
        }
        fs::write(to.join(entry.file_name()), fs::read(entry.path()).unwrap()).unwrap();
    }
}

#[test]
fn five_hundred_flips_of_caches() {
    let cases = [
        ("v5-lz4-sha256", Caching::Plain, 10),
        ("v5-zstd-blake3", Caching::Compressed, 10),
        ("v6-zstd", Caching::Plain, 10),
        ("v6-lz4-4k-sha256", Caching::Plain, 10),
        ("v6-batch-toc", Caching::Plain, 5),
        ("v6-zran", Caching::Plain, 5),
        ("v6-none", Caching::Encrypted, 5),
        ("v6-lz4-4k-sha256", Caching::Compressed, 5),
    ];
    let results = cases.map(|(name, caching, rounds)| flip_cache(name, caching, rounds));
    let flips: usize = results.iter().map(|result| result.0).sum();
    let rejected: u64 = results.iter().map(|result| result.1).sum();
    println!("{flips} flips, {rejected} cached chunks thrown away");
    assert!(flips >= 500);
    assert!(rejected > 100, "only {rejected} cached chunks were found bad");
}
