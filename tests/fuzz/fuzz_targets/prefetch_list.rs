//! Lists of what is to be fetched first.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nydus_image::fuzzing::prefetch_list(bytes));
