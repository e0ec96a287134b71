//! Bootstraps of RAFS v5; the corpus makes the version.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rafs::fuzzing::bootstrap(bytes));
