//! Records that move while they are read, on a real broker: nothing missed, nothing twice, whatever
//! else goes wrong.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;
use wdt_connector::testing::{clock::Timestamp, crash::Point};

use crate::{
    kit::{
        Dice,
        connector::Connector,
        erp::{Erp, Kind},
        promises::{Tally, compare, feed, feed_name, judge, settle, settle_as_far, topic},
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
    Duration::from_secs(seconds.unwrap_or(10))
}

/// A longer look is taken in rounds of this, each of which begins with a first read: that is where
/// records can be missed for good.
const ROUND: Duration = Duration::from_secs(60);

/// From here on a look is compared with one whose pages are as they should be, which takes as long.
const COMPARED: Duration = Duration::from_secs(60);

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

/// The simulator's in the first round; `WDT_TEST_DRIFT_SEED` for another. Printed, although the
/// connector's own times have a say in which answer meets which fault.
fn seed() -> u64 {
    let seed = std::env::var("WDT_TEST_DRIFT_SEED").ok().and_then(|text| text.parse().ok());
    seed.unwrap_or(20_261_130)
}

/// One query in ten fails in ordinary ways.
const FAILURES: &str = "query:5xx=0.03,query:reset=0.03,query:garbage=0.02,query:truncated=0.02";

/// A record twice and its neighbour not at all in every 47th page, one not at all in every 41st, a
/// short page every 43rd, the neighbouring page every 29th, a count off by one every 37th and 53rd.
///
/// Twice that where it can strike: a window takes either low counts or withheld rows, so each meets
/// one window in two.
const IMPERFECT: &str = "query:withhold_double=0.0426,query:withhold=0.0488,query:short_page(13)=0.0465,\
     query:neighbour_page=0.069,query:count_off(-1)=0.0541,query:count_off(1)=0.0189";

/// What the rounds came to.
#[derive(Default)]
struct Drift {
    tally: Tally,
    trouble: Vec<String>,
    modifications: u64,
    struck: BTreeMap<String, u64>,
    unproven: usize,
    calls: u64,
    /// Versions that looked older and were confirmed by number.
    confirmed: f64,
}

/// Reads 1,500 records for the first time while most of them are modified, and goes on until they
/// rest. Pages are as they should be when `faults` is empty.
fn round(drift: &mut Drift, what: &str, kind: Kind, seed: u64, faults: &str, lasts: Duration) {
    let seed = seed.to_string();
    let mut arguments = vec!["--seed", &seed, "--page-order", "modified_asc"];
    arguments.extend((!faults.is_empty()).then_some("--shuffle-equal"));
    let rig = Rig::around(what, Erp::start_with(&arguments));
    rig.topics.create(4);
    let mut rig = match kind {
        Kind::Returns => rig.purchase_returns(),
        Kind::FlagshipOutbounds => rig.return_outbounds("flagship"),
        Kind::EnterpriseOutbounds => rig.return_outbounds("enterprise"),
    };
    let section = format!("feeds.{}", feed_name(kind));
    let now = Timestamp::now();
    let before = |minutes: u64| now.minus(Duration::from_secs(minutes * 60)).floor_second();
    rig.config
        .set(&section, "start_at", before(181).to_string())
        .set(&section, "page_size", 20)
        .set(&section, "max_pages_per_window", 12)
        .set(&format!("{section}.late_pass"), "interval", "1s");
    // A third of them in seconds of fifty: rows of equal `modified` stand on several pages.
    rig.erp.seed_between(kind, 1_000, before(180), before(1));
    for burst in 0..10 {
        rig.erp.seed_between(kind, 50, before(9 + burst * 17), before(9 + burst * 17));
    }
    // What is modified again is published then, whatever was missed before: some of them rest. Late
    // by less than `max_visibility_lag`. With this latency a first read takes seconds, and records leave the windows that are read.
    rig.erp.adjust(&json!({
        "latency_ms": 60,
        "new_records": 0.1,
        "resting_records": 0.4,
        "late_records": 0.2,
        "late_records_ms": 400,
    }));
    rig.erp.only_faults(&[FAILURES, faults].join(","));
    churn(&rig, CHURN);
    let connector = rig.start();
    std::thread::sleep(lasts);
    churn(&rig, 0.0);
    rig.erp.only_faults("");
    drift.unproven += settle_as_far(&connector, kind);
    let mut reader = Reader::new(topic(&rig, kind));
    reader.finish();
    let (tally, trouble) = compare(&rig, kind, &reader);
    assert!(read_all(&rig.topics.feeds_dlq).is_empty());
    drift.tally += tally;
    drift.trouble.extend(trouble.into_iter().map(|line| format!("seed {seed}: {line}")));
    drift.modifications += rig.erp.summary()["modifications"].as_u64().expect("a count");
    for (fault, struck) in rig.erp.struck() {
        *drift.struck.entry(fault).or_default() += struck;
    }
    drift.calls += rig.erp.asked(kind);
    drift.confirmed +=
        connector.metric("wdt_connector_feed_out_of_order_rows_total", &["result=\"confirmed\""]);
}

fn drifting(what: &str, kind: Kind) {
    let (mut seen, mut good) = (Drift::default(), Drift::default());
    let mut left = drift();
    for seed in seed().. {
        let lasts = left.min(ROUND);
        round(&mut seen, what, kind, seed, IMPERFECT, lasts);
        if drift() >= COMPARED {
            round(&mut good, what, kind, seed, "", lasts);
        }
        left -= lasts;
        if left.is_zero() {
            break;
        }
    }
    let Drift { tally, trouble, modifications, struck, unproven, calls, confirmed } = &seen;
    let compared = if drift() >= COMPARED {
        format!(" against {} with good pages", good.calls)
    } else {
        String::new()
    };
    say(&format!(
        "drift of {kind:?} for {} s, seed {}: {modifications} modifications of {} records, faults {struck:?}, \
         {} missed, {} twice, {unproven} unproven at the end, {calls} calls{compared}",
        drift().as_secs(),
        seed(),
        tally.records,
        tally.missed,
        tally.repeated,
    ));
    assert!(trouble.is_empty(), "{tally:?}; {} in all, the first: {}", trouble.len(), trouble[0]);
    assert!(good.trouble.is_empty(), "{:?} with good pages: {}", good.tally, good.trouble[0]);
    assert_eq!(*unproven, 0, "windows that nobody has read as they are");
    assert!(tally.went_back as f64 <= *confirmed, "{tally:?} with {confirmed} confirmed by number");
    assert!(tally.records > 1_500 && tally.events > tally.records, "records moved: {tally:?}");
    // A short run meets some of them, a long one each.
    let imperfect = IMPERFECT.split("query:").filter_map(|rule| rule.split_once('='));
    let mut met = imperfect.map(|(fault, _)| struck.contains_key(fault));
    let enough = if drift() >= COMPARED { met.all(|met| met) } else { met.any(|met| met) };
    assert!(enough, "the pages were better than they should be: {struck:?}");
}

#[test]
fn nothing_is_missed_or_repeated_while_flagship_orders_move() {
    drifting("driftf", Kind::FlagshipOutbounds);
}

#[test]
fn nothing_is_missed_or_repeated_while_enterprise_orders_move() {
    drifting("drifte", Kind::EnterpriseOutbounds);
}

#[test]
fn nothing_is_missed_or_repeated_while_returns_move() {
    drifting("driftr", Kind::Returns);
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
    let feed = feed(&connector, kind);
    assert!(feed["late_lag_ms"].as_u64().is_some_and(|lag| lag > 0), "{feed}");
    assert!(feed["latest_late_row_ms"].as_u64().is_some_and(|late| late >= 3_000), "{feed}");
    assert!(feed["advice"].as_str().is_some_and(|advice| advice.contains("safety_lag")), "{feed}");
}

#[test]
fn an_erp_slower_than_the_poll_interval_does_not_keep_the_late_pass_from_reading() {
    let kind = Kind::FlagshipOutbounds;
    let mut rig = Rig::new("slowlate").return_outbounds("flagship");
    rig.config.set("feeds.return_outbounds", "poll_interval", "50ms");
    let late = "feeds.return_outbounds.late_pass";
    rig.config.set(late, "lag", "3s").set(late, "interval", "100ms");
    rig.erp.seed(kind, 20);
    // Whenever an answer is there, another whole second can be asked for.
    rig.erp.faults("all:slow(1100ms)=1");
    let connector = rig.start();
    let mut reader = Reader::new(topic(&rig, kind));
    reader.at_least(20, PATIENCE);
    let watermark = || {
        let feed = feed(&connector, kind);
        (feed["state"] == "live").then(|| feed["late_watermark"].as_str().unwrap().to_owned())
    };
    let before = until("the first read to end", PATIENCE, watermark);
    until("the late watermark to move", Duration::from_secs(20), || {
        watermark().filter(|now| *now > before)
    });
}

#[test]
fn a_query_without_status_that_hides_statuses_is_said() {
    let kind = Kind::FlagshipOutbounds;
    let mut rig = Rig::new("bothways").return_outbounds("flagship");
    let late = "feeds.return_outbounds.late_pass";
    rig.config.set(late, "lag", "3s").set(late, "interval", "100ms");
    rig.erp.seed(kind, 20);
    // A default like that of the enterprise edition.
    rig.erp.adjust(&json!({"default_statuses": [95, 5]}));
    let connector = rig.start();
    let said = until("the difference to be said", PATIENCE, || {
        feed(&connector, kind)["status_default"].as_str().map(str::to_owned)
    });
    assert!(said.contains("filters.status = \"5,48,50,65,77,110\""), "{said}");
}

#[test]
fn records_that_enter_behind_both_passes_are_counted_and_said() {
    let kind = Kind::FlagshipOutbounds;
    let mut rig = Rig::new("entered").return_outbounds("flagship");
    let late = "feeds.return_outbounds.late_pass";
    rig.config.set(late, "lag", "3s").set(late, "interval", "500ms");
    let numbers = rig.erp.seed(kind, 200);
    let connector = rig.start();
    let mut reader = Reader::new(topic(&rig, kind));
    reader.at_least(200, PATIENCE);
    // As with a database clock that lies 8 s behind the web server's.
    rig.erp.adjust(&json!({"visibility_ms": 8_000}));
    let mut turn = 0;
    until("records too late to be counted", PATIENCE, || {
        rig.erp.modify(kind, &numbers[turn % 200], &json!({"remark": format!("late {turn}")}));
        turn += 1;
        feed(&connector, kind)["rows_too_late"].as_u64().filter(|rows| *rows > 0)
    });
    let feed = feed(&connector, kind);
    assert!(feed["advice"].as_str().is_some_and(|says| says.contains("backfill")), "{feed}");
    assert!(
        connector.metric("wdt_connector_feed_rows_too_late_total", &["return_outbounds"]) > 0.0
    );
}

/// What is modified after the ERP's clock was set back bears times that were counted before.
#[test]
fn records_of_a_clock_that_was_set_back_are_not_too_late() {
    let kind = Kind::FlagshipOutbounds;
    let mut rig = Rig::new("backnotlate").return_outbounds("flagship");
    let late = "feeds.return_outbounds.late_pass";
    rig.config.set(late, "lag", "12s").set(late, "interval", "500ms");
    let numbers = rig.erp.seed(kind, 20);
    let connector = rig.start();
    let mut reader = Reader::new(topic(&rig, kind));
    reader.at_least(20, PATIENCE);
    // Two windows are counted by then: 6 s long, and 6 s apart.
    let counted = || {
        let late = connector.metric("wdt_connector_erp_calls_total", &["priority=\"late_pass\""]);
        late - connector.metric("wdt_connector_feed_pages_total", &["pass=\"late\""])
    };
    until("a window to be counted", PATIENCE, || (counted() >= 3.0).then_some(()));
    rig.erp.adjust(&json!({"clock_offset_ms": -15_000}));
    for number in &numbers {
        rig.erp.modify(kind, number, &json!({"remark": "set back"}));
    }
    let published = |seen: &[crate::kit::records::Record]| {
        seen.iter().filter(|record| rig.json(record)["after"]["remark"] == "set back").count() >= 20
    };
    reader.until("what was modified after it", PATIENCE, published);
    let before = counted();
    until("the windows behind it to be counted", PATIENCE, || {
        (counted() >= before + 3.0).then_some(())
    });
    let feed = feed(&connector, kind);
    assert_eq!((&feed["rows_too_late"], &feed["advice"]), (&json!(0), &serde_json::Value::Null));
}

#[test]
fn a_window_costs_its_pages_and_one_call_and_an_idle_poll_one() {
    // The last page has room left: a full one costs two calls more.
    const ROWS: usize = 950;
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
        (ROWS.div_ceil(100) + 1) as f64 + (windows - 1.0),
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
