//! The mount table of this process, and getting rid of mounts.

use std::path::Path;

use nix::mount::{MntFlags, umount2};

/// One line of `/proc/self/mountinfo`.
#[derive(Clone, Debug)]
pub struct Mount {
    /// `MAJOR:MINOR` of the mounted device.
    pub device: String,
    /// The file system's type, such as `fuse` or `fuse.rafs`.
    pub fs_type: String,
    /// Options of the mount and of its superblock.
    pub options: String,
}

/// What is mounted at `mountpoint`; the topmost mount if there are several. Never touches the mount itself, since
/// that could wait for its daemon.
pub fn find(mountpoint: &Path) -> Option<Mount> {
    let wanted = mountpoint.to_str().expect("test paths are plain");
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("the mount table is readable");
    table.lines().rev().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        (left.get(4) == Some(&wanted)).then(|| Mount {
            device: left[2].to_owned(),
            fs_type: right[0].to_owned(),
            options: format!("{},{}", left[5], right.get(2).unwrap_or(&"")),
        })
    })
}

/// Detaches whatever is mounted at `mountpoint`, all layers of it, dead ones included.
pub fn detach(mountpoint: &Path) {
    for _ in 0..16 {
        if umount2(mountpoint, MntFlags::MNT_DETACH).is_err() {
            return;
        }
    }
}
