//! `completions` and `man`: what shells and readers want to know of the command line.

use std::io::{self, Write as _};
use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::error::{Error, Result};
use crate::version;

/// What the program is called.
const NAME: &str = "nydus-image";

/// Prints the completions of a shell.
pub fn completions(shell: Shell) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), NAME, &mut text);
    io::stdout().write_all(&text).map_err(Error::io("write to", Path::new("standard output")))
}

/// Writes the manual pages, one of the program and one a command, to a directory.
pub fn man(directory: &Path) -> Result<()> {
    let command = Cli::command().name(NAME).display_name(NAME).version(version::PACKAGE);
    clap_mangen::generate_to(command, directory).map_err(Error::io("write manual pages to", directory))
}
