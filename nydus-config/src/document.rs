//! Which form a text has.
//!
//! A text that begins with `{` is JSON, as no TOML text does; then `version` makes it schema v2 and `device`
//! schema v1. With both, v2 goes first, and v1 has its turn only if the text lacks the shape of v2: a v2 text
//! with a bad value is a bad text.

use super::backend::{Backend, Kind};
use super::error::{Error, Problem};
use super::node::{Node, Table};
use super::section::{Section, quote};
use super::{Config, MAX_TEXT, Parsed, v1, v2};

/// Why a text is no configuration; the origin is not known yet.
pub(super) enum Failure {
    TooLong,
    Unrecognised(String),
    Key(Problem),
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Key(problem)
    }
}

impl Failure {
    pub fn at(self, origin: &str) -> Error {
        let origin = origin.to_owned();
        match self {
            Self::TooLong => Error::TooLong { origin },
            Self::Unrecognised(detail) => Error::Unrecognised { origin, detail },
            Self::Key(problem) => problem.at(&origin),
        }
    }
}

/// The configuration in `text`.
pub(super) fn parse(text: &[u8]) -> Result<Parsed, Failure> {
    let text = checked(text)?;
    if text.trim_start().starts_with('{') { parse_json(text) } else { parse_toml(text) }
}

/// A configuration of one backend alone: its kind, and its keys as a JSON object.
pub(super) fn parse_backend(kind: &str, settings: &[u8]) -> Result<Parsed, Failure> {
    let Some((_, kind)) = Kind::ALL.into_iter().find(|(name, _)| *name == kind) else {
        let names = Kind::ALL.map(|(name, _)| name).join(", ");
        let found = quote(kind);
        return Err(Failure::Unrecognised(format!("unknown backend type {found}, expected one of {names}")));
    };
    let root = json_object(checked(settings)?)?;
    let (backend, warnings) = Section::read_root(root, |section| Backend::read(kind, section))?;
    Ok(Parsed { config: Config { backend: Some(backend), ..Config::empty() }, warnings })
}

/// The text, if it can be one.
fn checked(text: &[u8]) -> Result<&str, Failure> {
    if text.len() > MAX_TEXT {
        return Err(Failure::TooLong);
    }
    let text = std::str::from_utf8(text).map_err(|error| {
        Failure::Unrecognised(format!("not a configuration: not UTF-8 at byte {}", error.valid_up_to()))
    })?;
    if text.trim_start().is_empty() {
        return Err(Failure::Unrecognised("not a configuration: the text is empty".to_owned()));
    }
    Ok(text)
}

fn json_object(text: &str) -> Result<Table, Failure> {
    match Node::from_json(text) {
        Ok(Node::Table(root)) => Ok(root),
        Ok(other) => {
            let found = other.describe(false);
            Err(Failure::Unrecognised(format!("not a configuration: expected a JSON object, found {found}")))
        }
        Err(detail) => Err(Failure::Unrecognised(format!("not valid JSON: {detail}"))),
    }
}

fn parse_json(text: &str) -> Result<Parsed, Failure> {
    let root = json_object(text)?;
    let (has_version, has_device) = (has(&root, "version"), has(&root, "device"));
    match (has_version, has_device) {
        (true, false) => Ok(read_v2(root)?),
        (false, true) => Ok(read_v1(root)?),
        (true, true) => read_v2_or_v1(text, root),
        (false, false) => Err(Failure::Unrecognised(
            "not a configuration: schema v2 needs `version`: 2, schema v1 needs `device` and `mode`, found neither"
                .to_owned(),
        )),
    }
}

/// For a text with keys of both schemas.
fn read_v2_or_v1(text: &str, root: Table) -> Result<Parsed, Failure> {
    let v2_problem = match read_v2(root) {
        Err(problem) if problem.is_shape => problem,
        other => return Ok(other?),
    };
    // Reading takes the tree apart, so that the second try needs a second tree.
    match Node::from_json(text) {
        Ok(Node::Table(root)) => read_v1(root).map_err(|v1_problem| {
            Failure::Unrecognised(format!(
                "neither schema fits: as v2, {}: {}; as v1, {}: {}",
                v2_problem.key, v2_problem.detail, v1_problem.key, v1_problem.detail
            ))
        }),
        _ => Err(v2_problem.into()),
    }
}

fn parse_toml(text: &str) -> Result<Parsed, Failure> {
    let root = match Node::from_toml(text) {
        Ok(Node::Table(root)) => root,
        Ok(_) => return Err(Failure::Unrecognised("not a configuration: expected a TOML table".to_owned())),
        Err(detail) => {
            return Err(Failure::Unrecognised(format!(
                "neither JSON (it does not begin with `{{`) nor valid TOML: {detail}"
            )));
        }
    };
    if has(&root, "version") {
        return Ok(read_v2(root)?);
    }
    Err(Failure::Unrecognised(if has(&root, "device") {
        "TOML with `device` of schema v1, which is JSON only; in TOML expected schema v2 with version = 2"
            .to_owned()
    } else {
        "TOML without `version`; expected schema v2 with version = 2".to_owned()
    }))
}

fn has(root: &Table, key: &str) -> bool {
    root.get(key).is_some_and(|node| !matches!(node, Node::Null))
}

fn read_v1(root: Table) -> Result<Parsed, Problem> {
    Section::read_root(root, v1::read).map(|(config, warnings)| Parsed { config, warnings })
}

fn read_v2(root: Table) -> Result<Parsed, Problem> {
    Section::read_root(root, v2::read).map(|(config, warnings)| Parsed { config, warnings })
}
