//! OSS and S3, against doubles that check each signature.

use std::sync::Arc;
use std::time::Duration;

use storage::Error;
use storage::backend::laws::{self, Fixture, Object};
use storage::backend::oss::{Addressing, Oss, OssConfig, SignatureVersion};
use storage::backend::s3::{S3, S3Config};
use storage::http::{Commons, HttpOptions, Mirror, Proxy, Scheme};
use storage::secret::{Secret, SecretUrl};

use crate::double::{Double, Reply, Seen};
use crate::setup::{blob, content, read};
use crate::verify;

const KEY: (&str, &str) = ("AKID", "wJal/rXU+tn==");
const DENIED: &str = "<Error><Code>SignatureDoesNotMatch</Code><StringToSign>s</StringToSign></Error>";

fn s3_config(endpoint: &str) -> S3Config {
    S3Config {
        scheme: Scheme::Http,
        endpoint: endpoint.to_owned(),
        region: "eu-test-1".to_owned(),
        bucket_name: "images".to_owned(),
        object_prefix: "a b/ü+".to_owned(),
        access_key_id: Some(Secret::new(KEY.0)),
        access_key_secret: Some(Secret::new(KEY.1)),
        session_token: None,
        addressing: Addressing::Path,
        http: HttpOptions::default(),
    }
}

fn oss_config(endpoint: &str, signature_version: SignatureVersion) -> OssConfig {
    OssConfig {
        scheme: Scheme::Http,
        endpoint: endpoint.to_owned(),
        bucket_name: "images".to_owned(),
        object_prefix: "a b/ü+".to_owned(),
        access_key_id: Some(Secret::new(KEY.0)),
        access_key_secret: Some(Secret::new(KEY.1)),
        security_token: Some(Secret::new("sts-token")),
        region: Some("cn-test".to_owned()),
        signature_version,
        addressing: Addressing::Path,
        http: HttpOptions::default(),
    }
}

/// Reaches by `double` what has a name that does not resolve.
fn through(double: &Double) -> HttpOptions {
    let proxy = Proxy {
        url: SecretUrl::new(double.url()),
        ping_url: None,
        fallback: false,
        check_interval: Duration::from_secs(5),
        check_pause_elapsed: Duration::from_secs(300),
        use_http: false,
    };
    HttpOptions { proxy: Some(proxy), ..HttpOptions::default() }
}

/// The object, or what a store says to a wrong signature.
fn checked(objects: &[Object], seen: &Seen, is_signed: impl Fn(&Seen) -> bool) -> Reply {
    if is_signed(seen) { Reply::object(objects, seen) } else { Reply::new(403, DENIED) }
}

fn decoded(path: &str) -> String {
    path.replace("%20", " ").replace("%C3%BC", "ü").replace("%2B", "+")
}

#[tokio::test]
async fn s3_keeps_the_laws() {
    laws::all(async |objects| {
        let double = Double::new(move |seen| {
            assert!(seen.path().starts_with("/images/a%20b/%C3%BC%2B"), "{}", seen.path());
            let host = seen.header("host").unwrap().to_owned();
            checked(&objects, seen, |seen| verify::s3(seen, &host, "eu-test-1", KEY))
        })
        .await;
        let s3 = S3::new(s3_config(&double.host()), &Commons::new()).unwrap();
        Fixture { backend: Arc::new(s3), keep: Box::new(double) }
    })
    .await;
}

#[tokio::test]
async fn s3_keeps_the_laws_at_a_virtual_host_with_a_session() {
    laws::all(async |objects| {
        let double = Double::new(move |seen| {
            checked(&objects, seen, |seen| {
                let signed = seen.header("authorization").unwrap();
                assert!(signed.contains("x-amz-security-token") && !seen.path().contains("images"));
                assert_eq!(seen.header("x-amz-security-token"), Some("session"));
                assert_eq!(seen.header("host"), Some("images.s3.invalid"));
                verify::s3(seen, "images.s3.invalid", "eu-test-1", KEY)
            })
        })
        .await;
        let mut config = s3_config("s3.invalid");
        config.session_token = Some(Secret::new("session"));
        config.addressing = Addressing::Virtual;
        config.http = through(&double);
        let s3 = S3::new(config, &Commons::new()).unwrap();
        Fixture { backend: Arc::new(s3), keep: Box::new(double) }
    })
    .await;
}

#[tokio::test]
async fn oss_keeps_the_laws_with_both_signatures() {
    for version in [SignatureVersion::V1, SignatureVersion::V4] {
        laws::all(async |objects| {
            let double = Double::new(move |seen| {
                checked(&objects, seen, |seen| {
                    assert_eq!(seen.header("x-oss-security-token"), Some("sts-token"));
                    match version {
                        SignatureVersion::V1 => verify::oss_v1(seen, &decoded(seen.path()), KEY),
                        SignatureVersion::V4 => verify::oss_v4(seen, seen.path(), "cn-test", KEY),
                    }
                })
            })
            .await;
            let oss = Oss::new(oss_config(&double.host(), version), &Commons::new()).unwrap();
            Fixture { backend: Arc::new(oss), keep: Box::new(double) }
        })
        .await;
    }
}

#[tokio::test]
async fn oss_at_a_virtual_host() {
    for version in [SignatureVersion::V1, SignatureVersion::V4] {
        let objects = [Object { id: blob(), content: content(4096) }];
        let double = Double::new(move |seen| {
            checked(&objects, seen, |seen| match version {
                SignatureVersion::V1 => {
                    verify::oss_v1(seen, &format!("/images{}", decoded(seen.path())), KEY)
                }
                SignatureVersion::V4 => {
                    verify::oss_v4(seen, &format!("/images{}", seen.path()), "cn-test", KEY)
                }
            })
        })
        .await;
        let mut config = oss_config("oss.invalid", version);
        config.security_token = None;
        config.addressing = Addressing::Virtual;
        config.http = through(&double);
        let oss = Oss::new(config, &Commons::new()).unwrap();
        assert_eq!(read(&oss, 10, 20).await.unwrap(), content(4096)[10..30]);
    }
}

#[tokio::test]
async fn a_wrong_secret_is_denied_at_once() {
    let double = Double::new(|seen| {
        let host = seen.header("host").unwrap().to_owned();
        checked(&[], seen, |seen| verify::s3(seen, &host, "eu-test-1", KEY))
    })
    .await;
    let mut config = s3_config(&double.host());
    config.access_key_secret = Some(Secret::new("hunter2"));
    let error = read(&S3::new(config, &Commons::new()).unwrap(), 0, 1).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    assert!(error.to_string().contains("(SignatureDoesNotMatch)"), "{error}");
    assert!(error.to_string().contains(&format!("a b/ü+{}", blob())), "{error}");
    assert_eq!(double.seen().len(), 1);
}

#[tokio::test]
async fn without_a_key_nothing_is_signed() {
    let double = Double::new(|seen| Reply::range(&content(100), seen)).await;
    let mut config = s3_config(&double.host());
    (config.access_key_id, config.access_key_secret) = (None, None);
    read(&S3::new(config, &Commons::new()).unwrap(), 0, 1).await.unwrap();
    assert_eq!(double.seen()[0].header("authorization"), None);
}

#[tokio::test]
async fn a_mirror_gets_a_signature_that_it_can_check() {
    let objects = [Object { id: blob(), content: content(4096) }];
    let mirrored = {
        let objects = objects.clone();
        Double::new(move |seen| {
            let host = seen.header("host").unwrap().to_owned();
            match seen.header("authorization").unwrap_or_default() {
                // Pings carry no signature.
                "" => Reply::new(403, DENIED),
                signed if signed.starts_with("AWS4") => {
                    checked(&objects, seen, |seen| verify::s3(seen, &host, "eu-test-1", KEY))
                }
                _ => checked(&objects, seen, |seen| {
                    let path = seen.path().strip_prefix("/copy").unwrap();
                    verify::oss_v4(seen, &format!("/images{path}"), "cn-test", KEY)
                }),
            }
        })
        .await
    };
    let origin = Double::new(|_| Reply::new(500, "")).await;
    let mirror = |path: &str| Mirror {
        host: SecretUrl::new(format!("{}{path}", mirrored.url())),
        headers: std::collections::BTreeMap::new(),
        ping_url: None,
        health_check_interval: Duration::from_secs(60),
        failure_limit: 5,
    };
    let mut s3 = s3_config(&origin.host());
    s3.http.mirrors = vec![mirror("")];
    assert_eq!(read(&S3::new(s3, &Commons::new()).unwrap(), 10, 20).await.unwrap(), content(4096)[10..30]);
    let mut oss = oss_config("oss.invalid", SignatureVersion::V4);
    oss.addressing = Addressing::Virtual;
    oss.http.mirrors = vec![mirror("/copy")];
    assert_eq!(read(&Oss::new(oss, &Commons::new()).unwrap(), 10, 20).await.unwrap(), content(4096)[10..30]);
    assert_eq!(origin.seen().len(), 0);
}
