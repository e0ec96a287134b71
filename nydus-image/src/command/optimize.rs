//! `optimize`: what is to be fetched first is copied into a blob of its own.

use std::sync::Arc;

use rafs::build::write_bootstrap;

use super::compact::expect_directory;
use crate::cli::{GlobalArgs, OptimizeArgs};
use crate::error::{Error, Result};
use crate::layers::Layer;
use crate::optimize::{PrefetchList, optimize};
use crate::output::{Output, Trace, compressor_name, version_name};
use crate::stored::Blobs;
use crate::target::Target;

/// Writes the prefetch blob and a bootstrap that refers to it.
pub fn run(args: &OptimizeArgs, global: &GlobalArgs) -> Result<()> {
    let directory = args.output_blob_dir.as_ref().or(args.blob_dir.as_ref());
    let directory =
        directory.ok_or_else(|| Error::Usage("--output-blob-dir: needed without --blob-dir".into()))?;
    expect_directory(directory)?;
    let mut trace = Trace::default();
    let list = PrefetchList::load(&args.prefetch_files)?;
    let mut image = trace.timed("load_bootstrap", || Layer::load(&args.bootstrap))?;
    let descriptions: Vec<_> = image.blobs.iter().map(|blob| Arc::new(blob.description.clone())).collect();
    let source = args.backend.blob_source(args.blob.clone(), args.blob_dir.clone())?;
    let blobs = Blobs::new(source.open(&descriptions)?)?;
    let out = Target::create_in(directory)?;
    let optimized = trace.timed("dump_blob", || optimize(&mut image, &blobs, &list, out))?;
    let bootstrap = write_bootstrap(&image.tree, &image.blobs, &image.options)?;
    let mut id = "<none>".to_owned();
    if let Some(blob) = optimized.blob {
        id = blob.description.id.to_string();
        trace.event("prefetch_blob_size", blob.file_size);
        blob.out.commit_as(&directory.join(&id))?;
    }
    Target::write(&args.output_bootstrap, &bootstrap)?;
    trace.event("prefetch_chunks", optimized.chunks.into());

    let ids: Vec<String> = image.blobs.iter().map(|blob| blob.description.id.to_string()).collect();
    let path = args.output_bootstrap.display().to_string();
    tracing::info!(
        "successfully optimized: \nbootstrap path: {path}\nprefetch blob: {id}\ndata blobs: {ids:?}"
    );
    let (version, compressor) =
        (version_name(image.options.version), compressor_name(image.options.compressor));
    Output::new(path, ids, trace, version, compressor).deliver(args.output_json.as_deref(), global.json)
}
