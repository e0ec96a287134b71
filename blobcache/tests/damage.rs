//! Damaged cache files and disks that refuse to write.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use blobcache::{CacheOptions, CacheStorage, Disk, Encryption};
use storage::blob::Compressor;
use support::*;

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
            continue;
        }
        // In place where there is a file: it keeps what identifies it.
        let content = std::fs::read(entry.path()).unwrap();
        let to = std::fs::File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(to.join(entry.file_name()));
        std::os::unix::fs::FileExt::write_all_at(&to.unwrap(), &content, 0).unwrap();
    }
}

#[test]
fn a_flipped_bit_in_the_cache_is_never_served_when_validating() {
    let home = tempfile::tempdir().unwrap();
    let runtime = runtime();
    let mut key = [3; 32];
    key[0] = 4;
    for (name, compressed, encryption) in [
        ("plain", false, None),
        ("raw", true, None),
        ("enc", false, Some(Encryption { key, convergent: false })),
    ] {
        let (work_dir, saved) = (home.path().join(name), home.path().join(format!("{name}-saved")));
        let recipe = Recipe {
            chunks: 12,
            compressor: Compressor::Zstd,
            aligned: true,
            no_digest: 3,
            checksum: 2,
            max_size: 3000,
        };
        let blob = HandMade::new(31, recipe);
        let backend = MemoryBackend::of(&blob);
        let storage =
            CacheStorage::Directory { work_dir: work_dir.clone(), compressed, encryption, indexed_map: true };
        let read_all = |validate: bool| {
            let cache = open(CacheOptions { validate, ..options(storage.clone()) }, &backend, &runtime);
            // A file that is not one any more may be refused.
            let Ok(handle) = cache.blob(Arc::clone(&blob.description), Arc::new(NoDigests)) else {
                return false;
            };
            runtime.block_on(async {
                for index in 0..blob.len() {
                    let extent = blob.whole(index);
                    assert!(fetch(&handle, &extent, soon()).await.unwrap() == blob.expected(&extent));
                }
                settled(&cache).await;
            });
            true
        };
        read_all(false);
        copy(&work_dir, &saved);
        let entries = |dir: &Path| std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let own = work_dir.join("nydusd");
        let mut files: Vec<_> =
            entries(&work_dir).filter(|path| path.is_file()).chain(entries(&own)).collect();
        files.sort();
        assert_eq!(files.len(), 3);
        let (mut rng, mut refused) = (Rng::new(32), 0);
        for round in 0..240 {
            let path = &files[round % 3];
            let mut content = std::fs::read(path).unwrap();
            let is_header = rng.one_in(4);
            let at = rng.below(if is_header { 80 } else { content.len() as u64 }) as usize;
            content[at] ^= 1 << rng.below(8);
            std::os::unix::fs::FileExt::write_all_at(
                &std::fs::File::options().write(true).open(path).unwrap(),
                &content[at..=at],
                at as u64,
            )
            .unwrap();
            refused += u32::from(!read_all(true));
            copy(&saved, &work_dir);
        }
        assert!(refused < 60, "{refused}");
    }
}

/// Every sync fails.
#[derive(Debug)]
struct BadDisk;

impl Disk for BadDisk {
    fn sync_data(&self, _file: &std::fs::File, _path: &Path) -> std::io::Result<()> {
        Err(std::io::Error::other("on purpose"))
    }

    fn sync_directory(&self, _path: &Path) -> std::io::Result<()> {
        Err(std::io::Error::other("on purpose"))
    }
}

#[test]
fn after_a_failed_sync_nothing_is_believed_and_nothing_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let (runtime, blob) = (runtime(), HandMade::new(33, PLAIN));
    let backend = MemoryBackend::of(&blob);
    let cache =
        open(CacheOptions { disk: Arc::new(BadDisk), ..options(directory(dir.path())) }, &backend, &runtime);
    let handle = take(&cache, &blob);
    let read_all = || {
        for index in 0..blob.len() {
            let extent = blob.whole(index);
            assert_eq!(runtime.block_on(fetch(&handle, &extent, soon())).unwrap(), blob.expected(&extent));
        }
    };
    read_all();
    assert!(runtime.block_on(cache.shutdown(soon())).is_err());
    assert_eq!(cache.metrics().cache_sync_errors.get(), 1);
    assert!((0..blob.len()).all(|index| handle.ready(&blob.whole(index)).is_none()));
    read_all();
    runtime.block_on(cache.shutdown(soon())).unwrap();
    assert!((0..blob.len()).all(|index| handle.ready(&blob.whole(index)).is_none()));
    let map = std::fs::read(dir.path().join(format!("{}.blob.data.chunk_map", blob.id()))).unwrap();
    assert!(map[4096..].iter().all(|byte| *byte == 0));
}

/// A file system of its own, if this process may mount one.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn new(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(dir.path())
            .status()
            .is_ok_and(|status| status.success());
        mounted.then_some(Self(dir))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_stops_caching_and_nothing_else() {
    let runtime = runtime();
    let blob = HandMade::new(34, Recipe { chunks: 100, max_size: 8000, ..PLAIN });
    // Room for the maps and some chunks, then for not even the maps.
    for (size, cached) in [("128k", true), ("4k", false)] {
        let Some(tmpfs) = Tmpfs::new(size) else {
            eprintln!("SKIPPED: a_full_disk_stops_caching_and_nothing_else needs to mount a tmpfs");
            return;
        };
        let backend = MemoryBackend::of(&blob);
        let cache = open(options(directory(tmpfs.0.path())), &backend, &runtime);
        let handle = take(&cache, &blob);
        for _ in 0..2 {
            for index in 0..blob.len() {
                let extent = blob.whole(index);
                assert_eq!(
                    runtime.block_on(fetch(&handle, &extent, soon())).unwrap(),
                    blob.expected(&extent)
                );
            }
            runtime.block_on(settled(&cache));
        }
        let ready = (0..blob.len()).filter(|index| handle.ready(&blob.whole(*index)).is_some()).count();
        assert_eq!(ready > 0, cached, "{size}");
        assert!(ready < blob.chunks.len());
        assert_eq!(cache.metrics().cache_write_errors.get() > 0, cached);
    }
}
