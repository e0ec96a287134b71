//! Every field of every inode is what the kernel's EROFS makes of the same bootstrap.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::mount::{MsFlags, mount};
use nix::unistd::{Whence, lseek};
use nydus_image::export::export;
use nydus_image::image::Image;
use nydus_tests::daemon::Scratch;
use nydus_tests::fixtures::{IMAGES, Version};
use nydus_tests::require_mounts;
use nydus_tests::requirements::skip;
use rafs::{Bootstrap, OpenOptions};
use storage::backend::localfs::{LocalFs, LocalFsConfig};

use crate::support::{Mounted, Workshop};

/// All that can be asked of an entry.
fn describe(path: &Path) -> BTreeMap<&'static str, String> {
    let metadata = fs::symlink_metadata(path).unwrap();
    let times = |seconds: i64, nanoseconds: i64| format!("{seconds}.{nanoseconds:09}");
    let mut fields = BTreeMap::from([
        ("ino", metadata.ino().to_string()),
        ("mode", format!("{:o}", metadata.mode())),
        ("nlink", metadata.nlink().to_string()),
        ("uid", metadata.uid().to_string()),
        ("gid", metadata.gid().to_string()),
        ("rdev", metadata.rdev().to_string()),
        ("size", metadata.size().to_string()),
        ("blocks", metadata.blocks().to_string()),
        ("blksize", metadata.blksize().to_string()),
        ("atime", times(metadata.atime(), metadata.atime_nsec())),
        ("mtime", times(metadata.mtime(), metadata.mtime_nsec())),
        ("ctime", times(metadata.ctime(), metadata.ctime_nsec())),
        ("btime", format!("{:?}", metadata.created().is_ok())),
    ]);
    let names: Vec<_> = xattr::list(path).unwrap().collect();
    let values: Vec<_> = names.iter().map(|name| xattr::get(path, name).unwrap()).collect();
    fields.insert("xattrs", format!("{names:?} {values:?}"));
    if metadata.is_symlink() {
        fields.insert("target", format!("{:?}", fs::read_link(path).unwrap().as_os_str().as_bytes()));
    } else if metadata.is_dir() {
        let listed: Vec<_> = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name(), entry.ino(), entry.file_type().unwrap()))
            .collect();
        fields.insert("listing", format!("{listed:?}"));
    } else if metadata.is_file() {
        let file = File::open(path).unwrap();
        let size = i64::try_from(metadata.size()).unwrap();
        let places = [0, 1, 4095, 4096, size / 2, size - 1, size, size + 1];
        let seek = |whence| places.map(|place| lseek(&file, place, whence));
        fields.insert("data", format!("{:?}", seek(Whence::SeekData)));
        fields.insert("hole", format!("{:?}", seek(Whence::SeekHole)));
        fields.insert(
            "content",
            format!("{:?}", storage::digest::Digester::Sha256.digest(&fs::read(path).unwrap())),
        );
    }
    fields
}

fn walk(root: &Path) -> BTreeMap<PathBuf, BTreeMap<&'static str, String>> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        found.insert(path.strip_prefix(root).unwrap().to_owned(), describe(&path));
    }
    found
}

/// The kernel's mount of bootstrap and blobs, or why there is none.
fn by_kernel(directory: &Path, bootstrap: &Path, blobs: &Path) -> Result<Mounted, String> {
    let (disk, mountpoint) = (directory.join("disk"), directory.join("erofs"));
    fs::create_dir_all(&mountpoint).unwrap();
    let mut file = File::create(&disk).unwrap();
    let bootstrap = Bootstrap::open(bootstrap, &OpenOptions::default()).unwrap();
    let config = LocalFsConfig { dir: Some(blobs.to_owned()), ..LocalFsConfig::default() };
    let image = Image::new(bootstrap, Arc::new(LocalFs::new(config).unwrap()), 2).unwrap();
    let sink = |bytes: &[u8]| {
        file.write_all(bytes).unwrap();
        Ok(())
    };
    export(&image, false, sink).unwrap();
    let none: Option<&str> = None;
    mount(Some(&disk), &mountpoint, Some("erofs"), MsFlags::MS_RDONLY, none)
        .map_err(|error| format!("EROFS cannot be mounted from a file (Linux 6.12 does): {error}"))?;
    Ok(Mounted(mountpoint))
}

fn compare(context: &str, ours: &Path, kernel: &Path) {
    let (expected, found) = (walk(kernel), walk(ours));
    assert_eq!(expected.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>(), "{context}");
    let mut wrong = Vec::new();
    for (path, fields) in &expected {
        for (field, value) in fields {
            let ours = &found[path][field];
            if ours != value {
                wrong.push(format!("{} {field}: EROFS {value}, ours {ours}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{context}: {} differences: {:#?}", wrong.len(), &wrong[..wrong.len().min(20)]);
}

#[test]
fn a_mount_shows_what_the_kernel_makes_of_the_bootstrap() {
    require_mounts!();
    if !fs::read_to_string("/proc/filesystems").unwrap().contains("erofs") {
        return skip("erofs", "the kernel has no EROFS");
    }
    for image in IMAGES.iter().filter(|image| image.version == Version::V6) {
        let scratch = Scratch::new();
        let kernel = match by_kernel(&scratch.path(""), &image.bootstrap(), &image.blobs()) {
            Ok(kernel) => kernel,
            Err(reason) => return skip("erofs", &reason),
        };
        let daemon = scratch.launch(&image.bootstrap(), &scratch.config(image)).start();
        compare(image.name, daemon.mountpoint(), &kernel.0);
        daemon.unmount();
    }

    // What the fixtures do not have: holes, long targets, names of all lengths.
    let workshop = Workshop::new();
    let root = workshop.source();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(5 << 20).unwrap();
    nix::sys::uio::pwrite(&sparse, b"data", 3 << 20).unwrap();
    for len in [1, 59, 100, 511, 512, 2000, 4000, 4095] {
        std::os::unix::fs::symlink("t".repeat(len), root.join(format!("link{len}"))).unwrap();
    }
    for len in (1..256).step_by(7) {
        fs::write(root.join("n".repeat(len)), "x".repeat(len * 100)).unwrap();
    }
    workshop.build("6");
    let kernel = by_kernel(&workshop.path(""), &workshop.bootstrap(), &workshop.path("blobs")).unwrap();
    let daemon = workshop.launch(&[]).start();
    compare("built", daemon.mountpoint(), &kernel.0);
    drop(kernel);
    daemon.unmount();
}
