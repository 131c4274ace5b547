//! From a writer's schema to the reader's, field by field and by name, without a tree of values in
//! between.
//!
//! `apache-avro`'s own resolution fails on small `bytes` decimals (0.22), so this is ours; it
//! follows the Avro specification's rules for resolution, except that record names need not agree
//! and that a decimal of another scale is converted where that is exact.

use crate::decimal::Decimal;

use super::{
    datum::{Broken, Cursor, put_bool, put_bytes, put_decimal, put_len, put_long},
    shape::{Record, Shape},
};

/// Rewrites the datum at the cursor, written as `writer`, as `reader` wants it.
///
/// # Errors
/// [`Broken`] when the bytes are not `writer`'s or what they say has no place in `reader`.
pub(crate) fn translate(
    writer: &Shape,
    reader: &Shape,
    cursor: &mut Cursor<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Broken> {
    if let Shape::Union(branches) = writer {
        return translate(branch(branches, cursor)?, reader, cursor, out);
    }
    match (writer, reader) {
        (_, Shape::Union(branches)) => {
            let fitting = branches
                .iter()
                .position(|branch| same_kind(writer, branch))
                .or_else(|| branches.iter().position(|branch| promotes(writer, branch)));
            let Some((at, branch)) =
                fitting.and_then(|at| branches.get(at).map(|branch| (at, branch)))
            else {
                return Err(misplaced(writer, reader));
            };
            put_len(out, at);
            translate(writer, branch, cursor, out)
        }
        (Shape::Array(items), Shape::Array(wanted)) => {
            blocks(cursor, out, |cursor, out| translate(items, wanted, cursor, out))
        }
        (Shape::Map(values), Shape::Map(wanted)) => blocks(cursor, out, |cursor, out| {
            put_bytes(out, cursor.str()?.as_bytes());
            translate(values, wanted, cursor, out)
        }),
        (Shape::Record(writer), Shape::Record(reader)) => record(writer, reader, cursor, out),
        (_, _) => leaf(writer, reader, cursor, out),
    }
}

/// Rewrites what contains nothing.
fn leaf(
    writer: &Shape,
    reader: &Shape,
    cursor: &mut Cursor<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Broken> {
    match (writer, reader) {
        (Shape::Null, Shape::Null) => {}
        (Shape::Boolean, Shape::Boolean) => put_bool(out, cursor.bool()?),
        (Shape::Int, Shape::Int | Shape::Long | Shape::Instant { .. }) => {
            put_long(out, i64::from(cursor.int()?))
        }
        (Shape::Long, Shape::Long | Shape::Instant { .. })
        | (Shape::Instant { .. }, Shape::Long) => put_long(out, cursor.long()?),
        // Every instant of ours is in milliseconds.
        (Shape::Instant { per_milli }, Shape::Instant { .. }) => {
            put_long(out, cursor.long()?.div_euclid(*per_milli))
        }
        (Shape::Bytes | Shape::String, Shape::Bytes) => put_bytes(out, cursor.bytes()?),
        (Shape::Bytes | Shape::String, Shape::String) => put_bytes(out, cursor.str()?.as_bytes()),
        (Shape::Fixed(size), Shape::Bytes) => put_bytes(out, cursor.take(*size)?),
        (Shape::Decimal { scale, fixed }, Shape::Decimal { .. }) => {
            put_decimal(out, decimal(*scale, *fixed, cursor)?)
        }
        (Shape::BigDecimal, Shape::Decimal { .. }) => put_decimal(out, big_decimal(cursor)?),
        (Shape::Enum { symbols, .. }, Shape::Enum { symbols: known, default }) => {
            put_symbol(symbol(symbols, cursor)?, known, default.as_deref(), out)?;
        }
        (Shape::String, Shape::Enum { symbols, .. }) => {
            put_symbol(cursor.str()?, symbols, None, out)?
        }
        (_, _) => return Err(misplaced(writer, reader)),
    }
    Ok(())
}

/// Writes the position of a symbol, or of the enum's default for one it does not know.
fn put_symbol(
    symbol: &str,
    known: &[String],
    default: Option<&str>,
    out: &mut Vec<u8>,
) -> Result<(), Broken> {
    let position = |wanted: &str| known.iter().position(|other| other == wanted);
    let at = position(symbol).or_else(|| default.and_then(position));
    put_len(
        out,
        at.ok_or_else(|| Broken::new(format!("holds a symbol other than {}", known.join(", "))))?,
    );
    Ok(())
}

fn misplaced(writer: &Shape, reader: &Shape) -> Broken {
    // What Avro ignores as an invalid logical type is bytes too. The specification lets a reader
    // take them for its own decimal; a quantity is not guessed.
    let decimal = |shape: &Shape| matches!(shape, Shape::Decimal { .. });
    let wants_decimal = match reader {
        Shape::Union(branches) => branches.iter().any(decimal),
        other => decimal(other),
    };
    if *writer == Shape::Bytes && wants_decimal {
        return Broken::new(
            "is written as bytes without a valid logicalType decimal, so its scale is not known; declare precision and scale in the writer's schema",
        );
    }
    let wanted = match reader {
        Shape::Union(branches) => branches.iter().map(Shape::kind).collect::<Vec<_>>().join(" or "),
        other => other.kind().to_owned(),
    };
    Broken::new(format!("is written as {}, but {wanted} is wanted", writer.kind()))
}

/// Whether both have the same Avro type, whatever is inside.
fn same_kind(writer: &Shape, reader: &Shape) -> bool {
    writer.kind() == reader.kind()
}

/// Whether [`translate`] can turn one leaf into the other.
fn promotes(writer: &Shape, reader: &Shape) -> bool {
    match writer {
        Shape::Int | Shape::Long | Shape::Instant { .. } => {
            matches!(reader, Shape::Long | Shape::Instant { .. })
        }
        Shape::Bytes => matches!(reader, Shape::String),
        Shape::BigDecimal => matches!(reader, Shape::Decimal { .. }),
        Shape::String => matches!(reader, Shape::Bytes | Shape::Enum { .. }),
        Shape::Fixed(_) => matches!(reader, Shape::Bytes),
        Shape::Null
        | Shape::Boolean
        | Shape::Float
        | Shape::Double
        | Shape::Civil { .. }
        | Shape::Decimal { .. }
        | Shape::Enum { .. }
        | Shape::Array(_)
        | Shape::Map(_)
        | Shape::Union(_)
        | Shape::Record(_) => false,
    }
}

/// Copies an array or a map item by item, as one block.
fn blocks<'a>(
    cursor: &mut Cursor<'a>,
    out: &mut Vec<u8>,
    mut item: impl FnMut(&mut Cursor<'a>, &mut Vec<u8>) -> Result<(), Broken>,
) -> Result<(), Broken> {
    let mut copied = Vec::new();
    let mut items = 0_usize;
    loop {
        let count = cursor.block()?;
        if count == 0 {
            break;
        }
        for _ in 0..count {
            item(cursor, &mut copied)?;
        }
        items += count;
    }
    if items > 0 {
        put_len(out, items);
        out.extend_from_slice(&copied);
    }
    put_long(out, 0);
    Ok(())
}

fn record(
    writer: &Record,
    reader: &Record,
    cursor: &mut Cursor<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Broken> {
    let mut spans = Vec::with_capacity(writer.fields.len());
    for field in &writer.fields {
        let start = *cursor;
        skip(&field.shape, cursor).map_err(|broken| within(&field.name, &broken))?;
        let len = start.left() - cursor.left();
        spans.push((field, Cursor::new(start.rest().get(..len).unwrap_or_default())));
    }
    for wanted in &reader.fields {
        let by_name = spans.iter().find(|(field, _)| field.name == wanted.name);
        let found = by_name
            .or_else(|| spans.iter().find(|(field, _)| wanted.aliases.contains(&field.name)));
        match (found, &wanted.default) {
            (Some((field, span)), _) => {
                translate(&field.shape, &wanted.shape, &mut { *span }, out)
                    .map_err(|broken| within(&field.name, &broken))?;
            }
            (None, Some(default)) => out.extend_from_slice(default),
            (None, None) => {
                return Err(within(
                    &wanted.name,
                    &Broken::new("is missing in the writer's schema and has no default"),
                ));
            }
        }
    }
    Ok(())
}

/// Names the field something is wrong in.
pub(super) fn within(field: &str, broken: &Broken) -> Broken {
    Broken::new(format!("field {field}: {broken}"))
}

/// Goes past one value.
///
/// # Errors
/// [`Broken`] when the bytes are not the shape's.
pub(crate) fn skip(shape: &Shape, cursor: &mut Cursor<'_>) -> Result<(), Broken> {
    match shape {
        Shape::Null => Ok(()),
        Shape::Boolean => cursor.bool().map(drop),
        Shape::Int => cursor.int().map(drop),
        Shape::Long | Shape::Instant { .. } | Shape::Civil { long: true, .. } => {
            cursor.long().map(drop)
        }
        Shape::Civil { long: false, .. } => cursor.int().map(drop),
        Shape::Float => cursor.take(4).map(drop),
        Shape::Double => cursor.take(8).map(drop),
        Shape::Bytes | Shape::BigDecimal | Shape::Decimal { fixed: None, .. } => {
            cursor.bytes().map(drop)
        }
        Shape::String => cursor.str().map(drop),
        Shape::Fixed(size) | Shape::Decimal { fixed: Some(size), .. } => {
            cursor.take(*size).map(drop)
        }
        Shape::Enum { symbols, .. } => symbol(symbols, cursor).map(drop),
        Shape::Array(items) => each(cursor, |cursor| skip(items, cursor)),
        Shape::Map(values) => each(cursor, |cursor| {
            cursor.str()?;
            skip(values, cursor)
        }),
        Shape::Union(branches) => skip(branch(branches, cursor)?, cursor),
        Shape::Record(record) => {
            record.fields.iter().try_for_each(|field| skip(&field.shape, cursor))
        }
    }
}

/// Visits every item of an array or a map.
pub(super) fn each<'a>(
    cursor: &mut Cursor<'a>,
    mut item: impl FnMut(&mut Cursor<'a>) -> Result<(), Broken>,
) -> Result<(), Broken> {
    loop {
        let count = cursor.block()?;
        if count == 0 {
            return Ok(());
        }
        for _ in 0..count {
            item(cursor)?;
        }
    }
}

pub(super) fn branch<'s>(
    branches: &'s [Shape],
    cursor: &mut Cursor<'_>,
) -> Result<&'s Shape, Broken> {
    let at = cursor.count()?;
    branches
        .get(at)
        .ok_or_else(|| Broken::new(format!("holds branch {at} of a union of {}", branches.len())))
}

pub(super) fn symbol<'s>(
    symbols: &'s [String],
    cursor: &mut Cursor<'_>,
) -> Result<&'s String, Broken> {
    let at = cursor.count()?;
    symbols
        .get(at)
        .ok_or_else(|| Broken::new(format!("holds symbol {at} of an enum of {}", symbols.len())))
}

/// Reads a decimal of any scale; only one that is exactly a `decimal(19,4)` is let through.
pub(super) fn decimal(
    scale: usize,
    fixed: Option<usize>,
    cursor: &mut Cursor<'_>,
) -> Result<Decimal, Broken> {
    let bytes = match fixed {
        Some(size) => cursor.take(size)?,
        None => cursor.bytes()?,
    };
    if scale == 4 {
        return Decimal::from_avro(bytes)
            .map_err(|fault| Broken::new(format!("holds a decimal that {fault}")));
    }
    let unscaled =
        unscaled(bytes).ok_or_else(|| Broken::new("holds a decimal of more than 38 digits"))?;
    Decimal::parse(&format!("{unscaled}e-{scale}"))
        .map_err(|fault| Broken::new(format!("holds a decimal that {fault}")))
}

/// Reads a `big-decimal`: bytes that hold the unscaled value as bytes and the scale as an int
/// (Avro 1.12 specification, *Decimal*).
pub(super) fn big_decimal(cursor: &mut Cursor<'_>) -> Result<Decimal, Broken> {
    let mut inner = Cursor::new(cursor.bytes()?);
    let unscaled = unscaled(inner.bytes()?)
        .ok_or_else(|| Broken::new("holds a decimal of more than 38 digits"))?;
    let scale = inner.int()?;
    inner.end()?;
    Decimal::parse(&format!("{unscaled}e{}", -i64::from(scale)))
        .map_err(|fault| Broken::new(format!("holds a decimal that {fault}")))
}

/// Two's complement, big endian, of at most 16 bytes.
fn unscaled(bytes: &[u8]) -> Option<i128> {
    let first = bytes.first()?;
    let mut wide = [if first & 0x80 == 0 { 0_u8 } else { 0xff }; 16];
    let start = wide.len().checked_sub(bytes.len())?;
    wide.get_mut(start..)?.copy_from_slice(bytes);
    Some(i128::from_be_bytes(wide))
}
