//! Values that must not be printed. To use one, `expose` it: each place that does is easy to find.

use std::fmt;

use serde::{Serialize, Serializer};

/// What is printed instead of a secret.
const MASK: &str = "***";

/// A password, key or token. `Debug`, `Display` and `Serialize` give `***`.
#[derive(Clone, PartialEq, Eq, Hash)]
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
        // An `@` behind that may be the end of a password with a `?` in it, and where the place begins is anybody's guess.
        if query && rest[place.len()..].contains('@') {
            return f.write_str(MASK);
        }
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
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn addresses_print_without_user_and_query() {
        for (address, printed) in [
            ("http://10.0.0.1:65001", "http://10.0.0.1:65001"),
            ("https://user:pa/ss@proxy:3128/x", "https://***@proxy:3128/x"),
            ("user:p@ss@proxy", "***@proxy"),
            ("https://host/ping?token=hunter2", "https://host/ping?***"),
            ("https://host/ping#hunter2", "https://host/ping?***"),
            ("https://user:hun?ter2@mirror/x", "https://***"),
            ("", ""),
        ] {
            let url = SecretUrl::new(address);
            assert_eq!(url.to_string(), printed);
            assert_eq!(format!("{url:?}"), format!("{printed:?}"));
            assert_eq!(url.expose(), address);
        }
    }
}
