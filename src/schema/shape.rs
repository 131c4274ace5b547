//! A schema as the codec walks it: references inlined, logical types named, depth bounded.

use std::{collections::HashMap, sync::Arc};

use apache_avro::schema::{
    DecimalSchema, InnerDecimalSchema, Name, NamespaceRef, RecordSchema, Schema, UuidSchema,
};
use serde_json::Value;

use super::datum::{put_bool, put_bytes, put_len, put_long};

/// Nesting beyond this is refused, so that walking a schema from outside never ends the stack. Ours
/// are 9 deep.
const MAX_DEPTH: usize = 32;

/// What a datum consists of.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Shape {
    Null,
    Boolean,
    Int,
    /// A long that counts nothing we know.
    Long,
    /// A date, a time of day or a local time: no instant, since none of them names a time zone.
    /// `long`: as Avro writes it.
    Civil {
        kind: &'static str,
        long: bool,
    },
    /// An instant, in this many units per millisecond: 1, 1,000 or 1,000,000.
    Instant {
        per_milli: i64,
    },
    Float,
    Double,
    Bytes,
    String,
    Fixed(usize),
    /// `fixed`: the size, where it is not `bytes`.
    Decimal {
        scale: usize,
        fixed: Option<usize>,
    },
    /// Avro's `big-decimal`: unscaled bytes and scale in every value.
    BigDecimal,
    Enum {
        symbols: Vec<String>,
        default: Option<String>,
    },
    Array(Arc<Shape>),
    Map(Arc<Shape>),
    Union(Vec<Shape>),
    Record(Arc<Record>),
}

/// A record's fields in the order of the schema.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    /// Without namespace.
    pub(crate) name: String,
    pub(crate) fields: Vec<Field>,
}

/// One field of a [`Record`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) aliases: Vec<String>,
    pub(crate) shape: Shape,
    /// The default's datum.
    pub(crate) default: Option<Vec<u8>>,
}

impl Shape {
    /// The shape of a schema that refers to nothing outside itself.
    ///
    /// # Errors
    /// The end of a sentence about the schema when it contains itself, nests too deep or refers to
    /// something unknown.
    pub(crate) fn of(schema: &Schema) -> Result<Self, String> {
        Builder { named: HashMap::new() }.item(schema, None, 0).map(|(shape, _)| shape)
    }

    /// What a human calls it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean => "boolean",
            Self::Int => "int",
            Self::Long => "long",
            Self::Civil { kind, .. } => kind,
            Self::Instant { .. } => "timestamp",
            Self::Float => "float",
            Self::Double => "double",
            Self::Bytes => "bytes",
            Self::String => "string",
            Self::Fixed(_) => "fixed",
            Self::Decimal { .. } => "decimal",
            Self::BigDecimal => "big-decimal",
            Self::Enum { .. } => "enum",
            Self::Array(_) => "array",
            Self::Map(_) => "map",
            Self::Union(_) => "union",
            Self::Record(_) => "record",
        }
    }
}

struct Builder {
    /// Named types met so far with their height; `None` while one is being built.
    named: HashMap<Name, Option<(Shape, usize)>>,
}

impl Builder {
    /// The shape and its height: how many levels nest inside.
    fn build(
        &mut self,
        schema: &Schema,
        namespace: NamespaceRef<'_>,
        depth: usize,
    ) -> Result<(Shape, usize), String> {
        if depth > MAX_DEPTH {
            return Err(format!("nests deeper than {MAX_DEPTH} levels"));
        }
        let leaf = match schema {
            Schema::Null => Shape::Null,
            Schema::Boolean => Shape::Boolean,
            Schema::Int => Shape::Int,
            Schema::Long => Shape::Long,
            Schema::Date => Shape::Civil { kind: "date", long: false },
            Schema::TimeMillis => Shape::Civil { kind: "time-millis", long: false },
            Schema::TimeMicros => Shape::Civil { kind: "time-micros", long: true },
            Schema::LocalTimestampMillis => {
                Shape::Civil { kind: "local-timestamp-millis", long: true }
            }
            Schema::LocalTimestampMicros => {
                Shape::Civil { kind: "local-timestamp-micros", long: true }
            }
            Schema::LocalTimestampNanos => {
                Shape::Civil { kind: "local-timestamp-nanos", long: true }
            }
            Schema::TimestampMillis => Shape::Instant { per_milli: 1 },
            Schema::TimestampMicros => Shape::Instant { per_milli: 1_000 },
            Schema::TimestampNanos => Shape::Instant { per_milli: 1_000_000 },
            Schema::Float => Shape::Float,
            Schema::Double => Shape::Double,
            Schema::Bytes | Schema::Uuid(UuidSchema::Bytes) => Shape::Bytes,
            Schema::BigDecimal => Shape::BigDecimal,
            Schema::String | Schema::Uuid(UuidSchema::String) => Shape::String,
            Schema::Uuid(UuidSchema::Fixed(fixed))
            | Schema::Fixed(fixed)
            | Schema::Duration(fixed) => {
                self.keep(&fixed.name, namespace, Shape::Fixed(fixed.size))
            }
            Schema::Decimal(DecimalSchema { scale, inner, .. }) => match inner {
                InnerDecimalSchema::Bytes => Shape::Decimal { scale: *scale, fixed: None },
                InnerDecimalSchema::Fixed(fixed) => self.keep(
                    &fixed.name,
                    namespace,
                    Shape::Decimal { scale: *scale, fixed: Some(fixed.size) },
                ),
            },
            Schema::Enum(schema) => {
                let shape = Shape::Enum {
                    symbols: schema.symbols.clone(),
                    default: schema.default.clone(),
                };
                self.keep(&schema.name, namespace, shape)
            }
            Schema::Array(schema) => {
                let (items, height) = self.item(&schema.items, namespace, depth)?;
                return Ok((Shape::Array(Arc::new(items)), height + 1));
            }
            Schema::Map(schema) => {
                let (values, height) = self.item(&schema.types, namespace, depth)?;
                return Ok((Shape::Map(Arc::new(values)), height + 1));
            }
            Schema::Union(schema) => {
                let mut branches = Vec::new();
                let mut height = 0;
                for branch in schema.variants() {
                    let (branch, inner) = self.build(branch, namespace, depth + 1)?;
                    branches.push(branch);
                    height = height.max(inner);
                }
                return Ok((Shape::Union(branches), height + 1));
            }
            Schema::Record(schema) => return self.record(schema, namespace, depth),
            Schema::Ref { name } => {
                let full = name.fully_qualified_name(namespace);
                return match self.named.get(full.as_ref()) {
                    Some(Some((_, height))) if depth + height > MAX_DEPTH => {
                        Err(format!("nests deeper than {MAX_DEPTH} levels"))
                    }
                    Some(Some(known)) => Ok(known.clone()),
                    Some(None) => Err(format!("contains the record {full} in itself")),
                    None => Err(format!("refers to {full}, which it does not define")),
                };
            }
        };
        if leaf == Shape::Fixed(0) || matches!(leaf, Shape::Decimal { fixed: Some(0), .. }) {
            return Err("has a value of no bytes".to_owned());
        }
        Ok((leaf, 0))
    }

    /// What stands in a record, an array or a map. Every such value takes at least one byte, so
    /// that walking a datum costs no more than its length allows: a plain null would not.
    fn item(
        &mut self,
        schema: &Schema,
        namespace: NamespaceRef<'_>,
        depth: usize,
    ) -> Result<(Shape, usize), String> {
        match self.build(schema, namespace, depth + 1)? {
            (Shape::Null, _) => Err("has a value of no bytes".to_owned()),
            built => Ok(built),
        }
    }

    /// Remembers a named type that contains no other.
    fn keep(&mut self, name: &Name, namespace: NamespaceRef<'_>, shape: Shape) -> Shape {
        self.named
            .insert(name.fully_qualified_name(namespace).into_owned(), Some((shape.clone(), 0)));
        shape
    }

    fn record(
        &mut self,
        schema: &RecordSchema,
        namespace: NamespaceRef<'_>,
        depth: usize,
    ) -> Result<(Shape, usize), String> {
        let full = schema.name.fully_qualified_name(namespace).into_owned();
        if schema.fields.is_empty() {
            return Err("has a value of no bytes".to_owned());
        }
        self.named.insert(full.clone(), None);
        let mut fields = Vec::with_capacity(schema.fields.len());
        let mut height = 0;
        for field in &schema.fields {
            let (shape, inner) = self.item(&field.schema, full.namespace(), depth)?;
            height = height.max(inner + 1);
            // A default that does not fit is as good as none: whoever needs it is told that the
            // field is missing.
            let default = field.default.as_ref().and_then(|json| {
                let mut datum = Vec::new();
                put_default(&shape, json, &mut datum).then_some(datum)
            });
            fields.push(Field {
                name: field.name.clone(),
                aliases: field.aliases.clone(),
                shape,
                default,
            });
        }
        let shape = Shape::Record(Arc::new(Record { name: full.name().to_owned(), fields }));
        self.named.insert(full, Some((shape.clone(), height)));
        Ok((shape, height))
    }
}

/// Writes a field's default; `false` when it does not fit the shape.
fn put_default(shape: &Shape, json: &Value, out: &mut Vec<u8>) -> bool {
    match (shape, json) {
        (Shape::Null, Value::Null) => true,
        (Shape::Boolean, Value::Bool(value)) => {
            put_bool(out, *value);
            true
        }
        (Shape::Int | Shape::Long | Shape::Instant { .. }, Value::Number(number)) => {
            number.as_i64().is_some_and(|value| {
                put_long(out, value);
                true
            })
        }
        (Shape::String, Value::String(text)) => {
            put_bytes(out, text.as_bytes());
            true
        }
        (Shape::Enum { symbols, .. }, Value::String(text)) => {
            symbols.iter().position(|symbol| symbol == text).is_some_and(|at| {
                put_len(out, at);
                true
            })
        }
        (Shape::Array(_), Value::Array(items)) if items.is_empty() => {
            put_long(out, 0);
            true
        }
        (Shape::Map(_), Value::Object(entries)) if entries.is_empty() => {
            put_long(out, 0);
            true
        }
        (Shape::Union(branches), json) => branches.iter().enumerate().any(|(at, branch)| {
            let mut datum = Vec::new();
            put_default(branch, json, &mut datum) && {
                put_len(out, at);
                out.extend_from_slice(&datum);
                true
            }
        }),
        // No schema of ours has another kind of default, and a writer's defaults are never used.
        (_, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(text: &str) -> Result<Shape, String> {
        Shape::of(&Schema::parse_str(text).map_err(|error| error.to_string())?)
    }

    #[test]
    fn a_schema_that_contains_itself_is_refused() {
        let text =
            r#"{"type":"record","name":"List","fields":[{"name":"next","type":["null","List"]}]}"#;
        assert_eq!(shape(text), Err("contains the record List in itself".to_owned()));
    }

    #[test]
    fn a_chain_of_references_cannot_nest_deeper_than_the_bound() {
        let mut fields = vec![r#"{"name":"f0","type":{"type":"record","name":"R0","fields":[{"name":"x","type":"int"}]}}"#.to_owned()];
        for at in 1..200 {
            fields.push(format!(
                r#"{{"name":"f{at}","type":{{"type":"record","name":"R{at}","fields":[{{"name":"a","type":"R{0}"}},{{"name":"b","type":"R{0}"}}]}}}}"#,
                at - 1
            ));
        }
        let text = format!(r#"{{"type":"record","name":"Top","fields":[{}]}}"#, fields.join(","));
        assert!(shape(&text).unwrap_err().contains("deeper than"));
    }

    #[test]
    fn a_value_of_no_bytes_is_refused() {
        for field in [
            r#""null""#,
            r#"{"type":"array","items":"null"}"#,
            r#"{"type":"record","name":"E","fields":[]}"#,
        ] {
            let text = format!(
                r#"{{"type":"record","name":"R","fields":[{{"name":"a","type":{field}}}]}}"#
            );
            assert_eq!(shape(&text), Err("has a value of no bytes".to_owned()), "{field}");
        }
    }
}
