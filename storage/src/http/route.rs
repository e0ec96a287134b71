//! The endpoints of a backend: mirrors or a proxy, then the origin; what each is sent, and whether it is well.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{StatusCode, Url};

use super::client::{Answer, Call, Client, Way, header};
use super::failure::Failure;
use super::options::{HttpOptions, Mirror, Proxy};
use super::redirect::is_same_place;
use super::watch::Watch;
use crate::backend::Priority;
use crate::lock;
use crate::policy::endpoint::{EndpointSettings, Role};
use crate::secret::Secret;
use crate::{Error, Result};

/// What a Dragonfly peer is told: fetch the whole task, from other peers too, and how urgent it is.
const DRAGONFLY: [(&str, &str); 2] = [("x-dragonfly-prefetch", "true"), ("x-dragonfly-use-p2p", "true")];
const DRAGONFLY_PRIORITY: HeaderName = HeaderName::from_static("x-dragonfly-priority");
/// Says who failed, the proxy or the origin behind it.
const DRAGONFLY_ERROR: &str = "x-dragonfly-error-type";
/// A ping takes no longer, whatever else is configured.
const PING_LIMIT: Duration = Duration::from_secs(30);

/// One endpoint. Its addresses may hold passwords.
pub(crate) struct Route {
    /// Its place in the list.
    pub index: usize,
    pub role: Role,
    /// For errors: `mirror http://…`, `proxy http://…`, empty for the origin.
    name: String,
    pub watch: Arc<Watch>,
    client: Arc<Client>,
    /// Replaces scheme, host and port of the origin's address.
    base: Option<Url>,
    headers: HeaderMap,
    use_http: bool,
    failure_limit: Option<u32>,
    ping: Option<Ping>,
    /// The same endpoint with other connections, for trials; made when it is first needed.
    afresh: OnceLock<Option<Box<Route>>>,
}

struct Ping {
    client: Arc<Client>,
    url: Url,
    interval: Duration,
    limit: Duration,
    last: Mutex<Option<Instant>>,
}

impl Ping {
    fn new(
        client: Arc<Client>,
        (key, url): (&str, &str),
        interval: Duration,
        options: &HttpOptions,
    ) -> Result<Self> {
        let url = Url::parse(url).map_err(|_| Error::invalid(key, "not an address"))?;
        let limit = options.connect_timeout.map_or(PING_LIMIT, |limit| limit.min(PING_LIMIT));
        Ok(Self { client, url, interval, limit, last: Mutex::new(None) })
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").field("role", &self.role).field("name", &self.name).finish_non_exhaustive()
    }
}

/// The endpoints of `options` in the order in which they are preferred. `origin` is how the origin is reached, `place` its
/// name.
pub(crate) fn routes(options: &HttpOptions, origin: Way, place: &str) -> Result<Vec<Route>> {
    let direct = Arc::new(Client::new(options, Way::Direct)?);
    let origin = match origin {
        Way::Direct => direct.clone(),
        other => Arc::new(Client::new(options, other)?),
    };
    let mut routes = Vec::new();
    for mirror in &options.mirrors {
        // With connections of its own: what is done about those of a mirror is not done to the others'.
        routes.push(Route::mirror(mirror, options, Arc::new(direct.apart()?))?);
    }
    if let Some(proxy) = &options.proxy {
        routes.push(Route::proxy(proxy, options, direct)?);
    }
    if options.proxy.as_ref().is_none_or(|proxy| proxy.fallback) {
        let watch = Watch::new(place.to_owned(), Role::Origin);
        routes.push(Route { watch: Arc::new(watch), ..Route::new(Role::Origin, String::new(), origin) });
    }
    for (index, route) in routes.iter_mut().enumerate() {
        route.index = index;
    }
    Ok(routes)
}

impl Route {
    fn new(role: Role, name: String, client: Arc<Client>) -> Self {
        let watch = Arc::new(Watch::new(name.clone(), role));
        Self {
            index: 0,
            role,
            name,
            watch,
            client,
            base: None,
            headers: HeaderMap::new(),
            use_http: false,
            failure_limit: None,
            ping: None,
            afresh: OnceLock::new(),
        }
    }

    fn mirror(mirror: &Mirror, options: &HttpOptions, client: Arc<Client>) -> Result<Self> {
        let base = Url::parse(mirror.host.expose()).ok().filter(Url::has_host);
        let base =
            base.ok_or_else(|| Error::invalid("mirrors.host", format!("{}: not an address", mirror.host)))?;
        let mut route = Self::new(Role::Mirror, format!("mirror {}", mirror.host), client);
        for (name, value) in &mirror.headers {
            let (name, value) = header(name, value).map_err(|err| err.within("mirrors.headers"))?;
            route.headers.insert(name, value);
        }
        // 0 would leave alone what has not failed.
        route.failure_limit = (mirror.failure_limit > 0).then(|| mirror.failure_limit.into());
        let ping = match &mirror.ping_url {
            Some(url) => url.expose().to_owned(),
            None => format!("{}/v2/", mirror.host.expose().trim_end_matches('/')),
        };
        let ping = ("mirrors.ping_url", ping.as_str());
        route.ping = Some(Ping::new(route.client.clone(), ping, mirror.health_check_interval, options)?);
        route.base = Some(base);
        Ok(route)
    }

    fn proxy(proxy: &Proxy, options: &HttpOptions, direct: Arc<Client>) -> Result<Self> {
        let client = Client::new(options, Way::Proxy(Secret::new(proxy.url.expose())))?;
        let mut route = Self::new(Role::Proxy, format!("proxy {}", proxy.url), Arc::new(client));
        for (name, value) in DRAGONFLY {
            route.headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        route.use_http = proxy.use_http;
        if let Some(url) = &proxy.ping_url {
            let ping = ("proxy.ping_url", url.expose());
            route.ping = Some(Ping::new(direct, ping, proxy.check_interval, options)?);
        }
        Ok(route)
    }

    /// What the policy has to know of it.
    pub(crate) fn settings(&self) -> EndpointSettings {
        let mut settings = EndpointSettings::new(self.role);
        settings.failure_limit = self.failure_limit.unwrap_or(settings.failure_limit);
        settings
    }

    /// Where this endpoint has what the origin has at `origin`.
    pub(crate) fn address(&self, origin: &Url) -> Url {
        let Some(base) = &self.base else { return origin.clone() };
        let mut url = base.clone();
        url.set_path(&format!("{}{}", base.path().trim_end_matches('/'), origin.path()));
        url.set_query(origin.query());
        url
    }

    /// What this endpoint is asked, to get what is at `url`.
    pub(crate) fn spoken(&self, mut url: Url) -> Url {
        if self.use_http {
            // Only a scheme that is not of the web refuses, and there is none.
            let _ = url.set_scheme("http");
        }
        url
    }

    /// Sends a request to this endpoint, or to where it led us.
    pub(crate) async fn send(&self, mut call: Call, priority: Priority) -> Result<Answer, Failure> {
        if !(call.is_foreign && self.role == Role::Mirror) {
            for (name, value) in &self.headers {
                call.headers.entry(name).or_insert(value.clone());
            }
        }
        if self.role == Role::Proxy {
            let urgency = match priority {
                Priority::OnDemand => HeaderValue::from_static("6"),
                Priority::Prefetch => HeaderValue::from_static("3"),
            };
            call.headers.insert(DRAGONFLY_PRIORITY, urgency);
        }
        call.received = self.watch.request();
        self.client.send(call).await
    }

    /// What an answer that is no success means. `what` names the object and `place` where it should be.
    pub(crate) async fn failure(&self, answer: Answer, what: &str, place: &str) -> Failure {
        // No origin asks for a proof to a proxy: whatever it is asked for, this one will not.
        if self.role == Role::Proxy && answer.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            return Failure::Unusable(format!("{} answered {}", self.name, answer.describe().await));
        }
        let from_proxy =
            answer.header(DRAGONFLY_ERROR).is_some_and(|kind| kind.eq_ignore_ascii_case("proxy"));
        let place = if self.name.is_empty() { place.to_owned() } else { format!("{place} ({})", self.name) };
        let failure = Failure::of_answer(answer, what, &place).await;
        match self.role {
            // Beyond a mirror is the origin; beyond a proxy too, if it is the proxy that will not.
            Role::Mirror => failure.of_a_stand_in(),
            Role::Proxy if from_proxy => failure.of_a_stand_in(),
            Role::Proxy | Role::Origin => failure,
        }
    }

    /// This endpoint for a trial, which must not use a connection that was used before. Trials come one by one.
    pub(crate) fn afresh(&self) -> &Self {
        let make = || {
            let client = Arc::new(self.client.apart().ok()?);
            Some(Box::new(Self {
                index: self.index,
                watch: self.watch.clone(),
                base: self.base.clone(),
                headers: self.headers.clone(),
                use_http: self.use_http,
                ..Self::new(self.role, self.name.clone(), client)
            }))
        };
        let afresh = self.afresh.get_or_init(make).as_deref().unwrap_or(self);
        afresh.client.renew();
        afresh
    }

    /// The trial was answered: its connection is everybody's from now on, and the old ones nobody's.
    pub(crate) fn adopt(&self) {
        if let Some(Some(afresh)) = self.afresh.get() {
            self.client.swap(&afresh.client);
        }
    }

    /// Asks whether the endpoint is well, if it is time to. Called with each request, so that nobody is asked while
    /// nothing is read. `None`: it is not time.
    pub(crate) fn ping_if_due(&self, now: Instant) -> Option<impl Future<Output = bool> + Send + 'static> {
        let ping = self.ping.as_ref()?;
        let mut last = lock(&ping.last);
        if last.is_some_and(|last| now.saturating_duration_since(last) < ping.interval) {
            return None;
        }
        *last = Some(now);
        // Secrets go to the endpoint itself, and not to whoever else tells of its health.
        let is_at_home = self.base.as_ref().is_some_and(|base| is_same_place(base, &ping.url));
        let headers = if is_at_home { self.headers.clone() } else { HeaderMap::new() };
        let (url, role, client) = (ping.url.clone(), self.role, ping.client.clone());
        let (deadline, watch) = (now + ping.limit, self.watch.clone());
        Some(async move {
            let mut call = Call::get(url, deadline);
            call.received = watch.request();
            (call.headers, call.is_foreign) = (headers, !is_at_home);
            match client.send(call).await {
                // A mirror that wants to know who asks is well.
                Ok(answer) if role == Role::Mirror => !answer.status().is_server_error(),
                Ok(answer) => answer.status().is_success(),
                Err(_) => false,
            }
        })
    }
}
