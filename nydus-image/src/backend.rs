//! Where a command finds the blobs of an image: a file, a directory, or a configured backend.
//!
//! Configurations are those of spec/config.md §4: the settings of one backend, or a whole configuration of the daemon,
//! version 1 or 2, of which only the backend is looked at. Keys that mean nothing here are passed over.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use storage::backend::Backend;
use storage::backend::localdisk::{LocalDisk, LocalDiskConfig};
use storage::backend::localfs::{LocalFs, LocalFsConfig};
use storage::blob::BlobDescription;

use crate::error::{Error, Result};

/// What a command line says about the place of blobs; the first that is given counts.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// The only blob.
    pub file: Option<PathBuf>,
    /// A directory of blobs, named by their ids.
    pub directory: Option<PathBuf>,
    /// The type of a backend, and its settings as JSON.
    pub backend: Option<(String, String)>,
    /// A configuration of the daemon.
    pub config: Option<PathBuf>,
}

impl Place {
    /// The backend that has `blobs`.
    pub fn open(&self, blobs: &[Arc<BlobDescription>]) -> Result<Arc<dyn Backend>> {
        if let Some(file) = &self.file {
            let objects: HashSet<_> = blobs.iter().flat_map(|blob| [&blob.id, blob.meta_object()]).collect();
            if objects.len() > 1 {
                let count = objects.len();
                return Err(Error::Usage(format!(
                    "--blob: the image is spread over {count} files, --blob-dir is needed"
                )));
            }
            return localfs(LocalFsConfig { blob_file: Some(file.clone()), ..LocalFsConfig::default() });
        }
        if let Some(dir) = &self.directory {
            return localfs(LocalFsConfig { dir: Some(dir.clone()), ..LocalFsConfig::default() });
        }
        if let Some((kind, settings)) = &self.backend {
            let settings = serde_json::from_str(settings)
                .map_err(|error| Error::Usage(format!("--backend-config: {error}")))?;
            return configured(kind, settings, "--backend-config");
        }
        match &self.config {
            Some(path) => {
                let (kind, settings) = of_daemon(path)?;
                configured(&kind, settings, &path.display().to_string())
            }
            // Nobody will ask it.
            None if blobs.is_empty() => {
                localfs(LocalFsConfig { dir: Some(".".into()), ..LocalFsConfig::default() })
            }
            None => {
                Err(Error::Usage("one of --blob, --blob-dir, --backend-type and --config is needed".into()))
            }
        }
    }
}

fn localfs(config: LocalFsConfig) -> Result<Arc<dyn Backend>> {
    Ok(Arc::new(LocalFs::new(config)?))
}

#[derive(Deserialize)]
struct LocalFsSettings {
    blob_file: Option<PathBuf>,
    dir: Option<PathBuf>,
    #[serde(default)]
    alt_dirs: Vec<PathBuf>,
}

#[derive(Deserialize)]
struct LocalDiskSettings {
    device_path: PathBuf,
    #[serde(default)]
    disable_gpt: bool,
}

/// A backend of this type; `origin` is what errors call the settings.
fn configured(kind: &str, settings: Value, origin: &str) -> Result<Arc<dyn Backend>> {
    match kind {
        "localfs" => {
            let LocalFsSettings { blob_file, dir, alt_dirs } = settings_of(settings, origin)?;
            // In settings an empty path is as good as none.
            let given = |path: Option<PathBuf>| path.filter(|path| !path.as_os_str().is_empty());
            localfs(LocalFsConfig { blob_file: given(blob_file), dir: given(dir), alt_dirs })
        }
        "localdisk" => {
            let LocalDiskSettings { device_path, disable_gpt } = settings_of(settings, origin)?;
            Ok(Arc::new(LocalDisk::new(LocalDiskConfig { device_path, disable_gpt })?))
        }
        "oss" | "s3" | "registry" | "http-proxy" => {
            Err(Error::Usage(format!("{origin}: backend type {kind}: not supported yet")))
        }
        other => Err(Error::Usage(format!("{origin}: unknown backend type {other:?}"))),
    }
}

fn settings_of<T: DeserializeOwned>(settings: Value, origin: &str) -> Result<T> {
    serde_json::from_value(settings).map_err(|error| Error::Usage(format!("{origin}: {error}")))
}

/// Type and settings of the backend in a configuration of the daemon, JSON or TOML.
fn of_daemon(path: &Path) -> Result<(String, Value)> {
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    let document: Value = if text.trim_start().starts_with('{') {
        serde_json::from_str(&text).map_err(|error| Error::entry(path, error.to_string()))?
    } else {
        toml::from_str(&text).map_err(|error| Error::entry(path, error.to_string()))?
    };
    let (backend, settings_key) = match document.get("version").and_then(Value::as_u64) {
        Some(2) => (document.get("backend"), None),
        _ => (document.get("device").and_then(|device| device.get("backend")), Some("config")),
    };
    let backend = backend.ok_or_else(|| Error::entry(path, "names no backend"))?;
    let kind = backend.get("type").and_then(Value::as_str);
    let kind = kind.ok_or_else(|| Error::entry(path, "the backend has no type"))?;
    let settings = backend.get(settings_key.unwrap_or(kind));
    let settings = settings.ok_or_else(|| Error::entry(path, format!("has no settings for {kind}")))?;
    Ok((kind.to_owned(), settings.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(place: &Place) -> String {
        let description = || -> Vec<Arc<BlobDescription>> { Vec::new() };
        place.open(&description()).unwrap_err().to_string()
    }

    #[test]
    fn both_versions_of_the_daemons_configuration_are_understood() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("v1.json", r#"{"device":{"backend":{"type":"localfs","config":{"dir":"/b"}}},"mode":"direct"}"#),
            ("v2.toml", "version = 2\n[backend]\ntype = \"localfs\"\n[backend.localfs]\ndir = \"/b\"\n"),
        ] {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            let (kind, settings) = of_daemon(&path).unwrap();
            assert_eq!((kind.as_str(), settings["dir"].as_str()), ("localfs", Some("/b")), "{name}");
            assert!(Place { config: Some(path), ..Place::default() }.open(&[]).is_ok());
        }
        let path = dir.path().join("none.json");
        fs::write(&path, "{}").unwrap();
        assert!(of_daemon(&path).unwrap_err().to_string().ends_with("names no backend"));
    }

    #[test]
    fn backends_that_do_not_exist_are_refused_by_name() {
        let place = |kind: &str, settings: &str| Place {
            backend: Some((kind.into(), settings.into())),
            ..Place::default()
        };
        assert!(error(&place("s3", "{}")).contains("s3: not supported yet"));
        assert!(error(&place("tape", "{}")).contains("unknown backend type \"tape\""));
        assert!(error(&place("localdisk", "{}")).contains("device_path"));
        assert!(error(&place("localfs", "{")).contains("--backend-config"));
        assert!(place("localfs", r#"{"dir":"/b","readahead":true}"#).open(&[]).is_ok());
    }
}
