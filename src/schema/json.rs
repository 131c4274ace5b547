//! Values as people read them.

use serde_json::{Map, Value};

use crate::clock::Timestamp;

use super::{
    datum::{Broken, Cursor},
    shape::Shape,
    translate::{big_decimal, branch, decimal, each, symbol, within},
};

/// The value for people: decimals as texts, instants in RFC 3339, bytes in hexadecimal.
///
/// # Errors
/// [`Broken`] when the bytes are not the shape's.
pub(crate) fn to_json(shape: &Shape, cursor: &mut Cursor<'_>) -> Result<Value, Broken> {
    Ok(match shape {
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
        Shape::Enum { symbols, .. } => symbol(symbols, cursor)?.clone().into(),
        Shape::Array(items) => {
            let mut values = Vec::new();
            each(cursor, |cursor| {
                values.push(to_json(items, cursor)?);
                Ok(())
            })?;
            values.into()
        }
        Shape::Map(inner) => {
            let mut values = Map::new();
            each(cursor, |cursor| {
                let key = cursor.str()?.to_owned();
                values.insert(key, to_json(inner, cursor)?);
                Ok(())
            })?;
            values.into()
        }
        Shape::Union(branches) => to_json(branch(branches, cursor)?, cursor)?,
        Shape::Record(record) => {
            let mut values = Map::new();
            for field in &record.fields {
                values.insert(
                    field.name.clone(),
                    to_json(&field.shape, cursor).map_err(|broken| within(&field.name, &broken))?,
                );
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
