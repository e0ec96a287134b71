//! Layers that stay plain tars, as the snapshotter builds, merges, mounts and exports them.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use storage::digest::{Digest, Digester};

use crate::converter;
use crate::layer::{extract, noise, pack, size, text, whole_seconds};
use crate::support::nydus_image_ok;
use crate::tree;

/// The name of an entry, and its content if it is a file; else it is a directory.
type Named = (&'static str, Option<Vec<u8>>);

/// Four layers: the second hides all of the first, the third has no data, and the lowest is used last.
fn layers() -> Vec<Vec<Named>> {
    vec![
        vec![("hidden", Some(noise(1, 9000))), ("z/hidden-too", Some(noise(2, 700_000)))],
        vec![
            (".wh.hidden", Some(Vec::new())),
            ("z/.wh.hidden-too", Some(Vec::new())),
            ("z/b", Some(noise(3, 5000))),
        ],
        vec![("empty", None), ("empty/link", Some(Vec::new()))],
        vec![("a", Some(noise(4, 2 << 20))), ("z/last", Some(noise(5, 3000)))],
    ]
}

/// A merged image of plain tars.
struct Merged {
    /// The tars, lowest first, in the directory of blobs.
    tars: Vec<PathBuf>,
    ids: Vec<String>,
    bootstrap: PathBuf,
    /// What GNU tar makes of the layers, one over the other.
    expected: PathBuf,
    blobs: PathBuf,
    dir: tempfile::TempDir,
}

impl Merged {
    fn build() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let (blobs, expected, bootstrap) = (at("blobs"), at("expected"), at("image.boot"));
        fs::create_dir(&blobs).unwrap();
        fs::create_dir(&expected).unwrap();
        let (mut tars, mut ids, mut sources) = (Vec::new(), Vec::new(), Vec::new());
        for (number, files) in layers().into_iter().enumerate() {
            let (root, snapshot) = (at(&format!("root-{number}")), at(&format!("snapshot-{number}")));
            fs::create_dir(&root).unwrap();
            for (name, content) in files {
                let path = root.join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                match content {
                    Some(bytes) => fs::write(path, bytes).unwrap(),
                    None => fs::create_dir(path).unwrap(),
                }
            }
            whole_seconds(&root);
            let tar = at(&format!("{number}.tar"));
            pack(&root, &tar);
            lay_over(&tar, &at(&format!("extracted-{number}")), &expected);

            let bytes = fs::read(&tar).unwrap();
            let id = Digester::Sha256.digest(&bytes).to_string();
            let image = snapshot.join("image");
            fs::create_dir_all(&image).unwrap();
            let layer = image.join("layer.boot");
            let fifo = snapshot.join("fifo");
            nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
            let args = [
                "create",
                "--type",
                "tar-tarfs",
                "--bootstrap",
                text(&layer),
                "--blob-id",
                &id,
                "--blob-dir",
                text(&blobs),
                text(&fifo),
            ];
            let done = converter::run_fed(&args, &fifo, bytes);
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            fs::rename(&tar, blobs.join(&id)).unwrap();
            tars.push(blobs.join(&id));
            ids.push(id);
            sources.push(layer);
        }
        let mut args = vec!["merge", "--bootstrap", text(&bootstrap)];
        args.extend(sources.iter().map(|path| text(path)));
        nydus_image_ok(&args);
        Self { tars, ids, bootstrap, expected, blobs, dir }
    }
}

/// Unpacks a layer over a tree, with its whiteouts obeyed.
fn lay_over(tar: &Path, extracted: &Path, tree: &Path) {
    extract(tar, extracted);
    let mut pending = vec![extracted.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if let Some(name) = path.file_name().unwrap().as_bytes().strip_prefix(b".wh.") {
                let hidden = dir.join(std::str::from_utf8(name).unwrap());
                fs::remove_file(tree.join(hidden.strip_prefix(extracted).unwrap())).unwrap();
            }
        }
    }
    let status = Command::new("tar")
        .args(["--exclude=.wh.*", "--numeric-owner", "-xpf", text(tar), "-C", text(tree)])
        .status();
    assert!(status.unwrap().success());
}

/// Everything below a root: no layer says anything of the root itself.
fn below(root: &Path) -> std::collections::BTreeMap<Vec<u8>, tree::Entry> {
    let mut entries = tree::list(root);
    entries.remove(&b""[..]);
    entries
}

/// A mount of the kernel's EROFS, and the loop devices below it.
struct Mounted {
    mountpoint: PathBuf,
    loops: Vec<String>,
}

impl Mounted {
    /// Mounts `source` with these devices, each behind a loop device.
    fn new(dir: &Path, source: &Path, devices: &[PathBuf]) -> Option<Self> {
        let filesystems = fs::read_to_string("/proc/filesystems").unwrap();
        if !filesystems.contains("erofs") {
            eprintln!("SKIPPED: the kernel has no EROFS");
            return None;
        }
        let mut mounted = Self { mountpoint: dir.join("mnt"), loops: Vec::new() };
        fs::create_dir_all(&mounted.mountpoint).unwrap();
        for path in std::iter::once(source).chain(devices.iter().map(PathBuf::as_path)) {
            let output = Command::new("losetup").args(["-r", "--show", "-f"]).arg(path).output();
            match output {
                Ok(output) if output.status.success() => {
                    mounted.loops.push(String::from_utf8(output.stdout).unwrap().trim().to_owned());
                }
                other => {
                    eprintln!("SKIPPED: no loop device: {other:?}");
                    return None;
                }
            }
        }
        let (source, devices) = mounted.loops.split_first().unwrap();
        let mut options = "ro".to_owned();
        devices.iter().for_each(|device| options += &format!(",device={device}"));
        let mountpoint = text(&mounted.mountpoint);
        let output = Command::new("mount").args(["-t", "erofs", "-o", &options, source, mountpoint]).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(mounted)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.mountpoint).stderr(std::process::Stdio::null()).status();
        for device in &self.loops {
            let _ = Command::new("losetup").args(["-d", device]).status();
        }
    }
}

#[test]
fn merged_tars_are_mounted_with_a_device_for_each_layer() {
    if let Some(reason) = tree::missing() {
        return eprintln!("SKIPPED: {reason}");
    }
    let image = Merged::build();
    // One argument, with a blank before the value.
    let output = nydus_image_ok(&["inspect", "-R blobs", text(&image.bootstrap)]);
    assert_eq!(output.stderr, b"");
    let shown = String::from_utf8(output.stdout).unwrap();
    let places: Vec<_> =
        image.ids.iter().map(|id| shown.find(&format!(r#""blob_id":"{id}""#)).expect("each layer")).collect();
    assert!(places.is_sorted(), "{shown}");
    let Some(mounted) = Mounted::new(image.dir.path(), &image.bootstrap, &image.tars) else { return };
    assert_eq!(below(&mounted.mountpoint), below(&image.expected));
}

#[test]
fn merged_tars_are_exported_with_a_hash_tree_over_blocks_of_512_bytes() {
    if let Some(reason) = tree::missing() {
        return eprintln!("SKIPPED: {reason}");
    }
    let image = Merged::build();
    let disk = image.dir.path().join("disk");
    let args =
        ["export", "--block", "--localfs-dir", text(&image.blobs), "--bootstrap", text(&image.bootstrap)];
    let output = nydus_image_ok(&[&args[..], &["--output", text(&disk), "--verity"]].concat());
    let line = String::from_utf8(output.stdout).unwrap();
    let rest = line.strip_prefix(
        "dm-verity options: --no-superblock --format=1 -s \"\" --hash=sha256 --data-block-size=512 \
         --hash-block-size=4096 --data-blocks ",
    );
    let rest = rest.unwrap_or_else(|| panic!("{line}")).strip_suffix('\n').unwrap();
    let (blocks, rest) = rest.split_once(" --hash-offset ").unwrap();
    let (offset, root) = rest.split_once(' ').unwrap();
    let (blocks, offset): (usize, usize) = (blocks.parse().unwrap(), offset.parse().unwrap());
    assert!(offset % 4096 == 0 && offset >= 512 * blocks, "{line}");

    // The tree as dm-verity walks it: the digests of a level fill blocks of 4096 bytes, which the level above digests.
    let bytes = fs::read(&disk).unwrap();
    let sha256 = |block: &[u8]| Digester::Sha256.digest(block).0;
    let mut level: Vec<u8> = bytes[..512 * blocks].chunks(512).flat_map(sha256).collect();
    let mut levels = Vec::new();
    while level.len() > 32 {
        level.resize(level.len().next_multiple_of(4096), 0);
        let above = level.chunks(4096).flat_map(sha256).collect();
        levels.push(std::mem::replace(&mut level, above));
    }
    levels.reverse();
    assert!(bytes[offset..] == levels.concat(), "the hash tree");
    assert_eq!(Digest(level.try_into().unwrap()).to_string(), root);

    assert!(size(&disk) > image.tars.iter().map(|tar| size(tar)).sum());
    let Some(mounted) = Mounted::new(image.dir.path(), &disk, &[]) else { return };
    assert_eq!(below(&mounted.mountpoint), below(&image.expected));
}
