//! Which build this is. The facts come from `build.rs`; what it could not learn says `unknown`.

/// `v` and the version of the package.
pub const PACKAGE: &str = concat!("v", env!("CARGO_PKG_VERSION"));
/// The commit the sources were at.
pub const GIT_COMMIT: &str = env!("NYDUS_BUILD_GIT_COMMIT");
/// The time of `SOURCE_DATE_EPOCH`, if the build was given one: the same sources build the same bytes.
pub const BUILD_TIME: &str = env!("NYDUS_BUILD_BUILD_TIME");
/// `debug` or `release`.
pub const PROFILE: &str = env!("NYDUS_BUILD_PROFILE");
/// The compiler.
pub const RUSTC: &str = env!("NYDUS_BUILD_RUSTC");

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
