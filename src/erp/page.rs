//! The records of an answer, found without being read.
//!
//! Most records of a page are known already: their text is hashed and compared, never parsed. So
//! what stands around the records is read exactly, and within them only as far as the id and the
//! closing bracket. Whether a record is JSON at all shows when it is decoded ([`is_json`]); one
//! whose text equals a text that was decoded before needs no proof.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use serde::de::IgnoredAny;

use crate::config::Feed;

use super::{Call, answer::Rows, brackets::closed, record};

/// One record as the ERP sent it; a part of the answer, not a copy.
#[derive(Clone, Debug)]
pub struct RawRecord {
    /// `return_id` or `stockout_id`, where it can be read without decoding the rest.
    pub id: Option<Arc<str>>,
    /// Text in brackets, perhaps not JSON.
    pub json: Bytes,
}

impl RawRecord {
    /// Identifies a record of `feed`.
    #[must_use]
    pub fn new(feed: Feed, json: Bytes) -> Self {
        let id = Skim::new(&json).record(record::id_field(feed)).and_then(|found| found.id);
        Self { id, json }
    }
}

/// Whether a record's text is JSON.
#[must_use]
pub fn is_json(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

/// The feed whose records a query answers with.
pub(super) fn feed_of(call: Call) -> Feed {
    match call {
        Call::CreateOrder | Call::QueryPurchaseReturns => Feed::PurchaseReturns,
        Call::QueryOutbounds | Call::QueryOutboundsEnterprise => Feed::ReturnOutbounds,
    }
}

/// The page in a flagship answer of the documented form that says yes; `None` for any other: it
/// must be read with more care.
pub(super) fn flagship(call: Call, body: &Bytes) -> Option<Rows> {
    let mut page = Page::new(call, body);
    let (mut yes, mut data) = (None, None);
    let mut skim = Skim::new(body);
    skim.object(|skim, key| match key {
        b"status" => once(&mut yes, skim.is_zero()?),
        b"data" => once(&mut data, skim.object(|skim, key| page.field(skim, key))?),
        _ => skim.other(),
    })?;
    skim.end()?;
    if yes? { data.and(page.rows()) } else { None }
}

/// The same for the enterprise edition, which has but one layer.
pub(super) fn enterprise(call: Call, body: &Bytes) -> Option<Rows> {
    let mut page = Page::new(call, body);
    let mut yes = None;
    let mut skim = Skim::new(body);
    skim.object(|skim, key| match key {
        b"code" => once(&mut yes, skim.is_zero()?),
        _ => page.field(skim, key),
    })?;
    skim.end()?;
    if yes? { page.rows() } else { None }
}

/// A key that comes twice means what the careful reader says it means.
fn once<T>(slot: &mut Option<T>, value: T) -> Option<()> {
    slot.replace(value).is_none().then_some(())
}

/// A page in the making.
struct Page<'a> {
    id_field: &'static str,
    body: &'a Bytes,
    records: Option<Vec<RawRecord>>,
    count: Option<Option<u64>>,
}

impl<'a> Page<'a> {
    fn new(call: Call, body: &'a Bytes) -> Self {
        Self { id_field: record::id_field(feed_of(call)), body, records: None, count: None }
    }

    fn field(&mut self, skim: &mut Skim<'a>, key: &[u8]) -> Option<()> {
        match key {
            b"total_count" => once(&mut self.count, skim.count()?),
            b"stockout_list" | b"order" => {
                let mut records = Vec::new();
                skim.array(|skim| {
                    let found = skim.record(self.id_field)?;
                    records.push(RawRecord { id: found.id, json: self.body.slice(found.span) });
                    Some(())
                })?;
                once(&mut self.records, records)
            }
            _ => skim.other(),
        }
    }

    fn rows(self) -> Option<Rows> {
        Some(Rows { rows: self.records?, total_count: self.count.flatten() })
    }
}

/// One record within the text that is skimmed.
struct Found {
    id: Option<Arc<str>>,
    span: Range<usize>,
}

/// A place in a text. Every step gives `None` where the text does not go on as it should.
struct Skim<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Skim<'a> {
    fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// The next byte that is no white space, which stays.
    fn peek(&mut self) -> Option<u8> {
        loop {
            match self.text.get(self.at)? {
                b' ' | b'\n' | b'\r' | b'\t' => self.at += 1,
                byte => return Some(*byte),
            }
        }
    }

    fn take(&mut self, wanted: u8) -> Option<()> {
        if self.peek()? == wanted {
            self.at += 1;
            Some(())
        } else {
            None
        }
    }

    fn end(&mut self) -> Option<()> {
        self.peek().is_none().then_some(())
    }

    /// The members of an object; `member` reads one's value.
    fn object(&mut self, mut member: impl FnMut(&mut Self, &'a [u8]) -> Option<()>) -> Option<()> {
        self.list(b'{', b'}', |skim| {
            let key = skim.key()?;
            if key.iter().any(u8::is_ascii_control) || std::str::from_utf8(key).is_err() {
                return None;
            }
            member(skim, key)
        })
    }

    /// The elements of an array; `element` reads one.
    fn array(&mut self, element: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.list(b'[', b']', element)
    }

    fn list(
        &mut self,
        open: u8,
        close: u8,
        mut item: impl FnMut(&mut Self) -> Option<()>,
    ) -> Option<()> {
        self.take(open)?;
        if self.peek()? == close {
            self.at += 1;
            return Some(());
        }
        loop {
            item(self)?;
            match self.peek()? {
                b',' => self.at += 1,
                byte if byte == close => {
                    self.at += 1;
                    return Some(());
                }
                _ => return None,
            }
        }
    }

    /// A member's name and its colon. One with escapes could be any name.
    fn key(&mut self) -> Option<&'a [u8]> {
        self.take(b'"')?;
        let start = self.at;
        self.at = string_end(self.text, start)?;
        let key = self.text.get(start..self.at - 1)?;
        self.take(b':')?;
        (!key.contains(&b'\\')).then_some(key)
    }

    /// Any value, which is not looked at.
    fn value(&mut self) -> Option<&'a [u8]> {
        let first = self.peek()?;
        let start = self.at;
        match first {
            b'"' => self.at = string_end(self.text, start + 1)?,
            b'{' | b'[' => self.at = closed(self.text, start + 1, 1)?,
            _ => {
                let rest = self.text.get(start..)?;
                let length = rest.iter().position(|byte| {
                    matches!(byte, b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t')
                });
                self.at += length.unwrap_or(rest.len());
            }
        }
        self.text.get(start..self.at).filter(|value| !value.is_empty())
    }

    /// A value that is of no interest, but must be one.
    fn other(&mut self) -> Option<()> {
        is_json(self.value()?).then_some(())
    }

    fn is_zero(&mut self) -> Option<bool> {
        Some(matches!(self.value()?, b"0" | b"\"0\""))
    }

    fn count(&mut self) -> Option<Option<u64>> {
        let value = self.value()?;
        if value == b"null" {
            return Some(None);
        }
        let digits =
            value.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")).unwrap_or(value);
        let canonical = digits.iter().all(u8::is_ascii_digit)
            && (digits.len() == 1 || digits.first() != Some(&b'0'));
        if canonical { std::str::from_utf8(digits).ok()?.parse().ok().map(Some) } else { None }
    }

    /// An object, read as far as its id.
    fn record(&mut self, id_field: &str) -> Option<Found> {
        self.peek()?;
        let start = self.at;
        let mut id = None;
        self.take(b'{')?;
        while self.peek()? == b'"' {
            // One that cannot be followed is left to the decoder, as long as its brackets are
            // closed.
            let Some(key) = self.key() else { break };
            let Some(value) = self.value() else { break };
            if key == id_field.as_bytes() {
                id = identity(value);
                break;
            }
            if self.peek()? == b',' {
                self.at += 1;
            }
        }
        self.at = closed(self.text, self.at, 1)?;
        Some(Found { id, span: start..self.at })
    }
}

/// An id's text. Numbers and texts are both ids.
fn identity(value: &[u8]) -> Option<Arc<str>> {
    let value = std::str::from_utf8(value).ok()?;
    match value.parse::<u64>() {
        Ok(number) => Some(number.to_string().into()),
        Err(_) => serde_json::from_str(value)
            .ok()
            .filter(|text: &String| !text.is_empty())
            .map(Into::into),
    }
}

/// Where a text ends whose first byte stands at `at`: behind its closing quote.
fn string_end(text: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(page: Option<Rows>) -> Option<(Vec<Option<String>>, Option<u64>)> {
        page.map(|page| {
            (
                page.rows.iter().map(|row| row.id.as_deref().map(str::to_owned)).collect(),
                page.total_count,
            )
        })
    }

    fn returns(body: &str) -> Option<(Vec<Option<String>>, Option<u64>)> {
        shown(flagship(Call::QueryPurchaseReturns, &Bytes::copy_from_slice(body.as_bytes())))
    }

    #[test]
    fn a_page_is_found_in_any_spelling() {
        let body = r#" { "message" : "", "data": {"order" : [ {"x":[{"return_id":3}],"return_id" : 7 , "y":"}\""} ,{"return_id":"a"}, {}], "total_count":3} ,"status": 0 } "#;
        assert_eq!(
            returns(body),
            Some((vec![Some("7".to_owned()), Some("a".to_owned()), None], Some(3)))
        );
        let body = r#"{"status":"0","data":{"stockout_list":[],"total_count":null}}"#;
        assert_eq!(returns(body), Some((vec![], None)));
        let page = enterprise(
            Call::QueryOutboundsEnterprise,
            &Bytes::from_static(br#"{"code":"0","message":"ok","total_count":"1","stockout_list":[{"stockout_id":"9258"}]}"#),
        );
        assert_eq!(shown(page), Some((vec![Some("9258".to_owned())], Some(1))));
    }

    #[test]
    fn what_is_not_documented_is_left_to_the_careful_reader() {
        for body in [
            "",
            "{}",
            "[]",
            r#"{"status":0}"#,
            r#"{"status":0,"data":{}}"#,
            r#"{"status":0,"data":{"order":{}}}"#,
            r#"{"status":0,"data":{"order":[7]}}"#,
            r#"{"status":0,"data":{"order":[{}]"#,
            r#"{"status":0,"data":{"order":[{},]}}"#,
            r#"{"status":0,"data":{"order":[{} {}]}}"#,
            r#"{"status":0,"data":{"order":[{}],"order":[]}}"#,
            r#"{"status":0,"data":{"order":[{}],"stockout_list":[]}}"#,
            r#"{"status":0,"data":{"order":[],"total_count":-1}}"#,
            r#"{"status":0,"data":{"order":[],"total_count":01}}"#,
            r#"{"status":0,"data":{"order":[]}} x"#,
            r#"{"status":0,"x":tru,"data":{"order":[]}}"#,
            r#"{"stat\u0075s":0,"status":0,"data":{"order":[]}}"#,
            r#"{"status":1,"message":"no","data":{"order":[]}}"#,
            r#"{"status":0,"data":{"order":[{"a":"b]}}"#,
            r#"{"status":0,"data":{"order":[{"a":"b\"]}}"#,
        ] {
            assert_eq!(returns(body), None, "{body}");
        }
    }

    #[test]
    fn ids_are_read_without_the_rest() {
        let id = |text: &'static str| {
            RawRecord::new(Feed::ReturnOutbounds, Bytes::from_static(text.as_bytes())).id
        };
        assert_eq!(id(r#"{"a":[1.5e900],"stockout_id":"9258"}"#).as_deref(), Some("9258"));
        assert_eq!(id(r#"{"stockout_id":9258}"#).as_deref(), Some("9258"));
        for text in [
            r#"{"return_id":1}"#,
            r#"{"stockout_id":null}"#,
            r#"{"stockout_id":""}"#,
            r#"{"stockout_id":[1]}"#,
            "7",
        ] {
            assert_eq!(id(text), None, "{text}");
        }
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            r#"[a-z{}\[\],:"\\ 旺\n]{0,6}"#.prop_map(Into::into),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::vec((r#"[a-c"\\]{1,2}|return_id"#, inner), 0..4)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn records_are_split_where_a_parser_splits_them(records in prop::collection::vec(any_json(), 0..5), pretty: bool) {
            let records: Vec<_> = records.into_iter().filter(serde_json::Value::is_object).collect();
            let page = serde_json::json!({"status": 0, "data": {"total_count": records.len(), "order": records}});
            let body = if pretty { serde_json::to_vec_pretty(&page).unwrap() } else { serde_json::to_vec(&page).unwrap() };
            let found = flagship(Call::QueryPurchaseReturns, &body.into()).unwrap();
            let parsed: Vec<serde_json::Value> = found.rows.iter().map(|row| serde_json::from_slice(&row.json).unwrap()).collect();
            prop_assert_eq!(&parsed, &records);
        }

        /// Whatever is cut off or overwritten: what is found is JSON between JSON, or its record
        /// says that it is none.
        #[test]
        fn a_broken_page_is_never_taken_for_another(records in prop::collection::vec(any_json(), 1..4), at: prop::sample::Index, byte: u8) {
            let records: Vec<_> = records.into_iter().filter(serde_json::Value::is_object).collect();
            let page = serde_json::json!({"status": 0, "data": {"total_count": records.len(), "order": records}});
            let mut body = serde_json::to_vec(&page).unwrap();
            let at = at.index(body.len());
            body[at] = byte;
            let whole = is_json(&body);
            if let Some(found) = flagship(Call::QueryPurchaseReturns, &body.into()) {
                prop_assert_eq!(whole, found.rows.iter().all(|row| is_json(&row.json)));
            }
        }
    }
}
