//! Names and symlink targets that are too long.

use std::fs;
use std::os::unix::fs::symlink;

use nix::errno::Errno;
use nydus_tests::require_mounts;

use crate::support::{VERSIONS, Workshop, errno};

#[test]
fn a_name_that_is_too_long_is_told_from_one_that_is_missing() {
    require_mounts!();
    let workshop = Workshop::new();
    let longest = "n".repeat(255);
    fs::write(workshop.source().join(&longest), "longest").unwrap();
    for version in VERSIONS {
        let daemon = workshop.mount(version);
        assert_eq!(fs::read(daemon.mountpoint().join(&longest)).unwrap(), b"longest");
        for name in ["m".repeat(255), "n".repeat(256), "n".repeat(1000), "n".repeat(4000)] {
            let at = |root: &std::path::Path| errno(fs::symlink_metadata(root.join(&name)));
            assert_eq!(at(daemon.mountpoint()), at(&workshop.source()), "v{version}, {} bytes", name.len());
        }
        daemon.unmount();
    }
}

#[test]
fn a_target_that_is_too_long_is_said_to_be() {
    require_mounts!();
    let workshop = Workshop::new();
    let target = "t".repeat(4095);
    symlink(&target, workshop.source().join("link")).unwrap();
    for version in VERSIONS {
        let daemon = workshop.mount(version);
        assert_eq!(fs::read_link(daemon.mountpoint().join("link")).unwrap().to_str(), Some(&target[..]));
        daemon.unmount();

        // Builders refuse one byte more, but there are images that have it.
        let mut bytes = fs::read(workshop.bootstrap()).unwrap();
        let at = bytes.windows(target.len()).position(|window| window == target.as_bytes()).unwrap();
        assert_eq!(bytes[at + target.len()], 0, "room for one more");
        bytes[at + target.len()] = b't';
        let size = 4095u64.to_le_bytes();
        let width = if version == "5" { 2 } else { 8 };
        let sizes: Vec<usize> =
            (0..bytes.len() - width).filter(|&from| bytes[from..from + width] == size[..width]).collect();
        for from in sizes {
            bytes[from..from + width].copy_from_slice(&4096u64.to_le_bytes()[..width]);
        }
        fs::write(workshop.bootstrap(), bytes).unwrap();
        let daemon = workshop.launch(&[]).start();
        let link = daemon.mountpoint().join("link");
        assert_eq!(errno(fs::read_link(&link)), Some(Errno::ENAMETOOLONG), "v{version}");
        assert_eq!(errno(fs::metadata(&link)), Some(Errno::ENAMETOOLONG), "v{version}");
        assert_eq!(fs::symlink_metadata(&link).unwrap().len(), 4096);
        daemon.unmount();
    }
}
