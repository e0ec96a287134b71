//! What a read costs whose data is in the cache: no span, no allocation, and with traces on no instruction more.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use nydus_tests::allocation::{CountingAllocator, count_of};
use nydus_tests::collector::Collector;
use nydus_tests::config::{Config, with_key};
use nydus_tests::daemon::Scratch;
use nydus_tests::fixtures::Image;
use nydus_tests::in_process::Opened;
use nydus_tests::telemetry::Telemetry;
use nydus_tests::{readers, require_mounts, require_tools};
use serde_json::json;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// More than one megabyte, in several chunks.
const FILE: &str = "exact1m1";
/// Bytes of one READ, as the kernel's readahead asks for them.
const READ_BYTES: u64 = 128 << 10;
/// How many READs two runs of the daemon answer.
const COUNTS: (u64, u64) = (200, 1200);

fn image() -> Image {
    Image::named("v6-zstd")
}

/// The image opened, its cache holding the file.
fn cached(scratch: &Scratch) -> Opened {
    let image = image();
    let config = Config::new(&image.blobs(), &scratch.cache());
    let opened = Opened::open(&image.bootstrap(), &config).unwrap();
    assert!(opened.read(Path::new(FILE)).unwrap().len() > 1 << 20);
    opened.close();
    Opened::open(&image.bootstrap(), &config).unwrap()
}

/// Reads the file as a transport does, and answers how often that allocated.
fn allocations(opened: &Opened) -> usize {
    let ino = opened.find(Path::new(FILE)).unwrap();
    let size = opened.filesystem().attributes(ino).unwrap().size;
    let mut buffer = vec![0; READ_BYTES as usize];
    count_of(|| {
        for offset in (0..size).step_by(READ_BYTES as usize) {
            let read = opened.filesystem().read_ready(ino, offset, &mut buffer).unwrap();
            assert!(read.is_some_and(|len| len > 0), "offset {offset} is not in the cache");
        }
    })
}

/// The only test that reads in this process: it starts traces for all of it.
#[test]
fn a_cached_read_makes_no_span_and_no_allocation() {
    let (scratch, collector) = (Scratch::new(), Collector::start());
    let opened = cached(&scratch);
    assert_eq!(allocations(&opened), 0, "without traces");
    assert!(count_of(|| drop(opened.read(Path::new(FILE)).unwrap())) > 0, "the counter counts");
    let telemetry = Telemetry::start(Some(&collector.endpoint()));
    let scratch = Scratch::new();
    let opened = cached(&scratch);
    let filled = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    assert_eq!(allocations(&opened), 0, "with traces");
    drop(telemetry);
    let spans = collector.spans();
    assert!(spans.iter().any(|span| span.name == "read"), "what filled the cache is told: {spans:?}");
    let late: Vec<_> = spans.iter().filter(|span| span.time.0 >= filled).collect();
    assert!(late.is_empty(), "{late:?}");
}

#[test]
fn a_cached_read_takes_no_more_instructions_with_traces_on() {
    require_mounts!();
    require_tools!("valgrind");
    let (scratch, collector) = (Scratch::new(), Collector::start());
    let config = Config::new(&image().blobs(), &scratch.cache()).to_value();
    let tracing = json!({"endpoint": collector.endpoint(), "threshold_ms": 0});
    let traced = with_key(&config, "tracing", tracing);
    // Fills the cache.
    let daemon = scratch.launch_text(&image().bootstrap(), &config.to_string()).start();
    std::fs::read(daemon.mountpoint().join(FILE)).unwrap();
    daemon.stop(Signal::SIGTERM);
    let [off, on] = [config, traced].map(|config| {
        // What both runs have in common, such as mounting, does not count.
        let [some, more] =
            [COUNTS.0, COUNTS.1].map(|count| instructions(&scratch, &config.to_string(), count));
        assert!(some > 0 && more > some, "{some} and {more} instructions");
        (more - some) as f64 / (COUNTS.1 - COUNTS.0) as f64
    });
    println!("a cached READ of 128 KiB: {off:.0} instructions without traces, {on:.0} with");
    assert!(on <= off * 1.02, "{off:.0} instructions without traces, {on:.0} with");
    let spans = collector.spans();
    assert!(!spans.is_empty() && spans.iter().all(|span| span.name != "read"), "{spans:?}");
}

/// Instructions of a daemon that mounts, answers `count` READs from its cache, and ends.
fn instructions(scratch: &Scratch, config: &str, count: u64) -> u64 {
    let out = scratch.path("callgrind");
    let counted = format!("--callgrind-out-file={}", out.display());
    // Several workers race for each request: some instructions more or less.
    let launch = scratch.launch_text(&image().bootstrap(), config).option("--thread-num", "1");
    // The daemon looks at its own mount, and under valgrind only one thread runs unless it knows that this may wait.
    let valgrind = ["valgrind", "--tool=callgrind", "--sim-hints=fuse-compatible", &counted];
    // Without a name of its own the daemon would look for that of its program, which valgrind 3.19 does not survive with this
    // hint.
    let daemon = launch.environment("OTEL_SERVICE_NAME", "nydusd").through(valgrind).start();
    // Past the page cache, so that each one comes to the daemon.
    let file = readers::open_direct(&daemon.mountpoint().join(FILE)).unwrap();
    for number in 0..count {
        readers::read_at(&file, number % 8 * READ_BYTES, READ_BYTES as usize).unwrap();
    }
    drop(file);
    let stopped = daemon.stop(Signal::SIGTERM);
    let text = std::fs::read_to_string(out).unwrap_or_else(|error| panic!("{error}: {}", stopped.stderr));
    let totals = text.lines().find_map(|line| line.strip_prefix("totals: "));
    totals.expect("totals").trim().parse().unwrap()
}
