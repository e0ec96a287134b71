//! Single lies, each of which must be refused, and what must be accepted all the same.

use rafs::{Error, FileType, Ino};

use crate::fixtures::{self, put};

/// Opening the changed image fails, or checking it does.
fn refused(bytes: Vec<u8>) -> bool {
    match fixtures::open(bytes) {
        Err(_) => true,
        Ok(bootstrap) => {
            rafs::fuzzing::walk(&bootstrap);
            bootstrap.check().is_err()
        }
    }
}

/// A change: offset, bytes.
type Change = (usize, Vec<u8>);

fn changed(image: &str, changes: &[Change]) -> Vec<u8> {
    let mut bytes = fixtures::bytes(image);
    for (at, new) in changes {
        bytes[*at..at + new.len()].copy_from_slice(new);
    }
    bytes
}

fn u16s(at: usize, value: u16) -> Change {
    (at, value.to_le_bytes().to_vec())
}

fn u32s(at: usize, value: u32) -> Change {
    (at, value.to_le_bytes().to_vec())
}

fn u64s(at: usize, value: u64) -> Change {
    (at, value.to_le_bytes().to_vec())
}

#[test]
fn v6_superblocks() {
    const SB: usize = 1024;
    const EXT: usize = 1152;
    const SLOT: usize = 1408;
    const BLOB: usize = 4096;
    let bad: &[(&str, Change)] = &[
        ("magic", u32s(SB, 0)),
        ("checksum", u32s(SB + 4, 1)),
        ("no RAFS bit", u32s(SB + 8, 0)),
        ("block bits 9 without tarfs", (SB + 12, vec![9])),
        ("block bits 13", (SB + 12, vec![13])),
        ("extension slots", (SB + 13, vec![1])),
        ("root nid 0", u16s(SB + 14, 0)),
        ("root nid elsewhere", u16s(SB + 14, 130)),
        ("no inodes", u64s(SB + 16, 0)),
        ("too many inodes", u64s(SB + 16, 752)),
        ("endless inodes", u64s(SB + 16, u64::MAX)),
        ("inodes beyond the end", u32s(SB + 40, 0x1000)),
        ("shared attributes", u32s(SB + 44, 1)),
        ("incompatible feature", u32s(SB + 80, 0x1000c)),
        ("fewer features", u32s(SB + 80, 8)),
        ("union", u16s(SB + 84, 1)),
        ("no devices", u16s(SB + 86, 0)),
        ("two devices", u16s(SB + 86, 2)),
        ("255 devices", u16s(SB + 86, 255)),
        ("slots elsewhere", u16s(SB + 88, 12)),
        ("unknown flag", u64s(EXT, 0x0100_0074 | 0x1_0000_0000)),
        ("two compressors", u64s(EXT, 0x0100_00b5 | 0x2)),
        ("no digester", u64s(EXT, 0x0100_00b0)),
        ("two digesters", u64s(EXT, 0x0100_00bc)),
        ("blob table over the slots", u64s(EXT + 8, 0)),
        ("blob table unaligned", u64s(EXT + 8, 4097)),
        ("blob table beyond the end", u64s(EXT + 8, 1 << 20)),
        ("blob table at the end of numbers", u64s(EXT + 8, !0xfff)),
        ("blob table of half an entry", u32s(EXT + 16, 128)),
        ("chunk size no power", u32s(EXT + 20, 0x10_0001)),
        ("chunk size small", u32s(EXT + 20, 2048)),
        ("chunk size large", u32s(EXT + 20, 32 << 20)),
        ("another chunk size", u32s(EXT + 20, 0x8_0000)),
        ("chunk table beyond the end", u64s(EXT + 24, 1 << 40)),
        ("chunk table over the blob table", u64s(EXT + 24, 4096)),
        ("chunk table of half a record", u64s(EXT + 32, 40)),
        ("endless chunk table", u64s(EXT + 32, u64::MAX / 80 * 80)),
        ("prefetch table beyond the end", u64s(EXT + 40, 1 << 40)),
        ("prefetch table over the blob table", u64s(EXT + 40, 4096)),
        ("endless prefetch table", u32s(EXT + 48, u32::MAX)),
        ("slot tag", (SLOT, vec![b'f'])),
        ("slot without blocks", u32s(SLOT + 64, 0)),
        ("blob index", u32s(BLOB + 64, 1)),
        ("blob chunk size", u32s(BLOB + 68, 4096)),
        ("too many chunks", u32s(BLOB + 72, (1 << 24) + 1)),
        ("fewer chunks", u32s(BLOB + 72, 724)),
        ("compressor", u32s(BLOB + 76, 4)),
        ("digester", u32s(BLOB + 80, 2)),
        ("not aligned", u32s(BLOB + 84, 0x4000_0000)),
        ("unknown incompatible feature", u32s(BLOB + 84, 0x4000_1001)),
        ("internal feature", u32s(BLOB + 84, 0xc000_0001)),
        ("batch without long entries", u32s(BLOB + 84, 0x4000_0081)),
        ("tarfs in another image", u32s(BLOB + 84, 0x4000_0040)),
        ("encrypted without cipher", u32s(BLOB + 84, 0x4000_0105)),
        ("cipher without encryption", u32s(BLOB + 216, 1)),
        ("compressed size", u64s(BLOB + 88, (1 << 40) + 1)),
        ("uncompressed size unaligned", u64s(BLOB + 96, 7_593_985)),
        ("uncompressed size too small", u64s(BLOB + 96, 4096)),
        ("uncompressed size too large", u64s(BLOB + 96, 1 << 45)),
        ("chunk information size", u64s(BLOB + 128, 11_601)),
        ("chunk information larger stored", u64s(BLOB + 120, 11_601)),
        ("chunk information far away", u64s(BLOB + 112, u64::MAX)),
        ("chunk information compressor", u32s(BLOB + 108, 9)),
    ];
    for (what, change) in bad {
        // A table only counts if it has a size, so the image with one is used.
        let bytes = changed("v6-prefetch", std::slice::from_ref(change));
        assert_ne!(bytes, fixtures::bytes("v6-prefetch"), "{what}: changes nothing");
        assert!(refused(bytes), "{what}");
    }
    // Ids become file names; slot and table agree here.
    for id in [&b"a/b"[..], b"", b"..", b".", b"a\0b", b"\xff\xfe"] {
        let mut padded = id.to_vec();
        padded.resize(64, 0);
        assert!(refused(changed("v6-zstd", &[(SLOT, padded.clone()), (BLOB, padded)])), "{id:?}");
    }
    let good: &[(&str, Change)] = &[
        ("another compatible feature", u32s(SB + 8, 0xc000_0001)),
        ("blocks", u32s(SB + 36, 0)),
        ("uuid", (SB + 48, vec![7; 16])),
        ("mapped block", u32s(SLOT + 68, 0)),
        ("reserved flags", u64s(EXT, 0x0100_00b4 | 0xfc00_0000)),
        ("unknown compatible blob feature", u32s(BLOB + 84, 0x4100_0001)),
    ];
    for (what, change) in good {
        assert!(!refused(changed("v6-prefetch", std::slice::from_ref(change))), "{what}");
    }
}

#[test]
fn v6_inodes() {
    let image = "v6-zstd";
    let bytes = fixtures::bytes(image);
    let bootstrap = fixtures::open(bytes.clone()).unwrap();
    let at = |path: &str| fixtures::v6_inode(&bytes, fixtures::find(&bootstrap, path));
    let (file, link, directory, special) = (at("etc/services"), at("usr/prog"), at("d1/d2"), at("dev/pipe"));
    let (with_xattr, large) = (at("lib/prog"), at("exact1m1"));
    let bad: &[(&str, Change)] = &[
        ("format bit", u16s(file, 0x19)),
        ("file with plain layout", u16s(file, 1)),
        ("directory with chunk layout", u16s(directory, 9)),
        ("symlink with chunk layout", u16s(link, 9)),
        ("symlink with layout 1", u16s(link, 3)),
        ("fifo with inline layout", u16s(special, 5)),
        ("attributes beyond the end", u16s(file + 2, u16::MAX)),
        ("no type", u16s(file + 4, 0o644)),
        ("unknown type", u16s(file + 4, 0o170_644)),
        ("another type", u16s(file + 4, 0o120_644)),
        ("no links", u32s(file + 44, 0)),
        ("nanoseconds", u32s(file + 40, 1_000_000_000)),
        ("endless file", u64s(file + 8, u64::MAX)),
        ("long file", u64s(file + 8, i64::MAX as u64)),
        ("short addresses", u32s(file + 16, 8)),
        ("unknown chunk format", u32s(file + 16, 0x68)),
        ("chunk of no blob", (file + 64 + 2, vec![0])),
        ("chunk of another blob", (file + 64 + 2, vec![2])),
        ("chunk index", u16s(file + 64, 725)),
        ("chunk index, high", (file + 64 + 3, vec![1])),
        ("chunk beyond the device", u32s(file + 64 + 4, 1854)),
        ("hole", u32s(file + 64 + 4, u32::MAX)),
        ("second chunk of no blob", (large + 72 + 2, vec![0])),
        ("empty symlink", u64s(link + 8, 0)),
        ("long symlink", u64s(link + 8, 4097)),
        ("symlink across blocks", u64s(link + 8, 4090)),
        ("symlink with NUL", (link + 64 + 3, vec![0])),
        ("empty directory", u64s(directory + 8, 0)),
        ("endless directory", u64s(directory + 8, u64::MAX)),
        ("long directory", u64s(directory + 8, 1 << 20)),
        ("directory blocks far away", u32s(at("many") + 16, u32::MAX)),
        ("directory blocks elsewhere", u32s(at("many") + 16, 0)),
        ("first name", u16s(directory + 64 + 8, 0)),
        ("first name in an entry", u16s(directory + 64 + 8, 13)),
        ("first name behind the block", u16s(directory + 64 + 8, 1200)),
        ("names that descend", u16s(directory + 64 + 12 + 8, 1)),
        ("nid 0", u64s(directory + 64 + 24, 0)),
        ("nid far away", u64s(directory + 64 + 24, u64::MAX)),
        ("nid at the end of numbers", u64s(directory + 64 + 24, u64::MAX / 32)),
        ("shared attributes", (with_xattr + 64 + 4, vec![1])),
        ("unknown prefix", (with_xattr + 64 + 13, vec![5])),
        ("prefix without suffix", (with_xattr + 64 + 12, vec![0])),
        ("value beyond the area", u16s(with_xattr + 64 + 14, 1000)),
    ];
    for (what, change) in bad {
        let bytes = changed(image, std::slice::from_ref(change));
        assert_ne!(bytes, fixtures::bytes(image), "{what}: changes nothing");
        assert!(refused(bytes), "{what}");
    }
}

#[test]
fn v6_chunks_beyond_16_bits() {
    let mut bytes = fixtures::bytes("v6-zstd");
    let one = fixtures::find(&fixtures::open(bytes.clone()).unwrap(), "one");
    let address = fixtures::v6_inode(&bytes, one) + 64;
    put(&mut bytes, 4096 + 72, 0x12_3457_u32.to_le_bytes());
    put(&mut bytes, 4096 + 128, (16 * 0x12_3457_u64).to_le_bytes());
    put(&mut bytes, address, 0x3456_u16.to_le_bytes());
    bytes[address + 3] = 0x12;
    let bootstrap = fixtures::open(bytes).unwrap();
    let extent = bootstrap.extents(one, 0, 1).unwrap().next().unwrap().unwrap();
    let storage::blob::Extent::Chunk { chunk_index, .. } = extent else { panic!("{extent:?}") };
    assert_eq!(chunk_index, 0x12_3456);
}

#[test]
fn v5_superblocks() {
    let image = "v5-none-prefetch";
    let bytes = fixtures::bytes(image);
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let (blob_table, extended) = (number(48) as usize, number(72) as usize);
    let bad: &[(&str, Change)] = &[
        ("magic", u32s(0, 0)),
        ("version 4", u32s(4, 0x400)),
        ("superblock size", u32s(8, 4096)),
        ("chunk size no power", u32s(12, 0x10_0001)),
        ("chunk size small", u32s(12, 2048)),
        ("chunk size large", u32s(12, 32 << 20)),
        ("another chunk size", u32s(12, 0x8_0000)),
        ("unknown flag", u64s(16, 0x1_0000_0039)),
        ("tarfs", u64s(16, 0x239)),
        ("encrypted", u64s(16, 0x0200_0039)),
        ("two compressors", u64s(16, 0x3b)),
        ("no digester", u64s(16, 0x31)),
        ("more inodes than entries", u64s(24, 752)),
        ("another inode count", u64s(24, 700)),
        ("inode table unaligned", u64s(32, 8196)),
        ("inode table in the superblock", u64s(32, 4096)),
        ("inode table beyond the end", u64s(32, !7)),
        ("prefetch table over the inode table", u64s(40, 8192)),
        ("blob table over the inode table", u64s(48, 8192)),
        ("no entries", u32s(56, 0)),
        ("endless entries", u32s(56, u32::MAX)),
        ("endless prefetch table", u32s(60, u32::MAX)),
        ("endless blob table", u32s(64, u32::MAX)),
        ("no blobs", u32s(64, 0)),
        ("endless extended table", u32s(68, u32::MAX)),
        ("extended table over the inode table", u64s(72, 8192)),
        ("id with a slash", (blob_table + 8, b"a/b".to_vec())),
        ("id with a NUL, and so a second blob", (blob_table + 8 + 20, vec![0])),
        ("id not UTF-8", (blob_table + 8, vec![0xff])),
        ("empty id", (blob_table + 8, vec![0])),
        ("too many chunks", u32s(extended, (1 << 24) + 1)),
        ("fewer chunks", u32s(extended, 1)),
        ("unknown feature", u32s(extended + 4, 0x4000_1000)),
        ("internal feature", u32s(extended + 4, 0x8000_0000)),
        ("encrypted blob", u32s(extended + 4, 0x4000_0100)),
        ("uncompressed size", u64s(extended + 8, 4096)),
        ("endless uncompressed size", u64s(extended + 8, u64::MAX)),
        ("compressed size", u64s(extended + 16, 4096)),
        ("endless compressed size", u64s(extended + 16, u64::MAX)),
    ];
    for (what, change) in bad {
        let bytes = changed(image, std::slice::from_ref(change));
        assert_ne!(bytes, fixtures::bytes(image), "{what}: changes nothing");
        assert!(refused(bytes), "{what}");
    }
    let good: &[(&str, Change)] = &[
        ("no extended table, as in old images", u32s(68, 0)),
        ("no prefetch table", u32s(60, 0)),
        ("reserved flags", u64s(16, 0xfc00_0039)),
        ("unknown sizes", (extended, vec![0; 24])),
    ];
    for (what, change) in good {
        assert!(!refused(changed(image, std::slice::from_ref(change))), "{what}");
    }
}

#[test]
fn v5_without_an_extended_table_knows_no_sizes() {
    let bootstrap = fixtures::open(changed("v5-none-prefetch", &[u32s(68, 0)])).unwrap();
    let blob = &bootstrap.blobs()[0];
    assert_eq!((blob.chunk_count, blob.compressed_size, blob.uncompressed_size), (0, 0, 0));
    assert!(blob.features.is_empty());
    assert_eq!(blob.data_size(), None);
}

#[test]
fn v5_inodes() {
    let image = "v5-none-prefetch";
    let bytes = fixtures::bytes(image);
    let bootstrap = fixtures::open(bytes.clone()).unwrap();
    let at = |path: &str| fixtures::v5_inode(&bytes, fixtures::find(&bootstrap, path));
    let slot = |path: &str| 8192 + 4 * (fixtures::find(&bootstrap, path).0 as usize - 1);
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let (file, link, directory, root) = (at("etc/services"), at("usr/prog"), at("d1/d2"), at(""));
    let chunk = file + 128 + 8;
    let large = at("exact1m1");
    let second = fixtures::find(&bootstrap, "lib/prog").0 + 1;
    let hard = fixtures::v5_inode(&bytes, Ino(second));
    let with_xattr = at("lib/prog") + 128 + 8;
    let bad: &[(&str, Change)] = &[
        ("offset in the superblock", u32s(slot("one"), 1024)),
        ("offset in the inode table", u32s(slot("one"), 1025)),
        ("offset beyond 4 GiB", u32s(slot("one"), 1 << 29)),
        ("offset beyond the end", u32s(slot("one"), (1 << 29) - 1)),
        ("a record twice", u32s(slot("one"), word(slot("empty")))),
        ("a record inside another", u32s(slot("one"), word(slot("empty")) + 1)),
        ("parent is itself", u64s(file + 32, fixtures::find(&bootstrap, "etc/services").0)),
        ("parent 0", u64s(file + 32, 0)),
        ("root with a parent", u64s(root + 32, 1)),
        ("number 0", u64s(file + 40, 0)),
        ("number of another", u64s(file + 40, 3)),
        ("number beyond the entries", u64s(hard + 40, 1 << 33)),
        ("hard link to another file", u64s(hard + 40, fixtures::find(&bootstrap, "one").0)),
        ("hard link to a directory", u64s(hard + 40, 1)),
        ("hard link with another owner", u32s(hard + 48, 77)),
        ("hard link with another chunk", (hard + 128 + 16 + 8, vec![0xff])),
        ("no type", u32s(file + 60, 0o644)),
        ("no links", u32s(file + 88, 0)),
        ("nanoseconds", u32s(file + 108, 1_000_000_000)),
        ("size needs more chunks", u64s(file + 64, 0x10_0001)),
        ("size needs other chunks", u64s(file + 64, 5)),
        ("endless size", u64s(file + 64, u64::MAX)),
        ("more chunks", u32s(file + 96, 2)),
        ("endless chunks", u32s(file + 96, u32::MAX)),
        ("children before the directory", u32s(directory + 92, 1)),
        ("children beyond the entries", u32s(directory + 92, 751)),
        ("endless children", u32s(directory + 96, u32::MAX)),
        ("no name", u16s(file + 100, 0)),
        ("long name", u16s(file + 100, 256)),
        ("endless name", u16s(file + 100, u16::MAX)),
        ("name with a slash", (file + 128, vec![b'/'])),
        ("name with a NUL", (file + 129, vec![0])),
        ("name is a link", (at("one") + 128, b"..".to_vec())),
        ("empty symlink", u16s(link + 102, 0)),
        ("symlink with NUL", (link + 128 + 8, vec![0])),
        ("attributes that are not there", u64s(file + 80, 4)),
        ("endless attributes", u64s(with_xattr, u64::MAX)),
        ("pair beyond the area", u32s(with_xattr + 8, 1000)),
        ("pair of nothing", u32s(with_xattr + 8, 0)),
        ("chunk of another blob", u32s(chunk + 32, 1)),
        ("hole chunk", u32s(chunk + 36, 2)),
        ("encrypted chunk", u32s(chunk + 36, 4)),
        ("batched chunk", u32s(chunk + 36, 8)),
        ("unknown chunk flag", u32s(chunk + 36, 0x20)),
        ("chunk stored longer", u32s(chunk + 40, 20_000)),
        ("chunk larger", u32s(chunk + 44, 20_000)),
        ("chunk of nothing", u32s(chunk + 44, 0)),
        ("chunk stored elsewhere", u64s(chunk + 48, u64::MAX)),
        ("chunk behind the blob", u64s(chunk + 48, 4_665_812)),
        ("chunk placed elsewhere", u64s(chunk + 56, u64::MAX)),
        ("chunk of another place", u64s(chunk + 64, 1)),
        ("chunks in disorder", u64s(large + 128 + 8 + 80 + 64, 0)),
        ("chunk index", u32s(chunk + 72, 100_000)),
    ];
    for (what, change) in bad {
        let bytes = changed(image, std::slice::from_ref(change));
        assert_ne!(bytes, fixtures::bytes(image), "{what}: changes nothing");
        assert!(refused(bytes), "{what}");
    }
    let good: &[(&str, Change)] = &[
        ("a CRC of 0 may be right", u32s(chunk + 76, 0)),
        ("no CRC", u32s(chunk + 36, 0)),
        ("device number of a file", u32s(file + 104, u32::MAX)),
        ("the hard-link flag", u64s(file + 80, 2)),
        ("reserved bytes", (file + 120, vec![9; 8])),
        ("blocks", u64s(file + 72, u64::MAX)),
    ];
    for (what, change) in good {
        assert!(!refused(changed(image, std::slice::from_ref(change))), "{what}");
    }
    let bootstrap = fixtures::open(changed(image, &[u32s(file + 104, u32::MAX)])).unwrap();
    assert_eq!(bootstrap.attributes(fixtures::find(&bootstrap, "etc/services")).unwrap().rdev, 0);
}

#[test]
fn old_and_future_times() {
    for (image, offset) in [("v5-zstd-blake3", 112), ("v6-zstd", 32)] {
        let mut bytes = fixtures::bytes(image);
        let bootstrap = fixtures::open(bytes.clone()).unwrap();
        let one = fixtures::find(&bootstrap, "one");
        let inode = match bootstrap.version() {
            rafs::Version::V5 => fixtures::v5_inode(&bytes, one),
            rafs::Version::V6 => fixtures::v6_inode(&bytes, one),
        };
        for mtime in [-5_000_000_000_i64, i64::MIN, 9_999_999_999] {
            put(&mut bytes, inode + offset, mtime.to_le_bytes());
            let bootstrap = fixtures::open(bytes.clone()).unwrap();
            assert_eq!(bootstrap.attributes(one).unwrap().mtime, mtime, "{image}");
        }
    }
}

#[test]
fn empty_images() {
    // v5: a root without children, no blobs; all tables but the inode table are empty.
    let mut v5 = fixtures::bytes("v5-zstd-blake3");
    let root = fixtures::v5_inode(&v5, Ino(1));
    let record = v5[root..root + 136].to_vec();
    v5.truncate(8192);
    v5.extend_from_slice(&(8200_u32 / 8).to_le_bytes());
    v5.extend_from_slice(&[0; 4]);
    v5.extend_from_slice(&record);
    put(&mut v5, 24, 1_u64.to_le_bytes());
    for table in [40, 48, 72] {
        put(&mut v5, table, 8200_u64.to_le_bytes());
    }
    put(&mut v5, 56, 1_u32.to_le_bytes());
    put(&mut v5, 64, [0; 8]);
    put(&mut v5, 8200 + 96, 0_u32.to_le_bytes());
    assert_eq!(v5.len(), 8336);

    // v6: no blobs, nid 0 at offset 0, so the root lies at 4096; chunk table behind it.
    let mut v6 = fixtures::bytes("v6-zstd");
    v6.truncate(4096);
    v6.resize(12288, 0);
    put(&mut v6, 1024 + 16, 1_u64.to_le_bytes());
    put(&mut v6, 1024 + 36, 0_u32.to_le_bytes());
    put(&mut v6, 1024 + 40, 0_u32.to_le_bytes());
    put(&mut v6, 1024 + 86, 0_u16.to_le_bytes());
    put(&mut v6, 1152 + 16, 0_u32.to_le_bytes());
    put(&mut v6, 1152 + 24, 8192_u64.to_le_bytes());
    put(&mut v6, 1152 + 32, 0_u64.to_le_bytes());
    // A size without an offset: the legacy form of no prefetch table.
    put(&mut v6, 1152 + 48, 8_u32.to_le_bytes());
    let (inode, data) = (4096, 4096 + 64);
    put(&mut v6, inode, 5_u16.to_le_bytes());
    put(&mut v6, inode + 4, 0o040_755_u16.to_le_bytes());
    put(&mut v6, inode + 8, 27_u64.to_le_bytes());
    put(&mut v6, inode + 44, 2_u32.to_le_bytes());
    for (entry, name_offset) in [(data, 24_u16), (data + 12, 25)] {
        put(&mut v6, entry, 128_u64.to_le_bytes());
        put(&mut v6, entry + 8, name_offset.to_le_bytes());
        v6[entry + 10] = 2;
    }
    put(&mut v6, data + 24, *b"...");

    for bytes in [v5, v6] {
        let bootstrap = fixtures::open(bytes).unwrap();
        assert_eq!(bootstrap.blobs().len(), 0);
        assert_eq!(bootstrap.attributes(bootstrap.root()).unwrap().file_type, FileType::Directory);
        assert_eq!(bootstrap.read_dir(bootstrap.root(), 0).unwrap().count(), 0);
        assert_eq!(bootstrap.lookup(bootstrap.root(), b"x").unwrap(), None);
        assert_eq!(bootstrap.prefetch_inodes().unwrap(), []);
        let summary = bootstrap.check().unwrap();
        assert_eq!((summary.directories, summary.files, summary.depth), (1, 0, 1));
    }
}

#[test]
fn errors_say_where_and_what() {
    let error = fixtures::open(changed("v6-zstd", &[u32s(1024 + 4, 7)])).unwrap_err();
    assert_eq!(error.to_string(), "image.boot: corrupt at offset 0x404: checksum: expected 0, found 7");
    assert!(matches!(fixtures::open(vec![0; 9000]), Err(Error::NotBootstrap { .. })));
    assert!(matches!(
        fixtures::open(changed("v6-zstd", &[u32s(1024 + 80, 0xd)])),
        Err(Error::Unsupported { .. })
    ));
}
