//! Archives for tests, written header by header.

use tar::{EntryType, Header};

use super::reader::Reader;

/// An archive that grows.
#[derive(Default)]
pub struct Sample {
    pub bytes: Vec<u8>,
}

impl Sample {
    /// A header whose checksum is right.
    pub fn header(&mut self, path: &str, kind: u8, size: u64, change: impl FnOnce(&mut Header)) -> &mut Self {
        let mut header = Header::new_ustar();
        let old = header.as_old_mut();
        old.name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(EntryType::new(kind));
        header.set_size(size);
        header.set_mode(0o640);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1000);
        change(&mut header);
        header.set_cksum();
        self.bytes.extend_from_slice(header.as_bytes());
        self
    }

    /// Data, filled up to whole blocks.
    pub fn data(&mut self, data: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(&mut self, path: &str, data: &[u8]) -> &mut Self {
        self.header(path, b'0', data.len() as u64, |_| {}).data(data)
    }

    pub fn directory(&mut self, path: &str, mode: u32) -> &mut Self {
        self.header(path, b'5', 0, |header| header.set_mode(mode))
    }

    pub fn link(&mut self, path: &str, kind: u8, target: &str) -> &mut Self {
        self.header(path, kind, 0, |header| {
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        })
    }

    /// PAX records for the next entry, or with the kind `g` for all.
    pub fn pax(&mut self, kind: u8, records: &[(&str, &[u8])]) -> &mut Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length += 1;
            }
            data.extend_from_slice(format!("{length} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.header("pax", kind, data.len() as u64, |_| {}).data(&data)
    }

    /// The archive, with the blocks that end it.
    pub fn end(&self) -> Vec<u8> {
        [&self.bytes[..], &[0; 1024]].concat()
    }

    /// A reader of the whole archive.
    pub fn reader(&self) -> Reader<std::io::Cursor<Vec<u8>>> {
        reader(self.end())
    }
}

pub fn reader(bytes: Vec<u8>) -> Reader<std::io::Cursor<Vec<u8>>> {
    Reader::new(std::io::Cursor::new(bytes), "sample.tar".as_ref())
}
