//! Getting mounted and unmounted.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use fuse_backend_rs::transport::FuseSession;
use nix::unistd::geteuid;
use tracing::{debug, warn};

use super::{dead, mountinfo};

/// What stands in mount tables as what is mounted.
pub(super) const SOURCE: &str = "rafs";
/// What the kernel reads ahead, in KiB: as much as one READ can carry.
const READ_AHEAD_KIB: &str = "1024";
/// How long the first look at the mount may take.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// A mounted FUSE filesystem. Dropped, it is unmounted.
pub(super) struct Mount {
    session: FuseSession,
}

impl Mount {
    /// Mounts on `mountpoint`, for all users if `allow_other`.
    pub(super) fn new(mountpoint: &Path, allow_other: bool) -> Result<Self> {
        dead::clear(mountpoint, false)?;
        check_mountpoint(mountpoint)?;
        check_device()?;
        let mut session = FuseSession::new(mountpoint, SOURCE, "", true)
            .with_context(|| format!("mountpoint {}", mountpoint.display()))?;
        session.set_allow_other(allow_other);
        session.mount().with_context(|| match allow_other && !geteuid().is_root() {
            true => format!(
                "cannot mount on {} (allow_other needs user_allow_other in /etc/fuse.conf)",
                mountpoint.display()
            ),
            false => format!("cannot mount on {}", mountpoint.display()),
        })?;
        Ok(Self { session })
    }

    /// The device, in non-blocking mode.
    pub(super) fn device(&self) -> Result<fs::File> {
        let device = self.session.get_fuse_file().context("the session has no device")?;
        device.try_clone().context("cannot duplicate the FUSE device")
    }

    pub(super) fn buffer_bytes(&self) -> usize {
        self.session.bufsize()
    }

    /// Lets the kernel read ahead as much as one READ can carry. INIT cannot ask for more than 128 KiB.
    pub(super) fn raise_read_ahead(&self) {
        let mountpoint = self.session.mountpoint();
        let mount = match mountinfo::topmost(mountpoint) {
            Ok(Some(mount)) => mount,
            Ok(None) => return debug!("{} is not in mountinfo", mountpoint.display()),
            Err(e) => return warn!("/proc/self/mountinfo: {e}"),
        };
        let file = PathBuf::from("/sys/class/bdi").join(mount.device).join("read_ahead_kb");
        if let Err(e) = fs::write(&file, READ_AHEAD_KIB) {
            debug!("readahead stays at its default: {}: {e}", file.display());
        }
    }

    /// Asks for the root's attributes as programs do, birth time included, for the time when nobody answers any more: the
    /// kernel then knows them, and that there are no others to ask for. Who looks at the mountpoint of a daemon that was
    /// killed is answered, and does not wait. Needs workers that serve; gives up after a while.
    pub(super) fn make_root_known(&self) {
        let (done, is_done) = mpsc::channel();
        let mountpoint = self.session.mountpoint().to_owned();
        let look = move || {
            // Fails if nobody waits any more.
            let _ = done.send(fs::symlink_metadata(mountpoint));
        };
        let asked = thread::Builder::new().name("mount-look".to_owned()).spawn(look);
        match asked.map(|_| is_done.recv_timeout(LOOK_LIMIT)) {
            Ok(Ok(Ok(_))) => {}
            Ok(Ok(Err(e))) => warn!("{}: {e}", self.session.mountpoint().display()),
            Ok(Err(_)) => warn!("{}: no answer in {LOOK_LIMIT:?}", self.session.mountpoint().display()),
            Err(e) => warn!("cannot start a thread: {e}"),
        }
    }

    pub(super) fn unmount(mut self) -> Result<()> {
        self.session
            .umount()
            .with_context(|| format!("cannot unmount {}", self.session.mountpoint().display()))
    }
}

/// Explains what the kernel would only give a number for.
fn check_mountpoint(mountpoint: &Path) -> Result<()> {
    match fs::metadata(mountpoint) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => bail!("mountpoint {} is not a directory", mountpoint.display()),
        Err(e) => Err(e).with_context(|| format!("mountpoint {}", mountpoint.display())),
    }
}

fn check_device() -> Result<()> {
    const DEVICE: &str = "/dev/fuse";
    let device = fs::OpenOptions::new().read(true).write(true).open(DEVICE);
    device.map(drop).with_context(|| format!("cannot open {DEVICE}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_no_mountpoint() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = check_mountpoint(file.path()).unwrap_err().to_string();
        assert!(error.contains("not a directory"), "{error}");
    }
}
