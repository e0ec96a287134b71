//! What an archive says of one entry.

/// An entry, as the archive names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The path as it stands there: perhaps with `./` or `/` in front, or `/` behind.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permissions, without the bits of the type.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Nanoseconds of it.
    pub mtime_nsec: u32,
    /// Extended attributes, in byte order of their names.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where its first header begins in the archive, that of its extensions.
    pub header_position: u64,
    /// Where its data begins in the archive.
    pub data_position: u64,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    Regular {
        /// Bytes, holes included.
        size: u64,
        /// The archive lacks some of them: the content is not `size` bytes at the data position.
        is_sparse: bool,
    },
    /// Another name of an entry before.
    HardLink {
        /// Its path.
        target: Vec<u8>,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points to.
        target: Vec<u8>,
    },
    /// A character device.
    CharDevice {
        /// Major and minor number.
        device: (u32, u32),
    },
    /// A block device.
    BlockDevice {
        /// Major and minor number.
        device: (u32, u32),
    },
    /// A directory.
    Directory,
    /// A FIFO.
    Fifo,
}
