//! Where the tables of a bootstrap lie: in the file, behind the superblock, none over another.

use crate::error::Result;
use crate::image::Image;

/// Byte ranges that were found to be inside the file and disjoint.
pub(crate) struct Tables {
    /// First byte that a table may take.
    start: u64,
    ranges: Vec<(u64, u64)>,
}

impl Tables {
    /// No tables yet; they begin at `start` or behind it.
    pub(crate) fn behind(start: u64) -> Self {
        Self { start, ranges: Vec::with_capacity(4) }
    }

    /// Adds a table of `size` bytes. The offset of an empty one means nothing.
    pub(crate) fn add(
        &mut self,
        image: &Image,
        what: &'static str,
        offset: u64,
        size: u64,
        align: u64,
    ) -> Result<()> {
        if size == 0 {
            return Ok(());
        }
        if !offset.is_multiple_of(align) || offset < self.start {
            let expected = format!("an offset from {} on, a multiple of {align}", self.start);
            return Err(image.corrupt(offset, what, expected, offset));
        }
        image.range(offset, size, what)?;
        if self.overlap(offset, size) {
            let found = format!("{size} bytes over another table");
            return Err(image.corrupt(offset, what, "tables that do not overlap", found));
        }
        self.ranges.push((offset, offset + size));
        Ok(())
    }

    /// True if the non-empty range touches a table.
    pub(crate) fn overlap(&self, offset: u64, size: u64) -> bool {
        let end = offset.saturating_add(size);
        self.ranges.iter().any(|&(from, to)| offset < to && from < end)
    }
}
