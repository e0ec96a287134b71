//! The rules of docs/configuration.md, one table of cases for each.

mod hostile;
mod secrets;

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use storage::backend::oss::{Addressing, SignatureVersion};
use storage::http::Scheme;

use super::*;

fn parse(text: &str) -> Result<Parsed, Error> {
    Config::parse(text.as_bytes(), "test.conf")
}

fn ok(text: &str) -> Config {
    match parse(text) {
        Ok(parsed) => {
            assert_eq!(parsed.warnings, [], "{text}");
            parsed.config
        }
        Err(error) => panic!("{error}\n{text}"),
    }
}

fn error(text: &str) -> String {
    match parse(text) {
        Ok(parsed) => panic!("accepted: {parsed:?}\n{text}"),
        Err(error) => {
            let line = error.to_string();
            assert!(!line.contains('\n'), "{line}");
            line
        }
    }
}

fn warnings(text: &str) -> Vec<String> {
    parse(text).expect("accepted").warnings.iter().map(Warning::to_string).collect()
}

/// A complete v1 text, with `patch` merged into it.
fn v1(patch: Value) -> String {
    let mut value = json!({
        "device": {
            "backend": {"type": "localfs", "config": {"dir": "/blobs"}},
            "cache": {"type": "blobcache", "config": {"work_dir": "/cache"}},
        },
        "mode": "direct",
    });
    merge(&mut value, patch);
    value.to_string()
}

/// A complete v2 text, with `patch` merged into it.
fn v2(patch: Value) -> String {
    let mut value = json!({
        "version": 2,
        "backend": {"type": "localfs", "localfs": {"dir": "/blobs"}},
        "cache": {"type": "blobcache", "filecache": {"work_dir": "/cache"}},
        "rafs": {},
    });
    merge(&mut value, patch);
    value.to_string()
}

/// A v2 text with the backend `kind` of `keys`.
fn v2_backend(kind: &str, keys: Value) -> String {
    v2(json!({"backend": {"type": kind, kind: keys}}))
}

fn merge(into: &mut Value, patch: Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, patch) => *into = patch,
    }
}

fn localfs(dir: &str) -> Option<Backend> {
    Some(Backend::Localfs(Localfs { dir: Some(dir.into()), ..Localfs::default() }))
}

#[test]
fn the_v1_sample_means_what_the_reference_makes_of_it() {
    let config = ok(r#"{"device":{"backend":{"type":"localfs","config":{"dir":"BLOBS"}},
        "cache":{"type":"blobcache","config":{"work_dir":"CACHE"}}},
        "mode":"direct","digest_validate":false,"iostats_files":false,"enable_xattr":true,
        "fs_prefetch":{"enable":true,"threads_count":8,"merging_size":1048576,"prefetch_all":true}}"#);
    assert_eq!(config.backend, localfs("BLOBS"));
    let rafs = config.rafs().unwrap();
    assert!(rafs.enable_xattr && !rafs.validate && !rafs.iostats_files);
    assert_eq!(rafs.read_deadline, Duration::from_secs(60));
    let cache = &config.cache;
    assert_eq!(cache.kind, CacheKind::File(FileCache { work_dir: "CACHE".into(), ..FileCache::default() }));
    assert!(cache.verify_on_fetch && !cache.validate && !cache.compressed);
    assert_eq!(cache.prefetch, rafs.prefetch, "an enabled fs_prefetch fills both blocks");
    assert!(cache.prefetch.enable);
}

#[test]
fn defaults_of_both_schemas() {
    let v1 = ok(&v1(json!({"fs_prefetch": {"enable": true}})));
    let v2 =
        ok(&v2(json!({"cache": {"prefetch": {"enable": true}}, "rafs": {"prefetch": {"enable": true}}})));
    let (v1_rafs, v2_rafs) = (v1.rafs().unwrap(), v2.rafs().unwrap());
    assert!(v1_rafs.prefetch.prefetch_all, "v1's default is true");
    assert!(!v2_rafs.prefetch.prefetch_all, "v2's default is false");
    for config in [&v1, &v2] {
        let prefetch = &config.cache.prefetch;
        assert_eq!((prefetch.threads, prefetch.batch_size, prefetch.bandwidth()), (8, 1 << 20, None));
        let rafs = config.rafs().unwrap();
        assert_eq!((rafs.mode, rafs.amplify_io()), (Mode::Direct, 1 << 20));
    }
    let idle = ok(&self::v1(json!({"fs_prefetch": {"enable": false, "threads_count": 3}})));
    assert_eq!(idle.rafs().unwrap().prefetch.threads, 3);
    assert_eq!(idle.cache.prefetch, Prefetch::absent(), "a disabled one is not copied");
    let attributes = |patch: Value| ok(&self::v1(patch)).rafs().unwrap().enable_xattr;
    assert!(attributes(json!({})) && !attributes(json!({"enable_xattr": false})));
    let bare = ok(r#"{"device":{"backend":{"type":"localfs","config":{"dir":"d"}}},"mode":"cached"}"#);
    let bare_v2 = ok(r#"{"version":2,"backend":{"type":"localfs","localfs":{"dir":"d"}},"rafs":{}}"#);
    for config in [&bare, &bare_v2] {
        assert_eq!(config.cache, Cache::default());
        assert_eq!((&config.cache.kind, config.cache.memory_cache_bytes), (&CacheKind::Dummy, 64 << 20));
    }
    assert_eq!(bare.rafs().unwrap().mode, Mode::Cached);
}

#[test]
fn json_and_toml_of_v2_mean_the_same() {
    let toml = r#"
        version = 2
        id = "x"
        [backend]
        type = "localfs"
        [backend.localfs]
        blob_file = "/one"
        alt_dirs = ["/a", "/b"]
        [cache]
        type = "filecache"
        compressed = true
        validate = true
        verify_on_fetch = false
        [cache.filecache]
        work_dir = "/cache"
        [rafs]
        mode = "cached"
        batch_size = 4096
        read_deadline_ms = 250
        validate = true
        [overlay]
        upper_dir = "/up"
        work_dir = "/work"
        [[external_backends]]
        type = "registry"
        patch = { auth = "a" }
        config = { host = "b" }
    "#;
    let json = r#"{"version":2,"id":"x",
        "backend":{"type":"localfs","localfs":{"blob_file":"/one","dir":"","alt_dirs":["/a","/b"]},"oss":null},
        "cache":{"type":"filecache","compressed":true,"validate":true,"verify_on_fetch":false,
            "filecache":{"work_dir":"/cache"},"fscache":null},
        "rafs":{"mode":"cached","batch_size":4096,"read_deadline_ms":250,"validate":true},
        "overlay":{"upper_dir":"/up","work_dir":"/work"},
        "external_backends":[{"type":"registry","patch":{"auth":"a"},"config":{"host":"b"}}]}"#;
    let config = ok(toml);
    assert_eq!(config, ok(json));
    assert_eq!(config.rafs().unwrap().read_deadline, Duration::from_millis(250));
    assert_eq!(config.rafs().unwrap().amplify_io(), 128 << 10);
    assert!(!config.cache.verify_on_fetch);
    assert_eq!(config.external_backends[0].patch["auth"].expose(), "a");
}

#[test]
fn the_snapshotter_maps_ids_with_three_numbers() {
    let mapping = |text: String| ok(&text).rafs().unwrap().id_mapping;
    let (inside, outside, count) = (0, 100_000, 65_536);
    for text in [
        v1(json!({"id_mapping": [inside, outside, count]})),
        v2(json!({"rafs": {"id_mapping": [inside, outside, count]}})),
    ] {
        assert_eq!(mapping(text), Some(IdMapping { inside, outside, count }));
    }
    for none in [json!(null), json!([0, 0, 0]), json!([5, 6, 0])] {
        assert_eq!(mapping(v1(json!({"id_mapping": none}))), None);
    }
    let most = mapping(v1(json!({"id_mapping": [1, 0, u32::MAX - 1]}))).unwrap();
    assert_eq!(most.inside + (most.count - 1), u32::MAX - 1, "the largest id");
}

#[test]
fn small_numbers_act_as_the_least_sensible_ones() {
    for (written, acts_as) in
        [(0, 0), (1, 128 << 10), (131_071, 128 << 10), (131_072, 131_072), (0x1000_0000, 0x1000_0000)]
    {
        assert_eq!(ok(&v1(json!({"amplify_io": written}))).rafs().unwrap().amplify_io(), acts_as);
        assert_eq!(ok(&v2(json!({"rafs": {"batch_size": written}}))).rafs().unwrap().amplify_io(), acts_as);
    }
    let limits = json!({"fs_prefetch": {"enable": true, "merging_size": 1, "bandwidth_rate": 1}});
    let prefetch = ok(&v1(limits)).rafs.unwrap().prefetch;
    assert_eq!((prefetch.merging_size(), prefetch.bandwidth()), (128 << 10, Some(16 << 20)));
}

#[test]
fn the_memory_of_a_mount_without_files_is_a_key_of_both_schemas() {
    for bytes in [0, 1, 8 << 20, 1 << 40] {
        let keys = json!({"memory_cache_bytes": bytes});
        let v1 = ok(&v1(json!({"device": {"cache": keys}})));
        let v2 = ok(&v2(json!({"cache": keys})));
        let alone = ok(&json!({"version": 2, "cache": keys}).to_string());
        for config in [v1, v2, alone] {
            assert_eq!(config.cache.memory_cache_bytes, bytes);
            assert_eq!(config.to_daemon_info()["cache"]["memory_cache_bytes"], json!(bytes));
        }
    }
    for (bad, found) in [(json!((1u64 << 40) + 1), "1099511627777"), (json!(-1), "-1"), (json!("64M"), "64M")]
    {
        let error = error(&v1(json!({"device": {"cache": {"memory_cache_bytes": bad}}})));
        let expected =
            "device.cache.memory_cache_bytes: expected a whole number of bytes from 0 to 1099511627776";
        assert!(error.contains(expected) && error.contains(found), "{error}");
    }
}

#[test]
fn unknown_keys_warn_once_with_their_path_and_are_accepted() {
    let text = v1(json!({
        "device": {
            "backend": {"config": {"read_ahead": true, "foo": {"bar": 1}, "proxy": {"url": "http://p"}}},
            "cache": {"config": {"dedup_workers": 3}, "work_dir": "x"},
            "digest_validate": false,
            "external_backend": {"config_path": "/x"},
        },
        "fs_prefetch": {"enable": false, "threads": 1},
        "no such\nkey": 1,
    }));
    assert_eq!(
        warnings(&text),
        [
            r#""no such\nkey": unknown key, ignored"#,
            "device.backend.config.foo: unknown key, ignored",
            "device.backend.config.proxy: unknown key, ignored",
            "device.backend.config.read_ahead: unknown key, ignored",
            "device.cache.config.dedup_workers: unknown key, ignored",
            "device.cache.work_dir: unknown key, ignored: it belongs into device.cache.config",
            "device.digest_validate: unknown key, ignored: it belongs to the top, beside device and mode",
            "device.external_backend: unknown key, ignored",
            "fs_prefetch.threads: unknown key, ignored",
        ]
    );
    let text = v2(json!({
        "cache": {"enable_encryption": true},
        "rafs": {"prefetch": {"enable": true}},
        "backend": {"nosuch": {}, "registry": {"whatever": 1}},
        "external_backends": [{"type": "oss", "extra": 1}],
    }));
    assert_eq!(
        warnings(&text),
        [
            "backend.nosuch: unknown key, ignored",
            "cache.enable_encryption: unknown key, ignored: nothing is encrypted; it belongs into cache.filecache",
            "external_backends[0].extra: unknown key, ignored",
            "rafs.prefetch.enable: has no effect without cache.prefetch.enable",
        ]
    );
    let registry = json!({"host": "h", "repo": "r", "proxy": {"fallback": false, "x": 1},
        "mirrors": [{"host": "http://m", "auth_through": false}]});
    assert_eq!(
        warnings(&v2_backend("registry", registry)),
        [
            "backend.registry.mirrors[0].auth_through: unknown key, ignored",
            "backend.registry.proxy.x: unknown key, ignored",
        ]
    );
}

/// All keys that the snapshotter and nydusify write, whatever the backend.
#[test]
fn keys_that_orchestrators_always_write_are_no_warnings() {
    let localfs = json!({"blob_file": "", "dir": "/b"});
    let registry = json!({"host": "h", "repo": "r", "auth": "dTpw", "scheme": "https", "skip_verify": true,
        "blob_url_scheme": "", "blob_redirected_host": "", "ca_cert_files": []});
    let oss = json!({"endpoint": "e", "access_key_id": "i", "access_key_secret": "s", "bucket_name": "b",
        "object_prefix": "p/", "scheme": "https"});
    let s3 = json!({"endpoint": "e", "access_key_id": "i", "access_key_secret": "s", "bucket_name": "b",
        "object_prefix": "p/", "region": "r", "scheme": "https"});
    let always = json!({"readahead": false, "readahead_sec": 5, "proxy": {"fallback": false}, "timeout": 5,
        "connect_timeout": 5, "retry_limit": 2});
    for (kind, mut keys) in [("localfs", localfs), ("registry", registry), ("oss", oss), ("s3", s3)] {
        merge(&mut keys, always.clone());
        let text = json!({
            "id": "", "mode": "direct", "digest_validate": false, "iostats_files": false, "enable_xattr": true,
            "access_pattern": false, "latest_read_files": false, "amplify_io": 1_048_576, "warmup": 0,
            "device": {
                "id": "/12", "backend": {"type": kind, "config": keys},
                "cache": {"type": "blobcache", "compressed": false,
                    "config": {"work_dir": "/c", "disable_indexed_map": false}},
                "external_backend": {"config_path": ""},
            },
            "fs_prefetch": {"enable": true, "prefetch_all": true, "threads_count": 8, "merging_size": 1_048_576,
                "bandwidth_rate": 1_048_576, "stream_prefetch": false},
        });
        let parsed = parse(&text.to_string()).unwrap();
        assert_eq!(parsed.warnings, [], "{kind}");
        assert_eq!(parsed.config.id, "/12", "the id of the device");
    }
}

#[test]
fn warnings_are_bounded() {
    let many: serde_json::Map<String, Value> = (0..500).map(|i| (format!("k{i}"), json!(1))).collect();
    let warnings = warnings(&v2(Value::Object(many)));
    assert_eq!(warnings.len(), 101);
    assert_eq!(warnings[100], "…: 400 more warnings");
}

#[test]
fn wrong_types_and_values_name_key_expected_and_found() {
    let http = |keys: Value| {
        let mut all = json!({"host": "h", "repo": "r"});
        merge(&mut all, keys);
        v2_backend("registry", all)
    };
    let cases: Vec<(String, &str)> = vec![
        (v1(json!({"mode": "fast"})), r#"mode: expected one of "direct", "cached", found "fast""#),
        (v1(json!({"mode": null})), "mode: missing; expected \"direct\" or \"cached\""),
        (v1(json!({"device": null})), "schema v1 needs `device`"),
        (v1(json!({"device": 5})), "device: expected a table, found a number"),
        (v1(json!({"enable_xattr": "yes"})), r#"enable_xattr: expected true or false, found the text "yes""#),
        (v1(json!({"id_mapping": "0:1:2"})), "id_mapping: expected [INSIDE, OUTSIDE, COUNT], found the text"),
        (
            v2(json!({"rafs": {"id_mapping": [0, 1]}})),
            "rafs.id_mapping: expected [INSIDE, OUTSIDE, COUNT], found 2 numbers",
        ),
        (
            v1(json!({"id_mapping": [0, -1, 3]})),
            "id_mapping[1]: expected a whole number from 0 to 4294967295, found -1",
        ),
        (v1(json!({"id_mapping": [0, 0, "3"]})), "id_mapping[2]: expected a whole number"),
        (
            v1(json!({"id_mapping": [0, 4_294_967_290_u32, 6]})),
            "id_mapping: 6 ids from 4294967290 on go beyond the largest, 4294967294",
        ),
        (
            v1(json!({"amplify_io": 0x1000_0001})),
            "amplify_io: expected a whole number of bytes from 0 to 268435456, found 268435457",
        ),
        (v1(json!({"amplify_io": -1})), "found -1"),
        (v1(json!({"amplify_io": 1.5})), "found 1.5"),
        (
            v1(json!({"read_deadline_ms": 0})),
            "read_deadline_ms: expected a whole number of milliseconds from 1 to 86400000, found 0",
        ),
        (
            v1(json!({"device": {"backend": {"type": "http-proxy"}}})),
            "device.backend.type: \"http-proxy\" needs a configuration of schema v2",
        ),
        (
            v1(json!({"device": {"backend": {"type": "nfs"}}})),
            r#"device.backend.type: expected one of "localfs", "localdisk", "oss", "s3", "registry", "http-proxy", found"#,
        ),
        (v1(json!({"device": {"backend": {"type": null}}})), "device.backend.type: missing"),
        (v1(json!({"device": {"backend": {"config": null}}})), "device.backend.config: missing"),
        (
            v1(json!({"device": {"backend": {"config": {"dir": ["x"]}}}})),
            "device.backend.config.dir: expected a text, found a list",
        ),
        (v1(json!({"device": {"backend": {"config": {"dir": ""}}}})), "device.backend.config.dir: missing"),
        (v1(json!({"device": {"backend": {"config": {"dir": "a\u{0}b"}}}})), "NUL"),
        (
            v1(json!({"device": {"backend": {"config": {"alt_dirs": ["a", 7]}}}})),
            "device.backend.config.alt_dirs[1]: expected a text, found 7",
        ),
        (
            v1(json!({"device": {"backend": {"config": {"alt_dirs": ["a", ""]}}}})),
            "device.backend.config.alt_dirs: expected paths",
        ),
        (
            v1(json!({"device": {"cache": {"type": "tape"}}})),
            r#"device.cache.type: expected one of "blobcache", "filecache", "fscache", "dummycache", """#,
        ),
        (
            v1(json!({"device": {"cache": {"config": {"work_dir": ""}}}})),
            "device.cache.config.work_dir: expected the path of a directory, found an empty text",
        ),
        (
            v1(json!({"fs_prefetch": {"enable": true, "threads_count": 0}})),
            "fs_prefetch.threads_count: expected a whole number of threads from 1 to 1024, found 0",
        ),
        (v1(json!({"fs_prefetch": {"enable": true, "threads_count": 1025}})), "found 1025"),
        (
            v1(json!({"fs_prefetch": {"enable": true, "merging_size": 0x1000_0001}})),
            "fs_prefetch.merging_size",
        ),
        (v1(json!({"fs_prefetch": {"bandwidth_rate": 4_294_967_296u64}})), "fs_prefetch.bandwidth_rate"),
        (v2(json!({"version": 3})), "version: expected 2, found 3"),
        (v2(json!({"version": "2"})), "version: expected a whole number"),
        (
            v2(json!({"backend": {"localfs": null}})),
            "backend.localfs: missing; expected the table of `type` \"localfs\"",
        ),
        (v2(json!({"cache": {"prefetch": {}}})), "cache.prefetch.enable: missing"),
        (v2(json!({"cache": {"prefetch": {"enable": true, "threads": 2000}}})), "cache.prefetch.threads"),
        (v2(json!({"rafs": {"batch_size": 0x1000_0001}})), "rafs.batch_size"),
        (v2(json!({"rafs": {"mode": ""}})), r#"rafs.mode: expected one of "direct", "cached", found """#),
        (v2(json!({"overlay": {"upper_dir": "/u"}})), "overlay.work_dir: missing"),
        (v2(json!({"external_backends": {}})), "external_backends: expected a list of tables, found a table"),
        (v2(json!({"external_backends": [1]})), "external_backends[0]: expected a table, found a number"),
        (v2_backend("localdisk", json!({})), "backend.localdisk.device_path: missing"),
        (v2_backend("registry", json!({"host": "h"})), "backend.registry.repo: missing"),
        (
            v2_backend("registry", json!({"host": "https://h", "repo": "r"})),
            "backend.registry.host: expected host[:port] alone",
        ),
        (
            v2_backend("registry", json!({"host": "h", "repo": "a/../b"})),
            "backend.registry.repo: expected a repository",
        ),
        (http(json!({"repo": "a?b"})), "backend.registry.repo: expected a repository, found \"a?b\""),
        (
            http(json!({"blob_redirected_host": "https://h"})),
            "backend.registry.blob_redirected_host: expected host[:port] alone",
        ),
        (v2_backend("oss", json!({"endpoint": "e"})), "backend.oss.bucket_name: missing"),
        (
            v2_backend("oss", json!({"endpoint": "https://e", "bucket_name": "b"})),
            "backend.oss.endpoint: expected host[:port]",
        ),
        (
            v2_backend("s3", json!({"endpoint": "u:p@e", "bucket_name": "b", "region": "r"})),
            "backend.s3.endpoint: expected host[:port]",
        ),
        (
            v2_backend("oss", json!({"endpoint": "e", "bucket_name": "b", "signature_version": "v4"})),
            "backend.oss.region: missing",
        ),
        (
            v2_backend("oss", json!({"endpoint": "e", "bucket_name": "b", "access_key_id": "i"})),
            "backend.oss.access_key_secret: missing",
        ),
        (v2_backend("s3", json!({"region": "r", "bucket_name": "b"})), "backend.s3.endpoint: missing"),
        (
            v2_backend("s3", json!({"endpoint": "", "region": "r", "bucket_name": "b", "addressing": "x"})),
            r#"backend.s3.addressing: expected one of "path", "virtual""#,
        ),
        (
            v2_backend("http-proxy", json!({"addr": "host:80"})),
            "backend.http-proxy.addr: expected an address",
        ),
        (
            http(json!({"timeout": "5s"})),
            r#"backend.registry.timeout: expected a whole number of seconds from 0 to 4294967295, found the text "5s""#,
        ),
        (http(json!({"retry_limit": 256})), "backend.registry.retry_limit"),
        (http(json!({"client_cert_file": "/c"})), "backend.registry.client_key_file: missing"),
        (http(json!({"client_key_file": "/c"})), "backend.registry.client_cert_file: missing"),
        (http(json!({"blob_url_scheme": "ftp"})), "backend.registry.blob_url_scheme"),
        (http(json!({"mirrors": [{"host": "m"}]})), "backend.registry.mirrors[0].host: expected an address"),
        (
            http(json!({"mirrors": [{"host": "http://m"}], "proxy": {"url": "http://p"}})),
            "backend.registry.mirrors: cannot be used together with `proxy.url`",
        ),
        (
            http(json!({"proxy": {"dragonfly_scheduler_endpoint": "http://d"}})),
            "backend.registry.proxy.dragonfly_scheduler_endpoint: not supported yet",
        ),
    ];
    for (text, complaint) in cases {
        let error = error(&text);
        assert!(error.contains(complaint), "{complaint}\n{error}\n{text}");
        assert!(error.starts_with("test.conf: "), "{error}");
    }
}

#[test]
fn what_is_no_configuration_says_why() {
    for (text, complaint) in [
        ("", "the text is empty"),
        (" \n", "the text is empty"),
        ("{", "not valid JSON: EOF while parsing an object at line 1 column 1"),
        (r#"{"version": 2, "version": 2}"#, "not valid JSON: the key \"version\" appears twice"),
        ("{}", "schema v2 needs `version`: 2, schema v1 needs `device` and `mode`, found neither"),
        ("version = 2\nid = ", "neither JSON (it does not begin with `{`) nor valid TOML:"),
        ("id = \"x\"", "TOML without `version`"),
        ("[device]\nid = \"x\"", "`device` of schema v1, which is JSON only"),
        ("version = 1", "version: expected 2, found 1"),
        ("version = 2024-01-01", "version: expected a whole number"),
        ("[1]", "TOML without `version`"),
        ("nonsense", "neither JSON"),
        (
            &v1(json!({"version": 1, "mode": "x"})),
            "neither schema fits: as v2, version: expected 2, found 1; as v1, mode:",
        ),
        (&"[".repeat(100_000), "neither JSON"),
        (&"{\"a\":".repeat(100_000), "recursion limit"),
    ] {
        let error = error(text);
        assert!(error.contains(complaint), "{complaint}\n{error}");
    }
    let not_utf8 = Config::parse(b"{\"\xff\"}", "f").unwrap_err().to_string();
    assert_eq!(not_utf8, "f: not a configuration: not UTF-8 at byte 2");
    let toml = error("version = 2\n[backend]\ntype = registry hunter2");
    assert!(toml.contains("at line 3 column"), "{toml}");
    assert!(!toml.contains("hunter2"), "the line is not quoted: {toml}");
}

#[test]
fn a_text_with_keys_of_both_schemas_is_v2_first() {
    let both = |v2_part: Value| {
        let mut value: Value = serde_json::from_str(&v1(json!({}))).unwrap();
        merge(&mut value, v2_part);
        value.to_string()
    };
    let as_v2 = parse(&both(json!({"version": 2}))).unwrap();
    assert_eq!(as_v2.config.backend, None);
    assert_eq!(as_v2.warnings.len(), 2, "device and mode: {:?}", as_v2.warnings);
    let as_v1 = parse(&both(json!({"version": 1}))).unwrap();
    assert_eq!(as_v1.config.backend, localfs("/blobs"));
    // The shape of v2 with a bad value: no second try.
    let error = error(&both(json!({"version": 2, "rafs": {"batch_size": 0x1000_0001}})));
    assert!(error.contains("rafs.batch_size: expected"), "{error}");
}

#[test]
fn parts_that_are_left_out_are_missed_by_name() {
    let config = ok("version = 2");
    assert!(config.backend().unwrap_err().to_string().contains("no `backend`"));
    assert!(config.rafs().unwrap_err().to_string().contains("no `rafs`"));
}

#[test]
fn every_key_of_every_backend() {
    let http = json!({
        "timeout": 0, "connect_timeout": 7, "retry_limit": 3, "skip_verify": true, "ca_cert_files": ["/ca.pem"],
        "client_cert_file": "/cert.pem", "client_key_file": "/key.pem",
        "mirrors": [{"host": "https://u:p@m1", "headers": {"X-A": "b"}, "ping_url": "https://m1/ping",
            "health_check_interval": 9, "failure_limit": 2}, {"host": "http://m2"}],
    });
    let common = |keys: Value| {
        let mut all = http.clone();
        merge(&mut all, keys);
        all
    };
    let oss = common(json!({"scheme": "http", "endpoint": "e", "bucket_name": "b", "object_prefix": "p/",
        "access_key_id": "i", "access_key_secret": "s", "security_token": "t", "region": "r", "addressing": "path"}));
    let s3 = common(
        json!({"scheme": "https", "endpoint": "", "bucket_name": "b", "object_prefix": "p/", "region": "r",
        "access_key_id": "i", "access_key_secret": "s", "session_token": "t", "addressing": "virtual"}),
    );
    let registry = common(
        json!({"scheme": "weird", "host": "h:5000", "repo": "a/b", "auth": "dTpw", "registry_token": "t",
        "blob_url_scheme": "http", "blob_redirected_host": "h2", "docker_config": "/d.json"}),
    );
    let server = common(json!({"addr": "/run/x.sock", "path": "blobs"}));
    let localdisk = json!({"device_path": "/dev/vdb", "disable_gpt": true});

    for (kind, keys) in
        [("oss", oss), ("s3", s3), ("registry", registry), ("http-proxy", server), ("localdisk", localdisk)]
    {
        let config = ok(&v2_backend(kind, keys.clone()));
        let backend = config.backend().unwrap();
        assert_eq!(backend.name(), kind);
        if kind != "http-proxy" {
            let v1 = ok(&v1(json!({"device": {"backend": null}})).replace(
                "\"backend\":null",
                &format!("\"backend\":{}", json!({"type": kind, "config": keys})),
            ));
            assert_eq!(v1.backend.as_ref(), Some(backend), "v1 and v2 read the same keys");
        }
        let options = match backend {
            Backend::Oss(oss) => {
                assert_eq!((oss.signature_version, oss.addressing), (SignatureVersion::V4, Addressing::Path));
                assert_eq!(oss.security_token, Some(Secret::new("t")));
                &oss.http
            }
            Backend::S3(s3) => {
                assert_eq!((s3.endpoint.as_str(), s3.addressing), ("s3.amazonaws.com", Addressing::Virtual));
                &s3.http
            }
            Backend::Registry(registry) => {
                assert_eq!((registry.scheme, registry.blob_url_scheme), (Scheme::Https, Some(Scheme::Http)));
                assert_eq!(registry.auth, Some(Secret::new("dTpw")));
                assert_eq!(registry.docker_config, Some(PathBuf::from("/d.json")));
                &registry.http
            }
            Backend::HttpProxy(server) => {
                assert_eq!((server.addr.expose(), server.path.as_str()), ("/run/x.sock", "blobs"));
                &server.http
            }
            Backend::Localdisk(disk) => {
                assert_eq!(disk, &Localdisk { device_path: "/dev/vdb".into(), disable_gpt: true });
                continue;
            }
            Backend::Localfs(_) => unreachable!("not in the table"),
        };
        assert_eq!((options.timeout, options.connect_timeout), (None, Some(Duration::from_secs(7))));
        assert_eq!((options.retry_limit, options.skip_verify), (3, true));
        assert_eq!(options.client_cert, Some(("/cert.pem".into(), "/key.pem".into())));
        assert_eq!(options.mirrors[0].host.expose(), "https://u:p@m1");
        assert_eq!(options.mirrors[0].health_check_interval, Duration::from_secs(9));
        assert_eq!((options.mirrors[1].failure_limit, &options.mirrors[1].ping_url), (5, &None));
    }

    let proxied = json!({"host": "h", "repo": "r", "proxy": {"url": "http://p", "fallback": false, "use_http": true,
        "check_interval": 1, "check_pause_elapsed": 2, "dragonfly_scheduler_endpoint": ""}});
    let Some(Backend::Registry(registry)) = ok(&v2_backend("registry", proxied)).backend else {
        panic!("registry")
    };
    let proxy = registry.http.proxy.expect("a proxy");
    let hectic = json!({"host": "h", "repo": "r", "proxy": {"url": "http://p", "check_interval": 0}});
    let mut hectic = ok(&v2_backend("registry", hectic)).backend.expect("a registry");
    let interval = hectic.http_mut().and_then(|http| http.proxy.as_ref()).map(|proxy| proxy.check_interval);
    assert_eq!(interval, Some(Duration::from_secs(1)), "not without end");
    assert!(!proxy.fallback && proxy.use_http);
    assert_eq!(
        (proxy.check_interval, proxy.check_pause_elapsed),
        (Duration::from_secs(1), Duration::from_secs(2))
    );
}

#[test]
fn encryption_needs_a_good_key() {
    let key = format!("{}{}", "11".repeat(16), "22".repeat(16));
    let with = |keys: Value| v2(json!({"cache": {"filecache": keys}}));
    let config = ok(&with(json!({"enable_encryption": true, "encryption_key": key})));
    let CacheKind::File(file) = &config.cache.kind else { panic!("a file cache") };
    let encryption = file.encryption.as_ref().expect("encryption");
    assert_eq!((encryption.key.expose()[0], encryption.convergent), (0x11, false));
    for (keys, complaint) in [
        (json!({"enable_encryption": true}), "cache.filecache.encryption_key: missing"),
        (json!({"enable_encryption": true, "encryption_key": "ab"}), "found 2 characters"),
        (json!({"enable_encryption": true, "encryption_key": "11".repeat(32)}), "two different halves"),
        (json!({"encryption_key": 5}), "cache.filecache.encryption_key: expected a text, found a number"),
    ] {
        let error = error(&with(keys));
        assert!(error.contains(complaint), "{error}");
    }
    assert_eq!(
        warnings(&with(json!({"enable_convergent_encryption": true}))),
        ["cache.filecache.enable_convergent_encryption: has no effect without enable_encryption"]
    );
}

#[test]
fn localfs_dir_is_the_v1_text_it_stands_for() {
    let text = v1(json!({"device": {
        "backend": {"config": {"dir": "/d"}}, "cache": {"config": {"work_dir": "/d"}}}}));
    let mut expected = ok(&text);
    let mut implicit = Config::for_localfs_dir("/d".as_ref());
    // Nothing is prefetched by either; the idle block may differ.
    for config in [&mut expected, &mut implicit] {
        config.rafs.as_mut().unwrap().prefetch = Prefetch::absent();
    }
    assert_eq!(implicit, expected);
}

#[test]
fn the_environment_replaces_registry_auth() {
    let mut config = ok(&v2_backend("registry", json!({"host": "h", "repo": "r", "auth": "dTpw"})));
    config.override_registry_auth("bmV3OnB3", "IMAGE_PULL_AUTH").unwrap();
    let Some(Backend::Registry(registry)) = &config.backend else { panic!("registry") };
    assert_eq!(registry.auth.as_ref().map(Secret::expose), Some("bmV3OnB3"));
    let error = config.override_registry_auth("hunter2!", "IMAGE_PULL_AUTH").unwrap_err().to_string();
    assert!(error.contains("IMAGE_PULL_AUTH") && !error.contains("hunter2"), "{error}");
    ok(&v1(json!({}))).override_registry_auth("anything", "IMAGE_PULL_AUTH").unwrap();
}

#[test]
fn files_are_bounded_and_errors_name_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.json");
    let missing = Config::load(&path).unwrap_err().to_string();
    assert!(missing.contains("c.json: cannot read the configuration: No such file"), "{missing}");
    let is_dir = Config::load(dir.path()).unwrap_err().to_string();
    assert!(is_dir.contains("Is a directory"), "{is_dir}");

    let text = v2(json!({}));
    let padded = |len: usize| format!("{text}{}", " ".repeat(len - text.len()));
    std::fs::write(&path, padded(MAX_TEXT)).unwrap();
    assert_eq!(Config::load(&path).unwrap().config.backend, localfs("/blobs"));
    std::fs::write(&path, padded(MAX_TEXT + 1)).unwrap();
    let long = Config::load(&path).unwrap_err().to_string();
    assert!(long.contains("c.json: the configuration is longer than 1048576 bytes"), "{long}");
}

#[test]
fn the_samples_load_without_a_warning() {
    let mut count = 0;
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../configs")).expect("configs/") {
        let path = entry.unwrap().path();
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if !["json", "toml"].contains(&extension) {
            continue;
        }
        count += 1;
        let parsed = Config::load(&path).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(parsed.warnings, [], "{}", path.display());
        let config = parsed.config;
        config.backend().unwrap();
        config.rafs().unwrap();
        let form = std::fs::read_to_string(&path).unwrap();
        assert!(!form.contains("${"), "{} needs nothing filled in", path.display());
        let readme = include_str!("../../configs/README.md");
        assert!(
            readme.contains(path.file_name().unwrap().to_str().unwrap()),
            "{} in the README",
            path.display()
        );
    }
    assert!(count >= 7, "{count} samples");
}

#[test]
fn the_manual_names_every_key() {
    let manual = include_str!("../../docs/configuration.md");
    let sources = [
        include_str!("backend.rs"),
        include_str!("cache.rs"),
        include_str!("http.rs"),
        include_str!("object_store.rs"),
        include_str!("rafs.rs"),
        include_str!("registry.rs"),
        include_str!("tracing.rs"),
        include_str!("v1.rs"),
        include_str!("v2.rs"),
    ];
    let readers = [
        "text",
        "required_text",
        "path",
        "paths",
        "boolean",
        "choice",
        "secret",
        "secrets",
        "url",
        "integer",
        "integer32",
        "table",
        "tables",
    ];
    let mut count = 0;
    for source in sources {
        let flat = source.split_whitespace().collect::<Vec<_>>().join("");
        for reader in readers {
            for call in flat.split(&format!(".{reader}(\"")).skip(1) {
                let key = call.split('"').next().unwrap();
                count += 1;
                let is_named = ["`", ".", "[]."].iter().any(|before| {
                    ["`", ".", "["].iter().any(|after| manual.contains(&format!("{before}{key}{after}")))
                });
                assert!(is_named, "docs/configuration.md does not name `{key}`");
            }
        }
    }
    assert!(count > 60, "{count} keys found in the sources");
}

#[test]
fn the_environment_says_who_we_are_and_what_is_sent() {
    use std::os::unix::ffi::OsStringExt as _;

    let text = r#"{"version": 2, "backend": {"type": "registry", "registry": {"host": "r", "repo": "p", "auth": "YTpi"}}}"#;
    let registry = |variables: &[(&str, &str)]| {
        let mut config = ok(text);
        let applied = config.apply(variables.iter().map(|(name, value)| (name.into(), value.into())));
        match (applied, config.backend) {
            (Ok(()), Some(Backend::Registry(registry))) => Ok(registry),
            (applied, _) => Err(applied.unwrap_err().to_string()),
        }
    };
    let applied =
        registry(&[("NYDUS_HEADER_X-Site", "s3cret"), ("IMAGE_PULL_AUTH", "dTpw"), ("PATH", "/")]).unwrap();
    assert_eq!(applied.auth.unwrap().expose(), "dTpw");
    assert_eq!(applied.http.headers["X-Site"].expose(), "s3cret");
    assert_eq!(applied.http.headers.len(), 1);
    assert!(!format!("{:?}", applied.http).contains("s3cret"));
    assert_eq!(registry(&[("IMAGE_PULL_AUTH", "")]).unwrap().auth.unwrap().expose(), "YTpi");
    let error = registry(&[("IMAGE_PULL_AUTH", "hunter2")]).unwrap_err();
    assert!(error.contains("IMAGE_PULL_AUTH") && !error.contains("hunter2"), "{error}");
    let bytes = OsString::from_vec(vec![0xff]);
    let error = ok(text).apply([("NYDUS_HEADER_X".into(), bytes)].into_iter()).unwrap_err().to_string();
    assert!(error.contains("NYDUS_HEADER_X") && error.contains("UTF-8"), "{error}");
}

#[test]
fn one_backend_alone_is_read_as_in_a_configuration() {
    let parse = |kind: &str, text: &str| Config::for_backend(kind, text.as_bytes(), "--backend-config");
    let cases = [
        ("localfs", json!({"dir": "/blobs", "alt_dirs": ["/more"]})),
        ("localdisk", json!({"device_path": "/dev/sdx"})),
        ("registry", json!({"scheme": "http", "host": "example.com", "repo": "a/b", "auth": "dTpw"})),
        (
            "s3",
            json!({"endpoint": "", "region": "r", "bucket_name": "b", "access_key_id": "k", "access_key_secret": "s"}),
        ),
        ("oss", json!({"endpoint": "e", "bucket_name": "b", "access_key_id": "k", "access_key_secret": "s"})),
        ("http-proxy", json!({"addr": "/run/socket"})),
    ];
    for (kind, settings) in cases {
        let alone = parse(kind, &settings.to_string()).unwrap();
        let mut backend = json!({"type": kind});
        backend[kind] = settings;
        let whole = ok(&json!({"version": 2, "backend": backend}).to_string());
        assert_eq!((&alone.config, &alone.warnings[..]), (&whole, &[][..]), "{kind}");
    }
    for (kind, text, expected) in [
        ("tape", "{}", "--backend-config: unknown backend type \"tape\", expected one of localfs,"),
        ("localdisk", "{}", "--backend-config: device_path: missing"),
        ("registry", r#"{"host": 1}"#, "--backend-config: host: expected a text, found"),
        ("localfs", "[]", "--backend-config: not a configuration: expected a JSON object"),
        ("localfs", "{", "--backend-config: not valid JSON"),
        ("localfs", " ", "--backend-config: not a configuration: the text is empty"),
        ("s3", "\u{feff}{}", "--backend-config: not valid JSON"),
    ] {
        let error = parse(kind, text).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{kind} {text}: {error}");
    }
    let unknown = parse("localfs", r#"{"dir": "/blobs", "colour": 1}"#).unwrap();
    assert_eq!(unknown.warnings[0].to_string(), "colour: unknown key, ignored");
}
