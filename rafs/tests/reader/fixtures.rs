//! The fixture images, unpacked in memory once for all tests.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::sync::LazyLock;

use rafs::{Bootstrap, OpenOptions};

const ARCHIVE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/images.tar.zst");

/// Path in the archive → content, without the sources of the images.
static FILES: LazyLock<BTreeMap<String, Vec<u8>>> = LazyLock::new(|| {
    let file = std::fs::File::open(ARCHIVE).expect("the fixtures are in the repository");
    let mut decoder = zstd::stream::read::Decoder::new(file).unwrap();
    decoder.window_log_max(27).unwrap();
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(decoder).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        if entry.header().entry_type().is_file() && path != "src.tar" {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            files.insert(path, content);
        }
    }
    files
});

/// A file of the archive.
pub fn file(path: &str) -> &'static [u8] {
    FILES.get(path).unwrap_or_else(|| panic!("{path} is not in the fixtures"))
}

/// A blob of an image.
pub fn blob(image: &str, id: &str) -> &'static [u8] {
    file(&format!("images/{image}/blobs/{id}"))
}

/// The images with a bootstrap file of their own, by name.
pub fn images() -> Vec<(&'static str, &'static [u8])> {
    let images = FILES.iter().filter_map(|(path, content)| {
        Some((path.strip_prefix("images/")?.strip_suffix("/bootstrap")?, content.as_slice()))
    });
    let images: Vec<_> = images.collect();
    assert_eq!(images.len(), 12);
    images
}

/// All bootstrap files, those of single layers too, by path.
pub fn bootstraps() -> Vec<(&'static str, &'static [u8])> {
    let bootstraps = FILES.iter().filter(|(path, _)| {
        path.ends_with("/bootstrap") || path.ends_with(".boot") || path.contains("/boots/")
    });
    let mut bootstraps: Vec<_> =
        bootstraps.map(|(path, content)| (path.as_str(), content.as_slice())).collect();
    assert_eq!(bootstraps.len(), 17);
    bootstraps.push(("images/v6-inline", &INLINED));
    bootstraps
}

/// The bootstrap inside the blob of `v6-inline`.
pub static INLINED: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut blob = tempfile::tempfile().unwrap();
    blob.write_all(self::blob("v6-inline", INLINE_ID)).unwrap();
    storage::blob::extract_bootstrap(&blob, "v6-inline").unwrap().unwrap()
});

/// The id of the blob of `v6-inline`, which has no bootstrap file.
pub const INLINE_ID: &str = "8fc1f06cd72139fa8198d09fdba73c67555138f3bb57691783d3b5c95f3eaeb8";

/// The bootstrap of an image.
pub fn bytes(image: &str) -> Vec<u8> {
    file(&format!("images/{image}/bootstrap")).to_vec()
}

/// Opens bytes with default options.
pub fn open(bytes: Vec<u8>) -> rafs::Result<Bootstrap> {
    Bootstrap::from_bytes(bytes, "image.boot", &OpenOptions::default())
}

/// True for the images of all three layers.
pub fn is_merged(image: &str) -> bool {
    matches!(image, "v6-merge" | "v5-parent")
}

/// The tree that an image must show: path → what `stat`, `readlink` and `getxattr` say.
pub fn manifest(image: &str) -> BTreeMap<String, serde_json::Value> {
    let layers = if is_merged(image) { "abc" } else { "a" };
    let lines = std::str::from_utf8(file(&format!("{layers}.manifest.jsonl"))).unwrap();
    lines
        .lines()
        .map(|line| {
            let entry: serde_json::Value = serde_json::from_str(line).unwrap();
            (entry["p"].as_str().unwrap().to_owned(), entry)
        })
        .collect()
}

/// Bytes as the manifest spells them: UTF-8 if they are, else each bad byte as a lone surrogate, then everything
/// but printable ASCII escaped.
pub fn spelled(bytes: &[u8]) -> String {
    let mut text = String::new();
    for part in bytes.utf8_chunks() {
        for char in part.valid().chars() {
            match char {
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                '\r' => text.push_str("\\r"),
                ' '..='~' => text.push(char),
                char if u32::from(char) < 0x100 => text.push_str(&format!("\\x{:02x}", u32::from(char))),
                char if u32::from(char) < 0x1_0000 => text.push_str(&format!("\\u{:04x}", u32::from(char))),
                char => text.push_str(&format!("\\U{:08x}", u32::from(char))),
            }
        }
        part.invalid().iter().for_each(|byte| text.push_str(&format!("\\udc{byte:02x}")));
    }
    text
}

/// The inode at a path, found by lookups.
pub fn find(bootstrap: &Bootstrap, path: &str) -> rafs::Ino {
    path.split('/').filter(|name| !name.is_empty()).fold(bootstrap.root(), |directory, name| {
        let found = bootstrap.lookup(directory, name.as_bytes()).unwrap();
        found.unwrap_or_else(|| panic!("{name} of {path}"))
    })
}

/// A little-endian number of `N` bytes in a bootstrap.
pub fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}

/// Offset of the inode of `ino` in a v6 bootstrap.
pub fn v6_inode(bytes: &[u8], ino: rafs::Ino) -> usize {
    let meta = u32::from_le_bytes(bytes[1024 + 40..1024 + 44].try_into().unwrap());
    meta as usize * 4096 + 32 * ino.0 as usize
}

/// Offset of the inode record of `ino` in a v5 bootstrap.
pub fn v5_inode(bytes: &[u8], ino: rafs::Ino) -> usize {
    let slot = 8192 + 4 * (ino.0 as usize - 1);
    u32::from_le_bytes(bytes[slot..slot + 4].try_into().unwrap()) as usize * 8
}
