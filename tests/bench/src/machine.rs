//! Where and when figures were made.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The machine, in the words of a table's caption.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Machine {
    /// The day, in UTC.
    pub date: String,
    /// Of Linux.
    pub kernel: String,
    /// That this process may use.
    pub cores: usize,
    /// As the processor calls itself.
    pub processor: String,
    /// Of memory.
    pub memory_gib: u64,
    /// Type of the file system under the corpora.
    pub file_system: String,
}

impl Machine {
    /// This one; `directory` is where the corpora lie.
    pub fn this(directory: &Path) -> Result<Self> {
        let memory_kib: u64 = field("/proc/meminfo", "MemTotal")?.trim_end_matches(" kB").parse()?;
        Ok(Self {
            date: output("date", &["-u", "+%F"])?,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            cores: std::thread::available_parallelism()?.get(),
            processor: field("/proc/cpuinfo", "model name").unwrap_or_else(|_| "unknown processor".into()),
            memory_gib: memory_kib.div_ceil(1 << 20),
            file_system: file_system(directory)?,
        })
    }
}

/// The type of the file system that holds `directory`, below a heading as `df` prints it.
fn file_system(directory: &Path) -> Result<String> {
    let text = output("df", &["--output=fstype", &directory.display().to_string()])?;
    text.lines().nth(1).map(|line| line.trim().to_owned()).context("df names no file system")
}

/// The first value of `name : value` in a file of /proc.
fn field(file: &str, name: &str) -> Result<String> {
    let text = fs::read_to_string(file).with_context(|| file.to_owned())?;
    let values = text.lines().filter_map(|line| line.split_once(':'));
    let value =
        values.into_iter().find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned());
    value.with_context(|| format!("{file} has no {name}"))
}

/// What a program prints.
pub fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| program.to_owned())?;
    anyhow::ensure!(
        output.status.success(),
        "{program} {arguments:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
