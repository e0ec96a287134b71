//! One run of one scenario, in its sandbox: everything it starts is gone when it ends.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::falsify::falsified;
use crate::judge::{judge, never};
use crate::load;
use crate::record::{Record, RequestSeen};
use crate::schema::{Expect, Scenario, Step};
use crate::world::World;

/// Lines of the daemons' logs that a failure shows.
const LOG_SHOWN: usize = 25;
/// How much of what must never be is told.
const NEVERS_SHOWN: usize = 5;
/// How long after its limit a run ends itself, if nobody else does.
const LAST: Duration = Duration::from_secs(60);

/// What came of a run.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Report {
    /// The run itself went wrong: this is no finding about the daemon.
    pub broken: Option<String>,
    /// Expectations that did not hold.
    pub failures: Vec<String>,
    /// What must never be, whatever happens, and was.
    pub never: Vec<String>,
    /// Those that did, and what was measured.
    pub measured: Vec<String>,
    /// How often what was seen was changed so that an expectation no longer held, and the judge noticed.
    pub noticed: usize,
    /// When he did not.
    pub unnoticed: Vec<String>,
    /// The last lines of the daemons' logs.
    pub log: Vec<String>,
}

/// Runs the scenario of a file, without its faults if this is to prove something.
pub fn run(file: &Path, without_faults: bool) -> Report {
    let outcome = std::panic::catch_unwind(|| {
        let loaded = load::file(file).map_err(anyhow::Error::msg)?;
        let mut scenario = loaded.scenario;
        let limit = scenario.limit.0 + LAST;
        std::thread::spawn(move || {
            std::thread::sleep(limit);
            // Whoever started us is gone: everything in the sandbox ends with its first process.
            std::process::exit(1);
        });
        if without_faults {
            scenario.steps = mended(&scenario.steps);
        }
        let dir = std::env::temp_dir();
        look(scenario, dir)
    });
    match outcome {
        Ok(Ok(report)) => report,
        Ok(Err(error)) => Report { broken: Some(format!("{error:#}")), ..Report::default() },
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Report { broken: Some(text.unwrap_or_else(|| "a panic".into())), ..Report::default() }
        }
    }
}

/// The steps without those that break something.
fn mended(steps: &[Step]) -> Vec<Step> {
    let stays = steps.iter().filter(|step| !matches!(step, Step::Fault(_)));
    let step = |step: &Step| match step {
        Step::Repeat(repeat) => {
            let mut repeat = repeat.clone();
            repeat.steps = mended(&repeat.steps);
            Step::Repeat(repeat)
        }
        other => other.clone(),
    };
    stays.map(step).collect()
}

fn look(scenario: Scenario, dir: PathBuf) -> anyhow::Result<Report> {
    let expectations = scenario.expect.clone();
    let seen = World::new(scenario, dir.clone())?.run()?;
    // For those who keep the directory.
    std::fs::write(dir.join("requests"), requests(&seen.record))?;
    std::fs::write(dir.join("log"), seen.record.log.join("\n"))?;
    let mut report = Report { failures: seen.failures, ..Report::default() };
    for (at, expect, record) in &seen.waits {
        prove(&mut report, at, expect, record);
    }
    for (index, expect) in expectations.iter().enumerate() {
        let at = format!("expect[{index}]");
        match judge(expect, &seen.record) {
            Ok(measured) => {
                report.measured.push(format!("{at}: {measured}"));
                prove(&mut report, &at, expect, &seen.record);
            }
            Err(problem) => report.failures.push(format!("{at}: {problem}")),
        }
    }
    let never = never(&seen.record);
    report.never.extend(never.into_iter().take(NEVERS_SHOWN));
    let log = &seen.record.log;
    report.log = log[log.len().saturating_sub(LOG_SHOWN)..].to_vec();
    Ok(report)
}

/// All requests as text, one a line: when, to whom, how answered, for what.
fn requests(record: &Record) -> String {
    let line = |seen: &RequestSeen| {
        let at = seen.at.saturating_duration_since(record.start).as_secs_f64();
        let mut lines = seen.head.lines();
        let what = lines.next().unwrap_or_default();
        let range = lines.find(|line| line.starts_with("range:")).unwrap_or_default();
        format!("{at:8.3} {} {} {what} {range}\n", seen.server, seen.status)
    };
    record.requests.iter().map(line).collect()
}

/// Changes what was seen in all ways that contradict an expectation; the judge must notice each.
fn prove(report: &mut Report, at: &str, expect: &Expect, record: &Record) {
    let changes = falsified(expect, record);
    if changes.is_empty() {
        report.unnoticed.push(format!("{at}: nothing could contradict it"));
    }
    for (what, changed) in changes {
        match judge(expect, &changed) {
            Err(_) => report.noticed += 1,
            Ok(measured) => report.unnoticed.push(format!("{at}: it holds even when {what}: {measured}")),
        }
    }
}
