use super::super::samples::{DATA_SIZE, DECODED_SIZE, Sample, batch, place, v1, v2, zran};
use super::*;
use crate::blob::{Cipher, Compressor};

/// Two plain chunks in 16-byte entries.
fn plain() -> Sample {
    let mut sample = Sample::new(BlobFeatures::empty());
    sample.v1 = vec![v1((0, 100), (0, 100)), v1((4096, 5000), (100, 300))];
    sample.settle()
}

fn with_v2(features: BlobFeatures) -> Sample {
    Sample::new(features | BlobFeatures::CHUNK_INFO_V2)
}

/// A chunk of its own, then a batch of two, then another batch of one, encrypted or not.
fn batches() -> Sample {
    let mut sample = with_v2(BlobFeatures::BATCH);
    sample.v2 = vec![
        v2(0x10, (0, 100), (0, 100), 0x1234),
        v2(5, (4096, 10), (100, 0), place(0, 0)),
        v2(5, (8192, 20), (100, 0), place(0, 10)),
        v2(5, (12288, 7), (125, 0), place(1, 0)),
    ];
    sample.batch = vec![batch(25, 30), batch(7, 7)];
    sample.settle()
}

/// Two chunks out of one context.
fn contexts() -> Sample {
    let mut sample = with_v2(BlobFeatures::ZRAN | BlobFeatures::SEPARATE);
    sample.v2 = vec![v2(3, (0, 10), (0, 5), place(0, 0)), v2(3, (4096, 10), (5, 0), place(0, 90))];
    sample.zran = vec![zran((0, 500), 100, (0, 4))];
    sample.dictionaries = vec![1, 2, 3, 4];
    sample.settle()
}

fn refused(sample: &Sample, why: &str) {
    match sample.parse() {
        Ok(_) => panic!("{why:?} was accepted"),
        Err(err) => assert!(err.to_string().contains(why), "{err}, expected {why:?}"),
    }
}

/// Parsing a changed sample fails, and the error says why.
fn refuses(make: fn() -> Sample, change: impl Fn(&mut Sample), why: &str) {
    make().parse().unwrap();
    let mut sample = make();
    change(&mut sample);
    refused(&sample, why);
}

#[test]
fn chunks_come_out() {
    let table = plain().parse().unwrap();
    assert_eq!((table.len(), table.is_empty()), (2, false));
    let chunk = table.chunk(1).unwrap();
    assert_eq!((chunk.uncompressed_offset, chunk.uncompressed_size), (4096, 5000));
    assert_eq!(chunk.stored.flags, ChunkFlags::COMPRESSED);
    let Err(Error::Invalid { what, .. }) = table.chunk(2) else { panic!("there is no third chunk") };
    assert_eq!(what, "blob sample chunk 2");

    let empty = Sample::new(BlobFeatures::empty()).settle().parse().unwrap();
    assert!(empty.is_empty());
}

#[test]
fn header_must_agree_with_the_blob_table() {
    refuses(plain, |s| s.header.magic = 1.into(), "magic is 0x1, expected 0xb10bb10b");
    refuses(plain, |s| s.header.magic2 = 1.into(), "second magic");
    refuses(plain, |s| s.header.ci_entries = 1.into(), "entries is 0x1, expected 0x2");
    refuses(plain, |s| s.header.ci_compressor = 3.into(), "compressor is 0x3, expected 0x0");
    refuses(plain, |s| s.header.ci_offset = 1.into(), "offset is 0x1");
    refuses(plain, |s| s.header.ci_compressed_size = 1.into(), "stored size is 0x1");
    refuses(plain, |s| s.header.ci_uncompressed_size = 1.into(), "decoded size is 0x1");
    let sample = plain();
    let short = ChunkTable::parse(&sample.blob, sample.array().into(), &[0; 4095]).unwrap_err();
    assert!(short.to_string().contains("header of 4095 bytes"), "{short}");
    let cut = sample.array()[1..].to_vec();
    let err = ChunkTable::parse(&sample.blob, cut.into(), &[0; 4096]).unwrap_err();
    assert!(matches!(err, Error::Corrupt { .. }), "{err}");
}

#[test]
fn description_must_agree_with_itself() {
    let ci = |change: fn(&mut CiLocation)| move |s: &mut Sample| change(s.blob.ci.as_mut().unwrap());
    refuses(plain, |s| s.blob.ci = None, "has none");
    refuses(plain, ci(|ci| ci.uncompressed_size += 1), "33 bytes for 2 chunks");
    refuses(plain, ci(|ci| ci.compressed_size = 33), "33 bytes stored");
    refuses(plain, |s| s.blob.chunk_count = 3, "32 bytes for 3 chunks");
    refuses(plain, |s| s.blob.chunk_count = MAX_CHUNKS + 1, "16777217 chunks");
    refuses(plain, |s| s.blob.features |= BlobFeatures::CHUNK_INFO_V2, "32 bytes for 2 chunks");
    refuses(batches, |s| s.blob.features -= BlobFeatures::CHUNK_INFO_V2, "24-byte entries");
    refuses(batches, |s| s.blob.features |= BlobFeatures::ZRAN, "either ZRan or batch");
    refuses(batches, ci(|ci| ci.uncompressed_size = MAX_ARRAY_SIZE + 1), "bytes for 4 chunks");
    // Without contexts the size is exact.
    refuses(batches, |s| s.blob.features -= BlobFeatures::BATCH, "bytes for 4 chunks");
}

#[test]
fn stored_and_decoded_ranges_stay_inside() {
    let entry = |decoded, stored| move |s: &mut Sample| s.v1[1] = v1(decoded, stored);
    refuses(plain, entry((4096, 5000), (DATA_SIZE - 299, 300)), "stored range 1048277+300 is outside");
    refuses(plain, entry((4096, 5000), ((1 << 40) - 1, 300)), "stored range");
    refuses(plain, entry((DECODED_SIZE, 5000), (100, 300)), "decoded range 67108864+5000 is outside");
    // The data ends before the tar header that follows it.
    refuses(
        plain,
        |s| {
            s.v1[1] = v1((4096, 5000), (DATA_SIZE - 300, 300));
            s.blob.features |= BlobFeatures::HAS_TAR_HEADER;
        },
        "outside of the blob's 1048064 bytes",
    );
    let mut last = plain();
    last.v1[1] = v1((4096, 5000), (DATA_SIZE - 300, 300));
    last.parse().unwrap();
    // The decoded size is rounded up to 4 KiB.
    last.blob.uncompressed_size = 8193;
    last.parse().unwrap();
    last.blob.uncompressed_size = 8192;
    refused(&last, "decoded range");
}

#[test]
fn chunks_do_not_overlap() {
    refuses(plain, |s| s.v1[1] = v1((0, 100), (100, 100)), "decoded offset 0, expected 100 at least");
    refuses(plain, |s| s.v1[0] = v1((0, 4097), (0, 300)), "decoded offset 4096, expected 4097 at least");
    refuses(plain, |s| s.v1.swap(0, 1), "decoded offset 0");
}

#[test]
fn entries_with_flags_follow_the_rules() {
    let entry = |at: usize, entry| move |s: &mut Sample| s.v2[at] = entry;
    let chunk = |flags, stored, data| v2(flags, (0, 100), stored, data);
    refuses(batches, entry(0, chunk(0x11, (0, 0), 1)), "0 bytes stored");
    refuses(batches, entry(0, chunk(0, (0, 99), 0)), "99 bytes stored plain, expected 100");
    refuses(batches, entry(0, chunk(0x10, (0, 100), 0)), "no usable CRC-32C");
    refuses(batches, entry(0, v2(0x15, (0, 10), (0, 0), place(0, 0))), "no usable CRC-32C");
    refuses(batches, entry(0, chunk(2, (0, 100), 0)), "there is no context 0");
    refuses(batches, entry(0, chunk(6, (0, 100), 0)), "both ZRan and batch");
    refuses(contexts, entry(0, chunk(5, (0, 0), 0)), "there is no context 0");
    refuses(contexts, entry(0, v2(0xb, (0, 10), (0, 5), 0)), "both ZRan and encrypted");
    // Unknown flags are told in the log and ignored.
    let mut unknown = batches();
    unknown.v2[0] = chunk(0xe0, (0, 100), 0);
    unknown.parse().unwrap();
}

#[test]
fn batch_contexts_follow_the_rules() {
    let member = |data| move |s: &mut Sample| s.v2[2] = v2(5, (8192, 20), (100, 0), data);
    refuses(batches, member(place(2, 0)), "there is no context 2");
    refuses(batches, member(place(u32::MAX, 0)), "there is no context 4294967295");
    refuses(batches, member(place(0, 11)), "ends at 31 in a context of 30 bytes");
    refuses(batches, member(place(0, u32::MAX)), "in a context of 30 bytes");
    refuses(batches, |s| s.batch[0] = batch(31, 30), "batch context 0: 31 bytes stored");
    refuses(batches, |s| s.batch[1] = batch(0, 7), "batch context 1: 0 bytes stored");
    refuses(batches, |s| s.batch[1] = batch(0, 0), "batch context 1: 0 bytes decoded");
    refuses(batches, |s| s.batch[0] = batch(25, (1 << 24) + 1), "batch context 0: 16777217 bytes decoded");
    refuses(
        batches,
        |s| s.v2[3] = v2(5, (12288, 7), (DATA_SIZE - 6, 0), place(1, 0)),
        "its context 1048570+7",
    );
}

#[test]
fn zran_contexts_follow_the_rules() {
    let context = |input, out, dictionary| move |s: &mut Sample| s.zran[0] = zran(input, out, dictionary);
    refuses(contexts, context((0, 500), 99, (0, 4)), "ends at 100 in a context of 99 bytes");
    refuses(contexts, context((0, 500), (1 << 24) + 1, (0, 4)), "16777217 bytes decoded");
    refuses(contexts, context((0, 0), 100, (0, 4)), "0 bytes stored");
    refuses(contexts, context((0, (1 << 25) + 1), 100, (0, 4)), "33554433 bytes stored");
    refuses(contexts, context((DATA_SIZE - 499, 500), 100, (0, 4)), "stored range 1048077+500");
    refuses(contexts, context((u64::MAX, 500), 100, (0, 4)), "stored range");
    refuses(contexts, context((0, 500), 100, (1, 4)), "dictionary 1+4 is outside of the 4 bytes");
    refuses(contexts, context((0, 500), 100, (u64::MAX, 4)), "dictionary");
    refuses(contexts, context((0, 500), 100, (0, 32769)), "dictionary 0+32769");
    refuses(contexts, |s| s.zran[0].bits = 8, "8 leftover bits");
}

#[test]
fn context_tables_stay_inside() {
    refuses(contexts, |s| s.header.ctx_offset = 47.into(), "1 contexts in 47+44, expected at 48");
    refuses(contexts, |s| s.header.ctx_size = 45.into(), "within 92 bytes");
    refuses(contexts, |s| s.header.ctx_size = 39.into(), "48+39");
    refuses(contexts, |s| s.header.ctx_count = 2.into(), "2 contexts in");
    refuses(contexts, |s| s.header.ctx_count = u32::MAX.into(), "4294967295 contexts in");
    refuses(contexts, |s| s.header.ctx_count = 0.into(), "there is no context 0");
    let mut many = contexts();
    many.zran = vec![many.zran[0]; 3];
    refused(&many.settle(), "3 contexts for 2 chunks");
}

#[test]
fn units_have_their_members() {
    let sample = batches();
    let table = sample.parse().unwrap();
    let unit = |index| {
        let unit = table.unit(&sample.blob, index).unwrap();
        let members: Vec<_> = unit.members.iter().map(|chunk| chunk.index).collect();
        (unit.offset, unit.len, unit.decoded_size(), members)
    };
    assert_eq!(unit(0), (0, 100, 100, vec![0]));
    assert_eq!(unit(1), (100, 25, 30, vec![1, 2]));
    assert_eq!(unit(2), unit(1));
    assert_eq!(unit(3), (125, 7, 7, vec![3]));

    let sample = contexts();
    let table = sample.parse().unwrap();
    let unit = table.unit(&sample.blob, 1).unwrap();
    assert_eq!((unit.offset, unit.len, unit.decoded_size(), unit.members.len()), (0, 500, 100, 2));
    assert!(table.unit(&sample.blob, 2).is_err());
}

#[test]
fn a_crowded_unit_shows_the_chunks_around_the_one_asked_for() {
    let mut sample = with_v2(BlobFeatures::BATCH);
    let count = 3 * MAX_NEIGHBOURS as u64;
    sample.blob.uncompressed_size = count * 4096;
    sample.v2 = (0..count).map(|at| v2(5, (at * 4096, 1), (0, 0), place(0, 0))).collect();
    sample.batch = vec![batch(1, 1)];
    let sample = sample.settle();
    let table = sample.parse().unwrap();
    let middle = count as u32 / 2;
    let members = table.unit(&sample.blob, middle).unwrap().members;
    assert_eq!(members.len(), 2 * MAX_NEIGHBOURS);
    assert_eq!(members[MAX_NEIGHBOURS].index, middle);
}

#[test]
fn generated_dictionaries_are_checked_where_they_are_used() {
    let mut sample = plain();
    sample.blob.features |= BlobFeatures::IS_CHUNKDICT_GENERATED;
    // Neither order nor counts are as in an ordinary blob.
    sample.v1.swap(0, 1);
    sample.v1[0] = v1((4096, 5000), (DATA_SIZE, 300));
    sample.blob.chunk_count = 77;
    let table = sample.parse().unwrap();
    assert_eq!(table.len(), 2);
    assert!(table.unit(&sample.blob, 0).is_err(), "it is stored outside of the blob");
    table.unit(&sample.blob, 1).unwrap();
    sample.header.ci_entries = 3.into();
    refused(&sample, "too short for 48 bytes of entries");
}

#[test]
fn legacy_stargz_sizes_are_bounds() {
    let mut sample = plain();
    sample.blob.compressor = Compressor::Gzip;
    sample.v1[1] = v1((4096, 5000), (DATA_SIZE - 10, 300));
    let table = sample.parse().unwrap();
    let unit = table.unit(&sample.blob, 1).unwrap();
    assert_eq!((unit.offset, unit.len, unit.len_is_bound), (DATA_SIZE - 10, 10, true));
    sample.v1[1] = v1((4096, 5000), (DATA_SIZE, 300));
    refused(&sample, "stored range");
}

#[test]
fn cache_files_are_padded_to_pages() {
    let sample = contexts();
    let table = sample.parse().unwrap();
    let file = table.to_cache_file();
    assert_eq!(file.len(), 8192);
    assert_eq!(file[..sample.array().len()], sample.array());
    assert!(file[sample.array().len()..4096].iter().all(|byte| *byte == 0));
    ChunkTable::from_cache_file(&sample.blob, &file).unwrap();
    for len in [0, 4096, 8191] {
        assert!(matches!(
            ChunkTable::from_cache_file(&sample.blob, &file[..len]),
            Err(Error::Corrupt { .. })
        ));
    }
    let mut broken = file.clone();
    broken[4096] ^= 1;
    assert!(matches!(ChunkTable::from_cache_file(&sample.blob, &broken), Err(Error::Corrupt { .. })));
}

#[test]
fn stored_tables_are_decoded() {
    let mut sample = plain();
    let header = |sample: &Sample| zerocopy::IntoBytes::as_bytes(&sample.header).to_vec();
    let stored = [sample.array(), header(&sample)].concat();
    ChunkTable::decode(&sample.blob, &stored).unwrap();
    assert!(ChunkTable::decode(&sample.blob, &stored[1..]).is_err());
    assert!(ChunkTable::decode(&sample.blob, &[]).is_err());
    // An encrypted blob needs its key.
    sample.blob.features |= BlobFeatures::ENCRYPTED;
    assert!(matches!(ChunkTable::decode(&sample.blob, &stored), Err(Error::Invalid { .. })));
    sample.blob.cipher = Some(Cipher { key: [1; 32], iv: [2; 16] });
    assert!(matches!(ChunkTable::decode(&sample.blob, &stored), Err(Error::Corrupt { .. })));
}
