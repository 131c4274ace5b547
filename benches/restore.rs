//! A restart on a long journal: from exec to ready, and the memory it takes. One JSON line per length.
//!
//! `cargo bench --bench restore` (release), `-- 100000` for lengths of one's own.

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

use std::time::Duration;

use kit::{commands::command, journal, rig::Rig};
use serde_json::json;

const PARTITIONS: i32 = 4;
/// Entries a transaction carries: what a busy hour writes.
const BATCH: usize = 200;
const STARTS: usize = 3;
/// What is asked for afterwards, to see that all of it is there.
const ASKED: usize = 1000;

fn main() {
    let wanted: Vec<usize> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let lengths = if wanted.is_empty() { vec![100_000, 1_000_000] } else { wanted };
    for length in lengths {
        println!("{}", restore(length));
    }
}

/// Numbers in an order of their own, as senders' returns are: neighbours in time are none in the key.
fn one(number: usize) -> wdt_connector::schema::CreateReturnOutbound {
    command(&format!("TH{:08x}", (number as u32).wrapping_mul(2_654_435_761)), &format!("cmd-{number}"))
}

fn restore(length: usize) -> serde_json::Value {
    let mut rig = Rig::with_partitions("bench-restore", PARTITIONS).commands("avro");
    rig.config.set("log", "level", "warn");
    rig.erp.take_anything();
    parts::say(&format!("writing {length} entries"));
    journal::write(rig.broker.clone(), &rig.topics.journal, PARTITIONS, (0..length).map(one), BATCH);
    let (mut ready, mut peaks, mut cpu, mut cache) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for turn in 0..STARTS {
        let mut connector = rig.spawn();
        ready.push(connector.wait_ready_within(Duration::from_secs(600)).as_secs_f64());
        peaks.push(connector.memory("VmHWM") as f64 / 1024.0);
        cpu.push(connector.cpu_seconds());
        cache = std::fs::read_dir(rig.path("cache"))
            .expect("the cache")
            .flatten()
            .filter_map(|file| file.metadata().ok())
            .map(|it| it.len())
            .sum();
        if turn + 1 == STARTS {
            let step = (length / ASKED).max(1);
            let copies: Vec<_> = (0..length).step_by(step).map(one).collect();
            rig.send(&copies);
            let results = rig.results(copies.len());
            assert!(results.iter().all(|result| result.duplicate), "an outcome was forgotten");
            assert_eq!(rig.erp.creates().received, 0, "nothing is called again");
        }
        connector.kill();
    }
    ready.sort_by(f64::total_cmp);
    json!({
        "case": "restore", "entries": length, "ready_s_median": ready[STARTS / 2], "ready_s_worst": ready[STARTS - 1], "floor_ready_s": 20,
        "peak_rss_mb": peaks.iter().copied().fold(0.0, f64::max), "cpu_s": cpu[STARTS - 1], "cache_mb": cache as f64 / 1024.0 / 1024.0,
        "honoured": true,
    })
}
