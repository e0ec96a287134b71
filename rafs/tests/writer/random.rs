//! Random trees: written and read they are the same, and written again they are the same bytes.

use proptest::prelude::*;
use rafs::build::{
    BlobEntry, Chunk, Content, ImageOptions, Node, NodeId, Numbering, Recorded, Tree, read_blobs, read_tree,
    write_bootstrap,
};
use rafs::{Bootstrap, OpenOptions, Version};
use storage::blob::{BlobDescription, BlobFeatures, BlobId, ChunkFlags, CiLocation, Compressor, StoredChunk};
use storage::digest::Digester;

/// What an image is made of; every number is taken modulo what there is.
#[derive(Clone, Debug)]
struct Plan {
    options: ImageOptions,
    blob_count: usize,
    entries: Vec<Entry>,
    prefetch: Vec<usize>,
}

#[derive(Clone, Debug)]
struct Entry {
    parent: usize,
    name: Vec<u8>,
    kind: Kind,
    mode: u32,
    owner: (u32, u32),
    rdev: u32,
    mtime: i64,
    mtime_nsec: u32,
    xattrs: Vec<(u8, Vec<u8>, Vec<u8>)>,
    from_tar_link: bool,
    recorded: Option<u32>,
}

#[derive(Clone, Debug)]
enum Kind {
    Directory,
    /// Bytes; which chunks are those of an earlier file, and in which blob the others are.
    Regular(u64, u64, usize),
    /// Another name of an earlier file.
    HardLink(usize),
    Symlink(Vec<u8>),
    Special(u8),
}

fn kinds() -> impl Strategy<Value = Kind> {
    let target = prop_oneof![1..100_usize, 450..520_usize, 3900..=4095_usize];
    prop_oneof![
        3 => Just(Kind::Directory),
        4 => (0..40_000_u64, any::<u64>(), any::<usize>()).prop_map(|(size, reused, blob)| {
            // Some end with their last chunk.
            Kind::Regular(if reused & 1 == 0 { size } else { size & !4095 }, reused, blob)
        }),
        2 => any::<usize>().prop_map(Kind::HardLink),
        2 => (target, 1..=255_u8).prop_map(|(len, byte)| Kind::Symlink(vec![byte; len])),
        2 => (0..4_u8).prop_map(Kind::Special),
    ]
}

/// Names of any bytes, and some that sort around `.` and `..`.
fn names() -> impl Strategy<Value = Vec<u8>> {
    let byte = (1..=255_u8).prop_map(|byte| if byte == b'/' { b'!' } else { byte });
    prop_oneof![
        4 => prop::collection::vec(byte, 1..12),
        1 => prop::collection::vec(32..47_u8, 1..4),
        1 => (240..=250_usize, 1..46_u8).prop_map(|(len, byte)| vec![byte; len]),
    ]
}

fn xattrs() -> impl Strategy<Value = Vec<(u8, Vec<u8>, Vec<u8>)>> {
    let value =
        prop_oneof![prop::collection::vec(any::<u8>(), 0..30), (0..5000_usize).prop_map(|len| vec![7; len]),];
    let pair = (0..5_u8, prop::collection::vec(1..=255_u8, 1..20), value);
    prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(pair, 0..11)]
}

fn entries() -> impl Strategy<Value = Entry> {
    let owner = (any::<u32>(), any::<u32>());
    let mtime = prop_oneof![any::<i64>(), -10..2_000_000_000_i64];
    let time = (mtime, 0..1_000_000_000_u32);
    (
        (any::<usize>(), names(), kinds()),
        (0..0o10_000_u32, owner, any::<u32>(), time, xattrs()),
        (any::<bool>(), prop::option::weighted(0.1, any::<u32>())),
    )
        .prop_map(
            |((parent, name, kind), (mode, owner, rdev, time, xattrs), (from_tar_link, recorded))| {
                let (mtime, mtime_nsec) = time;
                Entry {
                    parent,
                    name,
                    kind,
                    mode,
                    owner,
                    rdev,
                    mtime,
                    mtime_nsec,
                    xattrs,
                    from_tar_link,
                    recorded,
                }
            },
        )
}

fn plans() -> impl Strategy<Value = Plan> {
    let options = (0..3_u8, 0..3_u32, any::<[bool; 3]>(), 0..4_u32).prop_map(
        |(format, chunk_bits, [sha256, owners, always_xattr_flag], compressor)| ImageOptions {
            chunk_size: 4096 << chunk_bits,
            compressor: Compressor::try_from(compressor).unwrap(),
            digester: if sha256 { Digester::Sha256 } else { Digester::Blake3 },
            explicit_owners: owners,
            block_size: if format == 2 { 512 } else { 4096 },
            always_xattr_flag,
            ..ImageOptions::new(if format == 0 { Version::V5 } else { Version::V6 })
        },
    );
    let entries = prop::collection::vec(entries(), 0..120);
    (options, 1..4_usize, entries, prop::collection::vec(any::<usize>(), 0..4))
        .prop_map(|(options, blob_count, entries, prefetch)| Plan { options, blob_count, entries, prefetch })
}

/// Fills a tree, and the blobs that its files need.
struct Filler {
    options: ImageOptions,
    blobs: Vec<BlobDescription>,
    /// All chunks so far.
    chunks: Vec<Chunk>,
}

impl Filler {
    fn blob(&mut self, index: usize) -> &mut BlobDescription {
        let (tarfs, options) = (self.options.block_size == 512, &self.options);
        while self.blobs.len() <= index {
            let number = self.blobs.len();
            self.blobs.push(BlobDescription {
                index: number as u32,
                id: BlobId::new(&format!("{number:064x}")).unwrap(),
                chunk_size: options.chunk_size,
                chunk_count: 0,
                compressor: options.compressor,
                digester: options.digester,
                cipher: None,
                features: match (options.version, tarfs) {
                    (_, true) => BlobFeatures::TARFS | BlobFeatures::CAP_TAR_TOC,
                    (Version::V6, _) => BlobFeatures::ALIGNED | BlobFeatures::CAP_TAR_TOC,
                    (Version::V5, _) => BlobFeatures::CAP_TAR_TOC,
                },
                compressed_size: 0,
                uncompressed_size: 0,
                ci: None,
                toc: None,
                meta_id: None,
                meta_size: 0,
            });
        }
        &mut self.blobs[index]
    }

    /// A chunk of its own, or one that is there.
    fn chunk(&mut self, size: u32, reused: bool, blob: usize) -> Chunk {
        let earlier = self.chunks.iter().find(|chunk| chunk.uncompressed_size == size);
        if let (true, Some(chunk)) = (reused, earlier) {
            return *chunk;
        }
        let number = self.chunks.len() as u64;
        let tarfs = self.options.block_size == 512;
        let digester = self.options.digester;
        let compressed = !tarfs && number.is_multiple_of(3);
        let blob = self.blob(blob);
        let stored_size = if compressed { size.div_ceil(2) } else { size };
        let chunk = Chunk {
            digest: match tarfs {
                true => storage::digest::Digest([0; 32]),
                false => digester.digest(&number.to_le_bytes()),
            },
            blob_index: blob.index,
            index: blob.chunk_count,
            stored: StoredChunk {
                flags: if compressed { ChunkFlags::COMPRESSED } else { ChunkFlags::empty() },
                compressed_offset: if tarfs { blob.uncompressed_size } else { blob.compressed_size },
                compressed_size: stored_size,
                unit_index: 0,
                unit_offset: 0,
                crc32c: (!tarfs && !number.is_multiple_of(5)).then_some(number as u32),
            },
            uncompressed_offset: blob.uncompressed_size,
            uncompressed_size: size,
            inherited_file_offset: None,
        };
        blob.chunk_count += 1;
        blob.compressed_size += u64::from(stored_size);
        let align = if tarfs { 512 } else { 4096 };
        blob.uncompressed_size += u64::from(size).next_multiple_of(align);
        self.chunks.push(chunk);
        chunk
    }

    fn chunks(&mut self, size: u64, mut reused: u64, blob: usize) -> Vec<Chunk> {
        let chunk_size = u64::from(self.options.chunk_size);
        let mut chunks = Vec::new();
        for from in (0..size).step_by(chunk_size as usize) {
            reused = reused.rotate_right(1);
            let size = chunk_size.min(size - from) as u32;
            chunks.push(self.chunk(size, reused & 3 == 0, blob));
        }
        chunks
    }

    fn finished(self) -> Vec<BlobEntry> {
        let mut blobs = self.blobs;
        for blob in &mut blobs {
            if self.options.version == Version::V6 && self.options.block_size == 4096 {
                let size = u64::from(blob.chunk_count) * 16;
                let (compressor, offset) = (Compressor::None, blob.compressed_size);
                let ci = CiLocation { compressor, offset, compressed_size: size, uncompressed_size: size };
                blob.ci = Some(ci);
                blob.compressed_size += size + 4096;
            }
        }
        let prefetch = |blob: BlobDescription| match self.options.version {
            Version::V5 => BlobEntry { prefetch_size: blob.index * 7, description: blob },
            Version::V6 => blob.into(),
        };
        blobs.into_iter().map(prefetch).collect()
    }
}

fn xattr(prefix: u8, suffix: &[u8]) -> Vec<u8> {
    match prefix {
        0 => [b"user.", suffix].concat(),
        1 => [b"trusted.", suffix].concat(),
        2 => [b"security.", suffix].concat(),
        3 => b"system.posix_acl_access".to_vec(),
        _ => b"system.posix_acl_default".to_vec(),
    }
}

fn build(plan: &Plan) -> (Tree, Vec<BlobEntry>, ImageOptions) {
    let mut filler = Filler { options: plan.options.clone(), blobs: Vec::new(), chunks: Vec::new() };
    let mut tree = Tree::new(Node { mtime: -5, ..Node::directory("/", 0o1755) });
    let mut directories = vec![Tree::ROOT];
    let mut files: Vec<NodeId> = Vec::new();
    for entry in &plan.entries {
        let parent = directories[entry.parent % directories.len()];
        let mut name = entry.name.clone();
        while tree.children(parent).iter().any(|child| tree[*child].name == name)
            || matches!(&name[..], b"." | b"..")
        {
            name.push(b'~');
        }
        let (kind, content) = match &entry.kind {
            Kind::Directory => (0o040_000, Content::Directory { children: Vec::new() }),
            Kind::HardLink(file) if !files.is_empty() => {
                let first = files[file % files.len()];
                tree[first].hard_links = Some(first.0);
                let node = Node { name, from_tar_link: entry.from_tar_link, ..tree[first].clone() };
                tree.add(parent, node);
                continue;
            }
            Kind::HardLink(_) => (0o100_000, Content::Regular { size: 0, chunks: Vec::new() }),
            Kind::Regular(size, reused, blob) => {
                let chunks = filler.chunks(*size, *reused, blob % plan.blob_count);
                (0o100_000, Content::Regular { size: *size, chunks })
            }
            Kind::Symlink(target) => (0o120_000, Content::Symlink { target: target.clone() }),
            Kind::Special(kind) => {
                ([0o020_000, 0o060_000, 0o010_000, 0o140_000][usize::from(*kind)], Content::Special)
            }
        };
        let mut xattrs: Vec<_> = entry
            .xattrs
            .iter()
            .map(|(prefix, suffix, value)| (xattr(*prefix, suffix), value.clone()))
            .collect();
        xattrs.sort();
        xattrs.dedup_by(|a, b| a.0 == b.0);
        let id = tree.add(
            parent,
            Node {
                uid: entry.owner.0,
                gid: entry.owner.1,
                rdev: entry.rdev,
                mtime: entry.mtime,
                mtime_nsec: entry.mtime_nsec,
                xattrs,
                from_tar_link: entry.from_tar_link,
                is_implied: matches!(entry.kind, Kind::Directory) && entry.mtime_nsec % 2 == 1,
                recorded: { entry.recorded }
                    .map(|number| Recorded { size: number.into(), blocks: number.into() }),
                ..Node::new(name, kind | entry.mode, content)
            },
        );
        match entry.kind {
            Kind::Directory => directories.push(id),
            Kind::Regular(..) => files.push(id),
            _ => {}
        }
    }
    // A file may come to have no chunk in a blob that a later one has chunks in.
    let blobs = (0..filler.blobs.len()).filter(|index| filler.blobs[*index].chunk_count == 0);
    for index in blobs.collect::<Vec<_>>() {
        filler.chunk(1, false, index);
    }
    let mut options = plan.options.clone();
    options.prefetch =
        plan.prefetch.iter().map(|number| NodeId((number % tree.nodes.len()) as u32)).collect();
    (tree, filler.finished(), options)
}

/// A tree as the format holds it: in numbering order, without what the format leaves out.
fn canonical(tree: &Tree, options: &ImageOptions) -> Vec<Node> {
    let numbering = Numbering::of(tree).unwrap();
    let order = numbering.order();
    let position = |id: NodeId| order.iter().position(|other| *other == id).unwrap();
    let mut nodes = Vec::new();
    for (place, id) in order.iter().enumerate() {
        let mut node = tree[*id].clone();
        let group = node.hard_links.map(|group| {
            let same = |id: &&NodeId| tree[**id].hard_links == Some(group);
            let first = position(*order.iter().find(same).unwrap());
            (first, order.iter().filter(same).count())
        });
        node.hard_links = group.filter(|group| group.1 > 1).map(|group| group.0 as u32);
        if place == 0 {
            node.name = b"/".to_vec();
        }
        match &mut node.content {
            Content::Directory { children } => {
                *children = numbering.children(tree, place).map(|child| NodeId(child as u32)).collect();
            }
            Content::Regular { chunks, .. } => {
                chunks.iter_mut().for_each(|chunk| chunk.inherited_file_offset = None);
            }
            _ => {}
        }
        if !options.explicit_owners {
            (node.uid, node.gid) = (0, 0);
        }
        let measured = tree.measure(*id);
        match options.version {
            Version::V5 => {
                let matches = |recorded: &Recorded| {
                    recorded.blocks == measured.blocks
                        && (recorded.size == measured.size || !node.is_directory())
                };
                node.recorded = node.recorded.filter(|recorded| !matches(recorded));
                if !node.is_directory() {
                    let size = measured.size;
                    node.recorded = node.recorded.map(|recorded| Recorded { size, ..recorded });
                }
            }
            Version::V6 => {
                (node.recorded, node.from_tar_link) = (None, false);
                if node.content != Content::Special {
                    node.rdev = 0;
                }
            }
        }
        nodes.push(node);
    }
    nodes
}

fn assert_round_trip(plan: &Plan) {
    let (tree, blobs, options) = build(plan);
    let bytes = write_bootstrap(&tree, &blobs, &options).unwrap();
    let open = OpenOptions { verify_inodes: true, ..OpenOptions::default() };
    let bootstrap = Bootstrap::from_bytes(bytes.clone(), "image.boot", &open).unwrap();
    bootstrap.check().unwrap();
    assert_eq!(rafs::fuzzing::walk(&bootstrap), tree.nodes.len() as u64 - 1);

    let (found, found_options) = read_tree(&bootstrap).unwrap();
    let (found_nodes, expected_nodes) = (canonical(&found, &options), canonical(&tree, &options));
    for (found, expected) in found_nodes.iter().zip(&expected_nodes) {
        assert_eq!(found, expected);
    }
    assert_eq!(found_nodes.len(), expected_nodes.len());

    let mut expected = options.clone();
    let has_xattrs = tree.nodes.iter().any(|node| !node.xattrs.is_empty());
    expected.always_xattr_flag &= !has_xattrs;
    // A hard link stands for its inode, whose first name was read.
    let numbering = Numbering::of(&tree).unwrap();
    let first = |id: &NodeId| {
        let place = numbering.order().iter().position(|other| other == id).unwrap();
        NodeId(expected_nodes[place].hard_links.unwrap_or(place as u32))
    };
    expected.prefetch = match (options.version, blobs.is_empty()) {
        (Version::V6, true) => Vec::new(),
        _ => options.prefetch.iter().map(first).collect(),
    };
    assert_eq!(found_options, expected);

    let found_blobs = read_blobs(&bootstrap);
    let shown = |blobs: &[BlobEntry]| format!("{blobs:?}");
    assert_eq!(shown(&found_blobs), shown(&blobs));
    assert!(write_bootstrap(&found, &found_blobs, &found_options).unwrap() == bytes, "a fixed point");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        rng_seed: proptest::test_runner::RngSeed::Fixed(6),
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_is_written_is_read(plan in plans()) {
        assert_round_trip(&plan);
    }
}
