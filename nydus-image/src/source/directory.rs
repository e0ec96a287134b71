//! A directory as a source: its tree, listed once; the content of files is read later, by the workers.
//!
//! Invariant: the tree has what the directory has, whiteouts included; nothing is followed out of it. Entries are
//! reached by descriptors where paths are too long for the system, so depth has no limit but memory.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, readlinkat};
use nix::sys::stat::{FileStat, fstatat, major, minor};
use rafs::FileType;
use rafs::build::{Content, Node, NodeId, Tree};

use super::content::{Fingerprint, open_path};
use crate::error::{Error, Result};
use crate::overlay::is_private;

/// What extended attributes' names begin with, or are, to be kept; others are for this filesystem alone.
const KEPT_XATTRS: [&[u8]; 5] =
    [b"user.", b"security.", b"trusted.", b"system.posix_acl_access", b"system.posix_acl_default"];
/// Fewer than node numbers.
const MAX_ENTRIES: usize = (u32::MAX - 1) as usize;
/// Longer paths are given to the system as a name below a descriptor.
const MAX_PATH: usize = 3000;

/// So many entries go into the tree at a time.
const AT_ONCE: usize = 1024;

/// A directory, listed.
#[derive(Debug)]
pub struct Listing {
    /// Its tree. Regular files have their size, and no chunks yet.
    pub tree: Tree,
    /// The regular files that have content.
    pub files: HashMap<NodeId, ListedFile>,
}

/// A regular file with content, as it was when it was listed.
#[derive(Clone, Copy, Debug)]
pub struct ListedFile {
    /// What tells that it is still the same.
    pub fingerprint: Fingerprint,
    /// The filesystem keeps less for it than it has bytes.
    pub may_have_holes: bool,
}

/// Lists `root` and all that is below it, with so many threads. `with_owners` is false if all shall belong to 0:0.
///
/// The numbers of nodes and of hard links in the tree depend on who was faster; nothing that is written does.
pub fn list(root: &Path, with_owners: bool, threads: usize) -> Result<Listing> {
    let root_stat = nix::sys::stat::stat(root).map_err(|errno| Error::io("read", root)(errno.into()))?;
    if root_stat.st_mode & 0o170_000 != 0o040_000 {
        return Err(Error::entry(root, "is not a directory"));
    }
    let mut root_node =
        node(Vec::new(), &root_stat, Content::Directory { children: Vec::new() }, with_owners);
    // The root's time is that of nothing in particular: without it layers repeat.
    (root_node.mtime, root_node.mtime_nsec) = (0, 0);
    root_node.xattrs = xattrs(&root.join("."), root)?;
    let walk = Walk {
        root,
        with_owners,
        state: Mutex::new(State {
            listing: Listing { tree: Tree::new(root_node), files: HashMap::new() },
            groups: HashMap::new(),
            directories: vec![(Tree::ROOT, root.to_owned())],
            busy: 0,
            failed: None,
        }),
        changed: Condvar::new(),
    };
    std::thread::scope(|scope| {
        for number in 1..threads {
            let builder = std::thread::Builder::new().name(format!("list-{number}"));
            builder.spawn_scoped(scope, || walk.work()).map_err(|source| {
                walk.lock().failed.get_or_insert(Error::Cancelled);
                Error::Threads { source }
            })?;
        }
        walk.work();
        Ok::<_, Error>(())
    })?;
    let state = walk.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    state.failed.map_or(Ok(state.listing), Err)
}

/// Threads that take directories from a stack and put entries into the tree.
struct Walk<'a> {
    root: &'a Path,
    with_owners: bool,
    state: Mutex<State>,
    /// There are directories, or there will be no more.
    changed: Condvar,
}

struct State {
    listing: Listing,
    /// Device and number of files with several links → number of their group.
    groups: HashMap<(u64, u64), u32>,
    /// Those that nobody has listed.
    directories: Vec<(NodeId, PathBuf)>,
    /// Threads that list one.
    busy: usize,
    /// What has ended the walk.
    failed: Option<Error>,
}

/// An entry that is not in the tree yet.
struct Entry {
    node: Node,
    file: Option<ListedFile>,
    /// Device and number of a file with several links.
    link: Option<(u64, u64)>,
}

impl Walk<'_> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One thread.
    fn work(&self) {
        let mut state = self.lock();
        loop {
            if state.failed.is_some() {
                return;
            }
            let Some((id, path)) = state.directories.pop() else {
                if state.busy == 0 {
                    return;
                }
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.busy += 1;
            drop(state);
            let guard = StopOnDrop(self);
            let listed = self.directory(id, &path);
            std::mem::forget(guard);
            state = self.lock();
            state.busy -= 1;
            if let Err(error) = listed {
                state.failed.get_or_insert(error);
            }
            // Directories were found, or the last one is done, or nothing is to be done any more.
            self.changed.notify_all();
        }
    }

    /// Lists one directory.
    fn directory(&self, id: NodeId, path: &Path) -> Result<()> {
        let nofollow = if id == Tree::ROOT { OFlag::empty() } else { OFlag::O_NOFOLLOW };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | nofollow;
        let failed = |errno: Errno| Error::io("list", path)(errno.into());
        let mut directory = open_path(path, flags).and_then(Dir::from_fd).map_err(failed)?;
        let mut names = Vec::new();
        for entry in directory.iter() {
            let name = entry.map_err(failed)?.file_name().to_owned();
            if !matches!(name.to_bytes(), b"." | b"..") {
                names.push(name);
            }
        }
        names.sort_unstable();
        let mut entries = Vec::new();
        let mut path = path.to_owned();
        for name in names {
            path.push(OsStr::from_bytes(name.to_bytes()));
            entries.push(self.entry(directory.as_fd(), &name, &path)?);
            path.pop();
            if entries.len() == AT_ONCE {
                self.add(id, &path, &mut entries)?;
            }
        }
        self.add(id, &path, &mut entries)?;
        // As the source has it: whiteouts, which do not stay, are counted.
        let tree = &mut self.lock().listing.tree;
        tree[id].recorded = Some(tree.measure(id));
        Ok(())
    }

    /// Puts entries into a directory of the tree.
    fn add(&self, id: NodeId, path: &Path, entries: &mut Vec<Entry>) -> Result<()> {
        let mut state = self.lock();
        let State { listing: Listing { tree, files }, groups, directories, .. } = &mut *state;
        if tree.nodes.len() + entries.len() > MAX_ENTRIES {
            return Err(Error::entry(self.root, format!("has more than {MAX_ENTRIES} entries")));
        }
        for Entry { mut node, file, link } in entries.drain(..) {
            if let Some(link) = link {
                // Fewer than entries.
                let next = groups.len() as u32;
                node.hard_links = Some(*groups.entry(link).or_insert(next));
            }
            let directory = node.is_directory().then(|| path.join(OsStr::from_bytes(&node.name)));
            let child = tree.add(id, node);
            files.extend(file.map(|file| (child, file)));
            directories.extend(directory.map(|path| (child, path)));
        }
        Ok(())
    }

    /// The entry `name` of a directory; `path` is for messages, and for the system where it is short enough.
    fn entry(&self, directory: BorrowedFd<'_>, name: &CStr, path: &Path) -> Result<Entry> {
        let failed = |errno: Errno| Error::io("read", path)(errno.into());
        let stat = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(failed)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let (mut file, mut link) = (None, None);
        let content = match FileType::from_mode(stat.st_mode) {
            Some(FileType::Directory) => Content::Directory { children: Vec::new() },
            Some(FileType::Regular) => {
                // Blocks of 512 bytes.
                let may_have_holes = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512) < size;
                let fingerprint = Fingerprint::of(&stat);
                file = (size > 0).then_some(ListedFile { fingerprint, may_have_holes });
                link = (stat.st_nlink > 1).then_some((stat.st_dev, stat.st_ino));
                Content::Regular { size, chunks: Vec::new() }
            }
            Some(FileType::Symlink) => {
                Content::Symlink { target: readlinkat(directory, name).map_err(failed)?.into_vec() }
            }
            Some(_) => Content::Special,
            None => return Err(Error::entry(path, format!("unknown type, mode {:o}", stat.st_mode))),
        };
        let mut node = node(name.to_bytes().to_vec(), &stat, content, self.with_owners);
        node.xattrs = if path.as_os_str().len() <= MAX_PATH {
            xattrs(path, path)?
        } else {
            let fd = format!("/proc/self/fd/{}", directory.as_raw_fd());
            xattrs(&Path::new(&fd).join(OsStr::from_bytes(name.to_bytes())), path)?
        };
        Ok(Entry { node, file, link })
    }
}

/// Ends the walk of the other threads when this one panics.
struct StopOnDrop<'a, 'b>(&'a Walk<'b>);

impl Drop for StopOnDrop<'_, '_> {
    fn drop(&mut self) {
        self.0.lock().failed.get_or_insert(Error::Cancelled);
        self.0.changed.notify_all();
    }
}

/// The node of an entry, without extended attributes.
fn node(name: Vec<u8>, stat: &FileStat, content: Content, with_owners: bool) -> Node {
    let mut node = Node::new(name, stat.st_mode, content);
    if with_owners {
        (node.uid, node.gid) = (stat.st_uid, stat.st_gid);
    }
    node.mtime = stat.st_mtime;
    // Under 10^9, says the system; the writer looks anyhow.
    node.mtime_nsec = u32::try_from(stat.st_mtime_nsec).unwrap_or(u32::MAX);
    if FileType::from_mode(stat.st_mode).is_some_and(FileType::is_device) {
        node.rdev = encode_rdev(stat.st_rdev);
    }
    node
}

/// Linux' 32-bit encoding of a device number (spec/rafs-v5.md §6.2); what does not fit is cut off, as there.
fn encode_rdev(device: u64) -> u32 {
    rdev_of(major(device), minor(device))
}

/// Linux' 32-bit encoding of a device number (spec/rafs-v5.md §6.2).
pub fn rdev_of(major: u64, minor: u64) -> u32 {
    let encoded = (minor & 0xff) | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12;
    // 8 + 12 + 12 bits.
    encoded as u32
}

/// The extended attributes to keep of the entry at `path`, which messages call `shown`.
fn xattrs(path: &Path, shown: &Path) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let names = match xattr::list(path) {
        Ok(names) => names,
        Err(error) if error.kind() == std::io::ErrorKind::Unsupported => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list the extended attributes of", shown)(error)),
    };
    let mut pairs = Vec::new();
    for name in names {
        if !is_kept(name.as_bytes()) {
            tracing::debug!("{shown:?}: extended attribute {name:?} is not kept");
            continue;
        }
        let value = xattr::get(path, &name).map_err(Error::io("read the extended attributes of", shown))?;
        // One that went away in between is not there.
        pairs.extend(value.map(|value| (name.into_vec(), value)));
    }
    Ok(pairs)
}

/// True if images have extended attributes of this name: the format has a place for it, and it says something of the
/// file, not of the overlay that the file comes from.
pub fn is_kept(name: &[u8]) -> bool {
    !is_private(name)
        && KEPT_XATTRS.iter().any(|kept| match kept.last() {
            Some(b'.') => name.len() > kept.len() && name.starts_with(kept),
            _ => name == *kept,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_have_the_kernels_encoding() {
        assert_eq!(rdev_of(259, 70000), 0x1111_0370);
        assert_eq!(rdev_of(1, 5), 0x105);
    }

    #[test]
    fn only_what_the_format_names_is_kept() {
        for kept in [
            "user.a",
            "security.capability",
            "trusted.overlay.opaque",
            "system.posix_acl_default",
            // Escaped, as an overlay stores what was set inside it.
            "trusted.overlay.overlay.origin",
        ] {
            assert!(is_kept(kept.as_bytes()), "{kept}");
        }
        for dropped in [
            "system.nfs4_acl",
            "user.",
            "btrfs.compression",
            "system.posix_acl_access2",
            "trusted.overlay.origin",
            "user.overlay.impure",
        ] {
            assert!(!is_kept(dropped.as_bytes()), "{dropped}");
        }
    }
}
