//! Files read through their extents have the data that the manifest promises.

use std::collections::BTreeMap;

use rafs::{Bootstrap, FileType, Ino, Version};
use storage::blob::{BlobDescription, ChunkFlags, Compressor, Extent};
use storage::digest::Digester;

use crate::fixtures;

/// All regular files by path.
pub fn files(bootstrap: &Bootstrap) -> BTreeMap<String, Ino> {
    let mut files = BTreeMap::new();
    let mut directories = vec![(String::new(), bootstrap.root())];
    while let Some((prefix, directory)) = directories.pop() {
        for entry in bootstrap.read_dir(directory, 0).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{prefix}{}", fixtures::spelled(entry.name));
            match entry.file_type {
                FileType::Directory => directories.push((path + "/", entry.ino)),
                FileType::Regular => drop(files.insert(path, entry.ino)),
                _ => {}
            }
        }
    }
    files
}

/// The chunks of a v6 blob with 16-byte entries, by the test's own reading of the array: offset and size in the
/// uncompressed blob, offset and size as stored.
pub fn stored_chunks(blob: &BlobDescription, file: &[u8]) -> Vec<(u64, u32, u64, u32)> {
    let ci = blob.ci.unwrap();
    let array = &file[ci.offset as usize..][..ci.compressed_size as usize];
    let array = match ci.compressor {
        Compressor::None => array.to_vec(),
        Compressor::Zstd => zstd::decode_all(array).unwrap(),
        other => panic!("{other:?}"),
    };
    let word = |at: usize| u64::from_le_bytes(array[at..at + 8].try_into().unwrap());
    (0..array.len() / 16)
        .map(|index| {
            let (plain, stored) = (word(16 * index), word(16 * index + 8));
            (
                plain & 0xfff_ffff_f000,
                (plain >> 44 | (plain >> 8 & 0xf) << 20) as u32 + 1,
                stored & 0xff_ffff_ffff,
                (stored >> 44 | (stored >> 40 & 0xf) << 20) as u32 + 1,
            )
        })
        .collect()
}

/// A chunk from its stored bytes.
pub fn decode(compressed: bool, stored: &[u8]) -> Vec<u8> {
    if compressed { zstd::decode_all(stored).unwrap() } else { stored.to_vec() }
}

#[test]
fn data_is_what_the_manifest_promises() {
    for image in
        ["v5-none-prefetch", "v5-zstd-blake3", "v5-parent", "v6-none", "v6-zstd", "v6-merge", "v6-prefetch"]
    {
        let bootstrap = fixtures::open(fixtures::bytes(image)).unwrap();
        let blobs: Vec<_> =
            bootstrap.blobs().iter().map(|blob| fixtures::blob(image, blob.id.as_str())).collect();
        let tables: Vec<_> = match bootstrap.version() {
            Version::V5 => vec![],
            Version::V6 => {
                bootstrap.blobs().iter().zip(&blobs).map(|(it, file)| stored_chunks(it, file)).collect()
            }
        };
        let manifest = fixtures::manifest(image);
        for (path, ino) in files(&bootstrap) {
            let mut data = Vec::new();
            for extent in bootstrap.extents(ino, 0, u32::MAX).unwrap() {
                let Extent::Chunk {
                    blob_index,
                    chunk_index,
                    uncompressed_offset,
                    uncompressed_size,
                    offset,
                    len,
                    record,
                } = extent.unwrap()
                else {
                    panic!("{image}: {path} has a hole")
                };
                let blob = blobs[blob_index as usize];
                let chunk = match record {
                    Some((stored, digest)) => {
                        let bytes =
                            &blob[stored.compressed_offset as usize..][..stored.compressed_size as usize];
                        let chunk = decode(stored.flags.contains(ChunkFlags::COMPRESSED), bytes);
                        assert_eq!(bootstrap.digester().digest(&chunk), digest, "{image}: {path}");
                        assert!(stored.crc32c.is_some(), "{image}: {path}");
                        chunk
                    }
                    None => {
                        let entry = tables[blob_index as usize][chunk_index as usize];
                        assert_eq!(
                            (entry.0, entry.1),
                            (uncompressed_offset, uncompressed_size),
                            "{image}: {path}"
                        );
                        decode(entry.1 != entry.3, &blob[entry.2 as usize..][..entry.3 as usize])
                    }
                };
                assert_eq!(chunk.len(), uncompressed_size as usize, "{image}: {path}");
                data.extend_from_slice(&chunk[offset as usize..][..len as usize]);
            }
            let found = Digester::Sha256.digest(&data).to_string();
            assert_eq!(found, manifest[&path]["sha256"].as_str().unwrap(), "{image}: {path}");
        }
    }
}

/// A generator with a seed: the same numbers on every machine.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number under `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

#[test]
fn a_part_of_a_file_is_cut_out_of_the_whole() {
    let mut random = Random(1);
    for (image, bytes) in fixtures::images() {
        let bootstrap = fixtures::open(bytes.to_vec()).unwrap();
        for (path, ino) in files(&bootstrap) {
            let size = bootstrap.attributes(ino).unwrap().size;
            let whole: Vec<_> = bootstrap.extents(ino, 0, u32::MAX).unwrap().map(Result::unwrap).collect();
            // Where in the file each piece of the whole begins.
            let starts: Vec<u64> = whole
                .iter()
                .scan(0, |at, extent| {
                    let Extent::Chunk { len, .. } = extent else { panic!("{image}: {path} has a hole") };
                    Some(std::mem::replace(at, *at + u64::from(*len)))
                })
                .collect();
            let tries = if size > 65536 { 40 } else { 2 };
            for _ in 0..tries {
                let (from, len) = (random.below(size + 10), random.below(size + 10) as u32);
                let end = size.min(from + u64::from(len));
                let mut at = from;
                for extent in bootstrap.extents(ino, from, len).unwrap() {
                    let extent = extent.unwrap();
                    let number = starts.partition_point(|start| *start <= at) - 1;
                    let mut expected = whole[number];
                    let Extent::Chunk { offset, len, .. } = &mut expected else { unreachable!() };
                    *offset = (at - starts[number]) as u32;
                    *len = (*len - *offset).min((end - at) as u32);
                    at += u64::from(*len);
                    assert_eq!(extent, expected, "{image}: {path} from {from} to {end}");
                }
                assert_eq!(at, end.max(from), "{image}: {path} from {from} to {end}");
            }
        }
    }
}

/// `exact1m1` of the image with 256 KiB chunks, without its chunks 1, 2 and 4, marked as having holes.
fn with_holes() -> (Vec<u8>, Ino) {
    let mut bytes = fixtures::bytes("v5-lz4-sha256");
    let ino = fixtures::find(&fixtures::open(bytes.clone()).unwrap(), "exact1m1");
    let record = fixtures::v5_inode(&bytes, ino);
    let chunks = record + 128 + 8;
    bytes.copy_within(chunks + 3 * 80..chunks + 4 * 80, chunks + 80);
    fixtures::put(&mut bytes, record + 80, 8_u64.to_le_bytes());
    fixtures::put(&mut bytes, record + 96, 2_u32.to_le_bytes());
    (bytes, ino)
}

#[test]
fn a_missing_chunk_is_a_hole() {
    const CHUNK: u64 = 0x4_0000;
    let (bytes, ino) = with_holes();
    let bootstrap = fixtures::open(bytes).unwrap();
    let pieces = |from: u64, len: u32| -> Vec<(bool, u32, u32)> {
        let extents = bootstrap.extents(ino, from, len).unwrap().map(Result::unwrap);
        extents
            .map(|extent| match extent {
                Extent::Hole { len } => (true, 0, len),
                Extent::Chunk { offset, len, .. } => (false, offset, len),
            })
            .collect()
    };
    let chunk = CHUNK as u32;
    assert_eq!(
        pieces(0, u32::MAX),
        [(false, 0, chunk), (true, 0, 2 * chunk), (false, 0, chunk), (true, 0, 1)]
    );
    assert_eq!(pieces(CHUNK - 3, 5), [(false, chunk - 3, 3), (true, 0, 2)]);
    assert_eq!(pieces(CHUNK + 7, 9), [(true, 0, 9)]);
    assert_eq!(pieces(3 * CHUNK - 1, 2), [(true, 0, 1), (false, 0, 1)]);
    assert_eq!(pieces(4 * CHUNK - 1, 100), [(false, chunk - 1, 1), (true, 0, 1)]);
    assert_eq!(pieces(4 * CHUNK + 1, 100), []);
    rafs::fuzzing::walk(&bootstrap);
}

#[test]
fn holes_do_not_excuse_disorder() {
    let (bytes, ino) = with_holes();
    let chunks = fixtures::v5_inode(&bytes, ino) + 128 + 8;
    // Twice the same place; a place between chunks; a place behind the file.
    for file_offset in [0, 0x4_0001, 0x100_0000_u64] {
        let mut bytes = bytes.clone();
        fixtures::put(&mut bytes, chunks + 80 + 64, file_offset.to_le_bytes());
        let bootstrap = fixtures::open(bytes).unwrap();
        let failed = bootstrap.extents(ino, 0, u32::MAX).unwrap().any(|extent| extent.is_err());
        assert!(failed, "{file_offset:#x}");
        assert!(bootstrap.check().is_err(), "{file_offset:#x}");
    }
    // A file of nothing but an endless hole is read in a bounded number of steps, and checked at once.
    let mut bytes = bytes;
    let record = fixtures::v5_inode(&bytes, ino);
    fixtures::put(&mut bytes, record + 64, (i64::MAX as u64).to_le_bytes());
    fixtures::put(&mut bytes, record + 96, 0_u32.to_le_bytes());
    let bootstrap = fixtures::open(bytes).unwrap();
    let holes: Vec<_> = bootstrap.extents(ino, 1 << 60, u32::MAX).unwrap().map(Result::unwrap).collect();
    assert_eq!(holes, [Extent::Hole { len: u32::MAX }]);
    bootstrap.check().unwrap();
}
