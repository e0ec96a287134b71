//! The configuration of all programs. One document describes one mount: where its blobs come from, where they are
//! kept, how the tree is served.
//!
//! There is one typed model, [`Config`], and there are three ways to write it: JSON and TOML after schema v2,
//! JSON after schema v1 (docs/configuration.md). What a reader returns is valid: every range, every
//! combination of keys and every required key was checked while it was read, so nobody checks again.
//!
//! Texts are read by hand through [`section::Section`] rather than derived: a key is read where its default,
//! range and unit stand; an error names the full path of the key, what was expected and what was found, the
//! same for all three forms; what nobody asked for is left over and becomes a warning; and a secret is never
//! quoted by an error.
//!
//! The settings of backends that speak HTTP are the types that `storage` takes; only their reading is here.
//!
//! Secrets are of the types [`Secret`], [`storage::secret::SecretUrl`] and [`EncryptionKey`], which print as `***`.

mod backend;
mod cache;
mod document;
mod error;
mod http;
mod info;
mod node;
mod object_store;
mod rafs;
mod registry;
mod secret;
mod section;
#[cfg(test)]
mod tests;
mod tracing;
mod v1;
mod v2;

use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

pub use self::tracing::Tracing;
pub use backend::{Backend, ExternalBackend, Localdisk, Localfs};
pub use cache::{Cache, CacheKind, Encryption, FileCache, Fscache};
pub use error::{Error, Warning};
pub use rafs::{IdMapping, Mode, Overlay, Prefetch, Rafs};
pub use secret::EncryptionKey;
use storage::secret::Secret;

/// The longest configuration text, in bytes.
pub const MAX_TEXT: usize = 1 << 20;

/// One valid configuration.
///
/// The parts are optional as in schema v2; whoever needs a part asks for it with [`Config::backend`] or
/// [`Config::rafs`] and gets an error that names the missing table. `Debug` prints no
/// secret.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Names the cache in metrics; may be empty.
    pub id: String,
    /// Where blobs are read from.
    pub backend: Option<Backend>,
    /// Settings merged into the backends of images with external blobs.
    pub external_backends: Vec<ExternalBackend>,
    /// Where blobs are kept; in memory if the text does not say.
    pub cache: Cache,
    /// How the tree is served.
    pub rafs: Option<Rafs>,
    /// The writable layer above the image.
    pub overlay: Option<Overlay>,
    /// Where traces are sent.
    pub tracing: Option<Tracing>,
}

/// A configuration, and what its text says that means nothing to us.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// The configuration.
    pub config: Config,
    /// Unknown keys and settings without effect, in the order of their paths.
    pub warnings: Vec<Warning>,
}

impl Parsed {
    /// The configuration; each warning becomes a log line that names `origin`.
    pub fn log_warnings(self, origin: &str) -> Config {
        for warning in &self.warnings {
            ::tracing::warn!("{origin}: {warning}");
        }
        self.config
    }
}

impl Config {
    /// Reads and parses the file at `path`, of at most [`MAX_TEXT`] bytes. Errors begin with the path.
    pub fn load(path: &Path) -> Result<Parsed, Error> {
        let origin = path.display().to_string();
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX_TEXT as u64 + 1).read_to_end(&mut bytes))
            .map_err(|source| Error::Unreadable { origin: origin.clone(), source })?;
        Self::parse(&bytes, &origin)
    }

    /// Parses a configuration text. `origin` says in errors where the text comes from: a file name or a
    /// request.
    pub fn parse(text: &[u8], origin: &str) -> Result<Parsed, Error> {
        document::parse(text).map_err(|failure| failure.at(origin))
    }

    /// A configuration of one backend and nothing else, as `--backend-type kind --backend-config settings` gives it:
    /// `settings` is a JSON object of the keys that a backend of this kind has in either schema. `origin` says in errors
    /// where it comes from; keys are named without a prefix.
    pub fn for_backend(kind: &str, settings: &[u8], origin: &str) -> Result<Parsed, Error> {
        document::parse_backend(kind, settings).map_err(|failure| failure.at(origin))
    }

    /// What `--localfs-dir dir` stands for: blobs and their cache both lie in `dir`.
    pub fn for_localfs_dir(dir: &Path) -> Self {
        Self {
            backend: Some(Backend::Localfs(Localfs { dir: Some(dir.to_owned()), ..Localfs::default() })),
            cache: Cache::file(dir),
            rafs: Some(Rafs::default()),
            ..Self::empty()
        }
    }

    /// Nothing is given.
    fn empty() -> Self {
        Self {
            id: String::new(),
            backend: None,
            external_backends: Vec::new(),
            cache: Cache::default(),
            rafs: None,
            overlay: None,
            tracing: None,
        }
    }

    /// The backend, or an error that says how to name one.
    pub fn backend(&self) -> Result<&Backend, Error> {
        self.backend.as_ref().ok_or(Error::Absent { key: "backend", purpose: "where blobs are read from" })
    }

    /// The settings of the tree, or an error that says how to give them.
    pub fn rafs(&self) -> Result<&Rafs, Error> {
        self.rafs.as_ref().ok_or(Error::Absent { key: "rafs", purpose: "how the image is served" })
    }

    /// Applies the environment: `IMAGE_PULL_AUTH`, if it is set and not empty, replaces the registry's `auth`; each
    /// `NYDUS_HEADER_<Name>` is sent as the header `<Name>` with each request. Other backends have no use for them.
    pub fn apply_environment(&mut self) -> Result<(), Error> {
        self.apply(std::env::vars_os())
    }

    fn apply(&mut self, variables: impl Iterator<Item = (OsString, OsString)>) -> Result<(), Error> {
        const AUTH: &str = "IMAGE_PULL_AUTH";
        for (name, value) in variables {
            let Some(name) = name.to_str() else { continue };
            let header = name.strip_prefix("NYDUS_HEADER_");
            if name != AUTH && header.is_none() {
                continue;
            }
            let value = value.into_string().map_err(|_| {
                error::Problem::value(name, "expected text, found bytes that are not UTF-8").at("environment")
            })?;
            match header {
                Some(header) => {
                    if let Some(http) = self.backend.as_mut().and_then(Backend::http_mut) {
                        http.headers.insert(header.to_owned(), Secret::new(value));
                    }
                }
                None if value.is_empty() => {}
                None => self.override_registry_auth(&value, AUTH)?,
            }
        }
        Ok(())
    }

    /// Replaces the registry's `auth`. `origin` says in an error where `auth` comes from. Nothing happens if
    /// the backend is no registry.
    pub fn override_registry_auth(&mut self, auth: &str, origin: &str) -> Result<(), Error> {
        if let Some(Backend::Registry(registry)) = &mut self.backend {
            let auth = Secret::new(auth);
            registry::check_auth(origin, &auth).map_err(|problem| problem.at("environment"))?;
            registry.auth = Some(auth);
        }
        Ok(())
    }
}

/// Feeds hostile bytes to the readers: whatever they are, the result is a configuration or an error, never a
/// panic.
#[doc(hidden)]
pub fn fuzzing(bytes: &[u8]) {
    match Config::parse(bytes, "fuzz") {
        Ok(parsed) => {
            let _ = format!("{:?} {}", parsed, parsed.config.to_daemon_info());
        }
        Err(error) => {
            let _ = error.to_string();
        }
    }
}
