//! The harness itself, on a tree of some kilobytes: every case and subject runs, and the results say so.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Why nothing can be mounted here, if so.
fn obstacle() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root");
    }
    (!Path::new("/dev/fuse").exists()).then_some("there is no /dev/fuse")
}

/// True if the test `name` cannot run here; says so.
fn is_skipped(name: &str) -> bool {
    let Some(reason) = obstacle() else { return false };
    eprintln!("SKIPPED {name}: {reason}");
    assert!(std::env::var_os("NYDUS_TESTS_SKIP").is_none_or(|value| value != "forbid"), "{reason}");
    true
}

/// What one test measures, another one's work would spoil.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the program on `small`; what it measured.
fn measure(scratch: &Path, arguments: &[&str]) -> (Vec<serde_json::Value>, String) {
    let json = scratch.join("results.json");
    let output = Command::new(env!("CARGO_BIN_EXE_nydus-bench"))
        .args(["--corpus", "small", "--keep-page-cache", "--corpus-dir"])
        .arg(scratch.join("corpora"))
        .arg("--json")
        .arg(&json)
        .args(arguments)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{stderr}", output.status);
    let results: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    (results["samples"].as_array().unwrap().clone(), stderr.into_owned())
}

/// The law of links: what eight readers need takes hardly longer than its bytes. The link is slow, so that a busy machine is fast
/// enough, and long, so that requests that wait for each other show.
#[test]
fn eight_readers_behind_a_link_get_what_it_carries() {
    if is_skipped("eight_readers_behind_a_link_get_what_it_carries") {
        return;
    }
    let (_alone, scratch) = (alone(), tempfile::tempdir().unwrap());
    let link = ["--cases", "link-parallel", "--rounds", "1", "--mbit", "8", "--rtt", "200"];
    let mut late = Vec::new();
    // A machine that stands still for a moment is not the link.
    for _ in 0..3 {
        let (samples, stderr) = measure(scratch.path(), &link);
        let sample = &samples[0];
        let bound = sample["link"]["bound_seconds"].as_f64().unwrap();
        assert!((4.0..6.0).contains(&bound), "{sample}");
        let ratio = sample["seconds"].as_f64().unwrap() / bound;
        assert!(ratio >= 0.95, "{ratio} x the bound: {sample}\n{stderr}");
        // One request a reader, the chunk table, and what is left over.
        if ratio <= 1.25 && sample["link"]["requests"].as_u64().unwrap() <= 20 {
            return;
        }
        late.push(format!("{ratio} x the bound: {sample}\n{stderr}"));
    }
    panic!("{late:#?}");
}

#[test]
fn all_cases_run_on_a_tiny_corpus() {
    if is_skipped("all_cases_run_on_a_tiny_corpus") {
        return;
    }
    let (_alone, scratch) = (alone(), tempfile::tempdir().unwrap());
    let document = scratch.path().join("document.md");
    fs::write(&document, "Speed\n\n<!-- nydus-bench begin -->\n<!-- nydus-bench end -->\n").unwrap();
    let (samples, stderr) =
        measure(scratch.path(), &["--rounds", "2", "--update-docs", document.to_str().unwrap()]);
    let measured: BTreeSet<_> = samples
        .iter()
        .map(|s| format!("{} {}", s["case"].as_str().unwrap(), s["subject"].as_str().unwrap()))
        .collect();
    let expected = [
        "build ours",
        "build ours-one-thread",
        "find ours",
        "find unpacked",
        "read-warm ours",
        "read-warm unpacked",
        "read-cold ours",
    ];
    for name in expected {
        assert!(measured.contains(name), "{name} is missing in {measured:?}\n{stderr}");
    }
    for sample in &samples {
        assert!(sample["seconds"].as_f64().unwrap() > 0.0, "{sample}");
        let daemon = sample["subject"].as_str().unwrap().starts_with("ours");
        assert_eq!(sample["memory_kib"].is_u64(), daemon, "{sample}");
    }
    let written = fs::read_to_string(&document).unwrap();
    assert!(written.contains("| `find -ls` | FUSE |"), "{written}");
    assert!(
        fs::read_dir(scratch.path().join("corpora/work")).unwrap().next().is_none(),
        "the run left images"
    );
}
