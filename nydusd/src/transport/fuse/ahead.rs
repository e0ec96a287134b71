//! Reading ahead across files.
//!
//! Who reads a tree file by file (tar, grep, cp) waits for a READ a file, and on a virtual machine the two changes of
//! CPU in it cost more than the data. So when the files that were listed before one have been read too, the small files
//! listed behind it are sent to the kernel unasked, with FUSE_NOTIFY_STORE: it then has their pages when they are opened.
//!
//! Invariant: what is remembered is bounded, and nothing is sent that is not verified and in the cache. The kernel makes
//! the sender wait while a page is being read by somebody else; so one worker sends at a time, and the others answer.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, TryLockError};

/// Files that are remembered, of all listings together; some 60 bytes each. With more than 14 thousand the map would double:
/// it then finds too little room to tidy up in place what is forgotten.
const MOST: usize = 12 << 10;
/// Files listed before one that are looked at, and how many of them must have been read or sent.
const BEHIND: usize = 8;
const ENOUGH: usize = 6;
/// What is sent at once, at most.
const FILES: usize = 32;
const BYTES: u64 = 1 << 20;
/// Larger files are left to the kernel, which reads ahead inside files.
const SMALL: u64 = 128 << 10;

/// See the module.
#[derive(Default)]
pub(super) struct Ahead {
    listed: Mutex<Listed>,
    sending: Mutex<()>,
}

/// Files to be sent. Until it is dropped, nobody else is told to send.
pub(super) struct Burst<'a> {
    /// By number and size.
    pub(super) files: Vec<(u64, u64)>,
    _turn: MutexGuard<'a, ()>,
}

/// Regular files in the order in which they were listed.
#[derive(Default)]
struct Listed {
    files: VecDeque<File>,
    /// How many were forgotten at the front.
    forgotten: u64,
    /// The last position of each, counted from the first file ever listed.
    positions: HashMap<u64, u64>,
}

#[derive(Clone, Copy)]
struct File {
    nodeid: u64,
    /// Bytes; whatever is more than this can say is as good as this.
    size: u32,
    /// Read, or sent.
    seen: bool,
}

impl Ahead {
    /// The kernel is told of these regular files, by number and size, in this order.
    pub(super) fn listed(&self, files: &[(u64, u64)]) {
        let mut listed = lock(&self.listed);
        files.iter().for_each(|&(nodeid, size)| listed.add(nodeid, size));
    }

    /// The start of a file is read: what is worth sending now, if anything is and nobody else is sending.
    pub(super) fn read(&self, nodeid: u64) -> Option<Burst<'_>> {
        let mut listed = lock(&self.listed);
        let behind = listed.read(nodeid)?;
        let turn = match self.sending.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let files = listed.take(behind);
        (!files.is_empty()).then_some(Burst { files, _turn: turn })
    }
}

impl Listed {
    fn add(&mut self, nodeid: u64, size: u64) {
        if self.files.len() == MOST
            && let Some(file) = self.files.pop_front()
        {
            if self.positions.get(&file.nodeid) == Some(&self.forgotten) {
                self.positions.remove(&file.nodeid);
            }
            self.forgotten += 1;
        }
        self.positions.insert(nodeid, self.forgotten + self.files.len() as u64);
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        self.files.push_back(File { nodeid, size, seen: false });
    }

    /// Notes that a file is read. Where the files behind it begin, if it is read in the order of the listing.
    fn read(&mut self, nodeid: u64) -> Option<usize> {
        let position = self.positions.get(&nodeid)?.checked_sub(self.forgotten)? as usize;
        self.files.get_mut(position)?.seen = true;
        let before = self.files.range(position.saturating_sub(BEHIND)..position);
        (before.filter(|file| file.seen).count() >= ENOUGH).then_some(position + 1)
    }

    /// Takes what is worth sending from `start` on.
    fn take(&mut self, start: usize) -> Vec<(u64, u64)> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        let end = self.files.len().min(start + FILES);
        for file in
            self.files.range_mut(start..end).filter(|file| !file.seen && u64::from(file.size) <= SMALL)
        {
            bytes += u64::from(file.size);
            if bytes > BYTES {
                break;
            }
            file.seen = true;
            taken.push((file.nodeid, file.size.into()));
        }
        taken
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(count: u64, size: u64) -> Ahead {
        let ahead = Ahead::default();
        ahead.listed(&(0..count).map(|nodeid| (nodeid, size)).collect::<Vec<_>>());
        ahead
    }

    /// What is sent after each of these files is read.
    fn sent(ahead: &Ahead, nodeids: impl IntoIterator<Item = u64>) -> Vec<Vec<u64>> {
        let sent = nodeids.into_iter().filter_map(|nodeid| ahead.read(nodeid));
        sent.map(|burst| burst.files.iter().map(|file| file.0).collect()).collect()
    }

    #[test]
    fn files_in_the_order_of_the_listing_are_sent_once() {
        let ahead = listed(100, 10);
        let enough = ENOUGH as u64;
        assert_eq!(sent(&ahead, 0..enough), Vec::<Vec<u64>>::new());
        let first: Vec<u64> = (enough + 1..=enough + FILES as u64).collect();
        assert_eq!(sent(&ahead, [enough]), [first]);
        // All of it is there; the next READ is of the file behind.
        let next = enough + FILES as u64 + 1;
        assert_eq!(sent(&ahead, [next]), [(next + 1..=next + FILES as u64).collect::<Vec<_>>()]);
        // The listing ends, and the start is read again.
        assert_eq!(sent(&ahead, [99]), Vec::<Vec<u64>>::new());
        assert_eq!(sent(&ahead, 0..20), Vec::<Vec<u64>>::new());
    }

    #[test]
    fn scattered_or_unknown_files_send_nothing() {
        let ahead = listed(1000, 10);
        assert_eq!(sent(&ahead, (0..1000).step_by(2)), Vec::<Vec<u64>>::new());
        assert_eq!(sent(&ahead, [5000]), Vec::<Vec<u64>>::new());
    }

    #[test]
    fn what_is_sent_is_bounded() {
        let ahead = listed(100, SMALL);
        assert_eq!(sent(&ahead, 0..=ENOUGH as u64)[0].len() as u64, BYTES / SMALL);
        // Large files are left out, and none of them counts as seen.
        assert_eq!(sent(&listed(100, SMALL + 1), 0..100), Vec::<Vec<u64>>::new());
    }

    #[test]
    fn one_sends_at_a_time() {
        let ahead = listed(200, 10);
        let burst = (0..=ENOUGH as u64).find_map(|nodeid| ahead.read(nodeid)).unwrap();
        assert!((100..=120).all(|nodeid| ahead.read(nodeid).is_none()));
        drop(burst);
        assert!(ahead.read(121).is_some());
    }

    #[test]
    fn memory_is_bounded_and_a_new_listing_counts() {
        let ahead = listed(3 * MOST as u64, 10);
        // Listed again, the first ones are the last.
        ahead.listed(&(0..40).map(|nodeid| (nodeid, 10)).collect::<Vec<_>>());
        assert_eq!(lock(&ahead.listed).files.len(), MOST);
        assert_eq!(lock(&ahead.listed).positions.len(), MOST);
        assert_eq!(sent(&ahead, 0..=ENOUGH as u64).len(), 1);
        assert_eq!(sent(&ahead, [41, 2 * MOST as u64]), Vec::<Vec<u64>>::new(), "forgotten");
    }
}
