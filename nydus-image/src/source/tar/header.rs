//! A header block, and the extensions before it, as an entry.

use std::borrow::Cow;

use tar::Header;

use super::entry::{Entry, Kind};
use super::number::field;
use super::pax::Records;
use super::sparse::{Map, PaxMap, add_gnu_entries};

/// What comes in front of a header and belongs to it.
#[derive(Debug, Default)]
pub struct Extensions {
    /// PAX records.
    pub pax: Vec<u8>,
    /// The path, as GNU tar writes long ones.
    pub long_name: Option<Vec<u8>>,
    /// The same of links.
    pub long_link: Option<Vec<u8>>,
}

/// A header, understood.
#[derive(Debug)]
pub struct Parsed {
    /// The entry; where its data begins is not known yet.
    pub entry: Entry,
    /// Bytes that follow in the archive, without padding.
    pub stored: u64,
    /// Which bytes of the file they are.
    pub data: Data,
}

/// Which bytes of a file an archive has.
#[derive(Debug)]
pub enum Data {
    /// As mapped.
    Mapped(Map),
    /// The map goes on in the blocks behind the header.
    OldGnu(Map),
    /// The map is the first of the data.
    MappedInside,
}

/// True if the checksum is that of the block. Some writers have added up signed bytes.
pub fn has_checksum(header: &Header) -> bool {
    let bytes = header.as_bytes();
    let sums = bytes.iter().enumerate().fold((0_i64, 0_i64), |(unsigned, signed), (at, byte)| {
        // The field itself counts as spaces.
        let byte = if (148..156).contains(&at) { b' ' } else { *byte };
        (unsigned + i64::from(byte), signed + i64::from(byte as i8))
    });
    field(&header.as_old().cksum).is_ok_and(|sum| sum == sums.0 || sum == sums.1)
}

/// The bytes that follow the header of an extension.
pub fn size(header: &Header) -> Result<u64, String> {
    let size = field(&header.as_old().size).map_err(|fault| format!("size: {fault}"))?;
    u64::try_from(size).map_err(|_| format!("a size of {size}"))
}

/// Understands a header that is none of an extension. `global` are the records that hold for all entries.
pub fn parse(header: &Header, global: &[u8], extensions: &Extensions) -> Result<Parsed, String> {
    let mut records = Records::default();
    records.add(global)?;
    records.add(&extensions.pax)?;
    let old = header.as_old();
    let named = |what: &'static str| move |fault| format!("{what}: {fault}");

    let path = match (records.sparse.name.or(records.path), &extensions.long_name) {
        (Some(path), _) => path.to_vec(),
        (None, Some(path)) => path.clone(),
        (None, None) => header.path_bytes().into_owned(),
    };
    let link = || match (records.link_path, &extensions.long_link) {
        (Some(path), _) => path.to_vec(),
        (None, Some(path)) => path.clone(),
        (None, None) => header.link_name_bytes().unwrap_or_default().into_owned(),
    };
    let kind_byte = header.entry_type().as_byte();
    let mut stored = 0;
    let mut data = Data::Mapped(Map::default());
    let kind = match kind_byte {
        b'0' | b'\0' | b'7' | b'S' => {
            stored = records.size.map_or_else(|| size(header), Ok)?;
            if stored > i64::MAX as u64 {
                return Err(format!("a size of {stored}"));
            }
            if path.ends_with(b"/") {
                // As the first tars wrote directories.
                if stored != 0 || kind_byte == b'S' {
                    return Err("a file whose name ends with a slash".into());
                }
                Kind::Directory
            } else {
                let (size, is_sparse, found) = content(header, &mut records, stored)?;
                data = found;
                Kind::Regular { size, is_sparse }
            }
        }
        // Whatever size they have, no data follows.
        b'1' => Kind::HardLink { target: link() },
        b'2' => Kind::Symlink { target: link() },
        b'3' => Kind::CharDevice { device: device(header)? },
        b'4' => Kind::BlockDevice { device: device(header)? },
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        other => return Err(format!("an entry of type {:?}, which is not known", char::from(other))),
    };

    let id = |what, record: Option<u64>, bytes: &[u8]| {
        let number = record.map_or_else(|| field(bytes), |id| i64::try_from(id).map_err(|_| id.to_string()));
        let number = number.map_err(named(what))?;
        u32::try_from(number).map_err(|_| format!("{what}: {number} is not a number of 32 bits"))
    };
    let (mtime, mtime_nsec) = match records.mtime {
        Some(time) => time,
        None => (field(&old.mtime).map_err(named("mtime"))?, 0),
    };
    // Only the lowest bits, which all numbers have.
    let mode = (field(&old.mode).map_err(named("mode"))? & 0o7777) as u32;
    let owned = |(name, value): &(Cow<'_, [u8]>, &[u8])| (name.to_vec(), value.to_vec());
    let entry = Entry {
        kind,
        mode,
        uid: id("uid", records.uid, &old.uid)?,
        gid: id("gid", records.gid, &old.gid)?,
        mtime,
        mtime_nsec,
        xattrs: records.xattrs.iter().map(owned).collect(),
        path,
        header_position: 0,
        data_position: 0,
    };
    Ok(Parsed { entry, stored, data })
}

/// Size of a regular file, whether the archive lacks some of it, and what it has.
fn content(header: &Header, records: &mut Records<'_>, stored: u64) -> Result<(u64, bool, Data), String> {
    let bounded = |size: u64| match size <= i64::MAX as u64 {
        true => Ok(size),
        false => Err(format!("a size of {size}")),
    };
    if header.entry_type().as_byte() == b'S' {
        let gnu = header.as_gnu().ok_or("a sparse file without a GNU header")?;
        let size = field(&gnu.realsize).map_err(|fault| format!("size of a sparse file: {fault}"))?;
        let size = u64::try_from(size).map_err(|_| format!("a size of {size}"))?;
        let mut map = Map::default();
        add_gnu_entries(&mut map, &gnu.sparse)?;
        let data = if gnu.is_extended() { Data::OldGnu(map) } else { Data::Mapped(map) };
        return Ok((size, true, data));
    }
    Ok(match records.sparse.take_map()? {
        None => (stored, false, Data::Mapped(Map::whole(stored))),
        Some(PaxMap::Here(size, map)) => (bounded(size)?, true, Data::Mapped(map)),
        Some(PaxMap::InData(size)) => (bounded(size)?, true, Data::MappedInside),
    })
}

fn device(header: &Header) -> Result<(u32, u32), String> {
    let (major, minor) = match (header.as_ustar(), header.as_gnu()) {
        (Some(ustar), _) => (&ustar.dev_major, &ustar.dev_minor),
        (None, Some(gnu)) => (&gnu.dev_major, &gnu.dev_minor),
        (None, None) => return Err("a device without a number".into()),
    };
    let number = |bytes: &[u8]| {
        let number = field(bytes).map_err(|fault| format!("device number: {fault}"))?;
        u32::try_from(number).map_err(|_| format!("device number: {number}"))
    };
    let (major, minor) = (number(major)?, number(minor)?);
    // What the formats can hold.
    if major >= 1 << 12 || minor >= 1 << 20 {
        return Err(format!("device number {major}:{minor}, expected under 4096:1048576"));
    }
    Ok((major, minor))
}
