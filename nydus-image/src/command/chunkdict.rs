//! `chunkdict generate`: the chunks that images share become a dictionary.

use std::io::{self, Write as _};
use std::path::Path;

use rafs::build::write_bootstrap;

use crate::chunkdict::{self, Database};
use crate::cli::{ChunkdictArgs, ChunkdictCommand, GenerateArgs, GlobalArgs};
use crate::error::{Error, Result};
use crate::output::{Output, Trace, compressor_name, version_name};
use crate::target::Target;

/// Runs the command that was named.
pub fn run(args: &ChunkdictArgs, global: &GlobalArgs) -> Result<()> {
    match &args.command {
        ChunkdictCommand::Generate(args) => generate(args, global),
    }
}

fn generate(args: &GenerateArgs, global: &GlobalArgs) -> Result<()> {
    let mut trace = Trace::default();
    let mut database = Database::open(&args.database)?;
    trace.timed("load_bootstraps", || chunkdict::add(&mut database, &args.sources))?;
    let dictionary = trace.timed("choose_chunks", || chunkdict::generate(&database))?;
    if dictionary.chosen.is_empty() {
        tracing::warn!("the images have no chunk in common: the dictionary is empty");
    }
    let bootstrap = write_bootstrap(&dictionary.tree, &dictionary.blobs, &dictionary.options)?;
    Target::write(&args.bootstrap, &bootstrap)?;

    let size: u64 = dictionary.chosen.iter().map(|chosen| u64::from(chosen.chunk.uncompressed_size)).sum();
    trace.event("chunks", dictionary.chosen.len() as u64);
    trace.event("uncompressed_size", size);
    if args.verbose && !global.json {
        let mut text = String::new();
        for chosen in &dictionary.chosen {
            let chunk = &chosen.chunk;
            text += &format!(
                "{} {} {} {} {}\n",
                chunk.digest, chunk.uncompressed_size, chosen.blob, chunk.index, chosen.images
            );
        }
        let out = io::stdout().write_all(text.as_bytes());
        out.map_err(Error::io("write to", Path::new("standard output")))?;
    }
    let path = args.bootstrap.display().to_string();
    let ids: Vec<String> = dictionary.blobs.iter().map(|blob| blob.description.id.to_string()).collect();
    tracing::info!(
        "successfully generated: \nbootstrap path: {path}\nchunks: {}, {size} bytes\ndata blobs: {ids:?}",
        dictionary.chosen.len()
    );
    let options = &dictionary.options;
    let (version, compressor) = (version_name(options.version), compressor_name(options.compressor));
    Output::new(path, ids, trace, version, compressor).deliver(args.output_json.as_deref(), global.json)
}
