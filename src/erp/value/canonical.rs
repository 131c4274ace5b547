//! JSON in one form: no white space, keys in order, texts without needless escapes, numbers as they
//! are written.

use std::borrow::Cow;

/// Objects and arrays within each other, at most; what lies deeper stays as it is. `serde_json`
/// reads no more either, and this bounds the stack.
const MOST_LEVELS: usize = 128;

/// The one form of a JSON text; of repeated keys all are kept, in their order.
pub(in super::super) fn canonical(json: &str) -> String {
    let mut text = Text { json, at: 0 };
    let mut out = String::with_capacity(json.len());
    match text.value(&mut out, 0) {
        Some(()) => out,
        // Only JSON comes here.
        None => json.to_owned(),
    }
}

/// JSON that is read from its beginning on. It is known to be JSON, so only its structure is looked
/// at.
struct Text<'a> {
    json: &'a str,
    at: usize,
}

impl<'a> Text<'a> {
    fn value(&mut self, out: &mut String, level: usize) -> Option<()> {
        match self.next()? {
            b'{' | b'[' if level == MOST_LEVELS => {
                out.push_str(self.rest_of_nested()?);
                Some(())
            }
            b'{' => self.object(out, level),
            b'[' => self.array(out, level),
            b'"' => {
                out.push_str(&self.text()?);
                Some(())
            }
            _ => {
                out.push_str(self.bare()?);
                Some(())
            }
        }
    }

    fn object(&mut self, out: &mut String, level: usize) -> Option<()> {
        self.at += 1;
        let mut members: Vec<(Cow<'a, str>, String)> = Vec::new();
        while self.next()? != b'}' {
            let key = self.text()?;
            (self.next()? == b':').then(|| self.at += 1)?;
            let mut value = String::new();
            self.value(&mut value, level + 1)?;
            members.push((key, value));
            if self.next()? == b',' {
                self.at += 1;
            }
        }
        self.at += 1;
        members.sort_by(|(one, _), (other, _)| one.cmp(other));
        out.push('{');
        for (at, (key, value)) in members.iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            out.push_str(key);
            out.push(':');
            out.push_str(value);
        }
        out.push('}');
        Some(())
    }

    fn array(&mut self, out: &mut String, level: usize) -> Option<()> {
        self.at += 1;
        out.push('[');
        while self.next()? != b']' {
            self.value(out, level + 1)?;
            if self.next()? == b',' {
                self.at += 1;
                out.push(',');
            }
        }
        self.at += 1;
        out.push(']');
        Some(())
    }

    /// The byte that comes after white space.
    fn next(&mut self) -> Option<u8> {
        let rest = self.json.as_bytes().get(self.at..)?;
        self.at += rest.iter().position(|byte| !byte.is_ascii_whitespace())?;
        self.json.as_bytes().get(self.at).copied()
    }

    /// A text with its quotes, escaped as `serde_json` does; as it is where it holds half a
    /// surrogate pair.
    fn text(&mut self) -> Option<Cow<'a, str>> {
        let start = self.at;
        self.pass_text()?;
        let text = self.json.get(start..self.at)?;
        if !text.contains('\\') {
            return Some(Cow::Borrowed(text));
        }
        let again =
            serde_json::from_str::<String>(text).and_then(|text| serde_json::to_string(&text));
        Some(again.map_or(Cow::Borrowed(text), Cow::Owned))
    }

    fn pass_text(&mut self) -> Option<()> {
        self.at += 1;
        loop {
            match self.json.as_bytes().get(self.at)? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        Some(())
    }

    /// A number, `true`, `false` or `null`.
    fn bare(&mut self) -> Option<&'a str> {
        let rest = self.json.get(self.at..)?;
        let end = rest
            .find(|char: char| matches!(char, ',' | ']' | '}') || char.is_ascii_whitespace())
            .unwrap_or(rest.len());
        self.at += end;
        (end > 0).then(|| rest.get(..end))?
    }

    /// An object or array as it is.
    fn rest_of_nested(&mut self) -> Option<&'a str> {
        let start = self.at;
        let mut open = 0_usize;
        loop {
            match self.json.as_bytes().get(self.at)? {
                b'"' => {
                    self.pass_text()?;
                    continue;
                }
                b'{' | b'[' => open += 1,
                b'}' | b']' => open -= 1,
                _ => {}
            }
            self.at += 1;
            if open == 0 {
                return self.json.get(start..self.at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn white_space_order_of_keys_and_escapes_do_not_matter() {
        for (json, wanted) in [
            ("5", "5"),
            ("1.50", "1.50"),
            ("1e400", "1e400"),
            ("12345678901234567890.1234567890", "12345678901234567890.1234567890"),
            (r#""\u65fa\/\n""#, r#""旺/\n""#),
            (r#""\ud800""#, r#""\ud800""#),
            ("{ }", "{}"),
            ("[ ]", "[]"),
            (" { \"b\" : 1.0 ,\n\t\"a\" : [ 2 , 1 ] } ", r#"{"a":[2,1],"b":1.0}"#),
            (r#"{"b":{"d":1,"c":" , "},"a":null}"#, r#"{"a":null,"b":{"c":" , ","d":1}}"#),
            (r#"{"b":1,"a":2,"b":3}"#, r#"{"a":2,"b":1,"b":3}"#),
            (r#"{"\u0062":1,"a":"}\""}"#, r#"{"a":"}\"","b":1}"#),
        ] {
            assert_eq!(canonical(json), wanted, "{json}");
            assert_eq!(canonical(wanted), wanted);
        }
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(canonical(&deep), deep);
        let deep = format!("{}\"]}}\\\"\"{}", "{\"a\":[ ".repeat(100), "]}".repeat(100));
        assert_eq!(canonical(&deep).len(), deep.len() - MOST_LEVELS / 2);
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 30, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(".{0,4}", inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_is_the_same_value_however_it_was_written(value in any_value()) {
            let compact = canonical(&value.to_string());
            prop_assert_eq!(&canonical(&serde_json::to_string_pretty(&value).unwrap()), &compact);
            prop_assert_eq!(&canonical(&compact), &compact);
            prop_assert_eq!(serde_json::from_str::<Value>(&compact).unwrap(), value);
        }
    }
}
