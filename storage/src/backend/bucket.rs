//! Objects in a bucket of an object store: what OSS and S3 have in common, which is all but the signature.

use std::fmt::Write as _;

use reqwest::Url;

use super::{BoxFuture, Request};
use crate::blob::BlobId;
use crate::http::Scheme;
use crate::http::client::{Answer, Call};
use crate::http::failure::Failure;
use crate::http::fetch::Server;
use crate::http::part::Part;
use crate::http::route::Route;
use crate::http::signing::Signer;
use crate::{Error, Result};

/// Where the name of the bucket stands in the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressing {
    /// `scheme://endpoint/bucket/object`.
    Path,
    /// `scheme://bucket.endpoint/object`.
    Virtual,
}

impl Addressing {
    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Virtual => "virtual",
        }
    }
}

/// A bucket as a server of ranges.
#[derive(Debug)]
pub(crate) struct Bucket {
    place: String,
    /// Ends where the name of the object begins.
    base: Url,
    prefix: String,
    signer: Signer,
}

impl Bucket {
    /// The bucket `name` at `endpoint`; `kind` for errors. Objects are named `prefix` and the blob's id.
    pub(super) fn new(
        kind: &str,
        (scheme, endpoint, addressing): (Scheme, &str, Addressing),
        name: &str,
        prefix: &str,
        signer: Signer,
    ) -> Result<Self> {
        let scheme = scheme.name();
        let address = match addressing {
            Addressing::Path => format!("{scheme}://{endpoint}/{}/", encode(name)),
            Addressing::Virtual => format!("{scheme}://{name}.{endpoint}/"),
        };
        let base =
            Url::parse(&address).ok().filter(|url| url.username().is_empty() && url.password().is_none());
        let base = base.ok_or_else(|| Error::invalid(kind, "endpoint and bucket_name make no address"))?;
        let place = format!("{kind} bucket {name} at {endpoint}");
        Ok(Self { place, base, prefix: prefix.to_owned(), signer })
    }
}

impl Server for Bucket {
    fn ask<'a>(
        &'a self,
        route: &'a Route,
        blob: &'a BlobId,
        range: &'a Part,
        request: &'a Request,
    ) -> BoxFuture<'a, Result<Answer, Failure>> {
        Box::pin(async move {
            let what = self.name(blob);
            let mut address = self.base.clone();
            address.set_path(&format!(
                "{}{}{}",
                self.base.path(),
                encode(&self.prefix),
                encode(blob.as_str())
            ));
            let mut call = Call::range(route.spoken(route.address(&address)), range, request.deadline);
            self.signer.sign(&mut call, &address, &what).await?;
            let answer = route.send(call, request.priority).await?;
            match answer.status().as_u16() {
                200 | 206 | 416 => Ok(answer),
                _ => Err(route.failure(answer, &what, &self.place).await),
            }
        })
    }

    fn name(&self, blob: &BlobId) -> String {
        format!("{}: object {}{blob}", self.place, self.prefix)
    }

    fn place(&self) -> &str {
        &self.place
    }
}

/// `text` as a path: all but what is unreserved, and the slash, as `%XX`, which is how signatures count it.
fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                encoded.push(char::from(byte));
            }
            other => {
                // Writing to a text cannot fail.
                let _ = write!(encoded, "%{other:02X}");
            }
        }
    }
    encoded
}
