//! `unpack`: an image as a tar.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use rafs::{Bootstrap, OpenOptions};

use crate::cli::UnpackArgs;
use crate::error::{Error, Result};
use crate::image::Image;
use crate::target::Target;
use crate::unpack;

/// Bytes of small pieces that are written together.
const BUFFER: usize = 1 << 18;

/// Writes the tar; under its name only when it is whole.
pub fn run(args: &UnpackArgs) -> Result<()> {
    let bootstrap = Bootstrap::open(&args.bootstrap.path(), &OpenOptions::default())?;
    let source = args.backend.blob_source(args.blob.clone(), args.blob_dir.clone())?;
    let backend = source.open(bootstrap.blobs())?;
    let image = Image::new(bootstrap, backend, super::threads(args.threads))?;
    if args.output.as_os_str() == "-" {
        return write(&image, io::stdout().lock(), Path::new("standard output")).map(drop);
    }
    write(&image, Target::create(&args.output)?, &args.output)?.commit()
}

fn write<W: Write>(image: &Image, out: W, name: &Path) -> Result<W> {
    let mut out = BufWriter::with_capacity(BUFFER, out);
    unpack::unpack(image, |bytes| out.write_all(bytes).map_err(Error::io("write to", name)))?;
    let mut out = out.into_inner().map_err(|error| Error::io("write to", name)(error.into_error()))?;
    out.flush().map_err(Error::io("write to", name))?;
    Ok(out)
}
