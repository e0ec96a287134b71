//! Registries: who we are to them, and where they lead.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use storage::Error;
use storage::backend::Backend as _;
use storage::backend::laws::{self, Fixture};
use storage::backend::registry::{Registry, RegistryConfig};
use storage::http::Commons;
use storage::secret::Secret;

use crate::double::{Double, Reply, Seen};
use crate::setup::{auth, basic, blob, config, content, open, read, within};

const SIZE: usize = 10_000;

fn serve(seen: &Seen) -> Reply {
    Reply::range(&content(SIZE), seen)
}

/// A registry that believes in the tokens of its token service, and knows of each for how many seconds it lives.
struct TokenRegistry {
    registry: Double,
    service: Double,
    valid: Arc<Mutex<HashSet<String>>>,
    /// The registry does not learn what the service issues.
    forget: Arc<AtomicBool>,
}

/// The service believes in user `u` with password `p`, if `wants_password`.
async fn token_registry(wants_password: bool, realm_host: &str, life: u64, post: bool) -> TokenRegistry {
    let valid = Arc::new(Mutex::new(HashSet::new()));
    let forget = Arc::new(AtomicBool::new(false));
    let (count, issued, forgets) = (AtomicUsize::new(0), valid.clone(), forget.clone());
    let service = Double::new(move |seen| {
        if seen.method == "POST" && !post {
            return Reply::new(405, "");
        }
        if wants_password && seen.header("authorization") != Some(&format!("Basic {}", basic("u", "p"))) {
            return Reply::new(401, r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#);
        }
        let asked = if seen.method == "POST" { &seen.body } else { seen.uri.query().unwrap() };
        let wanted = [
            "service=test-service",
            "scope=repository%3Alibrary%2Ftest%3Apull",
            "client_id=nydus-registry-client",
        ];
        assert!(wanted.iter().all(|part| asked.split('&').any(|pair| pair == *part)), "{asked}");
        let token = format!("token-{}", count.fetch_add(1, Ordering::Relaxed));
        if !forgets.load(Ordering::Relaxed) {
            issued.lock().unwrap().insert(token.clone());
        }
        Reply::new(200, format!(r#"{{"token":"{token}","expires_in":{life}}}"#))
    })
    .await;
    let realm = format!("http://{realm_host}:{}/token", service.addr.port());
    let believed = valid.clone();
    let registry = Double::new(move |seen| {
        let token = seen.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        if token.is_some_and(|token| believed.lock().unwrap().contains(token)) {
            return serve(seen);
        }
        let challenge =
            format!(r#"Bearer realm="{realm}",service="test-service",scope="repository:library/test:pull""#);
        Reply::new(401, r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#).with("www-authenticate", challenge)
    })
    .await;
    TokenRegistry { registry, service, valid, forget }
}

#[tokio::test]
async fn keeps_the_laws() {
    laws::all(async |objects| {
        let double = Double::new(move |seen| Reply::object(&objects, seen)).await;
        Fixture { backend: Arc::new(open(config(&double))), keep: Box::new(double) }
    })
    .await;
}

#[tokio::test]
async fn keeps_the_laws_with_a_password_and_signed_redirects() {
    laws::all(async |objects| {
        // Like an object store: each signature is good for ten requests.
        let uses = Mutex::new(std::collections::HashMap::new());
        let store = Double::new(move |seen| {
            assert_eq!(seen.header("authorization"), None);
            let mut uses = uses.lock().unwrap();
            let used = uses.entry(seen.uri.query().unwrap().to_owned()).or_insert(0);
            *used += 1;
            if *used > 10 {
                Reply::new(403, "<Code>AccessDenied</Code>")
            } else {
                Reply::object(&objects, seen)
            }
        })
        .await;
        let (url, count) = (store.url(), AtomicUsize::new(0));
        let double = Double::new(move |seen| {
            if seen.header("authorization") != Some(&format!("Basic {}", basic("u", "p"))) {
                return Reply::new(401, "").with("www-authenticate", "Basic realm=\"r\"");
            }
            let signature = count.fetch_add(1, Ordering::Relaxed);
            Reply::new(307, "").with("location", format!("{url}{}?signature={signature}", seen.path()))
        })
        .await;
        let config = RegistryConfig { auth: Some(auth("u", "p")), ..config(&double) };
        Fixture { backend: Arc::new(open(config)), keep: Box::new((double, store)) }
    })
    .await;
}

#[tokio::test]
async fn a_missing_blob_is_told_by_repository_and_digest() {
    let double = Double::new(|seen| Reply::object(&[], seen)).await;
    let error = read(&open(config(&double)), 0, 1).await.unwrap_err().to_string();
    for part in ["library/test", &format!("sha256:{}", blob()), &double.host()] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert_eq!(double.seen()[0].path(), format!("/v2/library/test/blobs/sha256:{}", blob()));
    assert_eq!(double.seen()[0].header("user-agent"), Some("nydusd/1.0.0"));
}

#[tokio::test]
async fn one_token_serves_all() {
    for post in [true, false] {
        let double = token_registry(true, "127.0.0.1", 300, post).await;
        let config = RegistryConfig { auth: Some(auth("u", "p")), ..config(&double.registry) };
        // Two mounts of one repository.
        let commons = Commons::new();
        let mounts = [(); 2].map(|()| Arc::new(Registry::new(config.clone(), &commons).unwrap()));
        let reads: Vec<_> = (0..32)
            .map(|number| {
                let registry = mounts[number % 2].clone();
                tokio::spawn(async move { read(&*registry, number as u64, 10).await.map(drop) })
            })
            .collect();
        for read in reads {
            read.await.unwrap().unwrap();
        }
        let methods: Vec<_> = double.service.seen().iter().map(|seen| seen.method.to_string()).collect();
        assert_eq!(methods, if post { vec!["POST"] } else { vec!["POST", "GET"] });
        // Once asked, the registry is told at once who we are.
        let before = double.registry.seen().len();
        read(&*mounts[0], 0, 10).await.unwrap();
        assert_eq!(double.registry.seen().len(), before + 1);
    }
}

#[tokio::test]
async fn the_method_of_a_service_is_remembered() {
    let double = token_registry(false, "127.0.0.1", 1, false).await;
    let registry = open(config(&double.registry));
    read(&registry, 0, 1).await.unwrap();
    // Beyond the end of the token.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    read(&registry, 0, 1).await.unwrap();
    let methods: Vec<_> = double.service.seen().iter().map(|seen| seen.method.to_string()).collect();
    assert_eq!(methods, ["POST", "GET", "GET"]);
}

#[tokio::test]
async fn a_token_service_that_is_slower_than_readers_are_patient_is_heard_all_the_same() {
    let service =
        Double::new(|_| Reply::new(200, r#"{"token":"t"}"#).after(Duration::from_millis(1500))).await;
    let challenge = format!(r#"Bearer realm="{}/token",service="s""#, service.url());
    let registry = Double::new(move |seen| match seen.header("authorization") {
        Some("Bearer t") => Reply::range(&content(SIZE), seen),
        _ => Reply::new(401, "").with("www-authenticate", challenge.clone()),
    })
    .await;
    let backend = open(config(&registry));
    let patience = Duration::from_millis(400);
    let start = Instant::now();
    while let Err(error) = backend.read(&blob(), 0, 10, within(patience)).await {
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
        assert!(start.elapsed() < Duration::from_secs(20), "nobody ever gets a token");
    }
    assert_eq!(service.seen().len(), 1, "one fetch for all who tried");
}

#[tokio::test]
async fn tokens_are_renewed_before_they_end() {
    // Renewed after three quarters of its life of two seconds.
    let double = token_registry(false, "127.0.0.1", 2, true).await;
    let registry = open(config(&double.registry));
    let start = Instant::now();
    for _ in 0..45 {
        read(&registry, 0, 1).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let refused = double.registry.seen().iter().filter(|seen| seen.header("authorization").is_none()).count();
    assert_eq!(refused, 1, "reads that had no token");
    let fetched = double.service.seen().len();
    let most = 2 + start.elapsed().as_millis() as usize / 1300;
    assert!((3..=most).contains(&fetched), "{fetched} tokens for {:?}", start.elapsed());
}

#[tokio::test]
async fn a_registry_that_refuses_the_tokens_it_asks_for_is_not_asked_for_ever() {
    let double = token_registry(false, "127.0.0.1", 300, true).await;
    let registry = open(config(&double.registry));
    double.forget.store(true, Ordering::Relaxed);
    // The second read asks neither: the service's tokens are known to be no good.
    for (requests, tokens) in [(2, 1), (2, 1)] {
        let error = read(&registry, 0, 1).await.unwrap_err();
        assert!(matches!(error, Error::Denied { .. }), "{error}");
        assert_eq!((double.registry.seen().len(), double.service.seen().len()), (requests, tokens));
    }
}

#[tokio::test]
async fn wrong_credentials_are_one_clear_error() {
    let double = token_registry(true, "127.0.0.1", 300, true).await;
    let config = RegistryConfig { auth: Some(auth("u", "hunter2")), ..config(&double.registry) };
    let registry = open(config);
    let error = read(&registry, 0, 1).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    assert!(error.to_string().contains("token service") && error.to_string().contains("401"), "{error}");
    // POST, and GET for services that know only that.
    assert_eq!(double.service.seen().len(), 2);
    // Nothing of it is kept: with the right password the next read succeeds.
    registry.exchange_auth(auth("u", "p")).unwrap();
    read(&registry, 0, 1).await.unwrap();
}

#[tokio::test]
async fn credentials_stay_off_foreign_hosts_in_the_clear() {
    // The registry is 127.0.0.1: `localhost` is another host.
    let double = token_registry(true, "localhost", 300, true).await;
    let with_auth = RegistryConfig { auth: Some(auth("u", "p")), ..config(&double.registry) };
    let error = read(&open(with_auth), 0, 1).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }) && error.to_string().contains("localhost"), "{error}");
    assert_eq!(double.service.seen().len(), 0);
    // Who has none has nothing to lose.
    let double = token_registry(false, "localhost", 300, true).await;
    read(&open(config(&double.registry)), 0, 1).await.unwrap();
}

#[tokio::test]
async fn what_stands_where_the_token_service_should_be_does_not_condemn_a_password() {
    let asked = Arc::new(AtomicUsize::new(0));
    // As from the entrance of a cluster whose service is being restarted.
    let service = Double::new(move |_| match asked.fetch_add(1, Ordering::Relaxed) {
        0..4 => Reply::new(404, "default backend"),
        _ => Reply::new(200, r#"{"token":"t"}"#),
    })
    .await;
    let realm = format!("{}/token", service.url());
    let registry = Double::new(move |seen| match seen.header("authorization") {
        Some("Bearer t") => serve(seen),
        _ => Reply::new(401, "").with("www-authenticate", format!("Bearer realm=\"{realm}\"")),
    })
    .await;
    let config = RegistryConfig { auth: Some(auth("u", "p")), ..config(&registry) };
    read(&open(config), 0, 1).await.unwrap();
}

#[tokio::test]
async fn the_first_token_is_used_until_it_is_refused() {
    let double = token_registry(false, "127.0.0.1", 300, true).await;
    double.valid.lock().unwrap().insert("given".to_owned());
    let config = RegistryConfig { registry_token: Some(Secret::new("given")), ..config(&double.registry) };
    let registry = open(config);
    read(&registry, 0, 1).await.unwrap();
    assert_eq!(double.service.seen().len(), 0);
    double.valid.lock().unwrap().clear();
    read(&registry, 0, 1).await.unwrap();
    read(&registry, 0, 1).await.unwrap();
    let proofs: Vec<_> =
        double.registry.seen().iter().map(|seen| seen.header("authorization").unwrap().to_owned()).collect();
    assert_eq!(proofs, ["Bearer given", "Bearer given", "Bearer token-0", "Bearer token-0"]);
}

#[tokio::test]
async fn a_redirect_is_remembered_until_it_is_refused() {
    let is_expired = Arc::new(Mutex::new(false));
    let expired = is_expired.clone();
    let store = Double::new(move |seen| {
        if *expired.lock().unwrap() && seen.uri.query() == Some("signature=0") {
            return Reply::new(403, "");
        }
        serve(seen)
    })
    .await;
    let (url, count) = (store.url(), AtomicUsize::new(0));
    let double = Double::new(move |_| {
        let signature = count.fetch_add(1, Ordering::Relaxed);
        Reply::new(302, "").with("location", format!("{url}/x?signature={signature}"))
    })
    .await;
    let registry = open(config(&double));
    for _ in 0..3 {
        read(&registry, 3, 5).await.unwrap();
    }
    assert_eq!((double.seen().len(), store.seen().len()), (1, 3));
    *is_expired.lock().unwrap() = true;
    for _ in 0..2 {
        assert_eq!(read(&registry, 3, 5).await.unwrap(), content(SIZE)[3..8]);
    }
    assert_eq!((double.seen().len(), store.seen().len()), (2, 6));
}

/// A registry that redirects to a store at `location`, with a number for each redirect.
async fn redirecting(location: String) -> Double {
    let count = AtomicUsize::new(0);
    Double::new(move |_| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        Reply::new(307, "").with("location", format!("{location}?number={number}"))
    })
    .await
}

#[tokio::test]
async fn a_place_that_is_no_longer_right_is_asked_for_again_at_once() {
    for status in [400, 403, 404, 410, 301] {
        let store = Double::new(move |seen| match seen.uri.query() {
            Some("number=0") if seen.range().0 > 0 => Reply::new(status, "<Code>ExpiredToken</Code>"),
            _ => serve(seen),
        })
        .await;
        let double = redirecting(format!("{}/x", store.url())).await;
        let mut config = config(&double);
        config.http.retry_limit = 1;
        let registry = open(config);
        for offset in 0..3 {
            assert_eq!(read(&registry, offset, 5).await.unwrap()[0], offset as u8, "{status}");
        }
        assert_eq!((double.seen().len(), store.seen().len()), (2, 4), "{status}");
        // It is the store that failed: the registry is not blamed.
        assert_eq!(registry.endpoints()[0].health.openings, 0);
    }
}

#[tokio::test]
async fn a_store_that_is_gone_is_asked_for_again_at_once() {
    let [first, second] = [Double::new(serve).await, Double::new(serve).await];
    let (urls, count) = ([first.url(), second.url()], AtomicUsize::new(0));
    let double = Double::new(move |_| {
        let url = &urls[count.fetch_add(1, Ordering::Relaxed).min(1)];
        Reply::new(307, "").with("location", format!("{url}/x"))
    })
    .await;
    let mut config = config(&double);
    config.http.retry_limit = 1;
    let registry = open(config);
    read(&registry, 0, 5).await.unwrap();
    drop(first);
    assert_eq!(read(&registry, 7, 5).await.unwrap(), content(SIZE)[7..12]);
    assert_eq!((double.seen().len(), second.seen().len()), (2, 1));
}

#[tokio::test]
async fn a_place_that_sends_something_else_is_not_remembered() {
    // What the store sends after its first answer, until the registry leads there anew.
    type Wrong = fn(&Seen) -> Reply;
    let wrongs: [(Wrong, bool); 4] = [
        (|_| Reply::new(200, "moved"), false),
        (|_| Reply::new(206, vec![0; 5]).with("content-range", "bytes 1-5/10000"), false),
        (|seen| Reply::range(&content(SIZE), seen).cut(2, crate::double::Cut::Reset), true),
        (|_| Reply::new(503, ""), false),
    ];
    for (number, (wrong, is_resumed)) in wrongs.into_iter().enumerate() {
        let store = Double::new(move |seen| match seen.uri.query() {
            Some("number=0") if seen.range().0 > 0 => wrong(seen),
            _ => serve(seen),
        })
        .await;
        let double = redirecting(format!("{}/x", store.url())).await;
        let mut config = config(&double);
        config.http.retry_limit = 1;
        let registry = open(config);
        read(&registry, 0, 5).await.unwrap();
        let first = read(&registry, 3, 5).await;
        assert_eq!(first.is_ok(), is_resumed, "{number}: {first:?}");
        let is_busy = number == 3;
        let second = read(&registry, 3, 5).await;
        assert_eq!(second.is_err(), is_busy, "{number}: {second:?}");
        // One that is busy is the right place all the same.
        assert_eq!(double.seen().len(), if is_busy { 1 } else { 2 }, "{number}");
    }
}

#[tokio::test]
async fn fifty_readers_ask_once_what_to_bring() {
    // Nobody waits longer than a second for the first: on a machine that stands still there is another try.
    let mut asked = Vec::new();
    while asked.last() != Some(&(1, 51, 1)) {
        assert!(asked.len() < 3, "{asked:?}");
        asked.push(fifty_readers().await);
    }
}

/// How many of the requests of fifty readers had no proof, how many there were, and how many tokens.
async fn fifty_readers() -> (usize, usize, usize) {
    let double = token_registry(true, "127.0.0.1", 300, true).await;
    let config = RegistryConfig { auth: Some(auth("u", "p")), ..config(&double.registry) };
    let registry = Arc::new(open(config));
    let reads: Vec<_> = (0..50)
        .map(|number| {
            let registry = registry.clone();
            tokio::spawn(async move { read(&*registry, number, 10).await.map(drop) })
        })
        .collect();
    for read in reads {
        read.await.unwrap().unwrap();
    }
    let refused = double.registry.seen().iter().filter(|seen| seen.header("authorization").is_none()).count();
    (refused, double.registry.seen().len(), double.service.seen().len())
}

#[tokio::test]
async fn a_first_request_that_hangs_does_not_hold_the_others_for_long() {
    let count = AtomicUsize::new(0);
    let double = Double::new(move |seen| match count.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::silence(),
        _ => serve(seen),
    })
    .await;
    let mut config = config(&double);
    config.http.timeout = Some(Duration::from_secs(60));
    config.http.connect_timeout = config.http.timeout;
    let registry = Arc::new(open(config));
    let first = registry.clone();
    let hanging = tokio::spawn(async move { read(&*first, 0, 10).await.map(drop) });
    while double.seen().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let start = Instant::now();
    read(&*registry, 0, 10).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    hanging.abort();
}

#[tokio::test]
async fn tokens_are_not_shared_by_others() {
    // The service gives what is asked for to whom it knows.
    let service = Double::new(|seen| {
        let user = seen.header("authorization").unwrap_or("nobody").replace([' ', '='], "-");
        let scope = seen.body.split('&').find_map(|pair| pair.strip_prefix("scope=")).unwrap();
        Reply::new(200, format!(r#"{{"token":"{user}.{scope}"}}"#))
    })
    .await;
    let realm = service.url();
    let double = Double::new(move |seen| {
        let repo = seen.path().split('/').nth(3).unwrap().to_owned();
        match seen.header("authorization") {
            Some(proof) if proof.ends_with(&format!(".{repo}")) => serve(seen),
            _ => Reply::new(401, "").with(
                "www-authenticate",
                format!(r#"Bearer realm="{realm}/token",service="s",scope="{repo}""#),
            ),
        }
    })
    .await;
    let commons = Commons::new();
    for (repo, credential) in [("a", None), ("b", None), ("a", Some(("u", "p"))), ("a", Some(("u", "q")))] {
        let auth = credential.map(|(user, password)| auth(user, password));
        let config = RegistryConfig { repo: format!("library/{repo}"), auth, ..config(&double) };
        for _ in 0..2 {
            let registry = Registry::new(config.clone(), &commons).unwrap();
            read(&registry, 0, 1).await.unwrap();
        }
    }
    assert_eq!(service.seen().len(), 4, "a token each, shared by two mounts");
    let proofs: HashSet<_> =
        double.seen().iter().filter_map(|seen| seen.header("authorization").map(str::to_owned)).collect();
    assert_eq!(proofs.len(), 4, "{proofs:?}");
}

#[tokio::test]
async fn an_exchanged_credential_is_used_by_the_next_request() {
    let issued = Arc::new(Mutex::new(Vec::new()));
    let log = issued.clone();
    let service = Double::new(move |seen| {
        let user = seen.header("authorization").unwrap_or("nobody").replace([' ', '='], "-");
        log.lock().unwrap().push(user.clone());
        Reply::new(200, format!(r#"{{"token":"{user}"}}"#))
    })
    .await;
    let realm = service.url();
    let double = Double::new(move |seen| match seen.header("authorization") {
        Some(proof) if proof.starts_with("Bearer ") => serve(seen),
        _ => Reply::new(401, "").with("www-authenticate", format!("Bearer realm=\"{realm}/t\"")),
    })
    .await;
    let config = RegistryConfig {
        auth: Some(auth("configured", "x")),
        registry_token: Some(Secret::new("initial")),
        ..config(&double)
    };
    let registry = open(config);
    let used = async || {
        read(&registry, 0, 1).await.unwrap();
        double.seen().last().unwrap().header("authorization").unwrap().to_owned()
    };
    let of = |user: &str| format!("Bearer Basic-{}", basic(user, "x").replace('=', "-"));
    assert_eq!(used().await, "Bearer initial");
    registry.exchange_auth(auth("first", "x")).unwrap();
    assert_eq!(used().await, of("first"), "what is given at run time comes before all");
    registry.exchange_auth(auth("second", "x")).unwrap();
    assert_eq!(used().await, of("second"), "the token of another credential is at hand, and not used");
    // What is no credential changes nothing.
    assert!(registry.exchange_auth(Secret::new("none")).is_err());
    assert_eq!(used().await, of("second"));
    assert_eq!(issued.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_credential_that_is_vouched_for_again_is_shown_again() {
    let is_known = Arc::new(AtomicBool::new(false));
    let known = is_known.clone();
    let service = Double::new(move |_| match known.load(Ordering::Relaxed) {
        true => Reply::new(200, r#"{"token":"t"}"#),
        false => Reply::new(401, ""),
    })
    .await;
    let realm = service.url();
    let double = Double::new(move |seen| match seen.header("authorization") {
        Some("Bearer t") => serve(seen),
        _ => Reply::new(401, "").with("www-authenticate", format!("Bearer realm=\"{realm}/t\"")),
    })
    .await;
    let registry = open(RegistryConfig { auth: Some(auth("u", "p")), ..config(&double) });
    read(&registry, 0, 1).await.unwrap_err();
    is_known.store(true, Ordering::Relaxed);
    let shown = service.seen().len();
    read(&registry, 0, 1).await.unwrap_err();
    assert_eq!(service.seen().len(), shown, "it is not shown so soon");
    registry.exchange_auth(auth("u", "p")).unwrap();
    read(&registry, 0, 1).await.unwrap();
}

#[tokio::test]
async fn a_wrong_password_is_shown_once_and_not_again_so_soon() {
    let double = Double::new(|seen| match seen.header("authorization") {
        Some(proof) if proof == format!("Basic {}", basic("u", "p")) => serve(seen),
        _ => Reply::new(401, "").with("www-authenticate", "Basic realm=r"),
    })
    .await;
    let registry = open(RegistryConfig { auth: Some(auth("u", "wrong")), ..config(&double) });
    for number in 0..5 {
        let error = read(&registry, 0, 1).await.unwrap_err();
        assert!(matches!(error, Error::Denied { .. }), "{number}: {error}");
    }
    let shown = double.seen().iter().filter(|seen| seen.header("authorization").is_some()).count();
    assert_eq!(shown, 1);
    registry.exchange_auth(auth("u", "p")).unwrap();
    read(&registry, 0, 1).await.unwrap();
}

#[tokio::test]
async fn an_identity_token_of_docker_is_exchanged() {
    let service = Double::new(|seen| {
        let asked: HashSet<_> = seen.body.split('&').collect();
        let is_right = seen.method == "POST"
            && asked.contains("grant_type=refresh_token")
            && asked.contains("refresh_token=idt%2F1");
        if is_right { Reply::new(200, r#"{"access_token":"t"}"#) } else { Reply::new(400, "") }
    })
    .await;
    let realm = service.url();
    let double = Double::new(move |seen| match seen.header("authorization") {
        Some("Bearer t") => serve(seen),
        _ => Reply::new(401, "").with("www-authenticate", format!("Bearer realm=\"{realm}/t\"")),
    })
    .await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = format!(r#"{{"auths": {{"{}": {{"identitytoken": "idt/1"}}}}}}"#, double.host());
    std::fs::write(file.path(), text).unwrap();
    let registry = open(RegistryConfig { docker_config: Some(file.path().to_owned()), ..config(&double) });
    read(&registry, 0, 1).await.unwrap();
    // It is never part of an address.
    assert!(service.seen().iter().all(|seen| seen.method == "POST"));
}

#[tokio::test]
async fn a_login_of_docker_is_shown() {
    let double = Double::new(|seen| match seen.header("authorization") {
        Some(proof) if proof == format!("Basic {}", basic("u", "p")) => serve(seen),
        _ => Reply::new(401, "").with("www-authenticate", "Basic realm=r"),
    })
    .await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = format!(r#"{{"auths": {{"{}": {{"auth": "{}"}}}}}}"#, double.host(), basic("u", "p"));
    std::fs::write(file.path(), text).unwrap();
    let registry = open(RegistryConfig { docker_config: Some(file.path().to_owned()), ..config(&double) });
    read(&registry, 0, 1).await.unwrap();
}

#[tokio::test]
async fn a_service_that_fails_to_answer_post_is_asked_with_get() {
    for wrong in [|| Reply::new(500, ""), || Reply::new(501, ""), || Reply::new(200, "<html>")] {
        let service = Double::new(move |seen| match seen.method.as_str() {
            "GET" => Reply::new(200, r#"{"token":"t"}"#),
            _ => wrong(),
        })
        .await;
        let realm = service.url();
        let double = Double::new(move |seen| match seen.header("authorization") {
            Some("Bearer t") => serve(seen),
            _ => Reply::new(401, "").with("www-authenticate", format!("Bearer realm=\"{realm}/t\"")),
        })
        .await;
        read(&open(config(&double)), 0, 1).await.unwrap();
        assert_eq!(service.seen().len(), 2);
    }
}

#[tokio::test]
async fn a_registry_that_has_moved_its_token_service_is_asked_where_to() {
    let old = Double::new(|_| Reply::new(200, r#"{"token":"t","expires_in":1}"#)).await;
    let new = Double::new(|_| Reply::new(200, r#"{"token":"t"}"#)).await;
    let (realms, has_moved) = ([old.url(), new.url()], Arc::new(AtomicBool::new(false)));
    let moved = has_moved.clone();
    let double = Double::new(move |seen| match seen.header("authorization") {
        Some("Bearer t") => serve(seen),
        _ => {
            let realm = &realms[usize::from(moved.load(Ordering::Relaxed))];
            Reply::new(401, "").with("www-authenticate", format!("Bearer realm=\"{realm}/t\""))
        }
    })
    .await;
    let registry = open(config(&double));
    read(&registry, 0, 1).await.unwrap();
    drop(old);
    has_moved.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    // It is found within some seconds, not with each request.
    read(&registry, 0, 1).await.unwrap();
    assert_eq!(new.seen().len(), 1);
}

#[tokio::test]
async fn a_place_that_sent_wrong_bytes_is_not_remembered() {
    let store = Double::new(serve).await;
    let location = format!("http://localhost:{}/store", store.addr.port());
    let registry = Double::new(move |_| Reply::new(307, "").with("location", location.clone())).await;
    let backend = open(config(&registry));
    let request = crate::setup::on_demand();
    for _ in 0..2 {
        backend.read(&blob(), 0, 1, request.clone()).await.unwrap();
    }
    assert_eq!((registry.seen().len(), store.seen().len()), (1, 2), "it is remembered while it is right");
    request.attempts.were_wrong();
    backend.read(&blob(), 0, 1, request).await.unwrap();
    assert_eq!((registry.seen().len(), store.seen().len()), (2, 3));
}

#[tokio::test]
async fn a_fresh_redirect_that_is_refused_is_denied() {
    let store = Double::new(|_| Reply::new(403, "<Code>SignatureDoesNotMatch</Code>")).await;
    let url = store.url();
    let double = Double::new(move |_| {
        Reply::new(307, "").with("location", format!("{url}/x?X-Amz-Signature=hunter2"))
    })
    .await;
    let error = read(&open(config(&double)), 0, 1).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Denied { .. }) && text.contains("SignatureDoesNotMatch"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
    assert_eq!((double.seen().len(), store.seen().len()), (1, 1));
}

#[tokio::test]
async fn proofs_follow_a_redirect_to_the_same_place_only() {
    let elsewhere = Double::new(serve).await;
    let url = elsewhere.url();
    let double = Double::new(move |seen| {
        let is_known = seen.header("authorization").is_some();
        match seen.path() {
            _ if !is_known => Reply::new(401, "").with("www-authenticate", "Basic realm=r"),
            "/inside" => Reply::new(307, "").with("location", format!("{url}/outside")),
            _ => Reply::new(307, "").with("location", "/inside"),
        }
    })
    .await;
    let mut config = RegistryConfig { auth: Some(auth("u", "p")), ..config(&double) };
    config.http.headers.insert("Cookie".to_owned(), Secret::new("session=1"));
    config.http.headers.insert("X-Site".to_owned(), Secret::new("here"));
    read(&open(config), 0, 1).await.unwrap();
    let inside = double.seen().into_iter().find(|seen| seen.path() == "/inside").unwrap();
    assert!(inside.header("authorization").is_some() && inside.header("cookie").is_some());
    let outside = &elsewhere.seen()[0];
    assert_eq!((outside.header("authorization"), outside.header("cookie")), (None, None));
    assert_eq!(outside.header("x-site"), Some("here"));
}

#[tokio::test]
async fn redirects_end() {
    let double = Double::new(|seen| Reply::new(301, "").with("location", format!("{}x", seen.path()))).await;
    let error = read(&open(config(&double)), 0, 1).await.unwrap_err();
    assert!(error.to_string().contains("more than 5 redirects"), "{error}");
    assert_eq!(double.seen().len(), 6);
    for location in ["", "gopher://x/", "http://", "http://%zz/"] {
        let double = Double::new(move |_| Reply::new(307, "").with("location", location)).await;
        let error = read(&open(config(&double)), 0, 1).await.unwrap_err();
        assert!(error.to_string().contains("redirect"), "{location}: {error}");
        assert!(double.seen().len() <= 6);
    }
}

#[tokio::test]
async fn targets_of_redirects_are_rewritten() {
    let store = Double::new(serve).await;
    let double = Double::new(|_| Reply::new(307, "").with("location", "http://nowhere.invalid:1/x?y")).await;
    let config = RegistryConfig { blob_redirected_host: Some(store.host()), ..config(&double) };
    read(&open(config), 0, 1).await.unwrap();
    assert_eq!(store.seen()[0].uri, "/x?y");
}
