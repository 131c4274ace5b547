//! One positional argument of a flagship call: an object of known names, whose values the ERP takes
//! in more than one form. Its clients send numbers as JSON numbers and as strings alike
//! ([`mod@super::sources`]).

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::reply::Refused;

/// An object's values by name.
#[derive(Debug)]
pub(super) struct Argument<'a>(BTreeMap<String, &'a RawValue>);

impl<'a> Argument<'a> {
    /// Reads an object that has none but these names. `what` names the argument.
    pub(super) fn read(raw: &'a RawValue, what: &str, names: &[&str]) -> Result<Self, Refused> {
        let fields: BTreeMap<String, &RawValue> = serde_json::from_str(raw.get())
            .map_err(|fault| Refused::new(1, format!("{what}参数类型错误: {fault}")))?;
        match fields.keys().find(|name| !names.contains(&name.as_str())) {
            Some(unknown) => Err(Refused::new(2, format!("{unknown}字段不存在"))),
            None => Ok(Self(fields)),
        }
    }

    /// Its JSON text; `None` where it is absent or null.
    pub(super) fn raw(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).map(|raw| raw.get()).filter(|raw| *raw != "null")
    }

    /// A text; a number stands for its digits.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, Refused> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        match raw.as_bytes().first() {
            Some(b'"') => serde_json::from_str(raw).map(Some).map_err(|_| no_type(name)),
            Some(b'-' | b'0'..=b'9') => Ok(Some(raw.to_owned())),
            _ => Err(no_type(name)),
        }
    }

    /// A text that is there and not empty.
    pub(super) fn required(&self, name: &str) -> Result<String, Refused> {
        match self.text(name)? {
            None => Err(Refused::new(1, format!("{name} must not be null"))),
            Some(text) if text.is_empty() => Err(Refused::new(100, format!("{name}不能为空"))),
            Some(text) => Ok(text),
        }
    }

    /// A text where it is not empty.
    pub(super) fn filled(&self, name: &str) -> Result<Option<String>, Refused> {
        Ok(self.text(name)?.filter(|text| !text.is_empty()))
    }

    /// A whole number, as a number or as a text; an empty text is none.
    pub(super) fn integer<N: std::str::FromStr>(&self, name: &str) -> Result<Option<N>, Refused> {
        let Some(text) = self.filled(name)? else { return Ok(None) };
        let number = text.trim().parse();
        number.map(Some).map_err(|_| Refused::new(1, format!("For input string: \"{text}\"")))
    }

    /// A truth value, as such, as a text or as 0 and 1.
    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, Refused> {
        match self.raw(name).map(|raw| raw.trim_matches('"')) {
            None | Some("") => Ok(None),
            Some("true" | "1") => Ok(Some(true)),
            Some("false" | "0") => Ok(Some(false)),
            Some(_) => Err(no_type(name)),
        }
    }
}

fn no_type(name: &str) -> Refused {
    Refused::new(1, format!("{name}参数类型错误"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_value_are_read_and_unknown_names_are_code_2() {
        let text = r#"{"a":"3","b":3,"c":null,"d":"","e":"x","f":"true","g":0,"h":[1]}"#;
        let raw: &RawValue = serde_json::from_str(text).unwrap();
        let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let of = Argument::read(raw, "params", &names).unwrap();
        let integer = |name| of.integer::<i64>(name);
        assert_eq!((integer("a"), integer("b")), (Ok(Some(3)), Ok(Some(3))));
        assert_eq!((integer("c"), integer("d"), integer("z")), (Ok(None), Ok(None), Ok(None)));
        assert_eq!(integer("e").unwrap_err().text, "For input string: \"x\"");
        assert_eq!((of.flag("f"), of.flag("g")), (Ok(Some(true)), Ok(Some(false))));
        assert_eq!(of.text("b"), Ok(Some("3".to_owned())));
        assert_eq!(of.text("h").unwrap_err().code, 1);
        assert_eq!(of.required("c").unwrap_err(), Refused::new(1, "c must not be null"));
        assert_eq!(of.required("d").unwrap_err(), Refused::new(100, "d不能为空"));
        assert_eq!(Argument::read(raw, "params", &names[1..]).unwrap_err().code, 2);
    }
}
