//! Records that move while they are read, on a real broker: nothing missed, nothing twice, whatever
//! else goes wrong.

use std::time::Duration;

use serde_json::{Value, json};
use wdt_connector::testing::{clock::Timestamp, crash::Point};

use crate::{
    kit::{
        Dice,
        connector::Connector,
        erp::Kind,
        promises::{Tally, judge},
        records::{Reader, Record, read_all},
        rig::{PATIENCE, Rig},
        topics, until,
    },
    parts::say,
};

/// Records modified a second.
const CHURN: f64 = 50.0;

/// How long records move: long enough to page dozens of windows; `WDT_TEST_DRIFT_SECONDS` for a
/// longer look.
fn drift() -> Duration {
    let seconds = std::env::var("WDT_TEST_DRIFT_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(8))
}

fn feed_name(kind: Kind) -> &'static str {
    if kind == Kind::Returns { "purchase_returns" } else { "return_outbounds" }
}

fn topic(rig: &Rig, kind: Kind) -> &str {
    if kind == Kind::Returns { &rig.topics.purchase_returns } else { &rig.topics.return_outbounds }
}

fn instant(value: &Value) -> Option<Timestamp> {
    value
        .as_str()
        .and_then(|text| text.parse::<jiff::Timestamp>().ok())
        .map(|instant| Timestamp(instant.as_millisecond()))
}

/// Waits until both passes have been beyond this moment: what was modified before it has been read
/// twice.
fn settle(connector: &Connector, kind: Kind) {
    let now = Timestamp::now();
    until("the late pass to come to the end of the drift", PATIENCE, || {
        let feed = &connector.status()["sections"]["feeds"][feed_name(kind)];
        let beyond = |name: &str| instant(&feed[name]).is_some_and(|at| at > now);
        (beyond("watermark") && beyond("late_watermark")).then_some(())
    });
}

/// Small pages and a small budget, so that every second of the drift is paged.
fn small_pages(rig: &mut Rig, kind: Kind) {
    let section = format!("feeds.{}", feed_name(kind));
    rig.config.set(&section, "page_size", 5).set(&section, "max_pages_per_window", 4).set(
        &format!("{section}.late_pass"),
        "interval",
        "1s",
    );
}

fn churn(rig: &Rig, rate: f64) {
    rig.erp.adjust(&json!({"modifications_per_second": rate}));
}

fn drifting(mut rig: Rig, kind: Kind) {
    small_pages(&mut rig, kind);
    rig.erp.seed(kind, 150);
    let connector = rig.start();
    let mut reader = Reader::new(topic(&rig, kind));
    reader.at_least(150, PATIENCE);
    churn(&rig, CHURN);
    std::thread::sleep(drift());
    churn(&rig, 0.0);
    settle(&connector, kind);
    reader.finish();
    let tally = judge(&rig, kind, &reader);
    let confirmed =
        connector.metric("wdt_connector_feed_out_of_order_rows_total", &["result=\"confirmed\""]);
    assert!(
        tally.went_back as f64 <= confirmed,
        "{tally:?} with {confirmed} versions confirmed by number"
    );
    assert!(tally.events > tally.records, "records moved: {tally:?}");
    let calls = connector.metric("wdt_connector_feed_pages_total", &[]);
    say(&format!(
        "drift of {:?} at {CHURN}/s: {tally:?}, {} modifications, {calls} calls",
        kind,
        drift().as_secs() as f64 * CHURN
    ));
    assert!(read_all(&rig.topics.feeds_dlq).is_empty());
}

#[test]
fn nothing_is_missed_or_repeated_while_flagship_orders_move() {
    drifting(Rig::new("driftf").return_outbounds("flagship"), Kind::FlagshipOutbounds);
}

#[test]
fn nothing_is_missed_or_repeated_while_enterprise_orders_move() {
    drifting(Rig::new("drifte").return_outbounds("enterprise"), Kind::EnterpriseOutbounds);
}

#[test]
fn one_second_with_more_rows_than_the_page_budget_is_read_whole() {
    let kind = Kind::Returns;
    let mut rig = Rig::new("second").purchase_returns();
    small_pages(&mut rig, kind);
    let second = Timestamp::now().minus(Duration::from_secs(3_600)).floor_second();
    rig.erp.seed_between(kind, 333, second, second);
    let connector = rig.start();
    let mut reader = Reader::new(topic(&rig, kind));
    reader.at_least(333, PATIENCE);
    settle(&connector, kind);
    reader.finish();
    let tally = judge(&rig, kind, &reader);
    assert_eq!((tally.records, tally.events), (333, 333));
}

#[test]
fn what_the_erp_shows_late_is_published_by_the_late_pass_and_counted() {
    let kind = Kind::FlagshipOutbounds;
    let mut rig = Rig::new("late").return_outbounds("flagship");
    // The late pass stays 6 s behind, so it sees what the first one, 1 s behind, cannot.
    rig.config.set("feeds.return_outbounds.late_pass", "lag", "6s").set(
        "feeds.return_outbounds.late_pass",
        "interval",
        "1s",
    );
    let numbers = rig.erp.seed(kind, 20);
    let connector = rig.start();
    let mut reader = Reader::new(topic(&rig, kind));
    reader.at_least(20, PATIENCE);
    for (turn, number) in numbers.iter().enumerate() {
        rig.erp.modify(
            kind,
            number,
            &json!({"remark": format!("late {turn}"), "visible_after_ms": 3_000}),
        );
    }
    reader.at_least(40, PATIENCE);
    settle(&connector, kind);
    reader.finish();
    assert_eq!(judge(&rig, kind, &reader).events, 40);
    assert!(connector.metric("wdt_connector_feed_late_rows_total", &["return_outbounds"]) >= 20.0);
    assert!(connector.metric("wdt_connector_feed_lag_seconds", &["pass=\"late\""]) > 0.0);
    let feed = connector.status()["sections"]["feeds"]["return_outbounds"].clone();
    assert!(feed["late_lag_ms"].as_u64().is_some_and(|lag| lag > 0), "{feed}");
    assert!(feed["latest_late_row_ms"].as_u64().is_some_and(|late| late >= 3_000), "{feed}");
    assert!(feed["advice"].as_str().is_some_and(|advice| advice.contains("safety_lag")), "{feed}");
}

#[test]
fn a_window_costs_its_pages_and_one_call_and_an_idle_poll_one() {
    const ROWS: usize = 1_000;
    let kind = Kind::Returns;
    let mut rig = Rig::new("calls").purchase_returns();
    let now = Timestamp::now();
    let from = now.minus(Duration::from_secs(7_200)).floor_second();
    rig.config.set("feeds.purchase_returns", "start_at", from.to_string());
    rig.erp.seed_between(kind, ROWS, from, now.minus(Duration::from_secs(60)));
    let connector = rig.start();
    let mut reader = Reader::new(topic(&rig, kind));
    reader.at_least(ROWS, PATIENCE);
    let live = |name: &str| {
        connector.metric(&format!("wdt_connector_feed_{name}_total"), &["pass=\"live\""])
    };
    until("some idle polls", PATIENCE, || (live("windows") >= 4.0).then_some(()));
    // Counted by whoever answered, too: the late pass takes part in that, so it is no more than a
    // bound.
    let (windows, calls) = (live("windows"), live("pages"));
    assert_eq!(
        calls,
        (ROWS / 100 + 1) as f64 + (windows - 1.0),
        "the first window and {windows} in all"
    );
    say(&format!(
        "calls: {} for the window of {ROWS} rows at 100 a page, 1 for each idle poll",
        calls - (windows - 1.0)
    ));
}

/// Every hop of the change pipeline, every step of its transactions and of its takeover; `:2`
/// where the first passage is the takeover's barrier, further ones where a window takes several
/// transactions.
fn rows() -> Vec<String> {
    let ours = [
        "window.",
        "changes.",
        "state.",
        "takeover.",
        "txn.begun",
        "txn.sent",
        "txn.delivered",
        "txn.offsets-sent",
        "txn.commit",
    ];
    let mut rows = Vec::new();
    for point in Point::ALL
        .iter()
        .map(|point| point.name())
        .filter(|name| ours.iter().any(|part| name.starts_with(part)))
    {
        let passages: &[u32] = match point {
            "changes.published" => &[1, 2],
            name if name.starts_with("txn.") => &[2],
            _ => &[1],
        };
        rows.extend(passages.iter().map(|passage| format!("{point}={}*off->kill", passage - 1)));
    }
    rows
}

#[test]
fn killed_at_every_hop_it_publishes_everything_once() {
    let kind = Kind::Returns;
    let mut rig = Rig::new("hops").purchase_returns();
    let now = Timestamp::now();
    rig.config.set(
        "feeds.purchase_returns",
        "start_at",
        now.minus(Duration::from_secs(7_200)).floor_second().to_string(),
    );
    // More than two batches in one window, so that there is a batch before the last.
    rig.erp.seed_between(
        kind,
        1_300,
        now.minus(Duration::from_secs(7_000)),
        now.minus(Duration::from_secs(60)),
    );
    let rows = rows();
    assert!(rows.len() >= 15, "{rows:?}");
    for point in &rows {
        // Where a second passage is wanted there must be two batches, whatever the kills before
        // have let through.
        if point == "changes.published=1*off->kill" {
            rig.erp.churn(1_300);
        }
        let mut connector = rig.spawn_with(&[("FAILPOINTS", point)]);
        until(&format!("the kill at {point}"), PATIENCE, || (!connector.running()).then_some(()));
        // Something new for the next one.
        rig.erp.churn(10);
    }
    let connector = rig.start();
    settle(&connector, kind);
    let mut reader = Reader::new(topic(&rig, kind));
    reader.finish();
    let tally = judge(&rig, kind, &reader);
    say(&format!("killed at {} places: {tally:?}", rows.len()));
}

/// The moments of the kills below come from this; printed, so that a failure can be repeated.
const SEED: u64 = 20_261_124;

#[test]
fn killed_at_any_moment_it_publishes_everything_once() {
    let kind = Kind::EnterpriseOutbounds;
    let mut rig = Rig::new("moments").return_outbounds("enterprise");
    small_pages(&mut rig, kind);
    rig.erp.seed(kind, 150);
    rig.erp.faults("outbounds:5xx=0.04,outbounds:reset=0.03,outbounds:garbage=0.03");
    churn(&rig, CHURN);
    let (mut dice, mut kills) = (Dice(SEED), 0);
    // It is killed between its exec and some seconds of work; now and then it is let come to work
    // at least.
    for turn in 0..12 {
        let mut connector = if turn % 3 == 0 { rig.start() } else { rig.spawn() };
        std::thread::sleep(Duration::from_millis(dice.roll(1_800)));
        kills += u32::from(connector.running());
        connector.kill();
    }
    churn(&rig, 0.0);
    rig.erp.only_faults("");
    let connector = rig.start();
    settle(&connector, kind);
    let mut reader = Reader::new(topic(&rig, kind));
    reader.finish();
    let tally = judge(&rig, kind, &reader);
    assert_eq!(kills, 12, "it ended by itself");
    assert!(tally.events > tally.records, "records moved: {tally:?}");
    say(&format!("killed {kills} times at any moment, seed {SEED}: {tally:?}"));
}

#[test]
fn two_instances_killed_in_turn_lose_and_repeat_nothing() {
    let kind = Kind::FlagshipOutbounds;
    let mut rig = Rig::bare("turns").return_outbounds("flagship");
    rig.topics.create(4);
    topics::alter(
        &rig.topics.feeds_state,
        // All of them: what is not named falls back to the broker's default, the policy as well.
        &[
            ("cleanup.policy", "compact"),
            ("segment.ms", "1000"),
            ("min.cleanable.dirty.ratio", "0.01"),
            ("max.compaction.lag.ms", "1000"),
        ],
    );
    small_pages(&mut rig, kind);
    rig.erp.seed(kind, 200);
    // The ERP fails one call in ten in some way.
    rig.erp.faults(
        "outbounds:5xx=0.03,outbounds:reset=0.03,outbounds:garbage=0.02,outbounds:truncated=0.02",
    );
    churn(&rig, 20.0);
    let mut running: Vec<(u32, Connector)> = Vec::new();
    for instance in [0, 1] {
        rig.config.set("kafka", "instance_ordinal", instance);
        running.push((instance, rig.start()));
    }
    let owner = |running: &[(u32, Connector)]| {
        running.iter().position(|(_, connector)| {
            let state =
                connector.status()["sections"]["feeds"]["return_outbounds"]["state"].clone();
            state != "elsewhere" && state != "restoring"
        })
    };
    for turn in 0..2 {
        let at = until("an owner of the feed", PATIENCE, || owner(&running));
        let (instance, connector) = running.remove(at);
        let before = connector.metric("wdt_connector_feed_windows_total", &[]);
        // Each owner is refused once by the quota, and rests: more refusals would only slow the
        // feed to what they claim.
        let refused = |connector: &Connector| {
            connector.metric("wdt_connector_erp_calls_total", &["result=\"throttled\""])
        };
        let refused_before = refused(&connector);
        rig.erp.faults("outbounds:throttle=1x");
        until("some windows of this owner, and a refusal", PATIENCE, || {
            (refused(&connector) > refused_before
                && connector.metric("wdt_connector_feed_windows_total", &[]) > before + 3.0)
                .then_some(())
        });
        connector.kill();
        // The other takes over after the session's end, or the same comes back to an empty cache.
        if turn == 1 {
            let _ = std::fs::remove_dir_all(rig.path("cache"));
        }
        until("another owner", PATIENCE, || owner(&running));
        rig.config.set("kafka", "instance_ordinal", instance);
        running.push((instance, rig.start()));
    }
    churn(&rig, 0.0);
    rig.erp.only_faults("");
    let at = until("an owner of the feed", PATIENCE, || owner(&running));
    settle(&running[at].1, kind);
    // The state is compacted while it is written: fewer versions are held than were published. A
    // segment is closed by the next record only, so there has to be a next one.
    let mut reader = Reader::new(topic(&rig, kind));
    until("the broker to compact the state", PATIENCE, || {
        rig.erp.churn(2);
        let published = reader.finish().len();
        let is_version = |record: &&Record| {
            record.partition == 1
                && record.key_text().matches(',').count() == 1
                && !record.key_text().contains('#')
        };
        let held = read_all(&rig.topics.feeds_state).iter().filter(is_version).count();
        (held < published).then_some(())
    });
    settle(&running[at].1, kind);
    reader.finish();
    let tally: Tally = judge(&rig, kind, &reader);
    say(&format!("two instances killed in turn: {tally:?}"));
    // And a restart on the compacted state goes on from there.
    running.clear();
    let connector = rig.start();
    rig.erp.add_one(kind);
    settle(&connector, kind);
    reader.finish();
    assert_eq!(judge(&rig, kind, &reader).events, tally.events + 1);
}
