//! Configurations of the daemon, in all the forms it accepts.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

/// The schema and syntax of a configuration text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Schema v1, JSON.
    V1,
    /// Schema v2, JSON.
    V2Json,
    /// Schema v2, TOML.
    V2Toml,
}

/// How chunks are cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// Decoded.
    Plain,
    /// As they are stored.
    Compressed,
    /// Decoded, encrypted at rest.
    Encrypted,
    /// In memory: the configuration has no section for a cache, unless it says how much memory.
    Off,
}

/// A configuration, for blobs in a local directory unless told otherwise. Everything is public: tests set what they need.
#[derive(Clone, Debug)]
pub struct Config {
    /// Schema and syntax.
    pub form: Form,
    /// The directory of blobs.
    pub blobs: PathBuf,
    /// Blobs are somewhere else: the type of the backend and its keys, which both schemas share.
    pub backend: Option<(&'static str, Value)>,
    /// The cache directory.
    pub cache: PathBuf,
    /// How chunks are cached.
    pub caching: Caching,
    /// The most bytes of chunks in memory; `None`: the default.
    pub memory_cache_bytes: Option<u64>,
    /// `digest_validate` in v1, `rafs.validate` in v2.
    pub validate: bool,
    /// Read amplification in bytes; `None`: the default.
    pub amplify_io: Option<u64>,
    /// The deadline of a read; `None`: the default.
    pub read_deadline_ms: Option<u64>,
    /// Whether prefetch is on. Off keeps counts of backend reads predictable.
    pub prefetch: bool,
}

impl Config {
    /// Plain caching in `cache`, v2 JSON, validation off.
    pub fn new(blobs: &Path, cache: &Path) -> Self {
        Self {
            form: Form::V2Json,
            blobs: blobs.to_owned(),
            backend: None,
            cache: cache.to_owned(),
            caching: Caching::Plain,
            memory_cache_bytes: None,
            validate: false,
            amplify_io: None,
            read_deadline_ms: None,
            prefetch: false,
        }
    }

    /// The configuration as JSON of its schema, TOML included, for tests that then spoil a key.
    pub fn to_value(&self) -> Value {
        match self.form {
            Form::V1 => self.v1(),
            Form::V2Json | Form::V2Toml => self.v2(),
        }
    }

    /// The configuration file's text.
    pub fn to_text(&self) -> String {
        match self.form {
            Form::V1 | Form::V2Json => self.to_value().to_string(),
            Form::V2Toml => toml::to_string(&self.to_value()).expect("a configuration without nulls"),
        }
    }

    fn backend(&self) -> (&'static str, Value) {
        self.backend.clone().unwrap_or_else(|| ("localfs", json!({ "dir": self.blobs })))
    }

    fn v1(&self) -> Value {
        let (kind, keys) = self.backend();
        let mut device = json!({ "backend": { "type": kind, "config": keys } });
        if self.caching != Caching::Off {
            let mut cache = json!({ "type": "blobcache", "config": { "work_dir": self.cache } });
            if self.caching == Caching::Compressed {
                cache["compressed"] = json!(true);
            }
            self.encryption(&mut cache["config"]);
            device["cache"] = cache;
        }
        self.memory(&mut device);
        let mut config = json!({
            "device": device,
            "mode": "direct",
            "digest_validate": self.validate,
            "enable_xattr": true,
            "fs_prefetch": { "enable": self.prefetch },
        });
        set(&mut config, "amplify_io", self.amplify_io);
        set(&mut config, "read_deadline_ms", self.read_deadline_ms);
        config
    }

    fn v2(&self) -> Value {
        let (kind, keys) = self.backend();
        let mut config = json!({
            "version": 2,
            "backend": { "type": kind, kind: keys },
            "rafs": { "mode": "direct", "validate": self.validate, "enable_xattr": true },
        });
        if self.caching != Caching::Off {
            config["cache"] = json!({
                "type": "filecache",
                "compressed": self.caching == Caching::Compressed,
                "filecache": { "work_dir": self.cache },
            });
            self.encryption(&mut config["cache"]["filecache"]);
            if self.prefetch {
                config["cache"]["prefetch"] = json!({ "enable": true, "prefetch_all": true });
                config["rafs"]["prefetch"] = json!({ "enable": true, "prefetch_all": true });
            }
        }
        self.memory(&mut config);
        set(&mut config["rafs"], "batch_size", self.amplify_io);
        set(&mut config["rafs"], "read_deadline_ms", self.read_deadline_ms);
        config
    }

    /// Adds to the section for the cache in `parent` how much memory it may take.
    fn memory(&self, parent: &mut Value) {
        if let Some(bytes) = self.memory_cache_bytes {
            parent["cache"]["memory_cache_bytes"] = json!(bytes);
        }
    }

    fn encryption(&self, filecache: &mut Value) {
        if self.caching == Caching::Encrypted {
            filecache["enable_encryption"] = json!(true);
            filecache["encryption_key"] =
                json!("00112233445566778899aabbccddeeff0f1e2d3c4b5a69788796a5b4c3d2e1f0");
        }
    }
}

fn set(table: &mut Value, key: &str, value: Option<u64>) {
    if let (Some(table), Some(value)) = (table.as_object_mut(), value) {
        table.insert(key.into(), json!(value));
    }
}

/// Turns an object into its text with one key, named by its dotted path, set to `value`. Tables that are missing
/// are made.
pub fn with_key(config: &Value, path: &str, value: Value) -> Value {
    let mut changed = config.clone();
    let mut place = &mut changed;
    for key in path.split('.') {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        place = &mut place[key];
    }
    *place = value;
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toml_and_json_of_schema_v2_say_the_same() {
        let mut config = Config::new(Path::new("/blobs"), Path::new("/cache"));
        config.caching = Caching::Compressed;
        config.read_deadline_ms = Some(3000);
        config.form = Form::V2Toml;
        let parsed: Value = toml::from_str(&config.to_text()).unwrap();
        assert_eq!(parsed, config.to_value());
    }

    #[test]
    fn a_key_is_set_by_its_path() {
        let changed = with_key(&json!({ "a": { "b": 1 } }), "a.c.d", json!("x"));
        assert_eq!(changed, json!({ "a": { "b": 1, "c": { "d": "x" } } }));
    }
}
