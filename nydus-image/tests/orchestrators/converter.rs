//! What an image converter does around the program: it packs through FIFOs, takes a layer's blob apart from its end, and
//! serves the data of one on a socket.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::layer::text;

fn fifo(path: &Path) {
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
}

/// Runs the program with `stdin`.
pub fn run(args: &[&str], stdin: &str) -> Output {
    read_while_it_runs(args, stdin, None).0
}

/// Runs the program, whose source is a FIFO.
pub fn run_fed(args: &[&str], source: &Path, bytes: Vec<u8>) -> Output {
    feed(source, bytes);
    run(args, "")
}

/// Writes to a FIFO when somebody opens it.
fn feed(fifo: &Path, bytes: Vec<u8>) {
    let path = fifo.to_owned();
    // Its reader may leave before the end.
    std::thread::spawn(move || File::create(path).and_then(|mut file| file.write_all(&bytes)));
}

/// Runs the program, and reads what it writes to the FIFO `output`, whose reading end is open before it starts.
fn read_while_it_runs(args: &[&str], stdin: &str, output: Option<&Path>) -> (Output, Vec<u8>) {
    let open = |path| OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path).unwrap();
    let mut reader = output.map(open);
    let mut child = Command::new(env!("CARGO_BIN_EXE_nydus-image"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let mut bytes = Vec::new();
    if let Some(reader) = &mut reader {
        loop {
            // Asked first: what was written before it ended is read below.
            let has_ended = child.try_wait().unwrap().is_some();
            match reader.read_to_end(&mut bytes) {
                Ok(_) if has_ended => break,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    (child.wait_with_output().unwrap(), bytes)
}

/// Packs a layer: what is in the FIFO of its blob. `dir` is the converter's, and empty.
pub fn pack(dir: &Path, tar: &Path, flags: &[&str]) -> Vec<u8> {
    let (source, blob) = (dir.join("source"), dir.join("blob"));
    fifo(&source);
    fifo(&blob);
    let mut args = vec!["create", "--log-level", "warn", "--prefetch-policy", "fs", "--blob", text(&blob)];
    args.extend(["--whiteout-spec", "none", "--type", "tar-rafs", "--blob-inline-meta"]);
    args.extend(flags);
    args.push(text(&source));
    feed(&source, fs::read(tar).unwrap());
    let (done, packed) = read_while_it_runs(&args, "/\n", Some(&blob));
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    packed
}

/// The parts of a layer's blob by their names, found from its end: each is followed by a tar header that names it.
pub fn part(blob: &[u8], wanted: &str) -> Option<Vec<u8>> {
    let mut end = blob.len();
    while end >= 512 {
        let header = tar::Header::from_byte_slice(&blob[end - 512..end]);
        let size = header.entry_size().ok()? as usize;
        let begin = (end - 512).checked_sub(size)?;
        if header.path().ok()?.to_str() == Some(wanted) {
            return Some(blob[begin..end - 512].to_vec());
        }
        end = begin;
    }
    None
}

/// The bootstrap in a layer's blob.
pub fn bootstrap(blob: &[u8]) -> Vec<u8> {
    let stored = part(blob, "image.boot").unwrap();
    match stored.starts_with(&0xfd2f_b528_u32.to_le_bytes()) {
        true => zstd::decode_all(&stored[..]).unwrap(),
        false => stored,
    }
}

/// Unpacks through a FIFO. `place` says where the data is.
pub fn unpack(dir: &Path, bootstrap: &Path, place: &[&str]) -> (Output, Vec<u8>) {
    let output = dir.join("output");
    fifo(&output);
    let mut args =
        vec!["unpack", "--log-level", "warn", "--bootstrap", text(bootstrap), "--output", text(&output)];
    args.extend(place);
    let result = read_while_it_runs(&args, "", Some(&output));
    fs::remove_file(&output).unwrap();
    result
}

/// The server of a layer's data for one unpacking: whatever the path, it answers ranges with 200 and their bytes,
/// chunked where they are many, and has one position for all who ask.
pub struct DataServer {
    /// The most requests at once.
    pub most_at_once: Arc<AtomicUsize>,
    /// All requests.
    pub requests: Arc<AtomicUsize>,
}

impl DataServer {
    /// Serves `data` on a socket at `path` until the process ends.
    pub fn start(path: &Path, data: Vec<u8>) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let server = Self { most_at_once: Arc::default(), requests: Arc::default() };
        let (most, requests) = (server.most_at_once.clone(), server.requests.clone());
        let (data, now) = (Arc::new(data), Arc::new(AtomicUsize::new(0)));
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let (data, now) = (data.clone(), now.clone());
                let (most, requests) = (most.clone(), requests.clone());
                std::thread::spawn(move || serve(stream, &data, &now, &most, &requests));
            }
        });
        server
    }
}

fn serve(
    mut stream: UnixStream,
    data: &[u8],
    now: &AtomicUsize,
    most: &AtomicUsize,
    requests: &AtomicUsize,
) -> Option<()> {
    let mut head = Vec::new();
    loop {
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).ok()?;
            head.push(byte[0]);
        }
        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        requests.fetch_add(1, Ordering::SeqCst);
        let text = String::from_utf8(std::mem::take(&mut head)).ok()?.to_lowercase();
        let range = text.lines().find_map(|line| line.strip_prefix("range: bytes="))?;
        let (first, last) = range.split_once('-')?;
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        // Who asks at the same time is seen.
        std::thread::sleep(Duration::from_millis(2));
        let answer = match data.get(first..data.len().min(last + 1)) {
            None | Some([]) => b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_vec(),
            Some(part) if part.len() < 2048 => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", part.len());
                [head.as_bytes(), part].concat()
            }
            Some(part) => {
                let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
                for some in part.chunks(32 << 10) {
                    answer.extend_from_slice(format!("{:x}\r\n", some.len()).as_bytes());
                    answer.extend_from_slice(some);
                    answer.extend_from_slice(b"\r\n");
                }
                answer.extend_from_slice(b"0\r\n\r\n");
                answer
            }
        };
        // Before the last byte: who has it may ask again.
        let (start, end) = answer.split_at(answer.len() - 1);
        stream.write_all(start).ok()?;
        now.fetch_sub(1, Ordering::SeqCst);
        stream.write_all(end).ok()?;
    }
}
