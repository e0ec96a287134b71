//! What is done to a tree: listed, or read.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Bytes of one `read`.
const BUFFER: usize = 128 << 10;

/// What reading a tree has seen. Trees that should be the same must agree in it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Seen {
    /// Regular files.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
}

impl std::iter::Sum for Seen {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |a, b| Self { files: a.files + b.files, bytes: a.bytes + b.bytes })
    }
}

/// `find -ls`.
pub fn find(root: &Path) -> Result<()> {
    let status = Command::new("find").arg(root).arg("-ls").stdout(Stdio::null()).status().context("find")?;
    if !status.success() {
        bail!("find {}: {status}", root.display());
    }
    Ok(())
}

/// Reads every file, each directory in the order of its inode numbers, as GNU tar does: that is how a tree is read
/// fast from a disk. `take` gets the bytes.
pub fn read(root: &Path, take: &mut impl FnMut(&[u8])) -> Result<Seen> {
    let (mut seen, mut buffer) = (Seen::default(), vec![0; BUFFER]);
    read_directory(root, &mut buffer, &mut seen, take)?;
    Ok(seen)
}

fn read_directory(
    directory: &Path,
    buffer: &mut [u8],
    seen: &mut Seen,
    take: &mut impl FnMut(&[u8]),
) -> Result<()> {
    let named = || directory.display().to_string();
    let entries: std::io::Result<Vec<_>> = fs::read_dir(directory).with_context(named)?.collect();
    let mut entries = entries.with_context(named)?;
    entries.sort_by_key(DirEntryExt::ino);
    for entry in entries {
        let (path, file_type) = (entry.path(), entry.file_type()?);
        if file_type.is_dir() {
            read_directory(&path, buffer, seen, take)?;
        } else if file_type.is_file() {
            read_file(&path, buffer, seen, take)?;
        }
    }
    Ok(())
}

fn read_file(path: &Path, buffer: &mut [u8], seen: &mut Seen, take: &mut impl FnMut(&[u8])) -> Result<()> {
    let named = || path.display().to_string();
    let mut file = File::open(path).with_context(named)?;
    seen.files += 1;
    loop {
        match file.read(buffer).with_context(named)? {
            0 => return Ok(()),
            len => {
                seen.bytes += len as u64;
                take(&buffer[..len]);
            }
        }
    }
}

/// The regular files of a tree in the order in which [`read`] reads them, with their sizes.
pub fn list(root: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let mut files = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        let named = || directory.display().to_string();
        let entries: std::io::Result<Vec<_>> = fs::read_dir(&directory).with_context(named)?.collect();
        let mut entries = entries.with_context(named)?;
        entries.sort_by_key(DirEntryExt::ino);
        for entry in entries {
            let file_type = entry.file_type()?;
            if file_type.is_file() {
                files.push((entry.path(), entry.metadata()?.len()));
            } else if file_type.is_dir() {
                directories.push(entry.path());
            }
        }
    }
    Ok(files)
}

/// Cuts a list of files into `count` runs that have about as many bytes each.
pub fn parts(files: &[(PathBuf, u64)], count: u64) -> Vec<&[(PathBuf, u64)]> {
    let total: u64 = files.iter().map(|file| file.1).sum();
    let mut before = 0;
    let numbers: Vec<u64> = files
        .iter()
        .map(|file| {
            let number = before * count / total.max(1);
            before += file.1;
            number
        })
        .collect();
    let mut parts = Vec::new();
    let mut start = 0;
    for number in 0..count {
        let end = numbers.partition_point(|other| *other <= number);
        parts.push(&files[start..end]);
        start = end;
    }
    parts
}

/// Reads files one after the other.
pub fn read_files(files: &[(PathBuf, u64)]) -> Result<Seen> {
    let (mut seen, mut buffer) = (Seen::default(), vec![0; BUFFER]);
    for (path, _) in files {
        read_file(path, &mut buffer, &mut seen, &mut |_| ())?;
    }
    Ok(seen)
}

/// A digest of the contents of all files, in the order of their paths' depth-first walk by name.
///
/// Not timed: it shows that a mount is of the right tree.
pub fn digest(root: &Path) -> Result<(Seen, blake3::Hash)> {
    let (mut seen, mut hasher, mut buffer) = (Seen::default(), blake3::Hasher::new(), vec![0; 1 << 20]);
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        let named = || directory.display().to_string();
        let entries: std::io::Result<Vec<_>> = fs::read_dir(&directory).with_context(named)?.collect();
        let mut entries = entries.with_context(named)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (path, file_type) = (entry.path(), entry.file_type()?);
            if file_type.is_dir() {
                directories.push(path);
            } else if file_type.is_file() {
                let named = || path.display().to_string();
                let mut file = File::open(&path).with_context(named)?;
                hasher.update(entry.file_name().as_encoded_bytes());
                seen.files += 1;
                loop {
                    let len = file.read(&mut buffer).with_context(named)?;
                    if len == 0 {
                        break;
                    }
                    seen.bytes += len as u64;
                    hasher.update(&buffer[..len]);
                }
            }
        }
    }
    Ok((seen, hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_disjoint_and_about_as_large() {
        let files: Vec<_> = (0..100).map(|number| (PathBuf::new(), number % 7)).collect();
        let parts = parts(&files, 8);
        assert_eq!(parts.len(), 8);
        assert_eq!(parts.concat(), files);
        let sizes: Vec<u64> = parts.iter().map(|part| part.iter().map(|file| file.1).sum()).collect();
        assert!(sizes.iter().all(|size| (30..=45).contains(size)), "{sizes:?}");
        assert_eq!(super::parts(&[], 8), [[].as_slice(); 8]);
    }
}
