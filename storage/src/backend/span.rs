//! Reading a byte range of an object that lies in a file or device.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;

use super::MAX_READ;
use crate::{Error, Result};

/// Where an object lies in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// Its first byte.
    pub offset: u64,
    /// Its bytes.
    pub len: u64,
}

impl Span {
    /// `len` bytes from `offset` of the object: one allocation, and one `pread` unless the kernel gives less.
    /// `what` names the object in errors, which are those of [`super::Backend::read`].
    pub(super) fn read(self, file: &File, what: impl Fn() -> String, offset: u64, len: u64) -> Result<Bytes> {
        if len == 0 {
            return Ok(Bytes::new());
        }
        if len > MAX_READ {
            return Err(Error::invalid(what(), format!("{len} bytes asked for, {MAX_READ} at most")));
        }
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(Error::corrupt(
                what(),
                format!("range {offset}+{len} is beyond the end, it has {} bytes", self.len),
            ));
        }
        let mut data = vec![0; len as usize];
        file.read_exact_at(&mut data, self.offset + offset).map_err(|err| failed(what(), err))?;
        Ok(data.into())
    }
}

/// An error of the system, as callers of a backend want it told.
pub(super) fn failed(what: String, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::PermissionDenied => Error::Denied { what, source },
        // The file became shorter since its size was taken.
        io::ErrorKind::UnexpectedEof => Error::corrupt(what, "the range is beyond the end"),
        _ => Error::Unavailable { what, source },
    }
}
