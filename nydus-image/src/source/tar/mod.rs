//! Tar archives as sources, read once from front to back: files, pipes, and anything else that can be read.
//!
//! ```text
//!   input::open ──▶ Reader: blocks ──▶ Entry ──▶ TreeBuilder ──▶ Tree
//!    (gzip)            └────── content, chunk by chunk ──▶ TarFiles: jobs of the pipeline
//! ```
//!
//! Understood are ustar, GNU and PAX archives with their long names, large numbers, extended attributes, and sparse
//! files of all four kinds. What an archive says in two ways is what extraction would make of it: the last entry of
//! a name wins, a directory named again keeps what is in it, missing directories have mode 755 and the time 0, and
//! paths lead through the archive's own symlinks, whose `/` and `..` end at the root of the tree. What follows the end
//! of the archive is ignored. Fractions of a second are dropped, as the reference does. Refused, with the entry and its
//! offset: `..` in names, names over 255 bytes, entries below something that is no directory, hard links to what does
//! not come before them, and types that are not known.
//!
//! Invariant: the result follows from the bytes of the archive. An archive that ends early is an error, except
//! between two entries, where the format cannot tell.

mod chunks;
mod entry;
mod header;
mod input;
mod number;
mod pax;
mod reader;
mod sparse;
mod tree;

pub use chunks::{TarFiles, is_estargz_extra};
pub use entry::{Entry, Kind};
pub use input::{GZIP_MAGIC, GzipMembers, open, open_decoded};
pub use reader::Reader;
pub use tree::{TreeBuilder, components};

#[cfg(test)]
mod samples;
