//! One JSON value of the ERP as the type it is documented as: the one reader for feeds, lookups and
//! answers.
//!
//! It takes every form that says without a guess what is meant: numbers as numbers or texts, texts
//! as texts or numbers, times in the forms of Java, PHP and ISO 8601. Nothing passes through a
//! float. What it does not take is [`Reading::Retyped`]; what follows from that is the caller's.

mod canonical;
mod instant;

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::{clock::Timestamp, decimal::Decimal};

pub(super) use canonical::canonical;

/// What came of reading a value as a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading<T> {
    Value(T),
    /// Null, or what the ERP writes for nothing: an empty text where no text is wanted, the instant
    /// 0.
    Null,
    /// Another type than documented.
    Retyped,
}

impl<T> Reading<T> {
    fn of(value: Option<T>) -> Self {
        value.map_or(Self::Retyped, Self::Value)
    }

    fn then<U>(self, read: impl FnOnce(T) -> Reading<U>) -> Reading<U> {
        match self {
            Self::Value(value) => read(value),
            Self::Null => Reading::Null,
            Self::Retyped => Reading::Retyped,
        }
    }

    /// The value where it is of this type, for fields that others may lack.
    pub(super) fn value(self) -> Option<T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Null | Self::Retyped => None,
        }
    }
}

/// What is wrong with a value that [`instant()`] does not read: the rest of a sentence.
pub(super) const NO_INSTANT: &str = "is neither epoch milliseconds nor a date with a time of day";

/// A value of another type than documented, where none may be passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Retyped;

/// Reads a field that may be absent, and must be of its type where it is there.
///
/// # Errors
/// [`Retyped`].
pub(super) fn optional<'a, T>(
    json: Option<&'a RawValue>,
    read: impl FnOnce(&'a RawValue) -> Reading<T>,
) -> Result<Option<T>, Retyped> {
    match json.map_or(Reading::Null, read) {
        Reading::Value(value) => Ok(Some(value)),
        Reading::Null => Ok(None),
        Reading::Retyped => Err(Retyped),
    }
}

/// A JSON value that holds no other.
enum Scalar<'a> {
    Null,
    Bool(bool),
    /// As written, every digit kept.
    Number(&'a str),
    Text(Cow<'a, str>),
    /// An object, an array, or a text with half a surrogate pair.
    Other,
}

fn scalar(raw: &RawValue) -> Scalar<'_> {
    let json = raw.get();
    match json.as_bytes() {
        [b'"', inner @ .., b'"'] => {
            if inner.contains(&b'\\') {
                serde_json::from_str(json)
                    .map_or(Scalar::Other, |text| Scalar::Text(Cow::Owned(text)))
            } else {
                // Without escapes the text stands there as it is.
                json.get(1..json.len() - 1)
                    .map_or(Scalar::Other, |text| Scalar::Text(Cow::Borrowed(text)))
            }
        }
        b"null" => Scalar::Null,
        b"true" => Scalar::Bool(true),
        b"false" => Scalar::Bool(false),
        [b'-' | b'0'..=b'9', ..] => Scalar::Number(json),
        _ => Scalar::Other,
    }
}

/// Whether a value is there, and what to read a number or a time from.
fn numeral<'a>(scalar: &'a Scalar<'_>) -> Reading<&'a str> {
    let text = match scalar {
        Scalar::Null => return Reading::Null,
        Scalar::Bool(_) | Scalar::Other => return Reading::Retyped,
        Scalar::Number(text) => text,
        Scalar::Text(text) => text.trim(),
    };
    if text.is_empty() { Reading::Null } else { Reading::Value(text) }
}

/// A text, or a number as it is written.
pub(super) fn text(raw: &RawValue) -> Reading<Cow<'_, str>> {
    match scalar(raw) {
        Scalar::Text(text) => Reading::Value(text),
        Scalar::Number(text) => Reading::Value(Cow::Borrowed(text)),
        Scalar::Null => Reading::Null,
        Scalar::Bool(_) | Scalar::Other => Reading::Retyped,
    }
}

/// An integer: `1`, `"1"`, `"1.0000"`.
pub(super) fn long(raw: &RawValue) -> Reading<i64> {
    numeral(&scalar(raw)).then(|text| Reading::of(integer(text)))
}

fn integer(text: &str) -> Option<i64> {
    text.parse().ok().or_else(|| {
        let unscaled = Decimal::parse(text).ok()?.unscaled();
        if unscaled % 10_000 == 0 { i64::try_from(unscaled / 10_000).ok() } else { None }
    })
}

/// The code of an answer, as number or text. Stricter than [`long`]: what decides about an order is
/// read in the forms that were seen, and `0.0` is none of them.
pub(super) fn code(raw: &RawValue) -> Reading<i64> {
    numeral(&scalar(raw)).then(|text| Reading::of(text.parse().ok()))
}

/// A `decimal(19,4)`; zeros beyond the fourth place are cut, another digit there is none.
pub(super) fn decimal(raw: &RawValue) -> Reading<Decimal> {
    numeral(&scalar(raw)).then(|text| Reading::of(Decimal::parse(text).ok()))
}

/// An instant, in any form of `instant.rs`.
pub(super) fn instant(raw: &RawValue) -> Reading<Timestamp> {
    numeral(&scalar(raw)).then(|text| match integer(text) {
        Some(number) => instant::of_number(number),
        None => instant::of_text(text),
    })
}

/// A truth value: `true`, `1`, `"1"`, `"true"` and their opposites.
pub(super) fn boolean(raw: &RawValue) -> Reading<bool> {
    match scalar(raw) {
        Scalar::Bool(value) => Reading::Value(value),
        Scalar::Null => Reading::Null,
        Scalar::Number(text) => truth(text),
        Scalar::Text(text) => truth(text.trim()),
        Scalar::Other => Reading::Retyped,
    }
}

fn truth(text: &str) -> Reading<bool> {
    match text {
        "1" | "true" => Reading::Value(true),
        "0" | "false" => Reading::Value(false),
        "" => Reading::Null,
        _ => Reading::Retyped,
    }
}

/// What PHP and others write for an object or an array without members.
pub(super) fn is_empty(raw: &RawValue) -> bool {
    let bare: Vec<u8> =
        raw.get().bytes().filter(|byte| !byte.is_ascii_whitespace()).take(5).collect();
    matches!(&*bare, b"null" | b"\"\"" | b"[]" | b"{}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    #[test]
    fn integers_come_as_numbers_and_as_texts() {
        for (json, reading) in [
            ("1", Reading::Value(1)),
            ("-7", Reading::Value(-7)),
            (r#""110""#, Reading::Value(110)),
            (r#""1.0000""#, Reading::Value(1)),
            ("1e3", Reading::Value(1000)),
            (r#""""#, Reading::Null),
            ("null", Reading::Null),
            ("1.5", Reading::Retyped),
            (r#""abc""#, Reading::Retyped),
            ("true", Reading::Retyped),
            ("{}", Reading::Retyped),
            ("99999999999999999999", Reading::Retyped),
        ] {
            assert_eq!(long(&raw(json)), reading, "{json}");
        }
        assert_eq!(optional(None, long), Ok(None));
        assert_eq!(optional(Some(&raw("\"\"")), long), Ok(None));
        assert_eq!(optional(Some(&raw("7")), long), Ok(Some(7)));
        assert_eq!(optional(Some(&raw("[7]")), long), Err(Retyped));
    }

    #[test]
    fn codes_are_integers_without_a_fraction() {
        for (json, reading) in [
            ("0", Reading::Value(0)),
            (r#"" 110 ""#, Reading::Value(110)),
            ("-1", Reading::Value(-1)),
            ("null", Reading::Null),
            (r#""""#, Reading::Null),
            ("0.0", Reading::Retyped),
            (r#""0.0000""#, Reading::Retyped),
            ("false", Reading::Retyped),
        ] {
            assert_eq!(code(&raw(json)), reading, "{json}");
        }
    }

    #[test]
    fn empty_is_what_has_no_members() {
        for json in ["null", r#""""#, "[]", "{}", "[ ]", "{\n}", r#""  ""#] {
            assert!(is_empty(&raw(json)), "{json}");
        }
        for json in ["0", "false", "[null]", r#"{"":0}"#, r#""null""#, r#""x""#] {
            assert!(!is_empty(&raw(json)), "{json}");
        }
    }

    #[test]
    fn decimals_keep_every_digit_or_are_none() {
        for (json, wanted) in [
            ("9.9424", Reading::Value("9.9424")),
            (r#""9.94240000""#, Reading::Value("9.9424")),
            ("123456789012345.6789", Reading::Value("123456789012345.6789")),
            ("-0.0", Reading::Value("0.0000")),
            ("null", Reading::Null),
            (r#""""#, Reading::Null),
            ("0.00001", Reading::Retyped),
            (r#""9.94241234""#, Reading::Retyped),
            ("3.3000000000000003", Reading::Retyped),
            ("1e15", Reading::Retyped),
            (r#""x""#, Reading::Retyped),
            ("[]", Reading::Retyped),
            ("true", Reading::Retyped),
        ] {
            let wanted = wanted.then(|text| Reading::of(Decimal::parse(text).ok()));
            assert_eq!(decimal(&raw(json)), wanted, "{json}");
        }
    }

    #[test]
    fn truth_values_come_in_many_forms() {
        for (json, reading) in [
            ("true", Reading::Value(true)),
            ("0", Reading::Value(false)),
            (r#""1""#, Reading::Value(true)),
            (r#""""#, Reading::Null),
            ("2", Reading::Retyped),
            (r#""yes""#, Reading::Retyped),
        ] {
            assert_eq!(boolean(&raw(json)), reading, "{json}");
        }
    }

    #[test]
    fn texts_are_unescaped_and_numbers_are_texts_as_they_are_written() {
        for (json, reading) in [
            (r#""\u65fa \"x\"""#, Reading::Value(Cow::from("旺 \"x\""))),
            (r#""旺店通""#, Reading::Value(Cow::from("旺店通"))),
            ("5", Reading::Value(Cow::from("5"))),
            ("-1.50e3", Reading::Value(Cow::from("-1.50e3"))),
            ("123456789012345678901", Reading::Value(Cow::from("123456789012345678901"))),
            (r#""""#, Reading::Value(Cow::from(""))),
            ("null", Reading::Null),
            (r#""\ud800""#, Reading::Retyped),
            ("true", Reading::Retyped),
            ("{}", Reading::Retyped),
        ] {
            assert_eq!(text(&raw(json)), reading, "{json}");
        }
    }
}
