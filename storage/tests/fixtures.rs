//! Every chunk of every image of the reference implementation, decoded and compared with its digest.
//!
//! What the blobs are and which digests their chunks have is what the images' bootstraps say; the number of chunks
//! that must have been compared is written down here, so that a test that looks at nothing fails.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helper functions too")]

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use rafs::{Bootstrap, FileType, Ino, OpenOptions};
use storage::backend::localfs::{LocalFs, LocalFsConfig};
use storage::backend::{Backend, Priority, Request};
use storage::blob::{
    BlobDescription, BlobFeatures, ChunkDescription, ChunkTable, Cipher, DigestSource, Extent, Toc, Unit,
    extract_bootstrap, fetch_digests,
};
use storage::digest::Digest;
use storage::{Error, Result};

/// The images, unpacked once for all tests of this process.
static IMAGES: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/images.tar.zst");
    let mut decoder = zstd::stream::read::Decoder::new(File::open(path).unwrap()).unwrap();
    decoder.window_log_max(27).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for entry in tar::Archive::new(decoder).entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.path().unwrap().starts_with("images") {
            entry.unpack_in(dir.path()).unwrap();
        }
    }
    dir
});

fn image(name: &str) -> PathBuf {
    IMAGES.path().join("images").join(name)
}

fn backend(image: &Path) -> LocalFs {
    let config = LocalFsConfig { dir: Some(image.join("blobs")), ..LocalFsConfig::default() };
    LocalFs::new(config).unwrap()
}

fn request() -> Request {
    Request { priority: Priority::OnDemand, deadline: Instant::now() + Duration::from_secs(60) }
}

fn open(image: &Path) -> Bootstrap {
    let bootstrap = image.join("bootstrap");
    if bootstrap.exists() {
        return Bootstrap::open(&bootstrap, &OpenOptions::default()).unwrap();
    }
    // Inside of its only blob.
    let path = fs::read_dir(image.join("blobs")).unwrap().next().unwrap().unwrap().path();
    let bytes = extract_bootstrap(&File::open(&path).unwrap(), "the blob").unwrap().unwrap();
    Bootstrap::from_bytes(bytes, path.to_str().unwrap(), &OpenOptions::default()).unwrap()
}

/// The digests that the bootstrap's chunk table has for the chunks of a blob.
fn digests(bootstrap: &Bootstrap, blob: &BlobDescription) -> HashMap<u32, (Digest, u64)> {
    let index = bootstrap.digest_index(blob.index).unwrap();
    index.into_iter().map(|(chunk, record)| (chunk, bootstrap.digest(record).unwrap())).collect()
}

/// Decodes all units of a v6 blob; gives how many chunks had the digest that the bootstrap and, where there is one,
/// the blob's own array has for them.
async fn check_blob(bootstrap: &Bootstrap, blob: &BlobDescription, backend: &dyn Backend) -> usize {
    let table = ChunkTable::fetch(blob, backend, request()).await.unwrap();
    assert_eq!(table.len(), blob.chunk_count);
    let expected = digests(bootstrap, blob);
    let own = match blob.features.contains(BlobFeatures::INLINED_CHUNK_DIGEST) {
        true => Some(fetch_digests(blob, backend, request()).await.unwrap()),
        false => None,
    };
    let (mut decoded, mut compared) = (HashSet::new(), 0);
    for index in 0..table.len() {
        if decoded.contains(&index) {
            continue;
        }
        let unit = table.unit(blob, index).unwrap();
        let stored = unit.fetch(blob, backend, request()).await.unwrap();
        let chunks = unit.decode(blob, &stored).unwrap();
        assert_eq!(chunks.len(), unit.members.len());
        assert!(unit.decoded_size() >= chunks.iter().map(|data| data.len() as u64).max().unwrap());
        for (chunk, data) in unit.members.iter().zip(&chunks) {
            assert!(decoded.insert(chunk.index), "chunk {} is in one unit", chunk.index);
            assert_eq!(table.chunk(chunk.index).unwrap(), *chunk);
            assert_eq!(data.len(), chunk.uncompressed_size as usize);
            let found = blob.digester.digest(data);
            if let Some((digest, offset)) = expected.get(&chunk.index) {
                assert_eq!((found, chunk.uncompressed_offset), (*digest, *offset), "chunk {}", chunk.index);
                compared += 1;
            }
            if let Some(own) = &own {
                assert_eq!(Some(found), own.get(chunk.index), "own digest of chunk {}", chunk.index);
            }
        }
    }
    assert_eq!(decoded.len(), table.len() as usize);

    let file = table.to_cache_file();
    let again = ChunkTable::from_cache_file(blob, &file).unwrap();
    assert_eq!(again.to_cache_file(), file);
    compared
}

/// Chunks of all blobs of a v6 image whose digest was compared.
async fn check_v6(name: &str) -> usize {
    let image = image(name);
    let (bootstrap, backend) = (open(&image), backend(&image));
    let mut compared = 0;
    for blob in bootstrap.blobs() {
        compared += check_blob(&bootstrap, blob, &backend).await;
    }
    compared
}

#[tokio::test]
async fn every_chunk_of_v6_images() {
    for (name, compared) in [
        ("v6-zstd", 725),
        ("v6-none", 725),
        ("v6-lz4-4k-sha256", 1246),
        ("v6-batch-toc", 725),
        ("v6-encrypt", 725),
        ("v6-prefetch", 725),
        ("v6-zran", 725),
        ("v6-inline", 725),
        // Of 731: the bootstrap has no digests of chunks that an upper layer hides.
        ("v6-merge", 725),
    ] {
        assert_eq!(check_v6(name).await, compared, "{name}");
    }
}

/// All v5 chunks of an image: described by the bootstrap, each a unit of its own.
fn v5_chunks(bootstrap: &Bootstrap) -> Vec<(Arc<BlobDescription>, ChunkDescription, Digest)> {
    let (mut seen, mut chunks) = (HashSet::new(), Vec::new());
    let mut directories: Vec<Ino> = vec![bootstrap.root()];
    while let Some(directory) = directories.pop() {
        for entry in bootstrap.read_dir(directory, 0).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type == FileType::Directory {
                directories.push(entry.ino);
            }
            if entry.file_type != FileType::Regular {
                continue;
            }
            let size = bootstrap.attributes(entry.ino).unwrap().size;
            for extent in bootstrap.extents(entry.ino, 0, u32::try_from(size).unwrap()).unwrap() {
                let Extent::Chunk {
                    blob_index,
                    chunk_index,
                    uncompressed_offset,
                    uncompressed_size,
                    record: Some((stored, digest)),
                    ..
                } = extent.unwrap()
                else {
                    continue;
                };
                if seen.insert((blob_index, chunk_index)) {
                    let index = chunk_index;
                    let chunk = ChunkDescription { index, uncompressed_offset, uncompressed_size, stored };
                    chunks.push((bootstrap.blobs()[blob_index as usize].clone(), chunk, digest));
                }
            }
        }
    }
    chunks
}

#[tokio::test]
async fn every_chunk_of_v5_images() {
    for (name, compared) in
        [("v5-lz4-sha256", 731), ("v5-zstd-blake3", 725), ("v5-none-prefetch", 725), ("v5-parent", 724)]
    {
        let image = image(name);
        let (bootstrap, backend) = (open(&image), backend(&image));
        let chunks = v5_chunks(&bootstrap);
        for (blob, chunk, digest) in &chunks {
            let unit = Unit::single(blob, *chunk).unwrap();
            let stored = unit.fetch(blob, &backend, request()).await.unwrap();
            let data = unit.decode(blob, &stored).unwrap();
            assert_eq!(blob.digester.digest(&data[0]), *digest, "{name} chunk {}", chunk.index);
        }
        assert_eq!(chunks.len(), compared, "{name}");
    }
}

#[tokio::test]
async fn tables_of_contents() {
    for (name, entries) in [
        ("v6-batch-toc", vec!["image.blob", "blob.meta", "blob.meta.header", "blob.digest"]),
        ("v6-inline", vec!["image.blob", "blob.meta", "blob.meta.header", "blob.digest", "image.boot"]),
    ] {
        let image = image(name);
        let (bootstrap, backend) = (open(&image), backend(&image));
        let blob = &bootstrap.blobs()[0];
        let toc = Toc::fetch(blob, &backend, request()).await.unwrap();
        assert_eq!(toc.entries().iter().map(|entry| &*entry.name).collect::<Vec<_>>(), entries, "{name}");
        for entry in toc.entries().iter().filter(|entry| entry.name != "image.blob") {
            let range = (entry.offset, entry.compressed_size);
            let mut stored = backend.read(&blob.id, range.0, range.1, request()).await.unwrap().to_vec();
            let data = entry.extract(name, &stored, 1 << 30).unwrap();
            assert_eq!(data.len() as u64, entry.uncompressed_size);
            let middle = stored.len() / 2;
            stored[middle] ^= 1;
            assert!(matches!(entry.extract(name, &stored, 1 << 30), Err(Error::Corrupt { .. })));
        }
        let mut other = BlobDescription::clone(blob);
        other.toc.as_mut().unwrap().digest = Digest([1; 32]);
        assert!(matches!(Toc::fetch(&other, &backend, request()).await, Err(Error::Corrupt { .. })));
    }
}

#[test]
fn only_the_inline_image_has_a_bootstrap_inside() {
    let mut found = 0;
    for image in fs::read_dir(image("")).unwrap() {
        for blob in fs::read_dir(image.unwrap().path().join("blobs")).unwrap() {
            let path = blob.unwrap().path();
            found += usize::from(extract_bootstrap(&File::open(path).unwrap(), "blob").unwrap().is_some());
        }
    }
    assert_eq!(found, 1);
}

/// The error of reading all units of a blob.
async fn failure(blob: &BlobDescription, backend: &dyn Backend) -> Result<()> {
    let table = ChunkTable::fetch(blob, backend, request()).await?;
    for index in 0..table.len() {
        let unit = table.unit(blob, index)?;
        unit.decode(blob, &unit.fetch(blob, backend, request()).await?)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_wrong_or_missing_key_is_noticed() {
    let image = image("v6-encrypt");
    let (bootstrap, backend) = (open(&image), backend(&image));
    let blob = &bootstrap.blobs()[0];
    failure(blob, &backend).await.unwrap();
    let mut other = BlobDescription::clone(blob);
    let Cipher { mut key, iv } = blob.cipher.unwrap();
    key[0] ^= 1;
    other.cipher = Some(Cipher { key, iv });
    assert!(matches!(failure(&other, &backend).await, Err(Error::Corrupt { .. })));
    other.cipher = None;
    assert!(matches!(failure(&other, &backend).await, Err(Error::Invalid { .. })));
}

#[tokio::test]
async fn a_table_of_another_blob_is_refused() {
    let image = image("v6-zstd");
    let (bootstrap, backend) = (open(&image), backend(&image));
    let blob = &bootstrap.blobs()[0];
    let table = ChunkTable::fetch(blob, &backend, request()).await.unwrap();
    let change: [fn(&mut BlobDescription); 4] = [
        |blob| blob.chunk_count += 1,
        |blob| blob.ci.as_mut().unwrap().offset += 1,
        |blob| blob.ci.as_mut().unwrap().uncompressed_size += 16,
        |blob| blob.uncompressed_size -= 4096,
    ];
    for (number, change) in change.iter().enumerate() {
        let mut other = BlobDescription::clone(blob);
        change(&mut other);
        assert!(ChunkTable::from_cache_file(&other, &table.to_cache_file()).is_err(), "change {number}");
    }
    let mut missing = BlobDescription::clone(blob);
    missing.ci = None;
    assert!(matches!(ChunkTable::fetch(&missing, &backend, request()).await, Err(Error::Invalid { .. })));
}

/// A flipped bit anywhere in the stored bytes of a chunk gives other bytes, which its digest or CRC shows, or an error;
/// never a panic, and never an answer of another length.
#[tokio::test]
async fn flipped_bits_are_noticed() {
    for name in ["v6-zstd", "v6-lz4-4k-sha256", "v6-batch-toc", "v6-encrypt", "v6-zran", "v6-none"] {
        let image = image(name);
        let (bootstrap, backend) = (open(&image), backend(&image));
        let blob = &bootstrap.blobs()[0];
        let table = ChunkTable::fetch(blob, &backend, request()).await.unwrap();
        let unit = table.unit(blob, table.len() / 2).unwrap();
        let stored = unit.fetch(blob, &backend, request()).await.unwrap();
        let good = unit.decode(blob, &stored).unwrap();
        let step = (stored.len() / 200).max(1);
        let mut noticed = 0;
        for at in (0..stored.len()).step_by(step) {
            let mut broken = stored.to_vec();
            broken[at] ^= 1 << (at % 8);
            match unit.decode(blob, &broken) {
                Ok(chunks) => {
                    assert!(chunks.iter().zip(&good).all(|(bad, good)| bad.len() == good.len()));
                    noticed += usize::from(chunks != good);
                }
                Err(Error::Corrupt { what, .. }) => {
                    assert!(what.contains(blob.id.as_str()), "{what}");
                    noticed += 1;
                }
                Err(other) => panic!("{name}: {other}"),
            }
        }
        // Frames have bits that do not matter, and a ZRan context holds more than chunks: tar headers, duplicates.
        let share = if name == "v6-zran" { 5 } else { 9 };
        assert!(noticed * 10 > stored.len() / step * share, "{name}: {noticed} of {}", stored.len() / step);
        for len in [0, 1, stored.len() - 1] {
            assert!(unit.decode(blob, &stored[..len]).is_err(), "{name}: {len} of {}", stored.len());
        }
    }
}
