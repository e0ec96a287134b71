//! The notations in which layers say that something below them is gone, and what else overlayfs writes into the
//! directories it owns (spec/rafs-v5.md §12.2). Names and attributes are bytes.

use std::collections::HashMap;
use std::path::Path;

use rafs::build::{Content, Node, NodeId, Tree};

use super::{ids, path_of, put_children, take_children};
use crate::cli::WhiteoutSpec;
use crate::error::{Error, Result};

/// The longest name in a directory.
const NAME_MAX: usize = 255;
/// Before the name of what is gone.
pub const OCI_PREFIX: &[u8] = b".wh.";
/// All of the lower directory is gone.
pub(super) const OCI_OPAQUE: &[u8] = b".wh..wh..opq";
/// What AUFS keeps in the root of a layer for itself begins with this.
const AUFS_PREFIX: &[u8] = b".wh..wh.";
/// Before the names of overlayfs's attributes, and of the same for overlays of users without privileges.
const OVERLAY_PREFIXES: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];
/// The attribute of an opaque directory, whose value is then `y`.
pub(super) const OPAQUE: &[u8] = b"trusted.overlay.opaque";
/// What of overlayfs's attributes means something to whoever lays layers over each other.
const MEANINGFUL: [&[u8]; 5] = [b"opaque", b"whiteout", b"whiteouts", b"redirect", b"metacopy"];
/// What overlayfs keeps for itself, which differs between equal directories and means nothing elsewhere.
const PRIVATE: [&[u8]; 6] = [b"origin", b"uuid", b"impure", b"nlink", b"upper", b"protattr"];

/// How a layer says that something of the layers below is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notation {
    /// Not at all: names are names.
    Literal,
    /// As a container runtime reads layers, which unpacks them into directories of overlayfs: by names that begin with
    /// `.wh.`, and by what overlayfs understands in a directory of root.
    Layer,
    /// As overlayfs leaves its upper directory, be it one of root or of a user without privileges.
    Upper,
}

impl From<WhiteoutSpec> for Notation {
    fn from(spec: WhiteoutSpec) -> Self {
        match spec {
            WhiteoutSpec::None => Self::Literal,
            WhiteoutSpec::Oci => Self::Layer,
            WhiteoutSpec::Overlayfs => Self::Upper,
        }
    }
}

/// What an entry that is no part of the tree says of the layers below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whiteout<'a> {
    /// The lower entry of this name is gone.
    Removes(&'a [u8]),
    /// All lower entries of the directory are gone.
    Opaque,
}

impl Notation {
    /// What an entry says of the layers below, if it is there only to say so.
    pub(super) fn whiteout(self, node: &Node) -> Option<Whiteout<'_>> {
        if self == Self::Layer
            && let Some(gone) = node.name.strip_prefix(OCI_PREFIX)
        {
            return Some(if node.name == OCI_OPAQUE { Whiteout::Opaque } else { Whiteout::Removes(gone) });
        }
        let is_whiteout = match &node.content {
            // Whatever else it is, its number is that of no device.
            Content::Special => node.mode & 0o170_000 == 0o020_000 && node.rdev == 0 && self != Self::Literal,
            Content::Regular { size: 0, .. } => self.attribute(node, b"whiteout").is_some(),
            _ => false,
        };
        is_whiteout.then_some(Whiteout::Removes(&node.name))
    }

    /// True if a directory says of itself that nothing of the lower one shows.
    pub(super) fn is_opaque(self, node: &Node) -> bool {
        node.is_directory() && self.attributes(node, b"opaque").any(|value| value == b"y")
    }

    /// True if an entry of the root of a layer is AUFS's own. Runtimes skip these.
    pub(super) fn is_aufs_metadata(self, node: &Node) -> bool {
        self == Self::Layer && node.name.starts_with(AUFS_PREFIX) && node.name != OCI_OPAQUE
    }

    /// Takes away the attributes that have been obeyed, or mean nothing where they are.
    pub(super) fn clear_attributes(self, node: &mut Node) {
        node.xattrs.retain(|(name, _)| self.meaning(name).is_none());
    }

    /// The value of one of overlayfs's attributes.
    fn attribute<'a>(self, node: &'a Node, wanted: &'static [u8]) -> Option<&'a [u8]> {
        self.attributes(node, wanted).next()
    }

    fn attributes<'a>(self, node: &'a Node, wanted: &'static [u8]) -> impl Iterator<Item = &'a [u8]> {
        node.xattrs
            .iter()
            .filter(move |(name, _)| self.meaning(name) == Some(wanted))
            .map(|(_, value)| value.as_slice())
    }

    /// The meaning of an attribute, which is the end of its name. In layers attributes of the `user.` kind are those of
    /// a container's own, perhaps of overlays inside it.
    fn meaning(self, name: &[u8]) -> Option<&[u8]> {
        let prefixes = match self {
            Self::Literal => &[][..],
            Self::Layer => &OVERLAY_PREFIXES[..1],
            Self::Upper => &OVERLAY_PREFIXES[..],
        };
        let end = prefixes.iter().find_map(|prefix| name.strip_prefix(*prefix))?;
        MEANINGFUL.contains(&end).then_some(end)
    }

    /// What is wrong with an entry of a layer.
    fn fault(self, node: &Node) -> Option<String> {
        if self == Self::Layer && matches!(node.name.strip_prefix(OCI_PREFIX), Some(b"" | b"." | b"..")) {
            return Some("a whiteout that names nothing that could be removed".into());
        }
        // Below an opaque directory there is nothing to be found elsewhere, and a complete file wants nothing more.
        let elsewhere = match &node.content {
            Content::Directory { .. } if !self.is_opaque(node) => &b"redirect"[..],
            Content::Regular { .. } => b"metacopy",
            _ => return None,
        };
        let (name, _) = node.xattrs.iter().find(|(name, _)| self.meaning(name) == Some(elsewhere))?;
        Some(format!(
            "its content lies elsewhere in the layers below, says {}: build from a copy of what the overlay shows, or from \
             an upper directory of an overlay with redirect_dir=off,metacopy=off",
            String::from_utf8_lossy(name)
        ))
    }
}

/// An error that names the first entry of a layer that cannot be what it says. `source` is the layer.
pub fn check(tree: &Tree, notation: Notation, source: &Path) -> Result<()> {
    if notation == Notation::Literal {
        return Ok(());
    }
    let mut directories = vec![Tree::ROOT];
    while let Some(directory) = directories.pop() {
        for &child in tree.children(directory) {
            let node = &tree[child];
            if let Some(fault) = notation.fault(node) {
                return Err(Error::entry(source, format!("{:?}: {fault}", path_of(tree, child))));
            }
            if node.is_directory() {
                directories.push(child);
            }
        }
    }
    Ok(())
}

/// True if an extended attribute is overlayfs's own, and no part of what an overlay shows.
pub fn is_private(name: &[u8]) -> bool {
    let end = OVERLAY_PREFIXES.iter().find_map(|prefix| name.strip_prefix(*prefix));
    end.is_some_and(|end| PRIVATE.contains(&end))
}

/// Replaces whiteouts whose names, with what is in front of them, no directory can hold, by those of overlayfs, which
/// need nothing in front. Where the layer has an entry of the name itself, that hides the lower one; a directory does
/// when it is opaque.
pub fn shorten_whiteouts(tree: &mut Tree) {
    for id in ids(tree) {
        let is_long = |tree: &Tree, child: &NodeId| tree[*child].name.len() > NAME_MAX;
        if !tree.children(id).iter().any(|child| is_long(tree, child)) {
            continue;
        }
        let children = take_children(tree, id).into_iter();
        let (long, mut kept): (Vec<_>, Vec<_>) = children.partition(|child| is_long(tree, child));
        let places: HashMap<Vec<u8>, NodeId> =
            kept.iter().map(|child| (tree[*child].name.clone(), *child)).collect();
        for whiteout in long {
            // Only whiteouts are that long.
            let gone = tree[whiteout].name.split_off(OCI_PREFIX.len());
            match places.get(&gone) {
                None => {
                    // One node more in a tree whose nodes have 32-bit numbers: the other may have content.
                    kept.push(NodeId(tree.nodes.len() as u32));
                    tree.nodes.push(device(gone));
                }
                Some(&twin) if tree[twin].is_directory() => make_opaque(&mut tree[twin]),
                Some(_) => {}
            }
        }
        put_children(tree, id, kept);
    }
}

/// Overlayfs's whiteout of a name.
pub(super) fn device(name: Vec<u8>) -> Node {
    Node::new(name, 0o020_000, Content::Special)
}

/// Makes a directory say that nothing of the lower one shows.
pub(super) fn make_opaque(directory: &mut Node) {
    directory.xattrs.retain(|(name, _)| name != OPAQUE);
    directory.xattrs.push((OPAQUE.to_vec(), b"y".to_vec()));
}

/// Whiteouts and opaque directories of a tree, in no particular order.
pub(super) fn all(tree: &Tree, notation: Notation) -> Vec<NodeId> {
    let mut found = Vec::new();
    let mut directories = vec![Tree::ROOT];
    while let Some(directory) = directories.pop() {
        if notation.is_opaque(&tree[directory]) {
            found.push(directory);
        }
        for &child in tree.children(directory) {
            match notation.whiteout(&tree[child]) {
                Some(_) => found.push(child),
                None if tree[child].is_directory() => directories.push(child),
                None => {}
            }
        }
    }
    found
}
