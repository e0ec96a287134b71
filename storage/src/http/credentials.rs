//! Who we are to a registry, and where that is written: given at run time or in the configuration, else found in
//! Docker's configuration, else nobody.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex as AsyncMutex;
use tracing::Instrument as _;

use super::docker_config::{self, Unknown};
use crate::lock;
use crate::secret::Secret;
use crate::trace::{self, TARGET};

/// Docker's configuration is looked into again after this time.
const DOCKER_LIFE: Duration = Duration::from_secs(300);
/// The same when it had nothing, or nothing that was believed: a login or a new password is found soon, and no helper is
/// started for each request.
const DOCKER_PAUSE: Duration = Duration::from_secs(5);
/// The same when it could not be read, or a helper failed.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);

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
    /// In the configuration or at run time.
    given: Mutex<Option<Secret>>,
    docker_config: Option<PathBuf>,
    /// Whose turn it is to look into Docker's configuration.
    looking: AsyncMutex<()>,
    found: Mutex<Option<Found>>,
}

/// What Docker's configuration said.
#[derive(Debug)]
struct Found {
    at: Instant,
    result: Result<Credential, Unknown>,
    /// The server did not believe it.
    refused: bool,
    /// It is what was said the last time; this time there was no answer.
    is_old: bool,
}

impl Found {
    /// Whether it is taken for what the configuration still says.
    fn is_fresh(&self) -> bool {
        let life = match &self.result {
            Ok(Credential::Anonymous) => DOCKER_PAUSE,
            Ok(_) if self.refused || self.is_old => DOCKER_PAUSE,
            Ok(_) => DOCKER_LIFE,
            Err(_) => FAILURE_PAUSE,
        };
        self.at.elapsed() < life
    }
}

impl Credentials {
    /// For the registry at `host`: `auth` if there is one, else what Docker's configuration says.
    pub(crate) fn new(host: String, auth: Option<Secret>, docker_config: Option<PathBuf>) -> Self {
        Self {
            host,
            given: Mutex::new(auth),
            docker_config,
            looking: AsyncMutex::default(),
            found: Mutex::default(),
        }
    }

    /// From now on `auth` is who we are.
    pub(crate) fn exchange(&self, auth: Secret) {
        *lock(&self.given) = Some(auth);
    }

    /// Who we are now. A helper that fails does not make us somebody else: what it said last holds.
    pub(crate) async fn current(&self) -> Result<Credential, Unknown> {
        let given = lock(&self.given).clone();
        if let Some(auth) = given {
            return Credential::from_auth(&auth).map_err(|detail| format!("auth: {detail}").into());
        }
        let Some(path) = &self.docker_config else { return Ok(Credential::Anonymous) };
        let asked = Instant::now();
        let known = |is_good: &dyn Fn(&Found) -> bool| {
            lock(&self.found).as_ref().filter(|found| is_good(found)).map(|found| found.result.clone())
        };
        if let Some(result) = known(&Found::is_fresh) {
            return result;
        }
        let span = trace::within(|| tracing::info_span!(target: TARGET, "credentials"));
        let _turn = self.looking.lock().instrument(span.clone()).await;
        // What somebody else has found meanwhile is as good as what we would find.
        if let Some(result) = known(&|found| found.at >= asked || found.is_fresh()) {
            return result;
        }
        let result = docker_config::look_up(path, &self.host).instrument(span).await;
        self.learn(result.map(|found| found.unwrap_or(Credential::Anonymous)))
    }

    /// Keeps what was found; what holds now.
    fn learn(&self, result: Result<Credential, Unknown>) -> Result<Credential, Unknown> {
        let mut found = lock(&self.found);
        let (result, is_old) = match (result, found.take()) {
            (Err(unknown), Some(Found { result: Ok(last), refused: false, .. })) if unknown.may_pass => {
                tracing::warn!(detail = unknown.detail, "no credential; the last one is used");
                (Ok(last), true)
            }
            (result, _) => (result, false),
        };
        *found = Some(Found { at: Instant::now(), result: result.clone(), refused: false, is_old });
        result
    }

    /// The server did not believe `credential`: if it was found, it is looked for again before long.
    pub(crate) fn refused(&self, credential: &Credential) {
        if let Some(found) = &mut *lock(&self.found) {
            found.refused |= found.result.as_ref() == Ok(credential);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(auth: &str) -> Credential {
        Credential::Password(Secret::new(auth))
    }

    #[tokio::test]
    async fn the_nearest_source_wins() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), r#"{"auths": {"r": {"auth": "ZG9ja2VyOng="}}}"#).unwrap();
        let docker = Some(file.path().to_owned());
        let configured = Credentials::new("r".to_owned(), Some(Secret::new("Y29uZjp4")), docker.clone());
        assert_eq!(configured.current().await.unwrap(), password("Y29uZjp4"));
        configured.exchange(Secret::new("cnVuOng="));
        assert_eq!(configured.current().await.unwrap(), password("cnVuOng="));
        let found = Credentials::new("r".to_owned(), None, docker.clone());
        assert_eq!(found.current().await.unwrap(), password("ZG9ja2VyOng="));
        let nobody = Credentials::new("other".to_owned(), None, docker);
        assert_eq!(nobody.current().await.unwrap(), Credential::Anonymous);
        assert_eq!(
            Credentials::new("r".to_owned(), None, None).current().await.unwrap(),
            Credential::Anonymous
        );
    }

    #[tokio::test]
    async fn what_is_found_is_kept_and_a_failure_not_for_long() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |text: &str| std::fs::write(file.path(), text).unwrap();
        let credentials = Credentials::new("r".to_owned(), None, Some(file.path().to_owned()));
        write("broken");
        assert!(credentials.current().await.is_err());
        write(r#"{"auths": {"r": {"auth": "b25lOng="}}}"#);
        assert!(credentials.current().await.is_err(), "not looked at for each request");
        later(&credentials, FAILURE_PAUSE);
        let one = credentials.current().await.unwrap();
        assert_eq!(one, password("b25lOng="));
        write(r#"{"auths": {"r": {"auth": "dHdvOng="}}}"#);
        assert_eq!(credentials.current().await.unwrap(), one);
        // Refused, it is looked for again, but not with each request.
        credentials.refused(&one);
        assert_eq!(credentials.current().await.unwrap(), one);
        later(&credentials, DOCKER_PAUSE);
        assert_eq!(credentials.current().await.unwrap(), password("dHdvOng="));
    }

    fn later(credentials: &Credentials, time: Duration) {
        if let Some(found) = &mut *lock(&credentials.found) {
            found.at -= time;
        }
    }

    #[tokio::test]
    async fn what_a_helper_said_last_holds_while_it_fails() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let credentials = Credentials::new("r".to_owned(), None, Some(file.path().to_owned()));
        std::fs::write(file.path(), r#"{"auths": {"r": {"auth": "b25lOng="}}}"#).unwrap();
        let one = credentials.current().await.unwrap();
        let fail = |may_pass| Unknown { detail: "gone".to_owned(), may_pass };
        assert_eq!(credentials.learn(Err(fail(true))), Ok(one.clone()));
        assert_eq!(credentials.learn(Err(fail(true))), Ok(one.clone()), "however often");
        assert_eq!(credentials.learn(Err(fail(false))), Err(fail(false)), "a configuration that is wrong");
        assert_eq!(credentials.learn(Err(fail(true))), Err(fail(true)));
        assert_eq!(credentials.learn(Ok(one.clone())), Ok(one.clone()));
        credentials.refused(&one);
        assert_eq!(credentials.learn(Err(fail(true))), Err(fail(true)), "nobody believed it");
    }

    #[tokio::test]
    async fn of_many_who_ask_one_looks() {
        let dir = tempfile::tempdir().unwrap();
        // A file that answers once: who reads it a second time waits for ever.
        let path = dir.path().join("config.json");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let writer = path.clone();
        let written = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            std::fs::write(writer, r#"{"auths": {"r": {"auth": "b25lOng="}}}"#).unwrap();
        });
        let credentials = Credentials::new("r".to_owned(), None, Some(path));
        let all = futures_util::future::join_all((0..50).map(|_| credentials.current()));
        let all = tokio::time::timeout(Duration::from_secs(10), all).await.unwrap();
        assert!(all.into_iter().all(|found| found.unwrap() == password("b25lOng=")));
        written.join().unwrap();
    }
}
