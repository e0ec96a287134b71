//! A read, from its first request to its last: which endpoint is asked, how often, and when it is given up. The
//! decisions are those of [`crate::policy`]; this drives them with a clock and sockets.
//!
//! Invariants: a read ends at its deadline, whatever hangs; every ticket of the policy is given back, also by a read
//! that is dropped; bytes that have come are not asked for again.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Notify;
use tracing::field::Empty;
use tracing::{Instrument as _, Span, info_span};

use super::Commons;
use super::client::{Answer, Way};
use super::failure::Failure;
use super::options::HttpOptions;
use super::part::Part;
use super::route::{self, Route};
use super::traffic::{NoRoom, Room, Traffic};
use super::watch::{EndpointStatus, Reason, Watch};
use crate::backend::{BoxFuture, MAX_READ, Priority, Request};
use crate::blob::BlobId;
use crate::lock;
use crate::policy::budget::Rate;
use crate::policy::endpoint::{Decision, EndpointIndex, Endpoints, Outcome, Ticket, Waiting};
use crate::policy::retry::{Failure as Verdict, Tries};
use crate::secret::Secret;
use crate::trace::{self, Step, TARGET};
use crate::{Error, Result};

/// Requests of one kind of server: what differs between a registry and a bucket.
pub(crate) trait Server: Send + Sync + std::fmt::Debug + 'static {
    /// Sends the request for `range` of `blob` to `route`, with all that the server wants to know, and follows where it
    /// leads. Brings an answer that is 200, 206 or 416.
    fn ask<'a>(
        &'a self,
        route: &'a Route,
        blob: &'a BlobId,
        range: &'a Part,
        request: &'a Request,
    ) -> BoxFuture<'a, Result<Answer, Failure>>;

    /// What `route` sent of `blob` was wrong: whatever was remembered of the way there is forgotten.
    fn forget(&self, _route: &Route, _blob: &BlobId) {}

    /// Whether it may answer 200 with the bytes of the range alone, as [`Part::allowing_bare`] takes them.
    fn may_send_bare_ranges(&self) -> bool {
        false
    }

    /// The object, for errors.
    fn name(&self, blob: &BlobId) -> String;

    /// Where objects are, for metrics and logs.
    fn place(&self) -> &str;

    /// As [`crate::backend::Backend::exchange_auth`].
    fn exchange_auth(&self, _auth: Secret) -> Result<()> {
        Err(Error::invalid("registry_auth", format!("only a registry takes it, not {}", self.place())))
    }
}

/// The most answers that one request is made whole from, when the server sends less than it is asked for.
const MAX_PIECES: usize = 1024;

/// Reads ranges of blobs from one kind of server.
#[derive(Debug)]
pub(crate) struct Fetcher<S> {
    shared: Arc<Shared<S>>,
    retry_limit: u8,
}

#[derive(Debug)]
struct Shared<S> {
    server: S,
    routes: Vec<Route>,
    endpoints: Mutex<Endpoints>,
    /// Somebody who waits should ask the policy again.
    wake: Notify,
    traffic: Arc<Traffic>,
    /// Bytes of prefetch, if they are limited.
    prefetch: Option<Mutex<Rate>>,
}

impl<S: Server> Fetcher<S> {
    /// Sends nothing yet. `origin` is how the origin is reached.
    pub(crate) fn new(server: S, options: &HttpOptions, origin: Way, commons: &Commons) -> Result<Self> {
        let routes = route::routes(options, origin, server.place())?;
        let settings: Vec<_> = routes.iter().map(Route::settings).collect();
        // Any number that differs between backends.
        let seed = RandomState::new().build_hasher().finish();
        let endpoints = Mutex::new(Endpoints::new(&settings, commons.bypass.clone(), seed));
        let prefetch = (options.prefetch_bandwidth > 0).then(|| {
            let per_second = options.prefetch_bandwidth as f64;
            // What a tenth of a second brings may come at once.
            Mutex::new(Rate::new(per_second, per_second / 10.0))
        });
        let traffic = commons.traffic.clone();
        let shared = Shared { server, routes, endpoints, wake: Notify::new(), traffic, prefetch };
        Ok(Self { shared: Arc::new(shared), retry_limit: options.retry_limit })
    }

    /// The server.
    pub(crate) fn server(&self) -> &S {
        &self.shared.server
    }

    /// As [`crate::backend::Backend::endpoints`].
    pub(crate) fn endpoints(&self) -> Vec<EndpointStatus> {
        let health: Vec<_> = self.shared.lock().health(Instant::now()).collect();
        self.shared.routes.iter().zip(health).map(|(route, health)| route.watch.status(health)).collect()
    }

    /// As [`crate::backend::Backend::read`].
    pub(crate) async fn read(
        &self,
        blob: &BlobId,
        offset: u64,
        len: u64,
        mut request: Request,
    ) -> Result<Bytes> {
        let name = || self.shared.server.name(blob);
        if len > MAX_READ {
            return Err(Error::invalid(name(), format!("{len} bytes asked for, {MAX_READ} at most")));
        }
        if request.deadline <= Instant::now() {
            return Err(Error::TimedOut { what: name(), waited: Duration::ZERO });
        }
        if len == 0 {
            return Ok(Bytes::new());
        }
        if offset.checked_add(len).is_none() {
            return Err(Error::corrupt(name(), format!("range {offset}+{len} is beyond the end")));
        }
        let part = Part::new(offset, len).telling(request.arrivals.take());
        let (mut part, error) = self.fetch(blob, part, request).await;
        part.take().ok_or_else(|| error.unwrap_or_else(|| Error::corrupt(name(), "no bytes came")))
    }

    /// As [`crate::backend::Backend::size`]: it stands beside the first byte.
    pub(crate) async fn size(&self, blob: &BlobId, request: Request) -> Result<u64> {
        let (part, error) = self.fetch(blob, Part::new(0, 1), request).await;
        match (part.total(), error) {
            // An object without a first byte is told by the error that it has none.
            (Some(total), error) if error.is_none() || total == 0 => Ok(total),
            (_, Some(error)) => Err(error),
            (_, None) => {
                Err(Error::corrupt(self.shared.server.name(blob), "the server does not tell the size"))
            }
        }
    }

    /// Asks until all of `part` has come or nothing more can be done; then, why.
    async fn fetch(&self, blob: &BlobId, part: Part, request: Request) -> (Part, Option<Error>) {
        let part = part.allowing_bare(self.shared.server.may_send_bare_ranges());
        request.attempts.limit(self.retry_limit.into());
        let tries = Tries::new(request.priority, request.deadline, request.attempts.clone());
        let (start, shared) = (Instant::now(), &self.shared);
        let mut read = Read { shared, blob, request, start, tries, part, last: None, sent: 0 };
        let error = match read.prefetch_turn().await {
            Ok(()) => read.run().await,
            Err(error) => Some(error),
        };
        Span::current().record("nydus.retries", trace::number(read.sent.saturating_sub(1)));
        (read.part, error)
    }
}

impl<S> Shared<S> {
    fn lock(&self) -> MutexGuard<'_, Endpoints> {
        lock(&self.endpoints)
    }

    fn watch(&self, endpoint: EndpointIndex) -> Option<&Watch> {
        self.routes.get(endpoint.0).map(|route| &*route.watch)
    }
}

impl<S: Server> Shared<S> {
    /// Asks whether endpoints are well, those for which it is time.
    fn ping(self: &Arc<Self>) {
        for route in &self.routes {
            let Some(ping) = route.ping_if_due(Instant::now()) else { continue };
            let (shared, index) = (self.clone(), EndpointIndex(route.index));
            tokio::spawn(async move {
                let answered = ping.await;
                if shared.lock().pinged(index, answered) {
                    shared.wake.notify_waiters();
                }
            });
        }
    }
}

/// A ticket that is given back, whatever happens.
struct Held<S> {
    shared: Arc<Shared<S>>,
    ticket: Option<Ticket>,
}

impl<S> Held<S> {
    fn report(mut self, tries: Option<&mut Tries>, result: &Result<(), Failure>) {
        let outcome = match result {
            Ok(()) => Outcome::Success,
            // Without a verdict it is abandoned.
            Err(failure) => match failure.verdict() {
                Some(verdict) => Outcome::Failure(verdict),
                None => return,
            },
        };
        let Some(ticket) = self.ticket.take() else { return };
        let (now, index) = (Instant::now(), ticket.endpoint());
        let mut endpoints = self.shared.lock();
        let ask_again = endpoints.report(now, ticket, tries, outcome);
        // Under the lock, so that what is told of an endpoint is told in order. A log line waits for nobody.
        if let (Some(watch), Some(health)) = (self.shared.watch(index), endpoints.health_of(now, index)) {
            watch.ended(now, &health, result);
        }
        drop(endpoints);
        if ask_again {
            self.shared.wake.notify_waiters();
        }
    }
}

impl<S> Drop for Held<S> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        if let Some(watch) = self.shared.watch(ticket.endpoint()) {
            watch.abandoned();
        }
        if self.shared.lock().abandon(ticket) {
            self.shared.wake.notify_waiters();
        }
    }
}

/// A request that has ended.
struct Ended<S> {
    /// Who has sent some of the part's bytes.
    sender: Option<EndpointIndex>,
    held: Held<S>,
    part: Part,
    result: Result<(), Failure>,
}

/// One read under way.
struct Read<'a, S> {
    shared: &'a Arc<Shared<S>>,
    blob: &'a BlobId,
    request: Request,
    start: Instant,
    tries: Tries,
    part: Part,
    /// Why the last try failed.
    last: Option<Failure>,
    /// Tries so far.
    sent: u32,
}

/// What ends a pause.
enum Event<S> {
    Ended(Box<Ended<S>>),
    AskAgain,
}

impl<S: Server> Read<'_, S> {
    /// Runs until the part is complete, or returns why it is not.
    async fn run(&mut self) -> Option<Error> {
        let mut running = FuturesUnordered::new();
        // When a request that says nothing gets company.
        let mut hedge: Option<Instant> = None;
        // What is waited for while nothing is sent: one span, however often the policy is asked meanwhile.
        let mut pause: Option<(Waiting, Span)> = None;
        loop {
            // A request that keeps another one company goes along with it.
            let mut room = None;
            if running.is_empty() {
                room = match self.room().await {
                    Ok(room) => Some(room),
                    Err(error) => return Some(error),
                };
            }
            self.shared.ping();
            // Registered before the policy is asked, so that no change falls between the two.
            let woken = self.shared.wake.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            let mut until = self.request.deadline;
            let is_hedge = hedge.is_some_and(|hedge| hedge <= Instant::now());
            if running.is_empty() || is_hedge {
                hedge = None;
                let decision = self.shared.lock().choose(Instant::now(), &mut self.tries);
                pause.take_if(|(known, _)| !matches!(decision, Decision::Wait { why, .. } if why == *known));
                match decision {
                    Decision::Send(ticket) => {
                        hedge = ticket.hedge_at().filter(|_| !is_hedge);
                        running.push(self.send(ticket, room, is_hedge));
                        continue;
                    }
                    // The one that is under way may still answer.
                    _ if !running.is_empty() => {}
                    Decision::Wait { until: then, why } => {
                        until = then;
                        pause.get_or_insert_with(|| (why, trace::queue(why.name())));
                    }
                    Decision::Shed => return Some(self.shed()),
                    Decision::Expired => return Some(self.timed_out()),
                    Decision::GiveUp(_) => return Some(self.given_up()),
                }
            }
            // Who waits for an endpoint takes no room from those who do not.
            drop(room);
            let waits = running.is_empty();
            let until = hedge.map_or(until, |hedge| hedge.min(until));
            let event = tokio::select! {
                // At the deadline, too, what a request has to say comes first.
                biased;
                Some(ended) = running.next(), if !waits => Event::Ended(Box::new(ended)),
                () = &mut woken, if waits => Event::AskAgain,
                () = tokio::time::sleep_until(until.into()) => Event::AskAgain,
            };
            match event {
                Event::Ended(ended) => {
                    let Ended { sender, held, part, result } = *ended;
                    held.report(Some(&mut self.tries), &result);
                    if part.received() >= self.part.received() {
                        self.part = part;
                        sender.into_iter().for_each(|sender| self.request.attempts.sent_by(sender));
                    }
                    match result {
                        Ok(()) => {
                            if let Some(sender) = sender {
                                Span::current().record("nydus.source", self.source(sender));
                            }
                            leave(running);
                            return None;
                        }
                        Err(failure) => {
                            tracing::debug!(blob = %self.blob, %failure, "a request failed");
                            // That time is up says less than what went before.
                            if !matches!(failure, Failure::Late) || self.last.is_none() {
                                self.last = Some(failure);
                            }
                        }
                    }
                }
                Event::AskAgain if Instant::now() >= self.request.deadline => return Some(self.timed_out()),
                Event::AskAgain => {}
            }
        }
    }

    /// The request of a ticket. It owns all it needs: one that is overtaken goes on without us.
    fn send(&mut self, ticket: Ticket, room: Option<Room>, is_hedge: bool) -> BoxFuture<'static, Ended<S>> {
        let endpoint = ticket.endpoint();
        let needs_new_connection = ticket.needs_new_connection();
        let reason = match (is_hedge, &self.last) {
            (true, _) => Reason::Hedge,
            (false, Some(_)) => Reason::Retry,
            (false, None) => Reason::First,
        };
        if let Some(watch) = self.shared.watch(endpoint) {
            watch.sent(reason);
        }
        self.sent += 1;
        let mut step = Step::within(|| {
            info_span!(
                target: TARGET, "attempt", nydus.attempt = trace::number(self.sent), nydus.reason = reason.name(),
                nydus.source = self.source(endpoint),
                nydus.breaker = ticket.phase().name(), nydus.overtaken = Empty, error.type = Empty,
                otel.status_description = Empty,
            )
        });
        let held = Held { shared: self.shared.clone(), ticket: Some(ticket) };
        let (blob, request) = (self.blob.clone(), self.request.clone());
        // What has come goes along: the request asks for the rest. A hedge begins anew.
        let mut part = self.part.take_progress();
        let before = part.received();
        Box::pin(async move {
            let shared = held.shared.clone();
            let result = async {
                let Some(route) = shared.routes.get(endpoint.0) else { return Err(Failure::Late) };
                if request.attempts.avoids(endpoint) {
                    shared.server.forget(route, &blob);
                }
                let route = if needs_new_connection { route.afresh() } else { route };
                for _ in 0..MAX_PIECES {
                    let answer = shared.server.ask(route, &blob, &part, &request).await?;
                    if part.tells() {
                        // Who hears of bytes may find them wrong before the last has come.
                        request.attempts.sent_by(endpoint);
                    }
                    let filled = part.fill(answer, &shared.server.name(&blob)).await;
                    filled.inspect_err(|_| shared.server.forget(route, &blob))?;
                    if part.is_complete() {
                        return Ok(());
                    }
                }
                Err(Failure::Broken(format!("the server sends it in pieces, more than {MAX_PIECES}")))
            };
            let result = step.cover(result).await;
            if let Err(failure) = &result {
                step.failed(failure.name(), failure);
            }
            drop(room);
            // The old connections were the reason for the trial.
            if needs_new_connection
                && !result.as_ref().is_err_and(|failure| failure.verdict().is_none_or(Verdict::is_illness))
                && let Some(route) = shared.routes.get(endpoint.0)
            {
                route.adopt();
            }
            let sender = (part.received() > before).then_some(endpoint);
            Ended { sender, held, part, result }
        })
    }

    /// What an endpoint is, in traces.
    fn source(&self, endpoint: EndpointIndex) -> &'static str {
        self.shared.routes.get(endpoint.0).map_or("", |route| route.role.name())
    }

    /// Waits for room among all requests of the process.
    async fn room(&mut self) -> Result<Room> {
        let Request { priority, deadline, .. } = self.request;
        let room = self.shared.traffic.enter(priority, self.part.missing(), deadline).await;
        room.map_err(|reason| match reason {
            NoRoom::Late => self.timed_out(),
            NoRoom::Refused => self.put_off("too many requests wait already".to_owned()),
        })
    }

    /// Prefetch waits until its bytes may come.
    async fn prefetch_turn(&mut self) -> Result<()> {
        let Some(rate) = &self.shared.prefetch else { return Ok(()) };
        if self.request.priority != Priority::Prefetch {
            return Ok(());
        }
        loop {
            let now = Instant::now();
            let bytes = self.part.missing() as f64;
            let Err(until) = lock(rate).take(now, bytes) else {
                return Ok(());
            };
            if until >= self.request.deadline {
                return Err(self.put_off("prefetch is put off, its bandwidth is used up".to_owned()));
            }
            tokio::time::sleep_until(until.into()).instrument(trace::queue("bandwidth")).await;
        }
    }

    fn name(&self) -> String {
        self.shared.server.name(self.blob)
    }

    fn timed_out(&self) -> Error {
        let what = match &self.last {
            Some(failure) => format!("{}: {failure}", self.name()),
            None => self.name(),
        };
        Error::TimedOut { what, waited: self.start.elapsed() }
    }

    fn given_up(&mut self) -> Error {
        let last = self.last.take().unwrap_or(Failure::Late);
        last.into_error(&self.name())
    }

    fn shed(&mut self) -> Error {
        let detail = match &self.last {
            Some(failure) => format!("prefetch is put off during the outage: {failure}"),
            None => "prefetch is put off during the outage".to_owned(),
        };
        self.put_off(detail)
    }

    fn put_off(&self, detail: String) -> Error {
        Error::Unavailable { what: self.name(), source: std::io::Error::other(detail) }
    }
}

/// Lets requests end that nobody waits for: the policy wants to know how.
fn leave<S: Server>(running: FuturesUnordered<BoxFuture<'static, Ended<S>>>) {
    for mut request in running {
        let end = |Ended { held, result, .. }: Ended<S>| held.report(None, &result);
        match trace::leave(request.as_mut()) {
            Poll::Ready(ended) => end(ended),
            Poll::Pending => drop(tokio::spawn(async move { end(request.await) })),
        }
    }
}
