//! `chunk_map`: the readiness bitmap of the format (spec/cache.md §2), shared with the reference implementation.
//!
//! ```text
//!      0  magic     "PAMB"
//!      4  version   1; 0 in older files, which have no magic2 and no all_ready
//!      8  magic2    "PAMC"
//!     12  all_ready 0x4d4d4150 once complete, else 0
//!     16  reserved  0
//!   4096  bitmap    most significant bit first
//! ```
//!
//! Release 2.2.0 of the reference implementation was seen to name the same file `<id>.chunk_map`. Such a file is read as
//! a claim, like any bit that is not ours, and not written.
//!
//! Its bits say that somebody wrote a chunk, not that the data survived: [`crate::trust`] knows that. We set a bit only
//! once the data is durable, so that whoever does believe it is not deceived by us.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::bits::{Bits, bitmap_len};
use crate::disk::Disk;
use crate::sys::SharedMap;

const HEADER_LEN: usize = 4096;
const MAGIC: u32 = 0x424d_4150;
const MAGIC2: u32 = 0x434d_4150;
const ALL_READY: u32 = 0x4d4d_4150;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
struct Header {
    magic: U32,
    version: U32,
    magic2: U32,
    all_ready: U32,
}

const _: () = assert!(size_of::<Header>() == 16);
const ALL_READY_OFFSET: u64 = 12;

/// The map file of one blob.
pub(crate) struct ChunkMap {
    file: File,
    path: PathBuf,
    /// Found stamped when it was opened: the bitmap is not consulted.
    all_ready: bool,
    /// Version 1: may be stamped.
    stampable: bool,
    bits: Bits,
}

impl ChunkMap {
    /// Opens the map at `path` for `count` chunks, or makes it. The caller holds the blob's set-up lock.
    ///
    /// A file of another size or with another magic is an error: it was not written for this blob. An empty file and a
    /// header of zeros are what a crash leaves of a new map; they are begun again.
    pub(crate) fn open(path: &Path, count: u32) -> io::Result<Self> {
        let file =
            File::options().read(true).write(true).create(true).truncate(false).mode(0o644).open(path)?;
        let expected = HEADER_LEN + bitmap_len(count);
        let found = file.metadata()?.len();
        if found != 0 && found != expected as u64 {
            return Err(invalid(path, format!("{found} bytes long, expected {expected} for {count} chunks")));
        }
        let mut page = vec![0; HEADER_LEN];
        if found != 0 {
            file.read_exact_at(&mut page, 0)?;
        }
        let fresh = page.iter().all(|byte| *byte == 0);
        // Before any block is allocated: a file that is not ours stays as it is.
        let header = if fresh { new_header() } else { parse(path, &page)? };
        let map = Arc::new(SharedMap::new(&file, expected)?);
        let bits = Bits::mapped(&map, HEADER_LEN, count);
        if fresh {
            // Bits without a header are of a crash, too.
            bits.assign(&vec![0; bitmap_len(count)]);
            file.write_all_at(header.as_bytes(), 0)?;
        }
        let stampable = header.version == 1;
        let all_ready = stampable && header.all_ready == ALL_READY;
        Ok(Self { file, path: path.to_owned(), all_ready, stampable, bits })
    }

    /// True if somebody says that the chunk has been written.
    pub(crate) fn test(&self, index: u32) -> bool {
        index < self.bits.count() && (self.all_ready || self.bits.test(index))
    }

    /// Writes down that the blob is complete, if all bits are set and it has not been said yet. Only for the
    /// opener, and only if all data is durable.
    pub(crate) fn stamp(&self) -> io::Result<()> {
        if self.stampable && !self.all_ready && self.bits.count() > 0 && self.bits.is_full() {
            self.file.write_all_at(U32::new(ALL_READY).as_bytes(), ALL_READY_OFFSET)?;
        }
        Ok(())
    }

    /// True if all these chunks are already said to be written.
    pub(crate) fn covers(&self, snapshot: &[u8]) -> bool {
        self.bits.covers(snapshot)
    }

    /// The bitmap as it is now.
    pub(crate) fn snapshot(&self) -> Vec<u8> {
        self.bits.snapshot()
    }

    /// Says that these chunks have been written.
    pub(crate) fn publish(&self, snapshot: &[u8]) {
        self.bits.merge(snapshot);
    }

    /// Makes the header durable, before the first bit: bits whose header was lost would make the file unreadable.
    pub(crate) fn sync(&self, disk: &dyn Disk) -> io::Result<()> {
        disk.sync_data(&self.file, &self.path)
    }
}

/// What the map at `path` says, which somebody else keeps under another name: read once, never written. `None` if there
/// is none for `count` chunks.
pub(crate) fn foreign_claims(path: &Path, count: u32) -> Option<Bits> {
    let file = File::open(path).ok()?;
    let mut bytes = vec![0; HEADER_LEN + bitmap_len(count)];
    if file.metadata().ok()?.len() != bytes.len() as u64 {
        return None;
    }
    file.read_exact_at(&mut bytes, 0).ok()?;
    let (page, bitmap) = bytes.split_at_mut(HEADER_LEN);
    let header = parse(path, page).ok()?;
    if header.version == 1 && header.all_ready == ALL_READY {
        bitmap.fill(0xff);
    }
    let bits = Bits::in_memory(count);
    bits.assign(bitmap);
    Some(bits)
}

fn new_header() -> Header {
    Header { magic: MAGIC.into(), version: 1.into(), magic2: MAGIC2.into(), all_ready: 0.into() }
}

fn parse(path: &Path, page: &[u8]) -> io::Result<Header> {
    let (header, _) =
        Header::read_from_prefix(page).map_err(|_| invalid(path, "shorter than its header".into()))?;
    if header.magic != MAGIC {
        return Err(invalid(path, format!("magic {:#010x}, expected {MAGIC:#010x}", header.magic)));
    }
    if header.version.get() > 1 {
        return Err(invalid(path, format!("version {}, expected 0 or 1", header.version)));
    }
    if header.version == 1 && header.magic2 != MAGIC2 {
        return Err(invalid(path, format!("second magic {:#010x}, expected {MAGIC2:#010x}", header.magic2)));
    }
    Ok(header)
}

fn invalid(path: &Path, detail: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("chunk map {}: {detail}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(count: usize, bits: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 4096 + count.div_ceil(8)];
        bytes[..12].copy_from_slice(b"PAMB\x01\0\0\0PAMC");
        bytes[4096..].copy_from_slice(bits);
        bytes
    }

    #[test]
    fn the_file_is_the_formats_byte_for_byte() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map");
        let map = ChunkMap::open(&path, 54).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), golden(54, &[0; 7]));
        map.publish(&[0x80, 0, 0, 0, 0, 0, 0x04]);
        map.stamp().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), golden(54, &[0x80, 0, 0, 0, 0, 0, 0x04]));
        assert!(map.test(0) && map.test(53) && !map.test(1) && !map.test(54));
        map.publish(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfc]);
        drop(map);
        ChunkMap::open(&path, 54).unwrap().stamp().unwrap();
        let mut stamped = golden(54, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfc]);
        stamped[12..16].copy_from_slice(b"PAMM");
        assert_eq!(std::fs::read(&path).unwrap(), stamped);
    }

    #[test]
    fn a_stamped_map_needs_no_bits_and_an_old_one_has_no_stamp() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map");
        let mut bytes = golden(9, &[0, 0]);
        bytes[12..16].copy_from_slice(b"PAMM");
        std::fs::write(&path, &bytes).unwrap();
        let map = ChunkMap::open(&path, 9).unwrap();
        assert!((0..9).all(|index| map.test(index)) && !map.test(9));
        bytes[4..12].fill(0);
        bytes[4096..].copy_from_slice(&[0x40, 0]);
        std::fs::write(&path, &bytes).unwrap();
        let map = ChunkMap::open(&path, 9).unwrap();
        assert_eq!((0..9).filter(|index| map.test(*index)).collect::<Vec<_>>(), [1]);
        map.publish(&[0xff, 0x80]);
        map.stamp().unwrap();
        assert_eq!(std::fs::read(&path).unwrap()[..12], bytes[..12]);
    }

    #[test]
    fn what_a_crash_left_is_begun_again_and_what_is_not_ours_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map");
        let mut zeros = vec![0; 4098];
        for content in [vec![], zeros.clone(), {
            zeros[4096] = 0xff;
            zeros.clone()
        }] {
            std::fs::write(&path, content).unwrap();
            ChunkMap::open(&path, 10).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), golden(10, &[0, 0]));
        }
        for (at, value) in [(0, 0), (4, 2), (8, 0)] {
            let mut bytes = golden(10, &[0, 0]);
            bytes[at] = value;
            std::fs::write(&path, &bytes).unwrap();
            assert!(ChunkMap::open(&path, 10).is_err());
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
        }
        std::fs::write(&path, golden(10, &[0, 0])).unwrap();
        assert!(ChunkMap::open(&path, 17).is_err());
        assert!(ChunkMap::open(&path, 8).is_err());
    }
}
