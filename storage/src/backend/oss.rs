//! Blobs in a bucket of Alibaba Cloud's OSS.

use super::bucket::Bucket;
use super::remote::Remote;
use crate::Result;
use crate::http::client::Way;
use crate::http::fetch::Fetcher;
use crate::http::signing::{Key, Signer};
use crate::http::{Commons, HttpOptions, Scheme};
use crate::secret::Secret;

pub use super::bucket::Addressing;

/// How OSS requests are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureVersion {
    /// HMAC-SHA1 of the header.
    V1,
    /// OSS4-HMAC-SHA256; needs a region.
    V4,
}

impl SignatureVersion {
    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V4 => "v4",
        }
    }
}

/// An OSS bucket.
#[derive(Clone, Debug, PartialEq)]
pub struct OssConfig {
    /// How to speak to the endpoint.
    pub scheme: Scheme,
    /// Host of the service, without the bucket.
    pub endpoint: String,
    /// The bucket.
    pub bucket_name: String,
    /// Stands before the blob's id in the name of the object.
    pub object_prefix: String,
    /// Who we are; `None`: requests are not signed.
    pub access_key_id: Option<Secret>,
    /// Proves it.
    pub access_key_secret: Option<Secret>,
    /// The third part of temporary credentials.
    pub security_token: Option<Secret>,
    /// Where the bucket lies; needed for [`SignatureVersion::V4`].
    pub region: Option<String>,
    /// How requests are signed.
    pub signature_version: SignatureVersion,
    /// Where the bucket's name stands.
    pub addressing: Addressing,
    /// How requests are sent.
    pub http: HttpOptions,
}

/// Blobs in an OSS bucket.
#[derive(Debug)]
pub struct Oss {
    fetcher: Fetcher<Bucket>,
}

impl Oss {
    /// Takes the configuration and reads the certificates it names; sends nothing yet. [`crate::Error::Invalid`] if it
    /// cannot be used.
    pub fn new(config: OssConfig, commons: &Commons) -> Result<Self> {
        let signer = match (config.access_key_id, config.access_key_secret) {
            (Some(id), Some(secret)) => {
                let region = match config.signature_version {
                    SignatureVersion::V1 => None,
                    SignatureVersion::V4 => config.region.as_deref(),
                };
                Signer::oss(&config.bucket_name, region, &Key { id, secret, token: config.security_token })
            }
            _ => Signer::Nobody,
        };
        let place = (config.scheme, config.endpoint.as_str(), config.addressing);
        let bucket = Bucket::new("oss", place, &config.bucket_name, &config.object_prefix, signer)?;
        Ok(Self { fetcher: Fetcher::new(bucket, &config.http, Way::Direct, commons)? })
    }
}

impl Remote for Oss {
    type Server = Bucket;

    fn fetcher(&self) -> &Fetcher<Bucket> {
        &self.fetcher
    }
}
