//! What is secret is never printed: not by `Debug`, not in errors, not in logs.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use storage::backend::http_proxy::{HttpProxy, HttpProxyConfig};
use storage::backend::oss::{Oss, OssConfig, SignatureVersion};
use storage::backend::registry::RegistryConfig;
use storage::backend::s3::{Addressing, S3, S3Config};
use storage::http::{Commons, HttpOptions, Mirror, Proxy, Scheme};
use storage::secret::{Secret, SecretUrl};

use crate::double::{Double, Reply};
use crate::setup::{auth, basic, config, content, open, read};
use crate::tls::Authority;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn nothing_secret_is_printed() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    // While there is but one subscriber, another test's thread, which has none, may decide that nobody wants to hear.
    let _another = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    // What libraries tell the older way, too.
    tracing_log::LogTracer::init().unwrap();

    let service = Double::new(|_| Reply::new(200, r#"{"token":"secret-bearer"}"#)).await;
    let (realm, store) = (service.url(), Double::new(|_| Reply::new(500, "secret-echo")).await);
    let location = format!("{}/x?sig=secret-signature", store.url());
    let double = Double::new(move |seen| match seen.header("authorization") {
        Some("Bearer secret-bearer") => Reply::new(307, "").with("location", location.clone()),
        _ => Reply::new(401, "").with("www-authenticate", format!(r#"Bearer realm="{realm}/token""#)),
    })
    .await;
    let mut config = RegistryConfig {
        auth: Some(auth("u", "secret-password")),
        registry_token: Some(Secret::new("secret-initial")),
        ..config(&double)
    };
    config.http.retry_limit = 1;
    config.http.headers.insert("X-Key".to_owned(), Secret::new("secret-header"));
    let mut printed = format!("{config:?}");
    let registry = open(config);
    let error = read(&registry, 0, 1).await.unwrap_err();
    assert!(store.seen().len() == 2, "it came as far as the store: {error}");
    printed += &format!("{registry:?} {error} {error:?}");

    let bucket = Double::new(|seen| Reply::range(&content(9), seen)).await;
    let s3 = S3Config {
        scheme: Scheme::Http,
        endpoint: bucket.host(),
        region: "r".to_owned(),
        bucket_name: "b".to_owned(),
        object_prefix: String::new(),
        access_key_id: Some(Secret::new("secret-id")),
        access_key_secret: Some(Secret::new("secret-key")),
        session_token: Some(Secret::new("secret-session")),
        addressing: Addressing::Path,
        http: HttpOptions::default(),
    };
    printed += &format!("{s3:?}");
    let s3 = S3::new(s3, &Commons::new()).unwrap();
    read(&s3, 0, 1).await.unwrap();
    printed += &format!("{s3:?} {:?}", read(&s3, 9, 1).await.unwrap_err());

    let oss = OssConfig {
        scheme: Scheme::Http,
        endpoint: bucket.host(),
        bucket_name: "b".to_owned(),
        object_prefix: String::new(),
        access_key_id: Some(Secret::new("secret-id")),
        access_key_secret: Some(Secret::new("secret-key")),
        security_token: Some(Secret::new("secret-session")),
        region: Some("r".to_owned()),
        signature_version: SignatureVersion::V4,
        addressing: Addressing::Path,
        http: HttpOptions::default(),
    };
    printed += &format!("{oss:?}");
    let oss = Oss::new(oss, &Commons::new()).unwrap();
    read(&oss, 0, 1).await.unwrap();
    printed += &format!("{oss:?} {:?}", read(&oss, 9, 1).await.unwrap_err());

    printed += &addresses_that_hold_secrets().await;
    printed += &a_redirect_over_http2().await;

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("a request failed"), "the log is read: {log}");
    assert!(log.contains("h2::client") && log.contains("reqsign"), "and that of libraries: {log}");
    printed += &log;
    assert!(!printed.contains("secret-"), "{printed}");
    assert!(!printed.contains(&basic("u", "secret-password")), "{printed}");
}

/// Passwords in the addresses of mirrors, proxies and servers, tokens in those of pings.
async fn addresses_that_hold_secrets() -> String {
    let server = Double::new(|seen| match seen.header("range") {
        Some(_) => Reply::range(&content(9), seen),
        None => Reply::new(200, ""),
    })
    .await;
    let address = |path: &str| SecretUrl::new(format!("http://u:secret-user@{}{path}", server.host()));
    let plain = HttpProxyConfig { addr: address(""), path: "p".to_owned(), http: HttpOptions::default() };
    let mut printed = format!("{plain:?}");
    let plain = HttpProxy::new(plain, &Commons::new()).unwrap();
    read(&plain, 0, 1).await.unwrap();
    assert_eq!(
        server.seen()[0].header("authorization"),
        Some(&*format!("Basic {}", basic("u", "secret-user")))
    );
    printed += &format!("{plain:?} {:?}", read(&plain, 9, 1).await.unwrap_err());

    let origin = Double::new(|_| Reply::new(500, "")).await;
    let mut mirrored = config(&origin);
    mirrored.http.retry_limit = 1;
    mirrored.http.mirrors = vec![Mirror {
        host: address("/m"),
        headers: [("X-Key".to_owned(), Secret::new("secret-header"))].into(),
        ping_url: Some(address("/ping?key=secret-ping")),
        health_check_interval: std::time::Duration::from_millis(1),
        failure_limit: 1,
    }];
    let mut proxied = config(&origin);
    proxied.http.retry_limit = 1;
    proxied.http.proxy = Some(Proxy {
        url: address(""),
        ping_url: Some(address("/ping?key=secret-ping")),
        fallback: true,
        check_interval: std::time::Duration::from_millis(1),
        check_pause_elapsed: std::time::Duration::from_secs(300),
        use_http: false,
    });
    for config in [mirrored, proxied] {
        printed += &format!("{config:?}");
        let registry = open(config);
        let before = server.seen().len();
        printed += &format!("{:?} {:?}", read(&registry, 0, 1).await, read(&registry, 9, 1).await);
        assert!(server.seen().len() > before);
        printed += &format!("{registry:?}");
    }
    // So that what is looked for would be found.
    printed.replace(&basic("u", "secret-user"), "secret-encoded")
}

/// A signed address that is remembered, and heads over HTTP/2, whose library prints frames.
async fn a_redirect_over_http2() -> String {
    let authority = Authority::new();
    let store =
        Double::tls(authority.acceptor("127.0.0.1", false), |seen| Reply::range(&content(9), seen)).await;
    let location = format!("https://{}/x?sig=secret-signature", store.host());
    let double =
        Double::tls(authority.acceptor("127.0.0.1", false), move |seen| match seen.header("authorization") {
            None => Reply::new(401, "").with("www-authenticate", "Basic realm=r"),
            Some(_) => Reply::new(307, "").with("location", location.clone()),
        })
        .await;
    let mut config =
        RegistryConfig { scheme: Scheme::Https, auth: Some(auth("u", "secret-password")), ..config(&double) };
    config.http.ca_cert_files = vec![authority.file()];
    config.http.headers.insert("X-Key".to_owned(), Secret::new("secret-header"));
    let registry = open(config);
    read(&registry, 0, 1).await.unwrap();
    read(&registry, 1, 1).await.unwrap();
    assert_eq!((double.seen().len(), store.seen().len()), (2, 2));
    format!("{registry:?} {:?}", read(&registry, 9, 1).await.unwrap_err())
}
