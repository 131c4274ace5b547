//! Shipped orders of the enterprise edition under both window rules: what the connector measures,
//! what it publishes, and what that costs.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use serde_json::{Value, json};
use wdt_connector::testing::clock::Timestamp;

use crate::kit::{
    connector::Connector,
    erp::{Erp, Kind},
    records::Reader,
    rewriter::{Passage, Rewriter},
    rig::{PATIENCE, Rig},
    until,
};

const FEED: &str = "feeds.return_outbounds";
const PASS: &str = "feeds.return_outbounds.shipped_pass";
const KIND: Kind = Kind::EnterpriseOutbounds;
const DAY: Duration = Duration::from_secs(86_400);

fn ago(span: Duration) -> Timestamp {
    Timestamp::now().minus(span).floor_second()
}

/// An enterprise feed since eight days ago, on an ERP that follows this rule.
fn under(rule: &str, what: &str, interval: &str, older_interval: &str) -> Rig {
    let rig = Rig::around(what, Erp::start_with(&["--enterprise-window", rule]));
    rig.topics.create(1);
    let mut rig = rig.return_outbounds("enterprise");
    rig.config.set(PASS, "interval", interval).set(PASS, "older_interval", older_interval);
    rig
}

/// An order that was shipped and last modified so long ago.
fn order(rig: &Rig, status: u32, shipped: Duration, modified: Duration) -> String {
    let at = ago(shipped).to_beijing();
    let seeding =
        json!({"count": 1, "edition": "enterprise", "status": status, "from": at, "to": at});
    let number = rig.erp.made(KIND, &seeding).remove(0);
    let change = json!({"modified": ago(modified).to_beijing(), "consign_time": at});
    rig.erp.modify(KIND, &number, &change);
    number
}

fn status(connector: &Connector) -> Value {
    connector.status()["sections"]["feeds"]["return_outbounds"].clone()
}

/// The feed is live, all of its past is read, and this is the rule it measured.
fn live(connector: &Connector, rule: impl Into<Value>) {
    let rule = rule.into();
    until("the first read and the measurement", PATIENCE, || {
        let feed = status(connector);
        (feed["state"] == "live"
            && feed["shipped_window_rule"] == rule
            && feed["backfill"].is_null())
        .then_some(())
    });
}

/// `op` and remark of the last event of an order.
fn last(rig: &Rig, reader: &Reader, number: &str) -> Option<(String, String)> {
    let record = reader.seen.iter().rev().find(|record| record.key_text() == number)?;
    let event = rig.json(record);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Some((text(&event["op"]), text(&event["after"]["remark"])))
}

fn shown(rig: &Rig, reader: &mut Reader, number: &str, op: &str, remark: &str) {
    reader.until("a change of a shipped order", PATIENCE, |seen| {
        seen.iter().any(|record| {
            record.key_text() == number && {
                let event = rig.json(record);
                event["op"] == op && event["after"]["remark"] == remark
            }
        })
    });
}

#[test]
fn changes_after_shipping_are_published_where_windows_go_over_the_shipping_time() {
    let rig = under("consign_time", "newer", "1s", "2s");
    let (week, weeks) = (order(&rig, 95, DAY * 6, DAY * 6), order(&rig, 95, DAY * 20, DAY * 5));
    // Shipped before the start and not touched since: not of this feed.
    let foreign = order(&rig, 110, DAY * 12, DAY * 10);
    let connector = rig.start();
    let mut reader = Reader::new(&rig.topics.return_outbounds);
    reader.at_least(2, PATIENCE);
    live(&connector, "consign_time");
    rig.erp.modify(KIND, &week, &json!({"status": 110, "remark": "received"}));
    rig.erp.modify(KIND, &weeks, &json!({"remark": "looked into"}));
    shown(&rig, &mut reader, &week, "u", "received");
    shown(&rig, &mut reader, &weeks, "u", "looked into");
    // Its shipping is reported three days late.
    let reported = order(&rig, 95, DAY * 3, Duration::ZERO);
    rig.erp.modify(KIND, &reported, &json!({"remark": "reported late"}));
    shown(&rig, &mut reader, &reported, "c", "reported late");
    reader.finish();
    assert_eq!(last(&rig, &reader, &foreign), None);
    let first = |number: &str| {
        let record = reader.seen.iter().find(|record| record.key_text() == number);
        rig.json(record.expect("it was published"))["op"].clone()
    };
    assert_eq!((first(&week), first(&weeks)), (json!("r"), json!("r")));
    let rows = ["pass=\"shipped\"", "content=\"changed\""];
    assert!(connector.metric("wdt_connector_feed_rows_total", &rows) >= 3.0);
}

#[test]
fn a_change_after_shipping_that_the_late_pass_meets_is_not_late() {
    let mut rig = under("consign_time", "notlate", "10d", "20d");
    let late = format!("{FEED}.late_pass");
    rig.config.set(&late, "interval", "1s").set(&late, "lag", "10s");
    // Tells the rules apart.
    order(&rig, 110, DAY * 20, DAY * 5);
    let connector = rig.start();
    let mut reader = Reader::new(&rig.topics.return_outbounds);
    live(&connector, "consign_time");
    let number = order(&rig, 95, Duration::ZERO, Duration::ZERO);
    reader.until("its shipping", PATIENCE, |seen| {
        seen.iter().any(|record| record.key_text() == number)
    });
    let behind = Timestamp::now().to_string();
    until("the live pass to be past it", PATIENCE, || {
        let at = status(&connector)["watermark"].clone();
        at.as_str().is_some_and(|at| at > behind.as_str()).then_some(())
    });
    rig.erp.modify(KIND, &number, &json!({"status": 110, "remark": "received"}));
    shown(&rig, &mut reader, &number, "u", "received");
    let rows = connector.metric("wdt_connector_feed_late_rows_total", &["return_outbounds"]);
    assert!(rows < 0.5 && status(&connector)["advice"].is_null(), "{rows} late rows");
}

#[test]
fn verify_and_backfill_look_at_the_days_on_which_orders_were_shipped() {
    // No round comes in the way.
    let rig = under("consign_time", "looked", "10d", "20d");
    let number = order(&rig, 110, DAY * 20, DAY * 5);
    let connector = rig.start();
    let mut reader = Reader::new(&rig.topics.return_outbounds);
    reader.at_least(1, PATIENCE);
    live(&connector, "consign_time");
    let from = ago(Duration::from_secs(3_600)).to_string();
    // Before the watermark that was stored at the end of the first read.
    let modified = ago(Duration::from_secs(60)).to_beijing();
    let change = json!({"remark": "behind our back", "modified": modified});
    rig.erp.modify(KIND, &number, &change);
    let to = Timestamp::now().to_string();
    let period = ["--feed", "return_outbounds", "--from", &from, "--to", &to];
    let said = rig.ran(1, &[&["verify"], &period[..]].concat());
    assert!(said.contains(r#""difference":"different""#) && said.contains(&number), "{said}");
    let said = rig.ran(0, &[&["backfill", "--follow"], &period[..]].concat());
    assert!(said.contains("shipped orders counted by their shipping time"), "{said}");
    assert!(said.contains("1 events published"), "{said}");
    shown(&rig, &mut reader, &number, "u", "behind our back");
    rig.ran(0, &[&["verify"], &period[..]].concat());
    // Shipped before the days that are read, so only its number shows that it is published.
    order(&rig, 110, DAY * 60, Duration::from_secs(90));
    let [from, to] = [DAY * 61, DAY * 59].map(|span| ago(span).to_string());
    let days = ["--feed", "return_outbounds", "--from", &from, "--to", &to];
    let said = rig.ran(0, &[&["backfill", "--follow"], &days[..]].concat());
    assert!(said.contains("1 events published"), "{said}");
    rig.ran(0, &[&["verify"], &period[..]].concat());
}

#[test]
fn an_erp_that_gets_the_newer_rule_while_the_feed_runs_loses_nothing() {
    let rig = under("modified", "upgraded", "1s", "3s");
    let number = order(&rig, 110, DAY * 20, DAY * 5);
    let connector = rig.start();
    let mut reader = Reader::new(&rig.topics.return_outbounds);
    reader.at_least(1, PATIENCE);
    live(&connector, "modified");
    rig.erp.modify(KIND, &number, &json!({"remark": "by the live pass"}));
    shown(&rig, &mut reader, &number, "u", "by the live pass");
    let measured = status(&connector)["shipped_window_rule_measured_at"].clone();
    until("two more measurements", PATIENCE, || {
        (status(&connector)["shipped_window_rule_measured_at"] != measured).then_some(())
    });
    let rounds = connector.metric("wdt_connector_feed_windows_total", &["pass=\"shipped\""]);
    assert!(rounds < 0.5, "the older rule needs no rounds");
    rig.erp.adjust(&json!({"enterprise_window": "consign_time"}));
    rig.erp.modify(KIND, &number, &json!({"remark": "after the upgrade"}));
    shown(&rig, &mut reader, &number, "u", "after the upgrade");
    live(&connector, "consign_time");
}

/// The first day of a query's window, as `2026-01-31`.
fn first_day(asked: &str) -> &str {
    let (_, rest) = asked.split_once("start_time=").unwrap_or_default();
    rest.get(..10).unwrap_or_default()
}

fn day(span: Duration) -> String {
    ago(span).to_beijing()[..10].to_owned()
}

/// An answer in an odd form: neither records nor a count.
fn without_rows(answer: &[u8]) -> Vec<u8> {
    let mut answer: Value = serde_json::from_slice(answer).expect("an answer is JSON");
    let fields = answer.as_object_mut().expect("an answer is an object");
    fields.remove("total_count");
    fields.values_mut().filter(|value| value.is_array()).for_each(|rows| *rows = json!([]));
    answer.to_string().into_bytes()
}

#[test]
fn shipping_days_publish_nothing_from_before_the_start_however_they_are_read() {
    static ODD: AtomicBool = AtomicBool::new(true);
    let mut rig = under("consign_time", "odddays", "1h", "1d");
    let changed = order(&rig, 95, DAY * 12, DAY * 2);
    let foreign = order(&rig, 110, DAY * 12, DAY * 10);
    // Nor do its dead letters hold what would not have been its business.
    let unfit = order(&rig, 110, DAY * 12, DAY * 10);
    rig.erp.modify(
        KIND,
        &unfit,
        &json!({"set": {"details_list": "?"}, "modified": ago(DAY * 10).to_beijing()}),
    );
    let url = rig.erp.enterprise_url().to_owned();
    let start = day(DAY * 8);
    let rewriter = Rewriter::before(&url, move |asked, answer| {
        let odd = first_day(asked) < start.as_str() && !first_day(asked).is_empty();
        if odd && ODD.load(Ordering::SeqCst) { without_rows(&answer) } else { answer }
    });
    rig.config.set("erp.enterprise", "url", rewriter.url(&url));
    let connector = rig.start();
    let mut reader = Reader::new(&rig.topics.return_outbounds);
    until("the shipping days to be listed", PATIENCE, || {
        let feed = status(&connector);
        let listed = feed["unproven"].as_array().is_some_and(|listed| !listed.is_empty());
        (listed && feed["state"] == "live" && feed["backfill"].is_null()).then_some(())
    });
    ODD.store(false, Ordering::SeqCst);
    until("the shipping days to be read", PATIENCE, || {
        status(&connector)["unproven"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
    reader.finish();
    let keys: Vec<_> = reader.seen.iter().map(|record| record.key_text()).collect();
    assert_eq!(keys, [changed.as_str()], "not {foreign} and not {unfit}");
    assert_eq!(status(&connector)["dead_letters"], 0);
}

/// Without a return's number an order is asked for by seconds alone.
#[test]
fn an_older_version_of_a_shipped_order_without_a_return_is_published() {
    let rig = under("consign_time", "noreturn", "1s", "1d");
    let number = order(&rig, 95, DAY * 3, DAY);
    let set = |remark: &str, modified: Duration| {
        let modified = ago(modified).to_beijing();
        let change = json!({"remark": remark, "modified": modified, "set": {"src_order_no": ""}});
        rig.erp.modify(KIND, &number, &change);
    };
    set("first", DAY);
    let connector = rig.start();
    let mut reader = Reader::new(&rig.topics.return_outbounds);
    shown(&rig, &mut reader, &number, "r", "first");
    live(&connector, "consign_time");
    set("as it was before", DAY * 2);
    shown(&rig, &mut reader, &number, "u", "as it was before");
    let day = |from, to| [ago(from).to_string(), ago(to).to_string()];
    let [from, to] = day(DAY * 4, Duration::from_secs(3_600));
    rig.ran(0, &["verify", "--feed", "return_outbounds", "--from", &from, "--to", &to]);
}

#[test]
fn a_rule_that_is_measured_no_more_is_not_believed_for_ever() {
    static SILENT: AtomicBool = AtomicBool::new(false);
    let mut rig = under("modified", "doubted", "1s", "1s");
    let number = order(&rig, 110, DAY * 20, DAY * 5);
    let url = rig.erp.enterprise_url().to_owned();
    let start = day(DAY * 10);
    // Only measurements ask for so long a period.
    let rewriter = Rewriter::with_door(
        &url,
        move |asked| {
            let long = first_day(asked) < start.as_str() && !first_day(asked).is_empty();
            if long && SILENT.load(Ordering::SeqCst) { Passage::Cut } else { Passage::Through }
        },
        |_, answer| answer,
    );
    rig.config.set("erp.enterprise", "url", rewriter.url(&url));
    let connector = rig.start();
    let mut reader = Reader::new(&rig.topics.return_outbounds);
    live(&connector, "modified");
    SILENT.store(true, Ordering::SeqCst);
    until("the rule to be doubted", PATIENCE, || {
        (status(&connector)["shipped_window_rule"] == "unknown").then_some(())
    });
    rig.erp.adjust(&json!({"enterprise_window": "consign_time"}));
    let shipped_lately = order(&rig, 110, DAY * 3, Duration::ZERO);
    rig.erp.modify(KIND, &shipped_lately, &json!({"remark": "by a round"}));
    shown(&rig, &mut reader, &shipped_lately, "c", "by a round");
    SILENT.store(false, Ordering::SeqCst);
    rig.erp.modify(KIND, &number, &json!({"remark": "measured"}));
    live(&connector, "consign_time");
}

#[test]
fn a_round_that_was_refused_is_no_trouble_once_the_older_rule_needs_none() {
    static REFUSES: AtomicBool = AtomicBool::new(false);
    let mut rig = under("consign_time", "trouble", "1s", "1s");
    order(&rig, 110, DAY * 20, DAY * 5);
    let url = rig.erp.enterprise_url().to_owned();
    let (from, to) = (day(DAY * 9), day(DAY * 6));
    let rewriter = Rewriter::before(&url, move |asked, answer| {
        let round = (from.as_str()..to.as_str()).contains(&first_day(asked));
        if round && REFUSES.load(Ordering::SeqCst) {
            json!({"code": 2060, "message": "?"}).to_string().into_bytes()
        } else {
            answer
        }
    });
    rig.config.set("erp.enterprise", "url", rewriter.url(&url));
    let connector = rig.start();
    live(&connector, "consign_time");
    REFUSES.store(true, Ordering::SeqCst);
    until("the round to be refused", PATIENCE, || {
        (status(&connector)["state"] == "blocked").then_some(())
    });
    rig.erp.adjust(&json!({"enterprise_window": "modified"}));
    live(&connector, "modified");
}

#[test]
fn a_round_publishes_what_other_filters_show_as_the_backfill_would() {
    static AWAY: AtomicBool = AtomicBool::new(false);
    let mut rig = under("consign_time", "roundfilters", "1s", "1d");
    let filters = format!("{FEED}.filters");
    rig.config.set(&filters, "status", "5,55");
    let number = order(&rig, 95, DAY * 3, DAY * 3);
    let url = rig.erp.enterprise_url().to_owned();
    let start = day(DAY * 8 + DAY / 2);
    // The backfill does not come beyond its shipping days.
    let rewriter = Rewriter::with_door(
        &url,
        move |asked| {
            let days = first_day(asked) < start.as_str() && !first_day(asked).is_empty();
            if days && AWAY.load(Ordering::SeqCst) { Passage::Cut } else { Passage::Through }
        },
        |_, answer| answer,
    );
    rig.config.set("erp.enterprise", "url", rewriter.url(&url));
    let connector = rig.start();
    live(&connector, Value::Null);
    assert!(connector.terminate(PATIENCE).success());
    AWAY.store(true, Ordering::SeqCst);
    rig.config.set(&filters, "status", "5,55,95,110");
    let connector = rig.start();
    let mut reader = Reader::new(&rig.topics.return_outbounds);
    reader
        .until("the round", PATIENCE, |seen| seen.iter().any(|record| record.key_text() == number));
    assert_eq!(last(&rig, &reader, &number).map(|(op, _)| op).as_deref(), Some("r"));
    assert!(!status(&connector)["backfill"].is_null(), "it has not come there");
}

#[test]
fn a_feed_that_asks_for_shipped_orders_no_more_reads_no_rounds() {
    let mut rig = under("consign_time", "unasked", "1s", "2s");
    order(&rig, 110, DAY * 20, DAY * 5);
    let connector = rig.start();
    live(&connector, "consign_time");
    assert!(connector.terminate(PATIENCE).success());
    rig.config.set(&format!("{FEED}.filters"), "status", "5,55");
    let connector = rig.start();
    let mut reader = Reader::new(&rig.topics.return_outbounds);
    live(&connector, Value::Null);
    let number = order(&rig, 55, DAY * 9, Duration::ZERO);
    reader.until("an order that is asked for", PATIENCE, |seen| {
        seen.iter().any(|record| record.key_text() == number)
    });
    // A round would be due by now.
    let windows = || connector.metric("wdt_connector_feed_windows_total", &["pass=\"live\""]);
    let before = windows();
    until("three more windows", PATIENCE, || (windows() >= before + 3.0).then_some(()));
    assert!(!connector.log().contains("a window without queries was read"));
}

fn passed(connector: &Connector, which: &str, moment: Timestamp) {
    let moment = moment.to_string();
    until("a watermark to pass", PATIENCE, || {
        let at = status(connector)[which].clone();
        at.as_str().is_some_and(|at| at > moment.as_str()).then_some(())
    });
}

/// Without the unmeasured rounds the change is shown by neither window any more.
fn survives_the_older_rule(what: &str, older_interval: &str, restarts: bool) {
    let mut rig = under("consign_time", what, "1h", older_interval);
    rig.config.set(&format!("{FEED}.late_pass"), "interval", "1s");
    order(&rig, 110, DAY * 20, DAY * 5);
    let number = order(&rig, 95, DAY * 3, DAY * 3);
    let connector = rig.start();
    let mut reader = Reader::new(&rig.topics.return_outbounds);
    live(&connector, "consign_time");
    rig.erp.modify(KIND, &number, &json!({"remark": "waits for its round"}));
    passed(&connector, "late_watermark", Timestamp::now().plus(Duration::from_secs(1)));
    let older = || rig.erp.adjust(&json!({"enterprise_window": "modified"}));
    let connector = if restarts {
        assert!(connector.terminate(PATIENCE).success());
        older();
        rig.start()
    } else {
        older();
        connector
    };
    live(&connector, "modified");
    shown(&rig, &mut reader, &number, "u", "waits for its round");
    let rows = connector.metric("wdt_connector_feed_late_rows_total", &["return_outbounds"]);
    assert!(rows < 0.5, "a change that waited for its round is not late");
}

#[test]
fn a_change_that_waits_for_its_round_is_published_under_the_older_rule() {
    survives_the_older_rule("roundolder", "8s", false);
}

#[test]
fn a_change_that_waits_for_its_round_survives_a_restart_under_the_older_rule() {
    survives_the_older_rule("roundrestart", "1d", true);
}

/// A round before the shipping days of the first read.
#[test]
fn a_round_calls_what_the_first_read_has_left_as_that_would() {
    let mut rig = under("consign_time", "roundfirst", "1s", "1d");
    rig.config.set(FEED, "start_at", ago(DAY * 2).to_string());
    let number = order(&rig, 95, DAY * 4, DAY);
    let url = rig.erp.enterprise_url().to_owned();
    let start = day(DAY * 20);
    let rewriter = Rewriter::with_door(
        &url,
        move |asked| {
            let days = first_day(asked) < start.as_str() && !first_day(asked).is_empty();
            if days { Passage::Cut } else { Passage::Through }
        },
        |_, answer| answer,
    );
    rig.config.set("erp.enterprise", "url", rewriter.url(&url));
    let connector = rig.start();
    let mut reader = Reader::new(&rig.topics.return_outbounds);
    reader
        .until("the round", PATIENCE, |seen| seen.iter().any(|record| record.key_text() == number));
    assert!(!status(&connector)["backfill"].is_null(), "it has not come there");
    let record = reader.seen.iter().find(|record| record.key_text() == number).unwrap();
    assert_eq!(rig.json(record)["op"], json!("r"));
}

/// A round's window is listed, then a late one within it.
#[test]
fn a_late_window_within_a_listed_round_does_not_lift_its_bound() {
    static ODD: AtomicBool = AtomicBool::new(false);
    let mut rig = under("consign_time", "listedround", "2s", "1d");
    rig.config.set(FEED, "start_at", ago(DAY * 2).to_string());
    rig.config.set(&format!("{FEED}.late_pass"), "interval", "1s");
    let changed = order(&rig, 95, DAY * 5, DAY);
    let foreign = order(&rig, 110, DAY * 4, DAY * 3);
    let url = rig.erp.enterprise_url().to_owned();
    let rewriter = Rewriter::before(&url, move |asked, answer| {
        if !first_day(asked).is_empty() && ODD.load(Ordering::SeqCst) {
            without_rows(&answer)
        } else {
            answer
        }
    });
    rig.config.set("erp.enterprise", "url", rewriter.url(&url));
    let connector = rig.start();
    let mut reader = Reader::new(&rig.topics.return_outbounds);
    live(&connector, "consign_time");
    ODD.store(true, Ordering::SeqCst);
    let days = ago(DAY * 4).to_string();
    until("a round to be listed", PATIENCE, || {
        let feed = status(&connector);
        let listed = feed["unproven"].as_array()?.clone();
        listed
            .iter()
            .any(|one| one["from"].as_str().unwrap_or_default() < days.as_str())
            .then_some(())
    });
    passed(&connector, "late_watermark", Timestamp::now().plus(Duration::from_secs(1)));
    ODD.store(false, Ordering::SeqCst);
    until("all to be read", PATIENCE, || {
        status(&connector)["unproven"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
    reader.finish();
    let keys: Vec<_> = reader.seen.iter().map(|record| record.key_text()).collect();
    assert_eq!(keys, [changed.as_str()], "not {foreign}");
}

/// A feed whose filter names a shipped status beyond the five.
#[test]
fn verify_asks_for_a_record_in_the_statuses_of_the_filter_as_well() {
    let mut rig = under("consign_time", "beyondfive", "10d", "20d");
    rig.config.set(&format!("{FEED}.filters"), "status", "55,95,105,110");
    order(&rig, 110, DAY * 20, DAY * 5);
    let connector = rig.start();
    let mut reader = Reader::new(&rig.topics.return_outbounds);
    reader.at_least(1, PATIENCE);
    live(&connector, "consign_time");
    let old = order(&rig, 105, DAY * 60, Duration::from_secs(90));
    let [from, to] = [DAY * 61, DAY * 59].map(|span| ago(span).to_string());
    let days = ["--feed", "return_outbounds", "--from", &from, "--to", &to];
    let said = rig.ran(0, &[&["backfill", "--follow"], &days[..]].concat());
    assert!(said.contains("1 events published"), "{said}");
    let [from, to] = [3_600, 0].map(|span| ago(Duration::from_secs(span)).to_string());
    let period = ["--feed", "return_outbounds", "--from", &from, "--to", &to];
    let said = rig.ran(0, &[&["verify"], &period[..]].concat());
    assert!(!said.contains(&old), "{said}");
}

/// Ordered after an upgrade that the owner has not measured yet: the tool says "by shipping time".
#[test]
fn a_backfill_ordered_after_an_upgrade_reads_its_shipping_days() {
    let rig = under("modified", "afterupgrade", "10d", "20d");
    let number = order(&rig, 110, DAY * 20, DAY * 5);
    let connector = rig.start();
    let mut reader = Reader::new(&rig.topics.return_outbounds);
    reader.at_least(1, PATIENCE);
    live(&connector, "modified");
    rig.erp.adjust(&json!({"enterprise_window": "consign_time"}));
    let from = ago(Duration::from_secs(3_600)).to_string();
    let modified = ago(Duration::from_secs(60)).to_beijing();
    rig.erp.modify(KIND, &number, &json!({"remark": "since", "modified": modified}));
    let to = Timestamp::now().to_string();
    let period = ["--feed", "return_outbounds", "--from", &from, "--to", &to];
    let said = rig.ran(1, &[&["verify"], &period[..]].concat());
    assert!(said.contains(r#""difference":"different""#), "{said}");
    let said = rig.ran(0, &[&["backfill", "--follow"], &period[..]].concat());
    assert!(said.contains("shipped orders counted by their shipping time"), "{said}");
    assert!(said.contains("1 events published"), "{said}");
    rig.ran(0, &[&["verify"], &period[..]].concat());
    shown(&rig, &mut reader, &number, "u", "since");
}

/// Both clocks go back by two days (somebody corrects them) while a round is open.
#[test]
fn a_round_does_not_ask_without_end_where_the_erps_clock_is_far_behind() {
    static REFUSES: AtomicBool = AtomicBool::new(false);
    let mut rig = under("consign_time", "roundclock", "1s", "1d");
    rig.config.set(FEED, "poll_interval", "2s");
    order(&rig, 110, DAY * 20, DAY * 5);
    let url = rig.erp.enterprise_url().to_owned();
    let (from, to) = (day(DAY * 9), day(DAY * 6));
    let rewriter = Rewriter::before(&url, move |asked, answer| {
        let round = (from.as_str()..to.as_str()).contains(&first_day(asked));
        if round && REFUSES.load(Ordering::SeqCst) {
            json!({"code": 2060, "message": "?"}).to_string().into_bytes()
        } else {
            answer
        }
    });
    rig.config.set("erp.enterprise", "url", rewriter.url(&url));
    let clock = rig.path("clock");
    std::fs::write(&clock, "0").unwrap();
    let connector =
        rig.spawn_with(&[("WDT_CLOCK_OFFSET_FILE", &clock.display().to_string())]).ready();
    live(&connector, "consign_time");
    REFUSES.store(true, Ordering::SeqCst);
    until("the round to be refused", PATIENCE, || {
        (status(&connector)["state"] == "blocked").then_some(())
    });
    let back = -2 * 86_400_000_i64;
    rig.erp.adjust(&json!({"clock_offset_ms": back}));
    std::fs::write(&clock, back.to_string()).unwrap();
    connector.wait_log("ERP clock was set back further than the feed follows it", PATIENCE);
    REFUSES.store(false, Ordering::SeqCst);
    // The live pass glances at the ERP's clock: five queries each time.
    let before = rig.erp.asked(KIND);
    until("four glances", PATIENCE, || (rig.erp.asked(KIND) >= before + 20).then_some(()));
    let early = connector.log().matches("ERP clock is behind the window").count();
    assert!(early < 10, "{early} windows of a round that no clock has come to");
}

/// Pages and windows of a pass.
fn pages(connector: &Connector, pass: &str) -> [f64; 2] {
    let pass = format!("pass=\"{pass}\"");
    ["wdt_connector_feed_pages_total", "wdt_connector_feed_windows_total"]
        .map(|name| connector.metric(name, &[&pass]))
}

/// Calls of a window of this pass while nothing changes.
fn calls(connector: &Connector, pass: &str) -> f64 {
    let [pages_before, windows_before] = pages(connector, pass);
    until("three more windows", PATIENCE, || {
        let [pages, windows] = pages(connector, pass);
        (windows >= windows_before + 3.0)
            .then(|| (pages - pages_before) / (windows - windows_before))
    })
}

/// Calls a day by what an idle feed's passes took, and by what `check` says.
#[test]
fn check_says_what_an_idle_enterprise_feed_costs_under_both_rules() {
    let mut days = Vec::new();
    for (rule, what) in [("modified", "idleold"), ("consign_time", "idlenew")] {
        // Once measured, and no round of the older days.
        let mut rig = under(rule, what, "1s", "1d");
        order(&rig, 110, DAY * 20, DAY * 5);
        let connector = rig.start();
        live(&connector, rule);
        let (poll, late) = (calls(&connector, "live"), calls(&connector, "late"));
        let newer = rule == "consign_time";
        let recent = if newer { calls(&connector, "shipped") } else { 0.0 };
        rig.ran(0, &["feeds", "pause", "--feed", "return_outbounds"]);
        until("the feed to rest", PATIENCE, || {
            (status(&connector)["state"] == "paused").then_some(())
        });
        let made = "wdt_connector_erp_calls_total";
        let [late_pages, _] = pages(&connector, "late");
        let [shipped_pages, _] = pages(&connector, "shipped");
        let measured =
            connector.metric(made, &["priority=\"late_pass\""]) - late_pages - shipped_pages;
        assert_eq!(connector.metric(made, &[]).to_bits(), (rig.erp.asked(KIND) as f64).to_bits());
        drop(connector);
        let mut older = 0.0;
        if newer {
            rig.ran(0, &["feeds", "resume", "--feed", "return_outbounds"]);
            rig.config.set(PASS, "interval", "1d").set(PASS, "older_interval", "1s");
            older = calls(&rig.start(), "shipped");
        }
        days.push(poll * 1440.0 + late * 288.0 + recent * 48.0 + older + measured);
    }
    let mut rig = under("consign_time", "idlesaid", "30m", "1d");
    rig.config.set(FEED, "poll_interval", "1m").set(&format!("{FEED}.late_pass"), "interval", "5m");
    let (_, said) = rig.said(&["check"]);
    let words = format!("{} while nothing changes under the older window rule", days[0]);
    assert!(said.contains(&words), "{days:?}: {said}");
    assert!(said.contains(&format!(", {} under the newer one", days[1])), "{days:?}: {said}");
}

/// A wrong account is said as such, and the feed goes on by itself once it is mended.
#[test]
fn an_enterprise_account_that_is_refused_is_misconfigured_in_words() {
    static REFUSES: AtomicBool = AtomicBool::new(true);
    let mut rig = under("modified", "refused", "1s", "1s");
    let url = rig.erp.enterprise_url().to_owned();
    let rewriter = Rewriter::before(&url, |_, answer| {
        if REFUSES.load(Ordering::SeqCst) {
            json!({"code": 2060, "message": "?"}).to_string().into_bytes()
        } else {
            answer
        }
    });
    rig.config.set("erp.enterprise", "url", rewriter.url(&url));
    let connector = rig.start();
    let feed = until("the feed to be blocked", PATIENCE, || {
        let feed = status(&connector);
        (feed["state"] == "blocked").then_some(feed)
    });
    let error = feed["error"].as_str().unwrap_or_default().to_owned();
    for word in ["sid", "appkey", "clock"] {
        assert!(error.contains(word), "{word}: {error}");
    }
    REFUSES.store(false, Ordering::SeqCst);
    until("the feed to go on", PATIENCE, || (status(&connector)["state"] == "live").then_some(()));
}
