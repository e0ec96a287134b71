//! Spans of what a read waits for: how the crates below the daemon name them, and how a request carries them on.
//!
//! Invariant: nothing here costs anything while nobody collects traces; the daemon decides that once, at its start.

use std::sync::OnceLock;

/// The target of every span that is meant for a trace. Log lines never have it.
pub const TARGET: &str = "trace";

/// Gives the value of the header `traceparent` (W3C Trace Context) for the span that is entered on this thread.
pub type Propagator = fn() -> Option<String>;

static PROPAGATOR: OnceLock<Propagator> = OnceLock::new();

/// Says how to get the value of `traceparent`; the first call of the process counts.
pub fn set_propagator(propagator: Propagator) {
    let _ = PROPAGATOR.set(propagator);
}

/// The header `traceparent` for a request that is sent now, if traces are collected.
pub fn traceparent() -> Option<String> {
    PROPAGATOR.get().and_then(|propagator| propagator())
}
