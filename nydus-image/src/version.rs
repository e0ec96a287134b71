//! Which build this is. The facts come from `build.rs`; what it could not learn says `unknown`.

/// What `--version` prints. The name of the program would stand before it; the space is what is left of that.
pub const TEXT: &str = concat!(
    "Version: \tv",
    env!("CARGO_PKG_VERSION"),
    "\nGit Commit: \t",
    env!("NYDUS_BUILD_GIT_COMMIT"),
    "\nBuild Time: \t",
    env!("NYDUS_BUILD_BUILD_TIME"),
    "\nProfile: \t",
    env!("NYDUS_BUILD_PROFILE"),
    "\nRustc: \t\t",
    env!("NYDUS_BUILD_RUSTC"),
);

/// What the manual pages call the version.
pub const PACKAGE: &str = env!("CARGO_PKG_VERSION");

/// What the JSON results call the version: `v`, the version of the package, and the commit.
pub const RESULT: &str = concat!("v", env!("CARGO_PKG_VERSION"), "-", env!("NYDUS_BUILD_GIT_COMMIT"));
