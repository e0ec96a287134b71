//! A layer as its entries, and what becomes of it: a directory, a tar, or the directory of an overlay into which a
//! container runtime unpacks it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mknod, utimensat};
use nix::sys::time::TimeSpec;

/// What all entries of a layer were last changed at.
pub const TIME: i64 = 1_234_567_890;

/// An entry: its path, and what it is.
#[derive(Clone)]
pub struct Entry {
    path: Vec<u8>,
    kind: Kind,
    xattrs: Vec<(&'static str, &'static [u8])>,
}

#[derive(Clone)]
enum Kind {
    File(&'static str),
    Directory(u32),
    Symlink(&'static str),
}

pub fn file(path: impl Into<Vec<u8>>, content: &'static str) -> Entry {
    Entry { path: path.into(), kind: Kind::File(content), xattrs: Vec::new() }
}

pub fn directory(path: &str, mode: u32) -> Entry {
    Entry { path: path.into(), kind: Kind::Directory(mode), xattrs: Vec::new() }
}

pub fn symlink(path: &str, target: &'static str) -> Entry {
    Entry { path: path.into(), kind: Kind::Symlink(target), xattrs: Vec::new() }
}

impl Entry {
    pub fn with(mut self, name: &'static str, value: &'static [u8]) -> Self {
        self.xattrs.push((name, value));
        self
    }

    /// Makes it in a directory; its parent is there.
    pub fn make(&self, path: &Path) {
        match self.kind {
            Kind::File(content) => {
                fs::write(path, content).unwrap();
                fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
            }
            Kind::Directory(mode) => {
                if !path.exists() {
                    fs::create_dir(path).unwrap();
                }
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            }
            Kind::Symlink(target) => std::os::unix::fs::symlink(target, path).unwrap(),
        }
        for (name, value) in &self.xattrs {
            xattr::set(path, name, value).unwrap();
        }
        std::os::unix::fs::lchown(path, Some(7), Some(8)).unwrap();
    }
}

/// Makes a directory that has these entries, whiteouts under their names. A parent of an entry has an entry.
pub fn as_directory(entries: &[Entry], root: &Path) {
    fs::create_dir(root).unwrap();
    for entry in entries {
        entry.make(&root.join(OsStr::from_bytes(&entry.path)));
    }
    settle(entries, root);
}

/// The tar of these entries, in their order.
pub fn as_tar(entries: &[Entry]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let records = entry.xattrs.iter().map(|(name, value)| (format!("SCHILY.xattr.{name}"), *value));
        let records: Vec<_> = records.collect();
        builder.append_pax_extensions(records.iter().map(|(name, value)| (name.as_str(), *value))).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_mtime(TIME as u64);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mode(0o640);
        header.set_size(0);
        let path = Path::new(OsStr::from_bytes(&entry.path));
        match entry.kind {
            Kind::File(content) => {
                header.set_size(content.len() as u64);
                builder.append_data(&mut header, path, content.as_bytes()).unwrap();
            }
            Kind::Directory(mode) => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(mode);
                builder.append_data(&mut header, path, &[][..]).unwrap();
            }
            Kind::Symlink(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                builder.append_link(&mut header, path, target).unwrap();
            }
        }
    }
    builder.into_inner().unwrap()
}

/// Unpacks the entries in the way of containerd: into a directory of an overlay above `lower`, with whiteouts as
/// overlayfs has them. Paths lead through the layer's own symlinks, which the kernel follows and keeps inside.
/// Directories without an entry are those of `lower`, where it has them.
pub fn as_runtime(entries: &[Entry], root: &Path, lower: &Path) {
    fs::create_dir(root).unwrap();
    copy_attributes(lower, root);
    let mut implied: Vec<(PathBuf, i64)> = Vec::new();
    for entry in entries {
        let path = Path::new(OsStr::from_bytes(&entry.path));
        let Some(name) = path.file_name() else {
            entry.make(root);
            continue;
        };
        let parents = path.parent().unwrap_or(Path::new(""));
        for parent in parents.ancestors().collect::<Vec<_>>().into_iter().rev() {
            if let Err(Errno::ENOENT) = inside(root, parent) {
                fs::create_dir(root.join(parent)).unwrap();
                if lower.join(parent).is_dir() {
                    copy_attributes(&lower.join(parent), &root.join(parent));
                    let time = lower.join(parent).symlink_metadata().unwrap().mtime();
                    implied.push((root.join(parent), time));
                } else {
                    implied.push((root.join(parent), 0));
                }
            }
        }
        let parent = inside(root, parents).unwrap();
        let parent = PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd()));
        let at = parent.join(name);
        match name.as_bytes().strip_prefix(b".wh.") {
            Some(b".wh..opq") => xattr::set(parent.join("."), "trusted.overlay.opaque", b"y").unwrap(),
            Some(gone) => {
                let gone = parent.join(OsStr::from_bytes(gone));
                mknod(&gone, SFlag::S_IFCHR, Mode::empty(), 0).unwrap();
            }
            None => {
                entry.make(&at);
                stamp(&at, TIME);
            }
        }
    }
    let made: Vec<_> =
        entries.iter().filter(|entry| matches!(entry.kind, Kind::Directory(_))).cloned().collect();
    implied.iter().for_each(|(path, time)| stamp(path, *time));
    settle(&made, root);
}

/// A directory below `root`, symlinks followed, `/` and `..` kept inside.
fn inside(root: &Path, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open(root, flags, Mode::empty())?;
    let path = if path == Path::new("") { Path::new(".") } else { path };
    openat2(&root, path, OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_IN_ROOT))
}

fn copy_attributes(from: &Path, to: &Path) {
    let metadata = fs::symlink_metadata(from).unwrap();
    std::os::unix::fs::lchown(to, Some(metadata.uid()), Some(metadata.gid())).unwrap();
    fs::set_permissions(to, metadata.permissions()).unwrap();
    for name in xattr::list(from).unwrap() {
        xattr::set(to, &name, &xattr::get(from, &name).unwrap().unwrap()).unwrap();
    }
}

/// Sets the times that making the entries has changed.
fn settle(entries: &[Entry], root: &Path) {
    for entry in entries {
        stamp(&root.join(OsStr::from_bytes(&entry.path)), TIME);
    }
}

/// Sets the time of an entry.
pub fn stamp(path: &Path, seconds: i64) {
    let time = TimeSpec::new(seconds, 0);
    utimensat(AT_FDCWD, path, &time, &time, UtimensatFlags::NoFollowSymlink).unwrap();
}

/// An overlay that is mounted until this is dropped.
pub struct Overlay(PathBuf);

impl Overlay {
    /// Mounts one; `None`, and a word why, if this kernel does not.
    pub fn mount(at: &Path, options: &str) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        match mount(Some("overlay"), at, Some("overlay"), MsFlags::empty(), Some(options)) {
            Ok(()) => Some(Self(at.into())),
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "SKIPPED: overlay with {options}: {error}");
                None
            }
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Writes a file with other content, of the same time as all others.
pub fn rewrite(path: &Path, content: &str) {
    File::create(path).unwrap().write_all(content.as_bytes()).unwrap();
    stamp(path, TIME);
}
