//! Blobs in buckets: OSS and S3.

use storage::backend::oss::{Addressing, OssConfig, SignatureVersion};
use storage::backend::s3::S3Config;
use storage::http::Scheme;
use storage::secret::Secret;

use super::error::Problem;
use super::http::{SCHEMES, read_options};
use super::section::Section;

const ADDRESSINGS: [(&str, Addressing); 2] = [("path", Addressing::Path), ("virtual", Addressing::Virtual)];
const SIGNATURES: [(&str, SignatureVersion); 2] =
    [("v1", SignatureVersion::V1), ("v4", SignatureVersion::V4)];

/// The keys of an OSS bucket.
pub(super) fn read_oss(section: &mut Section) -> Result<OssConfig, Problem> {
    let region = section.text("region")?.filter(|region| !region.is_empty());
    let signature_version = match section.choice("signature_version", &SIGNATURES)? {
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
    Ok(OssConfig {
        scheme: section.choice("scheme", &SCHEMES)?.unwrap_or(Scheme::Https),
        endpoint: {
            let endpoint = section.required_text("endpoint", "the host of the service")?;
            check_endpoint(section, endpoint)?
        },
        bucket_name: section.required_text("bucket_name", "the name of the bucket")?,
        object_prefix: section.text("object_prefix")?.unwrap_or_default(),
        access_key_id,
        access_key_secret,
        security_token: section.secret("security_token")?,
        region,
        signature_version,
        addressing: section.choice("addressing", &ADDRESSINGS)?.unwrap_or(Addressing::Virtual),
        http: read_options(section)?,
    })
}

/// The keys of an S3 bucket.
pub(super) fn read_s3(section: &mut Section) -> Result<S3Config, Problem> {
    let endpoint = section.text("endpoint")?.ok_or_else(|| {
        section.missing("endpoint", "the host of the service, or \"\" for s3.amazonaws.com")
    })?;
    let (access_key_id, access_key_secret) = key_pair(section)?;
    Ok(S3Config {
        scheme: section.choice("scheme", &SCHEMES)?.unwrap_or(Scheme::Https),
        endpoint: match endpoint.as_str() {
            "" => "s3.amazonaws.com".to_owned(),
            _ => check_endpoint(section, endpoint)?,
        },
        region: section.required_text("region", "the region of the bucket")?,
        bucket_name: section.required_text("bucket_name", "the name of the bucket")?,
        object_prefix: section.text("object_prefix")?.unwrap_or_default(),
        access_key_id,
        access_key_secret,
        session_token: section.secret("session_token")?,
        addressing: section.choice("addressing", &ADDRESSINGS)?.unwrap_or(Addressing::Path),
        http: read_options(section)?,
    })
}

/// Whether `endpoint` is a host, not an address. The error shows nothing of it: it may hold a password.
fn check_endpoint(section: &Section, endpoint: String) -> Result<String, Problem> {
    if endpoint.contains("://")
        || endpoint.contains(['@', '?', '#'])
        || endpoint.contains(char::is_whitespace)
    {
        let detail = "expected host[:port], found an address, or a character that no host has (`scheme` is another key)";
        return Err(section.invalid("endpoint", detail));
    }
    Ok(endpoint)
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
