//! Images are built from the sources of the fixtures, and from random trees, and compared.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::{blob_ids, create, fixtures, nydus_image, open, random_tree, without_stored};
use rafs::build::{BlobEntry, Content, Tree, write_bootstrap};
use storage::blob::{BlobDescription, ChunkFlags};
use storage::cipher::BlobCipher;

/// Fixture, flags, standard input.
const EXACT: [(&str, &[&str], &str); 4] = [
    ("v5-lz4-sha256", &["-v5", "--compressor=lz4_block", "--digester=sha256", "--chunk-size=0x40000"], ""),
    (
        "v5-none-prefetch",
        &["-v5", "--compressor=none", "--digester=sha256", "--prefetch-policy=fs"],
        "/lib\n",
    ),
    ("v6-none", &["--compressor=none"], ""),
    ("v6-lz4-4k-sha256", &["--compressor=lz4_block", "--digester=sha256", "--chunk-size=0x1000"], ""),
];

#[test]
fn fixtures_without_zstd_are_built_again_byte_for_byte() {
    let Some(dir) = fixtures() else { return };
    for (name, flags, stdin) in EXACT {
        let out = dir.path().join(name);
        create(&dir.path().join("a"), &out, flags, stdin);
        let reference = dir.path().join("images").join(name);
        assert_eq!(blob_ids(&out.join("blobs")), blob_ids(&reference.join("blobs")), "{name}");
        // The reference's order of extended attributes is random, ours is not.
        let (tree, options, blobs) = open(&reference.join("bootstrap"));
        let expected = write_bootstrap(&tree, &blobs, &options).unwrap();
        assert!(fs::read(out.join("bootstrap")).unwrap() == expected, "{name}: the bootstraps differ");
    }
}

/// The library that the reference was built with, 1.5.6. With it (see docs/building.md) zstd images are the same bytes.
const REFERENCE_ZSTD: u32 = 10506;

/// The distinct chunks of an image, as its blob has them, decrypted; by index.
fn stored_chunks(tree: &Tree, blob: &BlobEntry, dir: &Path) -> BTreeMap<u32, Vec<u8>> {
    let description = &blob.description;
    let file = fs::read(dir.join("blobs").join(description.id.as_str())).unwrap();
    let cipher = description.cipher.as_ref().map(BlobCipher::new);
    let mut stored = BTreeMap::new();
    for node in &tree.nodes {
        let Content::Regular { chunks, .. } = &node.content else { continue };
        for chunk in chunks {
            let from = chunk.stored.compressed_offset as usize;
            let unit = &file[from..from + chunk.stored.compressed_size as usize];
            let plain = match &cipher {
                Some(cipher) => {
                    let is_compressed = chunk.stored.flags.contains(ChunkFlags::COMPRESSED);
                    let len = if is_compressed { 0 } else { chunk.uncompressed_size as usize };
                    cipher.decrypt(unit, len).unwrap()
                }
                None => unit.to_vec(),
            };
            stored.insert(chunk.index, plain);
        }
    }
    stored
}

#[test]
fn fixtures_with_zstd_are_the_same_but_for_what_the_library_decides() {
    let Some(dir) = fixtures() else { return };
    let is_same_library = zstd::zstd_safe::version_number() == REFERENCE_ZSTD;
    let mut unencrypted = BTreeMap::new();
    for (name, flags, stdin) in [
        ("v5-zstd-blake3", &["-v5"][..], ""),
        ("v6-zstd", &[], ""),
        ("v6-batch-toc", &["--batch-size=0x40000", "--features=blob-toc"], ""),
        ("v6-encrypt", &["--encrypt"], ""),
        ("v6-prefetch", &["--prefetch-policy=fs"], "/lib\n"),
    ] {
        let out = dir.path().join(name);
        let (tree, options, blobs) = create(&dir.path().join("a"), &out, flags, stdin);
        let reference = dir.path().join("images").join(name);
        let (expected, expected_options, expected_blobs) = open(&reference.join("bootstrap"));
        assert_eq!((blobs.len(), expected_blobs.len()), (1, 1), "{name}");
        if name == "v6-zstd" {
            unencrypted = stored_chunks(&tree, &blobs[0], &out);
        }
        if name == "v6-encrypt" {
            assert_eq!(unencrypted.len(), 725);
            assert!(stored_chunks(&tree, &blobs[0], &out) == unencrypted, "decrypted, they are others");
            if is_same_library {
                assert!(stored_chunks(&expected, &expected_blobs[0], &reference) == unencrypted);
            }
        } else if is_same_library {
            assert_eq!(blob_ids(&out.join("blobs")), blob_ids(&reference.join("blobs")), "{name}");
            let bytes = write_bootstrap(&expected, &expected_blobs, &expected_options).unwrap();
            assert!(fs::read(out.join("bootstrap")).unwrap() == bytes, "{name}: the bootstraps differ");
            eprintln!("{name}: the same bytes, blob {}", blob_ids(&out.join("blobs"))[0]);
        }

        assert_eq!(options, expected_options, "{name}");
        assert!(without_stored(tree).nodes == without_stored(expected).nodes, "{name}: the trees differ");
        let (ours, theirs) = (&blobs[0].description, &expected_blobs[0].description);
        assert_eq!(ours.features, theirs.features, "{name}");
        assert_eq!((ours.compressor, ours.digester), (theirs.compressor, theirs.digester), "{name}");
        assert_eq!(ours.chunk_count, theirs.chunk_count, "{name}");
        assert_eq!(ours.uncompressed_size, theirs.uncompressed_size, "{name}");
        let table = |blob: &BlobDescription| blob.ci.map(|ci| (ci.compressor, ci.uncompressed_size));
        assert_eq!(table(ours), table(theirs), "{name}");
        let toc = |blob: &BlobDescription| blob.toc.map(|toc| toc.size);
        assert_eq!(toc(ours), toc(theirs), "{name}");
    }
}

/// 100 builds, each with 1 to 8 threads.
#[test]
fn threads_make_no_difference() {
    let dir = tempfile::tempdir().unwrap();
    for (seed, flags) in [
        (20_261_122, &["--chunk-size=0x10000"][..]),
        (2, &["--chunk-size=0x10000", "--batch-size=0x10000"]),
        (3, &["--chunk-size=0x1000", "--batch-size=0x1000", "--compressor=lz4_block"]),
        (4, &["-v5", "--compressor=lz4_block"]),
        (5, &["--features=blob-toc", "--compressor=none", "--digester=sha256"]),
    ] {
        let source = dir.path().join(format!("source{seed}"));
        fs::create_dir(&source).unwrap();
        random_tree(&source, seed);
        let mut first = None;
        for run in 0..20 {
            let out = dir.path().join(format!("out{run}"));
            let threads = format!("--threads={}", run % 8 + 1);
            let mut flags = flags.to_vec();
            flags.push(&threads);
            create(&source, &out, &flags, "");
            let built = (blob_ids(&out.join("blobs")), fs::read(out.join("bootstrap")).unwrap());
            assert!(built.0.len() == 1, "one blob, and nothing left behind");
            assert!(*first.get_or_insert_with(|| built.clone()) == built, "run {run} {threads}");
            fs::remove_dir_all(&out).unwrap();
        }
    }
}

#[test]
fn what_cannot_be_done_is_refused_by_name_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    let out = dir.path().join("out");
    fs::create_dir(&source).unwrap();
    fs::create_dir(&out).unwrap();
    fs::write(source.join("file"), "content").unwrap();
    let (source, out_dir) = (source.to_str().unwrap(), out.to_str().unwrap());
    for (flags, message) in [
        (&["--chunk-size=5000"][..], "--chunk-size"),
        (&["--chunk-size=0x1000", "--batch-size=0x2000"], "--batch-size"),
        (&["-v5", "--encrypt"], "--encrypt"),
        (&["-v5", "--features=blob-toc"], "blob-toc"),
        (&["-t", "targz-ref", "--encrypt"], "conversion type `targz-ref` conflicts with `--encrypt`"),
        (&["--attributes=c"], "--attributes: not supported yet"),
    ] {
        let mut args = vec!["create", "-D", out_dir];
        args.extend(flags);
        args.push(source);
        let output = nydus_image(&args, "");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{flags:?}: {stderr}");
        assert!(stderr.contains(message), "{flags:?}: {stderr}");
        assert_eq!(fs::read_dir(&out).unwrap().count(), 0, "{flags:?}");
    }
    let missing = nydus_image(&["create", "-D", out_dir, "/does/not/exist"], "");
    assert!(String::from_utf8_lossy(&missing.stderr).contains("/does/not/exist"));
    assert_eq!(missing.status.code(), Some(1));
}

#[test]
fn layers_are_built_on_their_parents() {
    let Some(dir) = fixtures() else { return };
    let mut parent: Option<String> = None;
    for layer in ["a", "b", "c"] {
        let out = dir.path().join(format!("layer-{layer}"));
        let flags: Vec<&str> = match &parent {
            None => vec!["-v5"],
            Some(parent) => vec!["-v5", "--parent-bootstrap", parent],
        };
        create(&dir.path().join(layer), &out, &flags, "");
        parent = Some(out.join("bootstrap").to_str().unwrap().to_owned());
    }
    let (tree, _, blobs) = open(Path::new(&parent.unwrap()));
    let (expected, _, expected_blobs) = open(&dir.path().join("images/v5-parent/bootstrap"));
    assert!(without_stored(tree).nodes == without_stored(expected).nodes, "the trees differ");
    // The layers above are too small for zstd to make a difference.
    let ids =
        |blobs: &[BlobEntry]| blobs[1..].iter().map(|blob| blob.description.id.clone()).collect::<Vec<_>>();
    assert_eq!(blobs.len(), 3);
    assert_eq!(ids(&blobs), ids(&expected_blobs));
}

#[test]
fn check_tells_of_the_blobs_and_refuses_what_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "content").unwrap();
    create(&source, dir.path(), &["--features=blob-toc"], "");
    let (bootstrap, json) = (dir.path().join("bootstrap"), dir.path().join("json"));
    let id = blob_ids(&dir.path().join("blobs")).remove(0);
    let output = nydus_image(&["check", "-J", json.to_str().unwrap(), bootstrap.to_str().unwrap()], "");
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    assert!(
        stdout.starts_with("RAFS filesystem metadata is valid, referenced data blobs: \n\t 0: "),
        "{stdout}"
    );
    assert!(stdout.contains(&id), "{stdout}");
    assert!(stdout.ends_with("features: aligned cap_toc chunk-digest tar-header toc\n"), "{stdout}");
    assert!(fs::read_to_string(&json).unwrap().contains(&format!("\"blobs\":[\"{id}\"]")));

    let mut bytes = fs::read(&bootstrap).unwrap();
    bytes[1024] ^= 1;
    fs::write(&bootstrap, bytes).unwrap();
    assert_eq!(nydus_image(&["check", bootstrap.to_str().unwrap()], "").status.code(), Some(1));
}

#[test]
fn a_dictionary_spares_the_blob_and_a_bootstrap_fits_into_one() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    random_tree(&source, 7);
    let first = dir.path().join("first");
    create(&source, &first, &[], "");
    let dictionary = format!("bootstrap={}", first.join("bootstrap").display());
    let second = dir.path().join("second");
    let (_, _, blobs) = create(&source, &second, &["--chunk-dict", &dictionary], "");
    assert_eq!(blob_ids(&second.join("blobs")), [""; 0], "all chunks are in the dictionary");
    assert_eq!(blobs[0].description.id.as_str(), blob_ids(&first.join("blobs"))[0]);
    assert_eq!(fs::read(first.join("bootstrap")).unwrap(), fs::read(second.join("bootstrap")).unwrap());

    let inline = dir.path().join("inline");
    fs::create_dir(&inline).unwrap();
    let args = ["create", "--blob-inline-meta", "-D", inline.to_str().unwrap(), source.to_str().unwrap()];
    assert!(nydus_image(&args, "").status.success());
    let id = blob_ids(&inline).remove(0);
    let (tree, _, blobs) = open(&inline.join(&id));
    assert_eq!(blobs[0].description.id.as_str(), id, "the blob is named by its file");
    assert!(tree.nodes == open(&first.join("bootstrap")).0.nodes);
}

#[test]
fn holes_are_not_read_and_the_result_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    // Reading it would take longer than the test may.
    fs::File::create(source.join("sparse")).unwrap().set_len(20 << 30).unwrap();
    let json = dir.path().join("json");
    create(&source, dir.path(), &["-J", json.to_str().unwrap()], "");
    let json: serde_json::Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    let events = &json["trace"]["registered_events"];
    assert_eq!(events["dedup_chunks"], (20 << 10) - 1);
    assert_eq!(events["blob_uncompressed_size"], 1 << 20);
    assert_eq!(json["blobs"][0], blob_ids(&dir.path().join("blobs"))[0]);
    assert_eq!((&json["fs_version"], &json["compressor"]), (&"6".into(), &"zstd".into()));
}

#[test]
fn inspect_answers_with_one_json_value() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir_all(source.join("lib")).unwrap();
    fs::write(source.join("lib/file"), "content").unwrap();
    fs::write(source.join("other"), "other").unwrap();
    create(&source, dir.path(), &["-v5", "--prefetch-policy=fs"], "/lib\n/other\n/none\n");
    let bootstrap = dir.path().join("bootstrap");
    let ask = |request| {
        let output = nydus_image(&["inspect", "-R", request, bootstrap.to_str().unwrap()], "");
        assert!(output.status.success(), "{request}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap().to_string()
    };
    assert_eq!(ask("stats"), r#"{"inodes_count":4}"#);
    assert_eq!(ask("prefetch"), r#"[{"inode":2,"path":["/lib/"]},{"inode":3,"path":["/other"]}]"#);
    let id = blob_ids(&dir.path().join("blobs")).remove(0);
    let sizes = r#""compressed_size":12,"decompressed_size":12,"readahead_offset":0,"readahead_size":0"#;
    assert_eq!(ask("blobs"), format!(r#"[{{"blob_id":"{id}",{sizes}}}]"#));
}
