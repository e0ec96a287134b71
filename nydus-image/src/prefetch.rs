//! Patterns of what is worth fetching first, and the order of data that follows from them (spec/rafs-v5.md §14,
//! §15).

use std::io::BufRead;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use rafs::build::{Content, Numbering, Tree};

use crate::error::{Error, Result};

/// The most bytes of patterns that are read.
const MAX_INPUT: u64 = 16 << 20;

/// Absolute paths, in order of importance; none is equal to an earlier one, or below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patterns(Vec<PathBuf>);

impl Patterns {
    /// Reads patterns, one a line. Lines that are no absolute paths mean nothing, and are warned of.
    pub fn read(input: impl BufRead) -> Result<Self> {
        let name = Path::new("standard input");
        let mut patterns: Vec<PathBuf> = Vec::new();
        let mut input = input.take(MAX_INPUT);
        let mut line = Vec::new();
        loop {
            line.clear();
            if input.read_until(b'\n', &mut line).map_err(Error::io("read", name))? == 0 {
                break;
            }
            let text = line.trim_ascii();
            let path = Path::new(std::ffi::OsStr::from_bytes(text));
            if text.is_empty() {
                continue;
            }
            if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
                tracing::warn!("prefetch pattern {path:?}: not an absolute path");
                continue;
            }
            if !patterns.iter().any(|earlier| path.starts_with(earlier)) {
                patterns.push(path.components().collect());
            }
        }
        if input.limit() == 0 {
            return Err(Error::Usage(format!("more than {MAX_INPUT} bytes of prefetch patterns")));
        }
        Ok(Self(patterns))
    }

    /// The paths, in order.
    pub fn paths(&self) -> &[PathBuf] {
        &self.0
    }

    /// What the patterns name: positions in the numbering, in order of the patterns. A pattern that names nothing,
    /// or an empty file, is warned of.
    pub fn resolve(&self, tree: &Tree, numbering: &Numbering) -> Vec<usize> {
        let mut found = Vec::with_capacity(self.0.len());
        for pattern in &self.0 {
            match find(pattern, tree, numbering) {
                Some(position) => found.push(position),
                None => tracing::warn!("prefetch pattern {pattern:?}: names nothing with data"),
            }
        }
        found
    }
}

/// The position of the entry that a pattern names, unless it is an empty file.
pub fn find(pattern: &Path, tree: &Tree, numbering: &Numbering) -> Option<usize> {
    let mut position = 0;
    for part in pattern.components() {
        let Component::Normal(name) = part else { continue };
        let children = numbering.children(tree, position);
        let first = children.start;
        let order = numbering.order().get(children)?;
        let name = name.as_bytes();
        position = first + order.binary_search_by(|child| tree[*child].name.as_slice().cmp(name)).ok()?;
    }
    let node = *numbering.order().get(position)?;
    let is_empty_file = matches!(&tree[node].content, Content::Regular { size: 0, .. });
    (!is_empty_file).then_some(position)
}

/// The order in which the data of regular files is stored: what the patterns name first, then all else, each in
/// numbering order: positions in the numbering. The second value tells how many of them the patterns name.
pub fn data_order(tree: &Tree, numbering: &Numbering, first: &[usize]) -> (Vec<usize>, usize) {
    let order = numbering.order();
    let mut taken = vec![false; order.len()];
    let mut files = Vec::new();
    let mut take = |position: usize, files: &mut Vec<usize>| {
        let (Some(id), Some(taken)) = (order.get(position), taken.get_mut(position)) else { return };
        if !std::mem::replace(taken, true) && matches!(&tree[*id].content, Content::Regular { size: 1.., .. })
        {
            files.push(position);
        }
    };
    for &pattern in first {
        // All below it, in numbering order: each directory's children lie together, and subtrees behind them.
        let mut positions = Vec::new();
        let mut directories = vec![pattern];
        positions.push(pattern);
        while let Some(directory) = directories.pop() {
            let children = numbering.children(tree, directory);
            positions.extend(children.clone());
            directories.extend(
                children.filter(|child| order.get(*child).is_some_and(|id| tree[*id].is_directory())),
            );
        }
        positions.sort_unstable();
        for position in positions {
            take(position, &mut files);
        }
    }
    let prefetched = files.len();
    for position in 0..order.len() {
        take(position, &mut files);
    }
    (files, prefetched)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rafs::build::Node;

    fn patterns(text: &str) -> Vec<String> {
        let patterns = Patterns::read(text.as_bytes()).unwrap();
        patterns.0.iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn lines_are_trimmed_and_what_is_below_an_earlier_one_is_dropped() {
        assert_eq!(patterns("  /lib \n\n/lib/a\n/lib\n/library\nrelative\n/d/../e\n"), ["/lib", "/library"]);
        assert_eq!(patterns("/lib/a\n/lib/"), ["/lib/a", "/lib"]);
        assert_eq!(patterns("/\n/a"), ["/"]);
    }

    #[test]
    fn named_files_come_first_and_each_comes_once() {
        let mut tree = Tree::new(Node::directory("", 0o755));
        let file = |name: &str, size| Node::new(name, 0o100_644, Content::Regular { size, chunks: vec![] });
        let lib = tree.add(Tree::ROOT, Node::directory("lib", 0o755));
        let a = tree.add(Tree::ROOT, file("a", 1));
        let z = tree.add(Tree::ROOT, file("z", 1));
        tree.add(Tree::ROOT, file("empty", 0));
        let sub = tree.add(lib, Node::directory("b", 0o755));
        let deep = tree.add(sub, file("deep", 1));
        let near = tree.add(lib, file("near", 1));
        let numbering = Numbering::of(&tree).unwrap();
        let patterns = Patterns::read("/z\n/empty\n/none\n/lib/near/x\n/lib".as_bytes()).unwrap();
        let found = patterns.resolve(&tree, &numbering);
        assert_eq!(found.iter().map(|at| numbering.order()[*at]).collect::<Vec<_>>(), [z, lib]);
        let order = |first: &[usize]| {
            let (order, prefetched) = data_order(&tree, &numbering, first);
            (order.into_iter().map(|at| numbering.order()[at]).collect::<Vec<_>>(), prefetched)
        };
        assert_eq!(order(&found), (vec![z, near, deep, a], 3));
        assert_eq!(order(&[]), (vec![a, z, near, deep], 0));
    }
}
