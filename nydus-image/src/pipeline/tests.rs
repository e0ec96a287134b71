//! The laws of the pipeline, with jobs made up here.

use super::*;

/// Chunks of four bytes from a list of numbers; `fail_at` is where the source breaks.
struct Numbers {
    numbers: Vec<u32>,
    next: usize,
    fail_at: Option<usize>,
}

impl Jobs for Numbers {
    fn next(&mut self) -> Result<Option<Job>> {
        if self.fail_at == Some(self.next) {
            return Err(Error::Usage(format!("broken at {}", self.next)));
        }
        let Some(number) = self.numbers.get(self.next) else { return Ok(None) };
        self.next += 1;
        Ok(Some(Job {
            file: self.next - 1,
            file_offset: 0,
            len: 4,
            is_whole_file: true,
            content: Content::Bytes(number.to_le_bytes().to_vec()),
        }))
    }
}

/// Takes a different time for each chunk; fails at `bad`, panics at `worse`.
struct Slow {
    bad: Option<u32>,
    worse: Option<u32>,
}

impl Encoder for Slow {
    type Encoded = Vec<u8>;

    fn digest(&self, data: &[u8]) -> Digest {
        storage::digest::Digester::Blake3.digest(data)
    }

    fn encode(&self, _: Digest, data: &[u8], _: bool) -> Result<Vec<u8>> {
        let number = u32::from_le_bytes(data.try_into().unwrap());
        (0..number.wrapping_mul(0x9e37_79b9) >> 22).for_each(|_| std::thread::yield_now());
        assert_ne!(Some(number), self.worse, "asked to panic");
        if Some(number) == self.bad { Err(Error::Usage(format!("bad {number}"))) } else { Ok(data.to_vec()) }
    }

    fn is_known(&self, _: &Digest, _: u32) -> bool {
        false
    }
}

#[derive(Default)]
struct Log {
    stored: Vec<(usize, bool)>,
    seen: std::collections::HashSet<Digest>,
}

impl Sink<Vec<u8>> for Log {
    fn store(&mut self, chunk: Chunk, encoded: Option<Vec<u8>>) -> Result<()> {
        let is_new = self.seen.insert(chunk.digest);
        assert!(encoded.is_some() || !is_new, "the first of its kind is encoded");
        self.stored.push((chunk.file, is_new));
        Ok(())
    }
}

fn numbers(count: u32) -> Vec<u32> {
    // Every third chunk is one of ten.
    (0..count).map(|number| if number % 3 == 0 { number % 10 } else { number }).collect()
}

fn limits(threads: usize, bytes: u64) -> Limits {
    Limits { threads, bytes, chunk_size: 4 }
}

const WELL: Slow = Slow { bad: None, worse: None };

#[test]
fn chunks_are_stored_in_order_whatever_the_threads_and_the_room() {
    let jobs = || Numbers { numbers: numbers(300), next: 0, fail_at: None };
    let mut expected = Log::default();
    run(jobs(), &WELL, &mut expected, limits(1, 1 << 20)).unwrap();
    assert_eq!(expected.stored.len(), 300);
    for (threads, bytes) in [(1, 0), (2, 4096), (4, 8192), (8, 1 << 20)] {
        let mut log = Log::default();
        run(jobs(), &WELL, &mut log, limits(threads, bytes)).unwrap();
        assert_eq!(log.stored, expected.stored, "{threads} threads, {bytes} bytes");
    }
}

#[test]
fn the_first_error_in_order_is_told_and_what_came_before_is_stored() {
    for threads in [1, 2, 8] {
        let jobs = Numbers { numbers: (0..300).collect(), next: 0, fail_at: Some(200) };
        let mut log = Log::default();
        let error = run(jobs, &Slow { bad: Some(100), worse: None }, &mut log, limits(threads, 1 << 20));
        assert_eq!(error.unwrap_err().to_string(), "bad 100");
        assert_eq!(log.stored.len(), 100);

        let jobs = Numbers { numbers: (0..300).collect(), next: 0, fail_at: Some(200) };
        let mut log = Log::default();
        let error = run(jobs, &WELL, &mut log, limits(threads, 1 << 20));
        assert_eq!(error.unwrap_err().to_string(), "broken at 200");
        assert_eq!(log.stored.len(), 200);
    }
}

/// Whichever thread it is.
#[test]
fn a_thread_that_panics_ends_the_run() {
    for threads in [1, 4] {
        let jobs = Numbers { numbers: (0..300).collect(), next: 0, fail_at: None };
        let encoder = Slow { bad: None, worse: Some(50) };
        let run = || run(jobs, &encoder, &mut Log::default(), limits(threads, 8192));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err(), "{threads} threads");
    }
}

#[test]
fn a_writer_that_fails_ends_the_workers() {
    struct Full;
    impl Sink<Vec<u8>> for Full {
        fn store(&mut self, _: Chunk, _: Option<Vec<u8>>) -> Result<()> {
            Err(Error::Usage("disk full".into()))
        }
    }
    let jobs = Numbers { numbers: (0..300).collect(), next: 0, fail_at: None };
    let error = run(jobs, &WELL, &mut Full, limits(4, 4096)).unwrap_err();
    assert_eq!(error.to_string(), "disk full");
}

/// Doubles numbers in tasks, and puts them down in order.
#[derive(Default)]
struct Doubled {
    tasks: Vec<Task>,
    waiting: std::collections::VecDeque<std::sync::mpsc::Receiver<usize>>,
    most: usize,
    doubled: Vec<usize>,
}

impl Sink<Vec<u8>> for Doubled {
    fn store(&mut self, chunk: Chunk, _: Option<Vec<u8>>) -> Result<()> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        self.tasks.push(Box::new(move || {
            (0..chunk.file.wrapping_mul(0x9e37_79b9) >> 8 & 0xff).for_each(|_| std::thread::yield_now());
            sender.send(2 * chunk.file).unwrap();
        }));
        self.waiting.push_back(receiver);
        self.most = self.most.max(self.waiting.len());
        Ok(())
    }

    fn task(&mut self) -> Option<Task> {
        self.tasks.pop()
    }

    fn settle(&mut self) -> Result<()> {
        while let Some(receiver) = self.waiting.pop_front() {
            match receiver.try_recv() {
                Ok(number) => self.doubled.push(number),
                Err(_) => {
                    self.waiting.push_front(receiver);
                    break;
                }
            }
        }
        Ok(())
    }

    fn backlog(&self) -> u64 {
        4096 * self.waiting.len() as u64
    }
}

#[test]
fn tasks_are_run_and_what_waits_for_them_is_bounded() {
    for threads in [1, 2, 8] {
        let jobs = Numbers { numbers: (0..3000).collect(), next: 0, fail_at: None };
        let mut sink = Doubled::default();
        run(jobs, &WELL, &mut sink, limits(threads, 80 << 10)).unwrap();
        assert_eq!(sink.doubled, (0..3000).map(|number| 2 * number).collect::<Vec<_>>());
        // The limit, and the chunks of a lot.
        assert!(sink.most <= 20 + 64 + 1, "{} waited", sink.most);
    }
}
