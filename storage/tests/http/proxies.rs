//! Mirrors, proxies, and the plain server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use storage::Error;
use storage::backend::http_proxy::{HttpProxy, HttpProxyConfig};
use storage::backend::laws::{self, Fixture};
use storage::backend::registry::RegistryConfig;
use storage::backend::{Backend, Priority, Request};
use storage::http::{Commons, HttpOptions, Mirror, Proxy, Scheme};
use storage::secret::{Secret, SecretUrl};

use crate::double::{Double, Reply, Seen};
use crate::setup::{auth, blob, config, content, on_demand, open, read};

const SIZE: usize = 1000;

fn serve(seen: &Seen) -> Reply {
    Reply::range(&content(SIZE), seen)
}

pub fn mirror(double: &Double) -> Mirror {
    Mirror {
        host: SecretUrl::new(double.url()),
        headers: BTreeMap::from([("X-Registry".to_owned(), Secret::new("origin"))]),
        ping_url: Some(SecretUrl::new(format!("{}/ping", double.url()))),
        health_check_interval: Duration::from_millis(100),
        failure_limit: 2,
    }
}

fn proxied(double: &Double) -> Proxy {
    Proxy {
        url: SecretUrl::new(double.url()),
        ping_url: None,
        fallback: true,
        check_interval: Duration::from_millis(100),
        check_pause_elapsed: Duration::from_secs(300),
        use_http: false,
    }
}

pub fn with_mirrors(origin: &Double, mirrors: Vec<Mirror>) -> RegistryConfig {
    RegistryConfig { http: HttpOptions { mirrors, ..HttpOptions::default() }, ..config(origin) }
}

fn with_proxy(origin: &Double, proxy: Proxy) -> RegistryConfig {
    RegistryConfig { http: HttpOptions { proxy: Some(proxy), ..HttpOptions::default() }, ..config(origin) }
}

#[tokio::test]
async fn mirrors_go_first_and_in_order() {
    let [first, second, origin] =
        [Double::new(serve).await, Double::new(serve).await, Double::new(serve).await];
    let registry = open(with_mirrors(&origin, vec![mirror(&first), mirror(&second)]));
    read(&registry, 0, 10).await.unwrap();
    assert_eq!(
        (first.count("/v2/library/test/blobs"), second.count("blobs"), origin.count("blobs")),
        (1, 0, 0)
    );
    let seen = first.seen().into_iter().find(|seen| seen.path().contains("blobs")).unwrap();
    assert_eq!(seen.header("x-registry"), Some("origin"));
}

#[tokio::test]
async fn what_a_mirror_does_not_give_another_endpoint_gives() {
    for status in [404, 401, 403, 429, 500, 503, 206] {
        let bad = Double::new(move |_| Reply::new(status, "")).await;
        let origin = Double::new(serve).await;
        let registry = open(with_mirrors(&origin, vec![mirror(&bad)]));
        let start = Instant::now();
        assert_eq!(read(&registry, 5, 10).await.unwrap(), content(SIZE)[5..15], "{status}");
        assert!(start.elapsed() < Duration::from_secs(1), "{status}: {:?}", start.elapsed());
        assert_eq!(origin.count("blobs"), 1, "{status}");
    }
    let origin = Double::new(serve).await;
    let gone = mirror(&Double::new(serve).await);
    read(&open(with_mirrors(&origin, vec![gone])), 0, 10).await.unwrap();
}

#[tokio::test]
async fn bytes_that_were_wrong_are_asked_for_elsewhere() {
    let bad = Double::new(|seen| match seen.path() {
        "/ping" => Reply::new(200, ""),
        _ => Reply::range(&[0; SIZE], seen),
    })
    .await;
    let origin = Double::new(serve).await;
    let registry = open(with_mirrors(&origin, vec![mirror(&bad)]));
    let request = on_demand();
    let first = registry.read(&blob(), 0, 10, request.clone()).await.unwrap();
    assert_eq!(first, vec![0; 10]);
    request.attempts.were_wrong();
    assert_eq!(registry.read(&blob(), 0, 10, request).await.unwrap(), content(SIZE)[..10]);
    // Another read knows nothing of it.
    assert_eq!(registry.read(&blob(), 0, 10, on_demand()).await.unwrap(), vec![0; 10]);
    assert_eq!((bad.count("blobs"), origin.count("blobs")), (2, 1));
}

#[tokio::test]
async fn the_origin_has_the_last_word() {
    let [mirror_double, origin] = [(); 2].map(|()| Double::new(|_| Reply::new(404, "")));
    let (mirror_double, origin) = (mirror_double.await, origin.await);
    let error = read(&open(with_mirrors(&origin, vec![mirror(&mirror_double)])), 0, 1).await.unwrap_err();
    assert!(matches!(&error, Error::NotFound { place, .. } if !place.contains("mirror")), "{error}");
}

#[tokio::test]
async fn passwords_are_not_sent_to_mirrors_in_the_clear() {
    let challenge = |seen: &Seen| match seen.header("authorization") {
        None => Reply::new(401, "").with("www-authenticate", "Basic realm=r"),
        Some(_) => serve(seen),
    };
    let (mirrored, origin) = (Double::new(challenge).await, Double::new(challenge).await);
    let mut config = with_mirrors(&origin, vec![mirror(&mirrored)]);
    config.auth = Some(auth("u", "p"));
    read(&open(config), 0, 1).await.unwrap();
    assert!(mirrored.seen().iter().all(|seen| seen.header("authorization").is_none()));
    assert_eq!(origin.count("blobs"), 2);
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_pings_is_passed_over_until_it_does() {
    let is_well = Arc::new(AtomicBool::new(false));
    let well = is_well.clone();
    let mirrored = Double::new(move |seen| match (seen.path(), well.load(Ordering::Relaxed)) {
        ("/ping", false) => Reply::new(503, ""),
        ("/ping", true) => Reply::new(200, ""),
        _ => serve(seen),
    })
    .await;
    let origin = Double::new(serve).await;
    let registry = open(with_mirrors(&origin, vec![mirror(&mirrored)]));
    let served_by_origin = async || {
        let before = origin.seen().len();
        read(&registry, 0, 1).await.unwrap();
        origin.seen().len() > before
    };
    eventually(async || served_by_origin().await).await;
    is_well.store(true, Ordering::Relaxed);
    eventually(async || !served_by_origin().await).await;
}

/// Waits for what a ping brings about.
async fn eventually(is_so: impl AsyncFn() -> bool) {
    let start = Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < Duration::from_secs(5), "it has not come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_proxy_is_told_the_whole_address_and_how_urgent_it_is() {
    let (proxy, origin) = (Double::new(serve).await, Double::new(serve).await);
    let registry = open(with_proxy(&origin, proxied(&proxy)));
    read(&registry, 0, 10).await.unwrap();
    let prefetch = Request { priority: Priority::Prefetch, ..on_demand() };
    registry.read(&blob(), 0, 10, prefetch).await.unwrap();
    let seen = proxy.seen();
    let address = format!("{}/v2/library/test/blobs/sha256:{}", origin.url(), blob());
    assert!(seen.iter().all(|seen| seen.uri == *address.as_str()), "{seen:?}");
    let urgency: Vec<_> = seen.iter().map(|seen| seen.header("x-dragonfly-priority").unwrap()).collect();
    assert_eq!(urgency, ["6", "3"]);
    assert_eq!(seen[0].header("x-dragonfly-prefetch"), Some("true"));
    assert_eq!(seen[0].header("x-dragonfly-use-p2p"), Some("true"));
    assert_eq!(origin.seen().len(), 0);
}

#[tokio::test]
async fn https_addresses_are_asked_for_as_http_if_the_proxy_wants_it() {
    let (proxy, origin) = (Double::new(serve).await, Double::new(serve).await);
    let mut config = with_proxy(&origin, Proxy { use_http: true, fallback: false, ..proxied(&proxy) });
    config.scheme = Scheme::Https;
    config.host = "registry.invalid".to_owned();
    read(&open(config), 0, 10).await.unwrap();
    assert!(proxy.seen()[0].uri.to_string().starts_with("http://registry.invalid/v2/"));
}

#[tokio::test]
async fn a_proxy_that_fails_is_gone_around_if_that_is_allowed() {
    for (status, from_proxy) in [(502, false), (403, true), (429, true), (500, true)] {
        let proxy = Double::new(move |_| {
            let reply = Reply::new(status, "");
            if from_proxy { reply.with("x-dragonfly-error-type", "proxy") } else { reply }
        })
        .await;
        let origin = Double::new(serve).await;
        read(&open(with_proxy(&origin, proxied(&proxy))), 0, 10).await.unwrap();
        assert_eq!((proxy.seen().len(), origin.seen().len()), (1, 1), "{status}");
        let seen = &origin.seen()[0];
        assert_eq!(seen.header("x-dragonfly-priority"), None);

        let mut config = with_proxy(&origin, Proxy { fallback: false, ..proxied(&proxy) });
        config.http.retry_limit = 1;
        let error = read(&open(config), 0, 10).await.unwrap_err();
        let fits = if status == 403 {
            matches!(error, Error::Denied { .. })
        } else {
            matches!(error, Error::Unavailable { .. })
        };
        assert!(fits, "{status}: {error}");
        assert_eq!(origin.seen().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn what_the_origin_says_through_a_proxy_is_the_last_word() {
    let (proxy, origin) = (Double::new(|_| Reply::new(403, "")).await, Double::new(serve).await);
    let error = read(&open(with_proxy(&origin, proxied(&proxy))), 0, 10).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    assert_eq!(origin.seen().len(), 0);
}

#[tokio::test]
async fn the_plain_server_keeps_the_laws() {
    laws::all(async |objects| {
        let double = Double::new(move |seen| Reply::object(&objects, seen)).await;
        let config = HttpProxyConfig {
            addr: SecretUrl::new(double.url()),
            path: "/blobs/here/".to_owned(),
            http: HttpOptions::default(),
        };
        let backend = HttpProxy::new(config, &Commons::new()).unwrap();
        read(&backend, 0, 1).await.unwrap_err();
        assert_eq!(double.seen()[0].path(), format!("/blobs/here/{}", blob()));
        Fixture { backend: Arc::new(backend), keep: Box::new(double) }
    })
    .await;
}

#[tokio::test]
async fn the_plain_server_keeps_the_laws_over_a_socket() {
    laws::all(async |objects| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let double = Double::unix(&path, move |seen| Reply::object(&objects, seen));
        let config = HttpProxyConfig {
            addr: SecretUrl::new(path.to_str().unwrap()),
            path: "unused".to_owned(),
            http: HttpOptions::default(),
        };
        let backend = HttpProxy::new(config, &Commons::new()).unwrap();
        read(&backend, 0, 1).await.unwrap_err();
        assert_eq!(double.seen()[0].path(), format!("/{}", blob()));
        Fixture { backend: Arc::new(backend), keep: Box::new((double, dir)) }
    })
    .await;
}
