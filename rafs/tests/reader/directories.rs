//! Listing and looking up: order, positions, the two links of v6.

use rafs::{Bootstrap, Ino};

use crate::fixtures;

fn names(bootstrap: &Bootstrap, directory: Ino, position: u64) -> Vec<(Vec<u8>, u64)> {
    let entries = bootstrap.read_dir(directory, position).unwrap();
    entries.map(|entry| entry.map(|entry| (entry.name.to_vec(), entry.next)).unwrap()).collect()
}

#[test]
fn listing_resumes_from_every_position() {
    for (image, bytes) in fixtures::images() {
        let bootstrap = fixtures::open(bytes.to_vec()).unwrap();
        for path in ["", "many", "d1", "usr/share/zoneinfo", "var/empty"] {
            let directory = fixtures::find(&bootstrap, path);
            let all = names(&bootstrap, directory, 0);
            assert!(all.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1), "{image}: {path}");
            for (passed, (_, next)) in all.iter().enumerate() {
                assert!(*next > 0 && *next < 1 << 62);
                assert_eq!(names(&bootstrap, directory, *next), all[passed + 1..], "{image}: {path}");
            }
            for position in [(1 << 62) - 1, u64::MAX] {
                assert_eq!(names(&bootstrap, directory, position), [], "{image}: {path}");
            }
        }
        // One of them is whited out by an upper layer.
        let count = if fixtures::is_merged(image) { 699 } else { 700 };
        assert_eq!(names(&bootstrap, fixtures::find(&bootstrap, "many"), 0).len(), count, "{image}");
    }
}

#[test]
fn a_position_between_the_entries_is_no_trouble() {
    for image in ["v5-lz4-sha256", "v6-zstd"] {
        let bootstrap = fixtures::open(fixtures::bytes(image)).unwrap();
        let many = fixtures::find(&bootstrap, "many");
        let all = names(&bootstrap, many, 0);
        for position in 0..4096 {
            let rest = names(&bootstrap, many, position);
            assert_eq!(rest, all[all.len() - rest.len()..], "{image} from {position}");
        }
    }
}

#[test]
fn links_are_not_names() {
    for (image, bytes) in fixtures::images() {
        let bootstrap = fixtures::open(bytes.to_vec()).unwrap();
        let long = [b'n'; 256];
        for name in [&b"."[..], b"..", b"", b"no such", b"lib/prog", b"li", b"libb", b"\xff\xff", b"!", &long]
        {
            assert_eq!(bootstrap.lookup(bootstrap.root(), name).unwrap(), None, "{image}: {name:?}");
        }
        // On both sides of `.` in the order of bytes.
        for name in [&b"!bang"[..], b"-dash", b"..dots", b"bad\xff\xfename", b"empty"] {
            assert!(bootstrap.lookup(bootstrap.root(), name).unwrap().is_some(), "{image}: {name:?}");
        }
    }
}

#[test]
fn calls_are_for_one_type() {
    for (image, bytes) in fixtures::images() {
        let bootstrap = fixtures::open(bytes.to_vec()).unwrap();
        let (file, link) = (fixtures::find(&bootstrap, "empty"), fixtures::find(&bootstrap, "usr/prog"));
        let wrong = |failed: bool| assert!(failed, "{image}");
        wrong(matches!(bootstrap.lookup(file, b"x"), Err(rafs::Error::WrongType { .. })));
        wrong(matches!(bootstrap.read_dir(link, 0).map(drop), Err(rafs::Error::WrongType { .. })));
        wrong(matches!(bootstrap.read_link(file), Err(rafs::Error::WrongType { .. })));
        wrong(matches!(bootstrap.extents(link, 0, 1).map(drop), Err(rafs::Error::WrongType { .. })));
        wrong(matches!(bootstrap.parent(file), Err(rafs::Error::WrongType { .. })));
        for number in [0, u64::MAX, u64::MAX / 32, 1 << 40] {
            wrong(matches!(bootstrap.attributes(Ino(number)), Err(rafs::Error::NoSuchInode { .. })));
        }
    }
}

#[test]
fn hard_links_are_one_inode() {
    for (image, bytes) in fixtures::images() {
        let bootstrap = fixtures::open(bytes.to_vec()).unwrap();
        let (first, second) =
            (fixtures::find(&bootstrap, "lib/prog"), fixtures::find(&bootstrap, "lib/prog.hard"));
        // An upper layer replaces one of the two.
        let links = if fixtures::is_merged(image) { 1 } else { 2 };
        assert_eq!(first == second, links == 2, "{image}");
        assert_eq!(bootstrap.attributes(second).unwrap().nlink, links, "{image}");
    }
}

/// Offset of the entry of `name` in the inline data of a v6 directory.
fn v6_entry(bytes: &[u8], directory: Ino, name: &[u8]) -> usize {
    let inode = fixtures::v6_inode(bytes, directory);
    let data = inode + 64;
    let number = |at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let (count, size) = (number(data + 8) / 12, number(inode + 8));
    let name_at = |index: usize| if index < count { number(data + 12 * index + 8) } else { size };
    let index = (0..count).find(|&index| bytes[data + name_at(index)..data + name_at(index + 1)] == *name);
    data + 12 * index.unwrap()
}

#[test]
fn v6_directories_must_name_themselves_and_their_parent() {
    let good = fixtures::bytes("v6-zstd");
    let bootstrap = fixtures::open(good.clone()).unwrap();
    let (d1, d2) = (fixtures::find(&bootstrap, "d1"), fixtures::find(&bootstrap, "d1/d2"));
    for (name, nid) in [(&b"."[..], d1), (b"..", d2), (b"..", bootstrap.root())] {
        let mut bytes = good.clone();
        let entry = v6_entry(&bytes, d2, name);
        fixtures::put(&mut bytes, entry, nid.0.to_le_bytes());
        let bootstrap = fixtures::open(bytes).unwrap();
        assert!(bootstrap.lookup(d1, b"d2").is_err(), "{name:?}");
        assert!(bootstrap.read_dir(d1, 0).unwrap().any(|entry| entry.is_err()), "{name:?}");
        assert!(bootstrap.check().is_err(), "{name:?}");
    }
}

#[test]
fn v6_cycles_cannot_be_entered() {
    // d1/d2/keep becomes a directory entry that leads back to d1.
    let mut bytes = fixtures::bytes("v6-zstd");
    let bootstrap = fixtures::open(bytes.clone()).unwrap();
    let (d1, d2) = (fixtures::find(&bootstrap, "d1"), fixtures::find(&bootstrap, "d1/d2"));
    let entry = v6_entry(&bytes, d2, b"keep");
    fixtures::put(&mut bytes, entry, d1.0.to_le_bytes());
    bytes[entry + 10] = 2;
    let bootstrap = fixtures::open(bytes).unwrap();
    assert!(bootstrap.lookup(d2, b"keep").is_err());
    assert!(bootstrap.check().is_err());
    rafs::fuzzing::walk(&bootstrap);
}

#[test]
fn v6_entries_must_have_the_type_of_their_inode() {
    let mut bytes = fixtures::bytes("v6-zstd");
    let d2 = fixtures::find(&fixtures::open(bytes.clone()).unwrap(), "d1/d2");
    let entry = v6_entry(&bytes, d2, b"keep");
    bytes[entry + 10] = 7;
    let bootstrap = fixtures::open(bytes).unwrap();
    assert!(bootstrap.lookup(d2, b"keep").is_err());
    assert!(bootstrap.read_dir(d2, 0).unwrap().any(|entry| entry.is_err()));
}

#[test]
fn v5_children_must_name_their_parent() {
    let mut bytes = fixtures::bytes("v5-zstd-blake3");
    let bootstrap = fixtures::open(bytes.clone()).unwrap();
    let (d2, keep) = (fixtures::find(&bootstrap, "d1/d2"), fixtures::find(&bootstrap, "d1/d2/keep"));
    let record = fixtures::v5_inode(&bytes, keep);
    fixtures::put(&mut bytes, record + 32, 1_u64.to_le_bytes());
    let bootstrap = fixtures::open(bytes).unwrap();
    assert!(bootstrap.lookup(d2, b"keep").is_err());
    assert!(bootstrap.read_dir(d2, 0).unwrap().any(|entry| entry.is_err()));
}

#[test]
fn disorder_is_found_by_listing() {
    for image in ["v5-zstd-blake3", "v6-zstd"] {
        let mut bytes = fixtures::bytes(image);
        let bootstrap = fixtures::open(bytes.clone()).unwrap();
        let zoneinfo = fixtures::find(&bootstrap, "usr/share/zoneinfo");
        let all = names(&bootstrap, zoneinfo, 0);
        // `Jujuy` becomes `Zujuy`: behind the names that follow.
        let jujuy = fixtures::find(&bootstrap, "usr/share/zoneinfo/Jujuy");
        let at = match bootstrap.version() {
            rafs::Version::V5 => fixtures::v5_inode(&bytes, jujuy) + 128,
            rafs::Version::V6 => bytes.windows(8).position(|bytes| bytes == b"JujuyLa_").unwrap(),
        };
        bytes[at] = b'Z';
        let bootstrap = fixtures::open(bytes).unwrap();
        let good = bootstrap.read_dir(zoneinfo, 0).unwrap().take_while(|entry| entry.is_ok()).count();
        assert_eq!(all[good].0, b"La_Rioja", "{image}: the first name that does not follow");
        // Also when listing resumes right there.
        let mut rest = bootstrap.read_dir(zoneinfo, all[good - 1].1).unwrap();
        assert!(rest.next().unwrap().is_err(), "{image}");
        assert!(rest.next().is_none(), "{image}: an error ends the listing");
    }
}
