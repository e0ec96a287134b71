//! TLS: whom we believe, and who we prove to be.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Version;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use storage::Error;
use storage::backend::Backend as _;
use storage::backend::registry::RegistryConfig;
use storage::http::Scheme;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::double::{Double, Reply, Seen};
use crate::setup::{config, content, open, read};

fn serve(seen: &Seen) -> Reply {
    Reply::range(&content(1000), seen)
}

/// A certificate authority with its files.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: tempfile::TempDir,
}

impl Authority {
    pub fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        params.distinguished_name.push(DnType::CommonName, format!("authority {number}"));
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, dir }
    }

    pub fn file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    pub fn acceptor(&self, name: &str, wants_client: bool) -> TlsAcceptor {
        self.acceptor_of(self.issue(name), wants_client)
    }

    /// With a certificate that has ended.
    fn expired(&self, name: &str) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.not_before, params.not_after) =
            (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1));
        self.acceptor_of((params.signed_by(&key, &self.issuer).unwrap(), key), false)
    }

    fn acceptor_of(
        &self,
        (certificate, key): (rcgen::Certificate, KeyPair),
        wants_client: bool,
    ) -> TlsAcceptor {
        let builder = ServerConfig::builder();
        let builder = if wants_client {
            let mut roots = RootCertStore::empty();
            roots.add(self.issuer.der().clone()).unwrap();
            builder.with_client_cert_verifier(WebPkiClientVerifier::builder(roots.into()).build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

pub fn https(double: &Double, authority: Option<&Authority>) -> RegistryConfig {
    let mut config = RegistryConfig { scheme: Scheme::Https, ..config(double) };
    config.http.ca_cert_files = authority.iter().map(|authority| authority.file()).collect();
    config
}

#[tokio::test]
async fn an_own_authority_is_believed_and_http2_spoken() {
    let authority = Authority::new();
    let double = Double::tls(authority.acceptor("127.0.0.1", false), serve).await;
    let registry = open(https(&double, Some(&authority)));
    for offset in 0..5 {
        assert_eq!(read(&registry, offset, 10).await.unwrap()[0], offset as u8);
    }
    assert!(double.seen().iter().all(|seen| seen.version == Version::HTTP_2));
    assert_eq!(double.connections(), 1);
}

#[tokio::test]
async fn who_cannot_prove_who_they_are_is_refused_at_once() {
    let (authority, other) = (Authority::new(), Authority::new());
    let strange = Double::tls(other.acceptor("127.0.0.1", false), serve).await;
    let misnamed = Double::tls(authority.acceptor("registry.invalid", false), serve).await;
    let expired = Double::tls(authority.expired("127.0.0.1"), serve).await;
    for double in [&strange, &misnamed, &expired] {
        let start = Instant::now();
        let error = read(&open(https(double, Some(&authority))), 0, 1).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error}");
        assert!(error.to_string().contains("certificate"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(10));
        assert_eq!(double.seen().len(), 0);
        let mut careless = https(double, None);
        careless.http.skip_verify = true;
        read(&open(careless), 0, 1).await.unwrap();
    }
}

#[tokio::test]
async fn we_prove_who_we_are() {
    let authority = Authority::new();
    let double = Double::tls(authority.acceptor("127.0.0.1", true), serve).await;
    let (certificate, key) = authority.issue("client");
    let files = ["client.pem", "client.key"].map(|name| authority.dir.path().join(name));
    std::fs::write(&files[0], certificate.pem()).unwrap();
    std::fs::write(&files[1], key.serialize_pem()).unwrap();
    let mut config = https(&double, Some(&authority));
    let [cert_file, key_file] = files;
    config.http.client_cert = Some((cert_file, key_file));
    read(&open(config), 0, 1).await.unwrap();
    // Nobody, and somebody whom it does not know.
    let other = Authority::new();
    let (certificate, key) = other.issue("client");
    let files = ["client.pem", "client.key"].map(|name| other.dir.path().join(name));
    std::fs::write(&files[0], certificate.pem()).unwrap();
    std::fs::write(&files[1], key.serialize_pem()).unwrap();
    let [cert_file, key_file] = files;
    for client_cert in [None, Some((cert_file, key_file))] {
        let mut config = https(&double, Some(&authority));
        config.http.client_cert = client_cert;
        let start = Instant::now();
        let error = read(&open(config), 0, 1).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error}");
        assert!(start.elapsed() < Duration::from_secs(10), "{error}");
    }
    assert_eq!(double.seen().len(), 1);
}

#[tokio::test]
async fn a_port_that_speaks_plain_http_is_told_at_once() {
    let plain = Double::new(serve).await;
    let start = Instant::now();
    let error = read(&open(https(&plain, None)), 0, 1).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(10), "{error}");
    assert_eq!(plain.seen().len(), 0);
}

#[tokio::test]
async fn who_accepts_any_certificate_accepts_none_unless_there_was_one() {
    let plain = Double::new(|seen| match seen.header("authorization") {
        None => Reply::new(401, "").with("www-authenticate", "Basic realm=r"),
        Some(_) => serve(seen),
    })
    .await;
    let mut config = https(&plain, None);
    config.http.skip_verify = true;
    config.auth = Some(crate::setup::auth("u", "p"));
    let registry = open(config.clone());
    for _ in 0..3 {
        read(&registry, 0, 1).await.unwrap();
    }
    assert_eq!(plain.seen().len(), 4);
    // Where TLS was spoken once, whoever answers in the clear is somebody else.
    let addr = plain.addr;
    drop(plain);
    let authority = Authority::new();
    let secure = Double::tls_at(addr, authority.acceptor("127.0.0.1", false), serve).await;
    let registry = open(config);
    read(&registry, 0, 1).await.unwrap();
    drop(secure);
    let other = Double::at(addr, serve).await;
    let error = read(&registry, 0, 1).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert_eq!(other.seen().len(), 0);
}

#[tokio::test]
async fn a_token_service_without_tls_does_not_make_the_registry_one() {
    let plain = Double::new(serve).await;
    let (addr, realm) = (plain.addr, format!("https://{}/token", plain.host()));
    let authority = Authority::new();
    let secure =
        Double::tls(authority.acceptor("127.0.0.1", false), move |seen| match seen.header("authorization") {
            Some("Bearer t") => serve(seen),
            _ => Reply::new(401, "").with("www-authenticate", format!("Bearer realm=\"{realm}\"")),
        })
        .await;
    let mut config = https(&secure, None);
    config.http.skip_verify = true;
    let registry = open(config);
    let error = read(&registry, 0, 1).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert_eq!((secure.seen().len(), plain.seen().len()), (1, 0));
    drop(plain);
    let token = |_: &Seen| Reply::new(200, r#"{"token":"t"}"#);
    let _service = Double::tls_at(addr, authority.acceptor("127.0.0.1", false), token).await;
    read(&registry, 0, 1).await.unwrap();
}

#[tokio::test]
async fn an_endpoint_is_not_given_up_before_a_new_connection_has_failed() {
    let authority = Authority::new();
    let is_sick = Arc::new(AtomicUsize::new(0));
    let sick = is_sick.clone();
    // What is sick is the one connection that all requests share, as after a failover behind its address.
    let double = Double::tls(authority.acceptor("127.0.0.1", false), move |seen| {
        if seen.connection <= sick.load(Ordering::Relaxed) { Reply::new(502, "") } else { serve(seen) }
    })
    .await;
    let registry = Arc::new(open(https(&double, Some(&authority))));
    read(&*registry, 0, 1).await.unwrap();
    is_sick.store(1, Ordering::Relaxed);
    let start = Instant::now();
    let reads: Vec<_> = (0..50)
        .map(|number| {
            let registry = registry.clone();
            tokio::spawn(async move { read(&*registry, number, 10).await.map(drop) })
        })
        .collect();
    for read in reads {
        read.await.unwrap().unwrap();
    }
    // On a machine that stands still a second trial may come before the first was answered.
    let known = double.connections();
    assert!(known == 2 || known == 3 && start.elapsed() > Duration::from_millis(1500), "{known} connections");
    assert_eq!(registry.endpoints()[0].health.openings, 0);
    // A new one that fails too is enough.
    is_sick.store(usize::MAX, Ordering::Relaxed);
    let start = Instant::now();
    while registry.endpoints()[0].health.openings == 0 {
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", registry.endpoints());
        let request = crate::setup::within(Duration::from_secs(2));
        registry.read(&crate::setup::blob(), 0, 1, request).await.unwrap_err();
    }
    let trials: Vec<_> =
        double.seen().iter().map(|seen| seen.connection).filter(|number| *number > known).collect();
    let mut distinct = trials.clone();
    distinct.dedup();
    assert!(!trials.is_empty() && trials == distinct, "trials on connections {trials:?}");
}

#[tokio::test]
async fn a_redirect_does_not_leave_tls_unless_told_to() {
    let authority = Authority::new();
    let plain = Double::new(serve).await;
    let location = format!("{}/x", plain.url());
    let double = Double::tls(authority.acceptor("127.0.0.1", false), move |_| {
        Reply::new(307, "").with("location", location.clone())
    })
    .await;
    let config = https(&double, Some(&authority));
    let error = read(&open(config.clone()), 0, 1).await.unwrap_err();
    assert!(error.to_string().contains("from https to http"), "{error}");
    assert_eq!(plain.seen().len(), 0);
    let allowed = RegistryConfig { blob_url_scheme: Some(Scheme::Http), ..config };
    read(&open(allowed), 0, 1).await.unwrap();
    assert_eq!(plain.seen().len(), 1);
}

#[tokio::test]
async fn a_connection_with_a_stalled_stream_is_left() {
    let authority = Authority::new();
    let count = AtomicUsize::new(0);
    let double = Double::tls(authority.acceptor("127.0.0.1", false), move |seen| {
        match count.fetch_add(1, Ordering::Relaxed) {
            1 => Reply::silence(),
            _ => serve(seen),
        }
    })
    .await;
    let mut config = https(&double, Some(&authority));
    config.http.timeout = Some(Duration::from_secs(2));
    config.http.connect_timeout = Some(Duration::from_secs(2));
    let registry = open(config);
    read(&registry, 0, 1).await.unwrap();
    read(&registry, 0, 1).await.unwrap();
    assert_eq!(double.connections(), 2);
}

#[tokio::test]
async fn files_that_are_none_are_told_by_name() {
    let authority = Authority::new();
    let double = Double::new(serve).await;
    let junk = authority.dir.path().join("junk");
    std::fs::write(&junk, "no certificate").unwrap();
    let missing = PathBuf::from("/no/such/file");
    for file in [&junk, &missing] {
        let mut roots = https(&double, None);
        roots.http.ca_cert_files = vec![file.clone()];
        let mut client = https(&double, None);
        client.http.client_cert = Some((file.clone(), file.clone()));
        for config in [roots, client] {
            let error = storage::backend::registry::Registry::new(config, &storage::http::Commons::new())
                .unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{error}");
            assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
        }
    }
}
