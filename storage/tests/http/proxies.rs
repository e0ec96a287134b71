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

use crate::double::{Cut, Double, Reply, Seen};
use crate::setup::{auth, basic, blob, config, content, on_demand, open, read};

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
        assert!(start.elapsed() < Duration::from_millis(4500), "{status}: {:?}", start.elapsed());
        assert_eq!(origin.count("blobs"), 1, "{status}");
    }
    let origin = Double::new(serve).await;
    let gone = mirror(&Double::new(serve).await);
    read(&open(with_mirrors(&origin, vec![gone])), 0, 10).await.unwrap();
}

#[tokio::test]
async fn what_a_mirror_says_of_the_size_does_not_convict_the_origin() {
    let page = "Log in first!";
    let ranges =
        |_: &Seen| Reply::new(206, vec![0; 10]).with("content-range", "bytes 5-14/15").cut(3, Cut::Reset);
    for wrong in [Double::new(move |_| Reply::new(200, page)).await, Double::new(ranges).await] {
        let origin = Double::new(serve).await;
        let registry = open(with_mirrors(&origin, vec![mirror(&wrong)]));
        assert_eq!(read(&registry, 5, 10).await.unwrap(), content(SIZE)[5..15]);
    }
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
async fn a_mirror_in_the_clear_does_not_say_who_sees_the_password() {
    let services = [(); 2].map(|()| Double::new(|_| Reply::new(200, r#"{"token":"t"}"#)));
    let [good, evil] = futures_util::future::join_all(services).await.try_into().ok().unwrap();
    let wants = |realm: String| {
        move |seen: &Seen| match (seen.path(), seen.header("authorization")) {
            ("/ping", _) => Reply::new(200, ""),
            (_, Some("Bearer t")) => serve(seen),
            _ => Reply::new(401, "").with("www-authenticate", format!("Bearer realm=\"{realm}\"")),
        }
    };
    let origin = Double::new(wants(format!("{}/token", good.url()))).await;
    for (service, is_used) in [(&evil, false), (&good, true)] {
        let mirrored = Double::new(wants(format!("{}/token", service.url()))).await;
        let mut config = with_mirrors(&origin, vec![mirror(&mirrored)]);
        config.auth = Some(auth("u", "p"));
        let registry = open(config);
        for _ in 0..3 {
            read(&registry, 0, 1).await.unwrap();
        }
        let served = mirrored.seen().iter().filter(|seen| seen.header("authorization").is_some()).count();
        // The first one is served by the registry, which so vouches for its service.
        assert_eq!(served, if is_used { 2 } else { 0 });
    }
    assert_eq!(evil.seen().len(), 0);
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

#[tokio::test]
async fn who_only_tells_of_the_health_of_a_mirror_gets_no_secret() {
    let (mirrored, origin) = (Double::new(serve).await, Double::new(serve).await);
    let health = Double::new(|_| Reply::new(200, "")).await;
    for asked in [&health, &mirrored] {
        let ping_url = Some(SecretUrl::new(format!("{}/ping", asked.url())));
        let mut config = with_mirrors(&origin, vec![Mirror { ping_url, ..mirror(&mirrored) }]);
        config.http.headers.insert("Authorization".to_owned(), Secret::new("Basic hunter2"));
        let registry = open(config);
        eventually(async || {
            read(&registry, 0, 1).await.unwrap();
            asked.seen().iter().any(|seen| seen.path() == "/ping")
        })
        .await;
    }
    for seen in health.seen() {
        assert_eq!((seen.header("authorization"), seen.header("x-registry")), (None, None));
    }
    let at_home = mirrored.seen().into_iter().find(|seen| seen.path() == "/ping").unwrap();
    assert_eq!(
        (at_home.header("authorization"), at_home.header("x-registry")),
        (Some("Basic hunter2"), Some("origin"))
    );
}

#[tokio::test]
async fn a_mirror_that_has_no_token_to_give_does_not_hold_readers() {
    let service = Double::new(|_| Reply::silence()).await;
    let realm = format!("{}/token", service.url());
    let mirrored = Double::new(move |seen| match seen.path() {
        "/ping" => Reply::new(200, ""),
        _ => Reply::new(401, "").with("www-authenticate", format!("Bearer realm=\"{realm}\"")),
    })
    .await;
    let origin = Double::new(serve).await;
    let registry = open(with_mirrors(&origin, vec![mirror(&mirrored)]));
    let start = Instant::now();
    let reads = (0..16).map(|_| read(&registry, 0, 1));
    for read in futures_util::future::join_all(reads).await {
        read.unwrap();
    }
    // One wait for all, and not one after the other.
    assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_proxy_that_wants_a_password_for_its_tunnels_is_told_at_once() {
    let proxy = Double::new(|_| Reply::new(407, "")).await;
    let mut config = with_proxy(&proxy, Proxy { fallback: false, ..proxied(&proxy) });
    (config.scheme, config.host) = (Scheme::Https, "registry.invalid".to_owned());
    let start = Instant::now();
    let error = read(&open(config), 0, 1).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(10) && proxy.seen().len() == 1, "{error}");
}

#[tokio::test]
async fn a_redirect_does_not_leave_tls_because_the_proxy_wants_http() {
    let proxy = Double::new(|_| Reply::new(307, "").with("location", "http://store.invalid/blob")).await;
    let mut config = with_proxy(&proxy, Proxy { use_http: true, fallback: false, ..proxied(&proxy) });
    (config.scheme, config.host) = (Scheme::Https, "registry.invalid".to_owned());
    let error = read(&open(config), 0, 1).await.unwrap_err();
    assert!(error.to_string().contains("blob_url_scheme"), "{error}");
    assert_eq!(proxy.seen().len(), 1);
}

/// Waits for what a ping brings about.
async fn eventually(is_so: impl AsyncFn() -> bool) {
    let start = Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < Duration::from_secs(30), "it has not come");
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
    for (status, from_proxy) in
        [(502, false), (504, false), (407, false), (403, true), (429, true), (500, true)]
    {
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
async fn a_proxy_that_is_back_is_used_again() {
    let is_well = Arc::new(AtomicBool::new(false));
    let well = is_well.clone();
    let proxy = Double::new(move |seen| match well.load(Ordering::Relaxed) {
        _ if seen.path() == "/healthy" => Reply::new(200, ""),
        true => serve(seen),
        false => Reply::new(502, ""),
    })
    .await;
    let origin = Double::new(serve).await;
    let registry = open(with_proxy(&origin, proxied(&proxy)));
    let served_by_proxy = async || {
        let before = origin.seen().len();
        read(&registry, 0, 1).await.unwrap();
        origin.seen().len() == before
    };
    // Until its breaker is open, only one request a second goes past it.
    let start = Instant::now();
    for _ in 0..20 {
        assert!(!served_by_proxy().await);
    }
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(registry.endpoints()[0].health.openings, 1);
    is_well.store(true, Ordering::Relaxed);
    eventually(served_by_proxy).await;
    assert!(served_by_proxy().await);
}

#[tokio::test]
async fn an_unhealthy_proxy_is_gone_around_and_used_again_when_it_is_well() {
    let is_well = Arc::new(AtomicBool::new(false));
    let well = is_well.clone();
    let proxy = Double::new(move |seen| match (seen.path(), well.load(Ordering::Relaxed)) {
        ("/healthy", false) => Reply::new(500, ""),
        ("/healthy", true) => Reply::new(200, ""),
        _ => serve(seen),
    })
    .await;
    let origin = Double::new(serve).await;
    let ping_url = Some(SecretUrl::new(format!("{}/healthy", proxy.url())));
    let registry = open(with_proxy(&origin, Proxy { ping_url: ping_url.clone(), ..proxied(&proxy) }));
    let served_by_proxy = async || {
        let before = origin.seen().len();
        read(&registry, 0, 1).await.unwrap();
        origin.seen().len() == before
    };
    eventually(async || !served_by_proxy().await).await;
    // As many as wanted: the proxy is not well.
    let start = Instant::now();
    for _ in 0..20 {
        assert!(!served_by_proxy().await);
    }
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    is_well.store(true, Ordering::Relaxed);
    eventually(served_by_proxy).await;
    // Who may not go around it uses it all the same.
    is_well.store(false, Ordering::Relaxed);
    let strict = open(with_proxy(&origin, Proxy { ping_url, fallback: false, ..proxied(&proxy) }));
    let before = origin.seen().len();
    for _ in 0..5 {
        read(&strict, 0, 1).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(origin.seen().len(), before);
}

#[tokio::test]
async fn tokens_come_by_the_way_of_their_requests() {
    for fallback in [true, false] {
        let service = |_: &Seen| Reply::new(200, r#"{"token":"t"}"#);
        let wanted = |seen: &Seen, realm: &str| match seen.header("authorization") {
            Some("Bearer t") => serve(seen),
            _ => Reply::new(401, "").with("www-authenticate", format!("Bearer realm=\"{realm}\"")),
        };
        // Only the proxy can reach the registry and its token service: neither name resolves.
        let proxy = Double::new(move |seen| match seen.uri.host() {
            Some("registry.invalid") if seen.path() == "/token" => service(seen),
            Some("registry.invalid") => wanted(seen, "http://registry.invalid/token"),
            other => panic!("{other:?}"),
        })
        .await;
        let mut config = with_proxy(&proxy, Proxy { fallback, ..proxied(&proxy) });
        config.host = "registry.invalid".to_owned();
        config.auth = Some(auth("u", "p"));
        assert_eq!(read(&open(config), 5, 10).await.unwrap(), content(SIZE)[5..15], "{fallback}");
        let token = proxy.seen().into_iter().find(|seen| seen.path() == "/token").unwrap();
        assert_eq!(token.header("authorization").unwrap(), format!("Basic {}", basic("u", "p")));
    }
    // A proxy that does not lead to the service is gone around.
    let service = Double::new(|_| Reply::new(200, r#"{"token":"t"}"#)).await;
    let realm = format!("{}/token", service.url());
    let proxy = Double::new(move |seen| match (seen.path(), seen.header("authorization")) {
        ("/token", _) => Reply::new(407, ""),
        (_, Some("Bearer t")) => serve(seen),
        _ => Reply::new(401, "").with("www-authenticate", format!("Bearer realm=\"{realm}\"")),
    })
    .await;
    let origin = Double::new(serve).await;
    read(&open(with_proxy(&origin, proxied(&proxy))), 0, 1).await.unwrap();
    assert_eq!((service.seen().len(), origin.seen().len()), (1, 0));
}

#[tokio::test]
async fn a_password_for_a_registry_with_tls_is_not_sent_in_the_clear_because_the_proxy_wants_http() {
    let proxy = Double::new(|_| {
        Reply::new(401, "").with("www-authenticate", "Bearer realm=\"http://registry.invalid/token\"")
    })
    .await;
    let mut config = with_proxy(&proxy, Proxy { use_http: true, fallback: false, ..proxied(&proxy) });
    config.scheme = Scheme::Https;
    config.host = "registry.invalid".to_owned();
    config.auth = Some(auth("u", "p"));
    let error = read(&open(config), 0, 1).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }) && error.to_string().contains("in the clear"), "{error}");
    assert_eq!(proxy.seen().len(), 1);
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

/// A backend whose blobs are behind the socket at `path`.
fn behind(path: &std::path::Path) -> HttpProxy {
    let addr = SecretUrl::new(path.to_str().unwrap());
    let config = HttpProxyConfig { addr, path: String::new(), http: HttpOptions::default() };
    HttpProxy::new(config, &Commons::new()).unwrap()
}

#[tokio::test]
async fn over_a_socket_an_answer_of_200_may_be_the_range_or_the_object() {
    const SIZE: usize = 300_000;
    let whole = content(SIZE);
    let ranges = [(0, 1), (0, 5000), (0, SIZE), (1, 1), (1, 299_999), (150_000, 150_000), (299_999, 1)];
    for (chunked, bare) in [(false, false), (false, true), (true, false), (true, true)] {
        let dir = tempfile::tempdir().unwrap();
        let object = whole.clone();
        let double = Double::unix(&dir.path().join("socket"), move |seen| {
            let (first, last) = seen.range();
            let end = object.len().min(last as usize + 1);
            let body = if bare { object[first as usize..end].to_vec() } else { object.clone() };
            let len = body.len();
            match chunked {
                // The body ends when the connection says so.
                true => Reply::new(200, body).cut(len, Cut::End),
                false => Reply::new(200, body),
            }
        });
        let backend = behind(&dir.path().join("socket"));
        for (offset, len) in ranges {
            let read = read(&backend, offset as u64, len as u64).await.unwrap();
            assert!(read == whole[offset..offset + len], "chunked {chunked}, bare {bare}: {offset}+{len}");
        }
        assert_eq!(double.seen().len(), ranges.len(), "chunked {chunked}, bare {bare}");
        if !chunked {
            let error = read(&backend, 299_999, 2).await.unwrap_err();
            assert!(matches!(error, Error::Corrupt { .. }), "bare {bare}: {error}");
        }
    }
}

#[tokio::test]
async fn over_tcp_an_answer_of_200_is_the_object() {
    let double = Double::new(|seen| {
        let (first, last) = seen.range();
        Reply::new(200, content(300_000)[first as usize..=last as usize].to_vec())
    })
    .await;
    let addr = SecretUrl::new(format!("http://{}", double.addr));
    let config = HttpProxyConfig { addr, path: String::new(), http: HttpOptions::default() };
    let backend = HttpProxy::new(config, &Commons::new()).unwrap();
    let error = read(&backend, 1000, 100).await.unwrap_err();
    assert!(error.to_string().contains("is beyond the end, it has 100 bytes"), "{error}");
}
