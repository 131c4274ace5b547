//! What an operator does to a feed: pausing, moving its watermark, filling a gap, asking whether
//! all is well.

use std::{
    process::Output,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use wdt_connector::testing::clock::Timestamp;

use crate::kit::{
    erp::Kind,
    promises::{feed, judge},
    records::{Reader, read_all},
    rewriter::{Passage, Rewriter},
    rig::{PATIENCE, Rig},
    until,
};

const HOUR: Duration = Duration::from_secs(3_600);
const KIND: Kind = Kind::Returns;

/// The simulator's records lie within the last seven days; this feed begins only an hour ago.
fn since_an_hour(what: &str) -> Rig {
    let mut rig = Rig::new(what).purchase_returns();
    rig.config.set(
        "feeds.purchase_returns",
        "start_at",
        Timestamp::now().minus(HOUR).floor_second().to_string(),
    );
    rig
}

fn ago(span: Duration) -> String {
    Timestamp::now().minus(span).floor_second().to_string()
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn shown(rig: &Rig) -> Value {
    let output = rig.verb(&["feeds", "show", "--json"], b"");
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", text(&output)))
}

#[test]
fn a_backfill_publishes_what_the_state_lacks_and_verify_says_when_all_is_there() {
    let rig = since_an_hour("fill");
    // Two hundred from before the feed's start, ten from after it.
    rig.erp.seed_between(
        KIND,
        200,
        Timestamp::now().minus(HOUR * 72),
        Timestamp::now().minus(HOUR * 48),
    );
    let recent = rig.erp.seed_between(
        KIND,
        10,
        Timestamp::now().minus(HOUR / 2),
        Timestamp::now().minus(HOUR / 4),
    );
    let mut connector = rig.start();
    let mut reader = Reader::new(&rig.topics.purchase_returns);
    reader.at_least(10, PATIENCE);
    until("the first read to end", PATIENCE, || (shown(&rig)["snapshot"] == false).then_some(()));
    let (from, to) = (ago(HOUR * 80), ago(Duration::from_secs(60)));
    let period = ["--feed", "purchase_returns", "--from", &from, "--to", &to];

    // What was published is what the ERP holds, but not of the time before the start.
    let said =
        rig.ran(0, &["verify", "--feed", "purchase_returns", "--from", &ago(HOUR), "--to", &to]);
    assert!(said.contains("10 records compared") && said.contains("0 differences"), "{said}");
    let said = rig.ran(1, &[&["verify"], &period[..]].concat());
    assert_eq!(said.matches(r#""difference":"unpublished""#).count(), 200, "{said}");

    let said = rig.ran(0, &[&["backfill", "--dry-run"], &period[..]].concat());
    assert!(
        said.contains("210 records")
            && said.contains("asked with 1 calls")
            && said.contains("about"),
        "{said}"
    );
    reader.finish();
    assert_eq!(reader.seen.len(), 10, "a dry run and verify publish nothing");

    let said = rig.ran(0, &[&["backfill", "--follow"], &period[..]].concat());
    assert!(said.contains("finished: 210 records read, 200 events published"), "{said}");
    reader.finish();
    assert_eq!(reader.seen.len(), 210);
    let old: Vec<Value> = reader.seen[10..].iter().map(|record| rig.json(record)).collect();
    assert!(
        old.iter().all(|event| event["op"] == "r" && event["source"]["snapshot"] == "true"),
        "{}",
        old[0]
    );
    assert_eq!(judge(&rig, KIND, &reader).records, 210);
    rig.ran(0, &[&["verify"], &period[..]].concat());

    // A change that no pass can see any more: verify names it, a backfill publishes it.
    let stamp = Timestamp::now().minus(HOUR / 3).to_beijing();
    rig.erp.modify(KIND, &recent[0], &json!({"remark": "behind our back", "modified": stamp}));
    let said = rig.ran(1, &[&["verify"], &period[..]].concat());
    assert!(said.contains(r#""difference":"different""#) && said.contains(&recent[0]), "{said}");
    let said = rig.ran(0, &[&["backfill", "--follow"], &period[..]].concat());
    assert!(said.contains("210 records read, 1 events published"), "{said}");
    reader.finish();
    let last = rig.json(reader.seen.last().unwrap());
    assert_eq!((&last["op"], &last["after"]["remark"]), (&json!("u"), &json!("behind our back")));
    rig.ran(0, &[&["verify"], &period[..]].concat());

    // So is one that bears an earlier time than what was published.
    let earlier = Timestamp::now().minus(HOUR / 5 * 2).to_beijing();
    rig.erp.modify(KIND, &recent[0], &json!({"remark": "older", "modified": earlier}));
    let said = rig.ran(1, &[&["verify"], &period[..]].concat());
    assert!(
        said.contains(r#""difference":"different""#) && said.contains("1 differences"),
        "{said}"
    );
    let said = rig.ran(0, &[&["backfill", "--follow"], &period[..]].concat());
    assert!(said.contains("210 records read, 1 events published"), "{said}");
    rig.ran(0, &[&["verify"], &period[..]].concat());
    let advice = connector.status()["sections"]["feeds"]["purchase_returns"]["advice"].clone();
    assert!(advice.as_str().is_some_and(|advice| advice.contains("late_pass.lag")), "{advice}");
    assert!(connector.running());
}

/// A text that was published once is not known for ever: what counts is what was published last.
#[test]
fn a_record_that_says_again_what_it_said_before_is_published_again() {
    let rig = since_an_hour("again");
    let numbers = rig.erp.seed_between(
        KIND,
        3,
        Timestamp::now().minus(HOUR / 2),
        Timestamp::now().minus(HOUR / 4),
    );
    let _connector = rig.start();
    let mut reader = Reader::new(&rig.topics.purchase_returns);
    reader.at_least(3, PATIENCE);
    until("the first read to end", PATIENCE, || (shown(&rig)["snapshot"] == false).then_some(()));
    let (from, to) = (ago(HOUR), ago(Duration::from_secs(60)));
    let stamp = Timestamp::now().minus(HOUR / 3).to_beijing();
    // No other pass comes there any more, and the text differs in nothing but the remark.
    for (remark, published) in
        [("one", 1), ("one", 0), ("two", 1), ("one", 1), ("one", 0), ("two", 1), ("two", 0)]
    {
        rig.erp.modify(
            KIND,
            &numbers[0],
            &json!({"remark": remark, "modified": stamp, "set": {"note_count": 0}}),
        );
        let said = rig.ran(
            0,
            &["backfill", "--feed", "purchase_returns", "--from", &from, "--to", &to, "--follow"],
        );
        assert!(
            said.contains(&format!("3 records read, {published} events published")),
            "{remark}: {said}"
        );
    }
    reader.finish();
    let told: Vec<Value> =
        reader.seen[3..].iter().map(|record| rig.json(record)["after"]["remark"].clone()).collect();
    assert_eq!(told, ["one", "two", "one", "two"]);
}

#[test]
fn a_backfill_goes_on_after_a_kill_and_can_be_called_off() {
    let mut rig = since_an_hour("fillkill");
    rig.config.set("feeds.purchase_returns", "page_size", 10).set(
        "feeds.purchase_returns",
        "max_pages_per_window",
        2,
    );
    rig.erp.seed_between(
        KIND,
        300,
        Timestamp::now().minus(HOUR * 72),
        Timestamp::now().minus(HOUR * 48),
    );
    let connector = rig.start();
    until("the first read to end", PATIENCE, || (shown(&rig)["snapshot"] == false).then_some(()));
    rig.erp.latency(Duration::ZERO);
    rig.erp.adjust(&json!({"latency_ms": 60}));
    let (from, to) = (ago(HOUR * 80), ago(HOUR * 2));
    let order = ["backfill", "--feed", "purchase_returns", "--from", &from, "--to", &to];
    rig.ran(0, &order);
    let mut reader = Reader::new(&rig.topics.purchase_returns);
    reader.at_least(30, PATIENCE);
    connector.kill();
    let view = shown(&rig);
    assert!(view["backfill"]["percent"].as_i64().is_some_and(|percent| percent < 100), "{view}");
    assert!(rig.ran(1, &order).contains("not finished"));
    let position = view["backfill"]["position"].clone();

    rig.erp.adjust(&json!({"latency_ms": 0}));
    let connector = rig.start();
    let said = rig.ran(0, &["backfill", "--feed", "purchase_returns", "--follow"]);
    assert!(said.contains("finished"), "{said}");
    reader.finish();
    assert_eq!(judge(&rig, KIND, &reader).records, 300);
    // It went on where it stood: the windows before that were not read again.
    let backfilled = connector.metric("wdt_connector_feed_rows_total", &["pass=\"backfill\""]);
    assert!(backfilled < 300.0, "{backfilled} rows were read again from {position} on");

    rig.erp.adjust(&json!({"latency_ms": 60}));
    rig.ran(0, &order);
    until("the backfill to begin", PATIENCE, || shown(&rig)["backfill"].is_object().then_some(()));
    assert!(
        rig.ran(0, &["backfill", "--feed", "purchase_returns", "--cancel"]).contains("called off")
    );
    let view = until("the backfill to be called off", PATIENCE, || {
        Some(shown(&rig)).filter(|view| view["backfill"].is_null())
    });
    assert_eq!(view["last_backfill"]["end"], "cancelled", "{view}");
    assert!(
        rig.ran(0, &["backfill", "--feed", "purchase_returns", "--cancel"]).contains("no backfill")
    );
    drop(connector);
}

#[test]
fn a_paused_feed_stays_paused_through_restarts_and_goes_on_where_it_stood() {
    let rig = since_an_hour("pause");
    rig.erp.seed_between(
        KIND,
        5,
        Timestamp::now().minus(HOUR / 2),
        Timestamp::now().minus(HOUR / 4),
    );
    let connector = rig.start();
    let mut reader = Reader::new(&rig.topics.purchase_returns);
    reader.at_least(5, PATIENCE);
    let phase = |connector: &crate::kit::connector::Connector| {
        connector.status()["sections"]["feeds"]["purchase_returns"]["state"].clone()
    };
    assert!(rig.ran(0, &["feeds", "pause", "--feed", "purchase_returns"]).contains("paused"));
    until("the feed to pause", PATIENCE, || (phase(&connector) == "paused").then_some(()));
    let calls = connector.metric("wdt_connector_erp_calls_total", &[]);
    rig.erp.add_one(KIND);
    assert_eq!(connector.terminate(Duration::from_secs(20)).code(), Some(0));
    let connector = rig.start();
    until("the feed to be paused again", PATIENCE, || {
        (phase(&connector) == "paused").then_some(())
    });
    assert_eq!(
        connector.metric("wdt_connector_erp_calls_total", &[]),
        0.0,
        "not one call, after {calls} before"
    );
    let said = rig.ran(0, &["feeds", "show"]);
    for part in [
        "purchase_returns",
        &format!("{}-0-feeds", rig.application_id),
        "paused",
        "watermark",
        "finished",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(
        crate::kit::http::get(&connector.url("/readyz")).unwrap().status,
        200,
        "a pause is no failure"
    );
    rig.ran(0, &["feeds", "resume", "--feed", "purchase_returns"]);
    reader.at_least(6, PATIENCE);
    until("the feed to be live", PATIENCE, || (phase(&connector) == "live").then_some(()));
}

#[test]
fn a_watermark_is_set_once_and_reading_again_publishes_nothing_twice() {
    let rig = since_an_hour("mark");
    rig.erp.seed_between(
        KIND,
        25,
        Timestamp::now().minus(HOUR / 2),
        Timestamp::now().minus(HOUR / 4),
    );
    let connector = rig.start();
    let mut reader = Reader::new(&rig.topics.purchase_returns);
    reader.at_least(25, PATIENCE);
    until("the first read to end", PATIENCE, || (shown(&rig)["snapshot"] == false).then_some(()));
    let rows = || connector.metric("wdt_connector_feed_rows_total", &["pass=\"live\""]);
    let before = rows();
    let to = ago(HOUR * 2);
    let said = rig.ran(0, &["feeds", "set-watermark", "--feed", "purchase_returns", "--to", &to]);
    assert!(said.contains(&to), "{said}");
    until("the period to be read again", PATIENCE, || (rows() >= before + 25.0).then_some(()));
    until("the order to be done", PATIENCE, || {
        shown(&rig)["pending"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
    rig.erp.add_one(KIND);
    reader.at_least(26, PATIENCE);
    reader.finish();
    assert_eq!(judge(&rig, KIND, &reader).events, 26);
    // Skipping has to be said.
    let ahead = Timestamp::now().plus(HOUR).to_string();
    let skip = ["feeds", "set-watermark", "--feed", "purchase_returns", "--to", &ahead];
    assert!(rig.ran(2, &skip).contains("--allow-skip"));
    // Once by its id: a restart goes on where it stood.
    assert_eq!(connector.terminate(Duration::from_secs(20)).code(), Some(0));
    // Of two that nobody has carried out the later one holds, and it is said.
    let back = |to: &str| {
        rig.ran(0, &["feeds", "set-watermark", "--feed", "purchase_returns", "--to", to])
    };
    let replaces = "which no instance has carried out yet";
    let (first, second) = (ago(Duration::from_secs(90)), ago(Duration::from_secs(60)));
    assert!(!back(&first).contains(replaces));
    let said = back(&second);
    assert!(said.contains(replaces) && said.contains(&first), "{said}");
    let connector = rig.start();
    rig.erp.add_one(KIND);
    reader.at_least(27, PATIENCE);
    assert!(connector.metric("wdt_connector_feed_rows_total", &["pass=\"live\""]) < 25.0);
}

/// A record that moved out of the period and does not fit any more is shown all the same.
#[test]
fn verify_calls_no_record_unshown_that_went_to_the_dead_letters_since() {
    let rig = since_an_hour("unfitsince");
    let middle = Timestamp::now().minus(HOUR / 2).floor_second();
    let number = rig.erp.seed_between(KIND, 1, middle, middle).remove(0);
    let connector = rig.start();
    let mut reader = Reader::new(&rig.topics.purchase_returns);
    reader.at_least(1, PATIENCE);
    rig.erp.modify(KIND, &number, &json!({"set": {"detail_list": "?"}}));
    until("its dead letter", PATIENCE, || {
        (feed(&connector, KIND)["dead_letters"] == 1).then_some(())
    });
    let (from, to) = (ago(HOUR / 4 * 3), ago(HOUR / 4));
    rig.ran(0, &["verify", "--feed", "purchase_returns", "--from", &from, "--to", &to]);
}

/// Both ends of a flagship query's window.
fn window(asked: &str) -> Option<(&str, &str)> {
    let time = |name: &str| asked.split_once(name)?.1.get(..19);
    Some((time(r#""start_time":""#)?, time(r#""end_time":""#)?))
}

#[test]
fn a_backfill_reads_its_last_second_though_the_one_before_cannot_be_read() {
    static BROKEN: AtomicBool = AtomicBool::new(false);
    let mut rig = since_an_hour("lastsecond");
    rig.config.set("feeds.purchase_returns.late_pass", "interval", "1s");
    let from = Timestamp::now().minus(HOUR / 2).floor_second();
    let second = |at: u64| from.plus(Duration::from_secs(at));
    let url = rig.erp.flagship_url().to_owned();
    let (first, bad) = (from.to_beijing(), second(3).to_beijing());
    let door = move |asked: &str| match window(asked) {
        Some((start, end)) if BROKEN.load(Ordering::SeqCst) => {
            let holds = first.as_str() <= start && start <= bad.as_str() && bad.as_str() <= end;
            if holds { Passage::Cut } else { Passage::Through }
        }
        _ => Passage::Through,
    };
    let rewriter = Rewriter::with_door(&url, door, |_, answer| answer);
    rig.config.set("erp.flagship", "url", rewriter.url(&url));
    let connector = rig.start();
    let mut reader = Reader::new(&rig.topics.purchase_returns);
    until("the first read to end", PATIENCE, || (shown(&rig)["snapshot"] == false).then_some(()));
    // Both passes have been there, so only the backfill comes to it.
    let now = Timestamp::now().to_string();
    until("the late pass to be beyond it", PATIENCE, || {
        feed(&connector, KIND)["late_watermark"]
            .as_str()
            .is_some_and(|at| at > now.as_str())
            .then_some(())
    });
    let number = rig.erp.seed_between(KIND, 1, second(4), second(4)).remove(0);
    BROKEN.store(true, Ordering::SeqCst);
    let (from, to) = (from.to_string(), second(4).to_string());
    let period = ["--feed", "purchase_returns", "--from", &from, "--to", &to];
    rig.ran(0, &[&["backfill", "--follow"], &period[..]].concat());
    BROKEN.store(false, Ordering::SeqCst);
    until("all to be proven", PATIENCE, || {
        feed(&connector, KIND)["unproven"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
    reader.at_least(1, PATIENCE);
    assert_eq!(reader.seen[0].key_text(), number);
}

#[test]
fn what_was_skipped_was_not_missed() {
    let mut rig = since_an_hour("skipped");
    rig.config.set("feeds.purchase_returns.late_pass", "interval", "1s");
    let stamp = Timestamp::now().minus(HOUR / 2).to_beijing();
    let connector = rig.start();
    until("the first read to end", PATIENCE, || (shown(&rig)["snapshot"] == false).then_some(()));
    // Back, and on without reading: each is carried out in a pause as well.
    rig.ran(0, &["feeds", "pause", "--feed", "purchase_returns"]);
    until("the pause", PATIENCE, || (feed(&connector, KIND)["state"] == "paused").then_some(()));
    let set = |arguments: &[&str]| {
        let verb = ["feeds", "set-watermark", "--feed", "purchase_returns", "--to"];
        rig.ran(0, &[&verb[..], arguments].concat());
        until("the order to be done", PATIENCE, || {
            shown(&rig)["pending"].as_array().is_some_and(Vec::is_empty).then_some(())
        });
    };
    set(&[&ago(HOUR)]);
    set(&[&ago(Duration::from_secs(60)), "--allow-skip"]);
    rig.ran(0, &["feeds", "resume", "--feed", "purchase_returns"]);
    let number = rig.erp.add_one(KIND);
    rig.erp.modify(KIND, &number, &json!({"remark": "skipped", "modified": stamp}));
    let (from, to) = (ago(HOUR / 4 * 3), ago(HOUR / 4));
    let period = ["--feed", "purchase_returns", "--from", &from, "--to", &to];
    let said = rig.ran(0, &[&["backfill", "--follow"], &period[..]].concat());
    assert!(said.contains("1 events published"), "{said}");
    assert_eq!(feed(&connector, KIND)["advice"], Value::Null);
}

/// What `/status`, the metrics and `feeds show` say of both passes' lags, in seconds, at one moment
/// up to the time the tool takes.
fn lags(rig: &Rig, connector: &crate::kit::connector::Connector) -> [f64; 2] {
    let asked = || {
        let began = Instant::now();
        let (feed, view) = (feed(connector, KIND), shown(rig));
        let metric = |pass: &str| {
            let labels = [&format!("pass=\"{pass}\"")[..], "purchase_returns"];
            connector.metric("wdt_connector_feed_lag_seconds", &labels)
        };
        let metrics = ["live", "late"].map(metric);
        (feed, view, metrics, began.elapsed().as_secs_f64())
    };
    let (feed, view, metrics, took) = asked();
    for watermark in ["watermark", "late_watermark"] {
        assert_eq!(feed[watermark], view[watermark], "{feed} {view}");
    }
    let status = ["lag_ms", "late_lag_ms"].map(|name| feed[name].as_f64().unwrap() / 1000.0);
    let tool = ["lag_seconds", "late_lag_seconds"].map(|name| view[name].as_f64().unwrap());
    for (status, (tool, metric)) in status.iter().zip(tool.iter().zip(metrics)) {
        let lags = format!("{status} {tool} {metric}, told within {took} s");
        assert!(metric >= *status && metric <= status + took, "{lags}");
        // In whole seconds.
        assert!(*tool > status - 1.0 && *tool <= metric, "{lags}");
    }
    status
}

#[test]
fn lag_grows_in_an_outage_and_a_pause_and_is_the_same_wherever_it_is_shown() {
    let mut rig = since_an_hour("lag");
    rig.config.set("feeds.purchase_returns.late_pass", "interval", "1s");
    let connector = rig.start();
    until("the first read to end", PATIENCE, || (shown(&rig)["snapshot"] == false).then_some(()));
    let phase = |phase: &str| {
        until(&format!("the feed to be {phase}"), PATIENCE, || {
            (feed(&connector, KIND)["state"] == phase).then_some(())
        });
    };
    let grows = |what: &str| {
        // Nothing moves any more, so what is stored is what is told.
        let [live, late] = lags(&rig, &connector);
        until(&format!("the lag to grow in {what}"), PATIENCE, || {
            let [now, late_now] = lags(&rig, &connector);
            (now > live + 3.0 && late_now > late + 3.0).then_some(())
        });
    };
    phase("live");
    rig.erp.only_faults("purchaseReturns:5xx=1");
    phase("waiting");
    grows("an outage");
    rig.erp.only_faults("");
    phase("live");
    rig.ran(0, &["feeds", "pause", "--feed", "purchase_returns"]);
    phase("paused");
    grows("a pause");
    rig.ran(0, &["feeds", "resume", "--feed", "purchase_returns"]);
    until("the lag to be short again", PATIENCE, || {
        feed(&connector, KIND)["late_lag_ms"].as_u64().is_some_and(|lag| lag < 8_000).then_some(())
    });
}

/// What other filters left out was not shown late.
#[test]
fn what_changed_filters_show_is_no_late_row() {
    let mut rig = since_an_hour("filters");
    // The late pass runs once after a start.
    rig.config.set("feeds.purchase_returns.late_pass", "interval", "10m").set(
        "feeds.purchase_returns.filters",
        "status",
        "5",
    );
    let connector = rig.start();
    until("the first read to end", PATIENCE, || (shown(&rig)["snapshot"] == false).then_some(()));
    let number = rig.erp.add_one(KIND);
    rig.erp.modify(KIND, &number, &json!({"status": 50, "remark": "in"}));
    let beyond = Timestamp::now().plus(Duration::from_secs(5)).to_string();
    until("the first pass to come beyond it", PATIENCE, || {
        let feed = feed(&connector, KIND);
        feed["watermark"].as_str().is_some_and(|now| now > beyond.as_str()).then_some(())
    });
    assert!(connector.terminate(Duration::from_secs(20)).success());
    rig.config.set("feeds.purchase_returns.filters", "status", "50");
    let connector = rig.start();
    let mut reader = Reader::new(&rig.topics.purchase_returns);
    reader.at_least(1, PATIENCE);
    until("the backfill to end", PATIENCE, || shown(&rig)["backfill"].is_null().then_some(()));
    let windows = connector.metric("wdt_connector_feed_windows_total", &["pass=\"late\""]);
    assert!(windows >= 1.0, "the late pass was there");
    reader.finish();
    assert_eq!(reader.seen.len(), 1);
    let event = rig.json(&reader.seen[0]);
    assert_eq!((&event["op"], &event["after"]["remark"]), (&json!("r"), &json!("in")));
    assert_eq!(connector.metric("wdt_connector_feed_late_rows_total", &[]), 0.0);
    let feed = feed(&connector, KIND);
    assert!(feed["advice"].is_null() && feed["latest_late_row_ms"].is_null(), "{feed}");
}

/// Ids of one account mean other records in another.
#[test]
fn a_state_of_another_account_is_refused_by_name() {
    let mut rig = since_an_hour("account");
    rig.erp.seed_between(
        KIND,
        3,
        Timestamp::now().minus(HOUR / 2),
        Timestamp::now().minus(HOUR / 4),
    );
    let connector = rig.start();
    let mut reader = Reader::new(&rig.topics.purchase_returns);
    reader.at_least(3, PATIENCE);
    until("a checkpoint", PATIENCE, || shown(&rig)["watermark"].is_string().then_some(()));
    assert!(connector.terminate(Duration::from_secs(20)).success());
    let own = rig.erp.flagship_sid().to_owned();
    assert_eq!(shown(&rig)["account"], own);
    assert_eq!(shown(&rig)["edition"], "flagship");

    rig.config.set("erp.flagship", "sid", "another");
    let named = [own.as_str(), "another", "application_id"];
    let mut refused = rig.spawn();
    let ended = refused.wait_end(PATIENCE).expect("it ends by itself");
    assert_eq!(ended.code(), Some(1));
    let log = refused.log();
    assert!(named.iter().all(|part| log.contains(part)), "{log}");
    let period = ["--feed", "purchase_returns", "--from", &ago(HOUR), "--to", &ago(HOUR / 4)];
    for arguments in [
        &["check"][..],
        &[&["verify"], &period[..]].concat(),
        &[&["backfill"], &period[..]].concat(),
        &["feeds", "set-watermark", "--feed", "purchase_returns", "--to", &ago(HOUR)],
    ] {
        let said = rig.ran(1, arguments);
        assert!(named.iter().all(|part| said.contains(part)), "{arguments:?}: {said}");
    }
    reader.finish();
    assert_eq!(reader.seen.len(), 3, "nothing was published");

    rig.config.set("erp.flagship", "sid", own);
    let _connector = rig.start();
    rig.erp.add_one(KIND);
    reader.at_least(4, PATIENCE);
}

#[test]
fn an_earlier_start_publishes_what_lies_before_and_a_later_one_removes_nothing() {
    let mut rig = since_an_hour("start");
    rig.erp.seed_between(
        KIND,
        40,
        Timestamp::now().minus(HOUR * 9),
        Timestamp::now().minus(HOUR * 5),
    );
    rig.erp.seed_between(
        KIND,
        10,
        Timestamp::now().minus(HOUR / 2),
        Timestamp::now().minus(HOUR / 4),
    );
    let connector = rig.start();
    let mut reader = Reader::new(&rig.topics.purchase_returns);
    reader.at_least(10, PATIENCE);
    until("the first read to end", PATIENCE, || (shown(&rig)["snapshot"] == false).then_some(()));
    assert!(connector.terminate(Duration::from_secs(20)).success());
    let start = ago(HOUR * 10);
    rig.config.set("feeds.purchase_returns", "start_at", start.clone());
    let connector = rig.start();
    connector.wait_log("start_at is earlier", PATIENCE);
    reader.at_least(50, PATIENCE);
    until("the backfill to end", PATIENCE, || shown(&rig)["backfill"].is_null().then_some(()));
    reader.finish();
    assert!(reader.seen[10..].iter().all(|record| rig.json(record)["op"] == "r"));
    assert_eq!(judge(&rig, KIND, &reader).records, 50);
    assert_eq!(shown(&rig)["start_at"], start);
    assert!(connector.terminate(Duration::from_secs(20)).success());

    rig.config.set("feeds.purchase_returns", "start_at", ago(HOUR));
    let connector = rig.start();
    connector.wait_log("configured start_at is later", PATIENCE);
    rig.erp.add_one(KIND);
    reader.at_least(51, PATIENCE);
    assert_eq!(shown(&rig)["start_at"], start);
}

/// Whoever sets the watermark back wants more to be read, not less.
#[test]
fn a_watermark_set_between_both_passes_loses_no_late_row() {
    let mut rig = since_an_hour("between");
    rig.config.set("feeds.purchase_returns.late_pass", "lag", "12s").set(
        "feeds.purchase_returns.late_pass",
        "interval",
        "1s",
    );
    let numbers = rig.erp.seed_between(
        KIND,
        1,
        Timestamp::now().minus(HOUR / 2),
        Timestamp::now().minus(HOUR / 4),
    );
    let connector = rig.start();
    let mut reader = Reader::new(&rig.topics.purchase_returns);
    reader.at_least(1, PATIENCE);
    until("the first read to end", PATIENCE, || (shown(&rig)["snapshot"] == false).then_some(()));
    rig.erp.modify(KIND, &numbers[0], &json!({"remark": "late", "visible_after_ms": 5_000}));
    let stamped = Timestamp::now();
    let beyond = |name: &str, at: Timestamp| {
        let feed = feed(&connector, KIND);
        feed[name].as_str().is_some_and(|now| now > at.to_string().as_str())
    };
    let to = stamped.plus(Duration::from_secs(2)).floor_second();
    until("the first pass to come beyond it", PATIENCE, || {
        beyond("watermark", to.plus(Duration::from_secs(1))).then_some(())
    });
    assert!(!beyond("late_watermark", stamped), "the late pass is still before it");
    let to = to.to_string();
    rig.ran(0, &["feeds", "set-watermark", "--feed", "purchase_returns", "--to", &to]);
    reader.at_least(2, PATIENCE);
    reader.finish();
    assert_eq!(judge(&rig, KIND, &reader).events, 2);
}

#[test]
fn the_tools_say_what_is_wrong_with_what_they_were_asked() {
    let rig = Rig::new("wrong").purchase_returns();
    for (code, arguments, part) in [
        (
            2,
            &[
                "verify",
                "--feed",
                "nothing",
                "--from",
                "2026-01-01T00:00:00Z",
                "--to",
                "2026-01-02T00:00:00Z",
            ][..],
            "purchase_returns and return_outbounds",
        ),
        (2, &["backfill", "--feed", "purchase_returns"], "--from"),
        (
            2,
            &[
                "backfill",
                "--feed",
                "purchase_returns",
                "--from",
                "yesterday",
                "--to",
                "2026-01-02T00:00:00Z",
            ],
            "for example",
        ),
        (
            1,
            &[
                "backfill",
                "--feed",
                "return_outbounds",
                "--from",
                "2026-01-01T00:00:00Z",
                "--to",
                "2026-01-02T00:00:00Z",
            ],
            "not enabled",
        ),
        (
            1,
            &[
                "backfill",
                "--feed",
                "purchase_returns",
                "--from",
                "2026-01-02T00:00:00Z",
                "--to",
                "2026-01-01T00:00:00Z",
            ],
            "earlier",
        ),
        (1, &["backfill", "--feed", "purchase_returns", "--follow"], "no backfill"),
        (
            1,
            &[
                "backfill",
                "--feed",
                "purchase_returns",
                "--from",
                "2026-01-01T00:00:00Z",
                "--to",
                "2026-01-02T00:00:00Z",
            ],
            "no checkpoint",
        ),
        (
            1,
            &[
                "verify",
                "--feed",
                "purchase_returns",
                "--from",
                "2026-01-01T00:00:00Z",
                "--to",
                "2026-01-02T00:00:00Z",
            ],
            "never been read",
        ),
        (
            1,
            &[
                "feeds",
                "set-watermark",
                "--feed",
                "purchase_returns",
                "--to",
                "2026-01-02T00:00:00Z",
            ],
            "no checkpoint",
        ),
    ] {
        let said = rig.ran(code, arguments);
        assert!(said.contains(part), "{arguments:?}: {said}");
    }
    assert!(rig.ran(0, &["feeds", "show"]).contains("never been read"));
    assert!(read_all(&rig.topics.feeds_state).is_empty(), "nothing was written");
}
