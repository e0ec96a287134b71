//! Well-formed inputs to damage: what the fixture images hold, in the form in which each fuzzing entry point takes it.

use std::fs;
use std::io::Write as _;
use std::time::{Duration, Instant};

use rafs::{Bootstrap, OpenOptions};
use storage::backend::localfs::{LocalFs, LocalFsConfig};
use storage::backend::{Priority, Request};
use storage::blob::{BlobDescription, BlobFeatures, ChunkTable, extract_bootstrap};

use crate::config::{Caching, Config, Form};
use crate::fixtures::{IMAGES, Image};

/// Bytes of a chunk table's header.
const CI_HEADER_SIZE: usize = 4096;

/// An input and where it is from.
pub struct Seed {
    /// The image, or what distinguishes it.
    pub name: String,
    /// What the entry point takes.
    pub bytes: Vec<u8>,
}

/// Every image's bootstrap, for `rafs::fuzzing::bootstrap`.
pub fn bootstraps() -> Vec<Seed> {
    IMAGES.iter().map(|image| Seed { name: image.name.into(), bytes: bootstrap(image) }).collect()
}

/// The bytes of an image's bootstrap, taken out of the blob where it is inside.
pub fn bootstrap(image: &Image) -> Vec<u8> {
    let path = image.bootstrap();
    let inside = extract_bootstrap(&fs::File::open(&path).unwrap(), image.name).unwrap();
    inside.unwrap_or_else(|| fs::read(path).unwrap())
}

/// The chunk tables of v6 blobs, for `storage::fuzzing::chunk_table`: a few words of description, the header, the
/// array.
pub fn chunk_tables() -> Vec<Seed> {
    let deadline = Instant::now() + Duration::from_secs(60);
    let request = Request::new(Priority::OnDemand, deadline);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut seeds = Vec::new();
    for image in IMAGES {
        let config = LocalFsConfig { dir: Some(image.blobs()), ..LocalFsConfig::default() };
        let backend = LocalFs::new(config).unwrap();
        for blob in blobs(&image).iter().filter(|blob| blob.ci.is_some()) {
            let table = runtime.block_on(ChunkTable::fetch(blob, &backend, request.clone())).unwrap();
            let file = table.to_cache_file();
            let (padded, header) = file.split_at(file.len() - CI_HEADER_SIZE);
            let array = &padded[..usize::try_from(blob.ci.unwrap().uncompressed_size).unwrap()];
            let compressor = u8::try_from(blob.compressor as u32).unwrap();
            let mut bytes = blob.features.bits().to_le_bytes().to_vec();
            // From 128 on the sizes of the description are unknown.
            bytes.extend([compressor, 128, 0, 0]);
            bytes.extend_from_slice(header);
            bytes.extend_from_slice(array);
            seeds.push(Seed { name: format!("{}-{}", image.name, blob.index), bytes });
        }
    }
    seeds
}

/// Blobs that end in a table of contents, for `storage::fuzzing::toc`: the table's size, then the blob.
pub fn tocs() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for image in IMAGES {
        let with_toc = |blob: &&BlobDescription| blob.features.contains(BlobFeatures::HAS_TOC);
        for blob in blobs(&image).iter().filter(with_toc) {
            let size = blob.toc.map_or(0, |toc| toc.size);
            let mut bytes = u64::from(size).to_le_bytes().to_vec();
            bytes.extend(fs::read(image.blobs().join(blob.meta_object().as_str())).unwrap());
            seeds.push(Seed { name: format!("{}-{}", image.name, blob.index), bytes });
        }
    }
    seeds
}

/// Gzip files for `storage::fuzzing::zran`, cut into chunks in some ways: one member, several, one without blocks of
/// codes.
pub fn gzip_files() -> Vec<Seed> {
    let text: Vec<u8> =
        (0..20_000u32).flat_map(|number| (number * number).to_string().into_bytes()).collect();
    let member = |data: &[u8], level| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    };
    let members: Vec<u8> = text.chunks(3000).flat_map(|part| member(part, 6)).collect();
    let files = [("one", 1, member(&text, 9)), ("many", 9, members), ("plain", 100, member(&text, 0))];
    let seed = |(name, cut, file): (&str, u8, Vec<u8>)| Seed {
        name: name.into(),
        bytes: [&[cut][..], &file].concat(),
    };
    files.into_iter().map(seed).collect()
}

fn blobs(image: &Image) -> Vec<BlobDescription> {
    let bootstrap = Bootstrap::open(&image.bootstrap(), &OpenOptions::default()).unwrap();
    bootstrap.blobs().iter().map(|blob| BlobDescription::clone(blob)).collect()
}

/// What servers say, for `storage::fuzzing::server_words`.
pub fn server_words() -> Vec<Seed> {
    let words = [
        (
            "challenge",
            r#"Basic realm="a", Bearer realm="https://auth/token",service="registry",scope="repository:a/b:pull""#,
        ),
        ("content-range", "bytes 1048576-2097151/18446744073709551615"),
        ("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT"),
        ("location", "https://user:word@store:443/bucket/%2e%2e/object?X-Amz-Signature=aa#part"),
        ("location-relative", "//store/object"),
        ("error-of-a-registry", r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"m","detail":{}}]}"#),
        ("error-of-a-store", "<?xml version=\"1.0\"?><Error><Code>SlowDown</Code></Error>"),
        (
            "token",
            r#"{"token":"t","access_token":"a","expires_in":"3e2","issued_at":"2026-01-01T00:00:00Z"}"#,
        ),
        (
            "logins",
            r#"{"auths":{"https://r/v1/":{"auth":"dTpw"}},"credHelpers":{"r":"x"},"credsStore":"pass"}"#,
        ),
    ];
    words.map(|(name, text)| Seed { name: name.to_owned(), bytes: text.into() }).into()
}

/// Configurations in all forms, for `nydus_config::fuzzing`: ours, and the samples in `configs/`.
pub fn configurations() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for form in [Form::V1, Form::V2Json, Form::V2Toml] {
        let mut config = Config::new("/blobs".as_ref(), "/cache".as_ref());
        config.form = form;
        config.caching = Caching::Encrypted;
        config.amplify_io = Some(1 << 20);
        config.read_deadline_ms = Some(3000);
        config.prefetch = true;
        seeds.push(Seed { name: format!("{form:?}"), bytes: config.to_text().into_bytes() });
    }
    for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../configs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|suffix| suffix != "md") {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            seeds.push(Seed { name, bytes: fs::read(path).unwrap() });
        }
    }
    seeds
}
