//! A server that is a program: started on a free port of loopback, awaited, and killed.
//!
//! Invariant: it ends when it is dropped, and when the thread that started it ends, whatever happened.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::ports;

/// How long a server may take until it listens.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// Ports that are tried before it is given up.
const TRIES: usize = 5;
/// Lines of its log that a failed test shows.
const LAST_WORDS: usize = 30;

/// A running server.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    child: Child,
    addr: SocketAddr,
    log: PathBuf,
}

impl Process {
    /// Starts what `command` makes for an address, and waits until it listens there. All it says goes to the file
    /// `name`.log in `dir`. Fails the test if it does not come to that.
    pub fn start(name: &'static str, dir: &Path, mut command: impl FnMut(SocketAddr) -> Command) -> Self {
        for _ in 0..TRIES {
            let addr = ports::listen_anywhere().local_addr().unwrap();
            if let Some(process) = Self::try_start(name, dir, addr, &mut command(addr)) {
                return process;
            }
        }
        panic!("{name} does not start:\n{}", last_words(&dir.join(format!("{name}.log"))));
    }

    /// As [`Self::start`], at this very address: that of a server that was there before.
    pub fn start_at(name: &'static str, dir: &Path, addr: SocketAddr, command: &mut Command) -> Self {
        Self::try_start(name, dir, addr, command).unwrap_or_else(|| {
            panic!("{name} does not start at {addr}:\n{}", last_words(&dir.join(format!("{name}.log"))))
        })
    }

    /// `None`: it ended at once, as it does where somebody else was quicker to take the port.
    fn try_start(name: &'static str, dir: &Path, addr: SocketAddr, command: &mut Command) -> Option<Self> {
        let log = dir.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        // SAFETY: between fork and exec only async-signal-safe calls are allowed; prctl(2) is one, and the closure
        // neither allocates nor takes locks.
        unsafe {
            command
                .pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(std::io::Error::from));
        }
        let child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut process = Self { name, child, addr, log };
        let deadline = Instant::now() + START_DEADLINE;
        while TcpStream::connect(addr).is_err() {
            if process.has_ended() {
                return None;
            }
            assert!(Instant::now() < deadline, "{name} does not listen:\n{}", last_words(&process.log));
            std::thread::sleep(Duration::from_millis(10));
        }
        (!process.has_ended()).then_some(process)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// All it said so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("the child can be waited for").is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the last words of {}:\n{}", self.name, last_words(&self.log));
        }
    }
}

fn last_words(log: &Path) -> String {
    let text = String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().rev().take(LAST_WORDS).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// A log that has not grown for a while: servers write of a request when they have answered it, and some time after.
pub fn settled(log: impl Fn() -> String) -> String {
    let (mut before, mut quiet) = (log(), 0);
    for _ in 0..40 {
        std::thread::sleep(Duration::from_millis(100));
        let now = log();
        quiet = if now == before { quiet + 1 } else { 0 };
        if quiet == 3 {
            break;
        }
        before = now;
    }
    before
}

#[cfg(test)]
mod tests {
    use super::*;

    fn python(port: u16) -> Command {
        let mut command = Command::new("python3");
        command.args(["-m", "http.server", "--bind", "127.0.0.1", &port.to_string()]);
        command
    }

    #[test]
    fn a_server_ends_with_its_value() {
        crate::require_tools!("python3");
        let dir = tempfile::tempdir().unwrap();
        let process = Process::start("python", dir.path(), |addr| python(addr.port()));
        let addr = process.addr();
        drop(process);
        assert!(TcpStream::connect(addr).is_err(), "it still listens");
        drop(Process::start_at("python", dir.path(), addr, &mut python(addr.port())));
        assert!(TcpStream::connect(addr).is_err(), "it still listens");
    }

    #[test]
    fn a_server_ends_with_the_thread_that_started_it() {
        crate::require_tools!("python3");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let start = move || {
            let process = Process::start("python", &path, |addr| python(addr.port()));
            let addr = process.addr();
            std::mem::forget(process);
            addr
        };
        let addr = std::thread::spawn(start).join().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(addr).is_ok() {
            assert!(Instant::now() < deadline, "it still listens");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
