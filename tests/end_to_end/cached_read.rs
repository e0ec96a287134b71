//! What a read costs whose data is in the cache: no span, no allocation, and with traces on no instruction more.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::process::{Command, Output};
use std::time::{SystemTime, UNIX_EPOCH};

use nydus_tests::allocation::{CountingAllocator, count_of};
use nydus_tests::collector::Collector;
use nydus_tests::config::Config;
use nydus_tests::daemon::Scratch;
use nydus_tests::fixtures::Image;
use nydus_tests::in_process::Opened;
use nydus_tests::require_tools;
use nydus_tests::telemetry::Telemetry;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Reads cached data over and over.
const PROGRAM: &str = env!("CARGO_BIN_EXE_cached-reads");
/// More than one megabyte, in several chunks.
const FILE: &str = "exact1m1";
/// Bytes of one READ, as the kernel's readahead asks for them.
const READ_BYTES: u64 = 128 << 10;

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
    require_tools!("valgrind");
    let (scratch, collector) = (Scratch::new(), Collector::start());
    // Fills the cache.
    let filled = reads(&scratch, Command::new(PROGRAM), 1, None);
    assert!(filled.status.success(), "{}", String::from_utf8_lossy(&filled.stderr));
    let mut costs = Vec::new();
    for collector in [None, Some(collector.endpoint())] {
        // Twice as many reads: what both have in common does not count.
        let [some, twice] = [500, 1000].map(|count| instructions(&scratch, count, collector.as_deref()));
        assert!(some > 0 && twice > some, "{some} and {twice} instructions");
        costs.push((twice - some) as f64 / 500.0);
    }
    let [off, on] = costs[..] else { unreachable!() };
    println!("a cached read of 128 KiB: {off:.1} instructions without traces, {on:.1} with");
    assert!(on <= off * 1.02, "{off:.1} instructions without traces, {on:.1} with");
}

/// Instructions of `count` cached reads, as callgrind counts them.
fn instructions(scratch: &Scratch, count: u64, collector: Option<&str>) -> u64 {
    let out = scratch.path("callgrind");
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--toggle-collect=*measured_reads*"]);
    command.arg(format!("--callgrind-out-file={}", out.display())).arg(PROGRAM);
    let output = reads(scratch, command, count, collector);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read_to_string(out).unwrap();
    let totals = text.lines().find_map(|line| line.strip_prefix("totals: "));
    totals.expect("totals").trim().parse().unwrap()
}

/// Runs the program that reads, or the one that watches it.
fn reads(scratch: &Scratch, mut command: Command, count: u64, collector: Option<&str>) -> Output {
    command.args([image().bootstrap(), image().blobs(), scratch.cache()]).args([FILE, &count.to_string()]);
    command.args(collector).output().unwrap()
}
