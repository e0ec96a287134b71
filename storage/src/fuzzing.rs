//! Entry points for fuzzing: bytes in, nothing out. They must not panic, whatever the bytes, nor allocate more than
//! 64 MiB for inputs of up to a MiB. Hidden from the documentation: not an interface.

use std::io::Read as _;
use std::time::SystemTime;

use bytes::Bytes;
use reqwest::Url;

use crate::blob::{
    BlobDescription, BlobFeatures, BlobId, ChunkTable, CiLocation, Cipher, Compressor, DigestArray, Toc,
    TocLocation, ZranReader,
};
use crate::digest::{Digest, Digester};
use crate::http::challenge::Challenge;
use crate::http::client::error_code;
use crate::http::docker_config;
use crate::http::failure::retry_after;
use crate::http::part::content_range;
use crate::http::redirect::Rules;
use crate::http::tokens::Granted;

/// Bytes at the beginning of the input that describe the blob.
const DESCRIPTION_SIZE: usize = 8;
/// The header that follows them.
const HEADER_SIZE: usize = 4096;
/// Units are decoded as long as they promise no more bytes in total.
const DECODE_BUDGET: u64 = 16 << 20;
/// Units that are looked at.
const MAX_UNITS: u32 = 1024;

/// A chunk table, the units of its chunks, and what comes out of these.
///
/// The input: 8 bytes of description, the CI header, then an array that is also taken for the stored data. The
/// sizes of the description are those of the input, so that a table is reached and not just refused.
pub fn chunk_table(input: &[u8]) {
    let Some((start, rest)) = input.split_at_checked(DESCRIPTION_SIZE) else { return };
    let Some((header, array)) = rest.split_at_checked(HEADER_SIZE) else { return };
    let Some(mut blob) = describe(start) else { return };
    let word = |at: usize| header[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    blob.chunk_count = word(12);
    blob.ci = Some(CiLocation {
        compressor: Compressor::try_from(word(8)).unwrap_or(Compressor::None),
        offset: header[16..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)),
        compressed_size: header[24..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)),
        uncompressed_size: array.len() as u64,
    });
    let Ok(table) = ChunkTable::parse(&blob, Bytes::copy_from_slice(array), header) else { return };
    let again = ChunkTable::from_cache_file(&blob, &table.to_cache_file());
    assert!(again.is_ok_and(|again| again.len() == table.len()), "a table survives its cache file");
    decode(&blob, &table, array);
}

/// What a server may say: values of headers, bodies of errors and of token services, Docker's logins. The input is taken for
/// each of them.
pub fn server_words(input: &[u8]) {
    let code = error_code(input);
    assert!(
        code.is_none_or(|code| code.bytes().all(|byte| byte.is_ascii_graphic())),
        "a code is no sentence"
    );
    Granted::parse(input);
    let _ = docker_config::parse(input);
    let Ok(text) = std::str::from_utf8(input) else { return };
    Challenge::parse(text);
    retry_after(text, SystemTime::now());
    if let Some((first, last, total)) = content_range(text) {
        assert!(first <= last && total.is_none_or(|total| last < total));
    }
    let Ok(from) = Url::parse("https://registry/v2/repo/blobs/x") else { return };
    if let Ok(target) = Rules::default().target(&from, Some(text)) {
        assert!(target.scheme() == "https" && target.has_host() && target.username().is_empty());
    }
}

fn decode(blob: &BlobDescription, table: &ChunkTable, data: &[u8]) {
    let mut budget = DECODE_BUDGET;
    for index in 0..table.len().min(MAX_UNITS) {
        let Ok(unit) = table.unit(blob, index) else { continue };
        assert!(unit.members.iter().any(|chunk| chunk.index == index), "a unit holds the chunk it is for");
        let Some(left) = budget.checked_sub(unit.decoded_size()) else { break };
        budget = left;
        // Wherever it says it lies, there is only this much.
        let len = data.len().min(usize::try_from(unit.len).unwrap_or(usize::MAX));
        if let Ok(chunks) = unit.decode(blob, &data[..len]) {
            assert_eq!(chunks.len(), unit.members.len());
            for (chunk, data) in unit.members.iter().zip(chunks) {
                assert_eq!(data.len(), chunk.uncompressed_size as usize);
            }
        }
    }
}

/// A description out of a few bytes; `None` where the features are refused.
fn describe(start: &[u8]) -> Option<BlobDescription> {
    let (features, rest) = start.split_first_chunk()?;
    let features = BlobFeatures::from_disk(u32::from_le_bytes(*features)).ok()?;
    let [compressor, limit, ..] = *rest else { return None };
    let encrypted = features.contains(BlobFeatures::ENCRYPTED);
    let size = 1 << (limit % 44);
    Some(BlobDescription {
        index: 0,
        id: BlobId::new("fuzzed").ok()?,
        chunk_size: 1 << 20,
        chunk_count: 0,
        compressor: Compressor::try_from(u32::from(compressor % 4)).ok()?,
        digester: Digester::Blake3,
        cipher: encrypted.then_some(Cipher { key: [1; 32], iv: [2; 16] }),
        features,
        // Sometimes known, sometimes not.
        compressed_size: if limit >= 128 { 0 } else { size },
        uncompressed_size: if limit >= 64 { 0 } else { size },
        ci: None,
        toc: Some(TocLocation { size: 0, digest: Digest([0; 32]) }),
        meta_id: None,
        meta_size: 0,
    })
}

/// A table of contents at the end of the input, its sections and the digests, which are looked for in the input too.
pub fn toc(input: &[u8]) {
    let Some((start, file)) = input.split_at_checked(DESCRIPTION_SIZE) else { return };
    let known = start.first_chunk().map_or(0, |size| u32::from(u16::from_le_bytes(*size)));
    for size in [0, known] {
        let Ok(toc) = Toc::parse("fuzzed", file, &TocLocation { size, digest: Digest([0; 32]) }) else {
            continue;
        };
        for entry in toc.entries() {
            let stored = usize::try_from(entry.offset)
                .ok()
                .and_then(|start| file.get(start..))
                .and_then(|rest| rest.get(..usize::try_from(entry.compressed_size).ok()?))
                .unwrap_or(file);
            if let Ok(data) = entry.extract("fuzzed", stored, DECODE_BUDGET) {
                assert_eq!(data.len() as u64, entry.uncompressed_size);
            }
            if let Some(mut blob) = describe(&[0; DESCRIPTION_SIZE]) {
                blob.chunk_count = u32::try_from(entry.uncompressed_size / 32).unwrap_or(u32::MAX);
                if let Ok(digests) = DigestArray::parse(&blob, &toc, stored) {
                    let _ = digests.get(blob.chunk_count);
                }
            }
        }
    }
}

/// A gzip file behind a byte that says how it is cut: pieces that are chunks, between pieces that are not.
///
/// What is read is what the file holds, chunk by chunk, as long as it is not refused.
pub fn zran(input: &[u8]) {
    let Some((cut, file)) = input.split_first() else { return };
    let len = 1 + usize::from(*cut) * 97;
    let Ok(mut reader) = ZranReader::new(file, 1 << 20) else { return };
    let (mut before, mut chunk, mut total) = ([0; 512], vec![0; len], 0);
    let mut contexts = 0;
    while total < DECODE_BUDGET {
        if reader.read_exact(&mut before).is_err() || reader.begin_chunk().is_err() {
            break;
        }
        let whole = reader.read_exact(&mut chunk).is_ok();
        let Ok(place) = reader.end_chunk() else { break };
        if !whole {
            break;
        }
        assert!(place.context == contexts || place.context + 1 == contexts, "contexts come one by one");
        contexts = place.context + 1;
        let end = place.compressed_offset + u64::from(place.compressed_size);
        assert!(end <= file.len() as u64, "a chunk ends at {end} of {} bytes", file.len());
        total += (before.len() + len) as u64;
    }
    assert!(reader.into_parts().1.len() >= contexts as usize);
}
