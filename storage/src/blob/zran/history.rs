//! What inflate may refer back to: the last 32 KiB of output, here and at a place that was marked.

/// How far back a deflate stream refers.
pub(super) const WINDOW: usize = 32 << 10;
/// The most bytes that are kept as they came.
const KEPT: usize = 4 * WINDOW;

/// The end of the output of one gzip member.
///
/// A mark costs nothing unless so much output follows it that the window before it would be lost: however small the
/// blocks of a stream are, each byte is copied a bounded number of times.
#[derive(Debug)]
pub(super) struct History {
    /// The last bytes, at least [`WINDOW`] of them unless there were fewer.
    recent: Vec<u8>,
    mark: Mark,
}

/// A place in the output.
#[derive(Debug)]
enum Mark {
    /// Before this byte of the recent ones.
    Recent(usize),
    /// Further back; the window that was before it.
    Copied(Vec<u8>),
}

impl History {
    pub(super) fn new() -> Self {
        Self { recent: Vec::with_capacity(KEPT), mark: Mark::Recent(0) }
    }

    /// A new member begins: nothing came before it.
    pub(super) fn clear(&mut self) {
        self.recent.clear();
        self.mark = Mark::Recent(0);
    }

    /// More output.
    pub(super) fn push(&mut self, output: &[u8]) {
        if self.recent.len() + output.len() > KEPT {
            if let Mark::Recent(_) = self.mark {
                self.mark = Mark::Copied(self.window().to_vec());
            }
            self.recent.drain(..self.recent.len().saturating_sub(WINDOW));
        }
        // Of very much output only the end counts, and that is more than a window.
        let (_, end) = output.split_at(output.len().saturating_sub(KEPT - WINDOW));
        self.recent.extend_from_slice(end);
    }

    /// Marks the end of the output so far.
    pub(super) fn mark(&mut self) {
        self.mark = Mark::Recent(self.recent.len());
    }

    /// The last bytes before the mark: 32 KiB, or all there were.
    pub(super) fn window(&self) -> &[u8] {
        match &self.mark {
            Mark::Recent(end) => &self.recent[end.saturating_sub(WINDOW)..*end],
            Mark::Copied(window) => window,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_window_is_what_came_before_the_mark(
            steps in proptest::collection::vec((0usize..200_000, any::<bool>()), 1..12),
        ) {
            let (mut history, mut all, mut marked) = (History::new(), Vec::new(), 0);
            for (len, mark) in steps {
                let output: Vec<u8> = (all.len()..all.len() + len).map(|at| (at * 7 / 5) as u8).collect();
                history.push(&output);
                all.extend(output);
                if mark {
                    history.mark();
                    marked = all.len();
                }
                prop_assert_eq!(history.window(), &all[marked.saturating_sub(WINDOW)..marked]);
            }
            history.clear();
            prop_assert!(history.window().is_empty());
        }
    }
}
