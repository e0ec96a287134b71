//! Ranges, bodies and failures: what every backend that speaks HTTP makes of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use storage::Error;
use storage::backend::{Arrivals, Backend, Priority, Request};
use storage::http::HttpOptions;

use crate::double::{Cut, Double, Reply, Seen};
use crate::setup::{blob, config, content, on_demand, open, read, within};

const SIZE: usize = 300_000;

/// A server whose n-th answer, from 0, is that of `answer`.
async fn server(answer: impl Fn(usize, &Seen) -> Reply + Send + Sync + 'static) -> Double {
    let count = AtomicUsize::new(0);
    Double::new(move |seen| answer(count.fetch_add(1, Ordering::Relaxed), seen)).await
}

/// Impatient, so that tests of patience are short.
fn impatient(double: &Double) -> storage::backend::registry::RegistryConfig {
    let timeout = Some(Duration::from_secs(1));
    let http = HttpOptions { timeout, connect_timeout: timeout, ..HttpOptions::default() };
    storage::backend::registry::RegistryConfig { http, ..config(double) }
}

#[tokio::test]
async fn a_whole_object_instead_of_a_range_is_skipped_through() {
    let content = Arc::new(content(SIZE));
    let whole = content.clone();
    let double = server(move |_, _| Reply::new(200, whole.to_vec())).await;
    let registry = open(config(&double));
    assert_eq!(read(&registry, 200_000, 1000).await.unwrap(), content[200_000..201_000]);
    assert_eq!(registry.size(&blob(), on_demand()).await.unwrap(), SIZE as u64);
    let beyond = read(&registry, 299_999, 2).await.unwrap_err();
    assert!(matches!(beyond, Error::Corrupt { .. }), "{beyond}");
}

#[tokio::test]
async fn too_much_to_skip_is_one_clear_error() {
    let double = server(|_, _| Reply::new(200, vec![7; (16 << 20) + 100])).await;
    let registry = open(config(&double));
    assert_eq!(read(&registry, 16 << 20, 3).await.unwrap(), [7; 3]);
    let error = read(&registry, (16 << 20) + 1, 3).await.unwrap_err();
    assert!(
        matches!(error, Error::Invalid { .. }) && error.to_string().contains("ignores ranges"),
        "{error}"
    );
    assert_eq!(double.seen().len(), 2);
}

#[tokio::test]
async fn another_range_than_asked_for_is_an_error_at_once() {
    for wrong in
        ["bytes 1-10/300000", "bytes 0-10/300000", "bytes 0-9/9", "items 0-9/300000", "bytes 0-/1", ""]
    {
        let double = server(move |_, _| Reply::new(206, vec![0; 10]).with("content-range", wrong)).await;
        let error = read(&open(config(&double)), 0, 10).await.unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{wrong}: {error}");
        assert_eq!(double.seen().len(), 1, "{wrong}");
    }
}

#[tokio::test]
async fn encoded_bytes_are_refused() {
    let double = server(|_, seen| Reply::range(&content(SIZE), seen).with("content-encoding", "gzip")).await;
    let error = read(&open(config(&double)), 0, 10).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }) && error.to_string().contains("gzip"), "{error}");
    assert_eq!(double.seen()[0].header("accept-encoding"), Some("identity"));
}

#[tokio::test]
async fn a_body_that_breaks_is_resumed_where_it_broke() {
    for cut in [Cut::Reset, Cut::End, Cut::Stall] {
        let content = Arc::new(content(SIZE));
        let whole = content.clone();
        let double = server(move |number, seen| {
            let reply = Reply::range(&whole, seen);
            match number {
                0 => reply.cut(100_000, cut),
                1 => reply.cut(50_000, cut),
                _ => reply,
            }
        })
        .await;
        let registry = open(impatient(&double));
        assert!(read(&registry, 1000, 250_000).await.unwrap() == content[1000..251_000]);
        let ranges: Vec<_> = double.seen().iter().map(Seen::range).collect();
        assert_eq!(ranges, [(1000, 250_999), (101_000, 250_999), (151_000, 250_999)]);
    }
}

#[tokio::test]
async fn what_comes_is_told_before_all_has_come_and_once() {
    let content = Arc::new(content(SIZE));
    let whole = content.clone();
    let double = server(move |number, seen| {
        let reply = Reply::range(&whole, seen);
        if number == 0 { reply.cut(100_000, Cut::Stall) } else { reply }
    })
    .await;
    let registry = open(impatient(&double));
    let (arrivals, mut pieces) = Arrivals::new();
    let request = Request { arrivals: Some(arrivals), ..on_demand() };
    let mut told = Vec::new();
    let listen = async {
        while let Some((at, piece)) = pieces.recv().await {
            assert_eq!(at, 1000 + told.len() as u64);
            told.extend_from_slice(&piece);
            if told.len() == 100_000 {
                assert_eq!(double.seen().len(), 1, "the rest is not asked for yet");
            }
        }
    };
    let id = blob();
    let (read, ()) = tokio::join!(registry.read(&id, 1000, 250_000, request), listen);
    assert!(read.unwrap() == content[1000..251_000] && told == content[1000..251_000]);
    assert_eq!(double.seen().len(), 2);
}

#[tokio::test]
async fn less_than_asked_for_is_completed() {
    let content = Arc::new(content(SIZE));
    let whole = content.clone();
    let double = server(move |_, seen| {
        let (first, last) = seen.range();
        let last = last.min(first + 99);
        Reply::new(206, whole[first as usize..=last as usize].to_vec())
            .with("content-range", format!("bytes {first}-{last}/{SIZE}"))
    })
    .await;
    let mut config = config(&double);
    // It is no failure: no tries are spent, and no breaker opens.
    config.http.retry_limit = 1;
    let registry = open(config);
    assert_eq!(read(&registry, 10, 250).await.unwrap(), content[10..260]);
    assert_eq!(double.seen().len(), 3);
    assert_eq!(read(&registry, 0, 5000).await.unwrap(), content[..5000]);
    assert_eq!(registry.endpoints()[0].health.openings, 0);
}

#[tokio::test]
async fn crumbs_are_not_waited_for_without_end() {
    let double = server(move |_, seen| {
        let (first, _) = seen.range();
        Reply::new(206, vec![0]).with("content-range", format!("bytes {first}-{first}/{SIZE}"))
    })
    .await;
    let mut config = config(&double);
    config.http.retry_limit = 1;
    let error = read(&open(config), 0, SIZE as u64).await.unwrap_err();
    assert!(error.to_string().contains("in pieces"), "{error}");
}

#[tokio::test]
async fn bytes_of_two_versions_never_mix() {
    let double = server(|number, seen| {
        let size = if number == 0 { SIZE } else { SIZE + 1 };
        let reply = Reply::range(&vec![number.min(1) as u8; size], seen);
        if number == 0 { reply.cut(10, Cut::Reset) } else { reply }
    })
    .await;
    assert_eq!(read(&open(config(&double)), 0, 100).await.unwrap(), [1; 100]);
    let ranges: Vec<_> = double.seen().iter().map(Seen::range).collect();
    assert_eq!(ranges, [(0, 99), (10, 99), (0, 99)], "all of it is asked for again");
}

#[tokio::test]
async fn what_passes_is_tried_again() {
    for status in [500, 502, 503, 504, 408] {
        let double = server(move |number, seen| match number {
            0 | 1 => Reply::new(status, "sorry"),
            _ => Reply::range(&content(SIZE), seen),
        })
        .await;
        assert_eq!(read(&open(config(&double)), 5, 10).await.unwrap(), content(SIZE)[5..15], "{status}");
        assert_eq!(double.seen().len(), 3, "{status}");
    }
}

#[tokio::test]
async fn what_cannot_be_mended_is_not_tried_again() {
    for (status, body) in
        [(403, "<Code>Expired</Code>"), (404, ""), (410, ""), (400, ""), (405, ""), (416, "")]
    {
        let double = server(move |_, _| Reply::new(status, body)).await;
        let error = read(&open(config(&double)), 0, 10).await.unwrap_err();
        let fits = match status {
            403 => matches!(error, Error::Denied { .. }) && error.to_string().contains("(Expired)"),
            404 | 410 => matches!(error, Error::NotFound { .. }),
            416 => matches!(error, Error::Corrupt { .. }),
            _ => {
                matches!(error, Error::Unavailable { .. }) && error.to_string().contains(&status.to_string())
            }
        };
        assert!(fits, "{status}: {error}");
        assert_eq!(double.seen().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn a_throttled_client_waits_as_long_as_it_is_told() {
    // The server's clock is years behind ours.
    let date = "Wed, 21 Oct 2015 07:28:00 GMT";
    for (status, wait) in [(429, "1"), (503, "1"), (429, "Wed, 21 Oct 2015 07:28:01 GMT")] {
        let double = server(move |number, seen| match number {
            0 => Reply::new(status, "").with("retry-after", wait).with("date", date),
            _ => Reply::range(&content(SIZE), seen),
        })
        .await;
        let start = Instant::now();
        read(&open(config(&double)), 0, 10).await.unwrap();
        assert!(start.elapsed() >= Duration::from_secs(1), "{status}: {:?}", start.elapsed());
        assert_eq!(double.seen().len(), 2);
    }
}

#[tokio::test]
async fn too_much_is_answered_with_less() {
    for status in [429, 503] {
        let double = server(move |number, seen| match number {
            0 => Reply::new(status, "<Code>SlowDown</Code>"),
            _ => Reply::range(&content(SIZE), seen),
        })
        .await;
        let registry = open(config(&double));
        let before = registry.endpoints()[0].health.limit;
        read(&registry, 0, 10).await.unwrap();
        assert_eq!(registry.endpoints()[0].health.limit, before / 2, "{status}");
    }
}

#[tokio::test]
async fn an_error_is_told_before_its_body_has_dripped_in() {
    let double = server(|_, _| Reply::new(404, vec![b' '; 1000]).cut(10, Cut::Stall)).await;
    let mut config = config(&double);
    config.http.timeout = Some(Duration::from_secs(60));
    let start = Instant::now();
    let error = read(&open(config), 0, 10).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_signature_of_another_time_is_told_with_the_difference() {
    let double = server(|_, _| {
        Reply::new(403, "<Code>RequestTimeTooSkewed</Code>").with("date", "Wed, 21 Oct 2015 07:28:00 GMT")
    })
    .await;
    let error = read(&open(config(&double)), 0, 10).await.unwrap_err().to_string();
    assert!(error.contains("RequestTimeTooSkewed") && error.contains("s ahead of the server's"), "{error}");
}

#[tokio::test]
async fn hostile_heads_do_no_harm() {
    let long = "a".repeat(300_000);
    let many = "Bearer realm=\"http://x/\",".repeat(300);
    let replies: [(u16, &'static str, String); 8] = [
        (503, "retry-after", "18446744073709551615".to_owned()),
        (429, "retry-after", "Thu, 21 Oct 9999 07:28:00 GMT".to_owned()),
        (206, "content-range", format!("bytes 0-9/{}", u64::MAX)),
        (206, "content-range", "bytes 0-18446744073709551615/*".to_owned()),
        (307, "location", format!("http://127.0.0.1:1/{long}")),
        (401, "www-authenticate", many),
        (401, "www-authenticate", "Bearer realm=\"\\\"".to_owned()),
        (404, "x-long", long),
    ];
    for (status, name, value) in replies {
        let shown = format!("{status} {name} {:.40}", value);
        let double = server(move |_, _| Reply::new(status, vec![0; 10]).with(name, value.clone())).await;
        let mut config = config(&double);
        config.http.retry_limit = 1;
        let registry = open(config);
        let start = Instant::now();
        let result = registry.read(&blob(), 0, 10, within(Duration::from_millis(1500))).await;
        // Only the size that nobody can check is believed.
        assert_eq!(result.is_ok(), shown.contains("0-9/"), "{shown}: {result:?}");
        assert!(start.elapsed() < Duration::from_secs(10), "{shown}");
        assert!(!format!("{registry:?}").contains("aaaaaaaa"), "{shown}: it is kept");
    }
}

#[tokio::test]
async fn what_comes_beyond_the_range_is_not_taken() {
    // Promised and sent: a megabyte instead of ten bytes.
    let double =
        server(|_, _| Reply::new(206, vec![7; 1 << 20]).with("content-range", format!("bytes 0-9/{SIZE}")))
            .await;
    assert_eq!(read(&open(config(&double)), 0, 10).await.unwrap(), [7; 10]);
}

#[tokio::test]
async fn tries_are_limited() {
    let double = server(|_, _| Reply::new(500, "")).await;
    let mut config = config(&double);
    config.http.retry_limit = 2;
    let error = read(&open(config), 0, 10).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }) && error.to_string().contains("500"), "{error}");
    assert_eq!(double.seen().len(), 3);
}

#[tokio::test]
async fn a_read_ends_at_its_deadline_whatever_hangs() {
    let silent = server(|_, _| Reply::silence()).await;
    let stalling = server(|_, seen| Reply::range(&content(SIZE), seen).cut(10, Cut::Stall)).await;
    let failing = server(|_, _| Reply::new(503, "<Code>SlowDown</Code>")).await;
    let gone = server(|_, _| Reply::silence()).await;
    let configs = [config(&silent), config(&stalling), config(&failing), config(&gone)];
    drop(gone);
    for (config, said) in configs.into_iter().zip(["no answer", "stood still", "SlowDown", "refused"]) {
        let registry = open(config);
        let start = Instant::now();
        let error = registry.read(&blob(), 0, 100, within(Duration::from_secs(2))).await.unwrap_err();
        let took = start.elapsed();
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
        assert!(error.to_string().contains(said), "{said}: {error}");
        // Its requests have 5 s.
        assert!((1950..4500).contains(&took.as_millis()), "{said}: {took:?}");
    }
}

#[tokio::test]
async fn a_server_that_comes_back_is_found() {
    // Trials come every 1.7 s: a machine that stands still for a moment is too late for one of them.
    let mut found = Vec::new();
    while found.last().is_none_or(|took| *took >= Duration::from_secs(2)) {
        assert!(found.len() < 3, "{found:?}");
        found.push(come_back().await);
    }
}

/// How long it takes until a server that comes back has served those who waited.
async fn come_back() -> Duration {
    let gone = server(|_, _| Reply::silence()).await;
    let (registry, addr) = (Arc::new(open(impatient(&gone))), gone.addr);
    drop(gone);
    let reads: Vec<_> = (0..20)
        .map(|number| {
            let registry = registry.clone();
            tokio::spawn(async move { read(&*registry, number, 10).await.unwrap() })
        })
        .collect();
    // Long enough for the breaker to open.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let back = Instant::now();
    let _double = Double::at(addr, |seen| Reply::range(&content(SIZE), seen)).await;
    for (number, read) in reads.into_iter().enumerate() {
        assert_eq!(read.await.unwrap(), content(SIZE)[number..number + 10]);
    }
    back.elapsed()
}

#[tokio::test]
async fn a_connection_that_hangs_is_not_used_again() {
    // The first connection never answers; one that is opened later does.
    let double = server(|number, seen| match number {
        0 => Reply::silence(),
        _ => Reply::range(&content(SIZE), seen),
    })
    .await;
    read(&open(impatient(&double)), 0, 10).await.unwrap();
    assert_eq!(double.connections(), 2);
}

#[tokio::test]
async fn silence_is_not_taken_for_connecting() {
    let is_silent = Arc::new(AtomicBool::new(false));
    let silent = is_silent.clone();
    let double = server(move |_, seen| match silent.load(Ordering::Relaxed) {
        false => Reply::range(&content(SIZE), seen),
        true => Reply::silence(),
    })
    .await;
    let mut config = impatient(&double);
    config.http.connect_timeout = Some(Duration::from_secs(20));
    config.http.retry_limit = 1;
    let registry = open(config);
    read(&registry, 0, 10).await.unwrap();
    is_silent.store(true, Ordering::Relaxed);
    let start = Instant::now();
    let error = read(&registry, 0, 10).await.unwrap_err();
    assert!(error.to_string().contains("no answer for"), "{error}");
    let [.., good, over_the_same, over_another] = &double.seen()[..] else { panic!("{:?}", double.seen()) };
    assert_eq!(over_the_same.connection, good.connection);
    assert_ne!(over_another.connection, good.connection);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[tokio::test]
async fn abandoned_reads_give_their_place_back() {
    let double = server(|number, seen| match number {
        0..200 => Reply::range(&content(SIZE), seen).cut(10, Cut::Stall),
        _ => Reply::range(&content(SIZE), seen),
    })
    .await;
    let registry = open(config(&double));
    for _ in 0..200 {
        let id = blob();
        let read = registry.read(&id, 0, 100, on_demand());
        let started = async {
            let before = double.seen().len();
            while double.seen().len() == before {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            _ = read => panic!("a stalled read has ended"),
            () = started => {}
        }
    }
    assert!(
        registry.endpoints().iter().all(|endpoint| endpoint.health.in_flight == 0),
        "{:?}",
        registry.endpoints()
    );
    read(&registry, 0, 10).await.unwrap();
}

#[tokio::test]
async fn requests_at_once_are_bounded() {
    let double = server(|_, seen| Reply::range(&content(SIZE), seen).after(Duration::from_millis(20))).await;
    let registry = Arc::new(open(config(&double)));
    let reads: Vec<_> = (0..300)
        .map(|number| {
            let registry = registry.clone();
            let priority = if number % 2 == 0 { Priority::OnDemand } else { Priority::Prefetch };
            tokio::spawn(async move {
                let request = Request { priority, ..on_demand() };
                registry.read(&blob(), number, 10, request).await.map(drop)
            })
        })
        .collect();
    for read in reads {
        read.await.unwrap().unwrap();
    }
    // More than requests: one may be opened while another becomes free, the more often the busier the machine is.
    assert!(double.connections() <= 100, "{} connections", double.connections());
}

#[tokio::test]
async fn prefetch_has_a_bandwidth_and_readers_have_none() {
    let double = server(|_, seen| Reply::range(&content(SIZE), seen)).await;
    let mut config = config(&double);
    config.http.prefetch_bandwidth = 10_000;
    let registry = open(config);
    let prefetch = Request { priority: Priority::Prefetch, ..on_demand() };
    let start = Instant::now();
    for _ in 0..4 {
        registry.read(&blob(), 0, 1000, prefetch.clone()).await.unwrap();
    }
    let took = start.elapsed();
    // The first two come at once, each of the others after a tenth of a second.
    assert!(took >= Duration::from_millis(190), "{took:?}");
    // A large one uses up the next seconds.
    registry.read(&blob(), 0, 100_000, prefetch.clone()).await.unwrap();
    let start = Instant::now();
    registry.read(&blob(), 0, 1000, on_demand()).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let hopeless = Request { deadline: Instant::now() + Duration::from_secs(1), ..prefetch };
    let error = registry.read(&blob(), 0, 1000, hopeless).await.unwrap_err();
    assert!(error.to_string().contains("put off"), "{error}");
}

#[tokio::test]
async fn the_size_stands_beside_the_first_byte() {
    let double = server(|_, seen| Reply::range(&content(SIZE), seen)).await;
    assert_eq!(open(config(&double)).size(&blob(), on_demand()).await.unwrap(), SIZE as u64);
    let empty = server(|_, seen| Reply::range(&[], seen)).await;
    assert_eq!(open(config(&empty)).size(&blob(), on_demand()).await.unwrap(), 0);
    let secretive = server(|_, _| Reply::new(206, "x").with("content-range", "bytes 0-0/*")).await;
    let error = open(config(&secretive)).size(&blob(), on_demand()).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
}
