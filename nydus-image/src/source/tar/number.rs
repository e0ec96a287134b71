//! Numbers in headers: octal or binary in the fields of a block, decimal in PAX records.

/// The number in a header field: octal digits among spaces, or, if the first bit is set, two's complement. An empty
/// field is 0.
pub fn field(bytes: &[u8]) -> Result<i64, String> {
    match bytes.first() {
        Some(first @ 0x80..) => binary(*first, bytes.get(1..).unwrap_or_default()),
        _ => octal(bytes),
    }
}

fn binary(first: u8, rest: &[u8]) -> Result<i64, String> {
    // The first bit is the mark, the second one the sign.
    let start = if first & 0x40 == 0 { i64::from(first & 0x3f) } else { i64::from(first as i8) };
    rest.iter().try_fold(start, |value, byte| {
        let shifted = value.checked_mul(256).and_then(|value| value.checked_add((*byte).into()));
        shifted.ok_or_else(|| "a number of more than 64 bits".to_owned())
    })
}

fn octal(bytes: &[u8]) -> Result<i64, String> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let digits = bytes.get(..end).unwrap_or_default().trim_ascii();
    // Fields have 12 bytes at most: 36 bits.
    digits.iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => Ok(value << 3 | i64::from(digit - b'0')),
        _ => Err(format!("{:?} is not an octal number", String::from_utf8_lossy(digits))),
    })
}

/// An unsigned decimal number without sign.
pub fn decimal(text: &[u8]) -> Result<u64, String> {
    let number = std::str::from_utf8(text).ok().filter(|text| !text.starts_with('+'));
    let number = number.and_then(|text| text.parse().ok());
    number.ok_or_else(|| format!("{:?} is not a number", String::from_utf8_lossy(text)))
}

/// Seconds since 1970 with a fraction, as seconds and nanoseconds; digits beyond nanoseconds are cut off.
pub fn time(text: &[u8]) -> Result<(i64, u32), String> {
    let wrong = || format!("{:?} is not a time", String::from_utf8_lossy(text));
    let (is_negative, digits) = match text.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let mut parts = digits.splitn(2, |byte| *byte == b'.');
    let seconds = decimal(parts.next().unwrap_or_default()).map_err(|_| wrong())?;
    let seconds = i64::try_from(seconds).map_err(|_| wrong())?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(wrong());
    }
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = digits.fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
    Ok(match (is_negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        // Nanoseconds count forward from the second before.
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_octal_or_binary() {
        assert_eq!(field(b"0000644\0"), Ok(0o644));
        assert_eq!(field(b"   644 \0"), Ok(0o644));
        assert_eq!(field(b"77777777777\0"), Ok((8 << 30) - 1));
        assert_eq!(field(b"\0\0\0\0\0\0\0\0"), Ok(0));
        assert_eq!(field(b"\x80\0\0\0\0\0\0\x02\0\0\0\0"), Ok(8 << 30));
        assert_eq!(field(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe"), Ok(-2));
        assert_eq!(field(b"\xff\xff\xff\xff\xff\xff\xff\xfe"), Ok(-2));
        assert_eq!(field(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"), Ok(i64::MAX));
        assert!(field(b"\x80\0\0\0\x80\0\0\0\0\0\0\0").is_err());
        assert!(field(b"0008\0").is_err());
        assert!(field(b"-1\0").is_err());
    }

    #[test]
    fn times_have_fractions_and_may_lie_before_1970() {
        assert_eq!(time(b"12"), Ok((12, 0)));
        assert_eq!(time(b"12.5"), Ok((12, 500_000_000)));
        assert_eq!(time(b"12.0000000019"), Ok((12, 1)));
        assert_eq!(time(b"-5.25"), Ok((-6, 750_000_000)));
        assert_eq!(time(b"-5"), Ok((-5, 0)));
        for bad in [&b""[..], b"-", b"1.x", b"+1", b"1e9", b"9223372036854775808"] {
            assert!(time(bad).is_err(), "{bad:?}");
        }
    }
}
