//! Entry points for fuzzing: bytes in, nothing out. They must not panic, whatever the bytes. Hidden from the
//! documentation: not an interface.

use std::path::Path;

use crate::optimize::PrefetchList;
use crate::source::estargz_toc;
use crate::source::tar::{GzipMembers, Kind, Reader, TreeBuilder};

/// The most of a file's content that is asked for at once.
const MAX_PIECE: u64 = 64 << 10;

/// A tar, and the tree that it makes. An input that begins as gzip does is decompressed first.
pub fn tar(input: &[u8]) {
    if input.starts_with(&[0x1f, 0x8b]) {
        build(Reader::new(GzipMembers::new(input), Path::new("fuzz")));
    } else {
        build(Reader::new(input, Path::new("fuzz")));
    }
}

fn build(mut reader: Reader<impl std::io::Read>) {
    let mut builder = TreeBuilder::new(true);
    while let Ok(Some(entry)) = reader.next_entry() {
        let mut rest = if let Kind::Regular { size, .. } = entry.kind { size } else { 0 };
        while rest > 0 {
            let piece = rest.min(MAX_PIECE);
            // A hole may be as long as it likes to be.
            match reader.read_content(piece as u32) {
                Ok(Some(_)) => rest -= piece,
                _ => break,
            }
        }
        if builder.add(entry).is_err() {
            return;
        }
    }
    builder.finish();
}

/// The table of contents of an eStargz layer.
pub fn estargz_toc(input: &[u8]) {
    let _ = estargz_toc::parse(input, Path::new("fuzz"), true, 1 << 20, 1 << 30);
}

/// A list of what is to be fetched first.
pub fn prefetch_list(input: &[u8]) {
    let _ = PrefetchList::parse(input);
}
