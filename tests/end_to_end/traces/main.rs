//! Slow reads explain themselves: a collector gets the tree of spans of each, and nothing of fast ones.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use nydus_tests::collector::{Collector, Span};
use nydus_tests::config::{Caching, Config, with_key};
use nydus_tests::daemon::{Daemon, Scratch};
use nydus_tests::fixtures::Image;
use nydus_tests::registry::{AUTH, Registry};
use nydus_tests::stall_fs::StallFs;
use nydus_tests::{readers, require_mounts};
use serde_json::{Value, json};

mod slow_registry;
mod tree;

use slow_registry::SlowRegistry;
use tree::{Tree, took};

/// How long the backend keeps a reader waiting.
const WAIT: Duration = Duration::from_millis(600);
const THRESHOLD_MS: u64 = 300;

fn start(scratch: &Scratch, cache: &Path, image: &Image, blobs: &StallFs, collector: &Collector) -> Daemon {
    // No read brings what the next one is to wait for.
    let config = Config { amplify_io: Some(0), ..Config::new(blobs.path(), cache) }.to_value();
    let tracing = json!({"endpoint": collector.endpoint(), "threshold_ms": THRESHOLD_MS, "headers": {"x-token": "hunter2"}});
    let text = with_key(&config, "tracing", tracing).to_string();
    scratch.launch_text(&image.bootstrap(), &text).start()
}

/// The configuration of `image`, read from a registry of this kind, traced from `threshold_ms` on.
fn config(
    scratch: &Scratch,
    image: &Image,
    registry: Value,
    collector: &Collector,
    threshold_ms: u64,
) -> String {
    let mut config = scratch.config(image).to_value();
    config["backend"] = json!({"type": "registry", "registry": registry});
    config["tracing"] = json!({"endpoint": collector.endpoint(), "threshold_ms": threshold_ms});
    config.to_string()
}

#[test]
fn a_slow_read_is_told_span_by_span_and_a_fast_one_not_at_all() {
    require_mounts!();
    let (scratch, image, collector) = (Scratch::new(), Image::named("v6-zstd"), Collector::start());
    let blobs = StallFs::serve(&image.blobs());
    let daemon = start(&scratch, &scratch.cache(), &image, &blobs, &collector);
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

    let tree = Tree(collector.spans());
    let mount = tree.named("mount").pop().expect("a span of the mount");
    let reads = tree.named("read");
    assert!(!reads.is_empty(), "{:?}", tree.0);
    for read in &reads {
        assert!(took(read) >= Duration::from_millis(THRESHOLD_MS), "{read:?}: faster than the threshold");
        assert_eq!(read.links, std::slice::from_ref(&mount.id));
        assert!(read.parent.is_empty() && !read.failed);
        tree.assert_nested(read);
        tree.assert_covered(read);
    }
    for name in ["queue", "fetch", "decode", "verify", "write"] {
        assert!(!tree.named(name).is_empty(), "no {name} in {:?}", tree.0);
    }
    let fetch = tree.named("fetch").pop().unwrap();
    assert_eq!(fetch.attributes["nydus.blob"].len(), 64);
    assert_eq!(fetch.attributes["nydus.backend"], "localfs");
    assert_eq!(collector.resource("service.name").as_deref(), Some("nydusd"));
    assert!(collector.saw_header("x-token: hunter2"));
    assert!(!output.stderr.contains("hunter2"), "{}", output.stderr);
}

/// The kinds and outcomes of all requests of HTTP in the trace of `read`.
fn requests<'a>(tree: &'a Tree, read: &Span) -> Vec<(&'a str, &'a str)> {
    let requests = tree.0.iter().filter(|span| span.trace == read.trace && span.is_client);
    let status = |span: &'a Span| span.attributes.get("http.response.status_code").map_or("", String::as_str);
    requests.map(|span| (span.name.as_str(), status(span))).collect()
}

#[test]
fn a_slow_read_of_a_registry_is_told_down_to_its_connections() {
    require_mounts!();
    let (scratch, image, collector) = (Scratch::new(), Image::named("v6-zstd"), Collector::start());
    let registry = SlowRegistry::new(&image.blobs());
    let place = json!({"scheme": "https", "host": registry.host(), "repo": "library/test", "auth": AUTH,
        "ca_cert_files": [registry.ca_file()]});
    let text = config(&scratch, &image, place, &collector, THRESHOLD_MS);
    let daemon = scratch.launch_text(&image.bootstrap(), &text).start();
    assert!(std::fs::read(daemon.mountpoint().join("exact1m1")).unwrap().len() > 1 << 20);
    daemon.stop(Signal::SIGTERM);

    let tree = Tree(collector.spans());
    let reads = tree.named("read");
    for read in &reads {
        tree.assert_nested(read);
    }
    // One waits for everything: a table, a token, three places. Others may wait for its table.
    let is_first = |read: &Span| tree.0.iter().any(|span| span.trace == read.trace && span.name == "token");
    let first = reads.iter().find(|read| is_first(read)).expect("a read that waited for the token");
    println!("{:?}: {:?}", took(first), requests(&tree, first));
    tree.assert_covered(first);
    let of_first: Vec<&Span> = tree.0.iter().filter(|span| span.trace == first.trace).collect();
    for span in &of_first {
        if ["metadata", "fetch", "attempt", "token"].contains(&span.name.as_str()) {
            tree.assert_covered(span);
        }
    }
    for name in [
        "metadata", "fetch", "attempt", "token", "GET", "POST", "connect", "queue", "decode", "verify",
        "write",
    ] {
        assert!(of_first.iter().any(|span| span.name == name), "no {name} in {of_first:?}");
    }
    // What came along with what was asked for is one span, not three for each chunk.
    let decodes = of_first.iter().filter(|span| span.name == "decode").count();
    assert!(decodes < 10 && of_first.iter().any(|span| span.name == "neighbours"), "{of_first:?}");
    let requests = requests(&tree, first);
    for request in [("GET", "503"), ("GET", "401"), ("POST", "200"), ("GET", "307"), ("GET", "206")] {
        assert!(requests.contains(&request), "no {request:?} in {requests:?}");
    }
    let with = |key: &str, value: &str| {
        of_first.iter().any(|span| span.attributes.get(key).is_some_and(|found| found == value))
    };
    for (key, value) in [
        ("error.type", "server_error"),
        ("error.type", "503"),
        ("server.address", "127.0.0.1"),
        ("server.address", "localhost"),
        ("server.port", registry.host().rsplit(':').next().unwrap()),
        ("http.request.resend_count", "3"),
        ("network.protocol.version", "1.1"),
        ("nydus.source", "origin"),
        ("nydus.retries", "2"),
        ("nydus.breaker", "closed"),
        ("nydus.priority", "on_demand"),
        ("nydus.reason", "backoff"),
        ("nydus.reason", "retry"),
    ] {
        assert!(with(key, value), "no {key}={value} in {of_first:?}");
    }
    let connects =
        of_first.iter().filter(|span| span.name == "connect" && took(span) >= Duration::from_millis(140));
    assert!(connects.count() >= 3, "{of_first:?}");
    let told = format!("{:?}", tree.0);
    assert!(!told.contains("hunter2") && !told.contains(AUTH), "{told}");

    // The token service and the store, too, are told whose requests they serve.
    let seen = registry.seen();
    for part in ["/v2/", "/token", "/store/"] {
        let mut requests = seen.iter().filter(|seen| seen.path.starts_with(part)).peekable();
        assert!(requests.peek().is_some(), "no request for {part}: {seen:?}");
        assert!(requests.all(|seen| seen.traceparent.is_some()), "{seen:?}");
    }
}

#[test]
fn a_read_that_fails_is_told_however_fast() {
    require_mounts!();
    let (scratch, image, collector) = (Scratch::new(), Image::named("v6-zstd"), Collector::start());
    let registry = Registry::new(&scratch.path("no-blobs"));
    let place = json!({"scheme": "http", "host": registry.host(), "repo": "library/test", "auth": AUTH});
    let text = config(&scratch, &image, place, &collector, 3_600_000);
    let daemon = scratch.launch_text(&image.bootstrap(), &text).start();
    std::fs::read(daemon.mountpoint().join("etc/services")).unwrap_err();
    daemon.stop(Signal::SIGTERM);
    let tree = Tree(collector.spans());
    let read = tree.named("read").pop().expect("the read that failed");
    assert!(read.failed && read.attributes["error.type"] == "not_found", "{read:?}");
    tree.assert_nested(read);
    let attempt = tree.named("attempt").pop().unwrap();
    assert_eq!(attempt.attributes["error.type"], "not_found");
}

#[test]
fn a_read_whose_reader_is_killed_says_so() {
    require_mounts!();
    let (scratch, image, collector) = (Scratch::new(), Image::named("v6-zstd"), Collector::start());
    let blobs = StallFs::serve(&image.blobs());
    let daemon = start(&scratch, &scratch.cache(), &image, &blobs, &collector);
    let stall = blobs.stall();
    let file = daemon.mountpoint().join("etc/services");
    // Past the page cache, whose own reads nobody interrupts.
    let mut reader = Command::new("dd")
        .args([format!("if={}", file.display()).as_str(), "of=/dev/null", "bs=4096", "iflag=direct"])
        .spawn()
        .unwrap();
    daemon.wait_for("the backend to be asked", || stall.held() > 0);
    std::thread::sleep(WAIT);
    reader.kill().unwrap();
    reader.wait().unwrap();
    drop(stall);
    daemon.stop(Signal::SIGTERM);
    let tree = Tree(collector.spans());
    let read = tree.named("read").into_iter().find(|read| read.attributes.contains_key("nydus.interrupted"));
    let read = read.unwrap_or_else(|| panic!("no interrupted read: {:?}", tree.0));
    tree.assert_nested(read);
    assert!(!read.failed, "{read:?}");
}

#[test]
fn readers_who_wait_for_others_say_so() {
    require_mounts!();
    let (image, [ours, theirs]) = (Image::named("v6-zstd"), [Scratch::new(), Scratch::new()]);
    let collectors = [Collector::start(), Collector::start()];
    let blobs = StallFs::serve(&image.blobs());
    let daemons = [(&ours, &collectors[0]), (&theirs, &collectors[1])]
        .map(|(scratch, collector)| start(scratch, &ours.cache(), &image, &blobs, collector));
    let stall = blobs.stall();
    let read = |daemon: &Daemon| {
        let path = daemon.mountpoint().join("exact1m1");
        std::thread::spawn(move || readers::read_at(&readers::open_direct(&path).unwrap(), 0, 4096).unwrap())
    };
    let mut reads = vec![read(&daemons[0])];
    daemons[0].wait_for("the backend to be asked", || stall.held() > 0);
    reads.extend([read(&daemons[0]), read(&daemons[1])]);
    for (daemon, readers) in daemons.iter().zip([2.0, 1.0]) {
        daemon.wait_for("they wait", || daemon.exposition().sum("nydusd_reads_waiting", &[]) >= readers);
    }
    std::thread::sleep(WAIT);
    drop(stall);
    for read in reads {
        read.join().unwrap();
    }
    for (daemon, (collector, name)) in daemons.into_iter().zip(collectors.iter().zip(["wait", "peer"])) {
        daemon.stop(Signal::SIGTERM);
        let tree = Tree(collector.spans());
        let waits = tree.named(name);
        let wait = waits.first().unwrap_or_else(|| panic!("no {name}: {:?}", tree.0));
        let read = tree.named("read").into_iter().find(|read| read.id == wait.parent).unwrap();
        tree.assert_nested(read);
        tree.assert_covered(read);
    }
}

#[test]
fn a_read_of_encoded_chunks_in_the_cache_is_told_as_one() {
    require_mounts!();
    let (scratch, image) = (Scratch::new(), Image::named("v6-zstd"));
    for is_cached in [false, true] {
        let collector = Collector::start();
        let mut config = scratch.config(&image);
        config.caching = Caching::Compressed;
        let tracing = json!({"endpoint": collector.endpoint(), "threshold_ms": 0});
        let text = with_key(&config.to_value(), "tracing", tracing).to_string();
        let daemon = scratch.launch_text(&image.bootstrap(), &text).start();
        image.manifest().assert_tree(daemon.mountpoint(), "read twice");
        daemon.stop(Signal::SIGTERM);
        let tree = Tree(collector.spans());
        for read in tree.named("read") {
            tree.assert_nested(read);
        }
        let of_cache = tree.named("cache");
        assert!(!is_cached || !of_cache.is_empty(), "{:?}", tree.0);
        assert!(of_cache.iter().all(|span| span.attributes["nydus.source"] == "cache"), "{of_cache:?}");
    }
}

#[test]
fn a_read_of_the_cache_is_not_told() {
    require_mounts!();
    let (scratch, image) = (Scratch::new(), Image::named("v6-zstd"));
    let registry = Registry::new(&image.blobs());
    let place = json!({"scheme": "http", "host": registry.host(), "repo": "library/test", "auth": AUTH});
    for is_cached in [false, true] {
        let collector = Collector::start();
        let text = config(&scratch, &image, place.clone(), &collector, 0);
        let daemon = scratch.launch_text(&image.bootstrap(), &text).start();
        image.manifest().assert_tree(daemon.mountpoint(), "read twice");
        daemon.stop(Signal::SIGTERM);
        let tree = Tree(collector.spans());
        assert_eq!(tree.named("mount").len(), 1);
        assert_eq!(tree.named("read").is_empty(), is_cached, "{:?}", tree.0);
        assert!(!is_cached || tree.0.len() == 1, "{:?}", tree.0);
    }
}

#[test]
fn every_request_to_a_backend_names_the_span_that_waits_for_it() {
    require_mounts!();
    let (scratch, image, collector) = (Scratch::new(), Image::named("v6-zstd"), Collector::start());
    let registry = Registry::new(&image.blobs());
    let place = json!({"scheme": "http", "host": registry.host(), "repo": "library/test", "auth": AUTH});
    let text = config(&scratch, &image, place, &collector, 0);
    let daemon = scratch.launch_text(&image.bootstrap(), &text).start();
    image.manifest().assert_tree(daemon.mountpoint(), "traced");
    daemon.stop(Signal::SIGTERM);
    let hex = |bytes: &[u8]| nydus_tests::manifest::hex(bytes);
    let known: HashSet<String> = collector
        .spans()
        .iter()
        .filter(|span| span.is_client)
        .map(|span| format!("00-{}-{}-01", hex(&span.trace), hex(&span.id)))
        .collect();
    let parents = registry.traceparents();
    assert!(parents.len() > 2, "{parents:?}");
    for parent in parents {
        let parent = parent.expect("a request without traceparent");
        assert!(known.contains(&parent), "{parent} is no request that was told");
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
