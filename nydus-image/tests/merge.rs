//! Layers are merged: those of the fixtures, with blobs of every kind, and such as do not fit together.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use common::{blob_ids, fixtures, nydus_image, open, without_stored};
use rafs::build::{BlobEntry, Content, Tree, write_bootstrap};

/// Runs `merge` of these sources into `out`.
fn merge(sources: &[PathBuf], out: &Path, flags: &[&str], stdin: &str) -> Output {
    let mut args = vec!["merge", "-B", out.to_str().unwrap()];
    args.extend(flags);
    args.extend(sources.iter().map(|path| path.to_str().unwrap()));
    nydus_image(&args, stdin)
}

fn merged(sources: &[PathBuf], out: &Path, flags: &[&str]) -> (Tree, Vec<BlobEntry>) {
    let output = merge(sources, out, flags, "");
    assert!(output.status.success(), "{flags:?}: {}", String::from_utf8_lossy(&output.stderr));
    let (tree, _, blobs) = open(out);
    (tree, blobs)
}

/// Status and what is said of a merge that fails, which leaves nothing.
fn refused(sources: &[PathBuf], out: &Path, flags: &[&str]) -> (i32, String) {
    let output = merge(sources, out, flags, "");
    assert!(!out.exists(), "{flags:?}");
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Builds a directory of these files; the bootstrap is `name` in `dir`, blobs are in `dir/blobs`.
fn layer(dir: &Path, name: &str, files: &[(&str, &str)], flags: &[&str]) -> PathBuf {
    let source = dir.join(format!("{name}-source"));
    for (path, content) in files {
        let path = source.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let (blobs, bootstrap) = (dir.join("blobs"), dir.join(name));
    fs::create_dir_all(&blobs).unwrap();
    let mut args = vec!["create", "--whiteout-spec=none", "--compressor=none", "-D", blobs.to_str().unwrap()];
    if !flags.contains(&"--blob-inline-meta") {
        args.extend(["-B", bootstrap.to_str().unwrap()]);
    }
    args.extend(flags);
    args.push(source.to_str().unwrap());
    let output = nydus_image(&args, "");
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    bootstrap
}

fn paths(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    let mut stack = vec![(Tree::ROOT, String::new())];
    while let Some((id, path)) = stack.pop() {
        for child in tree.children(id) {
            let path = format!("{path}/{}", String::from_utf8_lossy(&tree[*child].name));
            found.push(path.clone());
            stack.push((*child, path));
        }
    }
    found.sort();
    found
}

/// Reads all chunks out of the blobs, and compares them with their digests.
fn verify_chunks(tree: &Tree, blobs: &[BlobEntry], directory: &Path) -> usize {
    let mut verified = 0;
    for node in &tree.nodes {
        let Content::Regular { chunks, .. } = &node.content else { continue };
        for chunk in chunks {
            let blob = &blobs[chunk.blob_index as usize].description;
            let mut data = vec![0; chunk.uncompressed_size as usize];
            let file = File::open(directory.join(blob.id.as_str())).unwrap();
            file.read_exact_at(&mut data, chunk.stored.compressed_offset).unwrap();
            assert_eq!(blob.digester.digest(&data), chunk.digest);
            verified += 1;
        }
    }
    verified
}

fn ids(blobs: &[BlobEntry]) -> Vec<String> {
    blobs.iter().map(|blob| blob.description.id.to_string()).collect()
}

/// The bootstraps of the fixture's layers a, b and c: ordered by who is the larger.
fn fixture_layers(image: &Path) -> Vec<PathBuf> {
    // The order of the blobs of the merged image is that of their first use: a, b, c.
    let (.., blobs) = open(&image.join("bootstrap"));
    ids(&blobs).iter().map(|id| image.join("boots").join(id)).collect()
}

#[test]
fn the_fixture_is_merged_again_byte_for_byte() {
    let Some(dir) = fixtures() else { return };
    let image = dir.path().join("images/v6-merge");
    let out = dir.path().join("merged");
    let json = dir.path().join("json");
    merged(&fixture_layers(&image), &out, &["-J", json.to_str().unwrap()]);
    // The reference's order of extended attributes is random, ours is not.
    let (tree, options, blobs) = open(&image.join("bootstrap"));
    let expected = write_bootstrap(&tree, &blobs, &options).unwrap();
    assert!(fs::read(&out).unwrap() == expected, "the bootstraps differ");
    let json: serde_json::Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    assert_eq!(json["blobs"], serde_json::json!(ids(&blobs)));
    assert_eq!((&json["fs_version"], &json["compressor"]), (&"6".into(), &"zstd".into()));
    assert_eq!(json["bootstrap"], out.to_str().unwrap());
}

#[test]
fn merging_v5_layers_is_building_them_on_each_other() {
    let Some(dir) = fixtures() else { return };
    let blobs_dir = dir.path().join("blobs");
    fs::create_dir(&blobs_dir).unwrap();
    let mut layers = Vec::new();
    for name in ["a", "b", "c"] {
        let bootstrap = dir.path().join(format!("boot-{name}"));
        let args = ["create", "-v5", "--whiteout-spec=none", "-D", blobs_dir.to_str().unwrap(), "-B"];
        let source = dir.path().join(name);
        let rest = [bootstrap.to_str().unwrap(), source.to_str().unwrap()];
        assert!(nydus_image(&[&args[..], &rest].concat(), "").status.success());
        layers.push(bootstrap);
    }
    let (tree, blobs) = merged(&layers, &dir.path().join("merged"), &["-C", layers[0].to_str().unwrap()]);
    let (expected, _, expected_blobs) = open(&dir.path().join("images/v5-parent/bootstrap"));
    assert_eq!(blobs.len(), expected_blobs.len());
    // The parent build finds chunks in the layers below, merging does not look: places may differ, content not.
    let plain = |tree: Tree| {
        let mut tree = without_stored(tree);
        for node in &mut tree.nodes {
            let Content::Regular { chunks, .. } = &mut node.content else { continue };
            for chunk in chunks {
                (chunk.blob_index, chunk.index, chunk.uncompressed_offset) = (0, 0, 0);
                (chunk.stored.flags, chunk.stored.crc32c) = (storage::blob::ChunkFlags::empty(), None);
            }
        }
        tree.nodes
    };
    assert!(plain(tree) == plain(expected), "the trees differ");
}

#[test]
fn whiteouts_of_all_layers_are_gone_and_so_are_unused_blobs() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for version in ["-v5", "-v6"] {
        let flags = [version];
        let name = |name: &str| format!("{name}{version}");
        let a = layer(dir, &name("a"), &[("kept", "a kept"), ("d/x", "a x"), (".wh.nothing", "")], &flags);
        let b = layer(dir, &name("b"), &[("gone", "b gone"), ("d/.wh.x", "")], &flags);
        let c = layer(dir, &name("c"), &[(".wh.gone", ""), ("d/new", "c new"), ("kept2", "c kept")], &flags);
        let config = a.clone();
        let config = config.to_str().unwrap();
        let out = dir.join(name("merged"));
        let (tree, blobs) = merged(&[a.clone(), b, c.clone()], &out, &["-C", config]);
        assert_eq!(paths(&tree), ["/d", "/d/new", "/kept", "/kept2"], "{version}");
        assert_eq!(blobs.len(), 2, "{version}: nothing of b is left");
        assert_eq!(verify_chunks(&tree, &blobs, &dir.join("blobs")), 3, "{version}");

        // The same layer twice, over a parent that has it too.
        let parent = out.to_str().unwrap();
        let out = dir.join(name("again"));
        let flags = ["-C", config, "--parent-bootstrap", parent];
        let (tree, blobs) = merged(&[c.clone(), a.clone(), c], &out, &flags);
        assert_eq!(paths(&tree), ["/d", "/d/new", "/d/x", "/kept", "/kept2"], "{version}");
        assert_eq!(blobs.len(), 2, "{version}: each once");
        assert_eq!(verify_chunks(&tree, &blobs, &dir.join("blobs")), 4, "{version}");
    }
}

#[test]
fn a_source_may_have_one_blob_besides_those_of_the_dictionary() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let base = layer(dir, "base", &[("a", "shared"), ("b", "also shared")], &[]);
    let dictionary = format!("bootstrap={}", base.display());
    let flags = ["--chunk-dict", &dictionary];
    let first = layer(dir, "first", &[("x", "shared"), ("y", "of the first")], &flags);
    let second = layer(dir, "second", &[("x2", "also shared"), ("z", "of the second")], &flags);
    let sources = [first, second];
    let out = dir.join("out");
    let (status, stderr) = refused(&sources, &out, &[]);
    assert_eq!(status, 1);
    assert!(
        stderr.contains("invalid per layer bootstrap, having multiple associated data blobs"),
        "{stderr}"
    );
    assert!(stderr.contains("first"), "{stderr}");

    let (tree, blobs) = merged(&sources, &out, &flags);
    assert_eq!(paths(&tree), ["/x", "/x2", "/y", "/z"]);
    let base_id = ids(&open(&base).2).remove(0);
    assert_eq!(ids(&blobs), [base_id.as_str(), "first", "second"], "in the order of their use");
    let keep = ["--chunk-dict", &dictionary, "-C", base.to_str().unwrap()];
    let (tree, blobs) = merged(&sources, &out, &keep);
    assert_eq!(verify_chunks(&tree, &blobs, &dir.join("blobs")), 4);
}

#[test]
fn blobs_are_described_by_what_is_known_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let plain = layer(dir, "plain.boot.strap", &[("a", "content")], &[]);
    let out = dir.join("out");
    let sources = [plain];
    let described = |flags: &[&str]| merged(&sources, &out, flags).1.remove(0).description;
    assert_eq!(described(&[]).id.as_str(), "plain");
    let (one, two) = ("1".repeat(64), "2".repeat(64));
    let blob = described(&["--blob-digests", &one, "--blob-sizes", "99999"]);
    assert_eq!((blob.id.as_str(), blob.compressed_size), (one.as_str(), 99_999));
    let blob = described(&["--blob-digests", &one, "--original-blob-ids", "data"]);
    assert_eq!(blob.id.as_str(), "data");

    // A blob with its bootstrap inside, as such and taken out.
    let inline_flags = ["--blob-inline-meta", "--features=blob-toc"];
    let inner = dir.join("inner");
    fs::create_dir(&inner).unwrap();
    layer(&inner, "inline", &[("a", "content")], &inline_flags);
    let id = blob_ids(&inner.join("blobs")).remove(0);
    let file = inner.join("blobs").join(&id);
    let blob = merged(std::slice::from_ref(&file), &out, &[]).1.remove(0).description;
    assert_eq!((blob.id.as_str(), blob.compressed_size), (id.as_str(), fs::metadata(&file).unwrap().len()));
    let toc = blob.toc.unwrap();
    assert_eq!(toc.size, 1152);
    assert!(!toc.digest.is_zero());
    let bootstrap = inner.join("taken.out");
    let bytes = storage::blob::extract_bootstrap(&File::open(&file).unwrap(), "blob").unwrap().unwrap();
    fs::write(&bootstrap, bytes).unwrap();
    let flags = ["--blob-digests", &two, "--blob-toc-sizes", "1152", "--blob-toc-digests", &one];
    let blob = merged(std::slice::from_ref(&bootstrap), &out, &flags).1.remove(0).description;
    assert_eq!(blob.id.as_str(), two);
    let toc = blob.toc.unwrap();
    assert_eq!((toc.size, toc.digest.to_string()), (1152, one));
    assert_eq!(merged(&[bootstrap], &out, &[]).1[0].description.id.as_str(), "taken");
}

#[test]
fn what_does_not_fit_together_ends_with_status_2() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let out = dir.join("out");
    let base = layer(dir, "base", &[("a", "content")], &[]);
    for (name, flags) in [
        ("version", &["-v5"][..]),
        ("compressor", &["--compressor=zstd"]),
        ("digester", &["--digester=sha256"]),
        ("chunk size", &["--chunk-size=0x10000"]),
        ("owners", &["--repeatable"]),
    ] {
        let source = dir.join(name.replace(' ', ""));
        fs::create_dir(&source).unwrap();
        let bootstrap = source.join("boot");
        let mut args = vec!["create", "-D", source.to_str().unwrap(), "-B", bootstrap.to_str().unwrap()];
        if name != "compressor" {
            args.push("--compressor=none");
        }
        let from = dir.join("base-source");
        args.extend(flags);
        args.push(from.to_str().unwrap());
        assert!(nydus_image(&args, "").status.success(), "{name}");
        let (status, stderr) = refused(&[base.clone(), bootstrap], &out, &[]);
        assert_eq!(status, 2, "{name}: {stderr}");
        assert!(stderr.contains("Inconsistent RAFS Filesystem: "), "{stderr}");
        assert!(stderr.contains(name), "{stderr}");
    }
    for (flags, expected) in [
        (["--blob-digests", "1,2"], "number of blob digest entries 2 doesn't match number of sources 1"),
        (["--original-blob-ids", "1,2"], "number of original blob id entries 2 doesn't match"),
        (["--blob-sizes", "1,2"], "number of blob size entries 2 doesn't match number of sources 1"),
        (["--blob-toc-digests", "1,2"], "number of toc digest entries 2 doesn't match number of sources 1"),
        (["--blob-toc-sizes", "1,2"], "number of toc size entries 2 doesn't match number of sources 1"),
        (["--blob-digests", "xx"], "--blob-digests: \"xx\" is not a SHA-256"),
        (["--original-blob-ids", "a/b"], "usable as a file name"),
        (["--config", "/does/not/exist"], "/does/not/exist"),
        (["--blob-dir", "/does/not/exist"], "/does/not/exist"),
        (["--parent-bootstrap", "/does/not/exist"], "/does/not/exist"),
    ] {
        let (status, stderr) = refused(std::slice::from_ref(&base), &out, &flags);
        assert_eq!(status, 1, "{flags:?}: {stderr}");
        assert!(stderr.contains(expected), "{flags:?}: {stderr}");
    }
    assert_eq!(nydus_image(&["merge", base.to_str().unwrap()], "").status.code(), Some(2), "no target");
}

#[test]
fn the_target_has_a_default_and_files_to_fetch_first_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let base = layer(dir, "base", &[("lib/a", "content"), ("z", "other")], &[]);
    let target = dir.join("target");
    fs::create_dir(&target).unwrap();
    let args = ["merge", "-D", target.to_str().unwrap(), "--prefetch-policy=fs", base.to_str().unwrap()];
    assert!(nydus_image(&args, "/lib\n").status.success());
    let name = blob_ids(&target).remove(0);
    let bytes = fs::read(target.join(&name)).unwrap();
    assert_eq!(storage::digest::Digester::Sha256.digest(&bytes).to_string(), name);
    let (tree, options, _) = open(&target.join(name));
    let listed: Vec<_> = options.prefetch.iter().map(|id| tree[*id].name.clone()).collect();
    assert_eq!(listed, [b"lib".to_vec()]);
}
