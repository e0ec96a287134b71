//! The bootstrap inside a data blob: taken out into memory, or into a file that is mapped.

use std::fs::{self, File, OpenOptions as FileOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use storage::blob::extract_bootstrap;

use crate::error::{Error, Result};
use crate::image::Image;

/// The bootstrap inside the blob `file` at `path`, or `None` if there is none.
///
/// With a directory given (made if missing) it is written there as `<name of the blob>.image.boot` and mapped from there. It is
/// written anew each time, under another name first: who has mapped the one before keeps it, and nothing that
/// lay there is trusted.
pub(crate) fn extract(path: &Path, file: &File, directory: Option<&Path>) -> Result<Option<Image>> {
    let extracted = extract_bootstrap(file, &path.display().to_string());
    let bytes = match extracted.map_err(|source| Error::Blob { path: path.into(), source })? {
        None => return Ok(None),
        Some(bytes) => bytes,
    };
    let Some((directory, blob)) = directory.zip(path.file_name()) else {
        return Ok(Some(Image::owned(path, bytes)));
    };
    let mut name = blob.to_owned();
    name.push(".image.boot");
    let target = directory.join(name);
    match fs::create_dir_all(directory).and_then(|()| write(&target, &bytes)) {
        Ok(file) => Image::map(&target, &file).map(Some),
        Err(source) => Err(Error::Io { path: target.into(), source }),
    }
}

/// Writes the file, so that it is whole as soon as it has its name.
fn write(target: &Path, bytes: &[u8]) -> io::Result<File> {
    /// Tells apart what this process writes at the same time.
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let mut temporary = target.to_owned().into_os_string();
    temporary.push(format!(".{}.{}", process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)));
    let temporary = PathBuf::from(temporary);
    let written = || {
        let mut file = FileOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o644)
            .open(&temporary)?;
        file.write_all(bytes)?;
        fs::rename(&temporary, target)?;
        Ok(file)
    };
    written().inspect_err(|_| {
        // What could not be finished is in the way of nobody, but of no use either.
        let _ = fs::remove_file(&temporary);
    })
}
