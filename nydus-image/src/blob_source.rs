//! Where a command finds the blobs of an image: a file, a directory, or any backend that nydusd knows.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use nydus_config::{Backend, Localfs};
use storage::backend;
use storage::blob::BlobDescription;
use storage::http::Commons;

use crate::error::{Error, Result};
use crate::serial::Serial;

/// What a command line says of it.
#[derive(Clone, Debug)]
pub enum BlobSource {
    /// This file is the only blob.
    File(PathBuf),
    /// A directory of blobs, named by their ids.
    Directory(PathBuf),
    /// A backend.
    Configured(Box<Backend>),
    /// Nothing: enough for an image without blobs.
    Absent,
}

impl BlobSource {
    /// The backend that has `blobs`.
    pub fn open(&self, blobs: &[Arc<BlobDescription>]) -> Result<Arc<dyn backend::Backend>> {
        let mut backend = match self {
            Self::File(file) => {
                let objects: HashSet<_> =
                    blobs.iter().flat_map(|blob| [&blob.id, blob.meta_object()]).collect();
                if objects.len() > 1 {
                    let count = objects.len();
                    return Err(Error::Usage(format!(
                        "--blob: the image is spread over {count} files, --blob-dir is needed"
                    )));
                }
                Backend::Localfs(Localfs { blob_file: Some(file.clone()), ..Localfs::default() })
            }
            Self::Directory(dir) => {
                Backend::Localfs(Localfs { dir: Some(dir.clone()), ..Localfs::default() })
            }
            Self::Configured(backend) => (**backend).clone(),
            // Nobody will ask it.
            Self::Absent if blobs.is_empty() => {
                Backend::Localfs(Localfs { dir: Some(".".into()), ..Localfs::default() })
            }
            Self::Absent => {
                return Err(Error::Usage(
                    "one of --blob, --blob-dir, --backend-type and --config is needed".into(),
                ));
            }
        };
        // Image converters open such a server for one unpacking. It reads a layer from front to back for whoever asks,
        // so that two requests at once spoil each other's bytes, and is silent while it skips to the beginning of a range.
        let is_converter =
            matches!(&backend, Backend::HttpProxy(server) if server.addr.expose().starts_with('/'));
        if is_converter && let Some(http) = backend.http_mut() {
            http.timeout = None;
        }
        let opened = backend.open(&Commons::new())?;
        Ok(if is_converter { Arc::new(Serial::new(opened)) } else { opened })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_blobs_needs_no_source() {
        assert!(BlobSource::Absent.open(&[]).is_ok());
        let dir = BlobSource::Directory("/nowhere".into());
        assert!(dir.open(&[]).is_ok());
    }
}
