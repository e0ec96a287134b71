//! Digests and checksums of chunks (spec/blob.md §1.2, §1.3).

use std::fmt;

use sha2::Digest as _;

/// The CRC-32C (Castagnoli) of `data`; `123456789` gives 0xe3069283.
pub fn crc32c(data: &[u8]) -> u32 {
    crc32c::crc32c(data)
}

/// A 32-byte BLAKE3 or SHA-256 digest; which of the two is a property of the image.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// All zero: the format's "no digest known".
    pub fn is_zero(&self) -> bool {
        self.0 == [0; 32]
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The digest algorithm of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Digester {
    /// BLAKE3, 32-byte output, no key.
    Blake3,
    /// SHA-256.
    Sha256,
}

impl Digester {
    /// The digest of `data`.
    pub fn digest(self, data: &[u8]) -> Digest {
        self.digest_parts([data])
    }

    /// The digest of the concatenation of `parts`.
    pub fn digest_parts<'a>(self, parts: impl IntoIterator<Item = &'a [u8]>) -> Digest {
        match self {
            Self::Blake3 => {
                let mut hasher = blake3::Hasher::new();
                parts.into_iter().for_each(|part| {
                    hasher.update(part);
                });
                Digest(*hasher.finalize().as_bytes())
            }
            Self::Sha256 => {
                let mut hasher = sha2::Sha256::new();
                parts.into_iter().for_each(|part| hasher.update(part));
                Digest(hasher.finalize().into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        let sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Digester::Sha256.digest(b"abc").to_string(), sha);
        let blake = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";
        assert_eq!(Digester::Blake3.digest(b"abc").to_string(), blake);
        assert_eq!(Digester::Blake3.digest_parts([b"a".as_slice(), b"", b"bc"]).to_string(), blake);
    }
}
