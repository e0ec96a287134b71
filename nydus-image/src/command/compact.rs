//! `compact`: blobs of which little is used, and small ones, are rewritten.

use std::collections::HashSet;
use std::path::Path;

use rafs::build::write_bootstrap;
use rafs::{Bootstrap, OpenOptions};

use crate::cli::{CompactArgs, GlobalArgs};
use crate::compact::{self, Policy};
use crate::error::{Error, Result};
use crate::layers::{self, Layer};
use crate::output::{Output, Trace, compressor_name, version_name};
use crate::stored::Blobs;
use crate::target::Target;

/// Compacts an image, and says what was done.
pub fn run(args: &CompactArgs, global: &GlobalArgs) -> Result<()> {
    expect_directory(&args.blob_dir)?;
    let mut trace = Trace::default();
    let image = trace.timed("load_bootstrap", || Layer::load(&args.bootstrap))?;
    let dictionary = match &args.chunk_dict {
        Some(argument) => {
            let path = layers::dictionary_path(argument);
            let bootstrap = Bootstrap::open(&path, &OpenOptions::default())?;
            bootstrap.blobs().iter().map(|blob| blob.id.clone()).collect()
        }
        None => HashSet::new(),
    };
    let is_elsewhere = args.backend.backend_type.is_some() || args.backend.config.is_some();
    let source = args.backend.blob_source(None, (!is_elsewhere).then(|| args.blob_dir.clone()))?;
    let blobs = Blobs::new(source.open(&[])?)?;
    let policy = Policy {
        min_used_ratio: args.min_used_ratio,
        compact_blob_size: args.compact_blob_size,
        max_compact_size: args.max_compact_size,
        layers_to_compact: args.layers_to_compact,
    };
    let compacted =
        trace.timed("compact", || compact::compact(image, &blobs, &dictionary, &policy, &args.blob_dir))?;
    let Some(compacted) = compacted else {
        tracing::info!("there is nothing to compact");
        return Ok(());
    };
    let image = &compacted.image;
    let bootstrap = write_bootstrap(&image.tree, &image.blobs, &image.options)?;
    let (rewritten, dropped) = (compacted.rewritten, compacted.dropped);
    let (version, compressor) =
        (version_name(image.options.version), compressor_name(image.options.compressor));
    let ids: Vec<String> = image.blobs.iter().map(|blob| blob.description.id.to_string()).collect();
    let output = args.output();
    compacted.commit(&args.blob_dir)?;
    Target::write(&output, &bootstrap)?;

    trace.event("rewritten_blobs", rewritten as u64);
    trace.event("dropped_blobs", dropped as u64);
    tracing::info!(
        "successfully compacted: {rewritten} blobs rewritten, {dropped} not used\nbootstrap path: {}\ndata blobs: {ids:?}",
        output.display()
    );
    Output::new(output.display().to_string(), ids, trace, version, compressor)
        .deliver(args.output_json.as_deref(), global.json)
}

/// An error unless this is a directory.
pub(super) fn expect_directory(dir: &Path) -> Result<()> {
    match dir.is_dir() {
        true => Ok(()),
        false => Err(Error::entry(dir, "the directory to store blobs in does not exist")),
    }
}
