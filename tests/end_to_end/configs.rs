//! Every file in `configs/` works: with its paths replaced it mounts an image, without a warning.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use gpt::disk::LogicalBlockSize;
use nix::sys::signal::Signal;
use nydus_tests::daemon::Scratch;
use nydus_tests::fixtures::Image;
use nydus_tests::registry::{AUTH, Registry};
use nydus_tests::require_mounts;

/// A disk whose partitions are the blobs of an image: the first half of a blob's id is the partition's name, the rest
/// its GUID.
fn make_disk(path: &Path, image: &Image) {
    fs::write(path, vec![0; 8 << 20]).unwrap();
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let data = file.try_clone().unwrap();
    let sector = LogicalBlockSize::Lb512;
    let config = gpt::GptConfig::new().writable(true).logical_block_size(sector);
    let mut table = config.create_from_device(file, None).unwrap();
    let blobs: Vec<(String, Vec<u8>)> = image
        .blob_files()
        .iter()
        .map(|file| (file.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(file).unwrap()))
        .collect();
    for (id, content) in &blobs {
        let (size, kind) = (content.len() as u64, gpt::partition_types::LINUX_FS);
        table.add_partition(&id[..32], size, kind, 0, None).unwrap();
    }
    let mut partitions = table.partitions().clone();
    for partition in partitions.values_mut().filter(|partition| partition.is_used()) {
        let (id, content) = blobs.iter().find(|(id, _)| id.starts_with(&partition.name)).unwrap();
        partition.part_guid = id[32..].parse().unwrap();
        data.write_all_at(content, partition.bytes_start(sector).unwrap()).unwrap();
    }
    table.update_partitions(partitions).unwrap();
    table.write().unwrap();
}

/// The hosts of the samples.
const HOSTS: [&str; 4] =
    ["registry.example.com", "oss-cn-hangzhou.aliyuncs.com", "s3.example.com", "blobs.example.com"];

/// The sample with `host` instead of places far away, asked in the clear.
fn nearby(sample: &str, host: &str) -> String {
    let text = HOSTS.iter().fold(sample.to_owned(), |text, far| text.replace(far, host));
    text.replace("\"https\"", "\"http\"")
        .replace("https://", "http://")
        .replace("dXNlcjpwYXNzd29yZA==", AUTH)
        // The bucket's name and an address in digits make no name of a host.
        .replace("[backend.oss]", "[backend.oss]\naddressing = \"path\"")
}

#[test]
fn every_sample_mounts_an_image() {
    require_mounts!();
    let mut samples = 0;
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if !path.extension().is_some_and(|suffix| suffix == "json" || suffix == "toml") {
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap();
        // Without a cache only v5 can be mounted.
        let image = Image::named(if name.starts_with("no-cache") { "v5-zstd-blake3" } else { "v6-zstd" });
        let scratch = Scratch::new();
        make_disk(&scratch.path("disk"), &image);
        let text = fs::read_to_string(&path)
            .unwrap()
            .replace("/var/lib/nydus/blobs", image.blobs().to_str().unwrap())
            .replace("/var/lib/nydus", scratch.path("").to_str().unwrap())
            .replace("/dev/vdb", scratch.path("disk").to_str().unwrap());
        let server = Registry::new(&image.blobs());
        let text = nearby(&text, &server.host());
        assert!(!text.contains("/var/lib"), "{name} has a path that this test does not replace");
        let launch = scratch.launch_text(&image.bootstrap(), &text).option("--rlimit-nofile", "0");
        let daemon = launch.start();
        image.manifest().assert_tree(daemon.mountpoint(), name);
        let stopped = daemon.stop(Signal::SIGTERM);
        assert!(stopped.status.success() && !stopped.mounted, "{name}: {}", stopped.stderr);
        assert!(!stopped.stderr.contains("WARN"), "{name}: {}", stopped.stderr);
        samples += 1;
    }
    assert!(samples >= 9, "only {samples} samples");
}
