//! The prefetch table: numbers of inodes worth fetching first (spec/rafs-v5.md §15, spec/rafs-v6.md §12).
//!
//! A hint. It ends at the first 0, and numbers that are no inode's are skipped.

use zerocopy::little_endian::U32;

use crate::inode::Ino;

/// The numbers that `exists` knows, in table order.
pub(crate) fn known(table: &[U32], exists: impl Fn(Ino) -> bool) -> Vec<Ino> {
    table
        .iter()
        .map(|number| Ino(number.get().into()))
        .take_while(|ino| ino.0 != 0)
        .filter(|ino| exists(*ino))
        .collect()
}
