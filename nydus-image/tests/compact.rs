//! Images are compacted, and every file is what it was.
#![allow(clippy::unwrap_used)]

mod images;

use std::collections::HashMap;
use std::fs;

use images::{Fixtures, blobs_in, each_unit, file_digest, run, text, thin, try_run, verified_files};
use nydus_image::layers::Layer;
use rafs::build::Content;
use storage::blob::BlobFeatures;

/// Images whose blobs are the format's own.
const NATIVE: [&str; 9] = [
    "v5-lz4-sha256",
    "v5-none-prefetch",
    "v5-parent",
    "v6-none",
    "v6-lz4-4k-sha256",
    "v6-batch-toc",
    "v6-encrypt",
    "v6-inline",
    "v6-merge",
];

#[test]
fn blobs_shrink_to_what_is_used_and_files_stay() {
    let fixtures = Fixtures::unpack();
    for name in NATIVE {
        let (bootstrap, blobs) = fixtures.image(name);
        let dir = tempfile::tempdir().unwrap();
        let (thinned, json) = (dir.path().join("thin"), dir.path().join("out.json"));
        thin(&bootstrap, &thinned);
        let before = verified_files(&thinned, &blobs);
        let old = Layer::load(&thinned).unwrap().blobs;

        run(&[
            "compact",
            "-B",
            text(&thinned),
            "-D",
            text(&blobs),
            "--min-used-ratio",
            "99",
            "--compact-blob-size",
            "0",
            "--layers-to-compact",
            "0",
            "-J",
            text(&json),
        ]);
        let output = dir.path().join("thin.bootstrap.compact");
        assert_eq!(verified_files(&output, &blobs), before, "{name}");
        run(&["check", "-B", text(&output)]);
        let new = Layer::load(&output).unwrap().blobs;
        let sum = |blobs: &[rafs::build::BlobEntry]| -> u64 {
            blobs.iter().map(|blob| blob.description.compressed_size).sum()
        };
        assert!(sum(&new) < sum(&old), "{name}: {} bytes of {}", sum(&new), sum(&old));
        let kinds = BlobFeatures::BATCH | BlobFeatures::ENCRYPTED | BlobFeatures::HAS_TOC;
        for (new, old) in new.iter().zip(&old) {
            let kind = |blob: &rafs::build::BlobEntry| blob.description.features & kinds;
            assert_eq!(kind(new), kind(old), "{name}");
        }
        for blob in &new {
            let id = blob.description.id.as_str();
            assert_eq!(file_digest(&blobs.join(id)), id, "{name}");
        }
        let result: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
        let ids: Vec<_> = new.iter().map(|blob| blob.description.id.to_string()).collect();
        assert_eq!(result["blobs"], serde_json::json!(ids), "{name}");
        assert_eq!(result["bootstrap"], text(&output), "{name}");
        // What is used completely is left alone.
        let again = try_run(&[
            "compact",
            "-B",
            text(&output),
            "-D",
            text(&blobs),
            "--min-used-ratio",
            "90",
            "--compact-blob-size",
            "0",
            "--layers-to-compact",
            "0",
            "-J",
            text(&dir.path().join("none")),
        ]);
        assert!(again.status.success(), "{name}");
        assert!(!dir.path().join("none").exists(), "{name}");
    }
}

#[test]
fn chunks_are_copied_as_they_are_stored() {
    let fixtures = Fixtures::unpack();
    for name in ["v6-zstd", "v6-lz4-4k-sha256", "v5-zstd-blake3"] {
        let (bootstrap, blobs) = fixtures.image(name);
        let dir = tempfile::tempdir().unwrap();
        let (thinned, output) = (dir.path().join("thin"), dir.path().join("compacted"));
        thin(&bootstrap, &thinned);
        run(&[
            "compact",
            "-B",
            text(&thinned),
            "-D",
            text(&blobs),
            "--min-used-ratio",
            "99",
            "--layers-to-compact",
            "0",
            "-O",
            text(&output),
        ]);
        let stored = |bootstrap| {
            let image = Layer::load(bootstrap).unwrap();
            let mut digests = HashMap::new();
            for node in &image.tree.nodes {
                let Content::Regular { chunks, .. } = &node.content else { continue };
                digests.extend(chunks.iter().map(|chunk| ((chunk.blob_index, chunk.index), chunk.digest)));
            }
            let mut stored = HashMap::new();
            each_unit(&image, &blobs_in(&blobs), |blob, index, unit| {
                stored.insert(digests[&(blob, index)], unit.stored.clone());
            });
            stored
        };
        assert_eq!(stored(&thinned), stored(&output), "{name}");
    }
}

#[test]
fn small_blobs_become_one_and_chunks_that_they_share_are_kept_once() {
    let fixtures = Fixtures::unpack();
    for name in ["v6-merge", "v5-parent"] {
        let (bootstrap, blobs) = fixtures.image(name);
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("compacted");
        let compact = |layers: &str| {
            run(&[
                "compact",
                "-B",
                text(&bootstrap),
                "--backend-type",
                "localfs",
                "--backend-config",
                &format!(r#"{{"dir":"{}"}}"#, text(&blobs)),
                "-D",
                text(dir.path()),
                "-O",
                text(&output),
                "--layers-to-compact",
                layers,
            ]);
        };
        // There are three blobs.
        compact("4");
        assert!(!output.exists());
        compact("3");
        assert_eq!(verified_files(&output, dir.path()), verified_files(&bootstrap, &blobs), "{name}");
        assert_eq!(Layer::load(&output).unwrap().blobs.len(), 1, "{name}");
    }
}

#[test]
fn blobs_of_dictionaries_and_of_other_formats_stay() {
    let fixtures = Fixtures::unpack();
    let (bootstrap, blobs) = fixtures.image("v6-merge");
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("out.json");
    let arguments = |bootstrap: &std::path::Path, extra: &[&str]| {
        let mut args = vec!["compact", "-B", text(bootstrap), "-D", text(&blobs), "--layers-to-compact", "0"];
        args.extend(["--min-used-ratio", "99", "-J", text(&json)]);
        args.extend(extra);
        run(&args);
    };
    let dictionary = format!("bootstrap={}", text(&bootstrap));
    arguments(&bootstrap, &["--chunk-dict", &dictionary]);
    assert!(!json.exists());
    let (zran, blobs) = fixtures.image("v6-zran");
    let thinned = dir.path().join("zran");
    thin(&zran, &thinned);
    run(&[
        "compact",
        "-B",
        text(&thinned),
        "-D",
        text(&blobs),
        "--layers-to-compact",
        "0",
        "-J",
        text(&json),
    ]);
    assert!(!json.exists());
}

#[test]
fn a_damaged_chunk_is_not_copied() {
    let fixtures = Fixtures::unpack();
    let (bootstrap, blobs) = fixtures.image("v6-none");
    let dir = tempfile::tempdir().unwrap();
    let thinned = dir.path().join("thin");
    thin(&bootstrap, &thinned);
    let image = Layer::load(&thinned).unwrap();
    let used = nydus_image::repack::UsedChunks::of(&image.tree);
    let chunk = used.of_blob(0).last().unwrap();
    let blob = blobs.join(image.blobs[0].description.id.as_str());
    let mut bytes = fs::read(&blob).unwrap();
    bytes[chunk.stored.compressed_offset as usize] ^= 1;
    fs::write(&blob, bytes).unwrap();
    let output = dir.path().join("compacted");
    let failed = try_run(&[
        "compact",
        "-B",
        text(&thinned),
        "-D",
        text(&blobs),
        "--min-used-ratio",
        "99",
        "--layers-to-compact",
        "0",
        "-O",
        text(&output),
    ]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failed.stderr).contains(&format!("chunk {}", chunk.index)));
    assert!(!output.exists());
    // Nothing half-written is left.
    assert_eq!(fs::read_dir(&blobs).unwrap().count(), 1);
}
