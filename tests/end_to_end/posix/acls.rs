//! POSIX ACLs are obeyed as on the file system the image was built from, by the mount and by an overlay on it.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use nydus_tests::requirements::skip;
use nydus_tests::{require_mounts, require_tools};

use crate::support::{GROUP, USER, VERSIONS, Workshop, acl, acl_with_group, missing_for_acls};

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// User, group, and further groups.
const WHO: [(u32, u32, &str); 8] = [
    (0, 0, ""),
    (1001, 1001, ""),
    (1002, 1002, ""),
    (1003, 2001, ""),
    (1003, 1003, "2001,2002"),
    (1003, 1003, "2002"),
    (1004, 0, ""),
    (1005, 1005, ""),
];

/// Files and directories whose ACLs and modes say different things.
fn fill(root: &Path) {
    let lists: [(&str, u32, Vec<u8>); 9] = [
        ("named-user", 0o640, acl_with_group(0o640, 0, &[(USER, 1001, 6), (USER, 1002, 0)])),
        ("named-user-of-many-rights", 0o604, acl(0o604, &[(USER, 1001, 7), (USER, 1003, 4)])),
        ("named-groups", 0o640, acl(0o640, &[(GROUP, 2001, 0), (GROUP, 2002, 4)])),
        ("mask-denies-group", 0o604, acl_with_group(0o604, 7, &[(GROUP, 2001, 7)])),
        ("mask-halves", 0o640, acl_with_group(0o640, 7, &[(USER, 1001, 6), (GROUP, 2002, 6)])),
        ("user-denied-others-allowed", 0o644, acl(0o644, &[(USER, 1002, 0), (USER, 1005, 0)])),
        ("group-denied-others-allowed", 0o604, acl_with_group(0o674, 0, &[(GROUP, 2002, 0)])),
        ("writable", 0o660, acl(0o660, &[(USER, 1001, 6), (USER, 1002, 2), (GROUP, 2001, 6)])),
        ("executable", 0o750, acl(0o750, &[(USER, 1001, 5), (GROUP, 2002, 1)])),
    ];
    for (name, mode, list) in lists {
        for is_directory in [false, true] {
            let path = root.join(format!("{name}{}", if is_directory { ".d" } else { "" }));
            if is_directory {
                fs::create_dir(&path).unwrap();
                fs::write(path.join("inner"), "inner").unwrap();
                fs::set_permissions(path.join("inner"), fs::Permissions::from_mode(0o644)).unwrap();
            } else {
                fs::write(&path, name).unwrap();
            }
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            xattr::set(&path, ACCESS, &list).unwrap();
        }
    }
    for (name, mode) in [("plain", 0o644), ("private", 0o600), ("public", 0o666)] {
        fs::write(root.join(name), name).unwrap();
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    symlink("named-user", root.join("link")).unwrap();
    let inherited = root.join("inherited.d");
    fs::create_dir(&inherited).unwrap();
    fs::set_permissions(&inherited, fs::Permissions::from_mode(0o777)).unwrap();
    xattr::set(&inherited, DEFAULT, &acl(0o750, &[(USER, 1001, 7), (GROUP, 2002, 5)])).unwrap();
}

/// What each of [`WHO`] may do with each entry of `root`, a line a question. With `change`, writing is tried too.
fn decisions(root: &Path, change: bool) -> String {
    // `[ -r` and its like would ask what the system thinks; this is what it does.
    let look = r#"
        for f in $(ls -A .); do
            if [ -d "$f" ]; then
                ls "$f" >/dev/null 2>&1; list=$?; cat "$f/inner" >/dev/null 2>&1; echo "$f list $list enter $?"
            else
                cat "$f" >/dev/null 2>&1; echo "$f read $?"
            fi
            [ -x "$f" ]; echo "$f execute $?"
        done"#;
    let write = r#"
        for f in $(ls -A .); do
            if [ -d "$f" ]; then
                (: > "$f/by-$(id -u)-$(id -g)") 2>/dev/null; echo "$f create $?"
                mkdir "$f/dir-by-$(id -u)-$(id -g)" 2>/dev/null; echo "$f mkdir $?"
            else
                (printf x >> "$f") 2>/dev/null; echo "$f write $?"
            fi
        done"#;
    let mut all = String::new();
    for (user, group, groups) in WHO {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &user.to_string(), "--regid", &group.to_string()]);
        match groups {
            "" => command.arg("--clear-groups"),
            groups => command.args(["--groups", groups]),
        };
        let script = if change { write } else { look };
        let output = command.args(["sh", "-c", script]).current_dir(root).output().unwrap();
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        let _ = writeln!(all, "user {user}, group {group}, groups {groups:?}:");
        all += &String::from_utf8(output.stdout).unwrap();
    }
    all
}

/// Modes and ACLs of all entries.
fn lists(root: &Path) -> String {
    let mut all = String::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        let mut entries: Vec<_> =
            fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            let metadata = fs::symlink_metadata(&path).unwrap();
            let value = |name| xattr::get(&path, name).map_err(|error| error.raw_os_error());
            let (access, default) = (value(ACCESS), value(DEFAULT));
            let (path_, mode) = (path.strip_prefix(root).unwrap().display(), metadata.permissions().mode());
            let _ = writeln!(all, "{path_} {mode:o} {access:?} {default:?}");
            if metadata.is_dir() {
                pending.push(path);
            }
        }
    }
    all
}

fn assert_same(context: &str, expected: &str, found: &str) {
    let wrong: Vec<String> = expected
        .lines()
        .zip(found.lines())
        .filter(|(expected, found)| expected != found)
        .map(|(expected, found)| format!("expected {expected}, found {found}"))
        .collect();
    assert!(wrong.is_empty() && expected.lines().count() == found.lines().count(), "{context}: {wrong:#?}");
}

#[test]
fn access_is_decided_as_on_the_file_system_below() {
    require_mounts!();
    require_tools!("setpriv");
    let workshop = Workshop::new();
    if let Some(reason) = missing_for_acls(&workshop.source()) {
        return skip("acls", &reason);
    }
    fill(&workshop.source());
    let expected = decisions(&workshop.source(), false);
    let granted = |word: &str| expected.lines().any(|line| line.ends_with(word));
    assert!(granted("read 0") && granted("read 1"), "{expected}");

    for version in VERSIONS {
        let daemon = workshop.mount(version);
        assert_same(&format!("v{version}"), &expected, &decisions(daemon.mountpoint(), false));
        // Links are left out of the lists: what they lead to is there.
        assert_same(&format!("v{version}"), &lists(&workshop.source()), &lists(daemon.mountpoint()));

        let ours = workshop.overlay(&format!("ours{version}"), daemon.mountpoint());
        let theirs = workshop.overlay(&format!("theirs{version}"), &workshop.source());
        assert_same("before copy-up", &expected, &decisions(&ours.0, false));
        assert_same("writing", &decisions(&theirs.0, true), &decisions(&ours.0, true));
        assert_same("after copy-up", &decisions(&theirs.0, false), &decisions(&ours.0, false));
        assert_same("lists after copy-up", &lists(&theirs.0), &lists(&ours.0));
        drop((ours, theirs));
        daemon.unmount();
    }
}
