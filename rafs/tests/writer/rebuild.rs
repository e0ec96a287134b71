//! Every fixture, read and written again, is the fixture.

use rafs::build::{self, BlobEntry, Content, Node, NodeId, OWN_BLOB_ID, Recorded, Tree};
use rafs::{Bootstrap, OpenOptions};
use storage::blob::{BlobFeatures, BlobId};

use crate::{fixtures, normal};

fn open(path: &str, bytes: &[u8]) -> Bootstrap {
    Bootstrap::from_bytes(bytes.to_vec(), path, &OpenOptions::default()).unwrap()
}

/// The blobs as they stand in the tables: the own blob of a bootstrap by its placeholder.
fn blobs(path: &str, bootstrap: &Bootstrap) -> Vec<BlobEntry> {
    let mut blobs = build::read_blobs(bootstrap);
    for blob in &mut blobs {
        if blob.description.features.contains(BlobFeatures::INLINED_FS_META) {
            assert_eq!(path, "images/v6-inline");
            blob.description.id = BlobId::new(OWN_BLOB_ID).unwrap();
        }
    }
    blobs
}

#[track_caller]
fn assert_same(path: &str, found: &[u8], expected: &[u8]) {
    let difference = found.iter().zip(expected).position(|(found, expected)| found != expected);
    assert_eq!(difference.map(|at| format!("{at:#x}")), None, "{path}: first difference");
    assert_eq!(found.len(), expected.len(), "{path}");
}

fn rewritten(path: &str, bootstrap: &Bootstrap, change: impl FnOnce(&mut Tree)) -> Vec<u8> {
    let (mut tree, options) = build::read_tree(bootstrap).unwrap();
    change(&mut tree);
    build::write_bootstrap(&tree, &blobs(path, bootstrap), &options).unwrap()
}

#[test]
fn every_fixture_is_written_again() {
    for (path, bytes) in fixtures::bootstraps() {
        let bootstrap = open(path, bytes);
        let expected = normal::form(&bootstrap, bytes.to_vec());
        assert_same(path, &rewritten(path, &bootstrap, |_| {}), &expected);
    }
}

/// What `recorded` and `inherited_file_offset` carry is needed for layers on a parent only.
#[test]
fn nothing_is_carried_along_for_images_built_at_once() {
    for (path, bytes) in fixtures::bootstraps() {
        let bootstrap = open(path, bytes);
        let (tree, _) = build::read_tree(&bootstrap).unwrap();
        let recorded: Vec<_> = tree.nodes.iter().filter(|node| node.recorded.is_some()).collect();
        if path.contains("v5-parent") && !path.ends_with("a.boot") {
            // A directory of two layers has the size that it had in the upper one.
            assert_eq!(recorded.len(), 1, "{path}");
            assert_eq!(recorded[0].name, b"many", "{path}");
            assert_eq!(recorded[0].recorded, Some(Recorded { size: 4096, blocks: 8 }), "{path}");
            continue;
        }
        assert_eq!(recorded, Vec::<&Node>::new(), "{path}");
        let forgetful = rewritten(path, &bootstrap, |tree| {
            for node in &mut tree.nodes {
                if let Content::Regular { chunks, .. } = &mut node.content {
                    chunks.iter_mut().for_each(|chunk| chunk.inherited_file_offset = None);
                }
            }
        });
        assert_same(path, &forgetful, &normal::form(&bootstrap, bytes.to_vec()));
    }
}

/// Neither the order of children, of nodes nor of extended attributes shows.
#[test]
fn the_order_in_which_a_tree_was_filled_does_not_show() {
    for (path, bytes) in fixtures::bootstraps() {
        let bootstrap = open(path, bytes);
        let (tree, mut options) = build::read_tree(&bootstrap).unwrap();
        let count = tree.nodes.len() as u32;
        let moved = |id: NodeId| if id == Tree::ROOT { id } else { NodeId(count - id.0) };
        let mut other = tree.clone();
        for (id, mut node) in (0..).map(NodeId).zip(tree.nodes) {
            node.xattrs.reverse();
            if let Content::Directory { children } = &mut node.content {
                children.iter_mut().for_each(|child| *child = moved(*child));
                let turns = id.0 as usize % children.len().max(1);
                children.rotate_left(turns);
            }
            other[moved(id)] = node;
        }
        options.prefetch.iter_mut().for_each(|id| *id = moved(*id));
        let written = build::write_bootstrap(&other, &blobs(path, &bootstrap), &options).unwrap();
        assert_same(path, &written, &normal::form(&bootstrap, bytes.to_vec()));
    }
}

#[test]
fn trees_of_both_versions_are_the_same() {
    let trees = ["v5-zstd-blake3", "v6-zstd"].map(|image| {
        let bootstrap = open(image, &fixtures::bytes(image));
        build::read_tree(&bootstrap).unwrap().0
    });
    let [v5, v6] = trees;
    assert_eq!(v5.nodes.len(), v6.nodes.len());
    for (v5, v6) in v5.nodes.iter().zip(&v6.nodes) {
        assert_eq!(v5.name, v6.name);
        let attributes = |node: &Node| (node.mode, node.uid, node.gid, node.mtime, node.mtime_nsec);
        assert_eq!(attributes(v5), attributes(v6));
        assert_eq!((&v5.xattrs, v5.rdev), (&v6.xattrs, v6.rdev));
        let digests = |node: &Node| match &node.content {
            Content::Regular { chunks, .. } => chunks.iter().map(|chunk| chunk.digest).collect(),
            _ => Vec::new(),
        };
        assert_eq!(digests(v5), digests(v6));
    }
}
