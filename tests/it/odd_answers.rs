//! Answers of the ERP that are not quite what is documented: what can be read of them is published,
//! what cannot goes to the dead letters, and nothing of them is taken for an absence.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use wdt_connector::testing::{clock::Timestamp, schema::Outcome};

use crate::{
    kit::{
        commands::{WAREHOUSE, command},
        erp::Kind,
        records::{Reader, read_all},
        rewriter::{Rewriter, replaced},
        rig::{PATIENCE, Rig},
        until,
    },
    limits::assert_small,
};

const RETURNS: &str = "purchase.PurchaseReturn.queryWithDetail";

/// The rig's ERP behind a server that changes its answers.
fn behind(
    rig: &mut Rig,
    rewrite: impl Fn(&str, Vec<u8>) -> Vec<u8> + Send + Sync + 'static,
) -> Rewriter {
    let rewriter = Rewriter::before(rig.erp.flagship_url(), rewrite);
    rig.config.set("erp.flagship", "url", rewriter.url(rig.erp.flagship_url()));
    rewriter
}

#[test]
fn a_broken_record_goes_to_the_dead_letters_and_its_window_ends() {
    let mut rig = Rig::with_partitions("broken", 1).purchase_returns();
    let numbers = rig.erp.seed(Kind::Returns, 5);
    for (number, remark) in numbers.iter().zip(["CUT", "TWO_LINES", "TABBED"]) {
        rig.erp.modify(Kind::Returns, number, &json!({"remark": remark}));
    }
    let _rewriter = behind(&mut rig, |_, answer| {
        let answer = replaced(&answer, b"CUT", b"\xe7\xa0");
        let answer = replaced(&answer, b"TWO_LINES", b"one\ntwo");
        let answer = replaced(&answer, b"TABBED", b"a\tb");
        // PHP's empty object, as every window without records is answered.
        replaced(&answer, b"\"order\":[]", b"\"order\":{}")
    });
    let connector = rig.start();
    let mut reader = Reader::new(&rig.topics.purchase_returns);
    reader.at_least(4, PATIENCE);
    // What is modified later comes out: the window with the broken record has ended.
    let later = rig.erp.add_one(Kind::Returns);
    reader.until("a later record", PATIENCE, |seen| {
        seen.iter().any(|record| record.key_text() == later)
    });
    reader.finish();
    let remarks: BTreeMap<String, serde_json::Value> = reader
        .seen
        .iter()
        .map(|record| (record.key_text(), rig.json(record)["after"]["remark"].clone()))
        .collect();
    assert_eq!(remarks.len(), 5, "{remarks:?}");
    assert!(!remarks.contains_key(&numbers[0]));
    assert_eq!(
        (&remarks[&numbers[1]], &remarks[&numbers[2]]),
        (&json!("one\ntwo"), &json!("a\tb"))
    );
    let letters = read_all(&rig.topics.feeds_dlq);
    assert_eq!(letters.len(), 1, "once per content: {letters:?}");
    let value = letters[0].value.clone().unwrap();
    assert!(value.windows(3).any(|part| part == b"\"\xe7\xa0"), "as it came");
    let reason = letters[0].header("__connect.errors.exception.message").unwrap();
    assert!(reason.contains("record is not UTF-8 from byte "), "{reason}");
    let id = rig.erp.record(Kind::Returns, &numbers[0])["return_id"].to_string();
    assert!(letters[0].key_text().contains(id.trim_matches('"')), "{}", letters[0].key_text());
    assert!(!connector.log().contains("window read failed"), "{}", connector.log());
}

const OUTBOUNDS: &str = "wms.stockout.PurchaseReturn.queryWithDetail";

/// One outbound order in forms that no page documents; its lines and an unknown object the other
/// way round when `turned`.
fn odd_outbound(row: &mut serde_json::Value, turned: bool) {
    row["order_no"] = json!(900_000_000 + row["stockout_id"].as_i64().expect("an id"));
    row["goods_total_cost"] = json!("9.94241234");
    row["consign_time"] = json!(0);
    let modified = row["modified"].as_str().expect("a clock").replace(' ', "T");
    row["modified"] = json!(format!("{modified}.000+08:00"));
    let (mut one, mut other) = (row["details_list"][0].clone(), row["details_list"][0].clone());
    (one["rec_id"], other["rec_id"]) = (json!(1), json!(2));
    row["details_list"] = if turned { json!([other, one]) } else { json!([one, other]) };
    row["unknown"] = json!(if turned { "TURNED" } else { "STRAIGHT" });
}

/// What some servers write for a number, a time, or nothing is read, and no other order of lines is
/// a change.
#[test]
fn values_in_other_forms_come_out_once_in_their_events() {
    let mut rig = Rig::with_partitions("forms", 1).purchase_returns().return_outbounds("flagship");
    let turned = Arc::new(AtomicBool::new(false));
    // Answers with an outbound order the other way round.
    let shown = Arc::new(AtomicUsize::new(0));
    let (turn, count) = (Arc::clone(&turned), Arc::clone(&shown));
    let _rewriter = behind(&mut rig, move |request, answer| {
        let outbounds = request.contains(OUTBOUNDS);
        if !outbounds && !request.contains(RETURNS) {
            return answer;
        }
        let mut json: serde_json::Value = serde_json::from_slice(&answer).expect("JSON");
        let turned = turn.load(Ordering::SeqCst);
        for row in json["data"]["order"].as_array_mut().into_iter().flatten() {
            if outbounds {
                odd_outbound(row, turned);
                count.fetch_add(usize::from(turned), Ordering::SeqCst);
            } else {
                (row["check_time"], row["detail_list"]) = (json!(0), serde_json::Value::Null);
            }
        }
        let answer = replaced(json.to_string().as_bytes(), b"\"STRAIGHT\"", br#"{"b":1.0,"a":2}"#);
        replaced(&answer, b"\"TURNED\"", br#"{ "a": 2, "b": 1.0 }"#)
    });
    let began = Timestamp::now().minus(Duration::from_secs(60)).floor_second().to_string();
    let mut connector = rig.start();
    let (mut returns, mut orders) =
        (Reader::new(&rig.topics.purchase_returns), Reader::new(&rig.topics.return_outbounds));
    rig.erp.add_one(Kind::Returns);
    rig.erp.add_one(Kind::FlagshipOutbounds);
    let event = rig.json(&returns.at_least(1, PATIENCE)[0]);
    assert_eq!(
        (&event["after"]["check_time"], &event["after"]["detail_list"], &event["after"]["extra"]),
        (&serde_json::Value::Null, &json!([]), &json!({})),
    );
    let record = orders.at_least(1, PATIENCE)[0].clone();
    let after = &rig.json(&record)["after"];
    let id = after["stockout_id"].as_i64().unwrap();
    assert_eq!(record.key_text(), (900_000_000 + id).to_string());
    assert_eq!(after["order_no"], record.key_text());
    assert_eq!(after["goods_total_cost"], serde_json::Value::Null);
    assert_eq!(after["consign_time"], serde_json::Value::Null);
    assert_eq!(
        after["extra"],
        json!({"goods_total_cost": r#""9.94241234""#, "unknown": r#"{"a":2,"b":1.0}"#})
    );
    let lines = &after["details_list"];
    assert_eq!((&lines[0]["rec_id"], &lines[1]["rec_id"]), (&json!(1), &json!(2)));

    // The late pass reads the order once more, the other way round; a later order then comes out.
    turned.store(true, Ordering::SeqCst);
    until("a second read", PATIENCE, || (shown.load(Ordering::SeqCst) > 0).then_some(()));
    rig.erp.add_one(Kind::FlagshipOutbounds);
    orders.at_least(2, PATIENCE);
    orders.finish();
    let ops: Vec<_> = orders.seen.iter().map(|record| rig.json(record)["op"].clone()).collect();
    assert!(ops.iter().all(|op| op != "u") && ops.len() == 2, "{ops:?}");
    assert!(read_all(&rig.topics.feeds_dlq).is_empty());
    let labels = [r#"kind="retyped""#, r#"field="goods_total_cost""#];
    assert!(connector.metric("wdt_connector_feed_schema_drift_total", &labels) > 0.0);
    let labels = [r#"kind="missing""#, r#"field="consign_time""#];
    assert_eq!(connector.metric("wdt_connector_feed_schema_drift_total", &labels), 0.0);
    assert!(connector.running());

    // `verify` compares by the same rule.
    turned.store(false, Ordering::SeqCst);
    let to = Timestamp::now().minus(Duration::from_secs(1)).floor_second().to_string();
    let said = rig.said(&["verify", "--feed", "return_outbounds", "--from", &began, "--to", &to]);
    assert!(said.0 == Some(0) && said.1.contains("2 records compared"), "{said:?}");
}

/// Both are near the bound on an answer's bytes.
#[test]
fn an_answer_of_millions_of_rows_or_lines_costs_no_memory() {
    let mut rig = Rig::with_partitions("millions", 1).purchase_returns();
    let many = |around: [&str; 2], count: usize| {
        let mut answer = around[0].as_bytes().to_vec();
        answer.reserve(3 * count);
        for number in 0..count {
            answer.extend_from_slice(if number == 0 { b"{}" } else { b",{}" });
        }
        answer.extend_from_slice(around[1].as_bytes());
        answer
    };
    const MANY: usize = 10_000_000;
    let rows = many([r#"{"status":0,"data":{"total_count":1,"order":["#, "]}}"], MANY);
    let modified = Timestamp::now().minus(Duration::from_secs(3600)).to_beijing();
    let head = format!(
        r#"{{"status":0,"data":{{"total_count":1,"order":[{{"return_id":1,"return_no":"MANY","modified":"{modified}","detail_list":["#
    );
    let lines = many([&head, "]}]}}"], MANY);
    let asked = AtomicUsize::new(0);
    let _rewriter = behind(&mut rig, move |request, answer| {
        if !request.contains(RETURNS) {
            return answer;
        }
        match asked.fetch_add(1, Ordering::SeqCst) {
            0 => rows.clone(),
            1 => lines.clone(),
            _ => answer,
        }
    });
    let connector = rig.start();
    let letters = until("the record of many lines", PATIENCE, || {
        Some(read_all(&rig.topics.feeds_dlq)).filter(|letters| !letters.is_empty())
    });
    let reason = letters[0].header("__connect.errors.exception.message").unwrap();
    assert!(reason.contains("detail_list has more than 10000 lines"), "{reason}");
    let number = rig.erp.add_one(Kind::Returns);
    Reader::new(&rig.topics.purchase_returns).until("a later record", PATIENCE, |seen| {
        seen.iter().any(|record| record.key_text() == number)
    });
    assert_small(&connector);
}

/// Without a count an empty page says nothing about what is there.
#[test]
fn lookups_without_a_count_decide_nothing() {
    let mut rig = Rig::with_partitions("uncounted", 1).commands("avro");
    rig.config.set("commands", "lookup_timeout", "8s");
    let _rewriter = behind(&mut rig, |request, answer| {
        // The orders of a period, among which one of ours is looked for.
        let searches = request.contains(OUTBOUNDS) && request.contains("time_type");
        if searches { br#"{"status":0,"data":[]}"#.to_vec() } else { answer }
    });
    let connector = rig.start();
    let one = command("CT-ONE", "c");
    rig.erp.approve([one.return_no.clone()]);
    let made = rig.erp.made(
        Kind::FlagshipOutbounds,
        &json!({"return_no": "OTHER", "count": 1, "warehouse_no": WAREHOUSE}),
    );
    let ours = json!({"remark": "#ABCDEFGHIJKLM by hand"});
    rig.erp.modify(Kind::FlagshipOutbounds, &made[0], &ours);
    rig.erp.only_faults("createOrder:reset=1x");
    rig.send(&[one]);
    let result = rig.results(1).remove(0);
    assert_eq!((result.outcome, result.attempts), (Outcome::InDoubt, 1), "{result:?}");
    let reason = result.explanation.en().unwrap_or_default();
    assert!(reason.contains("the ERP could not be asked"), "{reason}");
    assert!(connector.log().contains("the ERP sent no total_count"), "{}", connector.log());
}
