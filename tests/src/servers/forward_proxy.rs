//! `tinyproxy`, a forward proxy: it is told whole addresses, and tunnels TLS.

use std::process::Command;

use tempfile::TempDir;

use super::process::Process;
use crate::requirements;

/// The program.
pub const PROGRAM: &str = "tinyproxy";

/// The proxy. It ends when dropped.
pub struct ForwardProxy {
    // Before its files.
    process: Process,
    dir: TempDir,
}

impl Default for ForwardProxy {
    fn default() -> Self {
        Self::start()
    }
}

impl ForwardProxy {
    /// Starts one.
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("nydus-test.").tempdir().unwrap();
        let file = dir.path().join("tinyproxy.conf");
        let process = Process::start(PROGRAM, dir.path(), |addr| {
            let text = format!("Listen {}\nPort {}\nTimeout 60\nLogLevel Connect\n", addr.ip(), addr.port());
            std::fs::write(&file, text).unwrap();
            command(dir.path())
        });
        Self { process, dir }
    }

    /// Ends it, does `meanwhile`, and starts it again at the same address.
    pub fn restart(self, meanwhile: impl FnOnce()) -> Self {
        let addr = self.process.addr();
        let Self { process, dir } = self;
        drop(process);
        meanwhile();
        let process = Process::start_at(PROGRAM, dir.path(), addr, &mut command(dir.path()));
        Self { process, dir }
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://{}", self.process.addr())
    }

    /// How many requests it was given, tunnels included.
    pub fn requests(&self) -> usize {
        self.process.log().lines().filter(|line| line.contains("Request (file descriptor ")).count()
    }
}

fn command(dir: &std::path::Path) -> Command {
    let mut command = Command::new(requirements::tool(PROGRAM).expect("required by the test"));
    command.arg("-d").arg("-c").arg(dir.join("tinyproxy.conf"));
    command
}
