//! Images that others are built on: read back, and compared.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rafs::build::{BlobEntry, ImageOptions, NodeId, Tree, read_blobs, read_tree};
use rafs::{Bootstrap, OpenOptions, Version};

use crate::error::{Error, Result};

/// An image in memory.
#[derive(Debug)]
pub struct Layer {
    /// Its files and directories.
    pub tree: Tree,
    /// What it was made with.
    pub options: ImageOptions,
    /// Its blobs.
    pub blobs: Vec<BlobEntry>,
}

impl Layer {
    /// Reads the bootstrap at `path`, checked as a whole.
    pub fn load(path: &Path) -> Result<Self> {
        let bootstrap = Bootstrap::open(path, &OpenOptions::default())?;
        let (mut tree, options) = read_tree(&bootstrap)?;
        // Sizes of directories stay what they are, whatever is laid over them. A tree has fewer than 2^32 nodes.
        if options.version == Version::V5 {
            for id in (0..tree.nodes.len() as u32).map(NodeId) {
                tree[id].recorded = Some(tree[id].recorded.unwrap_or_else(|| tree.measure(id)));
            }
        }
        Ok(Self { tree, options, blobs: read_blobs(&bootstrap) })
    }
}

/// An error unless the two images can share a tree and chunks (spec/rafs-v5.md §12.4).
pub fn check_same(path: &Path, ours: &ImageOptions, other: &ImageOptions) -> Result<()> {
    check_chunks(path, ours, other)?;
    if ours.explicit_owners != other.explicit_owners {
        let name = |recorded: bool| if recorded { "recorded" } else { "left out" };
        return Err(Error::Inconsistent(format!(
            "{}: owners {}, expected {}",
            path.display(),
            name(other.explicit_owners),
            name(ours.explicit_owners)
        )));
    }
    Ok(())
}

/// An error unless files of one image can refer to chunks of the other.
pub fn check_chunks(path: &Path, ours: &ImageOptions, other: &ImageOptions) -> Result<()> {
    let differs = |what: &str, ours: String, other: String| {
        Err(Error::Inconsistent(format!("{}: {what} {other}, expected {ours}", path.display())))
    };
    if ours.version != other.version {
        return differs("version", format!("{:?}", ours.version), format!("{:?}", other.version));
    }
    if ours.chunk_size != other.chunk_size {
        return differs("chunk size", format!("{:#x}", ours.chunk_size), format!("{:#x}", other.chunk_size));
    }
    if ours.digester != other.digester {
        return differs("digester", format!("{:?}", ours.digester), format!("{:?}", other.digester));
    }
    if ours.version == Version::V5 && ours.compressor != other.compressor {
        return differs("compressor", format!("{:?}", ours.compressor), format!("{:?}", other.compressor));
    }
    if ours.block_size != other.block_size {
        return differs("block size", ours.block_size.to_string(), other.block_size.to_string());
    }
    Ok(())
}

/// The path in `PATH` or `bootstrap=PATH`.
pub fn dictionary_path(argument: &OsStr) -> PathBuf {
    let bytes = argument.as_bytes();
    Path::new(OsStr::from_bytes(bytes.strip_prefix(b"bootstrap=").unwrap_or(bytes))).into()
}
