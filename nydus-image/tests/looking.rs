//! `inspect`, `check --verbose`, `stat` and `export` on an image whose content is known.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use support::{nydus_image, nydus_image_ok};
use tempfile::TempDir;

/// A tree of few files, built as `version` into `bootstrap` and `blobs`.
fn image(version: &str, compressor: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir_all(source.join("sub")).unwrap();
    fs::create_dir(dir.path().join("blobs")).unwrap();
    fs::write(source.join("a"), "x".repeat(10_000)).unwrap();
    fs::write(source.join("sub/same"), "x".repeat(10_000)).unwrap();
    fs::write(source.join("sub/one"), "1").unwrap();
    fs::write(source.join("empty"), "").unwrap();
    fs::hard_link(source.join("sub/one"), source.join("sub/two")).unwrap();
    std::os::unix::fs::symlink("a", source.join("link")).unwrap();
    nydus_image_ok(&[
        "create",
        "-l",
        "warn",
        "--fs-version",
        version,
        "--compressor",
        compressor,
        "--chunk-size=0x1000",
        "--prefetch-policy=none",
        "-B",
        &path(&dir, "bootstrap"),
        "-D",
        &path(&dir, "blobs"),
        &path(&dir, "source"),
    ]);
    dir
}

fn path(dir: &TempDir, name: &str) -> String {
    dir.path().join(name).to_str().unwrap().to_owned()
}

fn ask(dir: &TempDir, request: &str) -> (Option<i32>, String, String) {
    let output = nydus_image(&["inspect", &path(dir, "bootstrap"), "-R", request]);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn requests_are_answered_and_what_cannot_be_is_an_error() {
    for version in ["5", "6"] {
        let dir = image(version, "zstd");
        let told = |request: &str| {
            let (code, stdout, stderr) = ask(&dir, request);
            assert_eq!(code, Some(0), "{request}: {stderr}");
            stdout
        };
        let list = told("ls");
        let names: Vec<_> = list.lines().filter_map(|line| line.split('"').nth(1)).collect();
        assert_eq!(names, ["a", "empty", "link", "sub"]);
        assert!(list.starts_with("-    ") && list.contains("\nl    ") && list.ends_with("\nnull"), "{list}");
        let stat = told("stat sub/two");
        assert!(
            stat.contains("Nlink:              2\n") && stat.contains("Size:               1\n"),
            "{stat}"
        );
        assert_eq!(stat.matches("chunk id:").count(), 1);
        let ino = stat.lines().find_map(|line| line.strip_prefix("Inode Number:")).unwrap().trim();
        assert!(told(&format!("icheck {ino}")).starts_with("/sub/one\n/sub/two\n"));
        assert_eq!(told("chunk 0").matches("File: ").count(), 4, "two files with two equal chunks each");
        assert_eq!(told("cd sub"), "null");
        assert!(told("help").contains("icheck INODE"));
        assert_eq!(serde_json::from_str::<Value>(&told("prefetch")).unwrap(), json!([]));
        assert!(told("stats").starts_with("{\"inodes_count\":"));
        for (request, reason) in [
            ("nonsense", "unsupported command: nonsense"),
            ("stat", "unsupported command: stat"),
            ("stat none", "none: is not in the image"),
            ("cd a", "a: is not a directory"),
            ("cd a/b", "leads through something that is not a directory"),
            ("chunk x", "is not a number"),
            ("chunk 99999999999999999999", "is not a number"),
            ("chunk 4294967295", "no chunk"),
            ("icheck 18446744073709551615", "no entry has inode"),
        ] {
            let (code, stdout, stderr) = ask(&dir, request);
            assert_eq!((code, stdout.as_str()), (Some(1), ""), "{request}");
            assert!(stderr.contains(reason), "{request}: {stderr}");
        }
    }
}

#[test]
fn a_conversation_goes_on_after_errors_and_ends_with_its_input() {
    let dir = image("6", "none");
    let talk = |lines: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_nydus-image"))
            .args(["inspect", &path(&dir, "bootstrap")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let names = |told: &str| -> Vec<String> {
        told.lines().filter_map(|line| Some(line.split('"').nth(1)?.to_owned())).collect()
    };
    assert_eq!(names(&talk("cd sub\nls\n")), ["one", "same", "two"]);
    assert_eq!(names(&talk("cd sub\ncd none\n\ncd ..\ncd /sub/../sub\nls")), ["one", "same", "two"]);
    assert_eq!(talk("exit\nls\n"), "");
    assert_eq!(talk("q\nls\n"), "");
}

#[test]
fn check_tells_every_inode_and_chunk_when_asked() {
    for version in ["5", "6"] {
        let dir = image(version, "lz4_block");
        let output = nydus_image_ok(&["check", "-v", &path(&dir, "bootstrap")]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.matches("inode: ").count(), 8, "the root and seven names");
        // Three in each of two files, one in each of two names.
        assert_eq!(text.matches("\t chunk: id ").count(), 8);
        assert!(text.contains("inode: hardlink \"/sub/two\": ino "), "{text}");
        assert!(text.contains("RAFS filesystem metadata is valid"));
    }
}

#[test]
fn what_images_hold_and_share_is_counted() {
    let dir = image("6", "none");
    let (bootstrap, json) = (path(&dir, "bootstrap"), path(&dir, "stat.json"));
    nydus_image_ok(&["stat", "-B", &bootstrap, "-T", &bootstrap, "-J", &json]);
    let found: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let base = &found["base_image"];
    assert_eq!((&found["dedup_enabled"], &found["target_enabled"]), (&json!(false), &json!(true)));
    for (key, expected) in [
        ("dirs", 2),
        ("files", 5),
        ("symlinks", 1),
        ("chunks", 7),
        ("file_size", 20_001),
        ("comp_size", 20_001),
        ("uncomp_size", 7 * 4096),
        ("padding_size", 7 * 4096 - 20_001),
        ("own_chunks", 3),
        ("own_uncomp_size", 4096 + 10_000 % 4096 + 1),
    ] {
        assert_eq!(base[key], json!(expected), "{key}");
    }
    assert_eq!(base["chunk_sizes"], json!([7, 5, 3, 3, 3, 3, 3, 3, 3]));
    let sizes = base["file_sizes"].as_array().unwrap();
    assert_eq!((sizes.len(), &sizes[0], &sizes[1], &sizes[14]), (45, &json!(1), &json!(1), &json!(2)));
    assert_eq!(found["target_image"]["ref_chunks"], json!(3));
    assert_eq!(found["target_image"]["own_chunks"], json!(0));

    let images = dir.path().join("images");
    fs::create_dir(&images).unwrap();
    for name in ["one", "two", "two.external"] {
        fs::copy(&bootstrap, images.join(name)).unwrap();
    }
    nydus_image_ok(&["stat", "-D", images.to_str().unwrap(), "-J", &json]);
    let found: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    assert_eq!(found["dedup_enabled"], json!(true));
    assert_eq!(found["base_image"]["own_chunks"], json!(6));
    assert_eq!(found["base_image"]["dedup_chunks"], json!(3));
}

/// The root of the hash tree over blocks of 4096 bytes, level by level as the format describes it, and the number of
/// data blocks.
fn root_hash(disk: &[u8], data: usize) -> String {
    let digests = |bytes: &[u8]| -> Vec<u8> { bytes.chunks(4096).flat_map(Sha256::digest).collect() };
    let mut level = digests(&disk[..data]);
    let mut end = disk.len();
    while level.len() > 32 {
        level.resize(level.len().next_multiple_of(4096), 0);
        // The lowest level lies last.
        assert!(disk[end - level.len()..end] == level, "a level of the tree");
        end -= level.len();
        level = digests(&level);
    }
    assert_eq!(end, data, "nothing between data and tree");
    level.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn an_exported_disk_has_the_blob_where_the_bootstrap_says_and_a_hash_tree() {
    let dir = image("6", "zstd");
    let (bootstrap, blobs, disk) = (path(&dir, "bootstrap"), path(&dir, "blobs"), path(&dir, "disk"));
    let output = nydus_image_ok(&[
        "export",
        "--block",
        "--verity",
        "-B",
        &bootstrap,
        "-D",
        &blobs,
        "-O",
        &disk,
        "--threads",
        "2",
    ]);
    let (boot, disk) = (fs::read(&bootstrap).unwrap(), fs::read(&disk).unwrap());
    assert!(disk.starts_with(&boot));
    let opened = rafs::Bootstrap::open(Path::new(&bootstrap), &rafs::OpenOptions::default()).unwrap();
    let [(start, len)] = opened.disk_layout().unwrap().unwrap()[..] else { panic!("one blob") };
    assert!(disk[boot.len()..start as usize].iter().all(|byte| *byte == 0));
    let data = (start + len) as usize;
    let blob = &disk[start as usize..data];
    assert_eq!(&blob[..4096], [b'x'; 4096]);
    assert_eq!(blob.iter().filter(|byte| **byte == b'1').count(), 1);
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        format!(
            "dm-verity options: --no-superblock --format=1 -s \"\" --hash=sha256 --data-block-size=4096 \
             --hash-block-size=4096 --data-blocks {} --hash-offset {data} {}\n",
            data / 4096,
            root_hash(&disk, data)
        )
    );

    // Without a tree, and under the name that it has by itself.
    nydus_image_ok(&["export", "--block", "-B", &bootstrap, "-D", &blobs]);
    assert!(fs::read(format!("{bootstrap}.disk")).unwrap() == disk[..data]);
    let old = image("5", "zstd");
    let output =
        nydus_image(&["export", "--block", "-B", &path(&old, "bootstrap"), "-D", &path(&old, "blobs")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("RAFS v5"));
}
