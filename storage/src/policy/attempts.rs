//! What the requests of one read share: how many tries are left, and whose bytes were wrong.
//!
//! Invariants: all requests together spend at most the tries of the read, however it is split; an endpoint whose bytes
//! failed their digest is asked again only when no other can be.

use std::sync::{Arc, Mutex, MutexGuard};

use super::endpoint::EndpointIndex;
use crate::lock;

/// The account of one read from one backend. Clones are the same account.
///
/// Whoever makes the requests of a read gives each a clone; he takes a try for each part of a request that he splits after
/// its tries were spent, and says when the bytes were wrong.
#[derive(Clone, Debug, Default)]
pub struct Attempts {
    account: Arc<Mutex<Account>>,
    /// Who sent the bytes of this request.
    senders: Arc<Mutex<Vec<EndpointIndex>>>,
}

#[derive(Debug, Default)]
struct Account {
    /// Tries after the first of each request. None: until the deadline.
    left: Option<u32>,
    is_limited: bool,
    /// Whose bytes were wrong.
    wrong: Vec<EndpointIndex>,
}

impl Attempts {
    /// A read that has made no request yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same account, for a request whose bytes are judged on their own.
    pub fn of_another(&self) -> Self {
        Self { account: self.account.clone(), senders: Arc::default() }
    }

    /// The setting `retry_limit`: 0 means until the deadline, n at most n tries more. What the first request says holds.
    pub fn limit(&self, retry_limit: u32) {
        let mut account = self.lock();
        if !std::mem::replace(&mut account.is_limited, true) {
            account.left = (retry_limit > 0).then_some(retry_limit);
        }
    }

    /// Takes one try; false if none is left. [`super::endpoint::Endpoints::choose`] does so before each try after a
    /// failure.
    pub fn take(&self) -> bool {
        match &mut self.lock().left {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }

    /// Whether no try is left.
    pub fn is_spent(&self) -> bool {
        self.lock().left == Some(0)
    }

    /// Bytes of `endpoint` are part of what is answered.
    pub fn sent_by(&self, endpoint: EndpointIndex) {
        let mut senders = lock(&self.senders);
        if !senders.contains(&endpoint) {
            senders.push(endpoint);
        }
    }

    /// What was answered is not what it should be: its senders are asked last from now on.
    pub fn were_wrong(&self) {
        let senders = lock(&self.senders).clone();
        let mut account = self.lock();
        account.wrong.extend(senders);
        account.wrong.sort_unstable();
        account.wrong.dedup();
    }

    /// Whether bytes of `endpoint` were wrong.
    pub fn avoids(&self, endpoint: EndpointIndex) -> bool {
        self.lock().wrong.contains(&endpoint)
    }

    fn lock(&self) -> MutexGuard<'_, Account> {
        lock(&self.account)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_means_until_the_deadline() {
        let attempts = Attempts::new();
        attempts.limit(0);
        attempts.limit(1);
        assert!((0..10_000).all(|_| attempts.take()) && !attempts.is_spent());
    }

    #[test]
    fn only_the_senders_of_wrong_bytes_are_avoided() {
        let (good, bad) = (EndpointIndex(0), EndpointIndex(1));
        let attempts = Attempts::new();
        attempts.sent_by(bad);
        attempts.sent_by(bad);
        assert!(!attempts.avoids(bad), "nobody has complained");
        attempts.were_wrong();
        let second = attempts.of_another();
        second.sent_by(good);
        // Another part of what came first.
        attempts.were_wrong();
        assert!(second.avoids(bad) && !second.avoids(good));
        second.were_wrong();
        assert!(attempts.avoids(bad) && attempts.avoids(good));
    }
}
