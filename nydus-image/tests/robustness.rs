//! What goes wrong around a build, and what a build shows of itself.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn nydus_image() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nydus-image"));
    command.stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    nydus_image().args(args).output().unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap();
    names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Bytes that do not shrink.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 20_261_122_u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// A directory with a file of noise, and another for what is built.
fn source(len: usize) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("source"), dir.path().join("out"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&out).unwrap();
    fs::write(source.join("noise"), noise(len)).unwrap();
    (dir, source, out)
}

/// A build that reads a tar from its standard input and has begun to write: the tar goes on.
fn begun(out: &Path) -> Child {
    let args = ["create", "-t", "tar-rafs", "-D", out.to_str().unwrap(), "-"];
    // A shell that starts us in the background has us, and whom we start, ignore SIGINT.
    let mut command = Command::new("env");
    command.arg("--default-signal").arg(env!("CARGO_BIN_EXE_nydus-image"));
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_path("file").unwrap();
    header.set_size(1 << 30);
    header.set_mode(0o644);
    header.set_cksum();
    let stdin = child.stdin.as_mut().unwrap();
    stdin.write_all(header.as_bytes()).unwrap();
    // More than the pipe holds: the build reads, and has opened its target before.
    stdin.write_all(&noise(4 << 20)).unwrap();
    child
}

#[test]
fn a_build_that_is_ended_by_a_signal_leaves_nothing_under_a_final_name() {
    for (signal, leaves) in
        [(Signal::SIGINT, 0), (Signal::SIGTERM, 0), (Signal::SIGHUP, 0), (Signal::SIGKILL, 1)]
    {
        let dir = tempfile::tempdir().unwrap();
        let mut child = begun(dir.path());
        // Waiting for a child closes its standard input, and then the archive would end before its time.
        let _archive = child.stdin.take();
        // The archive may be read ahead of the build, and a signal is taken only once the program has begun.
        let deadline = Instant::now() + Duration::from_secs(20);
        while names(dir.path()).is_empty() {
            assert!(Instant::now() < deadline, "the blob has begun");
            std::thread::yield_now();
        }
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(signal as i32));
        let left = names(dir.path());
        assert_eq!(left.len(), leaves, "{signal}: {left:?}");
        assert!(left.iter().all(|name| name.starts_with('.') && name.ends_with(".tmp")), "{left:?}");
    }
}

#[test]
fn a_blob_goes_through_a_fifo() {
    let (_dir, source, out) = source(3 << 20);
    let (fifo, bootstrap) = (out.join("fifo"), out.join("bootstrap"));
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let path = fifo.clone();
    let reader = std::thread::spawn(move || {
        let mut blob = Vec::new();
        File::open(path).unwrap().read_to_end(&mut blob).unwrap();
        blob
    });
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let args = ["create", "--blob", &text(&fifo), "-B", &text(&bootstrap), &text(&source)];
    let built = run(&args);
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let blob = out.join("blob");
    let args = ["create", "--blob", &text(&blob), "-B", &text(&bootstrap), &text(&source)];
    assert!(run(&args).status.success());
    assert!(reader.join().unwrap() == fs::read(blob).unwrap());
}

/// Unmounts when it goes.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_told_by_the_name_of_the_target() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: a small disk needs root");
        return;
    }
    let (_dir, source, out) = source(3 << 20);
    let mount = ["-t", "tmpfs", "-o", "size=1m", "none"];
    match Command::new("mount").args(mount).arg(&out).status() {
        Ok(status) if status.success() => {}
        other => {
            eprintln!("SKIPPED: a small disk cannot be mounted here: {other:?}");
            return;
        }
    }
    let _mounted = Mounted(out.clone());
    let (source, target) = (source.to_str().unwrap(), out.join("target"));
    for (args, name) in [
        (&["-D", out.to_str().unwrap()][..], out.to_str().unwrap()),
        (&["-b", target.to_str().unwrap(), "-B", "/dev/null"], target.to_str().unwrap()),
    ] {
        let built = run(&[&["create"], args, &[source]].concat());
        let stderr = String::from_utf8_lossy(&built.stderr);
        assert_eq!(built.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(&format!("cannot write {name}")), "{stderr}");
        assert!(stderr.contains("No space left on device"), "{stderr}");
        assert_eq!(names(&out), [""; 0]);
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: becoming somebody else needs root");
        return;
    }
    let (dir, source, out) = source(5000);
    for (path, mode) in [(dir.path(), 0o755), (&out, 0o777), (&source.join("noise"), 0o000)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    // Where the build puts its programs, others may have no business.
    let program = dir.path().join("nydus-image");
    fs::copy(env!("CARGO_BIN_EXE_nydus-image"), &program).unwrap();
    let built = Command::new(&program)
        .args(["create", "-D", out.to_str().unwrap(), source.to_str().unwrap()])
        .uid(65534)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&built.stderr);
    let expected = format!("cannot open {}: Permission denied", source.join("noise").display());
    assert!(stderr.contains(&expected), "{stderr}");
    assert_eq!(names(&out), [""; 0]);
}

#[test]
fn progress_is_for_terminals() {
    let (_dir, source, out) = source(3 << 20);
    let args = ["create", "-D", out.to_str().unwrap(), source.to_str().unwrap()];
    let on_terminal = |level: &str| {
        let pty = nix::pty::openpty(None, None).unwrap();
        let mut command = nydus_image();
        command.args(args).args(["-l", level]).stdout(Stdio::null()).stderr(pty.slave).env("TERM", "xterm");
        let mut child = command.spawn().unwrap();
        // It holds the terminal open, too.
        drop(command);
        let (mut shown, mut terminal) = (Vec::new(), File::from(pty.master));
        // The end of a terminal is an error.
        let _ = terminal.read_to_end(&mut shown);
        assert!(child.wait().unwrap().success());
        String::from_utf8_lossy(&shown).into_owned()
    };
    let shown = on_terminal("info");
    assert!(shown.contains("/1 files"), "{shown:?}");
    assert!(shown.contains("successfully built"), "{shown:?}");
    assert_eq!(on_terminal("warn"), "");
    let piped = run(&args);
    assert!(!String::from_utf8_lossy(&piped.stderr).contains("/1 files"));
}

#[test]
fn results_are_printed_as_json_if_asked() {
    let (_dir, source, out) = source(5000);
    let bootstrap = out.join("bootstrap");
    let bootstrap = bootstrap.to_str().unwrap();
    let create = ["create", "--json", "-B", bootstrap, "-D", out.to_str().unwrap(), source.to_str().unwrap()];
    let mut blobs = Vec::new();
    for args in [&create[..], &["check", "--json", bootstrap]] {
        let output = run(args);
        assert!(output.status.success());
        let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(result["bootstrap"], bootstrap);
        blobs.push(result["blobs"].clone());
    }
    assert_eq!(blobs[0], blobs[1]);
    let id = blobs[0][0].as_str().unwrap();
    assert!(out.join(id).is_file());

    let json = |args: &[&str]| -> serde_json::Value {
        let output = run(args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    assert_eq!(json(&["stat", "--json", "-B", bootstrap])["base_image"]["files"], 1);
    let merged = out.join("merged");
    let ids = ["--original-blob-ids", id];
    let merged =
        json(&[&["merge", "--json", "-B", merged.to_str().unwrap()], &ids[..], &[bootstrap]].concat());
    assert_eq!(merged["blobs"], blobs[0]);
}

#[test]
fn completions_and_manual_pages_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(&["completions", shell]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains("nydus-image"), "{shell}");
        assert!(text.contains("blob-inline-meta"), "{shell}");
    }
    let dir = tempfile::tempdir().unwrap();
    assert!(run(&["man", dir.path().to_str().unwrap()]).status.success());
    let page = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    assert!(page("nydus-image.1").contains("nydus\\-image\\-create(1)"));
    assert!(page("nydus-image-create.1").contains("blob\\-inline\\-meta"));
    let missing = run(&["man", "/does/not/exist"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("/does/not/exist"));
}
