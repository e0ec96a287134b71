//! Images that `nydus-image` rewrote, or built on others, are what they were to the daemon.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use nydus_image::cli::{Cli, Command};
use nydus_image::command;
use nydus_tests::config::Config;
use nydus_tests::daemon::{Launch, Scratch};
use nydus_tests::fixtures::Image;
use nydus_tests::in_process::Opened;
use nydus_tests::require_mounts;
use nydus_tests::rng::Rng;
use tempfile::TempDir;

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// Runs a command of `nydus-image` in this process.
fn nydus_image(args: &[&str]) {
    let all = ["nydus-image"].iter().chain(args);
    let cli = Cli::parse_from(all);
    let done = match cli.command.unwrap() {
        Command::Create(args) => command::create::run(&args, &cli.global),
        Command::Compact(args) => command::compact::run(&args, &cli.global),
        Command::Optimize(args) => command::optimize::run(&args, &cli.global),
        Command::Chunkdict(args) => command::chunkdict::run(&args, &cli.global),
        other => panic!("{other:?}"),
    };
    done.unwrap_or_else(|error| panic!("{args:?}: {error}"));
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A directory with a copy of the blobs of an image.
fn copied(image: &Image) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let blobs = dir.path().join("blobs");
    fs::create_dir(&blobs).unwrap();
    for file in image.blob_files() {
        fs::copy(&file, blobs.join(file.file_name().unwrap())).unwrap();
    }
    (dir, blobs)
}

/// Reads all files as the daemon does.
fn assert_read(
    bootstrap: &Path,
    blobs: &Path,
    cache: &Path,
    files: &BTreeMap<PathBuf, impl AsRef<[u8]>>,
    name: &str,
) {
    let opened = Opened::open(bootstrap, &Config::new(blobs, cache)).unwrap();
    for (path, content) in files {
        let found = opened.read(path).unwrap_or_else(|error| panic!("{name}: {}: {error}", path.display()));
        assert!(found == content.as_ref(), "{name}: {} differs", path.display());
    }
    opened.close();
}

#[test]
fn optimized_images_are_read() {
    for name in ["v6-zstd", "v6-batch-toc", "v6-encrypt", "v6-lz4-4k-sha256", "v6-merge", "v6-zran"] {
        let image = Image::named(name);
        let (dir, blobs) = copied(&image);
        let (list, output) = (dir.path().join("list"), dir.path().join("boot"));
        let names: Vec<String> = image
            .files()
            .keys()
            .filter_map(|path| Some(format!("/{}\n", path.to_str()?)))
            .step_by(2)
            .collect();
        fs::write(&list, names.concat()).unwrap();
        let bootstrap = image.bootstrap();
        nydus_image(&[
            "optimize",
            "-B",
            text(&bootstrap),
            "-p",
            text(&list),
            "-D",
            text(&blobs),
            "-O",
            text(&output),
        ]);
        assert_eq!(fs::read_dir(&blobs).unwrap().count(), image.blob_files().len() + 1, "{name}");
        assert_read(&output, &blobs, &dir.path().join("cache"), image.files(), name);
    }
}

#[test]
fn compacted_images_are_read() {
    for name in ["v6-merge", "v5-parent"] {
        let image = Image::named(name);
        let (dir, blobs) = copied(&image);
        let (old, output) = (blobs, dir.path().join("boot"));
        let blobs = dir.path().join("new");
        fs::create_dir(&blobs).unwrap();
        let bootstrap = image.bootstrap();
        nydus_image(&[
            "compact",
            "-B",
            text(&bootstrap),
            "-D",
            text(&blobs),
            "--layers-to-compact",
            "0",
            "-O",
            text(&output),
            "--backend-type",
            "localfs",
            "--backend-config",
            &format!(r#"{{"dir":"{}"}}"#, text(&old)),
        ]);
        // All are small, and become one.
        assert_eq!(fs::read_dir(&blobs).unwrap().count(), 1, "{name}");
        assert_read(&output, &blobs, &dir.path().join("cache"), image.files(), name);
    }
}

/// A tree of small and large files: what `seeds` names is the same wherever it is.
fn tree(dir: &Path, seeds: &[u64]) -> Files {
    fs::create_dir_all(dir).unwrap();
    let mut files = Files::new();
    for &seed in seeds {
        let mut rng = Rng::new(seed);
        let len = if seed % 5 == 0 { 70_000 + seed as usize } else { 100 + 301 * seed as usize };
        // Every other byte is zero, so that it can be compressed.
        let content: Vec<u8> =
            (0..len).map(|at| if at % 2 == 0 { 0 } else { (rng.below(256)) as u8 }).collect();
        let path = PathBuf::from(format!("file-{seed}"));
        fs::write(dir.join(&path), &content).unwrap();
        files.insert(path, content);
    }
    files
}

/// Every way to write blobs that others may refer to.
const WAYS: [&[&str]; 6] = [
    &[],
    &["--batch-size", "0x4000"],
    &["--batch-size", "0x4000", "--features", "blob-toc", "--compressor", "lz4_block"],
    &["--encrypt"],
    &["--fs-version", "5"],
    &["--fs-version", "5", "--aligned-chunk", "--compressor", "lz4_block"],
];

#[test]
fn chunks_of_parents_and_dictionaries_are_read() {
    for way in WAYS {
        for option in ["--parent-bootstrap", "--chunk-dict"] {
            let dir = tempfile::tempdir().unwrap();
            let (lower, upper, blobs) =
                (dir.path().join("lower"), dir.path().join("upper"), dir.path().join("blobs"));
            fs::create_dir(&blobs).unwrap();
            let mut expected = tree(&lower, &[1, 2, 3, 4, 5, 6, 7]);
            let above = tree(&upper, &[3, 4, 5, 11, 12, 20]);
            if option == "--chunk-dict" {
                expected.clear();
            }
            expected.extend(above);
            let build = |source: &Path, name: &str, extra: &[&str]| {
                let bootstrap = dir.path().join(name);
                let mut args = vec!["create", "-D", text(&blobs), "-B", text(&bootstrap)];
                args.extend(["--chunk-size", "0x8000"]);
                args.extend(way);
                args.extend(extra);
                args.push(text(source));
                nydus_image(&args);
                bootstrap
            };
            let below = build(&lower, "lower.boot", &[]);
            let bootstrap = build(&upper, "upper.boot", &[option, text(&below)]);
            assert_eq!(fs::read_dir(&blobs).unwrap().count(), 2, "{way:?}");
            let what = format!("{way:?} {option}");
            assert_read(&bootstrap, &blobs, &dir.path().join("cache"), &expected, &what);
            // The second blob has only what is new: 20 has three chunks, 11 and 12 one.
            let opened = rafs::Bootstrap::open(&bootstrap, &rafs::OpenOptions::default()).unwrap();
            let counts: Vec<u32> = opened.blobs().iter().map(|blob| blob.chunk_count).collect();
            assert_eq!(counts.len(), 2, "{what}");
            assert_eq!(counts[1], 5, "{what}");
        }
    }
}

#[test]
fn a_cache_that_was_built_needs_no_blob() {
    require_mounts!();
    for way in [&[][..], &["--batch-size", "0x4000"], &["--fs-version", "5"]] {
        let scratch = Scratch::new();
        let (source, cache) = (scratch.path("src"), scratch.path("built"));
        fs::create_dir(&cache).unwrap();
        let files = tree(&source, &[1, 2, 3, 5, 10]);
        let bootstrap = scratch.path("boot");
        let mut args = vec!["create", "-B", text(&bootstrap), "--blob-cache-dir", text(&cache)];
        args.extend(["--chunk-size", "0x8000"]);
        args.extend(way);
        args.push(text(&source));
        nydus_image(&args);
        let nowhere = scratch.path("nowhere");
        let config = scratch.path("config.json");
        fs::write(&config, Config::new(&nowhere, &cache).to_text()).unwrap();
        let mountpoint = scratch.path("mnt-built");
        fs::create_dir(&mountpoint).unwrap();
        let daemon = Launch::new(&mountpoint)
            .option("--config", &config)
            .option("--bootstrap", &bootstrap)
            .socket(&scratch.path("built.sock"))
            .start();
        for (path, content) in &files {
            assert!(fs::read(mountpoint.join(path)).unwrap() == *content, "{way:?}: {}", path.display());
        }
        assert_eq!(daemon.backend_reads().bytes, 0, "{way:?}");
        daemon.unmount();
    }
}
