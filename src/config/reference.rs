//! The file's JSON Schema and the reference for people, both from the keys that the reader asks for
//! and the comments of the default file.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::{Map, Value, json};

use super::{
    DEFAULTS,
    document::{Document, PROPERTIES, Value as Given},
    keys::Kind,
    properties, sections,
};

/// What the default file says about a key.
#[derive(Clone, Debug, Default)]
struct About {
    text: String,
    /// A key that has no default is shown there with an example.
    example: bool,
    /// The comment stands above this key, not above one before it.
    own: bool,
}

/// JSON Schema (2020-12) of the configuration file. Secrets are not in it: they may not stand in
/// the file.
#[must_use]
pub(crate) fn schema() -> Value {
    let (comments, defaults) = (comments(), defaults());
    let mut root = object(
        "wdt-connector's configuration file; any key can be set by environment too (WDT__SECTION__KEY)",
    );
    for (key, kind) in sections::keys() {
        let Some(mut value) = kind.schema() else { continue };
        if let Some(about) = comments.get(&key).filter(|about| !about.text.is_empty()) {
            set(&mut value, "description", json!(about.text));
        }
        if let Some(default) = defaults.get(&key) {
            set(&mut value, "default", default.clone());
        }
        insert(&mut root, &key, value);
    }
    let refused: Vec<&str> = properties::refused().collect();
    let options = json!({
        "type": "object",
        "description": comments.get("kafka.properties").map_or("", |about| about.text.as_str()),
        "propertyNames": { "not": { "anyOf": [{ "enum": refused }, { "pattern": "^enable\\.auto\\." }] } },
        // TOML reads a dotted key without quotes as tables.
        "additionalProperties": { "type": ["string", "integer", "boolean", "object"] },
    });
    insert(&mut root, PROPERTIES.trim_end_matches('.'), options);
    set(&mut root, "$schema", json!("https://json-schema.org/draft/2020-12/schema"));
    set(&mut root, "title", json!("wdt-connector configuration"));
    root
}

/// The reference as Markdown: one table per section.
#[must_use]
pub(crate) fn markdown() -> String {
    let (comments, defaults) = (comments(), defaults());
    let mut text = String::from(
        "# Configuration\n\n\
         One TOML file (`--config` or `WDT_CONFIG`), every key also by environment: `WDT__SECTION__KEY`. Written from the keys that the\n\
         program reads and the comments of `connector.default.toml`; the test `the_configuration_reference_is_up_to_date` fails when\n\
         they differ, and writes this file and `connector.schema.json` anew with `UPDATE_EXPECT=1`.\n\n\
         `wdt-connector config print` shows what is in force and where it comes from, `config check` every mistake with line and\n\
         column, `config schema` the JSON Schema of the file.\n",
    );
    let split = |key: &str| match key.rsplit_once('.') {
        Some((of, name)) => (of.to_owned(), name.to_owned()),
        None => (String::new(), key.to_owned()),
    };
    let mut keys: Vec<_> = sections::keys().into_iter().collect();
    // A section once, its own keys before those of the sections below it.
    keys.sort_by_key(|(key, _)| split(key));
    let mut section = None;
    for (key, kind) in keys {
        let (of, name) = split(&key);
        let of = of.as_str();
        if section.as_deref() != Some(of) {
            section = Some(of.to_owned());
            let title = if of.is_empty() { "Top level".to_owned() } else { format!("`[{of}]`") };
            let about = comments.get(of).map_or("", |about| about.text.as_str());
            let _ = write!(
                text,
                "\n## {title}\n\n{}| key | takes | default | what it is |\n|---|---|---|---|\n",
                paragraph(about)
            );
        }
        let about = comments.get(&key).cloned().unwrap_or_default();
        let default = match (defaults.get(&key), &kind) {
            (Some(default), _) => format!("`{default}`"),
            (None, Kind::Secret) => "by environment only".to_owned(),
            (None, _) if about.example => "none".to_owned(),
            (None, _) => String::new(),
        };
        let _ = writeln!(
            text,
            "| `{name}` | {} | {default} | {} |",
            kind.word(),
            about.text.replace('|', "\\|")
        );
    }
    text
}

fn paragraph(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{text}\n\n") }
}

fn object(description: &str) -> Value {
    let mut value = json!({ "type": "object", "additionalProperties": false, "properties": {} });
    if !description.is_empty() {
        set(&mut value, "description", json!(description));
    }
    value
}

fn set(value: &mut Value, key: &str, inner: Value) {
    if let Value::Object(fields) = value {
        fields.insert(key.to_owned(), inner);
    }
}

/// Puts a value below `properties` of the sections that its dotted key names.
fn insert(root: &mut Value, key: &str, value: Value) {
    let (first, rest) = match key.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (key, None),
    };
    let Some(Value::Object(properties)) = root.get_mut("properties") else { return };
    match rest {
        None => {
            properties.insert(first.to_owned(), value);
        }
        Some(rest) => insert(properties.entry(first).or_insert_with(|| object("")), rest, value),
    }
}

/// The defaults as JSON.
fn defaults() -> Map<String, Value> {
    let document = Document::assemble(None, std::iter::empty()).unwrap_or_default();
    document
        .entries
        .into_iter()
        .filter_map(|(key, entry)| {
            let value = match entry.value {
                Given::Text(text) => json!(text),
                Given::Integer(text) => json!(text.parse::<i64>().ok()?),
                Given::Decimal(text) => json!(text.parse::<f64>().ok()?),
                Given::Bool(value) => json!(value),
                Given::Texts(texts) => json!(texts),
                Given::Env(_) | Given::Other(_) => return None,
            };
            Some((key, value))
        })
        .collect()
}

/// The comments above each key and section of the default file. A key right below another shares
/// its comment, except that one of the second feed or account takes that of the first's.
fn comments() -> BTreeMap<String, About> {
    let mut found: BTreeMap<String, About> = BTreeMap::new();
    let (mut section, mut above, mut shared) = (String::new(), Vec::new(), String::new());
    for line in DEFAULTS.lines() {
        if line.trim().is_empty() {
            above.clear();
            shared.clear();
        } else if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name.to_owned();
            found.insert(section.clone(), About { text: above.join(" "), ..About::default() });
            above.clear();
            shared.clear();
        } else if let Some((name, example)) = key_of(line) {
            let own = !above.is_empty();
            if own {
                shared = above.join(" ");
                above.clear();
            }
            let key =
                if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
            found.insert(key, About { text: shared.clone(), example, own });
        } else if let Some(comment) = line.strip_prefix('#') {
            above.push(comment.trim().to_owned());
        }
    }
    borrow(&mut found, "feeds.purchase_returns.", "feeds.return_outbounds.");
    borrow(&mut found, "erp.flagship.", "erp.enterprise.");
    found
}

fn borrow(found: &mut BTreeMap<String, About>, from: &str, to: &str) {
    let lent: Vec<(String, String)> = found
        .iter()
        .filter_map(|(key, about)| {
            Some((format!("{to}{}", key.strip_prefix(from)?), about.text.clone()))
        })
        .collect();
    for (key, text) in lent {
        if let Some(about) = found.get_mut(&key).filter(|about| !about.own) {
            about.text = text;
        }
    }
}

/// `key = value`, or `#key = value` for a key without default.
fn key_of(line: &str) -> Option<(&str, bool)> {
    let (line, example) = line.strip_prefix('#').map_or((line, false), |line| (line, true));
    let (name, _) = line.split_once(" = ")?;
    (!name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || matches!(byte, b'_' | b'.')))
    .then_some((name, example))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn compare(name: &str, wanted: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name);
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(&path, wanted).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(
            written, wanted,
            "deploy/{name} is not what the program reads; run this test with UPDATE_EXPECT=1"
        );
    }

    #[test]
    fn the_configuration_reference_is_up_to_date() {
        compare("configuration.md", &markdown());
        compare("connector.schema.json", &format!("{:#}\n", schema()));
    }

    #[test]
    fn keys_without_a_default_have_an_example_and_the_others_a_default() {
        let (comments, defaults) = (comments(), defaults());
        for (key, kind) in sections::keys() {
            if kind == Kind::Secret || key.contains(".filters.") {
                continue;
            }
            let about =
                comments.get(&key).unwrap_or_else(|| panic!("{key} is not in the default file"));
            assert_eq!(about.example, !defaults.contains_key(&key), "{key}");
        }
    }

    #[test]
    fn a_section_of_the_schema_knows_its_keys() {
        let schema = schema();
        let at = |path: &str| {
            schema.pointer(path).unwrap_or_else(|| panic!("{path} is not in the schema")).clone()
        };
        assert_eq!(at("/properties/commands/properties/format/enum"), json!(["avro", "json"]));
        assert_eq!(
            at(
                "/properties/feeds/properties/purchase_returns/properties/filters/properties/status/type"
            ),
            json!(["string", "integer"])
        );
        assert_eq!(at("/properties/erp/properties/flagship/additionalProperties"), json!(false));
        assert!(
            schema.pointer("/properties/erp/properties/flagship/properties/secret").is_none(),
            "secrets may not stand in the file"
        );
        assert!(
            at("/properties/commands/properties/intent_ttl/description")
                .as_str()
                .is_some_and(|text| text.contains("replaced"))
        );
    }
}
