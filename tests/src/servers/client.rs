//! A small HTTP client that puts blobs where the daemon will look for them.

use std::path::{Path, PathBuf};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;

use crate::manifest::hex;

/// The client.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    runtime: Runtime,
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Vec<u8>,
}

impl Client {
    /// One that believes `authority`, if there is one, and follows no redirect.
    pub fn new(authority: Option<&Path>) -> Self {
        let mut builder = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        if let Some(file) = authority {
            let root = reqwest::Certificate::from_pem(&std::fs::read(file).unwrap()).unwrap();
            builder = builder.tls_certs_only([root]);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { http: builder.build().unwrap(), runtime }
    }

    /// Sends a request. Fails the test if there is no answer.
    pub fn send(&self, method: Method, url: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Reply {
        let mut request = self.http.request(method, url).body(body);
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            request = request.header(name, HeaderValue::from_str(value).unwrap());
        }
        self.runtime.block_on(async {
            let response = request.send().await.unwrap_or_else(|error| panic!("{url}: {error:?}"));
            let (status, headers) = (response.status(), response.headers().clone());
            Reply { status, headers, body: response.bytes().await.unwrap().to_vec() }
        })
    }

    /// Sends a request, and fails the test unless its answer is a success.
    pub fn must(&self, method: Method, url: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Reply {
        let reply = self.send(method.clone(), url, headers, body);
        let text = String::from_utf8_lossy(&reply.body);
        assert!(reply.status.is_success(), "{method} {url}: {}: {text}", reply.status);
        reply
    }

    /// Pushes the blob `files` to a repository, as `docker push` pushes layers: an upload is opened, and closed with all
    /// bytes and their digest. `registry` is `http://HOST`, `proof` the header `Authorization`.
    pub fn push(&self, registry: &str, repo: &str, proof: Option<&str>, files: &[PathBuf]) {
        let headers: Vec<(&str, &str)> = proof.iter().map(|proof| ("authorization", *proof)).collect();
        for file in files {
            let content = std::fs::read(file).unwrap();
            let digest = hex(&Sha256::digest(&content));
            assert!(file.ends_with(&digest), "{}: the id of this blob is not its digest", file.display());
            let start = format!("{registry}/v2/{repo}/blobs/uploads/");
            let opened = self.must(Method::POST, &start, &headers, Vec::new());
            let place = opened.headers["location"].to_str().unwrap();
            let joint = if place.contains('?') { '&' } else { '?' };
            let mut headers = headers.clone();
            headers.push(("content-type", "application/octet-stream"));
            self.must(Method::PUT, &format!("{place}{joint}digest=sha256:{digest}"), &headers, content);
        }
    }
}
