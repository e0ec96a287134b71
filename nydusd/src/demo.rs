//! `nydusd demo`: a look at the whole system, and a check that it works on this machine.
//!
//! A small image lies in the program. It is mounted from local blobs and read twice, the second time by a new mount
//! on the same cache directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use blobcache::Executor;
use nix::unistd::{geteuid, mkdtemp};
use tokio::runtime::Runtime;

use crate::cli::DemoArgs;
use crate::mounts::Image;
use crate::transport::fuse::{FuseMount, FuseOptions};
use nydus_config::Config;

const BOOTSTRAP: &[u8] = include_bytes!("../demo/bootstrap");
const BLOB_ID: &str = "48b2337f4433b9d6d46149e08dc464a66778ba845181271ddf59410773ce54f0";
const BLOB: &[u8] =
    include_bytes!("../demo/blobs/48b2337f4433b9d6d46149e08dc464a66778ba845181271ddf59410773ce54f0");

/// Runs the demonstration in a temporary directory, which is removed again.
pub fn run(args: &DemoArgs, runtime: &Runtime) -> Result<()> {
    let scratch = Scratch::new(args.keep)?;
    let blobs = scratch.directory("blobs")?;
    fs::write(blobs.join(BLOB_ID), BLOB).context("cannot write the demo blob")?;
    let bootstrap = scratch.path.join("bootstrap");
    fs::write(&bootstrap, BOOTSTRAP).context("cannot write the demo bootstrap")?;
    let mountpoint = scratch.directory("mnt")?;
    let config = Config::parse(config_text(&blobs, &scratch.directory("cache")?).as_bytes(), "demo")?.config;

    println!("a bootstrap of {} bytes, a blob of {} bytes", BOOTSTRAP.len(), BLOB.len());
    let cold = mount_and_read(runtime, &config, &bootstrap, &mountpoint, "first mount, empty cache", true)?;
    let warm = mount_and_read(runtime, &config, &bootstrap, &mountpoint, "second mount, same cache", false)?;
    ensure!(cold.fetched > 0, "the first mount fetched nothing");
    ensure!(warm.fetched == 0, "the second mount fetched {} bytes that were cached", warm.fetched);
    ensure!(cold.read == warm.read, "the mounts read {} and {} bytes", cold.read, warm.read);
    println!("unmounted; all is well");
    Ok(())
}

fn config_text(blobs: &Path, cache: &Path) -> String {
    serde_json::json!({
        "version": 2,
        "backend": {"type": "localfs", "localfs": {"dir": blobs}},
        "cache": {"type": "blobcache", "filecache": {"work_dir": cache}},
        "rafs": {"mode": "direct", "enable_xattr": true},
    })
    .to_string()
}

struct Seen {
    fetched: u64,
    read: u64,
}

fn mount_and_read(
    runtime: &Runtime,
    config: &Config,
    bootstrap: &Path,
    mountpoint: &Path,
    title: &str,
    list: bool,
) -> Result<Seen> {
    let image = Image::open(config, bootstrap, None, &Executor::new(runtime.handle().clone()))?;
    let options = FuseOptions { threads: 4, allow_other: geteuid().is_root() };
    let mount = FuseMount::start(mountpoint, image.filesystem.clone(), &options, runtime.handle().clone())?;
    let start = Instant::now();
    println!("\n{title}:");
    let mut tally = Tally::default();
    walk(mountpoint, Path::new("/"), list, &mut tally).context("cannot read the mounted image")?;
    let elapsed = start.elapsed();
    mount.unmount()?;
    runtime.block_on(image.cache.shutdown(Instant::now() + Duration::from_secs(5)))?;
    let metrics = image.cache.metrics();
    let fetched = metrics.backend_bytes.get();
    println!(
        "  read {} bytes of {} files in {elapsed:.1?}\n  fetched {fetched} bytes from the blob in {} requests, {} chunks \
         verified\n  served {} bytes from the cache, {} straight from what was fetched",
        tally.bytes,
        tally.files,
        metrics.backend_requests.get(),
        metrics.chunks_fetched.get(),
        metrics.bytes_from_cache.get(),
        metrics.bytes_from_fetch.get(),
    );
    Ok(Seen { fetched, read: tally.bytes })
}

#[derive(Default)]
struct Tally {
    files: u64,
    bytes: u64,
}

fn walk(directory: &Path, shown: &Path, list: bool, tally: &mut Tally) -> io::Result<()> {
    let mut entries = fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(|entry| entry.file_name());
    for entry in entries {
        let file_type = entry.file_type()?;
        let path = shown.join(entry.file_name());
        let mut note = String::new();
        if file_type.is_symlink() {
            note = format!(" -> {}", fs::read_link(entry.path())?.display());
        } else if file_type.is_file() {
            let bytes = fs::read(entry.path())?.len() as u64;
            tally.files += 1;
            tally.bytes += bytes;
            note = format!(" ({bytes} bytes)");
        }
        if list {
            println!("  {}{note}", path.display());
        }
        if file_type.is_dir() {
            walk(&entry.path(), &path, list, tally)?;
        }
    }
    Ok(())
}

/// A temporary directory, removed at the end unless somebody wants to look at it.
struct Scratch {
    path: PathBuf,
    keep: bool,
}

impl Scratch {
    fn new(keep: bool) -> Result<Self> {
        let template = std::env::temp_dir().join("nydusd-demo-XXXXXX");
        let path = mkdtemp(&template).with_context(|| format!("cannot make {}", template.display()))?;
        Ok(Self { path, keep })
    }

    fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.keep {
            println!("kept: {}", self.path.display());
        } else if let Err(e) = fs::remove_dir_all(&self.path) {
            eprintln!("{} is left behind: {e}", self.path.display());
        }
    }
}
