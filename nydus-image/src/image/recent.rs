//! Units that were wanted lately: those that are being decoded, and those that still are decoded.
//!
//! Invariant: the oldest go first, so that at most [`KEPT`] bytes, or one unit, stay for nobody in particular.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use storage::blob::Unit;
use storage::digest::Digest;
use tokio::sync::OnceCell;

/// Decoded bytes that are kept for whoever wants them again.
pub(super) const KEPT: u64 = 32 << 20;
/// What is held of a unit, and of each of its chunks, beside their bytes.
const OVERHEAD: u64 = 256;

/// What tells units apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// By the first of its chunks, in the blob's own table.
    Table { blob: u32, first: u32 },
    /// A chunk that the bootstrap describes: by all that is said of it.
    Record { blob: u32, index: u32, place: (u64, u64), stored: (u64, u32, u8), digest: Digest },
}

/// A unit, and what comes out of it.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) unit: Unit,
    /// Filled by the first task that wants it.
    pub(super) members: OnceCell<Vec<Member>>,
}

/// A decoded chunk.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) bytes: Bytes,
    /// Filled when it was found to be right.
    pub(super) checked: OnceCell<()>,
}

#[derive(Debug, Default)]
pub(super) struct Recent {
    slots: HashMap<Key, Arc<Slot>>,
    /// The oldest first, with what it costs.
    order: VecDeque<(Key, u64)>,
    bytes: u64,
}

impl Recent {
    /// The slot of a unit; a new one unless it was wanted lately.
    pub(super) fn slot(&mut self, key: Key, unit: Unit) -> Arc<Slot> {
        if let Some(slot) = self.slots.get(&key) {
            return Arc::clone(slot);
        }
        // However small the units, there is a bound to their number.
        let cost = unit.decoded_size() + OVERHEAD * (1 + unit.members.len() as u64);
        while self.bytes + cost > KEPT
            && let Some((oldest, freed)) = self.order.pop_front()
        {
            self.slots.remove(&oldest);
            self.bytes -= freed;
        }
        let slot = Arc::new(Slot { unit, members: OnceCell::new() });
        self.slots.insert(key, Arc::clone(&slot));
        self.order.push_back((key, cost));
        self.bytes += cost;
        slot
    }
}
