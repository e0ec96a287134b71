//! Extended attributes, whichever the format.

use std::borrow::Cow;

use crate::build::Rule;
use crate::error::Result;
use crate::image::shown;
use crate::{v5, v6};

/// The longest name of an extended attribute, in bytes.
pub(crate) const XATTR_NAME_MAX: usize = 255;
/// The longest value that is written, in bytes: v6 counts them with 16 bits.
const XATTR_VALUE_MAX: usize = u16::MAX as usize;
/// The names that the formats have: a prefix and more, or for the two ACLs nothing more; v6 has numbers for them.
pub(crate) const PREFIXES: [(u8, &[u8]); 5] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
];

/// The number of the prefix of a full name, and what follows the prefix. `None` if the formats do not have it.
pub(crate) fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    PREFIXES.iter().find_map(|(number, prefix)| {
        let suffix = name.strip_prefix(*prefix)?;
        (prefix.ends_with(b".") != suffix.is_empty()).then_some((*number, suffix))
    })
}

/// Pairs in the order in which they are written.
pub(crate) fn sorted(pairs: &[(Vec<u8>, Vec<u8>)]) -> Vec<(&[u8], &[u8])> {
    let mut sorted: Vec<_> = pairs.iter().map(|(name, value)| (&name[..], &value[..])).collect();
    sorted.sort_unstable();
    sorted
}

/// Checks that pairs can be written.
pub(crate) fn check(pairs: &[(Vec<u8>, Vec<u8>)]) -> std::result::Result<(), Rule> {
    for (name, value) in pairs {
        let shown = || shown(name);
        if split(name).is_none() || name.len() > XATTR_NAME_MAX || name.contains(&0) {
            let expected = format!("up to {XATTR_NAME_MAX} bytes behind a prefix that the format has");
            return Err(Rule::new("name of an extended attribute", expected, shown()));
        }
        if value.len() > XATTR_VALUE_MAX {
            let found = format!("{} bytes of {}", value.len(), shown());
            let expected = format!("at most {XATTR_VALUE_MAX} bytes");
            return Err(Rule::new("value of an extended attribute", expected, found));
        }
    }
    match sorted(pairs).windows(2).find(|two| two[0].0 == two[1].0) {
        None => Ok(()),
        Some(two) => Err(Rule::new("extended attributes", "each name once", shown(two[0].0))),
    }
}

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
