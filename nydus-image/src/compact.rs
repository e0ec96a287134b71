//! Blobs of which little is used, and small ones, become fewer and smaller ones.
//!
//! Invariant: the files of the image are the same before and after. A blob that is not rewritten keeps its
//! description; one that no file uses is no longer in the blob table.

use std::collections::HashSet;
use std::path::Path;

use rafs::Version;
use rafs::build::BlobEntry;
use storage::blob::writer::BlobOptions;
use storage::blob::{BlobDescription, BlobFeatures, BlobId, Compressor};

use crate::cipher;
use crate::error::{Error, Result};
use crate::layers::Layer;
use crate::repack::{self, Moves, Repacker, UsedChunks};
use crate::stored::Blobs;
use crate::target::Target;

/// When a blob is rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// A blob is, if fewer than so many hundredths of its data are used.
    pub min_used_ratio: u8,
    /// Blobs that use fewer bytes are merged,
    pub compact_blob_size: u64,
    /// up to so many.
    pub max_compact_size: u64,
    /// Nothing is, if there are fewer blobs.
    pub layers_to_compact: u64,
}

/// What is known of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Usage {
    /// It may be rewritten, together with those of the same kind.
    kind: Option<Kind>,
    /// No file uses it.
    is_unused: bool,
    /// Stored bytes of chunks, and those that are used.
    stored: u64,
    used: u64,
}

/// Blobs of the same kind can be merged: their chunks are stored in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    compressor: Compressor,
    features: BlobFeatures,
    /// v5: chunks begin at multiples of 4096.
    aligned: bool,
}

/// A blob that was written, and will get its name.
#[derive(Debug)]
struct Written {
    target: Target,
    id: BlobId,
}

/// A compacted image. Its blobs have their names when [`Compacted::commit`] was called.
#[derive(Debug)]
pub struct Compacted {
    /// The image, with its new blobs.
    pub image: Layer,
    /// How many blobs were rewritten.
    pub rewritten: usize,
    /// How many were not used at all.
    pub dropped: usize,
    written: Vec<Written>,
}

/// Compacts an image whose blobs are in `blobs`; those in `untouched` stay as they are. `None` if there is nothing to
/// do. New blobs go to `directory`.
pub fn compact(
    mut image: Layer,
    blobs: &Blobs,
    untouched: &HashSet<BlobId>,
    policy: &Policy,
    directory: &Path,
) -> Result<Option<Compacted>> {
    let table = std::mem::take(&mut image.blobs);
    if (table.len() as u64) < policy.layers_to_compact {
        tracing::info!(
            "{} blobs, fewer than {}: nothing is compacted",
            table.len(),
            policy.layers_to_compact
        );
        return Ok(None);
    }
    let used = UsedChunks::of(&image.tree);
    let usage = (0..).zip(&table).map(|(index, entry)| {
        let may_change = !untouched.contains(&entry.description.id);
        usage(index, &entry.description, &used, blobs, image.options.version, may_change)
    });
    let usage = usage.collect::<Result<Vec<_>>>()?;
    let groups = plan(&usage, policy);
    let dropped = usage.iter().filter(|usage| usage.is_unused).count();
    if groups.is_empty() && dropped == 0 {
        return Ok(None);
    }

    let mut group_of = vec![None; table.len()];
    for (number, group) in groups.iter().enumerate() {
        for &blob in group {
            if let Some(place) = group_of.get_mut(blob) {
                *place = Some(number);
            }
        }
    }
    // A group takes the place of the first of its blobs.
    let mut places = vec![None; table.len()];
    let mut slots = Vec::new();
    for (old, (group, usage)) in group_of.iter().zip(&usage).enumerate() {
        match group {
            Some(group) if groups.get(*group).and_then(|group| group.first()) == Some(&old) => {
                slots.push(Slot::Group(*group));
            }
            None if !usage.is_unused => {
                places[old] = u32::try_from(slots.len()).ok();
                slots.push(Slot::Kept(old));
            }
            _ => {}
        }
    }
    let mut moves = Moves::new(places);
    let (mut entries, mut written) = (Vec::with_capacity(slots.len()), Vec::with_capacity(groups.len()));
    for (place, slot) in (0..).zip(slots) {
        let group = match slot {
            Slot::Kept(old) => {
                entries.extend(table.get(old).map(repack::beside_its_bootstrap));
                continue;
            }
            Slot::Group(number) => groups.get(number).map_or(&[][..], Vec::as_slice),
        };
        let kind = group.first().and_then(|first| usage.get(*first)?.kind);
        let kind = kind.ok_or_else(|| Error::contradiction("a group of blobs without a kind"))?;
        let options = kind.options(&image)?;
        let mut repacker = Repacker::new(Target::create_in(directory)?, options)?;
        for &old in group {
            let Some(entry) = table.get(old) else { continue };
            // Tables have 256 blobs at most.
            repacker.take(old as u32, &blobs.open(&entry.description)?, &used)?;
        }
        let (finished, placed) = repacker.finish()?;
        moves.add(placed, place);
        written.push(Written { target: finished.out, id: finished.description.id.clone() });
        entries.push(BlobEntry::from(finished.description));
    }
    moves.apply(&mut image.tree)?;
    image.blobs = entries;
    Ok(Some(Compacted { image, rewritten: groups.iter().map(Vec::len).sum(), dropped, written }))
}

enum Slot {
    Kept(usize),
    Group(usize),
}

impl Compacted {
    /// Gives the new blobs their names.
    pub fn commit(self, directory: &Path) -> Result<()> {
        self.written
            .into_iter()
            .try_for_each(|Written { target, id }| target.commit_as(&directory.join(id.as_str())))
    }
}

fn usage(
    index: u32,
    blob: &BlobDescription,
    used: &UsedChunks,
    blobs: &Blobs,
    version: Version,
    may_change: bool,
) -> Result<Usage> {
    let is_unused = may_change && used.of_blob(index).next().is_none();
    if is_unused || !may_change || !repack::is_native(blob.features) || blob.compressor == Compressor::Gzip {
        if !is_unused {
            tracing::debug!("blob {}: is left as it is", blob.id);
        }
        return Ok(Usage { kind: None, is_unused, stored: 0, used: 0 });
    }
    let used_bytes = repack::stored_bytes(index, &blobs.open(blob)?, used)?;
    let aligned =
        version == Version::V6 || used.of_blob(index).all(|chunk| chunk.uncompressed_offset % 4096 == 0);
    Ok(Usage {
        kind: Some(Kind { compressor: blob.compressor, features: Kind::features(blob.features), aligned }),
        is_unused,
        stored: blob.data_size().unwrap_or(used_bytes),
        used: used_bytes,
    })
}

impl Kind {
    /// What decides how chunks are stored, and what the blob has beside them.
    fn features(features: BlobFeatures) -> BlobFeatures {
        features
            & (BlobFeatures::CHUNK_INFO_V2
                | BlobFeatures::BATCH
                | BlobFeatures::ENCRYPTED
                | BlobFeatures::HAS_TOC
                | BlobFeatures::IS_SEPARATED_WITH_PREFETCH_FILES)
    }

    /// How a blob of this kind is written. An encrypted one gets a key of its own.
    fn options(self, image: &Layer) -> Result<BlobOptions> {
        let (digester, chunk_size) = (image.options.digester, image.options.chunk_size);
        Ok(match image.options.version {
            Version::V5 => BlobOptions {
                aligned: self.aligned,
                ..BlobOptions::v5(self.compressor, digester, chunk_size)
            },
            Version::V6 => BlobOptions {
                toc: self.features.contains(BlobFeatures::HAS_TOC),
                // Batches stay as large as they are; this is the most that they can be.
                batch_size: if self.features.contains(BlobFeatures::BATCH) { chunk_size } else { 0 },
                cipher: match self.features.contains(BlobFeatures::ENCRYPTED) {
                    true => Some(cipher::random()?),
                    false => None,
                },
                extra_features: self.features
                    & (BlobFeatures::CHUNK_INFO_V2 | BlobFeatures::IS_SEPARATED_WITH_PREFETCH_FILES),
                ..BlobOptions::v6(self.compressor, digester, chunk_size)
            },
        })
    }
}

/// Which blobs are rewritten, those of a group into one: in the order of the blob table.
fn plan(usage: &[Usage], policy: &Policy) -> Vec<Vec<usize>> {
    let mut groups: Vec<Group> = Vec::new();
    for (blob, usage) in usage.iter().enumerate() {
        let Some(kind) = usage.kind else { continue };
        let ratio = u128::from(usage.used) * 100;
        let is_wasteful = ratio < u128::from(usage.stored) * u128::from(policy.min_used_ratio);
        let is_small = usage.used < policy.compact_blob_size;
        if !is_wasteful && !is_small {
            continue;
        }
        let room = |group: &&mut Group| {
            let size = group.size.saturating_add(usage.used);
            is_small && group.is_small && group.kind == kind && size <= policy.max_compact_size
        };
        match groups.iter_mut().find(room) {
            Some(group) => {
                group.blobs.push(blob);
                group.size += usage.used;
            }
            None => groups.push(Group { kind, is_small, is_wasteful, size: usage.used, blobs: vec![blob] }),
        }
    }
    // One small blob alone is as good as it was.
    groups.retain(|group| group.is_wasteful || group.blobs.len() > 1);
    groups.into_iter().map(|group| group.blobs).collect()
}

struct Group {
    kind: Kind,
    /// Others may join.
    is_small: bool,
    /// It is rewritten even if nobody joins.
    is_wasteful: bool,
    size: u64,
    blobs: Vec<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind { compressor: Compressor::Zstd, features: BlobFeatures::empty(), aligned: true };

    fn blob(stored: u64, used: u64) -> Usage {
        Usage { kind: Some(KIND), is_unused: false, stored, used }
    }

    fn policy(min_used_ratio: u8) -> Policy {
        Policy { min_used_ratio, compact_blob_size: 10, max_compact_size: 25, layers_to_compact: 0 }
    }

    #[test]
    fn blobs_of_which_little_is_used_are_rewritten() {
        let usage = [blob(100, 50), blob(100, 49), blob(100, 100)];
        assert_eq!(plan(&usage, &policy(50)), [[1]]);
        assert_eq!(plan(&usage, &policy(51)), [[0], [1]]);
        assert_eq!(plan(&usage, &policy(0)), [[0_usize; 0]; 0]);
    }

    #[test]
    fn small_blobs_are_merged_up_to_the_limit() {
        let usage = [blob(9, 9), blob(100, 100), blob(9, 9), blob(9, 9), blob(7, 7)];
        // The fourth would be too much for the first group, which the last one fits into.
        assert_eq!(plan(&usage, &policy(0)), [vec![0, 2, 4]]);
        // Blobs that are only small because little of them is used are small too.
        let usage = [blob(9, 9), blob(100, 5), blob(100, 20)];
        assert_eq!(plan(&usage, &policy(50)), [vec![0, 1], vec![2]]);
    }

    #[test]
    fn what_may_not_change_and_other_kinds_stay_apart() {
        let other = Usage { kind: Some(Kind { compressor: Compressor::None, ..KIND }), ..blob(9, 9) };
        let fixed = Usage { kind: None, ..blob(9, 9) };
        assert_eq!(plan(&[blob(9, 9), other, fixed, blob(9, 9), other], &policy(0)), [[0, 3], [1, 4]]);
    }
}
