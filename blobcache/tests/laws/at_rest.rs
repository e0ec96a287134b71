//! The laws of a cache directory between two daemons: what of ours stays, and what the next one may believe.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use blobcache::BootId;

use crate::support::*;

/// How a use of the cache ends.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Killed,
    Unmounted,
    /// Unmounted after a collector has removed what it knows: the format's files, and nothing else.
    Collected,
}

struct Uses {
    dir: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    blob: HandMade,
    backend: Arc<MemoryBackend>,
}

impl Uses {
    fn new() -> Self {
        let blob = HandMade::new(10, PLAIN);
        let backend = MemoryBackend::of(&blob);
        Self { dir: tempfile::tempdir().unwrap(), runtime: runtime(), blob, backend }
    }

    /// Reads everything, in a boot of this number: the bytes fetched, and the cached chunks that were checked.
    fn read_all(&self, boot: u8, end: End) -> (u64, u64) {
        let before = self.backend.served();
        let options =
            blobcache::CacheOptions { boot_id: BootId([boot; 16]), ..options(directory(self.dir.path())) };
        let cache = open(options, &self.backend, &self.runtime);
        let handle = take(&cache, &self.blob);
        self.runtime.block_on(async {
            for index in 0..self.blob.len() {
                let extent = self.blob.whole(index);
                assert!(fetch(&handle, &extent, soon()).await.unwrap() == self.blob.expected(&extent));
            }
            settled(&cache).await;
            if end == End::Collected {
                self.files().iter().for_each(|file| std::fs::remove_file(file).unwrap());
            }
            if end != End::Killed {
                cache.shutdown(soon()).await.unwrap();
            }
        });
        let metrics = cache.metrics();
        let checked = metrics.cache_chunks_accepted.get() + metrics.cache_chunks_rejected.get();
        (self.backend.served() - before, checked)
    }

    /// The format's files.
    fn files(&self) -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.is_file()).collect()
    }

    fn has_own_files(&self) -> bool {
        self.dir.path().join("nydusd").exists()
    }

    fn data(&self) -> std::fs::File {
        let path = self.dir.path().join(format!("{}.blob.data", self.blob.id()));
        std::fs::File::options().read(true).write(true).open(path).unwrap()
    }

    fn all(&self) -> u64 {
        self.blob.stored.len() as u64
    }
}

#[test]
fn what_is_ours_of_a_blob_goes_with_its_files() {
    let uses = Uses::new();
    assert_eq!(uses.read_all(1, End::Collected), (uses.all(), 0));
    assert!(!uses.has_own_files(), "collected under a running daemon");
    assert_eq!(uses.read_all(1, End::Killed), (uses.all(), 0));
    assert!(uses.has_own_files());
    // Collected while nobody runs: the next one to open the directory sees it.
    uses.files().iter().for_each(|file| std::fs::remove_file(file).unwrap());
    drop(open(options(directory(uses.dir.path())), &uses.backend, &uses.runtime));
    assert_eq!(std::fs::read_dir(uses.dir.path().join("nydusd")).unwrap().count(), 0);
}

#[test]
fn a_daemon_that_ends_in_order_leaves_the_formats_files_alone_and_all_trust() {
    let uses = Uses::new();
    assert_eq!(uses.read_all(1, End::Unmounted), (uses.all(), 0));
    assert!(!uses.has_own_files() && uses.files().len() == 2);
    // Also after a reboot, and again and again.
    for boot in [1, 2, 2, 3] {
        assert_eq!(uses.read_all(boot, End::Unmounted), (0, 0));
        assert!(!uses.has_own_files());
    }
    // The knowledge of a daemon that was killed is in its trust file, of which the next one makes a seal.
    assert_eq!(uses.read_all(3, End::Killed), (0, 0));
    assert!(uses.has_own_files());
    assert_eq!(uses.read_all(4, End::Unmounted), (0, 0));
    assert!(!uses.has_own_files());
}

#[test]
fn data_or_maps_that_others_have_written_are_checked_again() {
    let uses = Uses::new();
    let chunks = u64::from(uses.blob.len());
    uses.read_all(1, End::Unmounted);
    // The same bytes, but who knows.
    uses.data().set_modified(std::time::SystemTime::now()).unwrap();
    assert_eq!(uses.read_all(1, End::Unmounted), (0, chunks));
    assert_eq!(uses.read_all(1, End::Unmounted), (0, 0));
    // A wrong byte in a chunk: fetched again.
    let mut byte = [0];
    uses.data().read_exact_at(&mut byte, 0).unwrap();
    uses.data().write_all_at(&[!byte[0]], 0).unwrap();
    let (fetched, checked) = uses.read_all(1, End::Unmounted);
    assert!(fetched > 0 && fetched < uses.all() && checked == chunks, "{fetched}, {checked}");
    // A bit that is gone from the map voids the others; the chunk is fetched.
    let map = uses.dir.path().join(format!("{}.blob.data.chunk_map", uses.blob.id()));
    let mut bytes = std::fs::read(&map).unwrap();
    bytes[12..16].fill(0);
    bytes[4096] &= 0x7f;
    std::fs::write(&map, bytes).unwrap();
    let (fetched, checked) = uses.read_all(1, End::Unmounted);
    assert!(fetched > 0 && fetched < uses.all() && checked == chunks - 1, "{fetched}, {checked}");
}

#[test]
fn a_blob_that_somebody_else_uses_keeps_its_trust_file() {
    let uses = Uses::new();
    let other = open(options(directory(uses.dir.path())), &uses.backend, &uses.runtime);
    let handle = take(&other, &uses.blob);
    uses.read_all(1, End::Unmounted);
    assert!(uses.has_own_files());
    drop(handle);
    uses.runtime.block_on(other.shutdown(soon())).unwrap();
    assert!(!uses.has_own_files(), "the last one");
}
