//! The judge, and the proof that he can say no.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nydus_tests::collector::Span as Traced;
use nydus_tests::manifest::Manifest;

use crate::falsify::falsified;
use crate::judge::{judge, never};
use crate::record::{ConnectionSeen, Mark, Outcome, ReadSeen, Record, RequestSeen};
use crate::schema::{Expect, Fate, Kind};

/// One of everything.
fn record() -> Record {
    let start = Instant::now();
    let second = |number| start + Duration::from_secs(number);
    let digest = "11".repeat(32);
    let model = Manifest::parse(&format!(r#"{{"p":"a","mode":"0o100644","size":3,"sha256":"{digest}"}}"#));
    let read = |of: &str, took, result| ReadSeen {
        of: of.into(),
        path: "a".into(),
        took: Duration::from_secs(took),
        result,
    };
    let request = |at, status| RequestSeen {
        server: "origin".into(),
        at: second(at),
        kind: Kind::Blobs,
        head: "get /a http/1.1\r\ntraceparent: 00-1".into(),
        status,
    };
    let mark = |at, tried, log| Mark { at: second(at), tried, log };
    Record {
        start,
        end: second(10),
        marks: [("begin".into(), mark(2, 5, 1)), ("over".into(), mark(6, 9, 2))].into(),
        reads: vec![
            read("good", 1, Outcome::Data(digest.clone())),
            read("good", 2, Outcome::Data(digest)),
            read("bad", 5, Outcome::Error(nix::libc::EIO)),
        ],
        trees: [("all".to_owned(), Ok(model.clone()))].into(),
        requests: vec![request(1, 206), request(3, 503), request(4, 503)],
        connections: vec![ConnectionSeen { server: "origin".into(), at: second(3) }],
        tried: 12,
        log: ["INFO mounted", "WARN registry answered 503", "INFO over"].map(str::to_owned).into(),
        samples: BTreeMap::from([
            ("json".to_owned(), r#"{"state":"open","count":3}"#.to_owned()),
            ("text".to_owned(), "# HELP x y\nx{a=\"1\",b=\"2\"} 4\nx{a=\"2\"} 5\n".to_owned()),
        ]),
        spans: vec![Traced {
            name: "read".into(),
            trace: vec![1],
            id: vec![2],
            parent: Vec::new(),
            time: (1, 2),
            links: Vec::new(),
            attributes: [("k".to_owned(), "v".to_owned())].into(),
            types: BTreeMap::new(),
            failed: true,
            is_client: false,
        }],
        secrets: vec!["hunter2".into()],
        daemons: [("main".to_owned(), Fate::Running)].into(),
        model,
    }
}

fn expectation(text: &str) -> Expect {
    serde_saphyr::from_str(text).unwrap()
}

#[test]
fn what_holds_is_contradicted_by_every_change() {
    let record = record();
    for (text, changes) in [
        ("reads: { of: good, end: [ok] }", 6),
        ("reads: { of: good, count: { exactly: 2 }, good: { at_least: 1, at_most: 2 } }", 6),
        ("reads: { of: bad, end: [EIO, ETIMEDOUT], each: { at_least: 4s, at_most: 6s } }", 7),
        ("reads: { of: good, fastest: { at_least: 1s, at_most: 1s } }", 4),
        ("reads: { of: good, slowest: { at_least: 2s, at_most: 3s } }", 4),
        ("tree: { of: all }", 2),
        ("requests: { server: origin, status: 503, count: { exactly: 2 } }", 2),
        ("requests: { server: origin, during: { from: begin, to: over }, count: { at_most: 2 } }", 1),
        ("requests: { server: origin, for: blobs, with: traceparent, count: { at_least: 3 } }", 1),
        ("requests: { server: origin, for: tokens, count: { exactly: 0 } }", 1),
        ("connections: { server: [origin], during: { from: begin }, count: { exactly: 1 } }", 2),
        ("tried: { during: { from: begin, to: over }, count: { at_least: 4, at_most: 4 } }", 2),
        ("tried: { count: { at_most: 12 } }", 1),
        ("elapsed: { during: { from: begin, to: over }, time: { at_least: 3s, at_most: 5s } }", 2),
        ("elapsed: { during: { from: over }, time: { at_most: 4s } }", 1),
        ("log: { says: [registry, '503'], count: { exactly: 1 } }", 2),
        ("log: { says: [panicked], count: { exactly: 0 } }", 1),
        ("log: { says: [registry], during: { from: over }, count: { at_most: 0 } }", 1),
        ("secrets: { known: 1 }", 2),
        ("sample: { of: json, pointer: /state, text: open }", 1),
        ("sample: { of: json, pointer: /count, number: { at_least: 3, at_most: 3 } }", 2),
        ("sample: { of: text, series: x, number: { exactly: 9 } }", 2),
        ("sample: { of: text, series: x, labels: { a: '1' }, number: { at_most: 4 } }", 1),
        ("spans: { name: read, failed: true, with: { k: v }, count: { exactly: 1 } }", 2),
        ("spans: { name: connect, count: { exactly: 0 } }", 1),
        ("daemon: { is: running }", 1),
    ] {
        let expect = expectation(text);
        judge(&expect, &record).unwrap_or_else(|problem| panic!("{text}: {problem}"));
        let changed = falsified(&expect, &record);
        assert_eq!(changed.len(), changes, "{text}");
        for (what, record) in changed {
            assert!(judge(&expect, &record).is_err(), "{text} holds although {what}");
        }
    }
}

#[test]
fn what_has_nothing_to_measure_does_not_hold() {
    let mut record = record();
    (record.reads, record.log) = (Vec::new(), Vec::new());
    record.trees.clear();
    record.samples.clear();
    for text in [
        "reads: { of: good, end: [ok] }",
        "tree: { of: all }",
        "log: { says: [panicked], count: { exactly: 0 } }",
        "secrets: { known: 1 }",
        "sample: { of: json, pointer: /count, number: { at_most: 3 } }",
        "daemon: { daemon: other, is: running }",
    ] {
        assert!(judge(&expectation(text), &record).is_err(), "{text}");
    }
}

#[test]
fn what_is_not_so_does_not_hold() {
    for text in [
        "reads: { of: good, end: [EIO] }",
        "reads: { of: bad, end: [ok] }",
        "reads: { of: good, each: { at_most: 1s } }",
        "requests: { server: origin, status: 503, count: { at_most: 1 } }",
        "requests: { server: other, count: { at_least: 1 } }",
        "connections: { server: origin, during: { to: begin }, count: { at_least: 1 } }",
        "sample: { of: json, pointer: /state, text: closed }",
        "sample: { of: json, pointer: /nothing, text: closed }",
        "sample: { of: text, series: y, number: { at_least: 0 } }",
        "daemon: { is: ended }",
    ] {
        assert!(judge(&expectation(text), &record()).is_err(), "{text}");
    }
}

#[test]
fn what_must_never_be_is_found_without_being_asked_for() {
    assert_eq!(never(&record()), Vec::<String>::new());
    type Change = fn(&mut Record);
    let changes: [(&str, Change); 5] = [
        ("WRONG BYTES", |record| record.reads[1].result = Outcome::Data("22".repeat(32))),
        ("hangs", |record| record.reads[2].result = Outcome::Hangs),
        ("panicked", |record| record.log.push("thread 'x' panicked at y".into())),
        ("unknown key", |record| record.log.push("WARN config: backend.x: unknown key, ignored".into())),
        ("secret", |record| record.log.push("GET /a?signature=hunter2".into())),
    ];
    for (word, change) in changes {
        let mut record = record();
        change(&mut record);
        let problems = never(&record);
        assert!(problems.len() == 1 && problems[0].contains(word), "{word}: {problems:?}");
    }
}
