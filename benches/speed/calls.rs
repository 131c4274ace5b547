//! Calls to the ERP per command, and the time to the first call after a `kill -9`.

use std::time::Instant;

use serde_json::{Value, json};

use crate::{
    PATIENCE,
    figures::{finish, round},
    kit::{commands::command, rig::Rig, until},
};

const COUNTED: usize = 2000;
const RESTARTS: usize = 5;
/// One call in five fails in some way.
const FAULTS: &str = "createOrder:applied_reset=0.05,createOrder:applied_5xx=0.05,createOrder:reset=0.05,createOrder:5xx=0.05,\
    query:5xx=0.1,query:reset=0.1";

fn rig(what: &str) -> Rig {
    let mut rig = Rig::new(what).commands("avro");
    rig.config.set("log", "level", "warn");
    rig.erp.take_anything();
    rig
}

pub fn per_command() -> Vec<Value> {
    vec![calls(""), calls(FAULTS)]
}

/// Calls of every kind that reach the ERP, per command.
fn calls(faults: &str) -> Value {
    let rig = rig("speed-calls");
    // One order that exists, so that absence can be told from blindness from the beginning.
    let connector = rig.start();
    rig.send(&[command("HERALD", "first")]);
    rig.results(1);
    rig.erp.faults(faults);
    let commands: Vec<_> =
        (0..COUNTED).map(|number| command(&format!("CA{number:06}"), "only")).collect();
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
        "queries": queries, "recovered": recovered, "orders": orders, "seconds": round(took.as_secs_f64()),
    })
}

/// From exec to the first call that reaches the ERP, after a `kill -9`, with Kafka's default
/// session timeout.
pub fn after_a_kill() -> Vec<Value> {
    let mut rig = rig("speed-kill");
    rig.config
        .kafka_property("session.timeout.ms", "45000")
        .kafka_property("heartbeat.interval.ms", "3000");
    let mut connector = rig.start();
    let mut took = Vec::new();
    for turn in 0..RESTARTS {
        let commands: Vec<_> =
            (0..40).map(|number| command(&format!("RE{turn:02}{number:04}"), "only")).collect();
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
    finish(connector);
    took.sort_by(f64::total_cmp);
    vec![
        json!({ "restarts": RESTARTS, "first_call_s_median": round(took[RESTARTS / 2]), "first_call_s_worst": round(took[RESTARTS - 1]) }),
    ]
}
