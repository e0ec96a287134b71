//! `create`: its options.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use storage::blob::Compressor;
use storage::digest::Digester;

use super::parse_number;

/// What an image is built from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SourceType {
    /// A directory.
    #[value(name = "dir-rafs", alias = "directory")]
    Directory,
    /// A tar archive, plain or compressed with gzip or zstd: its first bytes tell.
    #[value(name = "tar-rafs")]
    Tar,
    /// The same.
    #[value(name = "targz-rafs")]
    TarGz,
    /// The same, without what only helps to read an eStargz layer.
    #[value(name = "estargz-rafs")]
    Estargz,
    /// A tar.gz that stays what it is: metadata beside it. A tar, too.
    #[value(name = "targz-ref")]
    TarGzRef,
    /// An eStargz layer that stays what it is: metadata beside it.
    #[value(name = "estargz-ref")]
    EstargzRef,
    /// The table of contents (JSON) of an eStargz layer that stays what it is; --blob-id names the layer.
    #[value(name = "estargztoc-ref", alias = "stargz_index")]
    EstargzTocRef,
    /// A tar that is mounted as it is: a bootstrap and no blob.
    #[value(name = "tar-tarfs")]
    TarTarfs,
}

impl SourceType {
    /// Its bytes stay where they are: what is written only says where in them the chunks lie.
    pub fn is_kept(self) -> bool {
        matches!(self, Self::TarGzRef | Self::EstargzRef | Self::EstargzTocRef | Self::TarTarfs)
    }

    /// As the command line names it.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
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
    /// Files called `.wh.NAME` and `.wh..wh..opq`, and what overlayfs understands in a directory of root.
    #[value(name = "oci")]
    Oci,
    /// As overlayfs leaves an upper directory: character devices 0:0, and attributes, `trusted.` or `user.`.
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
    /// What to build the image from: a directory, or an archive that is read once and may be a FIFO or `-`, standard
    /// input
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
    /// Id of the blob instead of its SHA-256; estargztoc-ref: id of the layer, needed; tar-tarfs: id of the tar
    #[arg(long, value_name = "ID")]
    pub blob_id: Option<String>,
    /// Bytes of the layer, for estargztoc-ref: a hexadecimal number, with or without 0x
    #[arg(long, value_name = "HEX")]
    pub blob_data_size: Option<String>,
    /// Where the chunks begin in the blob (not supported yet)
    #[arg(long, value_name = "BYTES", value_parser = parse_number, default_value = "0", hide = true)]
    pub blob_offset: u64,
    /// Largest chunk in bytes: a power of two, 0x1000 to 0x1000000 [default: 0x100000, estargztoc-ref: 0x400000]
    #[arg(long, value_name = "BYTES", value_parser = parse_number)]
    pub chunk_size: Option<u64>,
    /// Put small files together into units of this many bytes: a power of two up to the chunk size; 0: do not
    #[arg(long, value_name = "BYTES", value_parser = parse_number, default_value = "0")]
    pub batch_size: u64,
    /// How to compress chunks; sources that stay what they are know better
    #[arg(long, value_enum, default_value = "zstd")]
    pub compressor: CompressorArg,
    /// How to digest chunks; for sources that stay what they are with sha256
    #[arg(long, value_enum, default_value = "blake3")]
    pub digester: DigesterArg,
    /// Accepted, does nothing: bootstraps tell all that is needed of dictionary and parent blobs
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
    /// How the source says that something of the layers below is gone; without --parent-bootstrap it stays, for `merge`
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
    /// Write the files of a complete cache to this directory, instead of a blob
    #[arg(
        long,
        value_name = "DIR",
        conflicts_with_all = ["blob", "blob_dir", "compressor", "blob_inline_meta", "features", "encrypt"]
    )]
    pub blob_cache_dir: Option<PathBuf>,
    /// Attributes of files (not supported yet)
    #[arg(long, value_name = "FILE")]
    pub attributes: Option<PathBuf>,
    /// Threads in all, 1 does everything in turn; 0: as many as there are cores
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::{Cli, Command};
    use super::*;

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
