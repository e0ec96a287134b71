//! Where our own files of a cache directory lie, and how they go away.
//!
//! ```text
//! WORK_DIR/ID.blob.data               the format's, as are the other files here
//! WORK_DIR/nydusd/ID.blob.data.trust  ours, about the data file of that name
//! ```
//!
//! Collectors of orchestrators know the format's names and remove them, and trip over every other *file* of the
//! directory; sub-directories are left alone. So what is ours lies in one, and is ours to remove.
//!
//! In the end nothing of ours is left: a daemon that ends in order keeps its knowledge in an attribute of the data file
//! ([`crate::seal`]) and removes the trust file, and with the last one the directory.
//!
//! Releases before had the trust file beside its data file. It is moved at the next open ([`take_over`]), and stays one
//! inode: a daemon of such a release that has it open goes on sharing bits and claims with us.
//!
//! Invariant of [`sweep`]: the trust file of a data file that has a name is never lost, whoever opens it meanwhile. The
//! order does it, without a lock: an opener makes the data file first and looks for its trust file then; the sweep takes
//! the trust file's name away first and looks for the data file then. If it is there after all, the name is given back,
//! unless the opener has already made a new trust file under it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// The sub-directory.
const DIRECTORY: &str = "nydusd";
const SUFFIX: &str = ".trust";
/// Entries that one sweep looks at, at most.
const MOST: usize = 16 << 10;
/// A file that is being made gets its name within this time, or never will.
const UNFINISHED: Duration = Duration::from_secs(3600);

/// The directory of our own files in `work_dir`.
pub(crate) fn directory(work_dir: &Path) -> PathBuf {
    work_dir.join(DIRECTORY)
}

/// The name of the trust file of a data file.
pub(crate) fn trust_of(data: &Path) -> PathBuf {
    directory(parent(data)).join(with_suffix(data.file_name().unwrap_or_default()))
}

/// A name for what will be the file at `path` of the format when it is finished: among our own files, where nobody else
/// trips over it and [`sweep`] finds what never was.
pub(crate) fn unfinished(path: &Path) -> PathBuf {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}-{serial}.new", std::process::id()));
    directory(parent(path)).join(name)
}

/// Makes the directory, and moves a trust file of an older release there unless there is one. The caller holds the
/// blob's set-up lock, as older releases do.
pub(crate) fn take_over(data: &Path, trust: &Path) -> io::Result<()> {
    make(parent(trust))?;
    let older = parent(data).join(with_suffix(data.file_name().unwrap_or_default()));
    match fs::symlink_metadata(&older) {
        Err(_) => Ok(()),
        // An older release has run since: what it has learnt is checked again, chunk by chunk.
        Ok(_) if trust.exists() => fs::remove_file(&older),
        Ok(_) => fs::rename(&older, trust),
    }
}

/// A stamp of `work_dir` that changes when a file in it is made, removed or renamed. `None` if it cannot be had.
pub(crate) fn stamp(work_dir: &Path) -> Option<(i64, i64)> {
    fs::metadata(work_dir).ok().map(|metadata| (metadata.mtime(), metadata.mtime_nsec()))
}

/// Removes our files of data files that are gone, and what was left unfinished. Looks at a bounded number of entries;
/// what fails is tried again the next time.
pub(crate) fn sweep(work_dir: &Path) {
    let Ok(entries) = fs::read_dir(directory(work_dir)) else { return };
    for entry in entries.take(MOST).flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        match name.as_bytes().strip_suffix(SUFFIX.as_bytes()) {
            Some(data) => {
                let data = work_dir.join(OsStr::from_bytes(data));
                if is_gone(&data) {
                    remove_orphan(&path, &data);
                }
            }
            None if is_older(&path, UNFINISHED) => drop(fs::remove_file(&path)),
            None => {}
        }
    }
}

/// Makes the file at `path`, one of ours under a name that no living process uses, for reading and writing.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    // A leftover of this very name is of a process that is gone: ids are used again.
    let _ = fs::remove_file(path);
    let mut tries = 0..8;
    loop {
        let file = File::options().read(true).write(true).create_new(true).mode(0o644).open(path);
        match file {
            // Somebody has removed the last file of the directory, and the directory.
            Err(error) if error.kind() == io::ErrorKind::NotFound && tries.next().is_some() => {
                make(parent(path))?
            }
            other => return other,
        }
    }
}

/// Removes `file`, which lies at `path` unless it has been replaced, and the directory if it was the last of our files.
pub(crate) fn remove(path: &Path, file: &File) -> io::Result<()> {
    let (ours, found) = (file.metadata()?, fs::symlink_metadata(path)?);
    if (ours.dev(), ours.ino()) == (found.dev(), found.ino()) {
        fs::remove_file(path)?;
        // Fails while it holds the files of other blobs.
        let _ = fs::remove_dir(parent(path));
    }
    Ok(())
}

/// Removes the trust file at `path` unless its data file is there. See the module for the order.
fn remove_orphan(path: &Path, data: &Path) {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}-{serial}.old", std::process::id()));
    if fs::rename(path, &aside).is_err() {
        return;
    }
    if !is_gone(data) {
        // Fails if there is a new one by now.
        let _ = fs::hard_link(&aside, path);
    }
    let _ = fs::remove_file(&aside);
}

fn make(directory: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o755).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn is_gone(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

fn is_older(path: &Path, age: Duration) -> bool {
    let modified = fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|modified| SystemTime::now().duration_since(modified).is_ok_and(|past| past > age))
}

fn with_suffix(name: &OsStr) -> OsString {
    let mut name = name.to_owned();
    name.push(SUFFIX);
    name
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_without_their_data_file_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let own = directory(dir.path());
        fs::create_dir(&own).unwrap();
        for name in ["kept.blob.data", "kept.blob.raw"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let files =
            ["kept.blob.data.trust", "kept.blob.raw.trust", "gone.blob.data.trust", "young.trust.1-0.new"];
        files.iter().for_each(|name| fs::write(own.join(name), name).unwrap());
        let old = own.join("old.trust.1-0.new");
        fs::write(&old, "").unwrap();
        let past = SystemTime::now() - 2 * UNFINISHED;
        File::options().write(true).open(&old).unwrap().set_modified(past).unwrap();
        sweep(dir.path());
        let mut left: Vec<_> = fs::read_dir(&own).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["kept.blob.data.trust", "kept.blob.raw.trust", "young.trust.1-0.new"]);
        assert!(dir.path().join("kept.blob.data").exists());
        sweep(&dir.path().join("no such directory"));
    }

    #[test]
    fn a_trust_file_whose_data_file_comes_back_keeps_its_name_and_inode() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("x.blob.data");
        let trust = trust_of(&data);
        fs::create_dir(directory(dir.path())).unwrap();
        fs::write(&trust, "bits").unwrap();
        let inode = fs::metadata(&trust).unwrap().ino();
        // The sweep has found the data file gone; then an opener makes it.
        fs::write(&data, "").unwrap();
        remove_orphan(&trust, &data);
        assert_eq!(fs::metadata(&trust).unwrap().ino(), inode);
        assert_eq!(fs::read_dir(directory(dir.path())).unwrap().count(), 1);
    }

    #[test]
    fn the_file_of_an_older_release_is_moved_once() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("x.blob.data");
        let (older, trust) = (dir.path().join("x.blob.data.trust"), trust_of(&data));
        take_over(&data, &trust).unwrap();
        fs::write(&older, "older").unwrap();
        take_over(&data, &trust).unwrap();
        assert!(!older.exists() && fs::read(&trust).unwrap() == b"older");
        fs::write(&older, "of an old daemon since").unwrap();
        take_over(&data, &trust).unwrap();
        assert!(!older.exists() && fs::read(&trust).unwrap() == b"older");
    }
}
