//! Answers of the ERP that are not quite what is documented: what can be read of them is published,
//! what cannot goes to the dead letters, and nothing of them is taken for an absence.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
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
        let searches = request.contains("wms.stockout.PurchaseReturn.queryWithDetail")
            && request.contains("time_type");
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
