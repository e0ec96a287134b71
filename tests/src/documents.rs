//! Citations and links in sources and documents: each must lead somewhere.
//!
//! A citation is a section of a specification, `spec/NAME.md §N`, where `spec/` is docs/spec. Further sections of the same
//! document may follow (`§3, §6 to §9`). In sources, a section without a document belongs to the document that was cited last;
//! in docs/spec, where the prefix may be left out, to the document that it stands in; elsewhere it is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

/// Where the specifications lie, below the root of the repository.
const SPECIFICATIONS: &str = "docs/spec";
/// What looks like a path in a document, and is none of the repository.
const NO_PATHS: [&str; 2] = ["nydusd/1.0.0", "rafs/CID/lowerdir"];

#[test]
fn citations_resolve() {
    let specifications = Specifications::read();
    let (mut count, mut broken) = (0, Vec::new());
    // This file has broken ones to test with.
    let others =
        files(&["rs", "md", "toml", "json", "yaml", "py"]).into_iter().filter(|it| !it.ends_with(file!()));
    for path in others {
        let found = specifications.citations(&path, &read(&path));
        count += found.len();
        broken.extend(found.into_iter().filter_map(Result::err));
    }
    assert_eq!(broken, Vec::<String>::new());
    assert!(count > 100, "{count} citations found");
}

#[test]
fn links_resolve() {
    let (mut count, mut broken) = (0, Vec::new());
    for path in files(&["md"]) {
        let text = read(&path);
        for (line, target) in links(&text) {
            count += 1;
            if let Err(why) = follow(&path, &text, target) {
                broken.push(format!("{}:{line}: {why}", path.display()));
            }
        }
    }
    assert_eq!(broken, Vec::<String>::new());
    assert!(count > 30, "{count} links found");
}

#[test]
fn paths_in_documents_exist() {
    let (mut count, mut broken) = (0, Vec::new());
    for path in files(&["md"]) {
        for (line, named) in paths(&read(&path)) {
            count += 1;
            if !NO_PATHS.contains(&named)
                && !root().join(named).exists()
                && !root().join(format!("{named}.rs")).exists()
            {
                broken.push(format!("{}:{line}: there is no {named}", path.display()));
            }
        }
    }
    assert_eq!(broken, Vec::<String>::new());
    assert!(count > 50, "{count} paths found");
}

#[test]
fn broken_citations_are_found() {
    let specifications = Specifications(BTreeMap::from([
        (
            "blob.md".to_owned(),
            sections("# Blobs\n## 1. One\n### 1.1 Part\n```\n## 3. Code\n```\n## 2. Two [V]"),
        ),
        ("cache.md".to_owned(), sections("# Cache\n## 1. Files\n")),
    ]));
    let broken = |path: &str, text: &str| -> Vec<String> {
        let found = specifications.citations(Path::new(path), text);
        found.into_iter().filter_map(Result::err).collect()
    };
    for (path, text) in [
        ("a.rs", "//! Both (spec/blob.md §1, §1.1 and\n//! §2; spec/cache.md). Files (§1)."),
        ("a.rs", "spec/cache.md §1, spec/blob.md §2: later §1.1"),
        ("README.md", "see spec/blob.md §1 to §2, and docs/operations.md"),
        ("docs/spec/cache.md", "§1 is ours, blob.md §2/§1.1 theirs. §1 again; spec/blob.md §2."),
    ] {
        assert_eq!(broken(path, text), Vec::<String>::new(), "{text}");
    }
    for (path, text, why) in [
        ("a.rs", "\n// spec/blob.md §1, §4", "a.rs:2: spec/blob.md has no section 4"),
        ("a.rs", "spec/blob.md §3", "a.rs:1: spec/blob.md has no section 3"),
        ("a.rs", "spec/blob.md §1.2", "a.rs:1: spec/blob.md has no section 1.2"),
        ("a.rs", "spec/blobs.md", "a.rs:1: there is no spec/blobs.md"),
        ("a.rs", "spec/blobs.md §1", "a.rs:1: there is no spec/blobs.md"),
        ("a.rs", "the rules of §1", "a.rs:1: section 1 of which document?"),
        ("README.md", "spec/blob.md §1. The rules of §2", "README.md:1: section 2 of which document?"),
        ("a.rs", "spec/blob.md § 4.", "a.rs:1: spec/blob.md has no section 4"),
        (
            "docs/spec/cache.md",
            "see blob.md §1. And §2",
            "docs/spec/cache.md:1: spec/cache.md has no section 2",
        ),
        ("docs/spec/cache.md", "blob.md §1 and §4", "docs/spec/cache.md:1: spec/blob.md has no section 4"),
    ] {
        assert_eq!(broken(path, text), [why], "{text}");
    }
}

#[test]
fn broken_links_are_found() {
    let text = "[a](README.md) `[b](c.md)`\n```\n[d](e.md)\n```\n[f](g.md), [h](#here-2-it_is) [i](https://j)\n## Here: 2 it_is\n";
    assert_eq!(links(text), [(1, "README.md"), (5, "g.md"), (5, "#here-2-it_is"), (5, "https://j")]);
    let outcome = |target| follow(Path::new("docs/any.md"), text, target);
    for target in ["../README.md", "../docs/spec/README.md#conventions", "spec", "#here-2-it_is", "https://j"]
    {
        assert_eq!(outcome(target), Ok(()), "{target}");
    }
    for (target, why) in [
        ("README.md", "there is no docs/README.md"),
        ("../README.md#nothing", "README.md has no heading #nothing"),
        ("#nothing", "docs/any.md has no heading #nothing"),
        ("../../main", "../../main leads out of the repository"),
    ] {
        assert_eq!(outcome(target), Err(why.to_owned()), "{target}");
    }
    assert_eq!(
        paths("`rafs/src/v9` `rafs` \"rafs/x\"\n`tests/*.rs` `docs/a.md`"),
        [(1, "rafs/src/v9"), (2, "docs/a.md")]
    );
}

/// The sections of each specification, by the name of its file.
struct Specifications(BTreeMap<String, BTreeSet<String>>);

impl Specifications {
    fn read() -> Self {
        let documents = files(&["md"]).into_iter().filter(|path| path.starts_with(SPECIFICATIONS));
        Self(documents.map(|path| (name_of(&path), sections(&read(&path)))).collect())
    }

    /// What the text of a file cites, or why that leads nowhere.
    fn citations(&self, path: &Path, text: &str) -> Vec<Result<(), String>> {
        let own = path.starts_with(SPECIFICATIONS).then(|| name_of(path));
        let is_source = path.extension().is_some_and(|extension| extension == "rs");
        // The document that was cited last, and where in the text that citation ends.
        let mut last: Option<(&str, usize)> = None;
        let mut found = Vec::new();
        for (place, mark) in marks(text, own.is_some()) {
            let outcome = match mark {
                Mark::Document(name) => {
                    last = Some((name, place.end));
                    if self.0.contains_key(name) { Ok(()) } else { Err(format!("there is no spec/{name}")) }
                }
                Mark::Section(number) => {
                    let cited = last.filter(|(_, end)| is_source || is_separator(&text[*end..place.start]));
                    let document = cited.map(|(name, _)| name).or(own.as_deref());
                    last = document.map(|name| (name, place.end));
                    self.look_up(document, number)
                }
            };
            let line = text[..place.start].matches('\n').count() + 1;
            found.push(outcome.map_err(|why| format!("{}:{line}: {why}", path.display())));
        }
        found
    }

    fn look_up(&self, document: Option<&str>, number: &str) -> Result<(), String> {
        let name = document.ok_or_else(|| format!("section {number} of which document?"))?;
        match self.0.get(name) {
            // Told of where it is named.
            None => Ok(()),
            Some(sections) if sections.contains(number) => Ok(()),
            Some(_) => Err(format!("spec/{name} has no section {number}")),
        }
    }
}

/// A part of a citation.
enum Mark<'a> {
    /// The file of a specification.
    Document(&'a str),
    /// The number of a section.
    Section(&'a str),
}

/// The parts of citations in a text, in their order, and where they are. With `bare`, a document needs no `spec/`.
fn marks(text: &str, bare: bool) -> Vec<(Range<usize>, Mark<'_>)> {
    let mut marks = Vec::new();
    for (start, sign) in text.match_indices('§') {
        let rest = text[start + sign.len()..].trim_start();
        let len = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number = rest[..len].trim_end_matches('.');
        if !number.is_empty() {
            let end = start + text[start..].find(number).unwrap_or(0) + number.len();
            marks.push((start..end, Mark::Section(number)));
        }
    }
    let is_of_a_path = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    for (dot, extension) in text.match_indices(".md") {
        let path = text[..dot].rsplit(|c| !is_of_a_path(c)).next().unwrap_or_default();
        let place = dot - path.len()..dot + extension.len();
        match text[place.clone()].rsplit_once('/') {
            Some((folder, name)) if folder == "spec" || folder.ends_with("/spec") => {
                marks.push((place, Mark::Document(name)));
            }
            None if bare => marks.push((place.clone(), Mark::Document(&text[place]))),
            _ => {}
        }
    }
    marks.sort_by_key(|(place, _)| place.start);
    marks
}

/// True for what joins the sections of one list, or a document and its section; marks of comments do not count.
fn is_separator(text: &str) -> bool {
    text.replace([',', '/', '!', '#'], " ").split_whitespace().all(|word| ["and", "or", "to"].contains(&word))
}

/// The numbers of the sections of a document.
fn sections(text: &str) -> BTreeSet<String> {
    let numbers = headings(text).filter_map(|heading| heading.split_whitespace().next());
    let numbers = numbers.map(|number| number.trim_end_matches('.'));
    numbers.filter(|it| it.starts_with(|c: char| c.is_ascii_digit())).map(str::to_owned).collect()
}

/// The headings of a document, without their marks.
fn headings(text: &str) -> impl Iterator<Item = &str> {
    prose(text).filter(|(_, line)| line.starts_with('#')).map(|(_, line)| line.trim_start_matches('#').trim())
}

/// The numbered lines of a document that are not code.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_code = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        !in_code && !is_fence
    })
}

/// The targets of a document's links, and their lines.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut links = Vec::new();
    for (number, line) in prose(text) {
        // Every other part stands between backquotes.
        for part in line.split('`').step_by(2) {
            let targets = part.split("](").skip(1).filter_map(|rest| rest.split(')').next());
            links.extend(targets.map(|target| (number, target)));
        }
    }
    links
}

/// Looks whether a link leads somewhere. `text` is that of the document at `path`, which has the link.
fn follow(path: &Path, text: &str, target: &str) -> Result<(), String> {
    if target.contains("://") {
        return Ok(());
    }
    let (file, heading) = target.split_once('#').unwrap_or((target, ""));
    let directory = path.parent().unwrap_or(Path::new(""));
    let file = if file.is_empty() {
        path.to_owned()
    } else {
        normal(&directory.join(file)).ok_or_else(|| format!("{target} leads out of the repository"))?
    };
    let text = if file == path {
        text.to_owned()
    } else if root().join(&file).exists() {
        fs::read_to_string(root().join(&file)).unwrap_or_default()
    } else {
        return Err(format!("there is no {}", file.display()));
    };
    let known = heading.is_empty() || headings(&text).any(|known| anchor(known) == heading);
    if known { Ok(()) } else { Err(format!("{} has no heading #{heading}", file.display())) }
}

/// The name that a link gives to a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The paths from the root of the repository that stand between backquotes in a document, and their lines. What has blanks or
/// wildcards in it is no path.
fn paths(text: &str) -> Vec<(usize, &str)> {
    let is_folder = |first: &str| is_ours(first) && root().join(first).is_dir();
    let is_path = |quoted: &str| {
        let plain = quoted.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
        plain && quoted.split_once('/').is_some_and(|(first, _)| is_folder(first))
    };
    let quoted =
        prose(text).flat_map(|(number, line)| line.split('`').skip(1).step_by(2).map(move |it| (number, it)));
    quoted.filter(|(_, it)| is_path(it)).collect()
}

/// A path without `..`; `None` if it leads out.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir if !normal.pop() => return None,
            Component::ParentDir | Component::CurDir => {}
            other => normal.push(other),
        }
    }
    Some(normal)
}

/// False for folders of what is built or what fuzzing leaves, for hidden ones, and for none.
fn is_ours(folder: &str) -> bool {
    !folder.is_empty() && !folder.starts_with('.') && !["target", "corpus", "artifacts"].contains(&folder)
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository")
}

fn read(path: &Path) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// The files of the repository with one of these extensions, by their paths from its root.
fn files(extensions: &[&str]) -> Vec<PathBuf> {
    let (mut files, mut folders) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            let wanted =
                path.extension().is_some_and(|it| extensions.iter().any(|extension| it == *extension));
            match entry.file_type().unwrap() {
                kind if kind.is_dir() && is_ours(&name_of(&path)) => folders.push(path),
                kind if kind.is_file() && wanted => files.push(path),
                _ => {}
            }
        }
    }
    files.sort();
    files
}
