//! The bootstrap inside a blob file (spec/blob.md §2, §7), found by the table of contents or by the last tar header.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use super::tar_header::{TAR_HEADER_SIZE, TarHeader};
use super::toc::{Toc, TocEntry, window};
use super::{Compressor, TocLocation};
use crate::digest::Digest;
use crate::{Error, Result};

/// The largest bootstrap that is extracted: 2 GiB.
const MAX_SIZE: u64 = 1 << 31;
/// Real bootstraps shrink to a fifth or so. More than this, beyond the first MiB, is no bootstrap.
const MAX_RATIO: u64 = 1024;
const RATIO_FREE_SIZE: u64 = 1 << 20;
/// The largest zstd window: 32 MiB.
const MAX_WINDOW_LOG: u32 = 25;
const SECTION: &str = "image.boot";

/// The bootstrap of a blob file, or `None` if it has none. `name` is how errors name the file.
///
/// Reads the end of the file, then the bootstrap. Decoding streams, and stops where the size that the table of
/// contents promises is passed: memory grows with what is really there. [`Error::Corrupt`] if the promised size is
/// over 2 GiB, out of proportion to the stored one, or not met, or if the digest is another one;
/// [`Error::Unavailable`] if the file cannot be read.
pub fn extract_bootstrap(file: &File, name: &str) -> Result<Option<Vec<u8>>> {
    let failed = |source| Error::Unavailable { what: name.to_owned(), source };
    let file_size = file.metadata().map_err(failed)?.len();
    let tail_size = window(file_size);
    let mut tail = vec![0; tail_size as usize];
    file.read_exact_at(&mut tail, file_size - tail_size).map_err(failed)?;

    let Some(header) = TarHeader::at_end(&tail) else { return Ok(None) };
    let entry = if header.name == SECTION {
        let end = file_size - TAR_HEADER_SIZE as u64;
        let offset = end.checked_sub(header.size).ok_or_else(|| {
            Error::corrupt(format!("{name}: {SECTION}"), format!("{} bytes in {end}", header.size))
        })?;
        TocEntry {
            name: header.name,
            compressor: Compressor::None,
            digest: Digest([0; 32]),
            offset,
            compressed_size: header.size,
            uncompressed_size: header.size,
        }
    } else if header.name == "rafs.blob.toc" {
        let anywhere = TocLocation { size: 0, digest: Digest([0; 32]) };
        match Toc::parse(name, &tail, &anywhere)?.entry(SECTION) {
            Some(entry) => entry.clone(),
            None => return Ok(None),
        }
    } else {
        return Ok(None);
    };
    extract(file, name, &entry).map(Some)
}

fn extract(file: &File, name: &str, entry: &TocEntry) -> Result<Vec<u8>> {
    entry.check_sizes(name, MAX_SIZE)?;
    let what = format!("{name}: section {SECTION}");
    let size = entry.uncompressed_size;
    if size.saturating_sub(RATIO_FREE_SIZE) / MAX_RATIO > entry.compressed_size {
        return Err(Error::corrupt(
            what,
            format!("{size} bytes out of {} stored ones", entry.compressed_size),
        ));
    }
    let failed = |source: io::Error| match source.kind() {
        // What the decoder says of its input, or the end of the file before the end of the section.
        io::ErrorKind::Other | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            Error::corrupt(&*what, source.to_string())
        }
        _ => Error::Unavailable { what: what.clone(), source },
    };

    let section = Section { file, offset: entry.offset, left: entry.compressed_size };
    let mut data = Vec::new();
    match entry.compressor {
        Compressor::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::new(section).map_err(failed)?;
            decoder.window_log_max(MAX_WINDOW_LOG).map_err(failed)?;
            decoder.take(size + 1).read_to_end(&mut data).map_err(failed)?;
        }
        Compressor::None => {
            section.take(size).read_to_end(&mut data).map_err(failed)?;
        }
        other => {
            return Err(Error::corrupt(what, format!("compressed with {other:?}, expected none or zstd")));
        }
    }
    if data.len() as u64 != size {
        return Err(Error::corrupt(what, format!("not the {size} bytes that were promised")));
    }
    entry.check_digest(&what, &data)?;
    Ok(data)
}

/// A range of a file as a stream.
struct Section<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let wanted = buf.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let len = self.file.read_at(&mut buf[..wanted], self.offset)?;
        self.offset += len as u64;
        self.left -= len as u64;
        Ok(len)
    }
}
