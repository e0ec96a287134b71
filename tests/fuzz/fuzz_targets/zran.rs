//! Gzip files that are read as layers.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| storage::fuzzing::zran(bytes));
