//! `docker-registry`, in all the ways that it asks who reads, and leads to a bucket.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nydus_tests::config::Form;
use nydus_tests::daemon::{Scratch, complaints};
use nydus_tests::fixtures::Image;
use nydus_tests::servers::authority::Authority;
use nydus_tests::servers::docker_registry::{Access, DockerRegistry, PASSWORD, REPO, Setup};
use nydus_tests::servers::moto::Moto;
use nydus_tests::servers::signed_store::SignedStore;
use nydus_tests::{require_mounts, require_python, require_tools};
use reqwest::Method;
use serde_json::json;

use crate::mounting::{check, launch, launch_file_by_file};

/// One image of each format.
const FEW: [&str; 2] = ["v5-zstd-blake3", "v6-zstd"];
/// An own token is not believed any longer so long after its end: the registry allows for clocks that differ.
const LEEWAY: Duration = Duration::from_secs(60);

fn check_access(access: Access) {
    let authority = Authority::new();
    for tls in [None, Some(&authority)] {
        let registry = DockerRegistry::start(&Setup { access, authority: tls, ..Setup::default() });
        let context = format!("a registry, {access:?}, {}", registry.scheme());
        for image in FEW.map(Image::named) {
            registry.push(&image);
            for form in [Form::V1, Form::V2Toml] {
                check(&image, form, ("registry", registry.backend()), &context);
            }
        }
        let statuses = registry.blob_requests();
        let asked = statuses.iter().filter(|status| **status == 401).count();
        let served = statuses.iter().filter(|status| **status == 206).count();
        assert_eq!(asked + served, statuses.len(), "{context}: {statuses:?}");
        // A mount learns once what is asked for; its first reads may ask at the same time.
        assert_eq!(asked > 0, access != Access::Anonymous, "{context}: {statuses:?}");
        assert!(asked < served, "{context}: {statuses:?}");
    }
}

#[test]
fn open_to_all() {
    require_mounts!();
    require_tools!("docker-registry");
    check_access(Access::Anonymous);
}

#[test]
fn with_a_password() {
    require_mounts!();
    require_tools!("docker-registry");
    check_access(Access::Password);
}

#[test]
fn with_tokens_for_a_password() {
    require_mounts!();
    require_tools!("docker-registry");
    check_access(Access::Token);
}

#[test]
fn with_tokens_for_everybody() {
    require_mounts!();
    require_tools!("docker-registry");
    check_access(Access::AnonymousToken);
}

#[test]
fn in_the_clear_where_any_certificate_would_do() {
    require_mounts!();
    require_tools!("docker-registry");
    let registry = DockerRegistry::start(&Setup { access: Access::Password, ..Setup::default() });
    let (image, scratch) = (Image::named("v6-zstd"), Scratch::new());
    registry.push(&image);
    let mut keys = registry.backend();
    keys["scheme"] = json!("https");
    let daemon = launch(&scratch, &image, Form::V1, ("registry", keys.clone())).start();
    fs::read(daemon.mountpoint().join("exact1m")).unwrap_err();
    daemon.unmount();
    assert_eq!(registry.blob_requests(), Vec::<u16>::new(), "a password was sent in the clear unasked");
    keys["skip_verify"] = json!(true);
    let daemon = launch(&scratch, &image, Form::V1, ("registry", keys)).start();
    image.manifest().assert_tree(daemon.mountpoint(), "a registry without TLS, and skip_verify");
    let complaints = complaints(&daemon.unmount());
    assert_eq!(complaints.len(), 1, "{complaints:#?}");
}

#[test]
fn with_its_blobs_in_a_bucket() {
    require_mounts!();
    require_tools!("docker-registry");
    require_python!();
    let moto = Moto::start();
    let store = SignedStore::start(&moto);
    let driver = store.driver();
    for access in [Access::Anonymous, Access::Token] {
        let registry = DockerRegistry::start(&Setup { access, bucket: Some(&driver), ..Setup::default() });
        for image in FEW.map(Image::named) {
            registry.push(&image);
            for form in [Form::V1, Form::V2Json] {
                check(&image, form, ("registry", registry.backend()), &format!("a bucket, {access:?}"));
            }
        }
        assert!(registry.blob_requests().contains(&307));
        assert!(!registry.blob_requests().contains(&206));
    }
    let signed = store.signed_requests();
    assert!(signed.len() > 4 && signed.iter().all(|status| *status == 206), "{signed:?}");
}

#[test]
fn addresses_whose_signature_has_expired_are_signed_anew() {
    require_mounts!();
    require_tools!("docker-registry");
    require_python!();
    let moto = Moto::start();
    let store = SignedStore::start(&moto);
    let registry = DockerRegistry::start(&Setup { bucket: Some(&store.driver()), ..Setup::default() });
    let (image, scratch) = (Image::named("v6-zstd"), Scratch::new());
    registry.push(&image);
    let daemon = launch_file_by_file(&scratch, &image, registry.backend());
    fs::read(daemon.mountpoint().join("many/1")).unwrap();
    let before = store.signatures();
    store.revoke();
    // Within one second the registry would sign in the same words.
    std::thread::sleep(Duration::from_millis(1100));
    image.manifest().assert_tree(daemon.mountpoint(), "after the signatures have expired");
    assert!(store.signed_requests().contains(&403) && store.signatures() > before);
    let stderr = daemon.unmount();
    assert!(!stderr.contains("Signature="), "{stderr}");
}

#[test]
fn it_is_read_beyond_the_life_of_a_token() {
    require_mounts!();
    require_tools!("docker-registry");
    let life = Duration::from_secs(8);
    let setup = Setup { access: Access::Token, token_life: Some(life.as_secs()), ..Setup::default() };
    let registry = DockerRegistry::start(&setup);
    let image = Image::named("v6-zstd");
    registry.push(&image);
    let start = Instant::now();
    let scratches = [Scratch::new(), Scratch::new()];
    let [busy, idle] = scratches.each_ref().map(|scratch| {
        let daemon = launch_file_by_file(scratch, &image, registry.backend());
        fs::read(daemon.mountpoint().join("many/1")).unwrap();
        daemon
    });
    let first = registry.tokens().issued().first().expect("a token was fetched").clone();
    let blob = image.blob_files().remove(0);
    let blob = blob.file_name().unwrap().to_str().unwrap();
    let address = format!("{}/v2/{REPO}/blobs/sha256:{blob}", registry.url());
    let proof = format!("Bearer {first}");
    let ask = || registry.client().send(Method::HEAD, &address, &[("authorization", &proof)], Vec::new());
    assert!(ask().status.is_success());
    // It was issued before this.
    let end = Instant::now() + life + LEEWAY + Duration::from_secs(3);
    for number in 2.. {
        if Instant::now() > end {
            break;
        }
        let found = fs::read(busy.mountpoint().join(format!("many/{number}"))).unwrap();
        assert_eq!(found, *image.files()[Path::new(&format!("many/{number}"))]);
        std::thread::sleep(Duration::from_millis(250));
    }
    assert_eq!(ask().status, 401, "the registry still believes the first token");
    let lives = start.elapsed().as_secs_f64() / life.as_secs_f64();
    let issued = registry.tokens().issued().len();
    // One for the daemon that was idle; and at most 17 in ten lives.
    assert!(issued >= 8 && (issued as f64) < 2.0 + 1.7 * lives, "{issued} tokens in {lives:.1} lives");
    for (daemon, context) in [(busy, "the busy daemon"), (idle, "the idle daemon")] {
        image.manifest().assert_tree(daemon.mountpoint(), context);
        let stderr = daemon.unmount();
        assert!(complaints(&stderr).is_empty(), "{context}: {stderr}");
        assert!(!stderr.contains(&first) && !stderr.contains(PASSWORD), "{stderr}");
    }
}
