//! Which field of the ERP's JSON goes where in the datum: read from the schema itself, so that the
//! two cannot differ.

use std::{borrow::Cow, collections::BTreeMap, fmt, sync::LazyLock};

use rustc_hash::FxHashMap;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Value, value::RawValue};

use crate::{
    config::{Edition, Feed},
    schema::{Known, catalog, shape},
};

use super::super::{
    elements::Elements,
    value::{self, Reading},
};

/// The field for what the schema does not know.
const EXTRA: &str = "extra";

/// What a column holds.
#[derive(Debug)]
pub(super) enum Kind {
    Int,
    Long,
    Instant,
    Decimal,
    Boolean,
    Text,
    /// Records of their own.
    Lines(Table),
    /// What no other column takes.
    Extra,
}

/// One field of the schema.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) name: String,
    /// With the names of the lists it stands in: `detail_list.num`.
    pub(super) path: String,
    pub(super) kind: Kind,
    pub(super) nullable: bool,
    /// The only edition that sends it; `None` when both do.
    pub(super) edition: Option<Edition>,
    /// Documented as not sent in some states of a document: its absence is no drift.
    pub(super) may_be_absent: bool,
}

/// The fields of a record or a line, in schema order.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) columns: Vec<Column>,
    /// Positions by name and by alias.
    positions: FxHashMap<String, usize>,
    /// Empty, or the list the records stand in and a point.
    pub(super) prefix: String,
}

/// A feed's record: its table, and which of its fields the connector itself reads.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) table: Table,
    pub(super) id: &'static str,
    pub(super) number: &'static str,
    /// The purchase return's number.
    pub(super) return_no: &'static str,
    /// Where a marker may stand.
    pub(super) remark: Option<&'static str>,
}

impl Layout {
    /// The layout of a feed's records.
    pub(super) fn of(feed: Feed) -> &'static Self {
        static PURCHASE_RETURN: LazyLock<Layout> = LazyLock::new(|| Layout {
            table: Table::of(&catalog().purchase_return),
            id: "return_id",
            number: "return_no",
            return_no: "return_no",
            remark: None,
        });
        static RETURN_OUTBOUND: LazyLock<Layout> = LazyLock::new(|| Layout {
            table: Table::of(&catalog().return_outbound),
            id: "stockout_id",
            number: "order_no",
            return_no: "src_order_no",
            remark: Some("remark"),
        });
        match feed {
            Feed::PurchaseReturns => &PURCHASE_RETURN,
            Feed::ReturnOutbounds => &RETURN_OUTBOUND,
        }
    }
}

impl Table {
    fn of(known: &Known) -> Self {
        // The same text the shape was read from, so it is JSON.
        let text = serde_json::from_str(known.text).unwrap_or_default();
        Self::new(known.schema.root(), &text, String::new())
    }

    /// `text` is the record's own schema: its words say which edition sends a field.
    fn new(node: shape::Node<'_>, text: &Value, prefix: String) -> Self {
        let mut table = Self { columns: Vec::new(), positions: FxHashMap::default(), prefix };
        let shape::Shape::Record(id) = node.shape else { return table };
        for field in &node.record(*id).fields {
            let (nullable, inner) = match &field.shape {
                shape::Shape::Union(branches) => {
                    (true, branches.iter().find(|branch| **branch != shape::Shape::Null))
                }
                plain => (false, Some(plain)),
            };
            let path = format!("{}{}", table.prefix, field.name);
            // Every column must be there, or the datum is short of a field; the test below knows
            // every kind of our schemas.
            let written = text["fields"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|written| written["name"] == field.name.as_str());
            let written = written.unwrap_or(&Value::Null);
            let kind = inner.map_or(Kind::Text, |inner| {
                Kind::of(&field.name, node.at(inner), items(&written["type"]), &path)
            });
            if !matches!(kind, Kind::Extra) {
                for name in field.aliases.iter().chain([&field.name]) {
                    table.positions.insert(name.clone(), table.columns.len());
                }
            }
            let doc = written["doc"].as_str().unwrap_or_default();
            table.columns.push(Column {
                name: field.name.clone(),
                path,
                kind,
                nullable,
                edition: edition(doc),
                may_be_absent: doc.contains(MAY_BE_ABSENT),
            });
        }
        table
    }

    /// The position of a field; `None` for one that the schema does not know.
    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.positions.get(name).copied()
    }
}

impl Kind {
    /// What is wrong with a value of another type where one must be.
    pub(super) fn complaint(&self) -> &'static str {
        match self {
            Self::Int | Self::Long => "is not an integer",
            Self::Instant => value::NO_INSTANT,
            Self::Decimal => "is not a decimal number",
            Self::Boolean => "is not a truth value",
            Self::Text => "is not a text",
            Self::Lines(_) => "is not an array of objects",
            Self::Extra => "is not a map",
        }
    }

    fn of(name: &str, node: shape::Node<'_>, text: &Value, path: &str) -> Self {
        use shape::Shape;
        match node.shape {
            Shape::Int => Self::Int,
            Shape::Long => Self::Long,
            Shape::Instant { .. } => Self::Instant,
            Shape::Decimal { .. } => Self::Decimal,
            Shape::Boolean => Self::Boolean,
            Shape::Array(items) => {
                Self::Lines(Table::new(node.at(items), text, format!("{path}.")))
            }
            Shape::Map(_) if name == EXTRA => Self::Extra,
            Shape::String
            | Shape::Map(_)
            | Shape::Null
            | Shape::Civil { .. }
            | Shape::BigDecimal
            | Shape::Float
            | Shape::Double
            | Shape::Bytes
            | Shape::Fixed(_)
            | Shape::Enum { .. }
            | Shape::Union(_)
            | Shape::Record(_) => Self::Text,
        }
    }
}

/// The schema of an array's items; null for any other type.
fn items(kind: &Value) -> &Value {
    let branches = kind.as_array().map_or(std::slice::from_ref(kind), Vec::as_slice);
    branches.iter().find_map(|branch| branch.get("items")).unwrap_or(&Value::Null)
}

/// Words of a field's documentation in the schema.
const MAY_BE_ABSENT: &str = "May be absent.";

/// Who sends a field, by the last words of its documentation in the schema.
fn edition(doc: &str) -> Option<Edition> {
    if doc.ends_with("Flagship only.") {
        Some(Edition::Flagship)
    } else if doc.ends_with("Enterprise only.") {
        Some(Edition::Enterprise)
    } else {
        None
    }
}

/// Fields of one object that the schema does not know, at most: each costs many times the bytes of
/// a short one, and the ERP documents some sixty in all.
pub(super) const MOST_UNKNOWN: usize = 1000;

/// One JSON object sorted into a table's columns; of repeated keys the last one counts.
#[derive(Debug)]
pub(super) struct Row<'a> {
    values: Vec<Option<&'a RawValue>>,
    /// What the schema does not know, in the order of the names: the datum must not depend on the
    /// ERP's order. One more than [`MOST_UNKNOWN`] stands for any number.
    pub(super) unknown: BTreeMap<Cow<'a, str>, &'a RawValue>,
}

impl<'a> Row<'a> {
    /// Sorts an object; `None` for anything else.
    pub(super) fn read(table: &Table, json: &'a str) -> Option<Self> {
        whole(json.as_bytes(), Sort(table))
    }

    /// The value of a column; `None` when it is missing.
    pub(super) fn get(&self, position: usize) -> Option<&'a RawValue> {
        self.values.get(position).copied().flatten()
    }
}

/// All of a text as one JSON object.
fn whole<'a, V: Visitor<'a>>(json: &'a [u8], visitor: V) -> Option<V::Value> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let value = deserializer.deserialize_map(visitor).ok()?;
    deserializer.end().is_ok().then_some(value)
}

struct Sort<'t>(&'t Table);

impl<'de> Visitor<'de> for Sort<'_> {
    type Value = Row<'de>;
    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object")
    }
    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Row<'de>, M::Error> {
        let mut row = Row { values: vec![None; self.0.columns.len()], unknown: BTreeMap::new() };
        while let Some((Key(key), value)) = map.next_entry()? {
            match self.0.position(&key).and_then(|at| row.values.get_mut(at)) {
                Some(column) => *column = Some(value),
                None if row.unknown.len() > MOST_UNKNOWN => {}
                None => {
                    row.unknown.insert(key, value);
                }
            }
        }
        Ok(row)
    }
}

/// What is seen of a record without decoding it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Outline {
    /// By the decoder's rule.
    pub(in super::super) id: Option<i64>,
    pub(in super::super) lines: usize,
}

impl Outline {
    /// `None` when the record is no JSON object.
    pub(in super::super) fn of(feed: Feed, json: &[u8]) -> Option<Self> {
        whole(json, Look(Layout::of(feed)))
    }
}

struct Look<'l>(&'l Layout);

impl<'de> Visitor<'de> for Look<'_> {
    type Value = Outline;
    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object")
    }
    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Outline, M::Error> {
        let table = &self.0.table;
        let mut outline = Outline::default();
        while let Some(Key(key)) = map.next_key()? {
            match table.position(&key).and_then(|at| table.columns.get(at)) {
                Some(column) if column.name == self.0.id => {
                    outline.id = match value::long(map.next_value()?) {
                        Reading::Value(id) => Some(id),
                        Reading::Null | Reading::Retyped => None,
                    };
                }
                Some(Column { kind: Kind::Lines(_), .. }) => {
                    let lines: &RawValue = map.next_value()?;
                    outline.lines =
                        serde_json::from_str(lines.get()).map_or(0, |Elements { count, .. }| count);
                }
                Some(_) | None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(outline)
    }
}

/// A key, borrowed where it has no escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Key<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(table: &Table, node: shape::Node<'_>) {
        let shape::Shape::Record(id) = node.shape else { panic!("a record") };
        let record = node.record(*id);
        assert_eq!(table.columns.len(), record.fields.len());
        for (at, (column, field)) in table.columns.iter().zip(&record.fields).enumerate() {
            let inner = match &field.shape {
                shape::Shape::Union(branches) => {
                    assert_eq!(branches.len(), 2, "{}", column.path);
                    assert_eq!(
                        branches[0],
                        shape::Shape::Null,
                        "{}: null is the first branch",
                        column.path
                    );
                    &branches[1]
                }
                plain => plain,
            };
            match &column.kind {
                Kind::Lines(lines) => {
                    let shape::Shape::Array(items) = inner else {
                        panic!("{} is no array", column.path)
                    };
                    check(lines, node.at(items));
                }
                Kind::Extra => assert_eq!(
                    at + 1,
                    record.fields.len(),
                    "what is retyped is known only after every other field"
                ),
                Kind::Text => assert_eq!(
                    *inner,
                    shape::Shape::String,
                    "{}: a kind of field the decoder does not know",
                    column.path
                ),
                // A decimal that does not fit withholds nothing: its record comes without it.
                Kind::Decimal => assert!(column.nullable, "{}", column.path),
                Kind::Int | Kind::Long | Kind::Instant | Kind::Boolean => {}
            }
        }
        assert!(matches!(table.columns.last().unwrap().kind, Kind::Extra));
    }

    #[test]
    fn the_schemas_say_who_sends_a_field_and_when_none_does() {
        let table = &Layout::of(Feed::ReturnOutbounds).table;
        let edition = |name: &str| table.columns[table.position(name).unwrap()].edition;
        assert_eq!(edition("order_no"), None);
        assert_eq!(edition("seq_no"), Some(Edition::Flagship));
        assert_eq!(edition("order_type"), Some(Edition::Enterprise));
        let may_be_absent: Vec<&str> = Feed::ALL
            .into_iter()
            .flat_map(|feed| &Layout::of(feed).table.columns)
            .filter(|column| column.may_be_absent)
            .map(|column| column.name.as_str())
            .collect();
        assert_eq!(may_be_absent, ["consign_time"]);
        let Kind::Lines(lines) = &table.columns[table.position("details_list").unwrap()].kind
        else {
            panic!("lines")
        };
        assert_eq!(
            lines.columns[lines.position("defect").unwrap()].edition,
            Some(Edition::Flagship)
        );
    }

    #[test]
    fn the_tables_cover_the_schemas() {
        check(&Layout::of(Feed::PurchaseReturns).table, catalog().purchase_return.schema.root());
        check(&Layout::of(Feed::ReturnOutbounds).table, catalog().return_outbound.schema.root());
        for feed in Feed::ALL {
            let layout = Layout::of(feed);
            for name in [layout.id, layout.number, "modified", "status", layout.return_no]
                .into_iter()
                .chain(layout.remark)
            {
                assert!(layout.table.position(name).is_some(), "{name}");
            }
            assert!(layout.table.position("detail_list").is_some());
            assert_eq!(layout.table.position("detail_list"), layout.table.position("details_list"));
            assert_eq!(
                layout.table.position(EXTRA),
                None,
                "a field of that name from the ERP is one it does not know"
            );
        }
    }
}
