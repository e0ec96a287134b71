//! Every fixture's tree is the one that was built into it.

use std::collections::BTreeMap;

use rafs::{Bootstrap, FileType, Ino, OpenOptions};
use serde_json::{Value, json};

use crate::fixtures;

/// What the bootstrap says of an inode, in the words of the manifest, data excluded.
fn describe(bootstrap: &Bootstrap, path: &str, ino: Ino) -> Value {
    let attributes = bootstrap.attributes(ino).unwrap();
    let mut entry = json!({
        "p": path,
        "mode": format!("0o{:o}", attributes.mode),
        "uid": attributes.uid,
        "gid": attributes.gid,
        "mtime": attributes.mtime,
    });
    match attributes.file_type {
        FileType::Regular => {
            entry["size"] = attributes.size.into();
            entry["nlink"] = attributes.nlink.into();
        }
        FileType::Symlink => {
            let target = bootstrap.read_link(ino).unwrap();
            assert_eq!(attributes.size, target.len() as u64, "{path}");
            entry["link"] = fixtures::spelled(&target).into();
        }
        FileType::CharDevice | FileType::BlockDevice => {
            let rdev = attributes.rdev;
            entry["rdev"] = json!([rdev >> 8 & 0xfff, rdev & 0xff | rdev >> 12 & 0xf_ff00]);
        }
        _ => assert_eq!(attributes.rdev, 0, "{path}"),
    }
    let mut xattrs = serde_json::Map::new();
    for xattr in bootstrap.xattrs(ino).unwrap() {
        let (name, value) = xattr.unwrap();
        assert_eq!(bootstrap.xattr(ino, &name).unwrap(), Some(value));
        let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
        xattrs.insert(fixtures::spelled(&name), hex.into());
    }
    assert_eq!(bootstrap.xattr(ino, b"user.no-such").unwrap(), None);
    assert_eq!(bootstrap.xattr(ino, b"user.").unwrap(), None);
    if !xattrs.is_empty() {
        assert!(bootstrap.has_xattrs());
        entry["xattr"] = xattrs.into();
    }
    entry
}

/// The whole tree by path.
fn list(bootstrap: &Bootstrap) -> BTreeMap<String, Value> {
    let mut root = describe(bootstrap, ".", bootstrap.root());
    // Images made from directories do not record it, those made from tars do; the manifest has 0 for both.
    root["mtime"] = 0.into();
    let mut tree = BTreeMap::from([(".".to_owned(), root)]);
    let mut directories = vec![(String::new(), bootstrap.root())];
    assert_eq!(bootstrap.parent(bootstrap.root()).unwrap(), bootstrap.root());
    while let Some((prefix, directory)) = directories.pop() {
        let mut subdirectories = 0;
        for entry in bootstrap.read_dir(directory, 0).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{prefix}{}", fixtures::spelled(entry.name));
            assert_eq!(bootstrap.lookup(directory, entry.name).unwrap(), Some(entry.ino), "{path}");
            assert_eq!(bootstrap.attributes(entry.ino).unwrap().file_type, entry.file_type, "{path}");
            assert!(bootstrap.is_entry(entry.ino), "{path}");
            if entry.file_type == FileType::Directory {
                subdirectories += 1;
                assert_eq!(bootstrap.parent(entry.ino).unwrap(), directory, "{path}");
                directories.push((format!("{path}/"), entry.ino));
            }
            tree.insert(path.clone(), describe(bootstrap, &path, entry.ino));
        }
        assert_eq!(bootstrap.attributes(directory).unwrap().nlink, 2 + subdirectories, "{prefix}");
    }
    tree
}

/// The manifest without the digests of data.
fn expected(image: &str) -> BTreeMap<String, Value> {
    let mut manifest = fixtures::manifest(image);
    for entry in manifest.values_mut() {
        entry.as_object_mut().unwrap().remove("sha256");
    }
    manifest
}

pub fn assert_tree(image: &str, bootstrap: &Bootstrap) {
    let (found, expected) = (list(bootstrap), expected(image));
    for (path, entry) in &expected {
        assert_eq!(found.get(path), Some(entry), "{image}: {path}");
    }
    assert_eq!(found.len(), expected.len(), "{image}");
}

#[test]
fn every_image_shows_its_manifest() {
    for (image, bytes) in fixtures::images() {
        for verify_inodes in [false, true] {
            let options = OpenOptions { verify_inodes, ..OpenOptions::default() };
            let bootstrap = Bootstrap::from_bytes(bytes.to_vec(), image, &options).unwrap();
            assert_tree(image, &bootstrap);
        }
    }
}

#[test]
fn every_bootstrap_passes_the_check() {
    for (path, bytes) in fixtures::bootstraps() {
        let options = OpenOptions { verify_inodes: true, ..OpenOptions::default() };
        let bootstrap = Bootstrap::from_bytes(bytes.to_vec(), path, &options).unwrap();
        let summary = bootstrap.check().unwrap();
        let inodes = summary.directories + summary.files + summary.symlinks + summary.specials;
        let entries = rafs::fuzzing::walk(&bootstrap) + 1;
        assert_eq!(inodes + summary.hard_links, entries, "{path}");
        // Numbers are those of table entries, or of places in the file.
        let numbers = (0..bytes.len() as u64).chain([u64::MAX]);
        assert_eq!(
            numbers.filter(|number| bootstrap.is_entry(Ino(*number))).count() as u64,
            inodes,
            "{path}"
        );
        assert!(summary.chunks > 0 && summary.file_bytes > 0 && summary.depth > 0, "{path}: {summary:?}");
    }
}

#[test]
fn the_summary_counts_what_the_manifest_lists() {
    for (image, bytes) in fixtures::images() {
        let summary = fixtures::open(bytes.to_vec()).unwrap().check().unwrap();
        let manifest = fixtures::manifest(image);
        let count = |kind: &str| manifest.values().filter(|entry| !entry[kind].is_null()).count() as u64;
        assert_eq!(summary.files + summary.hard_links, count("sha256"), "{image}");
        assert_eq!(summary.symlinks, count("link"), "{image}");
        let merged = fixtures::is_merged(image);
        assert_eq!(summary.hard_links, u64::from(!merged), "{image}");
        assert_eq!(summary.depth, if merged { 4 } else { 5 }, "{image}");
    }
}

#[test]
fn blobs_are_described() {
    let merge = fixtures::open(fixtures::bytes("v6-merge")).unwrap();
    let ids: Vec<_> =
        merge.blobs().iter().map(|blob| (blob.index, blob.id.as_str(), blob.chunk_count)).collect();
    assert_eq!(
        ids,
        [
            (0, "6f9768e82aefba617114cd86d81e3cfaf3c3141d770cbf11222101456cff5e68", 725),
            (1, "ccba1e3694879f272c91bfddfe0fee285d1118f6d41ea8530bfd3b8f887ac0c0", 4),
            (2, "d8bb969d65363298d70ba873feaf78af5421eb78b8684d82335416cf5c740cfa", 2),
        ]
    );
    let zran = fixtures::open(fixtures::bytes("v6-zran")).unwrap();
    let blob = &zran.blobs()[0];
    assert_eq!(
        blob.meta_object().as_str(),
        "3052b51e484de23a15395dbb6e93825a3a2cbf11669f39ed1daeae14e1d8eeb0"
    );
    assert_eq!((blob.meta_size, blob.ci.unwrap().uncompressed_size), (15824, 148_672));

    let encrypted = fixtures::open(fixtures::bytes("v6-encrypt")).unwrap();
    let cipher = encrypted.blobs()[0].cipher.unwrap();
    assert_eq!(cipher.key[..4], [0x21, 0x49, 0x4e, 0xee]);
    assert_eq!(cipher.iv[..8], 12_204_435_747_322_076_356_u64.to_le_bytes());
    assert_eq!(cipher.iv[8..], [0xaa, 0x19, 0x0f, 0xe9, 0xa6, 0x64, 0x83, 0x7a]);
    assert!(encrypted.blobs()[0].meta_id.is_none());

    let toc = fixtures::open(fixtures::bytes("v6-batch-toc")).unwrap().blobs()[0].toc.unwrap();
    assert_eq!(toc.size, 1024);
    assert!(toc.digest.to_string().starts_with("a80b107703ccc7c0"));

    for (image, bytes) in fixtures::images() {
        let bootstrap = fixtures::open(bytes.to_vec()).unwrap();
        for blob in bootstrap.blobs().iter().filter(|_| image != "v6-zran") {
            let file = fixtures::blob(image, blob.id.as_str());
            assert_eq!(blob.compressed_size, file.len() as u64, "{image}");
            assert!(blob.data_size().unwrap() <= file.len() as u64, "{image}");
        }
    }
}

#[test]
fn prefetch_tables_name_the_directory_that_was_asked_for() {
    for (image, bytes) in fixtures::images() {
        let bootstrap = fixtures::open(bytes.to_vec()).unwrap();
        let expected = match image.ends_with("prefetch") {
            true => vec![fixtures::find(&bootstrap, "lib")],
            false => vec![],
        };
        assert_eq!(bootstrap.prefetch_inodes().unwrap(), expected, "{image}");
    }
    // The number of no inode is skipped, and a 0 ends the table.
    let mut bytes = fixtures::bytes("v6-prefetch");
    let table = 4352;
    fixtures::put(&mut bytes, 1152 + 48, 16_u32.to_le_bytes());
    for (slot, number) in [999_999_u32, 128, 0, 128].into_iter().enumerate() {
        fixtures::put(&mut bytes, table + 4 * slot, number.to_le_bytes());
    }
    assert_eq!(fixtures::open(bytes).unwrap().prefetch_inodes().unwrap(), [Ino(128)]);
}
