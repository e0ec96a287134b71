//! Tables of contents, and the sections they name.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| storage::fuzzing::toc(bytes));
