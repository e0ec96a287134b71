//! Spans of what a read waits for: how the crates below the daemon make them, and how a request carries them on.
//!
//! Invariants: nothing here costs anything while nobody collects traces, which the daemon decides once, at its start; a
//! span lies inside its parent and ends when nobody waits for it any more.

use std::cell::Cell;
use std::fmt::Display;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};

use tracing::{Id, Span, info_span};

/// The target of every span that is meant for a trace. Log lines never have it.
pub const TARGET: &str = "trace";

/// More of a text is not told, in bytes.
const MAX_TEXT: usize = 512;

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

/// Tells in `span` that it failed: `error.type` is one of a few words, the text is for people. Only spans that declare
/// these fields have them.
pub fn failed(span: &Span, kind: &str, error: impl Display) {
    if span.is_disabled() {
        return;
    }
    span.record("error.type", kind);
    span.record("otel.status_description", text(&error.to_string()));
}

/// A text of others for a span, no more of it than fits.
pub fn text(whole: &str) -> &str {
    &whole[..whole.floor_char_boundary(MAX_TEXT)]
}

/// A number for a span. The bridge to OpenTelemetry takes unsigned ones for texts.
pub fn number(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}

/// The span that `make` makes, as part of the one that is entered now; none if none is: whoever works on nobody's behalf
/// begins no trace.
pub fn within(make: impl FnOnce() -> Span) -> Span {
    if Span::current().is_disabled() { Span::none() } else { make() }
}

/// The span of a wait for one's turn, as [`within`] makes it; `reason` says for what.
pub fn queue(reason: &'static str) -> Span {
    within(|| info_span!(target: TARGET, "queue", nydus.reason = reason))
}

/// A span that lasts as long as somebody waits for what it covers.
///
/// What a read began may go on without it: a request that another one overtook is worth its outcome, a connection that
/// came too late is worth keeping. They are then polled outside of the span they began in, which this notices: the
/// span ends, marked `nydus.overtaken`, and so does the trace, while the work goes on untold.
#[derive(Debug)]
pub struct Step {
    span: Span,
    parent: Option<Id>,
    is_waiting: bool,
    has_failed: bool,
}

impl Step {
    /// A span as [`within`] makes it.
    pub fn within(make: impl FnOnce() -> Span) -> Self {
        Self { span: within(make), parent: Span::current().id(), is_waiting: false, has_failed: false }
    }

    /// To tell something in it.
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// As [`failed`]; the first failure is the one that is told.
    pub fn failed(&mut self, kind: &str, error: impl Display) {
        if !std::mem::replace(&mut self.has_failed, true) {
            failed(&self.span, kind, error);
        }
    }

    /// Waits for `future` inside the span.
    pub async fn cover<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        self.is_waiting = true;
        let output = poll_fn(|context| {
            if self.span.is_disabled() {
                return future.as_mut().poll(context);
            }
            let is_left = LEAVING.get() || Span::current().id() != self.parent;
            let polled = self.span.in_scope(|| future.as_mut().poll(context));
            if is_left && polled.is_pending() {
                // Having just been left, it ends now, and after its parts.
                self.span.record("nydus.overtaken", true);
                self.span = Span::none();
            }
            polled
        });
        let output = output.await;
        self.is_waiting = false;
        output
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if self.is_waiting {
            self.failed("abandoned", "given up before it was done");
            // A span ends when it was last left, so it is left once more.
            self.span.in_scope(|| ());
        }
    }
}

thread_local! {
    /// What is polled now is being left.
    static LEAVING: Cell<bool> = const { Cell::new(false) };
}

/// Polls `future` once more, for every [`Step`] in it to end now. To be called before it is handed to a task of its own,
/// which may come to it only after the reader has gone.
pub(crate) fn leave<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    /// Also if the future panics.
    struct Left;
    impl Drop for Left {
        fn drop(&mut self) {
            LEAVING.set(false);
        }
    }
    LEAVING.set(true);
    let _left = Left;
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(text("short"), "short");
        let long = "ä".repeat(MAX_TEXT);
        assert_eq!(text(&long), "ä".repeat(MAX_TEXT / 2));
        assert_eq!(text(&long[..MAX_TEXT]).len(), MAX_TEXT);
    }
}
