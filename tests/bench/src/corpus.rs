//! The trees that images are built from: made once, then found where they were left.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::machine::output;

/// Wheels of one release of Python, whatever Python this machine has.
const WHEELS: [&str; 4] = ["numpy==1.26.4", "pandas==2.2.2", "scipy==1.13.1", "setuptools==70.3.0"];
/// What a container that analyses something is made of.
const PYTHON_IMAGE: [&str; 7] = [
    "numpy==1.26.4",
    "pandas==2.2.2",
    "scipy==1.13.1",
    "python-dateutil==2.9.0.post0",
    "pytz==2024.1",
    "tzdata==2024.1",
    "six==1.16.0",
];
/// Bytes of the one file of `big`.
const BIG: u64 = 2_000_000_000;

/// A tree.
#[derive(Clone, Debug)]
pub struct Corpus {
    /// What it is called in results.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
}

impl Corpus {
    /// Finds the corpus `name` in `directory`, or makes it.
    pub fn prepare(name: &str, directory: &Path) -> Result<Self> {
        if name.contains('/') {
            let path = PathBuf::from(name).canonicalize().with_context(|| name.to_owned())?;
            let name =
                path.file_name().map_or_else(|| "root".into(), |name| name.to_string_lossy().into_owned());
            return Ok(Self { name, path });
        }
        let make = match name {
            "linux" => linux,
            "python" => python,
            "python-image" => python_image,
            "big" => big,
            "small" => small,
            _ => bail!("no corpus is called {name:?}; a path has a slash in it"),
        };
        let path = directory.join("trees").join(name);
        if !path.exists() {
            eprintln!("making the corpus {name}");
            let part = path.with_extension("part");
            if part.exists() {
                fs::remove_dir_all(&part)?;
            }
            fs::create_dir_all(&part)?;
            make(&part).with_context(|| format!("cannot make the corpus {name}"))?;
            fs::rename(&part, &path)?;
        }
        Ok(Self { name: name.to_owned(), path })
    }
}

/// The source of Debian's kernel.
fn linux(tree: &Path) -> Result<()> {
    let depends = output("apt-cache", &["depends", "--important", "linux-source"])?;
    let package = depends.split_whitespace().find(|word| word.starts_with("linux-source-"));
    let package = package.context("apt does not know the package linux-source: is this Debian?")?;
    let packages = tree.join("packages");
    fs::create_dir(&packages)?;
    run(Command::new("apt-get").args(["download", "--quiet=2", package]).current_dir(&packages))?;
    let deb = fs::read_dir(&packages)?.next().context("apt-get has downloaded nothing")??.path();
    run(Command::new("dpkg-deb").arg("--extract").arg(deb).arg(&packages))?;
    let archive = packages.join("usr/src").join(format!("{package}.tar.xz"));
    run(Command::new("tar").args(["--strip-components=1", "-xf"]).arg(archive).arg("-C").arg(tree))?;
    Ok(fs::remove_dir_all(packages)?)
}

/// NumPy, pandas and SciPy from PyPI: shared libraries and many small files.
fn python(tree: &Path) -> Result<()> {
    install(tree, &WHEELS)
}

/// Installs wheels for Python 3.11 into a directory.
fn install(tree: &Path, wheels: &[&str]) -> Result<()> {
    let platform = format!("manylinux2014_{}", std::env::consts::ARCH);
    run(Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--no-compile", "--no-deps", "--disable-pip-version-check"])
        .args(["--root-user-action=ignore", "--only-binary=:all:", "--python-version=3.11"])
        .args(["--platform", &platform, "--target"])
        .arg(tree)
        .args(wheels))
}

/// A minimal Debian with Python, and NumPy, pandas and SciPy from PyPI as an image build installs them, without byte code.
fn python_image(tree: &Path) -> Result<()> {
    let version = output(
        "python3",
        &["-c", "import platform; print(platform.freedesktop_os_release()['VERSION_CODENAME'])"],
    )?;
    // Where this machine has its packages from.
    let format = "$(ORIGIN) $(RELEASE) $(COMPONENT) $(REPO_URI)";
    let sources = output("apt-get", &["indextargets", "--format", format, "Created-By: Packages"])?;
    let source = sources.lines().find_map(|line| line.strip_prefix(&format!("Debian {version} main ")));
    let source =
        source.with_context(|| format!("apt has no index of Debian {version} main: is this Debian?"))?;
    run(Command::new("mmdebstrap")
        .args(["--quiet", "--mode=root", "--variant=minbase", "--format=directory", "--include=python3"])
        .args(["--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/doc/*"])
        .arg(&version)
        .arg(tree)
        .arg(format!("deb {source} {version} main")))?;
    install(&tree.join("usr/local/lib/python3.11/dist-packages"), &PYTHON_IMAGE)
}

/// One file, of which half can be compressed away.
fn big(tree: &Path) -> Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(tree.join("big"))?);
    write_content(&mut file, BIG, 1)?;
    file.into_inner()?.sync_all()?;
    Ok(())
}

/// Enough to see that everything works: 24 directories of 8 files.
fn small(tree: &Path) -> Result<()> {
    for directory in 0..24 {
        let path = tree.join(format!("directory-{directory}"));
        fs::create_dir(&path)?;
        for number in 0..8 {
            let file = File::create(path.join(format!("file-{number}")))?;
            write_content(BufWriter::new(file), 1 << (2 * number + 4), directory << 8 | number)?;
        }
        std::os::unix::fs::symlink("file-0", path.join("link"))?;
    }
    Ok(())
}

/// Writes `len` bytes that are the same in every run: of each 4 KiB the first half is noise, the second repeats.
fn write_content(mut file: impl Write, len: u64, seed: u64) -> Result<()> {
    let (mut state, mut page, mut left) = (seed.wrapping_add(0x9e37_79b9_7f4a_7c15), [0; 4096], len);
    while left > 0 {
        for word in page[..2048].chunks_exact_mut(8) {
            // xorshift64
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        page[2048..].fill(state as u8);
        let count = left.min(page.len() as u64) as usize;
        file.write_all(&page[..count])?;
        left -= count as u64;
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
