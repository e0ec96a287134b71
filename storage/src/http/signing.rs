//! Signatures of requests to object stores. The signing itself is reqsign's.

use reqsign::SignRequest;
use reqwest::Url;
use reqwest::header::HOST;

use super::client::Call;
use super::failure::Failure;
use crate::secret::Secret;
use crate::{Error, Result};

/// An access key, and the third part of a temporary one.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub id: Secret,
    pub secret: Secret,
    pub token: Option<Secret>,
}

/// Signs requests.
#[derive(Debug)]
pub(crate) enum Signer {
    /// The bucket may be read by everybody.
    Nobody,
    /// OSS, V1 or V4.
    Oss(reqsign::aliyun::RequestSigner, reqsign::aliyun::Credential),
    /// AWS signature V4.
    S3(reqsign::aws::RequestSigner, reqsign::aws::Credential),
}

impl Signer {
    /// For an OSS bucket; V4 if a region is given.
    pub(crate) fn oss(bucket: &str, v4_region: Option<&str>, key: &Key) -> Self {
        use reqsign::aliyun::{Credential, RequestSigner, SigningVersion};
        let mut signer = RequestSigner::new(bucket);
        if let Some(region) = v4_region {
            signer = signer.with_region(region).with_signing_version(SigningVersion::V4);
        }
        let credential = Credential {
            access_key_id: key.id.expose().to_owned(),
            access_key_secret: key.secret.expose().to_owned(),
            security_token: key.token.as_ref().map(|token| token.expose().to_owned()),
            expires_in: None,
        };
        Self::Oss(signer, credential)
    }

    /// For an S3 bucket.
    pub(crate) fn s3(region: &str, key: &Key) -> Self {
        use reqsign::aws::{Credential, RequestSigner};
        let credential = Credential {
            access_key_id: key.id.expose().to_owned(),
            secret_access_key: key.secret.expose().to_owned(),
            session_token: key.token.as_ref().map(|token| token.expose().to_owned()),
            expires_in: None,
        };
        Self::S3(RequestSigner::new("s3", region), credential)
    }

    /// Adds the headers that prove who we are to `call`. S3's are for the host that is asked, be it a mirror; OSS's are for
    /// the object, `address` in the bucket itself, wherever it is asked for.
    pub(crate) async fn sign(&self, call: &mut Call, address: &Url, what: &str) -> Result<(), Failure> {
        let failed =
            |detail: &str| Failure::Final(Error::invalid(what, format!("cannot be signed: {detail}")));
        let mut address = match self {
            Self::S3(..) => call.url.clone(),
            Self::Oss(..) | Self::Nobody => address.clone(),
        };
        // `Host`, which is signed, has no user; an address that may have one takes it away without a word.
        let _ = address.set_username("").and_then(|()| address.set_password(None));
        let mut request = reqwest::Request::new(call.method.clone(), address);
        *request.headers_mut() = std::mem::take(&mut call.headers);
        let request = ::http::Request::<reqwest::Body>::try_from(request);
        let (mut parts, _) = request.map_err(|_| failed("its address is none of HTTP"))?.into_parts();
        let context = reqsign::Context::new();
        let signed = match self {
            Self::Nobody => Ok(()),
            Self::Oss(signer, credential) => {
                signer.sign_request(&context, &mut parts, Some(credential), None).await
            }
            Self::S3(signer, credential) => {
                signer.sign_request(&context, &mut parts, Some(credential), None).await
            }
        };
        // Its words may quote a header.
        signed.map_err(|_| failed("the key or the address has characters that no header may have"))?;
        call.headers = parts.headers;
        // It follows from the address that the request is sent to.
        call.headers.remove(HOST);
        Ok(())
    }
}
