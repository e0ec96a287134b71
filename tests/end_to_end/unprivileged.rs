//! A user without privileges mounts through fusermount3, for himself only.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::ffi::OsString;
use std::process::Stdio;

use nydus_tests::daemon::Scratch;
use nydus_tests::fixtures::Image;
use nydus_tests::manifest::hex;
use nydus_tests::unprivileged::{hand_over, launch, namespace_with_dev_fuse};
use nydus_tests::{require_mounts, require_tools};
use sha2::{Digest as _, Sha256};

#[test]
fn nobody_mounts_reads_and_unmounts() {
    require_mounts!();
    require_tools!("unshare", "setpriv", "fusermount3", "sha256sum", "mountpoint");
    let scratch = Scratch::new();
    let image = Image::named("v6-zstd");
    hand_over(&scratch, &image);
    // All in the namespace, since nobody else sees the mount or may enter it: start, wait, read everything, stop.
    let script = r#"
        "$@" & daemon=$!
        for try in $(seq 500); do mountpoint -q "$0" && break; kill -0 $daemon || break; sleep 0.02; done
        cd "$0" && find . -type f -exec sha256sum {} + ; cd /
        grep " $0 " /proc/self/mountinfo >&2
        kill -TERM $daemon; wait $daemon; echo "status $?"
        mountpoint -q "$0" && echo "still mounted"
    "#;
    let mut wrapper = namespace_with_dev_fuse(&scratch, 0o666);
    wrapper.extend(["sh", "-c", script].map(OsString::from));
    wrapper.push(scratch.mountpoint().into());
    let output = launch(&scratch, &image).through(wrapper).command().stdout(Stdio::piped()).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    for (path, content) in image.files() {
        let line = format!("{}  ./{}", hex(&Sha256::digest(content)), path.to_str().unwrap());
        assert!(
            stdout.lines().any(|found| found == line),
            "{}: not read\n{stdout}\n{stderr}",
            path.display()
        );
    }
    assert!(stdout.ends_with("status 0\n"), "exit, and nothing left mounted:\n{stderr}");
    let mount = stderr.lines().find(|line| line.contains(" - fuse")).expect("the line of mountinfo");
    assert!(mount.contains("user_id=65534") && !mount.contains("allow_other"), "{mount}");
}
