//! What layers make of each other.

use super::whiteout::OPAQUE;
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
                None => {
                    tree.add(at, Node::new(*name, 0o100_644, Content::Regular { size: 0, chunks: vec![] }))
                }
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
    let offset = apply(&mut lower, upper, Notation::Layer);
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
    upper[d].xattrs = vec![(OPAQUE.to_vec(), b"y".to_vec()), (b"user.k".to_vec(), b"v".to_vec())];
    let offset = apply(&mut lower, upper, Notation::Upper);
    assert_eq!(paths(&lower, offset), ["/d+", "/d/new+", "/k+", "/k/w+", "/k/z"]);
    assert_eq!(lower[NodeId(d.0 + offset)].xattrs, [(b"user.k".to_vec(), b"v".to_vec())]);
}

#[test]
fn without_a_notation_nothing_means_anything() {
    let mut lower = tree(&["a"]);
    let offset = apply(&mut lower, tree(&[".wh.a"]), Notation::Literal);
    assert_eq!(paths(&lower, offset), ["/.wh.a+", "/a"]);
}

#[test]
fn a_single_layer_loses_its_whiteouts() {
    let mut layer = tree(&[".wh.a", "d/.wh..wh..opq", "d/x"]);
    drop_whiteouts(&mut layer, Notation::Layer);
    assert_eq!(paths(&layer, u32::MAX), ["/d", "/d/x"]);
}

#[test]
fn whiteouts_that_name_nothing_are_errors_that_name_them() {
    for (path, is_fault) in [("d/.wh.", true), (".wh..", true), (".wh...", true), (".wh....", false)] {
        let layer = tree(&[path]);
        let checked =
            |notation| check(&layer, notation, "source".as_ref()).map_err(|error| error.to_string());
        match checked(Notation::Layer) {
            Err(error) => assert!(is_fault && error.contains(&format!("source: \"/{path}\"")), "{error}"),
            Ok(()) => assert!(!is_fault, "{path}"),
        }
        checked(Notation::Upper).unwrap();
        checked(Notation::Literal).unwrap();
    }
}

#[test]
fn what_aufs_keeps_for_itself_is_nothing() {
    let layer = [".wh..wh.plnk/1.2", ".wh..wh.orph/", ".wh..wh.aufs", "d/x"];
    let mut kept = tree(&layer);
    keep(&mut kept, Notation::Layer);
    assert_eq!(paths(&kept, u32::MAX), ["/d", "/d/x"]);
    let mut lower = tree(&[".wh.plnk", "a"]);
    apply(&mut lower, tree(&layer), Notation::Layer);
    assert_eq!(paths(&lower, u32::MAX), ["/.wh.plnk", "/a", "/d", "/d/x"]);
    // Not in the root they are whiteouts, and by another notation files.
    let mut lower = tree(&["d/.wh.plnk"]);
    apply(&mut lower, tree(&["d/.wh..wh.plnk"]), Notation::Layer);
    assert_eq!(paths(&lower, u32::MAX), ["/d"]);
}

#[test]
fn a_layer_of_a_users_overlay_becomes_one_of_root() {
    let attribute = |name: &str, value: &[u8]| (name.as_bytes().to_vec(), value.to_vec());
    let mut layer = tree(&["d/gone", "d/kept", "e/", "f"]);
    for id in ids(&layer) {
        let node = &mut layer[id];
        node.xattrs = match &node.name[..] {
            b"gone" => vec![attribute("user.overlay.whiteout", b"")],
            b"d" => vec![attribute("user.overlay.opaque", b"x")],
            b"e" => vec![attribute("user.overlay.opaque", b"y"), attribute("user.k", b"v")],
            // What a complete file was copied from does not matter.
            b"f" => vec![attribute("trusted.overlay.redirect", b"/f")],
            _ => Vec::new(),
        };
    }
    let mut of_a_container = layer.clone();
    keep(&mut layer, Notation::Upper);
    let of = |tree: &Tree, name: &[u8]| tree.nodes.iter().find(|node| node.name == name).unwrap().clone();
    assert_eq!(of(&layer, b"gone"), device(b"gone".to_vec()));
    assert_eq!(
        of(&layer, b"e").xattrs,
        [attribute("user.k", b"v"), attribute("trusted.overlay.opaque", b"y")]
    );
    assert!(of(&layer, b"d").xattrs.is_empty() && of(&layer, b"f").xattrs.is_empty());
    let mut lower = tree(&["d/gone", "e/old", "z"]);
    apply(&mut lower, layer, Notation::Layer);
    assert_eq!(paths(&lower, u32::MAX), ["/d", "/d/kept", "/e", "/f", "/z"]);

    // In any other layer they are attributes of files, which a container has set.
    let before = of_a_container.clone();
    keep(&mut of_a_container, Notation::Layer);
    assert_eq!(of(&of_a_container, b"gone"), of(&before, b"gone"));
}

#[test]
fn implied_directories_have_the_attributes_of_what_is_below() {
    let mut lower = tree(&["d/x", "f"]);
    let d = lower.children(Tree::ROOT)[0];
    lower[d] = Node { uid: 5, mtime: 77, xattrs: vec![(b"user.k".to_vec(), vec![])], ..lower[d].clone() };
    lower[d].mode = 0o041_777;
    lower[Tree::ROOT].mode = 0o040_700;
    let implied = |paths: &[&str]| {
        let mut layer = tree(paths);
        layer.nodes.iter_mut().for_each(|node| node.is_implied = node.is_directory());
        layer
    };
    let expected = lower[d].clone();
    apply(&mut lower, implied(&["d/y", "new/z", "f/now-a-directory"]), Notation::Layer);
    apply(&mut lower, implied(&["d/w"]), Notation::Layer);
    assert_eq!(lower[Tree::ROOT].mode, 0o040_700);
    assert!(lower.nodes.iter().all(|node| !node.is_implied));
    let of = |name: &[u8]| {
        let id = lower.children(Tree::ROOT).iter().find(|id| lower[**id].name == name).unwrap();
        Node { content: Content::Special, recorded: None, ..lower[*id].clone() }
    };
    assert_eq!(of(b"d"), Node { content: Content::Special, recorded: None, ..expected });
    assert_eq!((of(b"new").mode, of(b"f").mode), (0o040_755, 0o040_755));
}
