use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use blobcache::{BlobCache, CacheOptions, CacheStorage, Executor};
use bytes::Bytes;
use serde_json::json;
use storage::backend::{Backend, BoxFuture, Priority, Request};
use storage::blob::BlobId;
use storage::http::TryOutcome;
use storage::policy::breaker::Phase;
use storage::policy::endpoint::{Health, Role};

use super::*;

const DOCUMENT: &str = include_str!("../../../../docs/observability.md");

/// Four bytes to each reader, from two endpoints.
#[derive(Debug)]
struct Fake;

impl Backend for Fake {
    fn read<'a>(
        &'a self,
        _: &'a BlobId,
        _: u64,
        _: u64,
        _: Request,
    ) -> BoxFuture<'a, storage::Result<Bytes>> {
        Box::pin(async { Ok(Bytes::from_static(b"1234")) })
    }

    fn size<'a>(&'a self, _: &'a BlobId, _: Request) -> BoxFuture<'a, storage::Result<u64>> {
        Box::pin(async { Ok(4) })
    }

    fn endpoints(&self) -> Vec<EndpointStatus> {
        let now = Instant::now();
        let health = Health {
            phase: Phase::Closed,
            open_since: None,
            openings: 0,
            paused_until: None,
            pings: true,
            usable: false,
            in_flight: 2,
            limit: 16,
            waiting: 3,
        };
        let mut tries = [0; TryOutcome::ALL.len()];
        tries[TryOutcome::Throttled as usize] = 7;
        let well = EndpointStatus {
            name: "mirror \"odd\\name\"".to_owned(),
            role: Role::Mirror,
            health,
            tries,
            retries: 1,
            hedges: 2,
            requests: 9,
            received_bytes: 1 << 40,
        };
        let health = Health {
            phase: Phase::HalfOpen,
            open_since: now.checked_sub(Duration::from_secs(5)),
            openings: 3,
            paused_until: now.checked_add(Duration::from_secs(60)),
            ..health
        };
        let ill =
            EndpointStatus { name: "registry h/r".to_owned(), role: Role::Origin, health, ..well.clone() };
        vec![well, ill]
    }
}

async fn sources() -> Sources {
    let backend = Arc::new(Measured::new(Arc::new(Fake)));
    let request = Request::new(Priority::OnDemand, Instant::now() + Duration::from_secs(9));
    let blob = BlobId::new(&"a1".repeat(32)).unwrap();
    backend.read(&blob, 0, 4, request).await.unwrap();
    let options = CacheOptions::new(CacheStorage::None).unwrap();
    let executor = Executor::new(tokio::runtime::Handle::current());
    let cache = BlobCache::open(options, backend.clone(), executor).unwrap();
    let reads = Arc::new(Reads::default());
    let operations = Arc::new(Operations::default());
    operations.tally().read_ready(1, 1, None);
    reads.wait().end(WaitEnding::TimedOut);
    let mount = Mount::new("/", reads, operations, cache, backend);
    let load = Load { requests: 5, bytes: 6, waiting_on_demand: 7, waiting_prefetch: 8 };
    Sources { mounts: vec![mount], load, token_fetches: TokenFetches { given: 1, denied: 2, failed: 3 } }
}

/// Samples by their names, labels and value as they stand there.
fn samples(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit_once(' ').unwrap()).collect()
}

#[tokio::test]
async fn numbers_are_shown_where_they_belong() {
    let text = exposition(sources().await);
    let samples = samples(&text);
    for (sample, value) in [
        (r#"nydusd_token_fetches_total{result="denied"}"#, "2"),
        ("nydusd_requests_in_flight", "5.0"),
        ("nydusd_requests_in_flight_bytes", "6.0"),
        (r#"nydusd_requests_waiting{priority="prefetch"}"#, "8.0"),
        (r#"nydusd_reads_ready_total{mountpoint="/"}"#, "1"),
        (r#"nydusd_reads_waited_total{mountpoint="/",result="timed_out"}"#, "1"),
        (r#"nydusd_reads_waited_total{mountpoint="/",result="data"}"#, "0"),
        (r#"nydusd_read_wait_seconds_count{mountpoint="/"}"#, "1"),
        (r#"nydusd_read_wait_seconds_bucket{le="+Inf",mountpoint="/"}"#, "1"),
        (r#"nydusd_memory_limit_bytes{mountpoint="/"}"#, "67108864.0"),
        (r#"nydusd_memory_used_bytes{mountpoint="/"}"#, "0.0"),
        (r#"nydusd_memory_cache_limit_bytes{mountpoint="/"}"#, "67108864.0"),
        (r#"nydusd_memory_cache_used_bytes{mountpoint="/"}"#, "0.0"),
        (r#"nydusd_backend_reads_total{mountpoint="/",result="success"}"#, "1"),
        (r#"nydusd_backend_read_bytes_total{mountpoint="/"}"#, "4"),
        (r#"nydusd_backend_read_length_bytes_bucket{le="4096.0",mountpoint="/"}"#, "1"),
        (r#"nydusd_backend_read_length_bytes_sum{mountpoint="/"}"#, "4.0"),
    ] {
        assert_eq!(samples.get(sample), Some(&value), "{sample} in\n{text}");
    }
    let origin = r#"mountpoint="/",endpoint="registry h/r",role="origin""#;
    let mirror = r#"mountpoint="/",endpoint="mirror \"odd\\name\"",role="mirror""#;
    for (name, labels, more, value) in [
        ("breaker_state", origin, r#",state="half_open""#, "1.0"),
        ("breaker_state", origin, r#",state="closed""#, "0.0"),
        ("breaker_state", mirror, r#",state="closed""#, "1.0"),
        ("breaker_openings_total", origin, "", "3"),
        ("breaker_open_seconds", mirror, "", "0.0"),
        ("ping_answered", mirror, "", "1.0"),
        ("usable", mirror, "", "0.0"),
        ("tries_in_flight", mirror, "", "2.0"),
        ("tries_limit", mirror, "", "16.0"),
        ("tries_waiting", mirror, "", "3.0"),
        ("tries_total", mirror, r#",outcome="throttled""#, "7"),
        ("tries_total", mirror, r#",outcome="success""#, "0"),
        ("retries_total", mirror, "", "1"),
        ("hedges_total", mirror, "", "2"),
        ("http_requests_total", mirror, "", "9"),
        ("received_bytes_total", mirror, "", "1099511627776"),
    ] {
        let sample = format!("nydusd_endpoint_{name}{{{labels}{more}}}");
        assert_eq!(samples.get(&*sample), Some(&value), "{sample} in\n{text}");
    }
    let number =
        |name: &str| -> f64 { samples[&*format!("nydusd_endpoint_{name}{{{origin}}}")].parse().unwrap() };
    assert!((5.0..30.0).contains(&number("breaker_open_seconds")));
    assert!((30.0..=60.0).contains(&number("paused_seconds")));
}

/// Names, types and labels of all metrics that are exported.
async fn exported() -> Vec<(String, String, String)> {
    let text = exposition(sources().await);
    let families = families::FAMILIES.iter().map(|family| {
        let name = family.full_name();
        let of_family = |line: &&str| {
            let rest = line.strip_prefix(name.as_str());
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']) || rest.starts_with("_count"))
        };
        let sample = text.lines().find(of_family).unwrap_or_else(|| panic!("no sample of {name} in\n{text}"));
        let labels = sample
            .split(',')
            .filter_map(|part| part.rsplit_once('{').map_or(part, |(_, label)| label).split_once("=\""));
        let labels: Vec<_> = labels.map(|(label, _)| label).collect();
        (name.clone(), family.kind().to_owned(), labels.join(", "))
    });
    families.collect()
}

#[tokio::test]
async fn every_metric_is_documented_and_every_documented_metric_is_there() {
    let rows = DOCUMENT.lines().filter_map(|line| line.strip_prefix("| `nydusd_"));
    let documented: Vec<_> = rows
        .map(|row| {
            let cells: Vec<_> = row.split(" | ").map(str::trim).collect();
            let [name, kind, labels, meaning] = cells[..] else { panic!("four cells: {row}") };
            assert!(meaning.len() > 12, "{name} is explained");
            (format!("nydusd_{}", name.trim_end_matches('`')), kind.to_owned(), labels.replace('–', ""))
        })
        .collect();
    let exported = exported().await;
    for metric in &exported {
        assert!(documented.contains(metric), "{metric:?} is exported and not in docs/observability.md");
    }
    for metric in &documented {
        assert!(exported.contains(metric), "{metric:?} is in docs/observability.md and not exported");
    }
    assert_eq!(documented.len(), exported.len(), "each once");
}

#[test]
fn every_metric_is_explained_by_a_sentence() {
    for family in families::FAMILIES {
        let help = family.help;
        let is_sentence =
            help.ends_with('.') && help.starts_with(|c: char| c.is_uppercase() || c.is_numeric());
        assert!(is_sentence && help.len() > 25 && !help.contains('\n'), "{}: {help:?}", family.full_name());
    }
}

#[test]
fn values_of_labels_are_documented() {
    let outcomes = TryOutcome::ALL.map(TryOutcome::name);
    let endings = storage::backend::measured::Ending::ALL.map(|ending| ending.name());
    let waits = WaitEnding::ALL.map(WaitEnding::name);
    let phases = Phase::ALL.map(Phase::name);
    for value in outcomes.iter().chain(&endings).chain(&waits).chain(&phases) {
        assert!(DOCUMENT.contains(&format!("`{value}`")), "{value}");
    }
}

#[tokio::test]
async fn a_mount_without_endpoints_and_no_mount_at_all_are_shown_too() {
    #[derive(Debug)]
    struct Local;
    impl Backend for Local {
        fn read<'a>(
            &'a self,
            _: &'a BlobId,
            _: u64,
            _: u64,
            _: Request,
        ) -> BoxFuture<'a, storage::Result<Bytes>> {
            Box::pin(async { Ok(Bytes::new()) })
        }
        fn size<'a>(&'a self, _: &'a BlobId, _: Request) -> BoxFuture<'a, storage::Result<u64>> {
            Box::pin(async { Ok(0) })
        }
    }
    let mut sources = sources().await;
    let mount = sources.mounts.remove(0);
    let nothing = exposition(Sources { mounts: Vec::new(), ..sources });
    assert!(nothing.contains("# TYPE nydusd_reads_ready counter\n"), "{nothing}");
    assert!(nothing.ends_with("# EOF\n") && !nothing.contains("mountpoint="), "{nothing}");
    let mount =
        Mount::new("/", mount.reads, mount.operations, mount.cache, Arc::new(Measured::new(Arc::new(Local))));
    let local = exposition(Sources { mounts: vec![mount], ..sources });
    assert!(local.contains("mountpoint=") && !local.contains("endpoint="), "{local}");
}

#[tokio::test]
async fn the_backend_is_shown_in_the_shape_of_the_api() {
    let sources = sources().await;
    let mut shown = json::backend("s3", &sources.mounts[0].backend);
    let endpoints = shown.as_object_mut().unwrap().remove("endpoints").unwrap();
    let mut zeros = json!(vec![[0; 8]; 8]);
    // One quick read of fewer than 1024 bytes.
    let class = shown["read_latency_sizes_dist"][0].as_array().unwrap().iter().position(|n| *n == 1).unwrap();
    zeros[0][class] = json!(1);
    let millis = shown["read_cumulative_latency_millis_total"].clone();
    assert_eq!(
        shown,
        json!({
            "backend_type": "oss", "read_count": 1, "read_errors": 0, "read_amount_total": 4,
            "read_cumulative_latency_millis_total": millis,
            "read_cumulative_latency_millis_dist": [millis, 0, 0, 0, 0, 0, 0, 0],
            "read_count_block_size_dist": [1, 0, 0, 0, 0, 0, 0, 0],
            "read_latency_sizes_dist": zeros,
        })
    );
    assert_eq!(endpoints[0]["breaker"], "closed");
    assert_eq!(endpoints[0]["breaker_open_millis"], json!(null));
    assert_eq!(endpoints[0]["tries"], json!({"throttled": 7}));
    assert_eq!((&endpoints[1]["breaker"], &endpoints[1]["role"]), (&json!("half_open"), &json!("origin")));
    assert!(endpoints[1]["breaker_open_millis"].as_u64().unwrap() >= 5000);
}
