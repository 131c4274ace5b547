//! What of a record's datum is content: everything but the order of its lines.
//!
//! No document of the ERP says in what order it sends lines, and a database without an order of its
//! own may give another one with every query. An event keeps the order in which they came; a
//! comparison must not see it, or every read would be a change.

use std::borrow::Cow;

use crate::{
    config::Feed,
    schema::{
        datum::{Broken, Cursor, put_len, put_long},
        shape::Size,
    },
};

use super::table::{Kind, Layout, Table};

/// Whether two data of a feed's current schema hold the same.
#[must_use]
pub(crate) fn same(feed: Feed, one: &[u8], other: &[u8]) -> bool {
    // The order costs a sort: only what differs is looked at again.
    one == other || content(feed, one) == content(feed, other)
}

/// A datum with the lines of each list in one order, and null lines as none; as it is where it
/// cannot be read.
#[must_use]
pub(crate) fn content(feed: Feed, datum: &[u8]) -> Cow<'_, [u8]> {
    let mut cursor = Cursor::new(datum);
    let mut out = Vec::with_capacity(datum.len());
    match row(&Layout::of(feed).table, &mut cursor, &mut out).and_then(|()| cursor.end()) {
        Ok(()) => Cow::Owned(out),
        Err(_) => Cow::Borrowed(datum),
    }
}

fn row(table: &Table, cursor: &mut Cursor<'_>, out: &mut Vec<u8>) -> Result<(), Broken> {
    for column in &table.columns {
        // Null is the first branch of every nullable field.
        let there = !column.nullable || cursor.count()? == 1;
        if let Kind::Lines(table) = &column.kind {
            let lines = if there { lines(table, cursor)? } else { Vec::new() };
            if !lines.is_empty() {
                put_len(out, lines.len());
            }
            out.extend(lines.into_iter().flatten());
            put_long(out, 0);
            continue;
        }
        put_long(out, i64::from(there));
        if there {
            let from = cursor.rest();
            pass(&column.kind, cursor)?;
            out.extend_from_slice(from.get(..from.len() - cursor.left()).unwrap_or_default());
        }
    }
    Ok(())
}

fn lines(table: &Table, cursor: &mut Cursor<'_>) -> Result<Vec<Vec<u8>>, Broken> {
    let mut lines = Vec::new();
    loop {
        let count = cursor.block(Size::Something)?;
        if count == 0 {
            break;
        }
        for _ in 0..count {
            let mut line = Vec::new();
            row(table, cursor, &mut line)?;
            lines.push(line);
        }
    }
    lines.sort_unstable();
    Ok(lines)
}

/// Passes over one value.
fn pass(kind: &Kind, cursor: &mut Cursor<'_>) -> Result<(), Broken> {
    match kind {
        Kind::Int | Kind::Long | Kind::Instant => cursor.long().map(drop),
        Kind::Boolean => cursor.bool().map(drop),
        Kind::Decimal | Kind::Text => cursor.bytes().map(drop),
        Kind::Lines(table) => lines(table, cursor).map(drop),
        Kind::Extra => loop {
            let count = cursor.block(Size::Something)?;
            if count == 0 {
                return Ok(());
            }
            for _ in 0..2 * count {
                cursor.bytes()?;
            }
        },
    }
}
