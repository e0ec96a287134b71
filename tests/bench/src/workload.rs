//! What is done to a tree: listed, or read.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::DirEntryExt;
use std::path::Path;
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
            let named = || path.display().to_string();
            let mut file = File::open(&path).with_context(named)?;
            seen.files += 1;
            loop {
                match file.read(buffer).with_context(named)? {
                    0 => break,
                    len => {
                        seen.bytes += len as u64;
                        take(&buffer[..len]);
                    }
                }
            }
        }
    }
    Ok(())
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
