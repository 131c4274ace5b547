//! Avro's binary form by hand: what goes into a datum, and a reader that no input can hurt.
//!
//! Encoding takes a fifteenth of the time of `apache-avro` with a schema
//! (`docs/adr/0004-own-avro-codec.md#context`). The tests compare both byte by byte.

use crate::{clock::Timestamp, decimal::Decimal};

use super::shape::Size;

/// Why a datum cannot be read: the rest of a sentence that begins with the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Broken(pub(crate) String);

impl Broken {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// A longer string, byte string or block than this is broken; Kafka's messages are smaller by far.
pub(crate) const MAX_BYTES: usize = 16 * 1024 * 1024;

/// Writes a `boolean`.
pub(crate) fn put_bool(out: &mut Vec<u8>, value: bool) {
    out.push(u8::from(value));
}

/// Writes an `int`, a `long`, a union's branch or a length.
pub(crate) fn put_long(out: &mut Vec<u8>, value: i64) {
    let mut rest = (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned();
    while rest >= 0x80 {
        out.push(low_byte(rest) | 0x80);
        rest >>= 7;
    }
    out.push(low_byte(rest));
}

/// Seven bits of a variable-length integer.
fn low_byte(rest: u64) -> u8 {
    rest.to_le_bytes().first().copied().unwrap_or_default() & 0x7f
}

/// A length as Avro writes it; no `Vec` is longer than `i64::MAX`.
pub(crate) fn put_len(out: &mut Vec<u8>, len: usize) {
    put_long(out, i64::try_from(len).unwrap_or(i64::MAX));
}

/// Writes `bytes` or a `string`.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Writes a `decimal(19,4)`: the shortest two's complement, big endian, with its length.
pub(crate) fn put_decimal(out: &mut Vec<u8>, value: Decimal) {
    let bytes = value.unscaled().to_be_bytes();
    let fill: u8 = if value.unscaled() < 0 { 0xff } else { 0 };
    let redundant = bytes
        .iter()
        .zip(bytes.iter().skip(1))
        .take_while(|(byte, next)| **byte == fill && (**next ^ fill) & 0x80 == 0)
        .count();
    put_bytes(out, bytes.get(redundant..).unwrap_or(&bytes));
}

/// A datum being read. Every length is checked against what is left before anything is allocated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// How many bytes are left.
    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    /// What is left.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Everything must have been read.
    pub(crate) fn end(&self) -> Result<(), Broken> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Broken::new(format!("has {} bytes after its end", self.rest.len())))
        }
    }

    /// The next `len` bytes as they are.
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Broken> {
        let (taken, rest) =
            self.rest.split_at_checked(len).ok_or_else(|| Broken::new("ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn bool(&mut self) -> Result<bool, Broken> {
        match self.take(1)? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(Broken::new("holds a boolean that is neither 0 nor 1")),
        }
    }

    pub(crate) fn long(&mut self) -> Result<i64, Broken> {
        let mut value: u64 = 0;
        for (at, byte) in self.rest.iter().enumerate() {
            let shift = 7 * at;
            if shift > 63 || (shift == 63 && *byte > 1) {
                return Err(Broken::new("holds an integer of more than 64 bits"));
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                self.rest = self.rest.get(at + 1..).unwrap_or_default();
                return Ok((value >> 1).cast_signed() ^ -((value & 1).cast_signed()));
            }
        }
        Err(Broken::new("ends too early"))
    }

    pub(crate) fn int(&mut self) -> Result<i32, Broken> {
        i32::try_from(self.long()?).map_err(|_| Broken::new("holds an int of more than 32 bits"))
    }

    /// A length or an index.
    pub(crate) fn count(&mut self) -> Result<usize, Broken> {
        usize::try_from(self.long()?).map_err(|_| Broken::new("holds a negative length or index"))
    }

    /// `bytes`, or the bytes of a `string`.
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Broken> {
        let len = self.count()?;
        if len > MAX_BYTES {
            return Err(Broken::new(format!(
                "holds a text of {len} bytes; at most {MAX_BYTES} are read"
            )));
        }
        self.take(len)
    }

    pub(crate) fn str(&mut self) -> Result<&'a str, Broken> {
        std::str::from_utf8(self.bytes()?)
            .map_err(|_| Broken::new("holds a text that is not UTF-8"))
    }

    /// The number of items of an array's or map's next block, each of this size; 0 ends it.
    pub(crate) fn block(&mut self, size: Size) -> Result<usize, Broken> {
        let count = self.long()?;
        if count < 0 {
            // The block's size in bytes follows; it serves those who skip.
            self.count()?;
        }
        let count = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
        if size != Size::Nothing && count > self.left() {
            Err(Broken::new("announces more items than it has bytes"))
        } else {
            Ok(count)
        }
    }
}

/// A Rust value with one Avro form: that of its field in the current schema.
pub(crate) trait Datum: Sized {
    /// Appends the value.
    fn put(&self, out: &mut Vec<u8>);

    /// Reads what [`Datum::put`] wrote.
    ///
    /// # Errors
    /// [`Broken`] for anything else.
    fn take(cursor: &mut Cursor<'_>) -> Result<Self, Broken>;
}

impl Datum for bool {
    fn put(&self, out: &mut Vec<u8>) {
        put_bool(out, *self);
    }
    fn take(cursor: &mut Cursor<'_>) -> Result<Self, Broken> {
        cursor.bool()
    }
}

impl Datum for i32 {
    fn put(&self, out: &mut Vec<u8>) {
        put_long(out, i64::from(*self));
    }
    fn take(cursor: &mut Cursor<'_>) -> Result<Self, Broken> {
        cursor.int()
    }
}

impl Datum for i64 {
    fn put(&self, out: &mut Vec<u8>) {
        put_long(out, *self);
    }
    fn take(cursor: &mut Cursor<'_>) -> Result<Self, Broken> {
        cursor.long()
    }
}

impl Datum for String {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.as_bytes());
    }
    fn take(cursor: &mut Cursor<'_>) -> Result<Self, Broken> {
        cursor.str().map(str::to_owned)
    }
}

/// `bytes`.
impl Datum for Vec<u8> {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(out, self);
    }
    fn take(cursor: &mut Cursor<'_>) -> Result<Self, Broken> {
        cursor.bytes().map(<[u8]>::to_vec)
    }
}

/// `timestamp-millis`.
impl Datum for Timestamp {
    fn put(&self, out: &mut Vec<u8>) {
        put_long(out, self.0);
    }
    fn take(cursor: &mut Cursor<'_>) -> Result<Self, Broken> {
        cursor.long().map(Self)
    }
}

/// `decimal(19,4)`.
impl Datum for Decimal {
    fn put(&self, out: &mut Vec<u8>) {
        put_decimal(out, *self);
    }
    fn take(cursor: &mut Cursor<'_>) -> Result<Self, Broken> {
        Self::from_avro(cursor.bytes()?)
            .map_err(|fault| Broken::new(format!("holds a decimal that {fault}")))
    }
}

/// `["null", T]`.
impl<T: Datum> Datum for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            None => put_long(out, 0),
            Some(value) => {
                put_long(out, 1);
                value.put(out);
            }
        }
    }
    fn take(cursor: &mut Cursor<'_>) -> Result<Self, Broken> {
        match cursor.long()? {
            0 => Ok(None),
            1 => T::take(cursor).map(Some),
            other => Err(Broken::new(format!("holds branch {other} of a union of two"))),
        }
    }
}

/// Array.
impl<T: Datum> Datum for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        if !self.is_empty() {
            put_len(out, self.len());
            for item in self {
                item.put(out);
            }
        }
        put_long(out, 0);
    }
    fn take(cursor: &mut Cursor<'_>) -> Result<Self, Broken> {
        let mut items = Self::new();
        loop {
            let count = cursor.block(Size::Something)?;
            if count == 0 {
                return Ok(items);
            }
            // Grows as items come: an announced count is no reason to reserve memory.
            for _ in 0..count {
                items.push(T::take(cursor)?);
            }
        }
    }
}

/// Implements [`Datum`] for a struct; the fields in schema order.
macro_rules! avro_record {
    ($name:ident { $($field:ident),+ $(,)? }) => {
        impl $crate::schema::datum::Datum for $name {
            fn put(&self, out: &mut Vec<u8>) {
                $($crate::schema::datum::Datum::put(&self.$field, out);)+
            }
            fn take(cursor: &mut $crate::schema::datum::Cursor<'_>) -> Result<Self, $crate::schema::datum::Broken> {
                Ok(Self { $($field: $crate::schema::datum::Datum::take(cursor)?),+ })
            }
        }
    };
}

/// Implements [`Datum`] for an enum; the symbols in schema order.
macro_rules! avro_enum {
    ($name:ident { $($symbol:ident = $index:literal),+ $(,)? }) => {
        impl $crate::schema::datum::Datum for $name {
            fn put(&self, out: &mut Vec<u8>) {
                $crate::schema::datum::put_long(out, match self { $(Self::$symbol => $index),+ });
            }
            fn take(cursor: &mut $crate::schema::datum::Cursor<'_>) -> Result<Self, $crate::schema::datum::Broken> {
                match cursor.long()? {
                    $($index => Ok(Self::$symbol),)+
                    other => Err($crate::schema::datum::Broken::new(format!("holds symbol {other} of the enum {}", stringify!($name)))),
                }
            }
        }
    };
}

pub(crate) use {avro_enum, avro_record};
