//! What the command route adds to the ERP: latency at a steady rate, calls per command, time to the first call after a
//! `kill -9`. One JSON line per case; `cargo bench --bench commands -- <part of a case's name>`.

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

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use kit::{commands::command, connector::Connector, records::Sender, rig::Rig, until};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(300);
const RATE: u32 = 50;
const SECONDS: u32 = 60;
/// The ERP's own answer time.
const ERP: Duration = Duration::from_millis(50);
const COUNTED: usize = 2000;
const RESTARTS: usize = 5;
/// One call in five fails in some way.
const FAULTS: &str = "createOrder:applied_reset=0.05,createOrder:applied_5xx=0.05,createOrder:reset=0.05,createOrder:5xx=0.05,\
    query:5xx=0.1,query:reset=0.1";

type Case = (&'static str, fn() -> Value);

const CASES: [Case; 4] = [
    ("added_latency", added_latency),
    ("calls_without_faults", || calls("")),
    ("calls_with_faults", || calls(FAULTS)),
    ("restart", restart),
];

fn main() {
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
    let mut rig = Rig::new(what).commands("avro");
    rig.config.set("log", "level", "warn");
    rig.erp.take_anything();
    rig
}

fn at(sorted: &[f64], share: f64) -> f64 {
    let place = ((sorted.len() as f64 - 1.0) * share).round() as usize;
    (sorted[place] * 10.0).round() / 10.0
}

/// From the sender's call to the moment a reader of committed results has it, less the ERP's own time.
fn added_latency() -> Value {
    let rig = rig("bench-latency");
    rig.erp.faults(&format!("createOrder:slow({}ms)=1", ERP.as_millis()));
    let connector = rig.start();
    let count = (RATE * SECONDS) as usize;
    let sent: Mutex<HashMap<String, Instant>> = Mutex::default();
    let mut latencies: Vec<f64> = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let sender = Sender::new();
            let begun = Instant::now();
            for number in 0..count {
                let due = begun + Duration::from_secs(1) / RATE * number as u32;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                let one = command(&format!("LA{number:06}"), "only");
                let bytes = kit::commands::avro(&one);
                sent.lock().unwrap().insert(one.return_no.clone(), Instant::now());
                sender.send(&rig.topics.commands, Some(one.return_no.as_bytes()), Some(&bytes), &[]);
            }
            sender.flush();
        });
        let mut seen = 0;
        let mut reader = rig.reader(&rig.topics.results);
        reader.until("every result", PATIENCE, |records| {
            let now = Instant::now();
            for record in &records[seen..] {
                let begun = sent.lock().unwrap()[&record.key_text()];
                latencies.push((now - begun).saturating_sub(ERP).as_secs_f64() * 1000.0);
            }
            seen = records.len();
            seen >= count
        });
    });
    let cpu = connector.cpu_seconds();
    finish(connector);
    // The first second meets cold caches.
    let mut steady = latencies.split_off(RATE as usize);
    steady.sort_by(f64::total_cmp);
    json!({
        "commands": count, "per_second": RATE, "erp_ms": ERP.as_millis(), "added_ms_p50": at(&steady, 0.5), "added_ms_p99": at(&steady, 0.99),
        "added_ms_worst": at(&steady, 1.0), "cpu_seconds": cpu,
    })
}

/// Calls of every kind that reach the ERP, per command.
fn calls(faults: &str) -> Value {
    let rig = rig("bench-calls");
    // One order that exists, so that absence can be told from blindness from the beginning.
    let connector = rig.start();
    rig.send(&[command("HERALD", "first")]);
    rig.results(1);
    rig.erp.faults(faults);
    let commands: Vec<_> = (0..COUNTED).map(|number| command(&format!("CA{number:06}"), "only")).collect();
    let creates = rig.erp.creates().received;
    let begun = Instant::now();
    rig.send(&commands);
    let results = rig.results(COUNTED + 1);
    let took = begun.elapsed();
    let creates = (rig.erp.creates().received - creates) as f64;
    let recovered = results.iter().filter(|result| result.recovered).count();
    let orders = rig.erp.order_count();
    let queries = rig.erp.outbound_queries() as f64;
    finish(connector);
    json!({
        "commands": COUNTED, "faults": faults, "create_calls_per_command": creates / COUNTED as f64, "calls_per_command": (creates + queries) / COUNTED as f64,
        "queries": queries, "recovered": recovered, "orders": orders, "seconds": took.as_secs_f64(),
    })
}

/// From exec to the first call that reaches the ERP, after a `kill -9`, with Kafka's default session time-out.
fn restart() -> Value {
    let mut rig = rig("bench-restart");
    rig.config.kafka_property("session.timeout.ms", "45000").kafka_property("heartbeat.interval.ms", "3000");
    let mut connector = rig.start();
    let mut took = Vec::new();
    for turn in 0..RESTARTS {
        let commands: Vec<_> = (0..40).map(|number| command(&format!("RE{turn:02}{number:04}"), "only")).collect();
        rig.send(&commands[..20]);
        rig.results(turn * 40 + 20);
        connector.kill();
        rig.send(&commands[20..]);
        let (before, started) = (rig.erp.creates().received, Instant::now());
        connector = rig.spawn();
        until("a call", PATIENCE, || (rig.erp.creates().received > before).then_some(()));
        took.push(started.elapsed().as_secs_f64());
        rig.results(turn * 40 + 40);
    }
    took.sort_by(f64::total_cmp);
    json!({ "restarts": RESTARTS, "first_call_s_median": took[RESTARTS / 2], "first_call_s_worst": took[RESTARTS - 1], "floor_s": 2 })
}

fn finish(connector: Connector) {
    let status = connector.terminate(Duration::from_secs(30));
    if !status.success() {
        parts::say(&format!("the connector ended with {status}"));
    }
}
