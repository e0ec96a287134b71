//! The commands, one file each.

pub mod check;
pub mod create;
pub mod export;
pub mod inspect;
pub mod merge;
pub mod stat;
pub mod unpack;

use std::io::{self, Write as _};
use std::path::Path;

use crate::error::{Error, Result};

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
