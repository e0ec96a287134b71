//! What is read of a file, and what is refused.

use std::collections::BTreeSet;
use std::path::Path;

use crate::load::{directory, parse};

use super::*;

const GOOD: &str = "
about: a registry that is gone for a while
image: v6-zstd
servers:
  origin: { listen: '127.0.0.1:5000' }
config:
  backend: { type: registry, registry: { scheme: http, host: '127.0.0.1:5000', repo: library/test } }
steps:
  - mount: {}
  - mark: begin
  - fault: { listener: { server: origin, is: closed } }
  - read: { name: during, files: ['many/*'], count: 5, readers: 5 }
  - mend: { listener: { server: origin, is: open } }
expect:
  - reads: { of: during, end: [ok] }
  - requests: { server: origin, during: { from: begin }, count: { at_most: 10 } }
";

/// `GOOD` with one text replaced by another, refused; answers why.
fn refused(old: &str, new: &str) -> String {
    assert!(GOOD.contains(old), "{old}");
    parse(&GOOD.replace(old, new)).expect_err(new)
}

#[test]
fn a_scenario_is_read() {
    let scenario = parse(GOOD).unwrap();
    assert_eq!(scenario.steps.len(), 5);
    assert_eq!(scenario.expect.len(), 2);
}

#[test]
fn unknown_keys_are_refused_with_their_line() {
    for (old, new, line, words) in [
        ("image:", "imago: x\nimage:", 3, "imago"),
        ("listen: '127.0.0.1:5000' }", "listen: '127.0.0.1:5000', colour: red }", 5, "colour"),
        ("is: closed", "is: closed, for: 3s", 11, "for"),
        ("fault: { listener:", "fault: { listner:", 11, "listner"),
        ("- mount: {}", "- mont: {}", 9, "mont"),
        ("count: 5, readers", "count: 5, redaers: 5, readers", 12, "redaers"),
        ("end: [ok]", "end: [ok], ends: 3", 15, "ends"),
        ("at_most: 10", "at_msot: 10", 16, "at_msot"),
    ] {
        let why = refused(old, new);
        assert!(why.starts_with(&format!("{line}:")), "{new}: {why}");
        assert!(why.contains(words) && why.contains("expected"), "{new}: {why}");
    }
}

#[test]
fn wrong_values_are_refused_with_what_was_expected() {
    for (old, new, line, words) in [
        ("is: closed", "is: shut", "11:", "closed"),
        ("end: [ok]", "end: [fine]", "15:", "ETIMEDOUT"),
        ("readers: 5", "readers: 5, within: 30", "12:", "a time with its unit"),
        ("'127.0.0.1:5000' }", "'127.0.0.1' }", "5:", "address"),
    ] {
        let why = refused(old, new);
        assert!(why.starts_with(line) && why.contains(words), "{new}: {why}");
    }
}

#[test]
fn what_refers_to_nothing_is_refused_with_its_path() {
    for (old, new, path, words) in [
        ("server: origin, is: closed", "server: orgin, is: closed", "steps[2]", "expected one of: origin"),
        ("of: during", "of: after", "expect[0].reads.of", "expected one of: during"),
        ("from: begin", "from: start", "expect[1].requests.during", "expected one of: begin"),
        ("image: v6-zstd", "image: v7", "image", "v6-zstd"),
        ("count: { at_most: 10 }", "count: {}", "expect[1].requests.count", "at_least"),
        ("- fault:", "- mend:", "steps", "no fault"),
        ("'127.0.0.1:5000' }\n", "'8.8.8.8:5000' }\n", "servers.origin", "loopback"),
    ] {
        let why = refused(old, new);
        assert!(why.trim().starts_with(path) && why.contains(words), "{new}: {why}");
    }
}

#[test]
fn every_scenario_of_the_folder_can_be_read() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let (loaded, problems) = directory(&dir);
    assert!(problems.is_empty(), "{problems:#?}");
    assert!(!loaded.is_empty());
}

#[test]
fn the_manual_explains_every_key() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let manual = std::fs::read_to_string(dir.join("README.md")).unwrap();
    let schema = std::fs::read_to_string(dir.join("engine/schema.rs")).unwrap();
    let fields = schema.lines().filter_map(|line| {
        let (name, _) = line.trim().strip_prefix("pub ")?.split_once(':')?;
        (!name.contains(' ')).then_some(name)
    });
    // Words in what is set as code.
    let code = manual.split('`').skip(1).step_by(2);
    let is_letter = |c: char| c.is_ascii_lowercase() || c == '_';
    let explained: BTreeSet<&str> = code.flat_map(|text| text.split(|c| !is_letter(c))).collect();
    let mut count = 0;
    for field in fields {
        let key = if field == "kind" { "for" } else { field };
        assert!(explained.contains(key), "the key `{key}` is not explained");
        count += 1;
    }
    assert!(count > 60, "{count}");
}
