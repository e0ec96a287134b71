//! Merkle digests of v5, digests of the chunk table of v6, the digest of the file.

use rafs::{Bootstrap, Error, Ino, OpenOptions};
use storage::blob::{DigestSource as _, Extent};
use storage::digest::Digester;

use crate::{extents, fixtures};

const V5: [&str; 3] = ["v5-lz4-sha256", "v5-none-prefetch", "v5-zstd-blake3"];

fn verified(bytes: &[u8]) -> rafs::Result<Bootstrap> {
    let options = OpenOptions { verify_inodes: true, ..OpenOptions::default() };
    Bootstrap::from_bytes(bytes.to_vec(), "image.boot", &options)
}

fn is_mismatch<T>(result: rafs::Result<T>) -> bool {
    matches!(result, Err(Error::DigestMismatch { .. }))
}

/// Path → inode, without verification.
fn at(bytes: &[u8], path: &str) -> Ino {
    fixtures::find(&fixtures::open(bytes.to_vec()).unwrap(), path)
}

#[test]
fn a_flipped_chunk_digest_is_found() {
    for image in V5 {
        let mut bytes = fixtures::bytes(image);
        let (file, other) = (at(&bytes, "d1/d2/keep"), at(&bytes, "d1/d2/d3/d4/leaf"));
        let record = fixtures::v5_inode(&bytes, file);
        bytes[record + 128 + 8 + 5] ^= 1;
        let bootstrap = verified(&bytes).unwrap();
        assert!(is_mismatch(bootstrap.attributes(file)), "{image}");
        assert!(is_mismatch(bootstrap.extents(file, 0, 1)), "{image}");
        assert!(is_mismatch(bootstrap.xattrs(file)), "{image}");
        assert!(is_mismatch(bootstrap.check()), "{image}");
        // The rest of the tree is still served, and nothing is missed without verification.
        assert_eq!(fixtures::find(&bootstrap, "d1/d2/d3/d4/leaf"), other, "{image}");
        bootstrap.attributes(other).unwrap();
        fixtures::open(bytes).unwrap().attributes(file).unwrap();
    }
}

#[test]
fn a_flipped_inode_digest_is_found_below_and_above() {
    for image in V5 {
        let mut bytes = fixtures::bytes(image);
        let (leaf, directory) = (at(&bytes, "d1/d2/d3/d4/leaf"), at(&bytes, "d1/d2/d3"));
        let record = fixtures::v5_inode(&bytes, directory);
        bytes[record + 31] ^= 0x80;
        let bootstrap = verified(&bytes).unwrap();
        // The directory contradicts its children, and its parent contradicts it.
        assert!(is_mismatch(bootstrap.attributes(directory)), "{image}");
        assert!(is_mismatch(bootstrap.read_dir(directory, 0).map(drop)), "{image}");
        assert!(is_mismatch(bootstrap.attributes(at(&bytes, "d1/d2"))), "{image}");
        // An inode deeper down is not trusted either, though its own digest is right, however it is reached.
        assert!(is_mismatch(bootstrap.attributes(leaf)), "{image}");
        bootstrap.attributes(bootstrap.root()).unwrap();
        bootstrap.attributes(at(&bytes, "d1")).unwrap();
    }
}

#[test]
fn a_consistent_lie_stops_at_the_root() {
    // Change a symlink and make every digest above it right, but for the root's.
    let mut bytes = fixtures::bytes("v5-lz4-sha256");
    let link = at(&bytes, "usr/prog");
    let record = fixtures::v5_inode(&bytes, link);
    let target = record + 128 + 8;
    bytes[target..target + 11].copy_from_slice(b"../etc/root");
    let digest = Digester::Sha256.digest(b"../etc/root");
    bytes[record..record + 32].copy_from_slice(&digest.0);
    let usr = at(&bytes, "usr");
    let plain = fixtures::open(bytes.clone()).unwrap();
    let children: Vec<_> = plain.read_dir(usr, 0).unwrap().map(|entry| entry.unwrap().ino).collect();
    let digests: Vec<Vec<u8>> = children
        .iter()
        .map(|child| {
            let record = fixtures::v5_inode(&bytes, *child);
            bytes[record..record + 32].to_vec()
        })
        .collect();
    let record = fixtures::v5_inode(&bytes, usr);
    let digest = Digester::Sha256.digest_parts(digests.iter().map(Vec::as_slice));
    bytes[record..record + 32].copy_from_slice(&digest.0);

    assert_eq!(&*plain.read_link(link).unwrap(), b"../etc/root");
    assert!(is_mismatch(verified(&bytes)), "the root is touched when the image is opened");
}

#[test]
fn a_symlink_target_is_covered() {
    for image in V5 {
        let mut bytes = fixtures::bytes(image);
        let link = at(&bytes, "usr/prog");
        let record = fixtures::v5_inode(&bytes, link);
        bytes[record + 128 + 8] ^= 1;
        assert!(is_mismatch(verified(&bytes).unwrap().read_link(link)), "{image}");
    }
}

#[test]
fn the_chunk_table_has_the_digests_of_chunks() {
    for image in ["v6-merge", "v6-zstd", "v6-none"] {
        let bootstrap = fixtures::open(fixtures::bytes(image)).unwrap();
        for blob in bootstrap.blobs() {
            let file = fixtures::blob(image, blob.id.as_str());
            let chunks = extents::stored_chunks(blob, file);
            let index = bootstrap.digest_index(blob.index).unwrap();
            assert!(index.is_sorted_by(|a, b| a.0 < b.0), "{image}");
            for (chunk, record) in index {
                let (digest, uncompressed_offset) = bootstrap.digest(record).unwrap();
                let (offset, size, stored_offset, stored_size) = chunks[chunk as usize];
                let stored = &file[stored_offset as usize..][..stored_size as usize];
                let data = extents::decode(size != stored_size, stored);
                assert_eq!(uncompressed_offset, offset, "{image}");
                assert_eq!(bootstrap.digester().digest(&data), digest, "{image}");
            }
        }
        // Nothing that the tree uses is without one.
        for ino in extents::files(&bootstrap).into_values() {
            for extent in bootstrap.extents(ino, 0, u32::MAX).unwrap() {
                let Extent::Chunk { blob_index, chunk_index, uncompressed_offset, .. } = extent.unwrap()
                else {
                    panic!("a hole")
                };
                let index = bootstrap.digest_index(blob_index).unwrap();
                let found = index.binary_search_by_key(&chunk_index, |(chunk, _)| *chunk).unwrap();
                assert_eq!(bootstrap.digest(index[found].1).unwrap().1, uncompressed_offset, "{image}");
            }
        }
        assert_eq!(bootstrap.digest_index(bootstrap.blobs().len() as u32).unwrap(), [], "{image}");
        assert_eq!(bootstrap.digest(u32::MAX), None, "{image}");
    }
    let v5 = fixtures::open(fixtures::bytes("v5-parent")).unwrap();
    assert_eq!((v5.digest_index(0).unwrap(), v5.digest(0)), (vec![], None));
}

#[test]
fn zero_digests_and_bad_records_are_no_digests() {
    let mut bytes = fixtures::bytes("v6-merge");
    let table = 98304;
    bytes[table..table + 32].fill(0);
    let bootstrap = fixtures::open(bytes.clone()).unwrap();
    let records = |bootstrap: &Bootstrap| -> Vec<u32> {
        let all = (0..3).flat_map(|blob| bootstrap.digest_index(blob).unwrap());
        all.map(|(_, record)| record).collect()
    };
    assert!(!records(&bootstrap).contains(&0));
    assert!(records(&bootstrap).contains(&1));
    // An offset that is not a block's.
    fixtures::put(&mut bytes, table + 80 + 56, 1_u64.to_le_bytes());
    let bootstrap = fixtures::open(bytes).unwrap();
    assert_eq!(bootstrap.digest(1), None);
    assert!(bootstrap.check().is_err());
}
