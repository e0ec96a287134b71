//! Images of layers that stay what they are: the fixture is built again, random layers are read back file by file, and
//! hostile ones are errors.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use rafs::{Bootstrap, FileType, Ino, OpenOptions};
use storage::backend::localfs::{LocalFs, LocalFsConfig};
use storage::backend::{Priority, Request};
use storage::blob::{ChunkTable, Compressor, Extent, extract_bootstrap};
use storage::digest::Digester;
use tempfile::TempDir;

/// Runs `nydus-image create` with a layer on standard input, into a fresh directory: `boot` and `blobs`.
struct Build {
    dir: TempDir,
    output: Output,
}

impl Build {
    fn of(flags: &[&str], source: &str, stdin: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("blobs")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_nydus-image"));
        command.args(["create", "-D", "blobs", "--chunk-size", "0x4000"]).args(flags).arg(source);
        if !flags.contains(&"--blob-inline-meta") {
            command.args(["-B", "boot"]);
        }
        let mut child = command
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Who refuses a layer does not read all of it.
        let _ = child.stdin.take().unwrap().write_all(stdin);
        let output = child.wait_with_output().unwrap();
        Self { dir, output }
    }

    fn ok(self) -> Self {
        assert!(self.output.status.success(), "{}", String::from_utf8_lossy(&self.output.stderr));
        self
    }

    /// What the command says of a layer that it refuses; it leaves nothing behind.
    fn refused(self) -> String {
        assert_eq!(self.output.status.code(), Some(1), "{}", String::from_utf8_lossy(&self.output.stderr));
        assert_eq!(self.blobs(), Vec::<String>::new());
        assert!(!self.boot().exists());
        String::from_utf8(self.output.stderr).unwrap()
    }

    fn boot(&self) -> PathBuf {
        self.dir.path().join("boot")
    }

    fn blobs(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join("blobs")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// The content of every file of the image, whose layer is `data`.
    fn read_back(&self, data: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let bootstrap = match self.boot().exists() {
            true => Bootstrap::open(&self.boot(), &OpenOptions::default()).unwrap(),
            false => {
                let blob = self.dir.path().join("blobs").join(&self.blobs()[0]);
                let bytes = extract_bootstrap(&fs::File::open(&blob).unwrap(), "the blob").unwrap().unwrap();
                Bootstrap::from_bytes(bytes, &self.blobs()[0], &OpenOptions::default()).unwrap()
            }
        };
        let mut files = Files { bootstrap: &bootstrap, blobs: Vec::new(), content: BTreeMap::new() };
        for blob in bootstrap.blobs() {
            let path = self.dir.path().join("blobs").join(blob.id.as_str());
            fs::write(path, data).unwrap();
            files.blobs.push(files.decode(blob, &self.dir.path().join("blobs"), data));
        }
        files.read(bootstrap.root(), &mut Vec::new());
        files.content
    }
}

/// Reads an image.
struct Files<'a> {
    bootstrap: &'a Bootstrap,
    /// Uncompressed.
    blobs: Vec<Vec<u8>>,
    content: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Files<'_> {
    /// The blob as caches have it: each chunk at its uncompressed offset.
    fn decode(&self, blob: &storage::blob::BlobDescription, dir: &Path, data: &[u8]) -> Vec<u8> {
        if blob.is_tarfs() {
            return data.to_vec();
        }
        let backend =
            LocalFs::new(LocalFsConfig { dir: Some(dir.into()), ..LocalFsConfig::default() }).unwrap();
        let request = || Request::new(Priority::OnDemand, Instant::now() + Duration::from_secs(60));
        let mut whole = vec![0; blob.uncompressed_size as usize];
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
            let table = ChunkTable::fetch(blob, &backend, request()).await.unwrap();
            assert_eq!(table.len(), blob.chunk_count);
            for index in 0..table.len() {
                let unit = table.unit(blob, index).unwrap();
                let stored = unit.fetch(blob, &backend, request()).await.unwrap();
                for (chunk, data) in unit.members.iter().zip(unit.decode(blob, &stored).unwrap()) {
                    let start = chunk.uncompressed_offset as usize;
                    whole[start..start + data.len()].copy_from_slice(&data);
                }
            }
        });
        whole
    }

    fn read(&mut self, directory: Ino, path: &mut Vec<u8>) {
        for entry in self.bootstrap.read_dir(directory, 0).unwrap() {
            let entry = entry.unwrap();
            if entry.name == b"." || entry.name == b".." {
                continue;
            }
            let len = path.len();
            path.push(b'/');
            path.extend_from_slice(entry.name);
            match entry.file_type {
                FileType::Directory => self.read(entry.ino, path),
                FileType::Regular => {
                    let size = self.bootstrap.attributes(entry.ino).unwrap().size as u32;
                    let mut content = Vec::new();
                    for extent in self.bootstrap.extents(entry.ino, 0, size).unwrap() {
                        let Extent::Chunk { blob_index, uncompressed_offset, offset, len, .. } =
                            extent.unwrap()
                        else {
                            panic!("a hole");
                        };
                        let start = (uncompressed_offset + u64::from(offset)) as usize;
                        content.extend(&self.blobs[blob_index as usize][start..start + len as usize]);
                    }
                    self.content.insert(path.clone(), content);
                }
                _ => {}
            }
            path.truncate(len);
        }
    }
}

/// Numbers that are the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    fn bytes(&mut self, len: u64) -> Vec<u8> {
        match self.below(3) {
            0 => vec![self.below(256) as u8; len as usize],
            1 => (0..len).map(|_| self.below(256) as u8).collect(),
            _ => (0..len).map(|at| b"some words, again and again: "[(at % 29) as usize]).collect(),
        }
    }
}

/// A tar, and what its files hold.
fn random_tar(seed: u64) -> (Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>) {
    let mut random = Random(seed);
    let mut builder = tar::Builder::new(Vec::new());
    let mut files: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut contents = vec![Vec::new()];
    for number in 0..200 {
        let mut path = format!("/d{}/e{}/f{number}-", random.below(5), random.below(4)).into_bytes();
        // Not UTF-8.
        path.push(0x80 + random.below(64) as u8);
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(&path);
        header.set_mode(0o644);
        let content = match random.below(10) {
            0 => contents[random.below(contents.len() as u64) as usize].clone(),
            1 => Vec::new(),
            2 => random.bytes(0x4000 * 3),
            3 => {
                let len = random.below(200_000);
                random.bytes(len)
            }
            _ => {
                let len = random.below(3000);
                random.bytes(len)
            }
        };
        if number % 20 == 19 {
            let (target, content) =
                files.iter().next().map(|(path, data)| (path.clone(), data.clone())).unwrap();
            header.set_entry_type(tar::EntryType::Link);
            header.as_gnu_mut().unwrap().linkname[..target.len()].copy_from_slice(&target);
            header.set_size(0);
            header.set_cksum();
            builder.append(&header, &[][..]).unwrap();
            files.insert(path, content);
            continue;
        }
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, &content[..]).unwrap();
        contents.push(content.clone());
        files.insert(path, content);
    }
    (builder.into_inner().unwrap(), files)
}

fn member(data: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// So many members.
fn gzip(data: &[u8], level: u32, members: usize) -> Vec<u8> {
    data.chunks(data.len().div_ceil(members)).flat_map(|part| member(part, level)).collect()
}

fn sha256(bytes: &[u8]) -> String {
    Digester::Sha256.digest(bytes).to_string()
}

/// The image of the reference implementation that is about a tar.gz.
fn fixture() -> TempDir {
    let archive = fs::File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/images.tar.zst"));
    let mut decoder = zstd::Decoder::new(archive.unwrap()).unwrap();
    decoder.window_log_max(27).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for entry in tar::Archive::new(decoder).entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.path().unwrap().starts_with("images/v6-zran") {
            entry.unpack_in(dir.path()).unwrap();
        }
    }
    dir
}

#[test]
fn the_image_of_a_tar_gz_has_the_same_bytes() {
    let dir = fixture();
    let image = dir.path().join("images/v6-zran");
    let expected = Bootstrap::open(&image.join("bootstrap"), &OpenOptions::default()).unwrap();
    let blob = &expected.blobs()[0];
    let layer = image.join("blobs").join(blob.id.as_str());
    // The last --chunk-size counts; from a file, and through a pipe.
    for (source, stdin) in [(layer.to_str().unwrap(), Vec::new()), ("-", fs::read(&layer).unwrap())] {
        let out = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_nydus-image"))
            .args(["create", "-t", "targz-ref", "-D", ".", "-B", "boot", "-J", "json", source])
            .current_dir(out.path())
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let _ = child.stdin.take().unwrap().write_all(&stdin);
        assert!(child.wait().unwrap().success());
        let same = |ours: &str, theirs: PathBuf| {
            assert!(fs::read(out.path().join(ours)).unwrap() == fs::read(theirs).unwrap(), "{ours}");
        };
        same("boot", image.join("bootstrap"));
        same(blob.meta_object().as_str(), image.join("blobs").join(blob.meta_object().as_str()));
        let result: serde_json::Value =
            serde_json::from_slice(&fs::read(out.path().join("json")).unwrap()).unwrap();
        assert_eq!(result["blobs"], serde_json::json!([blob.id.as_str()]));
        assert_eq!((&result["compressor"], &result["fs_version"]), (&"gzip".into(), &"6".into()));
    }
}

#[test]
fn files_of_layers_are_read_back() {
    for (seed, level, members) in [(1, 1, 1), (2, 6, 7), (3, 9, 2), (4, 0, 300)] {
        let (tar, files) = random_tar(seed);
        let layer = gzip(&tar, level, members);
        let kinds: [&[&str]; 4] = [
            &["-t", "targz-ref"],
            &["-t", "estargz-ref", "--features", "blob-toc"],
            &["-t", "targz-ref", "--blob-inline-meta"],
            &["-t", "targz-ref", "--blob-inline-meta", "--features", "blob-toc"],
        ];
        let build = Build::of(kinds[seed as usize - 1], "-", &layer).ok();
        assert_eq!(build.blobs().len(), 1, "the RAFS blob");
        assert!(build.read_back(&layer) == files, "seed {seed}");
        assert!(build.blobs().contains(&sha256(&layer)));
    }
}

#[test]
fn tars_are_layers_too() {
    let (tar, files) = random_tar(5);
    let build = Build::of(&["-t", "targz-ref"], "-", &tar).ok();
    assert!(build.read_back(&tar) == files);
    assert!(build.blobs().contains(&sha256(&tar)));
}

#[test]
fn tars_are_mounted_as_they_are() {
    let (tar, files) = random_tar(6);
    for (flags, id) in [(&[][..], sha256(&tar)), (&["--blob-id", "some-tar"], "some-tar".into())] {
        let flags = [&["-t", "tar-tarfs"], flags].concat();
        let build = Build::of(&flags, "-", &tar).ok();
        assert_eq!(build.blobs(), Vec::<String>::new(), "nothing but the bootstrap is written");
        let bootstrap = Bootstrap::open(&build.boot(), &OpenOptions::default()).unwrap();
        let blob = &bootstrap.blobs()[0];
        assert!(blob.is_tarfs());
        assert_eq!((blob.id.as_str(), blob.compressor), (id.as_str(), Compressor::None));
        assert_eq!((blob.uncompressed_size, blob.compressed_size), (tar.len() as u64, tar.len() as u64));
        assert!(build.read_back(&tar) == files);
    }
}

#[test]
fn long_symlinks_of_mounted_tars_are_whole() {
    // The reference leaves the blocks before the last one empty.
    let target: Vec<u8> = (0..3000).map(|at| b'a' + (at % 26) as u8).collect();
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    let target_path = Path::new(std::str::from_utf8(&target).unwrap());
    builder.append_link(&mut header, "link", target_path).unwrap();
    let build = Build::of(&["-t", "tar-tarfs"], "-", &builder.into_inner().unwrap()).ok();
    let bootstrap = Bootstrap::open(&build.boot(), &OpenOptions::default()).unwrap();
    let ino = bootstrap.lookup(bootstrap.root(), b"link").unwrap().unwrap();
    assert!(*bootstrap.read_link(ino).unwrap() == target[..]);
}

#[test]
fn a_table_of_contents_is_enough() {
    let parts: Vec<Vec<u8>> = (0..5).map(|seed| Random(seed + 9).bytes(0x4000 - 100 * seed)).collect();
    let (mut layer, mut entries) = (Vec::new(), Vec::new());
    for (number, part) in parts.iter().enumerate() {
        let kind = if number == 1 { "chunk" } else { "reg" };
        let name = if number < 2 { "d/long".into() } else { format!("d/f{number}") };
        let size = if number == 0 { part.len() + parts[1].len() } else { part.len() };
        entries.push(serde_json::json!({
            "name": name, "type": kind, "size": size, "mode": 0o644, "offset": layer.len(),
            "chunkOffset": if number == 1 { 0x4000 } else { 0 },
            "chunkSize": if number == 0 { 0x4000 } else { 0 },
            "chunkDigest": format!("sha256:{}", sha256(part)),
        }));
        layer.extend(member(part, 6));
    }
    let toc = serde_json::json!({ "version": 1, "entries": entries }).to_string();
    let (id, size) = (sha256(&layer), format!("{:#x}", layer.len()));
    let flags = ["-t", "stargz_index", "--blob-id", &id, "--blob-data-size", &size];
    let build = Build::of(&flags, "-", toc.as_bytes()).ok();
    let bootstrap = Bootstrap::open(&build.boot(), &OpenOptions::default()).unwrap();
    assert_eq!(bootstrap.blobs()[0].compressed_size, layer.len() as u64);
    let mut expected: BTreeMap<_, _> =
        (2..5).map(|number| (format!("/d/f{number}").into_bytes(), parts[number].clone())).collect();
    expected.insert(b"/d/long".to_vec(), [&parts[0][..], &parts[1]].concat());
    assert!(build.read_back(&layer) == expected);

    let lie = toc.replace("\"chunkSize\":16384", "\"chunkSize\":999");
    let error = Build::of(&flags, "-", lie.as_bytes()).refused();
    assert!(error.contains("d/long") && error.contains("chunkSize is 999"), "{error}");
}

#[test]
fn layers_that_are_cut_off_or_corrupt_are_refused() {
    let (tar, _) = random_tar(7);
    let layer = gzip(&tar, 6, 3);
    let kind = ["-t", "targz-ref"];
    for part in 1..8 {
        let error = Build::of(&kind, "-", &layer[..layer.len() * part / 8]).refused();
        assert!(error.contains("ends at") && error.contains("gzip member at offset"), "{error}");
    }
    // A wrong bit is noticed where it breaks the stream or a header, at the latest by the checksum of the member.
    for at in [layer.len() / 2, layer.len() / 5, layer.len() - 8] {
        let mut corrupt = layer.clone();
        corrupt[at] ^= 0x10;
        let error = Build::of(&kind, "-", &corrupt).refused();
        assert!(error.contains("offset"), "{error}");
        assert!(at < layer.len() - 8 || error.contains("gzip member at offset"), "{error}");
    }
    let error = Build::of(&kind, "-", &[&layer[..], b"garbage"].concat()).refused();
    assert!(error.contains(&format!("gzip member at offset {}", layer.len())), "{error}");
    for kind in [["-t", "targz-ref"], ["-t", "tar-tarfs"]] {
        let error = Build::of(&kind, "-", &tar[..tar.len() / 2]).refused();
        assert!(error.contains("ends here"), "{error}");
        assert!(Build::of(&kind, "-", b"").refused().contains("empty"));
    }
    let error = Build::of(&["-t", "tar-tarfs"], "-", &layer).refused();
    assert!(error.contains("compressed with gzip"), "{error}");
}

#[test]
fn layers_without_content_need_no_blob() {
    // The end of an archive, and nothing before it.
    for layer in [vec![0; 1024], gzip(&[0; 1024], 6, 1)] {
        let build = Build::of(&["-t", "targz-ref"], "-", &layer).ok();
        assert_eq!(build.blobs(), Vec::<String>::new());
        assert!(build.read_back(&layer).is_empty());
    }
    let build = Build::of(&["-t", "tar-tarfs"], "-", &[0; 1024]).ok();
    assert!(build.read_back(&[]).is_empty());
}

#[test]
fn an_archive_may_lack_its_end_mark() {
    let (mut tar, files) = random_tar(8);
    tar.truncate(tar.len() - 1024);
    for layer in [gzip(&tar, 6, 1), tar] {
        assert!(Build::of(&["-t", "targz-ref"], "-", &layer).ok().read_back(&layer) == files);
    }
}

#[test]
fn sparse_files_have_no_content_in_one_piece() {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNUSparse);
    header.set_size(0);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.name[..6].copy_from_slice(b"sparse");
    gnu.realsize[..11].copy_from_slice(b"00000100000");
    gnu.sparse[0].offset[..11].copy_from_slice(b"00000100000");
    gnu.sparse[0].numbytes[..11].copy_from_slice(b"00000000000");
    header.set_cksum();
    let layer = [&header.as_bytes()[..], &[0; 1024]].concat();
    for kind in ["targz-ref", "tar-tarfs"] {
        let error = Build::of(&["-t", kind], "-", &layer).refused();
        assert!(error.contains("sparse"), "{error}");
    }
}

#[test]
fn options_that_mean_nothing_are_refused() {
    for (kind, option) in [
        ("targz-ref", &["--fs-version", "5"][..]),
        ("targz-ref", &["--blob-id", "id"]),
        ("estargz-ref", &["--batch-size", "0x1000"]),
        ("targz-ref", &["--encrypt"]),
        ("targz-ref", &["--blob-data-size", "10"]),
        ("tar-tarfs", &["--features", "blob-toc"]),
        ("tar-tarfs", &["--fs-version", "5"]),
        ("tar-tarfs", &["--blob-inline-meta"]),
        ("dir-rafs", &["--blob-data-size", "10"]),
        ("estargztoc-ref", &["--blob-data-size", "10"]),
        ("estargztoc-ref", &["--blob-id", "id", "--blob-data-size", "1g"]),
    ] {
        let error = Build::of(&[&["-t", kind], option].concat(), "-", b"").refused();
        assert!(error.contains(option[0]) || error.contains("--blob-"), "{kind} {option:?}: {error}");
    }
}
