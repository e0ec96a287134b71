//! The command line of `nydusd`: what it may say, and what it means.
//!
//! `nydusd OPTIONS` (the old form) and `nydusd fuse OPTIONS` both end in one [`FuseArgs`]. Usage errors are
//! clap's, exit status 2; an option whose function does not exist yet is refused by its name, exit status 1,
//! before anything has happened.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use storage::digest::Digest;

use crate::limits;
use crate::telemetry::logs::{self, Level};
use crate::version;

/// The longest list of files to prefetch, in bytes.
const MAX_PREFETCH_LIST: u64 = 16 << 20;

/// What the command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// Mount through FUSE and serve.
    Fuse(Box<FuseArgs>),
    /// Show on a small image that all works.
    Demo(DemoArgs),
    /// Write shell completions to standard output.
    Completions(clap_complete::Shell),
    /// Write the manual page to standard output.
    Man,
}

/// Why there is nothing to do.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// A usage error, or a wish for help or version.
    #[error(transparent)]
    Clap(#[from] clap::Error),
    /// A command line that is right and cannot be served.
    #[error("{option}: not supported yet{hint}")]
    Unsupported {
        /// The option or command, as it is written.
        option: &'static str,
        /// What can be done instead; begins with a comma or is empty.
        hint: &'static str,
    },
    /// Options that do not make sense together.
    #[error("{0}")]
    Invalid(&'static str),
}

impl Refusal {
    /// Prints the reason where it belongs. The status is 0 for help and version, 2 for usage errors, else 1.
    pub fn report(&self) -> ExitCode {
        match self {
            Self::Clap(error) => {
                // Nothing is left to do if even this cannot be written.
                let _ = error.print();
                u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
            }
            other => {
                eprintln!("Error: {other}");
                ExitCode::FAILURE
            }
        }
    }
}

/// What both forms of the command line and every command share.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Daemon")]
pub struct GlobalArgs {
    /// Listen here for administration requests (HTTP over a unix socket)
    ///
    /// The socket is created with mode 0600 and removed at a graceful exit. A socket that nobody answers on
    /// is replaced.
    #[arg(short = 'A', long, value_name = "PATH")]
    pub apisock: Option<PathBuf>,
    /// Name of this instance; goes with --supervisor
    #[arg(long, value_name = "NAME", requires = "supervisor")]
    pub id: Option<String>,
    /// Socket of the supervisor that keeps our state over a restart; goes with --id (not supported yet)
    #[arg(long, value_name = "PATH", requires = "id")]
    pub supervisor: Option<PathBuf>,
    /// Least important log lines to write
    #[arg(short = 'l', long, value_name = "LEVEL", value_enum, default_value_t = Level::Info, ignore_case = true)]
    log_level: Level,
    /// Write log lines to this file instead of standard error
    ///
    /// A name without extension gets `.log`; directories that are missing are made. The file is opened anew when
    /// somebody moves it away.
    #[arg(short = 'L', long, value_name = "FILE", value_parser = parse_log_file)]
    log_file: Option<PathBuf>,
    /// Begin a new log file at this many megabytes and keep a few old ones; 0 never does
    #[arg(long, value_name = "MB", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=1 << 20))]
    log_rotation_size: u64,
    /// Open files to allow for; 0 leaves the limit as it is
    ///
    /// What the system does not allow is a warning, and the daemon goes on with what it gets.
    #[arg(long, value_name = "N", default_value_t = limits::DEFAULT_NOFILE)]
    pub rlimit_nofile: u64,
    /// Wait for an older daemon's state instead of mounting (not supported yet)
    #[arg(long)]
    upgrade: bool,
}

impl GlobalArgs {
    /// Where and how much to log.
    pub fn log_options(&self) -> logs::Options {
        logs::Options {
            level: self.log_level,
            file: self.log_file.clone(),
            // At most 2^20 MB, by the range of the option.
            rotation_size: self.log_rotation_size << 20,
        }
    }
}

/// How to mount an image through FUSE.
#[derive(Args, Clone, Debug)]
pub struct FuseArgs {
    /// What every command shares.
    #[command(flatten)]
    pub global: GlobalArgs,
    #[command(flatten)]
    mount: MountArgs,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Mount")]
struct MountArgs {
    /// Directory to mount on; must exist
    // Asked for by `required`, but an `Option`: with a command, clap fills this struct from nothing.
    #[arg(short = 'M', long, value_name = "DIR", required = true)]
    mountpoint: Option<PathBuf>,
    /// The image's bootstrap, or a blob that has one inside; without it an empty tree is served
    #[arg(short = 'B', long, value_name = "FILE", conflicts_with = "shared_dir")]
    bootstrap: Option<PathBuf>,
    /// Refuse any other bootstrap than the one with this digest, as the image's manifest has it
    #[arg(long, value_name = "sha256:HEX", requires = "bootstrap", value_parser = parse_digest)]
    bootstrap_digest: Option<Digest>,
    /// Where blobs come from and where they are cached (docs/configuration.md)
    #[arg(short = 'C', long, value_name = "FILE", conflicts_with = "localfs_dir")]
    config: Option<PathBuf>,
    /// Instead of --config: blobs and cache both lie in this directory
    #[arg(short = 'D', long, value_name = "DIR")]
    localfs_dir: Option<PathBuf>,
    /// Threads that serve the kernel, at most; they are started as they are needed
    #[arg(long, alias = "thread-num", value_name = "N", default_value_t = 4,
        value_parser = clap::value_parser!(u32).range(1..=1024))]
    fuse_threads: u32,
    /// File with absolute paths inside the image to prefetch, one a line
    #[arg(long, value_name = "FILE", requires = "bootstrap")]
    prefetch_files: Option<PathBuf>,
    /// Let other users than the mounting one see the files; the default for root
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    allow_other: Option<bool>,
    /// What to do with requests under way after taking over from a daemon that died
    #[arg(long, value_name = "POLICY", value_enum, default_value_t = FailoverPolicy::Resend)]
    failover_policy: FailoverPolicy,
    /// Place of the image inside the mounted tree
    #[arg(short = 'm', long, value_name = "PATH", default_value = "/")]
    virtual_mountpoint: PathBuf,
    /// Show this directory instead of an image (not supported yet)
    #[arg(short = 's', long, value_name = "DIR")]
    shared_dir: Option<PathBuf>,
    /// Mount for writing, as an overlay needs it (not supported yet)
    #[arg(long)]
    writable: bool,
}

/// What to do with requests under way after a takeover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FailoverPolicy {
    /// Nothing.
    None,
    /// Have the kernel send them again.
    Resend,
    /// Have the kernel fail them.
    Flush,
}

impl FuseArgs {
    /// The directory to mount on.
    pub fn mountpoint(&self) -> &Path {
        // `required` has seen to it that there is one.
        self.mount.mountpoint.as_deref().unwrap_or(Path::new("."))
    }

    /// The image to mount at once.
    pub fn bootstrap(&self) -> Option<&Path> {
        self.mount.bootstrap.as_deref()
    }

    /// The SHA-256 that the bootstrap file must have.
    pub fn bootstrap_digest(&self) -> Option<Digest> {
        self.mount.bootstrap_digest
    }

    /// Where the configuration comes from; there is one whenever there is a bootstrap.
    pub fn config(&self) -> Option<ConfigSource<'_>> {
        let file = self.mount.config.as_deref().map(ConfigSource::File);
        file.or(self.mount.localfs_dir.as_deref().map(ConfigSource::LocalfsDir))
    }

    /// Threads that serve the kernel, 1 to 1024.
    pub fn fuse_threads(&self) -> usize {
        self.mount.fuse_threads as usize
    }

    /// The file with paths to prefetch; see [`prefetch_list`].
    pub fn prefetch_files(&self) -> Option<&Path> {
        self.mount.prefetch_files.as_deref()
    }

    /// Whether other users may see the mount; `None`: root's mounts yes, others' no.
    pub fn allow_other(&self) -> Option<bool> {
        self.mount.allow_other
    }

    /// What to do with requests under way after a takeover.
    pub fn failover_policy(&self) -> FailoverPolicy {
        self.mount.failover_policy
    }

    /// Refuses what is not built yet.
    fn check(&self, dedup_db: Option<&Path>) -> Result<(), Refusal> {
        let global = &self.global;
        let mount = &self.mount;
        for (is_asked_for, option, hint) in [
            (global.supervisor.is_some(), "--supervisor", ""),
            (global.upgrade, "--upgrade", ""),
            (mount.shared_dir.is_some(), "--shared-dir", ""),
            (mount.writable, "--writable", ", images are mounted read-only"),
            (dedup_db.is_some(), "--dedup-db", ""),
            (mount.virtual_mountpoint != Path::new("/"), "--virtual-mountpoint", ", but for \"/\""),
        ] {
            if is_asked_for {
                return Err(Refusal::Unsupported { option, hint });
            }
        }
        if self.bootstrap().is_some() && self.config().is_none() {
            return Err(Refusal::Invalid(
                "--bootstrap needs --config FILE or --localfs-dir DIR, which say where the blobs are",
            ));
        }
        Ok(())
    }
}

/// Where the configuration of the first image comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigSource<'a> {
    /// `--config`.
    File(&'a Path),
    /// `--localfs-dir`.
    LocalfsDir(&'a Path),
}

/// How to show that all works.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// Keep the working directory and print its name
    #[arg(long)]
    pub keep: bool,
}

/// Mount container images lazily: files are there at once, their data comes when it is read.
///
/// `nydusd OPTIONS` is the old form of `nydusd fuse OPTIONS`. Options go behind the command.
#[derive(Parser, Debug)]
#[command(
    name = "nydusd",
    display_name = "",
    version = version::TEXT,
    propagate_version = true,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Example:\n  nydusd fuse --config configs/localfs-v2.toml --bootstrap image.boot --mountpoint /mnt/image"
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    fuse: FuseArgs,
    /// Database of chunks that other images have (not supported yet)
    #[arg(long, value_name = "FILE")]
    dedup_db: Option<PathBuf>,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Mount an image through FUSE
    #[command(display_name = "")]
    Fuse(Box<FuseArgs>),
    /// Show that all works: mount a small built-in image, read it, print what happened
    #[command(display_name = "")]
    Demo(DemoArgs),
    /// Print the completions of a shell
    #[command(display_name = "")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    #[command(display_name = "")]
    Man,
    /// Serve a virtual machine over vhost-user
    #[command(hide = true)]
    Virtiofs(Anything),
    /// Serve the kernel's EROFS over fscache
    #[command(hide = true)]
    Singleton(Anything),
    /// Serve an image as a block device
    #[command(hide = true)]
    Nbd(Anything),
    /// Serve page faults of a virtual machine
    #[command(hide = true)]
    Uffd(Anything),
}

/// The options of a command that does not exist yet.
#[derive(Args, Debug)]
#[command(disable_help_flag = true, disable_version_flag = true)]
struct Anything {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    // Read over, so that the error is about the name of the command.
    rest: Vec<OsString>,
}

/// The command line of this process.
pub fn parse() -> Result<Invocation, Refusal> {
    parse_from(std::env::args_os())
}

/// A command line, beginning with the program's name.
pub fn parse_from<T: Into<OsString> + Clone>(
    args: impl IntoIterator<Item = T>,
) -> Result<Invocation, Refusal> {
    let unsupported = |option| Err(Refusal::Unsupported { option, hint: "" });
    let cli = Cli::try_parse_from(args)?;
    let (fuse, dedup_db) = match cli.command {
        None => (cli.fuse, cli.dedup_db),
        Some(Command::Fuse(fuse)) => (*fuse, None),
        Some(Command::Demo(demo)) => return Ok(Invocation::Demo(demo)),
        Some(Command::Completions { shell }) => return Ok(Invocation::Completions(shell)),
        Some(Command::Man) => return Ok(Invocation::Man),
        Some(Command::Virtiofs(_)) => return unsupported("virtiofs"),
        Some(Command::Singleton(_)) => return unsupported("singleton"),
        Some(Command::Nbd(_)) => return unsupported("nbd"),
        Some(Command::Uffd(_)) => return unsupported("uffd"),
    };
    fuse.check(dedup_db.as_deref())?;
    Ok(Invocation::Fuse(Box::new(fuse)))
}

/// The completions of `shell`.
pub fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "nydusd", &mut text);
    text
}

/// The manual page, in troff.
pub fn man() -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    let command = Cli::command().display_name("nydusd").version(version::PACKAGE);
    clap_mangen::Man::new(command).render(&mut page)?;
    Ok(page)
}

/// Reads a list of absolute paths, one a line; empty lines are skipped. Errors name the file and the line.
pub fn prefetch_list(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut text = String::new();
    let read = File::open(path)
        .and_then(|file| file.take(MAX_PREFETCH_LIST + 1).read_to_string(&mut text))
        .with_context(|| format!("{}: cannot read the list of files to prefetch", path.display()))?;
    anyhow::ensure!(
        read as u64 <= MAX_PREFETCH_LIST,
        "{}: the list of files to prefetch is longer than {MAX_PREFETCH_LIST} bytes",
        path.display()
    );
    let mut files = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_end_matches('\r');
        if line.is_empty() {
            continue;
        }
        anyhow::ensure!(
            line.starts_with('/') && !line.contains('\0'),
            "{}:{}: expected an absolute path inside the image, found {line:?}",
            path.display(),
            index + 1
        );
        files.push(PathBuf::from(line));
    }
    Ok(files)
}

fn parse_log_file(text: &str) -> Result<PathBuf, &'static str> {
    let path = PathBuf::from(text);
    if path.file_name().is_none() {
        return Err("expected the name of a file");
    }
    Ok(if path.extension().is_none() { path.with_extension("log") } else { path })
}

fn parse_digest(text: &str) -> Result<Digest, &'static str> {
    const EXPECTED: &str = "expected sha256: and 64 hexadecimal digits";
    let digits = text.strip_prefix("sha256:").ok_or(EXPECTED)?.as_bytes();
    if digits.len() != 64 {
        return Err(EXPECTED);
    }
    let mut digest = Digest([0; 32]);
    for (byte, pair) in digest.0.iter_mut().zip(digits.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| EXPECTED)?;
        if !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(EXPECTED);
        }
        *byte = u8::from_str_radix(pair, 16).map_err(|_| EXPECTED)?;
    }
    Ok(digest)
}

#[cfg(test)]
mod tests;
