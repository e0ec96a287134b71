//! INIT: what the mount and the kernel agree upon.
//!
//! Answered here rather than by the crate, which drops the flags that it does not know from the kernel's offer:
//! idmapped mounts among them.

use fuse_backend_rs::abi::fuse_abi::{InHeader, InitIn, InitIn2, KERNEL_MINOR_VERSION, KERNEL_VERSION};
use fuse_backend_rs::api::filesystem::FsOptions;
use fuse_backend_rs::transport::{FuseBuf, Reader};
use nix::errno::Errno;
use tracing::{error, info};

/// Pages of the largest READ.
const MAX_PAGES: u16 = 256;
const PAGE: u32 = 4096;
/// The kernel that is old enough for shorter answers, 7.22, is older than what else we need of it.
const OLDEST_MINOR: u32 = 23;
/// FUSE_ALLOW_IDMAP, of 7.41: the mount may be shown with other owners by `mount_setattr`. The kernel then wants
/// `default_permissions`, which we mount with, and sends no owners with requests, which we look at nowhere.
const ALLOW_IDMAP: u64 = 1 << 40;

/// The flags that are wanted where the kernel has them. `acls`: the kernel is to ask for ACLs and obey them.
///
/// Not READDIRPLUS_AUTO: it asks for the later parts of a listing without attributes, and then for each entry.
/// Not ASYNC_DIO: the kernel then waits for direct reads where even a killed reader cannot leave.
fn wanted(acls: bool) -> u64 {
    let mut wanted = FsOptions::ASYNC_READ
        | FsOptions::MAX_PAGES
        | FsOptions::INIT_EXT
        | FsOptions::DO_READDIRPLUS
        | FsOptions::PARALLEL_DIROPS
        | FsOptions::CACHE_SYMLINKS
        | FsOptions::EXPLICIT_INVAL_DATA
        // File handles outlive the kernel's inodes: it asks for "." of a node that it has forgotten.
        | FsOptions::EXPORT_SUPPORT
        | FsOptions::ZERO_MESSAGE_OPEN
        | FsOptions::ZERO_MESSAGE_OPENDIR;
    wanted.set(FsOptions::POSIX_ACL, acls);
    wanted.bits() | ALLOW_IDMAP
}

/// What is agreed upon.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Agreement {
    max_readahead: u32,
    flags: u64,
}

impl Agreement {
    /// Agrees to the INIT `request`, or says why the session cannot be.
    pub(super) fn with(request: &mut [u8], acls: bool) -> Result<Self, Errno> {
        let (init, more) = read(request).ok_or(Errno::EINVAL)?;
        if init.major != KERNEL_VERSION || init.minor < OLDEST_MINOR {
            let (major, minor) = (init.major, init.minor);
            error!(
                "the kernel speaks FUSE {major}.{minor}; {KERNEL_VERSION}.{OLDEST_MINOR} or newer is needed"
            );
            return Err(Errno::EPROTO);
        }
        let offered = u64::from(init.flags) | u64::from(more) << 32;
        let flags = offered & wanted(acls);
        info!("FUSE {}.{} offers {offered:#x}, of which {flags:#x} is used", init.major, init.minor);
        Ok(Self { max_readahead: init.max_readahead, flags })
    }

    /// `struct fuse_init_out`.
    pub(super) fn to_bytes(&self) -> [u8; 64] {
        let halves = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
        let words = [
            KERNEL_VERSION,
            KERNEL_MINOR_VERSION,
            self.max_readahead,
            self.flags as u32,
            // max_background and congestion_threshold: READs that wait are many, and cost no thread.
            halves(u16::MAX, u16::MAX / 4 * 3),
            // max_write, time_gran, max_pages and map_alignment.
            u32::from(MAX_PAGES) * PAGE,
            1,
            halves(MAX_PAGES, 0),
            (self.flags >> 32) as u32,
        ];
        let mut bytes = [0; 64];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// The request, and its flags of the upper half, which older kernels do not send.
fn read(request: &mut [u8]) -> Option<(InitIn, u32)> {
    let mut reader = Reader::<()>::from_fuse_buffer(FuseBuf::new(request)).ok()?;
    reader.read_obj::<InHeader>().ok()?;
    let init: InitIn = reader.read_obj().ok()?;
    let is_extended = u64::from(init.flags) & FsOptions::INIT_EXT.bits() != 0;
    let more = is_extended.then(|| reader.read_obj::<InitIn2>().ok()).flatten();
    Some((init, more.map_or(0, |more| more.flags2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(major: u32, minor: u32, flags: u64, extended: bool) -> Vec<u8> {
        let mut bytes = vec![0; size_of::<InHeader>()];
        for word in [major, minor, 1 << 17, flags as u32] {
            bytes.extend(word.to_le_bytes());
        }
        if extended {
            bytes.extend(((flags >> 32) as u32).to_le_bytes());
            bytes.extend([0; 44]);
        }
        bytes
    }

    const INIT_EXT: u64 = 1 << 30;
    const POSIX_ACL: u64 = 1 << 20;

    fn flags(mut request: Vec<u8>, acls: bool) -> u64 {
        Agreement::with(&mut request, acls).unwrap().flags
    }

    #[test]
    fn nothing_is_used_that_the_kernel_does_not_offer() {
        assert_eq!(flags(request(7, 45, 1, false), true), 1);
    }

    #[test]
    fn idmapped_mounts_are_agreed_upon_in_the_upper_half() {
        let agreement = Agreement::with(&mut request(7, 45, u64::MAX, true), false).unwrap();
        assert!(agreement.flags & INIT_EXT != 0, "else the kernel does not look at the upper half");
        assert_eq!(agreement.to_bytes()[32..36], [0, 1, 0, 0]);
    }

    #[test]
    fn acls_are_asked_for_only_where_there_are_some() {
        for acls in [true, false] {
            assert_eq!(flags(request(7, 45, POSIX_ACL, false), acls) & POSIX_ACL != 0, acls);
        }
    }

    #[test]
    fn what_cannot_be_a_session_is_refused() {
        for (mut request, errno) in [
            (request(7, 22, 0, false), Errno::EPROTO),
            (request(6, 45, 0, false), Errno::EPROTO),
            (request(8, 0, 0, false), Errno::EPROTO),
            (request(7, 45, 0, false)[..50].to_vec(), Errno::EINVAL),
            (vec![], Errno::EINVAL),
        ] {
            assert_eq!(Agreement::with(&mut request, false), Err(errno));
        }
    }
}
