//! What the tests of commands share: the program, and trees on disk as values.

pub mod tree;

use std::process::{Command, Output};

/// Runs `nydus-image` with nothing on its standard input.
pub fn nydus_image(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nydus-image"))
        .args(args)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap()
}

/// Runs it and wants it to succeed.
pub fn nydus_image_ok(args: &[&str]) -> Output {
    let output = nydus_image(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Why a test cannot run here, or `None`.
pub fn missing() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("owners, devices and trusted attributes need root");
    }
    let tar = Command::new("tar").arg("--version").output();
    match tar {
        Ok(output) if output.stdout.starts_with(b"tar (GNU tar)") => None,
        _ => Some("GNU tar is not installed"),
    }
}
