//! The configuration as the daemon's information shows it: the JSON form of schema v2, every secret left out.
//!
//! Secrets are stripped as if they had not been given (empty or null), so that whoever reads the form back
//! finds the shape it knows. Addresses lose the user and the query. Our own keys stand beside those of the
//! reference.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use storage::backend::http_proxy::HttpProxyConfig;
use storage::backend::oss::OssConfig;
use storage::backend::registry::RegistryConfig;
use storage::backend::s3::S3Config;
use storage::http::HttpOptions;
use storage::secret::Secret;

use super::{Backend, Cache, CacheKind, Config, ExternalBackend, FileCache, Prefetch, Rafs};

impl Config {
    /// The JSON form of schema v2 with every secret stripped.
    pub fn to_daemon_info(&self) -> Value {
        json!({
            "version": 2,
            "id": self.id,
            "backend": self.backend.as_ref().map(backend),
            "external_backends": self.external_backends.iter().map(external_backend).collect::<Vec<_>>(),
            "cache": cache(&self.cache),
            "rafs": self.rafs.as_ref().map(rafs),
            "overlay": self.overlay.as_ref().map(|overlay| json!({
                "upper_dir": path(&overlay.upper_dir),
                "work_dir": path(&overlay.work_dir),
            })),
        })
    }
}

/// JSON has no paths: what is not UTF-8 is shown as well as can be.
fn path(path: &Path) -> Value {
    Value::String(path.to_string_lossy().into_owned())
}

fn path_or_empty(of: Option<&Path>) -> Value {
    of.map_or_else(|| json!(""), path)
}

fn seconds(duration: Option<Duration>) -> u64 {
    duration.map_or(0, |duration| duration.as_secs())
}

fn backend(backend: &Backend) -> Value {
    let mut value = json!({
        "type": backend.name(), "localdisk": null, "localfs": null, "oss": null, "s3": null, "registry": null,
        "http-proxy": null,
    });
    value[backend.name()] = match backend {
        Backend::Localfs(localfs) => json!({
            "blob_file": path_or_empty(localfs.blob_file.as_deref()),
            "dir": path_or_empty(localfs.dir.as_deref()),
            "alt_dirs": localfs.alt_dirs.iter().map(|dir| path(dir)).collect::<Vec<_>>(),
        }),
        Backend::Localdisk(localdisk) => json!({
            "device_path": path(&localdisk.device_path),
            "disable_gpt": localdisk.disable_gpt,
        }),
        Backend::Oss(oss) => self::oss(oss),
        Backend::S3(s3) => self::s3(s3),
        Backend::Registry(registry) => self::registry(registry),
        Backend::HttpProxy(server) => http_proxy(server),
    };
    value
}

fn oss(oss: &OssConfig) -> Value {
    with_http(
        json!({
            "scheme": oss.scheme.name(),
            "endpoint": oss.endpoint,
            "bucket_name": oss.bucket_name,
            "object_prefix": oss.object_prefix,
            "access_key_id": "",
            "access_key_secret": "",
            "security_token": "",
            "region": oss.region.as_deref().unwrap_or_default(),
            "signature_version": oss.signature_version.name(),
            "addressing": oss.addressing.name(),
        }),
        &oss.http,
    )
}

fn s3(s3: &S3Config) -> Value {
    with_http(
        json!({
            "scheme": s3.scheme.name(),
            "endpoint": s3.endpoint,
            "region": s3.region,
            "bucket_name": s3.bucket_name,
            "object_prefix": s3.object_prefix,
            "access_key_id": "",
            "access_key_secret": "",
            "session_token": "",
            "addressing": s3.addressing.name(),
        }),
        &s3.http,
    )
}

fn registry(registry: &RegistryConfig) -> Value {
    with_http(
        json!({
            "scheme": registry.scheme.name(),
            "host": registry.host,
            "repo": registry.repo,
            "auth": null,
            "registry_token": null,
            "blob_url_scheme": registry.blob_url_scheme.map_or("", |scheme| scheme.name()),
            "blob_redirected_host": registry.blob_redirected_host.as_deref().unwrap_or_default(),
            "docker_config": path_or_empty(registry.docker_config.as_deref()),
        }),
        &registry.http,
    )
}

fn http_proxy(server: &HttpProxyConfig) -> Value {
    with_http(json!({ "addr": server.addr, "path": server.path }), &server.http)
}

/// Adds the keys that all HTTP backends share.
fn with_http(mut value: Value, http: &HttpOptions) -> Value {
    let proxy = match &http.proxy {
        Some(proxy) => json!({
            "url": proxy.url,
            "ping_url": proxy.ping_url.as_ref().map(ToString::to_string).unwrap_or_default(),
            "fallback": proxy.fallback,
            "check_interval": proxy.check_interval.as_secs(),
            "check_pause_elapsed": proxy.check_pause_elapsed.as_secs(),
            "use_http": proxy.use_http,
            "dragonfly_scheduler_endpoint": "",
        }),
        None => json!({
            "url": "", "ping_url": "", "fallback": true, "check_interval": 5, "check_pause_elapsed": 300,
            "use_http": false, "dragonfly_scheduler_endpoint": "",
        }),
    };
    let mirrors: Vec<Value> = http
        .mirrors
        .iter()
        .map(|mirror| {
            json!({
                "host": mirror.host,
                "headers": stripped(&mirror.headers),
                "ping_url": mirror.ping_url.as_ref().map(ToString::to_string).unwrap_or_default(),
                "health_check_interval": mirror.health_check_interval.as_secs(),
                "failure_limit": mirror.failure_limit,
            })
        })
        .collect();
    let (client_cert, client_key) = match &http.client_cert {
        Some((cert, key)) => (path(cert), path(key)),
        None => (json!(""), json!("")),
    };
    value["timeout"] = json!(seconds(http.timeout));
    value["connect_timeout"] = json!(seconds(http.connect_timeout));
    value["retry_limit"] = json!(http.retry_limit);
    value["skip_verify"] = json!(http.skip_verify);
    value["ca_cert_files"] = http.ca_cert_files.iter().map(|file| path(file)).collect();
    value["client_cert_file"] = client_cert;
    value["client_key_file"] = client_key;
    value["proxy"] = proxy;
    value["mirrors"] = Value::Array(mirrors);
    value
}

/// The keys alone.
fn stripped(map: &BTreeMap<String, Secret>) -> Value {
    map.keys().map(|key| (key.clone(), json!(""))).collect()
}

fn external_backend(external: &ExternalBackend) -> Value {
    json!({ "type": external.kind, "patch": stripped(&external.patch), "config": stripped(&external.config) })
}

fn cache(cache: &Cache) -> Value {
    let (filecache, fscache) = match &cache.kind {
        CacheKind::File(file) => (filecache(file), Value::Null),
        CacheKind::Fscache(fscache) => (Value::Null, json!({ "work_dir": path(&fscache.work_dir) })),
        CacheKind::Dummy => (Value::Null, Value::Null),
    };
    json!({
        "type": cache.kind.name(),
        "compressed": cache.compressed,
        "validate": cache.validate,
        "verify_on_fetch": cache.verify_on_fetch,
        "memory_cache_bytes": cache.memory_cache_bytes,
        "prefetch": prefetch(&cache.prefetch),
        "filecache": filecache,
        "fscache": fscache,
    })
}

fn filecache(file: &FileCache) -> Value {
    json!({
        "work_dir": path(&file.work_dir),
        "disable_indexed_map": file.disable_indexed_map,
        "enable_encryption": file.encryption.is_some(),
        "enable_convergent_encryption": file.encryption.as_ref().is_some_and(|encryption| encryption.convergent),
        "encryption_key": "",
    })
}

fn rafs(rafs: &Rafs) -> Value {
    json!({
        "mode": rafs.mode.name(),
        "batch_size": rafs.batch_size,
        "validate": rafs.validate,
        "enable_xattr": rafs.enable_xattr,
        "id_mapping": rafs.id_mapping.map(|ids| [ids.inside, ids.outside, ids.count]),
        "iostats_files": rafs.iostats_files,
        "access_pattern": rafs.access_pattern,
        "latest_read_files": rafs.latest_read_files,
        "read_deadline_ms": u64::try_from(rafs.read_deadline.as_millis()).unwrap_or(u64::MAX),
        "prefetch": prefetch(&rafs.prefetch),
    })
}

fn prefetch(prefetch: &Prefetch) -> Value {
    json!({
        "enable": prefetch.enable,
        "threads": prefetch.threads,
        "batch_size": prefetch.batch_size,
        "bandwidth_limit": prefetch.bandwidth_limit,
        "prefetch_all": prefetch.prefetch_all,
        "stream_prefetch": prefetch.stream_prefetch,
    })
}
