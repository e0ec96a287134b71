//! A running scenario: its servers, its names, its disk, its daemons, and what was seen of them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use nydus_tests::api;
use nydus_tests::collector::Collector;
use nydus_tests::daemon::{Daemon, Launch};
use nydus_tests::fixtures::Image;
use serde_json::{Value, json};

use crate::dns::NameServer;
use crate::judge;
use crate::reads::{self, Reading};
use crate::record::{Ledger, Mark, ReadSeen, Record};
use crate::sandbox;
use crate::schema::{Action, Contents, Expect, Fate, Mount, Process, Read, Scenario, Signal, Step, Until};
use crate::server::answer::{AUTH, PASSWORD};
use crate::server::tls::Authorities;
use crate::server::town::{Blobs, Town};

/// How often something is looked at that is waited for.
const POLL: Duration = Duration::from_millis(50);
/// How long a span may take to come to the collector after its daemon has ended.
const SPANS_SETTLE: Duration = Duration::from_millis(200);

/// The run of a scenario, inside its sandbox.
pub struct World {
    scenario: Scenario,
    image: Image,
    dir: PathBuf,
    town: Town,
    names: NameServer,
    authorities: Authorities,
    collector: Option<Collector>,
    ledger: Ledger,
    config: Value,
    start: Instant,
    daemons: BTreeMap<String, Running>,
    fates: BTreeMap<String, Fate>,
    readings: Vec<Reading>,
    reads: Vec<ReadSeen>,
    trees: BTreeMap<String, Result<nydus_tests::manifest::Manifest, String>>,
    marks: BTreeMap<String, Mark>,
    log: Vec<String>,
    samples: BTreeMap<String, String>,
    /// What was waited for in vain.
    failures: Vec<String>,
    /// What was waited for and came, and what had been seen then.
    waits: Vec<(String, Expect, Record)>,
}

/// What came of a run.
pub struct Seen {
    /// Everything that was seen.
    pub record: Record,
    /// What was waited for in vain.
    pub failures: Vec<String>,
    /// What was waited for and came, and what had been seen then.
    pub waits: Vec<(String, Expect, Record)>,
}

struct Running {
    daemon: Daemon,
    socket: PathBuf,
    /// Bytes of its log that are in ours.
    heard: usize,
}

impl World {
    /// Starts everything that is there before the first step. `dir` is empty, and ours.
    pub fn new(scenario: Scenario, dir: PathBuf) -> anyhow::Result<Self> {
        sandbox::enter(&dir)?;
        let image = Image::named(&scenario.image);
        let mut blobs = Blobs::new();
        for file in image.blob_files() {
            let id = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            blobs.insert(id, std::fs::read(&file)?);
        }
        let (authorities, ledger) = (Authorities::new(&dir), Ledger::default());
        ledger.lock().secrets.extend([AUTH.to_owned(), PASSWORD.to_owned()]);
        let town = Town::new(&scenario.servers, blobs, &authorities, &ledger)?;
        let names = NameServer::start(&scenario.names).context("a name server at port 53")?;
        let cache = dir.join("cache");
        std::fs::create_dir(&cache)?;
        if let Some(size) = scenario.disk {
            sandbox::mount_disk(&cache, size)?;
        }
        let collector = scenario.traces.then(Collector::start);
        let mut config = json!({
            "version": 2,
            "cache": { "type": "filecache", "filecache": { "work_dir": cache } },
            "rafs": { "mode": "direct", "enable_xattr": true },
        });
        if let Some(collector) = &collector {
            config["tracing"] = json!({ "endpoint": collector.endpoint(), "threshold_ms": 0 });
        }
        patch(&mut config, &scenario.config);
        Ok(Self {
            scenario,
            image,
            dir,
            town,
            names,
            authorities,
            collector,
            ledger,
            config,
            start: Instant::now(),
            daemons: BTreeMap::new(),
            fates: BTreeMap::new(),
            readings: Vec::new(),
            reads: Vec::new(),
            trees: BTreeMap::new(),
            marks: BTreeMap::new(),
            log: Vec::new(),
            samples: BTreeMap::new(),
            failures: Vec::new(),
            waits: Vec::new(),
        })
    }

    /// Takes all steps, and answers what was seen.
    pub fn run(mut self) -> anyhow::Result<Seen> {
        let steps = self.scenario.steps.clone();
        self.steps("steps", &steps)?;
        for reading in std::mem::take(&mut self.readings) {
            self.reads.extend(reading.finish());
        }
        // Judged as they are now, but told to end, so that all they have to say is there: lines of the log and spans.
        for name in self.daemons.keys().cloned().collect::<Vec<_>>() {
            self.daemons[&name].daemon.signal(nix::sys::signal::Signal::SIGCONT);
            self.end(&name, true)?;
            self.fates.insert(name, Fate::Running);
        }
        if self.collector.is_some() {
            std::thread::sleep(SPANS_SETTLE);
        }
        let record = self.record()?;
        Ok(Seen { record, failures: self.failures, waits: self.waits })
    }

    fn steps(&mut self, at: &str, steps: &[Step]) -> anyhow::Result<()> {
        for (index, step) in steps.iter().enumerate() {
            let at = format!("{at}[{index}]");
            self.step(&at, step).with_context(|| at.clone())?;
        }
        Ok(())
    }

    fn step(&mut self, at: &str, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::Fault(action) | Step::Mend(action) => self.act(action)?,
            Step::Mount(mount) => self.mount(mount)?,
            Step::Read(read) => self.read(read)?,
            Step::Tree(tree) => {
                let found = reads::tree(self.root(&tree.daemon), tree.within.0);
                self.trees.insert(tree.name.clone(), found);
            }
            Step::Join(join) => {
                for reading in self.readings.extract_if(.., |reading| reading.name() == join.read) {
                    self.reads.extend(reading.finish());
                }
            }
            Step::Wait(span) => std::thread::sleep(span.0),
            Step::Until(until) => self.until(at, until)?,
            Step::Mark(name) => {
                self.hear();
                let tried = sandbox::connections_tried()?;
                self.marks.insert(name.clone(), Mark { at: Instant::now(), tried, log: self.log.len() });
            }
            Step::Sample(sample) => {
                let running = self.daemons.get(&sample.daemon);
                let running = running.with_context(|| format!("no daemon {:?} runs", sample.daemon))?;
                let (status, text) = api::try_get_text(&running.socket, &sample.page)?;
                anyhow::ensure!(status == 200, "{} answered {status}: {text}", sample.page);
                self.samples.insert(sample.name.clone(), text);
            }
            Step::Repeat(repeat) => {
                for _ in 0..repeat.times {
                    self.steps(&format!("{at}.repeat.steps"), &repeat.steps)?;
                }
            }
        }
        Ok(())
    }

    fn act(&mut self, action: &Action) -> anyhow::Result<()> {
        match action {
            Action::Answer(answers) => {
                answers.server.all().iter().for_each(|name| self.town.answer(name, answers));
            }
            Action::Listener(listener) => {
                for name in listener.server.all() {
                    self.town.reach(name, listener.is)?;
                }
            }
            Action::Clock(clock) => {
                clock.server.all().iter().for_each(|name| self.town.clock(name, clock.fast_by));
            }
            Action::Tokens(tokens) => {
                tokens.server.all().iter().for_each(|name| self.town.tokens(name, tokens));
            }
            Action::Certificate(certificate) => {
                certificate.server.all().iter().for_each(|name| self.town.certificate(name, certificate.is));
            }
            Action::Dns(dns) => self.names.set(&dns.name, dns.is.clone()),
            Action::Link(link) => sandbox::limit_link(link.rate)?,
            Action::Disk(disk) => sandbox::fill_disk(&self.dir.join("cache"), disk.leaves)?,
            Action::Cache(cache) => match cache.is {
                Contents::Removed => sandbox::remove_files(&self.dir.join("cache"))?,
            },
            Action::Process(process) => self.signal(process)?,
            Action::Config(change) => patch(&mut self.config, change),
        }
        Ok(())
    }

    fn root(&self, daemon: &str) -> PathBuf {
        self.dir.join(format!("mnt-{daemon}"))
    }

    fn mount(&mut self, step: &Mount) -> anyhow::Result<()> {
        let name = &step.daemon;
        if self.daemons.contains_key(name) {
            self.end(name, true)?;
        }
        let root = self.root(name);
        std::fs::create_dir_all(&root)?;
        let (config, socket) =
            (self.dir.join(format!("config-{name}")), self.dir.join(format!("api-{name}.sock")));
        let mut filled = self.config.clone();
        let ca = self.authorities.file().to_string_lossy().into_owned();
        let dir = self.dir.to_string_lossy().into_owned();
        fill_in(&mut filled, &[("{auth}", AUTH), ("{ca}", &ca), ("{dir}", &dir)]);
        std::fs::write(&config, filled.to_string())?;
        let mut launch = Launch::new(&root)
            .option("--config", config)
            .option("--bootstrap", self.image.bootstrap())
            .option("--rlimit-nofile", "0")
            .socket(&socket);
        for (variable, value) in &step.environment {
            launch = launch.environment(variable, value.replace("{auth}", AUTH));
        }
        match launch.try_start() {
            Ok(daemon) => {
                self.fates.insert(name.clone(), Fate::Running);
                self.daemons.insert(name.clone(), Running { daemon, socket, heard: 0 });
            }
            Err(refusal) => {
                self.fates.insert(name.clone(), Fate::Refused);
                self.log.extend(refusal.stderr.lines().map(str::to_owned));
            }
        }
        Ok(())
    }

    fn signal(&mut self, process: &Process) -> anyhow::Result<()> {
        match process.signal {
            Signal::Kill => self.end(&process.daemon, false),
            Signal::Terminate => self.end(&process.daemon, true),
            Signal::Stop | Signal::Continue => {
                let running = self.daemons.get(&process.daemon);
                let running = running.with_context(|| format!("no daemon {:?} runs", process.daemon))?;
                running.daemon.signal(match process.signal {
                    Signal::Stop => nix::sys::signal::Signal::SIGSTOP,
                    _ => nix::sys::signal::Signal::SIGCONT,
                });
                Ok(())
            }
        }
    }

    /// Ends a daemon, by SIGTERM or by SIGKILL, and takes its mount away.
    fn end(&mut self, name: &str, gently: bool) -> anyhow::Result<()> {
        self.hear();
        let running = self.daemons.remove(name).ok_or_else(|| anyhow!("no daemon {name:?} runs"))?;
        let (signal, fate) = match gently {
            true => (nix::sys::signal::Signal::SIGTERM, Fate::Ended),
            false => (nix::sys::signal::Signal::SIGKILL, Fate::Killed),
        };
        let stopped = running.daemon.stop(signal);
        anyhow::ensure!(
            !gently || stopped.status.success(),
            "{} after {signal}: {}",
            stopped.status,
            stopped.stderr
        );
        self.log.extend(stopped.stderr[running.heard..].lines().map(str::to_owned));
        self.fates.insert(name.to_owned(), fate);
        Ok(())
    }

    fn read(&mut self, step: &Read) -> anyhow::Result<()> {
        let files = self.files(step)?;
        let reading = Reading::start(step, &self.root(&step.daemon), &files);
        if step.background {
            self.readings.push(reading);
        } else {
            self.reads.extend(reading.finish());
        }
        Ok(())
    }

    /// The files that a step names.
    fn files(&self, step: &Read) -> anyhow::Result<Vec<String>> {
        let mut files = Vec::new();
        for pattern in &step.files {
            let before = files.len();
            let all = self.image.manifest().files().map(|(path, _)| path).filter(|path| !path.contains('\\'));
            match pattern.strip_suffix("/*") {
                Some(dir) => files.extend(
                    all.filter(|path| path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/')))
                        .map(str::to_owned),
                ),
                None => files.extend(all.filter(|path| path == pattern).map(str::to_owned)),
            }
            anyhow::ensure!(files.len() > before, "no files {pattern:?} in {}", self.image.name);
        }
        let files: Vec<String> =
            files.into_iter().skip(step.from).take(step.count.unwrap_or(usize::MAX)).collect();
        anyhow::ensure!(!files.is_empty(), "no files left of {:?} from {}", step.files, step.from);
        Ok(files)
    }

    fn until(&mut self, at: &str, until: &Until) -> anyhow::Result<()> {
        let end = Instant::now() + until.within.0;
        loop {
            self.hear();
            let record = self.record()?;
            let Err(problem) = judge::judge(&until.holds, &record) else {
                self.waits.push((at.to_owned(), until.holds.clone(), record));
                return Ok(());
            };
            if Instant::now() >= end {
                self.failures.push(format!("{at}: not within {}: {problem}", until.within));
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
    }

    /// Takes over what the daemons have logged since.
    fn hear(&mut self) {
        for running in self.daemons.values_mut() {
            let text = running.daemon.stderr();
            let new = &text[running.heard..];
            let whole = new.rfind('\n').map_or(0, |end| end + 1);
            self.log.extend(new[..whole].lines().map(str::to_owned));
            running.heard += whole;
        }
    }

    fn record(&self) -> anyhow::Result<Record> {
        let entries = self.ledger.lock().clone();
        let mut reads = self.reads.clone();
        reads.extend(self.readings.iter().flat_map(Reading::seen));
        Ok(Record {
            start: self.start,
            end: Instant::now(),
            marks: self.marks.clone(),
            reads,
            trees: self.trees.clone(),
            requests: entries.requests,
            connections: entries.connections,
            tried: sandbox::connections_tried()?,
            log: self.log.clone(),
            samples: self.samples.clone(),
            spans: self.collector.as_ref().map(Collector::spans).unwrap_or_default(),
            secrets: entries.secrets,
            daemons: self.fates.clone(),
            model: self.image.manifest().clone(),
        })
    }
}

/// Lays `change` over `value`: tables are merged, everything else is replaced, `null` removes.
fn patch(value: &mut Value, change: &Value) {
    let Value::Object(change) = change else {
        *value = change.clone();
        return;
    };
    if !value.is_object() {
        *value = json!({});
    }
    let Some(table) = value.as_object_mut() else { return };
    for (key, change) in change {
        if change.is_null() {
            table.remove(key);
        } else {
            patch(table.entry(key.clone()).or_insert(Value::Null), change);
        }
    }
}

/// Replaces placeholders in all texts.
fn fill_in(value: &mut Value, places: &[(&str, &str)]) {
    match value {
        Value::String(text) => {
            for (place, filling) in places {
                *text = text.replace(place, filling);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| fill_in(value, places)),
        Value::Object(table) => table.values_mut().for_each(|value| fill_in(value, places)),
        _ => {}
    }
}
