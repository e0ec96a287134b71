//! The 32-byte inodes of v6, which no current builder writes, made from the 64-byte ones.

use rafs::{Bootstrap, FileType, Ino};

use crate::fixtures;

/// Turns a 64-byte inode into a 32-byte one with the same meaning. What follows stays behind it: attributes and
/// addresses are moved, so the inode must be followed by nothing that an offset points to.
fn compact(bytes: &mut [u8], ino: Ino) {
    let at = fixtures::v6_inode(bytes, ino);
    let old: [u8; 64] = bytes[at..at + 64].try_into().unwrap();
    let format = u16::from_le_bytes([old[0], old[1]]) & !1;
    fixtures::put(bytes, at, format.to_le_bytes());
    // Extended attributes and mode stay where they are; then come the short fields.
    bytes[at + 6..at + 8].copy_from_slice(&old[44..46]);
    bytes[at + 8..at + 12].copy_from_slice(&old[8..12]);
    bytes[at + 12..at + 16].fill(0);
    bytes[at + 16..at + 24].copy_from_slice(&old[16..24]);
    bytes[at + 24..at + 26].copy_from_slice(&old[24..26]);
    bytes[at + 26..at + 28].copy_from_slice(&old[28..30]);
    bytes[at + 28..at + 32].fill(0);
    // At most the extended attributes, the addresses or the tail of this inode are there.
    bytes.copy_within(at + 64..at + 64 + 1024, at + 32);
}

/// Restores what lies behind the shortened inode's own bytes.
fn compacted(path: &str, own: usize) -> (Bootstrap, Bootstrap, Ino) {
    let good = fixtures::bytes("v6-lz4-4k-sha256");
    let bootstrap = fixtures::open(good.clone()).unwrap();
    let ino = fixtures::find(&bootstrap, path);
    let mut bytes = good.clone();
    compact(&mut bytes, ino);
    let at = fixtures::v6_inode(&bytes, ino);
    bytes[at + 32 + own..].copy_from_slice(&good[at + 32 + own..]);
    fixtures::put(&mut bytes, 1024 + 24, 1_234_567_890_u64.to_le_bytes());
    fixtures::put(&mut bytes, 1024 + 32, 42_u32.to_le_bytes());
    (bootstrap, fixtures::open(bytes).unwrap(), ino)
}

#[test]
fn a_compact_inode_says_the_same() {
    // Path, and the bytes that belong to the inode behind its head.
    for (path, own) in [("etc/passwd", 8), ("usr/prog", 11), ("dev/vda", 0), ("dev/pipe", 0), ("one", 8)] {
        let (long, short, ino) = compacted(path, own);
        let (mut expected, found) = (long.attributes(ino).unwrap(), short.attributes(ino).unwrap());
        // The one thing it has no room for.
        (expected.mtime, expected.mtime_nsec) = (1_234_567_890, 42);
        assert_eq!(found, expected, "{path}");
        match found.file_type {
            FileType::Regular => {
                let extents = |bootstrap: &Bootstrap| -> Vec<_> {
                    bootstrap.extents(ino, 0, u32::MAX).unwrap().map(Result::unwrap).collect()
                };
                assert_eq!(extents(&short), extents(&long), "{path}");
            }
            FileType::Symlink => assert_eq!(short.read_link(ino).unwrap(), long.read_link(ino).unwrap()),
            _ => {}
        }
        assert_eq!(fixtures::find(&short, path), ino);
        short.check().unwrap();
        rafs::fuzzing::walk(&short);
    }
    let (_, short, ino) = compacted("dev/vda", 0);
    assert_eq!(short.attributes(ino).unwrap().rdev, 254 << 8 | 3);
}

#[test]
fn a_compact_inode_has_extended_attributes() {
    let (long, short, ino) = compacted("lib/prog", 12 + 64 + 6 * 8);
    let xattrs = |bootstrap: &Bootstrap| -> Vec<_> {
        let xattrs = bootstrap.xattrs(ino).unwrap().map(Result::unwrap);
        xattrs.map(|(name, value)| (name.into_owned(), value.to_vec())).collect()
    };
    assert_eq!(xattrs(&long).len(), 2);
    assert_eq!(xattrs(&short), xattrs(&long));
}
