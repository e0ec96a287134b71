//! What the API of the reference implementation tells of requests, files and caches (spec/api.md §3) is what was asked for.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nydus_tests::daemon::{Daemon, Scratch};
use nydus_tests::fixtures::Image;
use nydus_tests::stall_fs::StallFs;
use nydus_tests::{readers, require_mounts};
use serde_json::{Value, json};

fn filesystem(daemon: &Daemon) -> Value {
    let answer = daemon.api("/api/v1/metrics");
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

/// The `number`th entry of a list.
fn at(list: &Value, number: usize) -> u64 {
    list[number].as_u64().unwrap_or_else(|| panic!("no entry {number} in {list}"))
}

fn all(list: &Value) -> u64 {
    list.as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).sum()
}

const GETXATTR: usize = 6;
const LOOKUP: usize = 9;
const READ: usize = 4;

/// What is asked through the mount, request by request, is what is counted.
#[test]
fn requests_are_counted_by_operation() {
    require_mounts!();
    let (image, scratch) = (Image::named("v6-zstd"), Scratch::new());
    let daemon = scratch.launch(&image.bootstrap(), &scratch.config(&image)).start();
    let file = readers::open_direct(&daemon.mountpoint().join("exact1m")).unwrap();
    let before = filesystem(&daemon);
    assert_eq!(
        (&before["id"], &before["measure_latency"], &before["nr_opens"]),
        (&json!("/"), &json!(true), &json!(0))
    );
    for list in ["fop_hits", "fop_errors", "fop_cumulative_latency_total"] {
        assert_eq!(before[list].as_array().unwrap().len(), 15, "{list}");
    }
    assert!(at(&before["fop_hits"], LOOKUP) > 0, "{before}");
    // Past the page cache each read is one request: the first waits for its data, the second does not.
    let sizes = [512, 2 << 10, 8 << 10, 32 << 10, 100 << 10, 256 << 10, 600 << 10];
    for size in sizes {
        (0..10).for_each(|_| drop(readers::read_at(&file, 0, size).unwrap()));
    }
    let missing = xattr::get(daemon.mountpoint().join("exact1m"), "user.no-such-attribute");
    assert!(matches!(missing, Ok(None)), "{missing:?}");
    // A request is counted once it is answered.
    let counted =
        |operation| at(&filesystem(&daemon)["fop_hits"], operation) - at(&before["fop_hits"], operation);
    daemon.wait_for("all are counted", || counted(READ) >= 70 && counted(GETXATTR) >= 1);
    let after = filesystem(&daemon);
    let more = |list: &str, number| at(&after[list], number) - at(&before[list], number);
    assert_eq!(more("fop_hits", READ), 70);
    assert_eq!(
        after["data_read"].as_u64().unwrap() - before["data_read"].as_u64().unwrap(),
        10 * sizes.iter().sum::<usize>() as u64
    );
    let classes: Vec<u64> = (0..8).map(|class| more("block_count_read", class)).collect();
    assert_eq!(classes, [10, 10, 10, 10, 10, 10, 10, 0], "{after}");
    assert_eq!(all(&after["read_latency_dist"]), at(&after["fop_hits"], READ), "no READ has failed: {after}");
    assert!(more("fop_cumulative_latency_total", READ) > 0);
    assert_eq!((more("fop_hits", GETXATTR), more("fop_errors", GETXATTR)), (1, 1), "{after}");
    assert_eq!((all(&before["fop_errors"]), more("fop_errors", READ)), (0, 0), "{before}");
    assert_eq!(daemon.api("/api/v1/metrics?id=/other").status, 404);
    // Nobody asked for records of files.
    assert_eq!(daemon.api("/api/v1/metrics/files").body, json!({}));
    assert_eq!(daemon.api("/api/v1/metrics/files?latest=true").body, json!([]));
    assert_eq!(daemon.api("/api/v1/metrics/pattern?id=/").body, json!([]));
    daemon.unmount();
}

#[test]
fn a_cache_counts_where_reads_found_their_data() {
    require_mounts!();
    let (image, scratch) = (Image::named("v6-zstd"), Scratch::new());
    let mut config = scratch.config(&image);
    config.amplify_io = Some(0);
    let daemon = scratch.launch(&image.bootstrap(), &config).start();
    let counts = || {
        let cache = daemon.cache_metrics();
        ["total", "whole_hits", "partial_hits"].map(|name| cache[name].as_u64().unwrap())
    };
    // `exact1m1` has more than one chunk, and the first ends at 1 MiB.
    let file = readers::open_direct(&daemon.mountpoint().join("exact1m1")).unwrap();
    let read = |offset, len| drop(readers::read_at(&file, offset, len).unwrap());
    assert_eq!(counts(), [0, 0, 0]);
    read(0, 4096);
    daemon.wait_for("it counts as fetched", || counts() == [1, 0, 0]);
    daemon.wait_for("it is written", || daemon.counter("entries_count") > 0);
    read(4096, 4096);
    daemon.wait_for("it counts as cached", || counts() == [2, 1, 0]);
    let size = file.metadata().unwrap().len();
    read((1 << 20) - 4096, (size - (1 << 20)) as usize + 4096);
    daemon.wait_for("it counts as partly cached", || counts() == [3, 1, 1]);
    let cache = daemon.cache_metrics();
    let blobs = image.blob_files();
    let mut names: Vec<_> =
        blobs.iter().map(|blob| format!("{}.blob.data", blob.file_name().unwrap().display())).collect();
    names.sort();
    let mut told: Vec<_> = cache["underlying_files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap().to_owned())
        .collect();
    told.sort();
    assert_eq!(told, names);
    assert_eq!(cache["store_path"], json!(scratch.cache()));
    daemon.unmount();
}

#[test]
fn a_request_that_waits_is_in_flight() {
    require_mounts!();
    let (image, scratch) = (Image::named("v6-zstd"), Scratch::new());
    let blobs = StallFs::serve(&image.blobs());
    let mut config = scratch.config(&image);
    config.blobs = blobs.path().to_owned();
    let daemon = scratch.launch(&image.bootstrap(), &config).start();
    let path = daemon.mountpoint().join("exact1m1");
    let ino = fs::metadata(&path).unwrap().ino();
    let inflight = || daemon.api("/api/v1/metrics/inflight");
    assert_eq!((inflight().status, inflight().body), (204, Value::Null));
    let stall = blobs.stall();
    let file = readers::open_direct(&path).unwrap();
    let reader = std::thread::spawn(move || readers::read_at(&file, 0, 4096).unwrap().len());
    daemon.wait_for("the backend to be asked", || stall.held() > 0);
    let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    std::thread::sleep(Duration::from_millis(1500));
    let seen = inflight();
    assert_eq!(seen.status, 200);
    let [request] = &seen.body.as_array().unwrap()[..] else { panic!("one request: {}", seen.body) };
    assert_eq!((&request["inode"], &request["opcode"]), (&json!(ino), &json!(15)), "{request}");
    assert!(request["unique"].as_u64().unwrap() > 0, "{request}");
    let since = request["timestamp_secs"].as_u64().unwrap();
    assert!((began - 30..=began).contains(&since), "{request}, asked at {began}");
    drop(stall);
    assert_eq!(reader.join().unwrap(), 4096);
    daemon.wait_for("nothing is in flight", || inflight().status == 204);
    daemon.unmount();
}

#[test]
fn files_are_recorded_where_the_configuration_asks() {
    require_mounts!();
    let (image, scratch) = (Image::named("v5-lz4-sha256"), Scratch::new());
    let mut config = scratch.config(&image).to_value();
    for key in ["iostats_files", "access_pattern", "latest_read_files"] {
        config["rafs"][key] = json!(true);
    }
    let daemon = scratch.launch_text(&image.bootstrap(), &config.to_string()).start();
    let metrics = filesystem(&daemon);
    for key in ["files_account_enabled", "access_pattern_enabled", "record_latest_read_files_enabled"] {
        assert_eq!(metrics[key], true, "{key}");
    }
    // In the order of the listing: what is usually sent ahead is read, and recorded.
    let directory = daemon.mountpoint().join("many");
    let listed: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    let mut read = BTreeMap::new();
    for path in listed.iter().take(100) {
        let size = fs::read(path).unwrap().len() as u64;
        read.insert(fs::metadata(path).unwrap().ino(), size);
    }
    read.retain(|_, size| *size > 0);
    assert!(read.len() > 50);
    // A request is counted once it is answered.
    let patterns = || daemon.api("/api/v1/metrics/pattern").body;
    daemon.wait_for("all are recorded", || patterns().as_array().unwrap().len() >= read.len());
    let (files, patterns) = (daemon.api("/api/v1/metrics/files?id=/").body, patterns());
    for (ino, size) in &read {
        let file = &files[ino.to_string()];
        assert_eq!((&file["data_read"], at(&file["fop_hits"], READ)), (&json!(size), 1), "{ino}: {file}");
        assert_eq!((all(&file["block_count_read"]), all(&file["fop_errors"])), (1, 0), "{ino}: {file}");
        assert_eq!(file["total_fops"], json!(all(&file["fop_hits"])), "{ino}: {file}");
    }
    let told: Vec<u64> =
        patterns.as_array().unwrap().iter().map(|file| file["ino"].as_u64().unwrap()).collect();
    assert_eq!(told, read.keys().copied().collect::<Vec<_>>());
    assert!(patterns.as_array().unwrap().iter().all(|file| file["nr_read"] == 1), "{patterns}");
    let latest = daemon.api("/api/v1/metrics/files?latest=true").body;
    let ranges = latest.as_array().unwrap().iter().map(|range| {
        let ends: Vec<u64> = range.as_array().unwrap().iter().map(|end| end.as_u64().unwrap()).collect();
        ends[0]..=*ends.last().unwrap()
    });
    assert_eq!(ranges.flatten().collect::<Vec<_>>(), told, "{latest}");
    assert_eq!(daemon.api("/api/v1/metrics/files?latest=true").body, json!([]));
    daemon.unmount();
}

#[test]
fn the_superblock_and_what_went_wrong_are_told() {
    require_mounts!();
    for (name, magic, version) in
        [("v5-zstd-blake3", 0x5241_4653_u32, 0x500), ("v6-zstd", 0xe0f5_e1e2, 0x600)]
    {
        let (image, scratch) = (Image::named(name), Scratch::new());
        let copy = image.copy_to(&scratch.path("copy"));
        let mut config = scratch.config(&image);
        config.blobs = copy.blobs.clone();
        let daemon = scratch.launch(&copy.bootstrap, &config).start();
        let block = daemon.api("/api/v1/daemon/backend?mountpoint=/").body;
        assert_eq!((&block["magic"], &block["version"]), (&json!(magic), &json!(version)), "{name}");
        let files = nix::sys::statvfs::statvfs(daemon.mountpoint()).unwrap().files();
        assert_eq!(block["inodes_count"], json!(files), "{name}");
        assert_eq!(block["flags"]["bits"].as_u64().map(|bits| bits > 0), Some(true), "{name}: {block}");
        assert_eq!(block.as_object().unwrap().len(), 25, "{name}: {block}");
        assert_eq!(daemon.api("/api/v1/daemon/backend").status, 400);
        let nothing =
            json!({"max_errors": 500, "total_errors": 0, "max_size": 51200, "total_size": 0, "errors": []});
        assert_eq!(daemon.api("/api/v1/daemon/events").body, nothing, "{name}");
        for blob in fs::read_dir(&copy.blobs).unwrap() {
            let path = blob.unwrap().path();
            let bytes: Vec<u8> = fs::read(&path).unwrap().iter().map(|byte| byte ^ 0xff).collect();
            fs::write(path, bytes).unwrap();
        }
        fs::read(daemon.mountpoint().join("exact1m")).unwrap_err();
        let events = daemon.api("/api/v1/daemon/events").body;
        assert!(events["total_errors"].as_u64().unwrap() > 0, "{name}: {events}");
        assert!(events["errors"].to_string().contains("chunk"), "{name}: {events}");
        let bytes = events["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|error| error.as_str().unwrap().len())
            .sum::<usize>();
        assert_eq!(events["total_size"], json!(bytes));
    }
}
