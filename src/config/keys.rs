//! What a key takes: the one word that checks, schema and reference share.

use std::ops::RangeInclusive;

use serde_json::{Value, json};

/// What a key takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Flag,
    Number(RangeInclusive<u32>),
    /// A part of a whole, at least a hundredth of it.
    Fraction,
    /// Above zero.
    Duration,
    DurationOrZero,
    Instant,
    /// With the sentence that says what is allowed.
    Text(&'static str),
    /// The same, where a number may be written without quotes.
    TextOrNumber(&'static str),
    /// A list of texts, none of them empty.
    Texts,
    Choice(Vec<&'static str>),
    Socket,
    Path,
    WebAddress,
    /// By environment only.
    Secret,
    /// An option of librdkafka.
    Property,
}

/// A sequence of number and unit.
const DURATION: &str = "^([0-9]+(ms|s|m|h|d))+$";

impl Kind {
    /// The second half of a mistake's sentence.
    pub(super) fn allowed(&self) -> String {
        match self {
            Self::Flag => "allowed are true and false".to_owned(),
            Self::Number(range) => format!("allowed are whole numbers from {} to {}", range.start(), range.end()),
            Self::Fraction => "allowed are numbers from 0.01 to 1, such as 0.5".to_owned(),
            Self::Duration => "allowed are durations above zero such as \"250ms\", \"5s\", \"10m\", \"2h\", \"30d\"".to_owned(),
            Self::DurationOrZero => "allowed are durations such as \"0s\", \"250ms\", \"5s\", \"10m\", \"2h\", \"30d\"".to_owned(),
            Self::Instant => "allowed are RFC 3339 instants such as \"2026-01-01T00:00:00+08:00\"".to_owned(),
            Self::Text(allowed) | Self::TextOrNumber(allowed) => (*allowed).to_owned(),
            Self::Texts => "allowed is a list of texts such as [\"text\"], none of them empty; by environment as JSON".to_owned(),
            Self::Choice(words) => {
                format!("allowed are {}", words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", "))
            }
            Self::Socket => "allowed are an IP address and a port such as \"127.0.0.1:9600\" or \"[::]:9600\"".to_owned(),
            Self::Path => "allowed is the path of a file or folder".to_owned(),
            Self::WebAddress => "allowed are addresses such as \"http://host:port/path\" or \"https://host/path\"".to_owned(),
            Self::Secret => "allowed is the secret, by environment".to_owned(),
            Self::Property => "allowed are texts, whole numbers, true and false".to_owned(),
        }
    }

    /// A short name for the reference.
    pub(super) fn word(&self) -> String {
        match self {
            Self::Flag => "true or false".to_owned(),
            Self::Number(range) => format!("{} to {}", range.start(), range.end()),
            Self::Fraction => "0.01 to 1".to_owned(),
            Self::Duration => "duration above zero".to_owned(),
            Self::DurationOrZero => "duration".to_owned(),
            Self::Instant => "instant (RFC 3339)".to_owned(),
            Self::Text(_) | Self::TextOrNumber(_) => "text".to_owned(),
            Self::Texts => "list of texts".to_owned(),
            Self::Choice(words) => {
                words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
            }
            Self::Socket => "address and port".to_owned(),
            Self::Path => "path".to_owned(),
            Self::WebAddress => "http(s) address".to_owned(),
            Self::Secret => "secret".to_owned(),
            Self::Property => "text, number, true or false".to_owned(),
        }
    }

    /// JSON Schema of a value in the file; `None` for what may not stand there.
    pub(super) fn schema(&self) -> Option<Value> {
        Some(match self {
            Self::Flag => json!({ "type": "boolean" }),
            Self::Number(range) => {
                json!({ "type": "integer", "minimum": range.start(), "maximum": range.end() })
            }
            Self::Fraction => json!({ "type": "number", "minimum": 0.01, "maximum": 1 }),
            Self::Duration | Self::DurationOrZero => {
                json!({ "type": "string", "pattern": DURATION })
            }
            Self::Instant => json!({ "type": "string", "format": "date-time" }),
            Self::Text(_) | Self::Path => json!({ "type": "string", "minLength": 1 }),
            Self::TextOrNumber(_) => json!({ "type": ["string", "integer"] }),
            Self::Texts => {
                json!({ "type": "array", "items": { "type": "string", "minLength": 1 } })
            }
            Self::Choice(words) => json!({ "enum": words }),
            Self::Socket => json!({ "type": "string", "pattern": "^.+:[0-9]+$" }),
            Self::WebAddress => json!({ "type": "string", "pattern": "^https?://" }),
            Self::Secret => return None,
            Self::Property => json!({ "type": ["string", "integer", "boolean"] }),
        })
    }
}
