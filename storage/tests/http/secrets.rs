//! What is secret is never printed: not by `Debug`, not in errors, not in logs.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use storage::backend::registry::RegistryConfig;
use storage::backend::s3::{Addressing, S3, S3Config};
use storage::http::{Commons, HttpOptions, Scheme};
use storage::secret::Secret;

use crate::double::{Double, Reply};
use crate::setup::{auth, basic, config, content, open, read};

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

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("a request failed"), "the log is read: {log}");
    printed += &log;
    assert!(!printed.contains("secret-"), "{printed}");
    assert!(!printed.contains(&basic("u", "secret-password")), "{printed}");
}
