//! The promises of the change pipeline, checked on what was published and what the ERP holds in the
//! end.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::{Duration, Instant},
};

use serde_json::Value;
use wdt_connector::testing::{clock::Timestamp, decimal::Decimal};

use super::{
    connector::Connector,
    erp::{Erp, Kind},
    records::Reader,
    rig::{PATIENCE, Rig},
    until,
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

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.records += other.records;
        self.events += other.events;
        self.missed += other.missed;
        self.repeated += other.repeated;
        self.went_back += other.went_back;
    }
}

/// Judges everything published of `kind` against the ERP as it is now. Panics with the first broken
/// promise's details when something was missed or repeated, or when `before` is not what was
/// published last.
pub fn judge(rig: &Rig, kind: Kind, reader: &Reader) -> Tally {
    let (tally, trouble) = compare(rig, kind, reader);
    assert!(
        trouble.is_empty(),
        "{tally:?}; {} broken promises, the first: {}",
        trouble.len(),
        trouble[0]
    );
    tally
}

/// What was published last of one record; texts, since a long run publishes a hundred thousand.
#[derive(Debug, Default)]
struct Published {
    /// Hashes of all versions.
    versions: BTreeSet<u64>,
    /// The last version.
    after: String,
    modified: Option<String>,
}

/// The same without panicking about what was missed or repeated: a line for each.
pub fn compare(rig: &Rig, kind: Kind, reader: &Reader) -> (Tally, Vec<String>) {
    let mut by_number = BTreeMap::<String, Published>::new();
    let mut tally = Tally { events: reader.seen.len(), ..Tally::default() };
    let mut trouble = Vec::new();
    for record in &reader.seen {
        let (number, event) = (record.key_text(), rig.json(record));
        let after = event["after"].to_string();
        let modified = event["after"]["modified"].as_str().map(str::to_owned);
        let first = !by_number.contains_key(&number);
        assert_eq!(first, event["op"] != "u", "{number}: {event}");
        let last = by_number.entry(number.clone()).or_default();
        let mut hasher = DefaultHasher::new();
        after.hash(&mut hasher);
        if !last.versions.insert(hasher.finish()) {
            tally.repeated += 1;
            trouble.push(format!("{number} repeats a version: {event}"));
        }
        if !first {
            assert_eq!(
                event["before"].to_string(),
                last.after,
                "{number}: `before` is what was published last"
            );
            tally.went_back += usize::from(modified < last.modified);
        }
        (last.after, last.modified) = (after, modified);
    }
    for held in all(&rig.erp, kind) {
        tally.records += 1;
        let number = held[if kind == Kind::Returns { "return_no" } else { "order_no" }]
            .as_str()
            .expect("a number")
            .to_owned();
        let last = by_number.get(&number);
        let fault = last.map_or_else(
            || Some("was never published".to_owned()),
            |last| {
                let after = serde_json::from_str(&last.after).expect("it was JSON");
                difference(&after, &held, "")
            },
        );
        if let Some(fault) = fault {
            tally.missed += 1;
            trouble.push(format!(
                "{number}: {fault}; the ERP holds {held}; last event {}",
                last.map_or("none", |last| &last.after)
            ));
        }
    }
    (tally, trouble)
}

/// The feed's name in configuration, `/status` and metrics.
pub fn feed_name(kind: Kind) -> &'static str {
    if kind == Kind::Returns { "purchase_returns" } else { "return_outbounds" }
}

/// The feed's topic.
pub fn topic(rig: &Rig, kind: Kind) -> &str {
    if kind == Kind::Returns { &rig.topics.purchase_returns } else { &rig.topics.return_outbounds }
}

/// The feed's part of `/status`.
pub fn feed(connector: &Connector, kind: Kind) -> Value {
    connector.status()["sections"]["feeds"][feed_name(kind)].clone()
}

/// Waits until both passes have been beyond this moment and no window is left unproven: what was
/// modified before it has been read twice, and as it was.
pub fn settle(connector: &Connector, kind: Kind) {
    assert_eq!(settle_as_far(connector, kind), 0, "windows that were never read as they are");
}

/// The same, except that windows which stay unproven are counted.
pub fn settle_as_far(connector: &Connector, kind: Kind) -> usize {
    pass_on(connector, kind);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = feed(connector, kind)["unproven"].as_array().map_or(0, Vec::len);
        if left == 0 || Instant::now() >= deadline {
            return left;
        }
        // Another process can only be polled.
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Waits until both passes have been beyond this moment.
fn pass_on(connector: &Connector, kind: Kind) {
    let now = Timestamp::now();
    until("both passes to come beyond now", PATIENCE, || {
        let feed = feed(connector, kind);
        let beyond = |name: &str| instant(&feed[name]).is_some_and(|at| at > now);
        (beyond("watermark") && beyond("late_watermark")).then_some(())
    });
}

fn instant(value: &Value) -> Option<Timestamp> {
    value
        .as_str()
        .and_then(|text| text.parse::<jiff::Timestamp>().ok())
        .map(|instant| Timestamp(instant.as_millisecond()))
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
