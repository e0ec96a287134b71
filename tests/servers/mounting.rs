//! One image, mounted from a backend and read whole.

use nydus_tests::config::{Caching, Form};
use nydus_tests::daemon::{Daemon, Launch, Scratch, complaints};
use nydus_tests::fixtures::Image;
use serde_json::Value;

/// Where the blobs are: the type of a backend and its keys.
pub type Backend = (&'static str, Value);

/// The start of a daemon that reads `image` from `backend`.
pub fn launch(scratch: &Scratch, image: &Image, form: Form, backend: Backend) -> Launch {
    launch_caching(scratch, image, form, Caching::Plain, backend)
}

fn launch_caching(
    scratch: &Scratch,
    image: &Image,
    form: Form,
    caching: Caching,
    backend: Backend,
) -> Launch {
    let mut config = scratch.config(image);
    (config.form, config.caching) = (form, caching);
    config.backend = Some(backend);
    scratch.launch(&image.bootstrap(), &config).option("--rlimit-nofile", "0")
}

/// A daemon that reads `image` from a registry, and widens no read: each small file is a request of its own.
pub fn launch_file_by_file(scratch: &Scratch, image: &Image, registry: Value) -> Daemon {
    let mut config = scratch.config(image);
    config.backend = Some(("registry", registry));
    config.amplify_io = Some(0);
    scratch.launch(&image.bootstrap(), &config).option("--rlimit-nofile", "0").start()
}

/// Mounts `image` and compares it with its manifest. The daemon must have nothing to complain of.
pub fn check(image: &Image, form: Form, backend: Backend, context: &str) {
    check_caching(image, form, Caching::Plain, backend, context);
}

/// The same, with the cache of `caching`.
pub fn check_caching(image: &Image, form: Form, caching: Caching, backend: Backend, context: &str) {
    let context = format!("{} from {context}, {form:?}, {caching:?}", image.name);
    let scratch = Scratch::new();
    let daemon = launch_caching(&scratch, image, form, caching, backend).start();
    image.manifest().assert_tree(daemon.mountpoint(), &context);
    let complaints = complaints(&daemon.unmount());
    assert!(complaints.is_empty(), "{context}:\n{complaints:#?}");
}
