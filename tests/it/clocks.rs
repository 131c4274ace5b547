//! Clocks that somebody sets while the connector works: this machine's alone, or the ERP's along
//! with it.

use std::{fs, path::PathBuf, time::Duration};

use serde_json::{Value, json};

use crate::kit::{
    commands::command,
    connector::Connector,
    erp::Kind,
    ledger::Verdict,
    promises,
    records::{Reader, Record},
    rig::{PATIENCE, Rig},
    until,
};
use wdt_connector::testing::{clock::Timestamp, schema::CreateReturnOutbound};

const HOUR: i64 = 3_600_000;

fn some(name: &str, count: usize) -> Vec<CreateReturnOutbound> {
    (0..count).map(|number| command(&format!("{name}-{number}"), "c")).collect()
}

/// The wall clock of a connector: this machine's, and as many milliseconds as a file says.
struct Clock(PathBuf);

impl Clock {
    fn of(rig: &Rig) -> Self {
        let clock = Self(rig.path("clock"));
        clock.set(0);
        clock
    }

    fn start(&self, rig: &Rig) -> Connector {
        rig.spawn_with(&[("WDT_CLOCK_OFFSET_FILE", &self.0.display().to_string())]).ready()
    }

    /// As a whole: whoever reads it meanwhile finds the old one or the new one.
    fn set(&self, offset_ms: i64) {
        let new = self.0.with_extension("new");
        fs::write(&new, offset_ms.to_string()).unwrap();
        fs::rename(&new, &self.0).unwrap();
    }
}

/// A connector with a clock of its own, and the returns that it has published already.
fn both_routes(rig: &Rig) -> (Clock, Connector, Vec<String>, Reader) {
    rig.erp.take_anything();
    let numbers = rig.erp.seed(Kind::Returns, 5);
    let clock = Clock::of(rig);
    let connector = clock.start(rig);
    let mut reader = Reader::new(&rig.topics.purchase_returns);
    reader.at_least(numbers.len(), PATIENCE);
    (clock, connector, numbers, reader)
}

fn section(connector: &Connector, pointer: &str) -> Value {
    connector.status().pointer(&format!("/sections/{pointer}")).cloned().unwrap_or_default()
}

/// Calls whose orders exist, whose answers are lost, and which no lookup shows for a while: in
/// doubt, and to be found.
fn into_doubt(rig: &Rig, all: &[CreateReturnOutbound]) {
    let before = rig.erp.creates().applied_unanswered;
    rig.erp.only_faults("createOrder:late(900ms)=1,createOrder:applied_reset=4x");
    rig.send(all);
    until("calls in doubt", PATIENCE, || {
        (rig.erp.creates().applied_unanswered >= before + 4).then_some(())
    });
}

/// Changes these records now; panics unless each change comes out.
fn change(rig: &Rig, numbers: &[String], remark: &str, reader: &mut Reader) {
    for number in numbers {
        rig.erp.modify(Kind::Returns, number, &json!({ "remark": remark }));
    }
    let before = reader.seen.len();
    reader.at_least(before + numbers.len(), PATIENCE);
}

/// Every command once, every record as the ERP holds it, nothing twice; and it never stumbled.
fn all_is_well(
    rig: &Rig,
    connector: &mut Connector,
    commands: &[CreateReturnOutbound],
    reader: &mut Reader,
) {
    let results = rig.results(commands.len());
    Verdict::of(rig, commands, &results).assert_each_once(commands.len(), "clocks");
    // What a call changed in a return is read as well, in its time.
    until("every record as the ERP holds it", PATIENCE, || {
        reader.finish();
        let held = promises::all(&rig.erp, Kind::Returns);
        let last = |number: &str| {
            reader
                .seen
                .iter()
                .rfind(|record| record.key_text() == number)
                .map(|record| rig.json(record))
        };
        held.iter()
            .all(|held| {
                last(held["return_no"].as_str().unwrap())
                    .is_some_and(|event| promises::difference(&event["after"], held, "").is_none())
            })
            .then_some(())
    });
    promises::judge(rig, Kind::Returns, reader);
    assert!(connector.running() && !connector.log().contains("panicked"), "{}", connector.log());
}

#[test]
fn a_clock_set_an_hour_wrong_stops_every_call_until_it_is_right_again() {
    let rig = Rig::new("wrongclock").commands("avro").purchase_returns();
    let (clock, mut connector, numbers, mut reader) = both_routes(&rig);
    let commands = some("WC", 40);
    for (turn, (offset, words)) in
        [(HOUR, "s ahead of the ERP's"), (-HOUR, "s behind the ERP's")].into_iter().enumerate()
    {
        let mine = &commands[turn * 20..(turn + 1) * 20];
        into_doubt(&rig, &mine[..10]);
        clock.set(offset);
        rig.send(&mine[10..]);
        let named = |text: &Value| {
            text.as_str()
                .is_some_and(|text| text.contains("our clock is about ") && text.contains(words))
        };
        until("a closed pipeline that names the clock", PATIENCE, || {
            (section(&connector, "commands/circuit") == "open"
                && named(&section(&connector, "commands/circuit_reason")))
            .then_some(())
        });
        until("a feed that names the clock", PATIENCE, || {
            named(&section(&connector, "feeds/purchase_returns/error")).then_some(())
        });
        until("the skew among the metrics", PATIENCE, || {
            let skew =
                connector.metric("wdt_connector_erp_clock_skew_seconds", &["flagship"]) * 1000.0;
            #[expect(clippy::cast_precision_loss, reason = "an hour")]
            ((skew + offset as f64).abs() < 60_000.0).then_some(())
        });
        // Beyond every bound of the rig: nothing may become absent, or be given up.
        let orders = rig.erp.order_count();
        std::thread::sleep(Duration::from_secs(8));
        assert_eq!(rig.erp.order_count(), orders, "a call got through");
        clock.set(0);
        change(&rig, &numbers, &format!("after {turn}"), &mut reader);
        rig.results((turn + 1) * 20);
    }
    all_is_well(&rig, &mut connector, &commands, &mut reader);
}

#[test]
fn clocks_that_jump_together_stop_nothing_and_nothing_is_missed_or_doubled() {
    let rig = Rig::new("jump").commands("avro").purchase_returns();
    let (clock, mut connector, numbers, mut reader) = both_routes(&rig);
    let commands = some("JP", 60);
    // Forward, back to where it was, and an hour before that.
    for (turn, offset) in [HOUR, 0, -HOUR].into_iter().enumerate() {
        let mine = &commands[turn * 20..(turn + 1) * 20];
        into_doubt(&rig, &mine[..10]);
        rig.erp.adjust(&json!({ "clock_offset_ms": offset }));
        clock.set(offset);
        rig.send(&mine[10..]);
        // Twice, the second time when it has settled.
        for time in 0..2 {
            change(&rig, &numbers, &format!("jump {turn}.{time}"), &mut reader);
        }
        rig.results((turn + 1) * 20);
    }
    assert!(
        connector.log().contains("ERP clock was set back behind the watermark"),
        "{}",
        connector.log()
    );
    all_is_well(&rig, &mut connector, &commands, &mut reader);
}

/// An ERP whose clock alone goes wrong refuses everybody, while people go on working in it.
#[test]
fn what_was_changed_while_the_erps_clock_was_behind_is_published_once_it_is_mended() {
    let rig = Rig::new("erpclock").purchase_returns();
    let numbers = rig.erp.seed(Kind::Returns, 5);
    let mut connector = rig.start();
    let mut reader = Reader::new(&rig.topics.purchase_returns);
    reader.at_least(numbers.len(), PATIENCE);
    change(&rig, &numbers, "before", &mut reader);
    rig.erp.adjust(&json!({ "clock_offset_ms": -HOUR }));
    until("a feed that is refused", PATIENCE, || {
        section(&connector, "feeds/purchase_returns/error")
            .as_str()
            .is_some_and(|text| text.contains("s ahead of the ERP's"))
            .then_some(())
    });
    for number in &numbers {
        rig.erp.modify(Kind::Returns, number, &json!({ "remark": "meanwhile" }));
    }
    rig.erp.adjust(&json!({ "clock_offset_ms": 0 }));
    all_is_well(&rig, &mut connector, &[], &mut reader);
}

/// Waits until these records have come out with this remark.
fn published(rig: &Rig, numbers: &[String], remark: &str, reader: &mut Reader) {
    let says = |record: &Record| rig.json(record)["after"]["remark"] == remark;
    reader.until("every change", PATIENCE, |seen| {
        numbers
            .iter()
            .all(|number| seen.iter().any(|record| record.key_text() == *number && says(record)))
    });
}

fn modify(rig: &Rig, numbers: &[String], remark: &str) {
    for number in numbers {
        rig.erp.modify(Kind::Returns, number, &json!({ "remark": remark }));
    }
}

/// Nobody looked between the end of a process and the next one: the ERP's clock was set back
/// meanwhile, and people worked.
#[test]
fn a_restart_follows_the_erps_clock_as_far_as_nobody_looked() {
    const PASSED: i64 = 20_000;
    let rig = Rig::new("backdown").purchase_returns();
    let (clock, connector, numbers, mut reader) = both_routes(&rig);
    assert!(connector.terminate(PATIENCE).success());
    rig.erp.adjust(&json!({ "clock_offset_ms": -HOUR }));
    modify(&rig, &numbers, "meanwhile");
    // Longer than the late pass stays back.
    rig.erp.adjust(&json!({ "clock_offset_ms": PASSED - HOUR }));
    clock.set(PASSED);
    let connector = clock.start(&rig);
    until("a feed that is refused", PATIENCE, || {
        section(&connector, "feeds/purchase_returns/error")
            .as_str()
            .is_some_and(|text| text.contains("s ahead of the ERP's"))
            .then_some(())
    });
    rig.erp.adjust(&json!({ "clock_offset_ms": PASSED }));
    published(&rig, &numbers, "meanwhile", &mut reader);
}

/// The ERP's clock has come to the watermark again by itself when somebody looks.
#[test]
fn a_clock_that_was_set_back_in_a_pause_is_followed() {
    const BACK: Duration = Duration::from_secs(12);
    let rig = Rig::new("backpause").purchase_returns();
    let numbers = rig.erp.seed(Kind::Returns, 5);
    let connector = rig.start();
    let mut reader = Reader::new(&rig.topics.purchase_returns);
    reader.at_least(numbers.len(), PATIENCE);
    change(&rig, &numbers, "before", &mut reader);
    let watermark = || section(&connector, "feeds/purchase_returns/watermark");
    let beyond = |moment: Timestamp| {
        until("the watermark to pass", PATIENCE, || {
            watermark().as_str().is_some_and(|at| at > moment.to_string().as_str()).then_some(())
        });
    };
    // What follows bears later times, though the clock goes back.
    beyond(Timestamp::now().plus(BACK));
    rig.ran(0, &["feeds", "pause", "--feed", "purchase_returns"]);
    until("the pause", PATIENCE, || {
        (section(&connector, "feeds/purchase_returns/state") == "paused").then_some(())
    });
    rig.erp.adjust(&json!({ "clock_offset_ms": -12_000 }));
    modify(&rig, &numbers, "meanwhile");
    let stood = watermark();
    until("the ERP's clock to come there again", PATIENCE, || {
        let erp = Timestamp::now().minus(BACK + Duration::from_secs(5)).to_string();
        stood.as_str().is_some_and(|stood| erp.as_str() > stood).then_some(())
    });
    rig.ran(0, &["feeds", "resume", "--feed", "purchase_returns"]);
    published(&rig, &numbers, "meanwhile", &mut reader);
}

/// A measured clock error keeps windows back, and without calls nothing would measure it again.
#[test]
fn a_clock_that_was_ahead_for_a_moment_does_not_stop_the_feed() {
    let rig = Rig::new("ahead").purchase_returns();
    let numbers = rig.erp.seed(Kind::Returns, 5);
    let connector = rig.start();
    let mut reader = Reader::new(&rig.topics.purchase_returns);
    reader.at_least(numbers.len(), PATIENCE);
    change(&rig, &numbers, "before", &mut reader);
    // As far as the ERP still takes our timestamp.
    rig.erp.adjust(&json!({ "clock_offset_ms": 115_000 }));
    until("an answer with that clock", PATIENCE, || {
        section(&connector, "feeds/purchase_returns/clock_skew_ms")
            .as_i64()
            .is_some_and(|skew| skew > 100_000)
            .then_some(())
    });
    rig.erp.adjust(&json!({ "clock_offset_ms": 0 }));
    modify(&rig, &numbers, "after");
    published(&rig, &numbers, "after", &mut reader);
}
