//! Bootstraps in normal form: the pairs of extended attributes in byte order of their names, which the reference
//! implementation writes in the order of a hash map.

use rafs::{Bootstrap, FileType, Version};

use crate::fixtures;

fn u16_at(bytes: &[u8], at: usize) -> usize {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()).into()
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

fn u64_at(bytes: &[u8], at: usize) -> usize {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()).try_into().unwrap()
}

/// The bytes of an opened bootstrap in normal form.
pub fn form(bootstrap: &Bootstrap, mut bytes: Vec<u8>) -> Vec<u8> {
    match bootstrap.version() {
        Version::V5 => {
            for index in 1..=u32_at(&bytes, 56) as u64 {
                let inode = fixtures::v5_inode(&bytes, rafs::Ino(index));
                sort_v5(&mut bytes, inode);
            }
        }
        Version::V6 => {
            let mut directories = vec![bootstrap.root()];
            let mut inodes = vec![bootstrap.root()];
            while let Some(directory) = directories.pop() {
                for entry in bootstrap.read_dir(directory, 0).unwrap().map(Result::unwrap) {
                    inodes.push(entry.ino);
                    if entry.file_type == FileType::Directory {
                        directories.push(entry.ino);
                    }
                }
            }
            for ino in inodes {
                let inode = fixtures::v6_inode(&bytes, ino);
                sort_v6(&mut bytes, inode);
            }
        }
    }
    bytes
}

/// Sorts the pairs of the record at `inode`: `u32 n`, then n bytes of name, NUL and value.
fn sort_v5(bytes: &mut [u8], inode: usize) {
    const XATTR: u8 = 4;
    if bytes[inode + 80] & XATTR == 0 {
        return;
    }
    let (name, target) = (u16_at(bytes, inode + 100), u16_at(bytes, inode + 102));
    let area = inode + 128 + name.next_multiple_of(8) + target.next_multiple_of(8);
    let (mut at, end) = (area + 8, area + 8 + u64_at(bytes, area));
    let start = at;
    let mut pairs = Vec::new();
    while at < end {
        let len = 4 + u32_at(bytes, at);
        let pair = bytes[at..at + len].to_vec();
        let name = pair[4..].split(|byte| *byte == 0).next().unwrap().to_vec();
        pairs.push((name, pair));
        at += len;
    }
    assert_eq!(at, end);
    pairs.sort();
    let sorted: Vec<u8> = pairs.into_iter().flat_map(|(_, pair)| pair).collect();
    bytes[start..end].copy_from_slice(&sorted);
}

/// Sorts the entries behind the inode at `inode`, each padded to 4.
fn sort_v6(bytes: &mut [u8], inode: usize) {
    let count = u16_at(bytes, inode + 2);
    if count == 0 {
        return;
    }
    let head = if bytes[inode] & 1 == 0 { 32 } else { 64 };
    let (start, end) = (inode + head + 12, inode + head + 12 + 4 * (count - 1));
    let mut at = start;
    let mut entries = Vec::new();
    while at < end {
        let suffix = bytes[at] as usize;
        let prefix = match bytes[at + 1] {
            1 => "user.",
            2 => "system.posix_acl_access",
            3 => "system.posix_acl_default",
            4 => "trusted.",
            6 => "security.",
            other => panic!("prefix {other}"),
        };
        let name = [prefix.as_bytes(), &bytes[at + 4..at + 4 + suffix]].concat();
        let len = (4 + suffix + u16_at(bytes, at + 2)).next_multiple_of(4);
        entries.push((name, bytes[at..at + len].to_vec()));
        at += len;
    }
    assert_eq!(at, end);
    entries.sort();
    let sorted: Vec<u8> = entries.into_iter().flat_map(|(_, entry)| entry).collect();
    bytes[start..end].copy_from_slice(&sorted);
}
