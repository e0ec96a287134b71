//! Where images come from: each source gives a tree, and the content of its files.

pub mod content;
pub mod directory;
pub mod files;
pub mod tar;
