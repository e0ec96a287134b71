//! One walk through everything that a bootstrap says, for fuzzers and mutation tests: errors are fine, what is
//! not an error is consistent, and nothing panics.

use crate::bootstrap::{Bootstrap, OpenOptions};
use crate::directory::DirEntry;
use crate::inode::{FileType, Ino};

/// Entries and extents that one walk looks at; more than the file pays for means that a hostile file shares them.
const STEPS_MAX: u64 = 1 << 20;

/// Opens `bytes` in both ways, and walks. Panics if the tree contradicts itself.
pub fn bootstrap(bytes: &[u8]) {
    let options = OpenOptions::default();
    let Ok(bootstrap) = Bootstrap::from_bytes(bytes.to_vec(), "fuzzing", &options) else { return };
    walk(&bootstrap);
    let options = OpenOptions { verify_inodes: true, ..options };
    if let (crate::Version::V5, Ok(bootstrap)) =
        (bootstrap.version(), Bootstrap::from_bytes(bytes.to_vec(), "fuzzing", &options))
    {
        touch(&bootstrap);
    }
}

/// Looks at every inode that can be reached.
fn touch(bootstrap: &Bootstrap) {
    let mut visited = bootstrap.numbers();
    let mut directories = vec![bootstrap.root()];
    while let Some(directory) = directories.pop() {
        let Ok(listing) = bootstrap.read_dir(directory, 0) else { continue };
        for entry in listing.map_while(Result::ok) {
            let _ = bootstrap.attributes(entry.ino);
            if visited.insert(entry.ino.0) && entry.file_type == FileType::Directory {
                directories.push(entry.ino);
            }
        }
    }
}

/// Asks everything there is to ask of every inode that can be reached. Returns the entries listed without error.
pub fn walk(bootstrap: &Bootstrap) -> u64 {
    let mut steps = 0;
    let mut entries = 0;
    let mut listed = Vec::new();
    let mut visited = bootstrap.numbers();
    let mut directories = vec![bootstrap.root()];
    visited.insert(bootstrap.root().0);
    inode(bootstrap, bootstrap.root(), FileType::Directory, &mut steps);
    while let Some(directory) = directories.pop() {
        let Ok(listing) = bootstrap.read_dir(directory, 0) else { continue };
        let mut complete = true;
        listed.clear();
        for entry in listing {
            steps += 1;
            if steps > STEPS_MAX {
                return entries;
            }
            let Ok(entry) = entry else {
                complete = false;
                break;
            };
            entries += 1;
            let last = listed.last().map_or(0, |last: &DirEntry<'_>| last.next);
            assert!(last < entry.next && entry.next < 1 << 62, "positions ascend");
            listed.push(entry);
            if visited.insert(entry.ino.0) {
                inode(bootstrap, entry.ino, entry.file_type, &mut steps);
                if entry.file_type == FileType::Directory {
                    directories.push(entry.ino);
                }
            }
        }
        // Names were in order, so each must be found. A broken directory need not find what it lists.
        for entry in &listed {
            match bootstrap.lookup(directory, entry.name) {
                Ok(found) => {
                    assert!(
                        !complete || found == Some(entry.ino),
                        "{directory}: lookup differs from listing"
                    );
                }
                Err(_) => assert!(!complete, "{directory}: lookup of a listed entry fails"),
            }
            if entry.file_type == FileType::Directory {
                assert_eq!(bootstrap.parent(entry.ino).ok(), Some(directory), "parent of {}", entry.ino);
            }
        }
        if let (true, Some(last)) = (complete, listed.last()) {
            let behind = bootstrap.read_dir(directory, last.next).ok().and_then(|mut rest| rest.next());
            assert!(behind.is_none(), "{directory}: entries behind the last one");
        }
        let _ = bootstrap.lookup(directory, b"no such name");
    }
    let _ = bootstrap.prefetch_inodes();
    let _ = bootstrap.check();
    for blob in bootstrap.blobs() {
        use storage::blob::DigestSource as _;
        let _ = blob.data_size();
        let index = bootstrap.digest_index(blob.index).unwrap_or_default();
        assert!(index.is_sorted_by(|a, b| a.0 < b.0), "a digest index ascends");
        for (_, record) in index {
            let _ = bootstrap.digest(record);
        }
    }
    entries
}

/// Asks an inode all that its type allows.
fn inode(bootstrap: &Bootstrap, ino: Ino, file_type: FileType, steps: &mut u64) {
    let Ok(attributes) = bootstrap.attributes(ino) else { return };
    assert_eq!(attributes.file_type, file_type, "type of {ino}");
    assert_eq!(FileType::from_mode(attributes.mode), Some(file_type), "mode of {ino}");
    assert!(attributes.nlink > 0 && attributes.mtime_nsec < 1_000_000_000, "attributes of {ino}");
    if let Ok(xattrs) = bootstrap.xattrs(ino) {
        for (name, _) in xattrs.map_while(Result::ok) {
            assert!(
                matches!(bootstrap.xattr(ino, &name), Ok(Some(_))),
                "xattr of {ino} is listed, not found"
            );
        }
    }
    match file_type {
        FileType::Symlink => {
            if let Ok(target) = bootstrap.read_link(ino) {
                assert_eq!(target.len() as u64, attributes.size, "target of {ino}");
            }
        }
        FileType::Regular => {
            extents(bootstrap, ino, attributes.size, 0, u32::MAX, steps);
            // The end of the file, from inside a chunk.
            let offset = attributes.size.saturating_sub(u64::from(bootstrap.chunk_size()) / 2);
            if offset != 0 {
                extents(bootstrap, ino, attributes.size, offset, u32::MAX, steps);
            }
            assert!(bootstrap.extents(ino, attributes.size, 1).is_ok_and(|mut none| none.next().is_none()));
        }
        _ => assert!(bootstrap.extents(ino, 0, 1).is_err(), "{ino} is no file, but has extents"),
    }
}

/// Checks that extents cover the range, up to an error.
fn extents(bootstrap: &Bootstrap, ino: Ino, size: u64, offset: u64, len: u32, steps: &mut u64) {
    use storage::blob::Extent;
    let Ok(mut extents) = bootstrap.extents(ino, offset, len) else { return };
    let wanted = u64::from(len).min(size.saturating_sub(offset));
    let mut covered = 0;
    for extent in extents.by_ref() {
        *steps += 1;
        if *steps > STEPS_MAX {
            return;
        }
        let Ok(extent) = extent else { return };
        covered += match extent {
            Extent::Hole { len } => u64::from(len),
            Extent::Chunk { blob_index, uncompressed_size, offset, len, .. } => {
                assert!(len > 0 && u64::from(offset) + u64::from(len) <= u64::from(uncompressed_size));
                assert!((blob_index as usize) < bootstrap.blobs().len());
                u64::from(len)
            }
        };
    }
    assert_eq!(covered, wanted, "extents of {ino}");
}
