//! Where log lines go: a bounded queue, and one thread that writes.
//!
//! Whoever logs never waits for a disk or a terminal. What does not fit into the queue, or cannot be written,
//! is lost; how much was lost is the first thing written once writing is possible again.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;

use super::utc::Utc;

/// Lines that may wait to be written.
const QUEUE_LINES: usize = 4096;
/// Old files that are kept: `name.1`, the youngest, to `name.5`.
const OLD_FILES: usize = 5;
/// How often the file's name is looked up, to see whether it was moved away.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(1);

enum Message {
    Line(Vec<u8>),
    /// Answered when all lines before are written.
    Flush(SyncSender<()>),
}

/// The queue's entrance.
pub(super) struct Sink {
    queue: SyncSender<Message>,
    lost: Arc<AtomicU64>,
}

/// The place of the lines.
pub(super) enum Output {
    Stderr,
    File(RotatingFile),
}

impl Output {
    /// Whether somebody looks on: colours are for people.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Stderr) && io::stderr().is_terminal()
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::Stderr => io::stderr().lock().write_all(line),
            Self::File(file) => file.write(line),
        }
    }
}

impl Sink {
    /// Starts the thread that writes to `output`. It ends with the sink.
    pub fn start(output: Output) -> io::Result<Self> {
        let (queue, lines) = sync_channel(QUEUE_LINES);
        let lost = Arc::new(AtomicU64::new(0));
        let sink = Self { queue, lost: lost.clone() };
        thread::Builder::new()
            .name("nydusd-log".to_owned())
            .spawn(move || write_all(lines, output, &lost))?;
        Ok(sink)
    }

    /// Takes one line, its newline included. Never waits.
    pub fn push(&self, line: Vec<u8>) {
        if self.queue.try_send(Message::Line(line)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all lines pushed before are written, at most for `limit`.
    pub fn flush(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let (done, is_done) = sync_channel(1);
        let mut message = Message::Flush(done);
        while let Err(TrySendError::Full(back)) = self.queue.try_send(message) {
            if Instant::now() >= deadline {
                return;
            }
            message = back;
            thread::sleep(Duration::from_millis(1));
        }
        // Done, dead or too late: there is nothing else to wait for.
        let _: Result<(), RecvTimeoutError> =
            is_done.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

/// The thread.
fn write_all(lines: Receiver<Message>, mut output: Output, lost: &AtomicU64) {
    for message in lines {
        match message {
            Message::Line(line) => {
                let count = lost.load(Ordering::Relaxed);
                let mut is_written = true;
                if count > 0 {
                    is_written = output.write(loss_report(count).as_bytes()).is_ok();
                    if is_written {
                        lost.fetch_sub(count, Ordering::Relaxed);
                    }
                }
                if !is_written || output.write(&line).is_err() {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
            }
            Message::Flush(done) => {
                // Who asked may have given up.
                let _ = done.try_send(());
            }
        }
    }
}

fn loss_report(count: u64) -> String {
    format!("[{}] WARN {count} log lines were lost here\n", Utc::now())
}

/// A log file that is found by its name: one that was moved away is left alone and a new one begun.
pub(super) struct RotatingFile {
    path: PathBuf,
    file: File,
    /// Device and inode of `file`.
    identity: (u64, u64),
    is_regular: bool,
    size: u64,
    /// Size at which a new file is begun, in bytes; 0: never.
    limit: u64,
    /// Whether the last line was cut short, so that the next one has to begin on a line of its own.
    is_cut: bool,
    looked_up: Instant,
    lookup_interval: Duration,
}

impl RotatingFile {
    /// Opens the file at `path` to append, and creates it when missing. `limit`: bytes at which a new file is
    /// begun, 0 for never.
    pub fn open(path: &Path, limit: u64) -> io::Result<Self> {
        let file = open(path)?;
        let metadata = file.metadata()?;
        Ok(Self {
            path: path.to_owned(),
            file,
            identity: (metadata.dev(), metadata.ino()),
            is_regular: metadata.is_file(),
            size: metadata.len(),
            limit,
            is_cut: false,
            looked_up: Instant::now(),
            lookup_interval: LOOKUP_INTERVAL,
        })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        self.look_up();
        if self.limit > 0 && self.size > 0 && self.size.saturating_add(line.len() as u64) > self.limit {
            self.rotate();
        }
        if self.is_cut {
            self.append(b"\n")?;
            self.is_cut = false;
        }
        self.append(line)
    }

    fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let mut is_begun = false;
        while !bytes.is_empty() {
            match self.file.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    is_begun = true;
                    self.size = self.size.saturating_add(written as u64);
                    bytes = bytes.get(written..).unwrap_or_default();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => {
                    self.is_cut |= is_begun;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Begins the file anew if its name means another one by now. If that fails, the old one goes on.
    fn look_up(&mut self) {
        if self.looked_up.elapsed() < self.lookup_interval {
            return;
        }
        self.looked_up = Instant::now();
        let is_ours = std::fs::metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.identity);
        if !is_ours {
            self.reopen();
        }
    }

    fn reopen(&mut self) {
        if let Ok(fresh) = Self::open(&self.path, self.limit) {
            *self = Self { lookup_interval: self.lookup_interval, ..fresh };
        }
    }

    /// Moves the file and its elders one number up; the eldest goes.
    fn rotate(&mut self) {
        // A device would be taken away from everybody else.
        if !self.is_regular {
            return;
        }
        for number in (1..OLD_FILES).rev() {
            // Most of the time there is no such file yet.
            let _ = std::fs::rename(self.old_name(number), self.old_name(number + 1));
        }
        if std::fs::rename(&self.path, self.old_name(1)).is_ok() {
            self.reopen();
        } else {
            // Not again for each line.
            self.size = 0;
        }
    }

    fn old_name(&self, number: usize) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

/// `O_NONBLOCK`: a pipe without reader is an error, not a wait.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(10);

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn rotation_keeps_a_bounded_number_of_whole_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.log");
        let mut file = RotatingFile::open(&path, 30).unwrap();
        for number in 0..40 {
            // Three lines of ten bytes fill a file.
            file.write(format!("line {number:04}\n").as_bytes()).unwrap();
        }
        assert_eq!(names(dir.path()), ["d.log", "d.log.1", "d.log.2", "d.log.3", "d.log.4", "d.log.5"]);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "line 0039\n");
        assert_eq!(
            std::fs::read_to_string(dir.path().join("d.log.1")).unwrap(),
            "line 0036\nline 0037\nline 0038\n"
        );
        assert_eq!(
            std::fs::read_to_string(dir.path().join("d.log.5")).unwrap(),
            "line 0024\nline 0025\nline 0026\n"
        );
        // A line over the limit gets a file of its own, and is whole.
        file.write(&[b'x'; 100]).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 100);
        // Sizes go on where the last process stopped.
        drop(file);
        RotatingFile::open(&path, 30).unwrap().write(b"y\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "y\n");
    }

    #[test]
    fn without_a_limit_there_is_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = RotatingFile::open(&dir.path().join("d.log"), 0).unwrap();
        for _ in 0..1000 {
            file.write(b"line\n").unwrap();
        }
        assert_eq!(names(dir.path()), ["d.log"]);
    }

    #[test]
    fn a_file_moved_or_removed_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.log");
        let mut file =
            RotatingFile { lookup_interval: Duration::ZERO, ..RotatingFile::open(&path, 0).unwrap() };
        file.write(b"one\n").unwrap();
        std::fs::rename(&path, dir.path().join("moved")).unwrap();
        file.write(b"two\n").unwrap();
        std::fs::remove_file(&path).unwrap();
        file.write(b"three\n").unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("moved")).unwrap(), "one\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");
        // No new file can be made: the old one goes on, unseen.
        let gone = dir.path().join("gone");
        std::fs::create_dir(&gone).unwrap();
        let path = gone.join("d.log");
        let mut file =
            RotatingFile { lookup_interval: Duration::ZERO, ..RotatingFile::open(&path, 1).unwrap() };
        std::fs::remove_dir_all(&gone).unwrap();
        file.write(b"one\n").unwrap();
        file.write(b"two\n").unwrap();
    }

    #[test]
    fn a_full_disk_loses_lines_and_nothing_else() {
        let mut full = RotatingFile::open(Path::new("/dev/full"), 1).unwrap();
        let error = full.write(b"line\n").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        full.size = 100;
        assert!(full.write(b"line\n").is_err());
        assert!(Path::new("/dev/full").exists(), "devices are not rotated");

        let sink = Sink::start(Output::File(full)).unwrap();
        for _ in 0..10 {
            sink.push(b"line\n".to_vec());
        }
        sink.flush(SECOND);
        assert_eq!(sink.lost.load(Ordering::Relaxed), 10);
    }

    #[test]
    fn losses_are_told_when_writing_works_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.log");
        let mut file = RotatingFile::open(&path, 0).unwrap();
        file.is_cut = true;
        file.write(b"after a cut\n").unwrap();
        let sink = Sink::start(Output::File(file)).unwrap();
        sink.lost.store(7, Ordering::Relaxed);
        sink.push(b"again\n".to_vec());
        sink.push(b"and again\n".to_vec());
        sink.flush(SECOND);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["", "after a cut"]);
        assert!(lines[2].ends_with("WARN 7 log lines were lost here"), "{text}");
        assert_eq!(lines[3..], ["again", "and again"]);
    }

    #[test]
    fn a_stuck_reader_never_stops_those_who_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(RotatingFile::open(&path, 0).is_err(), "a pipe without reader is an error, not a wait");
        let reader =
            OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&path).unwrap();
        let sink = Sink::start(Output::File(RotatingFile::open(&path, 0).unwrap())).unwrap();
        for _ in 0..100 {
            sink.push(vec![b'x'; 8192]);
        }
        sink.flush(SECOND);
        assert!(sink.lost.load(Ordering::Relaxed) > 0, "the pipe is full and nobody waited");
        drop(reader);
    }

    #[test]
    fn a_full_queue_loses_lines_at_once() {
        // A sink whose thread never comes.
        let (queue, lines) = sync_channel(1);
        let sink = Sink { queue, lost: Arc::default() };
        sink.push(b"kept".to_vec());
        sink.push(b"lost".to_vec());
        assert_eq!(sink.lost.load(Ordering::Relaxed), 1);
        let start = Instant::now();
        sink.flush(Duration::from_millis(20));
        assert!(start.elapsed() < SECOND);
        drop(lines);
        sink.push(b"nobody".to_vec());
        sink.flush(SECOND);
    }
}
