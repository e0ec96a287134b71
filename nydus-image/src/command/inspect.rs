//! `inspect`: questions about a bootstrap, one by `--request` or many on standard input.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rafs::{Bootstrap, OpenOptions};

use crate::cli::InspectArgs;
use crate::error::{Error, Result};
use crate::inspect::{Answer, Inspector};

/// Names are at most 255 bytes, paths at most this.
const LINE_MAX: u64 = 1 << 16;
const PROMPT: &str = "Inspecting RAFS :> ";

/// Answers a request with one JSON value and no newline, or, where there is only text, with text and `null`; else
/// answers lines of standard input until it ends.
pub fn run(args: &InspectArgs) -> Result<()> {
    let options = OpenOptions { extract_dir: args.blob_dir.clone(), ..OpenOptions::default() };
    let bootstrap = Bootstrap::open(&args.bootstrap.path(), &options)?;
    let mut inspector = Inspector::new(&bootstrap);
    let Some(request) = &args.request else { return converse(&mut inspector) };
    match inspector.ask(request.as_bytes())? {
        Answer::Told(text, value) if value.is_null() => super::print(&(text + "null")),
        Answer::Told(_, value) => super::print(&value.to_string()),
        Answer::Exit => Ok(()),
    }
}

/// A conversation. What cannot be answered is told, and does not end it.
fn converse(inspector: &mut Inspector<'_>) -> Result<()> {
    let mut input = io::stdin().lock();
    let prompt = if input.is_terminal() { PROMPT } else { "" };
    loop {
        super::print(prompt)?;
        let mut line = Vec::new();
        let read = input.by_ref().take(LINE_MAX).read_until(b'\n', &mut line);
        if read.map_err(Error::io("read", Path::new("standard input")))? == 0 {
            return Ok(());
        }
        match inspector.ask(&line) {
            Ok(Answer::Told(text, _)) => super::print(&text)?,
            Ok(Answer::Exit) => return Ok(()),
            Err(error) => super::print(&format!("{error}\n"))?,
        }
    }
}
