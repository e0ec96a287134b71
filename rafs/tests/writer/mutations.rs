//! Fixtures with changed bytes, read as trees and written again: errors are fine, panics are bugs.

use rafs::build::{read_blobs, read_tree, write_bootstrap};

use crate::fixtures;

/// Bits changed one after the other in each image.
const CHANGES: u64 = 400;

#[test]
fn changed_images_end_in_trees_or_errors() {
    let (mut read, mut written) = (0, 0);
    for (image, original) in [
        ("v5-none-prefetch", fixtures::bytes("v5-none-prefetch")),
        ("v6-zran", fixtures::bytes("v6-zran")),
        ("v6-merge", fixtures::bytes("v6-merge")),
    ] {
        let mut state = original.len() as u64;
        for change in 0..CHANGES {
            // A step of a linear congruential generator; its upper bits are the good ones.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let mut bytes = original.clone();
            // Zeros are padding more often than not.
            let from = (state >> 20) as usize % bytes.len();
            let at = (from..bytes.len()).find(|at| bytes[*at] != 0).unwrap_or(from);
            bytes[at] ^= 1 << (state >> 61);
            let Ok(bootstrap) = fixtures::open(bytes) else { continue };
            let Ok((tree, options)) = read_tree(&bootstrap) else { continue };
            read += 1;
            let Ok(bytes) = write_bootstrap(&tree, &read_blobs(&bootstrap), &options) else { continue };
            written += 1;
            let again = fixtures::open(bytes).unwrap();
            assert!(again.check().is_ok(), "{image}: change {change} at {at:#x}");
        }
    }
    assert!(read > 0 && written > 0 && written < 3 * CHANGES, "{read} read, {written} written");
}
