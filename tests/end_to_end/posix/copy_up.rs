//! What an overlay makes of changes is the same whether an image lies under it or the tree that the image was built from.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use nydus_tests::require_mounts;

use crate::support::{VERSIONS, Workshop};

/// A change of the entry of this path.
type Change = fn(&Path) -> io::Result<()>;

const CHANGES: [(&str, Change); 21] = [
    ("chmod", |path| fs::set_permissions(path, fs::Permissions::from_mode(0o2710))),
    ("chown", |path| chown(path, Some(1234), Some(4321))),
    ("lchown", |path| lchown(path, Some(1234), None)),
    ("link", |path| fs::hard_link(path, beside(path, "linked"))),
    ("rename", |path| fs::rename(path, beside(path, "renamed"))),
    ("rename into a directory", |path| fs::rename(path, path.parent().unwrap().join("other/renamed"))),
    ("rename over", |path| fs::rename(path, path.parent().unwrap().join("victim"))),
    ("unlink", |path| fs::remove_file(path)),
    ("rmdir", |path| fs::remove_dir(path)),
    ("remove and make again", |path| {
        fs::remove_file(path).or_else(|_| fs::remove_dir_all(path))?;
        fs::create_dir(path)
    }),
    ("utimes", |path| {
        let time = TimeSpec::new(1_000_000, 123_456_789);
        Ok(utimensat(AT_FDCWD, path, &time, &time, UtimensatFlags::NoFollowSymlink)?)
    }),
    ("utimes of the target", |path| {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(77);
        File::open(path)?.set_times(fs::FileTimes::new().set_modified(time).set_accessed(time))
    }),
    ("truncate", |path| OpenOptions::new().write(true).open(path)?.set_len(3)),
    ("extend", |path| OpenOptions::new().write(true).open(path)?.set_len(9000)),
    ("empty", |path| OpenOptions::new().write(true).truncate(true).open(path).map(drop)),
    ("append", |path| io::Write::write_all(&mut OpenOptions::new().append(true).open(path)?, b"appended")),
    ("setxattr", |path| xattr::set_deref(path, "user.new", b"value")),
    ("lsetxattr", |path| xattr::set(path, "trusted.new", b"value")),
    ("removexattr", |path| xattr::remove(path, "user.old")),
    ("exchange", |path| exchange(path, &path.parent().unwrap().join("victim"))),
    ("exchange with a directory", |path| exchange(path, &path.parent().unwrap().join("other"))),
];

const OBJECTS: [&str; 9] =
    ["file", "empty", "directory", "full", "link", "chain", "dangling", "hard1", "fifo"];

fn beside(path: &Path, suffix: &str) -> PathBuf {
    path.with_file_name(format!("{}-{suffix}", path.file_name().unwrap().display()))
}

fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    Ok(renameat2(AT_FDCWD, a, AT_FDCWD, b, RenameFlags::RENAME_EXCHANGE)?)
}

/// A directory with all that can be changed, for each change of each object.
fn fill(root: &Path) {
    for (change, _) in CHANGES {
        for object in OBJECTS {
            let at = root.join(change).join(object);
            fs::create_dir_all(at.join("directory")).unwrap();
            fs::create_dir_all(at.join("full/below")).unwrap();
            fs::create_dir(at.join("other")).unwrap();
            for name in ["file", "full/file", "full/below/file", "victim", "hard1", "other/file"] {
                fs::write(at.join(name), format!("content of {name}")).unwrap();
            }
            fs::write(at.join("empty"), "").unwrap();
            fs::hard_link(at.join("hard1"), at.join("hard2")).unwrap();
            fs::hard_link(at.join("hard1"), at.join("other/hard3")).unwrap();
            for (name, target) in
                [("link", "file"), ("chain", "link"), ("dangling", "nowhere"), ("over", "full/below")]
            {
                symlink(target, at.join(name)).unwrap();
            }
            nix::unistd::mkfifo(&at.join("fifo"), nix::sys::stat::Mode::from_bits_truncate(0o640)).unwrap();
            for name in ["file", "full", "hard1"] {
                xattr::set(at.join(name), "user.old", name.as_bytes()).unwrap();
            }
        }
    }
}

/// The tree: every field that does not depend on which overlay it is. Times that were made just now are "now".
fn listing(root: &Path, began: SystemTime) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let (mode, nlink, uid, gid) = (metadata.mode(), metadata.nlink(), metadata.uid(), metadata.gid());
        let mtime = metadata.modified().unwrap();
        // A second of slack: the kernel's clock for files is coarse.
        let mtime = if mtime + Duration::from_secs(1) >= began { "now".into() } else { format!("{mtime:?}") };
        let mut line = format!("{mode:o} {nlink} {uid}:{gid} {mtime}");
        if metadata.is_file() {
            let _ = write!(line, " {:?}", String::from_utf8(fs::read(&path).unwrap()).unwrap());
        } else if metadata.is_symlink() {
            let _ = write!(line, " -> {:?}", fs::read_link(&path).unwrap());
        } else {
            pending.extend(fs::read_dir(&path).into_iter().flatten().map(|entry| entry.unwrap().path()));
        }
        let mut names: Vec<_> = xattr::list(&path).unwrap().collect();
        names.sort();
        for name in names {
            let _ = write!(line, " {}={:?}", name.display(), xattr::get(&path, &name).unwrap());
        }
        found.insert(path.strip_prefix(root).unwrap().display().to_string(), line);
    }
    found
}

/// Makes all changes: what each came to.
fn change(root: &Path) -> BTreeMap<(&'static str, &'static str), Option<i32>> {
    let mut outcomes = BTreeMap::new();
    for (name, change) in CHANGES {
        for object in OBJECTS {
            let path = root.join(name).join(object).join(object);
            // A fifo without a writer would wait.
            if object == "fifo"
                && ["truncate", "extend", "empty", "append", "utimes of the target"].contains(&name)
            {
                continue;
            }
            outcomes.insert((name, object), change(&path).err().map(|error| error.raw_os_error().unwrap()));
        }
    }
    outcomes
}

#[test]
fn changes_of_an_overlay_are_the_same_on_an_image_as_on_its_source() {
    require_mounts!();
    let workshop = Workshop::new();
    fill(&workshop.source());
    // What is old must look old.
    std::thread::sleep(Duration::from_millis(1100));
    for version in VERSIONS {
        let daemon = workshop.mount(version);
        let ours = workshop.overlay(&format!("ours{version}"), daemon.mountpoint());
        let theirs = workshop.overlay(&format!("theirs{version}"), &workshop.source());
        let began = SystemTime::now();
        let (expected, found) = (change(&theirs.0), change(&ours.0));
        assert!(expected.values().any(Option::is_none) && expected.values().any(Option::is_some));
        assert_eq!(found, expected, "v{version}: outcomes");
        let (expected, found) = (listing(&theirs.0, began), listing(&ours.0, began));
        let paths: Vec<_> = expected.keys().collect();
        assert_eq!(found.keys().collect::<Vec<_>>(), paths, "v{version}");
        let wrong: Vec<_> = paths.into_iter().filter(|path| expected[*path] != found[*path]).collect();
        let shown: Vec<_> =
            wrong.iter().take(20).map(|path| (path, &expected[*path], &found[*path])).collect();
        assert!(wrong.is_empty(), "v{version}: {} differ: {shown:#?}", wrong.len());
        drop((ours, theirs));
        daemon.unmount();
    }
}
