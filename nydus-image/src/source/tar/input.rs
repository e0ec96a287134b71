//! Where the bytes of an archive come from: a file, a pipe, or standard input, perhaps through gzip or Zstandard.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;

use flate2::bufread::GzDecoder;

use crate::error::{Error, Result};

/// Bytes that are asked of the system at once.
const BUFFER: usize = 256 << 10;

/// What a gzip file begins with.
pub const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// What a frame of Zstandard begins with.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The same of a frame that has no content, whose first byte has any low four bits.
const ZSTD_SKIPPABLE_MAGIC: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];
/// The largest window that a frame may ask for, 128 MiB: what `zstd` itself takes unless told otherwise.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Opens what is called `path`, `-` being standard input. It is read once, so it may be a pipe.
pub fn open(path: &Path) -> Result<Box<dyn Read + Send>> {
    let input: Box<dyn Read + Send> = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        let file = File::open(path).map_err(Error::io("open", path))?;
        if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
            return Err(Error::entry(path, "is a directory, not an archive"));
        }
        Box::new(file)
    };
    Ok(Box::new(BufReader::with_capacity(BUFFER, input)))
}

/// The same, decompressed if it is gzip or Zstandard, which its first bytes tell.
///
/// Memory: with Zstandard the window that the file asks for, of up to 128 MiB.
pub fn open_decoded(path: &Path) -> Result<Box<dyn Read + Send>> {
    let failed = || Error::io("read", path);
    let mut input = open(path)?;
    let mut magic = Vec::new();
    input.by_ref().take(4).read_to_end(&mut magic).map_err(failed())?;
    let is_zstd = match magic[..] {
        [first, ref rest @ ..] => {
            magic == ZSTD_MAGIC
                || first & 0xf0 == ZSTD_SKIPPABLE_MAGIC[0] && *rest == ZSTD_SKIPPABLE_MAGIC[1..]
        }
        [] => false,
    };
    let is_gzip = magic.starts_with(&GZIP_MAGIC);
    let input = BufReader::with_capacity(BUFFER, Cursor::new(magic).chain(input));
    Ok(match (is_gzip, is_zstd) {
        (true, _) => Box::new(GzipMembers::new(input)),
        (_, true) => {
            let mut decoder = zstd::Decoder::with_buffer(input).map_err(failed())?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(failed())?;
            Box::new(decoder)
        }
        _ => Box::new(input),
    })
}

/// What was compressed with gzip: all members, one after the other. Zeros behind the last one are nothing.
#[derive(Debug)]
pub struct GzipMembers<R> {
    /// `None` at the end, and after an error.
    member: Option<GzDecoder<R>>,
}

impl<R: BufRead> GzipMembers<R> {
    /// Decodes what comes out of `input`.
    pub fn new(input: R) -> Self {
        Self { member: Some(GzDecoder::new(input)) }
    }
}

impl<R: BufRead> Read for GzipMembers<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(mut member) = self.member.take() {
            let count = match member.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    self.member = Some(member);
                    return Err(error);
                }
                read => read?,
            };
            if count > 0 || buffer.is_empty() {
                self.member = Some(member);
                return Ok(count);
            }
            let mut input = member.into_inner();
            match input.fill_buf()?.first() {
                None => {}
                Some(0x1f) => self.member = Some(GzDecoder::new(input)),
                Some(_) => drain_zeros(input)?,
            }
        }
        Ok(0)
    }
}

fn drain_zeros(mut input: impl BufRead) -> io::Result<()> {
    loop {
        let rest = input.fill_buf()?;
        if rest.iter().any(|byte| *byte != 0) {
            let kind = io::ErrorKind::InvalidData;
            return Err(io::Error::new(kind, "something follows the last member of the gzip file"));
        }
        let count = rest.len();
        if count == 0 {
            return Ok(());
        }
        input.consume(count);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn decode(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut decoded = Vec::new();
        // In small pieces, so that members end anywhere.
        GzipMembers::new(BufReader::with_capacity(7, bytes)).read_to_end(&mut decoded).map(|_| decoded)
    }

    #[test]
    fn members_follow_each_other_and_zeros_are_nothing() {
        let whole = [gzip(b"one "), gzip(b""), gzip(b"two")].concat();
        assert_eq!(decode(&whole).unwrap(), b"one two");
        assert_eq!(decode(&[&whole[..], &[0; 100]].concat()).unwrap(), b"one two");
    }

    #[test]
    fn what_is_cut_off_or_follows_is_an_error() {
        let data: Vec<u8> = (0..20_000_u32).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
        let whole = [gzip(&data), gzip(b"end")].concat();
        assert_eq!(decode(&whole).unwrap().len(), data.len() + 3);
        let first = gzip(&data).len();
        for len in [0, 5, 100, first / 2, first - 9, first - 1, first + 5, whole.len() - 5, whole.len() - 1] {
            assert!(decode(&whole[..len]).is_err(), "{len} of {} bytes", whole.len());
        }
        assert!(decode(&[&whole[..], b"garbage"].concat()).is_err());
        assert!(decode(&[&whole[..], &[0; 9], b"garbage"].concat()).is_err());
        let mut damaged = whole;
        damaged[first - 8] ^= 1;
        assert!(decode(&damaged).is_err(), "the CRC tells");
    }
}
