//! The floors of the job, measured on a real broker: one JSON line per case on stdout, progress on stderr.
//!
//! `cargo bench --bench floors` (release profile), `-- <part of a case's name>` for some of them. The simulator runs as
//! a process of its own, so that only the connector's CPU and memory are counted. Linux only (`/proc`).

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
#[path = "../tests/it/parts/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the tests, which use another share of it")]
mod parts;

use std::time::{Duration, Instant};

use kit::{
    commands::command,
    connector::Connector,
    erp::{Erp, Kind},
    records::{Reader, Sender},
    rig::Rig,
};
use serde_json::{Value, json, value::RawValue};
use wdt_connector::{
    config::{Edition, Feed},
    erp::record,
    schema::{Codec, FeedState, StateKind, Subject},
};

/// Longer than any floor: a slow run is a figure, not a failure.
const PATIENCE: Duration = Duration::from_secs(300);
const STARTS: usize = 5;
const COMMANDS: usize = 20_000;
const RECORDS: usize = 100_000;
const STATE: usize = 1_000_000;

type Case = (&'static str, fn() -> Value);

const CASES: [Case; 4] =
    [("start_and_idle", start_and_idle), ("commands", commands), ("first_read", first_read), ("restore_feed", restore_feed)];

fn main() {
    // cargo bench passes `--bench`; what is left is a filter.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    parts::broker();
    for (name, run) in CASES {
        if wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str())) {
            parts::say(&format!("running {name}"));
            let mut line = run();
            line["case"] = name.into();
            println!("{line}");
        }
    }
}

fn rig(what: &str) -> Rig {
    let mut rig = Rig::around(what, Erp::start());
    rig.topics.create(4);
    rig.config.set("log", "level", "warn");
    rig
}

fn seconds(span: Duration) -> f64 {
    (span.as_secs_f64() * 1000.0).round() / 1000.0
}

/// From exec to a 200 of `/readyz`, and the memory of a connector that has nothing to do.
fn start_and_idle() -> Value {
    let rig = rig("bench-start").commands("avro").purchase_returns().return_outbounds("flagship");
    let mut ready: Vec<u64> = Vec::new();
    let mut idle_kb = 0;
    for turn in 0..STARTS {
        let mut connector = rig.spawn();
        ready.push(u64::try_from(connector.wait_ready().as_millis()).unwrap());
        if turn + 1 == STARTS {
            // Some polls of both feeds later: what it keeps, not what the start needed.
            std::thread::sleep(Duration::from_secs(5));
            idle_kb = connector.memory("VmRSS");
        }
        assert!(connector.terminate(Duration::from_secs(20)).success());
    }
    // The first start meets empty groups and topics without history; the others are restarts.
    let first = ready[0];
    ready.sort_unstable();
    json!({
        "ready_ms_first": first, "ready_ms_median": ready[STARTS / 2], "ready_ms_worst": ready[STARTS - 1], "floor_ready_ms": 1000,
        "idle_rss_mb": idle_kb as f64 / 1024.0, "floor_idle_rss_mb": 25,
    })
}

/// Commands that wait in the topic, drained at an ERP latency of 0.
fn commands() -> Value {
    let rig = rig("bench-commands").commands("avro");
    let all: Vec<_> = (0..COMMANDS).map(|number| command(&format!("CT{number:06}"), &format!("cmd-{number}"))).collect();
    rig.erp.take_anything();
    rig.send(&all);
    let mut results = Reader::new(&rig.topics.results);
    let started = Instant::now();
    let mut connector = rig.spawn();
    let ready = connector.wait_ready();
    let cpu_at_start = connector.cpu_seconds();
    let mut peaks = Vec::new();
    for share in [COMMANDS / 4, COMMANDS / 2, COMMANDS] {
        results.at_least(share, PATIENCE);
        peaks.push(json!({"commands": share, "hwm_mb": connector.memory("VmHWM") as f64 / 1024.0, "after_s": seconds(started.elapsed())}));
    }
    let took = started.elapsed() - ready;
    let cpu = connector.cpu_seconds() - cpu_at_start;
    let outcomes = outcomes(&rig, &results);
    finish(connector);
    json!({
        "commands": COMMANDS, "seconds": seconds(took), "per_second": (COMMANDS as f64 / took.as_secs_f64()).round(), "floor_per_second": 1500,
        "cpu_seconds_per_1000": (cpu / COMMANDS as f64 * 1000.0 * 1000.0).round() / 1000.0,
        "peaks": peaks, "outcomes": outcomes, "orders": rig.erp.orders().len(),
    })
}

/// How often each outcome occurs: a fast run of failures is no run.
fn outcomes(rig: &Rig, results: &Reader) -> Value {
    let mut counts = serde_json::Map::new();
    for record in &results.seen {
        let name = format!("{:?}", rig.result(record).outcome);
        let count = counts.get(&name).and_then(Value::as_u64).unwrap_or(0);
        counts.insert(name, (count + 1).into());
    }
    counts.into()
}

/// The first read of a feed: every record comes out once.
fn first_read() -> Value {
    let rig = rig("bench-read").purchase_returns();
    rig.erp.seed(Kind::Returns, RECORDS);
    let mut events = Reader::new(&rig.topics.purchase_returns);
    let started = Instant::now();
    let connector = rig.start();
    let ready = started.elapsed();
    events.at_least(RECORDS, PATIENCE);
    let took = started.elapsed();
    let cpu = connector.cpu_seconds();
    let peak = connector.memory("VmHWM") as f64 / 1024.0;
    events.finish();
    finish(connector);
    json!({
        "records": RECORDS, "events": events.seen.len(), "seconds": seconds(took), "floor_seconds": 60, "ready_ms": seconds(ready) * 1000.0,
        "per_second": (RECORDS as f64 / took.as_secs_f64()).round(),
        "cpu_seconds_per_1000": (cpu / RECORDS as f64 * 1000.0 * 1000.0).round() / 1000.0, "hwm_mb": peak,
    })
}

/// A feed with a million records in its state: from exec until it has been taken over.
fn restore_feed() -> Value {
    let rig = rig("bench-restore").purchase_returns();
    let number = rig.erp.seed(Kind::Returns, 1).remove(0);
    let json = RawValue::from_string(rig.erp.record(Kind::Returns, &number).to_string()).unwrap();
    let codec = Codec::single_object();
    let record = record::decode(Feed::PurchaseReturns, Edition::Flagship, &json).unwrap();
    let version = codec.keep(Subject::PurchaseReturnEnvelope, &record.datum);
    let sender = Sender::new();
    let mut bytes = 0;
    for id in 0..STATE {
        let state = FeedState {
            kind: StateKind::Record,
            feed: "purchase_returns".to_owned(),
            record_id: Some(id.to_string()),
            number: Some(format!("CR{id:012}")),
            modified: Some(record.modified),
            asked_at: Some(record.modified),
            content_hash: (id as u128).to_be_bytes().to_vec(),
            version: version.clone(),
            checkpoint: None,
            nonce: None,
        };
        let value = codec.encode_feed_state(&state).unwrap();
        bytes += value.len();
        let key = json!(["purchase_returns", id.to_string()]).to_string();
        sender.send_to(&rig.topics.feeds_state, 0, Some(key.as_bytes()), Some(&value));
    }
    sender.flush();
    let mut connector = rig.spawn();
    let ready = connector.wait_ready();
    // The state comes first; `/readyz` says 200 only afterwards.
    let (cpu, peak) = (connector.cpu_seconds(), connector.memory("VmHWM") as f64 / 1024.0);
    let log = connector.log();
    finish(connector);
    json!({
        "records": STATE, "value_bytes": bytes / STATE, "ready_seconds": seconds(ready), "floor_seconds": 30, "cpu_seconds": cpu, "hwm_mb": peak,
        "log": log.lines().find(|line| line.contains("feed taken over")),
    })
}

fn finish(connector: Connector) {
    let status = connector.terminate(Duration::from_secs(30));
    if !status.success() {
        parts::say(&format!("the connector ended with {status}"));
    }
}
