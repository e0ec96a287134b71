//! Who is there, how each can be reached, and what each knows.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::talk;
use super::tls::Authorities;
use crate::record::{ConnectionSeen, Ledger};
use crate::schema::{Answers, Kind, Reach, Rule, ServerSpec, Tokens, Validity};

/// How long a listener may take to open or close.
const PATIENCE: Duration = Duration::from_secs(5);

/// Blobs by their ids.
pub type Blobs = BTreeMap<String, Vec<u8>>;

/// All servers of a scenario. They end when it is dropped.
pub struct Town {
    servers: BTreeMap<String, Arc<Server>>,
    runtime: Runtime,
}

/// One server.
pub struct Server {
    pub name: String,
    pub spec: ServerSpec,
    pub blobs: Arc<Blobs>,
    pub ledger: Ledger,
    /// All of them, itself too.
    neighbours: Arc<OnceLock<BTreeMap<String, Arc<Server>>>>,
    acceptors: BTreeMap<Validity, TlsAcceptor>,
    state: Mutex<State>,
    reach: watch::Sender<Reach>,
    is_bound: watch::Sender<bool>,
}

/// What steps change.
pub struct State {
    rules: Vec<(Rule, u64)>,
    pub fast_by: i64,
    pub life: Duration,
    pub says: Option<Duration>,
    /// Rises when all tokens become void.
    pub generation: u64,
    certificate: Validity,
    /// Names whatever must be told apart.
    pub serial: u64,
}

impl Town {
    /// Starts them all.
    pub fn new(
        specs: &BTreeMap<String, ServerSpec>,
        blobs: Blobs,
        authorities: &Authorities,
        ledger: &Ledger,
    ) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let (blobs, neighbours) = (Arc::new(blobs), Arc::new(OnceLock::new()));
        let server = |(name, spec): (&String, &ServerSpec)| {
            let mut names = vec![spec.listen.ip().to_string()];
            names.extend(spec.host.iter().map(|host| host.split(':').next().unwrap_or(host).to_owned()));
            let all = [
                Validity::Valid,
                Validity::Expired,
                Validity::NotYet,
                Validity::OtherName,
                Validity::UnknownAuthority,
            ];
            let acceptors = all.into_iter().filter(|_| spec.tls);
            let acceptors = acceptors.map(|validity| (validity, authorities.acceptor(&names, validity)));
            let state = State {
                rules: Vec::new(),
                fast_by: 0,
                life: spec.life.0,
                says: None,
                generation: 0,
                certificate: Validity::Valid,
                serial: 0,
            };
            let server = Server {
                name: name.clone(),
                spec: spec.clone(),
                blobs: Arc::clone(&blobs),
                ledger: ledger.clone(),
                neighbours: Arc::clone(&neighbours),
                acceptors: acceptors.collect(),
                state: Mutex::new(state),
                reach: watch::Sender::new(Reach::Open),
                is_bound: watch::Sender::new(false),
            };
            (name.clone(), Arc::new(server))
        };
        let servers: BTreeMap<_, _> = specs.iter().map(server).collect();
        let _ = neighbours.set(servers.clone());
        for server in servers.values() {
            runtime.spawn(Arc::clone(server).listen());
        }
        let town = Self { servers, runtime };
        for server in town.servers.values() {
            town.settled(server)?;
        }
        Ok(town)
    }

    /// Waits until the listener of a server is as it should be.
    fn settled(&self, server: &Server) -> anyhow::Result<()> {
        let wanted = *server.reach.borrow() != Reach::Closed;
        let mut is_bound = server.is_bound.subscribe();
        self.runtime
            .block_on(async {
                tokio::time::timeout(PATIENCE, is_bound.wait_for(|is_bound| *is_bound == wanted))
                    .await
                    .map(drop)
            })
            .with_context(|| format!("{}: {} could not be opened or closed", server.name, server.spec.listen))
    }

    fn named(&self, name: &str) -> &Server {
        // Names were checked when the scenario was loaded.
        &self.servers[name]
    }

    /// From now on `name` answers so.
    pub fn answer(&self, name: &str, answers: &Answers) {
        self.named(name).state().rules = answers.rules.iter().map(|rule| (rule.clone(), 0)).collect();
    }

    /// From now on `name` can be reached so.
    pub fn reach(&self, name: &str, reach: Reach) -> anyhow::Result<()> {
        self.named(name).reach.send_replace(reach);
        self.settled(self.named(name))
    }

    /// The clock of `name` is fast by so many seconds.
    pub fn clock(&self, name: &str, fast_by: i64) {
        self.named(name).state().fast_by = fast_by;
    }

    /// What `name` does with tokens.
    pub fn tokens(&self, name: &str, tokens: &Tokens) {
        let server = self.named(name);
        let mut state = server.state();
        state.life = tokens.life.map_or(server.spec.life.0, |life| life.0);
        state.says = tokens.says.map(|says| says.0);
        state.generation += u64::from(tokens.revoke);
    }

    /// What `name` shows to who connects.
    pub fn certificate(&self, name: &str, validity: Validity) {
        self.named(name).state().certificate = validity;
    }
}

impl Server {
    /// Exclusive access to what steps change.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another server.
    pub fn neighbour(&self, name: &str) -> Option<&Arc<Server>> {
        self.neighbours.get()?.get(name)
    }

    /// `http://HOST:PORT`.
    pub fn url(&self) -> String {
        let scheme = if self.spec.tls { "https" } else { "http" };
        let host = self.spec.host.clone().unwrap_or_else(|| self.spec.listen.to_string());
        format!("{scheme}://{host}")
    }

    /// Its time.
    pub fn now(&self) -> SystemTime {
        let fast_by = self.state().fast_by;
        let shift = Duration::from_secs(fast_by.unsigned_abs());
        let now = SystemTime::now();
        if fast_by < 0 { now.checked_sub(shift) } else { now.checked_add(shift) }.unwrap_or(now)
    }

    /// Its time in milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        self.now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
    }

    /// The first rule that fits a request, counted.
    pub fn rule(&self, kind: Kind) -> Option<Rule> {
        let mut state = self.state();
        for (rule, seen) in &mut state.rules {
            if rule.kind != Kind::Any && rule.kind != kind {
                continue;
            }
            *seen += 1;
            let number = *seen;
            let is_over = rule.times.is_some_and(|times| number > rule.after + times);
            let is_turn = rule.every.is_none_or(|every| number % every == 0);
            if number > rule.after && !is_over && is_turn {
                return Some(rule.clone());
            }
        }
        None
    }

    /// Whether it answers at all.
    pub fn reach(&self) -> Reach {
        *self.reach.borrow()
    }

    /// What it shows to who connects now; `None`: it speaks plain HTTP.
    pub fn acceptor(&self) -> Option<TlsAcceptor> {
        self.acceptors.get(&self.state().certificate).cloned()
    }

    /// Accepts connections while it may.
    async fn listen(self: Arc<Self>) {
        let mut reach = self.reach.subscribe();
        loop {
            if *reach.borrow_and_update() == Reach::Closed {
                self.is_bound.send_replace(false);
                if reach.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let Ok(listener) = TcpListener::bind(SocketAddr::V4(self.spec.listen)).await else {
                // Its last connections may still be closing.
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            self.is_bound.send_replace(true);
            let mut open = JoinSet::new();
            while *reach.borrow_and_update() != Reach::Closed {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((stream, _)) = accepted else { continue };
                        let seen = ConnectionSeen { server: self.name.clone(), at: Instant::now() };
                        self.ledger.lock().connections.push(seen);
                        open.spawn(talk::converse(Arc::clone(&self), stream));
                    }
                    changed = reach.changed() => if changed.is_err() { return },
                    Some(_) = open.join_next() => {}
                }
            }
            drop(listener);
            open.shutdown().await;
        }
    }
}
