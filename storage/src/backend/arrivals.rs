//! The bytes of a read on their way: for who can use the first before the last has come.

use bytes::Bytes;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Told of the pieces of a read as they come. Bounded by the read: no byte is told twice.
///
/// A courtesy, not a duty: a backend may tell nothing, or only the first pieces. What it tells is in order and without gaps,
/// from the first byte that was asked for; it is a part of what the read will answer unless the read fails, or the
/// object turns out to have been replaced meanwhile.
#[derive(Clone, Debug)]
pub struct Arrivals(UnboundedSender<(u64, Bytes)>);

impl Arrivals {
    /// One for a [`super::Request`], and what it will be told: pieces, and where in the object each begins.
    pub fn new() -> (Self, UnboundedReceiver<(u64, Bytes)>) {
        let (sender, receiver) = unbounded_channel();
        (Self(sender), receiver)
    }

    /// `piece` is at `at` of the object.
    pub fn tell(&self, at: u64, piece: Bytes) {
        // Nobody has to listen.
        let _ = self.0.send((at, piece));
    }
}
