//! What a test needs of the machine. A test whose needs are not met is skipped, loudly and counted.

use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

static SKIPPED: AtomicUsize = AtomicUsize::new(0);

/// Says on the real stderr (not the one that the test runner keeps to itself) that a test is skipped and why.
/// Under `NYDUS_TESTS_SKIP=forbid` that is a failure.
pub fn skip(name: &str, reason: &str) {
    let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    let _ = writeln!(std::io::stderr(), "SKIPPED {name}: {reason} (skipped in this program: {count})");
    let forbidden = std::env::var_os("NYDUS_TESTS_SKIP").is_some_and(|value| value == "forbid");
    assert!(!forbidden, "{name} is skipped ({reason}), and NYDUS_TESTS_SKIP=forbid");
}

/// Why this process cannot mount and list the fixtures, or `None` if it can. Reading `trusted.*` attributes and
/// mounting for all users both need root.
pub fn missing_for_mounts() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root (mounts, and trusted.* extended attributes)".into());
    }
    match std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        Ok(_) => None,
        Err(error) => Some(format!("/dev/fuse: {error}")),
    }
}

/// The full path of a program, or `None` if it is not installed.
pub fn tool(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain([Path::new("/usr/sbin").into(), Path::new("/sbin").into()])
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// Ends the test as skipped unless this machine can mount FUSE file systems as root.
#[macro_export]
macro_rules! require_mounts {
    () => {
        if let Some(reason) = $crate::requirements::missing_for_mounts() {
            let name = std::thread::current().name().unwrap_or("test").to_owned();
            $crate::requirements::skip(&format!("{}::{name}", module_path!()), &reason);
            return;
        }
    };
}

/// Ends the test as skipped unless all these programs are installed.
#[macro_export]
macro_rules! require_tools {
    ($($tool:literal),+) => {
        for tool in [$($tool),+] {
            if $crate::requirements::tool(tool).is_none() {
                let name = std::thread::current().name().unwrap_or("test").to_owned();
                $crate::requirements::skip(
                    &format!("{}::{name}", module_path!()),
                    &format!("{tool} is not installed"),
                );
                return;
            }
        }
    };
}
