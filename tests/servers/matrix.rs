//! Every fixture image from every kind of backend, configured by schema v1 and by schema v2.

use nydus_tests::config::{Caching, Form};
use nydus_tests::fixtures::{IMAGES, Image};
use nydus_tests::servers::docker_registry::{DockerRegistry, Setup};
use nydus_tests::servers::moto::Moto;
use nydus_tests::servers::nginx::Nginx;
use nydus_tests::servers::oss::Oss;
use nydus_tests::{require_mounts, require_python, require_tools};
use serde_json::json;

use crate::mounting::{check, check_caching};

/// The image whose blob is not named by its digest: it cannot be pushed to a registry.
const NO_DIGEST: &str = "v6-batch-toc";

#[test]
fn every_image_from_a_registry() {
    require_mounts!();
    require_tools!("docker-registry");
    let registry = DockerRegistry::start(&Setup::default());
    for image in IMAGES.iter().filter(|image| image.name != NO_DIGEST) {
        registry.push(image);
        for form in [Form::V1, Form::V2Json] {
            check(image, form, ("registry", registry.backend()), "a registry");
            check_caching(image, form, Caching::Off, ("registry", registry.backend()), "a registry");
        }
    }
    // Pieces of blobs, and nothing twice for want of a proof.
    assert!(registry.blob_requests().iter().all(|status| *status == 206));
}

#[test]
fn the_image_that_no_registry_takes_is_the_only_one() {
    use nydus_tests::manifest::hex;
    use sha2::Digest as _;
    for image in IMAGES {
        let is_named_by_digest = image
            .blob_files()
            .iter()
            .all(|file| file.ends_with(hex(&sha2::Sha256::digest(std::fs::read(file).unwrap()))));
        assert_eq!(is_named_by_digest, image.name != NO_DIGEST, "{}", image.name);
    }
}

#[test]
fn every_image_from_s3() {
    require_mounts!();
    require_python!();
    let moto = Moto::start();
    IMAGES.iter().for_each(|image| moto.put(image));
    moto.check_signatures();
    for image in &IMAGES {
        for form in [Form::V1, Form::V2Json] {
            check(image, form, ("s3", moto.backend()), "S3");
        }
    }
    assert!(moto.blob_requests().iter().all(|status| *status == 206));
}

#[test]
fn every_image_from_oss() {
    require_mounts!();
    let oss = Oss::start(None);
    for image in &IMAGES {
        oss.put(image);
        for (form, version) in [(Form::V1, "v1"), (Form::V2Json, "v4")] {
            let mut keys = oss.backend();
            keys["signature_version"] = json!(version);
            check(image, form, ("oss", keys), &format!("OSS with signature {version}"));
        }
    }
    assert!(oss.requests().iter().all(|(_, _, status)| *status == 206));
}

#[test]
fn every_image_from_a_web_server() {
    require_mounts!();
    require_tools!("nginx");
    for image in &IMAGES {
        let nginx = Nginx::of_files(None, &image.blobs());
        let keys = json!({ "addr": format!("http://{}", nginx.addr()), "path": "nydus" });
        for form in [Form::V2Json, Form::V2Toml] {
            check(image, form, ("http-proxy", keys.clone()), "a web server");
        }
        assert!(nginx.requests("/nydus/").iter().all(|status| *status == 206));
    }
}

#[test]
fn a_web_server_needs_schema_v2() {
    require_mounts!();
    let scratch = nydus_tests::daemon::Scratch::new();
    let keys = json!({ "addr": "http://127.0.0.1:9", "path": "nydus" });
    crate::mounting::launch(&scratch, &Image::named("v6-zstd"), Form::V1, ("http-proxy", keys))
        .refused()
        .assert_explained(&["device.backend.type", "http-proxy"]);
}
