//! Hand-overs of commands at a join, with work in flight: how long a partition stands still that
//! goes to another instance. One JSON line.
//!
//! `cargo bench --bench handover -- --moves 100`; further options with their defaults:
//! `--instances 3` (the one that joins included), `--latency-ms 200` (of the ERP),
//! `--session-ms 6000`, `--heartbeat-ms 0` (what the connector sets), `--rate 60` (commands a
//! second). Between two joins one of the others is restarted, as by an update. Measured from the
//! revoke callback of the old owner to the first call of the new one, both from the instances'
//! logs. Exit code 1 when the 99th percentile is more than two seconds, or a transaction was
//! refused for a generation that is past.

#![allow(unreachable_pub, reason = "the kit's modules are written as a library's")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::large_futures,
    reason = "a measurement that cannot go on ends where it stands"
)]

#[path = "../tests/it/kit/mod.rs"]
#[allow(dead_code, reason = "shared with the tests, which use another share of it")]
mod kit;
#[path = "shared/option.rs"]
mod option;
#[path = "../tests/it/parts/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the tests, which use another share of it")]
mod parts;

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use jiff::Timestamp;
use kit::{commands::Stream, connector::Connector, ledger::Verdict, rig::Rig, until};
use option::option;
use serde_json::{Value, json};
use wdt_connector::testing::{config::Partitioner, sink::partition_of};

/// Twelve are shared evenly by two, three and four instances.
const PARTITIONS: i32 = 12;
/// What a hand-over may take, in milliseconds.
const ALLOWED_MS: f64 = 2000.0;
/// The step between the times that instances are away for an update: less than a session.
const AWAY: Duration = Duration::from_millis(700);
/// A cycle that takes longer has failed.
const CYCLE: Duration = Duration::from_secs(60);

/// What an instance has logged, with the time in milliseconds.
#[derive(Clone, Debug)]
enum What {
    Revoking(Vec<i32>),
    Drained(Vec<i32>),
    Assigned(Vec<i32>),
    Restored(i32),
    /// When the call left.
    Called(i32),
}

#[derive(Clone, Debug)]
struct Event {
    at: f64,
    instance: usize,
    what: What,
}

/// The log of an instance, read on from where it was read to.
struct Log {
    instance: usize,
    path: PathBuf,
    read: u64,
    /// The beginning of a line whose end is not written yet.
    rest: String,
}

/// Transactions that were not committed at the first try.
#[derive(Debug, Default)]
struct Refusals {
    aborted: usize,
    /// Of these, for a generation that is past.
    generation: usize,
    /// Drains that ended with calls or settlements left to the next owner.
    drain_timeouts: usize,
}

impl Log {
    fn read_on(&mut self, events: &mut Vec<Event>, refusals: &mut Refusals) {
        let Ok(mut file) = File::open(&self.path) else { return };
        file.seek(SeekFrom::Start(self.read)).expect("a position in a log");
        let mut text = String::new();
        self.read += file.read_to_string(&mut text).expect("a log in UTF-8") as u64;
        let text = std::mem::take(&mut self.rest) + &text;
        for line in text.split_inclusive('\n') {
            if !line.ends_with('\n') {
                line.clone_into(&mut self.rest);
                break;
            }
            let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
            let message = line["message"].as_str().unwrap_or_default();
            if message.starts_with("transaction aborted") || message.contains("not committed") {
                let why = line["error"].as_str().unwrap_or_default().to_ascii_lowercase();
                if refusals.aborted == 0 {
                    parts::say(&format!("instance {}: {message}: {why}", self.instance));
                }
                refusals.aborted += 1;
                refusals.generation += usize::from(why.contains("generation"));
            }
            refusals.drain_timeouts += usize::from(message.starts_with("drain timeout"));
            let at: Timestamp =
                line["timestamp"].as_str().expect("a time").parse().expect("RFC 3339");
            let at = at.as_microsecond() as f64 / 1000.0;
            let Some((what, ago)) = what(message, &line) else { continue };
            events.push(Event { at: at - ago, instance: self.instance, what });
        }
    }
}

/// What a line says, and how many milliseconds before it was written that was.
fn what(message: &str, line: &Value) -> Option<(What, f64)> {
    let partitions = || {
        let list = line["kafka.partitions"].as_str().unwrap_or_default();
        let numbers = list.trim_matches(['[', ']']).split(',');
        numbers.filter_map(|one| one.trim().parse().ok()).collect()
    };
    match message {
        "partitions being revoked; draining" => Some((What::Revoking(partitions()), 0.0)),
        "partitions drained and revoked" | "drain timeout; open intents left to next owner" => {
            Some((What::Drained(partitions()), 0.0))
        }
        "partitions assigned" => Some((What::Assigned(partitions()), 0.0)),
        "partition restored" => {
            let partition = line["kafka.partition"].as_i64()?;
            Some((What::Restored(i32::try_from(partition).ok()?), 0.0))
        }
        "ERP call finished" => {
            let key = line["command.return_no"].as_str()?;
            let partition = partition_of(key.as_bytes(), PARTITIONS, Partitioner::Murmur2)?;
            Some((What::Called(partition), line["duration_ms"].as_f64()?))
        }
        _ => None,
    }
}

/// One partition's way from the revoke callback to the next call, in milliseconds.
#[derive(Debug)]
struct Move {
    /// To another instance.
    moved: bool,
    /// Until everything in flight was settled and the partition given back.
    drain: f64,
    /// Until the next owner had it: the other members' heartbeats and drains, join and sync.
    rejoin: f64,
    /// Until its journal was read.
    restore: f64,
    /// Until the first call left: first fetch, intent, permit.
    first_call: f64,
}

impl Move {
    fn total(&self) -> f64 {
        self.drain + self.rejoin + self.restore + self.first_call
    }
}

/// Every revocation of these events; `None` while one of them has not led to a call.
fn moves(events: &[Event]) -> Option<Vec<Move>> {
    let mut all = Vec::new();
    let mut events = events.to_vec();
    events.sort_by(|one, other| one.at.total_cmp(&other.at));
    for (at, event) in events.iter().enumerate() {
        let What::Revoking(partitions) = &event.what else { continue };
        let later = &events[at..];
        let first = |from: f64, wanted: &dyn Fn(&Event) -> bool| {
            later.iter().find(|one| one.at >= from && wanted(one)).cloned()
        };
        for partition in partitions {
            let drained = first(event.at, &|one| {
                one.instance == event.instance
                    && matches!(&one.what, What::Drained(all) if all.contains(partition))
            })?;
            let assigned = first(
                drained.at,
                &|one| matches!(&one.what, What::Assigned(all) if all.contains(partition)),
            )?;
            let restored = first(assigned.at, &|one| {
                one.instance == assigned.instance
                    && matches!(one.what, What::Restored(is) if is == *partition)
            })?;
            let called = first(restored.at, &|one| {
                one.instance == assigned.instance
                    && matches!(one.what, What::Called(is) if is == *partition)
            })?;
            all.push(Move {
                moved: assigned.instance != event.instance,
                drain: drained.at - event.at,
                rejoin: assigned.at - drained.at,
                restore: restored.at - assigned.at,
                first_call: called.at - restored.at,
            });
        }
    }
    (!all.is_empty()).then_some(all)
}

/// Instances by ordinal, the last of which comes and goes.
struct Fleet {
    members: Vec<Connector>,
    logs: Vec<Log>,
    rig: Rig,
    events: Vec<Event>,
    refusals: Refusals,
}

impl Fleet {
    fn launch(&mut self, ordinal: usize, log: &str) -> Connector {
        let cache = self.rig.path(&format!("cache-{ordinal}")).display().to_string();
        self.rig.config.set("kafka", "instance_ordinal", ordinal).set("", "cache_dir", cache);
        let path = self.rig.path(log);
        self.logs.push(Log { instance: ordinal, path, read: 0, rest: String::new() });
        self.rig.spawn_logged(&[], log)
    }

    fn read_on(&mut self) {
        for log in &mut self.logs {
            log.read_on(&mut self.events, &mut self.refusals);
        }
    }

    /// Waits until the members that stay own every partition.
    fn settle(&self) {
        until("every partition owned by those who stay", CYCLE, || {
            let owned: usize = self.members.iter().map(owned).sum();
            (owned == usize::try_from(PARTITIONS).expect("a count")).then_some(())
        });
    }

    /// An update of one of those who stay: its heartbeats come at another time than the others'
    /// from then on, so that they do not all hear of a rebalance at once.
    fn update(&mut self, number: usize) {
        let ordinal = number % self.members.len();
        let old = self.members.remove(ordinal);
        let status = old.terminate(CYCLE);
        assert!(status.success(), "instance {ordinal} ended with {status}");
        std::thread::sleep(AWAY * u32::try_from(number % 4).expect("less than four"));
        let at = self.logs.iter().position(|log| log.instance == ordinal).expect("its log");
        let log = self.logs.remove(at);
        let name = log.path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        let member = self.launch(ordinal, &name);
        // The same file is read on, not read again.
        self.logs.pop();
        self.logs.push(log);
        self.members.insert(ordinal, member.ready());
        self.settle();
    }

    /// The last instance joins, and leaves when every partition that was taken from an old owner
    /// has been called for by its new one.
    fn cycle(&mut self, number: usize) -> Vec<Move> {
        if self.members.len() > 1 {
            self.update(number);
        }
        self.read_on();
        self.events.clear();
        let joiner = self.launch(self.members.len(), &format!("joiner-{number}.log"));
        let moves = until("a call for every partition that moved", CYCLE, || {
            self.read_on();
            moves(&self.events)
        });
        let status = joiner.terminate(CYCLE);
        assert!(status.success(), "the instance that joined ended with {status}");
        self.read_on();
        self.logs.pop();
        self.settle();
        moves
    }
}

/// Partitions an instance owns.
fn owned(member: &Connector) -> usize {
    let status = member.status();
    let partitions = status["sections"]["commands"]["partitions"].as_array();
    partitions.map_or(0, |all| all.iter().filter(|one| one["draining"] == false).count())
}

/// The smallest value that this share of all does not exceed.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

fn spread(moves: &[&Move], of: impl Fn(&Move) -> f64) -> Value {
    let mut all: Vec<f64> = moves.iter().map(|one| of(one)).collect();
    all.sort_by(f64::total_cmp);
    let at = |share: f64| percentile(&all, share).round();
    json!({"p50": at(0.5), "p99": at(0.99), "max": at(1.0)})
}

fn main() -> ExitCode {
    let wanted = usize::try_from(option("--moves", 100)).expect("a count");
    let instances = usize::try_from(option("--instances", 3)).expect("a count").max(2);
    let (latency, rate) = (option("--latency-ms", 200), option("--rate", 60).max(1));
    let (session, heartbeat) = (option("--session-ms", 6000), option("--heartbeat-ms", 0));
    let mut rig = Rig::with_partitions("handover", PARTITIONS).commands("avro");
    rig.config
        .kafka_property("session.timeout.ms", &session.to_string())
        .set("log", "format", "json")
        .set("commands", "max_in_flight", 256);
    // The tests' own is shorter than what an operator gets.
    match heartbeat {
        0 => rig.config.remove_kafka_property("heartbeat.interval.ms"),
        ms => rig.config.kafka_property("heartbeat.interval.ms", &ms.to_string()),
    };
    rig.erp.take_anything();
    rig.erp.latency(Duration::from_millis(latency));
    let stream = Stream::into(&rig, 0, Duration::from_secs(1) / u32::try_from(rate).expect("few"));
    let (members, logs, events) = (Vec::new(), Vec::new(), Vec::new());
    let mut fleet = Fleet { members, logs, rig, events, refusals: Refusals::default() };
    for ordinal in 0..instances - 1 {
        let member = fleet.launch(ordinal, &format!("connector-{ordinal}.log"));
        fleet.members.push(member.ready());
    }
    fleet.settle();
    let (mut all, mut cycles) = (Vec::new(), 0);
    while all.iter().filter(|one: &&Move| one.moved).count() < wanted {
        all.extend(fleet.cycle(cycles));
        cycles += 1;
    }
    let commands = stream.end();
    let results = fleet.rig.results(commands.len());
    let verdict = Verdict::of(&fleet.rig, &commands, &results);
    verdict.assert_each_once(commands.len(), "hand-overs");
    let (moved, stayed): (Vec<&Move>, Vec<&Move>) = all.iter().partition(|one| one.moved);
    let total = spread(&moved, Move::total);
    let held = total["p99"].as_f64().is_some_and(|p99| p99 <= ALLOWED_MS)
        && fleet.refusals.generation == 0;
    println!(
        "{}",
        json!({
            "case": "handover", "instances": instances, "erp_latency_ms": latency,
            "session_ms": session, "heartbeat_ms": heartbeat,
            "commands_per_s": rate, "commands": commands.len(), "joins": cycles,
            "moves": moved.len(),
            "handover_ms": total,
            "drain_ms": spread(&moved, |one| one.drain),
            "rejoin_ms": spread(&moved, |one| one.rejoin),
            "restore_ms": spread(&moved, |one| one.restore),
            "first_call_ms": spread(&moved, |one| one.first_call),
            "stayed": stayed.len(), "standstill_of_stayed_ms": spread(&stayed, Move::total),
            "refused_for_a_past_generation": fleet.refusals.generation,
            "aborted": fleet.refusals.aborted,
            "drain_timeouts": fleet.refusals.drain_timeouts, "recovered": verdict.recovered,
            "allowed_p99_ms": ALLOWED_MS, "held": held,
        })
    );
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
