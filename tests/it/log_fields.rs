//! Every field of a log line or span is listed in `deploy/logs.md`, under one name.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use crate::layers::sources;

/// Macros of `tracing` that take fields.
const MACROS: [&str; 12] = [
    "trace",
    "debug",
    "info",
    "warn",
    "error",
    "event",
    "trace_span",
    "debug_span",
    "info_span",
    "warn_span",
    "error_span",
    "span",
];

/// Keys that the JSON format itself writes; a field of that name would be a duplicate key.
const RESERVED: [&str; 8] =
    ["timestamp", "level", "message", "target", "span", "spans", "name", "fields"];

/// A field as a macro names it, with its sigil: `%` displays, `?` debugs, ` ` records.
#[derive(Debug, PartialEq, Eq)]
struct Field {
    sigil: char,
    name: String,
}

/// Name and arguments of each macro call of [`MACROS`].
fn calls(code: &str) -> Vec<(&str, Vec<String>)> {
    let word = |text: &str| {
        let cut = text.rfind(|sign: char| !(sign.is_alphanumeric() || sign == '_'));
        cut.map_or(0, |at| at + 1)
    };
    code.match_indices("!(")
        .map(|(at, _)| (&code[word(&code[..at])..at], at + 2))
        .filter(|(name, _)| MACROS.contains(name))
        .map(|(name, begin)| (name, arguments(&code[begin..])))
        .collect()
}

/// The arguments up to the closing bracket, split at the outer commas.
fn arguments(text: &str) -> Vec<String> {
    let (mut found, mut begin, mut depth) = (Vec::new(), 0, 0);
    let (mut quoted, mut escaped) = (false, false);
    for (at, sign) in text.char_indices() {
        if quoted {
            quoted = escaped || sign != '"';
            escaped = !escaped && sign == '\\';
            continue;
        }
        match sign {
            '"' => quoted = true,
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth > 0 => depth -= 1,
            ',' | ')' if depth == 0 => {
                found.push(text[begin..at].trim().to_owned());
                begin = at + 1;
                if sign == ')' {
                    found.retain(|argument| !argument.is_empty());
                    return found;
                }
            }
            _ => {}
        }
    }
    panic!("a macro call does not end: {}", text.lines().next().unwrap_or_default());
}

/// The fields among the arguments of a macro call.
fn fields(call: &str, arguments: &[String]) -> Result<Vec<Field>, String> {
    if ["event", "span"].contains(&call) {
        return Err(format!("{call}! takes its level as an argument; use info!, info_span!…"));
    }
    let mut found = Vec::new();
    for argument in arguments {
        if argument.starts_with("parent:") || argument.starts_with("target:") {
            continue;
        }
        // A span's name comes before its fields; a message after them, with its arguments.
        if argument.starts_with('"') {
            if call.ends_with("_span") {
                continue;
            }
            break;
        }
        let text = argument.split('=').next().unwrap_or_default().trim();
        let value = argument.split_once('=').map_or(text, |(_, value)| value.trim());
        let sigil = value.chars().next().filter(|sign| ['%', '?'].contains(sign)).unwrap_or(' ');
        let name = text.trim_start_matches(['%', '?']);
        let part = |part: &str| {
            part.starts_with(|sign: char| sign.is_ascii_lowercase())
                && part
                    .chars()
                    .all(|sign| sign.is_ascii_lowercase() || sign.is_ascii_digit() || sign == '_')
        };
        if !name.split('.').all(part) {
            return Err(format!("`{argument}` is no field of the form `part.other_part = value`"));
        }
        found.push(Field { sigil, name: name.to_owned() });
    }
    Ok(found)
}

/// Fields recorded into a span later: `.record("name", …)`.
fn recorded(code: &str) -> impl Iterator<Item = &str> {
    code.split(".record(\"").skip(1).filter_map(|rest| rest.split('"').next())
}

/// Every field in `src` and where it is used first.
fn used() -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    let mut wrong = Vec::new();
    for (path, code) in sources() {
        if code.contains("#[instrument") || code.contains("#[tracing::instrument") {
            wrong.push(format!("{path} uses #[instrument], whose fields this test does not see"));
        }
        for (call, arguments) in calls(&code) {
            match fields(call, &arguments) {
                Ok(found) => {
                    for Field { sigil, name } in found {
                        if name == "error" && sigil != '%' {
                            wrong.push(format!("{path}: an error is `error = %…` or `%error`"));
                        }
                        names.entry(name).or_insert_with(|| path.clone());
                    }
                }
                Err(reason) => wrong.push(format!("{path}: {reason}")),
            }
        }
        for name in recorded(&code) {
            names.entry(name.to_owned()).or_insert_with(|| path.clone());
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(names.len() > 30, "the fields were not found: {names:?}");
    names
}

/// The first column of the table under a heading of `deploy/logs.md`.
fn documented(heading: &str) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/logs.md");
    let text = fs::read_to_string(path).unwrap();
    let section = text.split("\n## ").find(|section| section.starts_with(heading)).unwrap();
    let row = |line: &str| Some(line.strip_prefix("| `")?.split_once("` |")?.0.to_owned());
    section.lines().filter_map(row).collect()
}

#[test]
fn log_fields_are_documented() {
    let (used, documented) = (used(), documented("Fields"));
    let missing: Vec<_> = used.iter().filter(|(name, _)| !documented.contains(*name)).collect();
    assert!(missing.is_empty(), "not in the table of deploy/logs.md: {missing:?}");
    let unused: Vec<_> = documented.iter().filter(|name| !used.contains_key(*name)).collect();
    assert!(unused.is_empty(), "in deploy/logs.md, but in no log line: {unused:?}");
}

#[test]
fn log_messages_of_the_reference_exist() {
    let quoted: Vec<String> = sources()
        .iter()
        .flat_map(|(_, code)| calls(code).into_iter().flat_map(|(_, arguments)| arguments))
        .collect();
    let messages = documented("Follow one command");
    assert!(messages.len() > 3, "the messages were not found: {messages:?}");
    for message in messages {
        assert!(quoted.contains(&format!("\"{message}\"")), "no line says {message:?}");
    }
}

/// Log stores make an object of `erp.call`; then `erp` cannot be a text as well.
#[test]
fn log_fields_collide_with_nothing() {
    let names: Vec<String> = used().into_keys().collect();
    for name in &names {
        assert!(!RESERVED.contains(&name.as_str()), "{name} is a key of the JSON format itself");
        let inner = names.iter().find(|other| other.starts_with(&format!("{name}.")));
        assert!(inner.is_none(), "{name} is a field, and {inner:?} lies inside it");
    }
}

#[test]
fn log_fields_are_found_in_macro_calls() {
    let code = r#"
        tracing::warn!(
            feed = a.name(),
            %error,
            kafka.partitions = ?numbers(&[1, 2]),
            order.id,
            "one, \"two\" {x}",
            not = a_field
        );
        let span = tracing::info_span!(parent: &root, "call", erp.call = Empty);
        span.record("erp.result", word);
        println!("no {log}");
        info!("bare");
    "#;
    let found: Vec<String> = calls(code)
        .iter()
        .flat_map(|(call, arguments)| fields(call, arguments).unwrap())
        .map(|field| format!("{}{}", field.sigil, field.name))
        .collect();
    assert_eq!(found, [" feed", "%error", "?kafka.partitions", " order.id", " erp.call"]);
    assert_eq!(calls(code).len(), 3);
    assert_eq!(recorded(code).collect::<Vec<_>>(), ["erp.result"]);
    for wrong in ["Level::INFO", "Upper = 1", "self.topic()"] {
        assert!(fields("info", &[wrong.to_owned()]).is_err(), "{wrong}");
    }
}
