//! Programs in Python, installed once below the target directory.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest as _, Sha256};

use crate::manifest::hex;
use crate::requirements;

/// What is installed.
const REQUIREMENTS: &str = include_str!("requirements.txt");
/// The longest that an installation may take, in seconds.
const LIMIT: &str = "300";

/// The directory of programs with all that `requirements.txt` lists, or why there is none. The first caller of all test
/// processes installs them; that takes a quarter of a minute.
pub fn programs() -> Result<&'static Path, &'static str> {
    static PROGRAMS: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    PROGRAMS.get_or_init(install).as_deref().map_err(String::as_str)
}

/// Ends the test as skipped unless Python's programs are there.
#[macro_export]
macro_rules! require_python {
    () => {
        if let Err(reason) = $crate::servers::python::programs() {
            let name = std::thread::current().name().unwrap_or("test").to_owned();
            $crate::requirements::skip(&format!("{}::{name}", module_path!()), reason);
            return;
        }
    };
}

fn install() -> Result<PathBuf, String> {
    let python = requirements::tool("python3").ok_or("python3 is not installed")?;
    // target/<profile>/deps/<test>-<hash>
    let test = std::env::current_exe().expect("a test knows its own path");
    let target = test.ancestors().nth(3).expect("tests lie in target/<profile>/deps");
    let dir = target.join("test-python");
    std::fs::create_dir_all(&dir).unwrap();
    // Another list is another directory.
    let name = hex(&Sha256::digest(REQUIREMENTS))[..12].to_owned();
    let (venv, done) = (dir.join(&name), dir.join(format!("{name}.done")));
    let lock = File::create(dir.join("lock")).unwrap();
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error.to_string())?;
    if !done.exists() {
        let list = dir.join(format!("{name}.txt"));
        std::fs::write(&list, REQUIREMENTS).unwrap();
        let _ = std::fs::remove_dir_all(&venv);
        let (python, venv) = (python.as_os_str(), venv.as_os_str());
        run(
            &[python, "-m".as_ref(), "venv".as_ref(), venv],
            "python3 makes no venv (is python3-venv installed?)",
        )?;
        let pip = Path::new(venv).join("bin/pip");
        let list = list.as_os_str();
        run(
            &[pip.as_os_str(), "install".as_ref(), "-q".as_ref(), "-r".as_ref(), list],
            "pip cannot install moto and oss2",
        )?;
        File::create(&done).unwrap();
    }
    Ok(venv.join("bin"))
}

/// Runs a command, for so long at most. `else` is what its failure means.
fn run(words: &[&std::ffi::OsStr], otherwise: &str) -> Result<(), String> {
    let output = Command::new("timeout").arg(LIMIT).args(words).output();
    let Output { status, stdout, stderr } = output.map_err(|error| format!("timeout: {error}"))?;
    if status.success() {
        return Ok(());
    }
    // Python tells some of its failures on stdout.
    let text = String::from_utf8_lossy(if stderr.is_empty() { &stdout } else { &stderr }).into_owned();
    let last = text.lines().rfind(|line| !line.is_empty()).unwrap_or_default();
    Err(format!("{otherwise}: {status}: {last}"))
}
