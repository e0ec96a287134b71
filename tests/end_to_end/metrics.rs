//! What a daemon counts is what its registry saw; breakers are seen while an outage lasts; credentials are exchanged while
//! images are mounted; and nothing secret is shown.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod requests;

use std::fs;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nydus_tests::config::with_key;
use nydus_tests::daemon::{Daemon, Scratch};
use nydus_tests::exposition::Exposition;
use nydus_tests::fixtures::Image;
use nydus_tests::registry::{AUTH, Registry};
use nydus_tests::require_mounts;
use nydus_tests::stall_fs::StallFs;
use serde_json::{Value, json};

/// `u:hunter2`.
const NEW_AUTH: &str = "dTpodW50ZXIy";
const REFUSED: &str = "Configure(ResponsePayloadType)";

fn config(scratch: &Scratch, image: &Image, host: &str) -> Value {
    let registry = json!({ "scheme": "http", "host": host, "repo": "library/test", "auth": AUTH });
    let mut config = scratch.config(image).to_value();
    config["backend"] = json!({ "type": "registry", "registry": registry });
    config
}

fn start(scratch: &Scratch, image: &Image, config: &Value) -> Daemon {
    scratch.launch_text(&image.bootstrap(), &config.to_string()).option("--rlimit-nofile", "0").start()
}

fn sum(of: &Exposition, name: &str, labels: &[(&str, &str)]) -> u64 {
    of.sum(name, labels) as u64
}

/// `GET /api/v1/metrics/backend`.
fn backend(daemon: &Daemon) -> Value {
    let answer = daemon.api("/api/v1/metrics/backend?id=/");
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

#[test]
fn counts_are_what_the_registry_saw() {
    require_mounts!();
    let (image, scratch) = (Image::named("v6-zstd"), Scratch::new());
    let registry = Registry::new(&image.blobs());
    let daemon = start(&scratch, &image, &config(&scratch, &image, &registry.host()));
    image.manifest().assert_tree(daemon.mountpoint(), "counted");

    let seen = daemon.exposition();
    let name = format!("registry {}/library/test", registry.host());
    let origin = [("endpoint", &*name), ("role", "origin"), ("mountpoint", "/")];
    assert_eq!(sum(&seen, "nydusd_endpoint_http_requests_total", &origin), registry.requests() as u64);
    assert_eq!(sum(&seen, "nydusd_endpoint_received_bytes_total", &origin), registry.sent_bytes());
    assert_eq!(sum(&seen, "nydusd_backend_read_bytes_total", &[]), registry.sent_bytes());
    let tries = sum(&seen, "nydusd_endpoint_tries_total", &origin);
    let successes = sum(&seen, "nydusd_endpoint_tries_total", &[("outcome", "success")]);
    assert_eq!((tries, tries), (successes, sum(&seen, "nydusd_backend_reads_total", &[])), "nothing failed");
    assert_eq!(sum(&seen, "nydusd_backend_reads_total", &[("result", "success")]), tries);
    assert_eq!(sum(&seen, "nydusd_endpoint_breaker_state", &[("state", "closed")]), 1);
    assert_eq!(sum(&seen, "nydusd_endpoint_breaker_state", &origin), 1, "one state at a time");
    for quiet in [
        "nydusd_endpoint_retries_total",
        "nydusd_endpoint_hedges_total",
        "nydusd_endpoint_breaker_openings_total",
        "nydusd_endpoint_tries_in_flight",
        "nydusd_backend_reads_in_flight",
        "nydusd_requests_in_flight",
        "nydusd_chunk_mismatches_total",
        "nydusd_cache_errors_total",
        "nydusd_reads_waiting",
    ] {
        assert_eq!(sum(&seen, quiet, &[]), 0, "{quiet}");
    }
    // What was read by containers, and by whom they waited.
    let cache = daemon.cache_metrics();
    let served = |source| sum(&seen, "nydusd_served_bytes_total", &[("source", source)]);
    assert_eq!(json!(served("fetch")), cache["bytes_from_fetch"]);
    assert!(served("fetch") > 0 && served("cache") > 0, "{cache}");
    let waited = sum(&seen, "nydusd_reads_waited_total", &[("result", "data")]);
    assert!(waited > 0 && waited == sum(&seen, "nydusd_read_wait_seconds_count", &[]));
    assert_eq!(sum(&seen, "nydusd_reads_waited_total", &[]), waited);
    assert!(sum(&seen, "nydusd_reads_ready_total", &[]) > 0);

    // The API of the reference implementation tells the same.
    let told = backend(&daemon);
    assert_eq!(told["backend_type"], "registry");
    assert_eq!((&told["read_count"], &told["read_errors"]), (&json!(tries), &json!(0)));
    assert_eq!(told["read_amount_total"], json!(registry.sent_bytes()));
    let total = |dist: &Value| dist.as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum::<u64>();
    assert_eq!(total(&told["read_count_block_size_dist"]), tries);
    let matrix = told["read_latency_sizes_dist"].as_array().unwrap();
    assert_eq!((matrix.len(), matrix.iter().map(total).sum::<u64>()), (8, tries));
    assert_eq!(told["endpoints"][0]["name"], json!(name));
    assert_eq!(told["endpoints"][0]["breaker"], "closed");
    assert_eq!(daemon.api("/api/v1/metrics/backend").body["read_count"], told["read_count"]);
    let missing = daemon.api("/api/v1/metrics/backend?id=/other");
    assert_eq!(
        (missing.status, &missing.body["message"]),
        (404, &json!("BackendMetrics(Metrics(Stats(NoCounter)))"))
    );

    // A second reading of what is cached asks nobody.
    image.manifest().assert_tree(daemon.mountpoint(), "again");
    let again = daemon.exposition();
    assert_eq!(sum(&again, "nydusd_endpoint_http_requests_total", &origin), registry.requests() as u64);
    assert_eq!(sum(&again, "nydusd_backend_reads_total", &[]), tries);
    daemon.unmount();
}

#[test]
fn no_label_has_values_without_a_bound_and_nothing_secret_is_shown() {
    require_mounts!();
    let (image, scratch) = (Image::named("v6-zstd"), Scratch::new());
    let registry = Registry::new(&image.blobs());
    let mut config = config(&scratch, &image, &registry.host());
    let mirror = json!({
        "host": format!("http://user:secret-mirror@{}", registry.host()),
        "headers": { "X-Key": "secret-header" },
        "ping_url": format!("http://{}/ping?key=secret-ping", registry.host()),
    });
    config["backend"]["registry"]["mirrors"] = json!([mirror]);
    let daemon = start(&scratch, &image, &config);
    image.manifest().assert_tree(daemon.mountpoint(), "through a mirror");
    assert_eq!(daemon.put("/api/v1/config", &json!({ "registry_auth": NEW_AUTH })).status, 204);
    let seen = daemon.exposition();
    assert_eq!(seen.matching("nydusd_endpoint_tries_limit", &[("role", "mirror")]).count(), 1);
    let labels: Vec<_> = seen.label_names().into_iter().collect();
    let expected = [
        "commit",
        "endpoint",
        "le",
        "mountpoint",
        "operation",
        "outcome",
        "priority",
        "result",
        "role",
        "source",
        "state",
        "version",
    ];
    assert_eq!(labels, expected);
    let socket = scratch.path("api.sock");
    let mut shown = format!("{seen:?}");
    for page in ["/metrics", "/api/v1/metrics/backend", "/api/v1/config", "/api/v1/daemon"] {
        shown += &nydus_tests::api::try_get_text(&socket, page).unwrap().1;
    }
    shown += &daemon.stop(Signal::SIGTERM).stderr;
    for secret in [AUTH, NEW_AUTH, "secret-", "signature="] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
    for blob in image.blob_files() {
        let metrics = format!("{seen:?}");
        assert!(!metrics.contains(blob.file_name().unwrap().to_str().unwrap()), "{metrics}");
    }
}

#[test]
fn an_outage_is_seen_in_metrics_and_log_while_it_lasts() {
    require_mounts!();
    let (image, scratch) = (Image::named("v6-zstd"), Scratch::new());
    let registry = Registry::new(&image.blobs());
    let daemon = start(&scratch, &image, &config(&scratch, &image, &registry.host()));
    let addr = registry.addr();
    drop(registry);
    let path = daemon.mountpoint().join("exact1m1");
    let reader = std::thread::spawn(move || fs::read(path).unwrap().len());
    daemon.wait_for("the breaker is open", || {
        let seen = daemon.exposition();
        sum(&seen, "nydusd_endpoint_breaker_state", &[("state", "open")])
            + sum(&seen, "nydusd_endpoint_breaker_state", &[("state", "half_open")])
            == 1
    });
    let during = daemon.exposition();
    assert_eq!(sum(&during, "nydusd_endpoint_breaker_state", &[("state", "closed")]), 0);
    assert_eq!(sum(&during, "nydusd_endpoint_breaker_openings_total", &[]), 1);
    assert!(sum(&during, "nydusd_endpoint_tries_total", &[("outcome", "connect")]) >= 6);
    assert!(sum(&during, "nydusd_endpoint_retries_total", &[]) >= 5);
    assert!(
        sum(&during, "nydusd_reads_waiting", &[]) >= 1
            && sum(&during, "nydusd_backend_reads_in_flight", &[]) >= 1
    );
    assert!(during.sum("nydusd_read_oldest_wait_seconds", &[]) > 0.0);
    let told = &backend(&daemon)["endpoints"][0];
    assert!(["open", "half_open"].contains(&told["breaker"].as_str().unwrap()), "{told}");
    assert!(told["breaker_open_millis"].is_u64(), "{told}");
    daemon.wait_for("the log tells of it", || daemon.stderr().contains("circuit breaker open"));
    let log = daemon.stderr();
    let opened: Vec<_> = log.lines().filter(|line| line.contains("circuit breaker open")).collect();
    let [line] = opened[..] else { panic!("one line of it:\n{log}") };
    assert!(line.contains("WARN") && line.contains(&addr.to_string()), "{line}");
    assert!(line.to_ascii_lowercase().contains("refused"), "why: {line}");

    let _back = Registry::at(addr, &image.blobs());
    assert!(reader.join().unwrap() > 1 << 20);
    let after = daemon.exposition();
    assert_eq!(sum(&after, "nydusd_endpoint_breaker_state", &[("state", "closed")]), 1);
    assert_eq!(after.sum("nydusd_endpoint_breaker_open_seconds", &[]), 0.0);
    assert_eq!(sum(&after, "nydusd_reads_waiting", &[]), 0);
    let stopped = daemon.stop(Signal::SIGTERM);
    let count = |text| stopped.stderr.lines().filter(|line| line.contains(text)).count();
    assert_eq!(
        (count("circuit breaker open"), count("circuit breaker closed")),
        (1, 1),
        "{}",
        stopped.stderr
    );
}

#[test]
fn the_oldest_read_that_waits_is_known_by_its_age() {
    require_mounts!();
    let (image, scratch) = (Image::named("v6-zstd"), Scratch::new());
    let blobs = StallFs::serve(&image.blobs());
    let mut config = scratch.config(&image);
    config.blobs = blobs.path().to_owned();
    let daemon = scratch.launch(&image.bootstrap(), &config).start();
    assert_eq!(daemon.exposition().sum("nydusd_read_oldest_wait_seconds", &[]), 0.0);
    let stall = blobs.stall();
    let path = daemon.mountpoint().join("exact1m1");
    let reader = std::thread::spawn(move || fs::read(path).unwrap().len());
    daemon.wait_for("the backend to be asked", || stall.held() > 0);
    std::thread::sleep(Duration::from_millis(300));
    let seen = daemon.exposition();
    assert!((0.3..10.0).contains(&seen.sum("nydusd_read_oldest_wait_seconds", &[])));
    assert!(sum(&seen, "nydusd_memory_used_bytes", &[]) > 0, "bytes in flight");
    assert_eq!(seen.matching("nydusd_endpoint_tries_total", &[]).count(), 0, "local files have no endpoints");
    drop(stall);
    assert!(reader.join().unwrap() > 1 << 20);
    let seen = daemon.exposition();
    assert_eq!(seen.sum("nydusd_read_oldest_wait_seconds", &[]), 0.0);
    assert!(seen.sum("nydusd_read_wait_seconds_sum", &[]) >= 0.3);
    daemon.wait_for("all is written", || sum(&daemon.exposition(), "nydusd_memory_used_bytes", &[]) == 0);
    daemon.unmount();
}

#[test]
fn credentials_are_exchanged_while_the_image_is_mounted() {
    require_mounts!();
    let (image, scratch) = (Image::named("v6-zstd"), Scratch::new());
    let registry = Registry::new(&image.blobs());
    let mut config = config(&scratch, &image, &registry.host());
    // What one read fetches beside its own chunk would not be asked for by the next.
    config["rafs"]["batch_size"] = json!(0);
    let daemon = start(&scratch, &image, &config);
    let read = |name: &str| fs::read(daemon.mountpoint().join(name)).map(|content| content.len());
    read("etc/services").unwrap();
    assert_eq!(daemon.api("/api/v1/config?id=/").body, json!({}));

    registry.change_auth(NEW_AUTH);
    let denied = |when: &str| {
        let error = read("exact1m1").expect_err(when);
        assert_eq!(error.raw_os_error(), Some(Errno::EIO as i32), "{when}: {error}");
    };
    denied("the password has changed");
    // What cannot be used is refused and changes nothing.
    for body in [
        json!({ "registry_auth": "hunter2" }),
        json!({ "registry_auth": "aHVudGVyMg==" }),
        json!({ "registry_auth": "" }),
        json!({ "registry_auth": "hunter2", "dragonfly_scheduler_endpoint": "http://127.0.0.1:1" }),
        json!({ "registry_auth": NEW_AUTH, "colour": "blue" }),
    ] {
        let answer = daemon.put("/api/v1/config?id=/", &body);
        assert_eq!((answer.status, &answer.body["message"]), (500, &json!(REFUSED)), "{body}");
    }
    let elsewhere = daemon.put("/api/v1/config?id=/other", &json!({ "registry_auth": NEW_AUTH }));
    assert_eq!((elsewhere.status, &elsewhere.body["message"]), (500, &json!(REFUSED)));
    denied("nothing was changed");
    assert_eq!(daemon.api("/api/v1/config").body, json!({}));

    assert_eq!(daemon.put("/api/v1/config?id=/", &json!({ "registry_auth": NEW_AUTH })).status, 204);
    assert!(read("exact1m1").unwrap() > 1 << 20);
    image.manifest().assert_tree(daemon.mountpoint(), "with the new password");
    assert_eq!(daemon.api("/api/v1/config?id=/").body, json!({ "registry_auth": "***" }));
    assert_eq!(daemon.api("/api/v1/config").body, json!({ "/:registry_auth": "***" }));
    let seen = daemon.exposition();
    assert!(sum(&seen, "nydusd_endpoint_tries_total", &[("outcome", "denied")]) >= 2);
    assert!(sum(&seen, "nydusd_reads_waited_total", &[("result", "failed")]) >= 2);
    let stopped = daemon.stop(Signal::SIGTERM);
    for refused in
        ["proxy_url", "dragonfly_scheduler_endpoint", "colour", "base64 of user:password", "/other"]
    {
        assert!(stopped.stderr.contains(refused), "{refused} is refused by name:\n{}", stopped.stderr);
    }
    for secret in [AUTH, NEW_AUTH, "hunter2", "aHVudGVyMg=="] {
        assert!(!stopped.stderr.contains(secret), "{secret}:\n{}", stopped.stderr);
    }
}

#[test]
fn settings_that_mean_nothing_are_accepted_and_told_of() {
    require_mounts!();
    let (image, scratch) = (Image::named("v6-zstd"), Scratch::new());
    let text = with_key(&scratch.config(&image).to_value(), "id", json!("any")).to_string();
    let daemon = scratch.launch_text(&image.bootstrap(), &text).start();
    let all = json!({
        "registry_auth": NEW_AUTH, "proxy_url": "http://u:hunter2@p", "dragonfly_scheduler_endpoint": "http://s",
    });
    assert_eq!(daemon.put("/api/v1/config?id=%2F", &all).status, 204);
    let masked = json!({ "registry_auth": "***", "proxy_url": "***", "dragonfly_scheduler_endpoint": "***" });
    assert_eq!(daemon.api("/api/v1/config?id=%2F").body, masked);
    let answer = daemon.put("/api/v1/config?id=/", &json!({ "colour": "blue" }));
    assert_eq!((answer.status, &answer.body["message"]), (500, &json!(REFUSED)));
    assert_eq!(backend(&daemon)["backend_type"], "localfs");
    assert_eq!(backend(&daemon)["endpoints"], json!([]));
    let log = daemon.stop(Signal::SIGTERM).stderr;
    for key in ["registry_auth", "proxy_url", "dragonfly_scheduler_endpoint"] {
        assert!(log.contains(&format!("WARN {key} has no effect: ")), "{key}:\n{log}");
    }
    assert!(!log.contains("hunter2") && !log.contains(NEW_AUTH), "{log}");
}
