//! Which chunks hold a range of a file, whichever the format.

use storage::blob::Extent;

use crate::error::Result;
use crate::{v5, v6};

/// The pieces of a range of a file, in file order, without gaps. Ends after the first error.
pub struct Extents<'a>(pub(crate) Inner<'a>);

pub(crate) enum Inner<'a> {
    V5(v5::Extents<'a>),
    V6(v6::Extents<'a>),
}

impl Iterator for Extents<'_> {
    type Item = Result<Extent>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Inner::V5(extents) => extents.next(),
            Inner::V6(extents) => extents.next(),
        }
    }
}

/// The part of a file of `size` bytes that a read wants: first byte and end.
pub(crate) fn clip(size: u64, offset: u64, len: u32) -> (u64, u64) {
    let end = offset.saturating_add(len.into()).min(size);
    (offset.min(end), end)
}
