//! One check per key: takes values out of the document, collects every mistake.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use secrecy::SecretString;

use crate::clock::Timestamp;

use super::{
    document::{Document, Entry, PROPERTIES, Place, Value},
    keys::Kind,
    values,
};

/// One thing that is wrong, as one sentence for a person.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct Mistake {
    /// The key it is about, dotted; empty for the file as a whole.
    pub key: String,
    /// What is wrong with which value, where it stands, what is allowed. Never a secret.
    pub sentence: String,
    /// Where the value stands; `None` where nobody set one.
    pub place: Option<Place>,
}

impl fmt::Debug for Mistake {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.sentence)
    }
}

impl Mistake {
    /// About one key; its place is found when the reader ends.
    #[must_use]
    pub fn about(key: &str, sentence: String) -> Self {
        Self { key: key.to_owned(), sentence, place: None }
    }

    pub(super) fn general(sentence: String) -> Self {
        Self::about("", sentence)
    }
}

/// Secrets are short; a larger file is the wrong file.
const LARGEST_SECRET: u64 = 64 * 1024;

/// Hands out values by key and type; what is left over at the end is unknown.
#[derive(Debug)]
pub(super) struct Reader {
    document: Document,
    /// Every key somebody asked for, and what it takes: the list that schema and reference are
    /// written from.
    asked: BTreeMap<String, Kind>,
    pub(super) mistakes: Vec<Mistake>,
    /// The files that hold secrets, by the secret's key.
    pub(super) secret_files: BTreeMap<String, PathBuf>,
}

impl Reader {
    pub(super) fn new(document: Document) -> Self {
        Self {
            document,
            asked: BTreeMap::new(),
            mistakes: Vec::new(),
            secret_files: BTreeMap::new(),
        }
    }

    pub(super) fn mistake(&mut self, key: &str, sentence: String) {
        self.mistakes.push(Mistake::about(key, sentence));
    }

    /// The entry of a key, which is known from now on.
    fn entry(&mut self, key: &str, kind: &Kind) -> Option<Entry> {
        self.asked.insert(key.to_owned(), kind.clone());
        self.document.entries.get(key).cloned()
    }

    /// Whether a key was set by somebody; the defaults don't count.
    pub(super) fn is_set(&self, key: &str) -> bool {
        self.document.entries.get(key).is_some_and(|entry| entry.place != Place::Default)
    }

    fn refuse(&mut self, key: &str, entry: &Entry, kind: &Kind) {
        let sentence = format!(
            "{key} = {} ({}) is not allowed; {}",
            shown(&entry.value),
            entry.place,
            kind.allowed()
        );
        self.mistake(key, sentence);
    }

    fn missing(&mut self, key: &str, kind: &Kind) {
        let allowed = kind.allowed();
        let sentence = match self.document.unset.get(key) {
            Some(place) => format!("{key} is empty ({place}); {allowed}"),
            None => format!("{key} is missing; {allowed}"),
        };
        self.mistake(key, sentence);
    }

    /// An optional key, parsed by `parse` from its text; booleans and integers count as text where
    /// `parse` wants it.
    fn optional<T>(
        &mut self,
        key: &str,
        kind: &Kind,
        parse: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        let entry = self.entry(key, kind)?;
        self.parsed(key, kind, &entry, parse)
    }

    fn parsed<T>(
        &mut self,
        key: &str,
        kind: &Kind,
        entry: &Entry,
        parse: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        let value = parse(&entry.value);
        if value.is_none() {
            self.refuse(key, entry, kind);
        }
        value
    }

    /// A list of texts, none of them empty; no list where the key is not set.
    pub(super) fn texts(&mut self, key: &str) -> Vec<String> {
        let parse = |value: &Value| match value {
            Value::Texts(texts) => Some(texts.clone()),
            Value::Env(text) => serde_json::from_str(text).ok(),
            Value::Text(_)
            | Value::Integer(_)
            | Value::Decimal(_)
            | Value::Bool(_)
            | Value::Other(_) => None,
        };
        let filled = |texts: &Vec<String>| texts.iter().all(|text| !text.trim().is_empty());
        let texts = self.optional(key, &Kind::Texts, |value| parse(value).filter(filled));
        texts.unwrap_or_default()
    }

    /// A key that has a default, so that it is only missing when the environment emptied it;
    /// `fallback` then stands in until the mistakes are reported.
    fn required<T>(
        &mut self,
        key: &str,
        kind: &Kind,
        fallback: T,
        parse: impl FnOnce(&Value) -> Option<T>,
    ) -> T {
        let Some(entry) = self.entry(key, kind) else {
            self.missing(key, kind);
            return fallback;
        };
        self.parsed(key, kind, &entry, parse).unwrap_or(fallback)
    }

    pub(super) fn flag(&mut self, key: &str) -> bool {
        self.required(key, &Kind::Flag, false, |value| match value {
            Value::Bool(value) => Some(*value),
            Value::Env(text) => text.trim().to_ascii_lowercase().parse().ok(),
            Value::Text(_)
            | Value::Integer(_)
            | Value::Decimal(_)
            | Value::Texts(_)
            | Value::Other(_) => None,
        })
    }

    pub(super) fn number(&mut self, key: &str, range: RangeInclusive<u32>) -> u32 {
        self.required(key, &Kind::Number(range.clone()), *range.start(), |value| match value {
            Value::Integer(text) | Value::Env(text) => {
                text.trim().replace('_', "").parse().ok().filter(|number| range.contains(number))
            }
            Value::Text(_)
            | Value::Decimal(_)
            | Value::Bool(_)
            | Value::Texts(_)
            | Value::Other(_) => None,
        })
    }

    /// A part of a whole.
    pub(super) fn fraction(&mut self, key: &str) -> f64 {
        self.required(key, &Kind::Fraction, 1.0, |value| match value {
            Value::Integer(text) | Value::Decimal(text) | Value::Env(text) => {
                values::parse_fraction(text)
            }
            Value::Text(_) | Value::Bool(_) | Value::Texts(_) | Value::Other(_) => None,
        })
    }

    pub(super) fn duration(&mut self, key: &str) -> Duration {
        self.required(key, &Kind::Duration, Duration::from_secs(1), |value| {
            text_of(value).and_then(values::parse_duration).filter(|span| !span.is_zero())
        })
    }

    /// A duration that may be zero.
    pub(super) fn duration_or_zero(&mut self, key: &str) -> Duration {
        self.required(key, &Kind::DurationOrZero, Duration::ZERO, |value| {
            text_of(value).and_then(values::parse_duration)
        })
    }

    /// A duration that may be zero or absent.
    pub(super) fn duration_if_any(&mut self, key: &str) -> Option<Duration> {
        self.optional(key, &Kind::DurationOrZero, |value| {
            text_of(value).and_then(values::parse_duration)
        })
    }

    pub(super) fn instant(&mut self, key: &str) -> Option<Timestamp> {
        self.optional(key, &Kind::Instant, |value| text_of(value).and_then(values::parse_instant))
    }

    /// A text that has to be there.
    pub(super) fn text(
        &mut self,
        key: &str,
        allowed: &'static str,
        fits: impl FnOnce(&str) -> bool,
    ) -> String {
        self.required(key, &Kind::Text(allowed), String::new(), |value| {
            text_of(value).filter(|text| fits(text)).map(str::to_owned)
        })
    }

    /// A text that may be absent.
    pub(super) fn text_if_any(
        &mut self,
        key: &str,
        allowed: &'static str,
        fits: impl FnOnce(&str) -> bool,
    ) -> Option<String> {
        self.optional(key, &Kind::TextOrNumber(allowed), |value| {
            let text = match value {
                // Statuses are numbers to the ERP and may be written so.
                Value::Integer(text) => Some(text.as_str()),
                Value::Text(_)
                | Value::Env(_)
                | Value::Bool(_)
                | Value::Texts(_)
                | Value::Decimal(_)
                | Value::Other(_) => text_of(value),
            };
            text.filter(|text| fits(text)).map(str::to_owned)
        })
    }

    /// A word out of a closed set.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &str,
        words: &[(&'static str, T)],
        fallback: T,
    ) -> T {
        let kind = Kind::Choice(words.iter().map(|(word, _)| *word).collect());
        self.required(key, &kind, fallback, |value| {
            let text = text_of(value)?;
            words.iter().find(|(word, _)| *word == text).map(|(_, choice)| *choice)
        })
    }

    pub(super) fn socket(&mut self, key: &str) -> SocketAddr {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 9600));
        self.required(key, &Kind::Socket, loopback, |value| {
            text_of(value).and_then(|text| text.parse().ok())
        })
    }

    pub(super) fn path(&mut self, key: &str) -> Option<PathBuf> {
        self.optional(key, &Kind::Path, |value| {
            text_of(value).filter(|text| !text.trim().is_empty()).map(PathBuf::from)
        })
    }

    /// A file that has to be readable now, rather than hours later at a first connection.
    pub(super) fn readable(&mut self, key: &str) -> Option<PathBuf> {
        let path = self.path(key)?;
        if let Err(error) = std::fs::File::open(&path) {
            let place = self.place(key);
            self.mistake(
                key,
                format!(
                    "{key} = {:?} ({place}) cannot be read: {error}; name a readable file",
                    path.display().to_string()
                ),
            );
        }
        Some(path)
    }

    /// An http or https address. Credentials inside are refused unless they come from the
    /// environment and `secret_allowed`.
    pub(super) fn web_address(&mut self, key: &str, secret_allowed: bool) -> Option<String> {
        let entry = self.entry(key, &Kind::WebAddress)?;
        let text = text_of(&entry.value).unwrap_or("").to_owned();
        if values::has_credentials(&text)
            && !(secret_allowed && matches!(entry.place, Place::Env(_)))
        {
            let way = if secret_allowed {
                "set the whole address by environment"
            } else {
                "use the section's own keys for credentials"
            };
            self.mistake(
                key,
                format!(
                    "{key} ({}) contains a user name or password, which may not stand there; {way}",
                    entry.place
                ),
            );
            return Some(text);
        }
        self.optional(key, &Kind::WebAddress, |value| {
            text_of(value).filter(|text| values::is_web_address(text)).map(str::to_owned)
        })
    }

    /// A secret: `key` by environment alone, or the content of the file that `key` + `_file` names.
    pub(super) fn secret(&mut self, key: &str) -> Option<SecretString> {
        let file_key = format!("{key}_file");
        let variable = format!("WDT__{}", key.to_ascii_uppercase().replace('.', "__"));
        let path = self.path(&file_key);
        if let Some(entry) = self.entry(key, &Kind::Secret) {
            return match entry {
                Entry { value: Value::Env(text), .. } => Some(SecretString::from(text)),
                Entry { place, .. } => {
                    self.mistake(key, format!("{key} ({place}) is a secret and may not stand in the file; use {file_key} or the environment variable {variable}"));
                    // The file's word would only add a second mistake about the same secret.
                    Some(SecretString::from(String::new()))
                }
            };
        }
        let path = path?;
        self.secret_files.insert(key.to_owned(), path.clone());
        match read_secret(&path) {
            Ok(secret) => Some(secret),
            Err(reason) => {
                let place = self.place(&file_key);
                let sentence = format!(
                    "{file_key} = {:?} ({place}) {reason}; name a file that holds nothing but the secret, or set {variable}",
                    path.display().to_string()
                );
                self.mistake(&file_key, sentence);
                Some(SecretString::from(String::new()))
            }
        }
    }

    /// Where a key stands, for sentences.
    pub(super) fn place(&self, key: &str) -> String {
        self.document
            .entries
            .get(key)
            .map_or_else(|| "absent".to_owned(), |entry| entry.place.to_string())
    }

    /// librdkafka's options, with whether they came by environment.
    pub(super) fn properties(&mut self) -> Vec<(String, String, bool, String)> {
        let mut found = Vec::new();
        let all: Vec<(String, Entry)> = self
            .document
            .entries
            .range(PROPERTIES.to_owned()..)
            .take_while(|(key, _)| key.starts_with(PROPERTIES))
            .map(|(key, entry)| (key.clone(), entry.clone()))
            .collect();
        for (key, entry) in all {
            let Some(name) = key.strip_prefix(PROPERTIES) else { continue };
            self.asked.insert(key.clone(), Kind::Property);
            let value = match &entry.value {
                Value::Text(text) | Value::Integer(text) | Value::Env(text) => text.clone(),
                Value::Bool(value) => value.to_string(),
                Value::Decimal(_) | Value::Texts(_) | Value::Other(_) => {
                    self.refuse(&key, &entry, &Kind::Property);
                    continue;
                }
            };
            found.push((
                name.to_owned(),
                value,
                matches!(entry.place, Place::Env(_)),
                entry.place.to_string(),
            ));
        }
        found
    }

    pub(super) fn cache_home(&self) -> Option<&Path> {
        self.document.cache_home.as_deref().map(Path::new)
    }

    /// Says of every key nobody asked for that it is unknown, and which one was probably meant.
    pub(super) fn finish(mut self) -> Vec<Mistake> {
        let unknown: Vec<(String, String)> = self
            .document
            .entries
            .iter()
            .map(|(key, entry)| (key, &entry.place))
            .chain(self.document.unset.iter().filter(|(key, _)| !key.starts_with(PROPERTIES)))
            .chain(
                self.document
                    .sections
                    .iter()
                    .map(|(section, place)| (section, place))
                    .filter(|(section, _)| !self.is_section(section)),
            )
            .filter(|(key, _)| !self.asked.contains_key(*key))
            .map(|(key, place)| (key.clone(), place.to_string()))
            .collect();
        let names: BTreeSet<&str> = unknown.iter().map(|(key, _)| key.as_str()).collect();
        let mut reported: BTreeSet<&str> = BTreeSet::new();
        let mut mistakes = Vec::new();
        for (key, place) in &unknown {
            // An unknown section is one mistake with its keys, not two.
            let inner = format!("{key}.");
            let has_keys =
                names.range(inner.as_str()..).next().is_some_and(|other| other.starts_with(&inner));
            if has_keys || !reported.insert(key) {
                continue;
            }
            let hint = self
                .is_section(key)
                .then(|| "it is a section and takes keys of its own".to_owned())
                .or_else(|| {
                    nearest(key, &self.asked).map(|known| format!("did you mean {known}?"))
                });
            let hint =
                hint.unwrap_or_else(|| "deploy/connector.default.toml lists every key".to_owned());
            mistakes
                .push(Mistake::about(key, format!("{key} ({place}) is not a known key; {hint}")));
        }
        self.mistakes.append(&mut mistakes);
        let mut sections: BTreeMap<&str, &Place> = BTreeMap::new();
        for (section, place) in &self.document.sections {
            sections.entry(section).or_insert(place);
        }
        for mistake in &mut self.mistakes {
            locate(&self.document, &sections, mistake);
        }
        self.mistakes
    }

    fn is_section(&self, name: &str) -> bool {
        let prefix = format!("{name}.");
        name == PROPERTIES.trim_end_matches('.')
            || name.starts_with(PROPERTIES)
            || self
                .asked
                .range(prefix.clone()..)
                .next()
                .is_some_and(|(key, _)| key.starts_with(&prefix))
    }

    /// Every key that was asked for, and what it takes.
    pub(super) fn known(&self) -> &BTreeMap<String, Kind> {
        &self.asked
    }

    /// What was said, for showing it.
    pub(super) fn document(&self) -> &Document {
        &self.document
    }
}

/// Gives a mistake the place of its key, and its sentence too where it does not name it: relations
/// between keys don't.
fn locate(document: &Document, sections: &BTreeMap<&str, &Place>, mistake: &mut Mistake) {
    let section = sections.get(mistake.key.as_str()).copied();
    let entry = document.entries.get(&mistake.key).map(|entry| &entry.place);
    let Some(place) = entry
        .or_else(|| document.unset.get(&mistake.key))
        .or(section)
        .filter(|place| **place != Place::Default)
    else {
        return;
    };
    let shown = place.to_string();
    if !mistake.sentence.contains(&shown) {
        mistake.sentence = format!("{} ({} stands in {shown})", mistake.sentence, mistake.key);
    }
    mistake.place = Some(place.clone());
}

fn text_of(value: &Value) -> Option<&str> {
    match value {
        Value::Text(text) | Value::Env(text) => Some(text),
        Value::Integer(_)
        | Value::Decimal(_)
        | Value::Bool(_)
        | Value::Texts(_)
        | Value::Other(_) => None,
    }
}

/// A value for a sentence: quoted, control characters escaped, shortened.
fn shown(value: &Value) -> String {
    match value {
        Value::Text(text) | Value::Env(text) => {
            let short: String = text.chars().take(80).collect();
            if short.len() < text.len() { format!("{short:?}…") } else { format!("{short:?}") }
        }
        Value::Integer(text) | Value::Decimal(text) => text.clone(),
        Value::Bool(value) => value.to_string(),
        Value::Texts(_) => "a list".to_owned(),
        Value::Other(word) => (*word).to_owned(),
    }
}

/// A secret's file, without the line end behind it.
///
/// # Errors
/// What is wrong with it, as the end of a sentence that begins with its name.
pub(crate) fn read_secret(path: &Path) -> Result<SecretString, String> {
    let meta = std::fs::metadata(path).map_err(|error| format!("cannot be read: {error}"))?;
    if meta.is_dir() {
        return Err("is a folder".to_owned());
    }
    if meta.len() > LARGEST_SECRET {
        return Err(format!("is larger than {LARGEST_SECRET} bytes"));
    }
    let bytes = std::fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
    let text = String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".to_owned())?;
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() { Err("is empty".to_owned()) } else { Ok(SecretString::from(text)) }
}

/// The known key that differs least, if it differs little enough to be meant.
fn nearest<'a>(key: &str, known: &'a BTreeMap<String, Kind>) -> Option<&'a str> {
    let most = key.len().min(12) / 3;
    let key: Vec<char> = key.chars().collect();
    known
        .keys()
        .filter_map(|candidate| Some((distance(&key, candidate, most)?, candidate.as_str())))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance, where it is at most `most`.
fn distance(left: &[char], right: &str, most: usize) -> Option<usize> {
    // So much longer or shorter needs at least as many changes.
    let length = if right.is_ascii() { right.len() } else { right.chars().count() };
    if left.len().abs_diff(length) > most {
        return None;
    }
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (above, a) in left.iter().enumerate() {
        let mut diagonal = above;
        let mut before = above + 1;
        let mut least = before;
        let mut next = Vec::with_capacity(row.len());
        next.push(before);
        for (b, up) in right.iter().zip(row.iter().skip(1)) {
            before = (before + 1).min(up + 1).min(diagonal + usize::from(a != b));
            diagonal = *up;
            least = least.min(before);
            next.push(before);
        }
        // It never shrinks again.
        if least > most {
            return None;
        }
        row = next;
    }
    row.last().copied().filter(|distance| *distance <= most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_was_probably_meant_is_found() {
        let keys =
            ["commands.enabled", "commands.max_in_flight", "commands.max_attempts", "http.listen"];
        let known = keys.into_iter().map(|key| (key.to_owned(), Kind::Flag)).collect();
        for (key, meant) in [
            ("comands.enabled", Some("commands.enabled")),
            ("commands.max_attemps", Some("commands.max_attempts")),
            ("http.lisen", Some("http.listen")),
            ("http.listen", Some("http.listen")),
            ("commands.maximum", None),
            ("", None),
            ("退货", None),
        ] {
            assert_eq!(nearest(key, &known), meant, "{key}");
        }
        assert_eq!(nearest(&"x".repeat(100_000), &known), None);
    }
}
