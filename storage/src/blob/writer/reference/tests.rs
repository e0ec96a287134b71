//! Chunks of gzip files and tars are found again, by the readers of this crate; hostile files are errors.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::backend::{Backend, BoxFuture, Priority, Request};
use crate::blob::writer::FinishedBlob;
use crate::blob::{ChunkTable, ZranReader, check_chunk, extract_bootstrap, fetch_digests};
use crate::digest::crc32c;

const CHUNK_SIZE: u32 = 0x2000;

/// The data object, and the RAFS blob that is about it.
#[derive(Debug)]
struct Objects {
    data: Bytes,
    rafs: Bytes,
    data_id: BlobId,
}

impl Objects {
    fn get(&self, id: &BlobId) -> &Bytes {
        if *id == self.data_id { &self.data } else { &self.rafs }
    }
}

impl Backend for Objects {
    fn read<'a>(&'a self, id: &'a BlobId, offset: u64, len: u64, _: Request) -> BoxFuture<'a, Result<Bytes>> {
        Box::pin(async move { Ok(self.get(id).slice(offset as usize..(offset + len) as usize)) })
    }

    fn size<'a>(&'a self, id: &'a BlobId, _: Request) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move { Ok(self.get(id).len() as u64) })
    }
}

fn request() -> Request {
    Request::new(Priority::OnDemand, Instant::now() + Duration::from_secs(60))
}

fn options(kind: DataKind) -> ReferenceOptions {
    ReferenceOptions { kind, chunk_size: CHUNK_SIZE, toc: false, inline_bootstrap: false }
}

fn object(bytes: &[u8]) -> DataObject {
    let id = BlobId::new(&Digester::Sha256.digest(bytes).to_string()).unwrap();
    DataObject { id, size: bytes.len() as u64 }
}

fn member(data: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// Content with all kinds of deflate blocks in it.
fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut out = Vec::with_capacity(len + 8192);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let run = (state >> 20) as usize % 8192;
        match state % 3 {
            0 => out.extend(std::iter::repeat_n((state >> 40) as u8, run)),
            1 => out.extend((0..run as u64).map(|at| (state.wrapping_mul(at * at + 1) >> 33) as u8)),
            _ => out.extend((0..run).map(|at| b"the quick brown fox "[at % 20])),
        }
    }
    out.truncate(len);
    out
}

/// As a build reads an archive: a header of 512 bytes before each file, here of one chunk. Chunks that came before
/// have no entry. Gives the chunks that have one.
fn refer(
    gzip: &[u8],
    options: ReferenceOptions,
    lens: &[usize],
) -> (ReferenceWriter, ZranContexts, Vec<Vec<u8>>) {
    let mut reader = ZranReader::new(gzip, options.chunk_size).unwrap();
    let mut writer = ReferenceWriter::new(options).unwrap();
    let (mut seen, mut chunks) = (HashSet::new(), Vec::new());
    for len in lens {
        reader.read_exact(&mut [0; 512]).unwrap();
        reader.begin_chunk().unwrap();
        let mut data = vec![0; *len];
        reader.read_exact(&mut data).unwrap();
        let place = DataChunk::Zran(reader.end_chunk().unwrap());
        let digest = Digester::Sha256.digest(&data);
        if seen.insert(digest) {
            let described = writer.append(*len as u32, &digest, crc32c(&data), place).unwrap();
            assert_eq!(described.index as usize, chunks.len());
            chunks.push(data);
        }
    }
    (writer, reader.into_parts().1, chunks)
}

/// Every chunk comes back, with its digest where there are some.
fn check(finished: &FinishedBlob<Vec<u8>>, data: &[u8], chunks: &[Vec<u8>]) {
    let mut blob = finished.description.clone();
    // What whoever opens an inlined bootstrap puts in its place: the name of the file that it is in.
    blob.meta_id = Some(finished.id.clone());
    let objects = Objects {
        data: Bytes::copy_from_slice(data),
        rafs: finished.out.clone().into(),
        data_id: blob.id.clone(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let table = ChunkTable::fetch(&blob, &objects, request()).await.unwrap();
        assert_eq!(table.len() as usize, chunks.len());
        let digests = match blob.features.contains(BlobFeatures::INLINED_CHUNK_DIGEST) {
            true => Some(fetch_digests(&blob, &objects, request()).await.unwrap()),
            false => None,
        };
        for (index, expected) in (0..).zip(chunks) {
            let unit = table.unit(&blob, index).unwrap();
            let stored = unit.fetch(&blob, &objects, request()).await.unwrap();
            let decoded = unit.decode(&blob, &stored).unwrap();
            let place = unit.members.iter().position(|chunk| chunk.index == index).unwrap();
            assert!(decoded[place] == expected, "chunk {index}");
            if let Some(digests) = &digests {
                let checksum = unit.members[place].stored.crc32c;
                assert!(check_chunk(&blob, index, digests.get(index), checksum, expected).unwrap());
            }
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn chunks_of_gzip_files_are_found_again(
        seed: u64,
        lens in proptest::collection::vec(1usize..=CHUNK_SIZE as usize, 1..80),
        cuts in proptest::collection::vec(0usize..400_000, 0..5),
        level in prop::sample::select(vec![0u32, 1, 6, 9]),
        toc: bool,
        inline_bootstrap: bool,
    ) {
        let len = lens.iter().map(|len| len + 512).sum();
        let tar = content(seed, len);
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut % len).collect();
        cuts.extend([0, len]);
        cuts.sort_unstable();
        let gzip: Vec<u8> = cuts.windows(2).flat_map(|cut| member(&tar[cut[0]..cut[1]], level)).collect();
        let options = ReferenceOptions { toc, inline_bootstrap, ..options(DataKind::Zran) };
        let (writer, contexts, chunks) = refer(&gzip, options, &lens);
        let bootstrap = inline_bootstrap.then_some(b"a bootstrap".as_slice());
        let sealed = writer.seal(Vec::new(), object(&gzip), contexts).unwrap();
        prop_assert_eq!(&sealed.description().id, &object(&gzip).id);
        let finished = sealed.finish(bootstrap).unwrap();
        check(&finished, &gzip, &chunks);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &finished.out).unwrap();
        let inlined = extract_bootstrap(file.as_file(), "the blob").unwrap();
        prop_assert_eq!(inlined.as_deref(), bootstrap);
    }
}

#[test]
fn members_begin_contexts_of_their_own_and_duplicates_need_none() {
    // As eStargz has it: each file in a member, headers in others.
    let files: Vec<_> =
        (0..1000u32).map(|number| content((number % 900).into(), 1 + number as usize % 97)).collect();
    let gzip: Vec<u8> =
        files.iter().flat_map(|file| [member(&[0; 512], 9), member(file, 6)].concat()).collect();
    let lens: Vec<_> = files.iter().map(Vec::len).collect();
    let (writer, contexts, chunks) = refer(&gzip, options(DataKind::Zran), &lens);
    assert_eq!(contexts.len(), 1000);
    assert!(chunks.len() < 950, "{} chunks", chunks.len());
    assert!(contexts.dictionary_bytes() == 0, "nothing comes before the start of a member");
    let finished = writer.seal(Vec::new(), object(&gzip), contexts).unwrap().finish(None).unwrap();
    check(&finished, &gzip, &chunks);
}

#[test]
fn chunks_of_a_tar_lie_where_they_lie() {
    let tar = content(3, 100_000);
    let mut writer = ReferenceWriter::new(options(DataKind::Tar)).unwrap();
    let mut chunks = Vec::new();
    for at in (512..90_000).step_by(9216) {
        let data = tar[at..at + 8000].to_vec();
        let place = DataChunk::Tar(at as u64);
        writer.append(8000, &Digester::Sha256.digest(&data), crc32c(&data), place).unwrap();
        chunks.push(data);
    }
    let sealed = writer.seal(Vec::new(), object(&tar), ZranContexts::default()).unwrap();
    let finished = sealed.finish(None).unwrap();
    assert_eq!(finished.description.meta_size, finished.out.len() as u64);
    assert_eq!(finished.description.meta_id, Some(finished.id.clone()));
    check(&finished, &tar, &chunks);
}

#[test]
fn chunks_of_a_stargz_are_members() {
    let parts = [content(5, 8192), content(6, 100), vec![7; 30]];
    let mut file = Vec::new();
    let mut writer = ReferenceWriter::new(options(DataKind::Stargz)).unwrap();
    for part in &parts {
        // A bound that is as long as the chunk must not say that the chunk is plain.
        let place = DataChunk::Stargz(file.len() as u64, part.len() as u32);
        let described = writer.append(part.len() as u32, &Digester::Sha256.digest(part), 0, place).unwrap();
        assert_eq!(described.stored.compressed_size as usize, part.len() + 1);
        let mut stored = member(part, 9);
        stored.resize(stored.len().min(part.len()), 0);
        file.extend(if part.len() > 1000 { stored } else { member(part, 9) });
        file.resize(file.len().next_multiple_of(16), 0);
    }
    let written =
        writer.seal(Vec::new(), object(&file), ZranContexts::default()).unwrap().finish(None).unwrap();
    assert_eq!(
        written.description.features,
        BlobFeatures::ALIGNED | BlobFeatures::SEPARATE | BlobFeatures::CAP_TAR_TOC
    );
    let objects = Objects {
        data: file.into(),
        rafs: written.out.clone().into(),
        data_id: written.description.id.clone(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let blob = written.description;
    let table = runtime.block_on(ChunkTable::fetch(&blob, &objects, request())).unwrap();
    let unit = table.unit(&blob, 0).unwrap();
    let stored = runtime.block_on(unit.fetch(&blob, &objects, request())).unwrap();
    assert_eq!(unit.decode(&blob, &stored).unwrap()[0], parts[0]);
}

#[test]
fn what_the_format_cannot_hold_is_refused() {
    let digest = Digester::Sha256.digest(b"");
    let zran = |context| {
        DataChunk::Zran(crate::blob::ZranChunk {
            context,
            offset: 0,
            compressed_offset: 0,
            compressed_size: 1,
        })
    };
    let mut writer = ReferenceWriter::new(options(DataKind::Zran)).unwrap();
    assert!(writer.append(0, &digest, 0, zran(0)).is_err(), "empty");
    assert!(writer.append(CHUNK_SIZE + 1, &digest, 0, zran(0)).is_err(), "too long");
    assert!(writer.append(1, &digest, 0, DataChunk::Tar(0)).is_err(), "of a tar");
    writer.append(1, &digest, 0, zran(1)).unwrap();
    assert!(writer.append(1, &digest, 0, zran(0)).is_err(), "contexts go back");
    assert!(writer.seal(Vec::new(), object(b""), ZranContexts::default()).is_err(), "no such context");
    let mut writer = ReferenceWriter::new(options(DataKind::Tar)).unwrap();
    assert!(writer.append(1, &digest, 0, DataChunk::Tar(1 << 40)).is_err(), "beyond 1 TiB");
    assert!(writer.append(1, &digest, 0, DataChunk::Tar(u64::MAX)).is_err(), "overflow");
    writer.append(1, &digest, 0, DataChunk::Tar((1 << 40) - 1)).unwrap();
    let odd = ReferenceOptions { chunk_size: 5000, ..options(DataKind::Tar) };
    assert!(ReferenceWriter::new(odd).is_err());
}

#[test]
fn an_object_without_chunks_needs_no_blob() {
    let writer = ReferenceWriter::new(ReferenceOptions { toc: true, ..options(DataKind::Zran) }).unwrap();
    let sealed = writer.seal(Vec::new(), object(b"tar"), ZranContexts::default()).unwrap();
    assert_eq!(sealed.finish(None).unwrap().file_size, 0);
}
