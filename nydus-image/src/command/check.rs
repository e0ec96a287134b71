//! `check`: whether a bootstrap is what the format says, and what it refers to.

use std::ffi::OsStr;
use std::io::{self, BufWriter, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rafs::build::FileChunks;
use rafs::{Bootstrap, FileType, OpenOptions, Version};
use storage::blob::{BlobDescription, BlobFeatures, Compressor};

use crate::cli::CheckArgs;
use crate::error::{Error, Result};
use crate::output::{Output, Trace};
use crate::walk::{Entry, walk};

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
pub fn run(args: &CheckArgs) -> Result<()> {
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

    if args.verbose {
        list(&bootstrap)?;
    }
    let mut text = String::from("RAFS filesystem metadata is valid, referenced data blobs: \n");
    for blob in bootstrap.blobs() {
        text += &line(blob);
    }
    super::print(&text)?;
    if let Some(output) = &args.output_json {
        let blobs = bootstrap.blobs().iter().map(|blob| blob.id.to_string()).collect();
        let fs_version = match bootstrap.version() {
            Version::V5 => "5",
            Version::V6 => "6",
        };
        let compressor = match bootstrap.compressor() {
            Compressor::None => "none",
            Compressor::Lz4Block => "lz4_block",
            Compressor::Gzip => "gzip",
            Compressor::Zstd => "zstd",
        };
        Output::new(path.display().to_string(), blobs, trace, fs_version, compressor).write(output, false)?;
    }
    Ok(())
}

/// Prints every inode and its chunks.
fn list(bootstrap: &Bootstrap) -> Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut chunks_of = FileChunks::of(bootstrap);
    let failed = || Error::io("write to", Path::new("standard output"));
    walk(bootstrap, |entry| {
        let Entry { ino, parent, attributes, .. } = entry;
        let has_xattr = bootstrap.xattrs(*ino)?.next().transpose()?.is_some();
        let link = match attributes.file_type {
            FileType::Symlink => format!("{:?}", OsStr::from_bytes(&bootstrap.read_link(*ino)?)),
            _ => "None".into(),
        };
        let is_file = attributes.file_type == FileType::Regular;
        let kind = match attributes.file_type {
            FileType::Directory => "dir".into(),
            FileType::Regular if attributes.nlink > 1 => "hardlink".into(),
            FileType::Regular => "file".into(),
            other => other.to_string(),
        };
        let chunks = if is_file { chunks_of.read(*ino, attributes.size)? } else { Vec::new() };
        writeln!(
            out,
            "inode: {kind} {:?}: ino {ino} i_parent {parent} chunk_count {} i_nlink {} i_mode {:o} i_uid {} \
             i_gid {} i_size {} i_blocks {} has_xattr {has_xattr} link {link} i_mtime {} i_mtime_nsec {}",
            entry.path(),
            chunks.len(),
            attributes.nlink,
            attributes.mode,
            attributes.uid,
            attributes.gid,
            attributes.size,
            attributes.blocks,
            attributes.mtime,
            attributes.mtime_nsec,
        )
        .map_err(failed())?;
        for (number, chunk) in chunks.iter().enumerate() {
            writeln!(
                out,
                "\t chunk: id {}, index {}, blob_index {}, file_offset {}, compressed {}/{}, uncompressed {}/{}",
                chunk.digest,
                chunk.index,
                chunk.blob_index,
                number as u64 * u64::from(bootstrap.chunk_size()),
                chunk.stored.compressed_offset,
                chunk.stored.compressed_size,
                chunk.uncompressed_offset,
                chunk.uncompressed_size,
            )
            .map_err(failed())?;
        }
        Ok(())
    })?;
    out.flush().map_err(failed())
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
