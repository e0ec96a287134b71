//! Who we are to a registry, and where that is written: given at run time or in the configuration, else found in
//! Docker's configuration, else nobody.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use tracing::Instrument as _;

use super::docker_config;
use crate::secret::Secret;
use crate::trace::{self, TARGET};

/// What Docker's configuration said is asked again after this time, and after a refusal.
const DOCKER_LIFE: Duration = Duration::from_secs(300);

/// A proof of who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Credential {
    /// None: whoever may read without one.
    Anonymous,
    /// Base64 of `user:password`, as HTTP wants it.
    Password(Secret),
    /// A token that is exchanged for another at the token service.
    IdentityToken(Secret),
}

/// A credential's name in keys of caches: the same for the same credential, and tells nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity([u8; 32]);

impl Credential {
    /// From base64 of `user:password`. The error shows nothing of it.
    pub(crate) fn from_auth(auth: &Secret) -> Result<Self, &'static str> {
        match STANDARD.decode(auth.expose()) {
            Ok(plain) if plain.contains(&b':') => Ok(Self::Password(auth.clone())),
            Ok(_) => Err("expected base64 of user:password, found base64 of a text without `:`"),
            Err(_) => Err("expected base64 of user:password, found a text that is not base64"),
        }
    }

    pub(crate) fn identity(&self) -> Identity {
        let (kind, secret) = match self {
            Self::Anonymous => (b'a', ""),
            Self::Password(auth) => (b'p', auth.expose()),
            Self::IdentityToken(token) => (b't', token.expose()),
        };
        let mut hash = Sha256::new();
        hash.update([kind]);
        hash.update(secret.as_bytes());
        Identity(hash.finalize().into())
    }
}

/// The credential of one registry.
#[derive(Debug)]
pub(crate) struct Credentials {
    host: String,
    given: Mutex<Option<Secret>>,
    docker_config: Option<PathBuf>,
    found: Mutex<Option<(Instant, Credential)>>,
}

impl Credentials {
    /// For the registry at `host`: `auth` if there is one, else what Docker's configuration says.
    pub(crate) fn new(host: String, auth: Option<Secret>, docker_config: Option<PathBuf>) -> Self {
        Self { host, given: Mutex::new(auth), docker_config, found: Mutex::new(None) }
    }

    /// From now on `auth` is who we are, unless it is not what [`Credential::from_auth`] takes.
    pub(crate) fn exchange(&self, auth: Secret) -> Result<(), &'static str> {
        Credential::from_auth(&auth)?;
        *self.given.lock().unwrap_or_else(PoisonError::into_inner) = Some(auth);
        Ok(())
    }

    /// Who we are now.
    pub(crate) async fn current(&self) -> Result<Credential, String> {
        if let Some(auth) = self.given.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Credential::from_auth(&auth).map_err(|detail| format!("auth: {detail}"));
        }
        let Some(path) = &self.docker_config else { return Ok(Credential::Anonymous) };
        if let Some((since, credential)) = &*self.found.lock().unwrap_or_else(PoisonError::into_inner)
            && since.elapsed() < DOCKER_LIFE
        {
            return Ok(credential.clone());
        }
        let span = trace::within(|| tracing::info_span!(target: TARGET, "credentials"));
        let found = docker_config::look_up(path, &self.host).instrument(span).await?;
        let found = found.unwrap_or(Credential::Anonymous);
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), found.clone()));
        Ok(found)
    }

    /// The server did not believe `credential`: what was found is not used again.
    pub(crate) fn refused(&self, credential: &Credential) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if found.as_ref().is_some_and(|(_, kept)| kept == credential) {
            *found = None;
        }
    }
}
