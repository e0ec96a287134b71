//! Waiting for requests from `/dev/fuse`, for a while.
//!
//! Many threads may wait; the kernel wakes one of them a request, and the same one again as long as that one is back in
//! time, so that those that are not needed see no request. The device is in non-blocking mode.
//!
//! Invariant: no request is left lying because the thread that was woken for it stopped waiting. Who stops closes its
//! queue first and looks once more afterwards ([`Requests::take`]).

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// One thread's place among those that wait.
pub(super) struct Queue(Epoll);

/// What [`take`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// A request of so many bytes.
    Request(usize),
    /// None is there.
    Nothing,
    /// The filesystem is unmounted; there will be none.
    Unmounted,
}

impl Queue {
    /// A place among those that wait for requests from `device`.
    pub(super) fn new(device: &File) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(device, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLEXCLUSIVE, 0))?;
        Ok(Self(epoll))
    }

    /// Waits until a request may be there; false after `patience`, which is whole milliseconds.
    pub(super) fn wait(&self, patience: Option<Duration>) -> io::Result<bool> {
        let patience = patience.map_or(Ok(EpollTimeout::NONE), EpollTimeout::try_from);
        let patience = patience.map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        match self.0.wait(&mut [EpollEvent::empty()], patience) {
            Ok(events) => Ok(events > 0),
            Err(Errno::EINTR) => Ok(true),
            Err(e) => Err(e.into()),
        }
    }
}

/// Takes a request that is there.
pub(super) fn take(device: &Arc<File>, buffer: &mut [u8]) -> io::Result<Taken> {
    match (&**device).read(buffer) {
        Ok(len) => Ok(Taken::Request(len)),
        Err(e) => match e.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENODEV) => Ok(Taken::Unmounted),
            // ENOENT: the request was interrupted before anybody took it.
            Some(Errno::EAGAIN | Errno::ENOENT | Errno::EINTR) => Ok(Taken::Nothing),
            _ => Err(e),
        },
    }
}
