//! A configuration text as a tree, the same for JSON and TOML.
//!
//! A key that appears twice is an error: which of the two was meant cannot be known. Depth is bounded by both
//! parsers, size by the length of the text.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::section::quote;

/// The keys of one table.
pub(super) type Table = BTreeMap<String, Node>;

/// One value. It has no `Debug`, since it may hold secrets.
pub(super) enum Node {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Table(Table),
}

impl Node {
    /// The tree of a JSON text, or what is wrong with it and where.
    pub fn from_json(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// The tree of a TOML text, or what is wrong with it and where.
    pub fn from_toml(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error: toml::de::Error| {
            // The error's own print quotes the line, which may hold a secret.
            let place = error.span().map(|span| place_of(text, span.start)).unwrap_or_default();
            format!("{}{place}", error.message().replace('\n', "; "))
        })
    }

    /// What this is, for "found …" in an error. `quoted`: whether the value itself may be shown.
    pub fn describe(&self, quoted: bool) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) if quoted => value.to_string(),
            Self::Bool(_) => "true or false".to_owned(),
            Self::Integer(value) if quoted => value.to_string(),
            Self::Float(value) if quoted => format!("{value:?}"),
            Self::Integer(_) | Self::Float(_) => "a number".to_owned(),
            Self::Text(value) if quoted => format!("the text {}", quote(value)),
            Self::Text(_) => "a text".to_owned(),
            Self::List(_) => "a list".to_owned(),
            Self::Table(_) => "a table".to_owned(),
        }
    }
}

/// ` at line L column C` of a byte offset.
fn place_of(text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!(" at line {line} column {column}")
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Integer(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Node, E> {
        Ok(Node::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        // No capacity from a hint: the text decides how long the list really is.
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut table = Table::new();
        while let Some((key, value)) = entries.next_entry::<String, Node>()? {
            if table.contains_key(&key) {
                return Err(A::Error::custom(format!("the key {} appears twice", quote(&key))));
            }
            table.insert(key, value);
        }
        Ok(Node::Table(table))
    }
}
