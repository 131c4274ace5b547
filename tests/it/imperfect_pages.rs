//! Pages that are not what was asked for: capped, with rows that nobody may see, with rows withheld in
//! a second that cannot be split, empty in odd forms, with a record that is no JSON.

use std::time::Duration;

use serde_json::{Value, json};
use wdt_connector::testing::clock::Timestamp;

use crate::{
    kit::{
        connector::Connector,
        erp::{Erp, Kind},
        promises::{Tally, all, compare, feed, feed_name, judge, settle, topic},
        records::{Reader, read_all},
        rig::{PATIENCE, Rig},
        until,
    },
    parts::say,
};

const HOUR: Duration = Duration::from_secs(3_600);

fn ago(span: Duration) -> Timestamp {
    Timestamp::now().minus(span).floor_second()
}

/// A rig of one feed that starts an hour and a half ago.
fn rig(what: &str, kind: Kind) -> Rig {
    let mut rig = match kind {
        Kind::Returns => Rig::new(what).purchase_returns(),
        Kind::FlagshipOutbounds => Rig::new(what).return_outbounds("flagship"),
        Kind::EnterpriseOutbounds => Rig::new(what).return_outbounds("enterprise"),
    };
    let section = format!("feeds.{}", feed_name(kind));
    rig.config.set(&section, "start_at", ago(HOUR * 3 / 2).to_string());
    rig
}

/// What was published until now, judged.
fn published(rig: &Rig, kind: Kind) -> Tally {
    let mut reader = Reader::new(topic(rig, kind));
    reader.finish();
    judge(rig, kind, &reader)
}

#[test]
fn a_server_that_caps_its_pages_hides_nothing() {
    let kind = Kind::Returns;
    let rig = rig("cap", kind);
    rig.erp.adjust(&json!({"page_cap": 50}));
    rig.erp.seed_between(kind, 80, ago(HOUR), ago(HOUR));
    let connector = rig.start();
    settle(&connector, kind);
    let (from, to) = (ago(HOUR * 5 / 4).to_string(), ago(HOUR / 2).to_string());
    let verify = ["verify", "--feed", feed_name(kind), "--from", &from, "--to", &to];
    let (code, said) = rig.said(&verify);
    assert_eq!(published(&rig, kind).events, 80);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("80 records compared") && said.contains("0 differences"), "{said}");
}

/// Five of three hundred rows are counted and never shown.
fn unpermitted(what: &str, kind: Kind, after_limit: bool) {
    let mut rig = rig(what, kind);
    let section = format!("feeds.{}", feed_name(kind));
    if kind != Kind::EnterpriseOutbounds {
        rig.config.set(&section, "page_size", 100);
    }
    let seeded = |count: usize, warehouse: &str, from: Timestamp, to: Timestamp| {
        let edition = if kind == Kind::EnterpriseOutbounds { "enterprise" } else { "flagship" };
        rig.erp.made(
            kind,
            &json!({
                "count": count, "edition": edition, "warehouse_no": warehouse, "status": 110,
                "from": from.to_beijing(), "to": to.to_beijing(),
            }),
        )
    };
    let hidden = seeded(5, "WH-CD-01", ago(HOUR * 3 / 4), ago(HOUR / 2));
    seeded(295, "WH-SH-01", ago(HOUR), ago(HOUR / 4));
    rig.erp.adjust(
        &json!({"unpermitted_warehouses": ["WH-CD-01"], "unpermitted_after_limit": after_limit}),
    );
    // Polls that are due while it reads would count as its calls.
    rig.config.set(&section, "poll_interval", "5s");
    let connector = rig.start();
    let end = ago(HOUR / 4).to_string();
    until("the rows to be passed", PATIENCE, || {
        let at = feed(&connector, kind)["watermark"].clone();
        at.as_str().is_some_and(|at| at > end.as_str()).then_some(())
    });
    let taken = rig.erp.asked(kind);
    say(&format!("{kind:?}, five of 300 rows not shown: {taken} calls"));
    settle(&connector, kind);
    let mut reader = Reader::new(topic(&rig, kind));
    reader.finish();
    let (tally, trouble) = compare(&rig, kind, &reader);
    let others: Vec<&String> =
        trouble.iter().filter(|line| !hidden.iter().any(|no| line.starts_with(no))).collect();
    assert!(others.is_empty(), "{others:?}");
    assert_eq!((tally.events, tally.missed), (295, 5), "{tally:?}");
    // The first window is halved until a single page shows that it is the account's permission;
    // after that two reads are enough. The late pass reads what is near to now once more, and the
    // window rule of enterprise orders is measured beside it (at most 8 calls).
    let most = if kind == Kind::EnterpriseOutbounds { 308 } else { 90 };
    assert!(taken <= most, "{taken} calls: the feed crawls");
    let hidden_rows =
        connector.metric("wdt_connector_feed_rows_not_shown_total", &[feed_name(kind)]);
    assert!(hidden_rows > 0.0);
    let log = connector.log();
    let said: Vec<&str> =
        log.lines().filter(|line| line.contains("WARN") && line.contains("permission")).collect();
    assert_eq!(said.len(), 1, "it is said once: {said:?}");
    // And the feed goes on.
    rig.erp.adjust(&json!({"unpermitted_warehouses": []}));
    rig.erp.modify(kind, &hidden[0], &json!({"remark": "seen again"}));
    reader.at_least(296, PATIENCE);
}

#[test]
fn rows_that_the_account_may_not_see_hold_nothing_up_where_the_last_page_is_short() {
    unpermitted("permitbefore", Kind::FlagshipOutbounds, false);
}

#[test]
fn rows_that_the_account_may_not_see_hold_nothing_up_where_any_page_is_short() {
    unpermitted("permitafter", Kind::FlagshipOutbounds, true);
}

#[test]
fn rows_that_an_enterprise_account_may_not_see_hold_nothing_up() {
    unpermitted("permitent", Kind::EnterpriseOutbounds, true);
}

#[test]
fn one_dense_second_is_published_whole_although_its_pages_lack_rows() {
    let kind = Kind::FlagshipOutbounds;
    let erp = Erp::start_with(&["--page-order", "modified_asc", "--shuffle-equal"]);
    let mut rig = Rig::around("densefaults", erp).return_outbounds("flagship");
    rig.topics.create(4);
    rig.config
        .set("feeds.return_outbounds", "start_at", ago(HOUR * 3 / 2).to_string())
        .set("feeds.return_outbounds", "page_size", 20)
        .set("feeds.return_outbounds", "max_pages_per_window", 4);
    rig.erp.seed_between(kind, 300, ago(HOUR), ago(HOUR));
    rig.erp.faults(
        "outbounds:withhold=0.05,outbounds:withhold_double=0.05,outbounds:neighbour_page=0.03,outbounds:short_page(11)=0.03",
    );
    // What leaves while the second is read must not pay for what was not shown: with the latency a
    // read takes a third of a second.
    rig.erp.adjust(&json!({"latency_ms": 20, "modifications_per_second": 50}));
    let connector = rig.start();
    let second = ago(HOUR - Duration::from_secs(60)).to_string();
    until("the dense second to be passed", PATIENCE, || {
        let at = feed(&connector, kind)["watermark"].clone();
        at.as_str().is_some_and(|at| at > second.as_str()).then_some(())
    });
    let struck = rig.erp.struck();
    rig.erp.adjust(&json!({"modifications_per_second": 0}));
    rig.erp.only_faults("");
    settle(&connector, kind);
    let tally = published(&rig, kind);
    assert_eq!(tally.records, 300);
    assert!(struck.values().sum::<u64>() > 0, "{struck:?}");
    say(&format!("one dense second: {tally:?}, faults {struck:?}"));
}

/// An idle ERP whose empty answers have these forms, one after the other.
fn idle(what: &str, kind: Kind, forms: &[&str]) {
    let rig = rig(what, kind);
    let mut connector: Option<Connector> = None;
    for form in forms {
        rig.erp.only_faults(&format!("query:empty_form({form})=1"));
        let connector = connector.get_or_insert_with(|| rig.start());
        say(&format!("{kind:?}: {form}"));
        settle(connector, kind);
        assert!(rig.erp.struck()[&format!("empty_form({form})")] > 0);
    }
    let connector = connector.expect("some forms");
    rig.erp.add_one(kind);
    settle(&connector, kind);
    assert_eq!(published(&rig, kind).events, 1);
}

#[test]
fn an_idle_erp_may_answer_in_any_empty_form() {
    idle(
        "idlef",
        Kind::FlagshipOutbounds,
        &["data_array", "data_object", "data_null", "order_object", "order_null", "order_absent"],
    );
}

#[test]
fn an_idle_enterprise_erp_may_answer_in_any_empty_form() {
    idle("idlee", Kind::EnterpriseOutbounds, &["order_object", "order_null", "order_absent"]);
}

/// One record whose answer is no JSON, wherever it stands.
fn broken(what: &str, kind: Kind, fault: &str, holds: &[u8]) {
    let rig = rig(what, kind);
    let numbers = rig.erp.seed_between(kind, 30, ago(HOUR), ago(HOUR / 2));
    rig.erp.faults(&format!("query:{fault}({})=1", numbers[11]));
    let connector = rig.start();
    settle(&connector, kind);
    let mut reader = Reader::new(topic(&rig, kind));
    reader.finish();
    assert_eq!(reader.seen.len(), 29);
    assert!(reader.seen.iter().all(|record| record.key_text() != numbers[11]));
    let letters = read_all(&rig.topics.feeds_dlq);
    assert_eq!(letters.len(), 1, "once per content: {letters:?}");
    let raw = letters[0].value.as_deref().expect("the ERP's bytes");
    assert!(raw.windows(holds.len()).any(|part| part == holds), "{:?}", letters[0]);
    // Repaired, it comes out like any other.
    rig.erp.only_faults("");
    rig.erp.modify(kind, &numbers[11], &json!({"remark": "repaired"}));
    reader.until("the repaired record", PATIENCE, |seen| {
        seen.iter().any(|record| record.key_text() == numbers[11])
    });
    settle(&connector, kind);
    assert_eq!(published(&rig, kind).records, 30);
    let held: Vec<Value> = all(&rig.erp, kind);
    assert_eq!(held.len(), 30);
}

#[test]
fn a_cut_character_costs_one_record_and_not_the_window() {
    broken("cutchar", Kind::Returns, "broken_character", b"\xe7\xa0");
}

/// Nothing of such a text is lost, so the record is published with it.
#[test]
fn a_raw_newline_is_read_as_if_it_were_escaped() {
    let kind = Kind::FlagshipOutbounds;
    let rig = rig("newline", kind);
    let numbers = rig.erp.seed_between(kind, 30, ago(HOUR), ago(HOUR / 2));
    rig.erp.faults(&format!("query:raw_newline({})=1", numbers[11]));
    let connector = rig.start();
    settle(&connector, kind);
    let mut reader = Reader::new(topic(&rig, kind));
    reader.finish();
    assert_eq!(reader.seen.len(), 30);
    let broken = reader.seen.iter().find(|record| record.key_text() == numbers[11]).unwrap();
    let remark = rig.json(broken)["after"]["remark"].clone();
    assert!(remark.as_str().is_some_and(|remark| remark.contains('\n')), "{remark}");
    assert!(read_all(&rig.topics.feeds_dlq).is_empty());
}

#[test]
fn a_cut_character_of_the_enterprise_edition_costs_one_record() {
    broken("cutent", Kind::EnterpriseOutbounds, "broken_character", b"\xe7\xa0");
}
