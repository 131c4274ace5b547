//! Several instances of one connector: who does what, and that nothing is done twice or not at all
//! while they come and go.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use wdt_connector::testing::schema::{CommandResult, CreateReturnOutbound, Outcome};

use crate::{
    kit::{
        commands::{avro, command},
        connector::Connector,
        erp::Kind,
        records::{Reader, Sender},
        rig::{PATIENCE, Rig},
        until,
    },
    parts::say,
};

const PARTITIONS: usize = 6;
/// Of every member; the broker takes no shorter one.
const SESSION: Duration = Duration::from_secs(6);
const FEEDS: [&str; 2] = ["purchase_returns", "return_outbounds"];

/// Instances by ordinal on one rig, each with a quota of 600 a minute to be shared.
struct Fleet {
    /// Dropped before the folder with their logs.
    members: BTreeMap<usize, Connector>,
    rig: Rig,
}

impl Fleet {
    fn new(what: &str) -> Self {
        let mut rig = Rig::with_partitions(what, i32::try_from(PARTITIONS).unwrap())
            .commands("avro")
            .purchase_returns()
            .return_outbounds("flagship");
        rig.config.set("quota", "calls_per_minute", 6000).set("quota", "burst", 100).set(
            "commands",
            "max_in_flight",
            8,
        );
        rig.config.set("log", "level", "info");
        rig.erp.take_anything();
        rig.erp.latency(Duration::from_millis(20));
        Self { members: BTreeMap::new(), rig }
    }

    fn start(&mut self, ordinals: impl IntoIterator<Item = usize>) {
        let mut started = Vec::new();
        for ordinal in ordinals {
            // A file for each: another one may be written before it is read.
            self.rig.config.set("kafka", "instance_ordinal", ordinal);
            let (written, port) = self.rig.write_config();
            let own = self.rig.path(&format!("connector-{ordinal}.toml"));
            std::fs::rename(written, &own).unwrap();
            started.push((
                ordinal,
                Connector::spawn(&own, port, &self.rig.path(&format!("connector-{ordinal}.log"))),
            ));
        }
        self.members.extend(started.into_iter().map(|(ordinal, member)| (ordinal, member.ready())));
    }

    fn stop(&mut self, ordinal: usize) {
        let member = self.members.remove(&ordinal).unwrap();
        assert!(member.terminate(Duration::from_secs(40)).success());
    }

    /// What every instance owns now: partitions of commands, and feeds.
    fn owned(&self) -> BTreeMap<usize, (BTreeSet<u64>, BTreeSet<&'static str>)> {
        let of = |member: &Connector| {
            let sections = member.status()["sections"].clone();
            let partitions =
                sections["commands"]["partitions"].as_array().cloned().unwrap_or_default();
            let partitions = partitions
                .iter()
                .filter(|one| one["draining"] == false)
                .filter_map(|one| one["partition"].as_u64())
                .collect();
            let feeds = FEEDS
                .into_iter()
                .filter(|feed| {
                    sections["feeds"][feed]["state"] == "live"
                        || sections["feeds"][feed]["state"] == "snapshot"
                })
                .collect();
            (partitions, feeds)
        };
        self.members.iter().map(|(ordinal, member)| (*ordinal, of(member))).collect()
    }

    /// Waits until everything is owned, nothing twice, and nobody has more than his part; the time
    /// it took.
    fn settle(&self, what: &str) -> Duration {
        let began = Instant::now();
        let most = PARTITIONS.div_ceil(self.members.len());
        until(what, PATIENCE, || {
            let owned = self.owned();
            let partitions: Vec<u64> =
                owned.values().flat_map(|(partitions, _)| partitions).copied().collect();
            let feeds: Vec<&str> = owned.values().flat_map(|(_, feeds)| feeds).copied().collect();
            let even = owned.values().all(|(partitions, feeds)| {
                partitions.len() <= most && feeds.len() <= FEEDS.len().div_ceil(self.members.len())
            });
            let whole = |count: usize, distinct: usize, all: usize| count == all && distinct == all;
            (even
                && whole(
                    partitions.len(),
                    partitions.iter().collect::<BTreeSet<_>>().len(),
                    PARTITIONS,
                )
                && whole(feeds.len(), feeds.iter().collect::<BTreeSet<_>>().len(), FEEDS.len()))
            .then_some(())
        });
        began.elapsed()
    }

    /// The share of each call's budget in every instance is that of the partitions it owns.
    fn shares_follow(&self) {
        until("shares of the quota that follow ownership", PATIENCE, || {
            let owned = self.owned();
            let fits = self.members.iter().all(|(ordinal, member)| {
                let (partitions, feeds) = &owned[ordinal];
                let status = member.status();
                let budgets = status["sections"]["quota"].as_array().cloned().unwrap_or_default();
                let budget = |call: &str| {
                    budgets
                        .iter()
                        .find(|budget| budget["call"] == call)
                        .cloned()
                        .unwrap_or(Value::Null)
                };
                let near = |call: &str, share: f64| {
                    // Nobody's share is less than a hundredth: a probe must be possible.
                    budget(call)["share"]
                        .as_f64()
                        .is_some_and(|is| (is - share.max(0.01)).abs() < 0.01)
                };
                let commands = partitions.len() as f64 / PARTITIONS as f64;
                let feed = |name: &str| f64::from(u8::from(feeds.contains(name)));
                near("create_order", commands)
                    && near("query_purchase_returns", feed("purchase_returns"))
                    && near("query_outbounds", 0.25 * commands + 0.75 * feed("return_outbounds"))
            });
            fits.then_some(())
        });
    }
}

/// Sends commands one after the other until it is told to stop.
struct Stream {
    over: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    thread: thread::JoinHandle<Vec<CreateReturnOutbound>>,
}

impl Stream {
    fn into(rig: &Rig) -> Self {
        let (topic, over, sent) = (
            rig.topics.commands.clone(),
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        let (ended, count) = (Arc::clone(&over), Arc::clone(&sent));
        let thread = thread::spawn(move || {
            let (sender, mut all) = (Sender::new(), Vec::new());
            while !ended.load(Ordering::Relaxed) {
                let one = command(&format!("IN{:05}", all.len()), "cmd");
                sender.send(&topic, Some(one.return_no.as_bytes()), Some(&avro(&one)), &[]);
                all.push(one);
                count.store(all.len(), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(40));
            }
            sender.flush();
            all
        });
        Self { over, sent, thread }
    }

    /// Waits until that many more were sent: what happens next happens while commands flow.
    fn flow(&self, more: usize) {
        let goal = self.sent.load(Ordering::Relaxed) + more;
        until("commands that flow", PATIENCE, || {
            (self.sent.load(Ordering::Relaxed) >= goal).then_some(())
        });
    }

    fn end(self) -> Vec<CreateReturnOutbound> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// One order and one result each.
fn check_commands(fleet: &Fleet, commands: &[CreateReturnOutbound]) {
    let rig = &fleet.rig;
    let mut reader = Reader::new(&rig.topics.results);
    let deadline = Instant::now() + PATIENCE;
    while reader.finish().len() < commands.len() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(100));
    }
    let results: Vec<CommandResult> = reader.seen.iter().map(|record| rig.result(record)).collect();
    let answered: BTreeSet<&str> = results.iter().map(|result| result.return_no.as_str()).collect();
    let missing: Vec<&str> = commands
        .iter()
        .map(|one| one.return_no.as_str())
        .filter(|one| !answered.contains(one))
        .collect();
    assert!(
        missing.is_empty(),
        "no result for {missing:?}; what the instances say: {:#?}",
        fleet
            .members
            .values()
            .map(|member| member.status()["sections"]["commands"].clone())
            .collect::<Vec<_>>()
    );
    assert_eq!(results.len(), commands.len(), "one result each");
    let mut orders: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for order in rig.erp.orders() {
        orders.entry(order.return_no).or_default().push(order.order_no);
    }
    for result in &results {
        let own = orders.get(&result.return_no).map_or(&[][..], Vec::as_slice);
        assert_eq!(
            (result.outcome, own.len(), result.outbound_no.as_ref()),
            (Outcome::Created, 1, own.first()),
            "{result:?}"
        );
    }
    assert_eq!(orders.len(), commands.len(), "no order without a command");
}

/// A field's text, whether the ERP sends a number or a string.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The last event of every record is what the ERP holds, and no version of any came twice.
fn check_feed(rig: &Rig, kind: Kind, topic: &str) -> usize {
    // What is modified now is published after everything before it.
    let fence = rig.erp.add_one(kind);
    let mut reader = Reader::new(topic);
    reader.until("the last record of all", PATIENCE, |seen| {
        seen.iter().any(|record| record.key_text() == fence)
    });
    reader.finish();
    let mut last: BTreeMap<String, Value> = BTreeMap::new();
    let mut events = 0;
    for record in &reader.seen {
        let event = rig.json(record);
        let before = last.get(&record.key_text()).cloned().unwrap_or(Value::Null);
        assert_eq!(
            event["before"],
            before,
            "each event follows the one before it: {}",
            record.key_text()
        );
        assert_ne!(event["after"], before, "a version that came twice: {}", record.key_text());
        last.insert(record.key_text(), event["after"].clone());
        events += 1;
    }
    for (number, after) in &last {
        let held = rig.erp.record(kind, number);
        for field in ["remark", "status"] {
            assert_eq!(plain(&after[field]), plain(&held[field]), "{field} of {number}");
        }
    }
    say(&format!("{topic}: {events} events of {} records", last.len()));
    last.len()
}

fn check(fleet: &Fleet, commands: &[CreateReturnOutbound]) {
    let rig = &fleet.rig;
    rig.erp.adjust(&json!({"modifications_per_second": 0.0}));
    check_commands(fleet, commands);
    let returns = check_feed(rig, Kind::Returns, &rig.topics.purchase_returns);
    let outbounds = check_feed(rig, Kind::FlagshipOutbounds, &rig.topics.return_outbounds);
    let held = rig.erp.summary();
    assert_eq!(
        (json!(returns), json!(outbounds)),
        (held["purchase_returns"].clone(), held["outbounds"].clone()),
        "no record is missing"
    );
}

#[test]
fn three_instances_share_the_work_and_the_quota_and_keep_every_promise_while_they_come_and_go() {
    const RECORDS: usize = 300;
    let mut fleet = Fleet::new("instances");
    fleet.rig.erp.seed(Kind::Returns, RECORDS);
    fleet.rig.erp.seed(Kind::FlagshipOutbounds, RECORDS);
    fleet.rig.erp.adjust(&json!({"modifications_per_second": 20.0}));
    let stream = Stream::into(&fleet.rig);

    // One, then three.
    fleet.start([0]);
    fleet.settle("one instance that owns everything");
    fleet.shares_follow();
    stream.flow(40);
    fleet.start([1, 2]);
    let took = fleet.settle("three instances that share everything");
    fleet.shares_follow();
    let owned = fleet.owned();
    say(&format!("1 → 3 after {took:?}: {owned:?}"));
    assert!(owned.values().all(|(partitions, _)| partitions.len() == PARTITIONS / 3), "{owned:?}");

    // A rolling restart: whoever comes back within its session has its partitions at once, whoever
    // is later shares again.
    stream.flow(40);
    for ordinal in 0..3 {
        fleet.stop(ordinal);
        fleet.start([ordinal]);
        let took = fleet.settle("three instances after one was started again");
        say(&format!(
            "instance {ordinal} started again: everything owned {took:?} after it was ready"
        ));
        stream.flow(20);
    }
    fleet.shares_follow();

    // Three, then one. Static members leave their partitions idle until their session has run out.
    fleet.stop(0);
    fleet.stop(1);
    let took = fleet.settle("one instance that owns everything again");
    fleet.shares_follow();
    say(&format!(
        "3 → 1: everything taken over {took:?} after the last one left, session timeout {SESSION:?}"
    ));
    stream.flow(40);
    let commands = stream.end();
    check(&fleet, &commands);
}

#[test]
fn a_feed_of_an_instance_that_dies_is_taken_over_within_its_session() {
    let mut fleet = Fleet::new("takeover");
    fleet.rig.erp.seed(Kind::Returns, 50);
    fleet.rig.erp.seed(Kind::FlagshipOutbounds, 50);
    fleet.start([0, 1]);
    fleet.settle("a feed for each");
    let stream = Stream::into(&fleet.rig);
    stream.flow(20);
    let feed = *fleet.owned()[&0].1.first().unwrap();
    let (kind, topic) = match feed {
        "purchase_returns" => (Kind::Returns, fleet.rig.topics.purchase_returns.clone()),
        _ => (Kind::FlagshipOutbounds, fleet.rig.topics.return_outbounds.clone()),
    };
    fleet.members.remove(&0).unwrap().kill();
    let died = Instant::now();
    let number = fleet.rig.erp.add_one(kind);
    let mut reader = Reader::new(&topic);
    reader.until("a change after the death of the feed's owner", PATIENCE, |seen| {
        seen.iter().any(|record| record.key_text() == number)
    });
    let took = died.elapsed();
    say(&format!(
        "{feed} went on {took:?} after its owner was killed, session timeout {SESSION:?}"
    ));
    // The session, the rebalance and the restore; a loaded machine may take a little longer.
    assert!(took < SESSION * 5, "{took:?}");
    fleet.settle("one instance that owns everything");
    let commands = stream.end();
    check_commands(&fleet, &commands);
}
