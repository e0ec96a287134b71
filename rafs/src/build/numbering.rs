//! The order in which both formats number the entries of a tree (spec/rafs-v5.md §14).
//!
//! The root is first; then all children of a directory together, in byte order of their names, and then each child
//! directory in turn, with all that is below it.

use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::tree::{NodeId, Tree};
use crate::directory::is_name;
use crate::error::{Error, Result};
use crate::number_set::NumberSet;

/// The nodes of a tree in numbering order. A position counts from 0; the formats' numbers are one more.
pub struct Numbering {
    /// Position → node.
    order: Vec<NodeId>,
    /// Position → position of the directory that holds the entry.
    parents: Vec<u32>,
    /// Position → position of the first child, or of what would be one: the next unused position at the time.
    first_children: Vec<u32>,
}

impl Numbering {
    /// Numbers all nodes that can be reached from the root.
    ///
    /// Refuses names that cannot be names, names that stand twice in a directory, nodes that two directories
    /// hold or that do not exist, and a root that is not a directory.
    pub fn of(tree: &Tree) -> Result<Self> {
        let mut numbering = Self {
            order: Vec::with_capacity(tree.nodes.len()),
            parents: Vec::with_capacity(tree.nodes.len()),
            first_children: vec![0; tree.nodes.len()],
        };
        if !tree.nodes.first().is_some_and(|root| root.is_directory()) {
            return Err(Error::unwritable(Path::new("/"), "root", "a directory", "none"));
        }
        let mut visited = NumberSet::below(tree.nodes.len() as u64);
        visited.insert(Tree::ROOT.0.into());
        numbering.order.push(Tree::ROOT);
        numbering.parents.push(0);
        let mut directories = vec![0];
        while let Some(directory) = directories.pop() {
            let first = numbering.order.len();
            // Fewer than 2^32: no node is numbered twice, and a node's id has 32 bits.
            numbering.first_children[directory as usize] = first as u32;
            let children = tree.children(numbering.order[directory as usize]);
            if let Some(child) = children.iter().find(|child| !visited.insert(child.0.into())) {
                let path = numbering.path(tree, directory as usize);
                let found = format!("node {} in a second place, or none of the tree", child.0);
                return Err(Error::unwritable(&path, "children", "each node in one place", found));
            }
            numbering.order.extend_from_slice(children);
            numbering.parents.resize(numbering.order.len(), directory);
            numbering.order[first..].sort_unstable_by(|a, b| tree[*a].name.cmp(&tree[*b].name));
            numbering.check_names(tree, first)?;

            let below = (first..numbering.order.len()).rev();
            let below = below.filter(|position| tree[numbering.order[*position]].is_directory());
            directories.extend(below.map(|position| position as u32));
        }
        numbering.first_children.truncate(numbering.order.len());
        Ok(numbering)
    }

    /// Checks the sorted names from position `first` on.
    fn check_names(&self, tree: &Tree, first: usize) -> Result<()> {
        let mut previous = None;
        for position in first..self.order.len() {
            let name = tree[self.order[position]].name.as_slice();
            if !is_name(name) {
                let expected = "1 to 255 bytes, no / and NUL, not . or ..";
                let found = format!("{} bytes", name.len());
                return Err(Error::unwritable(&self.path(tree, position), "name", expected, found));
            }
            if previous == Some(name) {
                return Err(Error::unwritable(&self.path(tree, position), "name", "different names", "two"));
            }
            previous = Some(name);
        }
        Ok(())
    }

    /// The nodes in order.
    pub fn order(&self) -> &[NodeId] {
        &self.order
    }

    /// Position of the directory that holds the entry at `position`; the root holds itself.
    pub fn parent(&self, position: usize) -> usize {
        self.parents[position] as usize
    }

    /// Positions of the children of the node at `position`, in order of their names.
    pub fn children(&self, tree: &Tree, position: usize) -> Range<usize> {
        let first = self.first_children[position] as usize;
        first..first + tree.children(self.order[position]).len()
    }

    /// The path of the entry at `position`, from the root on.
    pub fn path(&self, tree: &Tree, position: usize) -> PathBuf {
        let mut names = Vec::new();
        let mut position = position;
        while position != 0 {
            names.push(OsStr::from_bytes(&tree[self.order[position]].name));
            position = self.parent(position);
        }
        let mut path = PathBuf::from("/");
        // Not `push`: a name that is no name must not change the others.
        path.as_mut_os_string().push(names.into_iter().rev().collect::<Vec<_>>().join(OsStr::new("/")));
        path
    }
}
