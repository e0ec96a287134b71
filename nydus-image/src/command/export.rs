//! `export`: an image as the content of a block device.

use std::io::{BufWriter, Write as _};

use rafs::{Bootstrap, OpenOptions};

use crate::cli::ExportArgs;
use crate::error::{Error, Result};
use crate::export;
use crate::image::Image;
use crate::target::Target;
use crate::verity::BLOCK;

/// Bytes of small pieces that are written together.
const BUFFER: usize = 1 << 18;

/// Writes the image; under its name only when it is whole.
pub fn run(args: &ExportArgs) -> Result<()> {
    let path = args.bootstrap.path();
    let bootstrap = Bootstrap::open(&path, &OpenOptions::default())?;
    let source = args.backend.blob_source(None, args.blob_dir.clone())?;
    let backend = source.open(bootstrap.blobs())?;
    let image = Image::new(bootstrap, backend, super::threads(args.threads))?;
    let output = args.output.clone().unwrap_or_else(|| {
        let mut name = path.into_os_string();
        name.push(".disk");
        name.into()
    });
    let mut out = BufWriter::with_capacity(BUFFER, Target::create(&output)?);
    let tree = export::export(&image, args.verity, |bytes| {
        out.write_all(bytes).map_err(Error::io("write to", &output))
    })?;
    let target = out.into_inner().map_err(|error| Error::io("write to", &output)(error.into_error()))?;
    target.commit()?;
    if let Some(tree) = tree {
        let data_block = image.bootstrap().block_size();
        super::print(&format!(
            "dm-verity options: --no-superblock --format=1 -s \"\" --hash=sha256 --data-block-size={data_block} \
             --hash-block-size={BLOCK} --data-blocks {} --hash-offset {} {}\n",
            tree.data_blocks,
            tree.data_blocks * data_block,
            tree.root,
        ))?;
    }
    Ok(())
}
