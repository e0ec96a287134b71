//! `nydus-image`: builds container images whose data is fetched when it is read, and looks into them.

use std::process::ExitCode;

use clap::Parser as _;
use nydus_image::cli::{Cli, Command};
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
    match command {
        Command::Create(args) => command::create::run(&args, &cli.global),
        Command::Merge(args) => command::merge::run(&args, &cli.global),
        Command::Check(args) => command::check::run(&args, &cli.global),
        Command::Inspect(args) => command::inspect::run(&args),
        Command::Stat(args) => command::stat::run(&args, &cli.global),
        Command::Unpack(args) => command::unpack::run(&args),
        Command::Export(args) => command::export::run(&args),
        Command::Compact(args) => command::compact::run(&args, &cli.global),
        Command::Optimize(args) => command::optimize::run(&args, &cli.global),
        Command::Chunkdict(args) => command::chunkdict::run(&args, &cli.global),
        Command::Completions { shell } => command::manual::completions(shell),
        Command::Man { directory } => command::manual::man(&directory),
    }
}
