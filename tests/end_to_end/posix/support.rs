//! Trees, the images of them, and what is mounted upon either.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nydus_image::cli::{Cli, Command};
use nydus_tests::config::{Config, Form, with_key};
use nydus_tests::daemon::{Daemon, Launch, Scratch};
use nydus_tests::mounts;
use serde_json::Value;

/// The formats, as `nydus-image --fs-version` has them.
pub const VERSIONS: [&str; 2] = ["5", "6"];

/// A directory where a test fills `source/`, builds an image of it, and mounts. Everybody may pass through it.
pub struct Workshop {
    scratch: Scratch,
}

impl Workshop {
    pub fn new() -> Self {
        let scratch = Scratch::new();
        fs::set_permissions(scratch.path(""), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(scratch.path("source")).unwrap();
        fs::set_permissions(scratch.path("source"), fs::Permissions::from_mode(0o755)).unwrap();
        Self { scratch }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path(name)
    }

    pub fn source(&self) -> PathBuf {
        self.path("source")
    }

    pub fn bootstrap(&self) -> PathBuf {
        self.path("bootstrap")
    }

    /// Builds the image of `source/` anew, in this format.
    pub fn build(&self, version: &str) {
        for old in ["cache", "blobs"] {
            let _ = fs::remove_dir_all(self.path(old));
            fs::create_dir(self.path(old)).unwrap();
        }
        let _ = fs::remove_file(self.bootstrap());
        let mut args = vec!["nydus-image".into(), "create".into()];
        args.extend(["--type", "dir-rafs", "--fs-version", version, "--bootstrap"].map(str::to_owned));
        for path in [self.bootstrap(), self.source()] {
            args.push(path.to_str().unwrap().to_owned());
        }
        args.insert(2, "--blob-dir".into());
        args.insert(3, self.path("blobs").to_str().unwrap().to_owned());
        let cli = Cli::try_parse_from(args).unwrap();
        match cli.command {
            Some(Command::Create(args)) => nydus_image::command::create::run(&args, &cli.global).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// The configuration of schema v1 in which snapshotters set keys, with these set.
    pub fn launch(&self, keys: &[(&str, Value)]) -> Launch {
        self.launch_in(Form::V1, keys)
    }

    /// As [`Self::launch`], of any schema. A key that is set to null is absent.
    pub fn launch_in(&self, form: Form, keys: &[(&str, Value)]) -> Launch {
        let mut config = Config::new(&self.path("blobs"), &self.scratch.cache());
        config.form = form;
        let config =
            keys.iter().fold(config.to_value(), |config, (key, value)| with_key(&config, key, value.clone()));
        self.scratch.launch_text(&self.bootstrap(), &config.to_string())
    }

    /// Builds and mounts.
    pub fn mount(&self, version: &str) -> Daemon {
        self.build(version);
        self.launch(&[]).start()
    }

    /// An overlay whose changes go to a directory of this name.
    pub fn overlay(&self, name: &str, lower: &Path) -> Mounted {
        let at = |part: &str| {
            let path = self.path(name).join(part);
            fs::create_dir_all(&path).unwrap();
            path
        };
        let (upper, work, mountpoint) = (at("upper"), at("work"), at("merged"));
        let (lower, upper, work) = (lower.display(), upper.display(), work.display());
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        mount(Some("overlay"), &mountpoint, Some("overlay"), MsFlags::empty(), Some(&options[..]))
            .unwrap_or_else(|error| panic!("overlay with {options}: {error}"));
        Mounted(mountpoint)
    }

    /// `source/`, mounted once more with these flags.
    pub fn bind(&self, name: &str, flags: MsFlags) -> Mounted {
        let mountpoint = self.path(name);
        fs::create_dir_all(&mountpoint).unwrap();
        let none: Option<&str> = None;
        mount(Some(&self.source()), &mountpoint, none, MsFlags::MS_BIND, none).unwrap();
        let mounted = Mounted(mountpoint);
        let flags = flags | MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
        mount(none, &mounted.0, none, flags, none).unwrap();
        mounted
    }
}

/// Something mounted. Detached when it is dropped.
pub struct Mounted(pub PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        mounts::detach(&self.0);
    }
}

/// Why trees with ACLs cannot be made here, or `None` if they can.
pub fn missing_for_acls(directory: &Path) -> Option<String> {
    let probe = directory.join("probe");
    fs::write(&probe, b"").unwrap();
    let set = xattr::set(&probe, "system.posix_acl_access", &acl(0o600, &[(USER, 1, 4)]));
    fs::remove_file(&probe).unwrap();
    set.err().map(|error| format!("no POSIX ACLs on the file system of {}: {error}", directory.display()))
}

/// The tag of a named user in an ACL.
pub const USER: u16 = 2;
/// The tag of a named group in an ACL.
pub const GROUP: u16 = 8;

/// The value of `system.posix_acl_*`: owner, mask and others have the bits of `mode`, the owning group those of the mask;
/// `named` are tag, id and permissions.
pub fn acl(mode: u16, named: &[(u16, u32, u16)]) -> Vec<u8> {
    acl_with_group(mode, mode >> 3 & 7, named)
}

/// As [`acl`], the owning group with permissions of its own.
pub fn acl_with_group(mode: u16, group: u16, named: &[(u16, u32, u16)]) -> Vec<u8> {
    const NO_ID: u32 = u32::MAX;
    let of_tag = |tag| named.iter().copied().filter(move |entry| entry.0 == tag);
    let mut entries = vec![(1, NO_ID, mode >> 6 & 7)];
    entries.extend(of_tag(USER));
    entries.push((4, NO_ID, group));
    entries.extend(of_tag(GROUP));
    entries.extend([(16, NO_ID, mode >> 3 & 7), (32, NO_ID, mode & 7)]);
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, id, permissions) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

/// Makes the kernel forget the inodes that nobody uses.
pub fn drop_inodes() {
    fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
}

/// The errno of a call.
pub fn errno<T>(result: std::io::Result<T>) -> Option<Errno> {
    result.err().and_then(|error| error.raw_os_error()).map(Errno::from_raw)
}
