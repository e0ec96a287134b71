//! What a backend tells of its endpoints is what the servers saw.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use storage::Error;
use storage::backend::Backend;
use storage::backend::registry::RegistryConfig;
use storage::http::{Commons, EndpointStatus, HttpOptions, Mirror, TokenFetches, TryOutcome};
use storage::policy::breaker::Phase;
use storage::policy::endpoint::Role;
use storage::secret::{Secret, SecretUrl};

use crate::double::{Cut, Double, Reply};
use crate::setup::{auth, config, content, open, read, within};

const SIZE: usize = 100_000;

fn count(status: &EndpointStatus, outcome: TryOutcome) -> u64 {
    status.tries[outcome as usize]
}

fn only(backend: &dyn Backend) -> EndpointStatus {
    let [status] = &backend.endpoints()[..] else { panic!("{:?}", backend.endpoints()) };
    status.clone()
}

#[tokio::test]
async fn tries_requests_and_bytes_are_counted() {
    let number = AtomicUsize::new(0);
    let double = Double::new(move |seen| {
        let whole = Reply::range(&content(SIZE), seen);
        match number.fetch_add(1, Ordering::Relaxed) {
            0 => Reply::new(503, "12345"),
            1 => Reply::new(429, "123"),
            2 => whole.cut(30_000, Cut::Reset),
            _ => whole,
        }
    })
    .await;
    let registry = open(config(&double));
    read(&registry, 0, SIZE as u64).await.unwrap();
    read(&registry, 0, 10).await.unwrap();
    let status = only(&registry);
    assert_eq!(
        (status.role, status.name),
        (Role::Origin, format!("registry {}/library/test", double.host()))
    );
    assert_eq!(status.requests, double.seen().len() as u64);
    // The bytes of errors, of the broken body and of the rest, and of the second read.
    assert_eq!(status.received_bytes, 5 + 3 + SIZE as u64 + 10);
    let of = |outcome| count(&only(&registry), outcome);
    assert_eq!(of(TryOutcome::Success), 2);
    for outcome in [TryOutcome::ServerError, TryOutcome::Throttled, TryOutcome::Broken] {
        assert_eq!(of(outcome), 1, "{}", outcome.name());
    }
    assert_eq!((status.tries.iter().sum::<u64>(), status.retries, status.hedges), (5, 3, 0));
    assert_eq!((status.health.phase, status.health.in_flight, status.health.waiting), (Phase::Closed, 0, 0));
}

#[tokio::test]
async fn a_try_is_all_that_it_leads_to() {
    let store = Double::new(|seen| Reply::range(&content(SIZE), seen)).await;
    let location = format!("{}/blob?signature=secret-signature", store.url());
    let double = Double::new(move |seen| match seen.header("authorization") {
        Some(_) => Reply::new(307, "").with("location", location.clone()),
        None => Reply::new(401, "").with("www-authenticate", "Basic realm=\"r\""),
    })
    .await;
    let registry = open(RegistryConfig { auth: Some(auth("u", "secret-password")), ..config(&double) });
    read(&registry, 0, 10).await.unwrap();
    let status = only(&registry);
    assert_eq!((count(&status, TryOutcome::Success), status.tries.iter().sum::<u64>()), (1, 1));
    assert_eq!(status.requests, (double.seen().len() + store.seen().len()) as u64);
    assert_eq!((status.requests, status.received_bytes), (3, 10));
}

#[tokio::test]
async fn an_outage_is_seen_while_it_lasts() {
    let is_down = Arc::new(AtomicUsize::new(1));
    let down = is_down.clone();
    let double = Double::new(move |seen| match down.load(Ordering::Relaxed) {
        1 => Reply::new(500, ""),
        _ => Reply::range(&content(SIZE), seen),
    })
    .await;
    let registry = open(config(&double));
    let start = Instant::now();
    while only(&registry).health.openings == 0 {
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", only(&registry).health);
        let request = within(Duration::from_secs(3));
        let error = registry.read(&crate::setup::blob(), 0, 1, request).await.unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    }
    let health = only(&registry).health;
    assert!(matches!(health.phase, Phase::Open | Phase::HalfOpen), "{health:?}");
    assert!(health.open_since.is_some() && health.openings == 1, "{health:?}");
    is_down.store(0, Ordering::Relaxed);
    read(&registry, 0, 1).await.unwrap();
    let health = only(&registry).health;
    assert_eq!((health.phase, health.open_since, health.openings), (Phase::Closed, None, 1));
}

#[tokio::test]
async fn mirrors_and_their_pings_are_told_without_secrets() {
    let [mirrored, origin] = [(); 2].map(|()| Double::new(|_| Reply::new(404, "")));
    let (mirrored, origin) = (mirrored.await, origin.await);
    let host = SecretUrl::new(format!("http://user:secret-password@{}", mirrored.host()));
    let mirror = Mirror {
        host,
        headers: [("X-Key".to_owned(), Secret::new("secret-header"))].into(),
        ping_url: Some(SecretUrl::new(format!("{}/ping?key=secret-ping", mirrored.url()))),
        health_check_interval: Duration::from_secs(3600),
        failure_limit: 5,
    };
    let http = HttpOptions { mirrors: vec![mirror], ..HttpOptions::default() };
    let registry = open(RegistryConfig { http, ..config(&origin) });
    read(&registry, 0, 1).await.unwrap_err();
    let pinged = async {
        while mirrored.seen().len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), pinged).await.expect("a ping");
    let endpoints = registry.endpoints();
    let roles: Vec<_> = endpoints.iter().map(|endpoint| endpoint.role).collect();
    assert_eq!(roles, [Role::Mirror, Role::Origin]);
    assert_eq!(endpoints[0].name, format!("mirror http://***@{}", mirrored.host()));
    assert_eq!(endpoints[0].requests, 2, "the try and the ping: {endpoints:?}");
    assert_eq!(endpoints.iter().map(|at| count(at, TryOutcome::NotFound)).sum::<u64>(), 2);
    assert_eq!((endpoints[0].retries, endpoints[1].retries), (0, 1));
    assert!(!format!("{endpoints:?}").contains("secret-"), "{endpoints:?}");
}

#[tokio::test]
async fn tokens_are_counted_by_what_came_of_it() {
    let answers = AtomicUsize::new(0);
    let service = Double::new(move |_| match answers.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::new(503, ""),
        _ => Reply::new(200, r#"{"token":"t"}"#),
    })
    .await;
    let realm = service.url();
    let double = Double::new(move |seen| match seen.header("authorization") {
        Some("Bearer t") => Reply::range(&content(SIZE), seen),
        _ => Reply::new(401, "").with("www-authenticate", format!(r#"Bearer realm="{realm}/token""#)),
    })
    .await;
    let commons = Commons::new();
    let registry = storage::backend::registry::Registry::new(config(&double), &commons).unwrap();
    read(&registry, 0, 1).await.unwrap();
    assert_eq!(commons.token_fetches(), TokenFetches { given: 1, denied: 0, failed: 1 });
}

#[tokio::test]
async fn credentials_that_cannot_be_used_are_refused_and_the_old_ones_stay() {
    let double = Double::new(|seen| match seen.header("authorization") {
        Some(proof) if proof == format!("Basic {}", auth("u", "old").expose()) => {
            Reply::range(&content(SIZE), seen)
        }
        _ => Reply::new(401, "").with("www-authenticate", "Basic realm=\"r\""),
    })
    .await;
    let registry = open(RegistryConfig { auth: Some(auth("u", "old")), ..config(&double) });
    for bad in ["secret-!!", "c2VjcmV0LXRleHQ="] {
        let error = registry.exchange_auth(Secret::new(bad)).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        assert!(error.to_string().contains("base64 of user:password") && !error.to_string().contains(bad));
    }
    read(&registry, 0, 1).await.unwrap();
    registry.exchange_auth(auth("u", "new")).unwrap();
    assert!(matches!(read(&registry, 0, 1).await, Err(Error::Denied { .. })));
}
