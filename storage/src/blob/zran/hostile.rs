//! Files that are cut off, corrupt, or made to harm.

use std::io::{self, ErrorKind, Read, Write};

use super::ZranReader;

fn member(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn read(gzip: &[u8]) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    ZranReader::new(gzip, 4096).unwrap().read_to_end(&mut content)?;
    Ok(content)
}

/// Three members, one of them empty, and where the first two end.
fn members() -> (Vec<u8>, [usize; 2]) {
    let parts = [member(&[b'a'; 3000]), member(b""), member(b"the end of the file")];
    let ends = [parts[0].len(), parts[0].len() + parts[1].len()];
    (parts.concat(), ends)
}

#[test]
fn members_are_one_content() {
    let (gzip, _) = members();
    assert_eq!(read(&gzip).unwrap(), [&[b'a'; 3000][..], b"the end of the file"].concat());
}

#[test]
fn a_file_may_end_between_members_only() {
    let (gzip, ends) = members();
    for len in 0..gzip.len() {
        let found = read(&gzip[..len]);
        match ends.contains(&len) {
            true => assert_eq!(found.unwrap().len(), 3000, "{len}"),
            false => assert_eq!(found.unwrap_err().kind(), ErrorKind::UnexpectedEof, "{len}"),
        }
    }
}

#[test]
fn every_flipped_bit_of_the_data_is_noticed() {
    let (gzip, _) = members();
    let good = read(&gzip).unwrap();
    for at in 0..gzip.len() * 8 {
        let mut flipped = gzip.clone();
        flipped[at / 8] ^= 1 << (at % 8);
        // What a header says of times and systems is not data.
        if let Ok(content) = read(&flipped) {
            assert!(content == good, "bit {at}");
        }
    }
}

#[test]
fn what_follows_the_last_member_must_be_another() {
    let (gzip, _) = members();
    assert_eq!(read(&[&gzip[..], &[0; 70_000]].concat()).unwrap().len(), 3019);
    let error = read(&[&gzip[..], &[0; 70_000], b"x"].concat()).unwrap_err();
    assert!(error.to_string().contains(&format!("at {}", gzip.len() + 70_000)), "{error}");
    for garbage in [&b"garbage"[..], &[0x1f, 0x8b, 7, 0, 0, 0, 0, 0, 0, 0]] {
        let error = read(&[&gzip, garbage].concat()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(error.to_string().contains(&format!("offset {}", gzip.len())), "{error}");
    }
    assert_eq!(read(b"").unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert_eq!(read(b"no gzip at all").unwrap_err().kind(), ErrorKind::InvalidData);
}

/// A member of one block: a zero, and so many matches of 258 bytes.
fn one_block(matches: usize) -> Vec<u8> {
    let mut gzip = member(b"")[..10].to_vec();
    let mut bits = vec![true, true, false];
    // The literal 0, then lengths of 258 at distance 1.
    bits.extend([false, false, true, true, false, false, false, false]);
    for _ in 0..matches {
        bits.extend([true, true, false, false, false, true, false, true]);
        bits.extend([false; 5]);
    }
    let pack = |byte: &[bool]| byte.iter().rev().fold(0, |packed, bit| packed << 1 | u8::from(*bit));
    gzip.extend(bits.chunks(8).map(pack));
    gzip
}

#[test]
fn a_block_that_no_reader_would_decode_is_refused() {
    let gzip = one_block(70_000);
    let mut reader = ZranReader::new(&gzip[..], 1 << 20).unwrap();
    let mut chunk = vec![1; 1 << 20];
    for _ in 0..16 {
        reader.begin_chunk().unwrap();
        reader.read_exact(&mut chunk).unwrap();
        assert_eq!(reader.end_chunk().unwrap().context, 0);
    }
    reader.begin_chunk().unwrap();
    reader.read_exact(&mut chunk[..1]).unwrap();
    let error = reader.end_chunk().unwrap_err().to_string();
    assert!(error.contains("offset 10") && error.contains("16777217"), "{error}");
    assert_eq!(chunk, vec![0; 1 << 20]);
}

#[test]
fn many_empty_blocks_cost_what_their_bytes_cost() {
    // Each sync flush is an empty block: 32 KiB for each would be 6 GB.
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&[1; 40_000]).unwrap();
    encoder.flush().unwrap();
    let mut gzip = encoder.get_ref().clone();
    gzip.extend([0, 0, 0, 0xff, 0xff].repeat(200_000));
    gzip.extend([1, 1, 0, 0xfe, 0xff, b'x']);
    let mut reader = ZranReader::new(&gzip[..], 1 << 20).unwrap();
    let mut content = vec![0; 40_000];
    reader.read_exact(&mut content).unwrap();
    reader.begin_chunk().unwrap();
    reader.read_exact(&mut content[..1]).unwrap();
    let chunk = reader.end_chunk().unwrap();
    assert_eq!((content[0], chunk.offset), (b'x', 0));
    assert!(reader.into_parts().1.len() == 1);
}

#[test]
fn no_chunk_begins_behind_the_end() {
    let (gzip, _) = members();
    let mut reader = ZranReader::new(&gzip[..], 4096).unwrap();
    reader.read_exact(&mut [0; 3019]).unwrap();
    assert_eq!(reader.begin_chunk().unwrap_err().kind(), ErrorKind::UnexpectedEof);
}
