//! What a bootstrap says of an inode, whichever its format.

use std::fmt;

use crate::error::Error;

/// The longest target of a symlink that Linux makes or reads, in bytes: `PATH_MAX` less the NUL.
pub const SYMLINK_MAX: usize = 4095;

/// An inode number, as the format has it: the number of v5, the nid of v6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

impl fmt::Display for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The type of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileType {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A fifo.
    Fifo,
    /// A socket.
    Socket,
}

impl FileType {
    /// The type that the type bits of `st_mode` name.
    pub fn from_mode(mode: u32) -> Option<Self> {
        match mode & 0o170_000 {
            0o100_000 => Some(Self::Regular),
            0o040_000 => Some(Self::Directory),
            0o120_000 => Some(Self::Symlink),
            0o020_000 => Some(Self::CharDevice),
            0o060_000 => Some(Self::BlockDevice),
            0o010_000 => Some(Self::Fifo),
            0o140_000 => Some(Self::Socket),
            _ => None,
        }
    }

    /// True for character and block devices, the only inodes with an `rdev`.
    pub fn is_device(self) -> bool {
        matches!(self, Self::CharDevice | Self::BlockDevice)
    }
}

impl fmt::Display for FileType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Regular => "regular file",
            Self::Directory => "directory",
            Self::Symlink => "symlink",
            Self::CharDevice => "character device",
            Self::BlockDevice => "block device",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
        })
    }
}

/// What `stat` wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// The type, as the type bits of `mode` have it.
    pub file_type: FileType,
    /// The full `st_mode`, type bits included.
    pub mode: u32,
    /// Owner, as stored; see [`crate::Bootstrap::owners_recorded`].
    pub uid: u32,
    /// Group, as stored.
    pub gid: u32,
    /// Links; never 0.
    pub nlink: u32,
    /// Bytes: of a file's data, of a symlink's target. Directories: what the image records.
    pub size: u64,
    /// Units of 512 bytes. v5: as recorded.
    pub blocks: u64,
    /// Device number in Linux' 32-bit encoding; 0 unless a character or block device.
    pub rdev: u32,
    /// Seconds since 1970; may be negative.
    pub mtime: i64,
    /// Nanoseconds of it, under 10^9.
    pub mtime_nsec: u32,
}

impl Attributes {
    /// True for a directory that the layer has no entry for, see [`crate::build::Node::is_implied`].
    pub fn is_implied_directory(&self) -> bool {
        self.file_type == FileType::Directory && self.nlink == 1
    }
}

/// `Ok` if an inode is of the type that a call is for.
pub(crate) fn expect_type(ino: Ino, expected: FileType, found: FileType) -> Result<(), Error> {
    if expected == found { Ok(()) } else { Err(Error::WrongType { ino, expected, found }) }
}
