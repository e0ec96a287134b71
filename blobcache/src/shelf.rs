//! The files of one blob in the cache directory, and what is known of the chunks in them.
//!
//! A shelf is shared by all mounts of the blob in this process; other processes have their own on the same files.
//! Invariant: a chunk that [`Shelf::trusted`] names lies whole and right in the data file. It gets that name only after
//! its bytes were written, in [`Shelf::publish`].

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use storage::blob::{BlobDescription, BlobFeatures, BlobId};
use storage::cipher::{PAGE_SIZE, PageCipher};
use storage::digest::{Digest, Digester};

use crate::bits::Bits;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::fetch::{Key, Served};
use crate::flight::Flights;
use crate::lock;
use crate::metrics::Metrics;
use crate::options::{BootId, CacheStorage, Encryption};
use crate::own_files;
use crate::readiness::{ChunkMap, foreign_claims};
use crate::seal;
use crate::sys::{self, Lock};
use crate::trust::{Identity, Subject, Trust};

/// Chunks a blob can have (spec/blob.md §1).
const MAX_CHUNKS: u32 = 1 << 24;
/// No chunk lies beyond this in the uncompressed blob (spec/blob.md §1).
const MAX_OFFSET: u64 = 1 << 44;
/// How long caching stops after a write has failed.
const PAUSE: Duration = Duration::from_secs(30);
/// How long the files' set-up by another process is waited for; it does no network I/O.
const SETUP_PATIENCE: Duration = Duration::from_secs(5);
/// Lock bytes of the data file: one for its set-up, then one for each way in which it can be written.
const SETUP_LOCK: u64 = 1 << 60;
const FORM_LOCK: u64 = SETUP_LOCK + 1;

/// Where a chunk lies in the uncompressed blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    /// Its number in the blob.
    pub(crate) index: u32,
    /// Offset in the uncompressed blob, and so in the data file.
    pub(crate) offset: u64,
    /// Its bytes once decoded.
    pub(crate) size: u32,
}

impl Place {
    fn end(self) -> Option<u64> {
        self.offset.checked_add(u64::from(self.size)).filter(|end| *end <= MAX_OFFSET)
    }
}

/// How a blob's chunks are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// In no file; see [`crate::memory`].
    None,
    /// As they are, at their uncompressed offset.
    Plain,
    /// Stored bytes, at their compressed offset.
    Raw,
    /// Encrypted page by page, at their uncompressed offset.
    Encrypted(Encryption),
    /// The blob is a tar that somebody put there, read in place.
    Tar,
}

impl Form {
    /// Tells apart what may not be mixed in one data file.
    fn fingerprint(self) -> u32 {
        let Self::Encrypted(encryption) = self else { return 0 };
        let digest = Digester::Blake3.digest_parts([&encryption.key[..], &[u8::from(encryption.convergent)]]);
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&digest.0[..4]);
        u32::from_le_bytes(bytes) | 1
    }
}

/// What two descriptions of one blob must agree on to share a shelf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    chunk_count: u32,
    uncompressed_size: u64,
    tarfs: bool,
    tabled: bool,
}

impl Shape {
    pub(crate) fn of(description: &BlobDescription) -> Self {
        Self {
            chunk_count: description.chunk_count,
            uncompressed_size: description.uncompressed_size,
            tarfs: description.is_tarfs(),
            tabled: description.ci.is_some(),
        }
    }
}

enum Knowledge {
    /// Nothing is kept.
    None,
    /// In files, shared with other processes.
    Recorded {
        trust: Trust,
        map: ChunkMap,
        /// What an older release left under another name.
        older: Option<Bits>,
    },
    /// In memory; `found` if the data file had content when it was opened.
    Memory { live: Bits, found: bool },
}

/// See the module.
pub(crate) struct Shelf {
    /// Of no other shelf of this process.
    pub(crate) number: u64,
    id: BlobId,
    shape: Shape,
    form: Form,
    /// Bytes the data file may have; 0: unknown.
    size: u64,
    file: Option<File>,
    path: PathBuf,
    knowledge: Knowledge,
    paused_until: Mutex<Option<Instant>>,
    names_durable: AtomicBool,
    /// False once the data file is known to have no seal.
    may_be_sealed: Mutex<bool>,
    /// Something may have been published that [`Shelf::make_durable`] has not seen.
    is_dirty: AtomicBool,
    /// What is being read or fetched, by whichever mount.
    pub(crate) flights: Flights<Key, Arc<Served>>,
}

impl Shelf {
    /// Opens the files of a blob, or makes them. Without network, and quick.
    ///
    /// Where the local disk has no room for the files, or another process keeps the blob in another form, the shelf keeps
    /// nothing, with a warning. Files that were not made for this blob are an error.
    pub(crate) fn open(description: &BlobDescription, storage: &CacheStorage, boot: BootId) -> Result<Self> {
        let id = &description.id;
        if description.chunk_count > MAX_CHUNKS || description.uncompressed_size > MAX_OFFSET {
            return Err(Error::invalid(
                format!("blob {id}"),
                format!(
                    "{} chunks and {} bytes; the format has at most {MAX_CHUNKS} and {MAX_OFFSET}",
                    description.chunk_count, description.uncompressed_size
                ),
            ));
        }
        let CacheStorage::Directory { work_dir, indexed_map, .. } = storage else {
            return Ok(Self::nothing(description));
        };
        let opened = match choose_form(description, storage) {
            Form::None => Ok(Self::nothing(description)),
            Form::Tar => Self::open_tar(description, work_dir),
            form => Self::open_files(description, form, work_dir, *indexed_map, boot),
        };
        opened.or_else(|error| match error.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::Unsupported
            | io::ErrorKind::ResourceBusy => {
                tracing::warn!(blob = %id, dir = %work_dir.display(), %error, "served without being cached");
                Ok(Self::nothing(description))
            }
            io::ErrorKind::InvalidInput => {
                Err(Error::invalid(format!("cache of blob {id}"), error.to_string()))
            }
            _ => Err(Error::io(format!("cache of blob {id} in {}", work_dir.display()), error)),
        })
    }

    fn nothing(description: &BlobDescription) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        Self {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            id: description.id.clone(),
            shape: Shape::of(description),
            form: Form::None,
            size: 0,
            file: None,
            path: PathBuf::new(),
            knowledge: Knowledge::None,
            paused_until: Mutex::default(),
            names_durable: AtomicBool::new(false),
            may_be_sealed: Mutex::new(true),
            // What others have left.
            is_dirty: AtomicBool::new(true),
            flights: Flights::new(),
        }
    }

    fn open_tar(description: &BlobDescription, work_dir: &Path) -> io::Result<Self> {
        let path = work_dir.join(description.id.as_str());
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::nothing(description)),
            Err(error) => Err(error),
            Ok(file) => {
                let size = file.metadata()?.len();
                Ok(Self { form: Form::Tar, size, file: Some(file), path, ..Self::nothing(description) })
            }
        }
    }

    fn open_files(
        description: &BlobDescription,
        form: Form,
        work_dir: &Path,
        indexed_map: bool,
        boot: BootId,
    ) -> io::Result<Self> {
        let name = |suffix: &str| work_dir.join(format!("{}{suffix}", description.id));
        let (path, size) = match form {
            Form::Raw => (name(".blob.raw"), description.data_size().unwrap_or(0)),
            _ => (name(".blob.data"), description.uncompressed_size),
        };
        let file =
            File::options().read(true).write(true).create(true).truncate(false).mode(0o644).open(&path)?;
        let knowledge = {
            let _setup = SetupLock::take(&file, &path)?;
            hold_form(&file, form.fingerprint(), &path)?;
            let maps = (name(".blob.data.chunk_map"), name(".chunk_map"));
            let maps = (indexed_map || description.ci.is_some()).then_some((&*maps.0, &*maps.1));
            let subject = Subject { count: description.chunk_count, form: form.fingerprint(), data: None };
            Self::set_up(&file, &path, size, subject, maps, boot)?
        };
        Ok(Self { form, size, file: Some(file), path, knowledge, ..Self::nothing(description) })
    }

    /// Brings the data file to its size and opens what is known of it; the set-up lock is held.
    fn set_up(
        file: &File,
        path: &Path,
        size: u64,
        subject: Subject,
        maps: Option<(&Path, &Path)>,
        boot: BootId,
    ) -> io::Result<Knowledge> {
        let found = file.metadata()?.len();
        if size != 0 && found > size {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "{}: blob data file size doesn't match: {found} bytes, expected {size}",
                    path.display()
                ),
            ));
        }
        let count = subject.count;
        let Some((map, older)) = maps.filter(|_| count != 0 && size != 0) else {
            let count = if count == 0 { MAX_CHUNKS } else { count };
            return Ok(Knowledge::Memory { live: Bits::in_memory(count), found: found > 0 });
        };
        let map = ChunkMap::open(map, count)?;
        let name = own_files::trust_of(path);
        own_files::take_over(path, &name)?;
        let subject = Subject { data: Identity::of(file)?, ..subject };
        let existing = if found == size { Trust::existing(&name, subject, boot)? } else { None };
        let trust = match existing {
            Some(trust) => trust,
            None => {
                // Too short: somebody was interrupted while making it, or it has lost what was known of it. That ends a seal.
                if found != size {
                    file.set_len(size)?;
                }
                let trust = Trust::begin(&name, subject, boot)?;
                let map = map.snapshot();
                if let Some(meta) = seal::read(file, subject, &map) {
                    trust.assume(&map);
                    meta.map_or(Ok(()), |digest| trust.set_meta_digest(digest))?;
                }
                trust
            }
        };
        if trust.durable().is_full() {
            map.stamp()?;
        }
        let older = foreign_claims(older, count);
        Ok(Knowledge::Recorded { trust, map, older })
    }

    pub(crate) fn id(&self) -> &BlobId {
        &self.id
    }

    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    pub(crate) fn form(&self) -> Form {
        self.form
    }

    /// Bits that a map of this blob's chunks needs.
    pub(crate) fn chunk_count(&self) -> u32 {
        if self.shape.chunk_count == 0 { MAX_CHUNKS } else { self.shape.chunk_count }
    }

    /// The data file of a tar that is read in place: whether it holds `len` bytes from `offset`.
    pub(crate) fn tar_holds(&self, offset: u64, len: u32) -> bool {
        self.form == Form::Tar && offset.checked_add(u64::from(len)).is_some_and(|end| end <= self.size)
    }

    /// Checks what a bootstrap says of a chunk against the blob.
    pub(crate) fn check(&self, place: Place) -> Result<()> {
        let count = self.shape.chunk_count;
        let limit = match self.shape.uncompressed_size {
            0 => MAX_OFFSET,
            size => size.next_multiple_of(PAGE_SIZE as u64),
        };
        let fits = place.size != 0 && place.end().is_some_and(|end| end <= limit);
        if fits && (count == 0 || place.index < count || self.shape.tarfs) {
            return Ok(());
        }
        Err(Error::corrupt(
            format!("blob {} chunk {}", self.id, place.index),
            format!(
                "bytes {} + {} are not in a blob of {count} chunks and {limit} bytes",
                place.offset, place.size
            ),
        ))
    }

    /// True if the chunk is in the data file, whole and right. One atomic load.
    #[inline]
    pub(crate) fn trusted(&self, index: u32) -> bool {
        match &self.knowledge {
            Knowledge::None => false,
            Knowledge::Recorded { trust, .. } => trust.live().test(index),
            Knowledge::Memory { live, .. } => live.test(index),
        }
    }

    /// True if nothing of the blob is missing.
    pub(crate) fn is_complete(&self) -> bool {
        match &self.knowledge {
            Knowledge::None => self.form == Form::Tar,
            Knowledge::Recorded { trust, .. } => trust.live().is_full(),
            Knowledge::Memory { .. } => false,
        }
    }

    /// True if the chunk may be in the data file: somebody says so whom we do not believe without looking.
    pub(crate) fn claimed(&self, index: u32) -> bool {
        match &self.knowledge {
            Knowledge::None => false,
            Knowledge::Recorded { map, older, .. } => {
                map.test(index) || older.as_ref().is_some_and(|claims| claims.test(index))
            }
            Knowledge::Memory { found, .. } => *found,
        }
    }

    /// Trusts a chunk whose bytes are in the data file. False if nothing is trusted any more.
    pub(crate) fn publish(&self, index: u32) -> bool {
        match &self.knowledge {
            Knowledge::None => false,
            Knowledge::Recorded { trust, .. } => {
                trust.live().set(index);
                // Looked at after the bit is set: a failure that took the bits back cannot have missed this one.
                if trust.sync_failed() && !trust.durable().test(index) {
                    trust.live().clear(index);
                    return false;
                }
                self.is_dirty.store(true, Ordering::Release);
                true
            }
            Knowledge::Memory { live, .. } => {
                live.set(index);
                true
            }
        }
    }

    /// Forgets a chunk that turned out to be wrong.
    pub(crate) fn distrust(&self, index: u32) {
        match &self.knowledge {
            Knowledge::None => {}
            Knowledge::Recorded { trust, .. } => trust.distrust(index),
            Knowledge::Memory { live, .. } => live.clear(index),
        }
    }

    /// What is shared with other processes, if anything is.
    pub(crate) fn trust(&self) -> Option<&Trust> {
        match &self.knowledge {
            Knowledge::Recorded { trust, .. } => Some(trust),
            _ => None,
        }
    }

    /// Reads bytes of the data file as they lie there.
    pub(crate) fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.as_ref().ok_or(io::ErrorKind::NotFound)?.read_exact_at(buf, offset)
    }

    /// Reads a chunk of a plain or encrypted data file. `digest` is the key if encryption is convergent.
    pub(crate) fn read_chunk(&self, place: Place, digest: Option<Digest>) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; place.size as usize];
        if let Form::Encrypted(encryption) = self.form {
            bytes.resize(bytes.len().next_multiple_of(PAGE_SIZE), 0);
            self.read_at(place.offset, &mut bytes)?;
            page_cipher(encryption, digest)?.decrypt(&mut bytes).map_err(io::Error::other)?;
            bytes.truncate(place.size as usize);
        } else {
            self.read_at(place.offset, &mut bytes)?;
        }
        Ok(bytes)
    }

    /// Writes a chunk to a plain or encrypted data file. False if its place is not one that can be kept.
    pub(crate) fn write_chunk(&self, place: Place, digest: Option<Digest>, bytes: &[u8]) -> io::Result<bool> {
        if bytes.len() != place.size as usize || place.index >= self.chunk_count() {
            return Ok(false);
        }
        match self.form {
            Form::Plain => self.write_at(place.offset, bytes),
            Form::Encrypted(encryption) if place.offset.is_multiple_of(PAGE_SIZE as u64) => {
                let Ok(cipher) = page_cipher(encryption, digest) else { return Ok(false) };
                let mut pages = bytes.to_vec();
                pages.resize(bytes.len().next_multiple_of(PAGE_SIZE), 0);
                cipher.encrypt(&mut pages).map_err(io::Error::other)?;
                self.write_at(place.offset, &pages)
            }
            _ => Ok(false),
        }
    }

    /// Writes stored bytes to a raw data file.
    pub(crate) fn write_stored(&self, offset: u64, bytes: &[u8]) -> io::Result<bool> {
        if self.form == Form::Raw { self.write_at(offset, bytes) } else { Ok(false) }
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<bool> {
        let Some(file) = &self.file else { return Ok(false) };
        // Beyond the size that everybody expects, the file could not be opened again.
        let end = offset.checked_add(bytes.len() as u64);
        if self.size != 0 && end.is_none_or(|end| end > self.size) {
            return Ok(false);
        }
        self.break_seal(file)?;
        file.write_all_at(bytes, offset)?;
        Ok(true)
    }

    /// Before the first write: a power loss must not bring back a seal that tells of the data as they were.
    ///
    /// The lock is held while the removal is synced, so that no other write goes ahead of it. Only writers of this blob
    /// take it, on threads for the disk; no reader waits for them.
    fn break_seal(&self, file: &File) -> io::Result<()> {
        let mut may_be_sealed = lock(&self.may_be_sealed);
        if *may_be_sealed {
            seal::remove(file)?;
            *may_be_sealed = false;
        }
        Ok(())
    }

    /// True if chunks are to be written now: there is a place, and no write has failed lately.
    pub(crate) fn accepts_writes(&self) -> bool {
        if matches!(self.form, Form::None | Form::Tar) || self.trust().is_some_and(Trust::sync_failed) {
            return false;
        }
        let mut paused = lock(&self.paused_until);
        if paused.is_some_and(|until| Instant::now() < until) {
            return false;
        }
        if paused.take().is_some() {
            tracing::info!(blob = %self.id, "caching is tried again");
        }
        true
    }

    /// Stops caching for a while after a write has failed.
    pub(crate) fn pause(&self, error: &io::Error, metrics: &Metrics) {
        metrics.cache_write_errors.increment();
        if lock(&self.paused_until).replace(Instant::now() + PAUSE).is_none() {
            tracing::warn!(
                blob = %self.id, file = %self.path.display(), %error, pause = ?PAUSE,
                "cannot write to the cache: serving without it for a while"
            );
        }
    }

    /// True if [`Shelf::make_durable`] may have something to do for this process.
    pub(crate) fn is_dirty(&self) -> bool {
        self.is_dirty.load(Ordering::Relaxed)
    }

    /// Makes what is live durable, then says so: to ourselves in the trust file, to others in the map.
    pub(crate) fn make_durable(&self, disk: &dyn Disk, metrics: &Metrics) -> Result<()> {
        // Before the snapshot: what is published behind it is for the next time.
        self.is_dirty.swap(false, Ordering::AcqRel);
        let done = self.sync(disk, metrics);
        if done.is_err() {
            self.is_dirty.store(true, Ordering::Release);
        }
        done
    }

    fn sync(&self, disk: &dyn Disk, metrics: &Metrics) -> Result<()> {
        let (Knowledge::Recorded { trust, map, .. }, Some(file)) = (&self.knowledge, &self.file) else {
            return Ok(());
        };
        if trust.sync_failed() {
            return Ok(());
        }
        // The order is the promise: what is in the snapshot had been written before its bit was set, so it is in what
        // the sync makes durable, and only then is it called durable.
        let live = trust.live().snapshot();
        let failed = |error| {
            metrics.cache_sync_errors.increment();
            Error::io(format!("sync of {}", self.path.display()), error)
        };
        if !trust.durable().covers(&live) {
            disk.sync_data(file, &self.path).map_err(|error| {
                trust.fail_sync();
                failed(error)
            })?;
            if trust.sync_failed() {
                return Ok(());
            }
            trust.durable().merge(&live);
        }
        if !map.covers(&live) {
            if !self.names_durable.load(Ordering::Relaxed) {
                map.sync(disk).map_err(failed)?;
                let directory = self.path.parent().unwrap_or(Path::new("."));
                disk.sync_directory(&own_files::directory(directory)).map_err(failed)?;
                disk.sync_directory(directory).map_err(failed)?;
                self.names_durable.store(true, Ordering::Relaxed);
            }
            map.publish(&live);
        }
        Ok(())
    }

    /// For the end of the last user: puts what is known of the data file into its seal and removes the trust file. Nothing
    /// happens while somebody else uses the blob, or where the map does not say what we know. Chunks that are published
    /// later are checked by the next daemon.
    pub(crate) fn seal(&self) -> io::Result<()> {
        let (Knowledge::Recorded { trust, map, .. }, Some(file)) = (&self.knowledge, &self.file) else {
            return Ok(());
        };
        let form = self.form.fingerprint();
        let _setup = SetupLock::take(file, &self.path)?;
        let Some(_alone) = OnlyUser::take(file, form)? else { return Ok(()) };
        let durable = trust.durable().snapshot();
        if trust.sync_failed() || durable != map.snapshot() || durable != trust.live().snapshot() {
            return Ok(());
        }
        let subject = Subject { count: self.shape.chunk_count, form, data: Identity::of(file)? };
        // Nothing known needs no seal, which can take a block.
        if durable.iter().any(|byte| *byte != 0) {
            seal::write(file, subject, &durable, trust.meta_digest())?;
            *lock(&self.may_be_sealed) = true;
        }
        own_files::remove(&own_files::trust_of(&self.path), trust.file())
    }
}

/// Decides how a blob is kept; says so where that is not what the options ask.
fn choose_form(description: &BlobDescription, storage: &CacheStorage) -> Form {
    let CacheStorage::Directory { compressed, encryption, .. } = storage else { return Form::None };
    let id = &description.id;
    if description.is_tarfs() {
        return Form::Tar;
    }
    if let Some(encryption) = encryption {
        if description.ci.is_none() && !description.features.contains(BlobFeatures::ALIGNED) {
            tracing::warn!(blob = %id, "chunks are not aligned to pages and cannot be encrypted: not cached");
            return Form::None;
        }
        return Form::Encrypted(*encryption);
    }
    if *compressed {
        if !description.features.intersects(BlobFeatures::BATCH | BlobFeatures::ZRAN) {
            return Form::Raw;
        }
        tracing::warn!(blob = %id, "batch and ZRan blobs cannot be cached compressed: cached plain");
    }
    Form::Plain
}

/// The cipher of one chunk.
fn page_cipher(encryption: Encryption, digest: Option<Digest>) -> io::Result<PageCipher> {
    if !encryption.convergent {
        return Ok(PageCipher::new(&encryption.key));
    }
    // XTS needs two different halves.
    match digest {
        Some(Digest(key)) if key[..16] != key[16..] => Ok(PageCipher::new(&key)),
        _ => Err(io::Error::other("no digest that could be a key")),
    }
}

/// Keeps other openers out while files are looked at, made and renamed.
struct SetupLock<'a>(&'a File);

impl<'a> SetupLock<'a> {
    fn take(file: &'a File, path: &Path) -> io::Result<Self> {
        let end = Instant::now() + SETUP_PATIENCE;
        while !sys::try_lock(file, Lock::Exclusive, SETUP_LOCK, 1)? {
            if Instant::now() >= end {
                return Err(io::Error::new(
                    io::ErrorKind::ResourceBusy,
                    format!("{}: another process has been opening it for {SETUP_PATIENCE:?}", path.display()),
                ));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(Self(file))
    }
}

impl Drop for SetupLock<'_> {
    fn drop(&mut self) {
        if let Err(error) = sys::unlock(self.0, SETUP_LOCK, 1) {
            tracing::warn!(%error, "cannot release the set-up lock of a cache file");
        }
    }
}

/// Nobody else has the blob's files open in [`hold_form`], for as long as it lives.
struct OnlyUser<'a> {
    file: &'a File,
    form: u32,
}

impl<'a> OnlyUser<'a> {
    /// `None` if somebody else has.
    fn take(file: &'a File, form: u32) -> io::Result<Option<Self>> {
        let is_alone = sys::try_lock(file, Lock::Exclusive, FORM_LOCK + u64::from(form), 1)?;
        Ok(is_alone.then_some(Self { file, form }))
    }
}

impl Drop for OnlyUser<'_> {
    fn drop(&mut self) {
        // From exclusive to shared never fails for others' locks.
        if let Err(error) = sys::try_lock(self.file, Lock::Shared, FORM_LOCK + u64::from(self.form), 1) {
            tracing::warn!(%error, "cannot share a cache file again");
        }
    }
}

/// Says, for as long as `file` is open, in which form this process writes it; an error if another process writes it in
/// another one: each would read the other's bytes as its own.
fn hold_form(file: &File, form: u32, path: &Path) -> io::Result<()> {
    let (own, end) = (FORM_LOCK + u64::from(form), FORM_LOCK + (1 << 32));
    for (from, to) in [(FORM_LOCK, own), (own + 1, end)] {
        if from < to {
            if !sys::try_lock(file, Lock::Exclusive, from, to - from)? {
                return Err(io::Error::new(
                    io::ErrorKind::ResourceBusy,
                    format!("{}: another process caches it with other encryption settings", path.display()),
                ));
            }
            sys::unlock(file, from, to - from)?;
        }
    }
    sys::try_lock(file, Lock::Shared, own, 1).map(drop)
}
