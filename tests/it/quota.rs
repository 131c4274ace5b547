//! The ERP's quota over real HTTP: sixty calls in any minute, the 61st refused, counted by the
//! simulator.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use md5::{Digest as _, Md5};
use rustix::process::Signal;
use serde_json::json;
use wdt_connector::testing::{
    clock::Timestamp,
    schema::{EntryKind, Outcome},
};

use crate::{
    kit::{
        commands::command,
        connector::{Connector, sample},
        erp::{Erp, Kind},
        http,
        records::{Reader, read_all},
        rig::{PATIENCE, Rig},
        until,
    },
    parts::{PrivateBroker, say},
};

/// Real minutes, because it is the ERP that counts them.
const SPAN: Duration = Duration::from_secs(180);
const BACKLOG: usize = 400;

/// A connector whose calls all share one budget of 50 a minute, on an ERP that refuses the 61st of
/// an account, and more commands than that before it.
fn short_of_quota(what: &str) -> Rig {
    let mut rig = Rig::new(what).commands("avro").purchase_returns().return_outbounds("flagship");
    rig.config
        .set("quota", "scope", "account")
        .set("quota", "calls_per_minute", 50)
        .set("quota", "burst", 10);
    for feed in ["feeds.purchase_returns", "feeds.return_outbounds"] {
        rig.config.set(feed, "poll_interval", "5s").set(
            &format!("{feed}.late_pass"),
            "interval",
            "60s",
        );
    }
    // As in production: a permit may have to wait for its transaction without running out.
    rig.config
        .set("commands", "intent_ttl", "15s")
        .set("commands", "call_timeout", "10s")
        .set("log", "level", "info");
    rig.erp.take_anything();
    rig.erp.seed(Kind::Returns, 1500);
    rig.erp.seed(Kind::FlagshipOutbounds, 1500);
    rig.erp.adjust(
        &json!({"quota_per_minute": 60, "quota_by_account": true, "modifications_per_second": 2.0}),
    );
    let commands: Vec<_> = (0..BACKLOG)
        .map(|number| command(&format!("QT{number:05}"), &format!("cmd-{number}")))
        .collect();
    rig.send(&commands);
    rig
}

/// Calls the connector made, and how many of them the ERP's quota refused.
fn calls(connector: &Connector) -> (f64, f64) {
    let name = "wdt_connector_erp_calls_total";
    (connector.metric(name, &[]), connector.metric(name, &["result=\"throttled\""]))
}

fn print_waits(what: &str, connector: &Connector) {
    let (made, refused) = calls(connector);
    say(&format!("{what}: {made} calls in {SPAN:?}, {refused} refused"));
    for class in ["lookup", "command", "feed", "late_pass", "backfill"] {
        let of = |part: &str| {
            connector.metric(
                &format!("wdt_connector_quota_wait_seconds_{part}"),
                &[&format!("priority=\"{class}\"")],
            )
        };
        if of("count") > 0.0 {
            say(&format!(
                "  {class}: {} calls, waited {:.1} s for a permit on average",
                of("count"),
                of("sum") / of("count")
            ));
        }
    }
}

/// Another program on the same appkey: 30 signed calls a minute that heed nobody. What they ask for
/// is refused by content.
struct Thief(Arc<AtomicBool>);

impl Thief {
    fn on(erp: &Erp) -> Self {
        let (url, sid, key) = (
            erp.flagship_url().to_owned(),
            erp.flagship_sid().to_owned(),
            erp.flagship_key().to_owned(),
        );
        let (secret, salt) = erp
            .flagship_secret()
            .split_once(':')
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&over);
        thread::spawn(move || {
            let mut next = Instant::now();
            while !ended.load(Ordering::Relaxed) {
                let timestamp =
                    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() - 1_325_347_200;
                let (body, method) = ("[]", "wms.stockout.PurchaseReturn.createOrder");
                let signed = format!(
                    "{secret}body{body}key{key}method{method}salt{salt}sid{sid}timestamp{timestamp}v1.0{secret}"
                );
                let sign = Md5::digest(signed).iter().fold(String::new(), |mut hex, byte| {
                    write!(hex, "{byte:02x}").unwrap();
                    hex
                });
                let target = format!(
                    "{url}?sid={sid}&key={key}&salt={salt}&method={method}&v=1.0&timestamp={timestamp}&sign={sign}"
                );
                let _ = http::post_text(&target, body);
                next += Duration::from_secs(2);
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        });
        Self(over)
    }
}

impl Drop for Thief {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Lets the rest of the backlog through: every command has one order and one result.
fn nothing_is_lost(mut rig: Rig, connector: Connector) {
    assert!(connector.terminate(Duration::from_secs(40)).success());
    rig.erp.adjust(&json!({"quota_per_minute": 0, "modifications_per_second": 0.0}));
    rig.config.set("quota", "calls_per_minute", 600_000).set("quota", "burst", 10_000);
    let _connector = rig.start();
    let results = rig.results(BACKLOG);
    assert_eq!(results.len(), BACKLOG);
    assert!(results.iter().all(|result| result.outcome == Outcome::Created), "{results:?}");
    let (orders, summary) = (rig.erp.order_count(), rig.erp.summary());
    assert_eq!(
        (orders, &summary["duplicates"]),
        (u64::try_from(BACKLOG).unwrap(), &json!(0)),
        "{summary}"
    );
}

#[test]
fn three_real_minutes_are_never_refused_alone_and_hardly_beside_a_thief() {
    let (alone, beside) = (short_of_quota("quota-alone"), short_of_quota("quota-thief"));
    let thief = Thief::on(&beside.erp);
    let (mut first, mut second) = (alone.spawn(), beside.spawn());
    first.wait_ready();
    second.wait_ready();
    // The span itself is what is measured.
    thread::sleep(SPAN);

    let (made, refused) = calls(&first);
    print_waits("alone on the appkey", &first);
    let refused_there = &alone.erp.summary()["refused"];
    assert_eq!((refused, refused_there), (0.0, &json!(0)));
    assert!(made >= 50.0 * 3.0 * 0.95, "{made} calls of 150");
    // Both feeds have calls too, and say that they cannot have as many as they are told to make.
    let status = first.status();
    for feed in ["purchase_returns", "return_outbounds"] {
        let feed = &status["sections"]["feeds"][feed];
        assert!(feed["calls"].as_u64() > Some(0), "{feed}");
        assert!(
            feed["poll_interval_reason"].as_str().is_some_and(|why| why.contains("instead of 5s")),
            "{feed}"
        );
        assert!(feed["poll_interval_ms"].as_u64() > Some(5000), "{feed}");
    }
    assert!(first.log().contains("quota is short; feed polls less often"));
    let budget = &status["sections"]["quota"][0];
    assert_eq!((&budget["call"], &budget["refused"]), (&json!("flagship"), &json!(0)));
    assert!(
        budget["used"]["command"].as_u64() > Some(30) && budget["left"].as_u64() < Some(15),
        "{budget}"
    );
    let now = &status["sections"]["commands"]["now"];
    assert!(
        now["consumer_lag_records"].as_u64() > Some(100)
            && now["consumer_lag_seconds"].as_f64() > Some(100.0),
        "{now}"
    );
    // `check` says the same to whoever asks from outside.
    let said =
        alone.verb_command(&["check"]).env("WDT__HTTP__LISTEN", first.address()).output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(
        said.contains("quota: flagship") && said.contains("calls in the last minute (command"),
        "{said}"
    );
    assert!(
        said.contains("commands wait in") && said.contains("min at 50 calls a minute"),
        "{said}"
    );

    print_waits("beside a program that takes 30 of the 60 calls", &second);
    let (made, refused) = calls(&second);
    assert!(refused <= made * 0.02, "{refused} of {made} refused");
    assert!(made >= 30.0 * 3.0 * 0.6, "{made} calls of the 90 that are left");
    drop(thief);
    nothing_is_lost(alone, first);
    nothing_is_lost(beside, second);
}

#[test]
fn no_more_calls_at_once_than_allowed_and_a_narrower_erp_is_found_out() {
    const COMMANDS: usize = 200;
    let mut rig = Rig::new("atonce").commands("avro").purchase_returns();
    rig.config.set("quota", "max_concurrent_calls", 6).set("commands", "max_in_flight", 32);
    rig.erp.take_anything();
    rig.erp.latency(Duration::from_millis(50));
    rig.erp.adjust(&json!({"max_concurrent": 6}));
    rig.send(
        &(0..COMMANDS).map(|number| command(&format!("AO{number:05}"), "cmd")).collect::<Vec<_>>(),
    );
    let connector = rig.start();
    rig.results(COMMANDS);
    let refused = |rig: &Rig| rig.erp.summary()["refused"].as_u64().unwrap();
    assert_eq!(refused(&rig), 0, "the seventh call at once waits here, not there");
    // The ERP now allows fewer concurrent calls than configured. The connector adapts and loses
    // nothing.
    rig.erp.adjust(&json!({"max_concurrent": 4}));
    rig.send(
        &(0..COMMANDS).map(|number| command(&format!("AP{number:05}"), "cmd")).collect::<Vec<_>>(),
    );
    let results = rig.results(COMMANDS * 2);
    assert!(results.iter().all(|result| result.outcome == Outcome::Created));
    assert_eq!((results.len(), rig.erp.order_count()), (COMMANDS * 2, 400));
    let budget = connector.status()["sections"]["quota"][0].clone();
    assert!(budget["max_in_flight_calls"].as_u64() <= Some(4), "{budget}");
    say(&format!("{} refusals for concurrency until the limit of 4 was found", refused(&rig)));
}

#[test]
fn an_intent_that_ran_out_is_renewed_and_called() {
    const COMMANDS: usize = 6;
    let mut rig = Rig::new("ranout").commands("avro");
    rig.config.set("commands", "max_in_flight", 1);
    rig.erp.take_anything();
    rig.erp.latency(Duration::from_secs(1));
    rig.send(
        &(0..COMMANDS).map(|number| command(&format!("RO{number:05}"), "cmd")).collect::<Vec<_>>(),
    );
    let mut connector = rig.start();
    until("one call on the wire and the next one's intent", PATIENCE, || {
        let now = connector.status()["sections"]["commands"]["now"].clone();
        (now["calls_in_flight"] == 1 && now["open_intents"] == 2).then_some(())
    });
    // Frozen for longer than intent_ttl (2 s): the span itself is what is tested.
    connector.freeze();
    thread::sleep(Duration::from_secs(4));
    connector.thaw();
    let results = rig.results(COMMANDS);
    assert!(results.iter().all(|result| result.outcome == Outcome::Created), "{results:?}");
    assert_eq!((results.len(), rig.erp.order_count()), (COMMANDS, 6));
}

#[test]
fn intents_that_wait_for_a_transaction_take_no_place_from_lookups() {
    const COMMANDS: usize = 6;
    let Some(mut broker) = PrivateBroker::start("intents that wait for a frozen broker") else {
        return;
    };
    let mut rig =
        Rig::on("waiting-intents", &broker.bootstrap(), broker.client(), 2).commands("avro");
    rig.config.set("quota", "max_concurrent_calls", 1);
    rig.erp.take_anything();
    // Between two of its lookups whoever else waits takes the place.
    rig.erp.faults("createOrder:applied_timeout=1x,outbounds:5xx=4x");
    rig.send(
        &(0..COMMANDS).map(|number| command(&format!("WI{number:05}"), "cmd")).collect::<Vec<_>>(),
    );
    let _connector = rig.start();
    until("a call on the wire", PATIENCE, || (rig.erp.creates().received == 1).then_some(()));
    // From now on no transaction ends; the call is given up, and looked up again and again.
    broker.process().signal(Signal::STOP);
    until("lookups beside intents that wait", PATIENCE, || {
        (rig.erp.outbound_queries() >= 4).then_some(())
    });
    broker.process().signal(Signal::CONT);
    let results = rig.results(COMMANDS);
    assert!(results.iter().all(|result| result.outcome == Outcome::Created), "{results:?}");
    assert_eq!((results.len(), rig.erp.order_count()), (COMMANDS, 6));
}

#[test]
fn intents_are_no_further_ahead_of_a_slow_erp_than_one_transaction() {
    const COMMANDS: usize = 60;
    let mut rig = Rig::new("ahead").commands("avro");
    rig.config.set("commands", "max_in_flight", 4);
    rig.erp.take_anything();
    rig.erp.latency(Duration::from_millis(500));
    rig.send(
        &(0..COMMANDS).map(|number| command(&format!("AH{number:05}"), "cmd")).collect::<Vec<_>>(),
    );
    let connector = rig.start();
    let mut most = 0;
    until("every command has been called", PATIENCE, || {
        let now = connector.status()["sections"]["commands"]["now"].clone();
        most = most.max(now["open_intents"].as_u64().unwrap());
        (rig.erp.creates().received == COMMANDS as u64).then_some(())
    });
    rig.results(COMMANDS);
    // Four on the wire, four that were answered during a transaction, the intents of as many again
    // in that transaction.
    assert!(most <= 12, "{most} open intents at once");
    let intents = read_all(&rig.topics.journal)
        .iter()
        .filter(|record| record.value.is_some() && rig.journal(record).kind == EntryKind::Intent)
        .count();
    assert_eq!(intents, COMMANDS, "none had to be renewed");
}

#[test]
fn no_intent_is_written_before_its_permit() {
    let mut rig = Rig::new("permit").commands("avro");
    // The first permit comes after a minute: the budget starts empty.
    rig.config.set("quota", "calls_per_minute", 1).set("quota", "burst", 1);
    rig.erp.take_anything();
    rig.send(&(0..20).map(|number| command(&format!("PT{number:05}"), "cmd")).collect::<Vec<_>>());
    let connector = rig.start();
    until("commands in the quota's line", PATIENCE, || {
        let status = connector.status();
        let now = &status["sections"]["commands"]["now"];
        (now["waiting_for_quota"] == 20).then(|| {
            assert_eq!((&now["open_intents"], &now["waiting_for_commit"]), (&json!(0), &json!(0)))
        })
    });
    let intents = read_all(&rig.topics.journal)
        .iter()
        .filter(|record| record.value.is_some() && rig.journal(record).kind == EntryKind::Intent)
        .count();
    assert_eq!(intents, 0, "whoever has no permit has no intent that could run out");
    assert_eq!(rig.erp.creates().received, 0);
}

/// Windows read, calls made for them and changed rows found by a feed's live pass, of one moment.
fn live_pass(connector: &Connector, feed: &str) -> [f64; 3] {
    let text = connector.metrics();
    let feed = format!("feed=\"{feed}\"");
    [("windows", ""), ("pages", ""), ("rows", "content=\"changed\"")].map(|(what, label)| {
        sample(&text, &format!("wdt_connector_feed_{what}_total"), &[&feed, "pass=\"live\"", label])
    })
}

/// Calls a poll while nothing changes, over some polls.
fn idle_poll(connector: &Connector, feed: &str) -> f64 {
    let [windows, calls, _] = live_pass(connector, feed);
    until("three more polls", PATIENCE, || {
        let [windows_now, calls_now, _] = live_pass(connector, feed);
        (windows_now >= windows + 3.0).then(|| (calls_now - calls) / (windows_now - windows))
    })
}

#[test]
fn calls_per_result_are_what_they_have_to_be() {
    const COMMANDS: usize = 60;
    const CHANGED: usize = 250;
    let mut rig =
        Rig::new("calls").commands("avro").purchase_returns().return_outbounds("enterprise");
    for feed in ["feeds.purchase_returns", "feeds.return_outbounds"] {
        rig.config
            .set(&format!("{feed}.late_pass"), "interval", "1h")
            .set(&format!("{feed}.late_pass"), "lag", "1h")
            .set(feed, "poll_interval", "5s");
    }
    rig.erp.take_anything();
    rig.erp.seed(Kind::Returns, CHANGED);
    let connector = rig.start();
    let mut events = Reader::new(&rig.topics.purchase_returns);
    events.at_least(CHANGED, PATIENCE);
    until("the first reads' end", PATIENCE, || {
        let feeds = connector.status()["sections"]["feeds"].clone();
        ["purchase_returns", "return_outbounds"]
            .iter()
            .all(|feed| feeds[feed]["state"] == "live")
            .then_some(())
    });
    let (flagship, enterprise) =
        (idle_poll(&connector, "purchase_returns"), idle_poll(&connector, "return_outbounds"));

    // Busy: all modified in the same second, long enough ahead that all of it is there before the
    // second is read.
    let at = Timestamp(Timestamp::now().0 + 15_000).to_beijing();
    for record in &events.seen {
        rig.erp.modify(
            Kind::Returns,
            &record.key_text(),
            &json!({"remark": "busy", "modified": at}),
        );
    }
    let [windows, calls, changed] = live_pass(&connector, "purchase_returns");
    let busy = until("the window with all changes", PATIENCE, || {
        let [windows_now, calls_now, changed_now] = live_pass(&connector, "purchase_returns");
        // Every window before it was idle. Where its end is that very second, the next one reads it
        // once more.
        (changed_now >= changed + CHANGED as f64)
            .then_some(calls_now - calls - (windows_now - windows - 1.0))
    });
    events.at_least(CHANGED * 2, PATIENCE);

    rig.send(
        &(0..COMMANDS).map(|number| command(&format!("CC{number:05}"), "cmd")).collect::<Vec<_>>(),
    );
    rig.results(COMMANDS);
    let lookups = connector.metric("wdt_connector_erp_calls_total", &["priority=\"lookup\""]);
    let per_command = (rig.erp.creates().received as f64 + lookups) / COMMANDS as f64;
    say(&format!(
        "calls per result: command {per_command:.2}; idle poll flagship {flagship:.2}, enterprise {enterprise:.2}; a window of {CHANGED} changes in pages of 100: {busy}"
    ));
    assert_eq!((per_command, flagship, enterprise), (1.0, 1.0, 5.0));
    assert_eq!(busy, CHANGED.div_ceil(100) as f64 + 1.0);
}
