//! Slow reads explain themselves: a collector gets the tree of spans of each, and nothing of fast ones.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashSet;
use std::time::Duration;

use nix::sys::signal::Signal;
use nydus_tests::collector::{Collector, Span};
use nydus_tests::config::with_key;
use nydus_tests::daemon::{Daemon, Scratch};
use nydus_tests::fixtures::Image;
use nydus_tests::registry::{AUTH, Registry};
use nydus_tests::require_mounts;
use nydus_tests::stall_fs::StallFs;
use serde_json::json;

/// How long the backend keeps a reader waiting.
const WAIT: Duration = Duration::from_millis(600);
const THRESHOLD_MS: u64 = 300;

fn start(scratch: &Scratch, image: &Image, blobs: &StallFs, collector: &Collector) -> Daemon {
    let mut config = scratch.config(image);
    config.blobs = blobs.path().to_owned();
    let tracing = json!({"endpoint": collector.endpoint(), "threshold_ms": THRESHOLD_MS, "headers": {"x-token": "hunter2"}});
    let text = with_key(&config.to_value(), "tracing", tracing).to_string();
    scratch.launch_text(&image.bootstrap(), &text).start()
}

/// The children of a span.
fn children<'a>(spans: &'a [Span], parent: &Span) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.trace == parent.trace && span.parent == parent.id).collect()
}

/// How much of `whole` the spans cover together, from 0 to 1.
fn covered(whole: &Span, parts: &[&Span]) -> f64 {
    let mut times: Vec<(u64, u64)> = parts.iter().map(|span| span.time).collect();
    times.sort_unstable();
    let (mut sum, mut reached) = (0, whole.time.0);
    for (from, to) in times {
        sum += to.saturating_sub(from.max(reached));
        reached = reached.max(to);
    }
    sum as f64 / (whole.time.1 - whole.time.0) as f64
}

#[test]
fn a_slow_read_is_told_span_by_span_and_a_fast_one_not_at_all() {
    require_mounts!();
    let (scratch, image, collector) = (Scratch::new(), Image::named("v6-zstd"), Collector::start());
    let blobs = StallFs::serve(&image.blobs());
    let daemon = start(&scratch, &image, &blobs, &collector);
    // Fast: what is read here comes at once.
    std::fs::read(daemon.mountpoint().join("etc/services")).unwrap();

    let path = daemon.mountpoint().join("exact1m1");
    let stall = blobs.stall();
    let reader = std::thread::spawn(move || std::fs::read(path).unwrap().len());
    daemon.wait_for("the backend to be asked", || stall.held() > 0);
    std::thread::sleep(WAIT);
    drop(stall);
    assert!(reader.join().unwrap() > 1 << 20);
    let output = daemon.stop(Signal::SIGTERM);

    let spans = collector.spans();
    let mount = spans.iter().find(|span| span.name == "mount").expect("a span of the mount");
    let reads: Vec<&Span> = spans.iter().filter(|span| span.name == "read").collect();
    assert!(!reads.is_empty(), "{spans:?}");
    for read in &reads {
        let took = Duration::from_nanos(read.time.1 - read.time.0);
        assert!(took >= Duration::from_millis(THRESHOLD_MS), "{took:?}: faster than the threshold");
        assert_eq!(read.links, std::slice::from_ref(&mount.id));
        assert!(read.parent.is_empty() && !read.failed);
        let parts = children(&spans, read);
        for part in &parts {
            let inside = part.time.0 >= read.time.0 && part.time.1 <= read.time.1;
            assert!(inside, "{part:?} is not inside {read:?}");
        }
        let share = covered(read, &parts);
        let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
        assert!(share >= 0.95, "{names:?} cover {share:.3} of {took:?}");
    }
    let all: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    for name in ["queue", "fetch", "decode", "verify", "write"] {
        assert!(all.contains(&name), "no {name} in {all:?}");
    }
    let fetch = spans.iter().find(|span| span.name == "fetch").unwrap();
    assert_eq!(fetch.attributes["nydus.blob"].len(), 64);
    assert_eq!(collector.resource("service.name").as_deref(), Some("nydusd"));
    assert!(collector.saw_header("x-token: hunter2"));
    assert!(!output.stderr.contains("hunter2"), "{}", output.stderr);
}

#[test]
fn every_request_to_a_backend_names_the_span_that_waits_for_it() {
    require_mounts!();
    let (scratch, image, collector) = (Scratch::new(), Image::named("v6-zstd"), Collector::start());
    let registry = Registry::new(&image.blobs());
    let mut config = scratch.config(&image).to_value();
    let place = json!({"scheme": "http", "host": registry.host(), "repo": "library/test", "auth": AUTH});
    config["backend"] = json!({"type": "registry", "registry": place});
    config["tracing"] = json!({"endpoint": collector.endpoint(), "threshold_ms": 0});
    let daemon = scratch.launch_text(&image.bootstrap(), &config.to_string()).start();
    image.manifest().assert_tree(daemon.mountpoint(), "traced");
    daemon.stop(Signal::SIGTERM);
    let hex = |bytes: &[u8]| nydus_tests::manifest::hex(bytes);
    let known: HashSet<String> = collector
        .spans()
        .iter()
        .map(|span| format!("00-{}-{}-01", hex(&span.trace), hex(&span.id)))
        .collect();
    let parents = registry.traceparents();
    assert!(parents.len() > 2, "{parents:?}");
    for parent in parents {
        let parent = parent.expect("a request without traceparent");
        assert!(known.contains(&parent), "{parent} is no span that was sent");
    }
}

#[test]
fn a_collector_that_is_not_there_costs_no_read() {
    require_mounts!();
    let (scratch, image) = (Scratch::new(), Image::named("v6-zstd"));
    let mut config = scratch.config(&image);
    config.blobs = image.blobs();
    let tracing = json!({"endpoint": "http://127.0.0.1:9", "threshold_ms": 0});
    let text = with_key(&config.to_value(), "tracing", tracing).to_string();
    let daemon = scratch.launch_text(&image.bootstrap(), &text).start();
    image.manifest().assert_tree(daemon.mountpoint(), "without a collector");
    daemon.stop(Signal::SIGTERM);
}

#[test]
fn what_is_not_supported_is_refused_before_anything_is_mounted() {
    require_mounts!();
    let (scratch, image) = (Scratch::new(), Image::named("v6-zstd"));
    let launch = scratch.launch(&image.bootstrap(), &scratch.config(&image));
    let refusal = launch
        .environment("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
        .environment("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        .refused();
    refusal.assert_explained(&["OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf"]);
}
