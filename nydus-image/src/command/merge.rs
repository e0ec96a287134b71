//! `merge`: from the command line to a merged bootstrap.

use std::fs::File;
use std::io;
use std::time::Instant;

use storage::blob::BlobId;
use storage::digest::{Digest, Digester};

use crate::cli::{GlobalArgs, MergeArgs, PrefetchPolicy};
use crate::error::{Error, Result};
use crate::layers;
use crate::merge::{Merger, OwnBlob};
use crate::output::{Output, Trace};
use crate::prefetch::Patterns;
use crate::target::Target;

/// Merges bootstraps, and says what came out.
pub fn run(args: &MergeArgs, global: &GlobalArgs) -> Result<()> {
    let started = Instant::now();
    let mut trace = Trace::default();
    let known = own_blobs(args)?;
    if let Some(dir) = args.blob_dir.as_ref().filter(|dir| !dir.is_dir()) {
        return Err(Error::entry(dir, "the directory to write to does not exist"));
    }
    if let Some(path) = &args.config {
        File::open(path).map_err(Error::io("open", path))?;
    }
    let patterns = match args.prefetch_policy {
        PrefetchPolicy::None => Patterns::default(),
        _ => Patterns::read(io::stdin().lock())?,
    };

    let mut merger = Merger::new(args.config.is_some());
    trace.timed("load_tree_from_bootstrap", || {
        if let Some(argument) = &args.chunk_dict {
            merger.add_dictionary(&layers::dictionary_path(argument))?;
        }
        if let Some(path) = &args.parent_bootstrap {
            merger.add_parent(path)?;
        }
        args.sources.iter().zip(&known).try_for_each(|(path, known)| merger.add_source(path, known))
    })?;
    let merged = trace
        .timed("dump_bootstrap", || merger.finish(&patterns, args.prefetch_policy == PrefetchPolicy::Fs))?;
    let path = match (&args.bootstrap, &args.blob_dir) {
        (Some(path), _) => path.clone(),
        (None, Some(dir)) => dir.join(Digester::Sha256.digest(&merged.bootstrap).to_string()),
        // Refused when the command line was read.
        (None, None) => return Err(Error::Usage("--bootstrap: needed without --blob-dir".into())),
    };
    Target::write(&path, &merged.bootstrap)?;
    trace.time("total_build", started.elapsed());

    tracing::info!(
        "successfully merged {} layers: \nmeta blob path: {}\ndata blobs: {:?}",
        args.sources.len(),
        path.display(),
        merged.blobs,
    );
    let (version, compressor) = (merged.options.version, merged.options.compressor);
    Output::of_image(path.display().to_string(), merged.blobs, trace, version, compressor)
        .deliver(args.output_json.as_deref(), global.json)
}

/// What the lists say of the sources' blobs, source by source.
fn own_blobs(args: &MergeArgs) -> Result<Vec<OwnBlob>> {
    let sources = args.sources.len();
    for (what, count) in [
        ("original blob id", args.original_blob_ids.len()),
        ("blob digest", args.blob_digests.len()),
        ("blob size", args.blob_sizes.len()),
        ("toc digest", args.blob_toc_digests.len()),
        ("toc size", args.blob_toc_sizes.len()),
    ] {
        if count != 0 && count != sources {
            return Err(Error::Usage(format!(
                "number of {what} entries {count} doesn't match number of sources {sources}"
            )));
        }
    }
    // Nothing between two commas: nothing is known.
    let text = |list: &[String], at: usize| list.get(at).filter(|text| !text.is_empty()).cloned();
    let digest = |option: &str, list: &[String], at: usize| {
        let parsed = text(list, at).map(|text| {
            let digest = parse_digest(&text);
            digest.ok_or_else(|| {
                Error::Usage(format!("{option}: {text:?} is not a SHA-256, 64 hexadecimal digits"))
            })
        });
        parsed.transpose()
    };
    (0..sources)
        .map(|at| {
            Ok(OwnBlob {
                id: text(&args.original_blob_ids, at).map(|id| BlobId::new(&id)).transpose()?,
                digest: digest("--blob-digests", &args.blob_digests, at)?,
                size: args.blob_sizes.get(at).copied(),
                toc_digest: digest("--blob-toc-digests", &args.blob_toc_digests, at)?,
                toc_size: args.blob_toc_sizes.get(at).copied(),
            })
        })
        .collect()
}

fn parse_digest(text: &str) -> Option<Digest> {
    let mut digest = Digest([0; 32]);
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, digits) in digest.0.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_hexadecimal() {
        let text = "0123456789abcdef".repeat(4);
        assert_eq!(parse_digest(&text).unwrap().to_string(), text);
        for bad in ["", "+1", &"g".repeat(64), &"0".repeat(63), &"é".repeat(32)] {
            assert!(parse_digest(bad).is_none(), "{bad}");
        }
    }
}
