//! From exec to ready, from exec to the first call, idle memory, size of the program.

use std::{thread, time::Duration};

use serde_json::{Value, json};

use crate::{
    PATIENCE,
    figures::{finish, rig, round},
    kit::{commands::command, connector::PROGRAM},
};

const STARTS: usize = 20;

pub fn start() -> Vec<Value> {
    let rig = rig("speed-start").commands("avro").purchase_returns().return_outbounds("flagship");
    rig.erp.take_anything();
    let mut ready: Vec<f64> = Vec::new();
    let mut first_call: Vec<f64> = Vec::new();
    let mut idle_mb = 0.0;
    for turn in 0..=STARTS {
        let before = rig.erp.order_count();
        rig.send(&[command(&format!("ST{turn:03}"), "cmd")]);
        let began = std::time::Instant::now();
        let mut connector = rig.spawn();
        // Asked at short intervals: what is measured is a few tenths of a second.
        while rig.erp.order_count() == before {
            assert!(began.elapsed() < PATIENCE, "no call");
            thread::sleep(Duration::from_millis(5));
        }
        first_call.push(began.elapsed().as_secs_f64());
        ready.push(connector.wait_ready().as_secs_f64());
        if turn == STARTS {
            // Some polls of both feeds later: what it keeps, not what the start needed.
            thread::sleep(Duration::from_secs(10));
            idle_mb = connector.memory("VmRSS") as f64 / 1024.0;
        }
        finish(connector);
    }
    // The first start meets empty groups and topics without history; the others are restarts.
    let (first_ready, first_first_call) = (ready.remove(0), first_call.remove(0));
    ready.sort_by(f64::total_cmp);
    first_call.sort_by(f64::total_cmp);
    let size = std::fs::metadata(PROGRAM).map_or(0, |file| file.len());
    vec![json!({
        "configuration": "commands and both feeds, log level warn, warm broker of one node",
        "starts": STARTS,
        "ready_s_very_first": round(first_ready), "first_call_s_very_first": round(first_first_call),
        "ready_s_median": round(ready[STARTS / 2]), "ready_s_worst": round(ready[STARTS - 1]),
        "first_call_s_median": round(first_call[STARTS / 2]), "first_call_s_worst": round(first_call[STARTS - 1]),
        "idle_rss_mb": round(idle_mb), "program_mb": round(size as f64 / 1e6),
    })]
}
