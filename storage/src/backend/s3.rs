//! Blobs in a bucket of S3, or of a server that speaks its language.

use super::bucket::Bucket;
use super::remote::Remote;
use crate::Result;
use crate::http::client::Way;
use crate::http::fetch::Fetcher;
use crate::http::signing::{Key, Signer};
use crate::http::{Commons, HttpOptions, Scheme};
use crate::secret::Secret;

pub use super::bucket::Addressing;

/// An S3 bucket.
#[derive(Clone, Debug, PartialEq)]
pub struct S3Config {
    /// How to speak to the endpoint.
    pub scheme: Scheme,
    /// Host of the service.
    pub endpoint: String,
    /// Where the bucket lies.
    pub region: String,
    /// The bucket.
    pub bucket_name: String,
    /// Stands before the blob's id in the name of the object.
    pub object_prefix: String,
    /// Who we are; `None`: requests are not signed.
    pub access_key_id: Option<Secret>,
    /// Proves it.
    pub access_key_secret: Option<Secret>,
    /// The third part of temporary credentials.
    pub session_token: Option<Secret>,
    /// Where the bucket's name stands.
    pub addressing: Addressing,
    /// How requests are sent.
    pub http: HttpOptions,
}

/// Blobs in an S3 bucket.
#[derive(Debug)]
pub struct S3 {
    fetcher: Fetcher<Bucket>,
}

impl S3 {
    /// Takes the configuration and reads the certificates it names; sends nothing yet. [`crate::Error::Invalid`] if it
    /// cannot be used.
    pub fn new(config: S3Config, commons: &Commons) -> Result<Self> {
        let signer = match (config.access_key_id, config.access_key_secret) {
            (Some(id), Some(secret)) => {
                Signer::s3(&config.region, &Key { id, secret, token: config.session_token })
            }
            _ => Signer::Nobody,
        };
        let place = (config.scheme, config.endpoint.as_str(), config.addressing);
        let bucket = Bucket::new("s3", place, &config.bucket_name, &config.object_prefix, signer)?;
        Ok(Self { fetcher: Fetcher::new(bucket, &config.http, Way::Direct, commons)? })
    }
}

impl Remote for S3 {
    type Server = Bucket;

    fn fetcher(&self) -> &Fetcher<Bucket> {
        &self.fetcher
    }
}
