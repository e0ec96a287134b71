//! A link to far away: a TCP relay on loopback with a round-trip time and a bandwidth.
//!
//! Invariants: a connection costs one round trip before its first byte starts; every byte arrives half a round trip late,
//! each way; all connections together get at most the bandwidth, downstream, and share it piece by piece. What waits for
//! its turn is bounded, and a server that is faster than the link is held back. There is no slow start: connections are
//! as fast as those that have been used for a while.
//!
//! Threads and not tasks: they sleep to within a tenth of a millisecond, and an RTT of 5 ms shall be no other.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What lies in front of the narrow place at most, as time: the buffer of a router.
const QUEUE: Duration = Duration::from_millis(20);
/// How long the narrow place is busy with one piece.
const PIECE: Duration = Duration::from_millis(2);
/// The bytes of a piece.
const PIECE_BYTES: (u64, u64) = (1 << 10, 64 << 10);
/// Pieces of a connection that are on their way at once, at most: 128 MiB/s at an RTT of one second.
const ON_THE_WAY: usize = 2048;

/// What a link is like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// There and back.
    pub rtt: Duration,
    /// Bits a second, downstream; 0: no limit.
    pub bits_per_second: u64,
}

impl Shape {
    /// How long `bytes` take, the way not counted.
    pub fn time(&self, bytes: u64) -> Duration {
        match self.bits_per_second {
            0 => Duration::ZERO,
            bits => Duration::from_secs_f64(bytes as f64 * 8.0 / bits as f64),
        }
    }

    fn piece(&self) -> usize {
        let bytes = match self.bits_per_second {
            0 => PIECE_BYTES.1,
            bits => (bits as f64 / 8.0 * PIECE.as_secs_f64()) as u64,
        };
        bytes.clamp(PIECE_BYTES.0, PIECE_BYTES.1) as usize
    }
}

/// What went over a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Connections that were opened.
    pub connections: u64,
    /// Heads of HTTP/1 requests, none of which may have a body.
    pub requests: u64,
    /// Bytes downstream, heads of answers included.
    pub bytes: u64,
}

impl std::ops::Sub for Traffic {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            connections: self.connections - before.connections,
            requests: self.requests - before.requests,
            bytes: self.bytes - before.bytes,
        }
    }
}

/// A link to one server. Dropped, it takes no more connections and cuts those that are open.
pub struct Link {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    shape: Shape,
    server: SocketAddr,
    /// When the narrow place has let through all that it was given.
    free: Mutex<Instant>,
    streams: Mutex<Vec<TcpStream>>,
    closed: AtomicBool,
    connections: AtomicU64,
    requests: AtomicU64,
    bytes: AtomicU64,
}

impl Link {
    /// A link to `server`, its near end at a port of the system's choice.
    pub fn new(shape: Shape, server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            shape,
            server,
            free: Mutex::new(Instant::now()),
            streams: Mutex::default(),
            closed: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        });
        let accepting = shared.clone();
        let accepting = thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                if accepting.closed.load(Ordering::Acquire) {
                    return;
                }
                accepting.connections.fetch_add(1, Ordering::Relaxed);
                let shared = accepting.clone();
                // A connection that fails is seen by both of its ends.
                thread::spawn(move || shared.connect(near).ok());
            }
        });
        Ok(Self { addr, shared, accepting: Some(accepting) })
    }

    /// The near end.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What has gone over it so far.
    pub fn traffic(&self) -> Traffic {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            connections: count(&self.shared.connections),
            requests: count(&self.shared.requests),
            bytes: count(&self.shared.bytes),
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        // Wakes the thread that accepts.
        let woken = TcpStream::connect(self.addr);
        if let (Ok(_), Some(accepting)) = (woken, self.accepting.take()) {
            let _ = accepting.join();
        }
        for stream in lock(&self.shared.streams).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    /// Relays one connection until both directions have ended.
    fn connect(self: Arc<Self>, near: TcpStream) -> io::Result<()> {
        thread::sleep(self.shape.rtt);
        let far = TcpStream::connect(self.server)?;
        for stream in [&near, &far] {
            stream.set_nodelay(true)?;
            lock(&self.streams).push(stream.try_clone()?);
        }
        let up = (near.try_clone()?, far.try_clone()?);
        let upward = self.clone();
        let upward = thread::spawn(move || {
            let mut heads = Heads::default();
            upward.carry(up.0, up.1, |link, piece| {
                link.requests.fetch_add(heads.count(piece), Ordering::Relaxed);
                Instant::now()
            })
        });
        let down = self.carry(far, near, |link, piece| {
            link.bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
            link.pass(piece.len() as u64)
        });
        let _ = upward.join();
        down
    }

    /// Carries what `from` says to `to`. `pass` tells when a piece has passed what is narrow, and may hold it up.
    fn carry(
        &self,
        mut from: TcpStream,
        to: TcpStream,
        mut pass: impl FnMut(&Self, &[u8]) -> Instant,
    ) -> io::Result<()> {
        let (on_the_way, arriving) = sync_channel(ON_THE_WAY);
        let arrival = thread::spawn(move || arrive(&arriving, to));
        let mut buffer = vec![0; self.shape.piece()];
        let ended = loop {
            match from.read(&mut buffer) {
                Ok(0) => break Ok(()),
                Ok(len) => {
                    let due = pass(self, &buffer[..len]) + self.shape.rtt / 2;
                    if on_the_way.send((due, buffer[..len].to_vec())).is_err() {
                        // Nobody takes it any more: whoever sends it should know.
                        let _ = from.shutdown(Shutdown::Both);
                        break Ok(());
                    }
                }
                Err(error) => break Err(error),
            }
        };
        end(on_the_way, self.shape.rtt / 2);
        let _ = arrival.join();
        ended
    }

    /// When `bytes` more have passed the narrow place. Waits while too much lies in front of it.
    fn pass(&self, bytes: u64) -> Instant {
        let now = Instant::now();
        let passed = {
            let mut free = lock(&self.free);
            *free = (*free).max(now) + self.shape.time(bytes);
            *free
        };
        thread::sleep(passed.saturating_duration_since(now + QUEUE));
        passed
    }
}

/// Tells the far side that there is no more; an end takes as long as a byte.
fn end(on_the_way: SyncSender<(Instant, Vec<u8>)>, way: Duration) {
    let _ = on_the_way.send((Instant::now() + way, Vec::new()));
}

/// Hands each piece over when it is due; an empty one is the end.
fn arrive(pieces: &Receiver<(Instant, Vec<u8>)>, mut to: TcpStream) {
    while let Ok((due, piece)) = pieces.recv() {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if piece.is_empty() || to.write_all(&piece).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Finds the ends of HTTP/1 heads in a stream.
#[derive(Default)]
struct Heads {
    /// How much of an end the stream has said last.
    matched: usize,
}

impl Heads {
    fn count(&mut self, bytes: &[u8]) -> u64 {
        const END: &[u8; 4] = b"\r\n\r\n";
        let mut count = 0;
        for byte in bytes {
            self.matched = match *byte {
                byte if byte == END[self.matched] => self.matched + 1,
                b'\r' => 1,
                _ => 0,
            };
            if self.matched == END.len() {
                self.matched = 0;
                count += 1;
            }
        }
        count
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers each line with as many bytes as it says.
    fn server() -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || {
                    while let Some(wanted) = read_line(&mut stream) {
                        if stream.write_all(&vec![7; wanted.parse().unwrap()]).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        addr
    }

    fn read_line(stream: &mut TcpStream) -> Option<String> {
        let mut line = String::new();
        let mut byte = [0];
        loop {
            stream.read_exact(&mut byte).ok()?;
            match byte[0] {
                b'\n' => return Some(line),
                byte => line.push(byte.into()),
            }
        }
    }

    fn ask(stream: &mut TcpStream, bytes: usize) -> Duration {
        let start = Instant::now();
        stream.write_all(format!("{bytes}\n").as_bytes()).unwrap();
        stream.read_exact(&mut vec![0; bytes]).unwrap();
        start.elapsed()
    }

    /// The shortest of some tries is at most 5 % and 5 ms longer than `expected`: on a busy machine being woken takes as long
    /// as that. None is shorter.
    fn assert_takes(expected: Duration, mut take: impl FnMut() -> Duration) {
        let mut times = Vec::new();
        for _ in 0..50 {
            times.push(take());
            assert!(times[times.len() - 1] > expected.mul_f64(0.99), "{times:?}, expected {expected:?}");
            if times[times.len() - 1] < expected.mul_f64(1.05) + Duration::from_millis(5) {
                return;
            }
        }
        panic!("{times:?}, expected {expected:?}");
    }

    #[test]
    fn a_request_takes_a_round_trip_and_a_connection_another() {
        let server = server();
        for rtt in [20, 100].map(Duration::from_millis) {
            let link = Link::new(Shape { rtt, bits_per_second: 0 }, server).unwrap();
            let mut stream = TcpStream::connect(link.addr()).unwrap();
            ask(&mut stream, 1);
            assert_takes(rtt, || ask(&mut stream, 1));
            assert_takes(rtt * 2, || {
                let start = Instant::now();
                ask(&mut TcpStream::connect(link.addr()).unwrap(), 1);
                start.elapsed()
            });
        }
    }

    #[test]
    fn connections_share_the_bandwidth() {
        let shape = Shape { rtt: Duration::from_millis(10), bits_per_second: 40_000_000 };
        let link = Link::new(shape, server()).unwrap();
        let mut streams: Vec<_> = (0..4).map(|_| TcpStream::connect(link.addr()).unwrap()).collect();
        streams.iter_mut().for_each(|stream| {
            let _ = ask(stream, 1);
        });
        let before = link.traffic();
        let mut total = 0;
        // 0.5 s.
        assert_takes(Duration::from_millis(510), || {
            total += 2_500_000;
            let start = Instant::now();
            let each: Vec<_> = thread::scope(|scope| {
                let asked: Vec<_> =
                    streams.iter_mut().map(|stream| scope.spawn(|| ask(stream, 625_000))).collect();
                asked.into_iter().map(|asked| asked.join().unwrap()).collect()
            });
            // Who begins late shares with fewer: such a try says nothing.
            let is_shared = each.iter().all(|time| *time > Duration::from_millis(350));
            if is_shared { start.elapsed() } else { Duration::MAX }
        });
        assert_eq!((link.traffic() - before).bytes, total);
        assert_eq!(link.traffic().connections, 4);
    }

    #[test]
    fn a_server_that_is_faster_than_the_link_is_held_back() {
        let shape = Shape { rtt: Duration::ZERO, bits_per_second: 8_000_000 };
        let link = Link::new(shape, server()).unwrap();
        let mut stream = TcpStream::connect(link.addr()).unwrap();
        let start = Instant::now();
        stream.write_all(b"100000000\n").unwrap();
        stream.read_exact(&mut [0; 100_000]).unwrap();
        let bytes = link.traffic().bytes;
        // 1 MB/s, and what lies in front of it.
        let most = start.elapsed().as_secs_f64() * 1e6 + 100_000.0;
        assert!((100_000..most as u64).contains(&bytes), "{bytes}, expected less than {most}");
        drop(link);
        let most = start.elapsed().as_secs_f64() * 1e6 + 500_000.0;
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut rest = Vec::new();
        let cut = stream.read_to_end(&mut rest);
        assert!(
            cut.is_ok() || cut.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
        );
        assert!(rest.len() < most as usize, "{}, expected less than {most}", rest.len());
    }

    #[test]
    fn heads_are_counted_however_they_are_cut() {
        let text = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\n\r\n\r\r\n\r\n";
        for size in 1..text.len() {
            let mut heads = Heads::default();
            assert_eq!(text.chunks(size).map(|piece| heads.count(piece)).sum::<u64>(), 3, "{size}");
        }
    }
}
