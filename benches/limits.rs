//! More than anybody needs, at full size: the memory it takes, and whether what is not to blame
//! goes on. One JSON line each.
//!
//! `cargo bench --bench limits` (release) runs every case; `-- keys 100000`, `-- settled 10000`,
//! `-- commits 100000`, `-- behind 100000`, `-- bomb 1048588`, `-- second 30000` one of a size of
//! one's own.
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

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use kit::{
    commands::{command, json_bytes},
    connector::Connector,
    erp::Kind,
    journal,
    records::{Reader, Sender},
    rig::Rig,
    topics, until,
};
use serde_json::json;
use wdt_connector::testing::{
    clock::Timestamp,
    schema::{CreateReturnOutbound, Outcome},
};

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
/// The stated bound on a process whose only feed meets a second with this many records.
const SECOND_MB: f64 = 64.0;
/// How soon an operator is obeyed.
const OBEYED: Duration = Duration::from_secs(5);

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
        ("second", 300_000, second),
        ("second_killed", 300_000, second_killed),
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

/// Events of a topic, counted and not kept.
struct Counted {
    reader: Reader,
    keys: HashSet<Vec<u8>>,
    events: usize,
}

impl Counted {
    fn new(topic: &str) -> Self {
        Self { reader: Reader::new(topic), keys: HashSet::new(), events: 0 }
    }

    fn take(&mut self) {
        for record in self.reader.seen.drain(..) {
            self.events += 1;
            self.keys.extend(record.key);
        }
    }

    fn at_least(&mut self, count: usize, begun: Instant) {
        while self.events < count && begun.elapsed() < LIMIT {
            self.reader.read_on(Duration::from_millis(100));
            self.take();
        }
    }

    fn finish(&mut self) {
        self.reader.finish();
        self.take();
    }
}

/// A rig with one feed, whose first read meets a second with all records.
fn dense(what: &str, count: usize) -> (Rig, Timestamp) {
    let mut rig = Rig::new(what).purchase_returns();
    let second = Timestamp::now().minus(Duration::from_secs(3_600)).floor_second();
    rig.config
        .set("log", "level", "warn")
        .set("feeds.purchase_returns", "start_at", second.minus(OBEYED).to_string())
        .set("feeds.purchase_returns.late_pass", "interval", "600s");
    rig.erp.seed_between(Kind::Returns, count, second, second);
    (rig, second)
}

fn feed(connector: &Connector) -> serde_json::Value {
    connector.status()["sections"]["feeds"]["purchase_returns"].clone()
}

fn is_live(connector: &Connector) -> Option<()> {
    (feed(connector)["state"] == "live").then_some(())
}

/// One second in which everything was modified: read for the first time, then by a backfill that is
/// paused and called off.
fn second(count: usize) -> serde_json::Value {
    let (rig, at) = dense("limits-second", count);
    let order = |arguments: &[&str]| {
        let said = rig.verb(&[arguments, &["--feed", "purchase_returns"]].concat(), b"");
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    };
    let mut events = Counted::new(&rig.topics.purchase_returns);
    let connector = rig.start();
    let begun = Instant::now();
    events.at_least(1, begun);
    let first_event = rig.erp.asked(Kind::Returns);
    events.at_least(count, begun);
    let (seconds, cpu) = (begun.elapsed().as_secs_f64(), connector.cpu_seconds());
    let (pages, first_peak) = (rig.erp.asked(Kind::Returns), peak(&connector));
    let transactions =
        connector.metric("wdt_connector_transactions_total", &["feeds", "committed"]);
    until("the first read to end", LIMIT, || is_live(&connector));

    let (from, to) = (at.to_string(), at.plus(Duration::from_secs(1)).to_string());
    order(&["backfill", "--from", &from, "--to", &to]);
    until("the backfill to read", LIMIT, || {
        (rig.erp.asked(Kind::Returns) > pages + pages / 10).then_some(())
    });
    let begun = Instant::now();
    order(&["feeds", "pause"]);
    until("the pause", LIMIT, || (feed(&connector)["state"] == "paused").then_some(()));
    let paused = begun.elapsed();
    order(&["feeds", "resume"]);
    until("the feed to go on", LIMIT, || is_live(&connector));
    let goes_on = feed(&connector)["backfill"].is_object();
    let begun = Instant::now();
    order(&["backfill", "--cancel"]);
    until("the end of the backfill", LIMIT, || {
        feed(&connector)["backfill"].is_null().then_some(())
    });
    let cancelled = begun.elapsed();
    let peak = peak(&connector);
    events.finish();
    let once = events.events == count && events.keys.len() == count;
    json!({
        "case": "second", "records": count, "seconds": (seconds * 10.0).round() / 10.0, "per_second": (count as f64 / seconds).round(),
        "per_cpu_second": (count as f64 / cpu).round(), "cpu_seconds_per_1000": cpu / count as f64 * 1000.0,
        "pages": pages, "first_event_after_pages": first_event, "transactions": transactions, "once": once,
        "paused_ms": paused.as_millis(), "cancelled_ms": cancelled.as_millis(), "in_the_middle": goes_on,
        "peak_rss_mb": first_peak, "peak_rss_mb_read_again": peak, "bound_mb": SECOND_MB,
        "honoured": peak <= SECOND_MB && once && goes_on && paused.max(cancelled) <= OBEYED && first_event < pages / 10,
    })
}

/// The same, killed in the middle of its first read.
fn second_killed(count: usize) -> serde_json::Value {
    let (rig, _) = dense("limits-second-killed", count);
    let mut events = Counted::new(&rig.topics.purchase_returns);
    let begun = Instant::now();
    let connector = rig.start();
    events.at_least(count / 2, begun);
    let first_peak = peak(&connector);
    connector.kill();
    let connector = rig.start();
    let restored_peak = peak(&connector);
    events.at_least(count, begun);
    until("the first read to end", LIMIT, || is_live(&connector));
    events.finish();
    let once = events.events == count && events.keys.len() == count;
    let peak = peak(&connector);
    json!({
        "case": "second_killed", "records": count, "seconds": begun.elapsed().as_secs_f64().round(), "once": once,
        "peak_rss_mb_before": first_peak, "peak_rss_mb_restored": restored_peak, "peak_rss_mb": peak, "bound_mb": SECOND_MB,
        "honoured": peak <= SECOND_MB && once,
    })
}
