//! A source that is hashed while it is read, once.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};
use storage::digest::Digest;

/// Counts and hashes what is read through it.
pub struct Hashed<R> {
    input: R,
    sha256: Sha256,
    count: u64,
}

impl<R> std::fmt::Debug for Hashed<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hashed").field("count", &self.count).finish_non_exhaustive()
    }
}

impl<R: Read> Hashed<R> {
    /// Hashes from here on.
    pub fn new(input: R) -> Self {
        Self { input, sha256: Sha256::new(), count: 0 }
    }

    /// Bytes so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// SHA-256 of the bytes so far.
    pub fn digest(&self) -> Digest {
        Digest(self.sha256.clone().finalize().into())
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.sha256.update(buffer.get(..count).unwrap_or_default());
        self.count += count as u64;
        Ok(count)
    }
}
