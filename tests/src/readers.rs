//! Reading files of a mount in ways that matter: past the page cache, at random, many at once, compared with a model.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::fixtures::Files;
use crate::rng::Rng;

/// Opens a file so that every read is a request to the daemon, of exactly the range asked for: no page cache, no
/// readahead.
pub fn open_direct(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(nix::libc::O_DIRECT).open(path)
}

/// Reads `len` bytes at `offset`. Fewer than that is an error, since a short answer means the end of the file.
pub fn read_at(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

/// A piece of a file and the bytes that must be there.
#[derive(Clone, Debug)]
pub struct Piece {
    /// The file, relative to the root of the image.
    pub path: PathBuf,
    /// Where the piece begins.
    pub offset: u64,
    /// Its content.
    pub content: Vec<u8>,
}

impl Piece {
    /// A random piece, at most `max_len` bytes, of a random file of `files`. Larger files come up more often: by
    /// their size in pieces.
    pub fn random(rng: &mut Rng, files: &Files, max_len: usize) -> Self {
        let weight = |content: &[u8]| content.len().div_ceil(max_len) as u64;
        let total: u64 = files.values().map(|content| weight(content)).sum();
        let mut ticket = rng.below(total);
        let (path, content) = files
            .iter()
            .find(|(_, content)| {
                let found = ticket < weight(content);
                ticket = ticket.saturating_sub(weight(content));
                found
            })
            .expect("a ticket below the total weight");
        let start = rng.index(content.len());
        let len = 1 + rng.index(max_len.min(content.len() - start));
        let content = content[start..start + len].to_vec();
        Self { path: path.clone(), offset: start as u64, content }
    }

    /// Fails the test unless reading the piece below `root`, past the page cache, brings its content.
    pub fn assert_read(&self, root: &Path) {
        let path = root.join(&self.path);
        let file = open_direct(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let found = read_at(&file, self.offset, self.content.len());
        let found = found.unwrap_or_else(|error| panic!("{} at {}: {error}", path.display(), self.offset));
        assert!(found == self.content, "wrong bytes in {} at {}", path.display(), self.offset);
    }
}

/// Reads whole files below `root`, in the order given, until one fails; adds what it read to `progress`. Every
/// byte is compared with the model: an error is an answer that a dying daemon may give, a wrong byte never is.
pub fn read_all<'a>(
    root: &Path,
    files: impl IntoIterator<Item = (&'a PathBuf, &'a std::sync::Arc<[u8]>)>,
    progress: &AtomicU64,
) -> io::Result<()> {
    for (path, content) in files {
        let file = File::open(root.join(path))?;
        let mut offset = 0;
        for expected in content.chunks(128 << 10) {
            let found = read_at(&file, offset, expected.len())?;
            assert!(found == expected, "wrong bytes in {} at {offset}", path.display());
            offset += expected.len() as u64;
            progress.fetch_add(expected.len() as u64, Ordering::Relaxed);
        }
    }
    Ok(())
}
