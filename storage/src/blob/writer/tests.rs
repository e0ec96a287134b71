//! What is written is read again, by the readers of this crate; and what the format cannot hold is refused.

use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::backend::{Backend, BoxFuture, Priority, Request};
use crate::blob::{
    BlobDescription, BlobFeatures, BlobId, ChunkTable, Cipher, Compressor, Toc, TocLocation, Unit,
    extract_bootstrap, fetch_digests,
};
use crate::cipher::BlobCipher;
use crate::digest::{Digest, Digester, crc32c};

const KEY: Cipher = Cipher { key: *b"0123456789abcdefghijklmnopqrstuv", iv: [9; 16] };
const CHUNK_SIZE: u32 = 0x2000;

/// A place with one object.
#[derive(Debug)]
struct Memory(Bytes);

impl Backend for Memory {
    fn read<'a>(&'a self, _: &'a BlobId, offset: u64, len: u64, _: Request) -> BoxFuture<'a, Result<Bytes>> {
        Box::pin(async move { Ok(self.0.slice(offset as usize..(offset + len) as usize)) })
    }

    fn size<'a>(&'a self, _: &'a BlobId, _: Request) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move { Ok(self.0.len() as u64) })
    }
}

fn request() -> Request {
    Request::new(Priority::OnDemand, Instant::now() + Duration::from_secs(60))
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn v6() -> BlobOptions {
    BlobOptions::v6(Compressor::Zstd, Digester::Blake3, CHUNK_SIZE)
}

/// A chunk, and whether it is all of its file.
type Input = (Vec<u8>, bool);

/// As a build goes over its files.
fn write(options: &BlobOptions, chunks: &[Input]) -> (BlobWriter<Vec<u8>>, Vec<ChunkDescription>) {
    let mut writer = BlobWriter::new(Vec::new(), options.clone()).unwrap();
    let mut batcher = Batcher::new(options.batch_size);
    let mut descriptions = Vec::new();
    for (data, whole_file) in chunks {
        let is_member = batcher.takes(data.len(), *whole_file);
        let digest = options.digester.digest(data);
        let full = if is_member { batcher.add(data, digest) } else { batcher.take() };
        if let Some(batch) = full {
            descriptions.extend(writer.append_batch(&batch.encode(options).unwrap()).unwrap());
        }
        if !is_member {
            descriptions.push(writer.append(&encode_chunk(data, options).unwrap()).unwrap());
        }
    }
    if let Some(batch) = batcher.take() {
        descriptions.extend(writer.append_batch(&batch.encode(options).unwrap()).unwrap());
    }
    (writer, descriptions)
}

fn finish(writer: BlobWriter<Vec<u8>>, bootstrap: &[u8]) -> FinishedBlob<Vec<u8>> {
    let inline = writer.options().inline_bootstrap;
    writer.seal().unwrap().finish(inline.then_some(bootstrap)).unwrap()
}

/// Pseudo-random bytes, which do not shrink.
fn noise(len: usize) -> Vec<u8> {
    let mut state = len as u64 + 1;
    let next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn chunks() -> impl Strategy<Value = Vec<Input>> {
    let size = prop_oneof![
        1usize..40,
        Just(0x1000),
        Just(0x1001),
        Just(CHUNK_SIZE as usize),
        1usize..=CHUNK_SIZE as usize
    ];
    let chunk = (size, any::<u8>(), any::<bool>(), any::<bool>()).prop_map(|(size, byte, shrinks, whole)| {
        (if shrinks { vec![byte; size] } else { noise(size) }, whole)
    });
    proptest::collection::vec(chunk, 0..40)
}

fn options() -> impl Strategy<Value = BlobOptions> {
    let compressor = prop_oneof![Just(Compressor::None), Just(Compressor::Lz4Block), Just(Compressor::Zstd)];
    let digester = prop_oneof![Just(Digester::Blake3), Just(Digester::Sha256)];
    let batch_size = prop_oneof![Just(0), Just(0x1000), Just(CHUNK_SIZE)];
    let switches = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (compressor, digester, batch_size, switches).prop_map(
        |(compressor, digester, batch_size, (toc, inline_bootstrap, encrypted, v2))| BlobOptions {
            toc,
            inline_bootstrap,
            batch_size,
            cipher: encrypted.then_some(KEY),
            extra_features: if v2 { BlobFeatures::CHUNK_INFO_V2 } else { BlobFeatures::empty() },
            ..BlobOptions::v6(compressor, digester, CHUNK_SIZE)
        },
    )
}

/// Reads all chunks of a v6 blob through its table, and compares the table with what the writer said.
fn check_chunks(blob: &BlobDescription, backend: &Memory, said: &[ChunkDescription], chunks: &[Input]) {
    if chunks.is_empty() {
        assert_eq!((blob.ci, blob.chunk_count), (None, 0));
        return;
    }
    let table = wait(ChunkTable::fetch(blob, backend, request())).unwrap();
    assert_eq!(table.len() as usize, chunks.len());
    for (index, (said, (data, _))) in (0..).zip(said.iter().zip(chunks)) {
        let read = table.chunk(index).unwrap();
        let place =
            |chunk: &ChunkDescription| (chunk.index, chunk.uncompressed_offset, chunk.uncompressed_size);
        assert_eq!(place(said), place(&read));
        assert_eq!(said.stored.crc32c, Some(crc32c(data)));
        let in_batch = read.stored.flags.contains(ChunkFlags::BATCH);
        if !in_batch {
            let mut expected = said.stored;
            if !blob.features.contains(BlobFeatures::CHUNK_INFO_V2) {
                expected.crc32c = None;
            }
            assert_eq!(read.stored, expected);
        }
        let unit = table.unit(blob, index).unwrap();
        let stored = wait(unit.fetch(blob, backend, request())).unwrap();
        let decoded = unit.decode(blob, &stored).unwrap();
        let member = unit.members.iter().position(|member| member.index == index).unwrap();
        assert_eq!(decoded[member], data);
    }
}

/// Reads the table of contents and the sections that it names.
fn check_toc(blob: &BlobDescription, backend: &Memory, chunks: &[Input], bootstrap: &[u8]) {
    let toc = wait(Toc::fetch(blob, backend, request())).unwrap();
    let anywhere = TocLocation { size: 0, digest: Digest([0; 32]) };
    assert_eq!(Toc::parse("blob", &backend.0, &anywhere).unwrap().entries(), toc.entries());
    let mut names = Vec::new();
    if !chunks.is_empty() {
        names.extend(["image.blob", "blob.meta", "blob.meta.header", "blob.digest"]);
        let digests = wait(fetch_digests(blob, backend, request())).unwrap();
        for (index, (data, _)) in (0..).zip(chunks) {
            assert_eq!(digests.get(index), Some(blob.digester.digest(data)));
        }
        let entry = toc.entry("image.blob").unwrap();
        assert_eq!(Some(entry.compressed_size), blob.data_size());
        assert_eq!(entry.uncompressed_size, blob.uncompressed_size);
        let with_header = &backend.0[..entry.compressed_size as usize + 512];
        assert_eq!(entry.digest, Digester::Sha256.digest(with_header));
    }
    if blob.features.contains(BlobFeatures::INLINED_FS_META) {
        names.push("image.boot");
        assert_eq!(toc.entry("image.boot").unwrap().digest, Digester::Sha256.digest(bootstrap));
    }
    assert_eq!(toc.entries().iter().map(|entry| &*entry.name).collect::<Vec<_>>(), names);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_v6_blob_is_read_as_it_was_written(options in options(), chunks in chunks(), shrinks: bool) {
        let bootstrap = if shrinks { vec![7; 9000] } else { noise(9000) };
        let (writer, said) = write(&options, &chunks);
        prop_assert_eq!(writer.chunk_count() as usize, chunks.len());
        let sealed = writer.seal().unwrap();
        let inlined = sealed.description().clone();
        let finished = sealed.finish(options.inline_bootstrap.then_some(&bootstrap[..])).unwrap();
        let blob = &finished.description;
        let backend = Memory(finished.out.clone().into());

        prop_assert_eq!(finished.file_size, finished.out.len() as u64);
        prop_assert_eq!(finished.file_digest, Digester::Sha256.digest(&finished.out));
        check_chunks(blob, &backend, &said, &chunks);
        // An inlined bootstrap knows enough to read the blob, too.
        check_chunks(&inlined, &backend, &said, &chunks);
        prop_assert_eq!(inlined.id.as_str(), "x".repeat(64));
        if !options.inline_bootstrap {
            prop_assert_eq!(blob.compressed_size, finished.file_size);
        } else {
            prop_assert_eq!(blob.compressed_size, inlined.compressed_size);
            let path = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(path.path(), &finished.out).unwrap();
            prop_assert_eq!(extract_bootstrap(path.as_file(), "blob").unwrap(), Some(bootstrap.clone()));
        }
        let empty = chunks.is_empty() && !options.inline_bootstrap;
        prop_assert_eq!(finished.file_size == 0, empty);
        if options.toc && !empty {
            check_toc(blob, &backend, &chunks, &bootstrap);
        } else if !options.toc {
            prop_assert_eq!(blob.toc, None);
            prop_assert_eq!(finished.file_digest.to_string(), blob.id.as_str());
        }

        // Again, on a thread that has encoded nothing yet.
        let again = std::thread::scope(|scope| {
            scope.spawn(|| finish(write(&options, &chunks).0, &bootstrap).out).join().unwrap()
        });
        prop_assert!(again == finished.out, "other bytes");
    }

    #[test]
    fn a_v5_blob_is_read_as_it_was_written(
        compressor in prop_oneof![Just(Compressor::None), Just(Compressor::Lz4Block), Just(Compressor::Zstd)],
        aligned: bool, inline_bootstrap: bool, chunks in chunks(),
    ) {
        let v5 = BlobOptions::v5(compressor, Digester::Sha256, CHUNK_SIZE);
        let options = BlobOptions { aligned, inline_bootstrap, ..v5 };
        let (writer, said) = write(&options, &chunks);
        let finished = finish(writer, b"bootstrap");
        let blob = &finished.description;
        let mut end = 0;
        for (chunk, (data, _)) in said.iter().zip(&chunks) {
            let unit = Unit::single(blob, *chunk).unwrap();
            let stored = &finished.out[unit.offset as usize..(unit.offset + unit.len) as usize];
            prop_assert_eq!(&unit.decode(blob, stored).unwrap()[0], data);
            prop_assert_eq!(chunk.uncompressed_offset, end);
            end += data.len() as u64;
            end = if aligned { end.next_multiple_of(4096) } else { end };
        }
        prop_assert_eq!(blob.uncompressed_size, end);
        prop_assert_eq!(blob.ci, None);
        prop_assert_eq!(finished.file_digest.to_string(), blob.id.as_str());
        prop_assert_eq!(&finished.file_digest, &Digester::Sha256.digest(&finished.out));
        let features = if inline_bootstrap { 0x5000_0002 } else { 0x4000_0000 };
        prop_assert_eq!(blob.features.bits(), features);
        let sections = match (chunks.is_empty(), inline_bootstrap) {
            (_, false) => 0,
            (true, true) => 512 + 9,
            (false, true) => 512 + 9 + 512,
        };
        let data_size: u64 = said.iter().map(|chunk| u64::from(chunk.stored.compressed_size)).sum();
        prop_assert_eq!(finished.file_size, data_size + sections);
    }
}

#[test]
fn a_blob_without_chunks_has_no_chunk_table() {
    let mut options = BlobOptions { toc: true, batch_size: 0x1000, cipher: Some(KEY), ..v6() };
    let finished = finish(write(&options, &[]).0, b"");
    assert_eq!((finished.file_size, finished.description.ci), (0, None));

    // 102 bytes of bootstrap, its header, one entry and the table's header.
    options.inline_bootstrap = true;
    let finished = finish(write(&options, &[]).0, &noise(102));
    assert_eq!(finished.file_size, 102 + 512 + 128 + 512);
    assert!(!finished.description.features.contains(BlobFeatures::INLINED_CHUNK_DIGEST));
}

#[test]
fn batches_hold_small_whole_files() {
    let mut batcher = Batcher::new(0x1000);
    assert!(batcher.takes(0x7ff, true), "less than half");
    assert!(!batcher.takes(0x800, true), "half");
    assert!(!batcher.takes(1, false), "a part of a file");
    assert!(!Batcher::new(0).takes(1, true), "nothing is batched");

    assert!(batcher.take().is_none());
    let digest = Digest([0; 32]);
    assert!(batcher.add(&[1; 0x7ff], digest).is_none());
    assert!(batcher.add(&[2; 0x7ff], digest).is_none());
    assert!(batcher.add(&[3; 1], digest).is_none(), "0xfff bytes of 0x1000");
    let full = batcher.add(&[4; 1], digest).expect("a batch is never quite full");
    assert_eq!((full.len(), full.is_empty()), (3, false));
    assert_eq!(batcher.take().unwrap().len(), 1);
    assert!(batcher.take().is_none());
}

#[test]
fn a_batch_that_is_no_batch_is_refused() {
    let batch = || {
        let mut batcher = Batcher::new(0x1000);
        batcher.add(&[1; 0x700], Digest([0; 32]));
        batcher.add(&[2; 0x700], Digest([0; 32]));
        batcher.take().unwrap().encode(&v6()).unwrap()
    };
    // The blob has none, so it has no contexts.
    assert!(BlobWriter::new(Vec::new(), v6()).unwrap().append_batch(&batch()).is_err());
    let with = BlobOptions { batch_size: 0x1000, ..v6() };
    assert_eq!(BlobWriter::new(Vec::new(), with).unwrap().append_batch(&batch()).unwrap().len(), 2);
}

#[test]
fn an_encrypted_batch_shows_by_its_sizes_whether_it_is_compressed() {
    for compressor in [Compressor::None, Compressor::Lz4Block, Compressor::Zstd] {
        let options = BlobOptions { batch_size: 0x1000, cipher: Some(KEY), compressor, ..v6() };
        for size in 1..=40 {
            for data in [noise(size), vec![b'a'; size]] {
                // The first is all of its batch, since the second is in none.
                let chunks = [(data.clone(), true), (noise(0x900), true)];
                let (writer, said) = write(&options, &chunks);
                let finished = finish(writer, b"");
                let blob = &finished.description;
                let memory = Memory(finished.out.into());
                let table = wait(ChunkTable::fetch(blob, &memory, request())).unwrap();
                let unit = table.unit(blob, 0).unwrap();
                let flags = table.chunk(0).unwrap().stored.flags;
                assert_eq!(flags.contains(ChunkFlags::BATCH), size >= 16, "{compressor:?}, {size}");
                assert_eq!(said[0].stored.compressed_size == 0, size >= 16, "what the bootstrap says");
                let stored = wait(unit.fetch(blob, &memory, request())).unwrap();
                if size >= 16 {
                    let plain = BlobCipher::new(&KEY).decrypt(&stored, size).unwrap();
                    assert_eq!(stored.len() == size, plain == data, "{compressor:?}, {size}");
                }
                let decoded = unit.decode(blob, &stored).unwrap();
                assert_eq!(decoded[0].as_ref(), data, "{compressor:?}, {size}");
            }
        }
    }
}

/// Four bytes whose CRC is zero: the shift register run backwards from where it has to end.
fn data_with_crc_zero() -> [u8; 4] {
    let state = (0..32).fold(u32::MAX, |state, _| match state >> 31 {
        1 => (state ^ 0x82f6_3b78) << 1 | 1,
        _ => state << 1,
    });
    (!state).to_le_bytes()
}

#[test]
fn a_crc_of_zero_is_left_out() {
    let data = data_with_crc_zero();
    assert_eq!(crc32c(&data), 0);
    let options = BlobOptions { extra_features: BlobFeatures::CHUNK_INFO_V2, ..v6() };
    let (writer, said) = write(&options, &[(data.to_vec(), true), (vec![1], true)]);
    assert_eq!(said[0].stored.crc32c, None);
    let finished = finish(writer, b"");
    let blob = &finished.description;
    let table = wait(ChunkTable::fetch(blob, &Memory(finished.out.into()), request())).unwrap();
    assert_eq!(table.chunk(0).unwrap().stored.crc32c, None);
    assert_eq!(table.chunk(1).unwrap().stored.crc32c, Some(crc32c(&[1])));
}

fn refused<T>(result: Result<T>, why: &str) {
    match result {
        Err(Error::Invalid { what, detail }) => {
            assert!(format!("{what}: {detail}").contains(why), "{what}: {detail}, expected {why:?}");
        }
        Err(other) => panic!("{other}, expected {why:?}"),
        Ok(_) => panic!("accepted, expected {why:?}"),
    }
}

#[test]
fn the_number_of_chunks_is_limited() {
    let options = BlobOptions { batch_size: 0x1000, ..v6() };
    let chunk = encode_chunk(&[1; 10], &options).unwrap();
    let batch = |members: u8| {
        let mut batcher = Batcher::new(options.batch_size);
        (0..members).for_each(|byte| assert!(batcher.add(&[byte], Digest([0; 32])).is_none()));
        batcher.take().unwrap().encode(&options).unwrap()
    };
    let near_the_end = || {
        let mut writer = BlobWriter::new(Vec::new(), options.clone()).unwrap();
        writer.chunks.skip_to(0xff_fffe);
        writer
    };
    let mut writer = near_the_end();
    assert_eq!(writer.append(&chunk).unwrap().index, 0xff_fffe);
    refused(writer.append(&chunk), "more than 16777215 chunks");
    refused(near_the_end().append_batch(&batch(2)), "more than 16777215 chunks");
    assert_eq!(near_the_end().append_batch(&batch(1)).unwrap()[0].index, 0xff_fffe);
}

#[test]
fn offsets_are_limited() {
    let chunk = encode_chunk(&noise(10), &v6()).unwrap();
    let mut writer = BlobWriter::new(Vec::new(), v6()).unwrap();
    writer.output.skip_to((1 << 40) - 19);
    assert_eq!(writer.append(&chunk).unwrap().stored.compressed_offset, (1 << 40) - 19);
    refused(writer.append(&chunk), "more than 1099511627776 bytes stored");

    let mut writer = BlobWriter::new(Vec::new(), v6()).unwrap();
    writer.uncompressed_size = (1 << 44) - 4096;
    assert_eq!(writer.append(&chunk).unwrap().uncompressed_offset, (1 << 44) - 4096);
    refused(writer.append(&chunk), "more than 17592186044416 bytes decoded");
}

#[test]
fn the_largest_chunk_needs_entries_of_16_bytes() {
    let data = noise(1 << 24);
    let v1 = BlobOptions::v6(Compressor::None, Digester::Blake3, 1 << 24);
    let v2 = BlobOptions { extra_features: BlobFeatures::CHUNK_INFO_V2, ..v1.clone() };
    let chunk = encode_chunk(&data, &v1).unwrap();
    let mut writer = BlobWriter::new(Vec::new(), v2.clone()).unwrap();
    refused(writer.append(&chunk), "16777216 bytes stored");
    writer.append(&encode_chunk(&data[1..], &v2).unwrap()).unwrap();

    let mut writer = BlobWriter::new(Vec::new(), v1).unwrap();
    writer.append(&chunk).unwrap();
    let finished = finish(writer, b"");
    let table =
        wait(ChunkTable::fetch(&finished.description, &Memory(finished.out.into()), request())).unwrap();
    assert_eq!(table.chunk(0).unwrap().stored.compressed_size, 1 << 24);
}

#[test]
fn chunks_are_what_the_options_say() {
    for len in [0, CHUNK_SIZE as usize + 1] {
        refused(encode_chunk(&vec![0; len], &v6()), &format!("{len} bytes, expected 1 to 8192"));
    }
    let good = encode_chunk(&[1; 100], &v6()).unwrap();
    assert!(good.compressed);
    let change: [fn(&mut EncodedChunk); 5] = [
        |chunk| chunk.uncompressed_size = 0,
        |chunk| chunk.uncompressed_size = CHUNK_SIZE + 1,
        |chunk| chunk.uncompressed_size = chunk.stored.len() as u32,
        |chunk| chunk.compressed = false,
        |chunk| chunk.stored = Bytes::new(),
    ];
    for change in change {
        let mut bad = good.clone();
        change(&mut bad);
        refused(BlobWriter::new(Vec::new(), v6()).unwrap().append(&bad), "chunk 0");
    }
    // Padding is for encrypted blobs.
    let padded = encode_chunk(&[1], &BlobOptions { cipher: Some(KEY), ..v6() }).unwrap();
    refused(BlobWriter::new(Vec::new(), v6()).unwrap().append(&padded), "18 bytes stored of 1");
}

#[test]
fn options_that_contradict_themselves_are_refused() {
    type Change = fn(&mut BlobOptions);
    let change: [(Change, &str); 13] = [
        (|options| options.compressor = Compressor::Gzip, "gzip is only read"),
        (|options| options.chunk_size = 0x800, "chunk size"),
        (|options| options.chunk_size = 0x200_0000, "chunk size"),
        (|options| options.chunk_size = 0x3000, "chunk size"),
        (|options| options.chunk_size = 0, "chunk size"),
        (|options| options.batch_size = 2 * CHUNK_SIZE, "batch size"),
        (|options| options.batch_size = 0x1001, "batch size"),
        (|options| options.aligned = false, "aligned"),
        (|options| (options.chunk_table, options.toc) = (false, true), "need a chunk table"),
        (|options| (options.chunk_table, options.batch_size) = (false, 0x1000), "need a chunk table"),
        (|options| (options.chunk_table, options.cipher) = (false, Some(KEY)), "need a chunk table"),
        (|options| options.extra_features = BlobFeatures::ZRAN, "cannot be added"),
        (|options| options.cipher = Some(Cipher { key: [1; 32], iv: [0; 16] }), "must differ"),
    ];
    for (change, why) in change {
        let mut options = v6();
        change(&mut options);
        refused(BlobWriter::new(Vec::new(), options), why);
    }
    for inline_bootstrap in [false, true] {
        let writer = BlobWriter::new(Vec::new(), BlobOptions { inline_bootstrap, ..v6() }).unwrap();
        let bootstrap = (!inline_bootstrap).then_some(&b"bootstrap"[..]);
        refused(writer.seal().unwrap().finish(bootstrap), "bootstrap was given");
    }
}

/// Compressed to less than an AES block, encrypted to 18 bytes: no shorter than it was.
#[test]
fn padding_does_not_hide_what_is_compressed() {
    let options =
        BlobOptions { compressor: Compressor::Lz4Block, cipher: Some(KEY), batch_size: 0x1000, ..v6() };
    for len in 1..40 {
        for whole_file in [false, true] {
            let chunks = [(vec![7; len], whole_file)];
            let (writer, said) = write(&options, &chunks);
            let finished = finish(writer, b"");
            let blob = &finished.description;
            let backend = Memory(finished.out.into());
            check_chunks(blob, &backend, &said, &chunks);
            if whole_file && len >= 16 {
                let unit = wait(ChunkTable::fetch(blob, &backend, request())).unwrap().unit(blob, 0).unwrap();
                assert!(unit.len <= len as u64, "a batch of {len} bytes is stored in {}", unit.len);
            }
        }
    }
    let chunk = encode_chunk(&[7; 18], &options).unwrap();
    assert_eq!((chunk.compressed, chunk.stored.len()), (true, 18), "such a chunk is met");
}

/// The mark that padded input ends with may also end what is compressed.
#[test]
fn what_looks_padded_is_stored_plain() {
    let mut options = BlobOptions { cipher: Some(KEY), compressor: Compressor::Lz4Block, ..v6() };
    let data = (0..20)
        .map(|len| [&[0; 60], &noise(len)[..], &[0x78, 0x90]].concat())
        .find(|data| {
            crate::codec::compress(Compressor::Lz4Block, data).unwrap().is_some_and(|out| out.len() == 18)
        })
        .expect("lz4 ends with literals");
    let encrypted = encode_chunk(&data, &options).unwrap();
    assert_eq!((encrypted.compressed, encrypted.stored.len()), (false, data.len()));
    options.cipher = None;
    let chunk = encode_chunk(&data, &options).unwrap();
    assert_eq!((chunk.compressed, chunk.stored.len()), (true, 18));
}

/// A disk of so many bytes.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.0 = self.0.checked_sub(buf.len()).ok_or(std::io::ErrorKind::StorageFull)?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_is_told_with_the_offset() {
    let mut writer = BlobWriter::new(Full(1500), v6()).unwrap();
    let chunk = encode_chunk(&noise(1000), &v6()).unwrap();
    writer.append(&chunk).unwrap();
    match writer.append(&chunk) {
        Err(Error::Unavailable { what, source }) => {
            assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
            assert!(what.contains("offset 1000"), "{what}");
        }
        other => panic!("{other:?}"),
    }
}
