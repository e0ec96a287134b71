//! The key of an encrypted cache, which must not be printed. To use it, [`EncryptionKey::expose`] it.

use std::fmt;

use serde::{Serialize, Serializer};

/// What is printed instead of a key.
const MASK: &str = "***";

/// The two AES-128 keys of XTS, one after the other. They differ, since the cipher is weak if they do not.
#[derive(Clone, PartialEq, Eq)]
pub struct EncryptionKey([u8; 32]);

impl EncryptionKey {
    /// Parses 64 hexadecimal digits. The error says what is expected and never what was found.
    pub fn from_hex(text: &str) -> Result<Self, String> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(format!(
                "expected 32 bytes as 64 hexadecimal digits, found {} characters",
                digits.len()
            ));
        }
        let nibble = |digit: u8| (digit as char).to_digit(16);
        let mut key = [0u8; 32];
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            let value = match pair {
                [high, low] => nibble(*high).zip(nibble(*low)).map(|(high, low)| high << 4 | low),
                _ => None,
            };
            *byte = value
                .and_then(|value| u8::try_from(value).ok())
                .ok_or("expected hexadecimal digits only (0-9, a-f), found another character")?;
        }
        if key[..16] == key[16..] {
            return Err("expected two different halves of 16 bytes, found them equal".to_owned());
        }
        Ok(Self(key))
    }

    /// The key itself.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for EncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl fmt::Display for EncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl Serialize for EncryptionKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(MASK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_print_as_stars() {
        let key = EncryptionKey::from_hex(&format!("{}{}", "ab".repeat(16), "cd".repeat(16))).unwrap();
        assert_eq!(format!("{key} {key:?} {}", serde_json::to_string(&key).unwrap()), "*** *** \"***\"");
        assert_eq!((key.expose()[0], key.expose()[31]), (0xab, 0xcd));
    }

    #[test]
    fn keys_that_cannot_be_used_are_refused() {
        for (text, complaint) in [
            ("", "found 0 characters"),
            ("abc", "found 3 characters"),
            (&"zz".repeat(32), "hexadecimal digits only"),
            (&"é".repeat(32), "hexadecimal digits only"),
            (&"ab".repeat(32), "two different halves"),
        ] {
            let error = EncryptionKey::from_hex(text).unwrap_err();
            assert!(error.contains(complaint), "{text:?}: {error}");
        }
    }
}
