//! Listing directories, whichever the format.

use crate::error::Result;
use crate::inode::{FileType, Ino};
use crate::{v5, v6};

/// The longest name, in bytes.
pub(crate) const NAME_MAX: usize = 255;

/// One name in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// The inode.
    pub ino: Ino,
    /// The name: 1 to 255 bytes without `/` and NUL, neither `.` nor `..`.
    pub name: &'a [u8],
    /// The type of the inode.
    pub file_type: FileType,
    /// The position behind this entry, under 2^62 and never 0.
    pub next: u64,
}

/// The entries of a directory in ascending byte order of their names, without `.` and `..`.
///
/// Ends after the first error.
pub struct Entries<'a>(pub(crate) Inner<'a>);

pub(crate) enum Inner<'a> {
    V5(v5::Entries<'a>),
    V6(v6::Entries<'a>),
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<DirEntry<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Inner::V5(entries) => entries.next(),
            Inner::V6(entries) => entries.next(),
        }
    }
}

/// True if `name` may stand in a directory.
pub(crate) fn is_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= NAME_MAX
        && name != b"."
        && name != b".."
        && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
}
