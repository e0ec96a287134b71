//! What a configuration shows of itself, and that no secret is part of it.

use super::*;

#[test]
fn daemon_info_has_the_shape_of_the_reference() {
    let info = ok(&v1(json!({"enable_xattr": true, "iostats_files": true}))).to_daemon_info();
    let expected: Value = serde_json::from_str(
        r#"{"version":2,"id":"","backend":{"type":"localfs","localdisk":null,
        "localfs":{"blob_file":"","dir":"/blobs","alt_dirs":[]},"oss":null,"s3":null,"registry":null,"http-proxy":null},
        "external_backends":[],"cache":{"type":"blobcache","compressed":false,"validate":false,"verify_on_fetch":true,"memory_cache_bytes":67108864,
        "prefetch":{"enable":false,"threads":0,"batch_size":0,"bandwidth_limit":0,"prefetch_all":true,"stream_prefetch":false},
        "filecache":{"work_dir":"/cache","disable_indexed_map":false,"enable_encryption":false,
        "enable_convergent_encryption":false,"encryption_key":""},"fscache":null},
        "rafs":{"mode":"direct","batch_size":1048576,"validate":false,"enable_xattr":true,"id_mapping":null,"iostats_files":true,
        "access_pattern":false,"latest_read_files":false,"read_deadline_ms":60000,
        "prefetch":{"enable":false,"threads":8,"batch_size":1048576,"bandwidth_limit":0,"prefetch_all":true,"stream_prefetch":false}},
        "overlay":null}"#,
    )
    .unwrap();
    assert_eq!(info, expected);
}

/// Texts with `hunter2` (or its base64 and hex relatives) as each secret there is.
pub(super) fn secretive() -> Vec<String> {
    let auth = "aHVudGVyMjpodW50ZXIy"; // hunter2:hunter2
    let mirrors = json!([{"host": "http://u:hunter2@m", "ping_url": "http://hunter2@m/", "headers": {"Authorization": "hunter2"}}]);
    let proxy = json!({"url": "http://u:hunter2@p", "ping_url": "http://p/?t=hunter2"});
    let bucket = json!({"endpoint": "e", "bucket_name": "b", "region": "r", "access_key_id": "hunter2",
        "access_key_secret": "hunter2", "security_token": "hunter2", "session_token": "hunter2"});
    let mut with_proxy = bucket.clone();
    with_proxy["proxy"] = proxy;
    let mut with_mirrors = bucket;
    with_mirrors["mirrors"] = mirrors;
    vec![
        v2_backend("oss", with_proxy.clone()),
        v2_backend("s3", with_mirrors),
        v2_backend("registry", json!({"host": "h", "repo": "r", "auth": auth, "registry_token": "hunter2"})),
        v2_backend("http-proxy", json!({"addr": "http://hunter2@h"})),
        v2(
            json!({"external_backends": [{"type": "oss", "patch": {"access_key_id": "hunter2"}, "config": {"x": "hunter2"}}]}),
        ),
        v2(json!({"cache": {"filecache": {"enable_encryption": true,
            "encryption_key": format!("{}{}", "68756e74".repeat(4), "65723200".repeat(4))}}})),
    ]
}

#[test]
fn secrets_are_never_printed() {
    let marks = ["hunter2", "aHVudGVyMjpodW50ZXIy", "68756e74", "104, 117", "68756674"];
    for text in secretive() {
        let parsed = parse(&text).unwrap();
        for print in [
            format!("{parsed:?}"),
            format!("{:#?}", parsed.config),
            parsed.config.to_daemon_info().to_string(),
        ] {
            for mark in marks {
                assert!(!print.contains(mark), "{mark} in {print}");
            }
        }
    }
    for text in [
        v2_backend("registry", json!({"host": "h", "repo": "r", "auth": "hunter2"})),
        v2_backend("registry", json!({"host": "h", "repo": "r", "auth": forgotten_quotes()})),
        v2_backend("registry", json!({"host": "u:hunter2@h", "repo": "r"})),
        v2_backend("registry", json!({"host": "h", "repo": "r", "proxy": "http://u:hunter2@p"})),
        v2_backend("registry", json!({"host": "h", "repo": "r", "mirrors": ["http://u:hunter2@p"]})),
        v2_backend("registry", json!({"host": "h", "repo": "r", "mirrors": [{"host": "u:hunter2@p"}]})),
        v2_backend("http-proxy", json!({"addr": "u:hunter2@p"})),
        v2(json!({"cache": {"filecache": {"enable_encryption": true, "encryption_key": "hunter2"}}})),
        v2(json!({"backend": "registry://u:hunter2@h"})),
    ] {
        let error = error(&text);
        for mark in marks {
            assert!(!error.contains(mark), "{mark} in {error}");
        }
    }
}

/// A secret that somebody forgot to quote.
fn forgotten_quotes() -> u64 {
    68_756_674
}
