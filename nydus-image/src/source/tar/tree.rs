//! A tree out of entries in the order in which an archive has them.
//!
//! Invariant: at any time the tree is what extracting the entries so far would have made. Nodes that were replaced
//! stay in the tree's memory, since chunks may have been read for them, but no directory names them.

use std::collections::HashMap;

use rafs::build::{Content, Node, NodeId, Tree};

use super::entry::{Entry, Kind};
use crate::source::directory::{is_kept, rdev_of};

/// The longest name of an entry.
const MAX_NAME: usize = 255;
/// Fewer than node numbers.
const MAX_NODES: usize = (u32::MAX - 1) as usize;
/// What the reference gives everything that is no device as its device number.
const NO_DEVICE: u32 = u32::MAX;

/// Takes entries and grows a tree.
#[derive(Debug)]
pub struct TreeBuilder {
    tree: Tree,
    /// Number of the directory, and name → entry.
    places: HashMap<Box<[u8]>, Place>,
    groups: u32,
    with_owners: bool,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    node: NodeId,
    /// Its place among the children of its directory.
    child: u32,
}

impl TreeBuilder {
    /// An empty tree. `with_owners` is false if all shall belong to 0:0.
    pub fn new(with_owners: bool) -> Self {
        Self { tree: Tree::new(implicit(b"")), places: HashMap::new(), groups: 0, with_owners }
    }

    /// Entries so far, those that were replaced included.
    pub fn entries(&self) -> usize {
        self.tree.nodes.len() - 1
    }

    /// Adds an entry: the node that has its content, if it has some that is in the archive now. Errors say what is
    /// wrong with it.
    pub fn add(&mut self, entry: Entry) -> Result<Option<NodeId>, String> {
        let names = components(&entry.path)?;
        let Some((name, directories)) = names.split_last() else {
            return self.set_root(entry).map(|()| None);
        };
        let parent = self.make_directories(directories)?;
        let node = match &entry.kind {
            Kind::HardLink { target } => match self.hard_link(target, parent, name)? {
                Some(node) => node,
                // A link to itself.
                None => return Ok(None),
            },
            _ => self.node(name, &entry)?,
        };
        let has_content = matches!(entry.kind, Kind::Regular { size: 1.., .. });
        let id = self.put(parent, name, node)?;
        Ok(has_content.then_some(id))
    }

    /// The tree. Directories have recorded what they measure now, before layers are laid over each other.
    pub fn finish(self) -> Tree {
        let mut tree = self.tree;
        // A tree has fewer than 2^32 nodes.
        for id in (0..tree.nodes.len() as u32).map(NodeId) {
            if tree[id].is_directory() {
                tree[id].recorded = Some(tree.measure(id));
            }
        }
        tree
    }

    fn set_root(&mut self, entry: Entry) -> Result<(), String> {
        if entry.kind != Kind::Directory {
            return Err("the root must be a directory".into());
        }
        let mut root = self.node(b"", &entry)?;
        std::mem::swap(&mut root.content, &mut self.tree[Tree::ROOT].content);
        self.tree[Tree::ROOT] = root;
        Ok(())
    }

    /// The last one of the directories, which are made where they are missing.
    fn make_directories(&mut self, names: &[&[u8]]) -> Result<NodeId, String> {
        let mut at = Tree::ROOT;
        for name in names {
            at = match self.find_child(at, name) {
                Some(place) if self.tree[place.node].is_directory() => place.node,
                Some(_) => {
                    let name = String::from_utf8_lossy(name);
                    return Err(format!("is below {name:?}, which is not a directory"));
                }
                None => self.put(at, name, implicit(name))?,
            };
        }
        Ok(at)
    }

    fn node(&self, name: &[u8], entry: &Entry) -> Result<Node, String> {
        let (type_bits, content) = match &entry.kind {
            Kind::Regular { size, .. } => (0o100_000, Content::Regular { size: *size, chunks: Vec::new() }),
            Kind::Directory => (0o040_000, Content::Directory { children: Vec::new() }),
            Kind::Symlink { target } if target.is_empty() => return Err("a symlink without a target".into()),
            Kind::Symlink { target } => (0o120_000, Content::Symlink { target: target.clone() }),
            Kind::CharDevice { .. } => (0o020_000, Content::Special),
            Kind::BlockDevice { .. } => (0o060_000, Content::Special),
            Kind::Fifo => (0o010_000, Content::Special),
            Kind::HardLink { .. } => return Err("a hard link where none can be".into()),
        };
        let mut node = Node::new(name, type_bits | entry.mode & 0o7777, content);
        if self.with_owners {
            (node.uid, node.gid) = (entry.uid, entry.gid);
        }
        node.rdev = match entry.kind {
            Kind::CharDevice { device: (major, minor) } | Kind::BlockDevice { device: (major, minor) } => {
                rdev_of(major.into(), minor.into())
            }
            Kind::Fifo => 0,
            _ => NO_DEVICE,
        };
        node.mtime = entry.mtime;
        node.xattrs = entry.xattrs.iter().filter(|(name, _)| is_kept(name)).cloned().collect();
        Ok(node)
    }

    /// Another node of the file at `target`, or `None` if that is what has the name already.
    fn hard_link(&mut self, target: &[u8], parent: NodeId, name: &[u8]) -> Result<Option<Node>, String> {
        let shown = || String::from_utf8_lossy(target).into_owned();
        let names = components(target).map_err(|fault| format!("hard link to {:?}: {fault}", shown()))?;
        let found = names.iter().try_fold(Tree::ROOT, |at, name| Some(self.find_child(at, name)?.node));
        let Some(found) = found else {
            return Err(format!("hard link to {:?}, which does not come before it", shown()));
        };
        if self.find_child(parent, name).is_some_and(|place| place.node == found) {
            return Ok(None);
        }
        let original = &mut self.tree[found];
        match &original.content {
            Content::Directory { .. } => return Err(format!("hard link to {:?}, a directory", shown())),
            Content::Regular { .. } => {
                if original.hard_links.is_none() {
                    original.hard_links = Some(self.groups);
                    // Fewer groups than nodes.
                    self.groups += 1;
                }
                original.from_tar_link = true;
            }
            // The formats have no groups of these.
            Content::Symlink { .. } | Content::Special => {}
        }
        Ok(Some(Node { name: name.to_vec(), ..original.clone() }))
    }

    /// Puts a node into a directory, in place of what has its name there.
    fn put(&mut self, parent: NodeId, name: &[u8], node: Node) -> Result<NodeId, String> {
        if name.len() > MAX_NAME {
            return Err(format!("a name of {} bytes, expected at most {MAX_NAME}", name.len()));
        }
        let Some(place) = self.find_child(parent, name) else {
            self.check_room()?;
            let child = self.tree.children(parent).len() as u32;
            let id = self.tree.add(parent, node);
            self.places.insert(key(parent, name), Place { node: id, child });
            return Ok(id);
        };
        if node.is_directory() && self.tree[place.node].is_directory() {
            // What is in it stays.
            let mut node = node;
            std::mem::swap(&mut node.content, &mut self.tree[place.node].content);
            self.tree[place.node] = node;
            return Ok(place.node);
        }
        self.check_room()?;
        let id = NodeId(self.tree.nodes.len() as u32);
        self.tree.nodes.push(node);
        if let Content::Directory { children } = &mut self.tree[parent].content
            && let Some(child) = children.get_mut(place.child as usize)
        {
            *child = id;
        }
        self.places.insert(key(parent, name), Place { node: id, ..place });
        Ok(id)
    }

    fn check_room(&self) -> Result<(), String> {
        match self.tree.nodes.len() < MAX_NODES {
            true => Ok(()),
            false => Err(format!("is one of more than {MAX_NODES} entries")),
        }
    }

    fn find_child(&self, parent: NodeId, name: &[u8]) -> Option<Place> {
        self.places.get(&key(parent, name)).copied()
    }
}

/// A directory that the archive does not have, though entries are in it.
fn implicit(name: &[u8]) -> Node {
    Node { rdev: NO_DEVICE, ..Node::directory(name, 0o755) }
}

fn key(parent: NodeId, name: &[u8]) -> Box<[u8]> {
    [&parent.0.to_le_bytes(), name].concat().into()
}

/// The names that a path is made of, from the root of the tree on; none for the root.
pub fn components(path: &[u8]) -> Result<Vec<&[u8]>, String> {
    let mut names = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return Err("\"..\" in a path".into()),
            _ if name.contains(&0) => return Err("a NUL in a path".into()),
            _ => names.push(name),
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests;
