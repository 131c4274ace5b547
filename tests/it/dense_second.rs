//! A second in which everything was modified at once: it cannot be split, so it is read page by page.

use std::{collections::BTreeSet, time::Duration};

use serde_json::json;
use wdt_connector::testing::{clock::Timestamp, crash::Point};

use crate::{
    kit::{
        erp::Kind,
        promises::{feed, feed_name, topic},
        records::{Reader, Record},
        rig::{PATIENCE, Rig},
        until,
    },
    parts::say,
};

const KIND: Kind = Kind::Returns;

/// Rows of a page.
const PAGE: u64 = 100;

/// As many records, all of one second, which the feed's first read meets.
fn dense(what: &str, records: usize) -> (Rig, Timestamp) {
    let mut rig = Rig::new(what).purchase_returns();
    let section = format!("feeds.{}", feed_name(KIND));
    let second = Timestamp::now().minus(Duration::from_secs(3_600)).floor_second();
    rig.config
        .set(&section, "start_at", second.minus(Duration::from_secs(2)).to_string())
        .set(&section, "page_size", PAGE)
        .set(&format!("{section}.late_pass"), "interval", "600s")
        .set("log", "level", "info");
    rig.erp.seed_between(KIND, records, second, second);
    (rig, second)
}

fn keys(seen: &[Record]) -> BTreeSet<String> {
    seen.iter().map(Record::key_text).collect()
}

/// The process dies right after its tenth transaction, when hardly more pages have been asked for
/// than these hold.
#[test]
fn a_dense_second_is_published_page_by_page_and_a_kill_repeats_only_calls() {
    const RECORDS: usize = 20_000;
    let (rig, _) = dense("second", RECORDS);
    let death = format!("{}=9*off->kill", Point::ChangesPublished.name());
    let mut doomed = rig.spawn_with(&[("FAILPOINTS", &death)]);
    until("the tenth transaction", PATIENCE, || (!doomed.running()).then_some(()));
    let mut reader = Reader::new(topic(&rig, KIND));
    reader.finish();
    let (asked, published) = (rig.erp.asked(KIND), reader.seen.len());
    assert!(published > 0 && published < RECORDS, "{published} events");
    // The batch that is being gathered, the counts of the windows before, a page that is repeated.
    let pages = published as u64 / PAGE + 15;
    assert!(asked <= pages, "{asked} pages were asked for before {published} events stood");

    let connector = rig.start();
    let idle = connector.memory("VmHWM");
    reader.at_least(RECORDS, PATIENCE);
    until("the first read to end", PATIENCE, || {
        (feed(&connector, KIND)["state"] == "live").then_some(())
    });
    reader.finish();
    assert_eq!((reader.seen.len(), keys(&reader.seen).len()), (RECORDS, RECORDS));
    assert!(rig.erp.asked(KIND) >= asked + RECORDS as u64 / PAGE, "every page was asked for again");

    let sample = rig.erp.page(KIND, 0, 100);
    let json = sample.iter().map(|one| one.to_string().len()).sum::<usize>() / sample.len();
    let (json, grown) = (json * RECORDS / 1024, connector.memory("VmHWM") - idle);
    say(&format!("{RECORDS} records of one second, {json} kB: memory grew by {grown} kB"));
    assert!(grown < json as u64 * 3 / 4, "memory grew by {grown} kB while {json} kB were read");
}

/// The whole second takes a minute.
#[test]
fn a_pause_and_a_cancellation_do_not_wait_for_the_end_of_a_dense_second() {
    const PAGES: u64 = 60;
    let (rig, second) = dense("obeyed", (PAGES * PAGE) as usize - 1);
    let connector = rig.start();
    let state = || feed(&connector, KIND)["state"].clone();
    until("the first read to end", PATIENCE, || (state() == "live").then_some(()));
    let name = ["--feed", feed_name(KIND)];
    let run = |arguments: &[&str]| {
        let (code, said) = rig.said(&[arguments, &name].concat());
        assert_eq!(code, Some(0), "{said}");
    };
    rig.erp.adjust(&json!({"latency_ms": 1_000}));
    let before = rig.erp.asked(KIND);
    let (from, to) = (second.to_string(), second.plus(Duration::from_secs(1)).to_string());
    run(&["backfill", "--from", &from, "--to", &to]);
    until("the second to be read", PATIENCE, || (rig.erp.asked(KIND) > before + 2).then_some(()));
    run(&["feeds", "pause"]);
    until("the feed to pause", PATIENCE, || (state() == "paused").then_some(()));
    let asked = rig.erp.asked(KIND) - before;
    assert!(asked < PAGES, "{asked} pages before the pause");
    assert!(feed(&connector, KIND)["backfill"].is_object(), "it isn't over");

    run(&["feeds", "resume"]);
    until("the second to be read on", PATIENCE, || {
        (rig.erp.asked(KIND) > before + asked + 1).then_some(())
    });
    run(&["backfill", "--cancel"]);
    until("the backfill to be called off", PATIENCE, || {
        feed(&connector, KIND)["backfill"].is_null().then_some(())
    });
    let asked = rig.erp.asked(KIND) - before;
    assert!(asked < PAGES, "{asked} pages before it was called off");
}
