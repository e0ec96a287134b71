//! What entries make of each other.

use super::super::samples::Sample;
use super::*;

fn build(sample: &Sample) -> Result<Tree, String> {
    let mut reader = sample.reader();
    let mut builder = TreeBuilder::new(true);
    while let Some(entry) = reader.next_entry().unwrap() {
        builder.add(entry)?;
    }
    Ok(builder.finish())
}

/// Path, mode and size of all that is in the tree.
fn list(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    let mut stack = vec![(Tree::ROOT, String::new())];
    while let Some((id, path)) = stack.pop() {
        let node = &tree[id];
        let size =
            if let Content::Regular { size, .. } = node.content { size.to_string() } else { "-".into() };
        found.push(format!("{}{} {:o} {size}", path, String::from_utf8_lossy(&node.name), node.mode));
        let path = format!("{path}{}/", String::from_utf8_lossy(&node.name));
        stack.extend(tree.children(id).iter().map(|child| (*child, path.clone())));
    }
    found.sort();
    found
}

#[test]
fn missing_directories_are_made_and_paths_are_made_plain() {
    let mut sample = Sample::default();
    sample.file("/a/./b//c", b"x").directory("a/", 0o700).directory("./", 0o711).file("a/d", b"");
    let tree = build(&sample).unwrap();
    assert_eq!(list(&tree), [" 40711 -", "/a 40700 -", "/a/b 40755 -", "/a/b/c 100640 1", "/a/d 100640 0"]);
    let root = &tree[Tree::ROOT];
    assert_eq!((root.uid, root.mtime, root.recorded.unwrap().size), (7, 1000, 4096));
    // Without an entry for it.
    let mut sample = Sample::default();
    let tree = build(sample.file("f", b"")).unwrap();
    let root = &tree[Tree::ROOT];
    assert_eq!((root.mode, root.uid, root.gid, root.mtime), (0o40_755, 0, 0, 0));
}

#[test]
fn the_last_entry_of_a_name_wins() {
    let mut sample = Sample::default();
    sample.file("f", b"one").file("d/x", b"").file("f", b"three").directory("d", 0o700).file("d/y", b"");
    assert_eq!(
        list(&build(&sample).unwrap()),
        [" 40755 -", "/d 40700 -", "/d/x 100640 0", "/d/y 100640 0", "/f 100640 5"]
    );
    // A file in place of a directory, and a directory in place of that.
    sample.file("d", b"file");
    assert_eq!(list(&build(&sample).unwrap()), [" 40755 -", "/d 100640 4", "/f 100640 5"]);
    sample.directory("d", 0o755).file("d/z", b"");
    assert_eq!(list(&build(&sample).unwrap()), [" 40755 -", "/d 40755 -", "/d/z 100640 0", "/f 100640 5"]);
}

#[test]
fn hard_links_are_groups_of_what_they_link_to() {
    let mut sample = Sample::default();
    sample.file("f", b"data").link("l", b'1', "./f").link("k", b'1', "/l").link("f", b'1', "l");
    sample.link("s", b'2', "f").link("t", b'1', "s");
    let tree = build(&sample).unwrap();
    let by_name = |name: &str| {
        let found = tree.children(Tree::ROOT).iter().find(|id| tree[**id].name == name.as_bytes());
        &tree[*found.unwrap()]
    };
    for name in ["f", "l", "k"] {
        let node = by_name(name);
        assert_eq!((node.hard_links, node.from_tar_link, node.mode), (Some(0), true, 0o100_640), "{name}");
    }
    assert_eq!(by_name("t").content, by_name("s").content);
    assert_eq!(by_name("t").hard_links, None);

    // What replaces one of them has nothing to do with the others.
    let tree = build(sample.file("f", b"other")).unwrap();
    let groups: Vec<_> = tree.children(Tree::ROOT).iter().map(|id| tree[*id].hard_links).collect();
    assert_eq!(groups, [None, Some(0), Some(0), None, None]);
}

#[test]
fn what_extraction_would_refuse_is_refused() {
    let long = "n".repeat(256);
    for (sample, detail) in [
        (Sample::default().file("a/../b", b""), "\"..\" in a path"),
        (Sample::default().file("..", b""), "\"..\" in a path"),
        (Sample::default().link("l", b'1', "../f"), "hard link to \"../f\": \"..\" in a path"),
        (
            Sample::default().link("l", b'1', "f").file("f", b""),
            "hard link to \"f\", which does not come before it",
        ),
        (Sample::default().directory("d", 0o755).link("l", b'1', "d"), "hard link to \"d\", a directory"),
        (Sample::default().file("f", b"").file("f/x", b""), "is below \"f\", which is not a directory"),
        (Sample::default().link("s", b'2', "s").file("s/x", b""), "more than 40 symlinks to follow"),
        (
            Sample::default().link("s", b'2', "t/u").link("t", b'2', "s/v").file("s/x", b""),
            "more than 40 symlinks to follow",
        ),
        (
            Sample::default().file("d", b"").link("s", b'2', "d").file("s/x", b""),
            "is below \"d\", which is not a directory",
        ),
        (
            Sample::default().pax(b'x', &[("linkpath", &[b't'; 4096])]).link("s", b'2', "t"),
            "a symlink target of 4096 bytes, expected at most 4095",
        ),
        (Sample::default().link("s", b'2', ""), "a symlink without a target"),
        (Sample::default().file(".", b""), "the root must be a directory"),
        (
            Sample::default().pax(b'x', &[("path", long.as_bytes())]).file("x", b""),
            "a name of 256 bytes, expected at most 255",
        ),
        (Sample::default().pax(b'x', &[("path", b"a\0b")]).file("x", b""), "a NUL in a path"),
    ] {
        assert_eq!(build(sample).unwrap_err(), detail);
    }
}

#[test]
fn paths_lead_through_symlinks_of_the_layer_and_never_out_of_it() {
    let mut sample = Sample::default();
    sample.directory("usr/lib", 0o700).link("lib", b'2', "usr/lib").link("up", b'2', "../../.././lib");
    sample
        .link("root", b'2', "/")
        .link("usr/lib/abs", b'2', "/usr//./lib/deeper/..")
        .link("later", b'2', "made/x");
    sample.file("lib/a", b"1").file("up/b", b"12").file("root/c", b"123").file("usr/lib/abs/d", b"1234");
    sample.file("later/e", b"12345").directory("lib/abs/up", 0o711).file("up/.wh.gone", b"");
    // Its target is found on the same way, and a symlink as such is linked to as such.
    sample.link("root/l", b'1', "up/a").link("m", b'1', "root/lib");
    assert_eq!(
        list(&build(&sample).unwrap()),
        [
            " 40755 -",
            "/c 100640 3",
            "/l 100640 1",
            "/later 120640 -",
            "/lib 120640 -",
            "/m 120640 -",
            "/made 40755 -",
            "/made/x 40755 -",
            "/made/x/e 100640 5",
            "/root 120640 -",
            "/up 120640 -",
            "/usr 40755 -",
            "/usr/lib 40700 -",
            "/usr/lib/.wh.gone 100640 0",
            "/usr/lib/a 100640 1",
            "/usr/lib/abs 120640 -",
            "/usr/lib/b 100640 2",
            "/usr/lib/d 100640 4",
            "/usr/lib/deeper 40755 -",
            "/usr/lib/up 40711 -",
        ]
    );
}

#[test]
fn directories_without_an_entry_are_implied_until_there_is_one() {
    let mut sample = Sample::default();
    sample.file("a/b/c", b"").directory("a", 0o755).file("d/e", b"");
    let tree = build(&sample).unwrap();
    let implied: Vec<_> =
        tree.nodes.iter().filter(|node| node.is_implied).map(|node| node.name.clone()).collect();
    assert_eq!(implied, [&b""[..], b"b", b"d"]);
}

#[test]
fn whiteouts_of_the_longest_names_become_devices() {
    let names = ["n", "o", "p"].map(|letter| letter.repeat(255));
    let paths = names.clone().map(|name| format!("d/.wh.{name}"));
    let mut sample = Sample::default();
    for path in &paths {
        // With content, which nobody asks for.
        sample.pax(b'x', &[("path", path.as_bytes())]).file("x", b"some");
    }
    // What the layer has itself hides what is below.
    let (file, directory) = (format!("d/{}", names[1]), format!("d/{}", names[2]));
    sample.pax(b'x', &[("path", file.as_bytes())]).file("x", b"new");
    sample.pax(b'x', &[("path", directory.as_bytes())]).directory("x", 0o700);
    let tree = build(&sample).unwrap();
    let children = tree.children(tree.children(Tree::ROOT)[0]);
    let mut found: Vec<_> =
        children.iter().map(|id| (tree[*id].name[0], tree[*id].mode, tree[*id].xattrs.len())).collect();
    found.sort();
    assert_eq!(found, [(b'n', 0o020_000, 0), (b'o', 0o100_640, 0), (b'p', 0o040_700, 1)]);
}

#[test]
fn whiteouts_are_names_and_owners_may_be_left_out() {
    let mut sample = Sample::default();
    sample.file(".wh.a", b"").pax(b'x', &[("SCHILY.xattr.user.k", b"v"), ("SCHILY.xattr.other", b"v")]);
    sample.file("d/.wh..wh..opq", b"");
    let tree = build(&sample).unwrap();
    assert_eq!(list(&tree)[1..], ["/.wh.a 100640 0", "/d 40755 -", "/d/.wh..wh..opq 100640 0"]);
    let last = tree.nodes.last().unwrap();
    assert_eq!(last.xattrs, [(b"user.k".to_vec(), b"v".to_vec())], "only what the format names");

    let mut builder = TreeBuilder::new(false);
    builder.add(sample.reader().next_entry().unwrap().unwrap()).unwrap();
    assert_eq!((builder.entries(), builder.finish().nodes[1].uid), (1, 0));
}
