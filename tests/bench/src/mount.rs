//! A tree to be looked at: as it lies, through a daemon, or through the kernel's EROFS.
//!
//! Invariant: dropped, nothing stays mounted and no daemon runs.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::image::Image;
use crate::process::{self, Usage};

/// How long a daemon may take to mount, and to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where a daemon has the blobs from.
#[derive(Clone, Copy, Debug)]
pub enum Blobs {
    /// The directory of the image.
    Local,
    /// A registry over plain HTTP that wants no proof.
    Registry(SocketAddr),
}

/// A tree that can be looked at.
pub struct Mount {
    /// Its root.
    pub root: PathBuf,
    mounted: bool,
    daemon: Option<Child>,
}

impl Mount {
    /// A tree as it lies.
    pub fn unpacked(root: &Path) -> Self {
        Self { root: root.to_owned(), mounted: false, daemon: None }
    }

    /// Mounts an image by a daemon, which both implementations' command lines and configurations allow.
    pub fn fuse(
        nydusd: &Path,
        image: &Image,
        blobs: &Blobs,
        cache: &Path,
        root: &Path,
        log: &Path,
    ) -> Result<Self> {
        fs::create_dir_all(root)?;
        fs::create_dir_all(cache)?;
        let backend = match blobs {
            Blobs::Local => json!({ "type": "localfs", "config": { "dir": image.blobs() } }),
            Blobs::Registry(at) => {
                let config = json!({ "scheme": "http", "host": at.to_string(), "repo": "bench/image" });
                json!({ "type": "registry", "config": config })
            }
        };
        let config = json!({
            "device": {
                "backend": backend,
                "cache": { "type": "blobcache", "config": { "work_dir": cache } },
            },
            "mode": "direct",
            "digest_validate": false,
            "enable_xattr": true,
            "fs_prefetch": { "enable": false },
        });
        let config_file = log.with_extension("json");
        fs::write(&config_file, config.to_string())?;
        let mut command = Command::new(nydusd);
        // The open-file limit is left alone: raising it is not allowed everywhere.
        command.args(["--log-level", "warn", "--rlimit-nofile", "0"]);
        command.arg("--config").arg(config_file).arg("--bootstrap").arg(image.bootstrap());
        command.arg("--mountpoint").arg(root);
        let log_file = File::create(log)?;
        command.stdin(Stdio::null()).stdout(log_file.try_clone()?).stderr(log_file);
        let child = command.spawn().with_context(|| nydusd.display().to_string())?;
        let mut mount = Self { root: root.to_owned(), mounted: true, daemon: Some(child) };
        let deadline = Instant::now() + PATIENCE;
        while !is_mounted(root)? {
            let ended = mount.daemon.as_mut().map(Child::try_wait).transpose()?.flatten();
            if let Some(status) = ended {
                mount.mounted = false;
                bail!("{command:?}: {status}\n{}", fs::read_to_string(log)?);
            }
            ensure!(Instant::now() < deadline, "{command:?}: not mounted after {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        fs::metadata(root).with_context(|| root.display().to_string())?;
        Ok(mount)
    }

    /// Mounts a bootstrap by the kernel, each blob's filled cache file being a device.
    pub fn erofs(image: &Image, cache: &Path, root: &Path) -> Result<Self> {
        fs::create_dir_all(root)?;
        let devices = image.blob_ids()?.into_iter();
        let devices = devices.map(|id| format!("device={}", cache.join(format!("{id}.blob.data")).display()));
        let options = devices.collect::<Vec<_>>().join(",");
        mount(Some(&image.bootstrap()), root, Some("erofs"), MsFlags::MS_RDONLY, Some(options.as_str()))
            .with_context(|| format!("cannot mount {} as EROFS ({options})", image.bootstrap().display()))?;
        Ok(Self { root: root.to_owned(), mounted: true, daemon: None })
    }

    /// What the daemon has used so far, if there is one.
    pub fn usage(&self) -> Result<Option<Usage>> {
        self.daemon.as_ref().map(|daemon| process::usage(daemon.id())).transpose()
    }

    /// Unmounts, and waits for the daemon to end.
    pub fn end(mut self) -> Result<()> {
        self.close()
    }

    fn close(&mut self) -> Result<()> {
        let Some(mut daemon) = self.daemon.take() else {
            if std::mem::take(&mut self.mounted) {
                umount2(&self.root, MntFlags::empty())
                    .with_context(|| format!("cannot unmount {}", self.root.display()))?;
            }
            return Ok(());
        };
        kill(Pid::from_raw(daemon.id() as i32), Signal::SIGTERM)?;
        let deadline = Instant::now() + PATIENCE;
        while daemon.try_wait()?.is_none() {
            if Instant::now() >= deadline {
                daemon.kill()?;
                daemon.wait()?;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if std::mem::take(&mut self.mounted) {
            // Usually the daemon has done it.
            let _ = umount2(&self.root, MntFlags::MNT_DETACH);
        }
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            eprintln!("{}: {error:#}", self.root.display());
        }
    }
}

/// A writable layer over a tree, as a container has it. Dropped, it is unmounted.
pub struct Overlay {
    /// The root that the container sees.
    pub root: PathBuf,
}

impl Overlay {
    /// Lays a fresh layer over `lower`; `directory` is for it alone, and what was in it is removed.
    pub fn new(lower: &Path, directory: &Path) -> Result<Self> {
        if directory.exists() {
            fs::remove_dir_all(directory)?;
        }
        let [upper, work, root] = ["upper", "work", "root"].map(|name| directory.join(name));
        for path in [&upper, &work, &root] {
            fs::create_dir_all(path)?;
        }
        let options =
            format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
        mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
            .with_context(|| format!("cannot mount an overlay ({options})"))?;
        Ok(Self { root })
    }

    /// Unmounts it.
    pub fn end(self) -> Result<()> {
        let root = self.root.clone();
        std::mem::forget(self);
        umount2(&root, MntFlags::empty()).with_context(|| format!("cannot unmount {}", root.display()))
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = umount2(&self.root, MntFlags::MNT_DETACH);
    }
}

/// Asks the mount table, not the mountpoint, which could wait for its daemon.
fn is_mounted(root: &Path) -> Result<bool> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let root = root.to_str().with_context(|| format!("{}: not a plain path", root.display()))?;
    Ok(table.lines().any(|line| line.split(' ').nth(4) == Some(root)))
}
