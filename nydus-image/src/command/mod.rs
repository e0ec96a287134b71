//! The commands, one file each.

pub mod check;
pub mod create;
pub mod inspect;
pub mod merge;
