//! The commands, one file each.

pub mod check;
pub mod chunkdict;
pub mod compact;
pub mod create;
pub mod inspect;
pub mod manual;
pub mod merge;
pub mod optimize;
pub mod unpack;

/// So many threads as were asked for; 0 asks for one a core.
fn threads(asked: usize) -> usize {
    match asked {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        given => given.min(256),
    }
}
