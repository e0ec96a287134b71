//! The command line of `nydus-image`: what it may say.
//!
//! Usage errors are clap's, exit status 2. What is well said and cannot be done, unsupported functions included,
//! is refused by name when the command begins, exit status 1, before anything is written.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use storage::blob::Compressor;
use storage::digest::Digester;

use crate::version;

/// Builds and inspects RAFS images
#[derive(Debug, Parser)]
#[command(name = "", bin_name = "nydus-image", version = version::TEXT, arg_required_else_help = false)]
pub struct Cli {
    /// What every command shares.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do; without it a line of help.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What every command shares.
#[derive(Args, Clone, Debug)]
pub struct GlobalArgs {
    /// Write log lines to this file instead of standard error
    #[arg(short = 'L', long, value_name = "FILE", global = true)]
    pub log_file: Option<PathBuf>,
    /// Least important log lines to write
    #[arg(
        short = 'l',
        long,
        value_name = "LEVEL",
        value_enum,
        default_value_t = Level::Info,
        ignore_case = true,
        global = true
    )]
    pub log_level: Level,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// Everything.
    Trace,
    /// And what was decided.
    Debug,
    /// And what was done.
    Info,
    /// And what may be wrong.
    Warn,
    /// What failed.
    Error,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build an image from a directory
    Create(Box<CreateArgs>),
    /// Put the layers of an image on top of each other (not supported yet)
    Merge(Box<MergeArgs>),
    /// Check the bootstrap of an image
    Check(CheckArgs),
    /// Look into the bootstrap of an image
    Inspect(InspectArgs),
    /// Count what images hold and share (not supported yet)
    #[command(disable_help_flag = true)]
    Stat(OtherArgs),
    /// Make a tar of an image (not supported yet)
    #[command(disable_help_flag = true)]
    Unpack(OtherArgs),
    /// Make a disk image of an image (not supported yet)
    #[command(disable_help_flag = true)]
    Export(OtherArgs),
    /// Rewrite blobs without what nobody uses (not supported yet)
    #[command(disable_help_flag = true)]
    Compact(OtherArgs),
    /// Put files to be prefetched into a blob of their own (not supported yet)
    #[command(disable_help_flag = true)]
    Optimize(OtherArgs),
    /// Chunk dictionaries of many images (not supported yet)
    #[command(disable_help_flag = true)]
    Chunkdict(OtherArgs),
}

/// The arguments of a command that does not exist yet.
#[derive(Args, Debug)]
pub struct OtherArgs {
    /// Whatever follows.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub rest: Vec<OsString>,
}

/// What an image is built from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SourceType {
    /// A directory.
    #[value(name = "dir-rafs", alias = "directory")]
    Directory,
    /// An uncompressed tar file (not supported yet).
    #[value(name = "tar-rafs")]
    Tar,
    /// A gzip-compressed tar file (not supported yet).
    #[value(name = "targz-rafs")]
    TarGz,
    /// An eStargz layer, read as the tar.gz that it is (not supported yet).
    #[value(name = "estargz-rafs")]
    Estargz,
    /// Metadata beside an untouched tar.gz (not supported yet).
    #[value(name = "targz-ref")]
    TarGzRef,
    /// Metadata beside an untouched eStargz layer (not supported yet).
    #[value(name = "estargz-ref")]
    EstargzRef,
    /// Metadata from the table of contents of an eStargz layer (not supported yet).
    #[value(name = "estargztoc-ref", alias = "stargz_index")]
    EstargzTocRef,
    /// Metadata beside an untouched tar (not supported yet).
    #[value(name = "tar-tarfs")]
    TarTarfs,
}

/// A version of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FsVersion {
    /// RAFS v5.
    #[value(name = "5")]
    V5,
    /// RAFS v6.
    #[value(name = "6")]
    V6,
}

impl FsVersion {
    /// As the results name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::V5 => "5",
            Self::V6 => "6",
        }
    }
}

/// How chunks are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CompressorArg {
    /// Not at all.
    #[value(name = "none")]
    None,
    /// LZ4 blocks.
    #[value(name = "lz4_block")]
    Lz4Block,
    /// Zstandard.
    #[value(name = "zstd")]
    Zstd,
}

impl CompressorArg {
    /// As the results name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lz4Block => "lz4_block",
            Self::Zstd => "zstd",
        }
    }
}

impl From<CompressorArg> for Compressor {
    fn from(arg: CompressorArg) -> Self {
        match arg {
            CompressorArg::None => Self::None,
            CompressorArg::Lz4Block => Self::Lz4Block,
            CompressorArg::Zstd => Self::Zstd,
        }
    }
}

/// How chunks are digested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DigesterArg {
    /// BLAKE3.
    #[value(name = "blake3")]
    Blake3,
    /// SHA-256.
    #[value(name = "sha256")]
    Sha256,
}

impl From<DigesterArg> for Digester {
    fn from(arg: DigesterArg) -> Self {
        match arg {
            DigesterArg::Blake3 => Self::Blake3,
            DigesterArg::Sha256 => Self::Sha256,
        }
    }
}

/// How a layer says that something of the layers below is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WhiteoutSpec {
    /// Files called `.wh.NAME` and `.wh..wh..opq`.
    #[value(name = "oci")]
    Oci,
    /// Character devices 0:0, and the attribute `trusted.overlay.opaque`.
    #[value(name = "overlayfs")]
    Overlayfs,
    /// Nothing means anything.
    #[value(name = "none")]
    None,
}

/// What is done about files that are worth fetching first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PrefetchPolicy {
    /// Their inodes are listed in the bootstrap.
    #[value(name = "fs")]
    Fs,
    /// They lie at the start of the blob, and the blob says up to where.
    #[value(name = "blob")]
    Blob,
    /// Nothing.
    #[value(name = "none")]
    None,
}

/// What of an image can be asked for by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Feature {
    /// A table of contents in the blob.
    #[value(name = "blob-toc")]
    BlobToc,
}

/// `nydus-image create`.
#[derive(Args, Debug)]
pub struct CreateArgs {
    /// Directory to build the image from
    #[arg(value_name = "SOURCE")]
    pub source: PathBuf,
    /// What SOURCE is
    #[arg(short = 't', long = "type", alias = "source-type", value_enum, default_value = "dir-rafs")]
    pub source_type: SourceType,
    /// Write the bootstrap to this file; without it, it goes to the blob directory, named by its SHA-256
    #[arg(
        short = 'B',
        long,
        value_name = "FILE",
        required_unless_present_any = ["blob_dir", "blob_inline_meta"],
        conflicts_with = "blob_inline_meta"
    )]
    pub bootstrap: Option<PathBuf>,
    /// Write the blob to this directory, named by its id
    #[arg(short = 'D', long, value_name = "DIR", required_unless_present_any = ["blob", "blob_cache_dir"])]
    pub blob_dir: Option<PathBuf>,
    /// Write the blob to this file, which may be a FIFO; wins over --blob-dir
    #[arg(short = 'b', long, value_name = "FILE")]
    pub blob: Option<PathBuf>,
    /// Blob of the files that --attributes calls external (not supported yet)
    #[arg(long, value_name = "FILE")]
    pub external_blob: Option<PathBuf>,
    /// Put the bootstrap into the blob
    #[arg(long, alias = "inline-bootstrap", conflicts_with = "blob_id")]
    pub blob_inline_meta: bool,
    /// Id of the blob instead of its SHA-256
    #[arg(long, value_name = "ID")]
    pub blob_id: Option<String>,
    /// Size of the data blob of estargztoc-ref, hexadecimal (not supported yet)
    #[arg(long, value_name = "HEX")]
    pub blob_data_size: Option<String>,
    /// Where the chunks begin in the blob (not supported yet)
    #[arg(long, value_name = "BYTES", value_parser = parse_number, default_value = "0", hide = true)]
    pub blob_offset: u64,
    /// Largest chunk in bytes: a power of two, 0x1000 to 0x1000000 [default: 0x100000]
    #[arg(long, value_name = "BYTES", value_parser = parse_number)]
    pub chunk_size: Option<u64>,
    /// Put small files together into units of this many bytes: a power of two up to the chunk size; 0: do not
    #[arg(long, value_name = "BYTES", value_parser = parse_number, default_value = "0")]
    pub batch_size: u64,
    /// How to compress chunks
    #[arg(long, value_enum, default_value = "zstd")]
    pub compressor: CompressorArg,
    /// How to digest chunks
    #[arg(long, value_enum, default_value = "blake3")]
    pub digester: DigesterArg,
    /// Configuration of the backend of dictionary and parent blobs (not supported yet)
    #[arg(short = 'C', long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Version of the format
    #[arg(short = 'v', long, value_enum, default_value = "6")]
    pub fs_version: FsVersion,
    /// What else the image shall have
    #[arg(long, value_enum, value_delimiter = ',', value_name = "FEATURE")]
    pub features: Vec<Feature>,
    /// Bootstrap whose chunks need not be stored again: PATH or bootstrap=PATH
    #[arg(long, value_name = "ARG")]
    pub chunk_dict: Option<OsString>,
    /// Bootstrap of the layers below
    #[arg(long, value_name = "FILE")]
    pub parent_bootstrap: Option<PathBuf>,
    /// Align chunks to 4096 bytes in the uncompressed blob (version 5; version 6 always does)
    #[arg(long)]
    pub aligned_chunk: bool,
    /// Do not record owners, so that who builds the image makes no difference
    #[arg(long)]
    pub repeatable: bool,
    /// Accepted, does nothing
    #[arg(long, hide = true)]
    pub disable_check: bool,
    /// How the source says that something of the layers below is gone
    #[arg(long, value_enum, default_value = "oci")]
    pub whiteout_spec: WhiteoutSpec,
    /// What to do about the paths on standard input, one a line, that are worth fetching first
    #[arg(long, value_enum, default_value = "none")]
    pub prefetch_policy: PrefetchPolicy,
    /// Write the result to this file
    #[arg(short = 'J', long, value_name = "FILE")]
    pub output_json: Option<PathBuf>,
    /// Encrypt the blob (AES-128-XTS, a random key that the bootstrap holds)
    #[arg(short = 'E', long)]
    pub encrypt: bool,
    /// Write cache files instead of a blob (not supported yet)
    #[arg(long, value_name = "DIR", conflicts_with_all = ["blob", "blob_dir", "compressor", "blob_inline_meta"])]
    pub blob_cache_dir: Option<PathBuf>,
    /// Attributes of files (not supported yet)
    #[arg(long, value_name = "FILE")]
    pub attributes: Option<PathBuf>,
    /// Threads that read and compress; 0: as many as there are cores
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,
}

/// `nydus-image merge`.
#[derive(Args, Debug)]
pub struct MergeArgs {
    /// Bootstraps of the layers, the lowest first
    #[arg(value_name = "SOURCE", required = true)]
    pub sources: Vec<PathBuf>,
    /// Write the merged bootstrap to this file
    #[arg(short = 'B', long, value_name = "FILE", required = true)]
    pub bootstrap: Option<PathBuf>,
    /// Bootstrap of the layers below all sources
    #[arg(long, value_name = "FILE")]
    pub parent_bootstrap: Option<PathBuf>,
    /// Bootstrap of the dictionary that the sources were built with: PATH or bootstrap=PATH
    #[arg(long, value_name = "ARG")]
    pub chunk_dict: Option<OsString>,
    /// Configuration of the backend that holds the blobs (not supported yet)
    #[arg(short = 'C', long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory of blobs (not supported yet)
    #[arg(short = 'D', long, value_name = "DIR")]
    pub blob_dir: Option<PathBuf>,
    /// Write the result to this file
    #[arg(short = 'J', long, value_name = "FILE")]
    pub output_json: Option<PathBuf>,
    /// What to do about the paths on standard input, one a line, that are worth fetching first
    #[arg(long, value_enum, default_value = "none")]
    pub prefetch_policy: PrefetchPolicy,
    /// SHA-256 of the RAFS blobs, one a source
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub blob_digests: Vec<String>,
    /// Ids of the data blobs, one a source
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub original_blob_ids: Vec<String>,
    /// Sizes of the RAFS blobs, one a source
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub blob_sizes: Vec<u64>,
    /// SHA-256 of the blobs' tables of contents, one a source
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub blob_toc_digests: Vec<String>,
    /// Sizes of the blobs' tables of contents, one a source
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub blob_toc_sizes: Vec<u32>,
}

/// A bootstrap, as an argument or as an option.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub struct BootstrapArg {
    /// Bootstrap, or a blob with one inside
    #[arg(value_name = "BOOTSTRAP")]
    argument: Option<PathBuf>,
    /// The same as an option
    #[arg(short = 'B', long = "bootstrap", value_name = "FILE")]
    option: Option<PathBuf>,
}

impl BootstrapArg {
    /// The path; empty never, since clap wants one of the two.
    pub fn path(&self) -> PathBuf {
        self.argument.as_ref().or(self.option.as_ref()).cloned().unwrap_or_default()
    }
}

/// `nydus-image check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// What to check.
    #[command(flatten)]
    pub bootstrap: BootstrapArg,
    /// Where a bootstrap inside a blob is unpacked to, as `<name of the blob>.image.boot`
    #[arg(short = 'D', long, value_name = "DIR")]
    pub blob_dir: Option<PathBuf>,
    /// Configuration of the backend (not supported yet)
    #[arg(short = 'C', long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print every inode and chunk (not supported yet)
    #[arg(short = 'v', long)]
    pub verbose: bool,
    /// Write the result to this file
    #[arg(short = 'J', long, value_name = "FILE")]
    pub output_json: Option<PathBuf>,
}

/// `nydus-image inspect`.
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// What to look into.
    #[command(flatten)]
    pub bootstrap: BootstrapArg,
    /// Where a bootstrap inside a blob is unpacked to, as `<name of the blob>.image.boot`
    #[arg(short = 'D', long, value_name = "DIR")]
    pub blob_dir: Option<PathBuf>,
    /// Configuration of the backend (not supported yet)
    #[arg(short = 'C', long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to ask: stats, blobs or prefetch; others, and asking interactively, are not supported yet
    #[arg(short = 'R', long, value_name = "CMD")]
    pub request: Option<String>,
}

/// A number, decimal or with `0x` hexadecimal.
fn parse_number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        // `from_str_radix` takes a sign, which no number here has.
        Some(digits) if digits.starts_with('+') => return Err(format!("{text:?} is not a number")),
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|error| format!("{text:?} is not a number: {error}"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn numbers_are_decimal_or_hexadecimal() {
        assert_eq!(parse_number("4096").unwrap(), 4096);
        assert_eq!(parse_number("0x100000").unwrap(), 1 << 20);
        for bad in ["", "0x", "0x+1", "x", "-1", "1k"] {
            assert!(parse_number(bad).is_err(), "{bad}");
        }
    }

    fn create(args: &[&str]) -> Result<Box<CreateArgs>, clap::Error> {
        let all = ["nydus-image", "create"].iter().chain(args);
        match Cli::try_parse_from(all)?.command {
            Some(Command::Create(args)) => Ok(args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_the_reference_refuses_as_usage_is_refused_as_usage() {
        for bad in [
            &["src"][..],
            &["-B", "b", "src"],
            &["-B", "b", "-D", "d", "--blob-inline-meta", "src"],
            &["-D", "d", "--blob-inline-meta", "--blob-id", "i", "src"],
            &["-D", "d", "--features", "unknown", "src"],
            &["-D", "d", "-t", "unknown", "src"],
            &["-D", "d", "-v", "7", "src"],
        ] {
            assert_eq!(create(bad).unwrap_err().exit_code(), 2, "{bad:?}");
        }
    }

    #[test]
    fn defaults_are_those_of_the_manual() {
        let args = create(&["-D", "d", "src"]).unwrap();
        assert_eq!(args.source_type, SourceType::Directory);
        assert_eq!(args.fs_version, FsVersion::V6);
        assert_eq!(args.compressor, CompressorArg::Zstd);
        assert_eq!(args.digester, DigesterArg::Blake3);
        assert_eq!(args.whiteout_spec, WhiteoutSpec::Oci);
        assert_eq!(args.prefetch_policy, PrefetchPolicy::None);
        assert_eq!((args.chunk_size, args.batch_size, args.threads), (None, 0, 0));
    }
}
