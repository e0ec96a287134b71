//! What the tests of commands share: the fixture images, the program, and images read chunk by chunk.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use nydus_image::layers::Layer;
use nydus_image::repack::UsedChunks;
use nydus_image::stored::{Blobs, StoredUnit};
use rafs::build::{Content, NodeId, Numbering, Tree, write_bootstrap};
use storage::backend::localfs::{LocalFs, LocalFsConfig};
use storage::digest::Digest;
use tempfile::TempDir;

/// Runs the program; it must succeed.
pub fn run(args: &[&str]) -> Output {
    let output = try_run(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Runs the program.
pub fn try_run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nydus-image")).args(args).output().unwrap()
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The images that the reference implementation wrote.
pub struct Fixtures(TempDir);

impl Fixtures {
    /// Unpacks them.
    pub fn unpack() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/images.tar.zst");
        let mut decoder = zstd::Decoder::new(fs::File::open(path).unwrap()).unwrap();
        decoder.window_log_max(27).unwrap();
        tar::Archive::new(decoder).unpack(dir.path()).unwrap();
        Self(dir)
    }

    /// The bootstrap of an image, and the directory of its blobs.
    pub fn image(&self, name: &str) -> (PathBuf, PathBuf) {
        let dir = self.0.path().join("images").join(name);
        let blobs = dir.join("blobs");
        match name {
            "v6-inline" => (fs::read_dir(&blobs).unwrap().next().unwrap().unwrap().path(), blobs),
            _ => (dir.join("bootstrap"), blobs),
        }
    }
}

/// Blobs in a directory.
pub fn blobs_in(dir: &Path) -> Blobs {
    let config = LocalFsConfig { dir: Some(dir.into()), ..LocalFsConfig::default() };
    Blobs::new(Arc::new(LocalFs::new(config).unwrap())).unwrap()
}

/// What is told of a file: its size, and digest and size of its chunks.
pub type Files = BTreeMap<PathBuf, (u64, Vec<(Digest, u32)>)>;

/// The files of an image, each of whose chunks was read from its blob, decoded, and compared with its digest.
pub fn verified_files(bootstrap: &Path, blobs: &Path) -> Files {
    let image = Layer::load(bootstrap).unwrap();
    each_unit(&image, &blobs_in(blobs), |_, _, _| {});
    files(&image.tree)
}

/// Reads every unit that the files use, checked, once for each chunk: place of the blob, number of the chunk.
pub fn each_unit(image: &Layer, blobs: &Blobs, mut see: impl FnMut(u32, u32, &StoredUnit)) {
    let used = UsedChunks::of(&image.tree);
    for (index, entry) in (0..).zip(&image.blobs) {
        let reader = blobs.open(&entry.description).unwrap();
        for chunk in used.of_blob(index) {
            let digest_of = |number| used.get((index, number)).map(|chunk| chunk.digest);
            let unit = reader.read(reader.unit(chunk).unwrap(), digest_of).unwrap();
            see(index, chunk.index, &unit);
        }
    }
}

/// The regular files of a tree.
pub fn files(tree: &Tree) -> Files {
    let numbering = Numbering::of(tree).unwrap();
    let mut files = Files::new();
    for (position, id) in numbering.order().iter().enumerate() {
        let Content::Regular { size, chunks } = &tree[*id].content else { continue };
        let chunks = chunks.iter().map(|chunk| (chunk.digest, chunk.uncompressed_size)).collect();
        files.insert(numbering.path(tree, position), (*size, chunks));
    }
    files
}

/// Writes the image again without every third of its files that are no hard links, and without the large ones but
/// the largest; so its blobs have what nobody uses.
pub fn thin(bootstrap: &Path, out: &Path) {
    let mut image = Layer::load(bootstrap).unwrap();
    let mut count = 0;
    let size = |node: &rafs::build::Node| match node.content {
        Content::Regular { size, .. } if node.hard_links.is_none() => size,
        _ => 0,
    };
    let largest = image.tree.nodes.iter().map(size).max().unwrap();
    for id in (0..image.tree.nodes.len() as u32).map(NodeId) {
        let mut children = image.tree.children(id).to_vec();
        children.retain(|child| {
            let node = &image.tree[*child];
            let size = size(node);
            count += u32::from(size > 0);
            size == 0 || !(count % 3 == 1 || (largest / 4..largest).contains(&size))
        });
        if let Content::Directory { children: list } = &mut image.tree[id].content {
            *list = children;
        }
    }
    let blobs: Vec<_> = image.blobs.iter().map(nydus_image::repack::beside_its_bootstrap).collect();
    fs::write(out, write_bootstrap(&image.tree, &blobs, &image.options).unwrap()).unwrap();
}

/// Bytes that look random and are the same in every run.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Builds `source` with flags: the bootstrap `out/NAME/boot`, blobs in `out/blobs`.
pub fn create(source: &Path, out: &Path, name: &str, flags: &[&str]) -> PathBuf {
    let (blobs, boot) = (out.join("blobs"), out.join(name).join("boot"));
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(boot.parent().unwrap()).unwrap();
    let mut args = vec!["create", "-B", text(&boot), "-D", text(&blobs)];
    args.extend(flags);
    args.push(text(source));
    run(&args);
    boot
}

/// The SHA-256 of a file, as `sha256sum` prints it and as a registry would name it.
pub fn file_digest(path: &Path) -> String {
    storage::digest::Digester::Sha256.digest(&std::fs::read(path).unwrap()).to_string()
}
