//! Layers: what says that something is gone, and how an upper layer is laid over a lower one (spec/rafs-v5.md §12).
//!
//! Whiteouts are input notation only: what comes out has none, unless the notation is [`WhiteoutSpec::None`].

use rafs::build::{Content, Node, NodeId, Tree};

use crate::cli::WhiteoutSpec;

/// Before the name of what is gone.
const OCI_PREFIX: &str = ".wh.";
/// All of the lower directory is gone.
const OCI_OPAQUE: &str = ".wh..wh..opq";
/// The same as an attribute of a directory.
const OVERLAYFS_OPAQUE: &[u8] = b"trusted.overlay.opaque";

/// What an entry says of the layers below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whiteout<'a> {
    /// The lower entry of this name is gone.
    Removes(&'a [u8]),
    /// All lower entries of the directory are gone.
    Opaque,
}

impl WhiteoutSpec {
    /// What an entry says of the layers below, if it is there only to say so.
    fn whiteout(self, node: &Node) -> Option<Whiteout<'_>> {
        match self {
            Self::Oci => {
                // Names that are not UTF-8 are names.
                let name = std::str::from_utf8(&node.name).ok()?;
                if name == OCI_OPAQUE {
                    return Some(Whiteout::Opaque);
                }
                name.strip_prefix(OCI_PREFIX).map(|gone| Whiteout::Removes(gone.as_bytes()))
            }
            Self::Overlayfs => {
                let is_char_device = node.mode & 0o170_000 == 0o020_000;
                (is_char_device && node.rdev == 0).then_some(Whiteout::Removes(&node.name))
            }
            Self::None => None,
        }
    }

    /// True if a directory says of itself that nothing of the lower one shows.
    fn is_opaque(self, node: &Node) -> bool {
        self == Self::Overlayfs
            && node.xattrs.iter().any(|(key, value)| key == OVERLAYFS_OPAQUE && value == b"y")
    }
}

/// Unlinks the whiteouts of a layer that has none below it.
pub fn drop_whiteouts(tree: &mut Tree, spec: WhiteoutSpec) {
    // A tree has fewer than 2^32 nodes.
    for id in (0..tree.nodes.len() as u32).map(NodeId) {
        let mut kept = take_children(tree, id);
        kept.retain(|child| spec.whiteout(&tree[*child]).is_none());
        put_children(tree, id, kept);
    }
}

/// Lays `upper` over `lower`; the result grows out of `lower`. Gives what to add to the numbers of upper nodes to
/// find them in it.
///
/// Both trees have what v5 records of them measured, since that stays as it was. Hard links of the two have nothing
/// to do with each other.
pub fn apply(lower: &mut Tree, upper: Tree, spec: WhiteoutSpec) -> u32 {
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
        if spec.is_opaque(&tree[above]) {
            tree[above].xattrs.retain(|(key, _)| key != OVERLAYFS_OPAQUE);
            lower_children.clear();
        }
        let mut removed = Vec::new();
        let mut is_opaque = false;
        upper_children.retain(|child| match spec.whiteout(&tree[*child]) {
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
mod tests {
    use super::*;

    fn tree(paths: &[&str]) -> Tree {
        let mut tree = Tree::new(Node::directory("", 0o755));
        for path in paths {
            let mut at = Tree::ROOT;
            let (path, is_directory) = path.strip_suffix('/').map_or((*path, false), |path| (path, true));
            let names: Vec<&str> = path.split('/').collect();
            for (depth, name) in names.iter().enumerate() {
                let known = tree.children(at).iter().find(|child| tree[**child].name == name.as_bytes());
                at = match known {
                    Some(known) => *known,
                    None if depth + 1 < names.len() || is_directory => {
                        tree.add(at, Node::directory(*name, 0o755))
                    }
                    None => tree
                        .add(at, Node::new(*name, 0o100_644, Content::Regular { size: 0, chunks: vec![] })),
                };
            }
        }
        tree
    }

    /// Paths of all entries, those of the layer `marked` and above it with a `+`.
    fn paths(tree: &Tree, marked: u32) -> Vec<String> {
        let mut found = Vec::new();
        let mut stack = vec![(Tree::ROOT, String::new())];
        while let Some((at, path)) = stack.pop() {
            for child in tree.children(at) {
                let path = format!("{path}/{}", String::from_utf8_lossy(&tree[*child].name));
                let mark = if child.0 >= marked { "+" } else { "" };
                found.push(format!("{path}{mark}"));
                stack.push((*child, path));
            }
        }
        found.sort();
        found
    }

    #[test]
    fn oci_whiteouts_remove_what_is_below_and_vanish() {
        let mut lower = tree(&["a", "d/x", "d/y", "e/f/g", "h", "m/n"]);
        let upper =
            tree(&[".wh.a", "d/.wh.x", "d/new", "e/.wh..wh..opq", "e/f/only", "h/is-a-dir", "m", "n/.wh.x"]);
        let offset = apply(&mut lower, upper, WhiteoutSpec::Oci);
        let expected =
            ["/d+", "/d/new+", "/d/y", "/e+", "/e/f+", "/e/f/only+", "/h+", "/h/is-a-dir+", "/m+", "/n+"];
        assert_eq!(paths(&lower, offset), expected);
    }

    #[test]
    fn overlayfs_devices_remove_and_opaque_directories_hide_and_lose_their_mark() {
        let mut lower = tree(&["a", "d/x", "k/z"]);
        let mut upper = tree(&["d/new", "k/w"]);
        upper.add(Tree::ROOT, Node::new("a", 0o020_000, Content::Special));
        let d = upper.children(Tree::ROOT)[0];
        upper[d].xattrs =
            vec![(OVERLAYFS_OPAQUE.to_vec(), b"y".to_vec()), (b"user.k".to_vec(), b"v".to_vec())];
        let offset = apply(&mut lower, upper, WhiteoutSpec::Overlayfs);
        assert_eq!(paths(&lower, offset), ["/d+", "/d/new+", "/k+", "/k/w+", "/k/z"]);
        assert_eq!(lower[NodeId(d.0 + offset)].xattrs, [(b"user.k".to_vec(), b"v".to_vec())]);
    }

    #[test]
    fn without_a_notation_nothing_means_anything() {
        let mut lower = tree(&["a"]);
        let offset = apply(&mut lower, tree(&[".wh.a"]), WhiteoutSpec::None);
        assert_eq!(paths(&lower, offset), ["/.wh.a+", "/a"]);
    }

    #[test]
    fn a_single_layer_loses_its_whiteouts() {
        let mut layer = tree(&[".wh.a", "d/.wh..wh..opq", "d/x"]);
        drop_whiteouts(&mut layer, WhiteoutSpec::Oci);
        assert_eq!(paths(&layer, u32::MAX), ["/d", "/d/x"]);
    }
}
