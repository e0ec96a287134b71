//! What is mounted where, from `/proc/self/mountinfo`: the one way to know that touches no mount, and so cannot wait for
//! whoever serves it.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One line of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MountInfo {
    /// Of this mount, as long as it is there.
    pub(super) id: String,
    /// `MAJOR:MINOR` of the file system.
    pub(super) device: String,
    /// The type of the file system, such as `fuse`.
    pub(super) fs_type: String,
    /// What is mounted, by whoever mounted it.
    pub(super) source: String,
}

/// The topmost mount on `mountpoint`, an absolute path without symlinks.
pub(super) fn topmost(mountpoint: &Path) -> io::Result<Option<MountInfo>> {
    let table = fs::read("/proc/self/mountinfo")?;
    let lines = table.split(|byte| *byte == b'\n');
    let mut newest_first = lines.rev().filter_map(parse);
    Ok(newest_first.find(|(point, _)| point == mountpoint).map(|(_, mount)| mount))
}

/// `ID PARENT DEVICE ROOT POINT OPTIONS [TAG…] - TYPE SOURCE OPTIONS`.
fn parse(line: &[u8]) -> Option<(PathBuf, MountInfo)> {
    let mut fields = line.split(|byte| *byte == b' ');
    let text = |field: &[u8]| String::from_utf8_lossy(&unescape(field)).into_owned();
    let id = text(fields.next()?);
    let device = text(fields.nth(1)?);
    let point = PathBuf::from(OsString::from_vec(unescape(fields.nth(1)?)));
    fields.find(|field| *field == b"-")?;
    let (fs_type, source) = (text(fields.next()?), text(fields.next()?));
    Some((point, MountInfo { id, device, fs_type, source }))
}

/// Undoes mountinfo's `\ooo` for space, tab, newline and backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut at = 0;
    while at < field.len() {
        let octal = field.get(at + 1..at + 4).filter(|_| field[at] == b'\\');
        let code = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        out.push(code.unwrap_or(field[at]));
        at += if code.is_some() { 4 } else { 1 };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_undone() {
        assert_eq!(unescape(b"/a\\040b\\134c\\9"), b"/a b\\c\\9");
    }

    #[test]
    fn a_line_is_read_with_and_without_tags() {
        for tags in ["", "shared:1 master:2 "] {
            let line = format!("36 35 98:0 /mnt1 /mnt\\0402 rw,noatime {tags}- fuse rafs ro,user_id=0");
            let (point, mount) = parse(line.as_bytes()).unwrap();
            assert_eq!(point, Path::new("/mnt 2"));
            let (id, device) = ("36".to_owned(), "98:0".to_owned());
            assert_eq!(mount, MountInfo { id, device, fs_type: "fuse".into(), source: "rafs".into() });
        }
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"36 35 98:0 / /mnt rw"), None);
        assert!(
            topmost(Path::new("/")).unwrap().is_some() && topmost(Path::new("/no/such")).unwrap().is_none()
        );
    }
}
