//! Which bytes of a sparse file an archive has: the maps of GNU tar, in its old form and in PAX 0.0, 0.1 and 1.0.

use super::number::{decimal, field};

/// The most pieces of data that a file may have; a bound on memory, 16 bytes each.
const MAX_SEGMENTS: usize = 1 << 22;

/// Some data of a file; what lies between segments is a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where in the file.
    pub offset: u64,
    /// Bytes, never 0.
    pub len: u64,
}

/// The data of a file, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Map {
    segments: Vec<Segment>,
    end: u64,
    stored: u64,
}

impl Map {
    /// All of a file that has no holes.
    pub fn whole(size: u64) -> Self {
        let mut segments = Vec::new();
        if size > 0 {
            segments.push(Segment { offset: 0, len: size });
        }
        Self { segments, end: size, stored: size }
    }

    /// Adds a segment behind those that are there.
    pub fn push(&mut self, offset: u64, len: u64) -> Result<(), String> {
        let end = offset.checked_add(len).filter(|end| *end <= i64::MAX as u64);
        let Some(end) = end.filter(|_| offset >= self.end) else {
            return Err(format!(
                "the sparse map has {len} bytes at {offset} behind what ends at {}",
                self.end
            ));
        };
        if self.segments.len() >= MAX_SEGMENTS {
            return Err(format!("the sparse map has more than {MAX_SEGMENTS} segments"));
        }
        self.end = end;
        if len > 0 {
            self.segments.push(Segment { offset, len });
            // Not more than the end.
            self.stored += len;
        }
        Ok(())
    }

    /// The segments of a file of `size` bytes, of which the archive stores `stored`.
    pub fn finish(self, size: u64, stored: u64) -> Result<Vec<Segment>, String> {
        if self.end > size {
            return Err(format!("the sparse map ends at {}, the file at {size}", self.end));
        }
        if self.stored != stored {
            return Err(format!("the sparse map has {} bytes, the archive {stored}", self.stored));
        }
        Ok(self.segments)
    }
}

/// Adds the entries of an old GNU header or of a block that continues it: pairs of fields of 12 bytes.
pub fn add_gnu_entries(map: &mut Map, entries: &[tar::GnuSparseHeader]) -> Result<(), String> {
    for entry in entries {
        // The first empty one ends the list.
        if entry.is_empty() {
            break;
        }
        map.push(unsigned(field(&entry.offset)?)?, unsigned(field(&entry.numbytes)?)?)?;
    }
    Ok(())
}

fn unsigned(number: i64) -> Result<u64, String> {
    u64::try_from(number).map_err(|_| format!("{number} in a sparse map"))
}

/// What PAX records say of a sparse file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PaxSparse<'a> {
    /// The name of the file: the header has a made-up one.
    pub name: Option<&'a [u8]>,
    major: Option<u64>,
    minor: Option<u64>,
    size: Option<u64>,
    map: Option<Map>,
    /// 0.0: the offset whose length has not come yet.
    pending: Option<u64>,
}

/// The sparse file that PAX records describe.
#[derive(Debug, PartialEq, Eq)]
pub enum PaxMap {
    /// Size, and map.
    Here(u64, Map),
    /// Size; the map is in front of the data.
    InData(u64),
}

impl<'a> PaxSparse<'a> {
    /// Notes a record; its key lacks `GNU.sparse.`.
    pub fn set(&mut self, key: &[u8], value: &'a [u8]) -> Result<(), String> {
        match key {
            b"name" => self.name = (!value.is_empty()).then_some(value),
            b"major" => self.major = Some(decimal(value)?),
            b"minor" => self.minor = Some(decimal(value)?),
            b"size" | b"realsize" => self.size = Some(decimal(value)?),
            // Told by the map as well.
            b"numblocks" => drop(self.map.get_or_insert_default()),
            b"offset" => {
                let before = self.pending.replace(decimal(value)?);
                before.map_or(Ok(()), |_| Err("two offsets, and no length between them"))?;
            }
            b"numbytes" => {
                let offset = self.pending.take().ok_or("a length without an offset")?;
                self.map.get_or_insert_default().push(offset, decimal(value)?)?;
            }
            b"map" => {
                let mut map = Map::default();
                let mut numbers = value.split(|byte| *byte == b',').filter(|text| !text.is_empty());
                while let Some(offset) = numbers.next() {
                    let len = numbers.next().ok_or("an offset without a length")?;
                    map.push(decimal(offset)?, decimal(len)?)?;
                }
                self.map = Some(map);
            }
            _ => {}
        }
        Ok(())
    }

    /// The map, or `None` if the file is an ordinary one.
    pub fn take_map(&mut self) -> Result<Option<PaxMap>, String> {
        let size = || self.size.ok_or("a sparse file without a size");
        match (self.major, self.minor.unwrap_or(0)) {
            (None | Some(0), _) => match self.map.take() {
                Some(_) if self.pending.is_some() => Err("an offset without a length".into()),
                Some(map) => Ok(Some(PaxMap::Here(size()?, map))),
                None => Ok(None),
            },
            (Some(1), 0) => Ok(Some(PaxMap::InData(size()?))),
            (Some(major), minor) => Err(format!("sparse files of version {major}.{minor} are not known")),
        }
    }
}

/// Takes the map of version 1.0 apart, which comes block by block: decimal numbers, a newline behind each. The first
/// one tells how many pairs follow.
#[derive(Debug, Default)]
pub struct MapInData {
    map: Map,
    digits: Vec<u8>,
    pairs: Option<u64>,
    offset: Option<u64>,
}

impl MapInData {
    /// Takes a block; true if the map is complete.
    pub fn add(&mut self, block: &[u8]) -> Result<bool, String> {
        for byte in block {
            if *byte != b'\n' {
                if self.digits.len() >= 20 {
                    return Err("the sparse map has a number of more than 20 digits".into());
                }
                self.digits.push(*byte);
                continue;
            }
            let number = decimal(&self.digits).map_err(|fault| format!("sparse map: {fault}"))?;
            self.digits.clear();
            match (&mut self.pairs, self.offset.take()) {
                (None, _) => self.pairs = Some(number),
                (Some(_), None) => self.offset = Some(number),
                (Some(pairs), Some(offset)) => {
                    self.map.push(offset, number)?;
                    // Not 0: then the map was complete.
                    *pairs -= 1;
                }
            }
            if self.pairs == Some(0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The map, once it is complete.
    pub fn into_map(self) -> Map {
        self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(u64, u64)]) -> Map {
        let mut map = Map::default();
        for (offset, len) in pairs {
            map.push(*offset, *len).unwrap();
        }
        map
    }

    #[test]
    fn maps_ascend_inside_the_file_and_have_what_is_stored() {
        assert_eq!(
            map(&[(0, 0), (512, 3), (600, 0)]).finish(600, 3).unwrap(),
            [Segment { offset: 512, len: 3 }]
        );
        assert!(map(&[(0, 4)]).push(3, 1).is_err());
        assert!(map(&[]).push(u64::MAX, 1).is_err());
        assert!(map(&[(0, 4)]).finish(3, 4).is_err());
        assert!(map(&[(0, 4)]).finish(4, 3).is_err());
    }

    #[test]
    fn the_three_pax_forms_say_the_same() {
        let expected = map(&[(0, 512), (1024, 7)]);
        let mut sparse = PaxSparse::default();
        for (key, value) in [("size", "2048"), ("numblocks", "2"), ("offset", "0"), ("numbytes", "512")] {
            sparse.set(key.as_bytes(), value.as_bytes()).unwrap();
        }
        sparse.set(b"offset", b"1024").unwrap();
        assert!(
            PaxSparse { pending: Some(1), map: Some(Map::default()), ..PaxSparse::default() }
                .take_map()
                .is_err()
        );
        sparse.set(b"numbytes", b"7").unwrap();
        assert_eq!(sparse.take_map().unwrap(), Some(PaxMap::Here(2048, expected.clone())));

        let mut sparse = PaxSparse::default();
        sparse.set(b"size", b"2048").unwrap();
        sparse.set(b"map", b"0,512,1024,7").unwrap();
        assert_eq!(sparse.take_map().unwrap(), Some(PaxMap::Here(2048, expected.clone())));

        let mut sparse = PaxSparse::default();
        for (key, value) in [("major", "1"), ("minor", "0"), ("realsize", "2048")] {
            sparse.set(key.as_bytes(), value.as_bytes()).unwrap();
        }
        assert_eq!(sparse.take_map().unwrap(), Some(PaxMap::InData(2048)));
        let mut reader = MapInData::default();
        assert!(!reader.add(b"2\n0\n51").unwrap());
        assert!(reader.add(b"2\n1024\n7\n\0\0\0").unwrap());
        assert_eq!(reader.into_map(), expected);
        assert!(MapInData::default().add(b"0\n").unwrap());
        assert!(MapInData::default().add(b"1\n-1\n").is_err());
        assert!(MapInData::default().add(&[b'1'; 512]).is_err());
    }

    #[test]
    fn an_ordinary_file_has_no_map() {
        assert_eq!(PaxSparse::default().take_map().unwrap(), None);
    }
}
