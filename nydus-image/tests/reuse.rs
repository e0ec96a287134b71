//! What images built on others say of their blobs, and how blobs are laid out on request.
#![allow(clippy::unwrap_used)]

mod images;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use images::{blobs_in, create, noise, run, text, verified_files};
use nydus_image::layers::Layer;
use nydus_image::repack::UsedChunks;
use rafs::build::Content;

/// A tree of files: name, seed of the content, length.
fn tree(dir: &Path, files: &[(&str, u64, usize)]) -> PathBuf {
    fs::create_dir_all(dir).unwrap();
    for (name, seed, len) in files {
        fs::write(dir.join(name), noise(*seed, *len)).unwrap();
    }
    dir.to_owned()
}

/// The chunk counts of the blobs of an image, and which blob each file's first chunk is in.
fn layout(bootstrap: &Path) -> (Vec<u32>, Vec<(String, u32)>) {
    let image = Layer::load(bootstrap).unwrap();
    let mut files: Vec<_> = image
        .tree
        .nodes
        .iter()
        .filter_map(|node| match &node.content {
            Content::Regular { chunks, .. } => {
                Some((String::from_utf8(node.name.clone()).unwrap(), chunks.first()?.blob_index))
            }
            _ => None,
        })
        .collect();
    files.sort();
    (image.blobs.iter().map(|blob| blob.description.chunk_count).collect(), files)
}

#[test]
fn blobs_of_dictionaries_come_in_the_order_of_their_use() {
    for version in ["5", "6"] {
        let dir = tempfile::tempdir().unwrap();
        let flags = ["--fs-version", version, "--chunk-size", "0x1000"];
        let first = tree(&dir.path().join("1"), &[("a", 1, 100), ("b", 2, 200)]);
        let second = tree(&dir.path().join("2"), &[("c", 3, 300)]);
        let unused = tree(&dir.path().join("3"), &[("d", 4, 400)]);
        // A dictionary of three blobs.
        let one = create(&first, dir.path(), "one", &flags);
        let over = |parent: &Path, source: &Path, name: &str| {
            create(source, dir.path(), name, &[&flags[..], &["--parent-bootstrap", text(parent)]].concat())
        };
        let two = over(&one, &second, "two");
        let dictionary = over(&two, &unused, "three");
        assert_eq!(layout(&dictionary).0, [2, 1, 1]);
        // The second blob of the dictionary is met first, then the new one, then the first.
        let source = tree(&dir.path().join("4"), &[("e", 3, 300), ("f", 5, 500), ("g", 1, 100)]);
        let built =
            create(&source, dir.path(), "new", &[&flags[..], &["--chunk-dict", text(&dictionary)]].concat());
        let files = [("e", 0), ("f", 1), ("g", 2)].map(|(name, blob)| (name.to_owned(), blob));
        assert_eq!(layout(&built), (vec![1, 1, 2], files.to_vec()), "version {version}");
        let ids = |bootstrap: &Path| -> Vec<_> {
            let blobs = Layer::load(bootstrap).unwrap().blobs;
            blobs.into_iter().map(|blob| blob.description.id).collect()
        };
        let (all, used) = (ids(&dictionary), ids(&built));
        assert_eq!((&used[0], &used[2]), (&all[1], &all[0]));
        verified_files(&built, &dir.path().join("blobs"));
    }
}

#[test]
fn a_parents_blobs_all_stay_and_come_first() {
    for version in ["5", "6"] {
        let dir = tempfile::tempdir().unwrap();
        let flags = ["--fs-version", version, "--chunk-size", "0x1000"];
        let below = create(&tree(&dir.path().join("1"), &[("a", 1, 100)]), dir.path(), "below", &flags);
        // The only file is replaced: nothing of the lower blob is used any more.
        let above = tree(&dir.path().join("2"), &[("a", 2, 200)]);
        let flags = [&flags[..], &["--parent-bootstrap", text(&below)]].concat();
        let built = create(&above, dir.path(), "above", &flags);
        assert_eq!(layout(&built), (vec![1, 1], vec![("a".to_owned(), 1)]), "version {version}");
        verified_files(&built, &dir.path().join("blobs"));
        // Nothing but what the parent has: no blob of its own.
        let same = create(&tree(&dir.path().join("3"), &[("b", 1, 100)]), dir.path(), "same", &flags);
        assert_eq!(layout(&same).0, [1], "version {version}");
        verified_files(&same, &dir.path().join("blobs"));
    }
}

#[test]
fn aligned_chunks_begin_at_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let source = tree(&dir.path().join("src"), &[("a", 1, 5000), ("b", 2, 100), ("c", 3, 9000)]);
    let offsets = |name: &str, flags: &[&str]| -> (Vec<u64>, u64) {
        let all = [&["--fs-version", "5", "--chunk-size", "0x1000"], flags].concat();
        let bootstrap = create(&source, dir.path(), name, &all);
        verified_files(&bootstrap, &dir.path().join("blobs"));
        let image = Layer::load(&bootstrap).unwrap();
        let used = UsedChunks::of(&image.tree);
        let offsets = used.of_blob(0).map(|chunk| chunk.uncompressed_offset).collect();
        (offsets, image.blobs[0].description.uncompressed_size)
    };
    assert_eq!(offsets("packed", &[]), (vec![0, 4096, 5000, 5100, 9196, 13292], 14100));
    let aligned = offsets("aligned", &["--aligned-chunk"]);
    assert_eq!(aligned, (vec![0, 4096, 8192, 12288, 16384, 20480], 24576));
    // Version 6 aligns them anyway, and its image is the same.
    let v6 = |name: &str, flags: &[&str]| fs::read(create(&source, dir.path(), name, flags)).unwrap();
    assert!(v6("v6", &[]) == v6("v6-aligned", &["--aligned-chunk"]));
}

#[test]
fn the_blob_policy_tells_how_many_bytes_come_first() {
    let dir = tempfile::tempdir().unwrap();
    let source = tree(&dir.path().join("src"), &[("a", 1, 5000), ("b", 2, 100), ("c", 3, 9000)]);
    for (version, patterns, expected) in
        [("5", "/c\n/b\n", 9100), ("5", "/none\n", 0), ("5", "/\n", 14_100), ("6", "/c\n", 0)]
    {
        let bootstrap = dir.path().join("boot");
        let mut child = Command::new(env!("CARGO_BIN_EXE_nydus-image"))
            .args(["create", "--fs-version", version, "--compressor", "none", "--prefetch-policy", "blob"])
            .args(["-D", text(dir.path()), "-B", text(&bootstrap), text(&source)])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(patterns.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
        let image = Layer::load(&bootstrap).unwrap();
        assert_eq!(image.blobs[0].prefetch_size, expected, "version {version}: {patterns:?}");
        // The table of inodes belongs to the other policy.
        assert!(image.options.prefetch.is_empty());
        let first = UsedChunks::of(&image.tree).of_blob(0).next().unwrap().uncompressed_size;
        assert_eq!(first, if patterns.starts_with("/c") { 9000 } else { 5000 });
        verified_files(&bootstrap, dir.path());
    }
}

#[test]
fn external_files_have_a_bootstrap_beside_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let source = tree(&dir.path().join("src"), &[("a", 1, 10)]);
    let (bootstrap, json) = (dir.path().join("boot"), dir.path().join("out.json"));
    for version in ["5", "6"] {
        run(&[
            "create",
            "-v",
            version,
            "-B",
            text(&bootstrap),
            "-D",
            text(dir.path()),
            "-J",
            text(&json),
            text(&source),
        ]);
        let external = dir.path().join("boot.external");
        let result: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
        assert_eq!(result["external_bootstrap"], text(&external));
        assert_eq!(result["external_blobs"], serde_json::json!([]));
        run(&["check", "-B", text(&external)]);
        let image = Layer::load(&external).unwrap();
        assert_eq!((image.tree.nodes.len(), image.blobs.len()), (1, 0), "version {version}");
        fs::remove_file(external).unwrap();
    }
}

#[test]
fn a_complete_cache_is_written_instead_of_a_blob() {
    for flags in [&["-v", "6"][..], &["-v", "6", "--batch-size", "0x1000"], &["-v", "5"]] {
        let dir = tempfile::tempdir().unwrap();
        let (cache, blobs) = (dir.path().join("cache"), dir.path().join("blobs"));
        fs::create_dir(&cache).unwrap();
        fs::create_dir(&blobs).unwrap();
        let files: Vec<(String, u64, usize)> =
            (0..10).map(|n| (format!("f{n}"), n, 100 + 1500 * n as usize)).collect();
        let files: Vec<_> = files.iter().map(|(name, seed, len)| (name.as_str(), *seed, *len)).collect();
        let source = tree(&dir.path().join("src"), &files);
        let bootstrap = dir.path().join("boot");
        let build = |place: &[&str]| {
            let common = ["create", "-B", text(&bootstrap), "--chunk-size", "0x1000", text(&source)];
            run(&[&common[..], flags, place].concat());
            Layer::load(&bootstrap).unwrap()
        };
        let image = build(&["--blob-cache-dir", text(&cache)]);
        let id = image.blobs[0].description.id.to_string();
        let mut names: Vec<String> = fs::read_dir(&cache)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let mut expected = vec![format!("{id}.blob.data"), format!("{id}.blob.data.chunk_map")];
        if flags[1] == "6" {
            expected.push(format!("{id}.blob.meta"));
        }
        assert_eq!(names, expected, "{flags:?}");
        // It is the cache of the blob that would have been built without compression.
        let built = build(&["--compressor", "none", "-D", text(&blobs)]);
        assert_eq!(built.blobs[0].description.id.to_string(), id, "{flags:?}");
        let data = fs::read(cache.join(format!("{id}.blob.data"))).unwrap();
        assert_eq!(data.len() as u64, built.blobs[0].description.uncompressed_size);
        let count = built.blobs[0].description.chunk_count as usize;
        images::each_unit(&built, &blobs_in(&blobs), |_, _, unit| {
            for (member, bytes) in unit.unit.members.iter().zip(&unit.members) {
                let at = member.uncompressed_offset as usize;
                assert_eq!(data[at..at + bytes.len()], bytes[..], "{flags:?}: chunk {}", member.index);
            }
        });
        let map = fs::read(cache.join(format!("{id}.blob.data.chunk_map"))).unwrap();
        assert_eq!(map.len(), 4096 + count.div_ceil(8));
        assert_eq!(map[..4], *b"PAMB");
        assert_eq!(map[12..16], *b"PAMM");
        let ready: u32 = map[4096..].iter().map(|byte| byte.count_ones()).sum();
        assert_eq!(ready as usize, count);
        let unused = map.last().unwrap().trailing_zeros() as usize;
        assert_eq!(unused % 8, (8 - count % 8) % 8);
    }
}
