//! `check`: whether a bootstrap is what the format says, and what it refers to.

use std::io::{self, Write as _};
use std::path::Path;

use rafs::{Bootstrap, OpenOptions};
use storage::blob::{BlobDescription, BlobFeatures};

use crate::cli::{CheckArgs, GlobalArgs};
use crate::error::{Error, Result};
use crate::output::{Output, Trace, compressor_name, version_name};

/// The names of features, in the order in which they are shown.
const FEATURES: [(BlobFeatures, &str); 12] = [
    (BlobFeatures::ALIGNED, "aligned"),
    (BlobFeatures::BATCH, "batch"),
    (BlobFeatures::CAP_TAR_TOC, "cap_toc"),
    (BlobFeatures::INLINED_CHUNK_DIGEST, "chunk-digest"),
    (BlobFeatures::CHUNK_INFO_V2, "chunk-v2"),
    (BlobFeatures::INLINED_FS_META, "fs-meta"),
    (BlobFeatures::SEPARATE, "separate"),
    (BlobFeatures::HAS_TAR_HEADER, "tar-header"),
    (BlobFeatures::HAS_TOC, "toc"),
    (BlobFeatures::ZRAN, "zran"),
    (BlobFeatures::ENCRYPTED, "encrypted"),
    (BlobFeatures::IS_CHUNKDICT_GENERATED, "is-chunkdict-generated"),
];

/// Checks all of a bootstrap, the digests of v5's inodes included; blobs are not looked into.
pub fn run(args: &CheckArgs, global: &GlobalArgs) -> Result<()> {
    if args.config.is_some() {
        return Err(Error::Unsupported("--config"));
    }
    if args.verbose {
        return Err(Error::Unsupported("--verbose"));
    }
    let path = args.bootstrap.path();
    let options =
        OpenOptions { verify_inodes: true, extract_dir: args.blob_dir.clone(), ..OpenOptions::default() };
    let mut trace = Trace::default();
    let begin = std::time::Instant::now();
    let bootstrap = Bootstrap::open(&path, &options)?;
    let summary = bootstrap.check()?;
    trace.time("load_tree_from_bootstrap", begin.elapsed());
    let entries = summary.directories + summary.files + summary.symlinks + summary.specials;
    // The root is no entry of a directory.
    trace.event("load_from_parent_bootstrap", (entries + summary.hard_links).saturating_sub(1));

    if !global.json {
        let mut text = String::from("RAFS filesystem metadata is valid, referenced data blobs: \n");
        for blob in bootstrap.blobs() {
            text += &line(blob);
        }
        io::stdout()
            .write_all(text.as_bytes())
            .map_err(Error::io("write to", Path::new("standard output")))?;
    }
    if global.json || args.output_json.is_some() {
        let blobs = bootstrap.blobs().iter().map(|blob| blob.id.to_string()).collect();
        let fs_version = version_name(bootstrap.version());
        let compressor = compressor_name(bootstrap.compressor());
        let output = Output::new(path.display().to_string(), blobs, trace, fs_version, compressor);
        if let Some(path) = &args.output_json {
            output.write(path, false)?;
        }
        if global.json {
            output.print()?;
        }
    }
    Ok(())
}

/// What is shown of a blob.
fn line(blob: &BlobDescription) -> String {
    let names = FEATURES.iter().filter(|(feature, _)| blob.features.contains(*feature));
    let names: Vec<&str> = names.map(|(_, name)| *name).collect();
    format!(
        "\t {}: {}, compressed size {}, uncompressed size {}, chunk size: {}, chunk count: {}, features: {}\n",
        blob.index,
        blob.id,
        blob.compressed_size,
        blob.uncompressed_size,
        blob.chunk_size,
        blob.chunk_count,
        names.join(" "),
    )
}
