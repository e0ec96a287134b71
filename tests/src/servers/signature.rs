//! Signatures as object stores check them, after their documentation: what [`super::oss`] and [`super::signed_store`]
//! believe. Real clients are asked in the tests whether this is right.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::manifest::hex;

/// A fourth version of signatures: the one of AWS, or the one that OSS made of it.
#[derive(Clone, Copy, Debug)]
pub struct V4 {
    /// Stands before the secret.
    pub prefix: &'static str,
    /// The name of the algorithm.
    pub algorithm: &'static str,
    /// The service that is asked.
    pub service: &'static str,
    /// How scopes end.
    pub terminal: &'static str,
}

/// That of S3.
pub const S3: V4 =
    V4 { prefix: "AWS4", algorithm: "AWS4-HMAC-SHA256", service: "s3", terminal: "aws4_request" };
/// That of OSS.
pub const OSS: V4 =
    V4 { prefix: "aliyun_v4", algorithm: "OSS4-HMAC-SHA256", service: "oss", terminal: "aliyun_v4_request" };

impl V4 {
    /// What a key may be used for at `time` (`20260101T000000Z`).
    pub fn scope(&self, time: &str, region: &str) -> String {
        format!("{}/{region}/{}/{}", time.get(..8).unwrap_or_default(), self.service, self.terminal)
    }

    /// The signature of a canonical request.
    pub fn sign(&self, secret: &str, region: &str, time: &str, canonical: &str) -> String {
        let scope = self.scope(time, region);
        let key = scope
            .split('/')
            .fold(format!("{}{secret}", self.prefix).into_bytes(), |key, part| hmac_sha256(&key, part));
        let hash = hex(&Sha256::digest(canonical));
        hex(&hmac_sha256(&key, &format!("{}\n{time}\n{scope}\n{hash}", self.algorithm)))
    }
}

/// The signature of OSS's first version.
pub fn oss_v1(secret: &str, text: &str) -> String {
    let mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("of any length").chain_update(text);
    STANDARD.encode(mac.finalize().into_bytes())
}

fn hmac_sha256(key: &[u8], data: &str) -> Vec<u8> {
    let mac = Hmac::<Sha256>::new_from_slice(key).expect("of any length").chain_update(data);
    mac.finalize().into_bytes().to_vec()
}

/// `text` as paths are signed: all but what is unreserved, and the slash, as `%XX`.
pub fn encode_path(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// The time that `20260131T235959Z` is.
pub fn time_of(text: &str) -> Option<SystemTime> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<u64>().ok();
    let (year, month, day) = (number(0..4)?, number(4..6)?, number(6..8)?);
    let seconds = number(9..11)? * 3600 + number(11..13)? * 60 + number(13..15)?;
    // Years begin in March here, so that the day of a leap year is the last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day;
    // Days from the first of March in the year 0 to the first of January 1970, and one, since days count from one.
    let days = days.checked_sub(719_469)?;
    Some(UNIX_EPOCH + Duration::from_secs(days * 86_400 + seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for text in ["19700101T000000Z", "20000229T235959Z", "20260301T010203Z", "21000228T120000Z"] {
            let time = time_of(text).unwrap();
            let [date, clock] = [&text[..8], &text[9..15]];
            let http = httpdate::fmt_http_date(time);
            // `Thu, 01 Jan 1970 00:00:00 GMT`
            assert_eq!(http[5..7], date[6..8], "{text}: {http}");
            assert_eq!(http[12..16], date[..4], "{text}: {http}");
            assert_eq!(http[17..25].replace(':', ""), *clock, "{text}: {http}");
        }
        assert_eq!(time_of("19700101T000000Z"), Some(UNIX_EPOCH));
        assert_eq!(time_of("yesterday"), None);
    }
}
