//! The records of a blob as they lie on disk (spec/blob.md §4, §7 to §10).
//!
//! Views over bytes and their bit packing, nothing more: what a value may be is checked by who reads it.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{ChunkDescription, ChunkFlags, StoredChunk};

/// Bytes of the CI header, and of a cache page.
pub(crate) const CI_HEADER_SIZE: usize = 4096;
/// Both magic numbers of the CI header.
pub(crate) const CI_MAGIC: u32 = 0xb10b_b10b;
/// Bytes of a ZRan or batch context.
pub(crate) const CONTEXT_SIZE: usize = 40;

/// The CI header, "blob.meta.header" (§4).
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct CiHeader {
    pub magic: U32,
    pub features: U32,
    pub ci_compressor: U32,
    pub ci_entries: U32,
    pub ci_offset: U64,
    pub ci_compressed_size: U64,
    pub ci_uncompressed_size: U64,
    pub ctx_offset: U64,
    pub ctx_size: U64,
    pub ctx_count: U32,
    pub reserved: [u8; 4032],
    pub magic2: U32,
}

/// A 16-byte entry (§8.1): two words whose bits [`EntryV1::unpack`] knows.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct EntryV1 {
    pub uncompressed: U64,
    pub compressed: U64,
}

impl EntryV1 {
    /// Sizes are 1 to 2^24, offsets below 2^44 and 2^40, the decoded one a multiple of 4096.
    pub(crate) fn pack(chunk: &ChunkDescription) -> Self {
        let u = u64::from(chunk.uncompressed_size - 1);
        let c = u64::from(chunk.stored.compressed_size - 1);
        Self {
            uncompressed: U64::new((u & 0xf_ffff) << 44 | chunk.uncompressed_offset | (u >> 20) << 8),
            compressed: U64::new((c & 0xf_ffff) << 44 | (c >> 20) << 40 | chunk.stored.compressed_offset),
        }
    }

    /// A chunk is compressed iff its two sizes differ.
    pub(crate) fn unpack(&self, index: u32) -> ChunkDescription {
        let (u, c) = (self.uncompressed.get(), self.compressed.get());
        let uncompressed_size = ((u >> 44) | (u & 0xf00) << 12) as u32 + 1;
        let compressed_size = ((c >> 44) | (c >> 40 & 0xf) << 20) as u32 + 1;
        let compressed = compressed_size != uncompressed_size;
        ChunkDescription {
            index,
            uncompressed_offset: u & 0xfff_ffff_f000,
            uncompressed_size,
            stored: StoredChunk {
                flags: if compressed { ChunkFlags::COMPRESSED } else { ChunkFlags::empty() },
                compressed_offset: c & 0xff_ffff_ffff,
                compressed_size,
                unit_index: 0,
                unit_offset: 0,
                crc32c: None,
            },
        }
    }
}

/// The flag of 24-byte entries that says that the low half of `data` is a CRC-32C.
pub(crate) const HAS_CRC32C: u8 = 0x10;

/// A 24-byte entry (§8.2).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct EntryV2 {
    pub uncompressed: U64,
    pub compressed: U64,
    pub data: U64,
}

impl EntryV2 {
    /// The flag byte, unknown bits and [`HAS_CRC32C`] included.
    pub(crate) fn flags(&self) -> u8 {
        (self.uncompressed.get() >> 56) as u8
    }

    /// The stored size is below 2^24, all else is bounded as in [`EntryV1::pack`].
    pub(crate) fn pack(chunk: &ChunkDescription) -> Self {
        let stored = &chunk.stored;
        let in_unit = stored.flags.intersects(ChunkFlags::ZRAN | ChunkFlags::BATCH);
        let (crc_flag, data) = match stored.crc32c {
            _ if in_unit => (0, u64::from(stored.unit_index) << 32 | u64::from(stored.unit_offset)),
            Some(crc) => (HAS_CRC32C, crc.into()),
            None => (0, 0),
        };
        let flags = u64::from(stored.flags.bits() | crc_flag);
        let size = u64::from(chunk.uncompressed_size - 1);
        Self {
            uncompressed: U64::new(flags << 56 | size << 32 | chunk.uncompressed_offset >> 12),
            compressed: U64::new(u64::from(stored.compressed_size) << 40 | stored.compressed_offset),
            data: U64::new(data),
        }
    }

    pub(crate) fn unpack(&self, index: u32) -> ChunkDescription {
        let (u, c, data) = (self.uncompressed.get(), self.compressed.get(), self.data.get());
        let flags = ChunkFlags::from_bits_truncate(self.flags());
        let in_unit = flags.intersects(ChunkFlags::ZRAN | ChunkFlags::BATCH);
        ChunkDescription {
            index,
            uncompressed_offset: (u & 0xffff_ffff) << 12,
            uncompressed_size: (u >> 32 & 0xff_ffff) as u32 + 1,
            stored: StoredChunk {
                flags,
                compressed_offset: c & 0xff_ffff_ffff,
                compressed_size: (c >> 40) as u32,
                unit_index: if in_unit { (data >> 32) as u32 } else { 0 },
                unit_offset: if in_unit { data as u32 } else { 0 },
                crc32c: (self.flags() & HAS_CRC32C != 0 && !in_unit).then_some(data as u32),
            },
        }
    }
}

/// One batch (§9).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct BatchContext {
    pub compressed_size: U32,
    pub uncompressed_size: U32,
    pub reserved: [u8; 32],
}

/// One place where inflating can be resumed (§10).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct ZranContext {
    pub in_offset: U64,
    pub out_offset: U64,
    pub dict_offset: U64,
    pub in_len: U32,
    pub out_len: U32,
    pub dict_size: U32,
    pub byte: u8,
    pub bits: u8,
    pub reserved: [u8; 2],
}

/// One entry of the table of contents (§7).
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct TocRecord {
    pub flags: U32,
    pub reserved: U32,
    pub name: [u8; 16],
    pub digest: [u8; 32],
    pub offset: U64,
    pub compressed_size: U64,
    pub uncompressed_size: U64,
    pub reserved2: [u8; 48],
}

const _: () = assert!(size_of::<CiHeader>() == CI_HEADER_SIZE);
const _: () = assert!(size_of::<EntryV1>() == 16);
const _: () = assert!(size_of::<EntryV2>() == 24);
const _: () = assert!(size_of::<BatchContext>() == CONTEXT_SIZE);
const _: () = assert!(size_of::<ZranContext>() == CONTEXT_SIZE);
const _: () = assert!(size_of::<TocRecord>() == 128);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Packs by the table of §8.1, bit by bit as it is printed there.
    fn pack_v1(u_off: u64, u_size: u32, c_off: u64, c_size: u32) -> EntryV1 {
        let (us, cs) = (u64::from(u_size - 1), u64::from(c_size - 1));
        EntryV1 {
            uncompressed: U64::new((us & 0xf_ffff) << 44 | u_off | (us >> 20) << 8),
            compressed: U64::new((cs & 0xf_ffff) << 44 | (cs >> 20) << 40 | c_off),
        }
    }

    proptest! {
        #[test]
        fn v1_unpacks_what_was_packed(
            page in 0u64..1 << 32, u_size in 1u32..=1 << 24, c_off in 0u64..1 << 40, c_size in 1u32..=1 << 24,
        ) {
            let chunk = pack_v1(page << 12, u_size, c_off, c_size).unpack(7);
            prop_assert_eq!(chunk.index, 7);
            prop_assert_eq!(chunk.uncompressed_offset, page << 12);
            prop_assert_eq!(chunk.uncompressed_size, u_size);
            prop_assert_eq!(chunk.stored.compressed_offset, c_off);
            prop_assert_eq!(chunk.stored.compressed_size, c_size);
            prop_assert_eq!(chunk.stored.flags.contains(ChunkFlags::COMPRESSED), u_size != c_size);
            prop_assert_eq!(chunk.stored.crc32c, None);
            let entry = pack_v1(page << 12, u_size, c_off, c_size);
            let packed = EntryV1::pack(&chunk);
            prop_assert_eq!(packed.as_bytes(), entry.as_bytes());
        }

        #[test]
        fn v2_unpacks_what_was_packed(
            page in 0u64..1 << 32, u_size in 1u32..=1 << 24, c_off in 0u64..1 << 40, c_size in 0u32..1 << 24,
            flags in 0u8..32, data: u64,
        ) {
            let entry = EntryV2 {
                uncompressed: U64::new(u64::from(flags) << 56 | u64::from(u_size - 1) << 32 | page),
                compressed: U64::new(u64::from(c_size) << 40 | c_off),
                data: U64::new(data),
            };
            let chunk = entry.unpack(9);
            prop_assert_eq!(entry.flags(), flags);
            prop_assert_eq!(chunk.uncompressed_offset, page << 12);
            prop_assert_eq!(chunk.uncompressed_size, u_size);
            prop_assert_eq!(chunk.stored.compressed_offset, c_off);
            prop_assert_eq!(chunk.stored.compressed_size, c_size);
            prop_assert_eq!(chunk.stored.flags.bits(), flags & 0xf);
            let in_unit = flags & 6 != 0;
            let place = if in_unit { ((data >> 32) as u32, data as u32) } else { (0, 0) };
            prop_assert_eq!((chunk.stored.unit_index, chunk.stored.unit_offset), place);
            // A CRC has 32 bits; without it there is nothing in its place.
            let data = if in_unit { data } else if flags & HAS_CRC32C != 0 { data & 0xffff_ffff } else { 0 };
            let flags = if in_unit { flags & !HAS_CRC32C } else { flags };
            let uncompressed = U64::new(entry.uncompressed.get() & !(0xff << 56) | u64::from(flags) << 56);
            let expected = EntryV2 { uncompressed, data: U64::new(data), ..entry };
            let packed = EntryV2::pack(&chunk);
            prop_assert_eq!(packed.as_bytes(), expected.as_bytes());
            let crc = (flags & HAS_CRC32C != 0 && !in_unit).then_some(data as u32);
            prop_assert_eq!(chunk.stored.crc32c, crc);
        }
    }
}
