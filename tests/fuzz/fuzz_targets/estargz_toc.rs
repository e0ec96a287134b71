//! Tables of contents of eStargz layers.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nydus_image::fuzzing::estargz_toc(bytes));
