//! Layers laid over each other: many bootstraps become one, and no chunk is touched (spec/rafs-v5.md §12.4).
//!
//! Invariant: blobs of the result have each id once, in the order in which the result's files first use them; what
//! nobody uses is gone. Plain tars (tarfs) are all there, in the order of the layers: who mounts the result hands the
//! kernel a device for each layer, in that order. Whiteouts are those of layers, see
//! [`Notation::Layer`], and none is left, not even of the lowest.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rafs::build::{BlobEntry, Content, ImageOptions, NodeId, Numbering, Tree, write_bootstrap};
use rafs::{Bootstrap, OpenOptions, Version};
use storage::blob::{BlobDescription, BlobFeatures, BlobId, Toc, TocLocation, extract_bootstrap};
use storage::digest::{Digest, Digester};

use crate::error::{Error, Result};
use crate::layers::{self, Layer};
use crate::overlay::{self, Notation};
use crate::prefetch::Patterns;

/// A table of contents fits into this much of the end of a blob.
const TOC_WINDOW: u64 = 4096;

/// What is known better than a source's bootstrap knows it, of the one blob that is its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnBlob {
    /// The id of the object that holds the chunk data.
    pub id: Option<BlobId>,
    /// SHA-256 of the RAFS blob: its id, or that of the object beside the data.
    pub digest: Option<Digest>,
    /// Bytes of the RAFS blob.
    pub size: Option<u64>,
    /// SHA-256 of its table of contents.
    pub toc_digest: Option<Digest>,
    /// Bytes of its table of contents.
    pub toc_size: Option<u32>,
}

/// A merged image.
#[derive(Debug)]
pub struct Merged {
    /// Its bootstrap.
    pub bootstrap: Vec<u8>,
    /// The ids of its blobs.
    pub blobs: Vec<String>,
    /// What it is made with.
    pub options: ImageOptions,
}

/// Layers, so far.
#[derive(Debug, Default)]
pub struct Merger {
    /// The lowest one, and what it was made with: the others must be the same.
    first: Option<(PathBuf, ImageOptions)>,
    tree: Option<Tree>,
    blobs: Vec<BlobEntry>,
    places: HashMap<BlobId, u32>,
    /// Blobs that belong to no source.
    shared: HashSet<BlobId>,
    /// Blobs keep their ids, whatever sources are called.
    keep_ids: bool,
}

impl Merger {
    /// Nothing yet. Without `keep_ids` the blob of a source has the name of the source as its id.
    pub fn new(keep_ids: bool) -> Self {
        Self { keep_ids, ..Self::default() }
    }

    /// The blobs of the bootstrap at `path` belong to no source.
    pub fn add_dictionary(&mut self, path: &Path) -> Result<()> {
        let bootstrap = Bootstrap::open(path, &OpenOptions::default())?;
        self.shared.extend(bootstrap.blobs().iter().map(|blob| blob.id.clone()));
        Ok(())
    }

    /// Lays the image at `path` below all sources, which come later.
    pub fn add_parent(&mut self, path: &Path) -> Result<()> {
        let layer = Layer::load(path)?;
        self.shared.extend(layer.blobs.iter().map(|blob| blob.description.id.clone()));
        self.add_layer(path, layer)
    }

    /// Lays the source at `path` over what there is.
    pub fn add_source(&mut self, path: &Path, known: &OwnBlob) -> Result<()> {
        let mut layer = Layer::load(path)?;
        overlay::check(&layer.tree, Notation::Layer, path)?;
        let mut own = layer.blobs.iter_mut().filter(|blob| !self.shared.contains(&blob.description.id));
        if let Some(blob) = own.next() {
            if own.next().is_some() {
                let detail = "invalid per layer bootstrap, having multiple associated data blobs";
                return Err(Error::entry(path, detail));
            }
            self.describe(path, &mut blob.description, known)?;
        }
        self.add_layer(path, layer)
    }

    /// The merged image. `prefetch` says that what the patterns name is listed in it.
    pub fn finish(self, patterns: &Patterns, prefetch: bool) -> Result<Merged> {
        let (Some(mut tree), Some((_, first))) = (self.tree, self.first) else {
            return Err(Error::Usage("no source to merge".into()));
        };
        let numbering = Numbering::of(&tree)?;
        let mut blobs = Vec::new();
        let mut places: Vec<Option<u32>> = vec![None; self.blobs.len()];
        if self.blobs.iter().any(|blob| blob.description.is_tarfs()) {
            places = (0..).map(Some).take(self.blobs.len()).collect();
            blobs.clone_from(&self.blobs);
        }
        for &id in numbering.order() {
            let Content::Regular { chunks, .. } = &mut tree[id].content else { continue };
            for chunk in chunks {
                let (Some(place), Some(blob)) =
                    (places.get_mut(chunk.blob_index as usize), self.blobs.get(chunk.blob_index as usize))
                else {
                    continue;
                };
                chunk.blob_index = *place.get_or_insert_with(|| {
                    blobs.push(blob.clone());
                    // As many as there are, each of which has a 32-bit index.
                    blobs.len() as u32 - 1
                });
            }
        }
        let named = if prefetch { patterns.resolve(&tree, &numbering) } else { Vec::new() };
        let prefetch =
            named.iter().filter_map(|position| numbering.order().get(*position).copied()).collect();
        let is_v6 = first.version == Version::V6;
        let options = ImageOptions { prefetch, always_xattr_flag: is_v6, ..first };
        let bootstrap = write_bootstrap(&tree, &blobs, &options)?;
        let blobs = blobs.into_iter().map(|blob| blob.description.id.to_string()).collect();
        Ok(Merged { bootstrap, blobs, options })
    }

    fn add_layer(&mut self, path: &Path, layer: Layer) -> Result<()> {
        match &self.first {
            None => self.first = Some((path.into(), layer.options.clone())),
            Some((_, first)) => {
                layers::check_same(path, first, &layer.options)?;
                if first.compressor != layer.options.compressor {
                    let (ours, other) = (first.compressor, layer.options.compressor);
                    let path = path.display();
                    return Err(Error::Inconsistent(format!(
                        "{path}: compressor {other:?}, expected {ours:?}"
                    )));
                }
            }
        }
        let mut indexes = Vec::with_capacity(layer.blobs.len());
        for blob in layer.blobs {
            indexes.push(self.place(path, blob)?);
        }
        let mut tree = layer.tree;
        // A tree has fewer than 2^32 nodes.
        for id in (0..tree.nodes.len() as u32).map(NodeId) {
            let Content::Regular { chunks, .. } = &mut tree[id].content else { continue };
            for chunk in chunks {
                if let Some(index) = indexes.get(chunk.blob_index as usize) {
                    chunk.blob_index = *index;
                }
            }
        }
        match &mut self.tree {
            Some(lower) => drop(overlay::apply(lower, tree, Notation::Layer)),
            None => {
                overlay::drop_whiteouts(&mut tree, Notation::Layer);
                self.tree = Some(tree);
            }
        }
        Ok(())
    }

    /// The place of a blob, which is a new one unless another layer has it too.
    fn place(&mut self, path: &Path, mut blob: BlobEntry) -> Result<u32> {
        // It is in no blob that the bootstrap of the result is.
        blob.description.features.remove(BlobFeatures::INLINED_FS_META);
        if let Some(&place) = self.places.get(&blob.description.id) {
            let twin = self.blobs.get(place as usize).map(|twin| &twin.description);
            return match twin.and_then(|twin| contradiction(twin, &blob.description)) {
                None => Ok(place),
                Some(what) => {
                    let (path, id) = (path.display(), &blob.description.id);
                    Err(Error::Inconsistent(format!(
                        "{path}: {what} of blob {id} is not that of another layer"
                    )))
                }
            };
        }
        // Fewer than 2^32: each took bytes of a bootstrap.
        let place = self.blobs.len() as u32;
        self.places.insert(blob.description.id.clone(), place);
        self.blobs.push(blob);
        Ok(place)
    }

    /// Puts what is known from elsewhere into the description of a source's own blob.
    fn describe(&self, path: &Path, blob: &mut BlobDescription, known: &OwnBlob) -> Result<()> {
        let is_separate = blob.features.contains(BlobFeatures::SEPARATE);
        let is_inlined = blob.features.contains(BlobFeatures::INLINED_FS_META);
        let mut known = known.clone();
        if is_inlined {
            look_into(path, blob, &mut known)?;
        }
        let digest_id = known.digest.map(|digest| BlobId::new(&digest.to_string())).transpose()?;
        if is_separate {
            // The RAFS blob is the object beside the data.
            if digest_id.is_some() {
                blob.meta_id.clone_from(&digest_id);
            }
            blob.meta_size = known.size.unwrap_or(blob.meta_size);
        } else {
            blob.compressed_size = known.size.unwrap_or(blob.compressed_size);
        }
        blob.id = match (known.id, digest_id) {
            (Some(id), _) => id,
            (None, Some(id)) if !is_separate => id,
            // The name of the file is that of the object beside the data, and the data's own is there.
            _ if is_separate && is_inlined => blob.id.clone(),
            // All bootstraps of plain tars may have one name, and the tars have theirs already.
            _ if self.keep_ids || blob.is_tarfs() => blob.id.clone(),
            _ => id_of_name(path)?,
        };
        if known.toc_size.is_some() || known.toc_digest.is_some() {
            let toc = blob.toc.get_or_insert(TocLocation { size: 0, digest: Digest([0; 32]) });
            toc.size = known.toc_size.unwrap_or(toc.size);
            toc.digest = known.toc_digest.unwrap_or(toc.digest);
        }
        Ok(())
    }
}

/// If the file at `path` is the blob, with the bootstrap inside: what can be seen there, unless it was given.
fn look_into(path: &Path, blob: &BlobDescription, known: &mut OwnBlob) -> Result<()> {
    let name = path.display().to_string();
    let file = File::open(path).map_err(Error::io("open", path))?;
    if extract_bootstrap(&file, &name)?.is_none() {
        return Ok(());
    }
    let size = file.metadata().map_err(Error::io("read", path))?.len();
    known.size.get_or_insert(size);
    if blob.features.contains(BlobFeatures::HAS_TOC) && known.toc_size.is_none() && known.toc_digest.is_none()
    {
        let mut tail = vec![0; size.min(TOC_WINDOW) as usize];
        let begin = size - tail.len() as u64;
        file.read_exact_at(&mut tail, begin).map_err(Error::io("read", path))?;
        let anywhere = TocLocation { size: 0, digest: Digest([0; 32]) };
        let toc = Toc::parse(&name, &tail, &anywhere)?;
        known.toc_digest = Some(Digester::Sha256.digest(toc.as_bytes()));
        // It was in the window.
        known.toc_size = Some(toc.as_bytes().len() as u32);
    }
    Ok(())
}

/// What two descriptions of one blob cannot both be right about.
fn contradiction(a: &BlobDescription, b: &BlobDescription) -> Option<&'static str> {
    let differs = [
        (a.chunk_size != b.chunk_size, "chunk size"),
        (a.chunk_count != b.chunk_count, "chunk count"),
        (a.compressor != b.compressor, "compressor"),
        (a.digester != b.digester, "digester"),
        (a.cipher != b.cipher, "key"),
        (a.uncompressed_size != b.uncompressed_size, "uncompressed size"),
        (a.ci != b.ci, "chunk information"),
        (a.features != b.features, "features"),
    ];
    differs.into_iter().find_map(|(differs, what)| differs.then_some(what))
}

/// The name of a file up to its first dot.
fn id_of_name(path: &Path) -> Result<BlobId> {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let stem = name.split(|byte| *byte == b'.').next().unwrap_or_default();
    let id = std::str::from_utf8(stem).ok().and_then(|stem| BlobId::new(stem).ok());
    id.ok_or_else(|| Error::entry(path, "the name of the file, up to its first dot, is not the id of a blob"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_names_up_to_the_first_dot() {
        assert_eq!(id_of_name("/a.b/cd.ef.gh".as_ref()).unwrap().as_str(), "cd");
        assert_eq!(id_of_name("cd".as_ref()).unwrap().as_str(), "cd");
        assert!(id_of_name("/a/.hidden".as_ref()).is_err());
        assert!(id_of_name(&PathBuf::from("x".repeat(65))).is_err());
    }
}
