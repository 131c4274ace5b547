//! From a writer's schema to the reader's, field by field and by name, without a tree of values in
//! between.
//!
//! `apache-avro`'s own resolution fails on small `bytes` decimals (0.22), so this is ours; it
//! follows the Avro specification's rules for resolution, except that record names need not agree
//! and that a decimal of another scale is converted where that is exact.

use crate::decimal::Decimal;

use super::{
    datum::{Broken, Cursor, MAX_BYTES, put_bool, put_bytes, put_decimal, put_len, put_long},
    shape::{Node, Record, Shape, Size},
};

/// Rewrites the datum at the cursor, written as `writer`, as `reader` wants it.
///
/// Goes as deep as `reader`, which is one of ours and contains no type in itself.
///
/// # Errors
/// [`Broken`] when the bytes are not `writer`'s or what they say has no place in `reader`.
pub(crate) fn translate(
    writer: Node<'_>,
    reader: Node<'_>,
    cursor: &mut Cursor<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Broken> {
    if let Shape::Union(branches) = writer.shape {
        return translate(writer.at(branch(branches, cursor)?), reader, cursor, out);
    }
    match (writer.shape, reader.shape) {
        (shape, Shape::Union(branches)) => {
            let fitting = branches
                .iter()
                .position(|branch| same_kind(shape, branch))
                .or_else(|| branches.iter().position(|branch| promotes(shape, branch)));
            let Some((at, branch)) =
                fitting.and_then(|at| branches.get(at).map(|branch| (at, branch)))
            else {
                return Err(misplaced(shape, reader.shape));
            };
            put_len(out, at);
            translate(writer, reader.at(branch), cursor, out)
        }
        (Shape::Array(items), Shape::Array(wanted)) => {
            let (items, wanted) = (writer.at(items), reader.at(wanted));
            blocks(cursor, items.size(), out, |cursor, out| translate(items, wanted, cursor, out))
        }
        (Shape::Map(values), Shape::Map(wanted)) => {
            let (values, wanted) = (writer.at(values), reader.at(wanted));
            blocks(cursor, Size::Something, out, |cursor, out| {
                put_bytes(out, cursor.str()?.as_bytes());
                translate(values, wanted, cursor, out)
            })
        }
        (Shape::Record(written), Shape::Record(wanted)) => {
            let (written, wanted) = (writer.record(*written), reader.record(*wanted));
            record((writer, written), (reader, wanted), cursor, out)
        }
        (shape, wanted) => leaf(shape, wanted, cursor, out),
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
        (Shape::Enum(symbols), Shape::Enum(known)) => {
            put_symbol(symbol(&symbols.all, cursor)?, &known.all, known.default.as_deref(), out)?;
        }
        (Shape::String, Shape::Enum(symbols)) => {
            put_symbol(cursor.str()?, &symbols.all, None, out)?
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
    // What Avro ignores as an invalid logical type is bytes or fixed too. The specification lets a reader
    // take them for its own decimal; a quantity is not guessed.
    let decimal = |shape: &Shape| matches!(shape, Shape::Decimal { .. });
    let wants_decimal = match reader {
        Shape::Union(branches) => branches.iter().any(decimal),
        other => decimal(other),
    };
    if matches!(writer, Shape::Bytes | Shape::Fixed(_)) && wants_decimal {
        return Broken::new(format!(
            "is written as {} without a valid logicalType decimal, so its scale is not known; declare precision and scale in the writer's schema",
            writer.kind()
        ));
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
        Shape::String => matches!(reader, Shape::Bytes | Shape::Enum(_)),
        Shape::Fixed(_) => matches!(reader, Shape::Bytes),
        Shape::Null
        | Shape::Boolean
        | Shape::Float
        | Shape::Double
        | Shape::Civil { .. }
        | Shape::Decimal { .. }
        | Shape::Enum(_)
        | Shape::Array(_)
        | Shape::Map(_)
        | Shape::Union(_)
        | Shape::Record(_) => false,
    }
}

/// Copies an array or a map item by item, as one block.
fn blocks<'a>(
    cursor: &mut Cursor<'a>,
    each: Size,
    out: &mut Vec<u8>,
    mut item: impl FnMut(&mut Cursor<'a>, &mut Vec<u8>) -> Result<(), Broken>,
) -> Result<(), Broken> {
    let mut copied = Vec::new();
    let mut items = 0_usize;
    loop {
        let count = cursor.block(each)?;
        if count == 0 {
            break;
        }
        for _ in 0..count {
            item(cursor, &mut copied)?;
            // Of what takes no bytes there may be any number, and each may become a few defaults.
            if copied.len() > MAX_BYTES {
                return Err(Broken::new(format!("is larger than {MAX_BYTES} bytes when read")));
            }
        }
        items = items.saturating_add(count);
    }
    if items > 0 {
        put_len(out, items);
        out.extend_from_slice(&copied);
    }
    put_long(out, 0);
    Ok(())
}

fn record(
    (writer, written): (Node<'_>, &Record),
    (reader, wanted): (Node<'_>, &Record),
    cursor: &mut Cursor<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Broken> {
    if written.parts().is_none() {
        let endless = written.fields.iter().find(|field| {
            let node = writer.at(&field.shape);
            node.size() == Size::Endless
        });
        let (name, shape) = endless.map_or(("", writer.shape), |field| (&field.name, &field.shape));
        return skip(writer.at(shape), cursor).map_err(|broken| within(name, &broken));
    }
    // Fields that take no bytes are looked for by name only: a value costs no more than its bytes.
    let mut spans = Vec::with_capacity(written.solid.len().min(cursor.left()));
    for (at, field) in
        written.solid.iter().filter_map(|at| written.fields.get(*at).map(|field| (*at, field)))
    {
        let start = *cursor;
        skip(writer.at(&field.shape), cursor).map_err(|broken| within(&field.name, &broken))?;
        let len = start.left() - cursor.left();
        spans.push((at, Cursor::new(start.rest().get(..len).unwrap_or_default())));
    }
    for wanted in &wanted.fields {
        let found = std::iter::once(&wanted.name)
            .chain(&wanted.aliases)
            .find_map(|name| written.position(name))
            .and_then(|at| written.fields.get(at).map(|field| (at, field)));
        match (found, &wanted.default) {
            (Some((at, field)), _) => {
                let span = spans.binary_search_by_key(&at, |(at, _)| *at).ok();
                let span = span.and_then(|span| spans.get(span)).map(|(_, span)| *span);
                let mut span = span.unwrap_or_else(|| Cursor::new(&[]));
                translate(writer.at(&field.shape), reader.at(&wanted.shape), &mut span, out)
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
/// The way back is kept in memory, no larger than the value, not on the stack: a value of a type
/// that contains itself may be of any depth.
///
/// # Errors
/// [`Broken`] when the bytes are not the shape's.
pub(crate) fn skip(node: Node<'_>, cursor: &mut Cursor<'_>) -> Result<(), Broken> {
    /// What is still to be gone past.
    enum Rest<'s> {
        Parts(std::slice::Iter<'s, Shape>),
        Items { left: usize, of: &'s Shape, keys: bool },
    }
    let (mut rest, mut next) = (Vec::new(), Some(node.shape));
    loop {
        if let Some(shape) = next.take() {
            match shape {
                Shape::Null => {}
                Shape::Boolean => cursor.bool().map(drop)?,
                Shape::Int | Shape::Civil { long: false, .. } => cursor.int().map(drop)?,
                Shape::Long | Shape::Instant { .. } | Shape::Civil { long: true, .. } => {
                    cursor.long().map(drop)?
                }
                Shape::Float => cursor.take(4).map(drop)?,
                Shape::Double => cursor.take(8).map(drop)?,
                // Not every sender's texts are UTF-8; only those that are used have to be.
                Shape::String
                | Shape::Bytes
                | Shape::BigDecimal
                | Shape::Decimal { fixed: None, .. } => cursor.bytes().map(drop)?,
                Shape::Fixed(size) | Shape::Decimal { fixed: Some(size), .. } => {
                    cursor.take(*size).map(drop)?
                }
                Shape::Enum(symbols) => symbol(&symbols.all, cursor).map(drop)?,
                Shape::Array(of) => rest.push(Rest::Items { left: 0, of, keys: false }),
                Shape::Map(of) => rest.push(Rest::Items { left: 0, of, keys: true }),
                Shape::Union(branches) => {
                    next = Some(branch(branches, cursor)?);
                    continue;
                }
                Shape::Record(id) => {
                    let record = node.record(*id);
                    let parts = record.parts().ok_or_else(|| {
                        Broken::new(format!(
                            "is of the record {}, every value of which contains another one",
                            record.name
                        ))
                    })?;
                    rest.push(Rest::Parts(parts));
                }
            }
        }
        match rest.last_mut() {
            None => return Ok(()),
            Some(Rest::Parts(parts)) => {
                next = parts.next();
                // The last one is gone past in its record's place: a chain takes no memory.
                if parts.len() == 0 {
                    rest.pop();
                }
            }
            Some(Rest::Items { left, of, keys }) => {
                if *left == 0 {
                    let size = if *keys { Size::Something } else { node.at(of).size() };
                    *left = cursor.block(size)?;
                    if *left == 0 {
                        rest.pop();
                        continue;
                    }
                    if size == Size::Nothing {
                        *left = 0;
                        continue;
                    }
                }
                *left -= 1;
                if *keys {
                    cursor.bytes()?;
                }
                next = Some(*of);
            }
        }
    }
}

/// Visits every item of an array or a map.
pub(super) fn each<'a>(
    cursor: &mut Cursor<'a>,
    size: Size,
    mut item: impl FnMut(&mut Cursor<'a>) -> Result<(), Broken>,
) -> Result<(), Broken> {
    loop {
        let count = cursor.block(size)?;
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
    scaled(bytes, i64::try_from(scale).unwrap_or(i64::MAX))
}

/// Reads a `big-decimal`: bytes that hold the unscaled value as bytes and the scale as an int
/// (Avro 1.12 specification, *Decimal*).
pub(super) fn big_decimal(cursor: &mut Cursor<'_>) -> Result<Decimal, Broken> {
    let mut inner = Cursor::new(cursor.bytes()?);
    let unscaled = inner.bytes()?;
    let scale = inner.int()?;
    inner.end()?;
    scaled(unscaled, scale.into())
}

fn scaled(unscaled: &[u8], scale: i64) -> Result<Decimal, Broken> {
    Decimal::from_scaled(unscaled, scale)
        .map_err(|fault| Broken::new(format!("holds a decimal that {fault}")))
}
