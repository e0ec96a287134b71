//! One answer to one request, exactly once.

use std::fs::File;
use std::io::{IoSlice, Write};
use std::sync::Arc;

use nix::errno::Errno;
use tracing::{debug, warn};

/// The obligation to answer a request. Dropped without an answer (a panic, a cancelled task), it answers EIO, so
/// that no reader waits for ever.
pub(super) struct Reply {
    device: Arc<File>,
    unique: u64,
    answered: bool,
}

impl Reply {
    pub(super) fn new(device: Arc<File>, unique: u64) -> Self {
        Self { device, unique, answered: false }
    }

    pub(super) fn data(mut self, data: &[u8]) {
        self.send(0, data);
    }

    pub(super) fn error(mut self, errno: Errno) {
        self.send(-(errno as i32), &[]);
    }

    fn send(&mut self, error: i32, data: &[u8]) {
        self.answered = true;
        // struct fuse_out_header: u32 len, i32 error, u64 unique. The kernel takes the whole answer in one write.
        let mut header = [0; 16];
        let len = (header.len() + data.len()) as u32;
        header[..4].copy_from_slice(&len.to_le_bytes());
        header[4..8].copy_from_slice(&error.to_le_bytes());
        header[8..].copy_from_slice(&self.unique.to_le_bytes());
        match (&*self.device).write_vectored(&[IoSlice::new(&header), IoSlice::new(data)]) {
            Ok(_) => {}
            // The request was interrupted, or the connection is gone: nobody waits.
            Err(e)
                if [Some(Errno::ENOENT as i32), Some(Errno::ENODEV as i32)].contains(&e.raw_os_error()) =>
            {
                debug!("request {}: nobody waits for its answer any more", self.unique);
            }
            Err(e) => warn!("the kernel refused the answer to request {}: {e}", self.unique),
        }
    }
}

/// Gives the kernel the whole content of a file that it may know. False if there is no sense in giving it more.
pub(super) fn store(device: &File, nodeid: u64, data: &[u8]) -> bool {
    /// As the "error" of an answer to nothing.
    const NOTIFY_STORE: i32 = 4;
    // struct fuse_out_header, then struct fuse_notify_store_out: u64 nodeid, u64 offset, u32 size, u32 padding.
    let mut header = [0; 40];
    let len = (header.len() + data.len()) as u32;
    header[..4].copy_from_slice(&len.to_le_bytes());
    header[4..8].copy_from_slice(&NOTIFY_STORE.to_le_bytes());
    header[16..24].copy_from_slice(&nodeid.to_le_bytes());
    header[32..36].copy_from_slice(&(data.len() as u32).to_le_bytes());
    let mut device = device;
    match device.write_vectored(&[IoSlice::new(&header), IoSlice::new(data)]) {
        Ok(_) => true,
        // The kernel has forgotten that file; it may know the next one.
        Err(e) if e.raw_os_error() == Some(Errno::ENOENT as i32) => true,
        Err(e) => {
            debug!("node {nodeid} was not sent ahead: {e}");
            false
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.answered {
            warn!("request {} ended without an answer; answered EIO", self.unique);
            self.send(-(Errno::EIO as i32), &[]);
        }
    }
}
