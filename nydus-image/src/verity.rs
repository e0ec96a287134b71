//! dm-verity's hash tree, format 1: SHA-256, blocks of hashes of 4096 bytes, no salt. Blocks of data are those of the
//! file system: 4096 bytes, or 512 for plain tars.
//!
//! ```text
//!   data blocks │ top block │ … │ blocks of the lowest level: the digests of the data blocks
//! ```
//!
//! Each block of a level has up to 128 digests of blocks of the level below, and zeros. The root hash is the digest
//! of the top block. 32 bytes are kept in memory for each block of data.

use storage::digest::{Digest, Digester};

/// Bytes of a block of hashes, and of the largest block of data.
pub const BLOCK: usize = 4096;
const DIGEST: usize = 32;

/// Takes data, a bit at a time.
#[derive(Debug)]
pub struct Hasher {
    /// Bytes of a block of data.
    data_block: usize,
    /// The beginning of a block.
    partial: Vec<u8>,
    /// The digests of the data blocks.
    digests: Vec<u8>,
}

/// The tree over some data.
#[derive(Debug)]
pub struct HashTree {
    /// What lies behind the data: all levels, the top one first.
    pub levels: Vec<u8>,
    /// The digest of the top block.
    pub root: Digest,
    /// Blocks of data.
    pub data_blocks: u64,
}

impl Hasher {
    /// Of data in blocks of so many bytes, at least one.
    pub fn new(data_block: usize) -> Self {
        Self { data_block: data_block.max(1), partial: Vec::new(), digests: Vec::new() }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        if !self.partial.is_empty() {
            let (some, rest) = bytes.split_at(bytes.len().min(self.data_block - self.partial.len()));
            self.partial.extend_from_slice(some);
            bytes = rest;
            if self.partial.len() == self.data_block {
                self.digests.extend_from_slice(&digest(&self.partial).0);
                self.partial.clear();
            }
        }
        let blocks = bytes.chunks_exact(self.data_block);
        self.partial.extend_from_slice(blocks.remainder());
        for block in blocks {
            self.digests.extend_from_slice(&digest(block).0);
        }
    }

    /// The tree, once all data was taken; it ends with zeros to the end of its last block.
    pub fn finish(mut self) -> HashTree {
        if !self.partial.is_empty() {
            self.partial.resize(self.data_block, 0);
            self.digests.extend_from_slice(&digest(&self.partial).0);
        }
        let data_blocks = (self.digests.len() / DIGEST) as u64;
        let mut levels = Vec::new();
        let mut level = self.digests;
        // One digest over one block of data is the root itself.
        while level.len() > DIGEST {
            level.resize(level.len().next_multiple_of(BLOCK), 0);
            let above = level.chunks_exact(BLOCK).flat_map(|block| digest(block).0).collect();
            levels.push(std::mem::replace(&mut level, above));
        }
        let root = level.first_chunk().map_or_else(|| digest(&[]), |root| Digest(*root));
        HashTree { levels: levels.into_iter().rev().flatten().collect(), root, data_blocks }
    }
}

fn digest(bytes: &[u8]) -> Digest {
    Digester::Sha256.digest(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_does_not_depend_on_how_the_data_comes() {
        let data: Vec<u8> = (0..300 * BLOCK as u32).map(|number| (number / 77) as u8).collect();
        let mut whole = Hasher::new(BLOCK);
        whole.update(&data);
        let whole = whole.finish();
        for size in [1, 4095, 4097, 70_000] {
            let mut hasher = Hasher::new(BLOCK);
            data.chunks(size).for_each(|some| hasher.update(some));
            let tree = hasher.finish();
            assert_eq!((tree.root, tree.data_blocks), (whole.root, 300), "{size}");
            assert!(tree.levels == whole.levels, "{size}");
        }
        assert_eq!(whole.levels.len(), (1 + 3) * BLOCK);
        // By hand: the last data block, through its level, to the root.
        let (top, lowest) = whole.levels.split_at(BLOCK);
        let place = 299 * DIGEST;
        assert_eq!(lowest[place..place + DIGEST], digest(&data[299 * BLOCK..]).0);
        assert!(lowest[place + DIGEST..].iter().all(|byte| *byte == 0));
        assert_eq!(top[2 * DIGEST..3 * DIGEST], digest(&lowest[2 * BLOCK..]).0);
        assert_eq!(whole.root, digest(top));
    }

    #[test]
    fn one_block_is_its_own_tree() {
        let mut hasher = Hasher::new(BLOCK);
        hasher.update(b"short");
        let tree = hasher.finish();
        let mut block = b"short".to_vec();
        block.resize(BLOCK, 0);
        assert_eq!((tree.root, tree.levels.len(), tree.data_blocks), (digest(&block), 0, 1));
    }
}
