//! Keys for encrypted blobs.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use storage::blob::Cipher;

use crate::error::{Error, Result};

/// A random key, for one blob.
pub fn random() -> Result<Cipher> {
    let source = Path::new("/dev/urandom");
    let mut bytes = [0; 48];
    File::open(source).and_then(|mut file| file.read_exact(&mut bytes)).map_err(Error::io("read", source))?;
    let mut cipher = Cipher { key: [0; 32], iv: [0; 16] };
    let (key, iv) = bytes.split_at(32);
    cipher.key.copy_from_slice(key);
    cipher.iv.copy_from_slice(iv);
    Ok(cipher)
}
