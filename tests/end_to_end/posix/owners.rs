//! Owners, shifted by `id_mapping` or by an idmapped mount, as an idmapped mount of the tree itself shows them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown, symlink};
use std::path::Path;

use nix::errno::Errno;
use nydus_tests::config::Form;
use nydus_tests::requirements::skip;
use nydus_tests::{require_mounts, require_tools};
use serde_json::json;

use crate::idmap::idmapped;
use crate::support::{GROUP, USER, VERSIONS, Workshop, acl, missing_for_acls};

const ACCESS: &str = "system.posix_acl_access";
/// Inside, outside, count.
const MAPPING: (u32, u32, u32) = (0, 100_000, 65_536);
const NARROW: (u32, u32, u32) = (10, 500_000, 20);

fn fill(root: &Path) {
    for id in [0, 9, 10, 29, 30, 1000, 65_535, 65_536, 100_000, 4_000_000_000] {
        let path = root.join(format!("file{id}"));
        fs::write(&path, "x").unwrap();
        lchown(&path, Some(id), Some(id / 2)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o4755)).unwrap();
        let directory = root.join(format!("directory{id}"));
        fs::create_dir(&directory).unwrap();
        lchown(&directory, Some(id), Some(id)).unwrap();
        let link = root.join(format!("link{id}"));
        symlink("x", &link).unwrap();
        lchown(&link, Some(id), Some(id)).unwrap();
    }
    // Ids of both ranges: what others become in an ACL differs, see `ids_of_acls`.
    xattr::set(root.join("file0"), ACCESS, &acl(0o755, &[(USER, 10, 7), (USER, 29, 4), (GROUP, 12, 5)]))
        .unwrap();
}

/// Mode, owner, group and ACL.
type Access = (u32, u32, u32, Option<Vec<u8>>);

/// Those of every entry.
fn owners(root: &Path) -> BTreeMap<String, Access> {
    let entries = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).chain([root.to_owned()]);
    let of = |path: std::path::PathBuf| {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let acl = xattr::get(&path, ACCESS).unwrap_or_default();
        (name, (metadata.mode(), metadata.uid(), metadata.gid(), acl))
    };
    entries.map(of).collect()
}

/// The oracle, or why there is none.
fn oracle(workshop: &Workshop) -> Option<String> {
    fill(&workshop.source());
    idmapped(&workshop.source(), &workshop.path("oracle"), MAPPING).err().map(|error| {
        format!("the file system of {} cannot be idmapped: {error}", workshop.source().display())
    })
}

#[test]
fn id_mapping_shifts_owners_as_an_idmapped_mount_does() {
    require_mounts!();
    require_tools!("unshare");
    let workshop = Workshop::new();
    if let Some(reason) = missing_for_acls(&workshop.source()).or_else(|| oracle(&workshop)) {
        return skip("id_mapping", &reason);
    }
    for mapping in [MAPPING, NARROW] {
        let theirs = idmapped(&workshop.source(), &workshop.path("oracle"), mapping).unwrap();
        let expected = owners(&theirs.0);
        assert_ne!(expected, owners(&workshop.source()));
        for version in VERSIONS {
            workshop.build(version);
            let key = json!([mapping.0, mapping.1, mapping.2]);
            for (form, name) in [(Form::V1, "id_mapping"), (Form::V2Json, "rafs.id_mapping")] {
                let daemon = workshop.launch_in(form, &[(name, key.clone())]).start();
                assert_eq!(owners(daemon.mountpoint()), expected, "v{version}, {form:?}, {mapping:?}");
                let stopped = daemon.stop(nix::sys::signal::Signal::SIGTERM);
                assert!(!stopped.stderr.contains("id_mapping"), "it is warned of: {}", stopped.stderr);
            }
        }
    }
}

/// An id that the mapping does not have must not become -1, which an idmapped mount shows: the kernel takes no such ACL
/// from a FUSE file system, and then nobody but the owner could use the file.
#[test]
fn ids_of_acls_that_are_not_mapped_overflow() {
    require_mounts!();
    let workshop = Workshop::new();
    if let Some(reason) = missing_for_acls(&workshop.source()) {
        return skip("id_mapping of ACLs", &reason);
    }
    let file = workshop.source().join("file");
    fs::write(&file, "x").unwrap();
    xattr::set(&file, ACCESS, &acl(0o644, &[(USER, 5, 6), (GROUP, 70_000, 4)])).unwrap();
    for version in VERSIONS {
        workshop.build(version);
        let daemon = workshop.launch(&[("id_mapping", json!([0, 100_000, 65_536]))]).start();
        let expected = acl(0o644, &[(USER, 100_005, 6), (GROUP, 65_534, 4)]);
        let found = xattr::get(daemon.mountpoint().join("file"), ACCESS).unwrap();
        assert_eq!(found, Some(expected), "v{version}");
        daemon.unmount();
    }
}

#[test]
fn a_mount_can_be_idmapped() {
    require_mounts!();
    require_tools!("unshare");
    let workshop = Workshop::new();
    if let Some(reason) = missing_for_acls(&workshop.source()).or_else(|| oracle(&workshop)) {
        return skip("idmapped mounts", &reason);
    }
    for version in VERSIONS {
        let daemon = workshop.mount(version);
        for mapping in [MAPPING, NARROW] {
            let ours = match idmapped(daemon.mountpoint(), &workshop.path("ours"), mapping) {
                Ok(mounted) => mounted,
                Err(error) if is_too_old(&error) => {
                    return skip("idmapped mounts", "the kernel is older than 6.12: it idmaps no FUSE");
                }
                Err(error) => panic!("v{version}: {error}"),
            };
            let theirs = idmapped(&workshop.source(), &workshop.path("theirs"), mapping).unwrap();
            assert_eq!(owners(&ours.0), owners(&theirs.0), "v{version}, {mapping:?}");
            assert_eq!(fs::read(ours.0.join("file0")).unwrap(), b"x");
        }
        daemon.unmount();
    }
}

/// True if the kernel refuses for its age, and not for what the daemon has agreed upon.
fn is_too_old(error: &std::io::Error) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version < (6, 12) && error.raw_os_error() == Some(Errno::EINVAL as i32)
}
