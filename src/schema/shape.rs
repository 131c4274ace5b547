//! A schema as the codec walks it: references resolved, logical types named.
//!
//! Made of what `apache-avro` parses. Records are numbered, so that a type may contain itself.

use std::{collections::HashMap, slice, sync::Arc};

use apache_avro::schema::{
    self as parsed, DecimalSchema, FixedSchema, InnerDecimalSchema, RecordSchema, UuidSchema,
};
use serde_json::Value;

use super::{
    datum::{put_bool, put_bytes, put_len, put_long},
    parser,
};

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
    Enum(Arc<Symbols>),
    Array(Arc<Shape>),
    Map(Arc<Shape>),
    Union(Arc<[Shape]>),
    /// By its number in the schema, since it may contain itself.
    Record(RecordId),
}

/// An enum's symbols in the order of the schema.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Symbols {
    pub(crate) all: Vec<String>,
    pub(crate) default: Option<String>,
}

/// Which of its [`Schema`]'s records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordId(usize);

/// A record's fields in the order of the schema.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    /// Without namespace.
    pub(crate) name: String,
    pub(crate) fields: Vec<Field>,
    /// Positions of the fields whose values take bytes.
    pub(crate) solid: Vec<usize>,
    /// What a value is made of for those who go past it: only what takes bytes, and a record of one
    /// such field replaced by what is inside. Going past a value then costs no more than its bytes,
    /// whatever the schema is.
    parts: Vec<Shape>,
    size: Size,
    by_name: HashMap<String, usize>,
}

/// What a value takes at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// No bytes, always.
    Nothing,
    /// A byte or more.
    Something,
    /// The record contains itself in every value, so that no value exists.
    Endless,
}

/// One field of a [`Record`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) aliases: Vec<String>,
    pub(crate) shape: Shape,
    /// The default's datum; `None` also for one that does not fit. Only a reader's is used.
    pub(crate) default: Option<Vec<u8>>,
}

/// A schema with every record in it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Schema {
    root: Shape,
    records: Vec<Record>,
}

/// A place in a schema.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node<'s> {
    schema: &'s Schema,
    pub(crate) shape: &'s Shape,
}

impl Schema {
    /// Reads one of our schemas, which stands alone.
    ///
    /// # Errors
    /// The end of a sentence about the schema.
    pub(crate) fn ours(text: &str) -> Result<Self, String> {
        Builder::default().build(&[parser::ours(text)?])
    }

    /// Reads a writer's schema; `references` are the texts it takes types from that it does not
    /// define, in the order in which a parser would be given them.
    ///
    /// Names may be of any characters; defaults and aliases, which are a reader's, are left out.
    /// The text is JSON as `serde_json` reads it, at most 127 levels deep; Java reads more.
    ///
    /// # Errors
    /// The end of a sentence about the schema.
    pub(crate) fn parse(text: &str, references: &[String]) -> Result<Self, String> {
        Builder::default().build(&parser::writers(text, references)?)
    }

    pub(crate) fn root(&self) -> Node<'_> {
        Node { schema: self, shape: &self.root }
    }

    #[expect(clippy::indexing_slicing, reason = "a schema makes the numbers of its own records")]
    fn record(&self, id: RecordId) -> &Record {
        &self.records[id.0]
    }

    /// The fields of all records.
    #[cfg(test)]
    pub(crate) fn fields(&self) -> impl Iterator<Item = &Field> {
        self.records.iter().flat_map(|record| &record.fields)
    }

    /// The schema without one of its outermost record's fields, as an older version would have it.
    #[cfg(test)]
    pub(crate) fn without(&self, at: usize) -> Self {
        let mut older = self.clone();
        let Shape::Record(RecordId(root)) = older.root else { panic!("a record") };
        older.records[root].fields.remove(at);
        measure(&mut older.records);
        older
    }
}

impl<'s> Node<'s> {
    /// A part of what stands here.
    pub(crate) fn at(self, shape: &'s Shape) -> Self {
        Self { shape, ..self }
    }

    /// The fields of the record with this number.
    pub(crate) fn record(self, id: RecordId) -> &'s Record {
        self.schema.record(id)
    }

    /// What a value takes at least.
    pub(crate) fn size(self) -> Size {
        size(self.shape, |id| self.record(id).size)
    }
}

impl Record {
    /// The position of a field.
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// What a value is made of for those who go past it; `None` where no value exists.
    pub(crate) fn parts(&self) -> Option<slice::Iter<'_, Shape>> {
        (self.size != Size::Endless).then(|| self.parts.iter())
    }
}

impl Shape {
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
            Self::Enum(_) => "enum",
            Self::Array(_) => "array",
            Self::Map(_) => "map",
            Self::Union(_) => "union",
            Self::Record(_) => "record",
        }
    }
}

fn size(shape: &Shape, of_record: impl Fn(RecordId) -> Size) -> Size {
    match shape {
        Shape::Null | Shape::Fixed(0) | Shape::Decimal { fixed: Some(0), .. } => Size::Nothing,
        Shape::Record(id) => of_record(*id),
        _ => Size::Something,
    }
}

/// Finds what every record takes and what it is made of.
fn measure(records: &mut [Record]) {
    // Records whose values stand in every value of another, and how many such are not measured yet.
    let mut within: Vec<Vec<usize>> = vec![Vec::new(); records.len()];
    let mut open = vec![0_usize; records.len()];
    let mut ready = Vec::new();
    for (at, (record, open)) in records.iter().zip(&mut open).enumerate() {
        for field in &record.fields {
            if let Shape::Record(RecordId(inner)) = field.shape
                && let Some(outer) = within.get_mut(inner)
            {
                outer.push(at);
                *open += 1;
            }
        }
        ready.extend((*open == 0).then_some(at));
    }
    for record in records.iter_mut() {
        record.size = Size::Endless;
        record.by_name =
            record.fields.iter().enumerate().map(|(at, field)| (field.name.clone(), at)).collect();
    }
    while let Some(at) = ready.pop() {
        let Some(fields) = records.get(at).map(|record| &record.fields) else { continue };
        let known = |RecordId(inner): RecordId| records.get(inner);
        let (mut solid, mut parts) = (Vec::new(), Vec::new());
        for (position, field) in fields.iter().enumerate() {
            let of_record = |id| known(id).map_or(Size::Endless, |record| record.size);
            if size(&field.shape, of_record) == Size::Nothing {
                continue;
            }
            solid.push(position);
            let inside = match field.shape {
                Shape::Record(id) => known(id).map(|record| record.parts.as_slice()),
                _ => None,
            };
            parts.push(match inside {
                Some([only]) => only.clone(),
                _ => field.shape.clone(),
            });
        }
        if let Some(record) = records.get_mut(at) {
            record.size = if solid.is_empty() { Size::Nothing } else { Size::Something };
            (record.solid, record.parts) = (solid, parts);
        }
        for outer in within.get(at).into_iter().flatten() {
            if let Some(open) = open.get_mut(*outer) {
                *open -= 1;
                ready.extend((*open == 0).then_some(*outer));
            }
        }
    }
}

/// First all types are declared by name, then the records' fields are read: however types refer to
/// each other, the stack is as deep as what was parsed, which the parser bounds.
#[derive(Default)]
struct Builder<'p> {
    /// By full name.
    named: HashMap<&'p str, Shape>,
    /// By number.
    records: Vec<&'p RecordSchema>,
}

impl<'p> Builder<'p> {
    /// The last of the schemas, which together define what they refer to.
    fn build(mut self, schemas: &'p [parsed::Schema]) -> Result<Schema, String> {
        schemas.iter().for_each(|schema| self.declare(schema));
        let mut records = Vec::with_capacity(self.records.len());
        for record in &self.records {
            let mut fields = Vec::with_capacity(record.fields.len());
            for field in &record.fields {
                let shape = self.shape(&field.schema)?;
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
            records.push(Record {
                name: record.name.name().to_owned(),
                fields,
                solid: Vec::new(),
                parts: Vec::new(),
                size: Size::Endless,
                by_name: HashMap::new(),
            });
        }
        let root = self.shape(schemas.last().unwrap_or(&parsed::Schema::Null))?;
        measure(&mut records);
        Ok(Schema { root, records })
    }

    /// Declares the named types in a schema.
    fn declare(&mut self, schema: &'p parsed::Schema) {
        let (name, shape) = match schema {
            parsed::Schema::Record(record) => {
                let shape = Shape::Record(RecordId(self.records.len()));
                self.records.push(record);
                record.fields.iter().for_each(|field| self.declare(&field.schema));
                (&record.name, shape)
            }
            parsed::Schema::Enum(written) => {
                let (all, default) = (written.symbols.clone(), written.default.clone());
                (&written.name, Shape::Enum(Arc::new(Symbols { all, default })))
            }
            parsed::Schema::Fixed(fixed)
            | parsed::Schema::Duration(fixed)
            | parsed::Schema::Uuid(UuidSchema::Fixed(fixed)) => {
                (&fixed.name, Shape::Fixed(fixed.size))
            }
            parsed::Schema::Decimal(DecimalSchema {
                precision,
                scale,
                inner: InnerDecimalSchema::Fixed(FixedSchema { name, size, .. }),
            }) => (
                name,
                // The crate takes it for valid whatever its size.
                if *precision <= most_digits(*size) {
                    Shape::Decimal { scale: *scale, fixed: Some(*size) }
                } else {
                    Shape::Fixed(*size)
                },
            ),
            parsed::Schema::Array(array) => return self.declare(&array.items),
            parsed::Schema::Map(map) => return self.declare(&map.types),
            parsed::Schema::Union(union) => {
                return union.variants().iter().for_each(|branch| self.declare(branch));
            }
            _ => return,
        };
        self.named.insert(name.as_ref(), shape);
    }

    /// The shape of a schema whose named types are declared.
    fn shape(&self, schema: &parsed::Schema) -> Result<Shape, String> {
        if let Some(name) = schema.name() {
            let found = self.named.get(name.as_ref()).or_else(|| self.named.get(name.name()));
            return found.cloned().ok_or_else(|| format!("refers to {name}, which it lacks"));
        }
        Ok(match schema {
            parsed::Schema::Null => Shape::Null,
            parsed::Schema::Boolean => Shape::Boolean,
            parsed::Schema::Int => Shape::Int,
            parsed::Schema::Long => Shape::Long,
            parsed::Schema::Date => Shape::Civil { kind: "date", long: false },
            parsed::Schema::TimeMillis => Shape::Civil { kind: "time-millis", long: false },
            parsed::Schema::TimeMicros => Shape::Civil { kind: "time-micros", long: true },
            parsed::Schema::LocalTimestampMillis => {
                Shape::Civil { kind: "local-timestamp-millis", long: true }
            }
            parsed::Schema::LocalTimestampMicros => {
                Shape::Civil { kind: "local-timestamp-micros", long: true }
            }
            parsed::Schema::LocalTimestampNanos => {
                Shape::Civil { kind: "local-timestamp-nanos", long: true }
            }
            parsed::Schema::TimestampMillis => Shape::Instant { per_milli: 1 },
            parsed::Schema::TimestampMicros => Shape::Instant { per_milli: 1_000 },
            parsed::Schema::TimestampNanos => Shape::Instant { per_milli: 1_000_000 },
            parsed::Schema::Float => Shape::Float,
            parsed::Schema::Double => Shape::Double,
            parsed::Schema::Bytes | parsed::Schema::Uuid(UuidSchema::Bytes) => Shape::Bytes,
            parsed::Schema::BigDecimal => Shape::BigDecimal,
            parsed::Schema::Decimal(decimal) => {
                Shape::Decimal { scale: decimal.scale, fixed: None }
            }
            parsed::Schema::String | parsed::Schema::Uuid(UuidSchema::String) => Shape::String,
            parsed::Schema::Array(array) => Shape::Array(Arc::new(self.shape(&array.items)?)),
            parsed::Schema::Map(map) => Shape::Map(Arc::new(self.shape(&map.types)?)),
            parsed::Schema::Union(union) => {
                let branches = union.variants().iter().map(|branch| self.shape(branch));
                Shape::Union(branches.collect::<Result<_, _>>()?)
            }
            // These have a name.
            parsed::Schema::Record(_)
            | parsed::Schema::Enum(_)
            | parsed::Schema::Fixed(_)
            | parsed::Schema::Duration(_)
            | parsed::Schema::Uuid(UuidSchema::Fixed(_))
            | parsed::Schema::Ref { .. } => return Err("has a type without a name".to_owned()),
        })
    }
}

/// The digits that two's complement of so many bytes holds in any case.
fn most_digits(size: usize) -> usize {
    // log10(2) to more places than any size we could be sent has digits.
    let digits = (size as u128 * 8).saturating_sub(1) * 301_029_995_663_981 / 1_000_000_000_000_000;
    usize::try_from(digits).unwrap_or(usize::MAX)
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
        (Shape::Enum(symbols), Value::String(text)) => {
            symbols.all.iter().position(|symbol| symbol == text).is_some_and(|at| {
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
        // No schema of ours has another kind of default.
        (_, _) => false,
    }
}
