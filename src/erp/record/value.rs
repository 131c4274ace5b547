//! One JSON value of the ERP as the schema's type: numbers as numbers or texts, times in two forms,
//! nothing through a float.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::{
    clock::Timestamp,
    decimal::{Decimal, DecimalFault},
};

/// What came of reading a value as a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading<T> {
    Value(T),
    /// Missing, null, or empty where no text is wanted.
    Null,
    /// Another type than documented.
    Retyped,
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

/// Whether a value is there, and what to read a number from.
fn numeral<'a>(scalar: &'a Scalar<'_>) -> Reading<&'a str> {
    let text = match scalar {
        Scalar::Null => return Reading::Null,
        Scalar::Bool(_) | Scalar::Other => return Reading::Retyped,
        Scalar::Number(text) => text,
        Scalar::Text(text) => text.trim(),
    };
    if text.is_empty() { Reading::Null } else { Reading::Value(text) }
}

/// A text; numbers are no texts.
pub(super) fn text(raw: &RawValue) -> Reading<Cow<'_, str>> {
    match scalar(raw) {
        Scalar::Text(text) => Reading::Value(text),
        Scalar::Null => Reading::Null,
        Scalar::Bool(_) | Scalar::Number(_) | Scalar::Other => Reading::Retyped,
    }
}

/// An integer: `1`, `"1"`, `"1.0000"`.
pub(super) fn long(raw: &RawValue) -> Reading<i64> {
    match numeral(&scalar(raw)) {
        Reading::Value(text) => integer(text).map_or(Reading::Retyped, Reading::Value),
        Reading::Null => Reading::Null,
        Reading::Retyped => Reading::Retyped,
    }
}

fn integer(text: &str) -> Option<i64> {
    text.parse().ok().or_else(|| {
        let unscaled = Decimal::parse(text).ok()?.unscaled();
        if unscaled % 10_000 == 0 { i64::try_from(unscaled / 10_000).ok() } else { None }
    })
}

/// A decimal; `None`: nothing there.
///
/// # Errors
/// Why what is there is no `decimal(19,4)`.
pub(super) fn decimal(raw: &RawValue) -> Result<Option<Decimal>, DecimalFault> {
    match numeral(&scalar(raw)) {
        Reading::Value(text) => Decimal::parse(text).map(Some),
        Reading::Null => Ok(None),
        Reading::Retyped => Err(DecimalFault::NotANumber),
    }
}

/// An instant: epoch milliseconds, or `yyyy-MM-dd HH:mm:ss` in Beijing time.
pub(super) fn instant(raw: &RawValue) -> Reading<Timestamp> {
    match numeral(&scalar(raw)) {
        Reading::Value("0000-00-00 00:00:00") | Reading::Null => Reading::Null,
        Reading::Value(text) => Timestamp::from_beijing(text)
            .or_else(|| integer(text).map(Timestamp))
            .map_or(Reading::Retyped, Reading::Value),
        Reading::Retyped => Reading::Retyped,
    }
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
    }

    #[test]
    fn decimals_keep_every_digit() {
        for (json, wanted) in [
            ("9.9424", Ok(Some("9.9424"))),
            (r#""9.94240000""#, Ok(Some("9.9424"))),
            ("123456789012345.6789", Ok(Some("123456789012345.6789"))),
            ("-0.0", Ok(Some("0.0000"))),
            ("null", Ok(None)),
            (r#""""#, Ok(None)),
            ("0.00001", Err(DecimalFault::TooPrecise)),
            ("1e15", Err(DecimalFault::TooLarge)),
            (r#""x""#, Err(DecimalFault::NotANumber)),
            ("[]", Err(DecimalFault::NotANumber)),
        ] {
            assert_eq!(
                decimal(&raw(json)),
                wanted.map(|text| text.map(|text| Decimal::parse(text).unwrap())),
                "{json}"
            );
        }
    }

    #[test]
    fn instants_come_in_two_forms() {
        for (json, reading) in [
            ("1675751007000", Reading::Value(Timestamp(1_675_751_007_000))),
            (r#""1675751007000""#, Reading::Value(Timestamp(1_675_751_007_000))),
            (r#""2023-02-07 14:23:27""#, Reading::Value(Timestamp(1_675_751_007_000))),
            (r#""0000-00-00 00:00:00""#, Reading::Null),
            (r#""""#, Reading::Null),
            (r#""2023-02-07""#, Reading::Retyped),
            ("1.5", Reading::Retyped),
            ("false", Reading::Retyped),
        ] {
            assert_eq!(instant(&raw(json)), reading, "{json}");
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
    fn texts_are_unescaped() {
        assert_eq!(text(&raw(r#""\u65fa \"x\"""#)), Reading::Value(Cow::from("旺 \"x\"")));
        assert_eq!(text(&raw(r#""旺店通""#)), Reading::Value(Cow::from("旺店通")));
        assert_eq!(text(&raw(r#""\ud800""#)), Reading::Retyped);
        assert_eq!(text(&raw("5")), Reading::Retyped);
    }
}
