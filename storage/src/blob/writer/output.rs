//! The stream a blob goes to: where it is, and the two digests of what went there (spec/blob.md §13).

use std::io::Write;

use sha2::{Digest as _, Sha256};

use crate::digest::Digest;
use crate::{Error, Result};

/// A stream that is hashed on its way.
pub(super) struct Output<W> {
    out: W,
    position: u64,
    /// Of all bytes but those of the digest array: the blob's id.
    id: Sha256,
    /// Of all bytes, where there was a digest array; until then it would be the same.
    file: Option<Sha256>,
}

impl<W> std::fmt::Debug for Output<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output").field("position", &self.position).finish_non_exhaustive()
    }
}

impl<W: Write> Output<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, position: 0, id: Sha256::new(), file: None }
    }

    /// Bytes written so far.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.pass_on(bytes)?;
        self.id.update(bytes);
        if let Some(file) = &mut self.file {
            file.update(bytes);
        }
        Ok(())
    }

    /// Writes the digest array, which has no part in the id.
    pub(super) fn write_digest_array(&mut self, bytes: &[u8]) -> Result<()> {
        self.pass_on(bytes)?;
        self.file.get_or_insert_with(|| self.id.clone()).update(bytes);
        Ok(())
    }

    /// SHA-256 of what was written so far, but for digest arrays.
    pub(super) fn id(&self) -> Digest {
        Digest(self.id.clone().finalize().into())
    }

    /// Flushes; gives the stream, and the SHA-256 of all that went there.
    pub(super) fn finish(mut self) -> Result<(W, Digest)> {
        self.out.flush().map_err(|source| failed(self.position, source))?;
        Ok((self.out, Digest(self.file.unwrap_or(self.id).finalize().into())))
    }

    fn pass_on(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|source| failed(self.position, source))?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn skip_to(&mut self, position: u64) {
        self.position = position;
    }
}

fn failed(position: u64, source: std::io::Error) -> Error {
    Error::Unavailable { what: format!("blob being written, at offset {position}"), source }
}
