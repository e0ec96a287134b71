//! Layers: how an upper one is laid over a lower one (spec/rafs-v5.md §12).
//!
//! Whiteouts are input notation only: what comes out of [`apply`] and [`drop_whiteouts`] has none, unless the notation
//! is [`Notation::Literal`], and no directory that is implied. A layer that is to be merged later keeps both ([`keep`]).

mod whiteout;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use rafs::build::{Content, Node, NodeId, Tree};

pub use whiteout::{Notation, OCI_PREFIX, check, is_private, shorten_whiteouts};
use whiteout::{Whiteout, all, device, make_opaque};

/// Takes the whiteouts out of a layer that has none below it.
pub fn drop_whiteouts(tree: &mut Tree, notation: Notation) {
    for id in ids(tree) {
        let mut kept = take_children(tree, id);
        kept.retain(|child| notation.whiteout(&tree[*child]).is_none());
        put_children(tree, id, kept);
        notation.clear_attributes(&mut tree[id]);
        tree[id].is_implied = false;
    }
}

/// Makes a layer without a parent ready to be merged: what says that something is gone stays, in the notation that
/// [`Notation::Layer`] knows. One line in the log tells of it, since an image that is used alone wants none.
pub fn keep(tree: &mut Tree, notation: Notation) {
    if notation == Notation::Literal {
        return;
    }
    let mut in_root = take_children(tree, Tree::ROOT);
    in_root.retain(|child| !notation.is_aufs_metadata(&tree[*child]));
    put_children(tree, Tree::ROOT, in_root);

    let found = all(tree, notation);
    if let Some(first) = found.iter().map(|id| path_of(tree, *id)).min() {
        tracing::warn!(
            "whiteouts are kept for merge, {} of them, {first:?} first: they remove nothing from this image itself",
            found.len()
        );
    }
    for id in ids(tree) {
        let node = &mut tree[id];
        let is_opaque = notation.is_opaque(node);
        // Overlayfs's own have the name of what is gone; when they were made says nothing.
        if matches!(notation.whiteout(node), Some(Whiteout::Removes(gone)) if gone == node.name) {
            *node = device(std::mem::take(&mut node.name));
        }
        notation.clear_attributes(node);
        if is_opaque {
            make_opaque(node);
        }
    }
}

/// Lays `upper` over `lower`; the result grows out of `lower`. Gives what to add to the numbers of upper nodes to
/// find them in it.
///
/// Both trees have what v5 records of them measured, since that stays as it was. Hard links of the two have nothing
/// to do with each other. An implied directory has the attributes of the lower one, where there is one.
pub fn apply(lower: &mut Tree, upper: Tree, notation: Notation) -> u32 {
    // A tree has fewer than 2^32 nodes.
    let offset = lower.nodes.len() as u32;
    let groups = lower.nodes.iter().filter_map(|node| node.hard_links).max().map_or(0, |last| last + 1);
    lower.nodes.extend(upper.nodes.into_iter().map(|mut node| {
        node.hard_links = node.hard_links.map(|group| group + groups);
        if let Content::Directory { children } = &mut node.content {
            children.iter_mut().for_each(|child| child.0 += offset);
        }
        node
    }));
    let tree = lower;
    let upper_root = NodeId(offset);
    // Pairs of an upper directory, which takes the place of both, and the lower one that shows through it, if any.
    let mut pairs = vec![(upper_root, Some(Tree::ROOT))];
    while let Some((above, below)) = pairs.pop() {
        let mut upper_children = take_children(tree, above);
        let mut lower_children = below.map_or_else(Vec::new, |below| take_children(tree, below));
        if above == upper_root {
            upper_children.retain(|child| !notation.is_aufs_metadata(&tree[*child]));
        }
        let mut is_opaque = notation.is_opaque(&tree[above]);
        notation.clear_attributes(&mut tree[above]);
        if std::mem::take(&mut tree[above].is_implied)
            && let Some(below) = below
        {
            inherit(tree, above, below);
        }
        let mut removed = Vec::new();
        upper_children.retain(|child| match notation.whiteout(&tree[*child]) {
            None => true,
            Some(Whiteout::Opaque) => {
                is_opaque = true;
                false
            }
            Some(Whiteout::Removes(name)) => {
                removed.push(name.to_vec());
                false
            }
        });
        if is_opaque {
            lower_children.clear();
        }
        removed.sort_unstable();
        lower_children.retain(|child| removed.binary_search(&tree[*child].name).is_err());
        lower_children.sort_unstable_by(|a, b| tree[*a].name.cmp(&tree[*b].name));

        let mut children = Vec::with_capacity(lower_children.len() + upper_children.len());
        let mut covered = vec![false; lower_children.len()];
        for child in upper_children {
            let twin = lower_children.binary_search_by(|lower| tree[*lower].name.cmp(&tree[child].name)).ok();
            let twin = twin.and_then(|at| {
                if let Some(covered) = covered.get_mut(at) {
                    *covered = true;
                }
                lower_children.get(at).copied()
            });
            if tree[child].is_directory() {
                // Without a lower directory too: whiteouts inside new directories vanish.
                pairs.push((child, twin.filter(|twin| tree[*twin].is_directory())));
            } else {
                notation.clear_attributes(&mut tree[child]);
            }
            children.push(child);
        }
        children
            .extend(lower_children.iter().zip(covered).filter(|(_, covered)| !covered).map(|(id, _)| *id));
        put_children(tree, above, children);
    }
    // The root of the result is node 0, with the attributes of the upper root.
    tree.nodes.swap(Tree::ROOT.0 as usize, upper_root.0 as usize);
    offset
}

/// Gives a directory what a lower one has, but for its name and its children.
fn inherit(tree: &mut Tree, above: NodeId, below: NodeId) {
    // Without children: these have been taken.
    let lower = tree[below].clone();
    let node = &mut tree[above];
    let name = std::mem::take(&mut node.name);
    *node = Node { name, is_implied: false, ..lower };
}

/// The path of an entry, from the root of the tree on.
fn path_of(tree: &Tree, id: NodeId) -> PathBuf {
    let mut parents = vec![None; tree.nodes.len()];
    for parent in ids(tree) {
        for child in tree.children(parent) {
            parents[child.0 as usize] = Some(parent);
        }
    }
    let mut names = Vec::new();
    let mut at = id;
    while let Some(parent) = parents[at.0 as usize] {
        names.push(&tree[at].name[..]);
        at = parent;
    }
    let mut path = PathBuf::from("/");
    path.extend(names.into_iter().rev().map(OsStr::from_bytes));
    path
}

fn ids(tree: &Tree) -> impl Iterator<Item = NodeId> + use<> {
    // A tree has fewer than 2^32 nodes.
    (0..tree.nodes.len() as u32).map(NodeId)
}

fn take_children(tree: &mut Tree, directory: NodeId) -> Vec<NodeId> {
    match &mut tree[directory].content {
        Content::Directory { children } => std::mem::take(children),
        _ => Vec::new(),
    }
}

fn put_children(tree: &mut Tree, directory: NodeId, put: Vec<NodeId>) {
    if let Content::Directory { children } = &mut tree[directory].content {
        *children = put;
    }
}

#[cfg(test)]
mod tests;
