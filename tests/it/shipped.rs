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
    rewriter::Rewriter,
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

fn live(connector: &Connector, rule: &str) {
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

fn run(rig: &Rig, code: i32, arguments: &[&str]) -> String {
    let (found, said) = rig.said(arguments);
    assert_eq!(found, Some(code), "{arguments:?}: {said}");
    said
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
    let said = run(&rig, 1, &[&["verify"], &period[..]].concat());
    assert!(said.contains(r#""difference":"different""#) && said.contains(&number), "{said}");
    let said = run(&rig, 0, &[&["backfill", "--follow"], &period[..]].concat());
    assert!(said.contains("shipped orders counted by their shipping time"), "{said}");
    assert!(said.contains("1 events published"), "{said}");
    shown(&rig, &mut reader, &number, "u", "behind our back");
    run(&rig, 0, &[&["verify"], &period[..]].concat());
    // Shipped before the days that are read, so only its number shows that it is published.
    order(&rig, 110, DAY * 60, Duration::from_secs(90));
    let [from, to] = [DAY * 61, DAY * 59].map(|span| ago(span).to_string());
    let days = ["--feed", "return_outbounds", "--from", &from, "--to", &to];
    let said = run(&rig, 0, &[&["backfill", "--follow"], &days[..]].concat());
    assert!(said.contains("1 events published"), "{said}");
    run(&rig, 0, &[&["verify"], &period[..]].concat());
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
        run(&rig, 0, &["feeds", "pause", "--feed", "return_outbounds"]);
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
            run(&rig, 0, &["feeds", "resume", "--feed", "return_outbounds"]);
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
