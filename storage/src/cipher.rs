//! AES-128-XTS of blobs (spec/blob.md §11) and of caches at rest (spec/cache.md §4).
//!
//! [`BlobCipher`] encrypts and decrypts an XTS data unit of any length, the format's padding of short input
//! included. [`PageCipher`] works on 4096-byte pages in place, each with a tweak of zero.

use aes::Aes128;
use aes::cipher::{Array, KeyInit};
use xts_mode::Xts128;

use crate::blob::Cipher;
use crate::{Error, Result};

/// Bytes of a page of an encrypted cache file.
pub const PAGE_SIZE: usize = 4096;

/// AES needs one whole block; shorter input is padded to [`PADDED_SIZE`].
pub(crate) const BLOCK_SIZE: usize = 16;
/// A padded block and its two-byte mark.
const PADDED_SIZE: usize = 18;
/// What ends padded input.
const PADDING_MARK: [u8; 2] = [0x78, 0x90];

fn xts(key: &[u8; 32]) -> Xts128<Aes128> {
    let (data, tweak) = key.split_at(BLOCK_SIZE);
    // Both halves are 16 bytes, the key size of AES-128.
    let half = |bytes: &[u8]| {
        let mut half = Array::default();
        half.copy_from_slice(bytes);
        Aes128::new(&half)
    };
    Xts128::new(half(data), half(tweak))
}

/// Encrypts and decrypts the stored units of one blob.
pub struct BlobCipher {
    xts: Xts128<Aes128>,
    iv: [u8; 16],
}

impl std::fmt::Debug for BlobCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BlobCipher(***)")
    }
}

impl BlobCipher {
    /// Takes key and tweak from the blob table.
    pub fn new(cipher: &Cipher) -> Self {
        Self { xts: xts(&cipher.key), iv: cipher.iv }
    }

    /// Encrypts one unit: a chunk, a batch, the CI array or the CI header. What is shorter than an AES block is padded
    /// to 18 bytes, all else keeps its length.
    pub fn encrypt(&self, mut plain: Vec<u8>) -> Vec<u8> {
        if plain.len() < BLOCK_SIZE {
            // 1 to 16.
            let fill = (BLOCK_SIZE - plain.len()) as u8;
            plain.resize(BLOCK_SIZE, fill);
            plain.extend(PADDING_MARK);
        }
        self.xts.encrypt_sector(&mut plain, self.iv.into());
        plain
    }

    /// Decrypts one stored unit: a chunk, a batch, the CI array or the CI header.
    ///
    /// `plain_len` is the length that must come out, where it is known: that of a unit that is not compressed; else 0. It
    /// settles most of the padding's ambiguity: 18 stored bytes of an 18-byte unit are not padded, while what is
    /// compressed and 18 bytes long nearly always is.
    /// Errors are [`Error::Corrupt`]: no unit is shorter than an AES block.
    pub fn decrypt(&self, stored: &[u8], plain_len: usize) -> Result<Vec<u8>> {
        if stored.len() < BLOCK_SIZE {
            return Err(Error::corrupt(
                "aes-128-xts",
                format!("{} bytes, expected at least {BLOCK_SIZE}", stored.len()),
            ));
        }
        let mut plain = stored.to_vec();
        self.xts.decrypt_sector(&mut plain, self.iv.into());
        if plain_len != PADDED_SIZE
            && let Some(len) = padded_len(&plain)
        {
            plain.truncate(len);
        }
        Ok(plain)
    }
}

/// Whether readers that do not know a unit's size could take it for padded input. Such units are better not made.
pub(crate) fn looks_padded(plain: &[u8]) -> bool {
    plain.len() == PADDED_SIZE && plain.ends_with(&PADDING_MARK)
}

/// How much of a decrypted unit is data, if it is 18 bytes of padded input: bytes up to 16 hold how many they are, then the
/// mark follows.
fn padded_len(plain: &[u8]) -> Option<usize> {
    let plain: &[u8; PADDED_SIZE] = plain.try_into().ok()?;
    let (block, mark) = plain.split_at(BLOCK_SIZE);
    let fill = *block.last()?;
    let len = BLOCK_SIZE.checked_sub(fill.into()).filter(|len| *len < BLOCK_SIZE)?;
    (mark == PADDING_MARK && block[len..].iter().all(|byte| *byte == fill)).then_some(len)
}

/// Encrypts and decrypts pages of a cache file in place.
pub struct PageCipher(Xts128<Aes128>);

impl std::fmt::Debug for PageCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PageCipher(***)")
    }
}

impl PageCipher {
    /// Takes the two halves of an XTS key.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(xts(key))
    }

    /// Encrypts whole pages. A length that is no multiple of [`PAGE_SIZE`] is [`Error::Invalid`].
    pub fn encrypt(&self, pages: &mut [u8]) -> Result<()> {
        whole_pages(pages)?;
        pages.chunks_exact_mut(PAGE_SIZE).for_each(|page| self.0.encrypt_sector(page, Array::default()));
        Ok(())
    }

    /// Decrypts whole pages. A length that is no multiple of [`PAGE_SIZE`] is [`Error::Invalid`].
    pub fn decrypt(&self, pages: &mut [u8]) -> Result<()> {
        whole_pages(pages)?;
        pages.chunks_exact_mut(PAGE_SIZE).for_each(|page| self.0.decrypt_sector(page, Array::default()));
        Ok(())
    }
}

fn whole_pages(pages: &[u8]) -> Result<()> {
    if !pages.len().is_multiple_of(PAGE_SIZE) {
        return Err(Error::invalid(
            "cache page cipher",
            format!("{} bytes are not whole pages of {PAGE_SIZE}", pages.len()),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        std::array::from_fn(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
    }

    fn cipher() -> Cipher {
        Cipher { key: std::array::from_fn(|at| at as u8), iv: std::array::from_fn(|at| 0xf0 ^ at as u8) }
    }

    fn encrypt(plain: &[u8]) -> Vec<u8> {
        BlobCipher::new(&cipher()).encrypt(plain.to_vec())
    }

    #[test]
    fn known_answers_of_ieee_1619() {
        let check = |key: [u8; 32], iv: [u8; 16], plain: &[u8], stored: &[u8]| {
            let cipher = BlobCipher::new(&Cipher { key, iv });
            assert_eq!(cipher.encrypt(plain.to_vec()), stored);
            assert_eq!(cipher.decrypt(stored, plain.len()).unwrap(), plain);
        };
        // Vector 2: whole blocks.
        check(
            hex(&["11".repeat(16), "22".repeat(16)].concat()),
            hex("33333333330000000000000000000000"),
            &[0x44; 32],
            &hex::<32>("c454185e6a16936e39334038acef838bfb186fff7480adc4289382ecd6d394f0"),
        );
        // Vector 15: ciphertext stealing.
        check(
            hex("fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0bfbebdbcbbbab9b8b7b6b5b4b3b2b1b0"),
            hex("9a785634120000000000000000000000"),
            &(0..17).collect::<Vec<_>>(),
            &hex::<17>("6c1625db4671522d3d7599601de7ca09ed"),
        );
    }

    #[test]
    fn every_length_comes_back() {
        let cipher = BlobCipher::new(&cipher());
        for len in 1..200 {
            let plain: Vec<u8> = (0..len).map(|at| (at * 37) as u8).collect();
            let stored = encrypt(&plain);
            assert_eq!(stored.len(), if len < 16 { 18 } else { len }, "{len} bytes");
            assert_eq!(cipher.decrypt(&stored, len).unwrap(), plain, "{len} bytes");
        }
    }

    #[test]
    fn what_looks_padded_is_not_if_the_size_says_so() {
        let cipher = BlobCipher::new(&cipher());
        let mut honest = [1; 18];
        honest[16..].copy_from_slice(&PADDING_MARK);
        assert_eq!(cipher.decrypt(&encrypt(&honest), 18).unwrap(), honest);
        // A unit that decodes to another size: here the padding is one.
        assert_eq!(cipher.decrypt(&encrypt(&honest), 15).unwrap(), honest[..15]);
        assert_eq!(cipher.decrypt(&encrypt(&honest), 4096).unwrap(), honest[..15]);
    }

    #[test]
    fn what_no_padding_would_look_like_stays() {
        let cipher = BlobCipher::new(&cipher());
        for (fill_at, fill) in [(15, 0), (15, 16), (15, 200), (14, 3)] {
            let mut plain = [2; 18];
            plain[fill_at] = fill;
            plain[16..].copy_from_slice(&PADDING_MARK);
            assert_eq!(cipher.decrypt(&encrypt(&plain), 4096).unwrap(), plain, "{fill} at {fill_at}");
        }
    }

    #[test]
    fn less_than_a_block_is_an_error() {
        for len in 0..BLOCK_SIZE {
            assert!(BlobCipher::new(&cipher()).decrypt(&vec![0; len], 4096).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn pages_are_encrypted_each_on_its_own() {
        let cipher = PageCipher::new(&cipher().key);
        let plain: Vec<u8> =
            (0..3 * PAGE_SIZE).map(|at| (at / PAGE_SIZE * 7 + at % PAGE_SIZE) as u8).collect();
        let mut pages = plain.clone();
        cipher.encrypt(&mut pages).unwrap();
        assert_ne!(pages, plain);
        // One page alone gives the same bytes, and its tweak is zero.
        let mut page = plain[PAGE_SIZE..2 * PAGE_SIZE].to_vec();
        cipher.encrypt(&mut page).unwrap();
        assert_eq!(page, pages[PAGE_SIZE..2 * PAGE_SIZE]);
        let zero = BlobCipher::new(&Cipher { key: super::tests::cipher().key, iv: [0; 16] });
        assert_eq!(zero.decrypt(&page, PAGE_SIZE).unwrap(), plain[PAGE_SIZE..2 * PAGE_SIZE]);

        cipher.decrypt(&mut pages).unwrap();
        assert_eq!(pages, plain);
        assert!(cipher.encrypt(&mut pages[1..]).is_err());
        assert!(cipher.decrypt(&mut pages[1..]).is_err());
    }
}
