//! The tar headers that follow the sections of a blob (spec/blob.md §6).

/// Bytes of a tar header.
pub(super) const TAR_HEADER_SIZE: usize = 512;

const NAME_SIZE: usize = 100;
const SIZE_AT: usize = 124;
const MTIME_AT: usize = 136;
const CHECKSUM_AT: usize = 148;
const TYPE_AT: usize = 156;
const MAGIC_AT: usize = 257;
const GNU_MAGIC: &[u8] = b"ustar  \0";

/// What a header says of the bytes before it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TarHeader {
    /// Name of the section.
    pub name: String,
    /// Its bytes.
    pub size: u64,
}

impl TarHeader {
    /// The header in the last 512 bytes of `tail`, or `None` if those are none: no GNU magic, no regular file,
    /// no number where one must be, wrong checksum.
    pub(super) fn at_end(tail: &[u8]) -> Option<Self> {
        let header = tail.last_chunk::<TAR_HEADER_SIZE>()?;
        let magic = &header[MAGIC_AT..MAGIC_AT + GNU_MAGIC.len()];
        if magic != GNU_MAGIC
            || header[TYPE_AT] != b'0'
            || octal(&header[CHECKSUM_AT..TYPE_AT])? != sum(header)
        {
            return None;
        }
        let name = header[..NAME_SIZE].split(|byte| *byte == 0).next()?;
        Some(Self {
            name: std::str::from_utf8(name).ok()?.to_owned(),
            size: size(&header[SIZE_AT..MTIME_AT])?,
        })
    }
}

/// The sum of all bytes, those of the checksum counted as blanks.
fn sum(header: &[u8; TAR_HEADER_SIZE]) -> u64 {
    header
        .iter()
        .enumerate()
        .map(|(at, byte)| if (CHECKSUM_AT..TYPE_AT).contains(&at) { b' '.into() } else { u64::from(*byte) })
        .sum()
}

/// A size: octal digits, or from 8 GiB on GNU's big-endian binary behind a byte of 0x80.
fn size(field: &[u8]) -> Option<u64> {
    let Some((0x80, binary)) = field.split_first() else { return octal(field) };
    let (high, low) = binary.split_last_chunk::<8>()?;
    // The format's numbers are little-endian; this is the one that is not.
    let number = low.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    high.iter().all(|byte| *byte == 0).then_some(number)
}

/// Octal digits, ended by NUL or blank.
fn octal(field: &[u8]) -> Option<u64> {
    let end = field.iter().position(|byte| matches!(byte, 0 | b' ')).unwrap_or(field.len());
    let digits = std::str::from_utf8(&field[..end]).ok()?;
    u64::from_str_radix(digits, 8).ok()
}

/// The header of `size` bytes before it. All that it does not need is NUL, mode and owner too.
///
/// `name` is one of the sections' names, which are all shorter than the field.
pub(super) fn make(name: &str, size: u64) -> [u8; TAR_HEADER_SIZE] {
    let mut header = [0; TAR_HEADER_SIZE];
    header[..name.len()].copy_from_slice(name.as_bytes());
    if size < 1 << 33 {
        put_octal(&mut header[SIZE_AT..MTIME_AT - 1], size);
    } else {
        header[SIZE_AT] = 0x80;
        (0..8).for_each(|at| header[MTIME_AT - 1 - at] = (size >> (8 * at)) as u8);
    }
    put_octal(&mut header[MTIME_AT..CHECKSUM_AT - 1], 0);
    header[TYPE_AT] = b'0';
    header[MAGIC_AT..MAGIC_AT + GNU_MAGIC.len()].copy_from_slice(GNU_MAGIC);
    let checksum = sum(&header);
    put_octal(&mut header[CHECKSUM_AT..TYPE_AT - 1], checksum);
    header
}

/// As many octal digits as the field has bytes.
fn put_octal(field: &mut [u8], number: u64) {
    for (at, byte) in field.iter_mut().rev().enumerate() {
        *byte = b'0' + (number >> (3 * at) & 7) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_written() {
        let mut tail = vec![1; 100];
        tail.extend(make("image.boot", 12345));
        assert_eq!(TarHeader::at_end(&tail), Some(TarHeader { name: "image.boot".into(), size: 12345 }));
    }

    #[test]
    fn sizes_from_8_gib_on_are_binary() {
        for size in [(1 << 33) - 1, 1 << 33, 1 << 40, u64::MAX] {
            let header = make("image.blob", size);
            assert_eq!(TarHeader::at_end(&header).unwrap().size, size);
            let library = tar::Header::from_byte_slice(&header);
            assert_eq!(library.entry_size().unwrap(), size);
            assert_eq!(header[SIZE_AT] == 0x80, size >= 1 << 33, "{size}");
        }
        // More than 64 bits.
        let mut header = make("image.blob", 1 << 33);
        header[SIZE_AT + 3] = 1;
        header[CHECKSUM_AT..TYPE_AT - 1].fill(b'0');
        let checksum = sum(&header);
        put_octal(&mut header[CHECKSUM_AT..TYPE_AT - 1], checksum);
        assert_eq!(TarHeader::at_end(&header), None);
    }

    #[test]
    fn agrees_with_a_tar_library() {
        let mut header = tar::Header::new_gnu();
        header.set_path("blob.meta").unwrap();
        header.set_size(0o7777);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        assert_eq!(
            TarHeader::at_end(header.as_bytes()),
            Some(TarHeader { name: "blob.meta".into(), size: 0o7777 })
        );
    }

    #[test]
    fn any_flipped_bit_is_no_header() {
        let header = make("rafs.blob.toc", 640);
        for at in 0..header.len() {
            let mut broken = header;
            broken[at] ^= 1;
            assert_eq!(TarHeader::at_end(&broken), None, "byte {at}");
        }
        assert_eq!(TarHeader::at_end(&header[1..]), None, "too short");
    }
}
