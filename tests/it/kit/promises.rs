//! The promises of the change pipeline, checked on what was published and what the ERP holds in the
//! end.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use wdt_connector::testing::{clock::Timestamp, decimal::Decimal};

use super::{
    erp::{Erp, Kind},
    records::Reader,
    rig::Rig,
};

/// What a run came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub records: usize,
    pub events: usize,
    /// Records whose last event is not what the ERP holds.
    pub missed: usize,
    /// Versions that came more than once.
    pub repeated: usize,
    /// Events whose modified time lies before that of the event before.
    pub went_back: usize,
}

/// Judges everything published of `kind` against the ERP as it is now. Panics with the first broken
/// promise's details when something was missed or repeated, or when `before` is not what was
/// published last.
pub fn judge(rig: &Rig, kind: Kind, reader: &Reader) -> Tally {
    let mut by_number = BTreeMap::<String, Vec<Value>>::new();
    for record in &reader.seen {
        by_number.entry(record.key_text()).or_default().push(rig.json(record));
    }
    let mut tally = Tally { events: reader.seen.len(), ..Tally::default() };
    let mut trouble = Vec::new();
    for (number, events) in &by_number {
        let mut versions = BTreeSet::new();
        let mut last: Option<&Value> = None;
        for event in events {
            let after = &event["after"];
            if !versions.insert(after.to_string()) {
                tally.repeated += 1;
                trouble.push(format!("{number} repeats a version: {event}"));
            }
            assert_eq!(last.is_none(), event["op"] != "u", "{number}: {event}");
            if let Some(last) = last {
                assert_eq!(&event["before"], last, "{number}: `before` is what was published last");
                tally.went_back +=
                    usize::from(after["modified"].as_str() < last["modified"].as_str());
            }
            last = Some(after);
        }
    }
    for held in all(&rig.erp, kind) {
        tally.records += 1;
        let number = held[if kind == Kind::Returns { "return_no" } else { "order_no" }]
            .as_str()
            .expect("a number")
            .to_owned();
        let last = by_number.get(&number).and_then(|events| events.last());
        let fault = last.map_or_else(
            || Some("was never published".to_owned()),
            |last| difference(&last["after"], &held, ""),
        );
        if let Some(fault) = fault {
            tally.missed += 1;
            trouble.push(format!(
                "{number}: {fault}; the ERP holds {held}; last event {}",
                last.unwrap_or(&Value::Null)
            ));
        }
    }
    assert!(
        trouble.is_empty(),
        "{tally:?}; {} broken promises, the first: {}",
        trouble.len(),
        trouble[0]
    );
    tally
}

/// Every record the ERP holds of a kind that its query shows.
pub fn all(erp: &Erp, kind: Kind) -> Vec<Value> {
    let mut held = Vec::new();
    loop {
        let page = erp.page(kind, held.len(), 500);
        if page.is_empty() {
            return held;
        }
        held.extend(page);
    }
}

/// The first field in which a published record is not what the ERP holds, compared by meaning:
/// `"1.50"` is `1.5000`, Beijing time is the same instant in UTC, an empty text where a number
/// belongs is null.
pub fn difference(published: &Value, held: &Value, path: &str) -> Option<String> {
    let Value::Object(fields) = published else {
        return Some(format!("{path} is no record: {published}"));
    };
    fields.iter().find_map(|(name, ours)| {
        let path = format!("{path}.{name}");
        if name == "extra" {
            return (ours.as_object().is_none_or(|extra| !extra.is_empty()))
                .then(|| format!("{path} holds {ours}"));
        }
        let theirs = held
            .get(name)
            .or_else(|| (name == "details_list").then(|| held.get("detail_list")).flatten())
            .unwrap_or(&Value::Null);
        if let (Value::Array(ours), Value::Array(theirs)) = (ours, theirs) {
            if ours.len() != theirs.len() {
                return Some(format!(
                    "{path} has {} entries instead of {}",
                    ours.len(),
                    theirs.len()
                ));
            }
            return ours
                .iter()
                .zip(theirs)
                .find_map(|(ours, theirs)| difference(ours, theirs, &path));
        }
        (!same(ours, theirs)).then(|| format!("{path} is {ours} instead of {theirs}"))
    })
}

fn same(ours: &Value, theirs: &Value) -> bool {
    let text = theirs.as_str().map_or_else(|| theirs.to_string(), str::to_owned);
    match ours {
        Value::Null => theirs.is_null() || text.is_empty() || text.starts_with("0000-00-00"),
        Value::Bool(ours) => text == ours.to_string() || text == u8::from(*ours).to_string(),
        Value::Number(ours) => text == ours.to_string(),
        Value::String(ours) => {
            *ours == text
                || Decimal::parse(&text).is_ok_and(|decimal| decimal.to_string() == *ours)
                || Timestamp::from_beijing(&text)
                    .is_some_and(|instant| instant.to_string() == *ours)
                || text.parse().is_ok_and(|ms| Timestamp(ms).to_string() == *ours)
        }
        Value::Array(_) | Value::Object(_) => false,
    }
}

#[test]
fn meaning_is_compared_not_spelling() {
    let held = serde_json::json!({"n": "1.50", "m": "2022-08-10 15:49:11", "e": "", "b": 1, "l": [{"x": 5}]});
    let ours = serde_json::json!({"n": "1.5000", "m": "2022-08-10T07:49:11.000Z", "e": null, "b": true, "l": [{"x": 5}], "extra": {}});
    assert_eq!(difference(&ours, &held, ""), None);
    for (field, other) in [
        ("n", "1.5001".into()),
        ("m", "2022-08-10T07:49:12.000Z".into()),
        ("b", false.into()),
        ("extra", serde_json::json!({"q": "1"})),
    ] {
        let mut changed = ours.clone();
        changed[field] = other;
        assert!(
            difference(&changed, &held, "")
                .is_some_and(|fault| fault.starts_with(&format!(".{field}"))),
            "{field}"
        );
    }
}
