//! The layer of a fixture, kept as it is in every way there is, is mounted and shows the fixture's manifest.
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
use storage::digest::Digester;

fn create(kind: &str, flags: &[&str], out: &Path, layer: &Path) {
    let mut args = vec!["nydus-image", "create", "--type", kind, "-D", out.to_str().unwrap()];
    args.extend(flags);
    args.push(layer.to_str().unwrap());
    match Cli::try_parse_from(args).unwrap().command {
        Some(Command::Create(args)) => nydus_image::command::create::run(&args).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Builds an image of `layer`, and mounts it with the layer among its blobs.
fn check(kind: &str, flags: &[&str], layer: &[u8]) {
    let context = format!("{kind} {flags:?}");
    let dir = tempfile::tempdir().unwrap();
    let (source, blobs, bootstrap) =
        (dir.path().join("layer"), dir.path().join("blobs"), dir.path().join("bootstrap"));
    fs::create_dir(&blobs).unwrap();
    fs::write(&source, layer).unwrap();
    let is_inlined = flags.contains(&"--blob-inline-meta");
    let mut all = flags.to_vec();
    if !is_inlined {
        all.extend(["-B", bootstrap.to_str().unwrap()]);
    }
    create(kind, &all, &blobs, &source);
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

#[test]
fn kept_layers_show_what_is_in_them() {
    require_mounts!();
    let image = Image::named("v6-zran");
    let is_gzip = |bytes: &Vec<u8>| bytes.starts_with(&[0x1f, 0x8b]);
    let layer = image.blob_files().iter().map(|path| fs::read(path).unwrap()).find(is_gzip).unwrap();
    let mut tar = Vec::new();
    flate2::read::MultiGzDecoder::new(&layer[..]).read_to_end(&mut tar).unwrap();

    check("targz-ref", &[], &layer);
    check("targz-ref", &["--features", "blob-toc", "--chunk-size", "0x10000"], &layer);
    check("targz-ref", &["--blob-inline-meta"], &layer);
    check("estargz-ref", &["--blob-inline-meta", "--features", "blob-toc"], &layer);
    check("targz-ref", &[], &tar);
    check("tar-tarfs", &[], &tar);
}
