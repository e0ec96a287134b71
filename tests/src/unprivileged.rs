//! Running the daemon as nobody, with a /dev/fuse whose mode the test chooses.
//!
//! Both happen in a mount namespace of their own, so nothing changes for the rest of the machine and nothing can be
//! left behind: the mounts end with the namespace.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, chown};

use crate::daemon::{Launch, Scratch};
use crate::fixtures::Image;
use crate::program;

/// The user `nobody`.
pub const NOBODY: u32 = 65534;

/// Gives the scratch directory to nobody: a copy of the image in it, and of the program, which may lie where
/// nobody may not go.
pub fn hand_over(scratch: &Scratch, image: &Image) {
    let root = scratch.path("");
    image.copy_to(&root.join("image"));
    fs::copy(program::nydusd(), root.join("nydusd")).unwrap();
    give(&root);
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
}

fn give(path: &Path) {
    chown(path, Some(Uid::from_raw(NOBODY)), Some(Gid::from_raw(NOBODY))).unwrap();
    if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| give(&entry.unwrap().path()));
    }
}

/// The daemon's start on what [`hand_over`] gave away, yet to be wrapped.
pub fn launch(scratch: &Scratch, image: &Image) -> Launch {
    let root = scratch.path("image");
    let mut config = scratch.config(image);
    config.blobs = root.join("blobs");
    let path = scratch.write("config", &config.to_text());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    Launch::new(&scratch.mountpoint())
        .program(&scratch.path("nydusd"))
        .option("--config", path)
        .option("--bootstrap", root.join("bootstrap"))
}

/// A command that runs its arguments as nobody, in a new mount namespace in which /dev/fuse has this mode.
pub fn namespace_with_dev_fuse(scratch: &Scratch, mode: u32) -> Vec<OsString> {
    let script = format!(
        "set -e; mount -t tmpfs none \"$0\"; mknod \"$0/fuse\" c 10 229; chmod {mode:o} \"$0/fuse\"; \
         mount --bind \"$0/fuse\" /dev/fuse; exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups \"$@\""
    );
    let devices: PathBuf = scratch.path("dev");
    fs::create_dir_all(&devices).unwrap();
    let words = ["unshare", "--mount", "sh", "-c", &script].map(OsString::from);
    words.into_iter().chain([devices.into()]).collect()
}
