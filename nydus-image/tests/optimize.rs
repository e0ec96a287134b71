//! Images get a blob of what is to be fetched first, and every file is what it was.
#![allow(clippy::unwrap_used)]

mod images;

use std::collections::HashMap;
use std::fs;

use images::{Fixtures, blobs_in, create, each_unit, file_digest, files, noise, run, text, verified_files};
use nydus_image::layers::Layer;
use rafs::build::{Content, Numbering};
use serde_json::json;
use storage::blob::{BlobFeatures, ChunkFlags};

/// Images of version 6, of every kind of chunk table.
const IMAGES: [&str; 8] = [
    "v6-zstd",
    "v6-none",
    "v6-lz4-4k-sha256",
    "v6-batch-toc",
    "v6-encrypt",
    "v6-inline",
    "v6-merge",
    "v6-zran",
];

const PREFETCH: BlobFeatures =
    BlobFeatures::IS_SEPARATED_WITH_PREFETCH_FILES.union(BlobFeatures::CHUNK_INFO_V2);

#[test]
fn named_files_lie_in_a_blob_of_their_own() {
    let fixtures = Fixtures::unpack();
    for name in IMAGES {
        let (bootstrap, blobs) = fixtures.image(name);
        let dir = tempfile::tempdir().unwrap();
        let (list, output) = (dir.path().join("list"), dir.path().join("boot"));
        let json = dir.path().join("out.json");
        let before = Layer::load(&bootstrap).unwrap();
        let expected = verified_files(&bootstrap, &blobs);
        let named: Vec<_> = expected
            .iter()
            .filter(|(path, (size, _))| *size > 0 && path.to_str().is_some())
            .map(|(path, _)| path.clone())
            .step_by(3)
            .collect();
        let document = json!({
            "version": "v1",
            "files": named.iter().map(|path| json!({ "path": path })).collect::<Vec<_>>(),
        });
        fs::write(&list, document.to_string()).unwrap();
        run(&[
            "optimize",
            "-B",
            text(&bootstrap),
            "-p",
            text(&list),
            "-D",
            text(&blobs),
            "-O",
            text(&output),
            "-J",
            text(&json),
        ]);
        run(&["check", "-B", text(&output)]);
        assert_eq!(verified_files(&output, &blobs), expected, "{name}");

        let after = Layer::load(&output).unwrap();
        let ids = |image: &Layer| -> Vec<_> {
            image.blobs.iter().map(|blob| blob.description.id.to_string()).collect()
        };
        let (old, new) = (ids(&before), ids(&after));
        assert_eq!(new[..old.len()], old, "{name}");
        assert_eq!(new.len(), old.len() + 1, "{name}");
        let last = &after.blobs.last().unwrap().description;
        assert!(last.features.contains(PREFETCH), "{name}: {:?}", last.features);
        assert_eq!(file_digest(&blobs.join(last.id.as_str())), last.id.as_str(), "{name}");
        let result: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
        assert_eq!(result["blobs"], json!(new), "{name}");

        let numbering = Numbering::of(&after.tree).unwrap();
        for (position, id) in numbering.order().iter().enumerate() {
            let Content::Regular { chunks, .. } = &after.tree[*id].content else { continue };
            if named.contains(&numbering.path(&after.tree, position)) {
                let place = old.len() as u32;
                assert!(chunks.iter().all(|chunk| chunk.blob_index == place), "{name}: {position}");
            }
        }
    }
}

#[test]
fn stored_bytes_are_duplicated() {
    let fixtures = Fixtures::unpack();
    for name in ["v6-zstd", "v6-batch-toc"] {
        let (bootstrap, blobs) = fixtures.image(name);
        let dir = tempfile::tempdir().unwrap();
        let (list, output) = (dir.path().join("list"), dir.path().join("boot"));
        // Everything, so that batches are taken as a whole.
        fs::write(&list, "/\n").unwrap();
        run(&[
            "optimize",
            "-B",
            text(&bootstrap),
            "-p",
            text(&list),
            "-D",
            text(&blobs),
            "-O",
            text(&output),
        ]);
        let stored = |bootstrap| {
            let image = Layer::load(bootstrap).unwrap();
            let mut digests = HashMap::new();
            for node in &image.tree.nodes {
                let Content::Regular { chunks, .. } = &node.content else { continue };
                digests.extend(chunks.iter().map(|chunk| ((chunk.blob_index, chunk.index), chunk.digest)));
            }
            let (mut stored, mut batched) = (HashMap::new(), 0);
            each_unit(&image, &blobs_in(&blobs), |blob, index, unit| {
                batched += u32::from(unit.unit.members[0].stored.flags.contains(ChunkFlags::BATCH));
                stored.insert(digests[&(blob, index)], unit.stored.clone());
            });
            (stored, batched)
        };
        let (before, after) = (stored(&bootstrap), stored(&output));
        assert_eq!(before, after, "{name}");
        assert_eq!(before.1 > 0, name == "v6-batch-toc");
        // The whole image is in the new blob.
        let image = Layer::load(&output).unwrap();
        let last = image.blobs.len() as u32 - 1;
        assert!(nydus_image::repack::UsedChunks::of(&image.tree).of_blob(0).next().is_none(), "{name}");
        assert_eq!(last, 1);
    }
}

#[test]
fn ranges_name_chunks() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("src");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("large"), noise(1, 10 * 4096 + 5)).unwrap();
    fs::write(source.join("other"), noise(2, 100)).unwrap();
    let bootstrap = create(&source, dir.path(), "image", &["--chunk-size", "0x1000"]);
    let (list, output, blobs) = (dir.path().join("list"), dir.path().join("boot"), dir.path().join("blobs"));
    let moved = |ranges: serde_json::Value| -> Vec<usize> {
        let document = json!({"version": "v1", "files": [{"path": "/large", "ranges": ranges}]});
        fs::write(&list, document.to_string()).unwrap();
        run(&[
            "optimize",
            "-B",
            text(&bootstrap),
            "-p",
            text(&list),
            "-D",
            text(&blobs),
            "-O",
            text(&output),
        ]);
        assert_eq!(verified_files(&output, &blobs), verified_files(&bootstrap, &blobs));
        let image = Layer::load(&output).unwrap();
        let large = image.tree.nodes.iter().find(|node| node.name == b"large").unwrap();
        let Content::Regular { chunks, .. } = &large.content else { panic!() };
        (0..).zip(chunks).filter(|(_, chunk)| chunk.blob_index == 1).map(|(number, _)| number).collect()
    };
    assert_eq!(moved(json!([[0, 1]])), [0]);
    assert_eq!(moved(json!([[4095, 2], [40960, 1]])), [0, 1, 10]);
    assert_eq!(moved(json!([[4096, 4096], [8192, 0]])), [1]);
    assert_eq!(moved(json!([[8191, u64::MAX]])), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    // Beyond the end of the file, and of what exists.
    assert_eq!(moved(json!([[1_u64 << 40, 1]])), [0_usize; 0]);
}

#[test]
fn lists_that_name_nothing_leave_the_image_as_it_is() {
    let fixtures = Fixtures::unpack();
    let (bootstrap, blobs) = fixtures.image("v6-zstd");
    let dir = tempfile::tempdir().unwrap();
    let (list, output) = (dir.path().join("list"), dir.path().join("boot"));
    fs::write(&list, "/no/such/file\n").unwrap();
    run(&["optimize", "-B", text(&bootstrap), "-p", text(&list), "-D", text(&blobs), "-O", text(&output)]);
    let image = Layer::load(&output).unwrap();
    assert_eq!(image.blobs.len(), 1);
    assert_eq!(files(&image.tree), verified_files(&bootstrap, &blobs));
    assert_eq!(fs::read_dir(&blobs).unwrap().count(), 1);
}

#[test]
fn version_5_has_a_blob_of_what_comes_first_too() {
    let fixtures = Fixtures::unpack();
    for name in ["v5-zstd-blake3", "v5-lz4-sha256", "v5-none-prefetch", "v5-parent"] {
        let (bootstrap, blobs) = fixtures.image(name);
        let dir = tempfile::tempdir().unwrap();
        let (list, output) = (dir.path().join("list"), dir.path().join("boot"));
        let expected = verified_files(&bootstrap, &blobs);
        let named = expected.iter().find(|(path, (size, _))| *size > 0 && path.to_str().is_some()).unwrap().0;
        fs::write(&list, format!("{}\n", text(named))).unwrap();
        run(&[
            "optimize",
            "-B",
            text(&bootstrap),
            "-p",
            text(&list),
            "-D",
            text(&blobs),
            "-O",
            text(&output),
        ]);
        run(&["check", "-B", text(&output)]);
        assert_eq!(verified_files(&output, &blobs), expected, "{name}");
        let (before, after) = (Layer::load(&bootstrap).unwrap(), Layer::load(&output).unwrap());
        assert_eq!(after.blobs.len(), before.blobs.len() + 1, "{name}");
        let numbering = Numbering::of(&after.tree).unwrap();
        let mut positions = 0..numbering.order().len();
        let position = positions.find(|position| numbering.path(&after.tree, *position) == *named).unwrap();
        let Content::Regular { chunks, .. } = &after.tree[numbering.order()[position]].content else {
            panic!()
        };
        assert!(chunks.iter().all(|chunk| chunk.blob_index as usize == before.blobs.len()), "{name}");
    }
}
