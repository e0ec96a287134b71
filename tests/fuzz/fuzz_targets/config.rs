//! Configurations in all forms.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nydusd::config::fuzzing(bytes));
