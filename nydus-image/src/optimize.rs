//! What is worth fetching first gets a blob of its own, which is fetched as a whole.
//!
//! Invariant: the files of the image are the same before and after. The chunks are copies: the blobs that had them stay
//! as they are and in the blob table, and the new blob is the last one there. All files that have a chunk refer to its
//! copy, the hard links and duplicates of the named files too, so that nothing is fetched twice.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use rafs::Version;
use rafs::build::{Content, NodeId, Numbering, Tree};
use serde::Deserialize;
use storage::blob::writer::{BlobOptions, FinishedBlob};
use storage::blob::{BlobFeatures, Compressor};

use crate::cipher;
use crate::error::{Error, Result};
use crate::layers::Layer;
use crate::prefetch::Patterns;
use crate::repack::{self, Moves, Repacker, UsedChunks};
use crate::stored::Blobs;

/// The most bytes of a list of files that are read.
const MAX_LIST: u64 = 64 << 20;

/// What is to be fetched first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrefetchList(Vec<PrefetchFile>);

/// Parts of a file: offset and length. None: all of it.
type Ranges = [(u64, u64)];

/// A file or directory, and which parts of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PrefetchFile {
    path: PathBuf,
    /// As [`Ranges`].
    ranges: Vec<(u64, u64)>,
}

#[derive(Deserialize)]
struct Document {
    version: String,
    files: Vec<File>,
}

#[derive(Deserialize)]
struct File {
    path: PathBuf,
    ranges: Option<Vec<(u64, u64)>>,
}

impl PrefetchList {
    /// Reads a list: JSON as the reference implementation has it, or absolute paths, one a line.
    pub fn load(path: &Path) -> Result<Self> {
        let size = std::fs::metadata(path).map_err(Error::io("read", path))?.len();
        if size > MAX_LIST {
            return Err(Error::entry(path, format!("{size} bytes, expected {MAX_LIST} at most")));
        }
        let text = std::fs::read(path).map_err(Error::io("read", path))?;
        Self::parse(&text).map_err(|detail| Error::entry(path, detail))
    }

    pub(crate) fn parse(text: &[u8]) -> std::result::Result<Self, String> {
        // A path begins with a slash, a document with a brace.
        if text.trim_ascii_start().first() != Some(&b'{') {
            let patterns = Patterns::read(text).map_err(|error| error.to_string())?;
            let file = |path: &PathBuf| PrefetchFile { path: path.clone(), ranges: Vec::new() };
            return Ok(Self(patterns.paths().iter().map(file).collect()));
        }
        let document: Document = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if document.version != "v1" {
            return Err(format!("version {:?}, expected \"v1\"", document.version));
        }
        let file = |file: File| {
            if !file.path.is_absolute() {
                return Err(format!("{}: not an absolute path", file.path.display()));
            }
            Ok(PrefetchFile { path: file.path, ranges: file.ranges.unwrap_or_default() })
        };
        document.files.into_iter().map(file).collect::<std::result::Result<_, _>>().map(Self)
    }

    /// The regular files that are named, or lie in a directory that is, and their ranges; in order of the list, those
    /// of a directory as they are numbered.
    fn resolve(&self, tree: &Tree) -> Result<Vec<(NodeId, &Ranges)>> {
        let numbering = Numbering::of(tree)?;
        let mut found = Vec::new();
        for file in &self.0 {
            match crate::prefetch::find(&file.path, tree, &numbering) {
                Some(position) => below(tree, &numbering, position, &mut |node| {
                    found.push((node, &file.ranges[..]));
                }),
                None => tracing::warn!("{}: names nothing with data", file.path.display()),
            }
        }
        Ok(found)
    }
}

/// Calls `see` for the regular files at or below a position.
fn below<'a>(tree: &Tree, numbering: &Numbering, position: usize, see: &mut (impl FnMut(NodeId) + 'a)) {
    let mut positions = vec![position];
    while let Some(position) = positions.pop() {
        let Some(&node) = numbering.order().get(position) else { continue };
        match &tree[node].content {
            Content::Regular { .. } => see(node),
            Content::Directory { .. } => positions.extend(numbering.children(tree, position).rev()),
            _ => {}
        }
    }
}

/// What is written besides the image.
#[derive(Debug)]
pub struct Optimized<W> {
    /// The new blob; `None` if there was nothing to put into it.
    pub blob: Option<FinishedBlob<W>>,
    /// Chunks in it.
    pub chunks: u32,
}

/// Copies what the list names to a blob on `out`, and makes the files of the image refer to it.
pub fn optimize<W: Write>(
    image: &mut Layer,
    blobs: &Blobs,
    list: &PrefetchList,
    out: W,
) -> Result<Optimized<W>> {
    let kept: Vec<_> = image.blobs.iter().map(repack::beside_its_bootstrap).collect();
    if let Some(tar) = kept.iter().find(|blob| blob.description.is_tarfs()) {
        let what =
            format!("blob {}: a plain tar, whose blocks are smaller than those of blobs", tar.description.id);
        return Err(Error::Usage(what));
    }
    let wanted = wanted(image, list)?;
    let mut repacker = Repacker::new(out, options(image, &wanted)?)?;
    let mut readers = BTreeMap::new();
    for key in wanted.order {
        let Some(entry) = kept.get(key.0 as usize) else { continue };
        let reader = match readers.entry(key.0) {
            std::collections::btree_map::Entry::Occupied(reader) => reader.into_mut(),
            std::collections::btree_map::Entry::Vacant(slot) => slot.insert(blobs.open(&entry.description)?),
        };
        repacker.take_chunk(key, reader, &wanted.used)?;
    }
    let (finished, placed) = repacker.finish()?;
    let chunks = finished.description.chunk_count;
    if chunks == 0 {
        tracing::warn!("nothing of the list is in the image: there is no prefetch blob");
        image.blobs = kept;
        return Ok(Optimized { blob: None, chunks });
    }
    // Tables have 254 blobs at most.
    let last = kept.len() as u32;
    let mut moves = Moves::new((0..last).map(Some).collect());
    moves.add(placed, last);
    moves.apply(&mut image.tree)?;
    image.blobs = kept;
    image.blobs.push(finished.description.clone().into());
    Ok(Optimized { blob: Some(finished), chunks })
}

/// The chunks to be copied.
struct Wanted {
    used: UsedChunks,
    /// In the order in which they are read.
    order: Vec<repack::Key>,
}

fn wanted(image: &Layer, list: &PrefetchList) -> Result<Wanted> {
    let mut wanted = Wanted { used: UsedChunks::default(), order: Vec::new() };
    let chunk_size = u64::from(image.options.chunk_size);
    for (node, ranges) in list.resolve(&image.tree)? {
        let Content::Regular { chunks, .. } = &image.tree[node].content else { continue };
        for (begin, chunk) in (0..).step_by(image.options.chunk_size as usize).zip(chunks) {
            let touches = |(offset, len): &(u64, u64)| {
                *offset < begin + chunk_size && offset.saturating_add(*len) > begin
            };
            let is_external = |blob: u32| {
                let blob = image.blobs.get(blob as usize);
                blob.is_some_and(|blob| blob.description.features.contains(BlobFeatures::EXTERNAL))
            };
            if (ranges.is_empty() || ranges.iter().any(touches)) && !is_external(chunk.blob_index) {
                wanted.used.add(chunk);
                wanted.order.push((chunk.blob_index, chunk.index));
            }
        }
    }
    Ok(wanted)
}

/// How the prefetch blob is written: as the blobs are that it copies from.
fn options(image: &Layer, wanted: &Wanted) -> Result<BlobOptions> {
    let sources = || {
        let used = |place| wanted.used.of_blob(place).next().is_some();
        (0..).zip(&image.blobs).filter(move |(place, _)| used(*place)).map(|(_, blob)| &blob.description)
    };
    let any = |feature| sources().any(|blob| blob.features.contains(feature));
    let native = sources().map(|blob| blob.compressor).find(|compressor| *compressor != Compressor::Gzip);
    let (digester, chunk_size) = (image.options.digester, image.options.chunk_size);
    if image.options.version == Version::V5 {
        // Its chunks have one compressor, whichever blob they are in.
        let aligned = wanted.used.all().all(|chunk| chunk.uncompressed_offset % 4096 == 0);
        return Ok(BlobOptions {
            aligned,
            ..BlobOptions::v5(image.options.compressor, digester, chunk_size)
        });
    }
    Ok(BlobOptions {
        // The image says that all its blobs have their digests with them, or none.
        toc: !image.blobs.is_empty()
            && image
                .blobs
                .iter()
                .all(|blob| blob.description.features.contains(BlobFeatures::INLINED_CHUNK_DIGEST)),
        batch_size: if any(BlobFeatures::BATCH) { chunk_size } else { 0 },
        cipher: if any(BlobFeatures::ENCRYPTED) { Some(cipher::random()?) } else { None },
        extra_features: BlobFeatures::CHUNK_INFO_V2 | BlobFeatures::IS_SEPARATED_WITH_PREFETCH_FILES,
        ..BlobOptions::v6(native.unwrap_or(Compressor::Zstd), digester, chunk_size)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_json_or_lines() {
        let json = r#" {"version":"v1","files":[{"path":"/a","ranges":[[0,10],[4096,1]]},{"path":"/b"}]}"#;
        let file =
            |path: &str, ranges: &[(u64, u64)]| PrefetchFile { path: path.into(), ranges: ranges.into() };
        assert_eq!(
            PrefetchList::parse(json.as_bytes()).unwrap().0,
            [file("/a", &[(0, 10), (4096, 1)]), file("/b", &[])]
        );
        assert_eq!(PrefetchList::parse(b"/a\n\n /b\n").unwrap().0, [file("/a", &[]), file("/b", &[])]);
        assert_eq!(PrefetchList::parse(b"").unwrap().0, []);
    }

    #[test]
    fn lists_of_another_kind_are_refused() {
        for bad in [
            r#"{"version":"v2","files":[]}"#,
            r#"{"version":"v1"}"#,
            r#"{"version":"v1","files":[{"path":"a"}]}"#,
            r#"{"version":"v1","files":[{"path":"/a","ranges":[[0]]}]}"#,
            "{",
        ] {
            assert!(PrefetchList::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
