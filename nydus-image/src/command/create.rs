//! `create`: from the command line to a finished image.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use rafs::Version;
use rafs::build::{BlobEntry, Content, ImageOptions, OWN_BLOB_ID, Tree, write_bootstrap};
use storage::blob::writer::BlobOptions;
use storage::blob::{BlobDescription, BlobId, Compressor};
use storage::digest::Digester;

use crate::builder::{self, Assembled, Input};
use crate::cache_files::{self, BuiltBlob};
use crate::cipher;
use crate::cli::{CreateArgs, Feature, FsVersion, GlobalArgs, PrefetchPolicy, SourceType};
use crate::dictionary::Dictionary;
use crate::error::{Error, Result};
use crate::layers::{self, Layer};
use crate::output::{Output, Trace, compressor_name};
use crate::pipeline::Limits;
use crate::prefetch::Patterns;
use crate::store::Counts;
use crate::stored::Blobs;
use crate::target::Target;

/// The most bytes of source data on their way, unless chunks are very large.
const IN_FLIGHT: u64 = 32 << 20;
/// The default size of chunks.
const CHUNK_SIZE: u64 = 1 << 20;
/// The same for tables of contents of eStargz layers, which were cut when they were made.
const ESTARGZ_CHUNK_SIZE: u64 = 4 << 20;

/// Builds an image, and says what was built.
pub fn run(args: &CreateArgs, global: &GlobalArgs) -> Result<()> {
    let started = Instant::now();
    let mut trace = Trace::default();
    let plan = Plan::of(args)?;
    let patterns = match args.prefetch_policy {
        PrefetchPolicy::None => Patterns::default(),
        _ => Patterns::read(io::stdin().lock())?,
    };
    let mut dictionary = Dictionary::default();
    let mut parent = None;
    if let Some(path) = &args.parent_bootstrap {
        let layer = trace.timed("load_parent", || Layer::load(path))?;
        layers::check_same(path, &plan.image, &layer.options)?;
        dictionary.add(&layer.tree, layer.blobs, true);
        parent = Some(layer.tree);
    }
    if let Some(argument) = &args.chunk_dict {
        let path = layers::dictionary_path(argument);
        let layer = trace.timed("load_chunk_dict", || Layer::load(&path))?;
        layers::check_chunks(&path, &plan.image, &layer.options)?;
        dictionary.add(&layer.tree, layer.blobs, false);
    }

    let input = trace.timed("build_tree", || Input::open(args, parent, plan.threads))?;
    if let Some(entries) = input.entries() {
        trace.event("load_from_directory", entries as u64);
    }
    let (target, directory) = blob_target(args)?;
    let limits = Limits {
        threads: plan.threads,
        bytes: IN_FLIGHT.max(2 * plan.threads as u64 * u64::from(plan.blob.chunk_size)),
        chunk_size: plan.blob.chunk_size,
    };
    let assembled = trace.timed("dump_blob", || {
        builder::assemble(input, &patterns, &plan.blob, &dictionary, target, limits)
    })?;
    let built = trace.timed("dump_bootstrap", || finish(args, &plan, assembled, &dictionary, directory))?;

    for (name, count) in [
        ("blob_uncompressed_size", built.counts.uncompressed_size),
        ("blob_compressed_size", built.counts.compressed_size),
        ("dedup_chunks", built.counts.dedup_chunks),
        ("dedup_uncompressed_size", built.counts.dedup_uncompressed_size),
    ] {
        trace.event(name, count);
    }
    trace.text_event("euid", nix::unistd::geteuid().as_raw());
    trace.text_event("egid", nix::unistd::getegid().as_raw());
    trace.time("total_build", started.elapsed());

    tracing::info!(
        "successfully built RAFS filesystem: \nmeta blob path: {}\ndata blob size: {:#x}\ndata blobs: {:?}",
        built.bootstrap.as_deref().map_or_else(|| "<none>".into(), |path| path.display().to_string()),
        built.blob_size,
        built.blobs,
    );
    let bootstrap = built.bootstrap.map_or_else(String::new, |path| path.display().to_string());
    let compressor = compressor_name(compressor(args));
    let mut output = Output::new(bootstrap, built.blobs, trace, args.fs_version.name(), compressor);
    output.external_bootstrap = built.external.map_or_else(String::new, |path| path.display().to_string());
    output.deliver(args.output_json.as_deref(), global.json)
}

/// What the command line asks for, checked.
#[derive(Debug)]
struct Plan {
    blob: BlobOptions,
    image: ImageOptions,
    threads: usize,
}

impl Plan {
    fn of(args: &CreateArgs) -> Result<Self> {
        refuse_unsupported(args)?;
        refuse_for_source(args)?;
        let usage = |text: String| Err(Error::Usage(text));
        let is_v6 = args.fs_version == FsVersion::V6;
        let chunk_size = args.chunk_size.unwrap_or(match args.source_type {
            SourceType::EstargzTocRef => ESTARGZ_CHUNK_SIZE,
            _ => CHUNK_SIZE,
        });
        let in_range = |size: u64, most: u64| size.is_power_of_two() && (0x1000..=most).contains(&size);
        if !in_range(chunk_size, 0x100_0000) {
            return usage(format!(
                "--chunk-size {chunk_size:#x}: not a power of two from 0x1000 to 0x1000000"
            ));
        }
        if args.batch_size != 0 && !in_range(args.batch_size, chunk_size) {
            return usage(format!(
                "--batch-size {:#x}: not a power of two from 0x1000 to the chunk size, {chunk_size:#x}",
                args.batch_size
            ));
        }
        for (option, given) in [
            ("--batch-size", args.batch_size != 0),
            ("--features blob-toc", args.features.contains(&Feature::BlobToc)),
            ("--encrypt", args.encrypt),
        ] {
            if given && !is_v6 {
                return usage(format!("{option}: needs --fs-version 6"));
            }
        }
        if args.blob_cache_dir.is_some() && args.source_type.is_kept() && !args.source.is_file() {
            let name = args.source_type.name();
            return usage(format!(
                "--blob-cache-dir: --type {name} reads its source twice, which has to be a file"
            ));
        }
        if args.prefetch_policy != PrefetchPolicy::None && args.source == Path::new("-") {
            return usage("--prefetch-policy: reads standard input, which is the source".into());
        }
        if let Some(id) = &args.blob_id {
            BlobId::new(id)?;
        }
        if let Some(dir) = &args.blob_dir
            && !dir.is_dir()
        {
            return Err(Error::entry(dir, "the directory to store blobs in does not exist"));
        }

        // Checked to be at most 2^24.
        let (chunk_size, batch_size) = (chunk_size as u32, args.batch_size as u32);
        let digester = match args.source_type.is_kept() {
            true => Digester::Sha256,
            false => args.digester.into(),
        };
        // In a cache chunks are never compressed.
        let stored = match args.blob_cache_dir {
            Some(_) => Compressor::None,
            None => args.compressor.into(),
        };
        let mut blob = match args.fs_version {
            FsVersion::V5 => BlobOptions::v5(stored, digester, chunk_size),
            FsVersion::V6 => BlobOptions::v6(stored, digester, chunk_size),
        };
        blob.aligned |= args.aligned_chunk;
        blob.toc = args.features.contains(&Feature::BlobToc);
        blob.inline_bootstrap = args.blob_inline_meta;
        blob.batch_size = batch_size;
        blob.cipher = if args.encrypt { Some(cipher::random()?) } else { None };
        blob.check()?;
        let version = match args.fs_version {
            FsVersion::V5 => Version::V5,
            FsVersion::V6 => Version::V6,
        };
        let image = ImageOptions {
            chunk_size,
            compressor: compressor(args),
            digester,
            block_size: if args.source_type == SourceType::TarTarfs { 512 } else { 4096 },
            explicit_owners: !args.repeatable,
            ..ImageOptions::new(version)
        };
        Ok(Self { blob, image, threads: super::threads(args.threads) })
    }
}

/// Names the first option whose function does not exist.
fn refuse_unsupported(args: &CreateArgs) -> Result<()> {
    let options = [
        (args.external_blob.is_some(), "--external-blob"),
        (args.blob_offset != 0, "--blob-offset"),
        (args.attributes.is_some(), "--attributes"),
    ];
    let option = options.into_iter().find_map(|(given, name)| given.then_some(name));
    option.map_or(Ok(()), |name| Err(Error::Unsupported(name)))
}

/// Refuses options that mean nothing for the type of the source.
fn refuse_for_source(args: &CreateArgs) -> Result<()> {
    let source = args.source_type;
    let is_toc = source == SourceType::EstargzTocRef;
    let is_tarfs = source == SourceType::TarTarfs;
    let is_kept = source.is_kept();
    let options = [
        (args.fs_version != FsVersion::V6 && is_kept, "--fs-version 5"),
        (args.batch_size != 0 && is_kept, "--batch-size"),
        (args.encrypt && is_kept, "--encrypt"),
        (args.blob_id.is_some() && is_kept && !is_toc && !is_tarfs, "--blob-id"),
        (args.blob_cache_dir.is_some() && (is_tarfs || is_toc), "--blob-cache-dir"),
        (args.blob_inline_meta && is_tarfs, "--blob-inline-meta"),
        (args.features.contains(&Feature::BlobToc) && is_tarfs, "--features blob-toc"),
        (args.blob_data_size.is_some() && !is_toc, "--blob-data-size"),
    ];
    match options.into_iter().find_map(|(given, name)| given.then_some(name)) {
        Some(option) => {
            Err(Error::Usage(format!("conversion type `{}` conflicts with `{option}`", source.name())))
        }
        None => Ok(()),
    }
}

/// How the chunks of the image are compressed: a source that stays what it is knows, and in a cache they never are.
fn compressor(args: &CreateArgs) -> Compressor {
    match args.source_type {
        SourceType::TarTarfs => Compressor::None,
        source if source.is_kept() => Compressor::Gzip,
        _ if args.blob_cache_dir.is_some() => Compressor::None,
        _ => args.compressor.into(),
    }
}

/// Opens the file that the blob goes to; the directory, if the id is to be its name.
fn blob_target(args: &CreateArgs) -> Result<(Target, Option<&Path>)> {
    if let Some(dir) = &args.blob_cache_dir {
        // It is there until its chunks are in the cache.
        return Ok((Target::create_in(dir)?, Some(dir)));
    }
    match (&args.blob, &args.blob_dir) {
        (Some(path), _) => Ok((Target::create(path)?, None)),
        (None, Some(dir)) => Ok((Target::create_in(dir)?, Some(dir))),
        (None, None) => Err(Error::Usage("--blob or --blob-dir: one is needed".into())),
    }
}

/// What was built.
struct Built {
    bootstrap: Option<PathBuf>,
    /// Of external files, of which there are none.
    external: Option<PathBuf>,
    blobs: Vec<String>,
    blob_size: u64,
    counts: Counts,
}

/// Writes the end of the blob, and the bootstrap; then gives both their names, the bootstrap last.
fn finish(
    args: &CreateArgs,
    plan: &Plan,
    assembled: Assembled<Target>,
    dictionary: &Dictionary,
    directory: Option<&Path>,
) -> Result<Built> {
    let Assembled { mut tree, blob, chunks, files, prefetch } = assembled;
    let counts = chunks.counts;
    let is_policy = |policy| args.prefetch_policy == policy;
    let image = ImageOptions {
        prefetch: if is_policy(PrefetchPolicy::Fs) { prefetch } else { Vec::new() },
        ..plan.image.clone()
    };
    let prefetch_size = if is_policy(PrefetchPolicy::Blob) {
        u32::try_from(chunks.prefetched_size).unwrap_or(u32::MAX)
    } else {
        0
    };
    let chunk_size = plan.blob.chunk_size;
    let bootstrap_of = |tree: &mut Tree, description: &BlobDescription| {
        // Each layer of plain tars is a device of the mount, also one without data.
        let own = (description.chunk_count != 0 || description.is_tarfs())
            .then(|| BlobEntry { description: description.clone(), prefetch_size });
        let (table, chunks) = chunks.resolve(dictionary, own)?;
        builder::assign(tree, &files, chunks, chunk_size);
        Ok::<_, Error>((write_bootstrap(tree, &table, &image)?, table))
    };

    let (finished, bootstrap, table) = if args.blob_inline_meta {
        let (bootstrap, table) = bootstrap_of(&mut tree, blob.description())?;
        (blob.finish(Some(&bootstrap))?, None, table)
    } else {
        let mut finished = blob.finish(None)?;
        if let Some(id) = args.blob_id.as_ref().filter(|_| !args.source_type.is_kept()) {
            finished.id = BlobId::new(id)?;
            finished.description.id = finished.id.clone();
        }
        let (bootstrap, table) = bootstrap_of(&mut tree, &finished.description)?;
        (finished, Some(bootstrap), table)
    };
    // The object that the chunks are in: it exists already where the source stays what it is.
    let id = finished.description.id;
    if args.blob_cache_dir.is_some()
        && let Some(directory) = directory
        && let Some((place, own)) = (0..).zip(&table).find(|(_, entry)| entry.description.id == id)
    {
        let written = finished.out.current_path();
        let data = if args.source_type.is_kept() { &args.source } else { written };
        let blobs = Blobs::new(Arc::new(BuiltBlob::new(id.clone(), data, written)?))?;
        cache_files::write(directory, &tree, place, &blobs.open(&own.description)?)?;
    }
    let blob_size = match args.source_type.is_kept() {
        true => finished.description.compressed_size,
        false => finished.file_size,
    };
    let blobs = table.into_iter().map(|entry| match entry.description.id {
        own if own.as_str() == OWN_BLOB_ID => id.to_string(),
        other => other.to_string(),
    });
    let blobs = blobs.collect();

    let bootstrap = match bootstrap {
        None => None,
        Some(bytes) => {
            let path = match (&args.bootstrap, &args.blob_dir) {
                (Some(path), _) => path.clone(),
                (None, Some(dir)) => dir.join(Digester::Sha256.digest(&bytes).to_string()),
                // Refused when the command line was read.
                (None, None) => return Err(Error::Usage("--bootstrap: needed without --blob-dir".into())),
            };
            let mut target = Target::create(&path)?;
            target.put(&bytes)?;
            Some((target, path))
        }
    };
    let target = finished.out;
    match (finished.file_size, directory) {
        _ if args.blob_cache_dir.is_some() => target.discard(false)?,
        // Where the source itself is the blob, nothing was to be written.
        (0, directory) => target.discard(directory.is_none() && args.source_type != SourceType::TarTarfs)?,
        (_, Some(directory)) => target.commit_as(&directory.join(finished.id.as_str()))?,
        (_, None) => target.commit()?,
    }
    let external = match &args.bootstrap {
        // What is written to a stream is one file.
        Some(path) if args.source_type == SourceType::Directory && (path.is_file() || !path.exists()) => {
            Some(write_external(path, &tree, &image)?)
        }
        _ => None,
    };
    let bootstrap = match bootstrap {
        None => None,
        Some((target, path)) => {
            target.commit()?;
            Some(path)
        }
    };
    Ok(Built { bootstrap, external, blobs, blob_size, counts })
}

/// Writes the bootstrap of the files that others store, as tools expect it beside the bootstrap: a root without
/// entries.
fn write_external(bootstrap: &Path, tree: &Tree, image: &ImageOptions) -> Result<PathBuf> {
    let mut name = bootstrap.as_os_str().to_owned();
    name.push(".external");
    let path = PathBuf::from(name);
    let mut root = tree[Tree::ROOT].clone();
    root.content = Content::Directory { children: Vec::new() };
    root.recorded = None;
    let image = ImageOptions { prefetch: Vec::new(), ..image.clone() };
    Target::write(&path, &write_bootstrap(&Tree::new(root), &[], &image)?)?;
    Ok(path)
}
