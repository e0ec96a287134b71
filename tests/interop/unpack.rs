//! Every fixture image, unpacked, is what its manifest says.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::Write as _;
use std::process::Command;
use std::sync::Arc;

use nydus_image::image::Image;
use nydus_image::unpack::unpack;
use nydus_tests::fixtures::IMAGES;
use nydus_tests::require_tools;
use nydus_tests::requirements::skip;
use rafs::{Bootstrap, OpenOptions};
use storage::backend::localfs::{LocalFs, LocalFsConfig};

#[test]
fn fixtures_unpack_to_what_their_manifests_say() {
    require_tools!("tar");
    if !nix::unistd::geteuid().is_root() {
        return skip("unpack", "owners, devices and trusted attributes need root");
    }
    for image in IMAGES {
        let dir = tempfile::tempdir().unwrap();
        let tar = dir.path().join("image.tar");
        let mut file = File::create(&tar).unwrap();
        let bootstrap = Bootstrap::open(&image.bootstrap(), &OpenOptions::default()).unwrap();
        let config = LocalFsConfig { dir: Some(image.blobs()), ..LocalFsConfig::default() };
        let opened = Image::new(bootstrap, Arc::new(LocalFs::new(config).unwrap()), 2).unwrap();
        unpack(&opened, |bytes| {
            file.write_all(bytes).unwrap();
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{}: {error}", image.name));
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let status = Command::new("tar")
            .args(["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf"])
            .arg(&tar)
            .current_dir(&root)
            .status();
        assert!(status.unwrap().success(), "{}", image.name);
        image.manifest().assert_tree(&root, image.name);
    }
}
