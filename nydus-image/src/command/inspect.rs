//! `inspect --request`: one question about a bootstrap, one JSON value as the answer.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rafs::build::read_blobs;
use rafs::{Bootstrap, FileType, Ino, OpenOptions};
use serde_json::{Value, json};

use crate::cli::InspectArgs;
use crate::error::{Error, Result};

/// Answers a request; standard output has the JSON value, and no newline.
pub fn run(args: &InspectArgs) -> Result<()> {
    if args.config.is_some() {
        return Err(Error::Unsupported("--config"));
    }
    let Some(request) = &args.request else { return Err(Error::Unsupported("inspect without --request")) };
    let options = OpenOptions { extract_dir: args.blob_dir.clone(), ..OpenOptions::default() };
    let bootstrap = Bootstrap::open(&args.bootstrap.path(), &options)?;
    let answer = match request.trim() {
        "stats" => json!({ "inodes_count": bootstrap.inode_count() }),
        "blobs" => blobs(&bootstrap),
        "prefetch" => prefetch(&bootstrap)?,
        _ => return Err(Error::Unsupported("inspect --request of anything but stats, blobs and prefetch")),
    };
    io::stdout()
        .write_all(answer.to_string().as_bytes())
        .map_err(Error::io("write to", Path::new("standard output")))
}

fn blobs(bootstrap: &Bootstrap) -> Value {
    let blobs = read_blobs(bootstrap).into_iter().map(|entry| {
        json!({
            "blob_id": entry.description.id.as_str(),
            "compressed_size": entry.description.compressed_size,
            "decompressed_size": entry.description.uncompressed_size,
            "readahead_offset": 0,
            "readahead_size": entry.prefetch_size,
        })
    });
    blobs.collect()
}

/// What the prefetch table names, with all paths of each inode; directories end in a slash.
fn prefetch(bootstrap: &Bootstrap) -> Result<Value> {
    // The walk ends, for it is of a tree.
    bootstrap.check()?;
    let wanted = bootstrap.prefetch_inodes()?;
    let mut paths: HashMap<Ino, Vec<String>> = wanted.iter().map(|ino| (*ino, Vec::new())).collect();
    let mut note = |ino: Ino, path: &[u8]| {
        if let Some(paths) = paths.get_mut(&ino) {
            paths.push(OsStr::from_bytes(path).to_string_lossy().into_owned());
        }
    };
    let mut directories = vec![(bootstrap.root(), b"/".to_vec())];
    while let Some((directory, path)) = directories.pop() {
        note(directory, &path);
        for entry in bootstrap.read_dir(directory, 0)? {
            let entry = entry?;
            let mut path = [path.as_slice(), entry.name].concat();
            if entry.file_type == FileType::Directory {
                path.push(b'/');
                directories.push((entry.ino, path));
            } else {
                note(entry.ino, &path);
            }
        }
    }
    Ok(wanted.iter().map(|ino| json!({ "inode": ino.0, "path": paths.get(ino) })).collect())
}
