//! Images become tars, and GNU tar makes of them what the images were built from.
#![allow(clippy::unwrap_used)]

mod support;
#[path = "support/tree.rs"]
mod tree;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use nydus_image::image::Image;
use nydus_image::unpack::unpack;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rafs::build::{Content, ImageOptions, Node, Tree, write_bootstrap};
use rafs::{Bootstrap, OpenOptions, Version};
use storage::backend::localfs::{LocalFs, LocalFsConfig};

use support::{nydus_image, nydus_image_ok};
use tree::missing;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Has GNU tar extract what it reads, as the help of the command says.
fn gnu_tar(into: &Path) -> Command {
    fs::create_dir_all(into).unwrap();
    let mut command = Command::new("tar");
    command
        .args(["--warning=no-timestamp", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf"])
        .current_dir(into);
    command
}

/// Builds `source`, and answers digest of the bootstrap and names of the blobs.
fn create(source: &Path, out: &Path, flags: &[&str]) -> (Vec<u8>, Vec<String>) {
    let (bootstrap, blobs) = (out.join("bootstrap"), out.join("blobs"));
    fs::create_dir_all(&blobs).unwrap();
    let mut args = vec!["create", "-l", "warn", "-B", text(&bootstrap), "-D", text(&blobs)];
    args.extend(flags);
    args.push(text(source));
    nydus_image_ok(&args);
    let names = fs::read_dir(blobs).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    (fs::read(bootstrap).unwrap(), names)
}

#[test]
fn extraction_equals_the_source_and_building_it_again_is_a_fixed_point() {
    if let Some(reason) = missing() {
        eprintln!("SKIPPED: {reason}");
        return;
    }
    const FLAGS: [&[&str]; 5] = [
        &["--chunk-size=0x1000", "--compressor=lz4_block"],
        &["--fs-version=5", "--compressor=zstd", "--digester=sha256"],
        &["--batch-size=0x10000", "--features=blob-toc"],
        &["--compressor=none", "--chunk-size=0x10000"],
        &["--fs-version=5", "--compressor=none", "--aligned-chunk"],
    ];
    let config = Config { cases: 15, failure_persistence: None, max_shrink_iters: 40, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let number = std::cell::Cell::new(0);
    let run = TestRunner::new_with_rng(config, rng).run(&tree::nodes(60), |nodes| {
        let flags = FLAGS[number.get() % FLAGS.len()];
        number.set(number.get() + 1);
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("source")).unwrap();
        tree::make(&at("source"), &nodes);
        let built = create(&at("source"), &at("image"), flags);
        let (bootstrap, blobs, tar) = (at("image/bootstrap"), at("image/blobs"), at("image.tar"));
        nydus_image_ok(&["unpack", "-B", text(&bootstrap), "-D", text(&blobs), "--output", text(&tar)]);
        assert!(gnu_tar(&at("extracted")).arg(&tar).status().unwrap().success());
        assert_eq!(tree::list(&at("extracted")), tree::list(&at("source")), "{flags:?}");
        let again = create(&at("extracted"), &at("again"), flags);
        assert_eq!(again.1, built.1, "{flags:?}: blobs");
        assert!(again.0 == built.0, "{flags:?}: bootstraps");

        // The same without a filesystem in between. What is built from a tar has whole seconds, so only the second
        // tar is one that comes back.
        let of_tar = [flags, &["--type=tar-rafs"]].concat();
        let from_tar = create(&tar, &at("from-tar"), &of_tar);
        assert_eq!(from_tar.1, built.1, "{flags:?}: blobs of the tar");
        let (bootstrap, blobs, tar_again) =
            (at("from-tar/bootstrap"), at("from-tar/blobs"), at("from-tar/tar"));
        nydus_image_ok(&["unpack", "-B", text(&bootstrap), "-D", text(&blobs), "--output", text(&tar_again)]);
        let once_more = create(&tar_again, &at("once-more"), &of_tar);
        assert_eq!(once_more.1, from_tar.1, "{flags:?}: blobs of the second tar");
        assert!(once_more.0 == from_tar.0, "{flags:?}: bootstraps of the second tar");
        Ok(())
    });
    run.unwrap();
}

/// An image of one file each of text, noise and nothing; its directory, bootstrap and blob.
fn small_image(dir: &Path) -> (String, String, Vec<u8>) {
    let source = dir.join("source");
    fs::create_dir(&source).unwrap();
    let mut state = 1u32;
    let noise: Vec<u8> = (0..300_000)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    fs::write(source.join("noise"), &noise).unwrap();
    fs::write(source.join("text"), "text ".repeat(40_000)).unwrap();
    fs::write(source.join("empty"), "").unwrap();
    let (_, blobs) = create(&source, dir, &["--chunk-size=0x10000"]);
    (text(&dir.join("bootstrap")).into(), text(&dir.join("blobs").join(&blobs[0])).into(), noise)
}

#[test]
fn a_tar_goes_to_a_file_a_fifo_or_standard_output_and_threads_make_no_difference() {
    let dir = tempfile::tempdir().unwrap();
    let (bootstrap, blob, noise) = small_image(dir.path());
    let file = dir.path().join("tar");
    nydus_image_ok(&["unpack", &bootstrap, "-b", &blob, "--threads", "1", "--output", text(&file)]);
    let expected = fs::read(&file).unwrap();
    let output = nydus_image_ok(&["unpack", &bootstrap, "-b", &blob, "--threads", "7", "--output", "-"]);
    assert!(output.stdout == expected, "on standard output");

    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let settings = format!(r#"{{"blob_file": {blob:?}}}"#);
    let args = [
        "unpack",
        &bootstrap,
        "--backend-type=localfs",
        "--backend-config",
        &settings,
        "--output",
        text(&fifo),
    ];
    let mut child = Command::new(env!("CARGO_BIN_EXE_nydus-image")).args(args).spawn().unwrap();
    let mut through = Vec::new();
    File::open(&fifo).unwrap().read_to_end(&mut through).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(through == expected, "through a FIFO");

    let mut archive = tar::Archive::new(expected.as_slice());
    let mut contents = HashMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        contents.insert(entry.path().unwrap().into_owned(), content);
    }
    assert!(contents[Path::new("noise")] == noise);
    assert_eq!(contents[Path::new("empty")], b"");
    assert_eq!(contents.len(), 4, "the root and three files");
}

#[test]
fn damage_is_named_and_leaves_no_tar() {
    let dir = tempfile::tempdir().unwrap();
    let (bootstrap, blob, _) = small_image(dir.path());
    let good = fs::read(&blob).unwrap();
    let tar = dir.path().join("tar");
    let args = ["unpack", &bootstrap, "-b", &blob, "--output", text(&tar)];
    let failed = |what: &str, expected: &str| {
        let output = nydus_image(&args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{what}: {stderr}");
        assert!(stderr.contains(expected), "{what}: {stderr}");
        assert!(!tar.exists(), "{what}");
    };
    let mut bad = good.clone();
    bad[100_000] ^= 1;
    fs::write(&blob, &bad).unwrap();
    failed("a flipped bit", "digest is");
    fs::write(&blob, &good[..200_000]).unwrap();
    failed("a short blob", "200000");
    fs::remove_file(&blob).unwrap();
    failed("no blob", "not found");
    fs::write(&blob, &good).unwrap();
    nydus_image_ok(&args);
    let leftovers = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(!leftovers.into_iter().any(|name| name.as_bytes().ends_with(b".tmp")));
}

/// An image without data.
fn without_data(tree: &Tree, version: Version) -> Image {
    let bytes = write_bootstrap(tree, &[], &ImageOptions::new(version)).unwrap();
    let bootstrap = Bootstrap::from_bytes(bytes, "made", &OpenOptions::default()).unwrap();
    let config = LocalFsConfig { dir: Some("/none".into()), ..LocalFsConfig::default() };
    Image::new(bootstrap, Arc::new(LocalFs::new(config).unwrap()), 2).unwrap()
}

fn empty_file(name: Vec<u8>, mode: u32) -> Node {
    Node::new(name, mode, Content::Regular { size: 0, chunks: Vec::new() })
}

#[test]
fn a_directory_of_100000_files_is_unpacked() {
    let mut made = Tree::new(Node::directory("", 0o755));
    for number in 0..100_000 {
        made.add(Tree::ROOT, empty_file(format!("file-{number:06}").into_bytes(), 0o100_644));
    }
    for version in [Version::V5, Version::V6] {
        let mut bytes = Vec::new();
        let sink = |some: &[u8]| {
            bytes.extend_from_slice(some);
            Ok(())
        };
        unpack(&without_data(&made, version), sink).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut entries = archive.entries().unwrap();
        assert_eq!(&*entries.next().unwrap().unwrap().path_bytes(), b"./");
        for number in 0..100_000 {
            let entry = entries.next().unwrap().unwrap();
            assert_eq!(&*entry.path_bytes(), format!("file-{number:06}").as_bytes());
        }
        assert!(entries.next().is_none());
    }
}

#[test]
fn a_depth_of_500_and_a_socket_are_no_obstacle() {
    if let Some(reason) = missing() {
        eprintln!("SKIPPED: {reason}");
        return;
    }
    let mut made = Tree::new(Node::directory("", 0o755));
    let mut parent = Tree::ROOT;
    for depth in 0..500 {
        made.add(parent, empty_file(b"a file".to_vec(), 0o100_600));
        made.add(parent, Node::new("socket", 0o140_755, Content::Special));
        parent = made.add(parent, Node::directory(format!("d{}", depth % 10), 0o755));
    }
    for version in [Version::V5, Version::V6] {
        let dir = tempfile::tempdir().unwrap();
        let mut child = gnu_tar(&dir.path().join("out")).arg("-").stdin(Stdio::piped()).spawn().unwrap();
        let mut pipe = child.stdin.take().unwrap();
        let sink = |some: &[u8]| {
            std::io::Write::write_all(&mut pipe, some).unwrap();
            Ok(())
        };
        unpack(&without_data(&made, version), sink).unwrap();
        drop(pipe);
        assert!(child.wait().unwrap().success());
        let found = tree::list(&dir.path().join("out"));
        assert_eq!(found.len(), 1 + 500 * 2, "the root, directories, files, and no socket");
        assert_eq!(found.keys().map(Vec::len).max(), Some(499 * 3 + 6));
    }
}
