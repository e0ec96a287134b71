//! The programs that are measured.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cli::Args;

/// A daemon and a builder.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `nydusd`.
    pub nydusd: PathBuf,
    /// `nydus-image`.
    pub nydus_image: PathBuf,
}

impl Programs {
    /// Those that were named, else the workspace's, built now in the profile of this program.
    pub fn ours(args: &Args) -> Result<Self> {
        if let (Some(nydusd), Some(nydus_image)) = (&args.nydusd, &args.nydus_image) {
            return Ok(Self { nydusd: nydusd.clone(), nydus_image: nydus_image.clone() });
        }
        // target/<profile>/nydus-bench
        let program = std::env::current_exe().context("this program does not know where it is")?;
        let profile_dir = program.parent().context("this program is nowhere")?;
        let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
            Some("debug") => "dev",
            Some(name) => name,
            None => bail!("{}: no profile in this path", profile_dir.display()),
        };
        let target_dir = profile_dir.parent().context("this program is not in a target directory")?;
        let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
            .args(["build", "--quiet", "--bin", "nydusd", "--bin", "nydus-image", "--profile", profile])
            .arg("--target-dir")
            .arg(target_dir)
            .status()
            .context("cannot run cargo (or name programs by --nydusd and --nydus-image)")?;
        if !status.success() {
            bail!("building nydusd and nydus-image: {status}");
        }
        Ok(Self { nydusd: profile_dir.join("nydusd"), nydus_image: profile_dir.join("nydus-image") })
    }
}
