//! Blobs in a container registry, by the distribution protocol: `GET /v2/REPO/blobs/sha256:ID` with a range.
//!
//! Owns where the redirects of blobs led. Whoever serves the bytes in the end — often an object store with signed
//! addresses — is asked directly from then on, and the registry again when that fails.

use std::path::PathBuf;
use std::sync::Arc;

use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderValue, LOCATION};

use super::remote::Remote;
use super::{BoxFuture, Request};
use crate::blob::BlobId;
use crate::http::auth::Auth;
use crate::http::client::{Answer, Call, Client, Way};
use crate::http::credentials::Credentials;
use crate::http::failure::Failure;
use crate::http::fetch::{Fetcher, Server};
use crate::http::part::Part;
use crate::http::redirect::{MAX_REDIRECTS, Rules, Targets, is_redirect, is_same_place};
use crate::http::route::Route;
use crate::http::{Commons, HttpOptions, Scheme};
use crate::secret::Secret;
use crate::{Error, Result};

/// One repository of a registry.
#[derive(Clone, Debug, PartialEq)]
pub struct RegistryConfig {
    /// How to speak to the registry.
    pub scheme: Scheme,
    /// `host[:port]`.
    pub host: String,
    /// The repository, for example `library/ubuntu`.
    pub repo: String,
    /// Base64 of `user:password`.
    pub auth: Option<Secret>,
    /// The bearer token to begin with.
    pub registry_token: Option<Secret>,
    /// Forced on the targets of redirects.
    pub blob_url_scheme: Option<Scheme>,
    /// Forced on the targets of redirects.
    pub blob_redirected_host: Option<String>,
    /// A Docker `config.json` to find credentials in; `None`: no such file is read.
    pub docker_config: Option<PathBuf>,
    /// How requests are sent.
    pub http: HttpOptions,
}

/// Blobs in a container registry.
#[derive(Debug)]
pub struct Registry {
    fetcher: Fetcher<Repository>,
}

impl Registry {
    /// Takes the configuration and reads the certificates it names; sends nothing yet. [`Error::Invalid`] if it cannot be
    /// used.
    pub fn new(config: RegistryConfig, commons: &Commons) -> Result<Self> {
        let base = format!("{}://{}/v2/{}/blobs/", config.scheme.name(), config.host, config.repo);
        let base = Url::parse(&base).ok().filter(|url| url.username().is_empty() && url.password().is_none());
        let base = base.ok_or_else(|| Error::invalid("registry", "host and repo make no address"))?;
        // Past a proxy that may be gone around, tokens are fetched from their service itself.
        let way = match &config.http.proxy {
            Some(proxy) if !proxy.fallback => Way::Proxy(Secret::new(proxy.url.expose())),
            _ => Way::Direct,
        };
        let client = Arc::new(Client::new(&config.http, way)?);
        let credentials = Credentials::new(config.host.clone(), config.auth, config.docker_config);
        let repository = Repository {
            place: format!("registry {}/{}", config.host, config.repo),
            base,
            rules: Rules { scheme: config.blob_url_scheme, host: config.blob_redirected_host },
            auth: Auth::new(credentials, config.registry_token, commons.tokens.clone(), client),
            targets: Targets::default(),
        };
        Ok(Self { fetcher: Fetcher::new(repository, &config.http, Way::Direct, commons)? })
    }
}

impl Remote for Registry {
    type Server = Repository;

    fn fetcher(&self) -> &Fetcher<Repository> {
        &self.fetcher
    }
}

/// The repository as a server of ranges.
#[derive(Debug)]
pub(crate) struct Repository {
    place: String,
    base: Url,
    rules: Rules,
    auth: Auth,
    targets: Targets,
}

impl Server for Repository {
    fn ask<'a>(
        &'a self,
        route: &'a Route,
        blob: &'a BlobId,
        range: &'a Part,
        request: &'a Request,
    ) -> BoxFuture<'a, Result<Answer, Failure>> {
        Box::pin(async move {
            if let Some(target) = self.targets.get(route.index, blob) {
                match self.ask_target(route, &target, blob, range, request).await {
                    Ok(Some(answer)) => return Ok(answer),
                    // Its signature has expired: the registry makes a new one.
                    Ok(None) => self.targets.drop(route.index, blob, &target),
                    Err(failure) => {
                        self.targets.drop(route.index, blob, &target);
                        return Err(failure);
                    }
                }
            }
            self.ask_registry(route, blob, range, request).await
        })
    }

    fn forget(&self, route: &Route, blob: &BlobId) {
        self.targets.remove(route.index, blob);
    }

    fn name(&self, blob: &BlobId) -> String {
        format!("{}: blob sha256:{blob}", self.place)
    }

    fn place(&self) -> &str {
        &self.place
    }

    fn exchange_auth(&self, auth: Secret) -> Result<()> {
        self.auth.exchange(auth).map_err(|detail| Error::invalid("registry_auth", detail))
    }
}

impl Repository {
    /// Asks where the registry led before; `None`: 401 or 403.
    async fn ask_target(
        &self,
        route: &Route,
        target: &Url,
        blob: &BlobId,
        range: &Part,
        request: &Request,
    ) -> Result<Option<Answer>, Failure> {
        let answer = route.send(foreign(target.clone(), range, request), request.priority).await?;
        match answer.status().as_u16() {
            200 | 206 | 416 => Ok(Some(answer)),
            401 | 403 => Ok(None),
            _ => Err(route.failure(answer, &self.name(blob), &self.led_from_here(target)).await),
        }
    }

    /// Asks the registry, and follows where it leads.
    async fn ask_registry(
        &self,
        route: &Route,
        blob: &BlobId,
        range: &Part,
        request: &Request,
    ) -> Result<Answer, Failure> {
        let what = self.name(blob);
        let mut address = self.base.clone();
        if let Ok(mut segments) = address.path_segments_mut() {
            segments.pop_if_empty().push(&format!("sha256:{blob}"));
        }
        let start = route.address(&address);
        let call = Call::range(start.clone(), range, request.deadline);
        let (mut answer, proof) = self.auth.send(route, call, request, &what).await?;
        let mut url = start.clone();
        for hops in 0.. {
            match answer.status() {
                status if matches!(status.as_u16(), 200 | 206 | 416) => break,
                status if is_redirect(status) && hops < MAX_REDIRECTS => {}
                status if is_redirect(status) => {
                    let detail = format!("more than {MAX_REDIRECTS} redirects");
                    return Err(refused(&what, detail));
                }
                _ if url == start => return Err(route.failure(answer, &what, &self.place).await),
                _ => return Err(route.failure(answer, &what, &self.led_from_here(&url)).await),
            }
            let target = self.rules.target(&url, answer.header(LOCATION));
            url = target.map_err(|detail| refused(&what, detail))?;
            let call = self.follow(&url, &start, proof.as_ref(), range, request);
            answer = route.send(call, request.priority).await?;
        }
        // What needs our proof is asked through the registry each time, where a proof is renewed.
        if url != start && !is_same_place(&url, &start) {
            self.targets.keep(route.index, blob, url);
        }
        Ok(answer)
    }

    /// The request to where we were led: with our proof only if that is the same place.
    fn follow(
        &self,
        url: &Url,
        start: &Url,
        proof: Option<&HeaderValue>,
        range: &Part,
        request: &Request,
    ) -> Call {
        let mut call = foreign(url.clone(), range, request);
        if is_same_place(url, start) {
            call.is_foreign = false;
            if let Some(proof) = proof {
                call.headers.insert(AUTHORIZATION, proof.clone());
            }
        }
        call
    }

    fn led_from_here(&self, target: &Url) -> String {
        format!("{}, to which {} redirects", target.host_str().unwrap_or("a place"), self.place)
    }
}

fn foreign(url: Url, range: &Part, request: &Request) -> Call {
    let mut call = Call::range(url, range, request.deadline);
    call.is_foreign = true;
    call
}

fn refused(what: &str, detail: String) -> Failure {
    Failure::Refused(Error::Unavailable { what: what.to_owned(), source: std::io::Error::other(detail) })
}
