//! Where images come from: each source gives a tree, and the content of its files.

pub mod content;
pub mod directory;
pub mod estargz_toc;
pub mod files;
pub mod hashed;
pub mod layer;
pub mod tar;
pub mod tarfs;
