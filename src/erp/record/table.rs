//! Which field of the ERP's JSON goes where in the datum: read from the schema itself, so that the
//! two cannot differ.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use rustc_hash::FxHashMap;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Value, value::RawValue};

use crate::{
    config::{Edition, Feed},
    schema::{Known, catalog, shape},
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
}

/// The fields of a record or a line, in schema order.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) columns: Vec<Column>,
    /// Positions by name and by alias.
    positions: FxHashMap<String, usize>,
    /// By position plus one, which field came behind it last time (the first stands for the
    /// beginning): the ERP keeps to an order of its own, so that hardly any name has to be looked
    /// up.
    followers: Vec<AtomicUsize>,
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
        let mut table = Self {
            columns: Vec::new(),
            positions: FxHashMap::default(),
            followers: Vec::new(),
            prefix,
        };
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
            let edition = edition(written["doc"].as_str().unwrap_or_default());
            table.columns.push(Column { name: field.name.clone(), path, kind, nullable, edition });
        }
        table.followers.resize_with(table.columns.len() + 1, AtomicUsize::default);
        table
    }

    /// The position of the field `name`, which came behind the one at `before`.
    fn position_after(&self, before: Option<usize>, name: &str) -> Option<usize> {
        let follower = self.followers.get(before.map_or(0, |before| before + 1))?;
        let guess = follower.load(Ordering::Relaxed);
        if self
            .columns
            .get(guess)
            .is_some_and(|column| column.name == name && !matches!(column.kind, Kind::Extra))
        {
            return Some(guess);
        }
        let found = self.position(name)?;
        follower.store(found, Ordering::Relaxed);
        Some(found)
    }

    /// The position of a field the connector itself reads.
    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.positions.get(name).copied()
    }
}

impl Kind {
    /// What is wrong with a value of another type where one must be.
    pub(super) fn complaint(&self) -> &'static str {
        match self {
            Self::Int | Self::Long => "is not an integer",
            Self::Instant => "is neither epoch milliseconds nor yyyy-MM-dd HH:mm:ss",
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

/// A column's value.
#[derive(Debug)]
pub(super) enum Slot<'a> {
    /// As it stands in the JSON.
    Raw(&'a RawValue),
    /// An array of objects, read in passing.
    Rows(Vec<Row<'a>>),
}

/// One JSON object sorted into a table's columns; of repeated keys the last one counts.
#[derive(Debug)]
pub(super) struct Row<'a> {
    slots: Vec<Option<Slot<'a>>>,
    /// What the schema does not know, in the order of the names: the datum must not depend on the
    /// ERP's order.
    pub(super) unknown: BTreeMap<Cow<'a, str>, &'a RawValue>,
}

/// Sorts an object into the columns of a table.
#[derive(Clone, Copy)]
struct Sort<'t> {
    table: &'t Table,
    /// Takes arrays of objects apart where they stand, and fails where one is something else.
    nested: bool,
}

impl<'de> DeserializeSeed<'de> for Sort<'_> {
    type Value = Row<'de>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Row<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Sort<'_> {
    type Value = Row<'de>;
    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object")
    }
    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Row<'de>, M::Error> {
        let columns = &self.table.columns;
        let mut row = Row { slots: Vec::with_capacity(columns.len()), unknown: BTreeMap::new() };
        row.slots.resize_with(columns.len(), || None);
        let mut before = None;
        while let Some(Key(key)) = map.next_key()? {
            let at = self.table.position_after(before, &key);
            let column = at.and_then(|at| Some((columns.get(at)?, row.slots.get_mut(at)?)));
            match column {
                Some((Column { kind: Kind::Lines(table), .. }, slot)) if self.nested => {
                    *slot = Some(map.next_value_seed(Items(Sort { table, ..self }))?);
                }
                Some((_, slot)) => *slot = Some(Slot::Raw(map.next_value()?)),
                None => {
                    row.unknown.insert(key, map.next_value()?);
                }
            }
            before = at;
        }
        Ok(row)
    }
}

impl<'a> Row<'a> {
    /// Sorts an object; `None` for anything else.
    pub(super) fn read(table: &Table, json: &'a str) -> Option<Self> {
        sorted(table, json, |sort, deserializer| sort.deserialize(deserializer))
    }

    /// What stands in a column; `None` when it is missing.
    pub(super) fn slot(&self, position: usize) -> Option<&Slot<'a>> {
        self.slots.get(position)?.as_ref()
    }

    /// The value of a column that holds no rows; `None` when it is missing.
    pub(super) fn get(&self, position: usize) -> Option<&'a RawValue> {
        match self.slot(position)? {
            Slot::Raw(value) => Some(value),
            Slot::Rows(_) => None,
        }
    }
}

/// Every element of a JSON array as an object of `table`; `None` for anything else.
pub(super) fn rows<'a>(table: &Table, json: &'a RawValue) -> Option<Vec<Row<'a>>> {
    match sorted(table, json.get(), |sort, deserializer| Items(sort).deserialize(deserializer))? {
        Slot::Rows(rows) => Some(rows),
        Slot::Raw(_) => None,
    }
}

type Text<'a> = serde_json::Deserializer<serde_json::de::StrRead<'a>>;

/// Reads all of a text. Where something in it is no array of objects and should be, the arrays are
/// left as they stand, to be read one by one.
fn sorted<'a, T>(
    table: &Table,
    json: &'a str,
    read: impl Fn(Sort<'_>, &mut Text<'a>) -> serde_json::Result<T>,
) -> Option<T> {
    [true, false].into_iter().find_map(|nested| {
        let mut deserializer = serde_json::Deserializer::from_str(json);
        let read = read(Sort { table, nested }, &mut deserializer).ok()?;
        deserializer.end().is_ok().then_some(read)
    })
}

/// The elements of an array as objects of a table; `null` is kept as it stands.
struct Items<'t>(Sort<'t>);

impl<'de> DeserializeSeed<'de> for Items<'_> {
    type Value = Slot<'de>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Slot<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = Slot<'de>;
    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an array of objects")
    }
    fn visit_unit<E>(self) -> Result<Slot<'de>, E> {
        Ok(Slot::Raw(RawValue::NULL))
    }
    fn visit_seq<S: SeqAccess<'de>>(self, mut items: S) -> Result<Slot<'de>, S::Error> {
        let mut rows = Vec::new();
        while let Some(row) = items.next_element_seed(self.0)? {
            rows.push(row);
        }
        Ok(Slot::Rows(rows))
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
                Kind::Int | Kind::Long | Kind::Instant | Kind::Decimal | Kind::Boolean => {}
            }
        }
        assert!(matches!(table.columns.last().unwrap().kind, Kind::Extra));
    }

    #[test]
    fn the_schemas_say_which_edition_sends_a_field() {
        let table = &Layout::of(Feed::ReturnOutbounds).table;
        let edition = |name: &str| table.columns[table.position(name).unwrap()].edition;
        assert_eq!(edition("order_no"), None);
        assert_eq!(edition("seq_no"), Some(Edition::Flagship));
        assert_eq!(edition("order_type"), Some(Edition::Enterprise));
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
