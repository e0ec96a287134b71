//! Every command line that orchestrators use, in their order of arguments, on files that the ones before have made.

use std::fs;
use std::path::Path;

use serde_json::Value;
use storage::digest::Digester;

use crate::converter;
use crate::layer::{noise, pack, text};
use crate::support::{nydus_image, nydus_image_ok};
use crate::tree;

/// A layer with files of these names, as a tar.
fn layer(dir: &Path, name: &str, files: &[&str]) -> std::path::PathBuf {
    let (root, tar) = (dir.join(name), dir.join(format!("{name}.tar")));
    fs::create_dir(&root).unwrap();
    for file in files {
        fs::write(root.join(file), noise(file.len() as u64, 200_000)).unwrap();
    }
    pack(&root, &tar);
    tar
}

fn blobs(json: &Path) -> Vec<String> {
    let output: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    let blobs = output["blobs"].as_array().unwrap();
    blobs.iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

#[test]
fn features_are_looked_for_in_the_help() {
    let output = nydus_image_ok(&["create", "-h"]);
    let help = String::from_utf8(output.stdout).unwrap();
    for word in ["--type", "tar-rafs", "--batch-size", "--encrypt"] {
        assert!(help.contains(word), "{word}");
    }
    let version = String::from_utf8(nydus_image_ok(&["--version"]).stdout).unwrap();
    let found = version.lines().find_map(|line| line.trim().strip_prefix("Version:"));
    assert!(found.is_some_and(|found| found.trim().starts_with('v')), "{version}");
}

#[test]
fn the_converter_packs_merges_and_checks() {
    if let Some(reason) = tree::missing() {
        return eprintln!("SKIPPED: {reason}");
    }
    for version in ["5", "6"] {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let lower = layer(dir.path(), "lower", &["a", "bb"]);
        let upper = layer(dir.path(), "upper", &["a", "ccc"]);
        let mut flags = vec!["--fs-version", version];
        if version == "6" {
            flags.extend(["--features", "blob-toc"]);
        }
        // Layers are named by the digests of their blobs.
        let mut layers = Vec::new();
        for (name, tar) in [("pack-lower", &lower), ("pack-upper", &upper)] {
            fs::create_dir(at(name)).unwrap();
            let blob = converter::pack(&at(name), tar, &flags);
            let layer = at(&Digester::Sha256.digest(&blob).to_string());
            fs::write(&layer, converter::bootstrap(&blob)).unwrap();
            layers.push(layer);
        }
        let (image, json) = (at("image.boot"), at("out.json"));
        let merge = ["merge", "--log-level", "warn", "--prefetch-policy", "fs", "--output-json", text(&json)];
        let merge = [&merge[..], &["--bootstrap", text(&image)]].concat();
        let sources: Vec<&str> = layers.iter().map(|path| text(path)).collect();
        let ids: Vec<&str> = sources.iter().map(|path| path.rsplit('/').next().unwrap()).collect();
        let done = converter::run(&[&merge[..], &sources].concat(), "/\n");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let mut found = blobs(&json);
        found.sort();
        let mut expected = ids.clone();
        expected.sort_unstable();
        assert_eq!(found, expected, "{version}");

        // With what is known of the blobs, behind the sources; and with a dictionary, whose blobs come first.
        let lists = [
            format!("{},{}", ids[0], ids[1]),
            format!("{},{}", "1".repeat(64), "2".repeat(64)),
            "1000000,2000000".to_owned(),
        ];
        let lists = ["--blob-digests", &lists[0], "--blob-toc-digests", &lists[1], "--blob-sizes", &lists[2]];
        let with_lists = if version == "6" { &lists[..] } else { &lists[..2] };
        let done = converter::run(&[&merge[..], &sources, with_lists].concat(), "/\n");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let dictionary = format!("bootstrap={}", sources[1]);
        let with_dictionary = [&merge[..], &["--chunk-dict", &dictionary], &sources[..1]].concat();
        let done = converter::run(&with_dictionary, "/\n");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let with_parent = [&merge[..], &["--parent-bootstrap", sources[0]], &sources[1..]].concat();
        let done = converter::run(&with_parent, "/\n");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        assert!(blobs(&json).iter().any(|blob| blob == ids[0]), "the parent's blob is there");

        let check =
            ["check", "--log-level", "warn", "--output-json", text(&json), "--bootstrap", text(&image)];
        nydus_image_ok(&check);
        assert!(blobs(&json).iter().all(|blob| ids.contains(&blob.as_str())), "{version}");

        let output = nydus_image_ok(&["inspect", text(&image), "--request", "blobs"]);
        assert_eq!(output.stderr, b"");
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(shown.as_array().is_some_and(|blobs| !blobs.is_empty()), "{shown}");

        let tag = at("image:tag");
        fs::create_dir(&tag).unwrap();
        let named = tag.join("nydus_bootstrap");
        fs::copy(&image, &named).unwrap();
        let database = format!("sqlite://{}", text(&at("chunks.db")));
        let generate =
            ["chunkdict", "generate", "--log-level", "warn", "--bootstrap", text(&at("dict.boot"))]
                .map(str::to_owned);
        let generate: Vec<&str> = generate.iter().map(String::as_str).collect();
        let generate =
            [&generate[..], &["--database", &database, "--output-json", text(&json), text(&named)]].concat();
        nydus_image_ok(&generate);
    }
}

#[test]
fn nydusify_builds_compacts_and_optimizes() {
    for version in ["5", "6"] {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let (source, blob_dir, json) = (at("source"), at("blobs"), at("out.json"));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&blob_dir).unwrap();
        for (number, name) in ["one", "two", "three"].into_iter().enumerate() {
            fs::write(source.join(name), noise(number as u64 + 1, 300_000)).unwrap();
        }
        let (bootstrap, blob) = (at("boot"), at("blob"));
        let build = ["create", "--aligned-chunk", "--bootstrap", text(&bootstrap), "--log-level", "warn"];
        let rest = ["--whiteout-spec", "oci", "--output-json", text(&json), "--blob", text(&blob)];
        let last =
            ["--fs-version", version, "--compressor", "zstd", "--chunk-size", "0x100000", text(&source)];
        nydus_image_ok(&[&build[..], &rest, &last].concat());
        let ids = blobs(&json);
        fs::rename(&blob, blob_dir.join(&ids[0])).unwrap();

        let (settings, compacted) = (at("backend.json"), at("boot.compact"));
        fs::write(&settings, format!(r#"{{"dir":"{}"}}"#, text(&blob_dir))).unwrap();
        let compact = ["compact", "--bootstrap", text(&bootstrap), "--blob-dir", text(&blob_dir)];
        let policy =
            ["--min-used-ratio", "5", "--compact-blob-size", "10485760", "--max-compact-size", "104857600"];
        let backend = ["--layers-to-compact", "32", "--backend-type", "localfs", "--backend-config-file"];
        let last =
            [text(&settings), "--log-level", "info", "--output-json", text(&json), "--output-bootstrap"];
        nydus_image_ok(&[&compact[..], &policy, &backend, &last, &[text(&compacted)]].concat());

        let (list, optimized, out) = (at("list"), at("optimized"), at("prefetch-blobs"));
        fs::create_dir(&out).unwrap();
        fs::write(&list, r#"{"version":"v1","files":[{"path":"/two"},{"path":"/one","ranges":[[0,10]]}]}"#)
            .unwrap();
        let optimize = ["optimize", "--log-level", "warn", "--prefetch-files", text(&list)];
        let rest = ["--bootstrap", text(&bootstrap), "--output-blob-dir", text(&out)];
        let last = ["--output-bootstrap", text(&optimized), "--output-json", text(&json)];
        nydus_image_ok(&[&optimize[..], &rest, &last, &["--blob-dir", text(&blob_dir)]].concat());
        let now = blobs(&json);
        assert_eq!((now.len(), &now[0]), (2, &ids[0]), "{version}");
        assert!(out.join(&now[1]).is_file(), "{version}: the last blob is the new one");
        nydus_image_ok(&["check", "--bootstrap", text(&optimized)]);

        // Another builder's words for the directory way.
        let inline = ["--source-type", "directory", "--inline-bootstrap", text(&source)];
        let pack = ["create", "--log-level", "warn", "--prefetch-policy", "none", "--blob", text(&blob)];
        let pack = [&pack[..], &["--whiteout-spec", "none", "--fs-version", version], &inline].concat();
        nydus_image_ok(&pack);
    }
}

#[test]
fn types_and_options_that_exclude_each_other_are_told_as_scripts_expect() {
    let dir = tempfile::tempdir().unwrap();
    let cache = text(dir.path());
    let args = ["create", "-t", "tar-tarfs", "-B", "/nowhere", "--blob-cache-dir", cache, "/dev/null"];
    let error = String::from_utf8(nydus_image(&args).stderr).unwrap();
    assert!(error.contains("conversion type `tar-tarfs` conflicts with `--blob-cache-dir`"), "{error}");
}
