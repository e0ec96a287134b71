//! Where blobs are: the options that commands share.

use std::fs;
use std::path::PathBuf;

use clap::Args;

use crate::backend::Place;
use crate::error::{Error, Result};

/// A configured backend.
#[derive(Args, Clone, Debug, Default)]
pub struct BackendArgs {
    /// Kind of place the blobs are in: localfs or localdisk
    #[arg(long, value_name = "TYPE")]
    pub backend_type: Option<String>,
    /// Settings of that backend as JSON, such as {"dir": "/blobs"}
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
    /// The place of the blobs: this backend, unless it is a file or directory.
    pub fn place(&self, file: Option<PathBuf>, directory: Option<PathBuf>) -> Result<Place> {
        let settings = match (&self.backend_config, &self.backend_config_file) {
            (Some(text), _) => Some(text.clone()),
            (None, Some(path)) => Some(fs::read_to_string(path).map_err(Error::io("read", path))?),
            (None, None) => None,
        };
        let backend = match (&self.backend_type, settings) {
            (Some(kind), Some(settings)) => Some((kind.clone(), settings)),
            (Some(_), None) => {
                let text = "--backend-type: needs --backend-config or --backend-config-file";
                return Err(Error::Usage(text.into()));
            }
            (None, _) => None,
        };
        Ok(Place { file, directory, backend, config: self.config.clone() })
    }
}
