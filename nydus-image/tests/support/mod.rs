//! What the tests of commands share: the program.

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
