//! Every file in `configs/` works: with its paths replaced it mounts an image, without a warning.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use gpt::disk::LogicalBlockSize;
use nix::sys::signal::Signal;
use nydus_tests::daemon::{Scratch, complaints};
use nydus_tests::fixtures::Image;
use nydus_tests::registry::{AUTH, Registry};
use nydus_tests::require_mounts;
use nydus_tests::servers::authority::Authority;
use serde_json::json;

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

/// The hosts of the samples that have the blobs.
const ORIGINS: [&str; 4] =
    ["registry.example.com", "oss-cn-hangzhou.aliyuncs.com", "s3.example.com", "blobs.example.com"];
/// Those that are asked before them.
const STAND_INS: [&str; 3] = ["mirror.example.com", "127.0.0.1:4001", "127.0.0.1:4003"];

/// A sample, and what stands in for what it names.
struct Sample {
    text: String,
    scratch: Scratch,
    origin: Registry,
    /// The mirror, or the proxy.
    stand_in: Registry,
    // Its files are named by the text.
    _authority: Authority,
}

impl Sample {
    /// The text of `path` with places of this machine.
    fn read(path: &Path, image: &Image) -> Self {
        let (mut text, scratch) = (fs::read_to_string(path).unwrap(), Scratch::new());
        let mut replace = |from: &str, to: &str| text = text.replace(from, to);
        replace("/var/lib/nydus/blobs", image.blobs().to_str().unwrap());
        replace("/var/lib/nydus", scratch.path("").to_str().unwrap());
        make_disk(&scratch.path("disk"), image);
        replace("/dev/vdb", scratch.path("disk").to_str().unwrap());
        // Who we are.
        let authority = Authority::new();
        let client = authority.client();
        replace("/etc/nydus/ca.pem", authority.file().to_str().unwrap());
        replace("/etc/nydus/client.pem", client.certificate.to_str().unwrap());
        replace("/etc/nydus/client.key", client.key.to_str().unwrap());
        replace("dXNlcjpwYXNzd29yZA==", AUTH);
        // The bucket's name and an address in digits make no name of a host.
        replace("[backend.oss]", "[backend.oss]\naddressing = \"path\"");
        replace("\"bucket_name\"", "\"addressing\": \"path\", \"bucket_name\"");
        let is_tls = text.contains("ca_cert_files");
        let origin = if is_tls {
            Registry::over_tls(&image.blobs(), &authority)
        } else {
            text = text.replace("\"https\"", "\"http\"").replace("https://", "http://");
            Registry::new(&image.blobs())
        };
        let stand_in = Registry::new(&image.blobs());
        for (hosts, server) in [(&ORIGINS[..], &origin), (&STAND_INS[..], &stand_in)] {
            text = hosts.iter().fold(text, |text, far| text.replace(far, &server.host()));
        }
        let logins = json!({ "auths": { origin.host(): { "auth": AUTH } } }).to_string();
        let logins = scratch.write("docker.json", &logins);
        text = text.replace("/root/.docker/config.json", logins.to_str().unwrap());
        Self { text, scratch, origin, stand_in, _authority: authority }
    }
}

#[test]
fn every_sample_mounts_an_image() {
    require_mounts!();
    let mut backends = BTreeSet::new();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if !path.extension().is_some_and(|suffix| suffix == "json" || suffix == "toml") {
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap();
        let image = Image::named("v6-zstd");
        let sample = Sample::read(&path, &image);
        for far in ["/var/lib", "/etc/", "/root", "example.com", "aliyuncs"] {
            assert!(!sample.text.contains(far), "{name} names {far}, which this test does not replace");
        }
        let launch = sample.scratch.launch_text(&image.bootstrap(), &sample.text);
        let daemon = launch.option("--rlimit-nofile", "0").start();
        image.manifest().assert_tree(daemon.mountpoint(), name);
        let stopped = daemon.stop(Signal::SIGTERM);
        assert!(stopped.status.success() && !stopped.mounted, "{name}: {}", stopped.stderr);
        assert!(complaints(&stopped.stderr).is_empty(), "{name}: {}", stopped.stderr);
        // Each sample uses what it shows.
        let is_stood_in_for = name.contains("mirrors") || name.contains("dragonfly");
        assert_eq!(sample.stand_in.redirects() > 0, is_stood_in_for, "{name}");
        assert_eq!(sample.stand_in.of_dragonfly() > 0, name.contains("dragonfly"), "{name}");
        let is_registry = name.starts_with("registry");
        assert_eq!(sample.origin.redirects() > 0, is_registry && !is_stood_in_for, "{name}");
        let kind = name.split(['-', '.']).next().unwrap().to_owned();
        backends.insert(if kind == "http" { "http-proxy".to_owned() } else { kind });
    }
    for kind in ["localfs", "localdisk", "registry", "oss", "s3", "http-proxy"] {
        assert!(backends.contains(kind), "no sample for {kind}");
    }
}
