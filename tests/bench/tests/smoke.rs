//! The harness itself, on a tree of some kilobytes: every case and subject runs, and the results say so.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Why nothing can be mounted here, if so.
fn obstacle() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root");
    }
    (!Path::new("/dev/fuse").exists()).then_some("there is no /dev/fuse")
}

#[test]
fn all_cases_run_on_a_tiny_corpus() {
    if let Some(reason) = obstacle() {
        eprintln!("SKIPPED all_cases_run_on_a_tiny_corpus: {reason}");
        assert!(std::env::var_os("NYDUS_TESTS_SKIP").is_none_or(|value| value != "forbid"), "{reason}");
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let (json, document) = (scratch.path().join("results.json"), scratch.path().join("document.md"));
    fs::write(&document, "Speed\n\n<!-- nydus-bench begin -->\n<!-- nydus-bench end -->\n").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_nydus-bench"))
        .args(["--corpus", "small", "--rounds", "2", "--keep-page-cache", "--corpus-dir"])
        .arg(scratch.path().join("corpora"))
        .arg("--json")
        .arg(&json)
        .arg("--update-docs")
        .arg(&document)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{stderr}", output.status);

    let results: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let samples = results["samples"].as_array().unwrap();
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
    for sample in samples {
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
