//! One table of a configuration text, read key by key.
//!
//! A key is taken out of the table when it is read, so that what is left at the end is what nobody knows;
//! sub-tables are read through closures, so that the end cannot be forgotten. `null` counts as an absent key.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use storage::secret::{Secret, SecretUrl};

use super::error::{Problem, Warning};
use super::node::{Node, Table};

/// The most warnings for one text; a last one says how many more there were.
const MAX_WARNINGS: usize = 100;
/// The most characters of an outside text that an error quotes.
const MAX_QUOTED: usize = 60;

/// `text` in quotes, control characters escaped, shortened.
pub(super) fn quote(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Keys out of place that would silently leave something undone, and their right place.
const MISPLACED: [(&str, &str); 5] = [
    ("cache.enable_encryption", "nothing is encrypted; it belongs into cache.filecache"),
    ("cache.encryption_key", "it belongs into cache.filecache"),
    ("cache.enable_convergent_encryption", "it belongs into cache.filecache"),
    ("device.cache.work_dir", "it belongs into device.cache.config"),
    ("device.digest_validate", "it belongs to the top, beside device and mode"),
];

/// A table being read.
pub(super) struct Section {
    /// The path of the table; empty at the top.
    path: String,
    entries: Table,
    warnings: Vec<Warning>,
}

impl Section {
    /// Reads the whole text with `read`; also gives the warnings.
    pub fn read_root<T>(
        root: Table,
        read: impl FnOnce(&mut Section) -> Result<T, Problem>,
    ) -> Result<(T, Vec<Warning>), Problem> {
        let mut section = Section { path: String::new(), entries: root, warnings: Vec::new() };
        let value = read(&mut section)?;
        let mut warnings = section.finish();
        warnings.sort_by(|a, b| a.key.cmp(&b.key));
        if let Some(more) = warnings.len().checked_sub(MAX_WARNINGS).filter(|more| *more > 0) {
            warnings.truncate(MAX_WARNINGS);
            warnings.push(Warning { key: "…".to_owned(), text: format!("{more} more warnings") });
        }
        Ok((value, warnings))
    }

    /// Reads `table` as the section at `path`, and keeps its warnings.
    fn read<T>(
        &mut self,
        path: String,
        table: Table,
        read: impl FnOnce(&mut Section) -> Result<T, Problem>,
    ) -> Result<T, Problem> {
        let mut section = Section { path, entries: table, warnings: Vec::new() };
        let value = read(&mut section)?;
        self.warnings.append(&mut section.finish());
        Ok(value)
    }

    /// What was not asked for becomes warnings.
    fn finish(mut self) -> Vec<Warning> {
        for key in std::mem::take(&mut self.entries).into_keys() {
            let key = self.key(&key);
            let text = match MISPLACED.iter().find(|(misplaced, _)| *misplaced == key) {
                Some((_, hint)) => format!("unknown key, ignored: {hint}"),
                None => "unknown key, ignored".to_owned(),
            };
            self.warnings.push(Warning { key, text });
        }
        self.warnings
    }

    /// The path of `key` in this section, from the top of the text.
    pub fn key(&self, key: &str) -> String {
        let plain = !key.is_empty()
            && key.len() <= MAX_QUOTED
            && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
        let mut path = self.path.clone();
        if !path.is_empty() {
            path.push('.');
        }
        if plain {
            path.push_str(key);
        } else {
            path.push_str(&quote(key));
        }
        path
    }

    /// A warning about a known key, given by its path.
    pub fn warn(&mut self, path: impl Into<String>, text: &str) {
        self.warnings.push(Warning { key: path.into(), text: text.to_owned() });
    }

    /// Whether `key` is there and still unread.
    pub fn has(&self, key: &str) -> bool {
        self.entries.get(key).is_some_and(|node| !matches!(node, Node::Null))
    }

    /// `key` is known, and of no use here: no warning about it.
    pub fn ignore(&mut self, key: &str) {
        self.entries.remove(key);
    }

    /// The table `key` is known, and of no use here unless it has a text under `name`: no warning about one without.
    pub fn ignore_without(&mut self, key: &str, name: &str) {
        let is_empty =
            |node: &Node| matches!(node, Node::Null) || matches!(node, Node::Text(text) if text.is_empty());
        if let Some(Node::Table(table)) = self.entries.get(key)
            && table.get(name).is_none_or(is_empty)
        {
            self.entries.remove(key);
        }
    }

    fn take(&mut self, key: &str) -> Option<Node> {
        self.entries.remove(key).filter(|node| !matches!(node, Node::Null))
    }

    fn mismatch(&self, key: &str, expected: &str, found: &Node) -> Problem {
        Problem::shape(self.key(key), format!("expected {expected}, found {}", found.describe(true)))
    }

    /// The problem of a required key that is not there.
    pub fn missing(&self, key: &str, expected: &str) -> Problem {
        Problem::shape(self.key(key), format!("missing; expected {expected}"))
    }

    /// A problem with the value of `key`.
    pub fn invalid(&self, key: &str, detail: impl Into<String>) -> Problem {
        Problem::value(self.key(key), detail)
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, key: &str) -> Result<Option<bool>, Problem> {
        match self.take(key) {
            None => Ok(None),
            Some(Node::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(self.mismatch(key, "true or false", &other)),
        }
    }

    /// A whole number of `unit` in `range`.
    pub fn integer(
        &mut self,
        key: &str,
        range: RangeInclusive<u64>,
        unit: &str,
    ) -> Result<Option<u64>, Problem> {
        let expected = || format!("a whole number of {unit} from {} to {}", range.start(), range.end());
        match self.take(key) {
            None => Ok(None),
            Some(node @ Node::Integer(value)) => {
                match u64::try_from(value).ok().filter(|v| range.contains(v)) {
                    Some(value) => Ok(Some(value)),
                    None => {
                        Err(self
                            .invalid(key, format!("expected {}, found {}", expected(), node.describe(true))))
                    }
                }
            }
            Some(other) => Err(self.mismatch(key, &expected(), &other)),
        }
    }

    /// As [`Section::integer`], of 32 bits.
    pub fn integer32(&mut self, key: &str, unit: &str) -> Result<Option<u32>, Problem> {
        let value = self.integer(key, 0..=u32::MAX.into(), unit)?;
        Ok(value.and_then(|value| u32::try_from(value).ok()))
    }

    /// A text.
    pub fn text(&mut self, key: &str) -> Result<Option<String>, Problem> {
        match self.take(key) {
            None => Ok(None),
            Some(Node::Text(value)) => Ok(Some(value)),
            Some(other) => Err(self.mismatch(key, "a text", &other)),
        }
    }

    /// A text that must be there and not be empty. `expected` says what it names.
    pub fn required_text(&mut self, key: &str, expected: &str) -> Result<String, Problem> {
        match self.text(key)? {
            None => Err(self.missing(key, expected)),
            Some(text) if text.is_empty() => {
                Err(self.invalid(key, format!("expected {expected}, found an empty text")))
            }
            Some(text) => Ok(text),
        }
    }

    /// A path; empty counts as absent.
    pub fn path(&mut self, key: &str) -> Result<Option<PathBuf>, Problem> {
        let Some(text) = self.text(key)?.filter(|text| !text.is_empty()) else { return Ok(None) };
        if text.contains('\0') {
            return Err(
                self.invalid(key, format!("expected a path, found a NUL character in {}", quote(&text)))
            );
        }
        Ok(Some(text.into()))
    }

    /// One of some words.
    pub fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Result<Option<T>, Problem> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        match choices.iter().find(|(name, _)| *name == text) {
            Some((_, value)) => Ok(Some(*value)),
            None => {
                let mut names = String::new();
                for (index, (name, _)) in choices.iter().enumerate() {
                    let _ = write!(names, "{}{name:?}", if index == 0 { "" } else { ", " });
                }
                Err(self.invalid(key, format!("expected one of {names}, found {}", quote(&text))))
            }
        }
    }

    /// A secret text; empty counts as absent. No error shows it.
    pub fn secret(&mut self, key: &str) -> Result<Option<Secret>, Problem> {
        match self.take(key) {
            None => Ok(None),
            Some(Node::Text(value)) => {
                Ok(Some(Secret::new(value)).filter(|secret| !secret.expose().is_empty()))
            }
            Some(other) => Err(Problem::shape(
                self.key(key),
                format!("expected a text, found {}", other.describe(false)),
            )),
        }
    }

    /// An address that may hold a password; empty counts as absent. No error shows the password.
    pub fn url(&mut self, key: &str) -> Result<Option<SecretUrl>, Problem> {
        Ok(self.secret(key)?.map(|secret| SecretUrl::new(secret.expose())))
    }

    /// A list of texts.
    pub fn texts(&mut self, key: &str) -> Result<Vec<String>, Problem> {
        let items = match self.take(key) {
            None => return Ok(Vec::new()),
            Some(Node::List(items)) => items,
            Some(other) => return Err(self.mismatch(key, "a list of texts", &other)),
        };
        let mut texts = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            match item {
                Node::Text(text) => texts.push(text),
                other => {
                    let path = format!("{}[{index}]", self.key(key));
                    return Err(Problem::shape(
                        path,
                        format!("expected a text, found {}", other.describe(true)),
                    ));
                }
            }
        }
        Ok(texts)
    }

    /// A list of whole numbers in `range`. `expected` says what the list is.
    pub fn integers(
        &mut self,
        key: &str,
        range: RangeInclusive<u64>,
        expected: &str,
    ) -> Result<Option<Vec<u64>>, Problem> {
        let items = match self.take(key) {
            None => return Ok(None),
            Some(Node::List(items)) => items,
            Some(other) => return Err(self.mismatch(key, expected, &other)),
        };
        let number = |item: &Node| match item {
            Node::Integer(value) => u64::try_from(*value).ok().filter(|value| range.contains(value)),
            _ => None,
        };
        let mut numbers = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let Some(number) = number(item) else {
                let (start, end, found) = (range.start(), range.end(), item.describe(true));
                let detail = format!("expected a whole number from {start} to {end}, found {found}");
                return Err(Problem::value(format!("{}[{index}]", self.key(key)), detail));
            };
            numbers.push(number);
        }
        Ok(Some(numbers))
    }

    /// A list of paths, none of them empty.
    pub fn paths(&mut self, key: &str) -> Result<Vec<PathBuf>, Problem> {
        let texts = self.texts(key)?;
        if let Some(index) = texts.iter().position(|text| text.is_empty() || text.contains('\0')) {
            let detail = format!("expected paths, found {} as number {}", quote(&texts[index]), index + 1);
            return Err(self.invalid(key, detail));
        }
        Ok(texts.into_iter().map(PathBuf::from).collect())
    }

    /// A table of texts that may be secret.
    pub fn secrets(&mut self, key: &str) -> Result<BTreeMap<String, Secret>, Problem> {
        let table = self.table(key, |section| {
            let keys: Vec<String> = section.entries.keys().cloned().collect();
            let mut map = BTreeMap::new();
            for key in keys {
                if let Some(secret) = section.secret(&key)? {
                    map.insert(key, secret);
                }
            }
            Ok(map)
        })?;
        Ok(table.unwrap_or_default())
    }

    /// The sub-table `key`, read by `read`.
    pub fn table<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&mut Section) -> Result<T, Problem>,
    ) -> Result<Option<T>, Problem> {
        match self.take(key) {
            None => Ok(None),
            Some(Node::Table(table)) => self.read(self.key(key), table, read).map(Some),
            Some(other) => Err(Problem::shape(
                self.key(key),
                format!("expected a table, found {}", other.describe(false)),
            )),
        }
    }

    /// The list of tables `key`, each read by `read`.
    pub fn tables<T>(
        &mut self,
        key: &str,
        mut read: impl FnMut(&mut Section) -> Result<T, Problem>,
    ) -> Result<Vec<T>, Problem> {
        let items = match self.take(key) {
            None => return Ok(Vec::new()),
            Some(Node::List(items)) => items,
            Some(other) => {
                let found = other.describe(false);
                return Err(Problem::shape(
                    self.key(key),
                    format!("expected a list of tables, found {found}"),
                ));
            }
        };
        let mut tables = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let path = format!("{}[{index}]", self.key(key));
            match item {
                Node::Table(table) => tables.push(self.read(path, table, &mut read)?),
                other => {
                    let found = other.describe(false);
                    return Err(Problem::shape(path, format!("expected a table, found {found}")));
                }
            }
        }
        Ok(tables)
    }
}
