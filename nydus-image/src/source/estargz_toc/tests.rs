//! Tables that are right, and tables that lie.

use rafs::build::Content;
use serde_json::{Value, json};

use super::*;

const MIB: u64 = 1 << 20;

fn sha256(digit: &str) -> String {
    format!("sha256:{}", digit.repeat(64))
}

fn read_entries(entries: &Value, data_size: u64) -> Result<EstargzToc> {
    let text = json!({ "version": 1, "entries": entries }).to_string();
    parse(text.as_bytes(), Path::new("toc.json"), true, MIB as u32, data_size)
}

fn refused(entries: &Value) -> String {
    read_entries(entries, 100_000).unwrap_err().to_string()
}

fn file(name: &str, size: u64, offset: u64) -> Value {
    json!({ "name": name, "type": "reg", "size": size, "offset": offset, "chunkDigest": sha256("a") })
}

#[test]
fn a_table_is_a_tree_and_the_chunks_of_its_files() {
    let entries = json!([
        { "name": "d/", "type": "dir", "mode": 0o755, "uid": 3, "gid": 4, "modtime": "2020-01-01T00:00:00Z" },
        { "name": "d/small", "type": "reg", "mode": 0o4644, "size": 9, "offset": 100, "digest": sha256("1"),
          "xattrs": { "user.key": "dmFsdWU=" } },
        { "name": "d/large", "type": "reg", "size": 2 * MIB + 5, "offset": 300, "chunkSize": MIB,
          "digest": sha256("f"), "chunkDigest": sha256("2") },
        { "name": "d/large", "type": "chunk", "offset": 90_000, "chunkOffset": MIB, "chunkSize": MIB,
          "chunkDigest": sha256("3") },
        { "name": "d/large", "type": "chunk", "offset": 95_000, "chunkOffset": 2 * MIB, "chunkDigest": sha256("4") },
        { "name": "link", "type": "symlink", "linkName": "d/small" },
        { "name": "again", "type": "hardlink", "linkName": "d/small" },
        { "name": "empty", "type": "reg" },
        { "name": "null", "type": "char", "devMajor": 1, "devMinor": 3 },
        { "name": ".prefetch.landmark", "type": "reg", "size": 1, "offset": 97_000, "digest": sha256("9") },
    ]);
    let toc = read_entries(&entries, 99_999).unwrap();
    let found: Vec<_> = toc.chunks.iter().map(|chunk| (chunk.len, chunk.offset, chunk.bound)).collect();
    let large = MIB as u32;
    let bound = |len: u64| (len + 23 + 128 + 5 * (len / 16384)) as u32;
    // To the next chunk, the end of the layer, or what gzip makes of so many bytes.
    assert_eq!(
        found,
        [(9, 100, bound(9)), (large, 300, 89_700), (large, 90_000, 5000), (5, 95_000, bound(5))]
    );
    assert_eq!(toc.chunks[0].digest, Digest([0x11; 32]));
    assert_eq!(toc.chunks[3].digest, Digest([0x44; 32]));

    let names: Vec<_> = toc.tree.nodes.iter().map(|node| String::from_utf8_lossy(&node.name)).collect();
    assert_eq!(names, ["", "d", "small", "large", "link", "again", "empty"]);
    let node = |name: &str| toc.tree.nodes.iter().find(|node| node.name == name.as_bytes()).unwrap();
    assert_eq!((node("d").mode, node("d").uid, node("d").gid), (0o040_755, 3, 4));
    assert_eq!((node("small").mode, node("small").mtime), (0o104_644, 0));
    assert_eq!(node("small").xattrs, [(b"user.key".to_vec(), b"value".to_vec())]);
    assert_eq!(node("small").hard_links, node("again").hard_links);
    assert!(node("small").hard_links.is_some());
    assert_eq!(node("link").content, Content::Symlink { target: b"d/small".to_vec() });
    assert_eq!(toc.files.len(), 2);
    // Nothing is known of the end: only gzip's bound is left.
    let toc = read_entries(&json!([file("f", MIB, 100)]), 0).unwrap();
    assert_eq!(toc.chunks[0].bound, bound(MIB));
}

#[test]
fn lies_about_chunks_are_found_out() {
    let beyond = refused(&json!([file("a", 5, 100_000)]));
    assert!(beyond.contains("\"a\"") && beyond.contains("offset is 100000"), "{beyond}");
    let short =
        refused(&json!([{ "name": "a", "type": "reg", "size": 2 * MIB, "offset": 1, "chunkSize": 4096,
                                  "chunkDigest": sha256("a") }]));
    assert!(short.contains("chunkSize is 4096, expected 1048576"), "{short}");
    let unchunked = refused(&json!([file("a", 2 * MIB, 1)]));
    assert!(unchunked.contains("chunkSize is 0, expected 1048576"), "{unchunked}");
    let huge = refused(&json!([file("a", u64::MAX, 1)]));
    assert!(huge.contains("chunkSize"), "{huge}");
    let first = json!({ "name": "a", "type": "reg", "size": MIB + 5, "offset": 1, "chunkSize": MIB,
                        "chunkDigest": sha256("a") });
    let missing = refused(&json!([first, file("b", 1, 50)]));
    assert!(missing.contains("\"a\"") && missing.contains("its chunks end at 1048576"), "{missing}");
    assert!(refused(&json!([first])).contains("its chunks end at"));
    let chunk = |offset: u64, size: u64| {
        json!({ "name": "a", "type": "chunk", "offset": 60, "chunkOffset": offset, "chunkSize": size,
                "chunkDigest": sha256("b") })
    };
    assert!(refused(&json!([first, chunk(0, 5)])).contains("chunkOffset is 0, expected 1048576"));
    assert!(refused(&json!([first, chunk(MIB, 6)])).contains("chunkSize is 6, expected 5"));
    assert!(refused(&json!([first, chunk(MIB, 5), chunk(MIB + 5, 0)])).contains("the end of the file"));
    assert!(refused(&json!([chunk(0, 5)])).contains("does not follow"));
    assert!(
        refused(&json!([first, { "name": "d", "type": "dir" }, chunk(MIB, 5)])).contains("its chunks end at")
    );
}

#[test]
fn lies_about_entries_are_found_out() {
    for (entry, expected) in [
        (json!({ "name": "a/../../b", "type": "dir" }), "\"..\""),
        (json!({ "name": "n\0ul", "type": "dir" }), "NUL"),
        (json!({ "name": "x".repeat(256), "type": "dir" }), "256"),
        (json!({ "name": "a", "type": "hardlink", "linkName": "a" }), "does not come before"),
        (json!({ "name": "a", "type": "hardlink", "linkName": "b" }), "does not come before"),
        (json!({ "name": "a", "type": "symlink" }), "without a target"),
        (json!({ "name": "a", "type": "socket" }), "type is \"socket\""),
        (json!({ "name": "a", "type": "reg", "size": 1 }), "digest is \"\""),
        (json!({ "name": "a", "type": "reg", "size": 1, "digest": "sha256:12" }), "digest is \"sha256:12\""),
        (json!({ "name": "a", "type": "reg", "size": 1, "chunkDigest": sha256("g") }), "chunkDigest is"),
        (
            json!({ "name": "a", "type": "reg", "size": 1, "innerOffset": 7, "digest": sha256("a") }),
            "innerOffset is 7",
        ),
        (json!({ "name": "a", "type": "dir", "xattrs": { "user.k": "*" } }), "\"user.k\""),
    ] {
        let error = refused(&json!([entry]));
        assert!(error.contains(expected) && error.contains("toc.json"), "{expected}: {error}");
    }
    // A cycle would need a link to what comes later.
    let links = json!([{ "name": "a", "type": "hardlink", "linkName": "b" },
                       { "name": "b", "type": "hardlink", "linkName": "a" }]);
    assert!(refused(&links).contains("entry \"a\""));
    let below = json!([file("a", 1, 1), { "name": "a/b", "type": "dir" }]);
    assert!(refused(&below).contains("not a directory"));
}

#[test]
fn what_is_no_table_is_refused() {
    let refused =
        |text: &str| parse(text.as_bytes(), Path::new("toc.json"), true, 4096, 0).unwrap_err().to_string();
    for (text, expected) in [
        ("", "EOF"),
        ("[]", "invalid length 0"),
        ("{\"entries\": []}", "version"),
        ("{\"version\": 2, \"entries\": []}", "version is 2"),
        ("{\"version\": 1, \"entries\": []} x", "trailing"),
        (
            "{\"version\": 1, \"entries\": [{\"name\": \"a\", \"type\": \"reg\", \"size\": -1}]}",
            "entries[0].size",
        ),
        ("{\"version\": 1, \"entries\": [{\"name\": \"a\"}]}", "entries[0]"),
    ] {
        let error = refused(text);
        assert!(error.contains(expected), "{text}: {error}");
    }
    assert!(refused(&"[".repeat(100_000)).contains("toc.json"), "depth is bounded");
}

#[test]
fn no_damaged_table_ends_in_a_panic() {
    let table = json!({ "version": 1, "entries": [
        { "name": "d/", "type": "dir", "mode": 0o755, "xattrs": { "user.key": "dmFsdWU=" } },
        { "name": "d/large", "type": "reg", "size": MIB + 5, "offset": 300, "chunkSize": MIB,
          "chunkDigest": sha256("2") },
        { "name": "d/large", "type": "chunk", "offset": 90_000, "chunkOffset": MIB, "chunkDigest": sha256("3") },
        { "name": "again", "type": "hardlink", "linkName": "d/large" },
    ]})
    .to_string();
    let mut state = 7u64;
    let mut below = |limit: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as usize % limit
    };
    let mut accepted = 0;
    for _ in 0..20_000 {
        let mut bytes = table.clone().into_bytes();
        for _ in 0..=below(3) {
            let at = below(bytes.len());
            match below(4) {
                0 => bytes[at] = b"0123456789"[below(10)],
                1 => bytes[at] = b"{}[]\",:-"[below(8)],
                2 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, b'9'),
            }
        }
        accepted += usize::from(parse(&bytes, Path::new("toc.json"), true, MIB as u32, 100_000).is_ok());
    }
    assert!((1..20_000).contains(&accepted), "{accepted}");
}
