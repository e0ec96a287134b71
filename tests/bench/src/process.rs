//! What a process costs: CPU time and peak memory, of a child that ends and of one that runs.

use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::libc;

/// `USER_HZ`, the unit of times in /proc: the same on every machine that Linux runs on.
const TICKS_A_SECOND: u64 = 100;

/// What a process used.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// User and system time.
    pub cpu: Duration,
    /// Peak of resident memory, in KiB.
    pub memory_kib: u64,
}

/// Waits for a child that nobody has waited for yet: how it ended, and what it used.
pub fn wait(child: Child) -> io::Result<(ExitStatus, Usage)> {
    let pid = child.id() as libc::pid_t;
    let mut status = 0;
    // SAFETY: all zero is a value of this plain C struct of integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to values that outlive the call. `child` is not used afterwards, so that nobody waits
    // for a process id that is another's by then.
    let waited = unsafe { libc::wait4(pid, &mut status, 0, &mut usage) };
    if waited != pid {
        return Err(io::Error::last_os_error());
    }
    let cpu = [usage.ru_utime, usage.ru_stime]
        .map(|time| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000))
        .iter()
        .sum();
    Ok((ExitStatus::from_raw(status), Usage { cpu, memory_kib: usage.ru_maxrss as u64 }))
}

/// What a running process has used so far.
pub fn usage(pid: u32) -> Result<Usage> {
    let read = |name: &str| {
        let path = format!("/proc/{pid}/{name}");
        fs::read_to_string(&path).with_context(|| path)
    };
    // After the name in parentheses: utime and stime are the fields 14 and 15. The kernel makes their sum exact.
    let stat = read("stat")?;
    let fields = stat.rsplit_once(") ").map(|(_, fields)| fields.split(' ').collect::<Vec<_>>());
    let ticks = fields
        .and_then(|fields| Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?));
    let ticks = ticks.with_context(|| format!("process {pid} has no times: {stat}"))?;
    let cpu = Duration::from_millis(ticks * 1000 / TICKS_A_SECOND);
    let status = read("status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok());
    Ok(Usage { cpu, memory_kib: peak.with_context(|| format!("process {pid} has no VmHWM"))? })
}
