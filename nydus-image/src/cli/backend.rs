//! Where blobs are: the options that commands share.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

use clap::Args;
use nydus_config::{Config, MAX_TEXT};

use crate::blob_source::BlobSource;
use crate::error::{Error, Result};

/// A configured backend.
#[derive(Args, Clone, Debug, Default)]
pub struct BackendArgs {
    /// Kind of place the blobs are in: localfs, localdisk, registry, oss, s3 or http-proxy
    #[arg(long, value_name = "TYPE")]
    pub backend_type: Option<String>,
    /// Settings of that backend as JSON, with the keys that nydusd's configuration has for it, such as {"dir": "/blobs"};
    /// passwords are better in a file, since every process of the machine sees command lines
    #[arg(long, value_name = "JSON", requires = "backend_type", conflicts_with = "backend_config_file")]
    pub backend_config: Option<String>,
    /// File with these settings
    #[arg(long, value_name = "FILE", requires = "backend_type")]
    pub backend_config_file: Option<PathBuf>,
    /// Configuration of nydusd, of which the backend is used
    #[arg(short = 'C', long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl BackendArgs {
    /// The source of the blobs: this backend, unless it is a file or directory.
    pub fn blob_source(&self, file: Option<PathBuf>, directory: Option<PathBuf>) -> Result<BlobSource> {
        if let Some(file) = file {
            return Ok(BlobSource::File(file));
        }
        if let Some(directory) = directory {
            return Ok(BlobSource::Directory(directory));
        }
        let Some(mut config) = self.config()? else { return Ok(BlobSource::Absent) };
        config.apply_environment()?;
        Ok(BlobSource::Configured(Box::new(config.backend()?.clone())))
    }

    fn config(&self) -> Result<Option<Config>> {
        let (parsed, origin) = match (&self.backend_type, &self.backend_config, &self.backend_config_file) {
            (Some(kind), Some(text), _) => {
                let origin = "--backend-config".to_owned();
                (Config::for_backend(kind, text.as_bytes(), &origin)?, origin)
            }
            (Some(kind), None, Some(path)) => {
                let mut text = Vec::new();
                let file = File::open(path).map_err(Error::io("open", path))?;
                file.take(MAX_TEXT as u64 + 1).read_to_end(&mut text).map_err(Error::io("read", path))?;
                let origin = path.display().to_string();
                (Config::for_backend(kind, &text, &origin)?, origin)
            }
            (Some(_), None, None) => {
                let text = "--backend-type: needs --backend-config or --backend-config-file";
                return Err(Error::Usage(text.into()));
            }
            (None, ..) => match &self.config {
                Some(path) => (Config::load(path)?, path.display().to_string()),
                None => return Ok(None),
            },
        };
        Ok(Some(parsed.log_warnings(&origin)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(args: BackendArgs) -> std::result::Result<(), String> {
        let source = args.blob_source(None, None).map_err(|error| error.to_string())?;
        source.open(&[]).map(drop).map_err(|error| error.to_string())
    }

    fn settings(kind: &str, settings: &str) -> BackendArgs {
        BackendArgs {
            backend_type: Some(kind.into()),
            backend_config: Some(settings.into()),
            ..BackendArgs::default()
        }
    }

    #[test]
    fn every_backend_of_the_daemon_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        std::fs::write(&disk, [0; 4096]).unwrap();
        for (kind, text) in [
            ("localfs", r#"{"dir": "/b"}"#),
            ("localdisk", &format!(r#"{{"device_path": {disk:?}, "disable_gpt": true}}"#)),
            ("registry", r#"{"host": "example.com", "repo": "a/b"}"#),
            ("oss", r#"{"endpoint": "e", "bucket_name": "b"}"#),
            ("s3", r#"{"endpoint": "e", "region": "r", "bucket_name": "b"}"#),
            ("http-proxy", r#"{"addr": "/run/socket"}"#),
        ] {
            assert_eq!(opened(settings(kind, text)), Ok(()), "{kind}");
        }
    }

    #[test]
    fn a_configuration_of_the_daemon_in_either_version_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        for (text, expected) in [
            (r#"{"device":{"backend":{"type":"localfs","config":{"dir":"/b"}}},"mode":"direct"}"#, ""),
            ("version = 2\n[backend]\ntype = \"localfs\"\n[backend.localfs]\ndir = \"/b\"\n", ""),
            ("version = 2\n", "the configuration has no `backend`"),
            ("{}", "not a configuration"),
        ] {
            std::fs::write(&path, text).unwrap();
            let found = opened(BackendArgs { config: Some(path.clone()), ..BackendArgs::default() });
            match (found, expected) {
                (Ok(()), "") => {}
                (Err(error), expected) if !expected.is_empty() && error.contains(expected) => {}
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (args, expected) in [
            (settings("tape", "{}"), "--backend-config: unknown backend type \"tape\""),
            (settings("localdisk", "{}"), "--backend-config: device_path: missing"),
            (settings("localfs", "{"), "--backend-config: not valid JSON"),
            (
                BackendArgs { backend_type: Some("s3".into()), ..BackendArgs::default() },
                "--backend-type: needs --backend-config",
            ),
        ] {
            let error = opened(args).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
