use std::io::Write;

use zerocopy::IntoBytes;

use super::super::samples::Sample;
use super::super::{BlobFeatures, DigestArray, extract_bootstrap, tar_header};
use super::*;

const ANYWHERE: TocLocation = TocLocation { size: 0, digest: Digest([0; 32]) };

fn record(name: &str, flags: u32, offset: u64, stored: &[u8], data: &[u8]) -> TocRecord {
    let mut record = TocRecord {
        flags: flags.into(),
        reserved: 0.into(),
        name: [0; 16],
        digest: Digester::Sha256.digest(data).0,
        offset: offset.into(),
        compressed_size: (stored.len() as u64).into(),
        uncompressed_size: (data.len() as u64).into(),
        reserved2: [0; 48],
    };
    record.name[..name.len()].copy_from_slice(name.as_bytes());
    record
}

fn table(records: &[TocRecord]) -> Vec<u8> {
    let entries = records.as_bytes();
    [entries, &tar_header::make(HEADER_NAME, entries.len() as u64)].concat()
}

#[test]
fn the_window_may_begin_inside_other_data() {
    let sections =
        [record("blob.meta.header", 1, 5, b"abc", b"abc"), record("image.boot", 2, 9, b"de", b"defg")];
    let raw = table(&sections);
    let known = TocLocation { size: raw.len() as u32, digest: Digester::Sha256.digest(&raw) };
    let tail = [&[0xee; 1000], &*raw].concat();
    for location in [ANYWHERE, known] {
        let toc = Toc::parse("blob", &tail, &location).unwrap();
        assert_eq!(toc.as_bytes(), &raw);
        assert_eq!(toc.entries().len(), 2);
        let entry = toc.entry("blob.meta.header").unwrap();
        assert_eq!((entry.compressor, entry.offset, entry.compressed_size), (Compressor::None, 5, 3));
        assert_eq!(toc.entry("image.boot").unwrap().compressor, Compressor::Zstd);
        assert_eq!(toc.entry("blob.meta"), None);
    }
}

#[test]
fn what_is_no_table_is_refused() {
    let raw = table(&[record("a", 1, 0, b"", b"")]);
    let refused = |tail: &[u8], location: TocLocation, why: &str| {
        let err = Toc::parse("blob", tail, &location).unwrap_err();
        assert!(
            matches!(err, Error::Corrupt { .. }) && err.to_string().contains(why),
            "{err}, expected {why:?}"
        );
    };
    refused(&[], ANYWHERE, "no rafs.blob.toc header");
    refused(&raw[..raw.len() - 1], ANYWHERE, "no rafs.blob.toc header");
    refused(&[&*raw, &[0]].concat(), ANYWHERE, "no rafs.blob.toc header");
    refused(&tar_header::make("image.boot", 0), ANYWHERE, "no rafs.blob.toc header");
    refused(&raw[1..], ANYWHERE, "640 bytes with header, expected 639");
    refused(&raw, TocLocation { size: 768, ..ANYWHERE }, "640 bytes with header, expected 768");
    refused(&raw, TocLocation { digest: Digest([1; 32]), ..ANYWHERE }, "SHA-256 is");
    refused(&[&[0; 100][..], &tar_header::make(HEADER_NAME, 100)].concat(), ANYWHERE, "no whole entries");
    refused(&[&[0; 8192][..], &tar_header::make(HEADER_NAME, 3712)].concat(), ANYWHERE, "expected 4096");
    refused(&tar_header::make(HEADER_NAME, 0o77_777_777_777), ANYWHERE, "expected 512");
    for flags in [0, 3, 8, 0x11, u32::MAX] {
        refused(&table(&[record("a", flags, 0, b"", b"")]), ANYWHERE, "expected 1, 2 or 4");
    }
    let mut unreadable = record("a", 1, 0, b"", b"");
    unreadable.name[0] = 0xff;
    refused(&table(&[unreadable]), ANYWHERE, "not UTF-8");
}

#[test]
fn sections_have_their_size_and_digest() {
    let data = vec![3; 10_000];
    let stored = zstd::bulk::compress(&data, 3).unwrap();
    let entry = |change: fn(&mut TocEntry)| {
        let mut entry = TocEntry::unpack(&record("s", 2, 0, &stored, &data)).unwrap();
        change(&mut entry);
        entry
    };
    assert_eq!(entry(|_| {}).extract("blob", &stored, 10_000).unwrap(), data);
    assert_eq!(entry(|entry| entry.digest = Digest([0; 32])).extract("blob", &stored, 10_000).unwrap(), data);
    let refused: [fn(&mut TocEntry); 6] = [
        |entry| entry.digest.0[5] ^= 1,
        |entry| entry.uncompressed_size -= 1,
        |entry| entry.uncompressed_size += 1,
        |entry| entry.compressed_size += 1,
        |entry| entry.compressor = Compressor::None,
        |entry| entry.offset = u64::MAX,
    ];
    for (number, change) in refused.into_iter().enumerate() {
        let err = entry(change).extract("blob", &stored, 20_000).unwrap_err();
        assert!(matches!(err, Error::Corrupt { .. }), "change {number}: {err}");
    }
    assert!(entry(|_| {}).extract("blob", &stored, 9_999).is_err(), "over the limit");
}

/// A blob file: something, a bootstrap stored so, and what follows it.
fn file(bootstrap: &[u8], tail: &[Vec<u8>]) -> std::fs::File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[&[0xdd; 10], bootstrap, &tail.concat()].concat()).unwrap();
    file
}

#[test]
fn bootstraps_are_extracted() {
    let data: Vec<u8> = (0..3_000_000u32).map(|at| (at / 1000) as u8).collect();
    let stored = zstd::bulk::compress(&data, 3).unwrap();
    // Behind a table of contents, compressed or not.
    for (flags, stored) in [(2, &stored), (1, &data)] {
        let tail = [
            tar_header::make("image.boot", stored.len() as u64).to_vec(),
            table(&[record("image.boot", flags, 10, stored, &data)]),
        ];
        assert_eq!(extract_bootstrap(&file(stored, &tail), "f").unwrap().unwrap(), data);
    }
    // The last section, without a table.
    let tail = [tar_header::make("image.boot", data.len() as u64).to_vec()];
    assert_eq!(extract_bootstrap(&file(&data, &tail), "f").unwrap().unwrap(), data);
    // Nothing there.
    for tail in
        [table(&[record("blob.meta", 1, 0, b"", b"")]), tar_header::make("blob.meta", 5).to_vec(), vec![]]
    {
        assert_eq!(extract_bootstrap(&file(&data, &[tail]), "f").unwrap(), None);
    }
    assert_eq!(extract_bootstrap(&tempfile::tempfile().unwrap(), "f").unwrap(), None);
}

#[test]
fn hostile_bootstraps_are_refused() {
    let data = vec![7; 64 << 20];
    let stored = zstd::bulk::compress(&data, 3).unwrap();
    let record = |data: &[u8]| record("image.boot", 2, 10, &stored, data);
    let refused = |record: TocRecord, why: &str| {
        let err = extract_bootstrap(&file(&stored, &[table(&[record])]), "f").unwrap_err();
        assert!(
            matches!(err, Error::Corrupt { .. }) && err.to_string().contains(why),
            "{err}, expected {why:?}"
        );
    };
    // 64 MiB in 6 kB.
    refused(record(&data), "67108864 bytes out of");
    // It says that it is small, and goes on.
    refused(record(&data[..100_000]), "not the 100000 bytes that were promised");
    let mut large = record(&data);
    large.uncompressed_size = ((1 << 31) + 1).into();
    refused(large, "2147483648 at most");
    let mut beyond = record(&data[..100_000]);
    beyond.offset = 1_000_000.into();
    refused(beyond, "section image.boot");
    let mut other = record(&data[..100_000]);
    other.flags = 4.into();
    refused(other, "expected none or zstd");
    // A header that says more than there is before it.
    let tail = [tar_header::make("image.boot", 100).to_vec()];
    let err = extract_bootstrap(&file(b"", &tail), "f").unwrap_err();
    assert!(err.to_string().contains("100 bytes in 10"), "{err}");
}

#[test]
fn digest_arrays_have_one_digest_a_chunk() {
    let mut blob = Sample::new(BlobFeatures::INLINED_CHUNK_DIGEST).blob;
    blob.chunk_count = 3;
    let array = [[1; 32], [0; 32], [3; 32]].concat();
    let toc = |record| Toc::parse("blob", &table(&[record]), &ANYWHERE).unwrap();
    let good = toc(record("blob.digest", 1, 0, &array, &array));
    let digests = DigestArray::parse(&blob, &good, &array).unwrap();
    assert_eq!(digests.get(0), Some(Digest([1; 32])));
    assert_eq!(digests.get(1), None, "all zero means none");
    assert_eq!(digests.get(2), Some(Digest([3; 32])));
    assert_eq!((digests.get(3), digests.get(u32::MAX)), (None, None));
    assert_eq!(digests.as_bytes(), &array);

    let mut other = array.clone();
    other[40] = 1;
    assert!(DigestArray::parse(&blob, &good, &other).is_err(), "another digest");
    assert!(DigestArray::parse(&blob, &toc(record("blob.meta", 1, 0, &array, &array)), &array).is_err());
    for count in [2, 4] {
        blob.chunk_count = count;
        assert!(DigestArray::parse(&blob, &good, &array).is_err(), "{count} chunks");
    }
}
