//! Buckets of S3 and OSS: keys, temporary ones too, TLS; and what the real client of OSS says to its double.

use std::process::Command;

use nydus_tests::config::Form;
use nydus_tests::fixtures::Image;
use nydus_tests::servers::authority::Authority;
use nydus_tests::servers::moto::Moto;
use nydus_tests::servers::nginx::{Nginx, Tls};
use nydus_tests::servers::oss::{self, Oss};
use nydus_tests::servers::python;
use nydus_tests::{require_mounts, require_python, require_tools};
use reqwest::Method;
use serde_json::json;

use crate::mounting::check;

/// What `oss2_client.py` made of the store: it ends with 0 where all it did was right, else with the code of the refusal.
fn oss2(oss: &Oss, version: &str, (id, secret, token): (&str, &str, &str)) -> Result<(), String> {
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("servers/oss2_client.py");
    let output = Command::new(python::programs().unwrap().join("python"))
        .arg(script)
        .args([oss.url().as_str(), oss::BUCKET, oss::REGION, version, id, secret, token])
        .output()
        .unwrap();
    let [said, failed] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    match output.status.code() {
        Some(0) => Ok(()),
        Some(3) => Err(said.trim().to_owned()),
        _ => panic!("{}: {said}\n{failed}", output.status),
    }
}

#[test]
fn the_real_client_of_oss_believes_its_double() {
    require_python!();
    let oss = Oss::start(None);
    for version in ["v1", "v4"] {
        let (id, secret) = oss::KEY;
        assert_eq!(oss2(&oss, version, (id, secret, "")), Ok(()), "{version}");
        assert_eq!(oss2(&oss, version, oss::TEMPORARY), Ok(()), "{version}, temporary");
        let (temporary_id, temporary_secret, token) = oss::TEMPORARY;
        for (key, code) in [
            ((id, "another", ""), "403 SignatureDoesNotMatch"),
            (("nobody", secret, ""), "403 InvalidAccessKeyId"),
            ((id, secret, token), "403 InvalidAccessKeyId"),
            ((temporary_id, temporary_secret, ""), "403 InvalidAccessKeyId"),
            ((temporary_id, "another", token), "403 SignatureDoesNotMatch"),
        ] {
            assert_eq!(oss2(&oss, version, key), Err(code.to_owned()), "{version}, {key:?}");
        }
    }
    // Only what was signed has had an effect.
    let statuses = oss.requests().into_iter().map(|(_, _, status)| status);
    assert_eq!(statuses.filter(|status| *status == 403).count(), 10);
}

#[test]
fn oss_with_temporary_keys_and_over_tls() {
    require_mounts!();
    let authority = Authority::new();
    let image = Image::named("v6-zstd");
    for tls in [None, Some(&authority)] {
        let oss = Oss::start(tls);
        oss.put(&image);
        let (id, secret, token) = oss::TEMPORARY;
        for (form, version) in [(Form::V1, "v4"), (Form::V2Toml, "v1")] {
            let mut keys = oss.backend();
            keys["access_key_id"] = json!(id);
            keys["access_key_secret"] = json!(secret);
            keys["security_token"] = json!(token);
            keys["signature_version"] = json!(version);
            check(&image, form, ("oss", keys), &format!("{} with a temporary key, {version}", oss.url()));
        }
    }
}

#[test]
fn oss_at_the_host_of_the_bucket() {
    require_mounts!();
    let (oss, image) = (Oss::start(None), Image::named("v6-zstd"));
    oss.put(&image);
    for (form, version) in [(Form::V1, "v1"), (Form::V2Json, "v4")] {
        let mut keys = oss.backend();
        // A name that does not resolve: who is asked for it is the store itself.
        keys["endpoint"] = json!("oss.invalid");
        keys["proxy"] = json!({ "url": oss.url(), "fallback": false });
        keys["addressing"] = json!("virtual");
        keys["signature_version"] = json!(version);
        check(&image, form, ("oss", keys), &format!("the bucket's host, {version}"));
    }
}

#[test]
fn s3_over_tls() {
    require_mounts!();
    require_tools!("nginx");
    require_python!();
    let (authority, image) = (Authority::new(), Image::named("v6-zstd"));
    let moto = Moto::start();
    moto.put(&image);
    moto.check_signatures();
    let directives = format!(
        "location / {{ proxy_set_header Host $http_host; proxy_http_version 1.1; proxy_pass {}; }}",
        moto.url()
    );
    let nginx = Nginx::start(Some(&Tls::of(&authority)), &directives);
    for form in [Form::V1, Form::V2Toml] {
        let mut keys = moto.backend();
        keys["scheme"] = json!("https");
        keys["endpoint"] = json!(nginx.addr().to_string());
        keys["ca_cert_files"] = json!([authority.file()]);
        check(&image, form, ("s3", keys), "S3 over TLS");
    }
    assert!(nginx.requests("/").iter().all(|status| *status == 206));
}

#[test]
fn s3_behind_a_mirror() {
    require_mounts!();
    require_tools!("nginx");
    require_python!();
    let (moto, image) = (Moto::start(), Image::named("v6-zstd"));
    moto.put(&image);
    moto.check_signatures();
    let directives = format!("location / {{ proxy_set_header Host $http_host; proxy_pass {}; }}", moto.url());
    let mirror = Nginx::start(None, &directives);
    for form in [Form::V1, Form::V2Toml] {
        let mut keys = moto.backend();
        // The bucket itself is not to be had.
        keys["endpoint"] = json!("s3.invalid");
        keys["mirrors"] = json!([{ "host": format!("http://{}", mirror.addr()) }]);
        check(&image, form, ("s3", keys), "a mirror of S3");
    }
    let statuses = mirror.requests("/images/");
    assert!(!statuses.is_empty() && statuses.iter().all(|status| *status == 206), "{statuses:?}");
}

/// That the server checks what it is said to check.
#[test]
fn moto_refuses_whom_it_does_not_know() {
    require_python!();
    let moto = Moto::start();
    moto.put_object("object", b"content".to_vec());
    let address = format!("{}/images/nydus/object", moto.url());
    moto.check_signatures();
    assert_eq!(moto.client().send(Method::GET, &address, &[], Vec::new()).status, 403);
}
