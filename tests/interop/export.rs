//! Every v6 fixture, exported, is mounted by the kernel, and the tree is what the manifest says.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::Write as _;
use std::process::Command;
use std::sync::Arc;

use nydus_image::export::export;
use nydus_image::image::Image;
use nydus_tests::fixtures::{IMAGES, Version};
use nydus_tests::require_tools;
use nydus_tests::requirements::skip;
use rafs::{Bootstrap, OpenOptions};
use storage::backend::localfs::{LocalFs, LocalFsConfig};

/// Unmounts when it is dropped.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn the_kernel_mounts_what_is_exported() {
    require_tools!("mount");
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap();
    if !nix::unistd::geteuid().is_root() || !filesystems.contains("erofs") {
        return skip("export", "needs root and a kernel with EROFS");
    }
    for image in IMAGES.iter().filter(|image| image.version == Version::V6) {
        let dir = tempfile::tempdir().unwrap();
        let (disk, mountpoint) = (dir.path().join("disk"), dir.path().join("mnt"));
        fs::create_dir(&mountpoint).unwrap();
        let mut file = File::create(&disk).unwrap();
        let bootstrap = Bootstrap::open(&image.bootstrap(), &OpenOptions::default()).unwrap();
        let config = LocalFsConfig { dir: Some(image.blobs()), ..LocalFsConfig::default() };
        let opened = Image::new(bootstrap, Arc::new(LocalFs::new(config).unwrap()), 2).unwrap();
        let sink = |bytes: &[u8]| {
            file.write_all(bytes).unwrap();
            Ok(())
        };
        export(&opened, false, sink).unwrap_or_else(|error| panic!("{}: {error}", image.name));
        // The file itself where the kernel takes files, else a loop device.
        let flags = nix::mount::MsFlags::MS_RDONLY;
        let none: Option<&str> = None;
        if let Err(error) = nix::mount::mount(Some(&disk), &mountpoint, Some("erofs"), flags, none) {
            let mounted = Command::new("mount")
                .args(["-t", "erofs", "-o", "ro,loop"])
                .args([&disk, &mountpoint])
                .output();
            let mounted = mounted.unwrap();
            if !mounted.status.success() {
                let reason = String::from_utf8_lossy(&mounted.stderr).into_owned();
                return skip(
                    "export",
                    &format!(
                        "EROFS can be mounted neither from a file ({error}) nor from a loop device ({reason})"
                    ),
                );
            }
        }
        let _mounted = Mounted(mountpoint.clone());
        image.manifest().assert_tree(&mountpoint, image.name);
    }
}
