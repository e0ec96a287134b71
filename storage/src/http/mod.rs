//! HTTP, as all backends that speak it share it: one layer for connections, credentials, redirects, ranges and retries.
//!
//! | module | owns |
//! |---|---|
//! | [`options`] | the configuration |
//! | `client` | connections and TLS; the time without progress |
//! | `connect` | how long a connection took to make |
//! | `route` | endpoints: mirrors or a proxy, then the origin |
//! | `fetch` | a read from its first request to its last, as [`crate::policy`] decides |
//! | `traffic` | how much the whole process has under way |
//! | `part` | the bytes of a range, and whether an answer is one |
//! | `failure` | why a try failed, and what that means for the next |
//! | `watch` | what happens at an endpoint, counted and told |
//! | `redirect` | where redirects may lead |
//! | `signing` | the signatures of object stores |
//! | `auth`, `challenge`, `tokens`, `credentials`, `docker_config` | who we are to a registry |
//!
//! Invariants: a secret is never in an error, a log line or a `Debug`; it is sent only to the scheme, host and port it is
//! meant for; and nothing that failed is remembered as an answer.

pub(crate) mod auth;
pub(crate) mod challenge;
pub(crate) mod client;
mod connect;
pub(crate) mod credentials;
pub(crate) mod docker_config;
pub(crate) mod failure;
pub(crate) mod fetch;
pub mod options;
pub(crate) mod part;
pub(crate) mod redirect;
pub(crate) mod route;
pub(crate) mod signing;
pub(crate) mod tokens;
pub(crate) mod traffic;
pub(crate) mod watch;

use std::sync::{Arc, Mutex};

use crate::policy::budget::Rate;

pub use options::{HttpOptions, Mirror, Proxy, Scheme};
pub use tokens::TokenFetches;
pub use traffic::Load;
pub use watch::{EndpointStatus, TryOutcome};

/// Requests a second that go past a proxy that is well.
const BYPASS_PER_SECOND: f64 = 1.0;

/// What the backends of a process share: tokens, so that the mounts of one repository fetch one, room for requests and
/// their bytes, and the rate at which reads may go past a proxy that is well.
#[derive(Clone, Debug)]
pub struct Commons {
    pub(crate) tokens: Arc<tokens::Tokens>,
    pub(crate) bypass: Arc<Mutex<Rate>>,
    pub(crate) traffic: Arc<traffic::Traffic>,
}

impl Commons {
    /// Nothing fetched yet.
    pub fn new() -> Self {
        Self {
            tokens: Arc::default(),
            bypass: Arc::new(Mutex::new(Rate::new(BYPASS_PER_SECOND, 1.0))),
            traffic: Arc::default(),
        }
    }

    /// What is under way now, in all backends together.
    pub fn load(&self) -> Load {
        self.traffic.load()
    }

    /// How often token services were asked so far.
    pub fn token_fetches(&self) -> TokenFetches {
        self.tokens.fetches()
    }
}

impl Default for Commons {
    fn default() -> Self {
        Self::new()
    }
}
