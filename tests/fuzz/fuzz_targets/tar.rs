//! Tar archives, plain and compressed, and the trees they make.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nydus_image::fuzzing::tar(bytes));
