//! What Prometheus sees of a pair of instances in states that an alert is about, or must not be.
//!
//! With `WDT_RECORD_METRICS=1` the recordings replace those of `deploy/prometheus/recorded`, which
//! `.ci/checks/recorded.py` tries the alert rules against.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use wdt_connector::testing::{
    config::Partitioner, schema::CreateReturnOutbound, sink::partition_of,
};

use crate::{
    kit::{
        Dice,
        commands::{avro, command},
        connector::Connector,
        erp::Kind,
        raw_member::Leader,
        rig::{PATIENCE, Rig},
        until,
    },
    parts::broker,
};

const PARTITIONS: i32 = 4;
/// Between two scrapes: as long as Prometheus leaves by default, so that rare events are in it.
const GAP: Duration = Duration::from_secs(15);

/// Two instances on one rig, `a` and `b`.
struct Pair {
    members: Vec<Connector>,
    rig: Rig,
}

impl Pair {
    /// Ready, and owners of this many partitions together.
    fn start(mut rig: Rig, owned: i32) -> Self {
        rig.erp.take_anything();
        let mut members = Vec::new();
        for (ordinal, name) in ["a", "b"].into_iter().enumerate() {
            rig.config.set("kafka", "instance_ordinal", ordinal);
            rig.config.set("", "cache_dir", rig.path(name).display().to_string());
            members.push(rig.spawn_logged(&[], &format!("{name}.log")).ready());
        }
        let pair = Self { members, rig };
        until("both to own partitions", PATIENCE, || {
            let each = pair.members.iter().map(|one| {
                one.metric("wdt_connector_partitions_owned", &["pipeline=\"commands\""])
            });
            (each.clone().all(|own| own > 0.0) && each.sum::<f64>() == f64::from(owned))
                .then_some(())
        });
        pair
    }

    fn scrape(&self) -> BTreeMap<String, f64> {
        let mut series = BTreeMap::new();
        for (member, name) in self.members.iter().zip(["a", "b"]) {
            let labels = format!("instance=\"{name}\",job=\"wdt-connector\"");
            series.insert(format!("up{{{labels}}}"), 1.0);
            for line in member.metrics().lines().filter(|line| !line.starts_with('#')) {
                let (sample, value) = line.rsplit_once(' ').expect("a sample and its value");
                // Of histograms the rules read only these buckets.
                if sample.contains("_bucket{") && !sample.contains("late_row_delay") {
                    continue;
                }
                let sample = match sample.split_once('{') {
                    Some((family, rest)) => format!("{family}{{{labels},{rest}"),
                    None => format!("{sample}{{{labels}}}"),
                };
                series.insert(sample, value.parse().expect("a number"));
            }
        }
        series
    }

    /// Scrapes twice and keeps every series with its value and how much it grows a minute.
    fn record(&self, state: &str) {
        let (first, begun) = (self.scrape(), Instant::now());
        thread::sleep(GAP);
        let (last, seconds) = (self.scrape(), begun.elapsed().as_secs_f64());
        let mut text = String::new();
        for (series, value) in &last {
            let grown = value - first.get(series).copied().unwrap_or(0.0);
            let name = series.split('{').next().unwrap_or_default();
            let counts =
                ["_total", "_count", "_sum", "_bucket"].iter().any(|end| name.ends_with(end));
            // A gauge stays, unless it is an age and grows with the clock.
            let ages = (grown - seconds).abs() < seconds / 5.0;
            let growth = match (counts, ages) {
                (true, _) => grown * 60.0 / seconds,
                (false, true) => 60.0,
                (false, false) => 0.0,
            };
            let _ = writeln!(text, "{series} {} {}", rounded(*value), rounded(growth));
        }
        if std::env::var_os("WDT_RECORD_METRICS").is_some() {
            let text = text.replace(&self.rig.application_id, "wdt-connector");
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus/recorded");
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(format!("{state}.txt")), text).unwrap();
        }
    }

    /// Results per instance so far.
    fn results(&self) -> f64 {
        self.members.iter().map(|one| one.metric("wdt_connector_command_results_total", &[])).sum()
    }
}

/// Three decimals: a recording is read by people as well.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn rig(state: &str) -> Rig {
    let mut rig = Rig::with_partitions(&format!("recorded-{state}"), PARTITIONS)
        .commands("avro")
        .purchase_returns()
        .return_outbounds("flagship");
    rig.config.set("log", "level", "info");
    rig
}

fn some(from: usize, count: usize) -> Vec<CreateReturnOutbound> {
    (from..from + count)
        .map(|number| command(&format!("RE{number:05}"), &format!("cmd-{number}")))
        .collect()
}

/// The pair has worked, and has nothing to do.
#[test]
fn an_idle_pair_is_recorded() {
    let pair = Pair::start(rig("idle"), PARTITIONS);
    pair.rig.send(&some(0, 40));
    pair.rig.results(40);
    pair.rig.wait_committed(40);
    pair.record("idle");
    assert_eq!(pair.results(), 40.0);
}

/// The same behind a sender that uses transactions: their markers are offsets without a record.
#[test]
fn an_idle_pair_behind_transactions_is_recorded() {
    let pair = Pair::start(rig("idle-transactions"), PARTITIONS);
    let id = format!("{}-sender", pair.rig.application_id);
    let producer: BaseProducer =
        pair.rig.broker.clone().set("transactional.id", &id).create().expect("a producer");
    producer.init_transactions(PATIENCE).unwrap();
    producer.begin_transaction().unwrap();
    let of = |key: &[u8]| partition_of(key, PARTITIONS, Partitioner::Murmur2).unwrap();
    for command in some(0, 40) {
        let value = avro(&command);
        let record = BaseRecord::to(&pair.rig.topics.commands)
            .key(command.return_no.as_bytes())
            .partition(of(command.return_no.as_bytes()))
            .payload(&value);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.commit_transaction(PATIENCE).unwrap();
    pair.rig.results(40);
    // A marker in each partition.
    pair.rig.wait_committed(40 + i64::from(PARTITIONS));
    pair.record("idle-transactions");
    assert_eq!(pair.results(), 40.0);
}

#[test]
fn a_busy_pair_is_recorded() {
    let pair = Pair::start(rig("busy"), PARTITIONS);
    pair.rig.erp.latency(Duration::from_millis(100));
    pair.rig.send(&some(0, 40));
    pair.rig.results(40);
    thread::scope(|scope| {
        let recording = scope.spawn(|| pair.record("busy"));
        let (mut sent, mut dice) = (40, Dice(1));
        while !recording.is_finished() {
            let count = 1 + usize::try_from(dice.roll(4)).unwrap();
            pair.rig.send(&some(sent, count));
            pair.rig.erp.made(Kind::Returns, &serde_json::json!({"count": 2}));
            sent += count;
            // The pace of the senders.
            thread::sleep(Duration::from_millis(200));
        }
        recording.join().unwrap();
    });
    assert!(pair.results() > 60.0, "{}", pair.results());
}

#[test]
fn a_paused_pair_is_recorded() {
    let pair = Pair::start(rig("paused"), PARTITIONS);
    assert!(pair.rig.verb(&["commands", "pause"], b"").status.success());
    until("the pause to be obeyed by both", PATIENCE, || {
        let paused = |one: &Connector| {
            one.metric("wdt_connector_pipeline_paused", &["pipeline=\"commands\""]) == 1.0
        };
        pair.members.iter().all(paused).then_some(())
    });
    pair.rig.send(&some(0, 40));
    until("commands that wait", PATIENCE, || {
        let lag =
            |one: &Connector| one.metric("wdt_connector_consumer_lag_records", &[".commands\""]);
        (pair.members.iter().map(lag).sum::<f64>() >= 40.0).then_some(())
    });
    pair.record("paused");
    assert_eq!(pair.results(), 0.0);
}

/// The ERP takes the calls and answers none, and no call has timed out yet.
#[test]
fn a_stuck_pair_is_recorded() {
    let mut rig = rig("stuck");
    rig.config.set("commands", "call_timeout", "10m").set("commands", "lookup_timeout", "1h").set(
        "commands",
        "max_in_flight",
        4,
    );
    let pair = Pair::start(rig, PARTITIONS);
    pair.rig.erp.latency(Duration::from_secs(600));
    pair.rig.send(&some(0, 40));
    until("calls on the wire", PATIENCE, || (pair.rig.erp.creates().received == 8).then_some(()));
    pair.record("stuck");
    assert_eq!(pair.results(), 0.0);
}

/// Each has one partition of four, and the group's leader, a third member, assigns the others to
/// nobody.
#[test]
fn a_half_owned_pair_is_recorded() {
    let mut rig = rig("half-owned");
    // What an instance does about it takes a session: it is recorded before that.
    rig.config.kafka_property("session.timeout.ms", "60000");
    let leader = Leader::join(
        broker().bootstrap(),
        &format!("{}.commands", rig.application_id),
        &rig.topics.commands,
        &[&[0], &[1]],
    );
    let pair = Pair::start(rig, 2);
    pair.rig.send(&some(0, 40));
    until("both to know of the others", PATIENCE, || {
        let unowned = |one: &Connector| {
            one.metric("wdt_connector_partitions_unowned", &["pipeline=\"commands\""])
        };
        pair.members.iter().all(|one| unowned(one) == 2.0).then_some(())
    });
    pair.record("half-owned");
    assert!(pair.results() < 40.0, "{}", pair.results());
    leader.leave();
}
