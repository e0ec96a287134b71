//! Chunk dictionaries: the chunks that several images have, for images that will be built.
//!
//! A dictionary is an image itself, whose files are chunks, named by their digests; so whatever reads images reads
//! dictionaries. It has no data of its own: its blobs are those of the images it was made of, described as these
//! describe them, and marked `IS_CHUNKDICT_GENERATED`.
//!
//! A chunk is in it if more than one image, or version of an image, has it. Where several blobs have the chunk, that
//! one is taken which has the most of such chunks, so that dictionaries refer to few blobs.

mod database;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use rafs::build::{BlobEntry, Chunk, Content, ImageOptions, Node, Tree};
use storage::blob::{BlobFeatures, BlobId};

pub use database::{Database, Location};

use crate::error::{Error, Result};
use crate::layers::{self, Layer};
use crate::repack::{self, UsedChunks};

/// The most blobs of a dictionary: so many are in a table of version 6.
const BLOB_COUNT_MAX: usize = 254;

/// Where an image comes from: its name and version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The name of the image.
    pub image: String,
    /// Its tag.
    pub version: String,
}

impl Origin {
    /// From the name of the directory that the bootstrap lies in, `image:tag`.
    pub fn of(bootstrap: &Path) -> Result<Self> {
        let directory = bootstrap.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        match directory.and_then(|name| name.rsplit_once(':')) {
            Some((image, version)) if !image.is_empty() && !version.is_empty() => {
                Ok(Self { image: image.into(), version: version.into() })
            }
            _ => Err(Error::entry(bootstrap, "lies in no directory that is named IMAGE:TAG")),
        }
    }
}

/// A chunk that some images have.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The chunk, of a blob that is not named here.
    pub chunk: Chunk,
    /// The blob.
    pub blob: BlobId,
    /// How many images have the chunk.
    pub images: u32,
}

/// A finished dictionary.
#[derive(Debug)]
pub struct Dictionary {
    /// The files.
    pub tree: Tree,
    /// The blobs that have them.
    pub blobs: Vec<BlobEntry>,
    /// How the image is written.
    pub options: ImageOptions,
    /// What was chosen, in the order of blobs and chunks.
    pub chosen: Vec<Candidate>,
}

/// Adds images to a database, in place of what it knows of the same image and version.
pub fn add(database: &mut Database, sources: &[PathBuf]) -> Result<()> {
    for path in sources {
        let origin = Origin::of(path)?;
        let mut image = Layer::load(path)?;
        match database.options()? {
            Some(options) => layers::check_chunks(path, &options, &image.options)?,
            None => database.set_options(&image.options)?,
        }
        image.blobs = image.blobs.iter().map(repack::beside_its_bootstrap).collect();
        let usable: Vec<bool> = image.blobs.iter().map(is_usable).collect();
        let used = UsedChunks::of(&image.tree);
        database.replace(&origin, &image.blobs, |blob| {
            let is_usable = usable.get(blob as usize).copied().unwrap_or(false);
            used.of_blob(blob).filter(move |chunk| is_usable && !chunk.digest.is_zero())
        })?;
    }
    Ok(())
}

/// Blobs that other images may refer to. The keys of encrypted ones would spread.
fn is_usable(blob: &BlobEntry) -> bool {
    let blob = &blob.description;
    let usable = repack::is_native(blob.features) && blob.cipher.is_none();
    if !usable {
        tracing::warn!("blob {}: encrypted or of another format, its chunks are left out", blob.id);
    }
    usable
}

/// Chooses chunks of all that the database has.
pub fn generate(database: &Database) -> Result<Dictionary> {
    let options =
        database.options()?.ok_or_else(|| Error::Usage("there is no image in the database".into()))?;
    let candidates = database.shared()?;
    let mut counts: HashMap<&BlobId, usize> = HashMap::new();
    for candidate in &candidates {
        *counts.entry(&candidate.blob).or_default() += 1;
    }
    let mut ranked: Vec<_> = counts.into_iter().collect();
    ranked.sort_by(|(a, first), (b, second)| second.cmp(first).then_with(|| a.cmp(b)));
    if ranked.len() > BLOB_COUNT_MAX {
        tracing::warn!("{} blobs have shared chunks: {BLOB_COUNT_MAX} are taken", ranked.len());
        ranked.truncate(BLOB_COUNT_MAX);
    }
    let ranks: HashMap<BlobId, usize> =
        ranked.into_iter().enumerate().map(|(rank, (id, _))| (id.clone(), rank)).collect();
    let mut best: BTreeMap<[u8; 32], (usize, Candidate)> = BTreeMap::new();
    for candidate in candidates {
        let Some(&rank) = ranks.get(&candidate.blob) else { continue };
        let digest = candidate.chunk.digest.0;
        if best.get(&digest).is_none_or(|(other, _)| rank < *other) {
            best.insert(digest, (rank, candidate));
        }
    }
    let mut chosen: Vec<(usize, Candidate)> = best.into_values().collect();
    chosen.sort_by_key(|(rank, candidate)| (*rank, candidate.chunk.index));

    let mut dictionary = Dictionary {
        tree: Tree::new(Node::directory("/", 0o755)),
        blobs: Vec::new(),
        options,
        chosen: Vec::with_capacity(chosen.len()),
    };
    let mut last = None;
    for (rank, candidate) in chosen {
        if last.replace(rank) != Some(rank) {
            let mut entry = database.blob(&candidate.blob)?;
            entry.description.features |= BlobFeatures::IS_CHUNKDICT_GENERATED;
            dictionary.blobs.push(entry);
        }
        // At most 254 blobs.
        let blob_index = dictionary.blobs.len() as u32 - 1;
        let chunk = Chunk { blob_index, ..candidate.chunk };
        let content = Content::Regular { size: chunk.uncompressed_size.into(), chunks: vec![chunk] };
        let node = Node::new(chunk.digest.to_string(), 0o100_444, content);
        dictionary.tree.add(Tree::ROOT, node);
        dictionary.chosen.push(candidate);
    }
    Ok(dictionary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_name_images() {
        let origin = Origin::of(Path::new("/x/localhost:5000/redis:7.0/boot")).unwrap();
        assert_eq!((origin.image.as_str(), origin.version.as_str()), ("redis", "7.0"));
        for bad in ["boot", "/redis/boot", "/:7/boot", "/redis:/boot"] {
            assert!(Origin::of(Path::new(bad)).is_err(), "{bad}");
        }
    }
}
