//! A set of small numbers: one bit each. What a walk has visited.

/// Numbers below a limit.
pub(crate) struct NumberSet {
    words: Vec<u64>,
}

impl NumberSet {
    /// An empty set for numbers from 0 up to and excluding `limit`.
    pub(crate) fn below(limit: u64) -> Self {
        Self { words: vec![0; limit.div_ceil(64) as usize] }
    }

    /// Puts `number` in; false if it was there, or is beyond the limit.
    pub(crate) fn insert(&mut self, number: u64) -> bool {
        let Some(word) = usize::try_from(number / 64).ok().and_then(|at| self.words.get_mut(at)) else {
            return false;
        };
        let bit = 1 << (number % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// True if `number` is in.
    pub(crate) fn contains(&self, number: u64) -> bool {
        let word = usize::try_from(number / 64).ok().and_then(|at| self.words.get(at));
        word.is_some_and(|word| word & (1 << (number % 64)) != 0)
    }
}
