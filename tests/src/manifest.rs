//! A listing of a tree: everything that a reader of an image must reproduce, one JSON object an entry.
//!
//! The format is that of the `*.manifest.jsonl` files beside the fixtures: keys `p` (path), `mode` (octal), `uid`, `gid`,
//! `mtime`, and by type `size`, `sha256`, `nlink`; `link`; `rdev`; `xattr` or `xattr_err`. Names that are not
//! printable ASCII are escaped as Python's `unicode_escape` does, bytes that are not UTF-8 as lone surrogates.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

/// Differences that are printed in full before the rest is only counted.
const DIFFERENCES_SHOWN: usize = 20;

/// The entries of a tree by path; `.` is the root.
#[derive(Clone, PartialEq, Eq)]
pub struct Manifest(BTreeMap<String, Value>);

impl Manifest {
    /// Reads the JSON lines of an expected listing.
    pub fn parse(text: &str) -> Self {
        let entries = text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON"));
        Self(entries.map(keyed).collect())
    }

    /// Lists the tree under `root`, reading every file to its end. Directory-built images give their root
    /// directory no time of its own, so that of the root is set to 0.
    pub fn of_tree(root: &Path) -> io::Result<Self> {
        let mut entries = BTreeMap::new();
        let mut pending = vec![root.to_owned()];
        while let Some(path) = pending.pop() {
            let relative = path.strip_prefix(root).expect("below the root");
            let is_root = relative.as_os_str().is_empty();
            let metadata = std::fs::symlink_metadata(&path).map_err(|error| at(&path, error))?;
            let name = if is_root { ".".into() } else { escape(relative.as_os_str()) };
            let mut entry = describe(&path, &metadata).map_err(|error| at(&path, error))?;
            entry.insert("p".into(), json!(name));
            if is_root {
                entry.insert("mtime".into(), json!(0));
            }
            entries.insert(name, Value::Object(entry));
            if metadata.is_dir() {
                for child in std::fs::read_dir(&path).map_err(|error| at(&path, error))? {
                    pending.push(child.map_err(|error| at(&path, error))?.path());
                }
            }
        }
        Ok(Self(entries))
    }

    /// The entry of this (escaped) path.
    pub fn get(&self, path: &str) -> Option<&Value> {
        self.0.get(path)
    }

    /// The regular files that are not empty, with the SHA-256 of each, in the order of their (escaped) paths.
    pub fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter_map(|(path, entry)| {
            let digest = entry.get("sha256")?.as_str()?;
            entry["size"].as_u64().is_some_and(|size| size > 0).then_some((path.as_str(), digest))
        })
    }

    /// The same with another SHA-256 of one file: what a proof compares with.
    #[must_use]
    pub fn with_digest(&self, path: &str, digest: &str) -> Self {
        let mut changed = self.clone();
        if let Some(entry) = changed.0.get_mut(path) {
            entry["sha256"] = json!(digest);
        }
        changed
    }

    /// How many entries there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// What distinguishes `found` from this, one line a difference; empty if they are equal.
    pub fn differences(&self, found: &Self) -> String {
        let mut paths: Vec<&String> = self.0.keys().chain(found.0.keys()).collect();
        paths.sort();
        paths.dedup();
        let lines: Vec<String> = paths
            .into_iter()
            .filter_map(|path| match (self.0.get(path), found.0.get(path)) {
                (Some(expected), Some(found)) if expected == found => None,
                (Some(expected), Some(found)) => Some(fields(path, expected, found)),
                (Some(_), None) => Some(format!("{path}: missing")),
                (None, _) => Some(format!("{path}: not expected")),
            })
            .collect();
        let mut text =
            lines.iter().take(DIFFERENCES_SHOWN).fold(String::new(), |text, line| text + line + "\n");
        if lines.len() > DIFFERENCES_SHOWN {
            let _ = writeln!(text, "… and {} more", lines.len() - DIFFERENCES_SHOWN);
        }
        text
    }

    /// Fails the test, telling the differences, unless the tree under `root` is this one. `context` says which
    /// image and settings were tried.
    pub fn assert_tree(&self, root: &Path, context: &str) {
        let found = Self::of_tree(root).unwrap_or_else(|error| panic!("{context}: {error}"));
        let differences = self.differences(&found);
        assert!(differences.is_empty(), "{context}: the tree differs from its manifest\n{differences}");
    }
}

fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn keyed(mut entry: Value) -> (String, Value) {
    let path = entry["p"].as_str().expect("an entry has a path").to_owned();
    if path == "." {
        entry["mtime"] = json!(0);
    }
    (path, entry)
}

/// The fields in which two entries differ, as `path: field expected → found`.
fn fields(path: &str, expected: &Value, found: &Value) -> String {
    let (Some(expected), Some(found)) = (expected.as_object(), found.as_object()) else {
        return format!("{path}: not an object");
    };
    let mut names: Vec<&String> = expected.keys().chain(found.keys()).collect();
    names.sort();
    names.dedup();
    let show = |value: Option<&Value>| value.map_or("nothing".into(), Value::to_string);
    let changes = names
        .into_iter()
        .filter(|name| expected.get(*name) != found.get(*name))
        .map(|name| format!("{name} {} → {}", show(expected.get(name)), show(found.get(name))));
    format!("{path}: {}", changes.collect::<Vec<_>>().join(", "))
}

fn describe(path: &Path, metadata: &Metadata) -> io::Result<Map<String, Value>> {
    let mut entry = Map::new();
    entry.insert("mode".into(), json!(format!("0o{:o}", metadata.mode())));
    entry.insert("uid".into(), json!(metadata.uid()));
    entry.insert("gid".into(), json!(metadata.gid()));
    entry.insert("mtime".into(), json!(metadata.mtime()));
    let kind = metadata.file_type();
    if kind.is_file() {
        entry.insert("size".into(), json!(metadata.len()));
        entry.insert("sha256".into(), json!(sha256_of(path)?));
        entry.insert("nlink".into(), json!(metadata.nlink()));
    } else if kind.is_symlink() {
        entry.insert("link".into(), json!(escape(std::fs::read_link(path)?.as_os_str())));
    } else if kind.is_block_device() || kind.is_char_device() {
        let device = metadata.rdev();
        entry.insert("rdev".into(), json!([nix::sys::stat::major(device), nix::sys::stat::minor(device)]));
    }
    match attributes(path) {
        Ok(attributes) if attributes.is_empty() => {}
        Ok(attributes) => {
            entry.insert("xattr".into(), Value::Object(attributes));
        }
        Err(error) => {
            entry.insert("xattr_err".into(), json!(error.raw_os_error()));
        }
    }
    Ok(entry)
}

fn attributes(path: &Path) -> io::Result<Map<String, Value>> {
    let mut attributes = Map::new();
    for name in xattr::list(path)? {
        let value = xattr::get(path, &name)?.unwrap_or_default();
        attributes.insert(escape(&name), json!(hex(&value)));
    }
    Ok(attributes)
}

fn sha256_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hasher.finalize())),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn escape(name: &OsStr) -> String {
    let mut text = String::new();
    for chunk in name.as_bytes().utf8_chunks() {
        for character in chunk.valid().chars() {
            let code = u32::from(character);
            let _ = match character {
                '\\' => write!(text, "\\\\"),
                '\t' => write!(text, "\\t"),
                '\n' => write!(text, "\\n"),
                '\r' => write!(text, "\\r"),
                ' '..='~' => write!(text, "{character}"),
                _ if code < 0x100 => write!(text, "\\x{code:02x}"),
                _ if code < 0x1_0000 => write!(text, "\\u{code:04x}"),
                _ => write!(text, "\\U{code:08x}"),
            };
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\udc{byte:02x}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_like_python_does() {
        let cases: [(&[u8], &str); 6] = [
            (b"plain ~name", "plain ~name"),
            (b"back\\slash\ttab\nline\r\x01\x7f", "back\\\\slash\\ttab\\nline\\r\\x01\\x7f"),
            ("é".as_bytes(), "\\xe9"),
            ("Ωя".as_bytes(), "\\u03a9\\u044f"),
            ("🦀".as_bytes(), "\\U0001f980"),
            (b"bad\xff\xfename", "bad\\udcff\\udcfename"),
        ];
        for (name, expected) in cases {
            assert_eq!(escape(OsStr::from_bytes(name)), expected);
        }
    }

    #[test]
    fn differences_name_path_field_and_both_values() {
        let expected = Manifest::parse("{\"p\":\"a\",\"size\":1}\n{\"p\":\"gone\"}");
        let found = Manifest::parse("{\"p\":\"a\",\"size\":2}\n{\"p\":\"new\"}");
        assert_eq!(expected.differences(&found), "a: size 1 → 2\ngone: missing\nnew: not expected\n");
        assert_eq!(expected.differences(&expected), "");
    }

    #[test]
    fn a_tree_of_files_links_and_directories_is_listed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), b"abc").unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::os::unix::fs::symlink("target", dir.path().join("sub/link")).unwrap();
        let manifest = Manifest::of_tree(dir.path()).unwrap();
        assert_eq!(manifest.count(), 4);
        assert_eq!(manifest.get(".").unwrap()["mtime"], json!(0));
        assert_eq!(manifest.get("sub/link").unwrap()["link"], json!("target"));
        let file = manifest.get("file").unwrap();
        assert_eq!(file["size"], json!(3));
        assert_eq!(file["sha256"], json!("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"));
    }
}
