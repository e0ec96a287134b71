use std::io::Write;

use super::super::samples::{DATA_SIZE, Sample, batch, place, v1, v2};
use super::*;
use crate::blob::{Cipher, StoredChunk};

fn blob() -> BlobDescription {
    Sample::new(BlobFeatures::empty()).blob
}

fn chunk(flags: ChunkFlags, decoded: u32, stored: u32) -> ChunkDescription {
    ChunkDescription {
        index: 3,
        uncompressed_offset: 8192,
        uncompressed_size: decoded,
        stored: StoredChunk {
            flags,
            compressed_offset: 500,
            compressed_size: stored,
            unit_index: 0,
            unit_offset: 0,
            crc32c: None,
        },
    }
}

const KEY: Cipher = Cipher { key: [7; 32], iv: [9; 16] };

/// As a builder encrypts with [`KEY`].
fn encrypt(plain: &[u8]) -> Vec<u8> {
    BlobCipher::new(&KEY).encrypt(plain.to_vec())
}

#[test]
fn a_chunk_is_decoded() {
    let data = vec![42; 5000];
    let stored = zstd::bulk::compress(&data, 3).unwrap();
    let chunk = chunk(ChunkFlags::COMPRESSED, 5000, stored.len() as u32);
    let unit = Unit::single(&blob(), chunk).unwrap();
    assert_eq!((unit.offset, unit.len, unit.decoded_size()), (500, stored.len() as u64, 5000));
    assert_eq!(unit.decode(&blob(), &stored).unwrap(), [&*data]);
}

#[test]
fn a_chunk_is_checked_by_its_digest_else_by_its_crc() {
    let (blob, data) = (blob(), [42; 5000]);
    let (digest, crc) = (blob.digester.digest(&data), crc32c(&data));
    assert!(check_chunk(&blob, 3, Some(digest), None, &data).unwrap());
    assert!(check_chunk(&blob, 3, None, Some(crc), &data).unwrap());
    assert!(!check_chunk(&blob, 3, None, None, &data).unwrap());
    assert!(check_chunk(&blob, 3, Some(digest), Some(!crc), &data).unwrap(), "the digest says more");
    let other = blob.digester.digest(b"other");
    let err = check_chunk(&blob, 3, Some(other), Some(crc), &data).unwrap_err().to_string();
    assert_eq!(err, format!("blob sample chunk 3: digest is {digest}, expected {other}"));
    // In v5 zero is a CRC like any other.
    for wrong in [0, crc ^ 1] {
        let err = check_chunk(&blob, 3, None, Some(wrong), &data).unwrap_err().to_string();
        assert_eq!(err, format!("blob sample chunk 3: CRC-32C is {crc:#010x}, expected {wrong:#010x}"));
    }
}

#[test]
fn stored_bytes_must_be_as_many_as_described() {
    let unit = Unit::single(&blob(), chunk(ChunkFlags::empty(), 10, 10)).unwrap();
    assert_eq!(unit.decode(&blob(), &[1; 10]).unwrap(), [[1; 10].as_slice()]);
    for len in [0, 9, 11] {
        assert!(matches!(unit.decode(&blob(), &vec![1; len]), Err(Error::Corrupt { .. })), "{len} bytes");
    }
}

#[test]
fn descriptions_that_contradict_themselves_are_invalid() {
    let refused = |chunk, why: &str| match Unit::single(&blob(), chunk) {
        Err(Error::Invalid { detail, .. }) => assert!(detail.contains(why), "{detail}, expected {why:?}"),
        other => panic!("{other:?}, expected {why:?}"),
    };
    refused(chunk(ChunkFlags::COMPRESSED, 0, 10), "0 bytes decoded");
    refused(chunk(ChunkFlags::COMPRESSED, (1 << 24) + 1, 10), "16777217 bytes decoded");
    refused(chunk(ChunkFlags::COMPRESSED, 10, 0), "0 bytes stored");
    refused(chunk(ChunkFlags::COMPRESSED, 10, u32::MAX), "4294967295 bytes stored");
    refused(chunk(ChunkFlags::empty(), 10, 9), "9 bytes stored plain, expected 10");
    refused(chunk(ChunkFlags::BATCH, 10, 10), "batch or ZRan");
    refused(chunk(ChunkFlags::ZRAN, 10, 10), "batch or ZRan");
    let mut far = chunk(ChunkFlags::empty(), 10, 10);
    far.stored.compressed_offset = DATA_SIZE - 9;
    refused(far, "stored range");
    far.stored.compressed_offset = u64::MAX;
    refused(far, "stored range");
    let mut far = chunk(ChunkFlags::empty(), 10, 10);
    far.uncompressed_offset = u64::MAX - 5;
    refused(far, "decoded range");
    // Where the sizes of the blob are not known, nothing is outside, but nothing overflows either.
    let mut unknown = blob();
    (unknown.ci, unknown.compressed_size, unknown.uncompressed_size) = (None, 0, 0);
    assert!(Unit::single(&unknown, far).is_err());
    far.uncompressed_offset = 1 << 60;
    Unit::single(&unknown, far).unwrap();
}

#[test]
fn an_encrypted_chunk_is_decrypted_before_it_is_decoded() {
    let mut blob = blob();
    let data = vec![42; 5000];
    let stored = encrypt(&zstd::bulk::compress(&data, 3).unwrap());
    let both = ChunkFlags::COMPRESSED | ChunkFlags::ENCRYPTED;
    let unit = Unit::single(&blob, chunk(both, 5000, stored.len() as u32)).unwrap();
    assert!(matches!(unit.decode(&blob, &stored), Err(Error::Invalid { .. })), "there is no key");
    blob.cipher = Some(KEY);
    assert_eq!(unit.decode(&blob, &stored).unwrap(), [&*data]);
    assert_eq!(unit.decoded_size(), 5000 + stored.len() as u64);
    // Short ones are padded.
    for len in 1..40 {
        let data = vec![len as u8; len];
        let stored = encrypt(&data);
        let unit =
            Unit::single(&blob, chunk(ChunkFlags::ENCRYPTED, len as u32, stored.len() as u32)).unwrap();
        assert_eq!(unit.decode(&blob, &stored).unwrap(), [&*data]);
    }
}

/// The only unit of a batch with two members, `one` and `two`.
fn batch_unit(features: BlobFeatures, flags: u8, stored: u32) -> (BlobDescription, Unit) {
    let mut sample = Sample::new(features | BlobFeatures::BATCH | BlobFeatures::CHUNK_INFO_V2);
    sample.v2 = vec![v2(flags, (0, 3), (100, 0), place(0, 0)), v2(flags, (4096, 3), (100, 0), place(0, 3))];
    sample.batch = vec![batch(stored, 6)];
    let sample = sample.settle();
    let unit = sample.parse().unwrap().unit(&sample.blob, 0).unwrap();
    (sample.blob, unit)
}

#[test]
fn the_context_says_whether_a_batch_is_plain() {
    // The flag of the members says compressed in both cases.
    let (blob, unit) = batch_unit(BlobFeatures::empty(), 5, 6);
    assert_eq!(unit.decode(&blob, b"onetwo").unwrap(), ["one", "two"]);
    let (blob, unit) = batch_unit(BlobFeatures::empty(), 5, 5);
    assert!(unit.decode(&blob, b"onetw").is_err(), "this is no zstd frame");
}

#[test]
fn a_short_plain_batch_is_padded_when_encrypted() {
    let stored = encrypt(b"onetwo");
    let (mut blob, unit) = batch_unit(BlobFeatures::ENCRYPTED, 13, stored.len() as u32);
    blob.cipher = Some(KEY);
    assert_eq!(unit.decode(&blob, &stored).unwrap(), ["one", "two"]);
}

#[test]
fn legacy_stargz_ignores_what_follows() {
    let mut sample = Sample::new(BlobFeatures::empty());
    sample.blob.compressor = Compressor::Gzip;
    sample.v1 = vec![v1((0, 5000), (100, 900))];
    // How large the object is, is not known.
    (sample.blob.features, sample.blob.compressed_size) = (BlobFeatures::ALIGNED, 0);
    let sample = sample.settle();
    let mut unit = sample.parse().unwrap().unit(&sample.blob, 0).unwrap();
    assert_eq!((unit.len, unit.len_is_bound), (900, true));

    let data = vec![42; 5000];
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(&data).unwrap();
    let stored = encoder.finish().unwrap();
    let mut followed = stored.clone();
    followed.resize(900, 0xaa);
    assert_eq!(unit.decode(&sample.blob, &followed).unwrap(), [&*data]);
    // The object ends within the bound.
    unit.clip(100 + stored.len() as u64);
    assert_eq!(unit.len, stored.len() as u64);
    assert_eq!(unit.decode(&sample.blob, &stored).unwrap(), [&*data]);
    assert!(unit.decode(&sample.blob, &stored[..stored.len() / 2]).is_err());
    unit.clip(5);
    assert_eq!(unit.len, 0, "it begins behind the end");
}

#[test]
fn only_bounds_are_clipped() {
    let mut unit = Unit::single(&blob(), chunk(ChunkFlags::empty(), 10, 10)).unwrap();
    unit.clip(505);
    assert_eq!(unit.len, 10);
}
