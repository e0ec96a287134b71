//! The servers of a scenario: any of them is a registry, a mirror, a store, a service of tokens and a proxy at once,
//! since whatever path ends with the id of a blob is that blob.
//!
//! [`town`] holds who is there and how each can be reached; [`talk`] speaks HTTP/1.1 byte by byte, so that it can be
//! wrong in every way; [`answer`] says what would be right; [`plan`] makes it wrong as the rules say.

pub mod answer;
pub mod plan;
pub mod talk;
pub mod tls;
pub mod town;
