//! Dictionaries are generated, and used.
#![allow(clippy::unwrap_used)]

mod images;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use images::{create, noise, run, text, try_run, verified_files};
use nydus_image::layers::Layer;
use rafs::build::Content;
use storage::blob::BlobFeatures;
use storage::digest::Digest;

/// A tree of files: name, seed of the content, length.
fn tree(dir: &Path, files: &[(&str, u64, usize)]) -> PathBuf {
    fs::create_dir_all(dir).unwrap();
    for (name, seed, len) in files {
        fs::write(dir.join(name), noise(*seed, *len)).unwrap();
    }
    dir.to_owned()
}

fn digests(bootstrap: &Path) -> BTreeSet<[u8; 32]> {
    let image = Layer::load(bootstrap).unwrap();
    let chunks = |node: &rafs::build::Node| match &node.content {
        Content::Regular { chunks, .. } => chunks.iter().map(|chunk| chunk.digest.0).collect(),
        _ => Vec::new(),
    };
    image.tree.nodes.iter().flat_map(chunks).collect()
}

fn generate(sources: &[&Path], out: &Path, database: &str) -> PathBuf {
    let dictionary = out.join("dictionary");
    let mut args = vec!["chunkdict", "generate", "-B", text(&dictionary), "--database", database];
    args.extend(sources.iter().map(|source| text(source)));
    run(&args);
    run(&["check", "-B", text(&dictionary)]);
    dictionary
}

/// Three images that share some chunks.
fn images(dir: &Path, flags: &[&str]) -> [PathBuf; 3] {
    let all = [("a", 1, 9000), ("b", 2, 100), ("c", 3, 20_000)];
    let one = tree(&dir.join("1"), &all);
    let two = tree(&dir.join("2"), &[("x", 1, 9000), ("y", 4, 5000)]);
    let three = tree(&dir.join("3"), &[("p", 2, 100), ("q", 5, 8192), ("r", 1, 9000)]);
    [
        create(&one, dir, "app:1", flags),
        create(&two, dir, "app:2", flags),
        create(&three, dir, "registry/other:1", flags),
    ]
}

#[test]
fn what_images_share_is_in_the_dictionary_and_is_not_stored_again() {
    for flags in [
        &["--chunk-size", "0x1000"][..],
        &["--chunk-size", "0x1000", "--batch-size", "0x1000"],
        &["--chunk-size", "0x1000", "--features", "blob-toc", "--compressor", "lz4_block"],
        &["--chunk-size", "0x1000", "--fs-version", "5"],
    ] {
        let dir = tempfile::tempdir().unwrap();
        let images = images(dir.path(), flags);
        let sources: Vec<&Path> = images.iter().map(PathBuf::as_path).collect();
        let dictionary = generate(&sources, dir.path(), "sqlite://:memory:");
        let mut counts: BTreeMap<[u8; 32], u32> = BTreeMap::new();
        for image in &images {
            digests(image).into_iter().for_each(|digest| *counts.entry(digest).or_default() += 1);
        }
        let shared: BTreeSet<_> =
            counts.into_iter().filter(|(_, count)| *count > 1).map(|(digest, _)| digest).collect();
        assert_eq!(shared.len(), 4, "three chunks of one file, one of another");
        assert_eq!(digests(&dictionary), shared, "{flags:?}");
        // The files of the dictionary are its chunks.
        let blobs = dir.path().join("blobs");
        for (path, (_, chunks)) in verified_files(&dictionary, &blobs) {
            let name = path.to_str().unwrap().trim_start_matches('/').to_owned();
            assert_eq!([name], [chunks[0].0.to_string()]);
        }
        let image = Layer::load(&dictionary).unwrap();
        // The first image has all four.
        assert_eq!(image.blobs.len(), 1, "{flags:?}");
        assert!(image.blobs[0].description.features.contains(BlobFeatures::IS_CHUNKDICT_GENERATED));

        // A new image stores nothing that is in the dictionary.
        let source = tree(&dir.path().join("4"), &[("m", 1, 9000), ("n", 2, 100), ("o", 6, 4096)]);
        let mut flags: Vec<&str> = flags.to_vec();
        let argument = format!("bootstrap={}", text(&dictionary));
        flags.extend(["--chunk-dict", &argument, "--repeatable"]);
        let bootstrap = create(&source, dir.path(), "new", &flags);
        let built = Layer::load(&bootstrap).unwrap();
        let counts: Vec<u32> = built.blobs.iter().map(|blob| blob.description.chunk_count).collect();
        assert_eq!(counts.len(), 2, "{flags:?}");
        assert_eq!(counts[1], 1, "{flags:?}");
        let expected: BTreeMap<PathBuf, u64> =
            [("/m", 9000), ("/n", 100), ("/o", 4096)].map(|(path, len)| (path.into(), len)).into();
        let found = verified_files(&bootstrap, &blobs);
        // A merged image refers to the same chunks.
        let (merged, id) = (dir.path().join("merged"), built.blobs[1].description.id.to_string());
        run(&[
            "merge",
            "-B",
            text(&merged),
            "--chunk-dict",
            &argument,
            "--original-blob-ids",
            &id,
            text(&bootstrap),
        ]);
        assert_eq!(verified_files(&merged, &blobs), found, "{flags:?}");
        assert_eq!(
            found.into_iter().map(|(path, (size, _))| (path, size)).collect::<BTreeMap<_, _>>(),
            expected
        );
    }
}

#[test]
fn databases_in_files_remember_images() {
    let dir = tempfile::tempdir().unwrap();
    let [one, two, three] = images(dir.path(), &["--chunk-size", "0x1000"]);
    let url = format!("sqlite://{}", text(&dir.path().join("chunks.db")));
    let dictionary = generate(&[&one], dir.path(), &url);
    assert!(digests(&dictionary).is_empty());
    let dictionary = generate(&[&two], dir.path(), &url);
    assert_eq!(digests(&dictionary).len(), 3);
    let dictionary = generate(&[&three], dir.path(), &url);
    assert_eq!(digests(&dictionary).len(), 4);
    // The same again is the same image, not one more.
    let dictionary = generate(&[&three], dir.path(), &url);
    assert_eq!(digests(&dictionary).len(), 4);
    // Another chunk size cannot be mixed in.
    let other = create(&dir.path().join("1"), dir.path(), "app:3", &["--chunk-size", "0x2000"]);
    let refused =
        try_run(&["chunkdict", "generate", "-B", text(&dictionary), "--database", &url, text(&other)]);
    assert_eq!(refused.status.code(), Some(2));
}

#[test]
fn the_choice_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let [one, two, _] = images(dir.path(), &["--chunk-size", "0x1000"]);
    let (dictionary, json) = (dir.path().join("dictionary"), dir.path().join("out.json"));
    let output = run(&[
        "chunkdict",
        "generate",
        "-B",
        text(&dictionary),
        "-v",
        "-J",
        text(&json),
        text(&one),
        text(&two),
    ]);
    let told = String::from_utf8(output.stdout).unwrap();
    let told: Vec<Vec<&str>> = told.lines().map(|line| line.split(' ').collect()).collect();
    let expected = digests(&dictionary);
    assert_eq!(told.len(), expected.len());
    for line in &told {
        assert!(expected.iter().any(|digest| Digest(*digest).to_string() == line[0]), "{line:?}");
        assert_eq!(line[4], "2");
    }
    let result: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    assert_eq!(result["blobs"][0], told[0][2]);
    let unnamed = try_run(&["chunkdict", "generate", "-B", text(&dictionary), text(&dictionary)]);
    assert!(String::from_utf8_lossy(&unnamed.stderr).contains("IMAGE:TAG"));
}
