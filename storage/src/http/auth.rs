//! Who we are to a registry, request by request: what it asked for before is sent at once, what it asks for now is sent
//! with a second request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use reqwest::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{StatusCode, Url};

use super::challenge::Challenge;
use super::client::{Answer, Call, Client};
use super::credentials::{Credential, Credentials};
use super::failure::Failure;
use super::route::Route;
use super::tokens::{self, Grant, Tokens, host, secret_header};
use crate::backend::Request;
use crate::policy::endpoint::Role;
use crate::secret::Secret;

/// Authenticates requests to one registry and its mirrors.
#[derive(Debug)]
pub(crate) struct Auth {
    credentials: Credentials,
    tokens: Arc<Tokens>,
    /// Fetches tokens.
    client: Arc<Client>,
    /// The token to begin with; until the registry refuses it.
    initial: Mutex<Option<Secret>>,
    /// What each endpoint last asked for.
    asked: Mutex<HashMap<usize, Challenge>>,
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
        client: Arc<Client>,
    ) -> Self {
        Self { credentials, tokens, client, initial: Mutex::new(initial), asked: Mutex::default() }
    }

    /// From now on `auth` is who we are. The error says what it is instead of base64 of `user:password`, and nothing of it.
    pub(crate) fn exchange(&self, auth: Secret) -> Result<(), &'static str> {
        self.credentials.exchange(auth)
    }

    /// Sends `call` to `route`; if the answer is 401, once more with what it asks for. Also says what the last request
    /// was authorized with: it may be sent on to the same place. `what` names the object.
    pub(crate) async fn send(
        &self,
        route: &Route,
        call: Call,
        request: &Request,
        what: &str,
    ) -> Result<(Answer, Option<HeaderValue>), Failure> {
        let known = lock(&self.asked).get(&route.index).cloned();
        let mut proof = match (self.initial(route), known) {
            (Some(token), _) => {
                Some(Proof { header: secret_header("Bearer", &token)?, made_from: MadeFrom::Initial(token) })
            }
            (None, Some(challenge)) => {
                self.prove(route, &call.url, &challenge, request.deadline, what).await?
            }
            (None, None) => None,
        };
        for is_last in [false, true] {
            let mut call = call.clone();
            if let Some(proof) = &proof {
                call.headers.insert(AUTHORIZATION, proof.header.clone());
            }
            let url = call.url.clone();
            let answer = route.send(call, request.priority).await?;
            if answer.status() != StatusCode::UNAUTHORIZED {
                return Ok((answer, proof.map(|proof| proof.header)));
            }
            if let Some(proof) = &proof {
                self.refused(&proof.made_from);
            }
            if is_last {
                return Err(route.failure(answer, what, &format!("registry {}", host(&url))).await);
            }
            let challenges: Vec<_> = answer.headers(WWW_AUTHENTICATE).flat_map(Challenge::parse).collect();
            proof = None;
            for challenge in challenges {
                proof = self.prove(route, &url, &challenge, request.deadline, what).await?;
                if proof.is_some() {
                    lock(&self.asked).insert(route.index, challenge);
                    break;
                }
            }
            if proof.is_none() {
                return Err(route.failure(answer, what, &format!("registry {}", host(&url))).await);
            }
        }
        Err(Failure::Late)
    }

    fn initial(&self, route: &Route) -> Option<Secret> {
        match route.role {
            // It was made for the registry.
            Role::Mirror => None,
            Role::Proxy | Role::Origin => lock(&self.initial).clone(),
        }
    }

    fn refused(&self, made_from: &MadeFrom) {
        match made_from {
            MadeFrom::Initial(token) => {
                let mut initial = lock(&self.initial);
                if initial.as_ref() == Some(token) {
                    *initial = None;
                }
            }
            MadeFrom::Password(credential) => self.credentials.refused(credential),
            MadeFrom::Token(grant, credential, token) => {
                self.tokens.refused(grant, credential, token);
                self.credentials.refused(credential);
            }
        }
    }

    /// What answers `challenge` of the server at `url`. `None`: nothing we have does.
    async fn prove(
        &self,
        route: &Route,
        url: &Url,
        challenge: &Challenge,
        deadline: Instant,
        what: &str,
    ) -> Result<Option<Proof>, Failure> {
        let credential = self.credentials.current().await;
        let credential = credential.map_err(|detail| Failure::denied(what, detail))?;
        match challenge {
            Challenge::Basic => {
                let Credential::Password(auth) = &credential else { return Ok(None) };
                // A mirror is not the registry that the configuration trusts with a password in the clear.
                if route.role == Role::Mirror && url.scheme() != "https" {
                    let detail = "a password is not sent to a mirror over plain http";
                    return Err(Failure::denied(what, detail));
                }
                let header = secret_header("Basic", auth)?;
                Ok(Some(Proof { header, made_from: MadeFrom::Password(credential) }))
            }
            Challenge::Bearer { realm, service, scope } => {
                let realm =
                    url.join(realm).map_err(|_| Failure::denied(what, "the token realm is no address"))?;
                let has_secret = credential != Credential::Anonymous;
                if has_secret && !tokens::may_see(&realm, url) {
                    let detail = format!(
                        "the registry wants a token from {}://{}, where credentials are not sent in the clear",
                        realm.scheme(),
                        host(&realm)
                    );
                    return Err(Failure::denied(what, detail));
                }
                let grant = Grant { realm, service: service.clone(), scope: scope.clone() };
                let token = self.tokens.get(&self.client, &grant, &credential, deadline).await;
                let token = token.map_err(|failure| match failure {
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

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
