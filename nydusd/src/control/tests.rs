//! The API over a real socket.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};
use storage::secret::Secret;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::*;
use crate::telemetry::logs::Level;

const SECONDS: Duration = Duration::from_secs(20);

/// A daemon with one mount, that remembers what it was asked.
#[derive(Default)]
struct Fake {
    level: Mutex<Option<Level>>,
    is_exiting: AtomicBool,
    exit: Notify,
    configured: Mutex<Vec<(Option<String>, Setting)>>,
    inflight: Mutex<Vec<Value>>,
}

impl Daemon for Fake {
    fn state(&self) -> State {
        State::Running
    }

    fn mounts(&self) -> Vec<Mount> {
        let mounted = UNIX_EPOCH + Duration::new(1_795_364_743, 296_967_600);
        vec![Mount { mountpoint: "/".to_owned(), mounted, config: json!({"version": 2}) }]
    }

    fn set_log_level(&self, level: Level) {
        *self.level.lock().unwrap() = Some(level);
    }

    fn request_exit(&self) {
        self.is_exiting.store(true, Ordering::SeqCst);
        self.exit.notify_one();
    }

    fn blobcache_metrics(&self, id: Option<&str>) -> Option<Value> {
        matches!(id, None | Some("" | "a/b")).then(|| json!({"id": id}))
    }

    fn backend_metrics(&self, id: Option<&str>) -> Option<Value> {
        matches!(id, None | Some("/")).then(|| json!({"id": id}))
    }

    fn filesystem_metrics(&self, id: Option<&str>) -> Option<Value> {
        matches!(id, None | Some("/")).then(|| json!({"filesystem": id}))
    }

    fn file_metrics(&self, id: Option<&str>) -> Option<Value> {
        matches!(id, None | Some("/")).then(|| json!({"files": id}))
    }

    fn latest_read_files(&self, id: Option<&str>) -> Option<Value> {
        matches!(id, None | Some("/")).then(|| json!([[1, 2], id]))
    }

    fn access_patterns(&self, id: Option<&str>) -> Option<Value> {
        matches!(id, None | Some("/")).then(|| json!([{"pattern": id}]))
    }

    fn inflight_requests(&self) -> Vec<Value> {
        self.inflight.lock().unwrap().clone()
    }

    fn superblock(&self, mountpoint: &str) -> Option<Value> {
        (mountpoint == "/").then(|| json!({"magic": 7}))
    }

    fn events(&self) -> Value {
        json!({"errors": []})
    }

    fn exposition(&self) -> String {
        "# EOF\n".to_owned()
    }

    fn settings(&self) -> BTreeMap<String, BTreeSet<&'static str>> {
        let configured = self.configured.lock().unwrap();
        let keys = configured.iter().map(|(_, setting)| setting.key()).collect();
        if configured.is_empty() { BTreeMap::new() } else { [("/".to_owned(), keys)].into() }
    }

    fn configure(&self, id: Option<&str>, settings: Vec<Setting>) -> Result<(), String> {
        if id == Some("/none") {
            return Err("no such mountpoint".to_owned());
        }
        let id = id.map(str::to_owned);
        self.configured.lock().unwrap().extend(settings.into_iter().map(|setting| (id.clone(), setting)));
        Ok(())
    }
}

struct Server {
    _dir: tempfile::TempDir,
    path: PathBuf,
    daemon: Arc<Fake>,
    serving: JoinHandle<std::io::Result<()>>,
}

async fn serve(request_limit: Duration) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let daemon = Arc::new(Fake::default());
    let listener = Listener::bind(&path).await.unwrap();
    assert_eq!(listener.path(), path);
    let (shared, stop) = (daemon.clone(), daemon.clone());
    let stop = async move { stop.exit.notified().await };
    let serving = tokio::spawn(async move { listener.serve_within(shared, request_limit, stop).await });
    Server { _dir: dir, path, daemon, serving }
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }
}

/// Sends `bytes` and reads the answer to its end.
async fn exchange(path: &Path, bytes: &[u8]) -> Answer {
    let mut stream = UnixStream::connect(path).await.unwrap();
    // A server that has read enough answers and closes, whatever is still on its way.
    let _ = stream.write_all(bytes).await;
    let mut text = Vec::new();
    let _ = tokio::time::timeout(SECONDS, stream.read_to_end(&mut text)).await.expect("an answer in time");
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

async fn request(path: &Path, method: &str, target: &str, body: &str) -> Answer {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let head =
        format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{length}\r\n{body}");
    exchange(path, head.as_bytes()).await
}

#[tokio::test]
async fn daemon_information() {
    let server = serve(SECONDS).await;
    let answer = request(&server.path, "GET", "/api/v1/daemon", "").await;
    assert_eq!(answer.status, 200);
    let head = answer.head.to_ascii_lowercase();
    assert!(head.contains("server: nydus api") && head.contains("content-type: application/json"), "{head}");
    let version = json!({
        "package_ver": crate::version::PACKAGE, "git_commit": crate::version::GIT_COMMIT,
        "build_time": crate::version::BUILD_TIME, "profile": crate::version::PROFILE,
        "rustc": crate::version::RUSTC,
    });
    let mount = json!({"/": {"backend_type": "Rafs", "mountpoint": "/",
        "mounted_time": "2026-11-22 16:25:43.2969676 +00:00:00", "config": {"version": 2}}});
    let mut expected = json!({"version": version, "id": null, "supervisor": null, "state": "RUNNING", "backend_collection": mount});
    assert_eq!(answer.json(), expected);
    expected["backend_collection"] = Value::Null;
    assert_eq!(request(&server.path, "GET", "/api/v2/daemon", "").await.json(), expected);
}

#[tokio::test]
async fn the_log_level_is_set() {
    let server = serve(SECONDS).await;
    for (path, name, level) in
        [("/api/v1/daemon", "off", Level::Off), ("/api/v2/daemon", "trace", Level::Trace)]
    {
        let answer = request(&server.path, "PUT", path, &json!({"log_level": name}).to_string()).await;
        assert_eq!((answer.status, answer.body.as_str()), (204, ""));
        assert_eq!(*server.daemon.level.lock().unwrap(), Some(level));
    }
}

#[tokio::test]
async fn errors_have_the_shapes_clients_match_on() {
    let server = serve(SECONDS).await;
    let long = format!("{{\"log_level\": \"{}\"}}", "x".repeat(3 << 20));
    let cases: Vec<(&str, &str, &str, u16, &str)> = vec![
        ("GET", "/", "", 404, "NoRoute"),
        ("GET", "/api/v1/daemon/", "", 404, "NoRoute"),
        ("GET", "/api/v1/Daemon", "", 404, "NoRoute"),
        ("PUT", "/api/v3/daemon", "", 404, "NoRoute"),
        ("DELETE", "/api/v1/daemon", "", 400, "BadRequest"),
        ("POST", "/api/v1/daemon/exit", "", 400, "BadRequest"),
        ("PUT", "/api/v1/metrics/blobcache", "", 400, "BadRequest"),
        ("GET", "/api/v1/daemon", "x", 400, "BadRequest"),
        ("PUT", "/api/v1/daemon/exit", "{}", 400, "BadRequest"),
        ("PUT", "/api/v1/daemon", "", 400, "BadRequest"),
        ("PUT", "/api/v1/daemon", &long, 400, "BadRequest"),
        (
            "PUT",
            "/api/v1/daemon",
            "{}",
            400,
            "ParseBody(Error(\"missing field `log_level`\", line: 1, column: 2))",
        ),
        ("PUT", "/api/v1/daemon", r#"{"log_level":"loud"}"#, 500, "Configure(ResponsePayloadType)"),
        ("PUT", "/api/v1/daemon/start", "", 400, r#"Configure(DaemonAbnormal(UnexpectedEvent("Start")))"#),
        (
            "PUT",
            "/api/v1/daemon/fuse/sendfd",
            "",
            500,
            r#"Upgrade(DaemonAbnormal(UpgradeManager("MissingSupervisorPath")))"#,
        ),
        ("GET", "/api/v1/metrics/blobcache?id=x", "", 404, "BlobcacheMetrics(Metrics(Stats(NoCounter)))"),
        (
            "GET",
            "/api/v1/metrics/blobcache?id=%zz%ff",
            "",
            404,
            "BlobcacheMetrics(Metrics(Stats(NoCounter)))",
        ),
        ("GET", "/api/v1/metrics/backend?id=/x", "", 404, "BackendMetrics(Metrics(Stats(NoCounter)))"),
        ("PUT", "/api/v1/metrics/backend", "", 400, "BadRequest"),
        ("GET", "/metrics", "x", 400, "BadRequest"),
        ("POST", "/metrics", "", 400, "BadRequest"),
        ("GET", "/metrics/", "", 404, "NoRoute"),
        ("POST", "/api/v1/mount?mountpoint=/", "{}", 501, "Mount(DaemonAbnormal(Unsupported))"),
        ("DELETE", "/api/v1/mount?mountpoint=/", "", 501, "Mount(DaemonAbnormal(Unsupported))"),
        ("GET", "/api/v1/mount", "", 400, "BadRequest"),
        ("GET", "/api/v1/metrics?id=/x", "", 404, "GlobalMetrics(Metrics(Stats(NoCounter)))"),
        ("GET", "/api/v1/metrics/files?id=x", "", 404, "FsFilesMetrics(Metrics(Stats(NoCounter)))"),
        (
            "GET",
            "/api/v1/metrics/files?id=x&latest=true",
            "",
            404,
            "FsFilesMetrics(Metrics(Stats(NoCounter)))",
        ),
        ("GET", "/api/v1/metrics/pattern?id=x", "", 404, "Pattern(Metrics(Stats(NoCounter)))"),
        ("PUT", "/api/v1/metrics/inflight", "", 400, "BadRequest"),
        (
            "GET",
            "/api/v1/daemon/backend",
            "",
            400,
            "QueryString(\"'mountpoint' should be specified in query string\")",
        ),
        (
            "GET",
            "/api/v1/daemon/backend?mountpoint=/x",
            "",
            500,
            "FsBackendInfo(MountFilesystem(Other(\"object or filesystem doesn't exist\")))",
        ),
        ("GET", "/api/v2/blobs?domain_id=x", "", 501, "GetBlobObjects(DaemonAbnormal(Unsupported))"),
        ("PUT", "/api/v2/blobs", "", 501, "CreateBlobObject(DaemonAbnormal(Unsupported))"),
        ("POST", "/api/v2/blobs", "", 400, "BadRequest"),
        ("PUT", "/api/v1/daemon/fuse/takeover", "", 501, "Upgrade(DaemonAbnormal(Unsupported))"),
    ];
    for (method, target, body, status, message) in cases {
        let answer = request(&server.path, method, target, body).await;
        assert_eq!(answer.status, status, "{method} {target}");
        assert_eq!(answer.json(), json!({"code": "UNDEFINED", "message": message}), "{method} {target}");
        assert!(answer.head.to_ascii_lowercase().contains("server: nydus api"), "{}", answer.head);
    }
    assert_eq!(*server.daemon.level.lock().unwrap(), None);
    assert!(!server.daemon.is_exiting.load(Ordering::SeqCst));
}

#[tokio::test]
async fn cache_counters_are_found_by_id() {
    let server = serve(SECONDS).await;
    for (target, id) in [
        ("/api/v1/metrics/blobcache", Value::Null),
        ("/api/v1/metrics/blobcache?id=", json!("")),
        ("/api/v1/metrics/blobcache?x=1&id=a%2Fb", json!("a/b")),
    ] {
        let answer = request(&server.path, "GET", target, "").await;
        assert_eq!((answer.status, answer.json()), (200, json!({"id": id})), "{target}");
    }
}

#[tokio::test]
async fn backend_counters_are_found_by_mountpoint() {
    let server = serve(SECONDS).await;
    for (target, id) in
        [("/api/v1/metrics/backend", Value::Null), ("/api/v1/metrics/backend?id=/", json!("/"))]
    {
        let answer = request(&server.path, "GET", target, "").await;
        assert_eq!((answer.status, answer.json()), (200, json!({"id": id})), "{target}");
    }
}

#[tokio::test]
async fn everything_else_that_is_told_of_a_file_system() {
    let server = serve(SECONDS).await;
    for (target, told) in [
        ("/api/v1/metrics", json!({"filesystem": null})),
        ("/api/v1/metrics?id=%2F", json!({"filesystem": "/"})),
        ("/api/v1/metrics/files", json!({"files": null})),
        ("/api/v1/metrics/files?id=/&latest=false", json!({"files": "/"})),
        ("/api/v1/metrics/files?latest=true", json!([[1, 2], null])),
        ("/api/v1/metrics/pattern?id=/", json!([{"pattern": "/"}])),
        ("/api/v1/daemon/backend?mountpoint=/", json!({"magic": 7})),
        ("/api/v1/daemon/events", json!({"errors": []})),
    ] {
        let answer = request(&server.path, "GET", target, "").await;
        assert_eq!((answer.status, answer.json()), (200, told), "{target}");
    }
    let inflight = "/api/v1/metrics/inflight";
    let answer = request(&server.path, "GET", inflight, "").await;
    assert_eq!((answer.status, answer.body.as_str()), (204, ""));
    server.daemon.inflight.lock().unwrap().push(json!({"inode": 1}));
    let answer = request(&server.path, "GET", inflight, "").await;
    assert_eq!((answer.status, answer.json()), (200, json!([{"inode": 1}])));
}

/// As clients do that write head and body apart: the answer must come when all is written, and not before, when the rest
/// of the body would meet a closed connection.
#[tokio::test]
async fn the_body_of_a_refused_request_is_read_before_the_answer() {
    let server = serve(SECONDS).await;
    for (target, length, status) in [
        ("POST /api/v1/mount?mountpoint=/x", 300 << 10, 501),
        ("POST /api/v1/daemon", 300 << 10, 400),
        ("PUT /no/such/path", 300 << 10, 404),
        ("PUT /api/v1/config", 8 << 20, 400),
    ] {
        let mut stream = UnixStream::connect(&server.path).await.unwrap();
        let head = format!("{target} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..8 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            stream
                .write_all(&vec![b'x'; length / 8])
                .await
                .unwrap_or_else(|error| panic!("{target}: {error}"));
        }
        let mut answer = [0; 12];
        tokio::time::timeout(SECONDS, stream.read_exact(&mut answer)).await.expect("in time").unwrap();
        assert_eq!(answer, format!("HTTP/1.1 {status}").as_bytes(), "{target}");
    }
}

#[tokio::test]
async fn metrics_say_what_format_they_have() {
    let server = serve(SECONDS).await;
    let answer = request(&server.path, "GET", "/metrics", "").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "# EOF\n"));
    let head = answer.head.to_ascii_lowercase();
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
}

#[tokio::test]
async fn credentials_are_set_and_never_shown() {
    const SECRET: &str = "dTpodW50ZXIy";
    let server = serve(SECONDS).await;
    let get = async |target: &str| {
        let answer = request(&server.path, "GET", target, "").await;
        assert_eq!(answer.status, 200);
        assert!(!answer.body.contains(SECRET), "{}", answer.body);
        answer.json()
    };
    assert_eq!(get("/api/v1/config").await, json!({}));
    let body = json!({"registry_auth": SECRET}).to_string();
    for (target, id) in [("/api/v1/config?id=/", Some("/".to_owned())), ("/api/v1/config", None)] {
        let answer = request(&server.path, "PUT", target, &body).await;
        assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{target}");
        let configured = server.daemon.configured.lock().unwrap().pop();
        assert_eq!(configured, Some((id, Setting::RegistryAuth(Secret::new(SECRET)))));
    }
    let others = json!({"proxy_url": "http://u:hunter2@p", "dragonfly_scheduler_endpoint": "http://hunter2"});
    let answer = request(&server.path, "PUT", "/api/v1/config", &others.to_string()).await;
    assert_eq!((answer.status, answer.body.as_str()), (204, ""));
    let configured = std::mem::take(&mut *server.daemon.configured.lock().unwrap());
    assert_eq!(configured, [(None, Setting::DragonflySchedulerEndpoint), (None, Setting::ProxyUrl)]);
    request(&server.path, "PUT", "/api/v1/config?id=/", &body).await;
    assert_eq!(get("/api/v1/config?id=/").await, json!({"registry_auth": "***"}));
    assert_eq!(get("/api/v1/config").await, json!({"/:registry_auth": "***"}));
    assert_eq!(get("/api/v1/config?id=/x").await, json!({}));
}

#[tokio::test]
async fn settings_that_cannot_be_used_change_nothing_and_are_not_quoted() {
    let server = serve(SECONDS).await;
    let refused = "Configure(ResponsePayloadType)";
    let no_map = r#"ParseBody(Error("expected a map of strings", line: 0, column: 0))"#;
    for (target, body, status, message) in [
        ("/api/v1/config", r#"{"registry_auth":"hunter2","colour":"blue"}"#, 500, refused),
        ("/api/v1/config?id=/none", r#"{"registry_auth":"hunter2"}"#, 500, refused),
        ("/api/v1/config", r#""hunter2""#, 400, no_map),
        ("/api/v1/config", r#"["hunter2"]"#, 400, no_map),
        ("/api/v1/config", r#"{"registry_auth":{"hunter2":1}}"#, 400, no_map),
        ("/api/v1/config", "", 400, "BadRequest"),
    ] {
        let answer = request(&server.path, "PUT", target, body).await;
        assert_eq!(answer.status, status, "{body}");
        assert_eq!(answer.json(), json!({"code": "UNDEFINED", "message": message}), "{body}");
    }
    let broken = request(&server.path, "PUT", "/api/v1/config", r#"{"registry_auth":"hunter2""#).await;
    assert_eq!(broken.status, 400);
    let message = broken.json()["message"].to_string();
    assert!(message.contains("ParseBody(Error(") && !message.contains("hunter2"), "{message}");
    assert_eq!(*server.daemon.configured.lock().unwrap(), Vec::new());
}

#[tokio::test]
async fn exit_is_answered_and_takes_the_socket_away() {
    let server = serve(SECONDS).await;
    // An idle connection does not hold the daemon back.
    let _idle = UnixStream::connect(&server.path).await.unwrap();
    let answer = request(&server.path, "PUT", "/api/v1/daemon/exit", "").await;
    assert_eq!(answer.status, 204);
    tokio::time::timeout(SECONDS, server.serving).await.expect("an end").unwrap().unwrap();
    assert!(!server.path.exists());
}

#[tokio::test]
async fn a_body_that_never_comes_ends_at_the_deadline() {
    let server = serve(Duration::from_millis(50)).await;
    let head = b"PUT /api/v1/daemon HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 10\r\n\r\n{";
    let answer = exchange(&server.path, head).await;
    assert_eq!((answer.status, answer.json()["message"].clone()), (503, json!("TimedOut")));
}

#[tokio::test]
async fn the_socket_is_for_its_owner_only() {
    let server = serve(SECONDS).await;
    assert_eq!(std::fs::metadata(&server.path).unwrap().permissions().mode() & 0o7777, 0o600);
}

#[tokio::test]
async fn a_live_daemon_keeps_its_socket() {
    let server = serve(SECONDS).await;
    let inode = std::fs::metadata(&server.path).unwrap().ino();
    let error = Listener::bind(&server.path).await.unwrap_err();
    assert!(matches!(error, BindError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("another daemon answers"), "{error}");
    assert_eq!(std::fs::metadata(&server.path).unwrap().ino(), inode);
    assert_eq!(request(&server.path, "GET", "/api/v1/daemon", "").await.status, 200);
}

#[tokio::test]
async fn names_of_others_are_left_alone_and_stale_ones_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    // What a killed daemon leaves: a socket that nobody listens on.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(is_stale(&path).await.unwrap());
    let listener = Listener::bind(&path).await.unwrap();
    // Meanwhile somebody took the name away and uses it.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    drop(listener);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    let error = Listener::bind(&path).await.unwrap_err();
    assert!(matches!(error, BindError::NotASocket { .. }), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");

    let missing = Listener::bind(&dir.path().join("none/api.sock")).await.unwrap_err().to_string();
    assert!(missing.contains("none/api.sock: cannot create the API socket: "), "{missing}");
    let long = Listener::bind(&dir.path().join("x".repeat(120))).await.unwrap_err().to_string();
    assert!(long.contains("cannot create the API socket"), "{long}");
}

#[tokio::test]
async fn a_graceful_end_removes_only_its_own_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    assert!(!is_stale(&path).await.unwrap());
    let listener = Listener::bind(&path).await.unwrap();
    assert!(path.exists());
    drop(listener);
    assert!(!path.exists());
}
