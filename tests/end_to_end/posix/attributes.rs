//! Extended attributes: which are served, what is said where there are none, and what asking costs.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::mount::MsFlags;
use nydus_tests::config::Form;
use nydus_tests::daemon::{Daemon, Launch};
use nydus_tests::requirements::tool;
use nydus_tests::{require_mounts, require_tools};
use serde_json::{Value, json};

use crate::support::{VERSIONS, Workshop, errno};

const CAPABILITY: &str = "security.capability";

/// Files, a directory and a link without attributes.
fn fill(root: &Path, files: usize) {
    for number in 0..files {
        fs::write(root.join(format!("file{number}")), b"x").unwrap();
    }
    fs::create_dir(root.join("directory")).unwrap();
    symlink("file0", root.join("link")).unwrap();
}

/// The keys that leave attributes to the image, or ask for them.
fn asking() -> [(&'static str, Value); 2] {
    [("enable_xattr", json!(true)), ("enable_xattr", Value::Null)]
}

#[test]
fn a_tree_without_attributes_has_none() {
    require_mounts!();
    let workshop = Workshop::new();
    fill(&workshop.source(), 1);
    for version in VERSIONS {
        workshop.build(version);
        for key in asking() {
            let context = format!("v{version}, {key:?}");
            let daemon = workshop.launch(&[key]).start();
            for entry in ["file0", "directory", "link", "."] {
                let (ours, theirs) = (daemon.mountpoint().join(entry), workshop.source().join(entry));
                assert_eq!(xattr::list(&theirs).unwrap().count(), 0, "{entry}: the test wants none");
                assert_eq!(xattr::list(&ours).unwrap().count(), 0, "{context}: {entry}");
                for name in ["user.mime", "trusted.overlay.opaque", "trusted.x", CAPABILITY] {
                    let of = |path: &Path| xattr::get(path, name).map_err(|error| error.raw_os_error());
                    assert_eq!(of(&ours), of(&theirs), "{context}: {name} of {entry}");
                }
                // Not what ext4 says, but what a file system without them does: see what it costs, below.
                for name in ["security.selinux", "system.posix_acl_access"] {
                    let answer = errno(xattr::get(&ours, name));
                    assert_eq!(answer, Some(Errno::EOPNOTSUPP), "{context}: {name} of {entry}");
                }
            }
            daemon.unmount();
        }
    }
}

/// Requests that the daemon takes while `command` looks at the mount. Reading `/dev/fuse` is nearly all that it reads.
fn requests(daemon: &Daemon, command: &[&str]) -> u64 {
    let reads = || -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/io", daemon.pid())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("syscr: ")).unwrap();
        line.parse().unwrap()
    };
    let before = reads();
    let status = Command::new(command[0]).args(&command[1..]).arg(daemon.mountpoint()).output().unwrap();
    assert!(status.status.success(), "{status:?}");
    reads() - before
}

#[test]
fn a_listing_asks_no_more_where_there_are_no_attributes() {
    require_mounts!();
    require_tools!("ls", "find");
    const FILES: usize = 400;
    let workshop = Workshop::new();
    fill(&workshop.source(), FILES);
    for version in VERSIONS {
        workshop.build(version);
        for command in [&["ls", "-lR"][..], &["sh", "-c", "find \"$0\" -ls"]] {
            let of = |wanted: bool| {
                let daemon = workshop.launch(&[("enable_xattr", json!(wanted))]).start();
                let count = requests(&daemon, command);
                daemon.unmount();
                count
            };
            let (hidden, served) = (of(false), of(true));
            println!(
                "v{version} {command:?}: {hidden} requests with attributes hidden, {served} with them served"
            );
            assert!(served <= hidden + 20, "v{version} {command:?}: {served} requests instead of {hidden}");
        }
    }
}

/// A program that may read everything, and a file that only root may read.
fn fill_with_capability(root: &Path) {
    let program = root.join("program");
    fs::copy(tool("cat").unwrap(), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    // struct vfs_cap_data: revision 2, effective; permitted CAP_DAC_READ_SEARCH (2).
    let mut value = vec![1, 0, 0, 2, 4];
    value.resize(20, 0);
    xattr::set(&program, CAPABILITY, &value).unwrap();
    let secret = root.join("secret");
    fs::write(&secret, "secret").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    fs::create_dir(root.join("directory")).unwrap();
    for (entry, name) in
        [("secret", "user.mime"), ("directory", "trusted.x"), ("directory", "user.mime"), (".", "user.r")]
    {
        xattr::set(root.join(entry), name, entry.as_bytes()).unwrap();
    }
    symlink("secret", root.join("link")).unwrap();
    xattr::set(root.join("link"), "trusted.of-a-link", b"").unwrap();
}

/// What the program says, run by a user without rights.
fn run(root: &Path) -> (bool, Vec<u8>) {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "1001", "--regid", "1001", "--clear-groups", "--bounding-set", "+all"]);
    let output = command.arg(root.join("program")).arg(root.join("secret")).output().unwrap();
    (output.status.success(), output.stdout)
}

/// Names and values.
type Attributes = Vec<(String, Vec<u8>)>;

/// Those of each entry.
fn all_attributes(root: &Path) -> Vec<(String, Attributes)> {
    let of = |entry: &str| {
        let path = root.join(entry);
        let mut names: Vec<String> =
            xattr::list(&path).unwrap().map(|name| name.into_string().unwrap()).collect();
        names.sort();
        let value = |name: &String| xattr::get(&path, name).unwrap().unwrap();
        (entry.to_owned(), names.iter().map(|name| (name.clone(), value(name))).collect())
    };
    ["program", "secret", "directory", "link", "."].map(of).to_vec()
}

#[test]
fn attributes_of_the_image_are_served_unless_told_not_to() {
    require_mounts!();
    require_tools!("setpriv", "cat");
    let workshop = Workshop::new();
    fill_with_capability(&workshop.source());
    let expected = all_attributes(&workshop.source());
    let nosuid = workshop.bind("nosuid", MsFlags::MS_NOSUID);
    let theirs = workshop.overlay("theirs", &workshop.source());
    assert_eq!(run(&theirs.0), (true, b"secret".to_vec()), "the capability is worth something here");
    let may_not = run(&nosuid.0);
    assert!(!may_not.0, "file capabilities count for nothing on a mount with nosuid");

    for version in VERSIONS {
        workshop.build(version);
        let by_directory = Launch::new(&workshop.path("mnt"))
            .option("--localfs-dir", workshop.path("blobs"))
            .option("--bootstrap", workshop.bootstrap());
        // Each writes its configuration over that of the one before.
        let launches: [(&str, &dyn Fn() -> Launch); 4] = [
            ("true", &|| workshop.launch(&asking()[..1])),
            ("absent", &|| workshop.launch(&asking()[1..])),
            ("absent in v2", &|| workshop.launch_in(Form::V2Json, &[("rafs.enable_xattr", Value::Null)])),
            ("--localfs-dir", &|| by_directory.clone()),
        ];
        for (key, launch) in launches {
            let daemon = launch().start();
            assert_eq!(all_attributes(daemon.mountpoint()), expected, "v{version}, {key}");
            assert_eq!(run(daemon.mountpoint()), may_not, "v{version}, {key}");
            let ours =
                workshop.overlay(&format!("ours-{version}-{key}").replace(' ', "-"), daemon.mountpoint());
            assert_eq!(run(&ours.0), run(&theirs.0), "v{version}, {key}: on an overlay");
            drop(ours);
            daemon.unmount();
        }
        let daemon = workshop.launch(&[("enable_xattr", json!(false))]).start();
        let program = daemon.mountpoint().join("program");
        assert_eq!(errno(xattr::list(&program)), Some(Errno::EOPNOTSUPP), "v{version}: hidden");
        assert_eq!(errno(xattr::get(&program, CAPABILITY)), Some(Errno::EOPNOTSUPP), "v{version}: hidden");
        daemon.unmount();
    }
}
