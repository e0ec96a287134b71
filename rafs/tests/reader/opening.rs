//! Opening files: mapped, digest given, cut short, inside a blob.

use std::io::Write as _;

use rafs::{Bootstrap, Error, OpenOptions};
use storage::digest::{Digest, Digester};

use crate::{fixtures, trees};

fn expecting(digest: Digest) -> OpenOptions {
    OpenOptions { expected_digest: Some(digest), ..OpenOptions::default() }
}

#[test]
fn a_file_is_mapped_and_its_digest_checked() {
    let directory = tempfile::tempdir().unwrap();
    for image in ["v5-parent", "v6-merge"] {
        let bytes = fixtures::bytes(image);
        let path = directory.path().join(image);
        std::fs::write(&path, &bytes).unwrap();
        let digest = Digester::Sha256.digest(&bytes);
        let bootstrap = Bootstrap::open(&path, &expecting(digest)).unwrap();
        assert_eq!(bootstrap.size(), bytes.len() as u64);
        bootstrap.check().unwrap();

        let mut wrong = digest;
        wrong.0[31] ^= 1;
        match Bootstrap::open(&path, &expecting(wrong)) {
            Err(Error::DigestMismatch { expected, found, .. }) => {
                assert_eq!((expected, found), (wrong, digest))
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_bootstrap_inside_a_blob_is_taken_out() {
    let directory = tempfile::tempdir().unwrap();
    let blob = directory.path().join(fixtures::INLINE_ID);
    std::fs::write(&blob, fixtures::blob("v6-inline", fixtures::INLINE_ID)).unwrap();
    let cache = directory.path().join("cache");
    std::fs::create_dir(&cache).unwrap();
    let target = cache.join(format!("{}.image.boot", fixtures::INLINE_ID));
    // What lies there is not trusted.
    std::fs::write(&target, fixtures::bytes("v6-zstd")).unwrap();

    for extract_dir in [None, Some(cache.clone()), Some(cache.clone())] {
        let digest = Digester::Sha256.digest(&fixtures::INLINED);
        let options = OpenOptions { extract_dir, ..expecting(digest) };
        let bootstrap = Bootstrap::open(&blob, &options).unwrap();
        trees::assert_tree("v6-inline", &bootstrap);
        assert_eq!(bootstrap.blobs()[0].id.as_str(), fixtures::INLINE_ID);
        assert_eq!(bootstrap.size(), fixtures::INLINED.len() as u64);
    }
    assert!(std::fs::read(&target).unwrap() == *fixtures::INLINED);
    assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 1, "nothing else is left");

    // The extracted file can be opened by itself, and has the same blob.
    let bootstrap = Bootstrap::open(&target, &OpenOptions::default()).unwrap();
    assert_eq!(bootstrap.blobs()[0].id.as_str(), fixtures::INLINE_ID);

    // The digest is the bootstrap's, not the blob's.
    let digest = Digester::Sha256.digest(fixtures::blob("v6-inline", fixtures::INLINE_ID));
    assert!(matches!(Bootstrap::open(&blob, &expecting(digest)), Err(Error::DigestMismatch { .. })));

    // A directory that is missing is made; what cannot be one is an error.
    let into =
        |path: &std::path::Path| OpenOptions { extract_dir: Some(path.into()), ..OpenOptions::default() };
    assert!(Bootstrap::open(&blob, &into(&directory.path().join("made/here"))).is_ok());
    assert!(matches!(Bootstrap::open(&blob, &into(&target)), Err(Error::Io { .. })));
}

#[test]
fn a_damaged_bootstrap_inside_a_blob_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let blob = directory.path().join(fixtures::INLINE_ID);
    let mut bytes = fixtures::blob("v6-inline", fixtures::INLINE_ID).to_vec();
    // In front of the table of contents and the header of the bootstrap.
    let at = bytes.len() - 1152 - 512 - 2000;
    bytes[at] ^= 1;
    std::fs::write(&blob, &bytes).unwrap();
    let opened = Bootstrap::open(&blob, &OpenOptions::default());
    assert!(matches!(opened, Err(Error::Blob { .. })), "{opened:?}");
}

#[test]
fn a_blob_may_begin_like_an_erofs_image() {
    let directory = tempfile::tempdir().unwrap();
    let blob = directory.path().join(fixtures::INLINE_ID);
    let mut bytes = fixtures::blob("v6-inline", fixtures::INLINE_ID).to_vec();
    fixtures::put(&mut bytes, 1024, 0xe0f5_e1e2_u32.to_le_bytes());
    fixtures::put(&mut bytes, 1032, [0; 4]);
    std::fs::write(&blob, &bytes).unwrap();
    Bootstrap::open(&blob, &OpenOptions::default()).unwrap().check().unwrap();
}

#[test]
fn a_blob_without_a_bootstrap_is_none() {
    let directory = tempfile::tempdir().unwrap();
    for image in ["v6-zstd", "v6-batch-toc", "v5-zstd-blake3"] {
        let bootstrap = fixtures::open(fixtures::bytes(image)).unwrap();
        let id = bootstrap.blobs()[0].id.as_str();
        let path = directory.path().join(id);
        std::fs::write(&path, fixtures::blob(image, id)).unwrap();
        let opened = Bootstrap::open(&path, &OpenOptions::default());
        assert!(matches!(opened, Err(Error::NotBootstrap { .. })), "{image}: {opened:?}");
    }
}

#[test]
fn what_is_no_file_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let open = |path: &std::path::Path| Bootstrap::open(path, &OpenOptions::default());
    assert!(matches!(open(&directory.path().join("none")), Err(Error::Io { .. })));
    assert!(matches!(open(directory.path()), Err(Error::NotBootstrap { .. })));
    let empty = tempfile::NamedTempFile::new().unwrap();
    assert!(matches!(open(empty.path()), Err(Error::NotBootstrap { .. })));
    let mut text = tempfile::NamedTempFile::new().unwrap();
    text.write_all(&[b'a'; 10_000]).unwrap();
    let error = open(text.path()).unwrap_err();
    assert!(error.to_string().contains("not a RAFS bootstrap"), "{error}");
}

#[test]
fn a_file_cut_short_is_refused_or_fails_where_it_ends() {
    for image in ["v5-lz4-sha256", "v6-merge"] {
        let bytes = fixtures::bytes(image);
        // Everywhere in the headers, then in steps; the last bytes of v6 are padding.
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        for len in (0..9000).step_by(7).chain((9000..used).step_by(997)).chain([used - 1, used]) {
            rafs::fuzzing::bootstrap(&bytes[..len]);
            let complete = fixtures::open(bytes[..len].to_vec()).is_ok_and(|it| it.check().is_ok());
            assert!(!complete, "{image} cut to {len} bytes");
        }
    }
}

#[test]
fn the_placeholder_id_is_the_name_of_the_file() {
    let mut bytes = fixtures::bytes("v6-zstd");
    bytes[1408..1408 + 64].fill(b'x');
    bytes[4096..4096 + 64].fill(b'x');
    let id = |name: &str| {
        let bootstrap = Bootstrap::from_bytes(bytes.clone(), name, &OpenOptions::default());
        bootstrap.map(|bootstrap| bootstrap.blobs()[0].id.to_string())
    };
    assert_eq!(id("/some/where/abc123.image.boot").unwrap(), "abc123");
    assert_eq!(id("plain").unwrap(), "plain");
    assert!(matches!(id("/"), Err(Error::Unsupported { .. })));
    assert!(matches!(id(".hidden"), Err(Error::Unsupported { .. })));
    assert!(matches!(id(&"l".repeat(65)), Err(Error::Unsupported { .. })));

    // A reference image whose meta blob holds the bootstrap: data and meta are two objects.
    let mut bytes = fixtures::bytes("v6-zran");
    bytes[4096 + 168..4096 + 208].fill(0);
    let bootstrap = Bootstrap::from_bytes(bytes, "meta.boot", &OpenOptions::default()).unwrap();
    assert_eq!(bootstrap.blobs()[0].meta_object().as_str(), "meta");
    assert!(bootstrap.blobs()[0].id.as_str().starts_with("50d8662e"));
}

#[test]
fn a_bootstrap_is_shared_between_threads() {
    fn check<T: Send + Sync>(_: &T) {}
    let options = OpenOptions { verify_inodes: true, ..OpenOptions::default() };
    let bootstrap = Bootstrap::from_bytes(fixtures::bytes("v5-parent"), "image.boot", &options).unwrap();
    check(&bootstrap);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| bootstrap.check().unwrap());
        }
    });
}
