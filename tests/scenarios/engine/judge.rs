//! Whether an expectation holds, by the record alone. Answers what was measured, or what was expected and found.
//!
//! Invariant: what has nothing to measure does not hold. Reads that never began are not "all good".

use std::time::{Duration, Instant};

use nydus_tests::collector::Span as Traced;
use serde_json::Value;

use crate::record::{Outcome, ReadSeen, Record, RequestSeen};
use crate::schema::{
    Connections, Elapsed, End, Expect, Kind, Limits, Log, Reads, Requests, SampleIs, Secrets, Spans, Times,
    TreeIs, Tried, Window,
};

/// How many differences are told.
const SHOWN: usize = 5;

/// What was measured, or why it does not hold.
pub type Verdict = Result<String, String>;

/// Judges one expectation.
pub fn judge(expect: &Expect, record: &Record) -> Verdict {
    match expect {
        Expect::Reads(reads) => judge_reads(reads, record),
        Expect::Tree(TreeIs { of }) => match record.trees.get(of) {
            None => Err(format!("the tree {of:?} was never listed")),
            Some(Err(error)) => Err(format!("the tree {of:?}: {error}")),
            Some(Ok(found)) => match record.model.differences(found) {
                differences if differences.is_empty() => {
                    Ok(format!("{} entries as they should be", found.count()))
                }
                differences => Err(format!("the tree {of:?} differs: {differences}")),
            },
        },
        Expect::Requests(requests) => {
            let count = record.requests.iter().filter(|seen| is_counted(requests, record, seen)).count();
            number(&requests.count, count as f64, &format!("requests to {:?}", requests.server.all()))
        }
        Expect::Connections(connections) => {
            let count = connections_of(connections, record).count();
            number(
                &connections.count,
                count as f64,
                &format!("connections to {:?}", connections.server.all()),
            )
        }
        Expect::Tried(tried) => number(&tried.count, tried_in(tried, record)? as f64, "connections begun"),
        Expect::Elapsed(Elapsed { during, time }) => {
            let (from, to) = window(during, record);
            span(time, to.saturating_duration_since(from), "it")
        }
        Expect::Log(log) => {
            let lines = lines_of(&log.during, record);
            if record.log.is_empty() {
                return Err("nothing was logged at all".into());
            }
            let count = lines.iter().filter(|line| says(log, line)).count();
            number(&log.count, count as f64, &format!("lines that say {:?}", log.says))
        }
        Expect::Secrets(secrets) => judge_secrets(secrets, record),
        Expect::Sample(sample) => judge_sample(sample, record),
        Expect::Spans(spans) => {
            let count = record.spans.iter().filter(|seen| is_like(spans, seen)).count();
            number(&spans.count, count as f64, &format!("spans {:?}", spans.name))
        }
        Expect::Daemon(daemon) => match record.daemons.get(&daemon.daemon) {
            Some(fate) if *fate == daemon.is => Ok(format!("it is {fate:?}")),
            found => Err(format!("the daemon {:?} is {found:?}; expected {:?}", daemon.daemon, daemon.is)),
        },
    }
}

/// The reads of a step.
pub fn reads_of<'a>(name: &'a str, record: &'a Record) -> impl Iterator<Item = &'a ReadSeen> {
    record.reads.iter().filter(move |read| read.of == name)
}

/// How an error is called.
pub fn errno(end: End) -> Option<i32> {
    match end {
        End::Ok => None,
        End::Eio => Some(nix::libc::EIO),
        End::Etimedout => Some(nix::libc::ETIMEDOUT),
        End::Enotconn => Some(nix::libc::ENOTCONN),
    }
}

fn judge_reads(expect: &Reads, record: &Record) -> Verdict {
    let seen: Vec<&ReadSeen> = reads_of(&expect.of, record).collect();
    if seen.is_empty() {
        return Err(format!("{:?}: nothing was read", expect.of));
    }
    let (mut problems, mut good) = (Vec::new(), 0);
    for read in &seen {
        let fits = |ends: &[End], error| ends.iter().any(|end| errno(*end) == error);
        match &read.result {
            Outcome::Hangs => problems.push(format!("{} hangs after {:?}", read.path, read.took)),
            Outcome::Data(digest) => {
                good += 1;
                let right = record.model.get(&read.path).and_then(|entry| entry["sha256"].as_str());
                if right != Some(digest) {
                    problems.push(format!("{}: WRONG BYTES, {digest} and not {right:?}", read.path));
                } else if expect.end.as_ref().is_some_and(|ends| !fits(ends, None)) {
                    problems.push(format!(
                        "{}: came after {:?}, expected {:?}",
                        read.path, read.took, expect.end
                    ));
                }
            }
            Outcome::Error(error) => {
                if expect.end.as_ref().is_some_and(|ends| !fits(ends, Some(*error))) {
                    let error = std::io::Error::from_raw_os_error(*error);
                    problems.push(format!("{}: {error} after {:?}", read.path, read.took));
                }
            }
        }
        if let Some(times) = &expect.each
            && let Err(problem) = span(times, read.took, &read.path)
        {
            problems.push(problem);
        }
    }
    let fastest = seen.iter().map(|read| read.took).min().unwrap_or_default();
    let slowest = seen.iter().map(|read| read.took).max().unwrap_or_default();
    if let Some(times) = &expect.fastest {
        problems.extend(span(times, fastest, "the fastest").err());
    }
    if let Some(limits) = &expect.count {
        problems.extend(number(limits, seen.len() as f64, "reads").err());
    }
    if let Some(limits) = &expect.good {
        problems.extend(number(limits, f64::from(good), "good reads").err());
    }
    let said = format!("{} reads, {good} good, {fastest:.1?} to {slowest:.1?}", seen.len());
    told(&expect.of, &problems, said)
}

fn told(of: &str, problems: &[String], said: String) -> Verdict {
    if problems.is_empty() {
        return Ok(said);
    }
    let shown: Vec<&str> = problems.iter().take(SHOWN).map(String::as_str).collect();
    Err(format!("{of:?} ({said}): {} wrong: {}", problems.len(), shown.join("; ")))
}

/// A number within its limits.
fn number(limits: &Limits, found: f64, what: &str) -> Verdict {
    let (least, most) = (limits.exactly.or(limits.at_least), limits.exactly.or(limits.at_most));
    if least.is_some_and(|least| found < least) {
        return Err(format!("{found} {what}; expected at least {}", least.unwrap_or_default()));
    }
    if most.is_some_and(|most| found > most) {
        return Err(format!("{found} {what}; expected at most {}", most.unwrap_or_default()));
    }
    Ok(format!("{found} {what}"))
}

/// A time within its limits.
fn span(times: &Times, found: Duration, what: &str) -> Verdict {
    if let Some(least) = times.at_least.filter(|least| found < least.0) {
        return Err(format!("{what} took {found:.2?}; expected at least {least}"));
    }
    if let Some(most) = times.at_most.filter(|most| found > most.0) {
        return Err(format!("{what} took {found:.2?}; expected at most {most}"));
    }
    Ok(format!("{what} took {found:.2?}"))
}

/// From and to.
pub fn window(during: &Window, record: &Record) -> (Instant, Instant) {
    let at =
        |name: &Option<String>| name.as_ref().and_then(|name| record.marks.get(name)).map(|mark| mark.at);
    // A mark that has not come yet when something is waited for lies in the future.
    (at(&during.from).unwrap_or(record.start), at(&during.to).unwrap_or(record.end))
}

fn is_within(during: &Window, record: &Record, at: Instant) -> bool {
    let (from, to) = window(during, record);
    at >= from && at <= to
}

/// Whether an expectation counts this request.
pub fn is_counted(expect: &Requests, record: &Record, seen: &RequestSeen) -> bool {
    expect.server.all().contains(&seen.server)
        && (expect.kind == Kind::Any || expect.kind == seen.kind)
        && expect.status.is_none_or(|status| status == seen.status)
        && expect.with.as_ref().is_none_or(|text| seen.head.contains(&text.to_ascii_lowercase()))
        && is_within(&expect.during, record, seen.at)
}

/// The connections that an expectation counts.
pub fn connections_of<'a>(
    expect: &'a Connections,
    record: &'a Record,
) -> impl Iterator<Item = &'a crate::record::ConnectionSeen> {
    record.connections.iter().filter(|seen| {
        expect.server.all().contains(&seen.server) && is_within(&expect.during, record, seen.at)
    })
}

fn tried_in(expect: &Tried, record: &Record) -> Result<u64, String> {
    let at = |name: &Option<String>, default| match name {
        None => Ok(default),
        Some(name) => record.marks.get(name).map(|mark| mark.tried).ok_or(format!("{name:?} never came")),
    };
    Ok(at(&expect.during.to, record.tried)?.saturating_sub(at(&expect.during.from, 0)?))
}

/// The lines that were logged within a window.
pub fn lines_of<'a>(during: &Window, record: &'a Record) -> &'a [String] {
    let at = |name: &Option<String>, default| {
        name.as_ref().and_then(|name| record.marks.get(name)).map_or(default, |mark| mark.log)
    };
    let (from, to) = (at(&during.from, 0), at(&during.to, record.log.len()));
    record.log.get(from..to.max(from)).unwrap_or_default()
}

/// Whether a line says all that an expectation looks for.
pub fn says(expect: &Log, line: &str) -> bool {
    let line = line.to_lowercase();
    expect.says.iter().all(|text| line.contains(&text.to_lowercase()))
}

fn judge_secrets(expect: &Secrets, record: &Record) -> Verdict {
    let spans = record.spans.iter().flat_map(|span| {
        let told = span.attributes.values().map(|text| ("a span", text.as_str()));
        told.chain([("a span", span.name.as_str())])
    });
    let places = record.log.iter().map(|line| ("the log", line.as_str()));
    let places = places.chain(record.samples.values().map(|text| ("a sample", text.as_str()))).chain(spans);
    let mut told: Vec<String> = Vec::new();
    for (place, text) in places {
        for secret in record.secrets.iter().filter(|secret| text.contains(secret.as_str())) {
            told.push(format!("{secret:?} in {place}: {text}"));
        }
    }
    if record.log.is_empty() {
        return Err("nothing was logged at all".into());
    }
    if record.secrets.len() < expect.known {
        return Err(format!(
            "{} secrets are known; expected at least {}",
            record.secrets.len(),
            expect.known
        ));
    }
    let said = format!("{} secrets, {} lines", record.secrets.len(), record.log.len());
    self::told("secrets", &told, said)
}

fn judge_sample(expect: &SampleIs, record: &Record) -> Verdict {
    let Some(text) = record.samples.get(&expect.of) else {
        return Err(format!("the sample {:?} was never taken", expect.of));
    };
    let found: Vec<String> = match (&expect.pointer, &expect.series) {
        (Some(pointer), _) => {
            let json: Value =
                serde_json::from_str(text).map_err(|error| format!("{}: {error}", expect.of))?;
            json.pointer(pointer).map(plain).into_iter().collect()
        }
        (None, Some(series)) => {
            text.lines().filter(|line| is_series(line, series, expect)).filter_map(value_of).collect()
        }
        (None, None) => Vec::new(),
    };
    let what = expect.pointer.as_ref().or(expect.series.as_ref()).cloned().unwrap_or_default();
    if found.is_empty() {
        return Err(format!("the sample {:?} has no {what} {:?}: {text}", expect.of, expect.labels));
    }
    if let Some(limits) = &expect.number {
        let numbers: Option<Vec<f64>> = found.iter().map(|value| value.parse().ok()).collect();
        let numbers = numbers.ok_or_else(|| format!("{what} is no number: {found:?}"))?;
        return number(limits, numbers.iter().sum(), &what);
    }
    match &expect.text {
        Some(wanted) if found.iter().all(|value| value == wanted) => Ok(format!("{what} is {wanted:?}")),
        wanted => Err(format!("{what} is {found:?}; expected {wanted:?}")),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Whether a line of Prometheus text is of the series with all labels.
pub fn is_series(line: &str, series: &str, expect: &SampleIs) -> bool {
    let is_named = line.strip_prefix(series).is_some_and(|rest| rest.starts_with(['{', ' ']));
    is_named && expect.labels.iter().all(|(name, value)| line.contains(&format!("{name}=\"{value}\"")))
}

fn value_of(line: &str) -> Option<String> {
    let rest = line
        .rsplit_once('}')
        .map_or_else(|| line.split_once(' ').map(|(_, rest)| rest), |(_, rest)| Some(rest));
    rest?.split_whitespace().next().map(str::to_owned)
}

/// Whether an expectation counts this span.
pub fn is_like(expect: &Spans, span: &Traced) -> bool {
    span.name == expect.name
        && expect.failed.is_none_or(|failed| failed == span.failed)
        && expect.with.iter().all(|(key, value)| span.attributes.get(key) == Some(value))
}
