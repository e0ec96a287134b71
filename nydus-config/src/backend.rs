//! Where blobs are read from: one variant for each kind of place.
//!
//! The keys of a kind are the same in both schemas; only the table they lie in differs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use storage::backend::http_proxy::{HttpProxy, HttpProxyConfig};
use storage::backend::localdisk::{LocalDisk, LocalDiskConfig};
use storage::backend::localfs::{LocalFs, LocalFsConfig};
use storage::backend::oss::{Oss, OssConfig};
use storage::backend::registry::{Registry, RegistryConfig};
use storage::backend::s3::{S3, S3Config};
use storage::http::{Commons, HttpOptions};
use storage::secret::Secret;

use super::error::Problem;
use super::http::read_http_proxy;
use super::object_store::{read_oss, read_s3};
use super::registry;
use super::section::Section;

/// The place all blobs of an image are read from.
#[derive(Clone, Debug, PartialEq)]
pub enum Backend {
    /// Files of this machine.
    Localfs(Localfs),
    /// Partitions of a block device.
    Localdisk(Localdisk),
    /// An OSS bucket.
    Oss(Box<OssConfig>),
    /// An S3 bucket.
    S3(Box<S3Config>),
    /// A container registry.
    Registry(Box<RegistryConfig>),
    /// A plain HTTP server, also over a unix socket.
    HttpProxy(Box<HttpProxyConfig>),
}

/// The kinds, by their names in a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Localfs,
    Localdisk,
    Oss,
    S3,
    Registry,
    HttpProxy,
}

impl Kind {
    pub const ALL: [(&'static str, Kind); 6] = [
        ("localfs", Kind::Localfs),
        ("localdisk", Kind::Localdisk),
        ("oss", Kind::Oss),
        ("s3", Kind::S3),
        ("registry", Kind::Registry),
        ("http-proxy", Kind::HttpProxy),
    ];
}

impl Backend {
    /// Reads the keys of `kind` from their table.
    pub(super) fn read(kind: Kind, section: &mut Section) -> Result<Self, Problem> {
        // Orchestrators have one structure for all kinds, and write these whatever the kind.
        ["readahead", "readahead_sec"].iter().for_each(|key| section.ignore(key));
        if matches!(kind, Kind::Localfs | Kind::Localdisk) {
            ["timeout", "connect_timeout", "retry_limit"].iter().for_each(|key| section.ignore(key));
            section.ignore_without("proxy", "url");
        }
        Ok(match kind {
            Kind::Localfs => Self::Localfs(Localfs::read(section)?),
            Kind::Localdisk => Self::Localdisk(Localdisk::read(section)?),
            Kind::Oss => Self::Oss(Box::new(read_oss(section)?)),
            Kind::S3 => Self::S3(Box::new(read_s3(section)?)),
            Kind::Registry => Self::Registry(Box::new(registry::read(section)?)),
            Kind::HttpProxy => Self::HttpProxy(Box::new(read_http_proxy(section)?)),
        })
    }

    /// Opens the backend. `commons` is what all backends of the process share. No network is needed; errors are those
    /// of the backend, such as a directory that is not there.
    pub fn open(&self, commons: &Commons) -> storage::Result<Arc<dyn storage::backend::Backend>> {
        Ok(match self {
            Self::Localfs(localfs) => Arc::new(LocalFs::new(LocalFsConfig {
                blob_file: localfs.blob_file.clone(),
                dir: localfs.dir.clone(),
                alt_dirs: localfs.alt_dirs.clone(),
            })?),
            Self::Localdisk(disk) => Arc::new(LocalDisk::new(LocalDiskConfig {
                device_path: disk.device_path.clone(),
                disable_gpt: disk.disable_gpt,
            })?),
            Self::Registry(registry) => Arc::new(Registry::new((**registry).clone(), commons)?),
            Self::Oss(oss) => Arc::new(Oss::new((**oss).clone(), commons)?),
            Self::S3(s3) => Arc::new(S3::new((**s3).clone(), commons)?),
            Self::HttpProxy(server) => Arc::new(HttpProxy::new((**server).clone(), commons)?),
        })
    }

    /// What kind of place it is, as configurations call it.
    pub fn kind(&self) -> &'static str {
        let own = match self {
            Self::Localfs(_) => Kind::Localfs,
            Self::Localdisk(_) => Kind::Localdisk,
            Self::Oss(_) => Kind::Oss,
            Self::S3(_) => Kind::S3,
            Self::Registry(_) => Kind::Registry,
            Self::HttpProxy(_) => Kind::HttpProxy,
        };
        Kind::ALL.into_iter().find(|(_, kind)| *kind == own).map_or("", |(name, _)| name)
    }

    /// Whether the blobs are on this machine.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Localfs(_) | Self::Localdisk(_) => true,
            Self::Oss(_) | Self::S3(_) | Self::Registry(_) | Self::HttpProxy(_) => false,
        }
    }

    /// How requests are sent, if the place is one of HTTP.
    pub fn http_mut(&mut self) -> Option<&mut HttpOptions> {
        match self {
            Self::Localfs(_) | Self::Localdisk(_) => None,
            Self::Oss(oss) => Some(&mut oss.http),
            Self::S3(s3) => Some(&mut s3.http),
            Self::Registry(registry) => Some(&mut registry.http),
            Self::HttpProxy(server) => Some(&mut server.http),
        }
    }

    /// The name of the kind, as it stands in a configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Localfs(_) => "localfs",
            Self::Localdisk(_) => "localdisk",
            Self::Oss(_) => "oss",
            Self::S3(_) => "s3",
            Self::Registry(_) => "registry",
            Self::HttpProxy(_) => "http-proxy",
        }
    }
}

/// Blobs are files. At least one of `blob_file` and `dir` is set; `blob_file` wins.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Localfs {
    /// This file is every blob.
    pub blob_file: Option<PathBuf>,
    /// A blob is the file of its name in here.
    pub dir: Option<PathBuf>,
    /// Searched in order when the file in `dir` is missing or empty.
    pub alt_dirs: Vec<PathBuf>,
}

impl Localfs {
    fn read(section: &mut Section) -> Result<Self, Problem> {
        let localfs = Self {
            blob_file: section.path("blob_file")?,
            dir: section.path("dir")?,
            alt_dirs: section.paths("alt_dirs")?,
        };
        if localfs.blob_file.is_none() && localfs.dir.is_none() {
            return Err(
                section.invalid("dir", "missing; expected the directory of the blobs, or `blob_file`")
            );
        }
        Ok(localfs)
    }
}

/// Blobs are partitions of one disk.
#[derive(Clone, Debug, PartialEq)]
pub struct Localdisk {
    /// The block device, or a file that is one's image.
    pub device_path: PathBuf,
    /// Do not look for a GPT: the whole device is one blob.
    pub disable_gpt: bool,
}

impl Localdisk {
    fn read(section: &mut Section) -> Result<Self, Problem> {
        Ok(Self {
            device_path: section
                .path("device_path")?
                .ok_or_else(|| section.missing("device_path", "the path of a block device"))?,
            disable_gpt: section.boolean("disable_gpt")?.unwrap_or(false),
        })
    }
}

/// Settings merged into the backend that an image with external blobs brings along. The values may be secrets.
#[derive(Clone, Debug, PartialEq)]
pub struct ExternalBackend {
    /// The kind of backend the settings are for.
    pub kind: String,
    /// Values to replace.
    pub patch: BTreeMap<String, Secret>,
    /// Values to add.
    pub config: BTreeMap<String, Secret>,
}

impl ExternalBackend {
    pub(super) fn read_list(section: &mut Section) -> Result<Vec<Self>, Problem> {
        section.tables("external_backends", |section| {
            Ok(Self {
                kind: section.required_text("type", "the kind of backend")?,
                patch: section.secrets("patch")?,
                config: section.secrets("config")?,
            })
        })
    }
}
