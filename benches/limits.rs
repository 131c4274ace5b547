//! More than anybody needs, at full size: the memory it takes, and whether what is not to blame
//! goes on. One JSON line each.
//!
//! `cargo bench --bench limits` (release) runs every case; `-- keys 100000`, `-- settled 10000`,
//! `-- commits 100000`, `-- behind 100000`, `-- bomb 1048588` one of a size of one's own.
//! `tests/it/limits.rs` has short forms of the same.

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
#[path = "../tests/it/parts/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the tests, which use another share of it")]
mod parts;

use std::time::{Duration, Instant};

use kit::{
    commands::{command, json_bytes},
    connector::Connector,
    journal,
    records::Sender,
    rig::Rig,
    topics,
};
use serde_json::json;
use wdt_connector::testing::schema::{CreateReturnOutbound, Outcome};

const PARTITIONS: i32 = 4;
/// The stated bound on a process.
const BOUND_MB: f64 = 256.0;
/// How long one case may take; what was done until then is said.
const LIMIT: Duration = Duration::from_secs(600);
/// Keys nobody knows yet, which have to go on.
const OTHERS: usize = 100;
/// Keys whose copies are settled.
const KNOWN: usize = 900;
/// lz4 expands up to 255 times; a little less leaves room for the frame.
const EXPANDS: usize = 240;
const BOMBS: usize = 6;

fn main() {
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let size = wanted.get(1).and_then(|text| text.parse().ok());
    for (name, usual, run) in [
        ("keys", 1_000_000, keys as fn(usize) -> serde_json::Value),
        ("settled", 100_000, settled),
        ("bomb", 131_072, bomb),
        ("bomb", 1_048_588, bomb),
        ("commits", 2_000_000, commits),
        ("behind", 2_000_000, behind),
    ] {
        if wanted.first().is_none_or(|first| first == name) {
            println!("{}", run(size.unwrap_or(usual)));
        }
        // With a size of its own a case runs once.
        if size.is_some() && wanted.first().is_some_and(|first| first == name) {
            break;
        }
    }
}

/// Commits of the cache, one for each transaction that settles something: a month of a busy
/// pipeline.
fn commits(count: usize) -> serde_json::Value {
    let folder = std::env::temp_dir().join(format!("wdt-commits-{}", std::process::id()));
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    };
    let commit = |count: usize| {
        let count = u32::try_from(count).unwrap();
        wdt_connector::testing::kafka::commit_often(&folder, count).unwrap();
    };
    // What one cache takes is taken before.
    commit(count / 20);
    let (before, begun) = (resident(), Instant::now());
    commit(count);
    let (grown, seconds) = (resident() - before, begun.elapsed().as_secs_f64());
    let _ = std::fs::remove_dir_all(&folder);
    json!({
        "case": "commits", "commits": count, "seconds": seconds, "grown_mb": grown, "bound_mb": 4.0, "honoured": grown <= 4.0,
    })
}

/// Copies that are settled behind a command that waits for days: the offset that is committed stands
/// still meanwhile.
fn behind(count: usize) -> serde_json::Value {
    let mut rig = Rig::with_partitions("limits-behind", 1).commands("json");
    rig.config.set("log", "level", "warn").set("commands", "unapproved_retry_timeout", "24h");
    // Copies of one key would be settled one in a transaction.
    let known: Vec<_> = (0..KNOWN).map(|number| command(&format!("CT-{number}"), "c")).collect();
    rig.erp.approve(known.iter().map(|one| one.return_no.clone()).chain(["CT-WAITS".to_owned()]));
    rig.erp.modify(kit::erp::Kind::Returns, "CT-WAITS", &json!({"status": 30}));
    let connector = rig.start();
    rig.send_json(&[command("CT-WAITS", "c")]);
    rig.send_json(&known);
    rig.results(KNOWN);
    let sender = Sender::new();
    let resident = || connector.memory("VmRSS") as f64 / 1024.0;
    let settled = || connector.metric("wdt_connector_command_results_total", &["true"]);
    let (begun, mut grown_from) = (Instant::now(), 0.0);
    let wait_for = |copies: usize| {
        while settled() < copies as f64 && begun.elapsed() < LIMIT {
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    for number in 1..=count {
        let one = &known[number % KNOWN];
        let key = Some(one.return_no.as_bytes());
        sender.send(&rig.topics.commands, key, Some(&json_bytes(one)), &[]);
        // What one burst takes is taken before.
        if number == count / 10 {
            wait_for(number);
            grown_from = resident();
        }
    }
    sender.flush();
    wait_for(count);
    let grown = resident() - grown_from;
    json!({
        "case": "behind_a_slow_front", "copies": count, "settled": settled(), "seconds": begun.elapsed().as_secs_f64().round(),
        "committed": rig.committed_sum(), "grown_mb": grown, "bound_mb": 8.0, "honoured": grown <= 8.0 && settled() > 0.0,
    })
}

fn peak(connector: &Connector) -> f64 {
    connector.memory("VmHWM") as f64 / 1024.0
}

fn rig(what: &str, partitions: i32) -> Rig {
    let mut rig = Rig::with_partitions(what, partitions).commands("json");
    rig.config.set("log", "level", "warn");
    rig.erp.take_anything();
    rig
}

fn other(number: usize) -> CreateReturnOutbound {
    command(&format!("CT-OTHER-{number}"), "c")
}

/// Distinct keys that wait in the commands topic when the connector starts.
fn keys(count: usize) -> serde_json::Value {
    let rig = rig("limits-keys", PARTITIONS);
    parts::say(&format!("sending {count} commands"));
    let sender = Sender::new();
    for number in 0..count {
        let return_no = format!("TH{number:08x}");
        sender.send(
            &rig.topics.commands,
            Some(return_no.as_bytes()),
            Some(&json_bytes(&command(&return_no, "c"))),
            &[],
        );
    }
    sender.flush();
    let begun = Instant::now();
    let connector = rig.start();
    let all = i64::try_from(count).unwrap();
    let mut settled = 0;
    while settled < all && begun.elapsed() < LIMIT {
        std::thread::sleep(Duration::from_secs(1));
        settled = rig.committed_sum();
    }
    let peak = peak(&connector);
    json!({
        "case": "keys", "commands": count, "settled": settled, "seconds": begun.elapsed().as_secs_f64().round(),
        "orders": rig.erp.order_count(), "peak_rss_mb": peak, "bound_mb": BOUND_MB, "honoured": peak <= BOUND_MB && settled > 0,
    })
}

/// Commands that are settled as in doubt and wait for a person, when their partitions are taken
/// over.
fn settled(count: usize) -> serde_json::Value {
    let rig = rig("limits-settled", PARTITIONS);
    parts::say(&format!("writing {count} entries in doubt"));
    let all = (0..count).map(|number| command(&format!("TH{number:08x}"), "c"));
    journal::write_as(
        rig.broker.clone(),
        &rig.topics.journal,
        PARTITIONS,
        all,
        500,
        journal::in_doubt,
    );
    let mut connector = rig.spawn();
    let ready = connector.wait_ready_within(LIMIT).as_secs_f64();
    let others: Vec<_> = (0..OTHERS).map(other).collect();
    let begun = Instant::now();
    rig.send_json(&others);
    let results = rig.results(others.len());
    let went_on = begun.elapsed().as_secs_f64();
    let created = results.iter().filter(|result| result.outcome == Outcome::Created).count();
    let peak = peak(&connector);
    json!({
        "case": "settled_in_doubt", "entries": count, "ready_s": ready, "others": OTHERS, "others_created": created, "others_s": went_on,
        "peak_rss_mb": peak, "bound_mb": BOUND_MB, "honoured": peak <= BOUND_MB && created == OTHERS,
    })
}

/// Batches of lz4 that expand to as much as a topic with this `max.message.bytes` lets through.
fn bomb(bytes: usize) -> serde_json::Value {
    let rig = rig("limits-bomb", PARTITIONS);
    topics::alter(&rig.topics.commands, &[("max.message.bytes", &bytes.to_string())]);
    let bombs = {
        let mut client = rig.broker.clone();
        let most = bytes * EXPANDS + 1_000_000;
        client
            .set("compression.type", "lz4")
            .set("message.max.bytes", most.to_string())
            .set("batch.num.messages", "1");
        client.set("queue.buffering.max.kbytes", "2097151");
        Sender::with(client)
    };
    let zeros = vec![0_u8; bytes * EXPANDS];
    for number in 0..BOMBS {
        bombs.send(
            &rig.topics.commands,
            Some(format!("CT-BOMB-{number}").as_bytes()),
            Some(&zeros),
            &[],
        );
        bombs.flush();
    }
    let expanded = zeros.len() as f64 / 1024.0 / 1024.0;
    drop((zeros, bombs));
    let connector = rig.start();
    let others: Vec<_> = (0..OTHERS).map(other).collect();
    rig.send_json(&others);
    let created = rig
        .results(others.len())
        .iter()
        .filter(|result| result.outcome == Outcome::Created)
        .count();
    rig.wait_committed(i64::try_from(BOMBS + OTHERS).unwrap());
    let peak = peak(&connector);
    // Above 128 KiB the bound is not promised: the line says what it costs.
    json!({
        "case": "lz4_bomb", "max_message_bytes": bytes, "bombs": BOMBS, "expanded_mb": expanded, "others_created": created,
        "peak_rss_mb": peak, "peak_to_expanded": peak / expanded, "honoured": created == OTHERS && (bytes > 131_072 || peak <= BOUND_MB),
    })
}
