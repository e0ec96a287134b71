//! Who we are to a registry, request by request: what it asked for before is sent at once, what it asks for now is sent
//! with a second request.
//!
//! Invariants: as long as nothing is known of what an endpoint asks for, one request goes first and the others wait for its
//! answer, though not long; a password that was turned down is not shown again so soon; and a mirror in the clear sees no
//! password, nor names who does.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{StatusCode, Url};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::challenge::Challenge;
use super::client::{Answer, Call};
use super::credentials::{Credential, Credentials, Identity};
use super::docker_config::Unknown;
use super::failure::Failure;
use super::route::Route;
use super::tokens::{self, Grant, Tokens, Ways, host, secret_header};
use crate::backend::Request;
use crate::lock;
use crate::policy::endpoint::Role;
use crate::policy::refusal::Refusals;
use crate::secret::Secret;

/// How long requests wait for the first one: a round trip or two. A server that says nothing for so long is met by all.
const FIRST_PATIENCE: Duration = Duration::from_secs(1);
/// How long a mirror's token is waited for: the next endpoint may need none.
const MIRROR_PATIENCE: Duration = Duration::from_secs(5);
/// What an endpoint asks for is asked again when it cannot be brought, at most so often.
const DOUBT: Duration = Duration::from_secs(5);
/// The most passwords that are remembered as turned down, and the most realms.
const MAX_KEPT: usize = 64;

/// Authenticates requests to one registry and its mirrors.
#[derive(Debug)]
pub(crate) struct Auth {
    credentials: Credentials,
    tokens: Arc<Tokens>,
    ways: Ways,
    /// The token to begin with; until the registry refuses it.
    initial: Mutex<Option<Secret>>,
    /// What each endpoint last asked for.
    asked: Mutex<HashMap<usize, Asked>>,
    /// Where the registry itself has its tokens from.
    realms: Mutex<HashSet<Url>>,
    /// Whose request is the first, by endpoint.
    first: Mutex<HashMap<usize, First>>,
    /// What became of passwords that were turned down, by endpoint.
    refusals: Mutex<HashMap<(usize, Identity), Refusals>>,
}

/// What an endpoint asked for.
#[derive(Clone, Debug)]
enum Asked {
    /// For nothing so far.
    Nothing,
    /// Since when.
    For(Challenge, Instant),
}

/// The turn to be the first, and when it was last taken.
#[derive(Clone, Debug)]
struct First {
    turn: Arc<AsyncMutex<()>>,
    since: Instant,
}

/// Whom a request goes to and what for.
#[derive(Clone, Copy)]
pub(crate) struct Errand<'a> {
    pub route: &'a Route,
    /// The registry as it is configured, however the request gets there.
    pub origin: &'a Url,
    /// The object, for errors.
    pub what: &'a str,
}

/// What a request is sent with, and what it was made from.
struct Proof {
    header: HeaderValue,
    made_from: MadeFrom,
}

enum MadeFrom {
    Initial(Secret),
    Password(Credential),
    Token(Grant, Credential, Secret),
}

impl Auth {
    pub(crate) fn new(
        credentials: Credentials,
        initial: Option<Secret>,
        tokens: Arc<Tokens>,
        ways: Ways,
    ) -> Self {
        Self {
            credentials,
            tokens,
            ways,
            initial: Mutex::new(initial),
            asked: Mutex::default(),
            realms: Mutex::default(),
            first: Mutex::default(),
            refusals: Mutex::default(),
        }
    }

    /// From now on `auth` is who we are, whatever was turned down before. The error says what it is instead of base64 of
    /// `user:password`, and nothing of it.
    pub(crate) fn exchange(&self, auth: Secret) -> Result<(), &'static str> {
        let identity = Credential::from_auth(&auth)?.identity();
        self.credentials.exchange(auth);
        self.tokens.pardon(identity);
        *lock(&self.initial) = None;
        lock(&self.refusals).clear();
        Ok(())
    }

    /// Sends `call`; if the answer is 401, once more with what it asks for. Also says what the last request was authorized
    /// with: it may be sent on to the same place.
    pub(crate) async fn send(
        &self,
        errand: Errand<'_>,
        call: Call,
        request: &Request,
    ) -> Result<(Answer, Option<HeaderValue>), Failure> {
        let Errand { route, what, .. } = errand;
        let mut first = match self.asked(route) {
            Some(_) => None,
            None => self.wait_for_the_first(route, request.deadline).await,
        };
        let known = self.asked(route);
        if known.is_some() {
            first = None;
        }
        let mut proof = match (self.initial(route), known) {
            (Some(token), _) => {
                Some(Proof { header: secret_header("Bearer", &token)?, made_from: MadeFrom::Initial(token) })
            }
            (None, Some(Asked::For(challenge, _))) => {
                let proof = self.prove(errand, &call.url, &challenge, request.deadline).await;
                proof.inspect_err(|_| self.doubt(route))?
            }
            (None, Some(Asked::Nothing) | None) => None,
        };
        for is_last in [false, true] {
            let mut call = call.clone();
            if let Some(proof) = &proof {
                call.headers.insert(AUTHORIZATION, proof.header.clone());
            }
            let url = call.url.clone();
            let answer = route.send(call, request.priority).await?;
            if answer.status() != StatusCode::UNAUTHORIZED {
                lock(&self.asked).entry(route.index).or_insert(Asked::Nothing);
                if let Some(proof) = &proof {
                    self.accepted(route, &proof.made_from);
                }
                return Ok((answer, proof.map(|proof| proof.header)));
            }
            if let Some(proof) = &proof {
                self.refused(route, &proof.made_from);
            }
            let refused = proof.take();
            let challenges: Vec<_> = answer.headers(WWW_AUTHENTICATE).flat_map(Challenge::parse).collect();
            for challenge in challenges.into_iter().filter(|_| !is_last) {
                lock(&self.asked).insert(route.index, Asked::For(challenge.clone(), Instant::now()));
                // The others know now what to bring.
                drop(first.take());
                let proved = self.prove(errand, &url, &challenge, request.deadline).await;
                proof = proved.inspect_err(|_| self.doubt(route))?;
                if proof.is_some() {
                    break;
                }
            }
            // The same again would be turned down again.
            let is_same =
                |proof: &Proof| refused.as_ref().is_some_and(|refused| refused.header == proof.header);
            if proof.as_ref().is_none_or(is_same) {
                return Err(route.failure(answer, what, &format!("registry {}", host(&url))).await);
            }
        }
        Err(Failure::Late)
    }

    fn asked(&self, route: &Route) -> Option<Asked> {
        lock(&self.asked).get(&route.index).cloned()
    }

    /// Waits until the first request knows what the endpoint asks for, or to be it.
    async fn wait_for_the_first(&self, route: &Route, deadline: Instant) -> Option<OwnedMutexGuard<()>> {
        let now = Instant::now();
        let new = || First { turn: Arc::default(), since: now };
        let First { turn, since } = lock(&self.first).entry(route.index).or_insert_with(new).clone();
        let taken = match turn.clone().try_lock_owned() {
            Ok(turn) => turn,
            Err(_) => {
                let until = deadline.min(since + FIRST_PATIENCE);
                tokio::time::timeout_at(until.into(), turn.lock_owned()).await.ok()?
            }
        };
        if let Some(first) = lock(&self.first).get_mut(&route.index) {
            first.since = Instant::now();
        }
        Some(taken)
    }

    /// What the endpoint asks for was not to be had. It may ask for something else by now, a token of another service:
    /// the next request finds out.
    fn doubt(&self, route: &Route) {
        let mut asked = lock(&self.asked);
        if let Some(Asked::For(_, since)) = asked.get(&route.index)
            && since.elapsed() >= DOUBT
        {
            asked.remove(&route.index);
        }
    }

    fn initial(&self, route: &Route) -> Option<Secret> {
        match route.role {
            // It was made for the registry.
            Role::Mirror => None,
            Role::Proxy | Role::Origin => lock(&self.initial).clone(),
        }
    }

    fn refused(&self, route: &Route, made_from: &MadeFrom) {
        match made_from {
            MadeFrom::Initial(token) => {
                lock(&self.initial).take_if(|initial| initial == token);
            }
            MadeFrom::Password(credential) => {
                let key = (route.index, credential.identity());
                // Any number that differs between servers.
                let seed = || RandomState::new().build_hasher().finish();
                let mut refusals = lock(&self.refusals);
                if refusals.len() >= MAX_KEPT {
                    refusals.clear();
                }
                refusals.entry(key).or_insert_with(|| Refusals::new(seed())).refused(Instant::now());
                self.credentials.refused(credential);
            }
            MadeFrom::Token(grant, credential, token) => {
                self.tokens.refused(grant, credential, token);
                self.credentials.refused(credential);
            }
        }
    }

    fn accepted(&self, route: &Route, made_from: &MadeFrom) {
        match made_from {
            MadeFrom::Initial(_) => {}
            MadeFrom::Password(credential) => {
                let mut refusals = lock(&self.refusals);
                if let Some(refusals) = refusals.get_mut(&(route.index, credential.identity())) {
                    refusals.accepted();
                }
            }
            MadeFrom::Token(grant, credential, token) => self.tokens.accepted(grant, credential, token),
        }
    }

    /// Whether it is the registry, or a mirror that nobody can imitate, who sends us to `realm`.
    fn is_vouched_for(&self, route: &Route, url: &Url, realm: &Url) -> bool {
        let mut realms = lock(&self.realms);
        if route.role == Role::Mirror {
            return url.scheme() == "https" || realms.contains(realm);
        }
        if realms.len() < MAX_KEPT {
            realms.insert(realm.clone());
        }
        true
    }

    /// What answers `challenge` of the server at `url`. `None`: nothing we have does.
    async fn prove(
        &self,
        Errand { route, origin, what }: Errand<'_>,
        url: &Url,
        challenge: &Challenge,
        deadline: Instant,
    ) -> Result<Option<Proof>, Failure> {
        let credential = self.credentials.current().await;
        let credential = credential.map_err(|Unknown { detail, may_pass }| match may_pass {
            true => Failure::Server { detail, retry_after: None },
            false => Failure::denied(what, detail),
        })?;
        // A proxy may be asked in another scheme than the registry behind it.
        let registry = if route.role == Role::Mirror { url } else { origin };
        match challenge {
            Challenge::Basic => {
                let Credential::Password(auth) = &credential else { return Ok(None) };
                // A mirror is not the registry that the configuration trusts with a password in the clear.
                if route.role == Role::Mirror && url.scheme() != "https" {
                    let detail = "a password is not sent to a mirror over plain http";
                    return Err(Failure::denied(what, detail));
                }
                let key = (route.index, credential.identity());
                let refusals = lock(&self.refusals).get(&key).and_then(|known| known.until(Instant::now()));
                if refusals.is_some() {
                    let detail = format!(
                        "{} turned the password down, and is not shown it again so soon",
                        host(registry)
                    );
                    return Err(Failure::denied(what, detail));
                }
                let header = secret_header("Basic", auth)?;
                Ok(Some(Proof { header, made_from: MadeFrom::Password(credential) }))
            }
            Challenge::Bearer { realm, service, scope } => {
                let realm = registry
                    .join(realm)
                    .map_err(|_| Failure::denied(what, "the token realm is no address"))?;
                let has_secret = credential != Credential::Anonymous;
                if has_secret && !self.is_vouched_for(route, url, &realm) {
                    let detail = format!(
                        "a mirror over plain http wants a token from {}, which the registry itself has not asked for",
                        host(&realm)
                    );
                    return Err(Failure::denied(what, detail));
                }
                if has_secret && !tokens::may_see(&realm, registry) {
                    let detail = format!(
                        "the registry wants a token from {}://{}, where credentials are not sent in the clear",
                        realm.scheme(),
                        host(&realm)
                    );
                    return Err(Failure::denied(what, detail));
                }
                let grant = Grant { realm, service: service.clone(), scope: scope.clone() };
                let ways = self.ways.of(route.role);
                let until = match route.role {
                    Role::Mirror => deadline.min(Instant::now() + MIRROR_PATIENCE),
                    Role::Proxy | Role::Origin => deadline,
                };
                let token = self.tokens.get(ways, &grant, &credential, until).await;
                let token = token.map_err(|failure| match failure {
                    Failure::Late if until < deadline => Failure::Silent(format!(
                        "no token from {} for {MIRROR_PATIENCE:?}",
                        host(&grant.realm)
                    )),
                    // It is not the registry that speaks no TLS.
                    Failure::NotTls(detail) => Failure::Unusable(detail),
                    // Why it is wanted, and for what.
                    Failure::Refused(error) => Failure::Refused(error.within(what)),
                    Failure::Final(error) if route.role == Role::Mirror => {
                        Failure::Refused(error.within(what))
                    }
                    Failure::Final(error) => {
                        self.credentials.refused(&credential);
                        Failure::Final(error.within(what))
                    }
                    other => other,
                })?;
                let header = secret_header("Bearer", &token)?;
                Ok(Some(Proof { header, made_from: MadeFrom::Token(grant, credential, token) }))
            }
        }
    }
}
