//! `nydusd`: mounts container images whose data is fetched when it is read.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use nydusd::cli::{self, Invocation};
use nydusd::telemetry::logs::{self, Logs};
use nydusd::telemetry::traces::{self, Traces};
use nydusd::{daemon, demo, memory};
use tokio::runtime::{Builder, Runtime};

/// Threads of the runtime that live as long as the process.
const MAX_WORKERS: usize = 3;
/// How long a thread for blocking work waits in vain before it ends.
const IDLE_LIFE: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    memory::configure();
    let invocation = match cli::parse() {
        Ok(invocation) => invocation,
        Err(refusal) => return refusal.report(),
    };
    match run(&invocation) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("Error: {}", one_line(&e));
            ExitCode::FAILURE
        }
    }
}

fn run(invocation: &Invocation) -> Result<()> {
    match invocation {
        Invocation::Fuse(args) => {
            let config = daemon::load_config(args);
            let tracing = config.as_ref().ok().and_then(|parsed| parsed.config.tracing.as_ref());
            let settings = traces::Settings::of(tracing)?;
            let traces = settings.as_ref().map(Traces::start).transpose()?;
            let logs = Arc::new(logs::init(&args.global.log_options(), traces.as_ref())?);
            let runtime = runtime()?;
            let ended = daemon::run_fuse(args, config, logs.clone(), &runtime);
            if let (Err(e), Some(_)) = (&ended, args.global.log_options().file) {
                tracing::error!("{}", one_line(e));
            }
            finish(runtime, &logs);
            ended
        }
        Invocation::Demo(args) => demo::run(args, &runtime()?),
        Invocation::Completions(shell) => print(&cli::completions(*shell)),
        Invocation::Man => print(&cli::man().context("cannot write the manual page")?),
    }
}

/// One for the process.
fn runtime() -> Result<Runtime> {
    // One more than cores: the tasks copy data that their readers wait for. A few do for any machine: what costs CPU is
    // decoded on threads of its own, which come and go.
    let workers = std::thread::available_parallelism().map_or(2, usize::from) + 1;
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(workers.min(MAX_WORKERS)).thread_keep_alive(IDLE_LIFE);
    builder.thread_name("async").enable_all();
    builder.build().context("cannot start the async runtime")
}

/// Ends without waiting for what may never come back, such as a read of a dead disk.
fn finish(runtime: Runtime, logs: &Logs) {
    runtime.shutdown_background();
    logs.flush();
}

fn print(bytes: &[u8]) -> Result<()> {
    std::io::stdout().write_all(bytes).context("cannot write to standard output")
}

/// An error and its causes. A cause that the error before it has already quoted is not said twice.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let io = std::io::Error::other("disk on fire");
        let quoted = anyhow::Error::new(io).context("cannot read: disk on fire").context("mount failed");
        assert_eq!(one_line(&quoted), "mount failed: cannot read: disk on fire");
    }
}
