//! Runs the daemon through worlds that break, as the files beside this folder describe them: `../README.md`.
//!
//! The program reads the folder when it runs, starts itself again for each scenario in a sandbox of its own
//! ([`sandbox`]), several at once, and ends those that take too long. `--prove` runs each of them without its faults,
//! too, and wants it to fail then.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod child;
mod dns;
mod falsify;
mod judge;
mod load;
mod parent;
mod reads;
mod record;
mod sandbox;
mod schema;
mod server;
mod units;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Runs the scenarios.
#[derive(Parser)]
#[command(name = "scenarios")]
pub struct Arguments {
    /// Only scenarios whose names have one of these in them.
    filters: Vec<String>,
    /// Print the names and end.
    #[arg(long)]
    list: bool,
    /// So many at once.
    #[arg(long, default_value_t = 12)]
    jobs: usize,
    /// Run each without its faults too; it must fail then.
    #[arg(long)]
    prove: bool,
    /// Keep the directories of runs.
    #[arg(long)]
    keep: bool,
    /// Tell what was measured.
    #[arg(long, short)]
    verbose: bool,
    /// The folder with the scenarios.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios"))]
    dir: PathBuf,
    /// Run this file in here: we are in its sandbox.
    #[arg(long, hide = true, requires = "report")]
    child: Option<PathBuf>,
    #[arg(long, hide = true)]
    report: Option<PathBuf>,
    #[arg(long, hide = true)]
    without_faults: bool,
    /// Understood and ignored: what `cargo test` may hand to every test program.
    #[arg(long, hide = true)]
    nocapture: bool,
    #[arg(long, hide = true)]
    test_threads: Option<usize>,
    #[arg(long, short, hide = true)]
    quiet: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let (Some(file), Some(report)) = (&arguments.child, &arguments.report) {
        let found = child::run(file, arguments.without_faults);
        std::fs::write(report, serde_json::to_string(&found).unwrap()).unwrap();
        // Readers that hang are threads of ours; nobody waits for them.
        return ExitCode::SUCCESS;
    }
    parent::run(&arguments)
}
