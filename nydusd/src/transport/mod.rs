//! Transports carry requests to a [`crate::filesystem::Filesystem`] and its answers back: they decode, call,
//! encode, and choose the errno.

pub mod fuse;
