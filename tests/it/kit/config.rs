//! The connector's configuration file, as a test writes it.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::{Value, json};

/// Sections and keys; values are JSON values and are written as TOML.
#[derive(Clone, Debug, Default)]
pub struct Config {
    sections: BTreeMap<String, BTreeMap<String, Value>>,
}

impl Config {
    /// Sets `[section] key`; an empty section is the top level. `json!("1s")`, `json!(5)`,
    /// `json!({"a": "b"})`…
    pub fn set(&mut self, section: &str, key: &str, value: impl Into<Value>) -> &mut Self {
        self.sections.entry(section.to_owned()).or_default().insert(key.to_owned(), value.into());
        self
    }

    /// Adds a librdkafka option.
    pub fn kafka_property(&mut self, key: &str, value: &str) -> &mut Self {
        let kafka = self.sections.entry("kafka".to_owned()).or_default();
        let properties = kafka.entry("properties".to_owned()).or_insert_with(|| json!({}));
        properties
            .as_object_mut()
            .expect("properties are a table")
            .insert(key.to_owned(), value.into());
        self
    }

    /// Takes a librdkafka option away: what the connector sets by itself is in force.
    pub fn remove_kafka_property(&mut self, key: &str) -> &mut Self {
        let properties = self.sections.get_mut("kafka").and_then(|keys| keys.get_mut("properties"));
        if let Some(properties) = properties.and_then(Value::as_object_mut) {
            properties.remove(key);
        }
        self
    }

    /// Takes a key away; without a key the whole section.
    pub fn remove(&mut self, section: &str, key: Option<&str>) -> &mut Self {
        match key {
            Some(key) => drop(self.sections.get_mut(section).and_then(|keys| keys.remove(key))),
            None => drop(self.sections.remove(section)),
        }
        self
    }

    /// Takes away every key of a section but these.
    pub fn keep(&mut self, section: &str, wanted: &[&str]) -> &mut Self {
        if let Some(keys) = self.sections.get_mut(section) {
            keys.retain(|key, _| wanted.contains(&key.as_str()));
        }
        self
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (section, keys) in &self.sections {
            if !section.is_empty() {
                let _ = writeln!(text, "\n[{section}]");
            }
            for (key, value) in keys {
                let _ = writeln!(text, "{key} = {}", toml(value));
            }
        }
        text
    }
}

/// JSON and TOML agree on strings, numbers, booleans and arrays; tables are written inline.
fn toml(value: &Value) -> String {
    match value {
        Value::Object(entries) => {
            let entries: Vec<String> = entries
                .iter()
                .map(|(key, value)| format!("{} = {}", json!(key), toml(value)))
                .collect();
            format!("{{ {} }}", entries.join(", "))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(toml).collect::<Vec<_>>().join(", "))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    }
}

#[test]
fn written_as_toml() {
    let mut config = Config::default();
    config
        .set("", "allow_unsafe_timing", true)
        .set("commands", "call_timeout", "1s")
        .kafka_property("session.timeout.ms", "6000");
    let table: toml::Table = config.text().parse().expect("TOML");
    assert_eq!(table["allow_unsafe_timing"].as_bool(), Some(true));
    assert_eq!(table["commands"]["call_timeout"].as_str(), Some("1s"));
    assert_eq!(table["kafka"]["properties"]["session.timeout.ms"].as_str(), Some("6000"));
}
