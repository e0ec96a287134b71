//! What can be wrong with a configuration, said in one line that names the origin and the key.

use std::fmt;
use std::io;

use super::MAX_TEXT;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file could not be read.
    #[error("{origin}: cannot read the configuration: {source}")]
    Unreadable {
        /// The file.
        origin: String,
        /// What the system said.
        source: io::Error,
    },
    /// The text is longer than [`MAX_TEXT`].
    #[error("{origin}: the configuration is longer than {MAX_TEXT} bytes")]
    TooLong {
        /// The file or request.
        origin: String,
    },
    /// The text is in no known form.
    #[error("{origin}: {detail}")]
    Unrecognised {
        /// The file or request.
        origin: String,
        /// What each form misses.
        detail: String,
    },
    /// A key has a value that cannot be used, or is missing.
    #[error("{origin}: {key}: {detail}")]
    Key {
        /// The file or request.
        origin: String,
        /// The path of the key, from the top of the text.
        key: String,
        /// What was expected and what was found.
        detail: String,
    },
    /// The text may leave this table out, but this use of it may not.
    #[error("the configuration has no `{key}`, which says {purpose}")]
    Absent {
        /// The table, at the top level of schema v2.
        key: &'static str,
        /// What it is for.
        purpose: &'static str,
    },
}

/// A setting that is accepted and has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The path of the key.
    pub key: String,
    /// What is to be said about it.
    pub text: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.text)
    }
}

/// What is wrong with one key; the origin is not known yet.
#[derive(Debug)]
pub(super) struct Problem {
    pub key: String,
    pub detail: String,
    /// Whether the text does not even have the shape of its schema, so that another schema may be tried.
    pub is_shape: bool,
}

impl Problem {
    /// A key that is missing or of the wrong type.
    pub fn shape(key: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { key: key.into(), detail: detail.into(), is_shape: true }
    }

    /// A value of the right type that cannot be used.
    pub fn value(key: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { key: key.into(), detail: detail.into(), is_shape: false }
    }

    pub fn at(self, origin: &str) -> Error {
        Error::Key { origin: origin.to_owned(), key: self.key, detail: self.detail }
    }
}
