//! `config`: what is in force and where it comes from, what is wrong, what the file may hold.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Value, json};

use crate::config::{self, Effective, Mistake, Place, Shown};

use super::{End, misconfigured, output, refused_by_librdkafka};

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Verb {
    /// Print every value that is in force and where it comes from; secrets are masked
    #[command(after_help = "Example: wdt-connector config print --config connector.toml --changed")]
    Print {
        /// JSON instead of TOML with comments
        #[arg(long)]
        json: bool,
        /// Only what the file or the environment says
        #[arg(long)]
        changed: bool,
    },
    /// Name every mistake at once, with line and column; needs neither Kafka nor the ERP
    #[command(
        after_help = "Example: wdt-connector config check --config connector.toml\nExits 2 when there is a mistake."
    )]
    Check {
        /// JSON instead of sentences
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of the file, for editors
    #[command(after_help = "Example: wdt-connector config schema > connector.schema.json")]
    Schema,
    /// Print the reference of all keys as Markdown
    #[command(after_help = "Example: wdt-connector config reference | less")]
    Reference,
}

pub(super) fn execute(args: &Args, path: Option<&Path>) -> anyhow::Result<End> {
    match args.verb {
        Verb::Schema => {
            let _ = output::say(&format!("{:#}", config::schema()));
            Ok(End::Done)
        }
        Verb::Reference => {
            let _ = output::say(config::markdown().trim_end());
            Ok(End::Done)
        }
        Verb::Print { json, changed } => Ok(print(inspect(path), json, changed)),
        Verb::Check { json } => Ok(check(inspect(path), json)),
    }
}

fn inspect(path: Option<&Path>) -> Result<Effective, Vec<Mistake>> {
    let mut effective = config::inspect(path, super::environment())?;
    // librdkafka judges its own options; asking it is only of use where the rest holds.
    if effective.mistakes.is_empty()
        && let Ok(loaded) = config::load(path, super::environment())
    {
        effective.mistakes = refused_by_librdkafka(&loaded.settings.kafka);
        for mistake in &mut effective.mistakes {
            mistake.place = effective
                .values
                .iter()
                .find(|one| one.key == mistake.key)
                .map(|one| one.place.clone());
        }
    }
    Ok(effective)
}

fn print(inspected: Result<Effective, Vec<Mistake>>, json: bool, changed: bool) -> End {
    let effective = match inspected {
        Ok(effective) => effective,
        Err(mistakes) => {
            misconfigured(&mistakes);
            return End::Misconfigured;
        }
    };
    let values: Vec<&Shown> =
        effective.values.iter().filter(|one| !changed || one.place != Place::Default).collect();
    let text = if json {
        format!("{:#}", Value::Array(values.into_iter().map(value_json).collect()))
    } else {
        toml(&values)
    };
    let _ = output::say(text.trim_end());
    if effective.mistakes.is_empty() {
        return End::Done;
    }
    misconfigured(&effective.mistakes);
    End::Misconfigured
}

fn check(inspected: Result<Effective, Vec<Mistake>>, json: bool) -> End {
    let (warnings, mistakes) = match inspected {
        Ok(effective) => (effective.warnings, effective.mistakes),
        Err(mistakes) => (Vec::new(), mistakes),
    };
    if json {
        let found = json!({ "mistakes": mistakes.iter().map(mistake_json).collect::<Vec<_>>(), "warnings": warnings });
        let _ = output::say(&format!("{found:#}"));
    } else if mistakes.is_empty() {
        for warning in &warnings {
            let _ = output::say(&format!("⚠ {warning}"));
        }
        let _ = output::say(
            "✓ the configuration holds; check asks Kafka, the registry and the ERP as well",
        );
    } else {
        misconfigured(&mistakes);
    }
    if mistakes.is_empty() { End::Done } else { End::Misconfigured }
}

fn place_json(place: &Place) -> Value {
    match place {
        Place::Default => json!({ "origin": "default" }),
        Place::File { name, line, column } => {
            json!({ "origin": "file", "file": name, "line": line, "column": column })
        }
        Place::Env(name) => json!({ "origin": "environment", "variable": name }),
    }
}

fn with_place(mut object: Value, place: Option<&Place>) -> Value {
    if let (Value::Object(fields), Some(Value::Object(more))) = (&mut object, place.map(place_json))
    {
        fields.extend(more);
    }
    object
}

fn value_json(one: &Shown) -> Value {
    with_place(json!({ "key": one.key, "value": one.value }), Some(&one.place))
}

fn mistake_json(mistake: &Mistake) -> Value {
    with_place(json!({ "key": mistake.key, "sentence": mistake.sentence }), mistake.place.as_ref())
}

/// TOML with the origin of each value as a comment.
fn toml(values: &[&Shown]) -> String {
    // TOML takes a section once. The top level sorts first, as it has to stand before any section.
    let mut sections: BTreeMap<&str, String> = BTreeMap::new();
    for one in values {
        let (of, name) = split(&one.key);
        let value = if one.bare { one.value.clone() } else { quoted(&one.value) };
        let line = format!("{name} = {value}");
        let lines = sections.entry(of).or_default();
        lines.push_str(&format!("{line:<56} # {}\n", one.place));
    }
    let mut text = String::new();
    for (of, lines) in sections {
        if !of.is_empty() {
            text.push_str(&format!("\n[{of}]\n"));
        }
        text.push_str(&lines);
    }
    text
}

/// JSON's escapes are TOML's; only DEL has to be escaped besides.
fn quoted(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// Section and name; an option of librdkafka keeps its dots, in quotes.
fn split(key: &str) -> (&str, String) {
    const OPTIONS: &str = "kafka.properties";
    if let Some(option) = key.strip_prefix(OPTIONS).and_then(|rest| rest.strip_prefix('.')) {
        return (OPTIONS, format!("\"{option}\""));
    }
    key.rsplit_once('.').map_or_else(|| ("", key.to_owned()), |(of, name)| (of, name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_printed_as_toml_that_says_the_same() {
        let effective = crate::config::inspect(None, std::iter::empty()).unwrap();
        let text = toml(&effective.values.iter().collect::<Vec<_>>());
        let again = crate::config::from_toml(&text, std::iter::empty());
        let read = again.unwrap_or_else(|mistakes| panic!("{mistakes:?}: {text}"));
        assert_eq!(read.settings.purchase_returns.late_pass.lag.as_secs(), 600, "{text}");
    }

    #[test]
    fn what_is_printed_is_toml_again_and_names_its_origin() {
        let file = Place::File { name: "c.toml".to_owned(), line: 7, column: 1 };
        let one = |key: &str, value: &str, bare: bool, place: &Place| Shown {
            key: key.to_owned(),
            value: value.to_owned(),
            bare,
            place: place.clone(),
        };
        let values = [
            one("cache_dir", "/a \"b\"\n", false, &Place::Default),
            one("commands.enabled", "true", true, &file),
            one(
                "commands.intent_ttl",
                "15s",
                false,
                &Place::Env("WDT__COMMANDS__INTENT_TTL".to_owned()),
            ),
            one("kafka.properties.ssl.ca.location", "/ca", false, &file),
        ];
        let text = toml(&values.iter().collect::<Vec<_>>());
        let read: toml::Table =
            toml::from_str(&text).unwrap_or_else(|fault| panic!("{fault}: {text}"));
        assert_eq!(read["cache_dir"].as_str(), Some("/a \"b\"\n"));
        assert_eq!(read["kafka"]["properties"]["ssl.ca.location"].as_str(), Some("/ca"));
        assert_eq!(read["commands"]["enabled"].as_bool(), Some(true));
        assert!(
            text.contains("# c.toml, line 7, column 1")
                && text.contains("# environment WDT__COMMANDS__INTENT_TTL"),
            "{text}"
        );
    }
}
