//! The extended attributes of a v5 inode: `u32 n`, then `n` bytes of key, NUL and value, unaligned
//! (spec/rafs-v5.md §7).

use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

use crate::error::Result;
use crate::image::{Image, shown};
use crate::xattr::XATTR_NAME_MAX;

/// The pairs of an inode.
pub(crate) struct Xattrs<'a> {
    image: &'a Image,
    /// Of the pairs that are left, in the bootstrap.
    offset: u64,
    pairs: &'a [u8],
}

impl<'a> Xattrs<'a> {
    pub(super) fn new(image: &'a Image, offset: u64, pairs: &'a [u8]) -> Self {
        Self { image, offset, pairs }
    }

    fn pair(&mut self) -> Result<(&'a [u8], &'a [u8])> {
        let outside = |found: usize| {
            let expected = format!("at most the {} bytes of the area", self.pairs.len());
            self.image.corrupt(self.offset, "extended attribute", expected, found)
        };
        let (len, rest) = U32::read_from_prefix(self.pairs).map_err(|_| outside(4))?;
        let len = len.get() as usize;
        let pair = rest.get(..len).ok_or_else(|| outside(len))?;
        let end = pair.iter().take(XATTR_NAME_MAX + 1).position(|byte| *byte == 0);
        let Some(end) = end.filter(|end| *end > 0) else {
            let expected = format!("a key of 1 to {XATTR_NAME_MAX} bytes and a NUL");
            return Err(self.image.corrupt(self.offset, "extended attribute", expected, shown(pair)));
        };
        self.pairs = &rest[len..];
        self.offset += 4 + len as u64;
        Ok((&pair[..end], &pair[end + 1..]))
    }
}

impl<'a> Iterator for Xattrs<'a> {
    type Item = Result<(&'a [u8], &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.pairs.is_empty() {
            return None;
        }
        let pair = self.pair();
        if pair.is_err() {
            self.pairs = &[];
        }
        Some(pair)
    }
}
