//! Trees on disk: made from a description, and listed with all that an image keeps.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, makedev, mknod, utimensat};
use nix::sys::time::TimeSpec;
use proptest::prelude::*;

/// Why a test cannot run here, or `None`.
pub fn missing() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("owners, devices and trusted attributes need root");
    }
    let tar = Command::new("tar").arg("--version").output();
    match tar {
        Ok(output) if output.stdout.starts_with(b"tar (GNU tar)") => None,
        _ => Some("GNU tar is not installed"),
    }
}

/// What an image keeps of an entry.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    rdev: u64,
    /// Of a file, or the target of a symlink.
    content: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first path of the same inode.
    first: Vec<u8>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.xattrs.keys().map(|name| String::from_utf8_lossy(name)).collect();
        f.debug_struct("Entry")
            .field("mode", &format_args!("{:o}", self.mode))
            .field("owner", &self.owner)
            .field("mtime", &self.mtime)
            .field("rdev", &self.rdev)
            .field("content", &self.content.len())
            .field("xattrs", &names)
            .field("first", &String::from_utf8_lossy(&self.first))
            .finish()
    }
}

/// Everything below `root` by its path, and the root, whose time no image keeps.
pub fn list(root: &Path) -> BTreeMap<Vec<u8>, Entry> {
    let mut entries = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let relative = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
        let kind = metadata.file_type();
        let content = if kind.is_file() {
            fs::read(&path).unwrap()
        } else if kind.is_symlink() {
            fs::read_link(&path).unwrap().into_os_string().as_bytes().to_vec()
        } else {
            Vec::new()
        };
        let xattrs = xattr::list(&path).unwrap().map(|name| {
            let value = xattr::get(&path, &name).unwrap().unwrap_or_default();
            (name.as_bytes().to_vec(), value)
        });
        let is_device = kind.is_block_device() || kind.is_char_device();
        let entry = Entry {
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            mtime: if relative.is_empty() { (0, 0) } else { (metadata.mtime(), metadata.mtime_nsec()) },
            rdev: if is_device { metadata.rdev() } else { 0 },
            content,
            xattrs: xattrs.collect(),
            // The inode for now.
            first: if kind.is_file() { metadata.ino().to_le_bytes().to_vec() } else { relative.clone() },
        };
        entries.insert(relative, entry);
        if kind.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    let mut firsts: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
    for (path, entry) in &mut entries {
        entry.first = firsts.entry(entry.first.clone()).or_insert_with(|| path.clone()).clone();
    }
    entries
}

/// An entry to be made.
#[derive(Clone, Debug)]
pub struct Node {
    /// Which of the directories so far it lies in.
    parent: usize,
    name: Vec<u8>,
    kind: Kind,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, u32),
    xattrs: Vec<(String, Vec<u8>)>,
}

#[derive(Clone, Debug)]
enum Kind {
    Directory,
    /// Text that compresses, or noise, that stands behind a hole.
    File {
        size: usize,
        noise: bool,
        hole: u64,
    },
    Symlink(Vec<u8>),
    /// One of the files so far.
    HardLink(usize),
    Fifo,
    Device {
        block: bool,
        major: u64,
        minor: u64,
    },
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_filter("allowed", |byte| !matches!(byte, 0 | b'/'));
    let raw = prop_oneof![
        8 => prop::collection::vec(byte.clone(), 1..20),
        1 => prop::collection::vec(byte, 90..=255),
        4 => "[a-z]{1,9}(é|Ω| )?".prop_map(String::into_bytes),
    ];
    raw.prop_filter("a name", |name| name != b"." && name != b".." && !name.starts_with(b".wh."))
}

fn kind() -> impl Strategy<Value = Kind> {
    let size =
        prop_oneof![4 => 0..3000usize, 2 => 3000..50_000usize, 1 => Just(4096usize), 1 => Just(1usize << 20)];
    let hole = prop_oneof![5 => Just(0u64), 1 => 1..3_000_000u64];
    let target = prop::collection::vec(1..=255u8, 1..600);
    prop_oneof![
        4 => Just(Kind::Directory),
        8 => (size, any::<bool>(), hole).prop_map(|(size, noise, hole)| Kind::File { size, noise, hole }),
        2 => target.prop_map(Kind::Symlink),
        3 => any::<usize>().prop_map(Kind::HardLink),
        1 => Just(Kind::Fifo),
        1 => (any::<bool>(), 0..4096u64, 0..1_048_576u64)
            .prop_map(|(block, major, minor)| Kind::Device { block, major, minor }),
    ]
}

fn node() -> impl Strategy<Value = Node> {
    let owner = prop_oneof![3 => Just(0u32), 2 => 1..70_000u32, 1 => 2_000_000..4_000_000_000u32];
    let mtime = (
        prop_oneof![1 => -2_000_000_000..0i64, 5 => 0..4_000_000_000i64],
        prop_oneof![1 => Just(0u32), 2 => 0..1_000_000_000u32],
    );
    let xattr = ("(user|trusted)\\.[a-z%=é.]{1,20}", prop::collection::vec(any::<u8>(), 0..60));
    let xattrs = prop_oneof![3 => Just(0usize), 2 => 1..3usize, 1 => Just(10usize)]
        .prop_flat_map(move |count| prop::collection::vec(xattr.clone(), count));
    (any::<usize>(), name(), kind(), 0..0o10000u32, (owner.clone(), owner), mtime, xattrs).prop_map(
        |(parent, name, kind, mode, owner, mtime, xattrs)| Node {
            parent,
            name,
            kind,
            mode,
            owner,
            mtime,
            xattrs,
        },
    )
}

/// Random trees of up to `count` entries.
pub fn nodes(count: usize) -> impl Strategy<Value = Vec<Node>> {
    prop::collection::vec(node(), 0..count)
}

/// Makes the entries, but for those whose name is taken, below an existing directory.
pub fn make(root: &Path, nodes: &[Node]) {
    let mut directories = vec![root.to_owned()];
    let mut files: Vec<PathBuf> = Vec::new();
    let mut times = Vec::new();
    for (number, node) in nodes.iter().enumerate() {
        let path = directories[node.parent % directories.len()].join(OsStr::from_bytes(&node.name));
        if fs::symlink_metadata(&path).is_ok() {
            continue;
        }
        let is_symlink = matches!(node.kind, Kind::Symlink(_));
        match &node.kind {
            Kind::Directory => {
                fs::create_dir(&path).unwrap();
                directories.push(path.clone());
            }
            Kind::File { size, noise, hole } => {
                let file = File::create(&path).unwrap();
                file.write_all_at(&bytes(*size, if *noise { number as u64 + 1 } else { 0 }), *hole).unwrap();
                file.set_len(*hole + *size as u64).unwrap();
                files.push(path.clone());
            }
            Kind::Symlink(target) => std::os::unix::fs::symlink(OsStr::from_bytes(target), &path).unwrap(),
            Kind::HardLink(_) if files.is_empty() => continue,
            Kind::HardLink(file) => {
                fs::hard_link(&files[file % files.len()], &path).unwrap();
                continue;
            }
            Kind::Fifo => nix::unistd::mkfifo(&path, Mode::empty()).unwrap(),
            Kind::Device { block, major, minor } => {
                let kind = if *block { SFlag::S_IFBLK } else { SFlag::S_IFCHR };
                mknod(&path, kind, Mode::empty(), makedev(*major, *minor)).unwrap();
            }
        }
        for (name, value) in &node.xattrs {
            // Only root's attributes may be set on everything.
            let is_plain = matches!(node.kind, Kind::Directory | Kind::File { .. });
            if is_plain || name.starts_with("trusted.") {
                xattr::set(&path, name, value).unwrap();
            }
        }
        std::os::unix::fs::lchown(&path, Some(node.owner.0), Some(node.owner.1)).unwrap();
        if !is_symlink {
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(node.mode)).unwrap();
        }
        times.push((path, node.mtime));
    }
    // What is put into a directory changes its time.
    for (path, (seconds, nanoseconds)) in times {
        let time = TimeSpec::new(seconds, i64::from(nanoseconds));
        utimensat(AT_FDCWD, &path, &time, &time, UtimensatFlags::NoFollowSymlink).unwrap();
    }
}

/// Bytes that follow from a seed; 0: text.
fn bytes(len: usize, seed: u64) -> Vec<u8> {
    if seed == 0 {
        return b"all work and no play makes a dull blob\n".iter().copied().cycle().take(len).collect();
    }
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}
