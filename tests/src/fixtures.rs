//! The fixture images: what the reference implementation wrote, and what readers must see of it.
//!
//! `tests/fixtures/images.tar.zst` is unpacked once a process, into a directory that all tests of the process share
//! and none may change; a test that damages images copies them first. The directory of a process that is gone is
//! removed by the next one.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::manifest::Manifest;

/// Window of the archives' zstd frames, as a power of two: the images share their content.
const WINDOW_LOG_MAX: u32 = 27;

/// The format generation of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// RAFS v5.
    V5,
    /// RAFS v6.
    V6,
}

/// A fixture image, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its directory below `images/`.
    pub name: &'static str,
    /// Its format.
    pub version: Version,
    /// The layers it shows: `a`, or `abc` on top of each other.
    pub layers: &'static str,
}

const fn image(name: &'static str, version: Version, layers: &'static str) -> Image {
    Image { name, version, layers }
}

/// Every fixture image.
pub const IMAGES: [Image; 13] = [
    image("v5-lz4-sha256", Version::V5, "a"),
    image("v5-zstd-blake3", Version::V5, "a"),
    image("v5-none-prefetch", Version::V5, "a"),
    image("v5-parent", Version::V5, "abc"),
    image("v6-zstd", Version::V6, "a"),
    image("v6-none", Version::V6, "a"),
    image("v6-lz4-4k-sha256", Version::V6, "a"),
    image("v6-batch-toc", Version::V6, "a"),
    image("v6-encrypt", Version::V6, "a"),
    image("v6-prefetch", Version::V6, "a"),
    image("v6-zran", Version::V6, "a"),
    image("v6-inline", Version::V6, "a"),
    image("v6-merge", Version::V6, "abc"),
];

impl Fixtures {
    /// Where they are unpacked.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Image {
    /// The image of this name.
    pub fn named(name: &str) -> Self {
        *IMAGES.iter().find(|image| image.name == name).unwrap_or_else(|| panic!("no fixture {name}"))
    }

    /// Its directory of blobs.
    pub fn blobs(&self) -> PathBuf {
        fixtures().dir.join("images").join(self.name).join("blobs")
    }

    /// The file to give to `--bootstrap`: for `v6-inline` the blob itself.
    pub fn bootstrap(&self) -> PathBuf {
        match self.name {
            "v6-inline" => self.blob_files().remove(0),
            _ => fixtures().dir.join("images").join(self.name).join("bootstrap"),
        }
    }

    /// Its blobs, sorted by name.
    pub fn blob_files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.blobs()).expect("a fixture has blobs");
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    /// What a mount must show.
    pub fn manifest(&self) -> &'static Manifest {
        match self.layers {
            "a" => &fixtures().manifest_a,
            _ => &fixtures().manifest_abc,
        }
    }

    /// Its files and their content. For images of the single layer `a` only.
    pub fn files(&self) -> &'static Files {
        assert_eq!(self.layers, "a", "{}: only the content of layer a is kept as a model", self.name);
        &fixtures().files
    }

    /// Copies bootstrap and blobs to `dir`, for tests that change them; answers the copies' paths.
    pub fn copy_to(&self, dir: &Path) -> CopiedImage {
        let blobs = dir.join("blobs");
        fs::create_dir_all(&blobs).unwrap();
        for file in self.blob_files() {
            fs::copy(&file, blobs.join(file.file_name().unwrap())).unwrap();
        }
        let bootstrap = match self.name {
            "v6-inline" => blobs.join(self.bootstrap().file_name().unwrap()),
            _ => dir.join("bootstrap"),
        };
        fs::copy(self.bootstrap(), &bootstrap).unwrap();
        CopiedImage { bootstrap, blobs }
    }
}

/// A private copy of an image.
#[derive(Clone, Debug)]
pub struct CopiedImage {
    /// The bootstrap.
    pub bootstrap: PathBuf,
    /// The directory of blobs.
    pub blobs: PathBuf,
}

/// Regular files that are not empty, hard links included, by their path in the mounted tree.
pub type Files = BTreeMap<PathBuf, Arc<[u8]>>;

/// The unpacked archive.
pub struct Fixtures {
    dir: PathBuf,
    manifest_a: Manifest,
    manifest_abc: Manifest,
    files: Files,
}

/// Names the directory where another process, which outlives this one, has unpacked them.
pub const UNPACKED: &str = "NYDUS_TESTS_FIXTURES";

/// The fixtures of this process.
pub fn fixtures() -> &'static Fixtures {
    static FIXTURES: OnceLock<Fixtures> = OnceLock::new();
    FIXTURES.get_or_init(|| {
        let dir = std::env::var_os(UNPACKED).map(PathBuf::from).unwrap_or_else(|| {
            let dir = own_directory();
            unpack("images.tar.zst", &dir);
            dir
        });
        let manifest = |name: &str| Manifest::parse(&fs::read_to_string(dir.join(name)).unwrap());
        let (manifest_a, manifest_abc) = (manifest("a.manifest.jsonl"), manifest("abc.manifest.jsonl"));
        let files = files_of_layer(&dir.join("src.tar"), "a");
        Fixtures { dir, manifest_a, manifest_abc, files }
    })
}

/// Unpacks an archive of `tests/fixtures/` into `dir`.
pub fn unpack(archive: &str, dir: &Path) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(archive);
    let file = fs::File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut decoder = zstd::Decoder::new(file).unwrap();
    decoder.window_log_max(WINDOW_LOG_MAX).unwrap();
    tar::Archive::new(decoder).unpack(dir).unwrap();
}

/// A fresh directory named by this process; removes those of processes that are gone.
fn own_directory() -> PathBuf {
    const PREFIX: &str = "nydus-test-fixtures.";
    let parent = std::env::temp_dir();
    for entry in fs::read_dir(&parent).unwrap().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // Somebody else may be removing it too.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let dir = parent.join(format!("{PREFIX}{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir(&dir).unwrap();
    dir
}

fn files_of_layer(tar: &Path, layer: &str) -> Files {
    let mut files = Files::new();
    let mut links = Vec::new();
    let mut archive = tar::Archive::new(fs::File::open(tar).unwrap());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let Ok(path) = entry.path().unwrap().strip_prefix(layer).map(Path::to_owned) else { continue };
        match entry.header().entry_type() {
            tar::EntryType::Link => {
                let target = entry.link_name().unwrap().expect("a link has a target");
                links.push((path, target.strip_prefix(layer).unwrap().to_owned()));
            }
            kind if kind.is_file() || kind.is_gnu_sparse() => {
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                if !content.is_empty() {
                    files.insert(path, content.into());
                }
            }
            _ => {}
        }
    }
    for (path, target) in links {
        if let Some(content) = files.get(&target).cloned() {
            files.insert(path, content);
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_of_layer_a_agrees_with_its_manifest() {
        use sha2::Digest as _;
        let image = Image::named("v6-zstd");
        assert!(image.files().len() > 700);
        for (path, content) in image.files() {
            let entry = image.manifest().get(path.to_str().unwrap()).unwrap();
            assert_eq!(entry["sha256"], crate::manifest::hex(&sha2::Sha256::digest(content)), "{path:?}");
        }
    }

    #[test]
    fn every_image_has_a_bootstrap_and_blobs() {
        for image in IMAGES {
            assert!(image.bootstrap().is_file(), "{}", image.name);
            assert!(!image.blob_files().is_empty(), "{}", image.name);
        }
    }
}
