//! Chunk tables of v6 blobs, and the units they describe.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| storage::fuzzing::chunk_table(bytes));
