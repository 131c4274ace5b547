//! The schemas this version writes, and every released one it can read: `schemas/`, compiled in.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use super::{Subject, canonical::fingerprint, shape::Schema};

/// One schema, parsed.
#[derive(Debug)]
pub(crate) struct Known {
    /// Without namespace; that of the file.
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
    pub(crate) schema: Schema,
    /// CRC-64-AVRO of the Parsing Canonical Form, little endian, as single-object encoding writes
    /// it.
    pub(crate) fingerprint: [u8; 8],
}

/// A schema as `schemas print` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SchemaInfo {
    /// What carries it; `None` for a record that only stands inside an envelope or in the state.
    pub subject: Option<Subject>,
    /// Name of the file in `schemas/`, without `.avsc`.
    pub name: &'static str,
    /// The file's text.
    pub text: &'static str,
    /// CRC-64-AVRO of its Parsing Canonical Form.
    pub fingerprint: u64,
}

/// Everything compiled in.
#[derive(Debug)]
pub(crate) struct Catalog {
    pub(crate) command: Arc<Known>,
    pub(crate) result: Arc<Known>,
    pub(crate) journal: Arc<Known>,
    pub(crate) feed_state: Arc<Known>,
    pub(crate) purchase_return: Arc<Known>,
    pub(crate) return_outbound: Arc<Known>,
    pub(crate) purchase_return_envelope: Arc<Known>,
    pub(crate) return_outbound_envelope: Arc<Known>,
    /// Current and released ones.
    by_fingerprint: HashMap<[u8; 8], Arc<Known>>,
}

/// Name and text of a schema in `schemas/`.
macro_rules! avsc {
    ($name:literal) => {
        ($name, include_str!(concat!("../../schemas/", $name, ".avsc")))
    };
    ($version:literal, $name:literal) => {
        ($name, include_str!(concat!("../../schemas/released/", $version, "/", $name, ".avsc")))
    };
}

/// Every schema that a released version has written with, oldest first. A release adds a folder and
/// never edits one: entries of the compacted topics live for ever, and without a registry nothing
/// else can read them.
pub(crate) const RELEASED: [(&str, &str); 8] = [
    avsc!("1", "CreateReturnOutbound"),
    avsc!("1", "CommandResult"),
    avsc!("1", "JournalEntry"),
    avsc!("1", "FeedState"),
    avsc!("1", "PurchaseReturn"),
    avsc!("1", "ReturnOutbound"),
    avsc!("1", "PurchaseReturnEnvelope"),
    avsc!("1", "ReturnOutboundEnvelope"),
];

/// The catalog, parsed at its first use.
pub(crate) fn catalog() -> &'static Catalog {
    static CATALOG: LazyLock<Catalog> = LazyLock::new(Catalog::load);
    &CATALOG
}

/// The schemas this version writes.
#[must_use]
pub(crate) fn schemas() -> Vec<SchemaInfo> {
    let catalog = catalog();
    [
        (Some(Subject::Command), &catalog.command),
        (Some(Subject::Result), &catalog.result),
        (Some(Subject::Journal), &catalog.journal),
        (Some(Subject::FeedState), &catalog.feed_state),
        (Some(Subject::PurchaseReturnEnvelope), &catalog.purchase_return_envelope),
        (Some(Subject::ReturnOutboundEnvelope), &catalog.return_outbound_envelope),
        (None, &catalog.purchase_return),
        (None, &catalog.return_outbound),
    ]
    .into_iter()
    .map(|(subject, known)| SchemaInfo {
        subject,
        name: known.name,
        text: known.text,
        fingerprint: u64::from_le_bytes(known.fingerprint),
    })
    .collect()
}

impl Catalog {
    fn load() -> Self {
        let mut by_fingerprint = HashMap::new();
        for (name, text) in RELEASED {
            let known = load(name, text);
            by_fingerprint.insert(known.fingerprint, known);
        }
        let mut current = |(name, text)| {
            let known = load(name, text);
            by_fingerprint.insert(known.fingerprint, Arc::clone(&known));
            known
        };
        Self {
            command: current(avsc!("CreateReturnOutbound")),
            result: current(avsc!("CommandResult")),
            journal: current(avsc!("JournalEntry")),
            feed_state: current(avsc!("FeedState")),
            purchase_return: current(avsc!("PurchaseReturn")),
            return_outbound: current(avsc!("ReturnOutbound")),
            purchase_return_envelope: current(avsc!("PurchaseReturnEnvelope")),
            return_outbound_envelope: current(avsc!("ReturnOutboundEnvelope")),
            by_fingerprint,
        }
    }

    /// The schema of a subject's values.
    pub(crate) fn of(&self, subject: Subject) -> &Arc<Known> {
        match subject {
            Subject::Command => &self.command,
            Subject::Result => &self.result,
            Subject::Journal => &self.journal,
            Subject::FeedState => &self.feed_state,
            Subject::PurchaseReturnEnvelope => &self.purchase_return_envelope,
            Subject::ReturnOutboundEnvelope => &self.return_outbound_envelope,
        }
    }

    /// The record inside a subject's envelope; the value itself where there is no envelope.
    pub(crate) fn record_of(&self, subject: Subject) -> &Arc<Known> {
        match subject {
            Subject::PurchaseReturnEnvelope => &self.purchase_return,
            Subject::ReturnOutboundEnvelope => &self.return_outbound,
            Subject::Command | Subject::Result | Subject::Journal | Subject::FeedState => {
                self.of(subject)
            }
        }
    }

    /// The current or released schema with this fingerprint.
    pub(crate) fn find(&self, fingerprint: [u8; 8]) -> Option<&Arc<Known>> {
        self.by_fingerprint.get(&fingerprint)
    }
}

/// A schema that is compiled in.
#[expect(clippy::expect_used, reason = "the text is compiled in and every test run parses it")]
pub(crate) fn load(name: &'static str, text: &'static str) -> Arc<Known> {
    let schema = Schema::ours(text).expect("a schema of this crate is valid");
    let fingerprint =
        fingerprint(&serde_json::from_str(text).expect("a schema of this crate is JSON"))
            .to_le_bytes();
    Arc::new(Known { name, text, schema, fingerprint })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::{
        super::{
            parser::ours,
            shape::{Node, Shape, Size},
        },
        *,
    };

    fn json(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    /// A release freezes its folder; editing one would leave entries nobody can read.
    #[test]
    fn released_schemas_are_frozen() {
        let fingerprints: Vec<(&str, u64)> = RELEASED
            .iter()
            .map(|(name, text)| (*name, u64::from_be_bytes(load(name, text).fingerprint)))
            .collect();
        assert_eq!(
            fingerprints,
            [
                ("CreateReturnOutbound", 0x283e_6f2f_4abc_fab2),
                ("CommandResult", 0x8fba_6812_68a3_1a1f),
                ("JournalEntry", 0x8cf5_a67f_c277_3836),
                ("FeedState", 0xed0d_50ac_e4ae_d34a),
                ("PurchaseReturn", 0xf852_08df_dbe7_3f77),
                ("ReturnOutbound", 0x06ad_3691_3ad8_cdfa),
                ("PurchaseReturnEnvelope", 0xcbc9_830c_825c_3dd5),
                ("ReturnOutboundEnvelope", 0xc4e4_87d7_8666_7182),
            ],
            "as fastavro computes them, in the order of the bytes on the wire"
        );
    }

    /// Without a registry a later version reads only the schemas in `released/`.
    #[test]
    fn every_current_schema_is_the_newest_released_one_of_its_name() {
        for info in schemas() {
            let newest = RELEASED.into_iter().rfind(|(name, _)| *name == info.name);
            let (name, text) =
                newest.unwrap_or_else(|| panic!("{} is not in released/", info.name));
            assert_eq!(
                u64::from_le_bytes(load(name, text).fingerprint),
                info.fingerprint,
                "{name}.avsc has changed: add it to the folder of the next release"
            );
        }
    }

    #[test]
    fn every_released_schema_can_be_read_with_the_current_one() {
        for (name, text) in RELEASED {
            let current = schemas().into_iter().find(|info| info.name == name).unwrap();
            let (writer, reader) = (ours(text).unwrap(), ours(current.text).unwrap());
            apache_avro::schema_compatibility::SchemaCompatibility::can_read(&writer, &reader)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    #[test]
    fn an_envelope_holds_the_record_as_it_stands_alone() {
        for (envelope, record) in [
            (&catalog().purchase_return_envelope, &catalog().purchase_return),
            (&catalog().return_outbound_envelope, &catalog().return_outbound),
        ] {
            let (mut alone, within) = (json(record.text), json(envelope.text));
            let namespace = alone.as_object_mut().unwrap().remove("namespace").unwrap();
            assert_eq!(within["namespace"], namespace);
            assert_eq!(within["name"], "Envelope", "Debezium's transforms look for this ending");
            assert_eq!(within["fields"][0]["type"][1], alone);
            let root = envelope.schema.root();
            let Shape::Record(id) = root.shape else { panic!("a record") };
            let fields = &root.record(*id).fields;
            assert_eq!(fields[1].shape, fields[0].shape);
        }
    }

    #[test]
    fn every_field_says_what_it_means() {
        fn check(schema: &Value, path: &str) {
            match schema {
                Value::Array(branches) => branches.iter().for_each(|branch| check(branch, path)),
                Value::Object(object) => {
                    for field in
                        object.get("fields").and_then(Value::as_array).into_iter().flatten()
                    {
                        let path = format!("{path}.{}", field["name"]);
                        assert!(field["doc"].as_str().is_some_and(|doc| !doc.is_empty()), "{path}");
                        check(&field["type"], &path);
                    }
                    object.get("items").into_iter().for_each(|items| check(items, path));
                }
                _ => {}
            }
        }
        for info in schemas() {
            check(&json(info.text), info.name);
        }
    }

    /// What others write with may contain itself, take no bytes or have defaults that do not fit;
    /// ours may not: `translate` goes as deep as they are.
    #[test]
    fn our_schemas_are_finite_and_their_defaults_fit() {
        fn check(node: Node<'_>, depth: usize, path: &str) {
            assert!(depth < 16, "{path}");
            assert!(node.size() == Size::Something || *node.shape == Shape::Null, "{path}");
            match node.shape {
                Shape::Array(inner) | Shape::Map(inner) => {
                    assert_ne!(**inner, Shape::Null, "{path}");
                    check(node.at(inner), depth + 1, path);
                }
                Shape::Union(branches) => {
                    branches.iter().for_each(|branch| check(node.at(branch), depth + 1, path));
                }
                Shape::Record(id) => {
                    for field in &node.record(*id).fields {
                        let path = format!("{path}.{}", field.name);
                        assert_ne!(field.shape, Shape::Null, "{path}");
                        check(node.at(&field.shape), depth + 1, &path);
                    }
                }
                _ => {}
            }
        }
        fn defaults(schema: &Value) -> usize {
            match schema {
                Value::Array(all) => all.iter().map(defaults).sum(),
                Value::Object(object) => {
                    // An enum's default is none of a field.
                    let own = object.contains_key("default") && !object.contains_key("symbols");
                    usize::from(own) + object.values().map(defaults).sum::<usize>()
                }
                _ => 0,
            }
        }
        let current = schemas().into_iter().map(|info| (info.name, info.text));
        for (name, text) in current.chain(RELEASED) {
            let known = load(name, text);
            check(known.schema.root(), 0, name);
            let fit = known.schema.fields().filter(|field| field.default.is_some()).count();
            assert_eq!(fit, defaults(&json(text)), "{name}");
        }
    }

    /// The parser is told to accept any name; ours are Avro's, which every reader accepts.
    #[test]
    fn our_names_are_avros() {
        fn part(text: &str) {
            let letter = |ch: char| ch.is_ascii_alphabetic() || ch == '_';
            assert!(text.starts_with(letter), "{text}");
            assert!(text.chars().all(|ch| letter(ch) || ch.is_ascii_digit()), "{text}");
        }
        fn check(schema: &Value) {
            match schema {
                Value::Array(all) => all.iter().for_each(check),
                Value::Object(object) => {
                    part(object.get("name").map_or("_", |name| name.as_str().unwrap()));
                    if let Some(space) = object.get("namespace") {
                        space.as_str().unwrap().split('.').for_each(part);
                    }
                    for list in ["symbols", "aliases"].iter().filter_map(|key| object.get(*key)) {
                        list.as_array().unwrap().iter().for_each(|one| part(one.as_str().unwrap()));
                    }
                    for key in ["type", "fields", "items", "values"] {
                        object.get(key).into_iter().for_each(check);
                    }
                }
                // A primitive type, or one by its full name.
                other => other.as_str().unwrap().split('.').for_each(part),
            }
        }
        let current = schemas().into_iter().map(|info| info.text);
        current.chain(RELEASED.map(|(_, text)| text)).for_each(|text| check(&json(text)));
    }

    /// The lines of a schema's text on which the fields of its records begin.
    fn lines_of_fields(text: &str) -> Vec<usize> {
        let (mut lines, mut line, mut key) = (Vec::new(), 1, String::new());
        // For every open bracket: whether it is that of a list of fields.
        let mut open: Vec<bool> = Vec::new();
        let mut rest = text.chars();
        while let Some(char) = rest.next() {
            match char {
                '\n' => line += 1,
                '"' => {
                    key.clear();
                    while let Some(char) = rest.next().filter(|char| *char != '"') {
                        key.push(char);
                        key.extend((char == '\\').then(|| rest.next()).flatten());
                    }
                }
                '[' => open.push(key == "fields"),
                '{' => {
                    lines.extend((open.last() == Some(&true)).then_some(line));
                    open.push(false);
                }
                ']' | '}' => {
                    open.pop();
                }
                _ => {}
            }
        }
        lines
    }

    /// A line of a diff is then one field, and readers see a record's fields one below the other.
    #[test]
    fn every_field_stands_on_a_line_of_its_own() {
        assert_eq!(lines_of_fields("{\"fields\": [{\"a\": 1}, {\"b\":\n[{}]}]}"), [1, 1]);
        let texts = schemas().into_iter().map(|info| (info.name, info.text)).chain(RELEASED);
        for (name, text) in texts {
            let lines = lines_of_fields(text);
            assert!(lines.len() > 1, "{name}");
            for pair in lines.windows(2) {
                assert!(pair[0] < pair[1], "{name}.avsc puts two fields on line {}", pair[0]);
            }
        }
    }
}
