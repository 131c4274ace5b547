//! Defaults, file and environment as one flat map: dotted key → value and where it stands.

use std::{collections::BTreeMap, fmt, ops::Range, sync::LazyLock};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::reader::Mistake;

/// Prefix of environment variables that are ours.
const PREFIX: &str = "WDT__";

/// Below this section keys are librdkafka's, dots included.
pub(super) const PROPERTIES: &str = "kafka.properties.";

/// A value before anybody asked for its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    /// As written.
    Integer(String),
    /// With a decimal point or an exponent, as written.
    Decimal(String),
    Bool(bool),
    /// From the environment: read as whatever the key is.
    Env(String),
    /// A list of texts.
    Texts(Vec<String>),
    /// Another list, which no key is; the word for it.
    Other(&'static str),
}

/// Where a value stands. Lines and columns are counted from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The compiled-in defaults.
    Default,
    /// The configuration file.
    File { name: String, line: usize, column: usize },
    /// An environment variable, by name.
    Env(String),
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => out.write_str("default"),
            Self::File { name, line, column } => {
                write!(out, "{name}, line {line}, column {column}")
            }
            Self::Env(name) => write!(out, "environment {name}"),
        }
    }
}

/// One key's value and its place.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) value: Value,
    pub(super) place: Place,
}

/// Everything that was said, later layers over earlier ones.
#[derive(Clone, Debug, Default)]
pub(super) struct Document {
    pub(super) entries: BTreeMap<String, Entry>,
    /// Sections of the file, empty ones included, so that a misspelt section is found.
    pub(super) sections: Vec<(String, Place)>,
    /// Keys that an empty environment variable unset.
    pub(super) unset: BTreeMap<String, Place>,
    /// The environment's home and cache folders, for the default of `cache_dir`.
    pub(super) cache_home: Option<String>,
}

impl Document {
    /// Lays file and environment over the defaults.
    pub(super) fn assemble(
        file: Option<(&str, &str)>,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, Vec<Mistake>> {
        static BASE: LazyLock<Result<Document, Vec<Mistake>>> = LazyLock::new(|| {
            let mut base = Document::default();
            base.layer(super::DEFAULTS, None).map(|()| base)
        });
        let mut document = BASE.clone()?;
        if let Some((name, text)) = file {
            document.layer(text, Some(name))?;
        }
        document.environment(env);
        Ok(document)
    }

    fn layer(&mut self, text: &str, name: Option<&str>) -> Result<(), Vec<Mistake>> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let (table, errors) = DeTable::parse_recoverable(text);
        let lines = Lines::of(text);
        if !errors.is_empty() {
            let file = name.unwrap_or("the defaults");
            return Err(errors
                .iter()
                .map(|error| {
                    let (line, column) = lines.find(error.span().map_or(0, |span| span.start));
                    let sentence = format!(
                        "{file}, line {line}, column {column} is no TOML: {}",
                        error.message().replace('\n', ", ")
                    );
                    Mistake {
                        place: Some(Place::File { name: file.to_owned(), line, column }),
                        ..Mistake::general(sentence)
                    }
                })
                .collect());
        }
        let place = |span: Range<usize>| match name {
            None => Place::Default,
            Some(name) => {
                let (line, column) = lines.find(span.start);
                Place::File { name: name.to_owned(), line, column }
            }
        };
        self.flatten("", table.get_ref(), &place);
        Ok(())
    }

    fn flatten(
        &mut self,
        prefix: &str,
        table: &DeTable<'_>,
        place: &impl Fn(Range<usize>) -> Place,
    ) {
        for (key, value) in table {
            let path = format!("{prefix}{}", key.get_ref());
            let here = place(key.span());
            if let Some(inner) = value.get_ref().as_table() {
                self.flatten(&format!("{path}."), inner, place);
                if here != Place::Default {
                    self.sections.push((path, here));
                }
            } else {
                self.entries.insert(path, Entry { value: scalar(value), place: here });
            }
        }
    }

    fn environment(&mut self, env: impl Iterator<Item = (String, String)>) {
        let mut home = None;
        for (name, text) in env {
            match name.as_str() {
                "XDG_CACHE_HOME" if text.starts_with('/') => self.cache_home = Some(text.clone()),
                "HOME" if text.starts_with('/') => home = Some(format!("{text}/.cache")),
                _ => {}
            }
            let Some(rest) = name.strip_prefix(PREFIX) else { continue };
            let dotted = rest.to_ascii_lowercase().replace("__", ".");
            let key = match dotted.strip_prefix(PROPERTIES) {
                Some(option) => format!("{PROPERTIES}{}", option.replace('_', ".")),
                None => dotted,
            };
            let place = Place::Env(name);
            if text.is_empty() {
                self.entries.remove(&key);
                self.unset.insert(key, place);
            } else {
                self.entries.insert(key, Entry { value: Value::Env(text), place });
            }
        }
        self.cache_home = self.cache_home.take().or(home);
    }
}

fn scalar(value: &Spanned<DeValue<'_>>) -> Value {
    match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => {
            Value::Integer(number.as_str().to_owned())
        }
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Value::Other("a number out of range"), |number| {
                Value::Integer(number.to_string())
            }),
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Datetime(instant) => Value::Text(instant.to_string()),
        DeValue::Float(number) => Value::Decimal(number.as_str().to_owned()),
        DeValue::Array(items) => {
            let text = |item: &Spanned<DeValue<'_>>| match item.get_ref() {
                DeValue::String(text) => Some(text.to_string()),
                _ => None,
            };
            let texts = items.iter().map(text).collect::<Option<_>>();
            texts.map_or(Value::Other("a list"), Value::Texts)
        }
        DeValue::Table(_) => Value::Other("a section"),
    }
}

/// Where the lines of a text begin, so that a place costs a short walk however long the text and
/// its lines are.
struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
    /// Every so many bytes: where, and how many characters stand before it.
    marks: Vec<(usize, usize)>,
}

const STRIDE: usize = 1024;

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Self {
        let starts =
            std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let mut marks = vec![(0, 0)];
        let (mut at, mut characters) = (0, 0);
        while at + STRIDE < text.len() {
            let next = text.floor_char_boundary(at + STRIDE);
            characters += text.get(at..next).unwrap_or_default().chars().count();
            at = next;
            marks.push((at, characters));
        }
        Self { text, starts, marks }
    }

    /// Line and column of a byte, counted from 1; columns in characters.
    fn find(&self, offset: usize) -> (usize, usize) {
        let offset = self.text.floor_char_boundary(offset);
        let line = self.starts.partition_point(|start| *start <= offset);
        let start =
            line.checked_sub(1).and_then(|line| self.starts.get(line)).copied().unwrap_or(0);
        (line, self.characters_before(offset) - self.characters_before(start) + 1)
    }

    /// `offset` is where a character begins.
    fn characters_before(&self, offset: usize) -> usize {
        let passed = self.marks.partition_point(|(at, _)| *at <= offset);
        let (at, characters) = passed
            .checked_sub(1)
            .and_then(|mark| self.marks.get(mark))
            .copied()
            .unwrap_or_default();
        characters + self.text.get(at..offset).unwrap_or_default().chars().count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_as_a_person_counts_them() {
        let text = format!("a = 1\n# 退货 and more\n{} = 2\n\nend", "é".repeat(3000));
        let lines = Lines::of(&text);
        for (offset, _) in text.char_indices().chain([(text.len(), ' ')]) {
            let before = &text[..offset];
            let start = before.rfind('\n').map_or(0, |newline| newline + 1);
            let counted = (before.matches('\n').count() + 1, before[start..].chars().count() + 1);
            assert_eq!(lines.find(offset), counted, "byte {offset}");
        }
        assert_eq!(lines.find(usize::MAX), (5, 4));
        assert_eq!(Lines::of("").find(0), (1, 1));
    }
}
