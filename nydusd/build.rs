//! Tells a program which build it is (`nydusd` and `nydus-image` share this script): commit, compiler, profile, and the time if `SOURCE_DATE_EPOCH` says one.
//!
//! The clock is not asked, so that the same sources give the same bytes.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    println!("cargo::rerun-if-env-changed=NYDUS_GIT_COMMIT");
    // The commit moves with these two files of the repository, if this is one.
    for name in ["HEAD", "logs/HEAD"] {
        if let Some(path) = output("git", &["rev-parse", "--path-format=absolute", "--git-path", name])
            && std::path::Path::new(&path).exists()
        {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let commit = env::var("NYDUS_GIT_COMMIT").ok().or_else(|| output("git", &["rev-parse", "HEAD"]));
    let rustc = env::var("RUSTC").ok().and_then(|rustc| output(&rustc, &["--version"]));
    let time = env::var("SOURCE_DATE_EPOCH").ok().and_then(|seconds| seconds.trim().parse().ok()).map(utc);
    set("GIT_COMMIT", commit);
    set("RUSTC", rustc);
    set("PROFILE", env::var("PROFILE").ok());
    set("BUILD_TIME", time);
}

fn set(name: &str, value: Option<String>) {
    println!("cargo::rustc-env=NYDUS_BUILD_{name}={}", value.as_deref().unwrap_or("unknown"));
}

/// The first line a command prints, if it succeeds.
fn output(command: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(command).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.lines().next()?.trim().to_owned();
    (output.status.success() && !line.is_empty()).then_some(line)
}

/// `YYYY-MM-DDThh:mm:ssZ` of seconds since 1970.
fn utc(seconds: u32) -> String {
    let (mut days, rest) = (seconds / 86_400, seconds % 86_400);
    let mut year = 1970;
    let is_leap =
        |year: u32| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    while days >= 365 + u32::from(is_leap(year)) {
        days -= 365 + u32::from(is_leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + u32::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}T{:02}:{:02}:{:02}Z", days + 1, rest / 3600, rest / 60 % 60, rest % 60)
}
