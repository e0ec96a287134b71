//! Every image that the reference implementation wrote is mounted with every combination of settings that changes how
//! bytes travel, and must show exactly its manifest: when it is read for the first time, and after a restart, when
//! everything must come from the cache without one read of the backend.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use nydus_tests::config::{Caching, Form};
use nydus_tests::daemon::Scratch;
use nydus_tests::fixtures::{Image, Version};
use nydus_tests::{program, require_mounts};

/// All settings for one image.
fn check(name: &str) {
    let image = Image::named(name);
    for validate in [false, true] {
        // Both syntaxes of v2 come up for every image.
        let v2 = if validate { Form::V2Toml } else { Form::V2Json };
        for form in [Form::V1, v2] {
            for caching in [Caching::Plain, Caching::Compressed, Caching::Off] {
                check_settings(&image, form, caching, validate);
            }
        }
    }
    if image.version == Version::V6 {
        // Chunks of v5 are not aligned to pages, which cache encryption wants.
        check_settings(&image, Form::V2Json, Caching::Encrypted, false);
    }
}

fn check_settings(image: &Image, form: Form, caching: Caching, validate: bool) {
    if program::is_reference() && !reference_can(image, caching, validate) {
        return;
    }
    let context = format!("{}, {form:?}, {caching:?}, validate {validate}", image.name);
    let scratch = Scratch::new();
    let mut config = scratch.config(image);
    config.form = form;
    config.caching = caching;
    config.validate = validate;
    let launch = scratch.launch(&image.bootstrap(), &config);

    let daemon = launch.start();
    image.manifest().assert_tree(daemon.mountpoint(), &context);
    assert!(daemon.backend_reads().bytes > 0, "{context}: bytes came from nowhere");
    daemon.unmount();

    let daemon = launch.start();
    image.manifest().assert_tree(daemon.mountpoint(), &format!("{context}, second mount"));
    if caching != Caching::Off {
        let reads = daemon.backend_reads();
        assert_eq!(reads.count, 0, "{context}: a complete cache asks nothing of the backend: {reads:?}");
    }
    daemon.unmount();
}

/// Whether the reference implementation is known to mount this.
fn reference_can(image: &Image, caching: Caching, validate: bool) -> bool {
    let validates = image.version == Version::V5 || !validate;
    match caching {
        Caching::Plain => program::knows(image) && validates,
        Caching::Off => program::knows(image) && validates && image.version == Version::V5,
        Caching::Compressed => program::knows(image) && validates && image.name != "v6-zran",
        Caching::Encrypted => false,
    }
}

macro_rules! images {
    ($($test:ident: $name:literal),+ $(,)?) => {
        $(#[test]
        fn $test() {
            require_mounts!();
            check($name);
        })+

        #[test]
        fn no_image_is_forgotten() {
            let mut tested = [$($name),+];
            let mut all = nydus_tests::fixtures::IMAGES.map(|image| image.name);
            tested.sort_unstable();
            all.sort_unstable();
            assert_eq!(tested, all);
        }
    };
}

images! {
    v5_lz4_sha256: "v5-lz4-sha256",
    v5_zstd_blake3: "v5-zstd-blake3",
    v5_none_with_prefetch_table: "v5-none-prefetch",
    v5_built_on_parents: "v5-parent",
    v6_zstd: "v6-zstd",
    v6_none: "v6-none",
    v6_lz4_sha256_4k_chunks: "v6-lz4-4k-sha256",
    v6_batches_and_toc: "v6-batch-toc",
    v6_encrypted: "v6-encrypt",
    v6_prefetch_table: "v6-prefetch",
    v6_zran: "v6-zran",
    v6_bootstrap_inside_the_blob: "v6-inline",
    v6_merged: "v6-merge",
}
