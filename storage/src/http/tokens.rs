//! Bearer tokens: fetched from token services, kept for all backends of the process, renewed before they end.
//!
//! Invariants: a token serves only the realm, service, scope and credential that it was fetched for; at most one fetch a
//! key is under way, when [`crate::policy::token`] says so, and it outlives the read that began it; a credential is never
//! sent to a realm that [`may_see`] does not allow.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{fmt, io};

use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Method, Url};
use serde::Deserialize;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tracing::field::Empty;
use tracing::{Instrument as _, Span, info_span};

use super::client::{Answer, Call, Client, Patience, Way};
use super::credentials::{Credential, Identity};
use super::failure::Failure;
use super::options::HttpOptions;
use crate::backend::BoxFuture;
use crate::lock;
use crate::policy::endpoint::Role;
use crate::policy::token::{Fault, Fetch, Life, Need};
use crate::secret::Secret;
use crate::trace::{self, Step, TARGET};
use crate::{Error, Result};

/// What token services know us as.
const CLIENT_ID: &str = "nydus-registry-client";
/// The life of a token whose service does not say.
const DEFAULT_LIFE: Duration = Duration::from_secs(600);
/// The longest answer of a token service.
const MAX_ANSWER: usize = 1 << 20;
/// The most tokens that are kept.
const MAX_KEPT: usize = 4096;
/// How long a fetch may take, whoever waits for it.
const FETCH_LIMIT: Duration = Duration::from_secs(30);

/// What a token is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Grant {
    pub realm: Url,
    pub service: Option<String>,
    pub scope: Option<String>,
}

/// The ways to token services: those of the registry whose tokens they are.
#[derive(Debug)]
pub(crate) struct Ways {
    proxied: Vec<Arc<Client>>,
    direct: Vec<Arc<Client>>,
}

impl Ways {
    /// Through the proxy of `options` if there is one, and past it if that is allowed.
    pub(crate) fn new(options: &HttpOptions) -> Result<Self> {
        let mut ways = Self { proxied: Vec::new(), direct: Vec::new() };
        if options.proxy.as_ref().is_none_or(|proxy| proxy.fallback) {
            ways.direct.push(Arc::new(Client::new(options, Way::Direct)?));
        }
        if let Some(proxy) = &options.proxy {
            let through = Client::new(options, Way::Proxy(Secret::new(proxy.url.expose())))?;
            ways.proxied = [Arc::new(through)].into_iter().chain(ways.direct.clone()).collect();
        }
        Ok(ways)
    }

    /// In the order they are tried by a request that goes to an endpoint with this role.
    pub(crate) fn of(&self, role: Role) -> &[Arc<Client>] {
        match role {
            Role::Proxy => &self.proxied,
            Role::Mirror | Role::Origin => &self.direct,
        }
    }
}

/// The tokens of a process.
#[derive(Default)]
pub(crate) struct Tokens {
    entries: Mutex<HashMap<(Grant, Identity), Arc<Entry>>>,
    /// Services that want to be asked with GET, by realm.
    get_only: Mutex<HashSet<Url>>,
    fetches: Mutex<TokenFetches>,
}

/// How often token services were asked for a token, by what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenFetches {
    /// They gave one.
    pub given: u64,
    /// They turned the credential down.
    pub denied: u64,
    /// There was no answer, or one that brings nothing.
    pub failed: u64,
}

/// The token of one key.
struct Entry {
    life: Mutex<Life<Secret>>,
    /// A fetch has ended: who waits asks again.
    wake: Notify,
}

/// A fetch that is given back, whatever happens.
struct Held {
    entry: Arc<Entry>,
    fetch: Option<Fetch>,
}

impl Held {
    fn new(entry: &Arc<Entry>, fetch: Fetch) -> Self {
        Self { entry: entry.clone(), fetch: Some(fetch) }
    }

    /// What the service gave becomes the token of the key.
    fn end(mut self, fetched: Result<(Secret, Duration), &Failure>) {
        let Some(fetch) = self.fetch.take() else { return };
        let (now, mut life) = (Instant::now(), lock(&self.entry.life));
        match fetched {
            Ok((token, lasts)) => life.fetched(now, fetch, token, lasts),
            Err(Failure::Final(_)) => life.failed(now, fetch, Fault::Denied, None),
            Err(Failure::Late) => life.abandoned(fetch),
            Err(failure) => life.failed(now, fetch, Fault::Unavailable, failure.retry_after()),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(fetch) = self.fetch.take() {
            lock(&self.entry.life).abandoned(fetch);
        }
        self.entry.wake.notify_waiters();
    }
}

/// A fetch that goes on when nobody waits for it any more: the next reader finds its token.
struct Lasting(Option<BoxFuture<'static, Result<Secret, Failure>>>);

impl Lasting {
    fn new(fetch: impl Future<Output = Result<Secret, Failure>> + Send + 'static) -> Self {
        Self(Some(Box::pin(fetch)))
    }

    /// Waits until `deadline` for what `service` says.
    async fn wait(&mut self, deadline: Instant, service: &str) -> Result<Secret, Failure> {
        let Some(fetch) = &mut self.0 else { return Err(Failure::Late) };
        let waited =
            Patience::until(deadline).wait(&format!("no token from {service}"), fetch.as_mut()).await;
        if waited.is_ok() || trace::leave(fetch.as_mut()).is_ready() {
            self.0 = None;
        }
        waited.flatten()
    }
}

impl Drop for Lasting {
    fn drop(&mut self) {
        if let (Some(fetch), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            drop(runtime.spawn(fetch));
        }
    }
}

/// Whether a token service at `realm` may see the credential of a registry at `registry`: over TLS, or if the registry
/// itself speaks plain http, on the same host.
pub(crate) fn may_see(realm: &Url, registry: &Url) -> bool {
    match realm.scheme() {
        "https" => true,
        "http" => registry.scheme() == "http" && realm.host().is_some() && realm.host() == registry.host(),
        _ => false,
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("kept", &lock(&self.entries).len()).finish_non_exhaustive()
    }
}

impl Default for Entry {
    fn default() -> Self {
        // Any number that differs between keys and processes.
        let seed = RandomState::new().build_hasher().finish();
        Self { life: Mutex::new(Life::new(seed)), wake: Notify::new() }
    }
}

impl Tokens {
    /// A token for `grant`, proving to be `credential`: the one at hand, else a new one. Waits until `deadline`.
    pub(crate) async fn get(
        self: &Arc<Self>,
        ways: &[Arc<Client>],
        grant: &Grant,
        credential: &Credential,
        deadline: Instant,
    ) -> Result<Secret, Failure> {
        let entry = self.entry(grant, credential);
        // One that is at hand is not worth a span.
        let mut step = None;
        loop {
            // Registered before the token is asked for, so that no change falls between the two.
            let woken = entry.wake.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            let need = lock(&entry.life).need(Instant::now());
            match need {
                Need::Use(token) => return Ok(token),
                Need::Renew(token, fetch) => {
                    let held = Held::new(&entry, fetch);
                    renew(grant, self.fetch(held, ways, grant, credential));
                    return Ok(token);
                }
                Need::Fetch(fetch) => {
                    let held = Held::new(&entry, fetch);
                    let mut fetch = Lasting::new(self.fetch(held, ways, grant, credential));
                    let step = step.get_or_insert_with(|| Step::within(|| span(grant)));
                    let fetched = step.cover(fetch.wait(deadline, host(&grant.realm))).await;
                    if let Err(failure) = &fetched {
                        step.failed(failure.name(), failure);
                    }
                    return fetched;
                }
                Need::Wait(until) => {
                    if Instant::now() >= deadline {
                        return Err(Failure::Late);
                    }
                    let step = step.get_or_insert_with(|| Step::within(|| span(grant)));
                    // Until another read has fetched it.
                    let fetched = tokio::time::timeout_at(until.min(deadline).into(), woken);
                    let _ = step.cover(fetched).await;
                }
                Need::Denied(_) => {
                    let detail = "it turned the credential down, and is not shown it again so soon";
                    let source = io::Error::new(io::ErrorKind::PermissionDenied, detail);
                    let what = format!("token service {}", host(&grant.realm));
                    return Err(Failure::Final(Error::Denied { what, source }));
                }
            }
        }
    }

    /// The registry did not accept `text`: it is not handed out again.
    pub(crate) fn refused(&self, grant: &Grant, credential: &Credential, text: &Secret) {
        lock(&self.entry(grant, credential).life).refused(Instant::now(), text);
    }

    /// The registry accepted `text`.
    pub(crate) fn accepted(&self, grant: &Grant, credential: &Credential, text: &Secret) {
        lock(&self.entry(grant, credential).life).accepted(text);
    }

    /// Somebody says that the credential is good, whatever a service has said of it.
    pub(crate) fn pardon(&self, identity: Identity) {
        for ((_, of), entry) in &*lock(&self.entries) {
            if *of == identity {
                lock(&entry.life).pardon();
                entry.wake.notify_waiters();
            }
        }
    }

    fn entry(&self, grant: &Grant, credential: &Credential) -> Arc<Entry> {
        let mut entries = lock(&self.entries);
        if entries.len() >= MAX_KEPT {
            // An entry in use is held by its users.
            let now = Instant::now();
            entries.retain(|_, entry| Arc::strong_count(entry) > 1 || !lock(&entry.life).is_idle(now));
            if entries.len() >= MAX_KEPT {
                entries.clear();
            }
        }
        entries.entry((grant.clone(), credential.identity())).or_default().clone()
    }

    /// How often services were asked.
    pub(crate) fn fetches(&self) -> TokenFetches {
        *lock(&self.fetches)
    }

    /// Asks the token service, by the first way on which there is an answer, and counts that. What it gave is then the
    /// token of the key.
    fn fetch(
        self: &Arc<Self>,
        held: Held,
        ways: &[Arc<Client>],
        grant: &Grant,
        credential: &Credential,
    ) -> impl Future<Output = Result<Secret, Failure>> + Send + 'static {
        let (tokens, ways) = (self.clone(), ways.to_vec());
        let (grant, credential) = (grant.clone(), credential.clone());
        async move {
            let deadline = Instant::now() + FETCH_LIMIT;
            let mut fetched = Err(Failure::Late);
            for client in ways {
                fetched = tokens.ask(&client, &grant, &credential, deadline).await;
                // Of the service itself it says nothing when the way is blocked.
                if !fetched.as_ref().is_err_and(Failure::is_of_the_way) {
                    break;
                }
            }
            tokens.count(&fetched);
            held.end(fetched.as_ref().map(Clone::clone));
            fetched.map(|(token, _)| token)
        }
    }

    fn count<T>(&self, fetched: &Result<T, Failure>) {
        let mut fetches = lock(&self.fetches);
        match fetched {
            Ok(_) => fetches.given += 1,
            Err(Failure::Final(_)) => fetches.denied += 1,
            Err(_) => fetches.failed += 1,
        }
    }

    /// With POST, and if the service does not like that, with GET from then on.
    async fn ask(
        &self,
        client: &Client,
        grant: &Grant,
        credential: &Credential,
        deadline: Instant,
    ) -> Result<(Secret, Duration), Failure> {
        let mut form = vec![("client_id", CLIENT_ID.to_owned())];
        form.extend(grant.service.iter().map(|service| ("service", service.clone())));
        form.extend(grant.scope.iter().map(|scope| ("scope", scope.clone())));
        let mut call = Call::get(grant.realm.clone(), deadline);
        call.is_foreign = true;
        match credential {
            Credential::Anonymous => {}
            Credential::Password(auth) => {
                call.headers.insert(AUTHORIZATION, secret_header("Basic", auth)?);
            }
            Credential::IdentityToken(token) => {
                form.push(("grant_type", "refresh_token".to_owned()));
                form.push(("refresh_token", token.expose().to_owned()));
            }
        }
        // No identity token goes into an address.
        let may_get = !matches!(credential, Credential::IdentityToken(_));
        if !may_get || !lock(&self.get_only).contains(&grant.realm) {
            let mut post = call.clone();
            post.method = Method::POST;
            post.form = Some(form.clone());
            let answer = client.send(post).await?;
            let status = answer.status();
            let dislikes_post = matches!(status.as_u16(), 400..=406 | 409..=424 | 426..=428 | 430..=501);
            if !(may_get && dislikes_post) {
                match token(answer, grant).await {
                    Err(Failure::Refused(_)) if may_get && status.is_success() => {}
                    other => return other,
                }
            }
        }
        call.url.query_pairs_mut().extend_pairs(&form);
        let token = token(client.send(call).await?, grant).await?;
        let mut get_only = lock(&self.get_only);
        if get_only.len() < MAX_KEPT {
            get_only.insert(grant.realm.clone());
        }
        Ok(token)
    }
}

/// Lets `fetch` bring a new token while the old one is used.
fn renew(grant: &Grant, fetch: impl Future<Output = Result<Secret, Failure>> + Send + 'static) {
    let realm = host(&grant.realm).to_owned();
    // A trace of its own: the read that found it due does not wait for it.
    let span = info_span!(
        target: TARGET, parent: None, "token", server.address = trace::text(&realm), error.type = Empty,
        otel.status_description = Empty,
    );
    span.follows_from(Span::current());
    let renewal = async move {
        if let Err(failure) = fetch.await {
            trace::failed(&Span::current(), failure.name(), &failure);
            tracing::warn!(realm, %failure, "cannot renew a token");
        }
    };
    tokio::spawn(renewal.instrument(span));
}

/// What a token service answers.
#[derive(Deserialize)]
pub(crate) struct Granted {
    token: Option<String>,
    access_token: Option<String>,
    /// Seconds, in a number or, with some services, in a text.
    #[serde(default)]
    expires_in: serde_json::Value,
}

impl Granted {
    /// The token and its life.
    pub(crate) fn parse(body: &[u8]) -> Option<(Secret, Duration)> {
        let granted: Self = serde_json::from_slice(body).ok()?;
        let text =
            [granted.token, granted.access_token].into_iter().flatten().find(|text| !text.is_empty())?;
        let told = match &granted.expires_in {
            serde_json::Value::String(text) => text.trim().parse().ok(),
            other => other.as_f64(),
        };
        let life = told.and_then(|life| Duration::try_from_secs_f64(life).ok()).unwrap_or(DEFAULT_LIFE);
        Some((Secret::new(text), life))
    }
}

/// The span of getting a token.
fn span(grant: &Grant) -> Span {
    info_span!(
        target: TARGET, "token", server.address = trace::text(host(&grant.realm)), nydus.overtaken = Empty, error.type = Empty,
        otel.status_description = Empty,
    )
}

/// The token in an answer of a token service, and how long it lives.
async fn token(answer: Answer, grant: &Grant) -> Result<(Secret, Duration), Failure> {
    let service = format!("token service {}", host(&grant.realm));
    let status = answer.status();
    match status.as_u16() {
        // It is the proxy that wants to know who asks.
        407 => return Err(Failure::of_answer(answer, &service, &service).await.of_a_stand_in()),
        408 | 425 | 429 => return Err(Failure::of_answer(answer, &service, &service).await),
        400 | 401 | 403 => {
            let detail = format!("it answered {}", answer.describe().await);
            let source = io::Error::new(io::ErrorKind::PermissionDenied, detail);
            return Err(Failure::Final(Error::Denied { what: service, source }));
        }
        // Says nothing of the credential: something else stands where the service should be, and it may come back.
        400..500 => {
            let detail = format!("{service} answered {}", answer.describe().await);
            return Err(Failure::Server { detail, retry_after: None });
        }
        _ if !status.is_success() => return Err(Failure::of_answer(answer, &service, &service).await),
        _ => {}
    }
    let body = answer.body(MAX_ANSWER).await?;
    Granted::parse(&body)
        .ok_or_else(|| Failure::Refused(Error::invalid(service, "its answer holds no token")))
}

/// `SCHEME SECRET` as the value of `Authorization`.
pub(crate) fn secret_header(scheme: &str, secret: &Secret) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::from_str(&format!("{scheme} {}", secret.expose())).map_err(|_| {
        Failure::denied("authorization", format!("the {scheme} secret is not the value of a header"))
    })?;
    value.set_sensitive(true);
    Ok(value)
}

pub(crate) fn host(url: &Url) -> &str {
    url.host_str().unwrap_or("without a host")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_token_services() {
        const HUGE: Duration = Duration::from_secs(9_000_000_000_000_000);
        let seconds = Duration::from_secs;
        for (body, expected) in [
            (r#"{"token":"t"}"#, Some(("t", DEFAULT_LIFE))),
            (r#"{"access_token":"a","expires_in":300,"issued_at":"x"}"#, Some(("a", seconds(300)))),
            (r#"{"token":"t","access_token":"a","expires_in":0}"#, Some(("t", seconds(0)))),
            (r#"{"token":"","access_token":"a","expires_in":null}"#, Some(("a", DEFAULT_LIFE))),
            (r#"{"token":null,"access_token":"a","expires_in":"60"}"#, Some(("a", seconds(60)))),
            (r#"{"token":"t","expires_in":9000000000000000}"#, Some(("t", HUGE))),
            (r#"{"token":"t","expires_in":1e300}"#, Some(("t", DEFAULT_LIFE))),
            (r#"{"token":"t","expires_in":-1}"#, Some(("t", DEFAULT_LIFE))),
            (r#"{"token":"t","expires_in":"NaN"}"#, Some(("t", DEFAULT_LIFE))),
            (r#"{"token":"t","expires_in":[1]}"#, Some(("t", DEFAULT_LIFE))),
            (r#"{"token":["t"]}"#, None),
            (r#"{"token":""}"#, None),
            ("{}", None),
            ("<html>", None),
            ("", None),
        ] {
            let expected = expected.map(|(text, life)| (Secret::new(text), life));
            assert_eq!(Granted::parse(body.as_bytes()), expected, "{body}");
        }
    }

    #[test]
    fn credentials_go_to_tls_or_to_the_plain_registry_itself() {
        for (realm, registry, may) in [
            ("https://auth/token", "https://registry/", true),
            ("https://auth/token", "http://registry/", true),
            ("http://auth/token", "https://registry/", false),
            ("http://registry:5001/token", "http://registry:5000/", true),
            ("http://auth/token", "http://registry/", false),
            ("http://registry/token", "https://registry/", false),
            ("ftp://registry/token", "http://registry/", false),
        ] {
            assert_eq!(
                may_see(&Url::parse(realm).unwrap(), &Url::parse(registry).unwrap()),
                may,
                "{realm} {registry}"
            );
        }
    }
}
