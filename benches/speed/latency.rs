//! What the connector adds to the ERP's own answer time: from a command's sending to its result
//! under `read_committed`.

use std::{
    collections::HashMap,
    thread,
    time::{Duration, Instant},
};

use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::{Value, json};
use wdt_connector::testing::kafka::REST;

use crate::{
    PATIENCE, ceiling,
    figures::{Configuration, finish, per_1000, quantile_ms, round},
    kit::{
        commands::{avro, command},
        records::Reader,
    },
    parts::broker,
};

/// Connections, the broker's code and the topics' first segments are cold before.
const WARM: usize = 10;

/// The ERP answers at once, so everything measured is added: its own share of a call, some tenths
/// of a millisecond, included.
fn at(configuration: Configuration, rate: usize, seconds: usize) -> Value {
    let rig = configuration.rig("speed-latency").commands("avro");
    rig.erp.take_anything();
    let mut results = Reader::new(&rig.topics.results);
    let connector = rig.start();
    let cpu_before = connector.cpu_seconds();
    let count = rate * seconds;
    let topic = rig.topics.commands.clone();
    let sending = thread::spawn(move || {
        let mut config = broker().client();
        config.set("linger.ms", "0").set("partitioner", "murmur2_random");
        let producer: BaseProducer = config.create().expect("a producer");
        let began = Instant::now();
        let mut sent = HashMap::new();
        for number in 0..count {
            let due = began + Duration::from_secs_f64(number as f64 / rate as f64);
            while let Some(left) =
                due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
            {
                producer.poll(left.min(Duration::from_millis(1)));
            }
            let (return_no, id) = (format!("LT{number:06}"), format!("cmd-{number}"));
            let value = avro(&command(&return_no, &id));
            sent.insert(return_no.clone(), Instant::now());
            producer
                .send(BaseRecord::to(&topic).key(&return_no).payload(&value))
                .map_err(|(fault, _)| fault)
                .expect("room");
            producer.poll(Duration::ZERO);
        }
        producer.flush(Duration::from_secs(30)).expect("the broker takes them");
        sent
    });
    let mut arrived: Vec<Instant> = Vec::new();
    results.until("every result", PATIENCE, |seen| {
        arrived.resize(seen.len(), Instant::now());
        seen.len() >= count
    });
    let sent = sending.join().expect("the sender");
    let cpu = connector.cpu_seconds() - cpu_before;
    let mut took: Vec<Duration> = results
        .seen
        .iter()
        .zip(&arrived)
        .filter_map(|(record, arrived)| {
            Some((sent.get(&record.key_text())?, arrived, record.key_text()))
        })
        .filter(|(_, _, key)| key[2..].parse::<usize>().is_ok_and(|number| number >= rate * WARM))
        .map(|(sent, arrived, _)| arrived.duration_since(*sent))
        .collect();
    took.sort_unstable();
    finish(connector);
    let bare = ceiling::transactions(&rig.topics.commands, 300, Duration::from_millis(10));
    let pairs = ceiling::pairs(&rig.topics.commands, rate, rate * 20, REST);
    let of_pairs = |quantile| round(quantile_ms(&took, quantile) / quantile_ms(&pairs, quantile));
    json!({
        "configuration": configuration.name(), "per_second": rate, "commands": count, "p50_ms": quantile_ms(&took, 500), "p99_ms": quantile_ms(&took, 990),
        "p99_9_ms": quantile_ms(&took, 999), "cpu_seconds_per_1000": per_1000(cpu, count),
        "bare_transaction_p50_ms": quantile_ms(&bare, 500), "bare_transaction_p99_ms": quantile_ms(&bare, 990),
        "bare_pair_p50_ms": quantile_ms(&pairs, 500), "bare_pair_p99_ms": quantile_ms(&pairs, 990),
        "p50_of_bare_pair": of_pairs(500), "p99_of_bare_pair": of_pairs(990),
    })
}

pub fn added() -> Vec<Value> {
    use Configuration::{Default, Tuned};
    vec![at(Default, 50, 40), at(Tuned, 50, 40), at(Default, 500, 20), at(Tuned, 500, 20)]
}
