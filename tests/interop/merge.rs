//! The layers of a fixture are merged by us, and the mount of the result must show what the reference's merge shows.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod layers;

use std::fs;

use nydus_image::merge::{Merger, OwnBlob};
use nydus_image::prefetch::Patterns;
use nydus_tests::daemon::Scratch;
use nydus_tests::fixtures::Image;
use nydus_tests::require_mounts;
use rafs::{Bootstrap, OpenOptions};

#[test]
fn merged_layers_are_mounted() {
    require_mounts!();
    let image = Image::named("v6-merge");
    let directory = image.blobs().parent().expect("blobs are in the image").join("boots");
    // The order of the layers is that in which the fixture first uses their blobs.
    let fixture = Bootstrap::open(&image.bootstrap(), &OpenOptions::default()).unwrap();
    let mut merger = Merger::new(false);
    for blob in fixture.blobs() {
        merger.add_source(&directory.join(blob.id.as_str()), &OwnBlob::default()).unwrap();
    }
    let merged = merger.finish(&Patterns::default(), false).unwrap();
    assert_eq!(merged.blobs.len(), 3);

    let scratch = Scratch::new();
    let bootstrap = scratch.path("merged");
    fs::write(&bootstrap, merged.bootstrap).unwrap();
    let daemon = scratch.launch(&bootstrap, &scratch.config(&image)).start();
    image.manifest().assert_tree(daemon.mountpoint(), "merged by us");
    daemon.unmount();
}
