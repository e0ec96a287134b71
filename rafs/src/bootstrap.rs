//! Opening a bootstrap of either version, and asking it things.

use std::borrow::Cow;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use storage::blob::{BlobDescription, ChunkDescription, Compressor, DigestSource};
use storage::digest::{Digest, Digester};

use crate::directory::Entries;
use crate::error::{Error, Result};
use crate::extent::Extents;
use crate::flags::ImageFlags;
use crate::image::Image;
use crate::inode::{Attributes, Ino};
use crate::number_set::NumberSet;
use crate::xattr::Xattrs;
use crate::{directory, extent, inlined, v5, v6, xattr};

/// A version of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// RAFS v5.
    V5,
    /// RAFS v6, compatible with EROFS.
    V6,
}

/// How to open a bootstrap.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// SHA-256 of the bootstrap. Covers the bytes of the bootstrap itself: of one inside a blob, the decoded
    /// bytes, not the blob.
    pub expected_digest: Option<Digest>,
    /// v5: checks the Merkle digest of an inode, and of the directories above it, when the inode is first
    /// touched. v6 has no such digests.
    pub verify_inodes: bool,
    /// Where the bootstrap inside a blob is unpacked to, as `<name of the blob>.image.boot`, and mapped from.
    /// `None`: it is kept in memory.
    pub extract_dir: Option<PathBuf>,
}

/// The tree of an image.
///
/// Every method can be called from any thread; none takes a lock. Numbers come from [`Self::root`],
/// [`Self::lookup`], [`Self::read_dir`] and [`Self::parent`]; whatever other number is given, the answer is an
/// error or some inode, nothing worse.
pub struct Bootstrap {
    tree: Tree,
    /// The numbers of all inodes, once somebody has asked.
    reachable: OnceLock<NumberSet>,
}

pub(crate) enum Tree {
    V5(v5::Tree),
    V6(v6::Tree),
}

/// The same expression for the tree of either version.
macro_rules! either {
    ($bootstrap:expr, $tree:ident => $answer:expr) => {
        match &$bootstrap.tree {
            Tree::V5($tree) => $answer,
            Tree::V6($tree) => $answer,
        }
    };
}

impl Bootstrap {
    /// Opens the bootstrap at `path`: a bootstrap file, which is mapped, or a data blob that holds one.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self> {
        let io = |source| Error::Io { path: path.into(), source };
        let file = File::open(path).map_err(io)?;
        if !file.metadata().map_err(io)?.is_file() {
            return Err(Error::NotBootstrap { path: path.into(), detail: "not a regular file".into() });
        }
        match Self::from_image(Image::map(path, &file)?, options) {
            // The start of a blob is data, and may look like anything; its end tells what is inside.
            Err(error @ Error::NotBootstrap { .. }) => {
                match inlined::extract(path, &file, options.extract_dir.as_deref())? {
                    Some(image) => Self::from_image(image, options),
                    None => Err(error),
                }
            }
            opened => opened,
        }
    }

    /// Opens a bootstrap that is in memory; `name` stands for its path.
    pub fn from_bytes(bytes: Vec<u8>, name: &str, options: &OpenOptions) -> Result<Self> {
        Self::from_image(Image::owned(Path::new(name), bytes), options)
    }

    fn from_image(image: Image, options: &OpenOptions) -> Result<Self> {
        let version = Self::detect(&image)?;
        if let Some(expected) = options.expected_digest {
            let found = Digester::Sha256.digest(image.bytes());
            if found != expected {
                let what = "the bootstrap".into();
                return Err(Error::DigestMismatch { path: image.path().clone(), what, expected, found });
            }
        }
        Ok(Self {
            tree: match version {
                Version::V5 => Tree::V5(v5::Tree::open(image, options.verify_inodes)?),
                Version::V6 => Tree::V6(v6::Tree::open(image)?),
            },
            reachable: OnceLock::new(),
        })
    }

    /// Which version the bytes claim to be.
    fn detect(image: &Image) -> Result<Version> {
        let detail = if v5::Tree::detect(image) {
            return Ok(Version::V5);
        } else if v6::Tree::detect(image) {
            return Ok(Version::V6);
        } else if v6::Tree::detect_erofs(image) {
            "an EROFS image without the RAFS feature"
        } else {
            "no RAFS v5 magic at its start, no EROFS magic at offset 1024"
        };
        Err(Error::NotBootstrap { path: image.path().clone(), detail: detail.into() })
    }

    /// The version of the format.
    pub fn version(&self) -> Version {
        match &self.tree {
            Tree::V5(_) => Version::V5,
            Tree::V6(_) => Version::V6,
        }
    }

    pub(crate) fn tree(&self) -> &Tree {
        &self.tree
    }

    pub(crate) fn reachable(&self) -> &OnceLock<NumberSet> {
        &self.reachable
    }

    pub(crate) fn image(&self) -> &Image {
        either!(self, tree => tree.image())
    }

    /// The bytes of the bootstrap: those it was opened from, if they were in memory.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        match self.tree {
            Tree::V5(tree) => tree.into_image(),
            Tree::V6(tree) => tree.into_image(),
        }
        .into_bytes()
    }

    fn flags(&self) -> ImageFlags {
        either!(self, tree => tree.flags())
    }

    /// Bytes of the largest chunk.
    pub fn chunk_size(&self) -> u32 {
        either!(self, tree => tree.chunk_size())
    }

    /// Inodes, as the superblock counts them. v5: distinct ones; v6: entries, each hard link and the root too.
    pub fn inode_count(&self) -> u64 {
        either!(self, tree => tree.inode_count())
    }

    /// False if the image says that no inode has extended attributes.
    pub fn has_xattrs(&self) -> bool {
        self.flags().contains(ImageFlags::XATTRS)
    }

    /// False if owners were left out when the image was built: then all are 0, and the server's own are shown.
    pub fn owners_recorded(&self) -> bool {
        self.flags().contains(ImageFlags::OWNERS)
    }

    /// Bytes of the bootstrap.
    pub fn size(&self) -> u64 {
        self.image().len()
    }

    /// The bootstrap itself.
    pub fn bytes(&self) -> &[u8] {
        self.image().bytes()
    }

    /// v6: where each blob begins and how many bytes it has room for, if bootstrap and uncompressed blobs lie on one
    /// disk. They ascend and do not overlap. `None` for v5, which no kernel reads.
    pub fn disk_layout(&self) -> Result<Option<Vec<(u64, u64)>>> {
        match &self.tree {
            Tree::V5(_) => Ok(None),
            Tree::V6(tree) => tree.disk_layout().map(Some),
        }
    }

    /// The algorithm of the digests of inodes and chunks.
    pub fn digester(&self) -> Digester {
        either!(self, tree => tree.digester())
    }

    /// The compressor that the image was built with; blobs have their own.
    pub fn compressor(&self) -> Compressor {
        either!(self, tree => tree.compressor())
    }

    /// The blobs; extents name them by their place here.
    pub fn blobs(&self) -> &[Arc<BlobDescription>] {
        either!(self, tree => tree.blobs())
    }

    /// The root directory.
    pub fn root(&self) -> Ino {
        either!(self, tree => tree.root())
    }

    /// What `stat` wants to know of an inode.
    pub fn attributes(&self, ino: Ino) -> Result<Attributes> {
        either!(self, tree => tree.attributes(ino))
    }

    /// The inode of `name` in a directory. `.` and `..` are not names, nor is what cannot be one.
    pub fn lookup(&self, directory: Ino, name: &[u8]) -> Result<Option<Ino>> {
        either!(self, tree => tree.lookup(directory, name))
    }

    /// The directory that holds a directory; the root holds itself.
    pub fn parent(&self, directory: Ino) -> Result<Ino> {
        either!(self, tree => tree.parent(directory))
    }

    /// The entries of a directory behind `position`: 0, or the [`crate::DirEntry::next`] of one of its entries.
    pub fn read_dir(&self, directory: Ino, position: u64) -> Result<Entries<'_>> {
        Ok(Entries(match &self.tree {
            Tree::V5(tree) => directory::Inner::V5(tree.read_dir(directory, position)?),
            Tree::V6(tree) => directory::Inner::V6(tree.read_dir(directory, position)?),
        }))
    }

    /// The target of a symlink: 1 byte or more, no NUL.
    pub fn read_link(&self, ino: Ino) -> Result<Cow<'_, [u8]>> {
        match &self.tree {
            Tree::V5(tree) => tree.read_link(ino).map(Cow::Borrowed),
            Tree::V6(tree) => tree.read_link(ino),
        }
    }

    /// The extended attributes of an inode.
    pub fn xattrs(&self, ino: Ino) -> Result<Xattrs<'_>> {
        let inner = match &self.tree {
            Tree::V5(tree) => tree.xattrs(ino)?.map(xattr::Inner::V5),
            Tree::V6(tree) => tree.xattrs(ino)?.map(xattr::Inner::V6),
        };
        Ok(Xattrs(inner.unwrap_or(xattr::Inner::None)))
    }

    /// The value of the extended attribute `name`, a full name such as `user.mime`.
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Option<&[u8]>> {
        self.xattrs(ino)?.find(name)
    }

    /// The pieces of the bytes `offset..offset + len` of a regular file, clipped to its size.
    ///
    /// v5 says of each chunk how it is stored, and its digest; for v6 the blob's chunk table does. In images of
    /// plain tars (tarfs) the uncompressed offset is the position in the tar, and the chunk table of the
    /// bootstrap means nothing.
    pub fn extents(&self, ino: Ino, offset: u64, len: u32) -> Result<Extents<'_>> {
        Ok(Extents(match &self.tree {
            Tree::V5(tree) => extent::Inner::V5(tree.extents(ino, offset, len)?),
            Tree::V6(tree) => extent::Inner::V6(tree.extents(ino, offset, len)?),
        }))
    }

    /// v6: the chunk that a record of the chunk table describes, by the numbers that [`DigestSource::digest_index`] gives,
    /// and its digest. `None` if the record is unusable. It is right only for chunks that are stored on their own: of the
    /// members of batches and ZRan contexts the blob's own table tells more, and another thing.
    pub fn recorded_chunk(&self, record: u32) -> Option<(ChunkDescription, Digest)> {
        match &self.tree {
            Tree::V5(_) => None,
            Tree::V6(tree) => tree.recorded_chunk(record),
        }
    }

    /// Bytes of a block: v6 counts in them where chunks lie in uncompressed blobs.
    pub fn block_size(&self) -> u64 {
        match &self.tree {
            Tree::V5(_) => 4096,
            Tree::V6(tree) => tree.block_size(),
        }
    }

    /// The files and directories that the image's builder thought worth fetching first. A directory means all
    /// files below it.
    pub fn prefetch_inodes(&self) -> Result<Vec<Ino>> {
        either!(self, tree => tree.prefetch_inodes())
    }
}

impl std::fmt::Debug for Bootstrap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bootstrap")
            .field("path", &self.image().path())
            .field("version", &self.version())
            .field("size", &self.size())
            .finish_non_exhaustive()
    }
}

/// The digests of the chunk table of v6. v5 has them in its extents, and none here.
impl DigestSource for Bootstrap {
    fn digest_index(&self, blob_index: u32) -> storage::Result<Vec<(u32, u32)>> {
        match &self.tree {
            Tree::V5(_) => Ok(Vec::new()),
            Tree::V6(tree) => tree.digest_index(blob_index),
        }
    }

    fn digest(&self, record: u32) -> Option<(Digest, u64)> {
        match &self.tree {
            Tree::V5(_) => None,
            Tree::V6(tree) => tree.digest(record),
        }
    }
}
