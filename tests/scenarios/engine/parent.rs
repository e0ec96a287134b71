//! All scenarios: several at once, each in a process of its own that is ended when it takes too long.

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nydus_tests::fixtures::{UNPACKED, fixtures};
use nydus_tests::{program, requirements};

use crate::Arguments;
use crate::child::Report;
use crate::load::{self, Loaded};
use crate::sandbox;

/// How much longer than its limit a run may take until it is ended: to start, and to tell.
const GRACE: Duration = Duration::from_secs(30);
/// How often a run is repeated that did not end as expected.
const REPEATS: usize = 2;
/// No more runs than these are repeated.
const MOST_REPEATED: usize = 8;

/// Finds the scenarios, runs them, and tells what came of it.
pub fn run(arguments: &Arguments) -> ExitCode {
    let begin = Instant::now();
    let (mut scenarios, problems) = load::directory(&arguments.dir);
    let is_wanted = |loaded: &Loaded| {
        let has = |part: &String| loaded.name.contains(part);
        (arguments.filters.is_empty() || arguments.filters.iter().any(has)) && !arguments.skip.iter().any(has)
    };
    scenarios.retain(is_wanted);
    for problem in &problems {
        println!("REFUSED {problem}");
    }
    if arguments.list {
        for loaded in &scenarios {
            println!("{}: test", loaded.name);
            if arguments.verbose {
                println!("    {}", loaded.scenario.about);
                loaded.scenario.pains.iter().for_each(|pain| println!("    users suffered: {pain}"));
            }
        }
        return if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if let Some(reason) = sandbox::missing().filter(|_| !scenarios.is_empty()) {
        requirements::skip("scenarios", &reason);
        println!("\n0 passed, {} failed, {} skipped", problems.len(), scenarios.len());
        return if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let (mut passed, mut failed) = (0, problems.len());
    if !scenarios.is_empty() {
        let results = Stage::new(arguments).play(&scenarios);
        // A scenario that was run with its faults and without has to be good both times.
        let is_bad =
            |loaded: &&Loaded| results.iter().any(|(name, is_good)| *name == loaded.name && !is_good);
        let bad = scenarios.iter().filter(is_bad).count();
        (passed, failed) = (scenarios.len() - bad, failed + bad);
        let seconds = begin.elapsed().as_secs_f64();
        println!("{} runs of {} scenarios in {seconds:.0} s", results.len(), scenarios.len());
    }
    println!("\n{passed} passed, {failed} failed, 0 skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Where scenarios are run.
struct Stage<'a> {
    arguments: &'a Arguments,
    dir: tempfile::TempDir,
    program: PathBuf,
    nydusd: PathBuf,
    fixtures: PathBuf,
    out: Mutex<()>,
}

/// A run to be made.
#[derive(Clone, Copy)]
struct Run<'a> {
    loaded: &'a Loaded,
    without_faults: bool,
    /// How often it was made before.
    repeats: usize,
}

impl Run<'_> {
    fn name(&self) -> String {
        let mut name = self.loaded.name.clone();
        if self.without_faults {
            name += " without its faults";
        }
        if self.repeats > 0 {
            name += &format!(", repeat {}", self.repeats);
        }
        name
    }
}

/// What came of a run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Good,
    /// Something took too long, or came too often: on a machine that stood still for a moment that says nothing.
    Unexpected,
    /// What no machine is to blame for.
    Bad,
}

impl<'a> Stage<'a> {
    fn new(arguments: &'a Arguments) -> Self {
        Self {
            arguments,
            dir: tempfile::Builder::new().prefix("nydus-scenarios.").tempdir().unwrap(),
            program: std::env::current_exe().unwrap(),
            nydusd: program::nydusd().to_owned(),
            fixtures: fixtures().dir().to_owned(),
            out: Mutex::new(()),
        }
    }

    /// Makes all runs; answers for each whose it was and whether it was good.
    fn play(self, scenarios: &[Loaded]) -> Vec<(String, bool)> {
        let mut runs: Vec<Run> = Vec::new();
        for loaded in scenarios {
            runs.push(Run { loaded, without_faults: false, repeats: 0 });
            if !self.arguments.plain {
                runs.push(Run { loaded, without_faults: true, repeats: 0 });
            }
        }
        // The longest first, so that none of them is left to the end alone.
        runs.sort_by_key(|run| std::cmp::Reverse(run.loaded.scenario.limit));
        let queue = Mutex::new(VecDeque::from(runs));
        let (results, repeated) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..self.arguments.jobs.max(1) {
                scope.spawn(|| {
                    loop {
                        let next = lock(&queue).pop_front();
                        let Some(run) = next else { return };
                        match self.make(run) {
                            Ending::Unexpected => lock(&repeated).push(run),
                            ending => {
                                lock(&results).push((run.loaded.name.clone(), ending == Ending::Good));
                            }
                        }
                    }
                });
            }
        });
        // Alone, each of them; where so much went wrong that no machine is to blame, none.
        let repeated = repeated.into_inner().unwrap_or_else(PoisonError::into_inner);
        let times = if repeated.len() <= MOST_REPEATED { REPEATS } else { 0 };
        for run in repeated {
            let mut repeats = (1..=times).map(|repeats| self.make(Run { repeats, ..run }));
            let ending = repeats.find(|ending| *ending != Ending::Unexpected);
            lock(&results).push((run.loaded.name.clone(), ending == Some(Ending::Good)));
        }
        if self.arguments.keep {
            println!("kept: {}", self.dir.keep().display());
        }
        results.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes one run and tells what came of it.
    fn make(&self, run: Run) -> Ending {
        let (begin, name) = (Instant::now(), run.name());
        let report = self.report(run, &name.replace([' ', ','], "-"));
        let took = begin.elapsed().as_secs_f64();
        let _out = lock(&self.out);
        let report = match report {
            Ok(report) => report,
            Err(problem) => {
                println!("FAIL {name} ({took:.1} s): {problem}");
                return Ending::Unexpected;
            }
        };
        if let Some(problem) = &report.broken {
            println!("FAIL {name} ({took:.1} s): the run broke: {problem}");
            return Ending::Unexpected;
        }
        // That is no proof of anything, and not good in any run.
        report.never.iter().for_each(|line| println!("   NEVER {line}"));
        if run.without_faults {
            let is_good = !report.failures.is_empty() && report.never.is_empty();
            let said = if is_good { "ok  " } else { "FAIL" };
            println!("{said} {name} ({took:.1} s): {} expectations fail", report.failures.len());
            if self.arguments.verbose {
                report.failures.iter().for_each(|line| println!("       {line}"));
            }
            return report.ending(is_good);
        }
        let is_good =
            [&report.failures, &report.never, &report.unnoticed].iter().all(|found| found.is_empty());
        let said = if is_good { "ok  " } else { "FAIL" };
        let (held, noticed) = (report.measured.len(), report.noticed);
        println!("{said} {name} ({took:.1} s): {held} expectations hold, {noticed} falsifications noticed");
        if !is_good {
            run.loaded.scenario.pains.iter().for_each(|pain| println!("       users suffered: {pain}"));
        }
        if self.arguments.verbose || !is_good {
            report.measured.iter().for_each(|line| println!("       {line}"));
        }
        if !is_good {
            report.failures.iter().for_each(|line| println!("   NOT {line}"));
            report.unnoticed.iter().for_each(|line| println!("   UNNOTICED {line}"));
            told(&report.log).iter().for_each(|line| println!("       | {line}"));
        }
        report.ending(is_good)
    }

    fn report(&self, run: Run, name: &str) -> Result<Report, String> {
        let dir = self.dir.path().join(name);
        std::fs::create_dir(&dir).map_err(|error| error.to_string())?;
        let (report, said) = (self.dir.path().join(format!("{name}.json")), dir.join("output"));
        let output = File::create(&said).map_err(|error| error.to_string())?;
        let mut command = sandbox::command(&self.program);
        command.arg("--child").arg(&run.loaded.path).arg("--report").arg(&report);
        if run.without_faults {
            command.arg("--without-faults");
        }
        command.env("NYDUSD_BIN", &self.nydusd).env(UNPACKED, &self.fixtures).env("TMPDIR", &dir);
        command
            .stdin(Stdio::null())
            .stderr(output.try_clone().map_err(|error| error.to_string())?)
            .stdout(output);
        let mut child = command.spawn().map_err(|error| format!("unshare: {error}"))?;
        let limit = run.loaded.scenario.limit.0 + GRACE;
        let end = Instant::now() + limit;
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(20)),
                _ => {
                    // Its sandbox dies with it.
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(format!("not over after {limit:?}: ended{}", tail(&said)));
                }
            }
        };
        if !self.arguments.keep {
            let _ = std::fs::remove_dir_all(dir.join("cache"));
        }
        let text = std::fs::read_to_string(&report);
        text.ok()
            .and_then(|text| serde_json::from_str(&text).ok())
            .ok_or_else(|| format!("no report, {status}{}", tail(&said)))
    }
}

impl Report {
    fn ending(&self, is_good: bool) -> Ending {
        match is_good {
            true => Ending::Good,
            false if self.never.is_empty() && self.unnoticed.is_empty() => Ending::Unexpected,
            false => Ending::Bad,
        }
    }
}

/// Lines of a log, those that say the same as the one before left out.
fn told(log: &[String]) -> Vec<&String> {
    let text = |line: &str| line.split_once("] ").map_or(line.to_owned(), |(_, text)| text.to_owned());
    let is_new = |(index, line): &(usize, &String)| *index == 0 || text(line) != text(&log[index - 1]);
    log.iter().enumerate().filter(is_new).map(|(_, line)| line).collect()
}

/// The last lines of a file.
fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(20)..];
    last.iter().fold(String::new(), |text, line| text + "\n       | " + line)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
