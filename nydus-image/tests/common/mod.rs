//! What the tests of the commands share: running the program, the fixtures, and trees to build from.
#![allow(dead_code, reason = "each test program takes what it needs")]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rafs::build::{BlobEntry, Content, ImageOptions, Tree, read_blobs, read_tree};
use rafs::{Bootstrap, OpenOptions};
use tempfile::TempDir;

/// Runs `nydus-image` with `stdin`.
pub fn nydus_image(args: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_nydus-image"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that does not read its input has closed it.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

/// Builds `source` into `out`, and opens the bootstrap.
pub fn create(
    source: &Path,
    out: &Path,
    flags: &[&str],
    stdin: &str,
) -> (Tree, ImageOptions, Vec<BlobEntry>) {
    let blobs = out.join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    let bootstrap = out.join("bootstrap");
    let mut args = vec!["create", "-B", bootstrap.to_str().unwrap(), "-D", blobs.to_str().unwrap()];
    args.extend(flags);
    args.push(source.to_str().unwrap());
    let output = nydus_image(&args, stdin);
    assert!(output.status.success(), "{flags:?}: {}", String::from_utf8_lossy(&output.stderr));
    open(&bootstrap)
}

pub fn open(bootstrap: &Path) -> (Tree, ImageOptions, Vec<BlobEntry>) {
    let bootstrap = Bootstrap::open(bootstrap, &OpenOptions::default()).unwrap();
    let (mut tree, options) = read_tree(&bootstrap).unwrap();
    for node in &mut tree.nodes {
        node.xattrs.sort();
    }
    (tree, options, read_blobs(&bootstrap))
}

/// The fixture images, and the layers they were built from, with all that only root may set.
pub fn fixtures() -> Option<TempDir> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: owners, devices and trusted attributes of the sources need root");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let archive = fs::File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/images.tar.zst"));
    let mut decoder = zstd::Decoder::new(archive.unwrap()).unwrap();
    decoder.window_log_max(27).unwrap();
    tar::Archive::new(decoder).unpack(dir.path()).unwrap();
    // GNU tar restores what the crate does not: nanoseconds.
    let status = Command::new("tar")
        .args(["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", "src.tar"])
        .current_dir(dir.path())
        .status();
    match status {
        Ok(status) if status.success() => Some(dir),
        other => {
            eprintln!("SKIPPED: the sources cannot be unpacked with tar: {other:?}");
            None
        }
    }
}

pub fn blob_ids(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut ids: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    ids.sort();
    ids
}

/// Forgets what depends on the version of libzstd, and on a random key.
pub fn without_stored(mut tree: Tree) -> Tree {
    for node in &mut tree.nodes {
        let Content::Regular { chunks, .. } = &mut node.content else { continue };
        for chunk in chunks {
            (chunk.stored.compressed_size, chunk.stored.compressed_offset) = (0, 0);
        }
    }
    tree
}

/// A tree from a seed: text that compresses, noise, duplicates, holes, links.
pub fn random_tree(root: &Path, seed: u64) {
    let mut state = seed;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut directories = vec![root.to_path_buf()];
    for number in 0..250 {
        let parent = directories[random(directories.len() as u64) as usize].clone();
        let path = parent.join(format!("n{number}"));
        let size = [0, 1, 4096, 5000, 70_000, 300_000][random(6) as usize] as usize;
        match random(8) {
            0 => {
                fs::create_dir(&path).unwrap();
                directories.push(path);
            }
            1 => std::os::unix::fs::symlink(format!("to-{number}"), &path).unwrap(),
            2 => fs::write(&path, vec![7; size]).unwrap(),
            3 => fs::File::create(&path).unwrap().set_len(size as u64 * 3).unwrap(),
            4 => fs::write(&path, (0..size).map(|_| random(256) as u8).collect::<Vec<_>>()).unwrap(),
            5 => {
                fs::write(&path, format!("linked {number}")).unwrap();
                fs::hard_link(&path, parent.join(format!("l{number}"))).unwrap();
            }
            _ => fs::write(&path, format!("line {}\n", number % 20).repeat(size / 8)).unwrap(),
        }
    }
}
