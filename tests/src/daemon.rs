//! A daemon under test: started, awaited, killed, and cleaned up after, whatever the test does.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::api::{self, Answer};
use crate::config::Config;
use crate::exposition::Exposition;
use crate::fixtures::Image;
use crate::{mounts, program};

/// How long a daemon may take to mount, or to say why not.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// How long a daemon may take to end after SIGTERM, and the kernel to reap it after SIGKILL.
const STOP_DEADLINE: Duration = Duration::from_secs(15);
/// A daemon that is still there after this time has hung its test: it is killed.
const WATCHDOG: Duration = Duration::from_secs(240);

/// The lines of `log` with which a daemon complains. Not that a request was slow: on a busy machine any is.
pub fn complaints(log: &str) -> Vec<String> {
    let is_complaint = |line: &&str| {
        (line.contains(" WARN ") || line.contains(" ERROR ")) && !line.contains(" slow request ")
    };
    log.lines().filter(is_complaint).map(str::to_owned).collect()
}

/// A directory for one test: mountpoint, cache, configuration and socket. Removed in the end, mounts first.
pub struct Scratch(tempfile::TempDir);

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Scratch {
    /// A fresh one, with `mnt/` and `cache/` in it.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("nydus-test.").tempdir().expect("a temporary directory");
        for name in ["mnt", "cache"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self(dir)
    }

    /// The path of `name` inside.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Where images are mounted.
    pub fn mountpoint(&self) -> PathBuf {
        self.path("mnt")
    }

    /// The cache directory.
    pub fn cache(&self) -> PathBuf {
        self.path("cache")
    }

    /// Empties the cache directory.
    pub fn clear_cache(&self) {
        std::fs::remove_dir_all(self.cache()).unwrap();
        std::fs::create_dir(self.cache()).unwrap();
    }

    /// Writes a file and answers its path.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A configuration for this image with the cache directory of this scratch.
    pub fn config(&self, image: &Image) -> Config {
        Config::new(&image.blobs(), &self.cache())
    }

    /// The start of `nydusd` for this bootstrap and configuration.
    pub fn launch(&self, bootstrap: &Path, config: &Config) -> Launch {
        self.launch_text(bootstrap, &config.to_text())
    }

    /// As [`Self::launch`], for any text of configuration.
    pub fn launch_text(&self, bootstrap: &Path, config: &str) -> Launch {
        let config = self.write("config", config);
        Launch::new(&self.mountpoint())
            .option("--config", config)
            .option("--bootstrap", bootstrap)
            .socket(&self.path("api.sock"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        mounts::detach(&self.mountpoint());
    }
}

/// A command line of the daemon, to be started.
#[derive(Clone)]
pub struct Launch {
    wrapper: Vec<OsString>,
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    mountpoint: PathBuf,
    socket: Option<PathBuf>,
    /// Nothing is added to the arguments.
    is_exact: bool,
}

impl Launch {
    /// `nydusd --mountpoint M`; everything else is to be added.
    pub fn new(mountpoint: &Path) -> Self {
        let mut launch = Self {
            wrapper: Vec::new(),
            program: program::nydusd().to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            mountpoint: mountpoint.to_owned(),
            socket: None,
            is_exact: false,
        };
        if program::is_reference() {
            // It exits where it may not raise the limit.
            launch = launch.option("--rlimit-nofile", "0");
        }
        launch.option("--mountpoint", mountpoint)
    }

    /// `nydusd` with exactly these arguments, which mount at `mountpoint` and answer on `socket`.
    pub fn exactly<T: Into<OsString>>(
        mountpoint: &Path,
        socket: &Path,
        arguments: impl IntoIterator<Item = T>,
    ) -> Self {
        Self {
            arguments: arguments.into_iter().map(Into::into).collect(),
            socket: Some(socket.to_owned()),
            is_exact: true,
            ..Self::new(mountpoint)
        }
    }

    /// Starts this copy of the program.
    pub fn program(mut self, path: &Path) -> Self {
        self.program = path.to_owned();
        self
    }

    /// Adds an option with a value.
    pub fn option(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.arguments.push(name.into());
        self.arguments.push(value.as_ref().to_owned());
        self
    }

    /// Puts a word before all options: the subcommand.
    pub fn subcommand(mut self, name: &str) -> Self {
        self.arguments.insert(0, name.into());
        self
    }

    /// Sets an environment variable.
    pub fn environment(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Asks for the administration socket.
    pub fn socket(mut self, path: &Path) -> Self {
        self.socket = Some(path.to_owned());
        self.option("--apisock", path)
    }

    /// Runs the daemon through another command, which ends its own arguments with the daemon's command line.
    pub fn through<T: Into<OsString>>(mut self, command: impl IntoIterator<Item = T>) -> Self {
        self.wrapper = command.into_iter().map(Into::into).collect();
        self
    }

    /// The program and its arguments, wrapper included, with stderr piped and stdout discarded.
    pub fn command(&self) -> Command {
        let words = self.wrapper.iter().cloned().chain([self.program.clone().into_os_string()]);
        let words = words.chain(self.arguments.iter().cloned());
        let level = ["--log-level", "info"].map(OsString::from);
        let words: Vec<OsString> = words.chain(level.into_iter().filter(|_| !self.is_exact)).collect();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.env_remove("RUST_BACKTRACE");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // SAFETY: between fork and exec only async-signal-safe calls are allowed; prctl(2) is one, and the closure
        // neither allocates nor takes locks.
        unsafe {
            command
                .pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGTERM).map_err(std::io::Error::from));
        }
        command
    }

    fn spawn(&self) -> Daemon {
        let mut child = self.command().spawn().expect("the program starts");
        let stderr = Arc::new(Mutex::new(String::new()));
        let pipe = BufReader::new(child.stderr.take().expect("stderr is a pipe"));
        let sink = Arc::clone(&stderr);
        let collector = std::thread::spawn(move || {
            for line in pipe.split(b'\n') {
                let Ok(line) = line else { return };
                let mut text = lock(&sink);
                text.push_str(&String::from_utf8_lossy(&line));
                text.push('\n');
            }
        });
        let process = Arc::new(Mutex::new(child));
        let (alive, gone) = channel();
        let watched = Arc::clone(&process);
        std::thread::spawn(move || {
            if gone.recv_timeout(WATCHDOG) == Err(RecvTimeoutError::Timeout) {
                let _ = lock(&watched).kill();
            }
        });
        Daemon {
            process,
            stderr,
            collector: Some(collector),
            mountpoint: self.mountpoint.clone(),
            socket: self.socket.clone(),
            _alive: alive,
        }
    }

    /// Starts the daemon and waits until it is mounted. Fails the test if it does not come to that.
    pub fn start(&self) -> Daemon {
        self.try_start().unwrap_or_else(|refusal| {
            panic!("the daemon ended ({}) instead of mounting:\n{}", refusal.status, refusal.stderr)
        })
    }

    /// Starts the daemon and waits until it is mounted, or has ended.
    pub fn try_start(&self) -> Result<Daemon, Refusal> {
        let before = mounts::find(&self.mountpoint).map(|mount| mount.device);
        let daemon = self.spawn();
        let deadline = Instant::now() + START_DEADLINE;
        while mounts::find(&self.mountpoint).map(|mount| mount.device) == before {
            if let Some(status) = daemon.exited() {
                return Err(daemon.refusal(status));
            }
            assert!(Instant::now() < deadline, "not mounted after {START_DEADLINE:?}:\n{}", daemon.stderr());
            std::thread::sleep(Duration::from_millis(2));
        }
        if let Some(socket) = &self.socket {
            daemon.wait_for("the API answers", || {
                api::try_get(socket, "/api/v1/daemon").is_ok_and(|answer| answer.body["state"] == "RUNNING")
            });
        }
        Ok(daemon)
    }

    /// Starts a daemon that is expected to refuse. Fails the test if it is still running after the deadline.
    pub fn refused(&self) -> Refusal {
        let daemon = self.spawn();
        let status = daemon.wait_exit(START_DEADLINE);
        let status = status.unwrap_or_else(|| panic!("it runs instead of refusing:\n{}", daemon.stderr()));
        daemon.refusal(status)
    }
}

/// How a daemon refused to start.
#[derive(Debug)]
pub struct Refusal {
    /// How it ended.
    pub status: ExitStatus,
    /// All it said.
    pub stderr: String,
    /// Whether something is mounted at the mountpoint afterwards.
    pub mounted: bool,
}

impl Refusal {
    /// The error lines: those that begin with `Error`, in any case.
    pub fn errors(&self) -> Vec<&str> {
        self.stderr.lines().filter(|line| line.to_ascii_lowercase().starts_with("error")).collect()
    }

    /// Fails the test unless the daemon ended with exit status 1 or 2, left nothing mounted, did not panic, and said
    /// exactly one line of error, in which all of `words` occur (in any case).
    pub fn assert_explained(&self, words: &[&str]) {
        let Self { status, stderr, mounted } = self;
        assert!(matches!(status.code(), Some(1 | 2)), "{status}, stderr:\n{stderr}");
        assert!(!mounted, "something is still mounted, stderr:\n{stderr}");
        assert!(!stderr.contains("panicked"), "a panic:\n{stderr}");
        let errors = self.errors();
        let [line] = errors[..] else { panic!("{} lines of error instead of one:\n{stderr}", errors.len()) };
        for word in words {
            let found = line.to_ascii_lowercase().contains(&word.to_ascii_lowercase());
            assert!(found, "{word:?} does not occur in {line:?}; all of stderr:\n{stderr}");
        }
    }
}

/// Requests that the daemon sent to its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendReads {
    /// How many.
    pub count: u64,
    /// Bytes they brought; those of chunk tables and the like are not counted.
    pub bytes: u64,
}

/// A running daemon. Dropping it kills it and detaches its mount.
pub struct Daemon {
    process: Arc<Mutex<Child>>,
    stderr: Arc<Mutex<String>>,
    collector: Option<JoinHandle<()>>,
    mountpoint: PathBuf,
    socket: Option<PathBuf>,
    /// Tells the watchdog, by being dropped, that the daemon is gone.
    _alive: Sender<()>,
}

impl Daemon {
    /// Where it is mounted.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        lock(&self.process).id()
    }

    /// What it said on stderr so far.
    pub fn stderr(&self) -> String {
        lock(&self.stderr).clone()
    }

    fn refusal(mut self, status: ExitStatus) -> Refusal {
        self.join_collector();
        Refusal { status, stderr: self.stderr(), mounted: mounts::find(&self.mountpoint).is_some() }
    }

    fn join_collector(&mut self) {
        if let Some(collector) = self.collector.take() {
            let _ = collector.join();
        }
    }

    /// `GET path` on its administration socket.
    pub fn api(&self, path: &str) -> Answer {
        api::get(self.socket.as_ref().expect("the daemon was started with a socket"), path)
    }

    /// `PUT path` on its administration socket.
    pub fn put(&self, path: &str, body: &Value) -> Answer {
        api::put(self.socket.as_ref().expect("the daemon was started with a socket"), path, body)
    }

    /// All its metrics.
    pub fn exposition(&self) -> Exposition {
        let socket = self.socket.as_ref().expect("the daemon was started with a socket");
        let (status, text) = api::try_get_text(socket, "/metrics").expect("metrics");
        assert_eq!(status, 200, "{text}");
        Exposition::parse(&text).unwrap_or_else(|error| panic!("{error} in\n{text}"))
    }

    /// The counters of its cache.
    pub fn cache_metrics(&self) -> Value {
        self.metrics("blobcache")
    }

    /// One counter of its cache. Fails the test if there is none of this name.
    pub fn counter(&self, name: &str) -> u64 {
        number(&self.cache_metrics(), name)
    }

    fn metrics(&self, page: &str) -> Value {
        let answer = self.api(&format!("/api/v1/metrics/{page}"));
        assert_eq!(answer.status, 200, "{page}: {}", answer.body);
        answer.body
    }

    /// What it asked of its backend so far: chunks, and everything that describes them.
    pub fn backend_reads(&self) -> BackendReads {
        if program::is_reference() {
            let metrics = self.metrics("backend");
            let bytes = number(&metrics, "read_amount_total");
            return BackendReads { count: number(&metrics, "read_count"), bytes };
        }
        let metrics = self.cache_metrics();
        let count = number(&metrics, "backend_requests") + number(&metrics, "metadata_requests");
        BackendReads { count, bytes: number(&metrics, "backend_bytes") }
    }

    /// Waits until `done`. Fails the test if that takes longer than thirty seconds.
    pub fn wait_for(&self, what: &str, done: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !done() {
            assert!(Instant::now() < deadline, "waited in vain until {what}:\n{}", self.stderr());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// How it ended, if it did.
    pub fn exited(&self) -> Option<ExitStatus> {
        lock(&self.process).try_wait().expect("the child can be waited for")
    }

    fn wait_exit(&self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            match self.exited() {
                None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
                ended => return ended,
            }
        }
    }

    /// Sends a signal and goes on.
    pub fn signal(&self, signal: Signal) {
        if self.exited().is_none() {
            kill(Pid::from_raw(self.pid().cast_signed()), signal).expect("the child can be signalled");
        }
    }

    /// Sends a signal that asks it to end, and waits. Fails the test if it does not end in time.
    pub fn stop(mut self, signal: Signal) -> Stopped {
        self.signal(signal);
        let status = self.wait_exit(STOP_DEADLINE);
        let status = status
            .unwrap_or_else(|| panic!("still there {STOP_DEADLINE:?} after {signal}:\n{}", self.stderr()));
        self.join_collector();
        Stopped { status, stderr: self.stderr(), mounted: mounts::find(&self.mountpoint).is_some() }
    }

    /// Ends it by SIGTERM; what it said on stderr. Fails the test unless it unmounts and exits with status 0.
    pub fn unmount(self) -> String {
        let stopped = self.stop(Signal::SIGTERM);
        assert!(stopped.status.success(), "{} after SIGTERM:\n{}", stopped.status, stopped.stderr);
        assert!(!stopped.mounted, "still mounted after SIGTERM:\n{}", stopped.stderr);
        stopped.stderr
    }

    /// Kills it (SIGKILL) and waits for its end. The dead mount stays until the value is dropped.
    pub fn kill(&self) {
        let _ = lock(&self.process).kill();
        assert!(self.wait_exit(STOP_DEADLINE).is_some(), "not dead {STOP_DEADLINE:?} after SIGKILL");
    }
}

/// How a daemon ended.
#[derive(Debug)]
pub struct Stopped {
    /// Its exit status.
    pub status: ExitStatus,
    /// All it said.
    pub stderr: String,
    /// Whether something is still mounted at its mountpoint.
    pub mounted: bool,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = lock(&self.process).kill();
        // Waits with a limit: a thread stuck in the kernel keeps even a killed process.
        let _ = self.wait_exit(STOP_DEADLINE);
        mounts::detach(&self.mountpoint);
        if std::thread::panicking() {
            let text = self.stderr();
            let tail: Vec<&str> = text.lines().rev().take(40).collect();
            eprintln!("--- the daemon's last words:");
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

fn number(metrics: &Value, name: &str) -> u64 {
    metrics[name].as_u64().unwrap_or_else(|| panic!("no {name} in {metrics}"))
}

/// A test that panicked while holding a lock must not keep others from cleaning up.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
