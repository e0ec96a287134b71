//! `stat`: what images hold and share.

use std::fs;
use std::path::{Path, PathBuf};

use rafs::{Bootstrap, OpenOptions};
use storage::digest::Digester;

use crate::cli::{GlobalArgs, StatArgs};
use crate::error::{Error, Result};
use crate::stat::Counter;
use crate::target::Target;

/// Counts; the result goes to a file or standard output as JSON, else to standard output as text.
pub fn run(args: &StatArgs, global: &GlobalArgs) -> Result<()> {
    let mut digester = args.digester.map(Digester::from);
    let mut open = |path: &Path| {
        let bootstrap = Bootstrap::open(path, &OpenOptions::default())?;
        // Digests of different algorithms have nothing in common.
        match digester.replace(bootstrap.digester()) {
            Some(expected) if expected != bootstrap.digester() => Err(Error::Inconsistent(format!(
                "{}: digester {:?}, expected {expected:?}",
                path.display(),
                bootstrap.digester()
            ))),
            _ => Ok(bootstrap),
        }
    };
    let mut counter = Counter::default();
    match (&args.bootstrap, &args.blob_dir) {
        (Some(path), _) => counter.base(&open(path)?)?,
        (None, Some(dir)) => {
            for path in images(dir)? {
                counter.base(&open(&path)?)?;
            }
        }
        // Refused when the command line was read.
        (None, None) => {}
    }
    if let Some(path) = &args.target {
        counter.target(&open(path)?)?;
    }
    let statistics = counter.finish();
    let json = || serde_json::to_string(&statistics).map_err(|error| Error::Contradiction(error.to_string()));
    if let Some(path) = &args.output_json {
        Target::write(path, json()?.as_bytes())?;
    }
    if global.json {
        return super::print(&(json()? + "\n"));
    }
    if args.output_json.is_some() {
        return Ok(());
    }
    let mut text = statistics.base_image.text("Base Image Statistics");
    if statistics.target_enabled {
        text += &statistics.target_image.text("Target Image Statistics");
    }
    super::print(&text)
}

/// The images in a directory, by name.
fn images(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let path = entry.map_err(Error::io("read", dir))?.path();
        if path.is_file() && path.extension().is_none() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}
