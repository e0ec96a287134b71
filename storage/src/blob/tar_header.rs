//! The tar headers that follow the sections of a blob (spec/blob.md §6).

/// Bytes of a tar header.
pub(super) const TAR_HEADER_SIZE: usize = 512;

const NAME_SIZE: usize = 100;
const SIZE_AT: usize = 124;
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
            size: octal(&header[SIZE_AT..SIZE_AT + 12])?,
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

/// Octal digits, ended by NUL or blank.
fn octal(field: &[u8]) -> Option<u64> {
    let end = field.iter().position(|byte| matches!(byte, 0 | b' ')).unwrap_or(field.len());
    let digits = std::str::from_utf8(&field[..end]).ok()?;
    u64::from_str_radix(digits, 8).ok()
}

#[cfg(test)]
pub(super) fn make(name: &str, size: u64) -> [u8; TAR_HEADER_SIZE] {
    let mut header = [0; TAR_HEADER_SIZE];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[SIZE_AT..SIZE_AT + 11].copy_from_slice(format!("{size:011o}").as_bytes());
    header[TYPE_AT] = b'0';
    header[MAGIC_AT..MAGIC_AT + 8].copy_from_slice(GNU_MAGIC);
    let checksum = sum(&header);
    header[CHECKSUM_AT..CHECKSUM_AT + 7].copy_from_slice(format!("{checksum:07o}").as_bytes());
    header
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
