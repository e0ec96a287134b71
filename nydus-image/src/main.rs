//! `nydus-image`: builds container images whose data is fetched when it is read, and looks into them.

use std::process::ExitCode;

use clap::Parser as _;
use nydus_image::cli::{Cli, Command};
use nydus_image::{Error, Result, command, logs};

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
    logs::init(cli.global.log_level, cli.global.log_file.as_deref())?;
    match command {
        Command::Create(args) => command::create::run(&args),
        Command::Merge(args) => command::merge::run(&args),
        Command::Check(args) => command::check::run(&args),
        Command::Inspect(args) => command::inspect::run(&args),
        Command::Stat(args) => command::stat::run(&args),
        Command::Unpack(args) => command::unpack::run(&args),
        Command::Export(args) => command::export::run(&args),
        Command::Compact(_) => Err(Error::Unsupported("compact")),
        Command::Optimize(_) => Err(Error::Unsupported("optimize")),
        Command::Chunkdict(_) => Err(Error::Unsupported("chunkdict")),
    }
}
