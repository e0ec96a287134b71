//! What cannot be mounted is refused: one line that says what is wrong, an exit status that is not 0, and nothing left
//! behind.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::Path;

use nydus_tests::config::{Form, with_key};
use nydus_tests::daemon::{Launch, Scratch};
use nydus_tests::fixtures::{IMAGES, Image};
use nydus_tests::{mounts, require_mounts, require_tools};
use serde_json::{Value, json};

fn image() -> Image {
    Image::named("v6-zstd")
}

fn launch(scratch: &Scratch) -> Launch {
    scratch.launch(&image().bootstrap(), &scratch.config(&image()))
}

/// Starts with the test image's configuration after `change`.
fn refused_config(form: Form, change: impl FnOnce(Value) -> Value, words: &[&str]) {
    let scratch = Scratch::new();
    let mut config = scratch.config(&image());
    config.form = form;
    let value = change(config.to_value());
    let text = match form {
        Form::V2Toml => toml::to_string(&value).unwrap(),
        Form::V1 | Form::V2Json => value.to_string(),
    };
    scratch.launch_text(&image().bootstrap(), &text).refused().assert_explained(words);
}

#[test]
fn a_missing_bootstrap() {
    require_mounts!();
    let scratch = Scratch::new();
    let path = scratch.path("no-such-bootstrap");
    let refusal = scratch.launch(&path, &scratch.config(&image())).refused();
    refusal.assert_explained(&["no-such-bootstrap", "No such file"]);
}

#[test]
fn truncated_bootstraps() {
    require_mounts!();
    for image in IMAGES.into_iter().filter(|image| image.name != "v6-inline") {
        let bytes = fs::read(image.bootstrap()).unwrap();
        for len in [0, 1, 127, 1024, 4096, 8192] {
            let scratch = Scratch::new();
            let path = scratch.path("truncated-bootstrap");
            fs::write(&path, &bytes[..len]).unwrap();
            let refusal = scratch.launch(&path, &scratch.config(&image)).refused();
            refusal.assert_explained(&["truncated-bootstrap"]);
        }
    }
}

#[test]
fn something_else_than_a_bootstrap() {
    require_mounts!();
    let scratch = Scratch::new();
    let path = scratch.write("not-a-bootstrap", &"hello ".repeat(4000));
    let refusal = scratch.launch(&path, &scratch.config(&image())).refused();
    refusal.assert_explained(&["not-a-bootstrap"]);
    let refusal = scratch.launch(&scratch.cache(), &scratch.config(&image())).refused();
    refusal.assert_explained(&["cache", "not a regular file"]);
}

#[test]
fn a_configuration_that_is_not_there_or_not_readable() {
    require_mounts!();
    let scratch = Scratch::new();
    Launch::new(&scratch.mountpoint())
        .option("--config", scratch.path("no-such-config"))
        .option("--bootstrap", image().bootstrap())
        .refused()
        .assert_explained(&["no-such-config", "No such file"]);
    let launch = scratch.launch_text(&image().bootstrap(), "{\"version\": 2,\n \"backend\": ");
    launch.refused().assert_explained(&["config", "line 2"]);
    scratch.launch_text(&image().bootstrap(), "").refused().assert_explained(&["config"]);
}

#[test]
fn wrong_types_and_values_are_named_by_their_path() {
    require_mounts!();
    let set = |key: &'static str, value: Value| move |config: Value| with_key(&config, key, value);
    refused_config(Form::V1, set("enable_xattr", json!("yes")), &["enable_xattr", "true or false"]);
    refused_config(Form::V1, set("mode", json!("fast")), &["mode", "fast", "direct"]);
    refused_config(Form::V1, set("device.backend.type", json!("tape")), &["device.backend.type", "tape"]);
    refused_config(
        Form::V2Json,
        set("rafs.enable_xattr", json!("yes")),
        &["rafs.enable_xattr", "true or false"],
    );
    refused_config(Form::V2Json, set("rafs.mode", json!("fast")), &["rafs.mode", "fast", "direct"]);
    refused_config(Form::V2Json, set("version", json!(3)), &["version"]);
    refused_config(
        Form::V2Toml,
        set("backend.localfs.dir", json!(7)),
        &["backend.localfs.dir", "expected", "7"],
    );
    refused_config(Form::V2Toml, set("cache.type", json!("cellar")), &["cache.type", "cellar"]);
}

#[test]
fn a_mountpoint_that_is_missing_or_a_file() {
    require_mounts!();
    let scratch = Scratch::new();
    let start = |mountpoint: &Path| {
        Launch::new(mountpoint)
            .option("--config", scratch.write("config", &scratch.config(&image()).to_text()))
            .option("--bootstrap", image().bootstrap())
            .refused()
    };
    start(&scratch.path("no-such-mountpoint")).assert_explained(&["no-such-mountpoint", "No such file"]);
    let file = scratch.write("a-file", "");
    start(&file).assert_explained(&["a-file", "not a directory"]);
}

#[test]
fn a_directory_of_blobs_that_is_missing() {
    require_mounts!();
    let scratch = Scratch::new();
    let mut config = scratch.config(&image());
    config.blobs = scratch.path("no-such-blobs");
    let refusal = scratch.launch(&image().bootstrap(), &config).refused();
    refusal.assert_explained(&["no-such-blobs", "not found"]);
}

#[test]
fn a_mountpoint_with_a_dead_mount() {
    require_mounts!();
    let scratch = Scratch::new();
    let daemon = launch(&scratch).start();
    daemon.kill();
    let refusal = Launch::new(&scratch.mountpoint())
        .option("--config", scratch.path("config"))
        .option("--bootstrap", image().bootstrap())
        .refused();
    let line = refusal.errors().join("\n");
    assert!(!refusal.status.success() && !refusal.stderr.contains("panicked"), "{}", refusal.stderr);
    assert_eq!(refusal.errors().len(), 1, "{}", refusal.stderr);
    assert!(line.contains(scratch.mountpoint().to_str().unwrap()), "{line}");
    assert!(line.contains("umount"), "it says what to do: {line}");
    drop(daemon);
    assert!(mounts::find(&scratch.mountpoint()).is_none());
    launch(&scratch).start().unmount();
}

#[test]
fn no_permission_for_dev_fuse() {
    require_mounts!();
    require_tools!("unshare", "setpriv");
    let scratch = Scratch::new();
    nydus_tests::unprivileged::hand_over(&scratch, &image());
    let script = nydus_tests::unprivileged::namespace_with_dev_fuse(&scratch, 0o600);
    let refusal = nydus_tests::unprivileged::launch(&scratch, &image()).through(script).refused();
    refusal.assert_explained(&["/dev/fuse", "permission"]);
}
