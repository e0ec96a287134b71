//! One bit for each chunk, in memory or in a mapped file; most significant bit first, as in `chunk_map`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::sys::SharedMap;

/// A bitmap that threads, and processes if it is mapped, change one bit at a time.
///
/// Setting releases what was written before, testing acquires it. An index outside is never set.
pub(crate) struct Bits {
    count: u32,
    place: Place,
}

enum Place {
    Heap(Box<[AtomicU8]>),
    Mapped { map: Arc<SharedMap>, offset: usize },
}

/// Bytes of a bitmap of `count` bits.
pub(crate) fn bitmap_len(count: u32) -> usize {
    count.div_ceil(8) as usize
}

impl Bits {
    /// A bitmap in memory, all clear.
    pub(crate) fn in_memory(count: u32) -> Self {
        let bytes = (0..bitmap_len(count)).map(|_| AtomicU8::new(0)).collect();
        Self { count, place: Place::Heap(bytes) }
    }

    /// The bitmap that begins at `offset` of a mapping; the mapping must hold all of it.
    pub(crate) fn mapped(map: &Arc<SharedMap>, offset: usize, count: u32) -> Self {
        assert!(offset + bitmap_len(count) <= map.bytes().len(), "bitmap outside of its mapping");
        Self { count, place: Place::Mapped { map: Arc::clone(map), offset } }
    }

    /// Bits in the map.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    fn bytes(&self) -> &[AtomicU8] {
        match &self.place {
            Place::Heap(bytes) => bytes,
            Place::Mapped { map, offset } => &map.bytes()[*offset..*offset + bitmap_len(self.count)],
        }
    }

    fn at(&self, index: u32) -> Option<(&AtomicU8, u8)> {
        (index < self.count).then(|| (&self.bytes()[(index / 8) as usize], 0x80 >> (index % 8)))
    }

    /// One atomic load.
    #[inline]
    pub(crate) fn test(&self, index: u32) -> bool {
        self.at(index).is_some_and(|(byte, bit)| byte.load(Ordering::Acquire) & bit != 0)
    }

    pub(crate) fn set(&self, index: u32) {
        if let Some((byte, bit)) = self.at(index) {
            byte.fetch_or(bit, Ordering::AcqRel);
        }
    }

    pub(crate) fn clear(&self, index: u32) {
        if let Some((byte, bit)) = self.at(index) {
            byte.fetch_and(!bit, Ordering::AcqRel);
        }
    }

    /// The bytes as they are now; a snapshot byte by byte, not of the whole.
    pub(crate) fn snapshot(&self) -> Vec<u8> {
        self.bytes().iter().map(|byte| byte.load(Ordering::Acquire)).collect()
    }

    /// Sets every bit that is set in `snapshot`.
    pub(crate) fn merge(&self, snapshot: &[u8]) {
        for (byte, &bits) in self.bytes().iter().zip(snapshot) {
            if bits & !byte.load(Ordering::Relaxed) != 0 {
                byte.fetch_or(bits, Ordering::AcqRel);
            }
        }
    }

    /// True if every bit of `snapshot` is set here.
    pub(crate) fn covers(&self, snapshot: &[u8]) -> bool {
        self.bytes().iter().zip(snapshot).all(|(byte, bits)| bits & !byte.load(Ordering::Acquire) == 0)
    }

    /// Makes this bitmap equal to `snapshot`.
    pub(crate) fn assign(&self, snapshot: &[u8]) {
        for (byte, &bits) in self.bytes().iter().zip(snapshot) {
            byte.store(bits, Ordering::Release);
        }
    }

    /// True if all bits are set.
    pub(crate) fn is_full(&self) -> bool {
        (0..self.count / 8).all(|byte| self.bytes()[byte as usize].load(Ordering::Acquire) == 0xff)
            && (self.count / 8 * 8..self.count).all(|index| self.test(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_most_significant_first_and_bounded() {
        let bits = Bits::in_memory(54);
        (0..60).for_each(|index| bits.set(index));
        assert_eq!(bits.snapshot(), [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfc]);
        assert!(bits.is_full());
        assert!(!bits.test(54));
        bits.clear(9);
        assert_eq!(bits.snapshot()[1], 0xbf);
        assert!(!bits.is_full() && !bits.test(9) && bits.test(8));
        let other = Bits::in_memory(54);
        other.set(9);
        assert!(!bits.covers(&other.snapshot()));
        bits.merge(&other.snapshot());
        assert!(bits.covers(&other.snapshot()) && bits.is_full());
        other.assign(&[0; 7]);
        assert!(!other.test(9));
    }
}
