//! Readers: threads that read files of a mount and say what came, and when. A reader that does not come back is said
//! to hang, and left alone.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nydus_tests::manifest::hex;
use nydus_tests::readers::open_direct;
use sha2::{Digest as _, Sha256};

use crate::record::{Outcome, ReadSeen};
use crate::schema::Read;

/// What one request to the daemon asks for at most.
const PIECE: usize = 1 << 20;

/// The readers of one step.
pub struct Reading {
    name: String,
    end: Instant,
    shared: Arc<(Mutex<Progress>, Condvar)>,
}

#[derive(Default)]
struct Progress {
    seen: Vec<ReadSeen>,
    /// What each reader is at.
    at: BTreeMap<usize, (String, Instant)>,
    readers: usize,
    /// Readers that have begun, those that have ended among them.
    begun: usize,
}

impl Reading {
    /// Starts the readers of a step on these files below `root`, and returns when each has begun.
    pub fn start(step: &Read, root: &Path, files: &[String]) -> Self {
        let progress = Progress { readers: step.readers, ..Progress::default() };
        let shared = Arc::new((Mutex::new(progress), Condvar::new()));
        for reader in 0..step.readers {
            let is_mine = |(index, file): (usize, &String)| {
                (step.each || index % step.readers == reader).then(|| file.clone())
            };
            let mine: Vec<String> = files.iter().enumerate().filter_map(is_mine).collect();
            let (step, root, shared) = (step.clone(), root.to_owned(), Arc::clone(&shared));
            std::thread::spawn(move || {
                lock(&shared.0).begun += 1;
                shared.1.notify_all();
                for path in mine {
                    if let Some(pace) = step.pace {
                        std::thread::sleep(pace.0);
                    }
                    read_one(&step, &root, reader, path, &shared);
                }
                lock(&shared.0).readers -= 1;
                shared.1.notify_all();
            });
        }
        let (mutex, changed) = &*shared;
        let is_early = |progress: &mut Progress| progress.begun < step.readers;
        drop(changed.wait_while(lock(mutex), is_early).unwrap_or_else(PoisonError::into_inner));
        Self { name: step.name.clone(), end: Instant::now() + step.within.0, shared }
    }

    /// The step.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What has ended so far.
    pub fn seen(&self) -> Vec<ReadSeen> {
        lock(&self.shared.0).seen.clone()
    }

    /// Waits until all have ended, or their time is over. Those that have not ended then are said to hang.
    pub fn finish(self) -> Vec<ReadSeen> {
        let (mutex, ended) = &*self.shared;
        let left = self.end.saturating_duration_since(Instant::now());
        let waited = ended.wait_timeout_while(lock(mutex), left, |progress| progress.readers > 0);
        let (progress, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let mut seen = progress.seen.clone();
        if progress.readers > 0 {
            seen.extend(progress.at.values().map(|(path, begin)| ReadSeen {
                of: self.name.clone(),
                path: path.clone(),
                took: begin.elapsed(),
                result: Outcome::Hangs,
            }));
        }
        seen
    }
}

fn read_one(step: &Read, root: &Path, reader: usize, path: String, shared: &(Mutex<Progress>, Condvar)) {
    let begin = Instant::now();
    lock(&shared.0).at.insert(reader, (path.clone(), begin));
    let content = content(&root.join(&path), step.cached);
    let took = begin.elapsed();
    let result = match content {
        Ok(digest) => Outcome::Data(digest),
        Err(error) => Outcome::Error(error.raw_os_error().unwrap_or_default()),
    };
    let mut progress = lock(&shared.0);
    progress.at.remove(&reader);
    progress.seen.push(ReadSeen { of: step.name.clone(), path, took, result });
}

/// The SHA-256 of a file.
fn content(path: &Path, cached: bool) -> io::Result<String> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; PIECE];
    if cached {
        let mut file = std::fs::File::open(path)?;
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hex(&digest.finalize())),
                count => digest.update(&buffer[..count]),
            }
        }
    }
    let (file, mut offset) = (open_direct(path)?, 0);
    loop {
        match file.read_at(&mut buffer, offset)? {
            0 => return Ok(hex(&digest.finalize())),
            count => {
                digest.update(&buffer[..count]);
                offset += count as u64;
            }
        }
    }
}

/// The same listing as [`nydus_tests::manifest::Manifest::of_tree`], by a thread that may hang.
pub fn tree(root: PathBuf, within: Duration) -> Result<nydus_tests::manifest::Manifest, String> {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _ = sender.send(nydus_tests::manifest::Manifest::of_tree(&root));
    });
    match receiver.recv_timeout(within) {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("not listed within {within:?}")),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
