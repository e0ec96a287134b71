//! What traces tell of a read: each request, each pause, each connection, inside of what waits for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use storage::backend::http_proxy::{HttpProxy, HttpProxyConfig};
use storage::backend::registry::RegistryConfig;
use storage::backend::traced::Traced;
use storage::backend::{Backend, Request};
use storage::http::Commons;
use storage::secret::SecretUrl;
use storage::trace::TARGET;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tracing::{Instrument as _, info_span};

use crate::double::{Double, Reply, Seen};
use crate::proxies::{mirror, with_mirrors};
use crate::recorder::{Recorder, Told};
use crate::setup::{auth, blob, config, content, on_demand, open, within};
use crate::tls::{Authority, https};

const SIZE: usize = 1000;
/// What may lie between the parts of a read on a machine that does other things too.
const GAPS: Duration = Duration::from_millis(20);

fn serve(seen: &Seen) -> Reply {
    Reply::range(&content(SIZE), seen)
}

fn traced(backend: impl Backend + 'static) -> Traced {
    Traced::new(Arc::new(backend), "registry")
}

/// A read of the first bytes, as part of a trace.
async fn read(backend: &Traced, request: Request) -> storage::Result<usize> {
    let span = info_span!(target: TARGET, parent: None, "read");
    backend.read(&blob(), 0, 10, request).instrument(span).await.map(|bytes| bytes.len())
}

fn names(spans: &[Told]) -> Vec<&str> {
    spans.iter().map(|span| span.name.as_str()).collect()
}

#[tokio::test]
async fn a_read_is_told_from_its_retries_to_its_connections() {
    let (recorder, _guard) = Recorder::start();
    let service = Double::new(|_| Reply::new(200, r#"{"token":"t"}"#).after(Duration::from_millis(20))).await;
    let store = Double::new(|seen| serve(seen).after(Duration::from_millis(20))).await;
    let (realm, location) = (service.url(), format!("{}/signed?secret-signature", store.url()));
    let failures = AtomicUsize::new(0);
    let origin = Double::new(move |seen| match seen.header("authorization") {
        _ if failures.fetch_add(1, Ordering::Relaxed) < 2 => Reply::new(503, ""),
        None => Reply::new(401, "").with("www-authenticate", format!(r#"Bearer realm="{realm}/token""#)),
        Some(_) => Reply::new(307, "").with("location", location.clone()),
    })
    .await;
    let gone = mirror(&Double::new(serve).await);
    let secret =
        RegistryConfig { auth: Some(auth("u", "secret-password")), ..with_mirrors(&origin, vec![gone]) };
    assert_eq!(read(&traced(open(secret)), on_demand()).await.unwrap(), 10);

    let read = recorder.named("read").remove(0);
    recorder.check(&read, GAPS);
    let fetch = recorder.children(&read).remove(0);
    assert_eq!(fetch.name, "fetch");
    for (field, value) in [
        ("nydus.backend", "registry"),
        ("nydus.priority", "on_demand"),
        ("nydus.offset", "0"),
        ("nydus.len", "10"),
        ("nydus.source", "origin"),
    ] {
        assert_eq!(fetch.field(field), Some(value), "{field}: {fetch:?}");
    }
    recorder.check(&fetch, GAPS);
    let parts = recorder.children(&fetch);
    let attempts: Vec<&Told> = parts.iter().filter(|part| part.name == "attempt").collect();
    assert_eq!(fetch.field("nydus.retries"), Some((attempts.len() - 1).to_string().as_str()));
    for (number, attempt) in (1..).zip(&attempts) {
        assert_eq!(attempt.field("nydus.attempt"), Some(number.to_string().as_str()));
    }
    assert!(attempts.iter().all(|attempt| attempt.field("nydus.breaker").is_some()));
    // The mirror is asked first each time, and is never there.
    let (of_mirror, of_origin): (Vec<&Told>, Vec<&Told>) =
        attempts.iter().partition(|attempt| attempt.field("nydus.source") == Some("mirror"));
    assert!(
        !of_mirror.is_empty()
            && of_mirror.iter().all(|attempt| attempt.field("error.type") == Some("connect"))
    );
    let errors: Vec<_> = of_origin.iter().map(|attempt| attempt.field("error.type")).collect();
    assert_eq!(errors, [Some("server_error"), Some("server_error"), None]);
    let pauses: Vec<_> = parts.iter().filter(|part| part.name == "queue").collect();
    // The mirror is soon suspect; the origin is given a moment.
    let reasons: Vec<_> = pauses.iter().filter_map(|pause| pause.field("nydus.reason")).collect();
    assert!(
        !reasons.is_empty() && reasons.iter().all(|why| ["backoff", "outage"].contains(why)),
        "{reasons:?}"
    );

    let last = recorder.children(of_origin[2]);
    assert_eq!(names(&last), ["request", "token", "request", "request"]);
    let statuses: Vec<_> = last.iter().map(|part| part.field("http.response.status_code")).collect();
    assert_eq!(statuses, [Some("401"), None, Some("307"), Some("206")]);
    let resends: Vec<_> = last.iter().map(|part| part.field("http.request.resend_count")).collect();
    let before = attempts.len() - 1;
    let expected = [before, before + 1, before + 2].map(|count| Some(count.to_string()));
    assert_eq!([resends[0], resends[2], resends[3]].map(|count| count.map(str::to_owned)), expected);
    assert_eq!(last[0].field("error.type"), Some("401"));
    assert_eq!(last[2].field("server.port"), Some(origin.addr.port().to_string().as_str()));
    assert!(last[2].field("url.path").unwrap().starts_with("/v2/library/test/blobs/"));
    // Where others led us is told as far as the place.
    assert_eq!(
        (last[3].field("server.port"), last[3].field("url.path")),
        (Some(store.addr.port().to_string().as_str()), None)
    );
    let asked = recorder.children(&last[1]);
    assert_eq!(names(&asked), ["request"]);
    assert_eq!(asked[0].field("http.request.method"), Some("POST"));

    // Of the origin's connection the first request tells, and nobody else.
    let connects =
        |of: &Told| names(&recorder.children(of)).into_iter().map(str::to_owned).collect::<Vec<_>>();
    let mirrored = recorder.children(of_mirror[0]);
    assert_eq!(connects(&mirrored[0]), ["connect"]);
    assert_eq!(recorder.children(&mirrored[0])[0].field("error.type"), Some("connect"));
    assert_eq!(connects(&recorder.children(of_origin[0])[0]), ["connect"]);
    assert_eq!([&last[0], &last[2]].map(connects), [[""; 0]; 2]);
    assert_eq!([&last[3], &asked[0]].map(connects), [["connect"], ["connect"]]);
    let printed = format!("{:?}", recorder.all());
    assert!(!printed.contains("secret-"), "{printed}");
}

#[tokio::test]
async fn a_request_that_is_overtaken_ends_in_the_trace_and_not_for_the_policy() {
    let (recorder, _guard) = Recorder::start();
    let asked = AtomicUsize::new(0);
    let ill = Double::new(move |_| match asked.fetch_add(1, Ordering::Relaxed) {
        // Two failures make it suspect; the third request is the trial.
        0..2 => Reply::new(500, ""),
        _ => Reply::silence(),
    })
    .await;
    let origin = Double::new(|seen| match seen.path() {
        "/ping" => Reply::new(200, ""),
        _ => serve(seen).after(Duration::from_millis(50)),
    })
    .await;
    let mut mirror = mirror(&ill);
    mirror.ping_url = Some(storage::secret::SecretUrl::new(format!("{}/ping", origin.url())));
    let backend = traced(open(with_mirrors(&origin, vec![mirror])));
    for _ in 0..3 {
        read(&backend, within(Duration::from_secs(10))).await.unwrap();
    }
    let is_trial = |span: &Told| span.field("nydus.breaker") == Some("suspect");
    let (read, fetch, attempts) = recorder
        .named("read")
        .into_iter()
        .map(|read| (recorder.children(&read).remove(0), read))
        .map(|(fetch, read)| (read, recorder.children(&fetch), fetch))
        .find_map(|(read, attempts, fetch)| attempts.iter().any(is_trial).then_some((read, fetch, attempts)))
        .expect("a read with a trial");
    recorder.check(&read, GAPS);
    recorder.check(&fetch, GAPS);
    let [.., trial, hedge] = &attempts[..] else { panic!("{attempts:?}") };
    assert_eq!(
        (trial.field("nydus.source"), trial.field("nydus.breaker")),
        (Some("mirror"), Some("suspect"))
    );
    assert_eq!(hedge.field("nydus.reason"), Some("hedge"));
    assert_eq!((trial.field("nydus.overtaken"), hedge.field("nydus.overtaken")), (Some("true"), None));
    // It was waited for until the other one had answered.
    assert!(trial.left >= hedge.left, "{trial:?} {hedge:?}");
    let request = recorder.children(trial).remove(0);
    assert_eq!(request.field("nydus.overtaken"), Some("true"));
    assert_eq!(fetch.field("nydus.source"), Some("origin"));
}

/// Hands connections on to `to`; the n-th (from 0) after `delay(n)`.
async fn relay(to: SocketAddr, delay: fn(usize) -> Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for number in 0.. {
            let (mut from, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                tokio::time::sleep(delay(number)).await;
                let mut to = TcpStream::connect(to).await.unwrap();
                let _ = copy_bidirectional(&mut from, &mut to).await;
            });
        }
    });
    addr
}

#[tokio::test]
async fn a_connection_that_comes_too_late_does_not_keep_the_trace_waiting() {
    let (recorder, _guard) = Recorder::start();
    let authority = Authority::new();
    let double = Double::tls(authority.acceptor("127.0.0.1", false), |seen| {
        serve(seen).after(Duration::from_millis(100))
    })
    .await;
    const LATE: Duration = Duration::from_secs(20);
    let addr = relay(double.addr, |number| if number == 0 { Duration::from_millis(200) } else { LATE }).await;
    let mut http = https(&double, Some(&authority)).http;
    http.timeout = Some(LATE + Duration::from_secs(10));
    http.connect_timeout = http.timeout;
    // Not a registry: there the first request goes alone.
    let server =
        HttpProxyConfig { addr: SecretUrl::new(format!("https://{addr}")), path: String::new(), http };
    let backend = traced(HttpProxy::new(server, &Commons::new()).unwrap());
    let began = Instant::now();
    // Both begin a connection; the first one that is there speaks HTTP/2 and takes both.
    let (first, second) = tokio::join!(read(&backend, on_demand()), read(&backend, on_demand()));
    assert_eq!((first.unwrap(), second.unwrap()), (10, 10));
    assert!(began.elapsed() < LATE, "{:?}", began.elapsed());
    for read in recorder.named("read") {
        recorder.check(&read, GAPS);
    }
    let connects = recorder.named("connect");
    let mut overtaken: Vec<_> = connects.iter().map(|span| span.field("nydus.overtaken")).collect();
    overtaken.sort();
    assert_eq!(overtaken, [None, Some("true")], "{connects:?}");
    for connect in &connects {
        let took = connect.left.unwrap() - connect.began;
        assert!(took >= Duration::from_millis(180) && took < LATE, "{took:?}: {connect:?}");
    }
}

#[tokio::test]
async fn a_read_that_is_given_up_says_what_it_was_waiting_for() {
    let (recorder, _guard) = Recorder::start();
    let double = Double::new(|_| Reply::silence()).await;
    let backend = traced(open(config(&double)));
    let given_up = tokio::time::timeout(Duration::from_millis(200), read(&backend, on_demand())).await;
    assert!(given_up.is_err());
    recorder.check(&recorder.named("read")[0], GAPS);
    let request = &recorder.named("request")[0];
    assert_eq!(request.field("error.type"), Some("abandoned"), "{request:?}");
    assert!(request.left.unwrap() - request.began >= Duration::from_millis(180), "{request:?}");
}

#[tokio::test]
async fn what_nobody_waits_for_is_told_nowhere() {
    let (recorder, _guard) = Recorder::start();
    let double = Double::new(serve).await;
    let backend = traced(open(with_mirrors(&double, vec![mirror(&double)])));
    // No trace is under way.
    backend.read(&blob(), 0, 10, on_demand()).await.unwrap();
    while double.count("ping") == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(recorder.all().is_empty(), "{:?}", recorder.all());
}
