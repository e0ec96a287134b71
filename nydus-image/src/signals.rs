//! SIGHUP, SIGINT and SIGTERM: what was begun is removed before they end the process.

use nix::sys::signal::{SigSet, Signal, raise};

use crate::error::{Error, Result};
use crate::target;

/// The signals that ask a process to end.
const ENDING: [Signal; 3] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM];

/// Removes temporary files before a signal ends the process. To be called before there are other threads.
pub fn init() -> Result<()> {
    // Blocked signals are delivered even where the parent has said that they are to be ignored (nohup).
    let ignored = ignored();
    let mut signals = SigSet::empty();
    for signal in ENDING.into_iter().filter(|signal| ignored & 1 << (*signal as u32 - 1) == 0) {
        signals.add(signal);
    }
    let failed = |source| Error::Threads { source };
    signals.thread_block().map_err(|errno| failed(errno.into()))?;
    let builder = std::thread::Builder::new().name("signals".into());
    builder.spawn(move || wait(&signals)).map_err(failed)?;
    Ok(())
}

fn wait(signals: &SigSet) {
    let Ok(signal) = signals.wait() else { return };
    target::remove_temporaries(|| {
        // Ends the process, so that whoever waits for it sees which signal it was.
        let _ = signals.thread_unblock().and_then(|()| raise(signal));
    });
}

/// The signals that this process was started to ignore, a bit each; none where the system does not tell.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
