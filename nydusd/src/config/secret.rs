//! Values that must not be printed. To use one, [`Secret::expose`] it: each place that does is easy to find.

use std::fmt;

use serde::{Serialize, Serializer};

/// What is printed instead of a secret.
const MASK: &str = "***";

/// A password, key or token. `Debug`, `Display` and `Serialize` give `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(MASK)
    }
}

/// An address that may carry a password or a signed query. Printed without both.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// Wraps an address.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The whole address.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, rest) = match self.0.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, self.0.as_str()),
        };
        if let Some(scheme) = scheme {
            write!(f, "{scheme}://")?;
        }
        // The user part ends at the last `@` before the query, wherever a hostile password puts its slashes.
        let (place, query) = match rest.split_once(['?', '#']) {
            Some((place, _)) => (place, true),
            None => (rest, false),
        };
        match place.rsplit_once('@') {
            Some((_, host)) => write!(f, "{MASK}@{host}")?,
            None => f.write_str(place)?,
        }
        if query { write!(f, "?{MASK}") } else { Ok(()) }
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

impl Serialize for SecretUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

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
    fn secrets_print_as_stars() {
        let secret = Secret::new("hunter2");
        assert_eq!(
            format!("{secret} {secret:?} {}", serde_json::to_string(&secret).unwrap()),
            "*** *** \"***\""
        );
        let key = EncryptionKey::from_hex(&format!("{}{}", "ab".repeat(16), "cd".repeat(16))).unwrap();
        assert_eq!(format!("{key} {key:?} {}", serde_json::to_string(&key).unwrap()), "*** *** \"***\"");
        assert_eq!((key.expose()[0], key.expose()[31]), (0xab, 0xcd));
    }

    #[test]
    fn addresses_print_without_user_and_query() {
        for (address, printed) in [
            ("http://10.0.0.1:65001", "http://10.0.0.1:65001"),
            ("https://user:pa/ss@proxy:3128/x", "https://***@proxy:3128/x"),
            ("user:p@ss@proxy", "***@proxy"),
            ("https://host/ping?token=hunter2", "https://host/ping?***"),
            ("https://host/ping#hunter2", "https://host/ping?***"),
            ("", ""),
        ] {
            let url = SecretUrl::new(address);
            assert_eq!(url.to_string(), printed);
            assert_eq!(format!("{url:?}"), format!("{printed:?}"));
            assert_eq!(url.expose(), address);
        }
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
