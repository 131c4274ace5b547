//! Values as the ERP writes them: a number may come as text, a time as epoch milliseconds or as a
//! Beijing clock string.
//!
//! The functions take a field's own JSON and say in half a sentence what does not fit; they never
//! quote the value.

use serde_json::value::RawValue;

use crate::clock::Timestamp;

/// A text or a number, as text; `None` when absent or null.
pub(super) fn text(json: Option<&RawValue>) -> Result<Option<String>, &'static str> {
    let Some(json) = json.map(RawValue::get) else { return Ok(None) };
    match json.as_bytes().first() {
        Some(b'"') => serde_json::from_str(json).map(Some).map_err(|_| "is not valid text"),
        Some(b'-' | b'0'..=b'9') => Ok(Some(json.to_owned())),
        Some(b'n') => Ok(None),
        Some(_) | None => Err("is neither text nor a number"),
    }
}

/// A whole number, written as number or as text; `None` when absent, null or empty.
pub(super) fn integer(json: Option<&RawValue>) -> Result<Option<i64>, &'static str> {
    match text(json)? {
        None => Ok(None),
        Some(text) if text.trim().is_empty() => Ok(None),
        Some(text) => text.trim().parse().map(Some).map_err(|_| "is not a whole number"),
    }
}

/// An instant in either of the ERP's forms; `None` when absent, null, empty or the ERP's zero date.
pub(super) fn instant(json: Option<&RawValue>) -> Result<Option<Timestamp>, &'static str> {
    let Some(text) = text(json)? else { return Ok(None) };
    let text = text.trim();
    if text.is_empty() || text.starts_with("0000-00-00") {
        return Ok(None);
    }
    match text.parse::<i64>() {
        Ok(0) => Ok(None),
        Ok(millis) => Ok(Some(Timestamp(millis))),
        Err(_) => Timestamp::from_beijing(text)
            .map(Some)
            .ok_or("is neither epoch milliseconds nor `yyyy-MM-dd HH:mm:ss`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    #[test]
    fn numbers_and_texts_are_the_same() {
        assert_eq!(text(Some(&raw("\"9258\""))), Ok(Some("9258".to_owned())));
        assert_eq!(
            text(Some(&raw("123456789012345678901234567890"))),
            Ok(Some("123456789012345678901234567890".to_owned()))
        );
        assert_eq!(text(Some(&raw("null"))), Ok(None));
        assert!(text(Some(&raw("{}"))).is_err() && text(Some(&raw("true"))).is_err());
        assert_eq!(integer(Some(&raw("\"110\""))), Ok(Some(110)));
        assert_eq!(integer(Some(&raw("-1"))), Ok(Some(-1)));
        assert_eq!(integer(Some(&raw("\"\""))), Ok(None));
        assert!(integer(Some(&raw("1.5"))).is_err());
    }

    #[test]
    fn both_forms_of_time_are_read() {
        for json in ["1675751003000", "\"1675751003000\"", "\"2023-02-07 14:23:23\""] {
            assert_eq!(instant(Some(&raw(json))), Ok(Some(Timestamp(1_675_751_003_000))), "{json}");
        }
        for json in ["null", "\"\"", "0", "\"0000-00-00 00:00:00\""] {
            assert_eq!(instant(Some(&raw(json))), Ok(None), "{json}");
        }
        assert!(instant(Some(&raw("\"yesterday\""))).is_err());
    }
}
