//! AES-128-XTS of blobs (spec/blob.md §11) and of caches at rest (spec/cache.md §4).
//!
//! [`BlobCipher`] undoes what was encrypted as one XTS data unit of any length, the format's padding of short
//! input included. [`PageCipher`] works on 4096-byte pages in place, each with a tweak of zero.

use aes::Aes128;
use aes::cipher::{Array, KeyInit};
use xts_mode::Xts128;

use crate::blob::Cipher;
use crate::{Error, Result};

/// Bytes of a page of an encrypted cache file.
pub const PAGE_SIZE: usize = 4096;

/// AES needs one whole block; shorter input is padded to [`PADDED_SIZE`].
const BLOCK_SIZE: usize = 16;
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

/// Decrypts the stored units of one blob.
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

    /// Decrypts one stored unit: a chunk, a batch, the CI array or the CI header.
    ///
    /// `decoded_len` is the unit's size once decrypted *and* decompressed. It settles most of the padding's
    /// ambiguity: what is stored is never longer than that, so 18 stored bytes of an 18-byte unit are not padded.
    /// Errors are [`Error::Corrupt`]: no unit is shorter than an AES block.
    pub fn decrypt(&self, stored: &[u8], decoded_len: usize) -> Result<Vec<u8>> {
        if stored.len() < BLOCK_SIZE {
            return Err(Error::corrupt(
                "aes-128-xts",
                format!("{} bytes, expected at least {BLOCK_SIZE}", stored.len()),
            ));
        }
        let mut plain = stored.to_vec();
        self.xts.decrypt_sector(&mut plain, self.iv.into());
        if decoded_len != PADDED_SIZE
            && let Some(len) = padded_len(&plain)
        {
            plain.truncate(len);
        }
        Ok(plain)
    }
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
