//! Blobs in a container registry, by the distribution protocol: `GET /v2/REPO/blobs/sha256:ID` with a range.
//!
//! Owns where the redirects of blobs led. Whoever serves the bytes in the end — often an object store with signed
//! addresses — is asked directly from then on, and the registry again when that fails: in the same try if the place says that
//! it is no longer the right one, else in the next.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};

use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderValue, LOCATION};

use super::remote::Remote;
use super::{BoxFuture, Request};
use crate::blob::BlobId;
use crate::http::auth::{Auth, Errand};
use crate::http::client::{Answer, Call, Way};
use crate::http::credentials::Credentials;
use crate::http::failure::Failure;
use crate::http::fetch::{Fetcher, Server};
use crate::http::part::Part;
use crate::http::redirect::{MAX_REDIRECTS, Rules, Targets, is_redirect, is_same_place};
use crate::http::route::Route;
use crate::http::tokens::Ways;
use crate::http::{Commons, HttpOptions, Scheme};
use crate::policy::endpoint::Role;
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
        let credentials = Credentials::new(config.host.clone(), config.auth, config.docker_config);
        let (initial, tokens) = (config.registry_token, commons.tokens.clone());
        let repository = Repository {
            place: format!("registry {}/{}", config.host, config.repo),
            base,
            plain: Plain::new(config.scheme == Scheme::Https && config.http.skip_verify),
            rules: Rules { scheme: config.blob_url_scheme, host: config.blob_redirected_host },
            auth: Auth::new(credentials, initial, tokens, Ways::new(&config.http)?),
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
    plain: Plain,
    rules: Rules,
    auth: Auth,
    targets: Targets,
}

/// Whether a registry that should speak TLS is spoken to over plain http. Only who accepts any certificate anyway
/// (`skip_verify`) gets that far, and only if the port has answered, not in TLS, and never has in TLS before.
#[derive(Debug)]
struct Plain(AtomicU8);

impl Plain {
    const NEVER: u8 = 0;
    const PERHAPS: u8 = 1;
    const NOW: u8 = 2;

    fn new(is_allowed: bool) -> Self {
        Self(AtomicU8::new(if is_allowed { Self::PERHAPS } else { Self::NEVER }))
    }

    fn is_now(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Self::NOW
    }

    /// The port has answered in TLS.
    fn is_not(&self) {
        let _ = self.0.compare_exchange(Self::PERHAPS, Self::NEVER, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The port does not speak TLS. Whether that is accepted.
    fn turn(&self) -> bool {
        let turned = self.0.compare_exchange(Self::PERHAPS, Self::NOW, Ordering::Relaxed, Ordering::Relaxed);
        turned.is_ok() || self.is_now()
    }
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
                let answer = self.ask_target(route, &target, blob, range, request).await;
                let is_busy = matches!(&answer, Err(Failure::Throttled { .. } | Failure::Overloaded { .. }));
                if !is_busy && !matches!(answer, Ok(Some(_))) {
                    self.targets.drop(route.index, blob, &target);
                }
                if let Some(answer) = answer? {
                    return Ok(answer);
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
    /// Asks where the registry led before. `None`: it is no good any more, and the registry may know a better place:
    /// signatures expire, which some stores tell with 400 or 404, and objects and hosts move.
    async fn ask_target(
        &self,
        route: &Route,
        target: &Url,
        blob: &BlobId,
        range: &Part,
        request: &Request,
    ) -> Result<Option<Answer>, Failure> {
        let answer = route.send(foreign(target.clone(), range, request), request.priority).await;
        let answer = match answer {
            Err(Failure::Connect(_) | Failure::Unusable(_) | Failure::NotTls(_)) => return Ok(None),
            other => other?,
        };
        match answer.status().as_u16() {
            200 | 206 | 416 => Ok(Some(answer)),
            408 | 429 | 500.. => {
                Err(route.failure(answer, &self.name(blob), &self.led_from_here(target)).await)
            }
            _ => Ok(None),
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
        let first = self.ask_first(route, blob, range, request, &what).await;
        let (mut answer, proof, place) = match first {
            Err(Failure::NotTls(detail)) if route.role == Role::Origin && self.plain.turn() => {
                tracing::warn!(
                    "{}: no TLS ({detail}); as skip_verify allows it, plain http from now on",
                    self.place
                );
                self.ask_first(route, blob, range, request, &what).await?
            }
            other => other?,
        };
        // Where we are led from and to, and what is asked on the way: a proxy may be spoken to in another scheme.
        let start = route.spoken(place.clone());
        let (mut place, mut url) = (place, start.clone());
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
            let target = self.rules.target(&place, answer.header(LOCATION));
            place = target.map_err(|detail| refused(&what, detail))?;
            url = route.spoken(place.clone());
            let call = self.follow(&url, &start, proof.as_ref(), range, request);
            answer = route.send(call, request.priority).await?;
        }
        // What needs our proof is asked through the registry each time, where a proof is renewed.
        if url != start && !is_same_place(&url, &start) {
            self.targets.keep(route.index, blob, url);
        }
        Ok(answer)
    }

    /// Asks the registry itself. Also gives what it was authorized with, and where the blob was looked for.
    async fn ask_first(
        &self,
        route: &Route,
        blob: &BlobId,
        range: &Part,
        request: &Request,
        what: &str,
    ) -> Result<(Answer, Option<HeaderValue>, Url), Failure> {
        let mut address = self.base.clone();
        if self.plain.is_now() {
            // Of http and https, either becomes the other.
            let _ = address.set_scheme(Scheme::Http.name());
        }
        let origin = address.clone();
        if let Ok(mut segments) = address.path_segments_mut() {
            segments.pop_if_empty().push(&format!("sha256:{blob}"));
        }
        let place = route.address(&address);
        let start = route.spoken(place.clone());
        let call = Call::range(start.clone(), range, request.deadline);
        let errand = Errand { route, origin: &origin, what };
        let (answer, proof) = self.auth.send(errand, call, request).await?;
        if start.scheme() == Scheme::Https.name() && route.role != Role::Mirror {
            self.plain.is_not();
        }
        Ok((answer, proof, place))
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
