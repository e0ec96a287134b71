//! Mirrors and proxies before a registry: they are asked first, and when they fail the registry is, and they are again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use nydus_tests::config::Form;
use nydus_tests::daemon::{Daemon, Scratch};
use nydus_tests::fixtures::Image;
use nydus_tests::servers::authority::Authority;
use nydus_tests::servers::docker_registry::{DockerRegistry, Setup};
use nydus_tests::servers::forward_proxy::ForwardProxy;
use nydus_tests::servers::nginx::Nginx;
use nydus_tests::servers::service::Service;
use nydus_tests::{require_mounts, require_tools};
use serde_json::{Value, json};

use crate::mounting::{check, launch_file_by_file};

/// How long it may take until what is back is asked again.
const BACK: Duration = Duration::from_secs(60);

/// An image in a registry, mounted so that each file is a request of its own.
struct Mounted {
    registry: DockerRegistry,
    daemon: Daemon,
    image: Image,
    /// The number of the last file that was read.
    last: usize,
    scratch: Scratch,
}

impl Mounted {
    fn new(registry: DockerRegistry, keys: &Value) -> Self {
        let (image, scratch) = (Image::named("v6-zstd"), Scratch::new());
        registry.push(&image);
        let mut backend = registry.backend();
        for (key, value) in keys.as_object().unwrap() {
            backend[key] = value.clone();
        }
        let daemon = launch_file_by_file(&scratch, &image, backend);
        Self { registry, daemon, image, last: 0, scratch }
    }

    /// Reads the next of many small files, and compares it.
    fn read(&mut self) {
        self.last += 1;
        let name = format!("many/{}", self.last);
        let found = std::fs::read(self.daemon.mountpoint().join(&name)).unwrap();
        assert_eq!(found, *self.image.files()[std::path::Path::new(&name)], "{name}");
    }

    /// Reads on until `done`.
    fn read_until(&mut self, what: &str, done: impl Fn() -> bool) {
        let deadline = Instant::now() + BACK;
        while !done() {
            assert!(Instant::now() < deadline, "waited in vain until {what}:\n{}", self.daemon.stderr());
            self.read();
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn end(self) {
        self.image.manifest().assert_tree(self.daemon.mountpoint(), "in the end");
        self.daemon.unmount();
        drop(self.scratch);
    }
}

fn open_registry() -> DockerRegistry {
    DockerRegistry::start(&Setup::default())
}

#[test]
fn a_proxy_is_asked_and_gone_around_while_it_is_away() {
    require_mounts!();
    require_tools!("docker-registry", "tinyproxy");
    let proxy = ForwardProxy::start();
    let mut mounted = Mounted::new(open_registry(), &json!({ "proxy": { "url": proxy.url() } }));
    (0..5).for_each(|_| mounted.read());
    let asked = mounted.registry.blob_requests().len();
    assert!(proxy.requests() >= 5, "{} of {asked}", proxy.requests());
    let proxy = proxy.restart(|| {
        let start = Instant::now();
        (0..20).for_each(|_| mounted.read());
        assert!(start.elapsed() < Duration::from_secs(20), "{:?} for 20 files", start.elapsed());
        // Servers may write of a request some time after they have answered it.
        let registry = &mounted.registry;
        mounted.daemon.wait_for("the registry was asked", || registry.blob_requests().len() >= asked + 20);
    });
    let before = proxy.requests();
    mounted.read_until("the proxy is asked again", || proxy.requests() > before + 5);
    mounted.end();
}

#[test]
fn without_fallback_a_proxy_that_is_away_is_waited_for() {
    require_mounts!();
    require_tools!("docker-registry", "tinyproxy");
    let proxy = ForwardProxy::start();
    let mut mounted =
        Mounted::new(open_registry(), &json!({ "proxy": { "url": proxy.url(), "fallback": false } }));
    mounted.read();
    let asked = mounted.registry.blob_requests().len();
    let back = Instant::now() + Duration::from_secs(3);
    // It starts below, in the thread that also ends it.
    let proxy = std::thread::scope(|scope| {
        let reader = std::sync::OnceLock::new();
        let proxy = proxy.restart(|| {
            let registry = &mounted.registry;
            let path = mounted.daemon.mountpoint().join("exact1m");
            let _ = reader.set(scope.spawn(move || std::fs::read(path).unwrap()));
            std::thread::sleep(back.saturating_duration_since(Instant::now()));
            assert_eq!(registry.blob_requests().len(), asked, "the registry was asked directly");
        });
        let content = reader.into_inner().unwrap().join().unwrap();
        assert_eq!(content, *mounted.image.files()[std::path::Path::new("exact1m")]);
        proxy
    });
    assert!(proxy.requests() > 0 && mounted.registry.blob_requests().len() > asked);
    mounted.end();
}

#[test]
fn a_proxy_that_says_it_is_not_well_is_left_alone() {
    require_mounts!();
    require_tools!("docker-registry", "tinyproxy");
    let is_well = Arc::new(AtomicBool::new(true));
    let told = Arc::new(AtomicUsize::new(0));
    let answer = async |State((is_well, told)): State<(Arc<AtomicBool>, Arc<AtomicUsize>)>| {
        if is_well.load(Ordering::SeqCst) {
            return StatusCode::OK;
        }
        told.fetch_add(1, Ordering::SeqCst);
        StatusCode::SERVICE_UNAVAILABLE
    };
    let state = (is_well.clone(), told.clone());
    let health = Service::start(Router::new().fallback(answer).with_state(state), None);
    let proxy = ForwardProxy::start();
    let keys =
        json!({ "url": proxy.url(), "ping_url": format!("{}/healthy", health.url()), "check_interval": 1 });
    let mut mounted = Mounted::new(open_registry(), &json!({ "proxy": keys }));
    mounted.read();
    assert!(proxy.requests() > 0);
    is_well.store(false, Ordering::SeqCst);
    // It is noticed with a read, and after the interval; when it is told again, the first time has been heard.
    mounted.read_until("the service says so twice", || told.load(Ordering::SeqCst) >= 2);
    let before = proxy.requests();
    (0..10).for_each(|_| mounted.read());
    assert_eq!(proxy.requests(), before, "a proxy that is not well was asked");
    is_well.store(true, Ordering::SeqCst);
    mounted.read_until("the proxy is asked again", || proxy.requests() > before + 5);
    mounted.end();
}

#[test]
fn a_proxy_tunnels_tls() {
    require_mounts!();
    require_tools!("docker-registry", "tinyproxy");
    let (authority, proxy) = (Authority::new(), ForwardProxy::start());
    let registry = DockerRegistry::start(&Setup { authority: Some(&authority), ..Setup::default() });
    let image = Image::named("v6-zstd");
    registry.push(&image);
    for form in [Form::V1, Form::V2Json] {
        let mut keys = registry.backend();
        keys["proxy"] = json!({ "url": proxy.url(), "fallback": false });
        check(&image, form, ("registry", keys), "a registry with TLS behind a proxy");
    }
    assert!(proxy.requests() >= 2);
}

#[test]
fn mirrors_are_asked_first_and_again_when_they_are_back() {
    require_mounts!();
    require_tools!("docker-registry", "nginx");
    let registry = open_registry();
    let mirror = Nginx::mirror_of(&registry.url());
    let host = format!("http://{}", mirror.addr());
    let mirrors = json!([{ "host": host, "health_check_interval": 1, "failure_limit": 2 }]);
    let mut mounted = Mounted::new(registry, &json!({ "mirrors": mirrors }));
    (0..5).for_each(|_| mounted.read());
    let asked = mounted.registry.blob_requests().len();
    mounted.daemon.wait_for("the mirror was asked", || mirror.requests("/v2/library/").len() >= 5);
    let mirror = mirror.restart(|| {
        (0..20).for_each(|_| mounted.read());
        // Servers may write of a request some time after they have answered it.
        let registry = &mounted.registry;
        mounted.daemon.wait_for("the registry was asked", || registry.blob_requests().len() >= asked + 20);
    });
    let before = mirror.requests("/v2/library/").len();
    mounted.read_until("the mirror is asked again", || mirror.requests("/v2/library/").len() > before + 5);
    mounted.end();
}

#[test]
fn a_mirror_that_knows_no_ranges() {
    require_mounts!();
    require_tools!("docker-registry", "nginx");
    let registry = open_registry();
    let directives =
        format!("location / {{ max_ranges 0; proxy_set_header Range ''; proxy_pass {}; }}", registry.url());
    let mirror = Nginx::start(None, &directives);
    for name in ["v5-zstd-blake3", "v6-zstd"] {
        let image = Image::named(name);
        registry.push(&image);
        let mut keys = registry.backend();
        keys["mirrors"] = json!([{ "host": format!("http://{}", mirror.addr()) }]);
        check(&image, Form::V1, ("registry", keys), "a mirror that knows no ranges");
    }
    let statuses = mirror.requests("/v2/library/");
    assert!(!statuses.is_empty() && statuses.iter().all(|status| *status == 200), "{statuses:?}");
}
