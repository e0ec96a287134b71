//! A layer goes through the converter and comes back: what GNU tar lists and unpacks is the same.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use crate::converter::{self, DataServer, part};
use crate::layer::{everything, extract, listed, pack, text, whole_seconds};
use crate::tree;

/// A layer as a tar.
struct Layer {
    dir: tempfile::TempDir,
    tar: PathBuf,
}

impl Layer {
    fn of(fill: impl FnOnce(&Path)) -> Option<Self> {
        if let Some(reason) = tree::missing() {
            eprintln!("SKIPPED: {reason}");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let (root, tar) = (dir.path().join("root"), dir.path().join("layer.tar"));
        fs::create_dir(&root).unwrap();
        fill(&root);
        pack(&root, &tar);
        Some(Self { dir, tar })
    }

    /// Packs it, and leaves what the converter does of its blob: `image.boot` and `image.blob`, alone.
    fn packed(&self, name: &str, flags: &[&str]) -> PathBuf {
        let dir = self.dir.path().join(name);
        fs::create_dir(&dir).unwrap();
        let blob = converter::pack(&dir, &self.tar, flags);
        fs::write(dir.join("image.boot"), converter::bootstrap(&blob)).unwrap();
        fs::write(dir.join("image.blob"), part(&blob, "image.blob").unwrap_or_default()).unwrap();
        dir
    }

    fn check(&self, dir: &Path, tar: &[u8], context: &str) {
        let path = dir.join("unpacked.tar");
        fs::write(&path, tar).unwrap();
        assert_eq!(listed(&path), listed(&self.tar), "{context}");
        extract(&path, &dir.join("unpacked"));
        extract(&self.tar, &dir.join("expected"));
        assert_eq!(tree::list(&dir.join("unpacked")), tree::list(&dir.join("expected")), "{context}");
        // Both had all there is.
        assert!(path.metadata().unwrap().len() > 1024, "{context}");
    }
}

const V6: [&str; 4] = ["--fs-version", "6", "--features", "blob-toc"];

#[test]
fn the_data_of_a_layer_alone_is_enough() {
    let Some(layer) = Layer::of(everything) else { return };
    let sets: [(&str, &[&str], &[&str]); 8] = [
        ("default", &V6, &[]),
        ("none", &V6, &["--compressor", "none"]),
        ("lz4", &V6, &["--compressor", "lz4_block", "--chunk-size", "0x10000"]),
        ("aligned", &V6, &["--aligned-chunk"]),
        ("encrypted", &V6, &["--encrypt"]),
        ("without-toc", &["--fs-version", "6"], &["--compressor", "zstd"]),
        ("v5", &["--fs-version", "5"], &["--compressor", "lz4_block"]),
        ("v5-aligned", &["--fs-version", "5"], &["--aligned-chunk"]),
    ];
    for (name, version, flags) in sets {
        let dir = layer.packed(name, &[version, flags].concat());
        let (boot, blob) = (dir.join("image.boot"), dir.join("image.blob"));
        let (output, tar) = converter::unpack(&dir, &boot, &["--blob", text(&blob)]);
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        layer.check(&dir, &tar, name);

        // What the records of the bootstrap lead to is compared with their digests.
        let mut bytes = fs::read(&blob).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&blob, bytes).unwrap();
        let (output, _) = converter::unpack(&dir, &boot, &["--blob", text(&blob)]);
        assert!(!output.status.success(), "{name}: a flipped bit was not noticed");
    }
}

#[test]
fn batches_need_the_chunk_table_and_say_so() {
    let Some(layer) = Layer::of(everything) else { return };
    let dir = layer.packed("batch", &[&V6[..], &["--batch-size", "0x20000"]].concat());
    let (boot, blob) = (dir.join("image.boot"), dir.join("image.blob"));
    let (output, _) = converter::unpack(&dir, &boot, &["--blob", text(&blob)]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("chunks in batches are found by the chunk table of their blob only"), "{error}");
}

#[test]
fn a_layer_without_data_has_an_empty_blob() {
    let only_names = |root: &Path| {
        everything(root);
        for path in ["bin", "data"] {
            fs::remove_dir_all(root.join(path)).unwrap();
        }
        for path in ["etc/passwd", "opaque/stays"] {
            fs::remove_file(root.join(path)).unwrap();
        }
        whole_seconds(root);
    };
    let Some(layer) = Layer::of(only_names) else { return };
    for (name, version) in [("v6", &V6[..]), ("v5", &["--fs-version", "5"])] {
        let dir = layer.packed(name, version);
        let (boot, blob) = (dir.join("image.boot"), dir.join("image.blob"));
        assert_eq!(fs::read(&blob).unwrap(), b"", "{name}");
        let (output, tar) = converter::unpack(&dir, &boot, &["--blob", text(&blob)]);
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let path = dir.join("unpacked.tar");
        fs::write(&path, tar).unwrap();
        assert_eq!(listed(&path).len(), listed(&layer.tar).len(), "{name}");
        layer.check(&dir, &fs::read(&path).unwrap(), name);
    }
}

#[test]
fn the_data_is_streamed_from_a_server_that_answers_one_request_at_a_time() {
    let Some(layer) = Layer::of(everything) else { return };
    for (name, version) in [("v6", &V6[..]), ("v5", &["--fs-version", "5"])] {
        let dir = layer.packed(name, &[version, &["--chunk-size", "0x10000"]].concat());
        let socket = dir.join("socket");
        let server = DataServer::start(&socket, fs::read(dir.join("image.blob")).unwrap());
        let settings = format!(r#"{{"addr":"{}"}}"#, text(&socket));
        let place = ["--backend-type", "http-proxy", "--backend-config", &settings];
        let (output, tar) = converter::unpack(&dir, &dir.join("image.boot"), &place);
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        layer.check(&dir, &tar, name);
        assert!(server.requests.load(Ordering::SeqCst) > 10, "{name}");
        assert_eq!(server.most_at_once.load(Ordering::SeqCst), 1, "{name}: requests at once");
    }
}
