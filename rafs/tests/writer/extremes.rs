//! Trees that are large in one direction.

use rafs::build::{Content, ImageOptions, Node, Tree, read_tree, write_bootstrap};
use rafs::{Bootstrap, OpenOptions, Version};

fn written(tree: &Tree, version: Version) -> Bootstrap {
    let bytes = write_bootstrap(tree, &[], &ImageOptions::new(version)).unwrap();
    let options = OpenOptions { verify_inodes: true, ..OpenOptions::default() };
    let bootstrap = Bootstrap::from_bytes(bytes, "image.boot", &options).unwrap();
    bootstrap.check().unwrap();
    bootstrap
}

fn empty_file(name: String) -> Node {
    Node::new(name, 0o100_644, Content::Regular { size: 0, chunks: Vec::new() })
}

#[test]
fn an_empty_image() {
    let tree = Tree::new(Node::directory("/", 0o755));
    let v5 = written(&tree, Version::V5);
    // The superblock, the inode table, and the root.
    assert_eq!(v5.size(), 8192 + 8 + 128 + 8);
    let v6 = written(&tree, Version::V6);
    assert_eq!((v6.size(), v6.root().0), (8192, 128));
}

#[test]
fn a_directory_of_100_000_entries() {
    const COUNT: u32 = 100_000;
    let mut tree = Tree::new(Node::directory("/", 0o755));
    let wide = tree.add(Tree::ROOT, Node::directory("wide", 0o755));
    // Not in the order of names.
    for number in 0..COUNT {
        tree.add(wide, empty_file(format!("file-{}", u64::from(number) * 77_777 % u64::from(COUNT))));
    }
    for version in [Version::V5, Version::V6] {
        let bootstrap = written(&tree, version);
        let wide = bootstrap.lookup(bootstrap.root(), b"wide").unwrap().unwrap();
        assert_eq!(bootstrap.read_dir(wide, 0).unwrap().count(), COUNT as usize);
        for name in ["file-0", "file-99999", "file-50000"] {
            assert!(bootstrap.lookup(wide, name.as_bytes()).unwrap().is_some(), "{name}");
        }
        assert_eq!(bootstrap.lookup(wide, b"file-100000").unwrap(), None);
    }
}

#[test]
fn directories_5000_deep() {
    const DEPTH: u64 = 5000;
    let mut tree = Tree::new(Node::directory("/", 0o755));
    let mut directory = Tree::ROOT;
    for level in 1..DEPTH {
        // What comes behind the directory is placed before what is in it.
        tree.add(directory, empty_file(format!("z{level}")));
        directory = tree.add(directory, Node::directory(format!("d{level}"), 0o700));
    }
    for version in [Version::V5, Version::V6] {
        let bootstrap = written(&tree, version);
        assert_eq!(bootstrap.check().unwrap().depth, DEPTH);
        let (found, _) = read_tree(&bootstrap).unwrap();
        assert_eq!(found.nodes.len(), tree.nodes.len());
    }
}

/// Entries that fill blocks exactly, and one byte more.
#[test]
fn directories_around_the_size_of_a_block() {
    for version in [Version::V5, Version::V6] {
        for length in 1..255 {
            let mut tree = Tree::new(Node::directory("/", 0o755));
            // 25 bytes for the links, 31 entries of 131 bytes: 10 bytes are left of the block.
            for number in 0..30 {
                tree.add(Tree::ROOT, empty_file(format!("{number:0>119}")));
            }
            tree.add(Tree::ROOT, empty_file("x".repeat(length)));
            tree.add(Tree::ROOT, empty_file("y".repeat(255 - length)));
            let bootstrap = written(&tree, version);
            assert_eq!(bootstrap.read_dir(bootstrap.root(), 0).unwrap().count(), 32, "{length}");
        }
    }
}
