//! What images hold, and what they share.
//!
//! Sizes of files and chunks count a hard-linked file once, at its first name; `files` counts every name. Two chunks
//! are the same if their digests are.

use std::collections::{HashMap, HashSet};

use rafs::build::FileChunks;
use rafs::{Bootstrap, FileType};
use serde::Serialize;
use storage::digest::Digest;

use crate::error::Result;
use crate::walk::walk;

/// The bits of file sizes that are told apart.
const FILE_SIZES: usize = 45;
/// Chunk sizes that are tried: 4 KiB to 1 MiB.
const CHUNK_SIZES: usize = 9;
/// Chunks lie at multiples of it, in a cache.
const PAGE: u64 = 4096;

/// The result of the command, as JSON.
#[derive(Debug, Default, Serialize)]
pub struct Statistics {
    /// True if there is more than one image to share chunks.
    pub dedup_enabled: bool,
    /// True if there is an image to be compared.
    pub target_enabled: bool,
    /// All images that are there.
    pub base_image: Counts,
    /// The image to be compared.
    pub target_image: Counts,
}

/// What was counted.
#[derive(Debug, Serialize)]
pub struct Counts {
    /// Directories.
    pub dirs: u64,
    /// Names of regular files.
    pub files: u64,
    /// Symlinks.
    pub symlinks: u64,
    /// Chunks of files, each time.
    pub chunks: u64,
    /// Bytes of files.
    pub file_size: u64,
    /// Stored bytes of `chunks`.
    pub comp_size: u64,
    /// Bytes of `chunks`, each filled to a page.
    pub uncomp_size: u64,
    /// What was filled up.
    pub padding_size: u64,
    /// How many chunks there would be, of 4 KiB, 8 KiB, and so on.
    pub chunk_sizes: [u64; CHUNK_SIZES],
    /// Files by the bits of their size.
    #[serde(serialize_with = "as_list")]
    pub file_sizes: [u64; FILE_SIZES],
    /// Chunks that an earlier image has too, and their bytes as that one has them.
    pub dedup_chunks: u64,
    /// See above.
    pub dedup_comp_size: u64,
    /// See above.
    pub dedup_uncomp_size: u64,
    /// Different chunks of each image, without those of images it is compared with.
    pub own_chunks: u64,
    /// See above.
    pub own_comp_size: u64,
    /// See above.
    pub own_uncomp_size: u64,
    /// Different chunks that the images it is compared with have.
    pub ref_chunks: u64,
    /// See above.
    pub ref_comp_size: u64,
    /// See above.
    pub ref_uncomp_size: u64,
}

fn as_list<S: serde::Serializer>(counts: &[u64; FILE_SIZES], to: S) -> std::result::Result<S::Ok, S::Error> {
    counts.as_slice().serialize(to)
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            dirs: 0,
            files: 0,
            symlinks: 0,
            chunks: 0,
            file_size: 0,
            comp_size: 0,
            uncomp_size: 0,
            padding_size: 0,
            chunk_sizes: [0; CHUNK_SIZES],
            file_sizes: [0; FILE_SIZES],
            dedup_chunks: 0,
            dedup_comp_size: 0,
            dedup_uncomp_size: 0,
            own_chunks: 0,
            own_comp_size: 0,
            own_uncomp_size: 0,
            ref_chunks: 0,
            ref_comp_size: 0,
            ref_uncomp_size: 0,
        }
    }
}

/// Chunks of images: stored and uncompressed size.
type Known = HashMap<Digest, (u64, u64)>;

/// Counts images.
#[derive(Debug, Default)]
pub struct Counter {
    statistics: Statistics,
    /// The chunks of all images so far.
    known: Known,
    images: usize,
}

impl Counter {
    /// Counts an image that is there.
    pub fn base(&mut self, bootstrap: &Bootstrap) -> Result<()> {
        let counts = &mut self.statistics.base_image;
        for (digest, sizes) in count(bootstrap, counts)? {
            counts.own_chunks += 1;
            counts.own_comp_size += sizes.0;
            counts.own_uncomp_size += sizes.1;
            match self.known.get(&digest) {
                Some(first) => {
                    counts.dedup_chunks += 1;
                    counts.dedup_comp_size += first.0;
                    counts.dedup_uncomp_size += first.1;
                }
                None => {
                    self.known.insert(digest, sizes);
                }
            }
        }
        self.images += 1;
        self.statistics.dedup_enabled = self.images > 1;
        Ok(())
    }

    /// Compares an image with those that are there.
    pub fn target(&mut self, bootstrap: &Bootstrap) -> Result<()> {
        let counts = &mut self.statistics.target_image;
        for (digest, sizes) in count(bootstrap, counts)? {
            if self.known.contains_key(&digest) {
                counts.ref_chunks += 1;
                counts.ref_comp_size += sizes.0;
                counts.ref_uncomp_size += sizes.1;
            } else {
                counts.own_chunks += 1;
                counts.own_comp_size += sizes.0;
                counts.own_uncomp_size += sizes.1;
            }
        }
        self.statistics.target_enabled = true;
        Ok(())
    }

    /// What was found.
    pub fn finish(self) -> Statistics {
        self.statistics
    }
}

/// Adds an image to `counts`, and answers its different chunks.
fn count(bootstrap: &Bootstrap, counts: &mut Counts) -> Result<Known> {
    let mut chunks_of = FileChunks::of(bootstrap);
    let mut linked = HashSet::new();
    let mut known = Known::new();
    walk(bootstrap, |entry| {
        match entry.attributes.file_type {
            FileType::Directory => counts.dirs += 1,
            FileType::Symlink => counts.symlinks += 1,
            FileType::Regular => {
                counts.files += 1;
                if entry.attributes.nlink > 1 && !linked.insert(entry.ino) {
                    return Ok(());
                }
                let size = entry.attributes.size;
                // Sizes are below 2^64: 64 bits at most.
                let bits = (u64::BITS - size.leading_zeros()) as usize;
                counts.file_sizes[bits.min(FILE_SIZES - 1)] += 1;
                counts.file_size = counts.file_size.saturating_add(size);
                for (shift, count) in counts.chunk_sizes.iter_mut().enumerate() {
                    *count += size.div_ceil(PAGE << shift);
                }
                for chunk in chunks_of.read(entry.ino, size)? {
                    let (stored, plain) =
                        (u64::from(chunk.stored.compressed_size), u64::from(chunk.uncompressed_size));
                    counts.chunks += 1;
                    counts.comp_size += stored;
                    counts.uncomp_size += plain.next_multiple_of(PAGE);
                    counts.padding_size += plain.next_multiple_of(PAGE) - plain;
                    known.entry(chunk.digest).or_insert((stored, plain));
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(known)
}

impl Counts {
    /// As text for people.
    pub fn text(&self, title: &str) -> String {
        let rows = [
            ("Directories", self.dirs),
            ("Files", self.files),
            ("Symlinks", self.symlinks),
            ("Chunks", self.chunks),
            ("File Size", self.file_size),
            ("Padding Size", self.padding_size),
            ("Uncompressed Size", self.uncomp_size),
            ("Compressed Size", self.comp_size),
            ("Own Chunks", self.own_chunks),
            ("Own Compressed Size", self.own_comp_size),
            ("Own Uncompressed Size", self.own_uncomp_size),
            ("Shared Chunks", self.dedup_chunks),
            ("Referenced Chunks", self.ref_chunks),
        ];
        let rows = rows.iter().map(|(name, number)| format!("{:<24}{number}\n", format!("{name}:")));
        let sizes = self.file_sizes.iter().enumerate().filter(|(_, count)| **count != 0);
        let sizes = sizes.map(|(bits, count)| format!("{:<24}{count}\n", format!("{bits}:")));
        let chunks = self.chunk_sizes.iter().enumerate();
        let chunks =
            chunks.map(|(shift, count)| format!("{:<24}{count}\n", format!("{} KiB:", 4u32 << shift)));
        format!(
            "\n{title}:\n\n{}\nFile Size Bits:         File Count:\n{}\nChunk Size:             Chunk Count:\n{}",
            rows.collect::<String>(),
            sizes.collect::<String>(),
            chunks.collect::<String>(),
        )
    }
}
