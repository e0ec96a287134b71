//! Simulated power loss: of what was written since the last sync, any set of pages survives.
//!
//! A case runs a workload on a cache directory, then rewrites the directory's files *in place* (so that they keep what
//! identifies them) as a power loss could have left them, and reads everything in "the next boot".

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use blobcache::{BlobCache, BootId, CacheOptions, CacheStorage, Disk};
use storage::blob::Compressor;
use support::*;

const PAGE: usize = 4096;

/// Remembers what was synced.
#[derive(Debug, Default)]
struct Recorder {
    /// By inode: the content at the last sync.
    synced: Mutex<HashMap<u64, Vec<u8>>>,
    /// By directory: inodes whose names are durable.
    named: Mutex<HashMap<PathBuf, Vec<u64>>>,
    /// Says that it has synced, and has not.
    lies: bool,
}

impl Disk for Recorder {
    fn sync_data(&self, file: &File, _path: &Path) -> io::Result<()> {
        if !self.lies {
            let metadata = file.metadata()?;
            let mut content = vec![0; metadata.len() as usize];
            file.read_exact_at(&mut content, 0)?;
            self.synced.lock().unwrap().insert(metadata.ino(), content);
        }
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let inodes = std::fs::read_dir(path)?.map(|entry| Ok(entry?.metadata()?.ino()));
        let inodes = inodes.collect::<io::Result<Vec<_>>>()?;
        self.named.lock().unwrap().insert(path.to_owned(), inodes);
        Ok(())
    }
}

/// Which pages survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Survival {
    Any,
    /// Maps and trust as they were last written, data as last synced.
    MapsOnly,
    DataOnly,
    Nothing,
    Everything,
}

/// Leaves the directory as a power loss might.
fn lose_power(dir: &Path, disk: &Recorder, rng: &mut Rng) {
    let survival = match rng.below(8) {
        0 => Survival::MapsOnly,
        1 => Survival::DataOnly,
        2 => Survival::Nothing,
        3 => Survival::Everything,
        _ => Survival::Any,
    };
    let synced = disk.synced.lock().unwrap();
    let named = disk.named.lock().unwrap();
    let files =
        |dir: &Path| std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let (own, mut entries): (Vec<_>, Vec<_>) = files(dir).into_iter().partition(|path| path.is_dir());
    entries.extend(own.iter().flat_map(|dir| files(dir)));
    entries.sort();
    for path in entries {
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let inode = file.metadata().unwrap().ino();
        if !named.values().flatten().any(|named| *named == inode) && rng.one_in(6) {
            std::fs::remove_file(&path).unwrap();
            continue;
        }
        let is_data = path.extension().is_some_and(|extension| extension == "data" || extension == "raw");
        let current = std::fs::read(&path).unwrap();
        let old = synced.get(&inode).cloned().unwrap_or_default();
        let mut survives = |_page| match survival {
            Survival::Any => rng.one_in(2),
            Survival::MapsOnly => !is_data,
            Survival::DataOnly => is_data,
            Survival::Nothing => false,
            Survival::Everything => true,
        };
        // The size is as good as a page.
        let mut after = if survives(0) { vec![0; current.len()] } else { vec![0; old.len()] };
        for (number, page) in after.chunks_mut(PAGE).enumerate() {
            let source = if survives(number) { &current } else { &old };
            let start = (number * PAGE).min(source.len());
            let piece = &source[start..(start + page.len()).min(source.len())];
            page[..piece.len()].copy_from_slice(piece);
        }
        file.set_len(after.len() as u64).unwrap();
        file.write_all_at(&after, 0).unwrap();
    }
}

/// Counts chunks that the format's map calls ready and whose data is wrong, as a reader that believes the map would
/// see them.
fn deceived(dir: &Path, blob: &HandMade) -> usize {
    let name = |suffix: &str| dir.join(format!("{}.blob.data{suffix}", blob.id()));
    let Ok(map) = std::fs::read(name(".chunk_map")) else { return 0 };
    let data = std::fs::read(name("")).unwrap_or_default();
    let ready = |index: usize| {
        map.get(4096 + index / 8).is_some_and(|byte| byte & (0x80 >> (index % 8)) != 0)
            || map.get(12..16).is_some_and(|stamp| stamp == b"PAMM")
    };
    (blob.chunks.iter().enumerate())
        .filter(|(index, chunk)| {
            let start = chunk.uncompressed_offset as usize;
            ready(*index) && data.get(start..start + chunk.data.len()) != Some(&chunk.data[..])
        })
        .count()
}

#[derive(Clone, Copy, Default)]
struct Sabotage {
    lying_disk: bool,
    same_boot: bool,
}

/// Runs one case; returns how many chunks were wrong afterwards.
fn run(seed: u64, sabotage: Sabotage, runtime: &tokio::runtime::Runtime) -> usize {
    let rng = &mut Rng::new(seed);
    let dir = tempfile::tempdir().unwrap();
    let compressed = seed % 5 == 4;
    let storage = CacheStorage::Directory {
        work_dir: dir.path().to_owned(),
        compressed,
        encryption: None,
        indexed_map: true,
    };
    let recipe = Recipe {
        chunks: 6 + rng.below(30) as u32,
        max_size: [600, 5000, 9000][rng.below(3) as usize],
        aligned: rng.one_in(2),
        no_digest: rng.below(3),
        checksum: rng.below(4),
        compressor: if compressed { Compressor::Zstd } else { Compressor::None },
    };
    let blob = HandMade::new(seed, recipe);
    let backend = MemoryBackend::of(&blob);
    let disk = Arc::new(Recorder { lies: sabotage.lying_disk, ..Recorder::default() });
    let mut wrong = 0;
    for boot in 0..3u8 {
        let boot_id = BootId([if sabotage.same_boot { 1 } else { boot + 1 }; 16]);
        let mut handles: Vec<(Arc<BlobCache>, Arc<blobcache::Blob>)> = Vec::new();
        for _ in 0..8 + rng.below(24) {
            match rng.below(10) {
                // A second process, or the first.
                0 | 1 if handles.len() < 2 => {
                    handles.push(begin(rng, &storage, &disk, boot_id, &blob, &backend, runtime))
                }
                // Killed: its threads are gone, nothing is flushed.
                2 if !handles.is_empty() => quiesce(vec![handles.remove(0)], runtime),
                3 => {
                    if let Some((cache, _)) = handles.first() {
                        runtime.block_on(cache.flush(soon())).unwrap();
                    }
                }
                4 => {
                    if let Some((cache, _)) = handles.last() {
                        runtime.block_on(settled(cache));
                    }
                }
                _ => {
                    if handles.is_empty() {
                        handles.push(begin(rng, &storage, &disk, boot_id, &blob, &backend, runtime));
                    }
                    let (_, handle) = &handles[rng.below(handles.len() as u64) as usize];
                    let extent = blob.any(rng);
                    let read = runtime.block_on(fetch(handle, &extent, soon())).unwrap();
                    wrong += usize::from(read != blob.expected(&extent));
                }
            }
        }
        // What was being written is written: the loss decides what of it survives.
        for (cache, _) in &handles {
            runtime.block_on(async {
                let all = (0..blob.len()).filter(|_| rng.one_in(8)).collect::<Vec<_>>();
                for index in all {
                    let handle = take(cache, &blob);
                    let extent = blob.whole(index);
                    let read = fetch(&handle, &extent, soon()).await.unwrap();
                    wrong += usize::from(read != blob.expected(&extent));
                }
            });
        }
        quiesce(handles, runtime);
        lose_power(dir.path(), &disk, rng);
        if !sabotage.lying_disk && !sabotage.same_boot && !compressed {
            assert_eq!(deceived(dir.path(), &blob), 0, "seed {seed}: a map that lies");
        }
    }
    // The last boot: everything is read, and only read.
    let boot_id = BootId([if sabotage.same_boot { 1 } else { 99 }; 16]);
    let handle = begin(rng, &storage, &disk, boot_id, &blob, &backend, runtime);
    for index in 0..blob.len() {
        let extent = blob.whole(index);
        let read = runtime.block_on(fetch(&handle.1, &extent, soon()));
        wrong += usize::from(read.unwrap() != blob.expected(&extent));
    }
    wrong
}

#[allow(clippy::too_many_arguments)]
fn begin(
    rng: &mut Rng,
    storage: &CacheStorage,
    disk: &Arc<Recorder>,
    boot_id: BootId,
    blob: &HandMade,
    backend: &Arc<MemoryBackend>,
    runtime: &tokio::runtime::Runtime,
) -> (Arc<BlobCache>, Arc<blobcache::Blob>) {
    let disk: Arc<dyn Disk> = Arc::<Recorder>::clone(disk);
    let options = CacheOptions { validate: rng.one_in(3), boot_id, disk, ..options(storage.clone()) };
    let cache = open(options, backend, runtime);
    let handle = take(&cache, blob);
    (cache, handle)
}

/// Waits until nothing writes to the directory any more, without a flush.
fn quiesce(handles: Vec<(Arc<BlobCache>, Arc<blobcache::Blob>)>, runtime: &tokio::runtime::Runtime) {
    for (cache, _) in &handles {
        runtime.block_on(cache.idle(soon())).unwrap();
    }
}

#[test]
fn after_a_power_loss_no_byte_is_wrong() {
    let runtime = runtime();
    for seed in 0..2000 {
        assert_eq!(run(seed, Sabotage::default(), &runtime), 0, "seed {seed}");
    }
}

#[test]
fn the_test_would_see_durable_bits_without_a_sync() {
    let runtime = runtime();
    let sabotage = Sabotage { lying_disk: true, ..Sabotage::default() };
    let wrong: usize = (0..150).map(|seed| run(seed, sabotage, &runtime)).sum();
    assert!(wrong > 0);
}

#[test]
fn the_test_would_see_live_bits_that_outlive_their_boot() {
    let runtime = runtime();
    let sabotage = Sabotage { same_boot: true, ..Sabotage::default() };
    let wrong: usize = (0..150).map(|seed| run(seed, sabotage, &runtime)).sum();
    assert!(wrong > 0);
}
