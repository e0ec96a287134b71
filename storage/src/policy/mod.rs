//! What to do about servers that fail: pure decisions, without I/O, threads or clocks.
//!
//! Every machine here is handed the time as an [`std::time::Instant`] and a seed, and answers with a decision; it never
//! looks at a clock itself, so tests drive it with a virtual one. A machine lives behind a mutex of its caller, no call
//! blocks, and no call is made while I/O is under way. Instants of two calls may come in either order (threads race for
//! the mutex); the machines take a time that runs backwards for one that stands still.
//!
//! | module | decides |
//! |---|---|
//! | [`endpoint`] | which endpoint a request goes to now, or what it waits for: it joins the next three |
//! | [`attempts`] | what the requests of one read share: tries, and whom not to ask again |
//! | [`retry`] | whether a failure is worth another try, where, and how soon |
//! | [`breaker`] | whether an endpoint is used, tried, or left alone |
//! | [`concurrency`] | how many requests an endpoint gets at once |
//! | [`token`] | when a bearer token is fetched anew |
//! | [`budget`] | how many requests and bytes are under way, and how fast prefetch and fallback may go |
//!
//! # A request, as its caller drives it
//!
//! 1. [`retry::Tries::new`], once a request, with the [`attempts::Attempts`] of the read it belongs to.
//! 2. Register for a wake-up, *then* ask [`endpoint::Endpoints::choose`].
//! 3. [`endpoint::Decision::Send`]: send it. However it ends, give the ticket back: [`endpoint::Endpoints::report`], or
//!    [`endpoint::Endpoints::abandon`] from a drop guard if the request is cancelled. If either returns true, wake every
//!    waiter. After a failure go to 2; `choose` knows whether it makes sense.
//! 4. [`endpoint::Decision::Wait`]: sleep until then or until woken, whichever comes first; go to 2. Who waits stands in line for as long as his [`retry::Tries`] lives: ask, or drop it.
//! 5. Everything else ends the request.

use std::time::Duration;

pub mod attempts;
pub mod breaker;
pub mod budget;
pub mod concurrency;
pub mod endpoint;
mod line;
pub mod retry;
#[cfg(test)]
mod simulation;
pub mod token;

/// A random duration in `from..to`.
fn between(random: &mut fastrand::Rng, from: Duration, to: Duration) -> Duration {
    from + to.saturating_sub(from).mul_f64(random.f64())
}
