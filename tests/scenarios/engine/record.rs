//! What was seen of a run. Expectations are judged by this and nothing else, so that a proof can change what was seen.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nydus_tests::collector::Span;
use nydus_tests::manifest::Manifest;

use crate::schema::{Fate, Kind};

/// Everything about a run.
#[derive(Clone)]
pub struct Record {
    pub start: Instant,
    pub end: Instant,
    pub marks: BTreeMap<String, Mark>,
    pub reads: Vec<ReadSeen>,
    /// What the trees were like, or why they could not be listed.
    pub trees: BTreeMap<String, Result<Manifest, String>>,
    pub requests: Vec<RequestSeen>,
    pub connections: Vec<ConnectionSeen>,
    /// Connections begun in this network so far.
    pub tried: u64,
    /// Lines of the daemons' logs.
    pub log: Vec<String>,
    pub samples: BTreeMap<String, String>,
    pub spans: Vec<Span>,
    pub secrets: Vec<String>,
    pub daemons: BTreeMap<String, Fate>,
    /// What reads are compared with.
    pub model: Manifest,
}

/// A point in time.
#[derive(Clone, Copy)]
pub struct Mark {
    pub at: Instant,
    /// [`Record::tried`] then.
    pub tried: u64,
    /// Lines of log then.
    pub log: usize,
}

/// The reading of one file.
#[derive(Clone, Debug)]
pub struct ReadSeen {
    /// The step.
    pub of: String,
    pub path: String,
    pub begin: Instant,
    pub took: Duration,
    pub result: Outcome,
}

/// How a reading ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The SHA-256 of what came.
    Data(String),
    /// The number of the error.
    Error(i32),
    /// It had not ended when the step's time was over.
    Hangs,
}

/// A request that a server got.
#[derive(Clone, Debug)]
pub struct RequestSeen {
    pub server: String,
    pub at: Instant,
    pub kind: Kind,
    /// All of its head in small letters.
    pub head: String,
    /// What it was answered; 0: not at all.
    pub status: u16,
}

/// A connection that a server accepted.
#[derive(Clone, Debug)]
pub struct ConnectionSeen {
    pub server: String,
    pub at: Instant,
}

/// What servers write while they run.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<Entries>>);

/// The entries of a [`Ledger`].
#[derive(Clone, Default)]
pub struct Entries {
    pub requests: Vec<RequestSeen>,
    pub connections: Vec<ConnectionSeen>,
    pub secrets: Vec<String>,
}

impl Ledger {
    /// Exclusive access.
    pub fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
