//! Getting mounted and unmounted.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use fuse_backend_rs::transport::FuseSession;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::geteuid;
use tracing::{debug, warn};

/// What the kernel reads ahead, in KiB: as much as one READ can carry.
const READ_AHEAD_KIB: &str = "1024";

/// A mounted FUSE filesystem. Dropped, it is unmounted.
pub(super) struct Mount {
    session: FuseSession,
}

impl Mount {
    /// Mounts on `mountpoint`, for all users if `allow_other`.
    pub(super) fn new(mountpoint: &Path, allow_other: bool) -> Result<Self> {
        check_mountpoint(mountpoint)?;
        check_device()?;
        let mut session = FuseSession::new(mountpoint, "rafs", "", true)
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

    /// The device, in blocking mode.
    pub(super) fn device(&self) -> Result<fs::File> {
        let device = self.session.get_fuse_file().context("the session has no device")?;
        let device = device.try_clone().context("cannot duplicate the FUSE device")?;
        // The session has made it non-blocking, for a loop of its own that we do not use.
        fcntl(&device, FcntlArg::F_SETFL(OFlag::empty())).context("cannot make the FUSE device blocking")?;
        Ok(device)
    }

    pub(super) fn buffer_bytes(&self) -> usize {
        self.session.bufsize()
    }

    /// Lets the kernel read ahead as much as one READ can carry. INIT cannot ask for more than 128 KiB.
    pub(super) fn raise_read_ahead(&self) {
        let Some(device) = device_number(self.session.mountpoint()) else {
            return debug!("{} is not in mountinfo", self.session.mountpoint().display());
        };
        let file = PathBuf::from("/sys/class/bdi").join(device).join("read_ahead_kb");
        if let Err(e) = fs::write(&file, READ_AHEAD_KIB) {
            debug!("readahead stays at its default: {}: {e}", file.display());
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
        Err(e) if e.raw_os_error() == Some(Errno::ENOTCONN as i32) => bail!(
            "mountpoint {0} holds a dead FUSE mount, left by a daemon that is gone; unmount it first: umount -l {0}",
            mountpoint.display()
        ),
        Err(e) => Err(e).with_context(|| format!("mountpoint {}", mountpoint.display())),
    }
}

fn check_device() -> Result<()> {
    const DEVICE: &str = "/dev/fuse";
    let device = fs::OpenOptions::new().read(true).write(true).open(DEVICE);
    device.map(drop).with_context(|| format!("cannot open {DEVICE}"))
}

/// `MAJOR:MINOR` of the newest mount on `mountpoint`, without touching it: a stat would ask ourselves.
fn device_number(mountpoint: &Path) -> Option<String> {
    let mounts = match fs::read_to_string("/proc/self/mountinfo") {
        Ok(mounts) => mounts,
        Err(e) => {
            warn!("/proc/self/mountinfo: {e}");
            return None;
        }
    };
    mounts.lines().rev().find_map(|line| {
        let mut fields = line.split(' ');
        let device = fields.nth(2)?;
        let point = fields.nth(1)?;
        (unescape(point) == mountpoint.as_os_str().as_encoded_bytes()).then(|| device.to_owned())
    })
}

/// Undoes mountinfo's `\ooo` for space, tab, newline and backslash.
fn unescape(field: &str) -> Vec<u8> {
    let bytes = field.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes.get(at + 1..at + 4).filter(|_| bytes[at] == b'\\');
        let code = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        out.push(code.unwrap_or(bytes[at]));
        at += if code.is_some() { 4 } else { 1 };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_escapes_are_undone() {
        assert_eq!(unescape("/a\\040b\\134c\\9"), b"/a b\\c\\9");
    }

    #[test]
    fn a_file_is_no_mountpoint() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = check_mountpoint(file.path()).unwrap_err().to_string();
        assert!(error.contains("not a directory"), "{error}");
    }
}
