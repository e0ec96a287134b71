//! What was done with which file, if the configuration asks for it (`iostats_files`, `access_pattern`,
//! `latest_read_files`).
//!
//! Invariant: memory is bounded. The files that were touched first are recorded, and those beyond the bound are not; a line
//! in the log says when it is reached.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::operations::{CLASSES, OPERATIONS, Operation, size_class};
use super::reads::lock;

/// Files of which counts and first accesses are kept: some 6 MiB.
pub const MOST_FILES: usize = 16 << 10;
/// Files that are remembered as read of late: some 2 MiB.
pub const MOST_READ: usize = 64 << 10;

/// What to record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    /// Operations by file.
    pub counts: bool,
    /// The first READ of each file, and how many there were.
    pub patterns: bool,
    /// Which files were read since somebody asked.
    pub latest: bool,
}

impl Recording {
    /// Whether anything is recorded.
    pub fn is_any(self) -> bool {
        self.counts || self.patterns || self.latest
    }
}

/// See the module.
#[derive(Debug)]
pub struct Files {
    recording: Recording,
    files: Mutex<BTreeMap<u64, File>>,
    latest: Mutex<BTreeSet<u64>>,
}

#[derive(Debug, Default)]
struct File {
    hits: [u64; OPERATIONS],
    errors: [u64; OPERATIONS],
    read_sizes: [u64; CLASSES],
    read_bytes: u64,
    /// When it was read first.
    first: Option<Duration>,
}

impl Files {
    /// Records what `recording` says; `None` if that is nothing.
    pub fn new(recording: Recording) -> Option<Self> {
        recording.is_any().then(|| Self { recording, files: Mutex::default(), latest: Mutex::default() })
    }

    /// What is recorded.
    pub fn recording(&self) -> Recording {
        self.recording
    }

    /// A request about the inode `ino` was answered.
    pub fn answered(&self, ino: u64, operation: Operation, failed: bool) {
        if self.recording.counts {
            self.with(ino, |file| {
                file.hits[operation as usize] += 1;
                file.errors[operation as usize] += u64::from(failed);
            });
        }
    }

    /// A READ of `size` bytes of the inode `ino` was answered with `len`.
    pub fn read(&self, ino: u64, size: u32, len: usize) {
        if self.recording.counts || self.recording.patterns {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.with(ino, |file| {
                file.hits[Operation::Read as usize] += 1;
                file.read_sizes[size_class(size)] += 1;
                file.read_bytes += len as u64;
                file.first.get_or_insert(now);
            });
        }
        if self.recording.latest {
            let mut latest = lock(&self.latest);
            if latest.len() < MOST_READ {
                latest.insert(ino);
            }
        }
    }

    fn with(&self, ino: u64, change: impl FnOnce(&mut File)) {
        let mut files = lock(&self.files);
        let len = files.len();
        match files.get_mut(&ino) {
            Some(file) => change(file),
            None if len < MOST_FILES => {
                change(files.entry(ino).or_default());
                if len + 1 == MOST_FILES {
                    tracing::warn!("{MOST_FILES} files are recorded; what is done with others is not");
                }
            }
            None => {}
        }
    }

    /// The answer of `/metrics/files`.
    pub fn counts(&self) -> Value {
        if !self.recording.counts {
            return json!({});
        }
        let row = |(ino, file): (&u64, &File)| {
            let row = json!({
                "total_fops": file.hits.iter().sum::<u64>(),
                "data_read": file.read_bytes,
                "block_count_read": file.read_sizes,
                "fop_hits": file.hits,
                "fop_errors": file.errors,
            });
            (ino.to_string(), row)
        };
        Value::Object(lock(&self.files).iter().map(row).collect())
    }

    /// The answer of `/metrics/pattern`: files that were read, in the order of their numbers.
    pub fn patterns(&self) -> Value {
        if !self.recording.patterns {
            return json!([]);
        }
        let files = lock(&self.files);
        let read = files.iter().filter_map(|(ino, file)| Some((ino, file, file.first?)));
        let row = |(ino, file, first): (&u64, &File, Duration)| {
            json!({
                "ino": ino,
                "nr_read": file.read_sizes.iter().sum::<u64>(),
                "first_access_time_secs": first.as_secs(),
                "first_access_time_nanos": first.subsec_nanos(),
            })
        };
        read.map(row).collect()
    }

    /// The answer of `/metrics/files?latest=true`: numbers and ranges of numbers of files that were read since this was
    /// last asked.
    pub fn take_latest(&self) -> Value {
        let mut ranges: Vec<Vec<u64>> = Vec::new();
        for ino in std::mem::take(&mut *lock(&self.latest)) {
            match ranges.last_mut() {
                Some(range) if range.last().is_some_and(|last| last.checked_add(1) == Some(ino)) => {
                    range.truncate(1);
                    range.push(ino);
                }
                _ => ranges.push(vec![ino]),
            }
        }
        json!(ranges)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Recording = Recording { counts: true, patterns: true, latest: true };

    #[test]
    fn shapes_are_those_of_the_api() {
        let files = Files::new(ALL).unwrap();
        files.answered(180, Operation::Lookup, false);
        files.answered(180, Operation::GetXattr, true);
        [143, 180, 181, 182].iter().for_each(|ino| files.read(*ino, 4096, 300));
        let row = json!({"total_fops": 3, "data_read": 300, "block_count_read": [0, 0, 1, 0, 0, 0, 0, 0],
            "fop_hits": [0, 0, 0, 0, 1, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0],
            "fop_errors": [0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]});
        assert_eq!(files.counts()["180"], row);
        assert_eq!(files.counts().as_object().unwrap().len(), 4);
        let pattern = &files.patterns()[0];
        assert_eq!((&pattern["ino"], &pattern["nr_read"]), (&json!(143), &json!(1)));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!(pattern["first_access_time_secs"].as_u64().unwrap() >= now - 60, "{pattern}");
        assert!(pattern["first_access_time_nanos"].is_u64(), "{pattern}");
        assert_eq!(files.take_latest(), json!([[143], [180, 182]]));
        assert_eq!(files.take_latest(), json!([]));
    }

    #[test]
    fn nothing_is_recorded_that_nobody_asked_for() {
        assert!(Files::new(Recording::default()).is_none());
        let files = Files::new(Recording { latest: true, ..Recording::default() }).unwrap();
        files.answered(1, Operation::Lookup, false);
        files.read(1, 1, 1);
        assert_eq!(
            (files.counts(), files.patterns(), files.take_latest()),
            (json!({}), json!([]), json!([[1]]))
        );
        assert!(lock(&files.files).is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let files = Files::new(ALL).unwrap();
        (0..2 * MOST_READ as u64).for_each(|ino| files.read(ino * 2, 1, 1));
        assert_eq!(lock(&files.files).len(), MOST_FILES);
        assert_eq!(lock(&files.latest).len(), MOST_READ);
        assert!(size_of::<File>() * MOST_FILES < 8 << 20);
    }
}
