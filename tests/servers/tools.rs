//! The commands of `nydus-image` that read blobs, with the blobs in servers: what they make is what they make of the same
//! blobs in a directory, and what `optimize` makes is mounted.

use std::fs;
use std::path::Path;

use clap::Parser as _;
use nydus_image::cli::Cli;
use nydus_tests::config::Form;
use nydus_tests::daemon::{Scratch, complaints};
use nydus_tests::fixtures::{Image, Version};
use nydus_tests::servers::docker_registry::{Access, DockerRegistry, Setup};
use nydus_tests::servers::moto::Moto;
use nydus_tests::servers::nginx::Nginx;
use nydus_tests::servers::oss::Oss;
use nydus_tests::{require_mounts, require_python, require_tools};
use serde_json::{Value, json};

/// Images of several ways to store chunks, whose blobs have their digests as ids, as a registry wants it.
const SOME: [&str; 5] = ["v5-zstd-blake3", "v5-lz4-sha256", "v6-zstd", "v6-lz4-4k-sha256", "v6-encrypt"];

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs `nydus-image`.
fn run(args: &[&str]) {
    let cli = Cli::try_parse_from([&["nydus-image"], args].concat()).unwrap();
    let done = nydus_image::command::run(cli.command.unwrap(), &cli.global);
    done.unwrap_or_else(|error| panic!("{args:?}: {error}"));
}

/// What a command writes, with the blobs in a directory and in a server.
fn both(image: &Image, remote: &[&str], command: &[&str]) -> [Vec<u8>; 2] {
    let (bootstrap, blobs) = (image.bootstrap(), image.blobs());
    [&["--blob-dir", text(&blobs)][..], remote].map(|place| {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("output");
        run(&[command, &["--bootstrap", text(&bootstrap), "--output", text(&output)], place].concat());
        fs::read(output).unwrap()
    })
}

/// `unpack`, and of version 6 `export`, equal what they make of the blobs in a directory.
fn check_reading(image: &Image, kind: &str, settings: &Value) {
    let dir = tempfile::tempdir().unwrap();
    let (file, config) = (dir.path().join("settings"), dir.path().join("config"));
    fs::write(&file, settings.to_string()).unwrap();
    let backend = json!({ "type": kind, kind: settings });
    fs::write(&config, json!({ "version": 2, "backend": backend }).to_string()).unwrap();
    let given = settings.to_string();
    let places: [&[&str]; 3] = [
        &["--backend-type", kind, "--backend-config", &given],
        &["--backend-type", kind, "--backend-config-file", text(&file)],
        &["--config", text(&config)],
    ];
    for place in places {
        let [local, remote] = both(image, place, &["unpack"]);
        assert!(local == remote, "{} unpacked from {kind}: {place:?}", image.name);
    }
    if image.version == Version::V6 {
        let [local, remote] = both(image, places[0], &["export", "--block"]);
        assert!(local == remote, "{} exported from {kind}", image.name);
    }
}

#[test]
fn images_are_unpacked_and_exported_from_a_registry() {
    require_tools!("docker-registry");
    let registry = DockerRegistry::start(&Setup { access: Access::Password, ..Setup::default() });
    for image in SOME.map(Image::named) {
        registry.push(&image);
        check_reading(&image, "registry", &registry.backend());
    }
}

#[test]
fn images_are_unpacked_and_exported_from_buckets_and_servers() {
    let image = Image::named("v6-zstd");
    let oss = Oss::start(None);
    oss.put(&image);
    check_reading(&image, "oss", &oss.backend());
    require_python!();
    let moto = Moto::start();
    moto.put(&image);
    check_reading(&image, "s3", &moto.backend());
    require_tools!("nginx");
    let nginx = Nginx::of_files(None, &image.blobs());
    check_reading(
        &image,
        "http-proxy",
        &json!({ "addr": format!("http://{}", nginx.addr()), "path": "nydus" }),
    );
}

/// As `nydusify optimize` calls it; then the image is mounted from the registry, to which the new blob is pushed.
#[test]
fn what_is_optimized_from_a_registry_is_mounted_and_equal() {
    require_mounts!();
    require_tools!("docker-registry");
    let registry = DockerRegistry::start(&Setup { access: Access::Password, ..Setup::default() });
    let settings = registry.backend().to_string();
    for image in SOME.map(Image::named) {
        registry.push(&image);
        let scratch = Scratch::new();
        let [list, out, optimized, json] = ["list", "out", "boot", "json"].map(|name| scratch.path(name));
        fs::create_dir(&out).unwrap();
        let files = [json!({ "path": "/many" }), json!({ "path": "/exact1m", "ranges": [[0, 10]] })];
        fs::write(&list, json!({ "version": "v1", "files": files }).to_string()).unwrap();
        let bootstrap = image.bootstrap();
        let optimize = ["optimize", "--log-level", "warn", "--prefetch-files", text(&list)];
        let rest = ["--bootstrap", text(&bootstrap), "--output-blob-dir", text(&out)];
        let last = ["--output-bootstrap", text(&optimized), "--output-json", text(&json)];
        let backend = ["--backend-type", "registry", "--backend-config", &settings];
        run(&[&optimize[..], &rest, &last, &backend].concat());

        let result: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
        let new = result["blobs"].as_array().unwrap().last().unwrap().as_str().unwrap();
        registry.push_files(&[out.join(new)]);
        let mut config = scratch.config(&image);
        config.form = Form::V1;
        config.validate = true;
        config.backend = Some(("registry", registry.backend()));
        let daemon = scratch.launch(&optimized, &config).option("--rlimit-nofile", "0").start();
        image.manifest().assert_tree(daemon.mountpoint(), image.name);
        let complaints = complaints(&daemon.unmount());
        assert!(complaints.is_empty(), "{}: {complaints:#?}", image.name);
    }
}
