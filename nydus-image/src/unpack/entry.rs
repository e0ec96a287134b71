//! One entry of a tar: a ustar header, and a PAX header before it for what does not fit.
//!
//! As GNU tar does: names and link targets are raw bytes, whatever their encoding; in the names of extended
//! attributes `%` and `=` are written as `%25` and `%3D`, since a record ends its key at the first `=`.

use rafs::{Attributes, FileType};
use tar::{EntryType, Header};

use crate::image::Piece;

/// The largest owner or group of a ustar header.
const ID_MAX: u64 = 0o777_7777;
/// The largest size and time of a ustar header.
const NUMBER_MAX: u64 = 0o777_7777_7777;
/// What the entry of a PAX header is called; nobody looks at it.
const PAX_NAME: &[u8] = b"././@PaxHeader";

/// An entry that is being put together.
pub(super) struct Entry {
    header: Header,
    /// Records of the PAX header.
    records: Vec<u8>,
}

impl Entry {
    /// The entry of an inode. The path of a directory ends in a slash.
    pub(super) fn new(path: &[u8], attributes: &Attributes) -> Self {
        let (kind, size) = match attributes.file_type {
            FileType::Regular => (EntryType::Regular, attributes.size),
            FileType::Directory => (EntryType::Directory, 0),
            FileType::Symlink => (EntryType::Symlink, 0),
            FileType::CharDevice => (EntryType::Char, 0),
            FileType::BlockDevice => (EntryType::Block, 0),
            // Sockets never come here.
            FileType::Fifo | FileType::Socket => (EntryType::Fifo, 0),
        };
        Self::with(path, attributes, kind, size)
    }

    /// Another name of a file.
    pub(super) fn hard_link(path: &[u8], first: &[u8], attributes: &Attributes) -> Self {
        let mut entry = Self::with(path, attributes, EntryType::Link, 0);
        entry.set_target(first);
        entry
    }

    fn with(path: &[u8], attributes: &Attributes, kind: EntryType, size: u64) -> Self {
        let mut entry = Self { header: Header::new_ustar(), records: Vec::new() };
        entry.header.set_entry_type(kind);
        entry.header.set_mode(attributes.mode & 0o7777);
        if !put(&mut entry.header.as_old_mut().name, path) {
            entry.record(b"path", path);
        }
        // Numbers that do not fit are in both headers: in binary here, which not everybody reads, and in the other.
        let (uid, gid) = (u64::from(attributes.uid), u64::from(attributes.gid));
        entry.header.set_uid(uid);
        entry.header.set_gid(gid);
        entry.header.set_size(size);
        for (key, number, most) in
            [(&b"uid"[..], uid, ID_MAX), (b"gid", gid, ID_MAX), (b"size", size, NUMBER_MAX)]
        {
            if number > most {
                entry.record(key, number.to_string().as_bytes());
            }
        }
        entry.set_time(attributes.mtime, attributes.mtime_nsec);
        if attributes.file_type.is_device()
            && let Some(ustar) = entry.header.as_ustar_mut()
        {
            let (major, minor) = device(attributes.rdev);
            ustar.set_device_major(major);
            ustar.set_device_minor(minor);
        }
        entry
    }

    fn set_time(&mut self, seconds: i64, nanoseconds: u32) {
        let fits = u64::try_from(seconds).ok().filter(|seconds| *seconds <= NUMBER_MAX);
        self.header.set_mtime(fits.unwrap_or(0));
        if fits.is_none() || nanoseconds != 0 {
            self.record(b"mtime", decimal(seconds, nanoseconds).as_bytes());
        }
    }

    /// The target of a link.
    pub(super) fn set_target(&mut self, target: &[u8]) {
        if !put(&mut self.header.as_old_mut().linkname, target) {
            self.record(b"linkpath", target);
        }
    }

    pub(super) fn add_xattr(&mut self, name: &[u8], value: &[u8]) {
        let mut key = b"SCHILY.xattr.".to_vec();
        for byte in name {
            match byte {
                b'%' => key.extend_from_slice(b"%25"),
                b'=' => key.extend_from_slice(b"%3D"),
                other => key.push(*other),
            }
        }
        self.record(&key, value);
    }

    /// Adds `LENGTH KEY=VALUE\n`, where the length counts itself too.
    fn record(&mut self, key: &[u8], value: &[u8]) {
        let rest = key.len() + value.len() + 3;
        let mut len = rest + 1;
        while len != rest + len.to_string().len() {
            len = rest + len.to_string().len();
        }
        self.records.extend_from_slice(format!("{len} ").as_bytes());
        self.records.extend_from_slice(key);
        self.records.push(b'=');
        self.records.extend_from_slice(value);
        self.records.push(b'\n');
    }

    /// The bytes of the headers.
    pub(super) fn encode(mut self) -> Piece {
        let mut bytes = Vec::new();
        if !self.records.is_empty() {
            let mut header = Header::new_ustar();
            header.set_entry_type(EntryType::XHeader);
            put(&mut header.as_old_mut().name, PAX_NAME);
            header.set_mode(0o644);
            header.set_size(self.records.len() as u64);
            header.set_cksum();
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(&self.records);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        self.header.set_cksum();
        bytes.extend_from_slice(self.header.as_bytes());
        Piece::Bytes(bytes)
    }
}

/// Fills a field with what fits; false if that is not all. A full field has no zero at its end.
fn put(field: &mut [u8], value: &[u8]) -> bool {
    let len = value.len().min(field.len());
    field[..len].copy_from_slice(&value[..len]);
    len == value.len()
}

/// Major and minor number in Linux' 32-bit encoding.
fn device(rdev: u32) -> (u32, u32) {
    ((rdev >> 8) & 0xfff, (rdev & 0xff) | ((rdev >> 12) & 0xf_ff00))
}

/// Seconds with a fraction, where there is one. Nanoseconds count forwards, before 1970 too.
fn decimal(seconds: i64, nanoseconds: u32) -> String {
    const BILLION: u32 = 1_000_000_000;
    match (seconds, nanoseconds) {
        (seconds, 0) => seconds.to_string(),
        (0.., _) => format!("{seconds}.{nanoseconds:09}"),
        (_, _) => format!("-{}.{:09}", (seconds + 1).unsigned_abs(), BILLION.saturating_sub(nanoseconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_have_a_fraction_too() {
        for (seconds, nanoseconds, text) in [
            (0, 0, "0"),
            (1, 5, "1.000000005"),
            (-1, 0, "-1"),
            (-1, 500_000_000, "-0.500000000"),
            (-2, 1, "-1.999999999"),
            (i64::MIN, 1, "-9223372036854775807.999999999"),
        ] {
            assert_eq!(decimal(seconds, nanoseconds), text);
        }
    }

    #[test]
    fn the_length_of_a_record_counts_itself() {
        let attributes = Attributes {
            file_type: FileType::Regular,
            mode: 0o100_644,
            uid: 0,
            gid: 0,
            nlink: 1,
            size: 0,
            blocks: 0,
            rdev: 0,
            mtime: 0,
            mtime_nsec: 0,
        };
        for len in [1, 80, 81, 82, 83, 84, 85, 86, 900, 980, 981, 982, 983, 984, 985, 9000] {
            let mut entry = Entry::new(b"name", &attributes);
            entry.add_xattr(b"user.a=%", &vec![b'\n'; len]);
            let text = &entry.records;
            let space = text.iter().position(|byte| *byte == b' ').unwrap();
            let told: usize = std::str::from_utf8(&text[..space]).unwrap().parse().unwrap();
            assert_eq!(told, text.len(), "{len}");
            assert!(text[space + 1..].starts_with(b"SCHILY.xattr.user.a%3D%25=\n"));
        }
    }

    #[test]
    fn device_numbers_are_taken_apart() {
        for (major, minor) in [(1, 3), (259, 0), (8, 300), (4095, 0xf_ffff)] {
            let rdev = (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12);
            assert_eq!(device(rdev), (major, minor));
        }
    }
}
