use std::fs::{self, OpenOptions};
use std::path::Path;
use std::time::{Duration, Instant};

use super::super::Priority;
use super::super::laws::{self, Fixture, Object};
use super::*;

const SECTORS: [LogicalBlockSize; 2] = [LogicalBlockSize::Lb512, LogicalBlockSize::Lb4096];

fn request() -> Request {
    Request::new(Priority::OnDemand, Instant::now() + Duration::from_secs(60))
}

fn disk(path: &Path, disable_gpt: bool) -> LocalDisk {
    LocalDisk::new(LocalDiskConfig { device_path: path.to_owned(), disable_gpt }).unwrap()
}

/// Writes a disk image whose partitions are the objects, named and numbered by their ids.
fn make_disk(path: &Path, objects: &[Object], sector: LogicalBlockSize) {
    fs::write(path, vec![0; 8 << 20]).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let data = file.try_clone().unwrap();
    let mut gpt = gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(sector)
        .create_from_device(file, None)
        .unwrap();
    for object in objects {
        let (name, _) = object.id.as_str().split_at(NAME_LEN);
        let size = object.content.len() as u64;
        gpt.add_partition(name, size, gpt::partition_types::LINUX_FS, 0, None).unwrap();
    }
    let mut partitions = gpt.partitions().clone();
    for partition in partitions.values_mut().filter(|partition| partition.is_used()) {
        let object = objects.iter().find(|object| object.id.as_str().starts_with(&partition.name)).unwrap();
        partition.part_guid = object.id.as_str()[NAME_LEN..].parse().unwrap();
        let offset = partition.bytes_start(sector).unwrap();
        data.write_all_at(&object.content, offset).unwrap();
    }
    gpt.update_partitions(partitions).unwrap();
    gpt.write().unwrap();
}

#[tokio::test]
async fn keeps_the_laws() {
    for sector in SECTORS {
        laws::all(async |objects| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("disk");
            make_disk(&path, &objects, sector);
            Fixture { backend: Arc::new(disk(&path, false)), keep: Box::new(dir) }
        })
        .await;
    }
}

fn one_object() -> Object {
    Object { id: BlobId::new(&"0011223344556677".repeat(4)).unwrap(), content: vec![7; 4096] }
}

#[tokio::test]
async fn the_backup_table_serves_where_the_first_one_is_broken() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let object = one_object();
    make_disk(&path, std::slice::from_ref(&object), LogicalBlockSize::Lb512);
    let mut image = fs::read(&path).unwrap();
    image[512..1024].fill(0);
    fs::write(&path, image).unwrap();
    assert_eq!(disk(&path, false).read(&object.id, 0, 4096, request()).await.unwrap(), object.content);
}

#[tokio::test]
async fn hostile_headers_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let object = one_object();
    for (at, value) in [(80, u32::MAX), (80, MAX_PARTITIONS + 1), (84, 0), (84, 127), (84, 1 << 31)] {
        make_disk(&path, std::slice::from_ref(&object), LogicalBlockSize::Lb512);
        let mut image = fs::read(&path).unwrap();
        image[512 + at..][..4].copy_from_slice(&value.to_le_bytes());
        fs::write(&path, image).unwrap();
        let err = disk(&path, false).size(&object.id, request()).await.unwrap_err();
        assert!(matches!(err, Error::Corrupt { .. }), "{err}");
    }
}

#[tokio::test]
async fn partitions_outside_of_the_device_are_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let object = one_object();
    make_disk(&path, std::slice::from_ref(&object), LogicalBlockSize::Lb512);
    let image = fs::read(&path).unwrap();
    // Only the first table is left, and no data.
    fs::write(&path, &image[..40 * 512]).unwrap();
    let err = disk(&path, false).size(&object.id, request()).await.unwrap_err();
    assert!(matches!(err, Error::NotFound { .. }), "{err}");
}

#[tokio::test]
async fn a_disk_without_a_table_is_an_error_unless_it_is_the_blob() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let id = one_object().id;
    let err = disk(&path, false).size(&id, request()).await.unwrap_err();
    assert!(matches!(err, Error::NotFound { .. }), "{err}");
    fs::write(&path, [9; 10_000]).unwrap();
    let err = disk(&path, false).size(&id, request()).await.unwrap_err();
    assert!(matches!(err, Error::Corrupt { .. }), "{err}");

    let whole = disk(&path, true);
    assert_eq!(whole.size(&id, request()).await.unwrap(), 10_000);
    assert_eq!(whole.read(&id, 9_990, 10, request()).await.unwrap(), [9; 10].as_slice());
    let err = whole.read(&id, 9_990, 11, request()).await.unwrap_err();
    assert!(matches!(err, Error::Corrupt { .. }), "{err}");
}

#[tokio::test]
async fn a_partition_that_appears_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let object = one_object();
    make_disk(&path, &[], LogicalBlockSize::Lb512);
    let disk = disk(&path, false);
    assert!(matches!(disk.size(&object.id, request()).await, Err(Error::NotFound { .. })));
    make_disk(&path, std::slice::from_ref(&object), LogicalBlockSize::Lb512);
    assert_eq!(disk.size(&object.id, request()).await.unwrap(), 4096);
}

#[test]
fn needs_a_path() {
    let config = LocalDiskConfig { device_path: PathBuf::new(), disable_gpt: true };
    assert!(matches!(LocalDisk::new(config), Err(Error::Invalid { .. })));
}
