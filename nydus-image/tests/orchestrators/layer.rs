//! Layers of images, as GNU tar writes them.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// A tree with what layers have: data of all sizes, links, owners, attributes, `/dev`, and whiteouts in the form of OCI.
pub fn everything(root: &Path) {
    for dir in ["bin", "data/deep/er", "dev/pts", "etc", "opaque"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    for (name, content) in [
        ("bin/tool", noise(1, 70_000)),
        ("bin/text", "many words ".repeat(60_000).into_bytes()),
        ("data/large", noise(2, 3 << 20)),
        ("data/one", vec![1]),
        ("data/page", noise(3, 4096)),
        ("data/empty", Vec::new()),
        ("data/zeros", vec![0; 300_000]),
        ("data/deep/er/twin", noise(1, 70_000)),
        ("etc/passwd", b"root:x:0:0\n".to_vec()),
        ("etc/.wh.shadow", Vec::new()),
        ("opaque/.wh..wh..opq", Vec::new()),
        ("opaque/stays", b"stays".to_vec()),
    ] {
        fs::write(root.join(name), content).unwrap();
    }
    fs::write(root.join("data").join("n".repeat(200)), "a long name").unwrap();
    fs::hard_link(root.join("bin/tool"), root.join("bin/tool-2")).unwrap();
    symlink("../bin/tool", root.join("etc/tool")).unwrap();
    symlink("t".repeat(150), root.join("etc/far")).unwrap();
    fs::set_permissions(root.join("bin/tool"), fs::Permissions::from_mode(0o4755)).unwrap();
    std::os::unix::fs::chown(root.join("data/one"), Some(1000), Some(3_000_000)).unwrap();
    xattr::set(root.join("data/page"), "user.note", b"a=b%\n").unwrap();
    xattr::set(root.join("bin/text"), "trusted.overlay.x", b"kept").ok();
    for (name, kind, major, minor) in [
        ("dev/null", SFlag::S_IFCHR, 1, 3),
        ("dev/nvme", SFlag::S_IFBLK, 259, 70_000),
        ("dev/zero", SFlag::S_IFCHR, 1, 5),
    ] {
        mknod(&root.join(name), kind, Mode::from_bits_truncate(0o666), makedev(major, minor)).unwrap();
    }
    nix::unistd::mkfifo(&root.join("dev/initctl"), Mode::from_bits_truncate(0o600)).unwrap();
    whole_seconds(root);
}

/// Gives all entries the same time: what is built from tars has whole seconds.
pub fn whole_seconds(root: &Path) {
    let mut command = Command::new("find");
    command.arg(root).args(["-exec", "touch", "-hd", "@1700000000", "{}", "+"]);
    assert!(command.status().unwrap().success());
}

/// Has GNU tar pack what lies in `root`, without an entry for `root` itself, as layers are packed.
pub fn pack(root: &Path, tar: &Path) {
    let mut names: Vec<PathBuf> =
        fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into()).collect();
    names.sort();
    let mut command = Command::new("tar");
    command.args([
        "--format=pax",
        "--pax-option=delete=atime,delete=ctime",
        "--numeric-owner",
        "--sort=name",
    ]);
    command.args(["--xattrs", "--xattrs-include=*", "-cf", text(tar), "-C", text(root)]);
    if names.is_empty() {
        command.args(["-T", "/dev/null"]);
    }
    assert!(command.arg("--").args(names).status().unwrap().success());
}

/// What GNU tar says is in a tar: sorted lines, without that of the root.
pub fn listed(tar: &Path) -> Vec<String> {
    let output =
        Command::new("tar").args(["--numeric-owner", "--full-time", "-tvf", text(tar)]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let listing = String::from_utf8(output.stdout).unwrap();
    // Columns are as wide as their content wants.
    let lines = listing.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    let mut lines: Vec<String> = lines.filter(|line| !line.ends_with(" ./")).collect();
    lines.sort();
    lines
}

/// Has GNU tar unpack a tar into a new directory.
pub fn extract(tar: &Path, into: &Path) {
    fs::create_dir_all(into).unwrap();
    let status = Command::new("tar")
        .args(["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", text(tar), "-C", text(into)])
        .status();
    assert!(status.unwrap().success());
}

/// Whether a file takes bytes.
pub fn size(path: &Path) -> u64 {
    fs::metadata(path).unwrap().size()
}
