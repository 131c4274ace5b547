//! The one place that calls `apache-avro`'s parser.
//!
//! The crate refuses schemas that Java and the registries accept, mostly for what is never read
//! from a writer's schema. A writer's JSON is prepared for it: only what a datum's bytes depend on
//! is left, and every named type stands alone. What is no schema is passed on for the crate to
//! refuse.

use std::{collections::HashMap, sync::Once};

use apache_avro::{
    AvroResult, Schema,
    validator::{
        EnumSymbolNameValidator, RecordFieldNameValidator, SchemaNameValidator,
        SchemaNamespaceValidator, set_enum_symbol_name_validator, set_record_field_name_validator,
        set_schema_name_validator, set_schema_namespace_validator,
    },
};
use serde_json::{Map, Value};

use crate::text::shortened;

/// Bytes of a type's full name and of a field's, at most: both are repeated in reasons.
const MAX_NAME: usize = 1_000;
/// Bytes of the full names at all places where a type is named, at most. A namespace is repeated in
/// each, and the crate keeps ten copies: they would multiply a schema's size.
const MAX_NAMES: usize = 4 * 1024 * 1024;
/// Characters of a reason, at most: the crate's may quote the schema. Two names fit.
const MAX_REASON: usize = 2 * MAX_NAME;

/// Parses one of our schemas, which stands alone, as it is written.
///
/// # Errors
/// The end of a sentence about the schema.
pub(super) fn ours(text: &str) -> Result<Schema, String> {
    accept_any_name();
    #[expect(clippy::disallowed_methods, reason = "the one place")]
    Schema::parse_str(text).map_err(|error| invalid(&error.to_string()))
}

/// Parses a writer's schema; `references` are the texts it takes types from that it does not
/// define.
///
/// Gives every named type, then the schema itself; all of them refer to named types by full name.
/// A type that is looked for in its user's namespace may stand in none, where that is not
/// ambiguous. References come in the order in which a parser would be given them.
///
/// # Errors
/// The end of a sentence about the schema.
pub(super) fn writers(text: &str, references: &[String]) -> Result<Vec<Schema>, String> {
    // `serde_json` bounds the nesting: the crate's parser and what it makes use the stack.
    let json = |text: &str| {
        serde_json::from_str::<Value>(text)
            .map_err(|error| invalid(&format!("its text is not JSON ({error})")))
    };
    let mut prepared = Prepared::default();
    let mut root = Value::Null;
    for text in references.iter().map(String::as_str).chain([text]) {
        root = prepared.item(json(text)?, "").map_err(|reason| invalid(&reason))?;
    }
    let declared = prepared.declare().map_err(|reason| invalid(&reason))?;
    let skipped = declared.len();
    // In one record, since the crate parses one schema with all that stands in it.
    let all = declared.into_iter().chain(prepared.definitions).chain([root]).enumerate();
    let fields = all.map(|(at, item)| object([("name", at.to_string().into()), ("type", item)]));
    let all = object([
        ("type", "record".into()),
        ("name", "Writer".into()),
        ("fields", Value::Array(fields.collect())),
    ]);
    accept_any_name();
    #[expect(clippy::disallowed_methods, reason = "the one place")]
    match Schema::parse(&all).map_err(|error| invalid(&error.to_string()))? {
        Schema::Record(all) => {
            Ok(all.fields.into_iter().skip(skipped).map(|field| field.schema).collect())
        }
        // What was given is a record.
        _ => Err(invalid("it was parsed as something else")),
    }
}

fn invalid(reason: &str) -> String {
    format!("is not a valid Avro schema: {}", shortened(reason, MAX_REASON))
}

/// Sets the crate's rules for names, which can be set once per process and before the first schema
/// is parsed. That our own names are Avro's is held by a test.
fn accept_any_name() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let set = [
            set_schema_name_validator(Box::new(AnyName)).is_ok(),
            set_schema_namespace_validator(Box::new(AnyName)).is_ok(),
            set_enum_symbol_name_validator(Box::new(AnyName)).is_ok(),
            set_record_field_name_validator(Box::new(AnyName)).is_ok(),
        ];
        if set != [true; 4] {
            tracing::error!(
                "an Avro schema was parsed before the rules for names were set, which is a defect of the connector; schemas of senders with names in other characters are refused"
            );
        }
        debug_assert_eq!(set, [true; 4], "something else parsed a schema before");
    });
}

/// Java's reflection before 1.9 writes `a.B$`, Debezium `a-b`, Java since 1.12 letters of any
/// script: names only have to be told apart.
struct AnyName;

impl SchemaNameValidator for AnyName {
    /// Where the name begins behind its namespace.
    fn validate(&self, name: &str) -> AvroResult<usize> {
        Ok(name.rfind('.').map_or(0, |dot| dot + 1))
    }
}

impl SchemaNamespaceValidator for AnyName {
    fn validate(&self, _: &str) -> AvroResult<()> {
        Ok(())
    }
}

impl EnumSymbolNameValidator for AnyName {
    fn validate(&self, _: &str) -> AvroResult<()> {
        Ok(())
    }
}

impl RecordFieldNameValidator for AnyName {
    fn validate(&self, _: &str) -> AvroResult<()> {
        Ok(())
    }
}

/// How a type is named where it is used.
#[derive(Default)]
struct Uses {
    /// By its full name, somewhere.
    in_full: bool,
    /// By its simple name before it was defined: Java takes one in no namespace then, if there is
    /// one by then.
    early: bool,
}

/// A writer's schema as the crate accepts it.
///
/// The crate parses a named type with all that stands in it, keeps a copy of it for every type
/// around it, and follows a reference to a text not parsed yet on the stack. So each definition is
/// taken out of its place, where its full name is left.
#[derive(Default)]
struct Prepared {
    definitions: Vec<Value>,
    /// By full name, where in `definitions`; `None` while a record's fields are read.
    defined: HashMap<String, Option<usize>>,
    /// By the full names of types that are used.
    used: HashMap<String, Uses>,
    /// Bytes of full names, wherever one stands.
    names: usize,
}

impl Prepared {
    /// Prepares what stands where a type is written; `namespace` is the enclosing one, empty for
    /// none.
    fn item(&mut self, schema: Value, namespace: &str) -> Result<Value, String> {
        let mut written = match schema {
            Value::String(name) => return self.reference(name, namespace),
            Value::Array(branches) => {
                let branches = branches.into_iter().map(|branch| self.item(branch, namespace));
                return branches.collect::<Result<_, _>>().map(Value::Array);
            }
            Value::Object(written) => written,
            other @ (Value::Null | Value::Bool(_) | Value::Number(_)) => return Ok(other),
        };
        let kind = match written.remove("type") {
            Some(Value::String(kind)) => kind,
            Some(inner) => return self.item(inner, namespace),
            None => return Ok(object([])),
        };
        let inside = match kind.as_str() {
            "array" => "items",
            "map" => "values",
            // The crate does not know `error`, a record in Avro's protocols.
            "record" | "error" => return self.define("record", written, namespace),
            "enum" | "fixed" => return self.define(&kind, written, namespace),
            _ if is_primitive(&kind) => {
                let kind = [("type", kind.into())];
                return Ok(object(kind.into_iter().chain(logical(written))));
            }
            _ => return self.reference(kind, namespace),
        };
        // Without `logicalType`, which belongs to neither: the crate then takes the word `array`
        // for the name of a type.
        let inner = written.remove(inside).map(|inner| self.item(inner, namespace)).transpose()?;
        let inner = inner.map(|inner| (inside, inner));
        Ok(object([("type", kind.into())].into_iter().chain(inner)))
    }

    /// Keeps a definition. Missing lists and sizes become null: without them the crate takes the
    /// word `record`, `enum` or `fixed` for the name of a type.
    fn define(
        &mut self,
        kind: &str,
        mut written: Map<String, Value>,
        namespace: &str,
    ) -> Result<Value, String> {
        let Some(Value::String(name)) = written.remove("name") else {
            return Err(format!("its {kind} has no name"));
        };
        let namespace = written.get("namespace").and_then(Value::as_str).unwrap_or(namespace);
        let full = self.full_name(&name, namespace)?;
        let twice = || Err(format!("it defines {full} twice"));
        let known = self.defined.get(&full).copied();
        if known.is_some() && kind == "record" {
            return twice();
        }
        self.defined.entry(full.clone()).or_default();
        let (own, _) = full.rsplit_once('.').unwrap_or_default();
        let (inside, value) = match kind {
            "record" => {
                let fields = match written.remove("fields") {
                    Some(Value::Array(fields)) => fields
                        .into_iter()
                        .map(|field| self.field(field, &full, own))
                        .collect::<Result<_, _>>()
                        .map(Value::Array)?,
                    _ => Value::Null,
                };
                ("fields", fields)
            }
            "enum" => ("symbols", written.remove("symbols").unwrap_or_default()),
            _ => ("size", written.remove("size").unwrap_or_default()),
        };
        let kept = [("type", kind.into()), ("name", absolute(&full)), (inside, value)];
        let logical = (kind == "fixed").then(|| logical(written)).into_iter().flatten();
        let definition = object(kept.into_iter().chain(logical));
        match known {
            None => {
                self.defined.insert(full.clone(), Some(self.definitions.len()));
                self.definitions.push(definition);
            }
            // Java since 1.12 writes the same one again.
            Some(at) if at.and_then(|at| self.definitions.get(at)) == Some(&definition) => {}
            Some(_) => return twice(),
        }
        Ok(absolute(&full))
    }

    fn field(&mut self, field: Value, record: &str, namespace: &str) -> Result<Value, String> {
        // The crate leaves out what is no object, and with it its bytes.
        let Value::Object(mut field) = field else {
            return Err(format!("the record {record} has a field that is no JSON object"));
        };
        let name = field.remove("name");
        if let Some(Value::String(name)) = &name {
            check_length(name.len())?;
        }
        let kind = field.remove("type").map(|kind| self.item(kind, namespace)).transpose()?;
        let name = name.map(|name| ("name", name));
        // Without its default, for which the crate checks that it fits, and its aliases.
        Ok(object(name.into_iter().chain(kind.map(|kind| ("type", kind)))))
    }

    fn reference(&mut self, name: String, namespace: &str) -> Result<Value, String> {
        if is_primitive(&name) {
            return Ok(name.into());
        }
        let full = self.full_name(&name, namespace)?;
        let absolute = absolute(&full);
        let in_full = name.contains('.') || name == full;
        let early = !in_full && !self.defined.contains_key(&full);
        let uses = self.used.entry(full).or_default();
        uses.in_full |= in_full;
        uses.early |= early;
        Ok(absolute)
    }

    fn full_name(&mut self, name: &str, namespace: &str) -> Result<String, String> {
        let (namespace, name) = match name.rfind('.') {
            // A dot in front: in no namespace.
            Some(0) => ("", name.get(1..).unwrap_or_default()),
            Some(_) => ("", name),
            None => (namespace, name),
        };
        let dot = if namespace.is_empty() { "" } else { "." };
        let length = namespace.len() + dot.len() + name.len();
        check_length(length)?;
        self.names += length;
        if self.names > MAX_NAMES {
            return Err(format!(
                "its names take more than {MAX_NAMES} bytes with their namespaces"
            ));
        }
        Ok([namespace, dot, name].concat())
    }

    /// A definition of every name that is used: the crate wants one before, Java since 1.11.1 does
    /// not. The crate replaces it when it comes to the real one.
    fn declare(&mut self) -> Result<Vec<Value>, String> {
        let declare = |(full, uses): (String, Uses)| {
            // As Java looks for it: in the namespace, then in none.
            let simple = full.rsplit_once('.').map(|(_, simple)| simple);
            let alone = simple.filter(|simple| self.defined.contains_key(*simple));
            match (self.defined.contains_key(&full), alone) {
                (true, Some(alone)) if uses.early => Err(format!(
                    "it uses {alone} before it defines {full}, and defines {alone} without a namespace too: which is meant is not known; write {full} or .{alone}"
                )),
                (false, Some(_)) if uses.in_full => Err(undefined(&full)),
                (false, None) => Err(undefined(&full)),
                (true, _) | (false, Some(_)) => {
                    let name = absolute(&full);
                    Ok(object([("type", "fixed".into()), ("name", name), ("size", 0.into())]))
                }
            }
        };
        std::mem::take(&mut self.used).into_iter().map(declare).collect()
    }
}

fn undefined(full: &str) -> String {
    format!("it refers to {full}, which it does not define")
}

fn is_primitive(name: &str) -> bool {
    matches!(name, "null" | "boolean" | "int" | "long" | "float" | "double" | "bytes" | "string")
}

/// What bytes depend on in a primitive type and in a `fixed` beside its size. The crate refuses a
/// `logicalType` that is no text.
fn logical(mut written: Map<String, Value>) -> impl Iterator<Item = (&'static str, Value)> {
    let valid = written.get("logicalType").is_some_and(Value::is_string);
    let keys = ["logicalType", "precision", "scale"].into_iter().filter(move |_| valid);
    keys.filter_map(move |key| written.remove(key).map(|value| (key, value)))
}

/// A full name where the crate would put another namespace in front of one that has none.
fn absolute(full: &str) -> Value {
    if full.contains('.') { full.into() } else { format!(".{full}").into() }
}

fn check_length(length: usize) -> Result<(), String> {
    if length > MAX_NAME {
        return Err(format!("it has a name of {length} bytes; at most {MAX_NAME} are read"));
    }
    Ok(())
}

fn object(entries: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    Value::Object(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}
