//! A backend that hangs on demand: a FUSE file system showing one directory of blobs, whose reads the test can hold
//! back and let go, and whose bytes it counts.
//!
//! It runs on a thread of the test. Reads past it are exact (no page cache, no readahead of the kernel's), so the
//! count is what the daemon asked for. A read that is held back occupies no thread here.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fuse_backend_rs::abi::fuse_abi::{FsOptions, InHeader, Opcode, OpenOptions, stat64};
use fuse_backend_rs::api::filesystem::{Context, DirEntry, Entry, FileSystem, ZeroCopyWriter};
use fuse_backend_rs::api::server::Server;
use fuse_backend_rs::transport::{FuseBuf, FuseDevWriter, FuseSession, Reader};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::mounts;

const ROOT: u64 = 1;
/// The first blob's inode; the others follow.
const FIRST: u64 = 2;
/// A stall ends by itself after this time: a daemon that waits for it without a deadline could not even be killed.
const LONGEST_STALL: Duration = Duration::from_secs(60);
const FOREVER: Duration = Duration::from_secs(1 << 20);

/// The mounted file system. Dropping it lets everything go and unmounts.
pub struct StallFs {
    mountpoint: tempfile::TempDir,
    served: Arc<Served>,
    thread: Option<JoinHandle<()>>,
    /// Closing this end tells the thread to stop.
    stop: Option<std::os::fd::OwnedFd>,
}

struct Served {
    server: Server<Arc<Blobs>>,
    blobs: Arc<Blobs>,
    device: File,
    reply_bytes: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Since when reads are held back.
    stalled: Option<Instant>,
    /// Requests that wait, as the kernel sent them.
    held: Vec<Vec<u8>>,
}

/// Holds reads back until it is dropped.
pub struct Stall<'a>(&'a StallFs);

impl Stall<'_> {
    /// Reads that wait right now.
    pub fn held(&self) -> usize {
        lock(&self.0.served.state).held.len()
    }
}

impl Drop for Stall<'_> {
    fn drop(&mut self) {
        self.0.served.release();
    }
}

impl StallFs {
    /// Shows the files of `dir`.
    pub fn serve(dir: &Path) -> Self {
        let mountpoint = tempfile::Builder::new().prefix("nydus-stall.").tempdir().unwrap();
        let mut session = FuseSession::new(mountpoint.path(), "stall", "", true).unwrap();
        session.mount().unwrap();
        let device = session.get_fuse_file().unwrap().try_clone().unwrap();
        let blobs = Arc::new(Blobs::of(dir));
        let served = Arc::new(Served {
            server: Server::new(Arc::clone(&blobs)),
            blobs,
            device,
            reply_bytes: session.bufsize(),
            state: Mutex::default(),
        });
        let (stopped, stop) = nix::unistd::pipe().unwrap();
        let serving = Arc::clone(&served);
        let thread = std::thread::spawn(move || {
            serving.serve(&stopped);
            drop(session);
        });
        Self { mountpoint, served, thread: Some(thread), stop: Some(stop) }
    }

    /// The directory to give to the daemon.
    pub fn path(&self) -> &Path {
        self.mountpoint.path()
    }

    /// Holds back every read from now on, until the answer is dropped.
    pub fn stall(&self) -> Stall<'_> {
        lock(&self.served.state).stalled = Some(Instant::now());
        Stall(self)
    }

    /// Bytes that were read through it so far.
    pub fn bytes_read(&self) -> u64 {
        self.served.blobs.bytes_read.load(Ordering::Relaxed)
    }
}

impl Drop for StallFs {
    fn drop(&mut self) {
        self.served.release();
        mounts::detach(self.mountpoint.path());
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Served {
    fn serve(&self, stopped: &std::os::fd::OwnedFd) {
        let mut buffer = vec![0; self.reply_bytes];
        loop {
            let mut events = [
                PollFd::new(self.device.as_fd(), PollFlags::POLLIN),
                PollFd::new(stopped.as_fd(), PollFlags::empty()),
            ];
            match poll(&mut events, PollTimeout::from(1000_u16)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => panic!("poll: {error}"),
            }
            let stalled = lock(&self.state).stalled;
            if stalled.is_some_and(|since| since.elapsed() > LONGEST_STALL) {
                self.release();
            }
            if events[1].revents().is_some_and(|events| !events.is_empty()) {
                return;
            }
            match (&self.device).read(&mut buffer) {
                Ok(len) => self.take(&mut buffer[..len]),
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EAGAIN | Errno::EINTR | Errno::ENOENT) => {}
                    Some(Errno::ENODEV) => return,
                    _ => panic!("reading /dev/fuse: {error}"),
                },
            }
        }
    }

    fn take(&self, request: &mut [u8]) {
        let mut reader = Reader::<()>::from_fuse_buffer(FuseBuf::new(request)).unwrap();
        let header: InHeader = reader.read_obj().unwrap();
        if header.opcode == Opcode::Read as u32 {
            let mut state = lock(&self.state);
            if state.stalled.is_some() {
                state.held.push(request.to_vec());
                return;
            }
        }
        self.answer(request);
    }

    fn answer(&self, request: &mut [u8]) {
        let mut reply = vec![0; self.reply_bytes];
        let reader = Reader::<()>::from_fuse_buffer(FuseBuf::new(request)).unwrap();
        let writer = FuseDevWriter::<()>::new(self.device.as_raw_fd(), &mut reply).unwrap();
        // A reply to a request that was given up meanwhile fails, and that is fine.
        let _ = self.server.handle_message(reader, writer.into(), None, None);
    }

    fn release(&self) {
        let held = {
            let mut state = lock(&self.state);
            state.stalled = None;
            std::mem::take(&mut state.held)
        };
        for mut request in held {
            self.answer(&mut request);
        }
    }
}

/// The flat directory that is shown.
struct Blobs {
    files: Vec<File>,
    inodes: BTreeMap<Vec<u8>, u64>,
    bytes_read: AtomicU64,
}

impl Blobs {
    fn of(dir: &Path) -> Self {
        let mut blobs = Self { files: Vec::new(), inodes: BTreeMap::new(), bytes_read: AtomicU64::new(0) };
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let inode = FIRST + blobs.files.len() as u64;
            blobs.inodes.insert(entry.file_name().into_encoded_bytes(), inode);
            blobs.files.push(File::open(entry.path()).unwrap());
        }
        blobs
    }

    fn file(&self, inode: u64) -> io::Result<&File> {
        let index = inode.checked_sub(FIRST).and_then(|index| usize::try_from(index).ok());
        let file = index.and_then(|index| self.files.get(index));
        file.ok_or_else(|| Errno::EISDIR.into())
    }

    fn attributes(&self, inode: u64) -> io::Result<stat64> {
        let (mode, size) = match inode {
            ROOT => (nix::libc::S_IFDIR | 0o755, 0),
            _ => (nix::libc::S_IFREG | 0o444, self.file(inode)?.metadata()?.size()),
        };
        // SAFETY: `stat64` is a plain record of integers, for which all zeros are a value.
        let mut attributes: stat64 = unsafe { std::mem::zeroed() };
        attributes.st_ino = inode;
        attributes.st_mode = mode;
        attributes.st_nlink = 1;
        attributes.st_size = size.cast_signed();
        attributes.st_blocks = size.div_ceil(512).cast_signed();
        attributes.st_blksize = 4096;
        Ok(attributes)
    }
}

impl FileSystem for Blobs {
    type Inode = u64;
    type Handle = u64;

    fn init(&self, _: FsOptions) -> io::Result<FsOptions> {
        Ok(FsOptions::ASYNC_READ | FsOptions::MAX_PAGES | FsOptions::BIG_WRITES)
    }

    fn lookup(&self, _: &Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        let inode = (parent == ROOT).then(|| self.inodes.get(name.to_bytes())).flatten();
        let inode = *inode.ok_or(Errno::ENOENT)?;
        Ok(Entry {
            inode,
            generation: 0,
            attr: self.attributes(inode)?,
            attr_flags: 0,
            attr_timeout: FOREVER,
            entry_timeout: FOREVER,
        })
    }

    fn getattr(&self, _: &Context, inode: u64, _: Option<u64>) -> io::Result<(stat64, Duration)> {
        Ok((self.attributes(inode)?, FOREVER))
    }

    fn open(
        &self,
        _: &Context,
        inode: u64,
        _: u32,
        _: u32,
    ) -> io::Result<(Option<u64>, OpenOptions, Option<u32>)> {
        self.file(inode)?;
        Ok((None, OpenOptions::DIRECT_IO, None))
    }

    fn read(
        &self,
        _: &Context,
        inode: u64,
        _: u64,
        writer: &mut dyn ZeroCopyWriter,
        size: u32,
        offset: u64,
        _: Option<u64>,
        _: u32,
    ) -> io::Result<usize> {
        // A duplicate, since the writer wants the file for itself; reads are at given offsets, so nothing is shared.
        let mut file = self.file(inode)?.try_clone()?;
        let count = writer.write_from(&mut file, size as usize, offset)?;
        self.bytes_read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }

    fn readdir(
        &self,
        _: &Context,
        _: u64,
        _: u64,
        _: u32,
        offset: u64,
        add: &mut dyn FnMut(DirEntry) -> io::Result<usize>,
    ) -> io::Result<()> {
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (index, (name, &ino)) in self.inodes.iter().enumerate().skip(skip) {
            let type_ = u32::from(nix::libc::DT_REG);
            if add(DirEntry { ino, offset: index as u64 + 1, type_, name })? == 0 {
                return Ok(());
            }
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt as _;

    #[test]
    fn reads_pass_are_counted_are_held_and_go_on() {
        crate::require_mounts!();
        let dir = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..300_000_u32).map(|number| number.to_le_bytes()[0]).collect();
        std::fs::write(dir.path().join("blob"), &content).unwrap();
        let stall_fs = StallFs::serve(dir.path());
        let file = File::open(stall_fs.path().join("blob")).unwrap();
        let mut bytes = vec![0; 200_000];
        file.read_exact_at(&mut bytes, 1000).unwrap();
        assert_eq!(bytes, content[1000..201_000]);
        assert_eq!(stall_fs.bytes_read(), 200_000);
        assert_eq!(std::fs::read_dir(stall_fs.path()).unwrap().count(), 1);

        let stall = stall_fs.stall();
        let reader = std::thread::spawn(move || {
            let mut bytes = vec![0; 10];
            file.read_exact_at(&mut bytes, 5).map(|()| bytes)
        });
        while stall.held() == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(!reader.is_finished());
        drop(stall);
        assert_eq!(reader.join().unwrap().unwrap(), content[5..15]);
    }
}
