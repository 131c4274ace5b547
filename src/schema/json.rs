//! Values as people read them.

use serde_json::{Map, Value};

use crate::clock::Timestamp;

use super::{
    datum::{Broken, Cursor},
    shape::{Node, Shape, Size},
    translate::{big_decimal, branch, decimal, each, symbol, within},
};

/// Values nest no deeper in what is shown: no reader of JSON takes more, and walking it uses the
/// stack. Ours are 9 deep.
const MAX_DEPTH: usize = 100;
/// Values that take no bytes, at most: their number comes from outside.
const MAX_EMPTY: usize = 1_000;
/// Bytes of field names, at most: a name may be long and stand in every line of a value.
const MAX_NAMES: usize = 16 * 1024 * 1024;

/// The value for people: decimals as texts, instants in RFC 3339, bytes in hexadecimal.
///
/// # Errors
/// [`Broken`] when the bytes are not the shape's, or hold more than can be shown.
pub(crate) fn to_json(node: Node<'_>, cursor: &mut Cursor<'_>) -> Result<Value, Broken> {
    value(node, cursor, &mut Room { depth: MAX_DEPTH, empty: MAX_EMPTY, names: MAX_NAMES })
}

/// What may still be shown.
struct Room {
    depth: usize,
    empty: usize,
    names: usize,
}

fn value(node: Node<'_>, cursor: &mut Cursor<'_>, room: &mut Room) -> Result<Value, Broken> {
    if node.size() != Size::Something {
        room.empty = room.empty.checked_sub(1).ok_or_else(|| {
            Broken::new(format!("holds more than {MAX_EMPTY} values of no bytes, too many to show"))
        })?;
    }
    room.depth = room.depth.checked_sub(1).ok_or_else(|| {
        Broken::new(format!("nests deeper than {MAX_DEPTH} levels, too deep to show"))
    })?;
    let shown = inside(node, cursor, room);
    room.depth += 1;
    shown
}

fn inside(node: Node<'_>, cursor: &mut Cursor<'_>, room: &mut Room) -> Result<Value, Broken> {
    Ok(match node.shape {
        Shape::Null => Value::Null,
        Shape::Boolean => cursor.bool()?.into(),
        Shape::Int | Shape::Civil { long: false, .. } => cursor.int()?.into(),
        Shape::Long | Shape::Civil { long: true, .. } => cursor.long()?.into(),
        Shape::Instant { per_milli } => {
            Timestamp(cursor.long()?.div_euclid(*per_milli)).to_string().into()
        }
        Shape::Float => f64::from(f32::from_le_bytes(array(cursor.take(4)?)?)).into(),
        Shape::Double => f64::from_le_bytes(array(cursor.take(8)?)?).into(),
        Shape::BigDecimal => {
            let start = *cursor;
            match big_decimal(cursor) {
                Ok(decimal) => decimal.to_string().into(),
                Err(_) => {
                    *cursor = start;
                    hex(cursor.bytes()?)
                }
            }
        }
        Shape::Bytes => hex(cursor.bytes()?),
        Shape::Fixed(size) => hex(cursor.take(*size)?),
        Shape::Decimal { scale, fixed } => {
            let start = *cursor;
            match decimal(*scale, *fixed, cursor) {
                Ok(decimal) => decimal.to_string().into(),
                // Not ours to show as a number: its bytes, so that nothing is hidden.
                Err(_) => {
                    *cursor = start;
                    hex(match fixed {
                        Some(size) => cursor.take(*size)?,
                        None => cursor.bytes()?,
                    })
                }
            }
        }
        Shape::String => cursor.str()?.into(),
        Shape::Enum(symbols) => symbol(&symbols.all, cursor)?.clone().into(),
        Shape::Array(items) => {
            let (items, mut values) = (node.at(items), Vec::new());
            each(cursor, items.size(), |cursor| {
                values.push(value(items, cursor, room)?);
                Ok(())
            })?;
            values.into()
        }
        Shape::Map(inner) => {
            let (inner, mut values) = (node.at(inner), Map::new());
            each(cursor, Size::Something, |cursor| {
                let key = cursor.str()?.to_owned();
                values.insert(key, value(inner, cursor, room)?);
                Ok(())
            })?;
            values.into()
        }
        Shape::Union(branches) => inside(node.at(branch(branches, cursor)?), cursor, room)?,
        Shape::Record(id) => {
            let mut values = Map::new();
            for field in &node.record(*id).fields {
                room.names = room.names.checked_sub(field.name.len()).ok_or_else(|| {
                    Broken::new(format!("holds more than {MAX_NAMES} bytes of field names"))
                })?;
                let shown = value(node.at(&field.shape), cursor, room)
                    .map_err(|broken| within(&field.name, &broken))?;
                values.insert(field.name.clone(), shown);
            }
            values.into()
        }
    })
}

fn hex(bytes: &[u8]) -> Value {
    data_encoding::HEXLOWER.encode(bytes).into()
}

fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Broken> {
    bytes.try_into().map_err(|_| Broken::new("ends too early"))
}
