//! Inode numbers of the format as the kernel's node ids, and back.

use rafs::Ino;

/// The kernel knows the root as node 1; v6 images number it otherwise. The two numbers change places, so that the
/// map needs no memory and can be turned round.
#[derive(Clone, Copy)]
pub(super) struct NodeIds {
    root: u64,
}

/// The kernel's number of the root.
const ROOT: u64 = 1;

impl NodeIds {
    pub(super) fn new(root: Ino) -> Self {
        Self { root: root.0 }
    }

    pub(super) fn ino(self, nodeid: u64) -> Ino {
        Ino(self.swap(nodeid))
    }

    pub(super) fn nodeid(self, ino: Ino) -> u64 {
        self.swap(ino.0)
    }

    fn swap(self, number: u64) -> u64 {
        match number {
            ROOT => self.root,
            number if number == self.root => ROOT,
            number => number,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_comes_back() {
        for root in [1, 128] {
            let ids = NodeIds::new(Ino(root));
            assert_eq!(ids.ino(ROOT), Ino(root));
            for number in [1, 2, 127, 128, 129, u64::MAX] {
                assert_eq!(ids.nodeid(ids.ino(number)), number);
            }
        }
    }
}
