//! Records of PAX extended headers: `LENGTH KEY=VALUE\n`. Values are bytes of any kind, newlines included.

use std::borrow::Cow;

use super::number::decimal;
use super::sparse::PaxSparse;

/// What the names of records begin with that hold extended attributes.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// What the records before an entry say about it; the last one of a key counts, and an empty one takes back what
/// came before.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Records<'a> {
    pub path: Option<&'a [u8]>,
    pub link_path: Option<&'a [u8]>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub mtime: Option<(i64, u32)>,
    /// In byte order of their names.
    pub xattrs: Vec<(Cow<'a, [u8]>, &'a [u8])>,
    pub sparse: PaxSparse<'a>,
}

impl<'a> Records<'a> {
    /// Adds the records of an extended header.
    pub fn add(&mut self, data: &'a [u8]) -> Result<(), String> {
        let mut rest = data;
        while !rest.is_empty() {
            let ((key, value), behind) = record(rest)?;
            self.set(key, value)
                .map_err(|fault| format!("PAX record {:?}: {fault}", String::from_utf8_lossy(key)))?;
            rest = behind;
        }
        // The last one of each name stays; the sort keeps their order.
        self.xattrs.sort_by(|(one, _), (other, _)| one.cmp(other));
        self.xattrs.reverse();
        self.xattrs.dedup_by(|(one, _), (other, _)| one == other);
        self.xattrs.reverse();
        Ok(())
    }

    fn set(&mut self, key: &'a [u8], value: &'a [u8]) -> Result<(), String> {
        let bytes = (!value.is_empty()).then_some(value);
        match key {
            b"path" => self.path = bytes,
            b"linkpath" => self.link_path = bytes,
            b"size" => self.size = bytes.map(decimal).transpose()?,
            b"uid" => self.uid = bytes.map(decimal).transpose()?,
            b"gid" => self.gid = bytes.map(decimal).transpose()?,
            b"mtime" => self.mtime = bytes.map(super::number::time).transpose()?,
            _ => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    // Here empty values are values.
                    self.xattrs.push((attribute_name(name), value));
                } else if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.set(key, value)?;
                }
            }
        }
        Ok(())
    }
}

/// The name of an attribute: a key cannot hold `=`, so GNU tar, and `unpack`, write `%3D`, and `%25` for `%`.
fn attribute_name(key: &[u8]) -> Cow<'_, [u8]> {
    if !key.contains(&b'%') {
        return Cow::Borrowed(key);
    }
    let mut name = Vec::with_capacity(key.len());
    let mut rest = key;
    while let Some((first, behind)) = rest.split_first() {
        let byte;
        (byte, rest) = match behind {
            [b'3', b'D', behind @ ..] if *first == b'%' => (&b'=', behind),
            [b'2', b'5', behind @ ..] if *first == b'%' => (&b'%', behind),
            _ => (first, behind),
        };
        name.push(*byte);
    }
    Cow::Owned(name)
}

/// Key and value.
type Record<'a> = (&'a [u8], &'a [u8]);

/// The first record, and what follows it.
fn record(data: &[u8]) -> Result<(Record<'_>, &[u8]), String> {
    let parsed = || {
        let space = data.iter().position(|byte| *byte == b' ')?;
        let length = usize::try_from(decimal(data.get(..space)?).ok()?).ok()?;
        let text = data.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = text.iter().position(|byte| *byte == b'=')?;
        Some(((text.get(..equals)?, text.get(equals + 1..)?), data.get(length..)?))
    };
    parsed().ok_or_else(|| {
        let begin = data.get(..data.len().min(40)).unwrap_or_default();
        format!("damaged PAX record {:?}", String::from_utf8_lossy(begin))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_may_hold_anything() {
        let data = b"19 path=a\nb=c \xff dd\n27 SCHILY.xattr.user.k=1\n2\n24 SCHILY.xattr.user.k=\n8 uid=7\n";
        let mut records = Records::default();
        records.add(data).unwrap();
        assert_eq!(records.path, Some(&b"a\nb=c \xff dd"[..]));
        assert_eq!(records.xattrs, [(b"user.k"[..].into(), &b""[..])], "the last one counts");
        assert_eq!(records.uid, Some(7));
        records.add(b"8 path=\n").unwrap();
        assert_eq!(records.path, None);
    }

    #[test]
    fn names_of_attributes_may_hold_what_keys_may_not() {
        for (key, expected) in [
            (&b"user.a%3Db"[..], &b"user.a=b"[..]),
            (b"user.%2525", b"user.%25"),
            (b"user.%253D", b"user.%3D"),
            (b"user.%41%3d%", b"user.%41%3d%"),
            (b"user.%2", b"user.%2"),
        ] {
            assert_eq!(*attribute_name(key), *expected);
        }
        // Two ways to write one name.
        let mut records = Records::default();
        records.add(b"25 SCHILY.xattr.user.%=1\n27 SCHILY.xattr.user.%25=2\n").unwrap();
        assert_eq!(records.xattrs, [(b"user.%"[..].into(), &b"2"[..])]);
    }

    #[test]
    fn damaged_records_are_refused() {
        for bad in [
            &b"7 uid=7\n"[..],
            b"99 uid=7\n",
            b"9 uid=7x",
            b"8 uid=7x",
            b"6 uid7\n",
            b"0 uid=7\n",
            b"3 \n",
            b"x uid=7\n",
            b"18446744073709551615 a=b\n",
            b"\0\0\0",
            b"10 uid=-7\n",
            b"14 mtime=noon\n",
        ] {
            assert!(Records::default().add(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }
}
