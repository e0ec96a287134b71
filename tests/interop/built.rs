//! Images that we build from what is in the fixtures are mounted, and show the fixtures' manifest.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Read as _;
use std::path::Path;

use clap::Parser as _;
use nydus_image::cli::{Cli, Command};
use nydus_tests::config::Config;
use nydus_tests::daemon::Scratch;
use nydus_tests::fixtures::Image;
use nydus_tests::require_mounts;
use serde_json::json;
use storage::digest::Digester;

/// Runs `nydus-image create`.
fn create(flags: &[&str], source: &Path) {
    let mut args = vec!["nydus-image", "create"];
    args.extend(flags);
    args.push(source.to_str().unwrap());
    let cli = Cli::try_parse_from(args).unwrap();
    match cli.command {
        Some(Command::Create(args)) => nydus_image::command::create::run(&args, &cli.global).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Builds an image that leaves `layer` what it is, and mounts it with the layer among its blobs.
fn check_kept(kind: &str, flags: &[&str], layer: &[u8]) {
    let context = format!("{kind} {flags:?}");
    let dir = tempfile::tempdir().unwrap();
    let (source, blobs, bootstrap) =
        (dir.path().join("layer"), dir.path().join("blobs"), dir.path().join("bootstrap"));
    fs::create_dir(&blobs).unwrap();
    fs::write(&source, layer).unwrap();
    let is_inlined = flags.contains(&"--blob-inline-meta");
    let mut all = vec!["--type", kind, "-D", blobs.to_str().unwrap()];
    all.extend(flags);
    if !is_inlined {
        all.extend(["-B", bootstrap.to_str().unwrap()]);
    }
    create(&all, &source);
    let bootstrap = match is_inlined {
        true => fs::read_dir(&blobs).unwrap().next().unwrap().unwrap().path(),
        false => bootstrap,
    };
    fs::rename(&source, blobs.join(Digester::Sha256.digest(layer).to_string())).unwrap();

    let scratch = Scratch::new();
    let mut config = Config::new(&blobs, &scratch.cache());
    config.validate = true;
    let daemon = scratch.launch(&bootstrap, &config).start();
    Image::named("v6-zran").manifest().assert_tree(daemon.mountpoint(), &context);
    daemon.unmount();
}

/// The layer that `v6-zran` refers to.
fn layer() -> Vec<u8> {
    let files = Image::named("v6-zran").blob_files();
    let is_gzip = |bytes: &Vec<u8>| bytes.starts_with(&[0x1f, 0x8b]);
    files.iter().map(|path| fs::read(path).unwrap()).find(is_gzip).unwrap()
}

#[test]
fn a_built_cache_is_served_though_the_registry_is_gone() {
    require_mounts!();
    for kind in ["targz-rafs", "targz-ref"] {
        check_built_cache(kind);
    }
}

fn check_built_cache(kind: &str) {
    let scratch = Scratch::new();
    let (source, bootstrap) = (scratch.path("layer"), scratch.path("bootstrap"));
    fs::write(&source, layer()).unwrap();
    fs::create_dir_all(scratch.cache()).unwrap();
    let cache = scratch.cache();
    let targets = ["-B", bootstrap.to_str().unwrap(), "--blob-cache-dir", cache.to_str().unwrap()];
    create(&[&["--type", kind][..], &targets].concat(), &source);

    let mut config = scratch.config(&Image::named("v6-zran")).to_value();
    // A port that nobody listens at.
    let registry = json!({ "scheme": "http", "host": "127.0.0.1:9", "repo": "library/test" });
    config["backend"] = json!({ "type": "registry", "registry": registry });
    config["rafs"]["read_deadline_ms"] = json!(2000);
    let daemon = scratch.launch_text(&bootstrap, &config.to_string()).start();
    Image::named("v6-zran").manifest().assert_tree(daemon.mountpoint(), &format!("a cache built of {kind}"));
    assert_eq!(daemon.counter("backend_requests"), 0);
    daemon.unmount();
}

#[test]
fn kept_layers_show_what_is_in_them() {
    require_mounts!();
    let layer = layer();
    let mut tar = Vec::new();
    flate2::read::MultiGzDecoder::new(&layer[..]).read_to_end(&mut tar).unwrap();

    check_kept("targz-ref", &[], &layer);
    check_kept("targz-ref", &["--features", "blob-toc", "--chunk-size", "0x10000"], &layer);
    check_kept("targz-ref", &["--blob-inline-meta"], &layer);
    check_kept("estargz-ref", &["--blob-inline-meta", "--features", "blob-toc"], &layer);
    check_kept("targz-ref", &[], &tar);
    check_kept("tar-tarfs", &[], &tar);
}
