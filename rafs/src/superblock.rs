//! A superblock as it stands in the bootstrap, for those who show it.

use zerocopy::FromBytes;

use crate::bootstrap::{Bootstrap, Version};
use crate::error::{Error, Result};
use crate::{v5, v6};

/// The fields of both versions; what one does not have is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Superblock {
    pub magic: u32,
    pub version: u32,
    /// Bytes of the superblock. v5.
    pub size: u32,
    /// Number of the root. v5: always 1.
    pub root_inode: u64,
    pub chunk_size: u32,
    pub inode_count: u64,
    pub flags: u64,
    pub inode_table_entries: u32,
    pub inode_table_offset: u64,
    /// Bytes.
    pub blob_table_size: u32,
    pub blob_table_offset: u64,
    pub extended_blob_table_offset: u64,
    pub extended_blob_table_entries: u32,
    /// Device slots. v6.
    pub device_count: u32,
    pub device_slot_offset: u64,
    pub prefetch_table_offset: u64,
    pub prefetch_table_entries: u32,
    /// Block that nids count from. v6.
    pub meta_block: u32,
    pub root_nid: u64,
    pub chunk_table_offset: u64,
    /// Bytes.
    pub chunk_table_size: u64,
}

/// v6 has no field for its version.
const VERSION_6: u32 = 0x600;

impl Bootstrap {
    /// The superblock.
    pub fn superblock(&self) -> Result<Superblock> {
        let bytes = self.bytes();
        let short = || Error::NotBootstrap {
            path: self.image().path().clone(),
            detail: "it ends inside its superblock".into(),
        };
        match self.version() {
            Version::V5 => {
                let (block, _) = v5::layout::Superblock::ref_from_prefix(bytes).map_err(|_| short())?;
                Ok(Superblock {
                    magic: block.magic.get(),
                    version: block.version.get(),
                    size: block.size.get(),
                    root_inode: self.root().0,
                    chunk_size: block.chunk_size.get(),
                    inode_count: block.inode_count.get(),
                    flags: block.flags.get(),
                    inode_table_entries: block.inode_table_entries.get(),
                    inode_table_offset: block.inode_table_offset.get(),
                    blob_table_size: block.blob_table_size.get(),
                    blob_table_offset: block.blob_table_offset.get(),
                    extended_blob_table_offset: block.extended_blob_table_offset.get(),
                    extended_blob_table_entries: block.extended_blob_table_entries.get(),
                    prefetch_table_offset: block.prefetch_table_offset.get(),
                    prefetch_table_entries: block.prefetch_table_entries.get(),
                    ..Superblock::default()
                })
            }
            Version::V6 => {
                let at = |offset: u64| bytes.get(offset as usize..).ok_or_else(short);
                let block = at(v6::layout::SUPERBLOCK_OFFSET)?;
                let (block, _) = v6::layout::Superblock::ref_from_prefix(block).map_err(|_| short())?;
                let extension = at(v6::layout::EXTENSION_OFFSET)?;
                let (extension, _) =
                    v6::layout::Extension::ref_from_prefix(extension).map_err(|_| short())?;
                Ok(Superblock {
                    magic: block.magic.get(),
                    version: VERSION_6,
                    chunk_size: extension.chunk_size.get(),
                    inode_count: block.inode_count.get(),
                    flags: extension.flags.get(),
                    blob_table_size: extension.blob_table_size.get(),
                    blob_table_offset: extension.blob_table_offset.get(),
                    device_count: block.extra_devices.get().into(),
                    device_slot_offset: u64::from(block.device_slot_offset.get()) * v6::layout::SLOT_SIZE,
                    prefetch_table_offset: extension.prefetch_table_offset.get(),
                    prefetch_table_entries: extension.prefetch_table_size.get() / 4,
                    meta_block: block.meta_block.get(),
                    root_nid: block.root_nid.get().into(),
                    chunk_table_offset: extension.chunk_table_offset.get(),
                    chunk_table_size: extension.chunk_table_size.get(),
                    ..Superblock::default()
                })
            }
        }
    }
}
