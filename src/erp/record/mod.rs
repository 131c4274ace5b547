//! An ERP record as the change pipeline handles it: its head, and its Avro datum.

mod content;
mod table;

use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::{
    clock::Timestamp,
    config::{Edition, Feed},
    schema::datum::{put_bool, put_bytes, put_decimal, put_len, put_long},
};

use super::{
    elements::{Elements, MOST_KEPT},
    repair::Repaired,
    value::{self, Reading, canonical},
};
use table::{Column, Kind, Layout, MOST_UNKNOWN, Row, Table};

pub(crate) use content::{content, same};
pub(super) use table::Outline;

/// Lines of one record at most, those within lines included: an empty one takes three bytes of the
/// answer and ten times that of memory. Documents of people have some hundreds.
pub(super) const MOST_LINES: usize = MOST_KEPT;

/// One record of a feed, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// `return_id` or `stockout_id`, as text.
    pub id: String,
    /// `return_no` or `order_no`.
    pub number: String,
    /// The record's modified time.
    pub modified: Timestamp,
    /// The return behind an outbound order (`src_order_no`); the own number for a purchase return.
    pub return_no: Option<String>,
    pub status: Option<i64>,
    /// Outbound orders: holds our marker.
    pub remark: Option<String>,
    /// Plain Avro datum (no header) of `PurchaseReturn` or `ReturnOutbound`, current schema.
    pub datum: Vec<u8>,
    /// Fields the schema does not know, or knows with another type; for the counters.
    pub drift: Vec<Drift>,
}

/// One deviation of a record from the schema.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Drift {
    /// Path of the field, `detail_list.foo`.
    pub field: String,
    pub kind: DriftKind,
}

/// In what way a field deviates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DriftKind {
    /// Not in the schema: kept in `extra`.
    Unknown,
    /// Another type than documented, or a number that does not fit: null, its text in `extra`.
    Retyped,
    /// Documented for this edition as always sent, and not sent: null. A field that is sent as null
    /// is not missing.
    Missing,
}

/// Why a record cannot be published; it goes raw to the feed's dead letters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {reason}")]
pub struct Misfit {
    /// The id, where at least that could be read.
    pub id: Option<String>,
    /// The field that does not fit.
    pub field: String,
    pub reason: String,
}

/// The name of the field that identifies a feed's records.
#[must_use]
pub fn id_field(feed: Feed) -> &'static str {
    Layout::of(feed).id
}

/// Decodes one record's JSON. Both editions share a schema per feed, and every form of a number, a
/// time or a truth value is read from either, so the edition decides only which absent fields are
/// missing ones.
///
/// # Errors
/// [`Misfit`] when the id, the number, `modified` or the lines do not fit.
pub fn decode(feed: Feed, edition: Edition, json: &[u8]) -> Result<Record, Misfit> {
    let layout = Layout::of(feed);
    let json = std::str::from_utf8(json).map_err(|fault| {
        misfit("record", format!("is not UTF-8 from byte {} on", fault.valid_up_to()))
    })?;
    let row =
        Row::read(&layout.table, json).ok_or_else(|| misfit("record", "is not a JSON object"))?;
    let field = |name: &str| layout.table.position(name).and_then(|at| row.get(at));

    let id = match field(layout.id).map_or(Reading::Null, value::long) {
        Reading::Value(id) => id.to_string(),
        Reading::Null => return Err(misfit(layout.id, "is missing")),
        Reading::Retyped => return Err(misfit(layout.id, "is not an integer")),
    };
    let known = |misfit: Misfit| Misfit { id: Some(id.clone()), ..misfit };
    let text = |name| match field(name).map_or(Reading::Null, value::text) {
        Reading::Value(text) if !text.is_empty() => Some(text.into_owned()),
        Reading::Value(_) | Reading::Null | Reading::Retyped => None,
    };
    let number = text(layout.number)
        .ok_or_else(|| known(misfit(layout.number, "is missing or not a text")))?;
    let modified = match field("modified").map_or(Reading::Null, value::instant) {
        Reading::Value(modified) => modified,
        Reading::Null => return Err(known(misfit("modified", "is missing"))),
        Reading::Retyped => {
            return Err(known(misfit("modified", value::NO_INSTANT)));
        }
    };
    let status = match field("status").map_or(Reading::Null, value::long) {
        Reading::Value(status) => Some(status),
        Reading::Null | Reading::Retyped => None,
    };
    let return_no = text(layout.return_no);
    let remark = layout.remark.and_then(text);

    let mut writing = Writing {
        edition,
        datum: Vec::with_capacity(json.len().min(LIKELY_DATUM)),
        drift: Vec::new(),
        lines: 0,
    };
    writing.row(&layout.table, &row).map_err(known)?;
    Ok(Record {
        id,
        number,
        modified,
        return_no,
        status,
        remark,
        datum: writing.datum,
        drift: writing.drift,
    })
}

/// An instant of a record by the name of its field, whether the record fits or not.
pub(crate) fn instant(json: &[u8], field: &str) -> Option<Timestamp> {
    let read = |json: &[u8]| {
        let fields: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_slice(json).ok()?;
        value::instant(fields.get(field)?).value()
    };
    read(json).or_else(|| read(&Repaired::of(&Bytes::copy_from_slice(json))?.text))
}

fn misfit(field: &str, reason: impl Into<String>) -> Misfit {
    Misfit { id: None, field: field.to_owned(), reason: reason.into() }
}

/// Bytes of datum for which room is made at first: more than ordinary records take, and little for
/// one of megabytes that turns out a misfit.
const LIKELY_DATUM: usize = 4096;

/// More deviations of one record than this are counted no further: they say nothing new.
const MAX_DRIFT: usize = 100;

/// A datum in the making.
struct Writing {
    edition: Edition,
    datum: Vec<u8>,
    drift: Vec<Drift>,
    /// So far.
    lines: usize,
}

/// Whether a column's value has been written.
enum Written {
    Yes,
    /// There is none.
    Null,
    /// It has another type.
    Retyped,
}

impl Writing {
    /// Writes a row's columns in the order of the schema.
    fn row(&mut self, table: &Table, row: &Row<'_>) -> Result<(), Misfit> {
        if row.unknown.len() > MOST_UNKNOWN {
            let field = table.prefix.strip_suffix('.').unwrap_or("record");
            let reason =
                format!("has more than {MOST_UNKNOWN} fields that the schema does not know");
            return Err(misfit(field, reason));
        }
        let mut extra: BTreeMap<&str, &RawValue> = BTreeMap::new();
        for (name, value) in &row.unknown {
            extra.insert(name, value);
            self.note(&table.prefix, name, DriftKind::Unknown);
        }
        for (at, column) in table.columns.iter().enumerate() {
            if let Kind::Extra = column.kind {
                self.extra(&extra);
                continue;
            }
            let value = row.get(at);
            if value.is_none()
                && !column.may_be_absent
                && column.edition.is_none_or(|edition| edition == self.edition)
            {
                self.note(&table.prefix, &column.name, DriftKind::Missing);
            }
            let start = self.datum.len();
            if column.nullable {
                put_long(&mut self.datum, 1);
            }
            let written = value.map_or(Ok(Written::Null), |value| self.column(column, value))?;
            match (&written, value) {
                (Written::Yes, _) => continue,
                (Written::Retyped, Some(value)) if column.nullable => {
                    extra.insert(&column.name, value);
                    self.note(&table.prefix, &column.name, DriftKind::Retyped);
                }
                (Written::Null, _) if column.nullable => {}
                // No lines: a document in editing may have none yet.
                (Written::Null, _) if matches!(column.kind, Kind::Lines(_)) => {
                    put_long(&mut self.datum, 0);
                    continue;
                }
                (Written::Null, _) => return Err(misfit(&column.path, "is missing")),
                (Written::Retyped, _) => return Err(misfit(&column.path, column.kind.complaint())),
            }
            self.datum.truncate(start);
            put_long(&mut self.datum, 0);
        }
        Ok(())
    }

    /// Writes one value; nothing unless it fits.
    fn column(&mut self, column: &Column, value: &RawValue) -> Result<Written, Misfit> {
        Ok(match &column.kind {
            Kind::Int => match value::long(value) {
                // Avro's int has 32 bits.
                Reading::Value(value) => self.put(
                    i32::try_from(value).map_or(Reading::Retyped, Reading::Value),
                    |out, value| {
                        put_long(out, i64::from(value));
                    },
                ),
                Reading::Null => Written::Null,
                Reading::Retyped => Written::Retyped,
            },
            Kind::Long => self.put(value::long(value), put_long),
            Kind::Instant => {
                self.put(value::instant(value), |out, instant| put_long(out, instant.0))
            }
            Kind::Boolean => self.put(value::boolean(value), put_bool),
            Kind::Text => self.put(value::text(value), |out, text| put_bytes(out, text.as_bytes())),
            Kind::Decimal => self.put(value::decimal(value), put_decimal),
            Kind::Lines(_) if value.get() == "null" => Written::Null,
            Kind::Lines(_) if value::is_empty(value) => {
                put_long(&mut self.datum, 0);
                Written::Yes
            }
            Kind::Lines(table) => self.lines(column, table, value)?,
            // Written by `row`, which knows what goes there.
            Kind::Extra => Written::Yes,
        })
    }

    fn lines(
        &mut self,
        column: &Column,
        table: &Table,
        value: &RawValue,
    ) -> Result<Written, Misfit> {
        let Ok(lines) = serde_json::from_str::<Elements<'_>>(value.get()) else {
            return Ok(Written::Retyped);
        };
        self.lines += lines.count;
        if self.lines > MOST_LINES {
            return Err(misfit(&column.path, format!("has more than {MOST_LINES} lines")));
        }
        if lines.count > 0 {
            put_len(&mut self.datum, lines.count);
        }
        for line in lines.first {
            let Some(line) = Row::read(table, line.get()) else { return Ok(Written::Retyped) };
            self.row(table, &line)?;
        }
        put_long(&mut self.datum, 0);
        Ok(Written::Yes)
    }

    fn put<T>(&mut self, reading: Reading<T>, put: impl FnOnce(&mut Vec<u8>, T)) -> Written {
        match reading {
            Reading::Value(value) => {
                put(&mut self.datum, value);
                Written::Yes
            }
            Reading::Null => Written::Null,
            Reading::Retyped => Written::Retyped,
        }
    }

    fn extra(&mut self, extra: &BTreeMap<&str, &RawValue>) {
        if !extra.is_empty() {
            put_len(&mut self.datum, extra.len());
            for (name, value) in extra {
                put_bytes(&mut self.datum, name.as_bytes());
                // The ERP's white space and order of keys are no content.
                put_bytes(&mut self.datum, canonical(value.get()).as_bytes());
            }
        }
        put_long(&mut self.datum, 0);
    }

    /// A deviation counts once per record, in however many lines it stands.
    fn note(&mut self, prefix: &str, name: &str, kind: DriftKind) {
        let known =
            |drift: &Drift| drift.kind == kind && drift.field.strip_prefix(prefix) == Some(name);
        if self.drift.len() < MAX_DRIFT && !self.drift.iter().any(known) {
            self.drift.push(Drift { field: format!("{prefix}{name}"), kind });
        }
    }
}

#[cfg(test)]
mod tests;
