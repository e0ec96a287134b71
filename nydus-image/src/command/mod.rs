//! The commands, one file each.

pub mod check;
pub mod chunkdict;
pub mod compact;
pub mod create;
pub mod export;
pub mod inspect;
pub mod manual;
pub mod merge;
pub mod optimize;
pub mod stat;
pub mod unpack;

use std::io::{self, Write as _};
use std::path::Path;

use crate::cli::{Command, GlobalArgs};
use crate::error::{Error, Result};

/// Does what a command line asks for.
pub fn run(command: Command, global: &GlobalArgs) -> Result<()> {
    match command {
        Command::Create(args) => create::run(&args, global),
        Command::Merge(args) => merge::run(&args, global),
        Command::Check(args) => check::run(&args, global),
        Command::Inspect(args) => inspect::run(&args),
        Command::Stat(args) => stat::run(&args, global),
        Command::Unpack(args) => unpack::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Compact(args) => compact::run(&args, global),
        Command::Optimize(args) => optimize::run(&args, global),
        Command::Chunkdict(args) => chunkdict::run(&args, global),
        Command::Completions { shell } => manual::completions(shell),
        Command::Man { directory } => manual::man(&directory),
    }
}

/// Writes to standard output, now.
fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(Error::io("write to", Path::new("standard output")))
}

/// So many threads as were asked for; 0 asks for one a core.
fn threads(asked: usize) -> usize {
    match asked {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        given => given.min(256),
    }
}
