//! Configurations in all forms.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nydus_config::fuzzing(bytes));
