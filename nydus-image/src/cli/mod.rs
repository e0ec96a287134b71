//! The command line of `nydus-image`: what it may say.
//!
//! Usage errors are clap's, exit status 2. What is well said and cannot be done, unsupported functions included,
//! is refused by name when the command begins, exit status 1, before anything is written.

mod backend;
mod check;
mod chunkdict;
mod compact;
mod create;
mod export;
mod inspect;
mod merge;
mod optimize;
mod stat;
mod unpack;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use backend::BackendArgs;
pub use check::CheckArgs;
pub use chunkdict::{ChunkdictArgs, ChunkdictCommand, GenerateArgs};
pub use compact::CompactArgs;
pub use create::{
    CompressorArg, CreateArgs, DigesterArg, Feature, FsVersion, PrefetchPolicy, SourceType, WhiteoutSpec,
};
pub use export::ExportArgs;
pub use inspect::InspectArgs;
pub use merge::MergeArgs;
pub use optimize::OptimizeArgs;
pub use stat::StatArgs;
pub use unpack::UnpackArgs;

use crate::version;

/// Builds and inspects RAFS images
#[derive(Debug, Parser)]
#[command(name = "", bin_name = "nydus-image", version = version::TEXT, arg_required_else_help = false)]
pub struct Cli {
    /// What every command shares.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do; without it a line of help.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What every command shares.
#[derive(Args, Clone, Debug)]
pub struct GlobalArgs {
    /// Write log lines to this file instead of standard error
    #[arg(short = 'L', long, value_name = "FILE", global = true)]
    pub log_file: Option<PathBuf>,
    /// Least important log lines to write
    #[arg(
        short = 'l',
        long,
        value_name = "LEVEL",
        value_enum,
        default_value_t = Level::Info,
        ignore_case = true,
        global = true
    )]
    pub log_level: Level,
    /// Print the result on standard output as one JSON value, in the form of --output-json, instead of text (of
    /// commands that have that option)
    #[arg(long, global = true)]
    pub json: bool,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// Everything.
    Trace,
    /// And what was decided.
    Debug,
    /// And what was done.
    Info,
    /// And what may be wrong.
    Warn,
    /// What failed.
    Error,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build an image from a directory
    Create(Box<CreateArgs>),
    /// Put the layers of an image on top of each other
    Merge(Box<MergeArgs>),
    /// Check the bootstrap of an image
    Check(CheckArgs),
    /// Look into the bootstrap of an image
    Inspect(InspectArgs),
    /// Count what images hold and share
    Stat(StatArgs),
    /// Make a tar of an image
    Unpack(UnpackArgs),
    /// Make a disk image of an image
    Export(ExportArgs),
    /// Rewrite blobs of which little is used, and merge small ones
    Compact(CompactArgs),
    /// Copy what is to be fetched first into a blob of its own
    Optimize(OptimizeArgs),
    /// Make chunk dictionaries of images
    Chunkdict(ChunkdictArgs),
    /// Print the completions of a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages, nydus-image.1 and one a command, to a directory
    Man {
        /// The directory, which must exist
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

/// A bootstrap, as an argument or as an option.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub struct BootstrapArg {
    /// Bootstrap, or a blob with one inside
    #[arg(value_name = "BOOTSTRAP")]
    argument: Option<PathBuf>,
    /// The same as an option
    #[arg(short = 'B', long = "bootstrap", value_name = "FILE")]
    option: Option<PathBuf>,
}

impl BootstrapArg {
    /// The path; empty never, since clap wants one of the two.
    pub fn path(&self) -> PathBuf {
        self.argument.as_ref().or(self.option.as_ref()).cloned().unwrap_or_default()
    }
}

/// A number, decimal or with `0x` hexadecimal.
fn parse_number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        // `from_str_radix` takes a sign, which no number here has.
        Some(digits) if digits.starts_with('+') => return Err(format!("{text:?} is not a number")),
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|error| format!("{text:?} is not a number: {error}"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn numbers_are_decimal_or_hexadecimal() {
        assert_eq!(parse_number("4096").unwrap(), 4096);
        assert_eq!(parse_number("0x100000").unwrap(), 1 << 20);
        for bad in ["", "0x", "0x+1", "x", "-1", "1k"] {
            assert!(parse_number(bad).is_err(), "{bad}");
        }
    }
}
