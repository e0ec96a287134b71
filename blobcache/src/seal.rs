//! Trust at rest: what [`crate::trust`] knows of a data file, as an extended attribute of that file.
//!
//! A daemon that ends in order, as the last user of a blob, writes a seal and removes the trust file: whoever removes
//! the blob's files afterwards removes all there is. The next daemon makes a trust file again from the seal.
//!
//! ```text
//! user.nydusd.trust
//!      0  magic "NYDSEAL1" · chunk count · form · inode, birth time (s, ns) · reserved
//!     40  modification time (s, ns) · reserved
//!     56  BLAKE3 of the bitmap of `chunk_map` · BLAKE3 of `.blob.meta` as it came from the backend, or zeros
//!    120  the first 8 bytes of the BLAKE3 of all that
//! ```
//!
//! It says: the chunks of exactly this `chunk_map` were verified, and synced before it was written. It is believed only if
//! the data file has not been written since and there is no trust file; so what another program adds or changes, and what a
//! power loss takes from the map, costs a check of each chunk and nothing else. Invariant: before a sealed chunk is
//! written again, the seal is gone from the disk ([`remove`]), since a power loss may lose the new modification time.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use storage::digest::{Digest, Digester};
use xattr::FileExt as _;
use zerocopy::little_endian::{I64, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::trust::{DataFile, Subject};

const NAME: &str = "user.nydusd.trust";
const MAGIC: [u8; 8] = *b"NYDSEAL1";
const CHECKSUM_LEN: usize = 8;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
struct Seal {
    magic: [u8; 8],
    count: U32,
    form: U32,
    data: DataFile,
    modified_s: I64,
    modified_ns: U32,
    reserved: U32,
    map: [u8; 32],
    meta: [u8; 32],
}

const _: () = assert!(size_of::<Seal>() == 120);

/// Writes the seal of `file`: all chunks of the bitmap `map` were verified and are on the disk.
///
/// Errors: those of the file system; [`io::ErrorKind::Unsupported`] also if it records no birth times.
pub(crate) fn write(file: &File, subject: Subject, map: &[u8], meta: Option<Digest>) -> io::Result<()> {
    let seal = seal_of(file, subject, map, meta)?.ok_or(io::ErrorKind::Unsupported)?;
    let mut bytes = seal.as_bytes().to_vec();
    bytes.extend(checksum(seal.as_bytes()));
    file.set_xattr(NAME, &bytes)
}

/// What the seal of `file` says of `.blob.meta`, if it has one that fits the file and the bitmap `map` as they are now.
pub(crate) fn read(file: &File, subject: Subject, map: &[u8]) -> Option<Option<Digest>> {
    let bytes = file.get_xattr(NAME).ok().flatten()?;
    let (found, sum) = Seal::read_from_prefix(&bytes).ok()?;
    let meta = (found.meta != [0; 32]).then_some(Digest(found.meta));
    let expected = seal_of(file, subject, map, meta).ok().flatten()?;
    (sum == checksum(found.as_bytes()) && found.as_bytes() == expected.as_bytes()).then_some(meta)
}

/// Removes the seal; when this returns, no power loss brings it back.
pub(crate) fn remove(file: &File) -> io::Result<()> {
    if matches!(file.get_xattr(NAME), Ok(Some(_))) {
        file.remove_xattr(NAME)?;
        file.sync_all()?;
    }
    Ok(())
}

fn seal_of(file: &File, subject: Subject, map: &[u8], meta: Option<Digest>) -> io::Result<Option<Seal>> {
    let Some(data) = subject.data else { return Ok(None) };
    let metadata = file.metadata()?;
    Ok(Some(Seal {
        magic: MAGIC,
        count: subject.count.into(),
        form: subject.form.into(),
        data: data.into(),
        modified_s: metadata.mtime().into(),
        modified_ns: u32::try_from(metadata.mtime_nsec()).unwrap_or(0).into(),
        reserved: 0.into(),
        map: Digester::Blake3.digest(map).0,
        meta: meta.map_or([0; 32], |digest| digest.0),
    }))
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    let mut sum = [0; CHECKSUM_LEN];
    sum.copy_from_slice(&Digester::Blake3.digest(bytes).0[..CHECKSUM_LEN]);
    sum
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::trust::Identity;

    struct Home {
        _dir: tempfile::TempDir,
        file: File,
        subject: Subject,
    }

    impl Home {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let file = File::create_new(dir.path().join("data")).unwrap();
            file.write_all_at(b"data", 0).unwrap();
            // As old as a file that is found, so that a later write cannot fall into the same tick of the clock.
            file.set_modified(SystemTime::now() - Duration::from_secs(9)).unwrap();
            let data = Identity::of(&file).unwrap();
            assert!(data.is_some(), "the temporary directory records no birth times");
            Self { _dir: dir, file, subject: Subject { count: 16, form: 0, data } }
        }

        fn read(&self, map: &[u8]) -> Option<Option<Digest>> {
            read(&self.file, self.subject, map)
        }
    }

    #[test]
    fn a_seal_is_of_one_map_and_of_data_as_they_were() {
        let home = Home::new();
        assert_eq!(home.read(&[0xf0, 0]), None);
        write(&home.file, home.subject, &[0xf0, 0], None).unwrap();
        assert_eq!(home.read(&[0xf0, 0]), Some(None));
        assert_eq!(home.read(&[0xf8, 0]), None);
        assert_eq!(read(&home.file, Subject { count: 15, ..home.subject }, &[0xf0, 0]), None);
        assert_eq!(read(&home.file, Subject { form: 1, ..home.subject }, &[0xf0, 0]), None);
        assert_eq!(read(&home.file, Subject { data: None, ..home.subject }, &[0xf0, 0]), None);
        write(&home.file, home.subject, &[0xf8, 0], Some(Digest([7; 32]))).unwrap();
        assert_eq!(home.read(&[0xf8, 0]), Some(Some(Digest([7; 32]))));
        home.file.write_all_at(b"D", 0).unwrap();
        assert_eq!(home.read(&[0xf8, 0]), None, "written since");
    }

    #[test]
    fn another_file_a_damaged_seal_and_a_removed_one_are_not_believed() {
        let home = Home::new();
        write(&home.file, home.subject, &[1], None).unwrap();
        let seal = home.file.get_xattr(NAME).unwrap().unwrap();
        for at in 0..seal.len() {
            let mut damaged = seal.clone();
            damaged[at] ^= 1;
            home.file.set_xattr(NAME, &damaged).unwrap();
            assert_eq!(home.read(&[1]), None, "byte {at}");
            home.file.set_xattr(NAME, &seal[..at]).unwrap();
            assert_eq!(home.read(&[1]), None, "{at} bytes");
        }
        let other = Home::new();
        other.file.set_modified(home.file.metadata().unwrap().modified().unwrap()).unwrap();
        other.file.set_xattr(NAME, &seal).unwrap();
        assert_eq!(other.read(&[1]), None);
        home.file.set_xattr(NAME, &seal).unwrap();
        assert_eq!(home.read(&[1]), Some(None));
        remove(&home.file).unwrap();
        remove(&home.file).unwrap();
        assert_eq!(home.read(&[1]), None);
    }
}
