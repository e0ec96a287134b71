//! Flags against each other: images of one small tree, built with combinations of flags that go together. Each passes
//! `check`, and `unpack`, which reads and checks every chunk, gives the tree back.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use flate2::Compression;
use flate2::write::GzEncoder;
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use storage::digest::Digester;
use tar::{EntryType, Header};

/// When everything was written. The time of the root is not kept.
const MTIME: u64 = 1_600_000_000;

/// Something in the tree.
#[derive(Clone, PartialEq, Eq)]
enum Kind {
    Directory,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    /// Another name of this file.
    HardLink(Vec<u8>),
    Fifo,
    /// Major and minor number; only archives have one, since not everybody may make them on disk.
    Device(u32, u32),
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory => f.write_str("directory"),
            Self::File(data) => write!(f, "{} bytes, {}", data.len(), Digester::Sha256.digest(data)),
            Self::Symlink(target) => write!(f, "symlink to {}", target.escape_ascii()),
            Self::HardLink(first) => write!(f, "link of {}", first.escape_ascii()),
            Self::Fifo => f.write_str("FIFO"),
            Self::Device(major, minor) => write!(f, "device {major}:{minor}"),
        }
    }
}

/// Paths, with mode and what is there. Directories come before what is in them.
type Entries = BTreeMap<Vec<u8>, (u32, Kind)>;

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn entries() -> Entries {
    let big = noise(1, 300_000);
    // The first and the last chunk of any size up to a quarter of a MiB are the same, and there is a hole.
    let with_hole = [&big[..0x40000], &vec![0; 0x80000], &big[..0x40000]].concat();
    let mut entries = Entries::new();
    let mut add = |path: &[u8], mode: u32, kind: Kind| {
        entries.insert(path.to_vec(), (mode, kind));
    };
    add(b"dir", 0o1775, Kind::Directory);
    add(b"dir/deep", 0o700, Kind::Directory);
    add(b"dir/deep/copy", 0o644, Kind::File(big.clone()));
    add(b"empty dir", 0o755, Kind::Directory);
    add(b"big", 0o4755, Kind::File(big));
    add(b"big link", 0o4755, Kind::HardLink(b"big".to_vec()));
    add(b"dir/deep/link", 0o4755, Kind::HardLink(b"big".to_vec()));
    add(b"fifo", 0o600, Kind::Fifo);
    add(b"hole", 0o644, Kind::File(with_hole));
    add(b"\xff\xfe not UTF-8 \xc3", 0o640, Kind::File(b"a name of bytes".to_vec()));
    add(&[b'n'; 200], 0o644, Kind::File("text ".repeat(9000).into()));
    add(b"symlink", 0o777, Kind::Symlink(b"dir/../\xfe".to_vec()));
    // Sizes about those of a cipher's block, what it pads to, half a batch, and a chunk.
    for size in [0, 1, 7, 15, 16, 17, 18, 19, 0x7ff, 0x800, 0xfff, 0x1000, 0x1001, 0x40000, 0x40001] {
        add(format!("dir/noise-{size:05x}").as_bytes(), 0o644, Kind::File(noise(size as u64 + 2, size)));
        add(format!("dir/same-{size:05x}").as_bytes(), 0o644, Kind::File(vec![b'x'; size]));
    }
    entries
}

/// Makes them on disk.
fn make(root: &Path, entries: &Entries) {
    fs::create_dir(root).unwrap();
    let at = |path: &[u8]| root.join(OsStr::from_bytes(path));
    for (path, (_, kind)) in entries {
        match kind {
            Kind::Directory => fs::create_dir(at(path)).unwrap(),
            Kind::File(data) => {
                let file = File::create(at(path)).unwrap();
                file.set_len(data.len() as u64).unwrap();
                for (number, block) in
                    data.chunks(4096).enumerate().filter(|(_, block)| block.iter().any(|b| *b != 0))
                {
                    file.write_all_at(block, number as u64 * 4096).unwrap();
                }
            }
            Kind::Symlink(target) => std::os::unix::fs::symlink(OsStr::from_bytes(target), at(path)).unwrap(),
            Kind::HardLink(first) => fs::hard_link(at(first), at(path)).unwrap(),
            Kind::Fifo => nix::unistd::mkfifo(&at(path), Mode::empty()).unwrap(),
            Kind::Device(..) => unreachable!("only in archives"),
        }
    }
    for (path, (mode, kind)) in entries.iter().rev() {
        if !matches!(kind, Kind::Symlink(_)) {
            fs::set_permissions(at(path), fs::Permissions::from_mode(*mode)).unwrap();
        }
        let time = TimeSpec::new(MTIME as i64, 0);
        utimensat(AT_FDCWD, &at(path), &time, &time, UtimensatFlags::NoFollowSymlink).unwrap();
    }
    fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Archives them.
fn archive(entries: &Entries) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, (mode, kind)) in entries {
        let mut header = Header::new_gnu();
        header.set_mode(*mode);
        header.set_mtime(MTIME);
        header.set_uid(nix::unistd::geteuid().as_raw().into());
        header.set_gid(nix::unistd::getegid().as_raw().into());
        header.set_size(0);
        let path = OsStr::from_bytes(path);
        let mut data: &[u8] = &[];
        match kind {
            Kind::Directory => header.set_entry_type(EntryType::Directory),
            Kind::File(content) => {
                header.set_size(content.len() as u64);
                data = content;
            }
            Kind::Symlink(target) | Kind::HardLink(target) => {
                let is_symlink = matches!(kind, Kind::Symlink(_));
                header.set_entry_type(if is_symlink { EntryType::Symlink } else { EntryType::Link });
                builder.append_link(&mut header, path, OsStr::from_bytes(target)).unwrap();
                continue;
            }
            Kind::Fifo => header.set_entry_type(EntryType::Fifo),
            Kind::Device(major, minor) => {
                header.set_entry_type(EntryType::Char);
                header.set_device_major(*major).unwrap();
                header.set_device_minor(*minor).unwrap();
            }
        }
        builder.append_data(&mut header, path, data).unwrap();
    }
    builder.into_inner().unwrap()
}

/// What an archive holds, but for its root.
fn read(archive: &[u8]) -> Entries {
    let mut found = Entries::new();
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut path = entry.path_bytes().into_owned();
        if path == b"./" {
            continue;
        }
        path.truncate(path.trim_ascii_end().len() - usize::from(path.ends_with(b"/")));
        let link = || entry.link_name_bytes().unwrap().into_owned();
        let header = entry.header();
        assert_eq!(header.mtime().unwrap(), MTIME, "{}", path.escape_ascii());
        let mode = header.mode().unwrap() & 0o7777;
        let kind = match header.entry_type() {
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink(link()),
            EntryType::Link => Kind::HardLink(link()),
            EntryType::Fifo => Kind::Fifo,
            EntryType::Char => {
                let number = |number: Option<u32>| number.unwrap();
                Kind::Device(number(header.device_major().unwrap()), number(header.device_minor().unwrap()))
            }
            _ => {
                let mut data = Vec::new();
                entry.read_to_end(&mut data).unwrap();
                Kind::File(data)
            }
        };
        assert!(found.insert(path, (mode, kind)).is_none());
    }
    found
}

type Case = Vec<&'static str>;

/// Every combination of one of each list.
fn product(lists: &[&[&[&'static str]]]) -> Vec<Case> {
    let one = |cases: Vec<Case>, list: &&[&[&'static str]]| {
        let with = |case: &Case| list.iter().map(|flags| [case, *flags].concat()).collect::<Vec<_>>();
        cases.iter().flat_map(with).collect()
    };
    lists.iter().fold(vec![Vec::new()], one)
}

const COMPRESSORS: &[&[&str]] =
    &[&["--compressor=none"], &["--compressor=lz4_block"], &["--compressor=zstd"]];
const DIGESTERS: &[&[&str]] = &[&["--digester=blake3"], &["--digester=sha256"]];
const CHUNK_SIZES: &[&[&str]] =
    &[&["--chunk-size=0x1000"], &["--chunk-size=0x40000"], &["--chunk-size=0x100000"]];
const POLICIES: &[&[&str]] = &[
    &["--repeatable"],
    &["--prefetch-policy=fs"],
    &["--prefetch-policy=blob"],
    &["--whiteout-spec=none"],
    &["--whiteout-spec=overlayfs"],
];
const TOC: &[&[&str]] = &[&[], &["--features=blob-toc"]];
const INLINE: &[&[&str]] = &[&[], &["--blob-inline-meta"]];

fn cases() -> Vec<Case> {
    let types: &[&[&str]] = &[&["--type=dir-rafs"], &["--type=tar-rafs"], &["--type=targz-rafs"]];
    let batches: &[&[&str]] = &[&[], &["--batch-size=0x1000"], &["--batch-size=0x40000"]];
    let encrypt: &[&[&str]] = &[&[], &["--encrypt"]];
    let of_v5: &[&[&str]] = &[&[], &["--aligned-chunk"], &["--blob-inline-meta"]];
    let kept: &[&[&str]] = &[&["--type=targz-ref"], &["--type=targz-ref", "tar"]];
    let v6 = [&["--fs-version=6"][..]];
    let mut cases =
        product(&[types, &v6, COMPRESSORS, DIGESTERS, CHUNK_SIZES, batches, TOC, encrypt, INLINE]);
    // A batch is no larger than a chunk.
    cases.retain(|case| !(case.contains(&"--batch-size=0x40000") && case.contains(&"--chunk-size=0x1000")));
    // Every fifth of these is enough: the lists have two or three elements, so the choice goes through all of them.
    let mut number = 0;
    cases.retain(|_| {
        number += 1;
        number % 5 == 0
    });
    cases.extend(product(&[types, &[&["--fs-version=5"]], COMPRESSORS, DIGESTERS, CHUNK_SIZES, of_v5]));
    cases.extend(product(&[types, &[&["--fs-version=5"], &["--fs-version=6"]], POLICIES]));
    cases.extend(product(&[kept, CHUNK_SIZES, TOC, INLINE]));
    cases.extend(product(&[&[&["--type=tar-tarfs", "tar"]], CHUNK_SIZES]));
    cases
}

/// Sources, and what images of them hold.
struct Sources {
    dir: PathBuf,
    on_disk: Entries,
    archived: Entries,
    tar: Vec<u8>,
    targz: Vec<u8>,
}

impl Sources {
    fn new(dir: &Path) -> Self {
        let on_disk = entries();
        make(&dir.join("source"), &on_disk);
        let mut archived = on_disk.clone();
        archived.insert(b"null".to_vec(), (0o666, Kind::Device(1, 3)));
        let tar = archive(&archived);
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&tar).unwrap();
        let targz = encoder.finish().unwrap();
        fs::write(dir.join("source.tar"), &tar).unwrap();
        fs::write(dir.join("source.tar.gz"), &targz).unwrap();
        Self { dir: dir.to_owned(), on_disk, archived, tar, targz }
    }

    /// What is wrong with the image that these flags make.
    fn fails(&self, case: &Case) -> Option<String> {
        let out = tempfile::tempdir_in(&self.dir).unwrap();
        let flags: Vec<_> = case.iter().filter(|flag| flag.starts_with('-')).collect();
        let is_kept = case.iter().any(|flag| flag.ends_with("-ref") || flag.ends_with("tarfs"));
        let (name, layer) = match case[0] {
            "--type=dir-rafs" => ("source", None),
            "--type=tar-rafs" => ("source.tar", None),
            "--type=targz-rafs" => ("source.tar.gz", None),
            _ if case.contains(&"tar") => ("source.tar", Some(&self.tar)),
            _ => ("source.tar.gz", Some(&self.targz)),
        };
        assert_eq!(is_kept, layer.is_some());
        let run = |command: &mut Command| -> Result<Vec<u8>, String> {
            let mut child = command
                .current_dir(out.path())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            // Only prefetch policies read it.
            let _ = child.stdin.take().unwrap().write_all(b"/dir\n/big\n");
            let output = child.wait_with_output().unwrap();
            if output.status.success() {
                Ok(output.stdout)
            } else {
                Err(String::from_utf8_lossy(&output.stderr).into())
            }
        };
        let program = || Command::new(env!("CARGO_BIN_EXE_nydus-image"));
        let attempt = || -> Result<(), String> {
            let blobs = out.path().join("blobs");
            fs::create_dir(&blobs).unwrap();
            let mut create = program();
            create.args(["create", "-l", "warn", "-D", "blobs"]).args(flags).arg(self.dir.join(name));
            let is_inline = case.contains(&"--blob-inline-meta");
            if !is_inline {
                create.args(["-B", "boot"]);
            }
            run(&mut create)?;
            let bootstrap = match is_inline {
                true => fs::read_dir(&blobs).unwrap().next().unwrap().unwrap().path(),
                false => out.path().join("boot"),
            };
            if let Some(layer) = layer {
                let id = Digester::Sha256.digest(layer).to_string();
                fs::hard_link(self.dir.join(name), blobs.join(id)).unwrap();
            }
            run(program().args(["check", "-l", "warn"]).arg(&bootstrap))?;
            let unpack = ["unpack", "-l", "warn", "-D", "blobs", "--output=-"];
            let found = read(&run(program().args(unpack).arg(&bootstrap))?);
            let expected = if name == "source" { &self.on_disk } else { &self.archived };
            let differs = |path: &&Vec<u8>| found.get(*path) != expected.get(*path);
            match expected.keys().chain(found.keys()).find(differs) {
                Some(path) => Err(format!(
                    "{}: {:?}, expected {:?}",
                    path.escape_ascii(),
                    found.get(path),
                    expected.get(path)
                )),
                None => Ok(()),
            }
        };
        attempt().err()
    }
}

#[test]
fn every_image_is_accepted_and_holds_its_source() {
    let dir = tempfile::tempdir().unwrap();
    let sources = Sources::new(dir.path());
    let cases = cases();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut failures = Vec::new();
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            failures.extend(sources.fails(case).map(|failure| format!("{}: {failure}", case.join(" "))));
        }
        failures
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let failures: Vec<String> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));
}
