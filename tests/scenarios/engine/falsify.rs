//! The proof that an expectation can fail: what was seen is changed, as little as can be, so that the expectation no
//! longer holds, and the same judge must notice.
//!
//! A limit is crossed by one: a request too many or too few, a read that takes a little longer than allowed, one read
//! that ends otherwise. What must not be there is put there. Bytes are falsified by one digest. Each limit that
//! an expectation states is crossed for itself.

use std::time::Duration;

use nydus_tests::collector::Span as Traced;
use serde_json::Value;

use crate::judge::{connections_of, is_counted, is_like, is_series, lines_of, reads_of, says, window};
use crate::record::{ConnectionSeen, Outcome, ReadSeen, Record, RequestSeen};
use crate::schema::{
    Connections, Elapsed, End, Expect, Fate, Kind, Limits, Log, Reads, Requests, SampleIs, Spans, Times,
    Tried,
};

/// By how much a time crosses its limit.
const LITTLE: Duration = Duration::from_millis(1);
/// A digest that no file has.
const NO_DIGEST: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What was changed, and what had been seen then. `record` is one in which `expect` holds.
pub fn falsified(expect: &Expect, record: &Record) -> Vec<(String, Record)> {
    match expect {
        Expect::Reads(reads) => falsify_reads(reads, record),
        Expect::Tree(tree) => {
            let path = record.model.files().next().map(|(path, _)| path.to_owned()).unwrap_or_default();
            let mut changed = record.clone();
            if let Some(Ok(found)) = changed.trees.get_mut(&tree.of) {
                *found = found.with_digest(&path, NO_DIGEST);
            }
            let mut failed = record.clone();
            failed.trees.insert(tree.of.clone(), Err("it could not be listed".into()));
            vec![(format!("{path} has other bytes"), changed), ("the listing failed".into(), failed)]
        }
        Expect::Requests(requests) => falsify_requests(requests, record),
        Expect::Connections(connections) => falsify_connections(connections, record),
        Expect::Tried(tried) => falsify_tried(tried, record),
        Expect::Elapsed(elapsed) => falsify_elapsed(elapsed, record),
        Expect::Log(log) => falsify_log(log, record),
        Expect::Secrets(_) => {
            let mut changed = record.clone();
            let secret = record.secrets.last().cloned().unwrap_or_default();
            changed.log.push(format!("WARN sent {secret} to the origin"));
            let mut unknown = record.clone();
            unknown.secrets.clear();
            vec![("a secret is told".into(), changed), ("no secret is known".into(), unknown)]
        }
        Expect::Sample(sample) => falsify_sample(sample, record),
        Expect::Spans(spans) => falsify_spans(spans, record),
        Expect::Daemon(daemon) => {
            let mut changed = record.clone();
            let other = if daemon.is == Fate::Running { Fate::Killed } else { Fate::Running };
            changed.daemons.insert(daemon.daemon.clone(), other);
            vec![(format!("the daemon is {other:?}"), changed)]
        }
    }
}

/// The counts that lie just beyond each limit.
fn beyond(limits: &Limits) -> Vec<usize> {
    let most = limits.exactly.or(limits.at_most).map(|most| most as usize + 1);
    let least = limits.exactly.or(limits.at_least).filter(|least| *least >= 1.0);
    most.into_iter().chain(least.map(|least| least as usize - 1)).collect()
}

/// The times that lie just beyond each limit.
fn around(times: &Times) -> Vec<Duration> {
    let more = times.at_most.map(|most| most.0 + LITTLE);
    let less = times.at_least.and_then(|least| least.0.checked_sub(LITTLE));
    more.into_iter().chain(less).collect()
}

/// Makes `items` hold exactly `count` that are `counted`, by adding copies of `sample` or taking some away.
fn recount<T: Clone>(items: &mut Vec<T>, count: usize, sample: &T, counted: impl Fn(&T) -> bool) {
    let mut left = count;
    items.retain(|item| {
        let is_counted = counted(item);
        let stays = !is_counted || left > 0;
        left -= usize::from(is_counted && left > 0);
        stays
    });
    items.extend(std::iter::repeat_n(sample.clone(), left));
}

fn falsify_reads(expect: &Reads, record: &Record) -> Vec<(String, Record)> {
    let mut changes = Vec::new();
    let mut change = |what: String, apply: &dyn Fn(&mut Vec<ReadSeen>)| {
        let mut changed = record.clone();
        apply(&mut changed.reads);
        changes.push((what, changed));
    };
    let is_mine = |read: &&mut ReadSeen| read.of == expect.of;
    change("one read hangs".into(), &|reads| {
        reads.iter_mut().filter(is_mine).take(1).for_each(|read| read.result = Outcome::Hangs);
    });
    change("one read brings other bytes".into(), &|reads| {
        reads
            .iter_mut()
            .filter(is_mine)
            .take(1)
            .for_each(|read| read.result = Outcome::Data(NO_DIGEST.into()));
    });
    if let Some(ends) = &expect.end {
        let others = [End::Ok, End::Eio, End::Etimedout, End::Enotconn, End::Econnaborted];
        for other in others.into_iter().filter(|other| !ends.contains(other)) {
            change(format!("one read ends with {other:?}"), &|reads| {
                let right = |path: &str| record.model.get(path).and_then(|entry| entry["sha256"].as_str());
                if let Some(read) = reads.iter_mut().find(|read| read.of == expect.of) {
                    read.result = match crate::judge::errno(other) {
                        Some(error) => Outcome::Error(error),
                        None => Outcome::Data(right(&read.path).unwrap_or(NO_DIGEST).into()),
                    };
                }
            });
        }
    }
    for took in expect.each.iter().flat_map(around) {
        change(format!("one read takes {took:?}"), &|reads| {
            reads.iter_mut().filter(is_mine).take(1).for_each(|read| read.took = took);
        });
    }
    for took in expect.fastest.iter().flat_map(around) {
        change(format!("the fastest takes {took:?}"), &|reads| {
            let mine = reads.iter_mut().filter(is_mine);
            mine.for_each(|read| read.took = read.took.max(took));
            reads.iter_mut().filter(is_mine).take(1).for_each(|read| read.took = took);
        });
    }
    for took in expect.slowest.iter().flat_map(around) {
        change(format!("the slowest takes {took:?}"), &|reads| {
            let mine = reads.iter_mut().filter(is_mine);
            mine.for_each(|read| read.took = read.took.min(took));
            reads.iter_mut().filter(is_mine).take(1).for_each(|read| read.took = took);
        });
    }
    let Some(sample) = reads_of(&expect.of, record).next().cloned() else { return changes };
    for count in expect.count.iter().flat_map(beyond) {
        change(format!("there are {count} reads"), &|reads| {
            recount(reads, count, &sample, |read| read.of == expect.of);
        });
    }
    for count in expect.good.iter().flat_map(beyond) {
        change(format!("{count} reads are good"), &|reads| {
            let right = record.model.get(&sample.path).and_then(|entry| entry["sha256"].as_str());
            let good = Outcome::Data(right.unwrap_or(NO_DIGEST).into());
            let good = ReadSeen { result: good, ..sample.clone() };
            recount(reads, count, &good, |read| {
                read.of == expect.of && matches!(read.result, Outcome::Data(_))
            });
        });
    }
    changes
}

fn falsify_requests(expect: &Requests, record: &Record) -> Vec<(String, Record)> {
    let sample = RequestSeen {
        server: expect.server.all()[0].clone(),
        at: window(&expect.during, record).0,
        kind: if expect.kind == Kind::Any { Kind::Blobs } else { expect.kind },
        head: expect.with.clone().unwrap_or_default().to_ascii_lowercase(),
        status: expect.status.unwrap_or(206),
    };
    let change = |count| {
        let mut changed = record.clone();
        recount(&mut changed.requests, count, &sample, |seen| is_counted(expect, record, seen));
        (format!("there are {count} such requests"), changed)
    };
    beyond(&expect.count).into_iter().map(change).collect()
}

fn falsify_connections(expect: &Connections, record: &Record) -> Vec<(String, Record)> {
    let at = window(&expect.during, record).0;
    let sample = ConnectionSeen { server: expect.server.all()[0].clone(), at };
    let counted: Vec<_> = connections_of(expect, record).map(|seen| (seen.server.clone(), seen.at)).collect();
    let change = |count| {
        let mut changed = record.clone();
        recount(&mut changed.connections, count, &sample, |seen| {
            counted.contains(&(seen.server.clone(), seen.at))
        });
        (format!("there are {count} such connections"), changed)
    };
    beyond(&expect.count).into_iter().map(change).collect()
}

fn falsify_tried(expect: &Tried, record: &Record) -> Vec<(String, Record)> {
    let change = |count: usize| {
        let mut changed = record.clone();
        let from =
            expect.during.from.as_ref().and_then(|name| record.marks.get(name)).map_or(0, |mark| mark.tried);
        match expect.during.to.as_ref().and_then(|name| changed.marks.get_mut(name)) {
            Some(mark) => mark.tried = from + count as u64,
            None => changed.tried = from + count as u64,
        }
        (format!("{count} connections were begun"), changed)
    };
    beyond(&expect.count).into_iter().map(change).collect()
}

fn falsify_elapsed(expect: &Elapsed, record: &Record) -> Vec<(String, Record)> {
    let from = window(&expect.during, record).0;
    let change = |took: Duration| {
        let mut changed = record.clone();
        match expect.during.to.as_ref().and_then(|name| changed.marks.get_mut(name)) {
            Some(mark) => mark.at = from + took,
            None => changed.end = from + took,
        }
        (format!("it took {took:?}"), changed)
    };
    around(&expect.time).into_iter().map(change).collect()
}

fn falsify_log(expect: &Log, record: &Record) -> Vec<(String, Record)> {
    let (sample, lines) = (expect.says.join(" "), lines_of(&expect.during, record));
    let change = |count| {
        let mut window = lines.to_vec();
        recount(&mut window, count, &sample, |line| says(expect, line));
        let mut changed = record.clone();
        let at = |name: &Option<String>, default| {
            name.as_ref().and_then(|name| record.marks.get(name)).map_or(default, |mark| mark.log)
        };
        let from = at(&expect.during.from, 0);
        let to = at(&expect.during.to, record.log.len()).max(from);
        let len = window.len();
        changed.log.splice(from..to, window);
        if let Some(mark) = expect.during.to.as_ref().and_then(|name| changed.marks.get_mut(name)) {
            mark.log = from + len;
        }
        // Nothing logged at all is noticed too, but proves nothing of the words.
        changed.log.push("INFO another line".into());
        (format!("{count} lines say so"), changed)
    };
    beyond(&expect.count).into_iter().map(change).collect()
}

fn falsify_sample(expect: &SampleIs, record: &Record) -> Vec<(String, Record)> {
    let values = match &expect.number {
        None => vec!["another".to_owned()],
        Some(limits) => {
            let most = limits.exactly.or(limits.at_most).map(|most| most + 1.0);
            let least = limits.exactly.or(limits.at_least).map(|least| least - 1.0);
            most.into_iter().chain(least).map(|value| value.to_string()).collect()
        }
    };
    let change = |value: String| {
        let mut changed = record.clone();
        if let Some(text) = changed.samples.get_mut(&expect.of) {
            *text = with_value(expect, text, &value);
        }
        (format!("it is {value}"), changed)
    };
    values.into_iter().map(change).collect()
}

/// A sample with another value at the place that an expectation looks at.
fn with_value(expect: &SampleIs, text: &str, value: &str) -> String {
    if let Some(pointer) = &expect.pointer {
        let mut json: Value = serde_json::from_str(text).unwrap_or_default();
        if let Some(place) = json.pointer_mut(pointer) {
            *place = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.into()));
        }
        return json.to_string();
    }
    let series = expect.series.as_deref().unwrap_or_default();
    // The first of them has the whole sum.
    let mut is_first = true;
    let line = |line: &str| {
        if !is_series(line, series, expect) {
            return line.to_owned();
        }
        let name = line.rsplit_once(' ').map_or(line, |(name, _)| name);
        let value = if std::mem::take(&mut is_first) { value } else { "0" };
        format!("{name} {value}")
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn falsify_spans(expect: &Spans, record: &Record) -> Vec<(String, Record)> {
    let sample = Traced {
        name: expect.name.clone(),
        trace: Vec::new(),
        id: Vec::new(),
        parent: Vec::new(),
        time: (0, 0),
        links: Vec::new(),
        attributes: expect.with.clone(),
        failed: expect.failed.unwrap_or_default(),
        is_client: false,
        types: Default::default(),
    };
    let change = |count| {
        let mut changed = record.clone();
        recount(&mut changed.spans, count, &sample, |seen| is_like(expect, seen));
        (format!("there are {count} such spans"), changed)
    };
    beyond(&expect.count).into_iter().map(change).collect()
}
