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

    fn encode(&self, _: Digest, data: Vec<u8>, _: bool) -> Result<Vec<u8>> {
        let number = u32::from_le_bytes(data.as_slice().try_into().unwrap());
        (0..number.wrapping_mul(0x9e37_79b9) >> 22).for_each(|_| std::thread::yield_now());
        assert_ne!(Some(number), self.worse, "asked to panic");
        if Some(number) == self.bad { Err(Error::Usage(format!("bad {number}"))) } else { Ok(data) }
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

#[test]
#[should_panic(expected = "scoped thread panicked")]
fn a_worker_that_panics_ends_the_run() {
    let jobs = Numbers { numbers: (0..300).collect(), next: 0, fail_at: None };
    let _ = run(jobs, &Slow { bad: None, worse: Some(50) }, &mut Log::default(), limits(4, 8192));
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
