//! Everything but READ and INIT: [`Filesystem`] as the FUSE crate wants to see it.
//!
//! The tree never changes while it is mounted, so the kernel may keep what it is told for ever: entries, missing
//! names, attributes, symlinks, listings and pages. OPEN and OPENDIR answer ENOSYS, which tells the kernel not to
//! ask again.

use std::ffi::CStr;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use fuse_backend_rs::abi::fuse_abi::{stat64, statvfs64};
use fuse_backend_rs::api::filesystem::{
    Context, DirEntry, Entry, FileSystem, GetxattrReply, ListxattrReply, OpenOptions,
};
use nix::errno::Errno;
use nix::unistd::{getegid, geteuid};
use rafs::{Attributes, FileType, Ino};

use super::ahead::Ahead;
use super::errno::{errno, refuse};
use super::nodeid::NodeIds;
use crate::filesystem::{self, Error, Filesystem, XattrSupport};

const FOREVER: Duration = filesystem::KEPT;

pub(super) struct Adapter {
    filesystem: Arc<Filesystem>,
    nodeids: NodeIds,
    /// Shown where the image does not record owners.
    owner: (u32, u32),
    ahead: Option<Arc<Ahead>>,
}

impl Adapter {
    pub(super) fn new(filesystem: Arc<Filesystem>, nodeids: NodeIds, ahead: Option<Arc<Ahead>>) -> Self {
        Self { filesystem, nodeids, owner: (geteuid().as_raw(), getegid().as_raw()), ahead }
    }

    fn stat(&self, ino: Ino, attributes: &Attributes) -> stat64 {
        let (uid, gid) = match self.filesystem.owners_recorded() {
            true => (attributes.uid, attributes.gid),
            false => self.owner,
        };
        // `stat64` has private padding on some architectures: start from the crate's own zeroed one.
        let mut stat = Entry::default().attr;
        stat.st_ino = ino.0;
        stat.st_mode = attributes.mode;
        stat.st_nlink = attributes.nlink.into();
        stat.st_uid = uid;
        stat.st_gid = gid;
        stat.st_rdev = attributes.rdev.into();
        stat.st_size = attributes.size.try_into().unwrap_or(i64::MAX);
        stat.st_blksize = 4096;
        stat.st_blocks = attributes.blocks.try_into().unwrap_or(i64::MAX);
        for (seconds, nanoseconds) in [
            (&mut stat.st_atime, &mut stat.st_atime_nsec),
            (&mut stat.st_mtime, &mut stat.st_mtime_nsec),
            (&mut stat.st_ctime, &mut stat.st_ctime_nsec),
        ] {
            *seconds = attributes.mtime;
            *nanoseconds = attributes.mtime_nsec.into();
        }
        stat
    }

    fn entry(&self, ino: Ino) -> filesystem::Result<Entry> {
        let attributes = self.filesystem.attributes(ino)?;
        Ok(Entry {
            inode: self.nodeids.nodeid(ino),
            generation: 0,
            attr: self.stat(ino, &attributes),
            attr_flags: 0,
            attr_timeout: FOREVER,
            entry_timeout: FOREVER,
        })
    }

    /// Lists a directory, with or without the entries' attributes. `add` answers how much it took: 0 is full.
    fn list(
        &self,
        nodeid: u64,
        offset: u64,
        add: &mut dyn FnMut(DirEntry<'_>, Ino) -> filesystem::Result<io::Result<usize>>,
    ) -> io::Result<()> {
        let mut outcome = Ok(());
        let listed = self.filesystem.read_dir(self.nodeids.ino(nodeid), offset, &mut |entry| {
            let type_ = dirent_type(entry.file_type);
            match add(DirEntry { ino: entry.ino.0, offset: entry.next, type_, name: entry.name }, entry.ino) {
                Ok(Ok(0)) => ControlFlow::Break(()),
                Ok(Ok(_)) => ControlFlow::Continue(()),
                Ok(Err(error)) => {
                    outcome = Err(error);
                    ControlFlow::Break(())
                }
                Err(error) => {
                    outcome = Err(os_error(&error));
                    ControlFlow::Break(())
                }
            }
        });
        listed.map_err(|e| os_error(&e))?;
        outcome
    }
}

impl FileSystem for Adapter {
    type Inode = u64;
    type Handle = u64;

    fn lookup(&self, _: &Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        let (parent, name) = (self.nodeids.ino(parent), name.to_bytes());
        // The kernel looks up "." when a file handle names a node that it has forgotten. The number is then any that
        // the owner of the handle likes.
        if name == b"." && !self.filesystem.is_entry(parent) {
            return Err(refuse(Errno::ENOENT));
        }
        match self.filesystem.lookup(parent, name).map_err(|e| os_error(&e))? {
            Some(ino) => self.entry(ino).map_err(|e| os_error(&e)),
            // Node 0 with a timeout: the kernel remembers that the name is missing.
            None => Ok(Entry { entry_timeout: FOREVER, ..Entry::default() }),
        }
    }

    fn getattr(&self, _: &Context, nodeid: u64, _: Option<u64>) -> io::Result<(stat64, Duration)> {
        let ino = self.nodeids.ino(nodeid);
        let attributes = self.filesystem.attributes(ino).map_err(|e| os_error(&e))?;
        Ok((self.stat(ino, &attributes), FOREVER))
    }

    fn readlink(&self, _: &Context, nodeid: u64) -> io::Result<Vec<u8>> {
        self.filesystem.read_link(self.nodeids.ino(nodeid)).map_err(|e| os_error(&e))
    }

    fn open(
        &self,
        _: &Context,
        _: u64,
        _: u32,
        _: u32,
    ) -> io::Result<(Option<u64>, OpenOptions, Option<u32>)> {
        Err(Errno::ENOSYS.into())
    }

    fn opendir(&self, _: &Context, _: u64, _: u32) -> io::Result<(Option<u64>, OpenOptions)> {
        Err(Errno::ENOSYS.into())
    }

    fn readdir(
        &self,
        _: &Context,
        nodeid: u64,
        _: u64,
        _: u32,
        offset: u64,
        add_entry: &mut dyn FnMut(DirEntry<'_>) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.list(nodeid, offset, &mut |entry, _| Ok(add_entry(entry)))
    }

    fn readdirplus(
        &self,
        _: &Context,
        nodeid: u64,
        _: u64,
        _: u32,
        offset: u64,
        add_entry: &mut dyn FnMut(DirEntry<'_>, Entry) -> io::Result<usize>,
    ) -> io::Result<()> {
        let mut files = Vec::new();
        let listed = self.list(nodeid, offset, &mut |dirent, ino| {
            // Node 0: the kernel takes the name but no inode, as it must for the two dots.
            let entry = match dirent.name {
                b"." | b".." => Entry::default(),
                _ => self.entry(ino)?,
            };
            let file = (entry.inode, entry.attr.st_size as u64);
            let is_file = dirent.type_ == dirent_type(FileType::Regular) && file.1 != 0;
            let added = add_entry(dirent, entry);
            if is_file && matches!(added, Ok(1..)) {
                files.push(file);
            }
            Ok(added)
        });
        if let Some(ahead) = &self.ahead {
            ahead.listed(&files);
        }
        listed
    }

    fn statfs(&self, _: &Context, _: u64) -> io::Result<statvfs64> {
        const BLOCK: u64 = 4096;
        // SAFETY: `statvfs64` is a plain C struct of integers, for which all zero is a value.
        let mut stat: statvfs64 = unsafe { std::mem::zeroed() };
        stat.f_bsize = BLOCK;
        stat.f_frsize = BLOCK;
        stat.f_blocks = self.filesystem.data_bytes().div_ceil(BLOCK);
        stat.f_files = self.filesystem.inode_count();
        stat.f_namemax = 255;
        Ok(stat)
    }

    fn getxattr(&self, _: &Context, nodeid: u64, name: &CStr, size: u32) -> io::Result<GetxattrReply> {
        let name = name.to_bytes();
        let value = match self.filesystem.xattr_support() {
            XattrSupport::Hidden => return Err(Errno::ENOSYS.into()),
            XattrSupport::NoneStored if is_asked_of_all(name) => return Err(refuse(Errno::EOPNOTSUPP)),
            XattrSupport::NoneStored => None,
            XattrSupport::Served => {
                self.filesystem.xattr(self.nodeids.ino(nodeid), name).map_err(|e| os_error(&e))?
            }
        };
        let value = value.ok_or_else(|| refuse(Errno::ENODATA))?;
        match fits(value.len(), size)? {
            true => Ok(GetxattrReply::Value(value)),
            false => Ok(GetxattrReply::Count(value.len() as u32)),
        }
    }

    fn listxattr(&self, _: &Context, nodeid: u64, size: u32) -> io::Result<ListxattrReply> {
        if self.filesystem.xattr_support() == XattrSupport::Hidden {
            return Err(Errno::ENOSYS.into());
        }
        let names = self.filesystem.xattr_names(self.nodeids.ino(nodeid)).map_err(|e| os_error(&e))?;
        match fits(names.len(), size)? {
            true => Ok(ListxattrReply::Names(names)),
            false => Ok(ListxattrReply::Count(names.len() as u32)),
        }
    }
}

/// Names that `ls -l` asks each file for: labels and ACLs. EOPNOTSUPP says that the file system has none, and `ls` asks no
/// more; ENODATA, that this file has none. Either way the caller goes on without.
fn is_asked_of_all(name: &[u8]) -> bool {
    name == b"security.selinux" || name.starts_with(b"system.posix_acl_")
}

/// True if `len` bytes fit the caller's buffer of `size`; false if the caller only asks for the length (`size` 0).
fn fits(len: usize, size: u32) -> io::Result<bool> {
    match size {
        0 => Ok(false),
        size if len <= size as usize => Ok(true),
        _ => Err(refuse(Errno::ERANGE)),
    }
}

fn os_error(error: &Error) -> io::Error {
    errno(error).into()
}

/// The `DT_*` number of a type.
fn dirent_type(file_type: FileType) -> u32 {
    match file_type {
        FileType::Fifo => 1,
        FileType::CharDevice => 2,
        FileType::Directory => 4,
        FileType::BlockDevice => 6,
        FileType::Regular => 8,
        FileType::Symlink => 10,
        FileType::Socket => 12,
    }
}
