//! `nydus-image`: builds container images whose data is fetched when it is read, and looks into them.

use std::process::ExitCode;

use clap::Parser as _;
use nydus_image::cli::Cli;
use nydus_image::{Error, Result, command, logs, signals};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}");
            match error {
                Error::Inconsistent(_) => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let Some(command) = cli.command else {
        println!("Usage: nydus-image [OPTIONS] <COMMAND>, see nydus-image --help");
        return Ok(());
    };
    signals::init()?;
    logs::init(cli.global.log_level, cli.global.log_file.as_deref())?;
    command::run(command, &cli.global)
}
