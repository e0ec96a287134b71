//! Who is not let in, and what is not there: told at once in one clear line, asked for once, and nothing of it is kept.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nydus_tests::config::Form;
use nydus_tests::daemon::{Scratch, complaints};
use nydus_tests::fixtures::Image;
use nydus_tests::readers::{open_direct, read_at};
use nydus_tests::servers::authority::Authority;
use nydus_tests::servers::docker_registry::{Access, DockerRegistry, Setup};
use nydus_tests::servers::moto::Moto;
use nydus_tests::servers::nginx::{Nginx, Tls};
use nydus_tests::servers::oss::{self, Oss};
use nydus_tests::{require_mounts, require_python, require_tools};
use serde_json::{Value, json};

use crate::mounting::launch;

/// What retrying cannot help is told within this time, on a machine that is busy too; a read has a minute.
const AT_ONCE: Duration = Duration::from_secs(20);
/// The file that is read.
const FILE: &str = "exact1m";

/// One kind of server, a configuration that it refuses, and one that it does not.
struct Refusal<'a> {
    kind: &'static str,
    refused: Value,
    /// Called before the image is read once more, with the cache that the refusal left.
    mend: &'a dyn Fn(),
    right: Value,
    /// What the line says.
    words: &'a [&'a str],
    /// Requests for blobs that the server has answered.
    requests: &'a dyn Fn() -> usize,
    /// The most of them that a read may cost.
    most_requests: usize,
}

impl Refusal<'_> {
    /// Reads a piece of a file, which must fail at once and in one line; then all of it through the page cache; then the
    /// whole image as it is configured rightly.
    fn check(&self, secrets: &[&str]) {
        let (image, scratch) = (Image::named("v6-zstd"), Scratch::new());
        let daemon = launch(&scratch, &image, Form::V2Json, (self.kind, self.refused.clone())).start();
        let path = daemon.mountpoint().join(FILE);
        assert!(path.is_file(), "the tree is there all the same");
        let before = (self.requests)();
        let start = Instant::now();
        let error = open_direct(&path).and_then(|file| read_at(&file, 0, 4096)).unwrap_err();
        let took = start.elapsed();
        daemon.wait_for("it says why", || !complaints(&daemon.stderr()).is_empty());
        let lines = complaints(&daemon.stderr());
        assert_eq!(error.raw_os_error(), Some(nix::libc::EIO), "{error}: {lines:#?}");
        assert!(took < AT_ONCE, "{took:?}: {lines:#?}");
        let [line] = &lines[..] else { panic!("{} lines instead of one: {lines:#?}", lines.len()) };
        for word in self.words {
            assert!(line.contains(word), "{word:?} is not in {line:?}");
        }
        let requests = (self.requests)() - before;
        assert!(requests <= self.most_requests, "{requests} requests for one read: {line}");

        let start = Instant::now();
        fs::read(&path).unwrap_err();
        assert!(start.elapsed() < AT_ONCE, "{:?} through the page cache", start.elapsed());
        let stderr = daemon.unmount();
        for secret in secrets {
            assert!(!stderr.contains(secret), "{secret:?} is in the log:\n{stderr}");
        }
        assert_eq!(stored(&scratch.cache()), Vec::<PathBuf>::new(), "something was cached");

        (self.mend)();
        let daemon = launch(&scratch, &image, Form::V2Json, (self.kind, self.right.clone())).start();
        image.manifest().assert_tree(daemon.mountpoint(), "with the same cache, as it is right");
        daemon.unmount();
        assert_ne!(
            stored(&scratch.cache()),
            Vec::<PathBuf>::new(),
            "nothing was cached, now that it is right"
        );
    }
}

/// The files of a cache directory in which chunks are stored.
fn stored(cache: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path());
    let has_data = |path: &PathBuf| {
        let name = path.to_str().unwrap();
        name.ends_with(".blob.data") && path.metadata().unwrap().blocks() > 0
    };
    files.filter(has_data).collect()
}

fn nothing() {}

fn with(keys: &Value, key: &str, value: &str) -> Value {
    let mut changed = keys.clone();
    changed[key] = json!(value);
    changed
}

#[test]
fn a_wrong_password_at_a_registry() {
    require_mounts!();
    require_tools!("docker-registry");
    for access in [Access::Password, Access::Token] {
        let registry = DockerRegistry::start(&Setup { access, ..Setup::default() });
        registry.push(&Image::named("v6-zstd"));
        let right = registry.backend();
        Refusal {
            kind: "registry",
            // tester:hunter2
            refused: with(&right, "auth", "dGVzdGVyOmh1bnRlcjI="),
            mend: &nothing,
            right,
            words: &["access denied", "401", "library/test", "sha256:"],
            requests: &|| registry.blob_requests().len(),
            most_requests: 2,
        }
        .check(&["hunter2", "dGVzdGVyOmh1bnRlcjI="]);
        if access == Access::Token {
            let (refused, issued) = (registry.tokens().refused(), registry.tokens().issued().len());
            // By POST and by GET, for each of the reads.
            assert!(refused <= 8 && issued == 1, "{refused} refused, {issued} issued");
        }
    }
}

#[test]
fn a_wrong_key_at_s3() {
    require_mounts!();
    require_python!();
    let moto = Moto::start();
    moto.put(&Image::named("v6-zstd"));
    moto.check_signatures();
    let right = moto.backend();
    for (key, value, said) in [
        ("access_key_secret", "hunter2", "403 Forbidden (SignatureDoesNotMatch)"),
        ("access_key_id", "AKIANOBODY", "403 Forbidden (InvalidAccessKeyId)"),
        ("session_token", "hunter2", "400 Bad Request (InvalidToken)"),
    ] {
        Refusal {
            kind: "s3",
            refused: with(&right, key, value),
            mend: &nothing,
            right: right.clone(),
            words: &[said, "s3 bucket images", "nydus/"],
            requests: &|| moto.blob_requests().len(),
            most_requests: 1,
        }
        .check(&["hunter2", moto.key().1]);
    }
}

#[test]
fn a_wrong_key_at_oss() {
    require_mounts!();
    let oss = Oss::start(None);
    oss.put(&Image::named("v6-zstd"));
    let right = oss.backend();
    for version in ["v1", "v4"] {
        for (key, value, code) in [
            ("access_key_secret", "hunter2", "SignatureDoesNotMatch"),
            ("access_key_id", "NOBODY", "InvalidAccessKeyId"),
            ("security_token", "hunter2", "InvalidAccessKeyId"),
        ] {
            let right = with(&right, "signature_version", version);
            Refusal {
                kind: "oss",
                refused: with(&right, key, value),
                mend: &nothing,
                right,
                words: &["access denied", code, "oss bucket images", "nydus/"],
                requests: &|| oss.requests().len(),
                most_requests: 1,
            }
            .check(&["hunter2", oss::KEY.1]);
        }
    }
}

#[test]
fn a_blob_that_is_not_there() {
    require_mounts!();
    require_tools!("docker-registry", "nginx");
    require_python!();
    let image = Image::named("v6-zstd");
    let registry = DockerRegistry::start(&Setup::default());
    Refusal {
        kind: "registry",
        refused: registry.backend(),
        mend: &|| registry.push(&image),
        right: registry.backend(),
        words: &["not found", "library/test", "sha256:"],
        requests: &|| registry.blob_requests().len(),
        most_requests: 1,
    }
    .check(&[]);
    let moto = Moto::start();
    moto.put_object("another", Vec::new());
    Refusal {
        kind: "s3",
        refused: moto.backend(),
        mend: &|| moto.put(&image),
        right: moto.backend(),
        words: &["not found", "s3 bucket images", "nydus/"],
        requests: &|| moto.blob_requests().len(),
        most_requests: 1,
    }
    .check(&[]);
    let oss = Oss::start(None);
    Refusal {
        kind: "oss",
        refused: oss.backend(),
        mend: &|| oss.put(&image),
        right: oss.backend(),
        words: &["not found", "oss bucket images", "nydus/"],
        requests: &|| oss.requests().len(),
        most_requests: 1,
    }
    .check(&[]);
    let files = tempfile::tempdir().unwrap();
    let nginx = Nginx::of_files(None, files.path());
    let keys = json!({ "addr": format!("http://{}", nginx.addr()), "path": "nydus" });
    Refusal {
        kind: "http-proxy",
        refused: keys.clone(),
        mend: &|| {
            for file in image.blob_files() {
                fs::copy(&file, files.path().join(file.file_name().unwrap())).unwrap();
            }
        },
        right: keys,
        words: &["not found", "http-proxy http://127.0.0.1"],
        requests: &|| nginx.requests("/nydus/").len(),
        most_requests: 1,
    }
    .check(&[]);
}

/// A server that has something else under the name of the blob.
#[test]
fn a_blob_with_other_content() {
    require_mounts!();
    require_tools!("nginx");
    let image = Image::named("v6-zstd");
    let files = tempfile::tempdir().unwrap();
    let copy = |change: &dyn Fn(&mut Vec<u8>)| {
        for file in image.blob_files() {
            let mut content = fs::read(&file).unwrap();
            change(&mut content);
            fs::write(files.path().join(file.file_name().unwrap()), content).unwrap();
        }
    };
    copy(&|content| content.iter_mut().for_each(|byte| *byte = byte.wrapping_add(1)));
    let nginx = Nginx::of_files(None, files.path());
    let keys = json!({ "addr": format!("http://{}", nginx.addr()), "path": "nydus" });
    let scratch = Scratch::new();
    let daemon = launch(&scratch, &image, Form::V2Json, ("http-proxy", keys.clone())).start();
    let start = Instant::now();
    let error: io::Error = fs::read(daemon.mountpoint().join(FILE)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::EIO), "{error}");
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    let requests = nginx.requests("/nydus/").len();
    assert!(requests <= 8, "{requests} requests");
    daemon.unmount();
    assert_eq!(stored(&scratch.cache()), Vec::<PathBuf>::new(), "something was cached");
    copy(&|_| ());
    let daemon = launch(&scratch, &image, Form::V2Json, ("http-proxy", keys)).start();
    image.manifest().assert_tree(daemon.mountpoint(), "with the same cache, as it is right");
    daemon.unmount();
}

#[test]
fn a_certificate_that_is_not_believed() {
    require_mounts!();
    require_tools!("nginx");
    let (image, authority, other) = (Image::named("v6-zstd"), Authority::new(), Authority::new());
    let expired = Tls { issued: authority.expired(), clients: None };
    for (tls, word) in [(Tls::of(&other), "UnknownIssuer"), (expired, "expired")] {
        let nginx = Nginx::of_files(Some(&tls), &image.blobs());
        let mut keys = json!({ "addr": format!("https://{}", nginx.addr()), "path": "nydus", "ca_cert_files": [authority.file()] });
        let refused = keys.clone();
        keys["skip_verify"] = json!(true);
        Refusal {
            kind: "http-proxy",
            refused,
            mend: &nothing,
            right: keys,
            words: &["certificate", word, "http-proxy https://127.0.0.1"],
            requests: &|| nginx.requests("/").len(),
            most_requests: 0,
        }
        .check(&[]);
    }
}
