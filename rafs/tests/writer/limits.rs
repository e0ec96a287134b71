//! What a format cannot hold is refused, with the entry, the limit and what was found.

use rafs::build::{BlobEntry, Chunk, Content, ImageOptions, Node, NodeId, Tree, write_bootstrap};
use rafs::{Error, Version};
use storage::blob::{
    BlobDescription, BlobFeatures, BlobId, ChunkFlags, CiLocation, Cipher, Compressor, StoredChunk,
};
use storage::digest::{Digest, Digester};

const BOTH: [Version; 2] = [Version::V5, Version::V6];

/// A blob of 4 KiB chunks that is as large as chunk numbers allow.
fn blob(number: usize) -> BlobEntry {
    BlobEntry::from(BlobDescription {
        index: 0,
        id: BlobId::new(&format!("blob-{number}")).unwrap(),
        chunk_size: 4096,
        chunk_count: 1 << 24,
        compressor: Compressor::None,
        digester: Digester::Blake3,
        cipher: None,
        features: BlobFeatures::ALIGNED | BlobFeatures::CAP_TAR_TOC,
        compressed_size: 1 << 37,
        uncompressed_size: 1 << 36,
        ci: Some(CiLocation {
            compressor: Compressor::None,
            offset: 1 << 36,
            compressed_size: 1 << 28,
            uncompressed_size: 1 << 28,
        }),
        toc: None,
        meta_id: None,
        meta_size: 0,
    })
}

fn chunk() -> Chunk {
    Chunk {
        digest: Digest([1; 32]),
        blob_index: 0,
        index: 0,
        stored: StoredChunk {
            flags: ChunkFlags::empty(),
            compressed_offset: 0,
            compressed_size: 4096,
            unit_index: 0,
            unit_offset: 0,
            crc32c: None,
        },
        uncompressed_offset: 0,
        uncompressed_size: 4096,
        inherited_file_offset: None,
    }
}

fn options(version: Version) -> ImageOptions {
    ImageOptions { chunk_size: 4096, ..ImageOptions::new(version) }
}

/// A directory `d` with one file `f` of a chunk.
fn tree() -> (Tree, NodeId) {
    let mut tree = Tree::new(Node::directory("/", 0o755));
    let directory = tree.add(Tree::ROOT, Node::directory("d", 0o755));
    let content = Content::Regular { size: 4096, chunks: vec![chunk()] };
    let file = tree.add(directory, Node::new("f", 0o100_644, content));
    (tree, file)
}

/// The path and the message of the refusal.
#[track_caller]
fn refused(result: rafs::Result<Vec<u8>>) -> (String, String) {
    match result {
        Err(error @ Error::Unwritable { .. }) => {
            let message = error.to_string();
            let Error::Unwritable { path, .. } = error else { unreachable!() };
            (path.display().to_string(), message)
        }
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was written"),
    }
}

#[track_caller]
fn assert_refused(version: Version, change: impl FnOnce(&mut Node), words: [&str; 3]) {
    let (mut tree, file) = tree();
    change(&mut tree[file]);
    let (_, message) = refused(write_bootstrap(&tree, &[blob(0)], &options(version)));
    assert!(message.starts_with("/d/"), "{message}");
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
}

fn chunks(node: &mut Node) -> &mut Vec<Chunk> {
    match &mut node.content {
        Content::Regular { chunks, .. } => chunks,
        _ => unreachable!(),
    }
}

#[test]
fn what_the_limits_allow_is_written() {
    for version in BOTH {
        let (mut tree, file) = tree();
        let node = &mut tree[file];
        node.name = vec![b'n'; 255];
        node.mtime_nsec = 999_999_999;
        node.xattrs = vec![
            ([&b"user."[..], &[b'k'; 250]].concat(), vec![1; 65535]),
            (b"system.posix_acl_default".to_vec(), Vec::new()),
        ];
        chunks(node)[0].index = (1 << 24) - 2;
        chunks(node)[0].uncompressed_offset = (1 << 36) - 4096;
        let parent = NodeId(1);
        let target = vec![b't'; 4095];
        tree.add(parent, Node::new("l", 0o120_777, Content::Symlink { target }));
        let count = if version == Version::V5 { 256 } else { 254 };
        let blobs: Vec<_> = (0..count).map(blob).collect();
        let bytes = write_bootstrap(&tree, &blobs, &options(version)).unwrap();
        let bootstrap = rafs::Bootstrap::from_bytes(bytes, "b", &rafs::OpenOptions::default()).unwrap();
        bootstrap.check().unwrap();

        let (path, message) =
            refused(write_bootstrap(&tree, &(0..count + 1).map(blob).collect::<Vec<_>>(), &options(version)));
        assert!(path == "/" && message.contains(&format!("at most {count}")), "{message}");
        assert!(message.contains(&format!("{}", count + 1)), "{message}");
    }
}

#[test]
fn entries_beyond_the_limits_are_named() {
    for version in BOTH {
        let name = |name: &'static [u8]| move |node: &mut Node| node.name = name.to_vec();
        assert_refused(version, |node| node.name = vec![b'n'; 256], ["name", "255", "256 bytes"]);
        assert_refused(version, name(b""), ["name", "1 to", "0 bytes"]);
        assert_refused(version, name(b".."), ["name", "..", "2 bytes"]);
        assert_refused(version, name(b"a/b"), ["a/b", "no /", "3 bytes"]);
        assert_refused(version, |node| node.mode = 0o040_755, ["mode", "content", "0o40755"]);
        assert_refused(version, |node| node.mode |= 1 << 16, ["mode", "16 bits", "0o300644"]);
        assert_refused(
            version,
            |node| node.mtime_nsec = 1_000_000_000,
            ["nanoseconds", "10^9", "1000000000"],
        );

        let long = |node: &mut Node| node.xattrs = vec![(b"user.k".to_vec(), vec![0; 65536])];
        assert_refused(version, long, ["value", "65535", "65536 bytes of \"user.k\""]);
        let key = |key: &[u8]| {
            let pair = (key.to_vec(), Vec::new());
            move |node: &mut Node| node.xattrs = vec![pair]
        };
        assert_refused(version, key(b"system.nfs4_acl"), ["name", "prefix", "system.nfs4_acl"]);
        assert_refused(version, key(b"user."), ["name", "prefix", "user."]);
        assert_refused(version, key(b"user.a\0b"), ["name", "prefix", "user.a\\x00b"]);
        assert_refused(version, key(&[&b"user."[..], &[b'k'; 251]].concat()), ["name", "255", "user.k"]);
        let twice =
            |node: &mut Node| node.xattrs = vec![(b"user.k".to_vec(), vec![1]), (b"user.k".to_vec(), vec![])];
        assert_refused(version, twice, ["extended attributes", "once", "user.k"]);

        let link = |len: usize, byte: u8| {
            move |node: &mut Node| {
                node.mode = 0o120_777;
                node.content = Content::Symlink { target: vec![byte; len] };
            }
        };
        assert_refused(version, link(4096, b't'), ["symlink", "4095", "4096 bytes"]);
        assert_refused(version, link(0, b't'), ["symlink", "4095", "0 bytes"]);
        assert_refused(version, link(3, 0), ["symlink", "NUL", "3 bytes"]);

        let last = |node: &mut Node| chunks(node)[0].index = (1 << 24) - 1;
        assert_refused(version, last, ["index of a chunk", "under 16777215", "found 16777215"]);
        assert_refused(version, |node| chunks(node)[0].blob_index = 1, ["blob", "under 1", "found 1"]);
        assert_refused(
            version,
            |node| chunks(node)[0].uncompressed_size = 1,
            ["size of a chunk", "4096", "found 1"],
        );
        let far = |node: &mut Node| chunks(node)[0].uncompressed_offset = 1 << 36;
        assert_refused(version, far, ["uncompressed range", "68719476736", "found 68719476736"]);
        assert_refused(version, |node| chunks(node).clear(), ["chunks", "1 of 4096 bytes", "found 0"]);
        let endless = |node: &mut Node| node.content = Content::Regular { size: 1 << 63, chunks: vec![] };
        assert_refused(version, endless, ["size", "2^63", "9223372036854775808"]);
    }
    assert_refused(
        Version::V6,
        |node| chunks(node)[0].uncompressed_offset = 512,
        ["uncompressed offset", "multiple of 4096", "found 512"],
    );
    let xattrs = |node: &mut Node| {
        node.xattrs = (0..5).map(|key| (format!("user.{key}").into_bytes(), vec![0; 65535])).collect();
    };
    assert_refused(Version::V6, xattrs, ["extended attributes", "262148", "found 327712"]);
    assert_refused(
        Version::V5,
        |node| chunks(node)[0].stored.flags = ChunkFlags::BATCH,
        ["flags", "COMPRESSED", "BATCH"],
    );
    let short = |node: &mut Node| chunks(node)[0].stored.compressed_size = 4095;
    assert_refused(Version::V5, short, ["compressed size", "4096", "4095"]);
    let far = |node: &mut Node| chunks(node)[0].stored.compressed_offset = 1 << 36;
    assert_refused(Version::V5, far, ["compressed range", "68719476736", "found 68719476736"]);
}

#[test]
fn trees_that_are_none_are_refused() {
    for version in BOTH {
        let write = |tree: &Tree| refused(write_bootstrap(tree, &[blob(0)], &options(version)));
        let (mut twice, file) = tree();
        twice.add(NodeId(1), twice[file].clone());
        let (path, message) = write(&twice);
        assert!(path == "/d/f" && message.contains("different names"), "{message}");

        let (mut shared, file) = tree();
        match &mut shared[Tree::ROOT].content {
            Content::Directory { children } => children.push(file),
            _ => unreachable!(),
        }
        let (path, message) = write(&shared);
        assert!(path == "/d" && message.contains("second place"), "{message}");

        let (mut cycle, _) = tree();
        cycle[NodeId(1)].content = Content::Directory { children: vec![Tree::ROOT] };
        assert_eq!(write(&cycle).0, "/d");
        cycle[NodeId(1)].content = Content::Directory { children: vec![NodeId(99)] };
        assert_eq!(write(&cycle).0, "/d");

        let root = Tree::new(Node::new("/", 0o010_644, Content::Special));
        assert!(write(&root).1.contains("root"));
        assert!(write(&Tree { nodes: Vec::new() }).1.contains("root"));

        let (mut linked, file) = tree();
        linked[file].hard_links = Some(7);
        let other = Node { name: b"g".to_vec(), uid: 1, ..linked[file].clone() };
        linked.add(Tree::ROOT, other);
        let (path, message) = write(&linked);
        // `/g` is numbered before what is in `/d`.
        assert!(path == "/d/f" && message.contains("hard link") && message.contains("of /g"), "{message}");
    }
}

#[test]
fn images_beyond_the_limits_are_refused() {
    let (tree, _) = tree();
    let write = |version, change: &dyn Fn(&mut ImageOptions, &mut BlobEntry)| {
        let (mut options, mut blob) = (options(version), blob(0));
        change(&mut options, &mut blob);
        let (path, message) = refused(write_bootstrap(&tree, &[blob], &options));
        assert_eq!(path, "/");
        message
    };
    for version in BOTH {
        let assert_message = |word: &str, change: &dyn Fn(&mut ImageOptions, &mut BlobEntry)| {
            let message = write(version, change);
            assert!(message.contains(word), "{word:?} is not in: {message}");
        };
        assert_message("chunk size", &|options, _| options.chunk_size = 5000);
        assert_message("chunk size", &|options, _| options.chunk_size = 32 << 20);
        assert_message("chunk size of a blob", &|_, blob| blob.description.chunk_size = 8192);
        assert_message("chunk count", &|_, blob| blob.description.chunk_count += 1);
        assert_message("compressed size", &|_, blob| blob.description.compressed_size = (1 << 40) + 1);
        assert_message("uncompressed size", &|_, blob| blob.description.uncompressed_size = (1 << 44) + 4096);
        let cipher = Cipher { key: [1; 32], iv: [2; 16] };
        assert_message("cipher", &|_, blob| blob.description.cipher = Some(cipher));
    }
    let cipher = Cipher { key: [1; 32], iv: [2; 16] };
    let message = write(Version::V5, &|_, blob| {
        blob.description.cipher = Some(cipher);
        blob.description.features |= BlobFeatures::ENCRYPTED;
    });
    assert!(message.contains("cipher"), "{message}");
    for change in [
        (|options, _| options.block_size = 1024) as fn(&mut ImageOptions, &mut BlobEntry),
        |_, blob| blob.description.features = BlobFeatures::CAP_TAR_TOC,
        |_, blob| blob.description.uncompressed_size += 1,
        |_, blob| blob.description.uncompressed_size = 0,
        |_, blob| blob.description.meta_id = Some(BlobId::new("not a digest").unwrap()),
        // 2^32 blocks.
        |_, blob| blob.description.uncompressed_size = 1 << 44,
    ] {
        let message = write(Version::V6, &change);
        assert!(message.contains("block") || message.contains("blob"), "{message}");
    }
    let twice = refused(write_bootstrap(&tree, &[blob(1), blob(1)], &options(Version::V6)));
    assert!(twice.1.contains("blob-1 twice"), "{}", twice.1);
}

/// Readers refuse a blob whose numbers contradict each other; so does the writer.
#[test]
fn what_could_not_be_opened_is_not_written() {
    let (tree, _) = tree();
    let mut blob = blob(0);
    blob.description.ci = None;
    let error = write_bootstrap(&tree, &[blob], &options(Version::V6)).unwrap_err();
    assert!(matches!(error, Error::Corrupt { what: "chunk information", .. }), "{error}");
}

#[test]
fn targets_that_no_system_call_reads_are_found_by_check() {
    for version in BOTH {
        let (mut tree, _) = tree();
        tree.add(NodeId(1), Node::new("l", 0o120_777, Content::Symlink { target: vec![b't'; 4095] }));
        let mut bytes = write_bootstrap(&tree, &[blob(0)], &options(version)).unwrap();
        // One byte more, as builders have written it.
        let target = bytes.windows(4095).position(|window| window.iter().all(|byte| *byte == b't')).unwrap();
        bytes[target + 4095] = b't';
        let size = bytes.windows(8).position(|window| window == 4095_u64.to_le_bytes()).unwrap();
        bytes[size..size + 8].copy_from_slice(&4096_u64.to_le_bytes());
        if version == Version::V5 {
            // The size lies 64 bytes into the record, that of the target 102.
            bytes[size + 38..size + 40].copy_from_slice(&4096_u16.to_le_bytes());
        }
        let bootstrap = rafs::Bootstrap::from_bytes(bytes, "b", &rafs::OpenOptions::default()).unwrap();
        let message = bootstrap.check().unwrap_err().to_string();
        assert!(
            message.contains("symlink target") && message.contains("4096 bytes"),
            "{version:?}: {message}"
        );
    }
}
