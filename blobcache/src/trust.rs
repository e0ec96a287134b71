//! What we know about a data file beyond the format: which chunks are known good *now*, and which after a power loss.
//!
//! `chunk_map` cannot say it: its bits may reach the disk before the data they speak of, and anybody may have set
//! them. So each data file gets a file of ours, named after it, in [`crate::own_files`]:
//!
//! ```text
//!      0  magic "NYDTRUST" · version 1 · chunk count · form                        ─┐
//!     24  inode, birth time (s, ns) of the data file · boot id                      │ checksum at 64
//!    512  1 once a sync of the data file has failed in this boot
//!   1024  BLAKE3 of `.blob.meta` as it came from the backend · checksum
//!   4096  live bitmap: verified, and written to the data file in this boot
//!      …  durable bitmap, on the next page boundary: verified, and synced *before* the bit was set
//! ```
//!
//! Trusted is what is live, if the boot id is this boot's: the page cache outlives a process. At the first open of
//! another boot, live becomes a copy of durable, then the boot id is written. Killed in between, the next opener does
//! it again. After a power loss any mixture of old and new pages is right: a durable bit, once set, is true for the life
//! of the data file; a live bitmap is only believed together with a boot id that no later boot has.
//! For the same reason a file is never reset in place when the data file was replaced (the new header could survive with
//! the old durable page): a new one is renamed over it. The directory entry lost, the old one names the old data file.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use storage::digest::{Digest, Digester};
use zerocopy::little_endian::{I64, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::bits::{Bits, bitmap_len};
use crate::options::BootId;
use crate::own_files;
use crate::sys::{self, Lock, SharedMap};

const PAGE: usize = 4096;
const MAGIC: [u8; 8] = *b"NYDTRUST";
const VERSION: u32 = 1;
const SYNC_FAILED_OFFSET: usize = 512;
const META_OFFSET: u64 = 1024;
const LIVE_OFFSET: usize = PAGE;
/// Lock bytes of chunks: far behind anything that is ever read or written.
const LOCK_OFFSET: u64 = 1 << 40;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: U32,
    count: U32,
    form: U32,
    reserved: U32,
    data: DataFile,
    boot_id: [u8; 16],
}

const _: () = assert!(size_of::<Header>() == 64);

/// An [`Identity`] as it is written down.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
pub(crate) struct DataFile {
    inode: U64,
    born_s: I64,
    born_ns: U32,
    reserved: U32,
}
const CHECKSUM_LEN: usize = 8;

/// Which data file, even if its name is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    inode: u64,
    born_s: i64,
    born_ns: u32,
}

impl Identity {
    /// `None` where the file system does not record when a file was made: an inode number alone is soon used again.
    pub(crate) fn of(file: &File) -> io::Result<Option<Self>> {
        let metadata = file.metadata()?;
        let Ok(born) = metadata.created() else { return Ok(None) };
        let (born_s, born_ns) = match born.duration_since(UNIX_EPOCH) {
            Ok(after) => (after.as_secs() as i64, after.subsec_nanos()),
            Err(before) => (-(before.duration().as_secs() as i64), before.duration().subsec_nanos()),
        };
        Ok(Some(Self { inode: metadata.ino(), born_s, born_ns }))
    }
}

impl From<Identity> for DataFile {
    fn from(identity: Identity) -> Self {
        Self {
            inode: identity.inode.into(),
            born_s: identity.born_s.into(),
            born_ns: identity.born_ns.into(),
            reserved: 0.into(),
        }
    }
}

/// The trust file of one data file.
pub(crate) struct Trust {
    file: File,
    map: Arc<SharedMap>,
    live: Bits,
    durable: Bits,
}

/// What a trust file must be about to be believed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject {
    /// Chunks in the blob.
    pub(crate) count: u32,
    /// How the data file holds them: plain, encrypted with which key, as stored.
    pub(crate) form: u32,
    /// `None`: nothing that was written about it earlier can be believed.
    pub(crate) data: Option<Identity>,
}

impl Trust {
    /// Opens the trust file at `path`; `None` if there is none that is about `subject`. The caller holds the blob's set-up
    /// lock.
    pub(crate) fn existing(path: &Path, subject: Subject, boot: BootId) -> io::Result<Option<Self>> {
        let Some(data) = subject.data else { return Ok(None) };
        let file = match File::options().read(true).write(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        if file.metadata()?.len() != file_len(subject.count) as u64 {
            return Ok(None);
        }
        let mut bytes = [0; size_of::<Header>() + CHECKSUM_LEN];
        file.read_exact_at(&mut bytes, 0)?;
        let Ok((header, sum)) = Header::read_from_prefix(&bytes) else { return Ok(None) };
        let expected = header_of(subject, data, BootId(header.boot_id));
        if sum != checksum(header.as_bytes()) || header.as_bytes() != expected.as_bytes() {
            return Ok(None);
        }
        let trust = Self::map(file, subject.count)?;
        if header.boot_id != boot.0 {
            trust.live.assign(&trust.durable.snapshot());
            trust.map.bytes()[SYNC_FAILED_OFFSET].store(0, Ordering::Release);
            // Last: until this is written, the next opener begins again.
            trust.write_header(header_of(subject, data, boot))?;
        }
        Ok(Some(trust))
    }

    /// Makes a new trust file, whatever there was. The caller holds the set-up lock.
    pub(crate) fn begin(path: &Path, subject: Subject, boot: BootId) -> io::Result<Self> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}-{serial}.new", std::process::id()));
        let temporary = Path::new(&temporary);
        let file = own_files::create(temporary)?;
        let made = Self::map(file, subject.count).and_then(|trust| {
            let nobody = Identity { inode: 0, born_s: 0, born_ns: 0 };
            trust.write_header(header_of(subject, subject.data.unwrap_or(nobody), boot))?;
            std::fs::rename(temporary, path)?;
            Ok(trust)
        });
        if made.is_err() {
            let _ = std::fs::remove_file(temporary);
        }
        made
    }

    fn map(file: File, count: u32) -> io::Result<Self> {
        let map = Arc::new(SharedMap::new(&file, file_len(count))?);
        let live = Bits::mapped(&map, LIVE_OFFSET, count);
        let durable = Bits::mapped(&map, LIVE_OFFSET + bitmap_pages(count), count);
        Ok(Self { file, map, live, durable })
    }

    fn write_header(&self, header: Header) -> io::Result<()> {
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend(checksum(header.as_bytes()));
        self.file.write_all_at(&bytes, 0)
    }

    /// The trust file itself.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Trusts these chunks, which are known to be right and on the disk.
    pub(crate) fn assume(&self, durable: &[u8]) {
        self.durable.merge(durable);
        self.live.merge(durable);
    }

    /// Chunks that may be read without a question.
    pub(crate) fn live(&self) -> &Bits {
        &self.live
    }

    /// Chunks that survive a power loss.
    pub(crate) fn durable(&self) -> &Bits {
        &self.durable
    }

    /// True once a sync of the data file has failed in this boot, whoever tried: what was written since the last good
    /// sync may be gone from the page cache without a further error, so nothing may be published any more.
    pub(crate) fn sync_failed(&self) -> bool {
        self.map.bytes()[SYNC_FAILED_OFFSET].load(Ordering::Acquire) != 0
    }

    /// Remembers that a sync has failed, and trusts only what was durable before.
    pub(crate) fn fail_sync(&self) {
        self.map.bytes()[SYNC_FAILED_OFFSET].store(1, Ordering::Release);
        self.live.assign(&self.durable.snapshot());
    }

    /// Forgets a chunk whose data turned out to be wrong.
    pub(crate) fn distrust(&self, index: u32) {
        self.durable.clear(index);
        self.live.clear(index);
    }

    /// The digest of the `.blob.meta` that was fetched from the backend, if it was by us.
    pub(crate) fn meta_digest(&self) -> Option<Digest> {
        let mut bytes = [0; 32 + CHECKSUM_LEN];
        self.file.read_exact_at(&mut bytes, META_OFFSET).ok()?;
        let (digest, sum) = bytes.split_at(32);
        (sum == checksum(digest)).then(|| digest.try_into().ok().map(Digest)).flatten()
    }

    /// Remembers it.
    pub(crate) fn set_meta_digest(&self, digest: Digest) -> io::Result<()> {
        let mut bytes = digest.0.to_vec();
        bytes.extend(checksum(&digest.0));
        self.file.write_all_at(&bytes, META_OFFSET)
    }

    /// Claims the fetch of the units that begin at these chunks, among all processes that share the directory. Never
    /// waits; false if another process has one of them.
    pub(crate) fn try_claim(&self, first: u32, count: u32) -> io::Result<bool> {
        sys::try_lock(&self.file, Lock::Exclusive, LOCK_OFFSET + u64::from(first), u64::from(count))
    }

    /// Gives a claim up.
    pub(crate) fn release(&self, first: u32, count: u32) {
        if let Err(error) = sys::unlock(&self.file, LOCK_OFFSET + u64::from(first), u64::from(count)) {
            tracing::warn!(first, count, %error, "cannot release the claim of a chunk");
        }
    }
}

fn bitmap_pages(count: u32) -> usize {
    bitmap_len(count).next_multiple_of(PAGE)
}

fn file_len(count: u32) -> usize {
    LIVE_OFFSET + 2 * bitmap_pages(count)
}

fn header_of(subject: Subject, data: Identity, boot: BootId) -> Header {
    Header {
        magic: MAGIC,
        version: VERSION.into(),
        count: subject.count.into(),
        form: subject.form.into(),
        reserved: 0.into(),
        data: data.into(),
        boot_id: boot.0,
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    let digest = Digester::Blake3.digest(bytes).0;
    let mut sum = [0; CHECKSUM_LEN];
    sum.copy_from_slice(&digest[..CHECKSUM_LEN]);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: BootId = BootId([1; 16]);
    const NEXT: BootId = BootId([2; 16]);

    struct Home {
        dir: tempfile::TempDir,
        subject: Subject,
    }

    impl Home {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let data = File::create(dir.path().join("data")).unwrap();
            let data = Identity::of(&data).unwrap();
            assert!(data.is_some(), "the temporary directory records no birth times");
            Self { dir, subject: Subject { count: 40_000, form: 0, data } }
        }

        fn open(&self, boot: BootId) -> Trust {
            self.open_about(self.subject, boot)
        }

        fn open_about(&self, subject: Subject, boot: BootId) -> Trust {
            let path = self.dir.path().join("trust");
            let existing = Trust::existing(&path, subject, boot).unwrap();
            existing.unwrap_or_else(|| Trust::begin(&path, subject, boot).unwrap())
        }
    }

    #[test]
    fn live_is_for_one_boot_and_durable_for_all() {
        let home = Home::new();
        let trust = home.open(BOOT);
        trust.live().set(3);
        trust.live().set(39_999);
        trust.durable().set(39_999);
        drop(trust);
        let trust = home.open(BOOT);
        assert!(trust.live().test(3) && trust.live().test(39_999));
        trust.fail_sync();
        assert!(home.open(BOOT).sync_failed());
        let trust = home.open(NEXT);
        assert!(!trust.live().test(3) && trust.live().test(39_999) && !trust.sync_failed());
        trust.live().set(4);
        trust.distrust(39_999);
        let trust = home.open(NEXT);
        assert!(trust.live().test(4) && !trust.live().test(39_999) && !trust.durable().test(39_999));
    }

    #[test]
    fn a_copy_that_was_cut_short_is_made_again() {
        let home = Home::new();
        let trust = home.open(BOOT);
        (0..9).for_each(|index| trust.live().set(index));
        trust.durable().set(8);
        // Killed after some bytes of the copy, before the boot id.
        trust.live().clear(0);
        drop(trust);
        let trust = home.open(NEXT);
        assert_eq!((0..9).filter(|index| trust.live().test(*index)).collect::<Vec<_>>(), [8]);
    }

    #[test]
    fn another_subject_or_a_damaged_header_begins_a_new_file() {
        let home = Home::new();
        let other = Identity { inode: 1, ..home.subject.data.unwrap() };
        let subjects = [
            Subject { data: Some(other), ..home.subject },
            Subject { data: None, ..home.subject },
            Subject { form: 1, ..home.subject },
            Subject { count: 39_999, ..home.subject },
        ];
        for subject in subjects {
            let trust = home.open(BOOT);
            trust.live().set(1);
            trust.durable().set(1);
            let new = home.open_about(subject, BOOT);
            assert!(!new.live().test(1) && !new.durable().test(1));
            // The old file is whole for those who have it open.
            assert!(trust.live().test(1));
        }
        let path = home.dir.path().join("trust");
        for at in 0..72 {
            home.open(BOOT).live().set(1);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            assert!(!home.open(BOOT).live().test(1), "byte {at}");
        }
        std::fs::write(&path, b"").unwrap();
        assert!(!home.open(BOOT).live().test(1));
        assert_eq!(std::fs::read_dir(home.dir.path()).unwrap().count(), 2, "temporary files are left");
    }

    #[test]
    fn the_digest_of_the_table_is_checked_itself() {
        let home = Home::new();
        let trust = home.open(BOOT);
        assert_eq!(trust.meta_digest(), None);
        trust.set_meta_digest(Digest([7; 32])).unwrap();
        assert_eq!(home.open(NEXT).meta_digest(), Some(Digest([7; 32])));
        trust.file.write_all_at(&[0], META_OFFSET + 5).unwrap();
        assert_eq!(home.open(NEXT).meta_digest(), None);
    }
}
