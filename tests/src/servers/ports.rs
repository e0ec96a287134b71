//! Ports of loopback for servers that may go and come back.
//!
//! Invariant: they lie below the ports that the system gives to connections, so that no connection takes one meanwhile.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};
use std::{io, thread};

const PORTS: std::ops::Range<u16> = 12_000..32_000;
/// How long an address that was used before may take to be free again.
const PATIENCE: Duration = Duration::from_secs(10);

/// Listens at a port that nobody listened at.
pub(super) fn listen_anywhere() -> TcpListener {
    let span = u64::from(PORTS.end - PORTS.start);
    loop {
        let random = RandomState::new().build_hasher().finish() % span;
        let port = PORTS.start + u16::try_from(random).expect("less than the span");
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return listener;
        }
    }
}

/// Listens at `addr`, which somebody may just be leaving.
pub(super) fn listen_at(addr: SocketAddr) -> TcpListener {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match TcpListener::bind(addr) {
            Ok(listener) => return listener,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(20));
            }
            Err(error) => panic!("{addr}: {error}"),
        }
    }
}
