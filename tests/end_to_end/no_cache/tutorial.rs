//! The published tutorial, step by step (`tutorial.sh`): each mount shows what the kernel's overlayfs makes of the layers.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nydus_tests::daemon::{Launch, Scratch, complaints};
use nydus_tests::manifest::Manifest;
use nydus_tests::servers::docker_registry::{DockerRegistry, REPO, Setup};
use nydus_tests::{mounts, program, require_mounts, require_tools};

/// How a layer says that something of the layers below is gone.
#[derive(Clone, Copy, PartialEq)]
enum Whiteouts {
    /// As in images: files named `.wh.…`.
    Oci,
    /// As the kernel's overlayfs reads them.
    Overlay,
}

impl Whiteouts {
    fn remove(self, dir: &Path, name: &str) {
        match self {
            Self::Oci => fs::write(dir.join(format!(".wh.{name}")), "").unwrap(),
            Self::Overlay => {
                mknod(&dir.join(name), SFlag::S_IFCHR, Mode::empty(), makedev(0, 0)).unwrap();
            }
        }
    }

    fn make_opaque(self, dir: &Path) {
        match self {
            Self::Oci => fs::write(dir.join(".wh..wh..opq"), "").unwrap(),
            Self::Overlay => xattr::set(dir, "trusted.overlay.opaque", b"y").unwrap(),
        }
    }
}

/// Bytes that repeat nowhere.
fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = nydus_tests::rng::Rng::new(seed);
    (0..len).map(|_| rng.below(256) as u8).collect()
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Four layers below `root`, the lowest first.
fn make_layers(root: &Path, whiteouts: Whiteouts) -> [PathBuf; 4] {
    let layers = [1, 2, 3, 4].map(|number| root.join(format!("layer{number}")));
    let [base, changes, removals, top] = &layers;
    for dir in ["bin", "etc/conf.d", "var/lib/old", "opt/replaced/sub", "tmp"] {
        fs::create_dir_all(base.join(dir)).unwrap();
    }
    set_mode(&base.join("tmp"), 0o1777);
    fs::write(base.join("bin/tool"), content(1, 2_500_000)).unwrap();
    set_mode(&base.join("bin/tool"), 0o4755);
    chown(base.join("bin/tool"), Some(10), Some(20)).unwrap();
    set_mode(&base.join("bin/tool"), 0o4755);
    fs::hard_link(base.join("bin/tool"), base.join("bin/same")).unwrap();
    xattr::set(base.join("bin/tool"), "user.note", b"a value").unwrap();
    symlink("tool", base.join("bin/link")).unwrap();
    symlink("/etc/conf.d", base.join("var/conf")).unwrap();
    fs::write(base.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
    fs::write(base.join("etc/empty"), "").unwrap();
    (0..40).for_each(|n| fs::write(base.join(format!("etc/conf.d/{n}")), content(100 + n, 700)).unwrap());
    fs::write(base.join("var/lib/old/data"), content(2, 70_000)).unwrap();
    fs::write(base.join("opt/replaced/sub/file"), "lower").unwrap();
    mknod(&base.join("var/fifo"), SFlag::S_IFIFO, Mode::S_IRUSR, 0).unwrap();
    mknod(&base.join("var/null"), SFlag::S_IFCHR, Mode::S_IRUSR, makedev(1, 3)).unwrap();

    fs::create_dir_all(changes.join("etc/conf.d")).unwrap();
    fs::write(changes.join("etc/passwd"), "root:x:0:0::/root:/bin/bash\nuser:x:1:1::/:/bin/sh\n").unwrap();
    fs::write(changes.join("etc/conf.d/new"), content(3, 9000)).unwrap();
    set_mode(&changes.join("etc/conf.d"), 0o700);

    fs::create_dir_all(removals.join("var/lib")).unwrap();
    fs::create_dir_all(removals.join("opt/replaced")).unwrap();
    whiteouts.remove(&removals.join("var/lib"), "old");
    whiteouts.make_opaque(&removals.join("opt/replaced"));
    fs::write(removals.join("opt/replaced/upper"), "upper").unwrap();

    fs::create_dir_all(top.join("bin")).unwrap();
    fs::write(top.join("bin/link"), "no link any more").unwrap();
    fs::create_dir_all(top.join("home/user")).unwrap();
    chown(top.join("home/user"), Some(1), Some(1)).unwrap();
    fs::write(top.join("home/user/large"), content(4, 5_000_000)).unwrap();
    // Two sets of layers differ in nothing else.
    for layer in &layers {
        let touch = ["-exec", "touch", "-h", "-d", "2020-02-02 02:02:02 UTC", "{}", "+"];
        assert!(Command::new("find").arg(layer).args(touch).status().unwrap().success());
    }
    layers
}

/// What the kernel's overlayfs shows of layers.
fn overlaid(scratch: &Scratch) -> Manifest {
    let layers = make_layers(&scratch.path("overlay"), Whiteouts::Overlay);
    let lower: Vec<_> = layers.iter().rev().map(|layer| layer.to_str().unwrap()).collect();
    let options = format!("lowerdir={}", lower.join(":"));
    let root = scratch.mountpoint();
    mount(Some("overlay"), &root, Some("overlay"), MsFlags::MS_RDONLY, Some(options.as_str())).unwrap();
    let manifest = Manifest::of_tree(&root).unwrap();
    mounts::detach(&root);
    manifest
}

#[test]
fn the_tutorial_works_as_it_is_written() {
    require_mounts!();
    require_tools!("docker-registry", "bash");
    let scratch = Scratch::new();
    let expected = overlaid(&scratch);
    let [layer1, layer2, layer3, layer4] = make_layers(&scratch.path("layers"), Whiteouts::Oci);
    let registry = DockerRegistry::start(&Setup::default());
    let work = scratch.path("work");
    fs::create_dir(&work).unwrap();

    let bin = program::nydus_image().parent().unwrap().to_str().unwrap();
    let built = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("end_to_end/no_cache/tutorial.sh"))
        .current_dir(&work)
        .env("PATH", format!("{bin}:{}", std::env::var("PATH").unwrap()))
        .envs([("LAYER1", layer1), ("LAYER2", layer2), ("LAYER3", layer3), ("LAYER4", layer4)])
        .envs([("REGISTRY", registry.host()), ("REPO", REPO.to_owned())])
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let blobs: Vec<_> =
        fs::read_dir(work.join("nydus-image/blobs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(blobs.len(), 4, "one of each layer: {blobs:?}");
    registry.push_files(&blobs);

    for (config, has_directory) in
        [("localfs.json", false), ("registry.json", false), ("blobcache.json", true)]
    {
        let daemon = Launch::new(&work.join("mnt"))
            .through(["env".as_ref(), "-C".as_ref(), work.as_os_str()])
            .option("--config", format!("./{config}"))
            .option("--bootstrap", "./nydus-image/layer4/bootstrap")
            // Not the tutorial's: a machine that does not let the limit be raised is complained of.
            .option("--rlimit-nofile", "0")
            .start();
        expected.assert_tree(daemon.mountpoint(), config);
        let log = daemon.unmount();
        let hint = log.lines().filter(|line| line.contains("no cache directory")).count();
        assert_eq!(hint, usize::from(!has_directory), "{config} says what a directory would give:\n{log}");
        let complaints = complaints(&log);
        let is_misplaced = |line: &String| line.contains("device.digest_validate: unknown key");
        assert_eq!(complaints.len(), usize::from(config == "registry.json"), "{config}:\n{complaints:#?}");
        assert!(complaints.iter().all(is_misplaced), "{config}:\n{complaints:#?}");
    }
    assert!(registry.blob_requests().iter().all(|status| *status == 206));
}
