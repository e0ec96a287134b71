//! Extended attributes, whichever the format.

use std::borrow::Cow;

use crate::error::Result;
use crate::{v5, v6};

/// The longest name of an extended attribute, in bytes.
pub(crate) const XATTR_NAME_MAX: usize = 255;

/// The extended attributes of an inode in stored order: full name and value. Ends after the first error.
pub struct Xattrs<'a>(pub(crate) Inner<'a>);

pub(crate) enum Inner<'a> {
    None,
    V5(v5::Xattrs<'a>),
    V6(v6::Xattrs<'a>),
}

impl<'a> Xattrs<'a> {
    /// The value of the attribute `name`.
    pub(crate) fn find(self, name: &[u8]) -> Result<Option<&'a [u8]>> {
        match self.0 {
            Inner::None => Ok(None),
            Inner::V5(mut pairs) => {
                { pairs.find(|pair| !matches!(pair, Ok((found, _)) if *found != name)).transpose() }
                    .map(|pair| pair.map(|(_, value)| value))
            }
            Inner::V6(mut entries) => entries
                .find(|entry| !matches!(entry, Ok(entry) if !entry.is_named(name)))
                .transpose()
                .map(|entry| entry.map(|entry| entry.value)),
        }
    }
}

impl<'a> Iterator for Xattrs<'a> {
    type Item = Result<(Cow<'a, [u8]>, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Inner::None => None,
            Inner::V5(pairs) => Some(pairs.next()?.map(|(name, value)| (Cow::Borrowed(name), value))),
            Inner::V6(entries) => Some(entries.next()?.map(|entry| (entry.full_name(), entry.value))),
        }
    }
}
