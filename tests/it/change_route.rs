//! The change pipeline on a real broker: what the ERP holds and what changes in it comes out once.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

use crate::kit::{
    erp::Kind,
    records::{Reader, read_all},
    rig::{PATIENCE, Rig},
    until,
};

/// The envelopes of a topic by record number, in order of arrival within a number.
fn by_number(rig: &Rig, reader: &Reader) -> BTreeMap<String, Vec<Value>> {
    let mut all = BTreeMap::<String, Vec<Value>>::new();
    for record in &reader.seen {
        all.entry(record.key_text()).or_default().push(rig.json(record));
    }
    all
}

/// Waits until the feed's live pass has begun a window that ends after this moment and has
/// published it.
///
/// What shows it: a record modified now comes out; everything before it in the same feed has then
/// been read.
fn fence(rig: &Rig, kind: Kind, reader: &mut Reader) {
    let number = rig.erp.add_one(kind);
    let key = number.clone().into_bytes();
    reader.until(&format!("the fence record {number}"), PATIENCE, |seen| {
        seen.iter().any(|record| record.key.as_deref() == Some(&key))
    });
    reader.finish();
}

fn five_thousand(rig: &Rig, kind: Kind, topic: &str) {
    const COUNT: usize = 5_000;
    let numbers = rig.erp.seed(kind, COUNT);
    let connector = rig.start();
    let mut reader = Reader::new(topic);
    reader.at_least(COUNT, PATIENCE);
    reader.finish();
    let first = by_number(rig, &reader);
    assert_eq!((first.len(), reader.seen.len()), (COUNT, COUNT), "each once");
    for number in &numbers {
        let event = &first[number][0];
        assert_eq!((&event["op"], &event["before"]), (&json!("r"), &Value::Null), "{event}");
        assert_eq!(event["source"]["connector"], "wdt", "{event}");
        assert_eq!(event["source"]["name"], rig.application_id.as_str(), "{event}");
    }

    // Modifications come out as updates whose `before` is what was published last.
    for turn in 1..=2 {
        for number in numbers.iter().step_by(100) {
            rig.erp.modify(kind, number, &json!({"remark": format!("turn {turn}")}));
        }
        reader.at_least(COUNT + turn * 50, PATIENCE);
        reader.finish();
        let now = by_number(rig, &reader);
        assert_eq!(reader.seen.len(), COUNT + turn * 50, "nothing but what was modified");
        for number in numbers.iter().step_by(100) {
            let events = &now[number];
            assert_eq!(events.len(), 1 + turn, "{number}: {events:?}");
            assert_eq!(events[turn]["op"], "u", "{number}");
            assert_eq!(events[turn]["before"], events[turn - 1]["after"], "{number}");
            assert_eq!(events[turn]["after"]["remark"], format!("turn {turn}"), "{number}");
        }
    }

    // What is new after the first read is a create.
    fence(rig, kind, &mut reader);
    let last = rig.json(reader.seen.last().unwrap());
    assert_eq!((&last["op"], &last["before"]), (&json!("c"), &Value::Null), "{last}");

    // Neither a crash nor losing the cache publishes anything again.
    let before = reader.seen.len();
    connector.kill();
    std::fs::remove_dir_all(rig.path("cache")).unwrap();
    let connector = rig.start();
    fence(rig, kind, &mut reader);
    assert_eq!(reader.seen.len(), before + 1, "a restart publishes nothing again");
    assert_eq!(connector.terminate(Duration::from_secs(20)).code(), Some(0));
    assert!(read_all(&rig.topics.feeds_dlq).is_empty());
}

#[test]
fn five_thousand_returns_come_out_once_each() {
    let rig = Rig::new("returns").purchase_returns();
    five_thousand(&rig, Kind::Returns, &rig.topics.purchase_returns);
}

#[test]
fn five_thousand_flagship_outbounds_come_out_once_each() {
    let rig = Rig::new("outbounds").return_outbounds("flagship");
    five_thousand(&rig, Kind::FlagshipOutbounds, &rig.topics.return_outbounds);
}

#[test]
fn five_thousand_enterprise_outbounds_come_out_once_each() {
    let rig = Rig::new("enterprise").return_outbounds("enterprise");
    five_thousand(&rig, Kind::EnterpriseOutbounds, &rig.topics.return_outbounds);
}

#[test]
fn changes_go_through_the_registry() {
    let rig = Rig::new("feedreg").purchase_returns().with_registry();
    rig.erp.seed(Kind::Returns, 20);
    let _connector = rig.start();
    let mut reader = Reader::new(&rig.topics.purchase_returns);
    reader.at_least(20, PATIENCE);
    assert!(
        by_number(&rig, &reader).values().all(|events| events.len() == 1 && events[0]["op"] == "r")
    );
    let subject = format!(
        "{}/subjects/{}-value/versions/latest",
        crate::parts::registry().url(),
        rig.topics.purchase_returns
    );
    let schema =
        crate::kit::http::get(&subject).unwrap().json()["schema"].as_str().unwrap().to_owned();
    assert!(schema.contains("Envelope"), "{schema}");
}

#[test]
fn a_record_modified_while_it_is_paged_is_not_missed() {
    let rig = Rig::new("paging").purchase_returns();
    let numbers = rig.erp.seed(Kind::Returns, 1_000);
    // Every query finds two of its records modified before it answers: they leave the window and
    // shift the others.
    rig.erp.faults("purchaseReturns:modify(2)=40x");
    let _connector = rig.start();
    let mut reader = Reader::new(&rig.topics.purchase_returns);
    reader.until("every return at least once", PATIENCE, |seen| {
        let keys: std::collections::BTreeSet<_> =
            seen.iter().map(|record| record.key.clone()).collect();
        keys.len() >= numbers.len()
    });
    fence(&rig, Kind::Returns, &mut reader);
    for (number, events) in by_number(&rig, &reader) {
        for pair in events.windows(2) {
            assert_eq!(pair[1]["before"], pair[0]["after"], "{number}");
        }
    }
}

#[test]
fn a_record_that_does_not_fit_goes_to_the_feeds_dead_letters_once() {
    let rig = Rig::new("feeddlq").purchase_returns();
    let numbers = rig.erp.seed(Kind::Returns, 20);
    rig.erp.modify(Kind::Returns, &numbers[3], &json!({"set": {"modified": "not a time"}}));
    let connector = rig.start();
    let mut reader = Reader::new(&rig.topics.purchase_returns);
    reader.at_least(19, PATIENCE);
    fence(&rig, Kind::Returns, &mut reader);
    assert_eq!(reader.seen.len(), 20, "19 and the fence");
    let letters = read_all(&rig.topics.feeds_dlq);
    assert_eq!(letters.len(), 1, "once per content, though every poll may see it");
    let raw: Value = serde_json::from_slice(letters[0].value.as_deref().unwrap()).unwrap();
    assert_eq!(raw["return_no"], numbers[3].as_str(), "the ERP's JSON as it came");
    assert!(
        letters[0]
            .header("__connect.errors.exception.message")
            .is_some_and(|reason| reason.contains("modified")),
        "{:?}",
        letters[0]
    );
    // Repaired, it comes out like any other.
    rig.erp.modify(Kind::Returns, &numbers[3], &json!({"restore": ["modified"]}));
    reader.until("the repaired return", PATIENCE, |seen| {
        seen.iter().any(|record| record.key_text() == numbers[3])
    });
    drop(connector);
}

#[test]
fn fields_nobody_knows_are_kept_as_extra() {
    let rig = Rig::new("extra").purchase_returns();
    let numbers = rig.erp.seed(Kind::Returns, 2);
    rig.erp.modify_text(
        Kind::Returns,
        &numbers[0],
        r#"{"set": {"brand_new": {"a": [1.50, "x"]}}}"#,
    );
    let _connector = rig.start();
    let mut reader = Reader::new(&rig.topics.purchase_returns);
    reader.at_least(2, PATIENCE);
    let all = by_number(&rig, &reader);
    let extra = all[&numbers[0]].last().unwrap()["after"]["extra"]["brand_new"].clone();
    // JSON text, digit for digit.
    assert_eq!(
        extra.as_str().map(|text| text.replace(' ', "")),
        Some(r#"{"a":[1.50,"x"]}"#.to_owned())
    );
}

#[test]
fn both_routes_run_together_and_close_the_loop() {
    let rig = Rig::new("loop").commands("avro").purchase_returns().return_outbounds("flagship");
    let all: Vec<_> = (0..20)
        .map(|number| {
            crate::kit::commands::command(&format!("CT-{number}"), &format!("cmd-{number}"))
        })
        .collect();
    rig.erp.approve(all.iter().map(|one| one.return_no.clone()));
    let connector = rig.start();
    rig.send(&all);
    let results = rig.results(20);
    let mut reader = Reader::new(&rig.topics.return_outbounds);
    reader.at_least(20, PATIENCE);
    let events = by_number(&rig, &reader);
    for result in &results {
        let event = &events[result.outbound_no.as_ref().unwrap()][0];
        assert_eq!(event["after"]["src_order_no"], result.return_no.as_str(), "{event}");
        // An intent is in the journal before its order can exist, and the feed looks a second
        // behind.
        assert_eq!(event["source"]["command_id"], result.command_id.as_str(), "{event}");
        let marker = event["source"]["marker"].as_str().unwrap();
        assert!(event["after"]["remark"].as_str().unwrap().starts_with(marker), "{event}");
    }
    // An order that somebody made by hand has no command, and neither has one whose remark only
    // looks like ours.
    let by_hand = rig.erp.add_one(Kind::FlagshipOutbounds);
    rig.erp.modify(
        Kind::FlagshipOutbounds,
        &by_hand,
        &json!({"remark": "#ABCDEFGHIJKLM not ours"}),
    );
    reader.until("the order made by hand", PATIENCE, |seen| {
        seen.iter().any(|record| record.key_text() == by_hand)
    });
    let last = rig.json(reader.seen.iter().rfind(|record| record.key_text() == by_hand).unwrap());
    assert!(last["source"]["command_id"].is_null() && last["source"]["marker"].is_null(), "{last}");
    // A restart with an empty cache knows the commands again: a later version of an order names its
    // command, too.
    assert_eq!(connector.terminate(Duration::from_secs(20)).code(), Some(0));
    std::fs::remove_dir_all(rig.path("cache")).unwrap();
    let connector = rig.start();
    let number = results[0].outbound_no.as_ref().unwrap();
    rig.erp.modify(Kind::FlagshipOutbounds, number, &json!({"status": 110}));
    reader.until("the order's next version", PATIENCE, |seen| {
        seen.iter().filter(|record| record.key_text() == *number).count() == 2
    });
    let next = rig.json(reader.seen.iter().rfind(|record| record.key_text() == *number).unwrap());
    assert_eq!(next["source"]["command_id"], results[0].command_id.as_str(), "{next}");
    until("healthy", PATIENCE, || {
        crate::kit::http::get(&connector.url("/healthz")).ok().filter(|answer| answer.status == 200)
    });
    assert_eq!(connector.terminate(Duration::from_secs(20)).code(), Some(0));
}
