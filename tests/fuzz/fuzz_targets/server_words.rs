//! What servers say in headers and bodies that are not data.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| storage::fuzzing::server_words(bytes));
