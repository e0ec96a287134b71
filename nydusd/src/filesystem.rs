//! One mounted image: a read-only POSIX tree, without a word of FUSE.
//!
//! Joins the two halves of an image: [`rafs`] says where a file is and which chunks hold it, [`blobcache`] has or
//! gets the chunks. Transports call this and translate; errno is theirs to choose.
//!
//! Invariant: [`Filesystem::read_ready`] and everything about metadata never wait for data. Only
//! [`Filesystem::read`] may, and it ends by its deadline.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blobcache::{Blob, ErrorKind, Want};
use futures_util::future::try_join_all;
use nydus_config::IdMapping;
use rafs::{Attributes, Bootstrap, FileType, Ino};
use storage::blob::Extent;
use storage::trace;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use crate::owners::Owners;
use crate::telemetry::metrics::{Files, Operations, Reads, Recording, WaitEnding};
use crate::telemetry::traces::TraceLink;

/// Why a request could not be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The inode is not a directory.
    #[error("inode {0} is not a directory")]
    NotDirectory(Ino),
    /// A name, or the target of a symbolic link, is longer than Linux takes.
    #[error("{len} bytes, more than the {limit} of a {what}")]
    NameTooLong {
        /// Of what.
        what: &'static str,
        /// Its bytes.
        len: usize,
        /// The most it may have.
        limit: usize,
    },
    /// The offset is beyond what a file can have.
    #[error("offset {0} is out of range")]
    OutOfRange(u64),
    /// The tree could not be read.
    #[error(transparent)]
    Metadata(#[from] rafs::Error),
    /// The data could not be read.
    #[error(transparent)]
    Data(#[from] blobcache::Error),
    /// Bootstrap and blobs contradict each other.
    #[error("inode {ino}, offset {offset}: {detail}")]
    Inconsistent {
        /// The inode.
        ino: Ino,
        /// The file offset, in bytes.
        offset: u64,
        /// What does not fit.
        detail: String,
    },
}

impl Error {
    /// What kind of failure it is, in traces.
    fn name(&self) -> &'static str {
        match self {
            Self::NotDirectory(_) | Self::NameTooLong { .. } | Self::OutOfRange(_) => "invalid",
            Self::Metadata(_) => "metadata",
            Self::Data(error) => error.kind().name(),
            Self::Inconsistent { .. } => "corrupt",
        }
    }
}

/// The result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// How long whoever is told of entries and attributes may keep them: the tree never changes while it is mounted. As good as
/// for ever, 136 years.
pub const KEPT: Duration = Duration::from_secs(u32::MAX as u64);

/// One entry of a directory listing.
#[derive(Debug)]
pub struct Entry<'a> {
    /// The entry's inode.
    pub ino: Ino,
    /// Its name, any bytes.
    pub name: &'a [u8],
    /// What it is.
    pub file_type: FileType,
    /// Where to go on after this entry.
    pub next: u64,
}

/// The longest name, in bytes.
const NAME_MAX: usize = 255;
/// The longest target of a symbolic link: PATH_MAX without its NUL.
const TARGET_MAX: usize = 4095;

/// How extended attributes are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrSupport {
    /// Not at all, as the configuration says.
    Hidden,
    /// They would be, but no inode has one.
    NoneStored,
    /// As the image has them.
    Served,
}

/// A mounted image.
pub struct Filesystem {
    bootstrap: Arc<Bootstrap>,
    blobs: Vec<Arc<Blob>>,
    read_deadline: Duration,
    xattrs: XattrSupport,
    owners: Option<Owners>,
    mounted: TraceLink,
    reads: Arc<Reads>,
    operations: Arc<Operations>,
}

impl Filesystem {
    /// Puts an image together. `blobs` lie in the order of the bootstrap's blob table; `read_deadline` bounds
    /// every [`Self::read`]; without `xattrs` extended attributes are hidden. Traces of reads refer to the span that
    /// is entered now.
    pub fn new(
        bootstrap: Arc<Bootstrap>,
        blobs: Vec<Arc<Blob>>,
        read_deadline: Duration,
        xattrs: bool,
    ) -> Self {
        let xattrs = match (xattrs, bootstrap.has_xattrs()) {
            (false, _) => XattrSupport::Hidden,
            (true, false) => XattrSupport::NoneStored,
            (true, true) => XattrSupport::Served,
        };
        let (mounted, reads, operations) = (TraceLink::current(), Arc::default(), Arc::default());
        Self { bootstrap, blobs, read_deadline, xattrs, owners: None, mounted, reads, operations }
    }

    /// The same with its owners mapped.
    pub fn with_id_mapping(mut self, mapping: Option<IdMapping>) -> Self {
        self.owners = mapping.map(Owners::new);
        self
    }

    /// Records what is done with which file, too.
    pub fn recording(self, recording: Recording) -> Self {
        Self { operations: Arc::new(Operations::new(Files::new(recording))), ..self }
    }

    /// How requests are counted, by transports.
    pub fn operations(&self) -> Arc<Operations> {
        self.operations.clone()
    }

    /// The bootstrap.
    pub fn bootstrap(&self) -> &Bootstrap {
        &self.bootstrap
    }

    /// How READs that wait are counted, by [`Self::read`].
    pub fn reads(&self) -> Arc<Reads> {
        self.reads.clone()
    }

    /// The root directory.
    pub fn root(&self) -> Ino {
        self.bootstrap.root()
    }

    /// Distinct entries of the image.
    pub fn inode_count(&self) -> u64 {
        self.bootstrap.inode_count()
    }

    /// Bytes of all blobs, uncompressed.
    pub fn data_bytes(&self) -> u64 {
        self.bootstrap.blobs().iter().fold(0, |sum, blob| sum.saturating_add(blob.uncompressed_size))
    }

    /// How extended attributes are served.
    pub fn xattr_support(&self) -> XattrSupport {
        self.xattrs
    }

    /// True if a number that did not come from here is that of an inode.
    pub fn is_entry(&self, ino: Ino) -> bool {
        self.bootstrap.is_entry(ino)
    }

    /// False if nothing says who owns the files: the image does not, and ids are not mapped. With a mapping, what has
    /// no owner belongs to its 0.
    pub fn owners_recorded(&self) -> bool {
        self.bootstrap.owners_recorded() || self.owners.is_some()
    }

    /// What `stat` tells.
    pub fn attributes(&self, ino: Ino) -> Result<Attributes> {
        let mut attributes = self.bootstrap.attributes(ino)?;
        if let Some(owners) = &self.owners {
            attributes.uid = owners.uid(attributes.uid);
            attributes.gid = owners.gid(attributes.gid);
        }
        Ok(attributes)
    }

    /// The entry `name` of a directory.
    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Option<Ino>> {
        check_len("name", name, NAME_MAX)?;
        match name {
            b"." => Ok(Some(dir)),
            b".." => Ok(Some(self.bootstrap.parent(dir)?)),
            name => Ok(self.bootstrap.lookup(dir, name)?),
        }
    }

    /// Lists a directory from `position` (0: the start; else an [`Entry::next`]), `.` and `..` first, until
    /// `visit` breaks.
    pub fn read_dir(
        &self,
        dir: Ino,
        position: u64,
        visit: &mut dyn FnMut(Entry<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        /// `.` and `..` take the first two positions, the bootstrap's own follow.
        const DOTS: u64 = 2;
        if self.attributes(dir)?.file_type != FileType::Directory {
            return Err(Error::NotDirectory(dir));
        }
        for (at, name) in [(0, &b"."[..]), (1, &b".."[..])] {
            if position > at {
                continue;
            }
            let ino = if at == 0 { dir } else { self.bootstrap.parent(dir)? };
            if visit(Entry { ino, name, file_type: FileType::Directory, next: at + 1 }).is_break() {
                return Ok(());
            }
        }
        for entry in self.bootstrap.read_dir(dir, position.saturating_sub(DOTS))? {
            let entry = entry?;
            let next = entry.next.saturating_add(DOTS);
            let entry = Entry { ino: entry.ino, name: entry.name, file_type: entry.file_type, next };
            if visit(entry).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// The target of a symbolic link.
    pub fn read_link(&self, ino: Ino) -> Result<Vec<u8>> {
        let target = self.bootstrap.read_link(ino)?;
        check_len("symlink target", &target, TARGET_MAX)?;
        Ok(target.into_owned())
    }

    /// The value of an extended attribute, by its full name.
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Option<Vec<u8>>> {
        if self.xattrs != XattrSupport::Served {
            return Ok(None);
        }
        let mut value = self.bootstrap.xattr(ino, name)?.map(<[u8]>::to_vec);
        if let (Some(owners), Some(value)) = (&self.owners, &mut value) {
            owners.map_xattr(name, value);
        }
        Ok(value)
    }

    /// The full names of all extended attributes, each followed by a NUL, as `listxattr` gives them.
    pub fn xattr_names(&self, ino: Ino) -> Result<Vec<u8>> {
        let mut names = Vec::new();
        if self.xattrs == XattrSupport::Served {
            for pair in self.bootstrap.xattrs(ino)? {
                names.extend_from_slice(&pair?.0);
                names.push(0);
            }
        }
        Ok(names)
    }

    /// Reads at `offset` into `out` if every byte is in the cache as it lies: the bytes read, less than
    /// `out.len()` only at the end of the file. `None` if some chunk is not, and [`Self::read`] must wait for it.
    ///
    /// Takes no lock and allocates nothing; without a cache directory, a lock for each look-up in memory.
    pub fn read_ready(&self, ino: Ino, offset: u64, out: &mut [u8]) -> Result<Option<usize>> {
        let mut filled = 0;
        // Chunks that lie behind each other in one blob are one read of the cache file.
        let mut run: Option<Run> = None;
        for extent in self.bootstrap.extents(ino, offset, clamp_len(out.len()))? {
            let extent = extent?;
            let (blob_index, len) = match extent {
                Extent::Hole { len } => {
                    if run.take().is_some_and(|run| !self.pread(&run, out)) {
                        return Ok(None);
                    }
                    let end = filled + len as usize;
                    out.get_mut(filled..end).ok_or(Error::OutOfRange(offset))?.fill(0);
                    filled = end;
                    continue;
                }
                Extent::Chunk { blob_index, len, .. } => (blob_index, len as usize),
            };
            let blob = self.blob(ino, offset, blob_index)?;
            let Some(at) = blob.ready(&extent) else {
                let piece = out.get_mut(filled..filled + len).ok_or(Error::OutOfRange(offset))?;
                if !blob.read_held(&extent, piece) || run.take().is_some_and(|run| !self.pread(&run, out)) {
                    return Ok(None);
                }
                filled += len;
                continue;
            };
            match &mut run {
                Some(run) if run.blob_index == blob_index && run.at + run.len as u64 == at => run.len += len,
                _ => {
                    if run.take().is_some_and(|run| !self.pread(&run, out)) {
                        return Ok(None);
                    }
                    run = Some(Run { blob_index, at, start: filled, len });
                }
            }
            filled += len;
        }
        Ok(run.is_none_or(|run| self.pread(&run, out)).then_some(filled))
    }

    /// False if the local copy cannot be read: [`Blob::read`] then gets the bytes from the backend.
    fn pread(&self, run: &Run, out: &mut [u8]) -> bool {
        let blob = &self.blobs[run.blob_index as usize];
        out.get_mut(run.start..run.start + run.len).is_some_and(|out| blob.pread(run.at, out).is_ok())
    }

    /// Reads up to `len` bytes at `offset`, waiting for what is missing, at most as long as the mount's read
    /// deadline. Shorter than `len` only at the end of the file. One trace, linked to that of the mount.
    pub async fn read(&self, ino: Ino, offset: u64, len: u32) -> Result<Vec<u8>> {
        let span = tracing::info_span!(
            target: trace::TARGET, parent: None, "read",
            nydus.inode = trace::number(ino.0), nydus.offset = trace::number(offset), nydus.len = trace::number(len), nydus.waited_us = Empty,
            nydus.interrupted = Empty, error.type = Empty, otel.status_description = Empty,
        );
        self.mounted.attach(&span);
        let wait = self.reads.wait();
        let mut traced = Wait { span: &span, began: Instant::now(), is_over: false };
        let answer = self.fetch(ino, offset, len).instrument(span.clone()).await;
        traced.is_over = true;
        wait.end(match &answer {
            Ok(_) => WaitEnding::Data,
            Err(Error::Data(cause)) if cause.kind() == ErrorKind::TimedOut => WaitEnding::TimedOut,
            Err(_) => WaitEnding::Failed,
        });
        if let Err(error) = &answer {
            trace::failed(&span, error.name(), error);
        }
        answer
    }

    async fn fetch(&self, ino: Ino, offset: u64, len: u32) -> Result<Vec<u8>> {
        let deadline = Instant::now() + self.read_deadline;
        let size = self.attributes(ino)?.size;
        let len = u64::from(len).min(size.saturating_sub(offset)) as usize;
        let mut out = vec![0; len];
        let mut wants: BTreeMap<u32, Vec<Want<'_>>> = BTreeMap::new();
        let mut rest = &mut out[..];
        for extent in self.bootstrap.extents(ino, offset, clamp_len(len))? {
            let extent = extent?;
            let (Extent::Hole { len } | Extent::Chunk { len, .. }) = extent;
            let (piece, after) = rest.split_at_mut_checked(len as usize).ok_or(Error::OutOfRange(offset))?;
            rest = after;
            if let Extent::Chunk { blob_index, .. } = extent {
                wants.entry(blob_index).or_default().push(Want { extent, out: piece });
            }
        }
        if !rest.is_empty() {
            let detail = format!("{} bytes of {len} are described by no chunk", rest.len());
            return Err(Error::Inconsistent { ino, offset, detail });
        }
        let mut reads = Vec::with_capacity(wants.len());
        for (blob_index, mut wants) in wants {
            let blob = self.blob(ino, offset, blob_index)?;
            reads.push(async move { blob.read(&mut wants, deadline).await });
        }
        try_join_all(reads).await?;
        Ok(out)
    }

    fn blob(&self, ino: Ino, offset: u64, index: u32) -> Result<&Blob> {
        self.blobs.get(index as usize).map(AsRef::as_ref).ok_or_else(|| Error::Inconsistent {
            ino,
            offset,
            detail: format!("blob {index} of {}", self.blobs.len()),
        })
    }
}

/// Tells in a trace how long its reader waited. What was fetched is still written to the cache when he has gone, so the
/// trace alone does not say.
struct Wait<'a> {
    span: &'a Span,
    began: Instant,
    is_over: bool,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if self.span.is_disabled() {
            return;
        }
        self.span.record("nydus.waited_us", trace::number(self.began.elapsed().as_micros()));
        if !self.is_over {
            self.span.record("nydus.interrupted", true);
        }
        // A span ends when it was last left, and it does not end before the wait it tells of.
        self.span.in_scope(|| ());
    }
}

/// Bytes that lie behind each other in a cache file and in the answer.
struct Run {
    blob_index: u32,
    at: u64,
    start: usize,
    len: usize,
}

fn check_len(what: &'static str, bytes: &[u8], limit: usize) -> Result<()> {
    match bytes.len() {
        len if len > limit => Err(Error::NameTooLong { what, len, limit }),
        _ => Ok(()),
    }
}

fn clamp_len(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
