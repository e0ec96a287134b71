//! A tree out of entries in the order in which an archive has them.
//!
//! Invariant: at any time the tree is what extracting the entries so far would have made. Nodes that were replaced
//! stay in the tree's memory, since chunks may have been read for them, but no directory names them.

use std::borrow::Cow;
use std::collections::HashMap;

use rafs::SYMLINK_MAX;
use rafs::build::{Content, Node, NodeId, Tree};

use super::entry::{Entry, Kind};
use crate::overlay::{OCI_PREFIX, shorten_whiteouts};
use crate::source::directory::{is_kept, rdev_of};

/// The longest name of an entry.
const MAX_NAME: usize = 255;
/// The most symlinks that a path may lead through, as in the kernel.
const MAX_LINKS: usize = 40;
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
        let parent = self.find_directory(directories, true)?.ok_or("a directory that was not made")?;
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
        shorten_whiteouts(&mut tree);
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

    /// The directory that the names lead to, from the root on. Symlinks on the way are followed as in the tree: `/` and
    /// `..` in their targets lead to its root and no further. What is missing is made, if `make`; else it is `None`.
    fn find_directory(&mut self, names: &[&[u8]], make: bool) -> Result<Option<NodeId>, String> {
        let mut path = vec![Tree::ROOT];
        let mut names: Vec<Cow<'_, [u8]>> = names.iter().rev().map(|name| Cow::Borrowed(*name)).collect();
        let mut links = 0;
        while let Some(name) = names.pop() {
            let at = path.last().copied().unwrap_or(Tree::ROOT);
            if *name == *b".." {
                // Above the root is the root.
                path.truncate(path.len().saturating_sub(1).max(1));
                continue;
            }
            let Some(place) = self.find_child(at, &name) else {
                if !make {
                    return Ok(None);
                }
                path.push(self.put(at, &name, implicit(&name))?);
                continue;
            };
            match &self.tree[place.node].content {
                Content::Directory { .. } => path.push(place.node),
                Content::Symlink { target } => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(format!("more than {MAX_LINKS} symlinks to follow"));
                    }
                    if target.starts_with(b"/") {
                        path.truncate(1);
                    }
                    let steps =
                        target.split(|byte| *byte == b'/').filter(|step| !matches!(*step, b"" | b"."));
                    names.extend(steps.rev().map(|step| Cow::Owned(step.to_vec())));
                }
                _ => {
                    let name = String::from_utf8_lossy(&name);
                    return Err(format!("is below {name:?}, which is not a directory"));
                }
            }
        }
        Ok(path.pop())
    }

    fn node(&self, name: &[u8], entry: &Entry) -> Result<Node, String> {
        let (type_bits, content) = match &entry.kind {
            Kind::Regular { size, .. } => (0o100_000, Content::Regular { size: *size, chunks: Vec::new() }),
            Kind::Directory => (0o040_000, Content::Directory { children: Vec::new() }),
            Kind::Symlink { target } if target.is_empty() => return Err("a symlink without a target".into()),
            Kind::Symlink { target } if target.len() > SYMLINK_MAX => {
                return Err(format!(
                    "a symlink target of {} bytes, expected at most {SYMLINK_MAX}",
                    target.len()
                ));
            }
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
        let wrong = |fault| format!("hard link to {:?}: {fault}", shown());
        let names = components(target).map_err(wrong)?;
        let found = match names.split_last() {
            None => Some(Tree::ROOT),
            // A link to a symlink is one more symlink.
            Some((name, directories)) => self
                .find_directory(directories, false)
                .map_err(wrong)?
                .and_then(|directory| Some(self.find_child(directory, name)?.node)),
        };
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
        // What a whiteout removes may have the longest name there is.
        let named = name.strip_prefix(OCI_PREFIX).unwrap_or(name);
        if named.len() > MAX_NAME {
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
    Node { rdev: NO_DEVICE, is_implied: true, ..Node::directory(name, 0o755) }
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
