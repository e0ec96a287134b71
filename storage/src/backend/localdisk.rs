//! Blobs that are partitions of a disk, or a whole disk (spec/config.md §4).
//!
//! With a GPT, a partition is the blob whose id begins with the partition's name, 32 characters, and ends with the
//! partition's GUID in hexadecimal. As with files, every system call runs on a thread of a bounded pool; the table is
//! read at the first request, and again after a request that failed.
//!
//! A partition is a whole number of sectors, and that is the size this backend tells: a blob that ends inside its last
//! sector is followed by what else lies there.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use gpt::disk::LogicalBlockSize;
use gpt::partition::Partition;

use super::blocking::{Limits, Pool};
use super::span::{Span, failed};
use super::{Backend, BoxFuture, Request};
use crate::blob::BlobId;
use crate::lock;
use crate::{Error, Result};

/// Threads that may be stuck in a stalled device, and requests that wait for one.
const LIMITS: Limits = Limits { threads: 16, queue: 4096 };
/// The most partitions that are looked at; tables have 128.
const MAX_PARTITIONS: u32 = 4096;
/// The only size of a partition record that is in use.
const RECORD_SIZE: u32 = 128;
/// Characters of a blob id in the name of its partition.
const NAME_LEN: usize = 32;

/// Where the disk is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalDiskConfig {
    /// The block device, or an image of one.
    pub device_path: PathBuf,
    /// The whole device is the blob, whatever its id.
    pub disable_gpt: bool,
}

/// Blobs on a local disk.
#[derive(Debug)]
pub struct LocalDisk {
    disk: Arc<Disk>,
    pool: Pool,
}

impl LocalDisk {
    /// Takes the configuration; looks at no device yet. [`Error::Invalid`] if the path is empty.
    pub fn new(config: LocalDiskConfig) -> Result<Self> {
        if config.device_path.as_os_str().is_empty() {
            return Err(Error::invalid("localdisk", "needs device_path"));
        }
        let disk = Arc::new(Disk { config, opened: Mutex::default() });
        Ok(Self { disk, pool: Pool::new("localdisk", LIMITS) })
    }
}

impl Backend for LocalDisk {
    fn read<'a>(
        &'a self,
        blob: &'a BlobId,
        offset: u64,
        len: u64,
        request: Request,
    ) -> BoxFuture<'a, Result<Bytes>> {
        let (disk, id) = (self.disk.clone(), blob.clone());
        Box::pin(self.pool.run(
            move || disk_blob(blob),
            request,
            move || {
                disk.with(|opened| {
                    let span = opened.find(&disk, &id)?;
                    span.read(&opened.device, || disk.what(&id), offset, len)
                })
            },
        ))
    }

    fn size<'a>(&'a self, blob: &'a BlobId, request: Request) -> BoxFuture<'a, Result<u64>> {
        let (disk, id) = (self.disk.clone(), blob.clone());
        Box::pin(self.pool.run(
            move || disk_blob(blob),
            request,
            move || disk.with(|opened| Ok(opened.find(&disk, &id)?.len)),
        ))
    }
}

fn disk_blob(blob: &BlobId) -> String {
    format!("localdisk: blob {blob}")
}

/// The device. The lock is never held across a system call.
#[derive(Debug)]
struct Disk {
    config: LocalDiskConfig,
    opened: Mutex<Option<Arc<Opened>>>,
}

#[derive(Debug)]
struct Opened {
    device: File,
    size: u64,
    /// Spans of the blobs by id; `None`: the whole device is every blob.
    partitions: Option<HashMap<String, Span>>,
}

impl Disk {
    /// Does `work` on the device; what fails on one that was open before is tried again on one opened anew.
    fn with<T>(&self, work: impl Fn(&Opened) -> Result<T>) -> Result<T> {
        let kept = self.lock().clone();
        if let Some(opened) = kept {
            match work(&opened) {
                Ok(done) => return Ok(done),
                Err(err) => tracing::debug!(%err, "opening the device anew"),
            }
        }
        let opened = Arc::new(self.open()?);
        let done = work(&opened)?;
        let replaced = self.lock().replace(opened);
        drop(replaced);
        Ok(done)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Opened>>> {
        lock(&self.opened)
    }

    fn open(&self) -> Result<Opened> {
        let path = &self.config.device_path;
        let what = || format!("localdisk: {}", path.display());
        let mut device = File::open(path).map_err(|err| match err.kind() {
            io::ErrorKind::NotFound => {
                Error::NotFound { what: "localdisk: device".into(), place: path.display().to_string() }
            }
            _ => failed(what(), err),
        })?;
        // A block device has no length that stat would tell.
        let size = device.seek(SeekFrom::End(0)).map_err(|err| failed(what(), err))?;
        let partitions = match self.config.disable_gpt {
            true => None,
            false => Some(scan(&device, size).map_err(|detail| Error::corrupt(what(), detail))?),
        };
        Ok(Opened { device, size, partitions })
    }

    fn what(&self, blob: &BlobId) -> String {
        format!("localdisk: blob {blob} on {}", self.config.device_path.display())
    }
}

impl Opened {
    fn find(&self, disk: &Disk, blob: &BlobId) -> Result<Span> {
        let Some(partitions) = &self.partitions else { return Ok(Span { offset: 0, len: self.size }) };
        partitions.get(blob.as_str()).copied().ok_or_else(|| Error::NotFound {
            what: disk_blob(blob),
            place: format!("the {} partitions of {}", partitions.len(), disk.config.device_path.display()),
        })
    }
}

/// The blobs of a device of `size` bytes, by id.
fn scan(device: &File, size: u64) -> std::result::Result<HashMap<String, Span>, String> {
    let mut reasons = Vec::new();
    for sector in [LogicalBlockSize::Lb512, LogicalBlockSize::Lb4096] {
        match read_table(device, size, sector) {
            Ok(partitions) => return Ok(collect(partitions, size, sector)),
            Err(reason) => reasons.push(format!("with sectors of {}: {reason}", sector.as_u64())),
        }
    }
    Err(format!("no usable GPT; {}", reasons.join("; ")))
}

fn read_table(
    device: &File,
    size: u64,
    sector: LogicalBlockSize,
) -> std::result::Result<Vec<Partition>, String> {
    // The library trusts the counts of a header whose checksum is right: it allocates by them, and panics at a
    // record size that it does not know.
    let last = (size / sector.as_u64()).saturating_sub(1) * sector.as_u64();
    for offset in [sector.as_u64(), last] {
        check_header(device, offset)?;
    }
    let device = device.try_clone().map_err(|err| err.to_string())?;
    let table = gpt::GptConfig::new()
        .writable(false)
        .logical_block_size(sector)
        .open_from_device(device)
        .map_err(|err| err.to_string())?;
    Ok(table.partitions().values().filter(|partition| partition.is_used()).cloned().collect())
}

/// Refuses a header with unusable counts. Whether it is a header at all is the library's question.
fn check_header(device: &File, offset: u64) -> std::result::Result<(), String> {
    let mut header = [0; 92];
    if device.read_exact_at(&mut header, offset).is_err() || !header.starts_with(b"EFI PART") {
        return Ok(());
    }
    let word = |at: usize| header[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let (count, record_size) = (word(80), word(84));
    if count > MAX_PARTITIONS || record_size != RECORD_SIZE {
        return Err(format!(
            "header at {offset} has {count} records of {record_size} bytes, expected {MAX_PARTITIONS} at most of {RECORD_SIZE}"
        ));
    }
    Ok(())
}

fn collect(partitions: Vec<Partition>, size: u64, sector: LogicalBlockSize) -> HashMap<String, Span> {
    let mut blobs = HashMap::new();
    for partition in partitions {
        let name = &partition.name;
        // An id of 32 characters or fewer fits the name alone.
        let id = match name.chars().count() {
            NAME_LEN => format!("{name}{}", partition.part_guid.simple()),
            _ => name.clone(),
        };
        let Some(span) = span(&partition, sector).filter(|span| span.offset + span.len <= size) else {
            tracing::warn!(partition = %name, "partition is outside of its device, ignored");
            continue;
        };
        if blobs.contains_key(&id) {
            tracing::warn!(partition = %name, "second partition for the same blob, ignored");
            continue;
        }
        blobs.insert(id, span);
    }
    blobs
}

/// Where a partition lies; `None` if its numbers make no sense.
fn span(partition: &Partition, sector: LogicalBlockSize) -> Option<Span> {
    let offset = partition.first_lba.checked_mul(sector.as_u64())?;
    let len =
        partition.last_lba.checked_sub(partition.first_lba)?.checked_add(1)?.checked_mul(sector.as_u64())?;
    offset.checked_add(len)?;
    Some(Span { offset, len })
}

#[cfg(test)]
mod tests;
