//! Images are built from tar archives: those that GNU tar makes of the fixtures and of random trees, streams, and bad
//! ones.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{blob_ids, create, fixtures, nydus_image, open, random_tree, without_stored};
use rafs::build::{
    BlobEntry, Content, ImageOptions, Node, NodeId, Tree, read_blobs, read_tree, write_bootstrap,
};
use rafs::{Bootstrap, OpenOptions};
use storage::digest::Digest;

/// Makes a tar of a directory in the way of the fixtures; false if there is no GNU tar.
fn tar(directory: &Path, archive: &Path, flags: &[&str]) -> bool {
    let status = Command::new("tar")
        .args(["--sort=name", "--xattrs", "--xattrs-include=*"])
        .args(flags)
        .arg("-C")
        .arg(directory)
        .arg("-cf")
        .args([archive, ".".as_ref()])
        .stderr(Stdio::null())
        .status();
    let made = status.is_ok_and(|status| status.success());
    if !made {
        eprintln!("SKIPPED: GNU tar cannot make {}", archive.display());
    }
    made
}

/// Compresses in members of a few bytes each.
fn gzip_members(data: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    for piece in data.chunks(70_000) {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(piece).unwrap();
        whole.extend(encoder.finish().unwrap());
    }
    whole
}

/// An inode and its chunks, as every source has them: wherever they are stored.
type Seen = (Node, Vec<(Digest, u32)>, Option<String>);

/// A tree by paths, without what only one kind of source tells.
fn seen(tree: &Tree) -> HashMap<String, Seen> {
    let mut found = HashMap::new();
    let mut first_of_group = HashMap::new();
    let mut stack = vec![(Tree::ROOT, String::new())];
    while let Some((id, path)) = stack.pop() {
        let mut node = tree[id].clone();
        node.from_tar_link = false;
        if !matches!(node.mode & 0o170_000, 0o020_000 | 0o060_000) {
            node.rdev = 0;
        }
        if id == Tree::ROOT {
            (node.mtime, node.mtime_nsec) = (0, 0);
        }
        let mut chunks = Vec::new();
        match &mut node.content {
            Content::Regular { chunks: list, .. } => {
                chunks = list.drain(..).map(|chunk| (chunk.digest, chunk.uncompressed_size)).collect();
            }
            Content::Directory { children } => {
                let mut names: Vec<(Vec<u8>, NodeId)> =
                    children.drain(..).map(|child| (tree[child].name.clone(), child)).collect();
                names.sort();
                for (name, child) in names.into_iter().rev() {
                    stack.push((child, format!("{path}/{}", name.escape_ascii())));
                }
            }
            _ => {}
        }
        let group = node.hard_links.take();
        let group = group.map(|group| first_of_group.entry(group).or_insert_with(|| path.clone()).clone());
        found.insert(path, (node, chunks, group));
    }
    found
}

fn assert_same(tree: &Tree, expected: &Tree, context: &str) {
    let (found, expected) = (seen(tree), seen(expected));
    for (path, node) in &expected {
        assert_eq!(found.get(path), Some(node), "{context}: {path}");
    }
    assert_eq!(found.len(), expected.len(), "{context}: nothing else");
}

/// Reads every chunk of an uncompressed image, and compares it with its digest.
fn verify_chunks(tree: &Tree, blobs: &[BlobEntry], options: &ImageOptions, directory: &Path) -> usize {
    let mut verified = 0;
    for node in &tree.nodes {
        let Content::Regular { chunks, .. } = &node.content else { continue };
        for chunk in chunks {
            let id = blobs[chunk.blob_index as usize].description.id.as_str();
            let mut data = vec![0; chunk.uncompressed_size as usize];
            let blob = File::open(directory.join(id)).unwrap();
            blob.read_exact_at(&mut data, chunk.stored.compressed_offset).unwrap();
            assert_eq!(options.digester.digest(&data), chunk.digest, "{:?}", node.name);
            verified += 1;
        }
    }
    verified
}

#[test]
fn a_blob_with_its_bootstrap_inside_is_built_again() {
    let Some(dir) = fixtures() else { return };
    let archive = dir.path().join("a.tar");
    if !tar(&dir.path().join("a"), &archive, &[]) {
        return;
    }
    let blob = dir.path().join("blob");
    let args = ["create", "-t", "tar-rafs", "--blob-inline-meta", "--features", "blob-toc", "--blob"];
    let output = nydus_image(&[&args[..], &[blob.to_str().unwrap(), archive.to_str().unwrap()]].concat(), "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (tree, options, blobs) = open(&blob);
    let reference = dir.path().join("images/v6-inline/blobs");
    let id = blob_ids(&reference).remove(0);
    let (expected, expected_options, expected_blobs) = open(&reference.join(id));
    assert_eq!(options, expected_options);
    // zstd may compress otherwise; all else is the same.
    assert!(without_stored(tree).nodes == without_stored(expected).nodes, "the trees differ");
    let (ours, theirs) = (&blobs[0].description, &expected_blobs[0].description);
    assert_eq!(
        (ours.features, ours.chunk_count, ours.uncompressed_size),
        (theirs.features, theirs.chunk_count, theirs.uncompressed_size)
    );
}

#[test]
fn layers_are_built_again_from_their_archives() {
    let Some(dir) = fixtures() else { return };
    let reference = dir.path().join("images/v6-merge/boots");
    let references: Vec<PathBuf> = blob_ids(&reference).iter().map(|id| reference.join(id)).collect();
    let mut equal = 0;
    for layer in ["a", "b", "c"] {
        let archive = dir.path().join(format!("{layer}.tar"));
        if !tar(&dir.path().join(layer), &archive, &[]) {
            return;
        }
        let out = dir.path().join(format!("out-{layer}"));
        let (tree, options, _) = create(&archive, &out, &["-t", "tar-rafs"], "");
        let id = blob_ids(&out.join("blobs")).remove(0);
        if layer == "a" {
            // Large enough for zstd's version to make a difference.
            let same = references.iter().filter(|path| {
                let (expected, expected_options, _) = open(path);
                options == expected_options
                    && without_stored(tree.clone()).nodes == without_stored(expected).nodes
            });
            assert_eq!(same.count(), 1, "{layer}");
            continue;
        }
        let path = references.iter().find(|path| path.ends_with(&id));
        let (expected, options, blobs) =
            open(path.unwrap_or_else(|| panic!("{layer}: no blob of the id {id}")));
        let expected = write_bootstrap(&expected, &blobs, &options).unwrap();
        assert!(fs::read(out.join("bootstrap")).unwrap() == expected, "{layer}: the bootstraps differ");
        equal += 1;
    }
    assert_eq!(equal, 2);
}

#[test]
fn archives_of_every_dialect_give_the_tree_of_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    for (seed, version) in [(1, "-v6"), (2, "-v5"), (3, "-v6")] {
        let source = dir.path().join(format!("source{seed}"));
        fs::create_dir(&source).unwrap();
        random_tree(&source, seed);
        // What archives of all dialects can tell: whole seconds.
        let status = Command::new("find")
            .arg(&source)
            .args(["-exec", "touch", "-h", "-d", "@1700000000", "{}", "+"])
            .status();
        if !status.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: no find or touch");
            return;
        };
        let flags = [version, "--chunk-size=0x10000"];
        let (expected, expected_options, _) =
            create(&source, &dir.path().join(format!("d{seed}")), &flags, "");
        for (number, dialect) in [
            &["--format=gnu"][..],
            &["--format=posix"],
            &["--format=gnu", "--sparse"],
            &["--format=posix", "--sparse", "--sparse-version=0.0"],
            &["--format=posix", "--sparse", "--sparse-version=0.1"],
            &["--format=posix", "--sparse", "--sparse-version=1.0"],
            &["--format=ustar", "--no-xattrs"],
        ]
        .into_iter()
        .enumerate()
        {
            let archive = dir.path().join("archive");
            if !tar(&source, &archive, dialect) {
                return;
            }
            let out = dir.path().join(format!("{seed}-{number}"));
            let mut flags = vec![version, "--chunk-size=0x10000", "-t", "tar-rafs"];
            let threads = format!("--threads={}", number + 1);
            flags.push(&threads);
            let (tree, options, blobs) = create(&archive, &out, &flags, "");
            assert_same(&tree, &expected, &format!("{version} {dialect:?}"));
            assert_eq!(options, expected_options);
            assert_eq!(blobs.len(), 1);
            // The same through gzip.
            fs::write(&archive, gzip_members(&fs::read(&archive).unwrap())).unwrap();
            flags[3] = "targz-rafs";
            let gzip_out = dir.path().join(format!("{seed}-{number}-gzip"));
            create(&archive, &gzip_out, &flags, "");
            assert_eq!(blob_ids(&gzip_out.join("blobs")), blob_ids(&out.join("blobs")));
            assert!(
                fs::read(gzip_out.join("bootstrap")).unwrap() == fs::read(out.join("bootstrap")).unwrap()
            );
        }
    }
}

/// An archive of these entries: path, mode and content.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, data) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1000);
        header.set_uid(0);
        header.set_gid(0);
        builder.append_data(&mut header, path, *data).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn streams_are_read_once() {
    let dir = tempfile::tempdir().unwrap();
    let noise: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
    let bytes = archive(&[("a", b"content"), ("d/large", &noise), ("z", b"")]);
    let path = dir.path().join("archive");
    fs::write(&path, &bytes).unwrap();
    let out = dir.path().join("file");
    create(&path, &out, &["-t", "tar-rafs"], "");
    let expected = fs::read(out.join("bootstrap")).unwrap();

    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let out = dir.path().join("from-fifo");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = File::options().write(true).open(&fifo).unwrap();
            // In pieces of all sizes, and never twice.
            bytes.chunks(12_345).for_each(|piece| writer.write_all(piece).unwrap());
        });
        create(&fifo, &out, &["-t", "tar-rafs"], "");
    });
    assert!(fs::read(out.join("bootstrap")).unwrap() == expected, "a FIFO");

    let bootstrap = dir.path().join("from-stdin");
    let args = ["create", "-t", "targz-rafs", "-D", dir.path().to_str().unwrap(), "-B"];
    let mut child = Command::new(env!("CARGO_BIN_EXE_nydus-image"))
        .args(args)
        .args([bootstrap.to_str().unwrap(), "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&gzip_members(&bytes)).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(fs::read(bootstrap).unwrap() == expected, "standard input");
}

#[test]
fn bad_archives_are_refused_by_entry_and_offset_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let path = dir.path().join("bad");
    let good = archive(&[("a", &[7; 3000]), ("d/b", &[8; 3000])]);
    // A lie about the size, with a checksum that agrees.
    let mut lies = good.clone();
    let mut header = tar::Header::from_byte_slice(&good[..512]).clone();
    header.set_size(9 << 30);
    header.set_cksum();
    lies[..512].copy_from_slice(header.as_bytes());
    let gzip = gzip_members(&good);
    let zstd = zstd::encode_all(&good[..], 0).unwrap();
    let xz = [&b"\xfd7zXZ\0"[..], &[7; 600]].concat();
    // A frame whose header asks for a window of 256 MiB, one more than is given.
    let window = [&b"\x28\xb5\x2f\xfd\0\x90"[..], &[0; 600]].concat();
    let mut links = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Link);
    header.set_size(0);
    links.append_link(&mut header, "l", "later").unwrap();
    let mut escapes = archive(&[("xx/e", b"")]);
    let mut header = tar::Header::from_byte_slice(&escapes[..512]).clone();
    header.as_old_mut().name[..2].copy_from_slice(b"..");
    header.set_cksum();
    escapes[..512].copy_from_slice(header.as_bytes());
    for (kind, bytes, detail) in [
        ("tar-rafs", good[..5000].to_vec(), "\"d/b\" at offset 5000: the archive ends here"),
        ("tar-rafs", lies, "\"a\" at offset 8192: the archive ends here"),
        (
            "tar-rafs",
            [&good[..good.len() - 512], b"garbage"].concat(),
            ": something follows a single block of zeros",
        ),
        ("tar-rafs", xz, "at offset 0: is compressed, not a plain tar"),
        ("tar-rafs", zstd[..zstd.len() - 3].to_vec(), ": cannot read on: incomplete frame"),
        ("tar-rafs", [&zstd[..], b"garbage"].concat(), ": cannot read on: Unknown frame descriptor"),
        ("tar-rafs", window, "at offset 0: cannot read on: Frame requires too much memory"),
        ("tar-tarfs", gzip.clone(), "at offset 0: is compressed with gzip"),
        ("tar-rafs", Vec::new(), "at offset 0: is empty"),
        ("tar-rafs", links.into_inner().unwrap(), "\"l\" at offset 0: hard link to \"later\""),
        ("tar-rafs", escapes, "\"../e\" at offset 0: \"..\" in a path"),
        ("targz-rafs", gzip[..gzip.len() - 3].to_vec(), "at offset 8192: cannot read on"),
        ("targz-rafs", gzip[..gzip.len() / 2].to_vec(), ": cannot read on"),
        ("targz-rafs", [&gzip[..], b"garbage"].concat(), "something follows the last member"),
    ] {
        fs::write(&path, bytes).unwrap();
        let (blobs, bootstrap) = (out.to_str().unwrap(), out.join("bootstrap"));
        let args =
            ["create", "-t", kind, "-D", blobs, "-B", bootstrap.to_str().unwrap(), path.to_str().unwrap()];
        let output = nydus_image(&args, "");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{detail}: {stderr}");
        assert!(stderr.contains(detail), "{detail}: {stderr}");
        assert_eq!(fs::read_dir(&out).unwrap().count(), 0, "{detail}");
    }
    let args = ["create", "-t", "tar-rafs", "-D", out.to_str().unwrap(), "--prefetch-policy=fs", "-"];
    let output = nydus_image(&args, "");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--prefetch-policy"));
}

#[test]
fn what_only_helps_to_read_an_estargz_layer_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = archive(&[
        (".prefetch.landmark", &[15]),
        ("a", b"content"),
        ("d/.no.prefetch.landmark", &[15]),
        ("stargz.index.json", b"{}"),
    ]);
    let path = dir.path().join("layer");
    fs::write(&path, gzip_members(&bytes)).unwrap();
    let paths = |kind: &str| {
        let (tree, ..) = create(&path, &dir.path().join(kind), &["-t", kind], "");
        let mut paths: Vec<String> = seen(&tree).into_keys().collect();
        paths.sort();
        paths
    };
    assert_eq!(paths("estargz-rafs"), ["", "/a", "/d", "/d/.no.prefetch.landmark"]);
    assert_eq!(paths("targz-rafs").len(), 6);
}

#[test]
fn a_layer_from_an_archive_refers_to_its_own_blob_and_to_those_below() {
    let dir = tempfile::tempdir().unwrap();
    let blobs_dir = dir.path().join("blobs");
    fs::create_dir(&blobs_dir).unwrap();
    let lower =
        archive(&[("shared", b"in both"), ("gone", b"removed"), ("changed", b"before"), ("d/kept", b"kept")]);
    let upper = archive(&[
        (".wh.gone", b""),
        ("changed", b"after"),
        ("copy", b"in both"),
        ("d/new", b"new"),
        ("d/new", b"newer"),
    ]);
    let (lower_path, upper_path) = (dir.path().join("lower"), dir.path().join("upper"));
    fs::write(&lower_path, lower).unwrap();
    fs::write(&upper_path, upper).unwrap();
    for version in ["-v5", "-v6"] {
        let build = |source: &Path, name: &str, flags: &[&str]| {
            let bootstrap = dir.path().join(name);
            let mut args = vec!["create", version, "-t", "tar-rafs", "--compressor=none"];
            args.extend(["-D", blobs_dir.to_str().unwrap(), "-B", bootstrap.to_str().unwrap()]);
            args.extend(flags);
            args.push(source.to_str().unwrap());
            let output = nydus_image(&args, "");
            assert!(output.status.success(), "{version} {name}: {}", String::from_utf8_lossy(&output.stderr));
            bootstrap
        };
        let parent = build(&lower_path, "parent", &[]);
        let layered = build(&upper_path, "layered", &["--parent-bootstrap", parent.to_str().unwrap()]);
        let (tree, options, blobs) = open(&layered);
        let mut paths: Vec<String> = seen(&tree).into_keys().collect();
        paths.sort();
        assert_eq!(paths, ["", "/changed", "/copy", "/d", "/d/kept", "/d/new", "/shared"], "{version}");
        assert_eq!(blobs.len(), 2, "{version}");
        assert_eq!(verify_chunks(&tree, &blobs, &options, &blobs_dir), 5, "{version}");
        let chunk_of = |name: &str| {
            let node = tree.nodes.iter().find(|node| node.name == name.as_bytes()).unwrap();
            let Content::Regular { chunks, .. } = &node.content else { panic!("{name}") };
            (chunks[0].blob_index, chunks[0].uncompressed_size)
        };
        assert_eq!(chunk_of("copy"), (0, 7), "{version}: the parent has it");
        assert_eq!(chunk_of("changed"), (1, 5), "{version}");
        assert_eq!(chunk_of("new"), (1, 5), "{version}: the last one wins");

        // A dictionary is not laid under the layer, and its blobs are there only if they are used.
        let dictionary = parent.to_str().unwrap();
        let (tree, options, blobs) =
            open(&build(&upper_path, "with-dictionary", &["--chunk-dict", dictionary]));
        assert!(seen(&tree).contains_key("/.wh.gone"), "{version}: a layer alone keeps its whiteouts");
        assert_eq!(verify_chunks(&tree, &blobs, &options, &blobs_dir), 3, "{version}");
        assert_eq!(blobs.len(), 2, "{version}");
        let ids = |path: &Path| {
            let opened = Bootstrap::open(path, &OpenOptions::default()).unwrap();
            assert!(read_tree(&opened).is_ok());
            read_blobs(&opened).iter().map(|blob| blob.description.id.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(ids(&layered)[0], ids(&parent)[0], "{version}");
    }
}

#[test]
fn holes_of_an_archive_are_not_made_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    let records = [
        ("GNU.sparse.major", &b"1"[..]),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"sparse"),
        // Filling it would take longer than the test may.
        ("GNU.sparse.realsize", b"21474836480"),
    ];
    builder.append_pax_extensions(records).unwrap();
    let mut data = b"1\n10737418240\n4\n".to_vec();
    data.resize(512, 0);
    data.extend_from_slice(b"data");
    let mut header = tar::Header::new_ustar();
    header.set_size(data.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, "GNUSparseFile.0/sparse", &data[..]).unwrap();
    let path = dir.path().join("archive");
    fs::write(&path, builder.into_inner().unwrap()).unwrap();
    let (tree, ..) = create(&path, dir.path(), &["-t", "tar-rafs"], "");
    let file = tree.nodes.iter().find(|node| node.name == b"sparse").unwrap();
    let Content::Regular { size, chunks } = &file.content else { panic!("a file") };
    assert_eq!((*size, chunks.len()), (20 << 30, 20 << 10));
    assert!(chunks[10 << 10].digest != chunks[0].digest);
    assert!(chunks.iter().enumerate().all(|(at, chunk)| at == 10 << 10 || chunk.digest == chunks[0].digest));
}

#[test]
fn what_an_archive_is_compressed_with_is_seen_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let plain = archive(&[("a", b"content"), ("d/large", &[7; 300_000])]);
    let frames: Vec<u8> = plain.chunks(100_000).flat_map(|part| zstd::encode_all(part, 1).unwrap()).collect();
    // A frame without content, as zstd:chunked has them.
    let skippable = [&b"\x5f\x2a\x4d\x18\x04\0\0\0"[..], b"skip"].concat();
    let path = dir.path().join("archive");
    let mut expected = None;
    for (what, bytes) in [
        ("plain", plain.clone()),
        ("gzip", gzip_members(&plain)),
        ("zstd", zstd::encode_all(&plain[..], 19).unwrap()),
        ("frames", [&skippable[..], &frames, &skippable].concat()),
    ] {
        fs::write(&path, bytes).unwrap();
        for kind in ["tar-rafs", "targz-rafs", "estargz-rafs"] {
            let out = dir.path().join(format!("{what}-{kind}"));
            create(&path, &out, &["-t", kind], "");
            let built = (fs::read(out.join("bootstrap")).unwrap(), blob_ids(&out.join("blobs")));
            let expected = expected.get_or_insert_with(|| built.clone());
            assert!(built == *expected, "{what} as {kind}");
        }
    }
}

#[test]
fn what_lies_behind_the_end_is_ignored_as_gnu_tar_does() {
    let dir = tempfile::tempdir().unwrap();
    let first = archive(&[("a", b"content")]);
    let second = archive(&[("b", b"of another archive")]);
    let path = dir.path().join("archive");
    for (what, bytes) in [
        ("garbage", [&first[..], &[0; 700], b"garbage"].concat()),
        ("an archive", [&first[..], &second].concat()),
        ("zeros", [&first[..], &[0; 20_000]].concat()),
    ] {
        fs::write(&path, &bytes).unwrap();
        let listed = Command::new("tar").arg("-tf").arg(&path).output();
        match listed {
            Ok(listed) => assert_eq!(listed.stdout, b"a\n", "{what}"),
            Err(error) => eprintln!("SKIPPED: comparison with GNU tar: {error}"),
        }
        for version in ["-v5", "-v6"] {
            let bootstrap = dir.path().join("bootstrap");
            let (blobs, bootstrap) = (dir.path().to_str().unwrap(), bootstrap.to_str().unwrap());
            let args =
                ["create", version, "-t", "tar-rafs", "-D", blobs, "-B", bootstrap, path.to_str().unwrap()];
            let output = nydus_image(&args, "");
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{what}: {stderr}");
            assert_eq!(
                stderr.contains("behind the end of the archive, are ignored"),
                what != "zeros",
                "{stderr}"
            );
            let (tree, ..) = open(bootstrap.as_ref());
            let mut paths: Vec<_> = seen(&tree).into_keys().collect();
            paths.sort();
            assert_eq!(paths, ["", "/a"], "{what}");
        }
    }
}

#[test]
fn directories_without_an_entry_have_none_when_the_layer_is_unpacked() {
    let dir = tempfile::tempdir().unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_mode(0o640);
    builder.append_data(&mut header.clone(), "tmp/x", &[][..]).unwrap();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o755);
    builder.append_data(&mut header.clone(), "d", &[][..]).unwrap();
    let layer = dir.path().join("layer");
    fs::write(&layer, builder.into_inner().unwrap()).unwrap();
    for version in ["-v5", "-v6"] {
        let out = dir.path().join(version);
        create(&layer, &out, &[version, "-t", "tar-rafs"], "");
        let [bootstrap, blobs, tar] = ["bootstrap", "blobs", "tar"].map(|name| out.join(name));
        let paths = [&bootstrap, &blobs, &tar].map(|path| path.to_str().unwrap());
        let output = nydus_image(&["unpack", "-B", paths[0], "-D", paths[1], "--output", paths[2]], "");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut archive = tar::Archive::new(File::open(&tar).unwrap());
        let entries = archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned());
        assert_eq!(entries.collect::<Vec<_>>(), [Path::new("d/"), Path::new("tmp/x")], "{version}");
    }
}
