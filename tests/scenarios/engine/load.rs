//! Scenarios from their files: read at run time, refused with file, place and what was expected.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use nydus_tests::fixtures::IMAGES;

use crate::schema::{Action, Expect, Limits, Names, Proof, Scenario, Step, Times, Window};

/// A scenario and where it comes from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The file's name without its suffix.
    pub name: String,
    pub path: PathBuf,
    pub scenario: Scenario,
}

/// All scenarios of a directory, in the order of their names, and what is wrong with the other files.
pub fn directory(dir: &Path) -> (Vec<Loaded>, Vec<String>) {
    let mut paths: Vec<PathBuf> = match std::fs::read_dir(dir) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(error) => return (Vec::new(), vec![format!("{}: {error}", dir.display())]),
    };
    paths.retain(|path| path.extension().is_some_and(|suffix| suffix == "yaml"));
    paths.sort();
    let (mut loaded, mut problems) = (Vec::new(), Vec::new());
    for path in paths {
        match file(&path) {
            Ok(scenario) => loaded.push(scenario),
            Err(problem) => problems.push(problem),
        }
    }
    (loaded, problems)
}

/// The scenario of a file.
pub fn file(path: &Path) -> Result<Loaded, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let scenario = parse(&text).map_err(|problem| format!("{}:{problem}", path.display()))?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Loaded { name, path: path.to_owned(), scenario })
}

/// A scenario from its text. Errors begin with line and column, or with the path of the key.
pub fn parse(text: &str) -> Result<Scenario, String> {
    let scenario: Scenario = serde_saphyr::from_str(text).map_err(|error| {
        let plain = error.without_snippet();
        let message = plain.to_string();
        let message = message.lines().next().unwrap_or_default().to_owned();
        match error.location() {
            Some(at) => format!("{}:{}: {message}", at.line(), at.column()),
            None => format!(" {message}"),
        }
    })?;
    let mut check = Check::of(&scenario);
    check.scenario(&scenario);
    match check.problem {
        None => Ok(scenario),
        Some(problem) => Err(format!(" {problem}")),
    }
}

/// What steps define and expectations refer to.
#[derive(Default)]
struct Check {
    servers: BTreeSet<String>,
    marks: BTreeSet<String>,
    reads: BTreeSet<String>,
    trees: BTreeSet<String>,
    samples: BTreeSet<String>,
    faults: usize,
    /// The first.
    problem: Option<String>,
}

impl Check {
    fn of(scenario: &Scenario) -> Self {
        let mut check = Self { servers: scenario.servers.keys().cloned().collect(), ..Self::default() };
        check.collect(&scenario.steps);
        check
    }

    fn collect(&mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Fault(_) => self.faults += 1,
                Step::Mark(name) => {
                    self.marks.insert(name.clone());
                }
                Step::Read(read) => {
                    self.reads.insert(read.name.clone());
                }
                Step::Tree(tree) => {
                    self.trees.insert(tree.name.clone());
                }
                Step::Sample(sample) => {
                    self.samples.insert(sample.name.clone());
                }
                Step::Repeat(repeat) => self.collect(&repeat.steps),
                _ => {}
            }
        }
    }

    fn fail(&mut self, at: &str, problem: impl Into<String>) {
        self.problem.get_or_insert_with(|| format!("{at}: {}", problem.into()));
    }

    fn known(&mut self, at: &str, what: &str, name: &str, all: &BTreeSet<String>) {
        if !all.contains(name) {
            let all: Vec<&str> = all.iter().map(String::as_str).collect();
            self.fail(at, format!("{name:?} is no {what}; expected one of: {}", all.join(", ")));
        }
    }

    fn server(&mut self, at: &str, names: &Names) {
        let servers = self.servers.clone();
        if names.all().is_empty() {
            self.fail(at, "no server; expected the name of one or more");
        }
        for name in names.all() {
            self.known(at, "server", name, &servers);
        }
    }

    fn scenario(&mut self, scenario: &Scenario) {
        if !IMAGES.iter().any(|image| image.name == scenario.image) {
            let names: Vec<&str> = IMAGES.iter().map(|image| image.name).collect();
            self.fail(
                "image",
                format!("no fixture {:?}; expected one of: {}", scenario.image, names.join(", ")),
            );
        }
        if scenario.about.trim().is_empty() {
            self.fail("about", "empty; expected what the scenario shows");
        }
        let mut places = BTreeSet::new();
        let servers = self.servers.clone();
        for (name, server) in &scenario.servers {
            let at = format!("servers.{name}");
            if !places.insert(server.listen) {
                self.fail(&at, format!("listens at {} as another one does", server.listen));
            }
            if !server.listen.ip().is_loopback() {
                self.fail(&at, format!("listens at {}; expected an address of the loopback", server.listen));
            }
            if server.wants == Proof::Token && server.realm.is_none() {
                self.fail(
                    &format!("{at}.realm"),
                    "missing; `wants: token` needs the server that gives tokens",
                );
            }
            for (key, other) in [("realm", &server.realm), ("leads_to", &server.leads_to)] {
                if let Some(other) = other {
                    self.known(&format!("{at}.{key}"), "server", other, &servers);
                }
            }
        }
        if !scenario.config.is_object() {
            self.fail("config", "not a table; expected the daemon's configuration");
        }
        if self.faults == 0 {
            self.fail("steps", "no fault in them; expected one, else there is nothing to prove");
        }
        if scenario.expect.is_empty() {
            self.fail("expect", "empty; expected what must hold");
        }
        self.steps("steps", &scenario.steps);
        for (index, expect) in scenario.expect.iter().enumerate() {
            self.expect(&format!("expect[{index}]"), expect);
        }
    }

    fn steps(&mut self, at: &str, steps: &[Step]) {
        for (index, step) in steps.iter().enumerate() {
            let at = format!("{at}[{index}]");
            match step {
                Step::Fault(action) | Step::Mend(action) => self.action(&at, action),
                Step::Join(join) => {
                    let reads = self.reads.clone();
                    self.known(&at, "read", &join.read, &reads);
                }
                Step::Until(until) => self.expect(&format!("{at}.until.holds"), &until.holds),
                Step::Read(read) if read.readers == 0 || read.readers > 500 => {
                    self.fail(&at, format!("{} readers; expected 1 to 500", read.readers));
                }
                Step::Repeat(repeat) => self.steps(&format!("{at}.repeat.steps"), &repeat.steps),
                _ => {}
            }
        }
    }

    fn action(&mut self, at: &str, action: &Action) {
        match action {
            Action::Answer(answers) => {
                self.server(at, &answers.server);
                for (index, rule) in answers.rules.iter().enumerate() {
                    let at = format!("{at}.rules[{index}]");
                    if rule.then == crate::schema::Distortion::default() {
                        self.fail(&at, "`then` says nothing; expected what is other than it should be");
                    }
                    if rule.every == Some(0) || rule.times == Some(0) {
                        self.fail(&at, "0; expected `every` and `times` from 1");
                    }
                    if rule.then.cut.is_some_and(|cut| !(0.0..=1.0).contains(&cut.after)) {
                        self.fail(&at, "`after` is a share; expected 0 to 1");
                    }
                }
            }
            Action::Listener(listener) => self.server(at, &listener.server),
            Action::Clock(clock) => self.server(at, &clock.server),
            Action::Tokens(tokens) => self.server(at, &tokens.server),
            Action::Certificate(certificate) => self.server(at, &certificate.server),
            Action::Config(patch) if !patch.is_object() => {
                self.fail(at, "not a table; expected keys to replace")
            }
            Action::Dns(_) | Action::Link(_) | Action::Disk(_) | Action::Process(_) | Action::Config(_) => {}
        }
    }

    fn window(&mut self, at: &str, window: &Window) {
        let marks = self.marks.clone();
        for mark in [&window.from, &window.to].into_iter().flatten() {
            self.known(&format!("{at}.during"), "mark", mark, &marks);
        }
    }

    fn limits(&mut self, at: &str, limits: &Limits) {
        let both = limits.at_least.or(limits.at_most).is_some();
        if both == limits.exactly.is_some() {
            self.fail(at, "expected `exactly`, or `at_least` or `at_most` or both of these");
        }
    }

    fn times(&mut self, at: &str, times: &Times) {
        if times.at_least.is_none() && times.at_most.is_none() {
            self.fail(at, "no limit; expected `at_least`, `at_most` or both");
        }
    }

    fn expect(&mut self, at: &str, expect: &Expect) {
        match expect {
            Expect::Reads(reads) => {
                let all = self.reads.clone();
                self.known(&format!("{at}.reads.of"), "read", &reads.of, &all);
                for limits in [&reads.count, &reads.good].into_iter().flatten() {
                    self.limits(&format!("{at}.reads"), limits);
                }
                for times in [&reads.each, &reads.fastest].into_iter().flatten() {
                    self.times(&format!("{at}.reads"), times);
                }
            }
            Expect::Tree(tree) => {
                let all = self.trees.clone();
                self.known(&format!("{at}.tree.of"), "tree", &tree.of, &all);
            }
            Expect::Requests(requests) => {
                self.server(&format!("{at}.requests.server"), &requests.server);
                self.window(&format!("{at}.requests"), &requests.during);
                self.limits(&format!("{at}.requests.count"), &requests.count);
            }
            Expect::Connections(connections) => {
                self.server(&format!("{at}.connections.server"), &connections.server);
                self.window(&format!("{at}.connections"), &connections.during);
                self.limits(&format!("{at}.connections.count"), &connections.count);
            }
            Expect::Tried(tried) => {
                self.window(&format!("{at}.tried"), &tried.during);
                self.limits(&format!("{at}.tried.count"), &tried.count);
            }
            Expect::Elapsed(elapsed) => {
                self.window(&format!("{at}.elapsed"), &elapsed.during);
                self.times(&format!("{at}.elapsed.time"), &elapsed.time);
            }
            Expect::Log(log) => {
                self.window(&format!("{at}.log"), &log.during);
                self.limits(&format!("{at}.log.count"), &log.count);
                if log.says.iter().all(|text| text.trim().is_empty()) {
                    self.fail(&format!("{at}.log.says"), "empty; expected parts of a line");
                }
            }
            Expect::Secrets(secrets) if secrets.known == 0 => {
                self.fail(
                    &format!("{at}.secrets.known"),
                    "0; expected how many there are to be found, from 1",
                );
            }
            Expect::Sample(sample) => {
                let all = self.samples.clone();
                self.known(&format!("{at}.sample.of"), "sample", &sample.of, &all);
                if sample.pointer.is_some() == sample.series.is_some() {
                    self.fail(&format!("{at}.sample"), "expected either `pointer` or `series`");
                }
                if sample.text.is_some() == sample.number.is_some() {
                    self.fail(&format!("{at}.sample"), "expected either `text` or `number`");
                }
                if let Some(limits) = &sample.number {
                    self.limits(&format!("{at}.sample.number"), limits);
                }
            }
            Expect::Spans(spans) => self.limits(&format!("{at}.spans.count"), &spans.count),
            Expect::Secrets(_) | Expect::Daemon(_) => {}
        }
    }
}
