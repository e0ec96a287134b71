//! Blobs in buckets: OSS and S3.

use super::error::Problem;
use super::http::{HttpOptions, Scheme};
use super::secret::Secret;
use super::section::Section;

/// Where the name of the bucket stands in the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressing {
    /// `scheme://endpoint/bucket/object`.
    Path,
    /// `scheme://bucket.endpoint/object`.
    Virtual,
}

impl Addressing {
    const ALL: [(&'static str, Addressing); 2] =
        [("path", Addressing::Path), ("virtual", Addressing::Virtual)];

    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Virtual => "virtual",
        }
    }
}

/// How OSS requests are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureVersion {
    /// HMAC-SHA1 of the header.
    V1,
    /// OSS4-HMAC-SHA256; needs a region.
    V4,
}

impl SignatureVersion {
    const ALL: [(&'static str, SignatureVersion); 2] =
        [("v1", SignatureVersion::V1), ("v4", SignatureVersion::V4)];

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
pub struct Oss {
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
    /// V4 when there is a region, else V1, unless given.
    pub signature_version: SignatureVersion,
    /// Where the bucket's name stands.
    pub addressing: Addressing,
    /// How requests are sent.
    pub http: HttpOptions,
}

impl Oss {
    pub(super) fn read(section: &mut Section) -> Result<Self, Problem> {
        let region = section.text("region")?.filter(|region| !region.is_empty());
        let signature_version = match section.choice("signature_version", &SignatureVersion::ALL)? {
            Some(SignatureVersion::V4) if region.is_none() => {
                return Err(section.invalid(
                    "region",
                    "missing; expected the region of the bucket, which `signature_version` v4 needs",
                ));
            }
            Some(version) => version,
            None if region.is_some() => SignatureVersion::V4,
            None => SignatureVersion::V1,
        };
        let (access_key_id, access_key_secret) = key_pair(section)?;
        Ok(Self {
            scheme: section.choice("scheme", &Scheme::ALL)?.unwrap_or(Scheme::Https),
            endpoint: section.required_text("endpoint", "the host of the service")?,
            bucket_name: section.required_text("bucket_name", "the name of the bucket")?,
            object_prefix: section.text("object_prefix")?.unwrap_or_default(),
            access_key_id,
            access_key_secret,
            security_token: section.secret("security_token")?,
            region,
            signature_version,
            addressing: section.choice("addressing", &Addressing::ALL)?.unwrap_or(Addressing::Virtual),
            http: HttpOptions::read(section)?,
        })
    }
}

/// An S3 bucket.
#[derive(Clone, Debug, PartialEq)]
pub struct S3 {
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

impl S3 {
    pub(super) fn read(section: &mut Section) -> Result<Self, Problem> {
        let endpoint = section.text("endpoint")?.ok_or_else(|| {
            section.missing("endpoint", "the host of the service, or \"\" for s3.amazonaws.com")
        })?;
        let (access_key_id, access_key_secret) = key_pair(section)?;
        Ok(Self {
            scheme: section.choice("scheme", &Scheme::ALL)?.unwrap_or(Scheme::Https),
            endpoint: if endpoint.is_empty() { "s3.amazonaws.com".to_owned() } else { endpoint },
            region: section.required_text("region", "the region of the bucket")?,
            bucket_name: section.required_text("bucket_name", "the name of the bucket")?,
            object_prefix: section.text("object_prefix")?.unwrap_or_default(),
            access_key_id,
            access_key_secret,
            session_token: section.secret("session_token")?,
            addressing: section.choice("addressing", &Addressing::ALL)?.unwrap_or(Addressing::Path),
            http: HttpOptions::read(section)?,
        })
    }
}

/// The two halves of a key: both or none.
fn key_pair(section: &mut Section) -> Result<(Option<Secret>, Option<Secret>), Problem> {
    let pair = (section.secret("access_key_id")?, section.secret("access_key_secret")?);
    match pair {
        (Some(_), None) => {
            Err(section.invalid("access_key_secret", "missing; expected the secret of `access_key_id`"))
        }
        (None, Some(_)) => {
            Err(section.invalid("access_key_id", "missing; expected the id of `access_key_secret`"))
        }
        pair => Ok(pair),
    }
}
