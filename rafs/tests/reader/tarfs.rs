//! Images of plain tars, which have blocks of 512 bytes: made by hand, byte for byte as the format asks.

use rafs::{FileType, Ino};
use storage::blob::{DigestSource as _, Extent};

use crate::fixtures::{self, put};

const BLOCK: usize = 512;
/// Where nids count from, and the nids of what the image holds.
const META: usize = 8192;
const ROOT: usize = 128;
const LINK: usize = ROOT + 32;
const FILE: usize = ROOT + 64;
/// The whole blocks of the root and of the link.
const ROOT_BLOCKS: usize = META + 8192;
const LINK_BLOCKS: usize = META + 16384;
const TAR_SIZE: u64 = 4_000_000;
const FILE_SIZE: u64 = 3_000_000;
/// Files in the root, all hard links to one; with `.`, `..` and the link they take several blocks.
const FILES: usize = 100;

fn name(number: usize) -> Vec<u8> {
    format!("file-{number:03}").into_bytes()
}

/// Packs entries into blocks as the writer does: as many as fit, zeros behind them.
fn pack(entries: &[(Vec<u8>, usize, u8)]) -> Vec<u8> {
    let mut blocks = Vec::new();
    let mut rest = entries;
    while !rest.is_empty() {
        blocks.resize(blocks.len().next_multiple_of(BLOCK), 0);
        let mut used = 0;
        let fit = rest.iter().take_while(|(name, ..)| {
            used += 12 + name.len();
            used <= BLOCK
        });
        let (now, later) = rest.split_at(fit.count());
        let mut offset = 12 * now.len();
        for (name, nid, file_type) in now {
            blocks.extend_from_slice(&(*nid as u64).to_le_bytes());
            blocks.extend_from_slice(&(offset as u16).to_le_bytes());
            blocks.extend_from_slice(&[*file_type, 0]);
            offset += name.len();
        }
        now.iter().for_each(|(name, ..)| blocks.extend_from_slice(name));
        rest = later;
    }
    blocks
}

fn inode(image: &mut [u8], nid: usize, layout: u16, mode: u16, size: u64, union: u32, nlink: u32) -> usize {
    let at = META + 32 * nid;
    put(image, at, (layout << 1 | 1).to_le_bytes());
    put(image, at + 4, mode.to_le_bytes());
    put(image, at + 8, size.to_le_bytes());
    put(image, at + 16, union.to_le_bytes());
    put(image, at + 44, nlink.to_le_bytes());
    at + 64
}

fn target() -> Vec<u8> {
    (0..1200).map(|at| b'a' + (at % 26) as u8).collect()
}

fn image() -> Vec<u8> {
    let mut image = vec![0; META + 20480];
    let superblock = 1024;
    put(&mut image, superblock, 0xe0f5_e1e2_u32.to_le_bytes());
    put(&mut image, superblock + 8, 0x4000_0000_u32.to_le_bytes());
    image[superblock + 12] = 9;
    put(&mut image, superblock + 14, (ROOT as u16).to_le_bytes());
    put(&mut image, superblock + 16, (FILES as u64 + 2).to_le_bytes());
    put(&mut image, superblock + 40, ((META / BLOCK) as u32).to_le_bytes());
    put(&mut image, superblock + 80, 0xc_u32.to_le_bytes());
    put(&mut image, superblock + 86, 1_u16.to_le_bytes());
    put(&mut image, superblock + 88, 11_u16.to_le_bytes());
    let extension = 1152;
    put(&mut image, extension, 0x0100_0215_u64.to_le_bytes());
    put(&mut image, extension + 8, 4096_u64.to_le_bytes());
    put(&mut image, extension + 16, 256_u32.to_le_bytes());
    put(&mut image, extension + 20, 0x10_0000_u32.to_le_bytes());
    // The chunk table: one record, digest 0, of the last chunk.
    let chunk_table = image.len();
    put(&mut image, extension + 24, (chunk_table as u64).to_le_bytes());
    put(&mut image, extension + 32, 80_u64.to_le_bytes());
    image.resize(chunk_table + 4096, 0);
    put(&mut image, chunk_table + 44, 1_u32.to_le_bytes());
    put(&mut image, chunk_table + 72, 2_u32.to_le_bytes());

    put(&mut image, 1408, *b"the-tar");
    put(&mut image, 1408 + 64, ((TAR_SIZE / 512) as u32).to_le_bytes());
    let blob = 4096;
    put(&mut image, blob, *b"the-tar");
    put(&mut image, blob + 68, 0x10_0000_u32.to_le_bytes());
    put(&mut image, blob + 72, 3_u32.to_le_bytes());
    put(&mut image, blob + 84, 0x4000_0040_u32.to_le_bytes());
    put(&mut image, blob + 88, TAR_SIZE.to_le_bytes());
    put(&mut image, blob + 96, TAR_SIZE.to_le_bytes());
    // Meaningless here, but written.
    put(&mut image, blob + 108, 1_u32.to_le_bytes());

    let mut entries = vec![(b".".to_vec(), ROOT, 2), (b"..".to_vec(), ROOT, 2)];
    entries.extend((0..FILES).map(|number| (name(number), FILE, 1)));
    entries.push((b"link".to_vec(), LINK, 7));
    entries.insert(0, (b"!before".to_vec(), FILE, 1));
    entries.remove(3 + FILES / 2);
    let packed = pack(&entries);
    assert!(packed.len() > 4 * BLOCK && !packed.len().is_multiple_of(BLOCK), "whole blocks and a tail");
    let whole = packed.len() - packed.len() % BLOCK;
    let tail = inode(&mut image, ROOT, 2, 0o040_755, packed.len() as u64, (ROOT_BLOCKS / BLOCK) as u32, 2);
    image[ROOT_BLOCKS..ROOT_BLOCKS + whole].copy_from_slice(&packed[..whole]);
    image[tail..tail + packed.len() - whole].copy_from_slice(&packed[whole..]);

    let target = target();
    let whole = target.len() - target.len() % BLOCK;
    let tail = inode(&mut image, LINK, 2, 0o120_777, target.len() as u64, (LINK_BLOCKS / BLOCK) as u32, 1);
    image[LINK_BLOCKS..LINK_BLOCKS + whole].copy_from_slice(&target[..whole]);
    image[tail..tail + target.len() - whole].copy_from_slice(&target[whole..]);

    let addresses = inode(&mut image, FILE, 4, 0o100_644, FILE_SIZE, 0x20 | 11, FILES as u32);
    for chunk in 0..3_usize {
        let address = addresses + 8 * chunk;
        put(&mut image, address, (chunk as u16).to_le_bytes());
        image[address + 2] = 1;
        put(&mut image, address + 4, (3 + chunk as u32 * 2048).to_le_bytes());
    }
    image
}

#[test]
fn a_tarfs_image_is_read() {
    let bootstrap = fixtures::open(image()).unwrap();
    let summary = bootstrap.check().unwrap();
    assert_eq!((summary.files, summary.hard_links, summary.symlinks), (1, FILES as u64 - 1, 1));
    rafs::fuzzing::walk(&bootstrap);
    let blob = &bootstrap.blobs()[0];
    assert!(blob.is_tarfs() && blob.ci.is_none() && blob.toc.is_none());
    assert_eq!(blob.data_size(), Some(TAR_SIZE));

    // Entries before `.`, several blocks, the last of them behind the inode.
    let names: Vec<_> =
        bootstrap.read_dir(bootstrap.root(), 0).unwrap().map(|entry| entry.unwrap().name.to_vec()).collect();
    assert_eq!(names.len(), FILES + 1);
    assert_eq!((&names[0][..], &names[FILES][..]), (&b"!before"[..], &b"link"[..]));
    for name in &names {
        assert!(bootstrap.lookup(bootstrap.root(), name).unwrap().is_some());
    }
    assert_eq!(bootstrap.lookup(bootstrap.root(), &name(FILES / 2)).unwrap(), None);

    // A target of two blocks and a tail.
    let link = bootstrap.lookup(bootstrap.root(), b"link").unwrap().unwrap();
    assert_eq!(*bootstrap.read_link(link).unwrap(), target());

    // Positions in the tar, in units of 512 bytes; the last chunk ends with the file.
    let extents: Vec<_> =
        bootstrap.extents(Ino(FILE as u64), 0, u32::MAX).unwrap().map(Result::unwrap).collect();
    let places: Vec<_> = extents
        .iter()
        .map(|extent| match *extent {
            Extent::Chunk {
                chunk_index,
                uncompressed_offset,
                uncompressed_size,
                offset: 0,
                len,
                record,
                ..
            } => {
                assert!(record.is_none());
                (chunk_index, uncompressed_offset, uncompressed_size, len)
            }
            other => panic!("{other:?}"),
        })
        .collect();
    let (mib, last) = (1 << 20, FILE_SIZE as u32 % (1 << 20));
    assert_eq!(
        places,
        [(0, 1536, mib, mib), (1, 1536 + (1 << 20), mib, mib), (2, 1536 + (2 << 20), last, last)]
    );
    // No digests: the table's only record means nothing.
    assert_eq!(bootstrap.digest_index(0).unwrap(), []);
    assert_eq!(bootstrap.attributes(link).unwrap().file_type, FileType::Symlink);
    assert!(bootstrap.owners_recorded());
}

#[test]
fn tarfs_lies_are_refused() {
    let accepted = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut image = image();
        change(&mut image);
        fixtures::open(image).is_ok_and(|bootstrap| bootstrap.check().is_ok())
    };
    assert!(!accepted(&|image| image[META + 32 * LINK + 64] = 0), "a NUL in the tail of a target");
    assert!(!accepted(&|image| image[LINK_BLOCKS] = 0), "a NUL in the blocks of a target");
    assert!(!accepted(&|image| image[ROOT_BLOCKS + BLOCK + 8] = 7), "the second block of a directory");
    assert!(!accepted(&|image| put(
        image,
        META + 32 * FILE + 64 + 4,
        (TAR_SIZE as u32 / 512 - 1).to_le_bytes()
    )));
    assert!(!accepted(&|image| put(image, META + 32 * FILE + 64 + 4, u32::MAX.to_le_bytes())), "a hole");
    assert!(!accepted(&|image| put(image, 4096 + 84, 0x4000_0041_u32.to_le_bytes())), "tarfs and aligned");
}
