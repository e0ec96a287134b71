//! Archives of every dialect, and damaged ones.

use super::super::samples::{Sample, reader};
use super::*;

/// All entries and their content.
fn read(bytes: Vec<u8>) -> Result<Vec<(Entry, Vec<u8>)>> {
    let mut reader = reader(bytes);
    let mut found = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut content = Vec::new();
        if let Kind::Regular { size, .. } = entry.kind {
            // In pieces that fit nothing.
            while (content.len() as u64) < size {
                let len = (size - content.len() as u64).min(777) as u32;
                content.extend(reader.read_content(len)?.unwrap_or_else(|| vec![0; len as usize]));
            }
        }
        found.push((entry, content));
    }
    assert_eq!(reader.position(), reader.input().get_ref().len() as u64, "all is read");
    assert!(reader.next_entry()?.is_none());
    Ok(found)
}

fn one(sample: &Sample) -> (Entry, Vec<u8>) {
    let mut found = read(sample.end()).unwrap();
    assert_eq!(found.len(), 1);
    found.remove(0)
}

fn fault(bytes: Vec<u8>) -> String {
    read(bytes).unwrap_err().to_string()
}

#[test]
fn plain_entries_say_what_they_are_and_where_their_data_is() {
    let mut sample = Sample::default();
    sample.directory("./d/", 0o751).file("d/f", b"content").link("s", b'2', "d/f").link("l", b'1', "d/f");
    sample.header("c", b'3', 0, |header| {
        header.set_device_major(259).unwrap();
        header.set_device_minor(70_000).unwrap();
    });
    sample.header("p", b'6', 0, |_| {}).file("empty", b"").header("old/", b'\0', 0, |_| {});
    let found = read(sample.end()).unwrap();
    let kinds: Vec<_> = found.iter().map(|(entry, _)| entry.kind.clone()).collect();
    let target = || b"d/f".to_vec();
    assert_eq!(
        kinds,
        [
            Kind::Directory,
            Kind::Regular { size: 7, is_sparse: false },
            Kind::Symlink { target: target() },
            Kind::HardLink { target: target() },
            Kind::CharDevice { device: (259, 70_000) },
            Kind::Fifo,
            Kind::Regular { size: 0, is_sparse: false },
            Kind::Directory,
        ]
    );
    let (file, content) = &found[1];
    assert_eq!((file.header_position, file.data_position), (512, 1024));
    assert_eq!(content, b"content");
    assert_eq!((file.mode, file.uid, file.gid, file.mtime), (0o640, 7, 8, 1000));
    assert_eq!((found[0].0.path.as_slice(), found[0].0.mode), (&b"./d/"[..], 0o751));
}

#[test]
fn pax_records_replace_what_headers_say() {
    let mut sample = Sample::default();
    let name = [b"dir/\xff\n".as_slice(), &[b'n'; 200]].concat();
    sample.pax(b'g', &[("comment", b"nothing"), ("gid", b"70")]);
    sample.pax(
        b'x',
        &[
            ("path", &name),
            ("uid", b"3000000"),
            ("mtime", b"-1.5"),
            ("size", b"3"),
            ("SCHILY.xattr.user.b", b"\n\0=\xff"),
            ("SCHILY.xattr.user.a", b""),
        ],
    );
    sample.header("short", b'0', 0, |_| {}).data(b"abc");
    let (entry, content) = one(&sample);
    assert_eq!(entry.path, name);
    assert_eq!((entry.uid, entry.gid, entry.mtime, entry.mtime_nsec), (3_000_000, 70, -2, 500_000_000));
    assert_eq!(content, b"abc");
    let expected = [(b"user.a".to_vec(), Vec::new()), (b"user.b".to_vec(), b"\n\0=\xff".to_vec())];
    assert_eq!(entry.xattrs, expected);
    assert_eq!(
        (entry.header_position, entry.data_position),
        (1024, 2560),
        "with its extension, behind the global"
    );

    let mut sample = Sample::default();
    sample.pax(b'x', &[("linkpath", b"far/away")]).link("s", b'2', "near");
    assert_eq!(one(&sample).0.kind, Kind::Symlink { target: b"far/away".to_vec() });
    // They hold for one entry.
    let mut sample = Sample::default();
    sample.pax(b'x', &[("path", b"a")]).file("x", b"").file("b", b"");
    assert_eq!(read(sample.end()).unwrap()[1].0.path, b"b");
}

#[test]
fn gnu_archives_have_long_names_and_large_numbers() {
    let long = "n".repeat(5000);
    let mut sample = Sample::default();
    let with_nul = [long.as_bytes(), b"\0"].concat();
    sample.header("././@LongLink", b'L', with_nul.len() as u64, |_| {}).data(&with_nul);
    sample.header("././@LongLink", b'K', with_nul.len() as u64, |_| {}).data(&with_nul);
    sample.link("cut", b'2', "cut");
    let (entry, _) = one(&sample);
    assert_eq!(entry.path, long.as_bytes());
    assert_eq!(entry.kind, Kind::Symlink { target: long.into_bytes() });

    let mut sample = Sample::default();
    sample.header("f", b'0', 3, |header| {
        let old = header.as_old_mut();
        old.uid = [0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xfe];
        old.mtime = [0xff; 12];
        old.size = [0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3];
    });
    let (entry, content) = one(sample.data(b"abc"));
    assert_eq!((entry.uid, entry.mtime, content.as_slice()), (u32::MAX - 1, -1, &b"abc"[..]));

    // The prefix of ustar.
    let mut sample = Sample::default();
    sample
        .header("name", b'0', 0, |header| header.as_ustar_mut().unwrap().prefix[..3].copy_from_slice(b"a/b"));
    assert_eq!(one(&sample).0.path, b"a/b/name");
}

#[test]
fn sparse_files_of_all_kinds_are_the_same_file() {
    // Data at 1000..1003 and 2048..2050 of 3000 bytes.
    let mut expected = vec![0; 3000];
    expected[1000..1003].copy_from_slice(b"abc");
    expected[2048..2050].copy_from_slice(b"de");
    let pairs = [(1000, 3), (2048, 2), (3000, 0)];

    let mut old = Sample::default();
    old.header("f", b'S', 5, |header| {
        let bytes = header.as_mut_bytes();
        bytes[257..265].copy_from_slice(b"ustar  \0");
        let gnu = header.as_gnu_mut().unwrap();
        gnu.set_real_size(3000);
        gnu.set_is_extended(true);
        // Four fit, the others follow.
        gnu.sparse[0].set_offset(1000);
        gnu.sparse[0].set_length(3);
        gnu.sparse[1].set_offset(1500);
        gnu.sparse[1].set_length(0);
    });
    let mut more = tar::GnuExtSparseHeader::new();
    more.sparse_mut()[0].set_offset(2048);
    more.sparse_mut()[0].set_length(2);
    old.data(more.as_bytes()).data(b"abcde");

    let mut pax_0_0 = Sample::default();
    let numbers: Vec<_> = pairs.map(|(offset, len): (u64, u64)| (offset.to_string(), len.to_string())).into();
    let mut records: Vec<(&str, &[u8])> = vec![("GNU.sparse.size", b"3000"), ("GNU.sparse.numblocks", b"3")];
    for (offset, len) in &numbers {
        records.push(("GNU.sparse.offset", offset.as_bytes()));
        records.push(("GNU.sparse.numbytes", len.as_bytes()));
    }
    pax_0_0.pax(b'x', &records).file("f", b"abcde");

    let mut pax_0_1 = Sample::default();
    let map = ("GNU.sparse.map", &b"1000,3,2048,2,3000,0"[..]);
    pax_0_1.pax(
        b'x',
        &[("GNU.sparse.size", b"3000"), ("GNU.sparse.numblocks", b"3"), map, ("GNU.sparse.name", b"f")],
    );
    pax_0_1.file("GNUSparseFile.1/f", b"abcde");

    let mut pax_1_0 = Sample::default();
    pax_1_0.pax(
        b'x',
        &[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"f"),
            ("GNU.sparse.realsize", b"3000"),
        ],
    );
    let mut stored = b"3\n1000\n3\n2048\n2\n3000\n0\n".to_vec();
    stored.resize(512, 0);
    stored.extend_from_slice(b"abcde");
    pax_1_0.file("GNUSparseFile.1/f", &stored);

    for (dialect, sample) in [("old", old), ("0.0", pax_0_0), ("0.1", pax_0_1), ("1.0", pax_1_0)] {
        let (entry, content) = one(&sample);
        assert_eq!(entry.path, b"f", "{dialect}");
        assert_eq!(entry.kind, Kind::Regular { size: 3000, is_sparse: true }, "{dialect}");
        assert!(content == expected, "{dialect}");
        // Holes are told as such.
        let mut reader = sample.reader();
        reader.next_entry().unwrap();
        assert_eq!(reader.read_content(1000).unwrap(), None, "{dialect}");
        assert_eq!(reader.read_content(3).unwrap().unwrap(), b"abc", "{dialect}");
        assert_eq!(reader.read_content(1045).unwrap(), None, "{dialect}");
        // Nobody gets more than there is.
        assert!(reader.read_content(953).is_err(), "{dialect}");
        // What was not read is passed over.
        assert!(reader.next_entry().unwrap().is_none(), "{dialect}");
    }
}

#[test]
fn maps_that_lie_are_refused() {
    for (map, size) in
        [("0,5,3,1", "10"), ("0,6", "10"), ("0,4", "10"), ("8,5", "10"), ("0,5,7", "10"), ("a,5", "10")]
    {
        let mut sample = Sample::default();
        sample.pax(b'x', &[("GNU.sparse.size", size.as_bytes()), ("GNU.sparse.map", map.as_bytes())]);
        let error = fault(sample.file("f", b"abcde").end());
        assert!(error.starts_with("sample.tar: \"f\" at offset 0: "), "{map}: {error}");
    }
    let mut sample = Sample::default();
    sample.pax(b'x', &[("GNU.sparse.major", b"1"), ("GNU.sparse.realsize", b"10")]);
    let error = fault(sample.file("f", b"1000000\n0\n5\n").end());
    assert!(error.contains("the sparse map is longer than the data"), "{error}");
}

#[test]
fn an_archive_that_ends_early_is_told_from_one_that_ends() {
    let mut sample = Sample::default();
    sample.file("first", &[1; 600]).pax(b'x', &[("path", b"second")]).file("x", &[2; 600]);
    let whole = sample.end();
    let second = 512 + 1024;
    let ends: Vec<usize> = (0..whole.len() - 1024).filter(|len| read(whole[..*len].into()).is_ok()).collect();
    assert_eq!(ends, [second], "between two entries nobody can tell");
    assert_eq!(read(whole[..second].into()).unwrap().len(), 1);
    let error = fault(whole[..1000].into());
    assert_eq!(
        error,
        "sample.tar: \"first\" at offset 1000: the archive ends here, expected at least 112 bytes more"
    );
    let error = fault(whole[..second + 1024].into());
    assert_eq!(error, "sample.tar: at offset 1536: an extension header, and no entry behind it");
    assert_eq!(fault(Vec::new()), "sample.tar: at offset 0: is empty, not an archive");
}

#[test]
fn what_lies_behind_the_end_is_ignored_and_one_block_of_zeros_is_no_end() {
    let mut sample = Sample::default();
    let whole = sample.file("f", b"x").end();
    assert_eq!(read([whole.clone(), vec![0; 9000]].concat()).unwrap().len(), 1);
    assert_eq!(read([whole.clone(), vec![0; 5], b"x".to_vec()].concat()).unwrap().len(), 1);
    assert_eq!(read([whole.clone(), whole.clone()].concat()).unwrap().len(), 1);
    assert_eq!(read(whole[..whole.len() - 512].into()).unwrap().len(), 1);
    let error = fault([&whole[..whole.len() - 512], &whole].concat());
    assert!(error.contains("at offset 1536: something follows a single block of zeros"), "{error}");
}

#[test]
fn sizes_and_types_that_lie_are_refused_without_taking_memory() {
    let mut sample = Sample::default();
    sample.header("big", b'0', 8 << 30, |_| {}).data(b"little");
    let error = fault(sample.end());
    assert!(error.starts_with("sample.tar: \"big\" at offset 2048: the archive ends here"), "{error}");
    for (size, detail) in [([0xff; 12], "a size of -1"), ([b'9'; 12], "is not an octal number")] {
        let mut sample = Sample::default();
        sample.header("f", b'0', 0, |header| header.as_old_mut().size = size);
        let error = fault(sample.end());
        assert!(error.contains("\"f\" at offset 0") && error.contains(detail), "{error}");
    }
    let mut sample = Sample::default();
    sample.pax(b'x', &[("size", b"9223372036854775808")]).header("f", b'0', 0, |_| {});
    assert!(fault(sample.end()).contains("a size of 9223372036854775808"));
    for kind in [b'L', b'x', b'g'] {
        let mut sample = Sample::default();
        sample.header("f", kind, 1 << 40, |_| {});
        assert!(fault(sample.end()).contains("extension headers of over"), "{kind}");
    }
    let mut sample = Sample::default();
    sample.header("f", b'Z', 0, |_| {});
    let error = fault(sample.end());
    assert_eq!(error, "sample.tar: \"f\" at offset 0: an entry of type 'Z', which is not known");
    // Sizes of what has no data mean nothing.
    let mut sample = Sample::default();
    sample.header("d", b'5', 4096, |_| {}).file("f", b"x");
    assert_eq!(read(sample.end()).unwrap().len(), 2);
}

#[test]
fn what_is_no_archive_is_told_from_a_damaged_one() {
    let error = fault([&b"\x1f\x8b\x08"[..], &[7; 600]].concat());
    assert_eq!(error, "sample.tar: at offset 0: is compressed with gzip, not a plain tar archive");
    assert!(fault(b"\x1f\x8b short".to_vec()).contains("is compressed with gzip"));
    assert!(fault(vec![b'x'; 600]).contains("is not a tar archive"));
    assert!(fault(vec![0; 100]).contains("is not a tar archive"));
    let mut sample = Sample::default();
    let mut whole = sample.file("a", b"x").file("b", b"x").end();
    whole[1024] ^= 1;
    assert_eq!(fault(whole), "sample.tar: at offset 1024: the checksum of the header is wrong");
}

#[test]
fn damage_is_an_error_or_another_archive_and_never_a_panic() {
    let mut sample = Sample::default();
    sample.pax(b'g', &[("comment", b"c")]).directory("d/", 0o755);
    sample
        .pax(b'x', &[("path", b"d/long"), ("SCHILY.xattr.user.k", b"v"), ("mtime", b"1.5")])
        .file("x", &[1; 700]);
    sample.pax(b'x', &[("GNU.sparse.size", b"9000"), ("GNU.sparse.map", b"100,5,8000,3")]).file("s", &[2; 8]);
    sample.pax(b'x', &[("GNU.sparse.major", b"1"), ("GNU.sparse.realsize", b"20")]);
    sample.header("t", b'0', 515, |_| {}).data(&[&b"1\n4\n3\n"[..], &[0; 506], b"abc"].concat());
    sample.link("l", b'1', "d/long").link("y", b'2', "d");
    let whole = sample.end();
    assert!(read(whole.clone()).is_ok());
    let mut state = 20_261_122_u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut accepted = 0;
    for _ in 0..20_000 {
        let mut damaged = whole.clone();
        let block = random(damaged.len() / 512) * 512;
        for _ in 0..=random(3) {
            damaged[block + random(512)] = [b'0', b'7', b'9', 0, 0xff, 0x80, b'\n', b' '][random(8)];
        }
        // Most blocks are headers: with the right checksum the damage is looked at.
        let mut header = Header::from_byte_slice(&damaged[block..block + 512]).clone();
        header.set_cksum();
        damaged[block..block + 512].copy_from_slice(header.as_bytes());
        let mut reader = reader(damaged);
        let mut builder = crate::source::tar::TreeBuilder::new(true);
        let built = loop {
            match reader.next_entry() {
                Ok(Some(entry)) => {
                    let len =
                        if let Kind::Regular { size, .. } = entry.kind { size.min(10_000) as u32 } else { 0 };
                    if reader.read_content(len).is_err() || builder.add(entry).is_err() {
                        break false;
                    }
                }
                end => break end.is_ok(),
            }
        };
        accepted += u32::from(built);
    }
    assert!((1..20_000).contains(&accepted), "{accepted} accepted");
}
