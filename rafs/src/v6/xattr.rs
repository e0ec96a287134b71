//! The extended attributes of a v6 inode (spec/rafs-v6.md §7.4): a header of 12 bytes, then entries, each padded
//! to 4, whose names are a prefix by number and a suffix.

use std::borrow::Cow;

use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, IntoBytes};

use super::layout::{XattrEntry, XattrHeader};
use crate::error::Result;
use crate::image::Image;
use crate::xattr::{PREFIXES, XATTR_NAME_MAX, sorted, split};

/// Entries are padded to this, and the area is counted in it.
const UNIT: usize = 4;

/// Bytes of the area that the count of an inode means.
pub(super) fn area_size(count: u16) -> u64 {
    match count {
        0 => 0,
        count => size_of::<XattrHeader>() as u64 + UNIT as u64 * (u64::from(count) - 1),
    }
}

/// The prefix that a number stands for.
fn prefix(index: u8) -> Option<&'static [u8]> {
    PREFIXES.iter().find(|(number, _)| *number == index).map(|(_, prefix)| *prefix)
}

/// Bytes of the area that holds `pairs`, all of which can be written.
pub(super) fn written_size(pairs: &[(Vec<u8>, Vec<u8>)]) -> u64 {
    let entry = |(name, value): &(Vec<u8>, Vec<u8>)| {
        let suffix = split(name).map_or(0, |(_, suffix)| suffix.len());
        (size_of::<XattrEntry>() + suffix + value.len()).next_multiple_of(UNIT) as u64
    };
    match pairs {
        [] => 0,
        pairs => size_of::<XattrHeader>() as u64 + pairs.iter().map(entry).sum::<u64>(),
    }
}

/// The count that an inode has for an area of `size` bytes, if there is one: [`area_size`] backwards.
pub(super) fn area_count(size: u64) -> Option<u16> {
    match size.checked_sub(size_of::<XattrHeader>() as u64) {
        None => Some(0),
        Some(entries) => u16::try_from(entries / UNIT as u64 + 1).ok(),
    }
}

/// Writes `pairs` into an area of zeros of their [`written_size`].
pub(super) fn write(pairs: &[(Vec<u8>, Vec<u8>)], area: &mut [u8]) {
    let mut at = size_of::<XattrHeader>();
    for (name, value) in sorted(pairs) {
        let Some((name_index, suffix)) = split(name) else { continue };
        // Both lengths were checked to fit.
        let entry =
            XattrEntry { name_len: suffix.len() as u8, name_index, value_size: U16::new(value.len() as u16) };
        for part in [entry.as_bytes(), suffix, value] {
            area[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        at = at.next_multiple_of(UNIT);
    }
}

/// One extended attribute.
pub(crate) struct Xattr<'a> {
    prefix: &'static [u8],
    suffix: &'a [u8],
    pub(crate) value: &'a [u8],
}

impl<'a> Xattr<'a> {
    pub(crate) fn full_name(&self) -> Cow<'a, [u8]> {
        match self.suffix {
            [] => Cow::Borrowed(self.prefix),
            suffix => Cow::Owned([self.prefix, suffix].concat()),
        }
    }

    pub(crate) fn is_named(&self, name: &[u8]) -> bool {
        name.strip_prefix(self.prefix) == Some(self.suffix)
    }
}

/// The entries of an inode.
pub(crate) struct Xattrs<'a> {
    image: &'a Image,
    /// Of the entries that are left, in the bootstrap.
    offset: u64,
    entries: &'a [u8],
}

impl<'a> Xattrs<'a> {
    /// The area of `size` bytes at `offset`, see [`area_size`].
    pub(super) fn new(image: &'a Image, offset: u64, size: u64) -> Result<Self> {
        let header: &XattrHeader = image.view(offset, "extended attributes")?;
        if header.shared_count != 0 {
            let found = header.shared_count;
            return Err(image.corrupt(offset + 4, "shared extended attributes", "none", found));
        }
        let offset = offset + size_of::<XattrHeader>() as u64;
        let size = size.saturating_sub(size_of::<XattrHeader>() as u64);
        Ok(Self { image, offset, entries: image.range(offset, size, "extended attributes")? })
    }

    fn entry(&mut self) -> Result<Xattr<'a>> {
        let outside = |found: usize| {
            let expected = format!("at most the {} bytes of the area", self.entries.len());
            self.image.corrupt(self.offset, "extended attribute", expected, found)
        };
        let (entry, rest) = XattrEntry::ref_from_prefix(self.entries).map_err(|_| outside(UNIT))?;
        let (name_len, value_size) = (usize::from(entry.name_len), usize::from(entry.value_size.get()));
        let (suffix, behind) = rest.split_at_checked(name_len).ok_or_else(|| outside(name_len))?;
        let value = behind.get(..value_size).ok_or_else(|| outside(value_size))?;
        let Some(prefix) = prefix(entry.name_index) else {
            let found = entry.name_index;
            return Err(self.image.corrupt(self.offset + 1, "extended attribute", "a known prefix", found));
        };
        // Those that end in a dot want a suffix, the ACLs want none.
        if prefix.ends_with(b".") == suffix.is_empty()
            || prefix.len() + suffix.len() > XATTR_NAME_MAX
            || suffix.contains(&0)
        {
            let expected = format!("a name of 1 to {XATTR_NAME_MAX} bytes without NUL");
            let found = format!("prefix {} and {name_len} bytes", entry.name_index);
            return Err(self.image.corrupt(self.offset, "extended attribute", expected, found));
        }
        let len = (size_of::<XattrEntry>() + name_len + value_size).next_multiple_of(UNIT);
        self.entries = self.entries.get(len..).unwrap_or_default();
        self.offset += len as u64;
        Ok(Xattr { prefix, suffix, value })
    }
}

impl<'a> Iterator for Xattrs<'a> {
    type Item = Result<Xattr<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.entries.is_empty() {
            return None;
        }
        let entry = self.entry();
        if entry.is_err() {
            self.entries = &[];
        }
        Some(entry)
    }
}
