//! The programs under test. The daemon: the workspace's own, built once, or another one to compare with.
//!
//! `cargo test --workspace` builds libraries and tests, but not necessarily `target/<profile>/nydusd`. So the first
//! test of a process that needs the program asks cargo for it, with the profile, target directory and
//! feature set of the running test; usually there is nothing left to do.
//!
//! `NYDUSD_BIN` names another program instead, and `NYDUSD_IS_REFERENCE=1` says that this is the reference
//! implementation, so that what it is known not to do is not asked of it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::fixtures::Image;

/// The program under test. Fails the test if it cannot be built.
pub fn nydusd() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| std::env::var_os("NYDUSD_BIN").map_or_else(|| build("nydusd"), PathBuf::from))
}

/// The workspace's `nydus-image`. Fails the test if it cannot be built.
pub fn nydus_image() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| build("nydus-image"))
}

/// True if the program under test is the reference implementation.
pub fn is_reference() -> bool {
    std::env::var_os("NYDUSD_IS_REFERENCE").is_some_and(|value| value == "1")
}

/// Whether the program under test can mount this image at all. Release 2.2.0 of the reference implementation, the
/// one to be had as a package, is older than batches and encryption.
pub fn knows(image: &Image) -> bool {
    !is_reference() || !matches!(image.name, "v6-batch-toc" | "v6-encrypt")
}

fn build(program: &str) -> PathBuf {
    // target/<profile>/deps/<test>-<hash>
    let test = std::env::current_exe().expect("a test knows its own path");
    let profile_dir = test.ancestors().nth(2).expect("tests lie in target/<profile>/deps").to_owned();
    let target_dir = profile_dir.parent().expect("a profile lies in the target directory");
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(name) => name,
        None => panic!("{}: no profile in this path", profile_dir.display()),
    };
    // One of the tests is asked for too, so that features are unified as for the tests and nothing is built twice.
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .args([
            "build",
            "--quiet",
            "--workspace",
            "--bin",
            program,
            "--test",
            "interop",
            "--profile",
            profile,
        ])
        .arg("--target-dir")
        .arg(target_dir)
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "building {program}: {}", String::from_utf8_lossy(&output.stderr));
    profile_dir.join(program)
}
