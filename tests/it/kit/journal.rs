//! A journal as an earlier life of the connector would have left it.

use std::time::Duration;

use rdkafka::{
    ClientConfig,
    producer::{BaseRecord, Producer as _, ThreadedProducer},
};
use wdt_connector::testing::{
    clock::Timestamp,
    config::Partitioner,
    explanation::Explanation,
    schema::{Codec, CreateReturnOutbound, EntryKind, ExplanationFields, JournalEntry, Outcome},
    sink,
};

const LIMIT: Duration = Duration::from_secs(60);

/// The key of a command's entries.
pub fn key(command: &CreateReturnOutbound) -> Vec<u8> {
    serde_json::json!([command.return_no, command.command_id]).to_string().into_bytes()
}

/// The entry that a command became this order.
pub fn outcome(
    command: &CreateReturnOutbound,
    partition: i32,
    offset: i64,
    order: &str,
) -> JournalEntry {
    let now = Timestamp::now();
    JournalEntry {
        kind: EntryKind::Outcome,
        version: 2,
        return_no: command.return_no.clone(),
        command_id: command.command_id.clone(),
        warehouse_no: command.warehouse_no.clone(),
        fingerprint: sink::fingerprint(command).to_vec(),
        marker: sink::marker(&command.return_no, &command.command_id),
        attempt: 1,
        refusals: 0,
        bound_ms: 0,
        first_intent_at: Some(now),
        written_at: now,
        source_partition: partition,
        source_offset: offset,
        outcome: Some(Outcome::Created),
        outbound_no: Some(order.to_owned()),
        erp_code: None,
        erp_message: None,
        explanation: ExplanationFields::default(),
        warning: None,
        candidates: Vec::new(),
        recovered: false,
        resolved: false,
        first_attempt_at: Some(now),
        last_attempt_at: Some(now),
        nonce: None,
        partitions: None,
    }
}

/// The entry that nobody knows whether a command became an order; a person has to decide.
pub fn in_doubt(
    command: &CreateReturnOutbound,
    partition: i32,
    offset: i64,
    order: &str,
) -> JournalEntry {
    JournalEntry {
        outcome: Some(Outcome::InDoubt),
        outbound_no: None,
        explanation: Explanation::new(
            "several orders of this return could be it",
            "此退货单的多张出库单都可能是它",
        )
        .into(),
        candidates: vec![order.to_owned(), format!("{order}-2")],
        ..outcome(command, partition, offset, order)
    }
}

/// Writes an outcome for every command, in transactions of `batch` entries, as the connector itself
/// writes them.
pub fn write(
    broker: ClientConfig,
    topic: &str,
    partitions: i32,
    commands: impl Iterator<Item = CreateReturnOutbound>,
    batch: usize,
) {
    write_as(broker, topic, partitions, commands, batch, outcome);
}

/// The same with entries of one's own making: of a command, its partition, its offset and an order
/// number.
pub fn write_as(
    broker: ClientConfig,
    topic: &str,
    partitions: i32,
    commands: impl Iterator<Item = CreateReturnOutbound>,
    batch: usize,
    entry: impl Fn(&CreateReturnOutbound, i32, i64, &str) -> JournalEntry,
) {
    let mut config = broker;
    config
        .set("transactional.id", super::unique("journal-writer"))
        .set("transaction.timeout.ms", "60000")
        .set("compression.type", "lz4")
        .set("linger.ms", "1");
    let producer: ThreadedProducer<rdkafka::producer::DefaultProducerContext> =
        config.create().expect("a producer");
    producer.init_transactions(LIMIT).expect("the broker answers");
    let codec = Codec::single_object();
    let commit = || {
        // A commit that finds a delivery report unserved takes 100 ms longer.
        producer.flush(LIMIT).expect("the broker takes the entries");
        producer.commit_transaction(LIMIT).expect("a commit");
    };
    let mut open = 0;
    for (number, command) in commands.enumerate() {
        if open == 0 {
            producer.begin_transaction().expect("a transaction");
        }
        let partition =
            sink::partition_of(command.return_no.as_bytes(), partitions, Partitioner::Murmur2)
                .expect("a partition");
        let entry = entry(&command, partition, number as i64, &format!("CK-OLD-{number}"));
        let (key, value) =
            (key(&command), codec.encode_journal(&entry).expect("an entry fits its schema"));
        producer
            .send(BaseRecord::to(topic).partition(partition).key(&key).payload(&value))
            .expect("the queue has room");
        open += 1;
        if open == batch {
            commit();
            open = 0;
        }
    }
    if open > 0 {
        commit();
    }
}
