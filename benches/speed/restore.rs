//! A restart on a long memory: from exec to ready, and the memory it takes, as the memory grows.

use serde_json::{Value, json};
use wdt_connector::testing::{
    config::{Edition, Feed},
    erp::record,
    schema::{Codec, CreateReturnOutbound, FeedState, StateKind, Subject},
};

use crate::{
    PATIENCE,
    figures::{exponent, finish, round},
    kit::{
        commands::command,
        connector::Connector,
        erp::{Erp, Kind},
        journal,
        records::Sender,
        rig::Rig,
    },
    parts,
};

const LENGTHS: [usize; 2] = [100_000, 1_000_000];
const PARTITIONS: i32 = 4;
/// Entries a transaction carries.
const BATCH: usize = 2000;
const STARTS: usize = 3;
/// What is asked for afterwards, to see that all of it is there.
const ASKED: usize = 1000;

/// Starts of one connector.
struct Starts {
    ready_s: Vec<f64>,
    cpu_s: Vec<f64>,
    peak_mb: f64,
}

impl Starts {
    /// Kills it after each, but for the last, which is given back.
    fn of(rig: &mut Rig) -> (Self, Connector) {
        let mut starts = Self { ready_s: Vec::new(), cpu_s: Vec::new(), peak_mb: 0.0 };
        loop {
            let mut connector = rig.spawn();
            starts.ready_s.push(connector.wait_ready_within(PATIENCE).as_secs_f64());
            starts.cpu_s.push(connector.cpu_seconds());
            starts.peak_mb = starts.peak_mb.max(connector.memory("VmHWM") as f64 / 1024.0);
            if starts.ready_s.len() == STARTS {
                starts.ready_s.sort_by(f64::total_cmp);
                starts.cpu_s.sort_by(f64::total_cmp);
                return (starts, connector);
            }
            connector.kill();
        }
    }

    fn line(&self, what: &str, entries: usize) -> Value {
        json!({
            "what": what, "entries": entries, "ready_s_median": round(self.ready_s[STARTS / 2]), "ready_s_worst": round(self.ready_s[STARTS - 1]),
            "cpu_s_median": round(self.cpu_s[STARTS / 2]), "peak_rss_mb": round(self.peak_mb),
        })
    }
}

/// Measures the starts on a memory of this length.
type Memory = fn(usize) -> (Starts, Value);

pub fn growth() -> Vec<Value> {
    let kinds: [(&str, Memory); 2] = [("journal", of_journal), ("state", of_state)];
    let mut lines = Vec::new();
    for (what, run) in kinds {
        let [small, large] = LENGTHS.map(|length| {
            let (starts, line) = run(length);
            lines.push(line);
            starts
        });
        let of = |value: fn(&Starts) -> f64| {
            exponent((LENGTHS[0], value(&small)), (LENGTHS[1], value(&large)))
        };
        lines.push(json!({
            "what": what, "sizes": LENGTHS, "exponent_ready": of(|starts| starts.ready_s[STARTS / 2]),
            "exponent_cpu": of(|starts| starts.cpu_s[STARTS / 2]), "exponent_peak_rss": of(|starts| starts.peak_mb),
        }));
    }
    lines
}

/// Numbers in an order of their own, as senders' returns are: neighbours in time are none in the
/// key.
fn one(number: usize) -> CreateReturnOutbound {
    command(
        &format!("TH{:08x}", (number as u32).wrapping_mul(2_654_435_761)),
        &format!("cmd-{number}"),
    )
}

fn of_journal(length: usize) -> (Starts, Value) {
    let mut rig = Rig::with_partitions("speed-journal", PARTITIONS).commands("avro");
    rig.config.set("log", "level", "warn");
    rig.erp.take_anything();
    parts::say(&format!("writing {length} journal entries"));
    journal::write(
        rig.broker.clone(),
        &rig.topics.journal,
        PARTITIONS,
        (0..length).map(one),
        BATCH,
    );
    let (starts, connector) = Starts::of(&mut rig);
    let copies: Vec<_> = (0..length).step_by((length / ASKED).max(1)).map(one).collect();
    rig.send(&copies);
    let results = rig.results(copies.len());
    assert!(results.iter().all(|result| result.duplicate), "an outcome was forgotten");
    assert_eq!(rig.erp.creates().received, 0, "nothing is called again");
    finish(connector);
    let line = starts.line("journal", length);
    (starts, line)
}

/// A feed whose state holds so many records: from exec until it has been taken over.
fn of_state(length: usize) -> (Starts, Value) {
    let mut rig = Rig::around("speed-state", Erp::start()).purchase_returns();
    rig.topics.create(PARTITIONS);
    rig.config.set("log", "level", "warn");
    let number = rig.erp.seed(Kind::Returns, 1).remove(0);
    let json = rig.erp.record(Kind::Returns, &number).to_string();
    let codec = Codec::single_object();
    let record = record::decode(Feed::PurchaseReturns, Edition::Flagship, json.as_bytes()).unwrap();
    let version = codec.keep(Subject::PurchaseReturnEnvelope, &record.datum);
    let sender = Sender::new();
    let mut bytes = 0;
    parts::say(&format!("writing the state of {length} records"));
    for id in 0..length {
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
    // The state comes first; `/readyz` says 200 only afterwards.
    let (starts, connector) = Starts::of(&mut rig);
    finish(connector);
    let mut line = starts.line("state", length);
    line["value_bytes"] = (bytes / length).into();
    (starts, line)
}
