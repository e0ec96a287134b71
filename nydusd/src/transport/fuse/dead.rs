//! Mounts whose daemon is gone, found at our mountpoint when we start.
//!
//! | the mount there | and then |
//! |---|---|
//! | answers | it is mounted over, as ever |
//! | says that nobody serves it, and is known to be ours | detached |
//! | says so, and may be anybody's | an error |
//! | does not answer: somebody holds its `/dev/fuse` and serves nothing | an error |
//!
//! Invariant: nothing here waits without limit, and until a mount has shown which of these it is, only mountinfo is
//! looked at: whatever touches a mount that is held and not served waits until that ends.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::libc;
use nix::mount::{MntFlags, umount2};
use tracing::{info, warn};

use super::mount::SOURCE;
use super::mountinfo::{MountInfo, topmost};

/// How long a mount may take to answer: one that is served does so in microseconds, on a busy machine in milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// Dead mounts that may lie on each other.
const MOST: usize = 64;

/// Detaches dead mounts at `mountpoint` if they are known to be ours (`ours`); says why nothing can be mounted there
/// otherwise.
pub(super) fn clear(mountpoint: &Path, ours: bool) -> Result<()> {
    let Some(path) = without_symlinks(mountpoint) else { return Ok(()) };
    for _ in 0..MOST {
        let found = topmost(&path).context("/proc/self/mountinfo")?;
        let Some(mount) = found.filter(|mount| is_fuse(&mount.fs_type)) else { return Ok(()) };
        match probe(&path, PATIENCE) {
            Some(Err(Errno::ENOTCONN | Errno::ECONNABORTED)) => {}
            // Alive, or nothing that we may look at: mounting tells.
            Some(_) => return Ok(()),
            None => bail!(
                "mountpoint {0} holds a FUSE mount that nobody serves and somebody keeps open; end who keeps it, or unmount it \
                 first: umount -l {0}",
                mountpoint.display()
            ),
        }
        if !ours || mount.source != SOURCE {
            bail!(
                "mountpoint {0} holds a dead FUSE mount, left by a daemon that is gone; unmount it first: umount -l {0}",
                mountpoint.display()
            );
        }
        detach(&path, &mount)?;
        info!("{}: the dead mount of a daemon that is gone was detached", mountpoint.display());
    }
    bail!("mountpoint {}: more than {MOST} dead mounts", mountpoint.display())
}

/// The path as mountinfo has it; the last component is not looked at. `None` if there is no such place: mounting tells.
fn without_symlinks(mountpoint: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(mountpoint).ok()?;
    let name = absolute.file_name()?;
    Some(fs::canonicalize(absolute.parent()?).ok()?.join(name))
}

fn is_fuse(fs_type: &str) -> bool {
    fs_type == "fuse" || fs_type.starts_with("fuse.")
}

/// Asks whoever serves the mount at `path` for its root's attributes, whatever the kernel knows. `None`: no answer. The
/// question is left to a thread of its own, which ends with the answer or with the process: a question that nobody has
/// read yet goes away with who asks it.
fn probe(path: &Path, patience: Duration) -> Option<std::result::Result<(), Errno>> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let (answer, answered) = mpsc::channel();
    let ask = move || {
        // Fails if nobody waits any more.
        let _ = answer.send(ask_for_attributes(&path));
    };
    match thread::Builder::new().name("mount-probe".to_owned()).spawn(ask) {
        Ok(_) => answered.recv_timeout(patience).ok(),
        Err(e) => {
            warn!("cannot start a thread: {e}");
            None
        }
    }
}

#[allow(unsafe_code)]
fn ask_for_attributes(path: &CString) -> std::result::Result<(), Errno> {
    let flags = libc::AT_STATX_FORCE_SYNC | libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT;
    // SAFETY: `statx` is a plain C struct of integers, for which all zero is a value.
    let mut attributes: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: `path` ends with a NUL and `attributes` is a place for one statx; both outlive the call.
    let answer = unsafe {
        libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, libc::STATX_BASIC_STATS, &raw mut attributes)
    };
    Errno::result(answer).map(drop)
}

/// Detaches `mount`, if it still is the topmost one at `path`.
fn detach(path: &Path, mount: &MountInfo) -> Result<()> {
    if topmost(path).context("/proc/self/mountinfo")?.as_ref() != Some(mount) {
        bail!("mountpoint {}: somebody else mounts and unmounts there", path.display());
    }
    let detached = match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Err(Errno::EPERM) => fusermount(path),
        other => other.map_err(io::Error::from),
    };
    detached.with_context(|| format!("cannot detach the dead mount at {}", path.display()))
}

/// As who may not unmount by himself.
fn fusermount(path: &Path) -> io::Result<()> {
    let mut command = Command::new("fusermount3");
    command.args(["-u", "-z", "-q", "--"]).arg(path).stdin(Stdio::null()).stdout(Stdio::null());
    match command.status()? {
        status if status.success() => Ok(()),
        status => Err(io::Error::other(format!("fusermount3: {status}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_dead_mount_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        for place in [dir.path(), &dir.path().join("missing"), &dir.path().join("no/parent"), Path::new("/")]
        {
            clear(place, true).unwrap();
        }
        assert_eq!(probe(dir.path(), PATIENCE), Some(Ok(())));
        assert_eq!(probe(&dir.path().join("missing"), PATIENCE), Some(Err(Errno::ENOENT)));
    }

    #[test]
    fn symlinks_above_the_mountpoint_are_followed_and_the_last_name_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir(real.join("real")).unwrap();
        std::os::unix::fs::symlink("real", real.join("link")).unwrap();
        assert_eq!(without_symlinks(&real.join("link/mnt/")), Some(real.join("real/mnt")));
        assert_eq!(without_symlinks(&real.join("link")), Some(real.join("link")));
    }
}
