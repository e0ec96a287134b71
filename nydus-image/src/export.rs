//! An image as the content of one block device, which the kernel mounts as EROFS.
//!
//! ```text
//!   bootstrap │ zeros │ blob 0, uncompressed │ zeros │ blob 1, uncompressed │ … │ hash tree, if wanted
//! ```
//!
//! The bootstrap says at which block each blob begins. The data ends at a multiple of 4096 bytes.

use crate::error::{Error, Result};
use crate::image::{Image, Piece};
use crate::verity::{BLOCK, HashTree, Hasher};

/// Gives the bytes of the disk to `sink`; with `verity` the hash tree too, which is returned.
pub fn export(
    image: &Image,
    verity: bool,
    mut sink: impl FnMut(&[u8]) -> Result<()>,
) -> Result<Option<HashTree>> {
    let bootstrap = image.bootstrap();
    let Some(layout) = bootstrap.disk_layout()? else {
        return Err(Error::Usage("export: RAFS v5 is no file system that the kernel mounts".into()));
    };
    // 512 or 4096.
    let mut hasher = verity.then(|| Hasher::new(bootstrap.block_size() as usize));
    let mut position = 0;
    let mut write = |bytes: &[u8]| {
        position += bytes.len() as u64;
        if let Some(hasher) = &mut hasher {
            hasher.update(bytes);
        }
        sink(bytes)
    };
    write(bootstrap.bytes())?;
    let mut end = bootstrap.size();
    for (index, (start, len)) in layout.into_iter().enumerate() {
        // The layout ascends.
        let gap = Piece::Zeros(start - end);
        let pieces = image.uncompressed(index, len)?;
        image.copy(std::iter::once(Ok(gap)).chain(pieces), &mut write)?;
        end = start + len;
    }
    let rest = Piece::Zeros(end.wrapping_neg() % BLOCK as u64);
    image.copy(std::iter::once(Ok(rest)), &mut write)?;
    let end = end.next_multiple_of(BLOCK as u64);
    if position != end {
        return Err(Error::Usage(format!("export: {position} bytes were written, expected {end}")));
    }
    let Some(hasher) = hasher else { return Ok(None) };
    let tree = hasher.finish();
    sink(&tree.levels)?;
    Ok(Some(tree))
}
